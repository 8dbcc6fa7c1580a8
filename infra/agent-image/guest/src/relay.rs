//! Output on its way while the program runs. Owns what was told of it, and what waits to be.
//!
//! Whoever listens may be slow, or gone: nothing here waits for them, so that the program's time limit holds all the same.

use crate::files::refusal;
use rustix::stdio::stdout;
use std::io::ErrorKind;
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};
use theazo_guest_protocol::{Refusal, Response, encode_header};

/// How long output is gathered for a message once one was sent, unless there is much of it.
const GATHER: Duration = Duration::from_millis(50);
/// Bytes that do not wait for more.
const MUCH: usize = 64 * 1024;

/// Messages to standard output.
pub struct Relay {
    /// Encoded, and not taken yet.
    queue: Vec<u8>,
    /// Bytes of each stream that are in messages.
    told: [usize; 2],
    /// When the last message was made.
    last: Option<Instant>,
}

impl Relay {
    /// Standard output does not block from now on, until [`Relay::finish`].
    pub fn begin() -> Result<Self, Refusal> {
        calm(true)?;
        Ok(Self { queue: Vec::new(), told: [0; 2], last: None })
    }

    /// Sends what it can of a program's output so far, which is never less than before.
    pub fn pump(&mut self, so_far: [&[u8]; 2]) {
        if self.due(so_far).is_some_and(|due| due.is_zero()) {
            let [out, err] = self.rest(so_far);
            let header = Response::Output { stdout: out.len(), stderr: err.len() };
            // A header of two numbers can be written.
            let Ok(header) = encode_header(&header) else { return };
            self.queue.extend([header.as_slice(), out, err].concat());
            self.told = so_far.map(<[u8]>::len);
            self.last = Some(Instant::now());
        }
        while !self.queue.is_empty() {
            match rustix::io::write(stdout(), &self.queue).map_err(std::io::Error::from) {
                Ok(count) => drop(self.queue.drain(..count)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                // Nobody listens; that is found out once more with the answer.
                Err(_) => self.queue.clear(),
            }
        }
    }

    /// What to wait on because something is to be sent.
    pub fn waits_for(&self) -> Option<BorrowedFd<'static>> {
        (!self.queue.is_empty()).then(stdout)
    }

    /// In how long there is another message to make, if nothing else happens.
    pub fn due(&self, so_far: [&[u8]; 2]) -> Option<Duration> {
        if !self.queue.is_empty() {
            return None;
        }
        let waiting: usize = self.rest(so_far).iter().map(|rest| rest.len()).sum();
        let gathered = self.last.map_or(GATHER, |last| last.elapsed());
        match waiting {
            0 => None,
            MUCH.. => Some(Duration::ZERO),
            _ => Some(GATHER.saturating_sub(gathered)),
        }
    }

    /// What is in no message yet.
    fn rest<'a>(&self, so_far: [&'a [u8]; 2]) -> [&'a [u8]; 2] {
        let [out, err] = so_far;
        let [told_out, told_err] = self.told;
        [out.get(told_out..).unwrap_or_default(), err.get(told_err..).unwrap_or_default()]
    }

    /// Sends what waits. Gives how many bytes of each stream were told: the answer has the rest.
    pub fn finish(self) -> Result<[usize; 2], Refusal> {
        calm(false)?;
        let mut queue = self.queue.as_slice();
        while !queue.is_empty() {
            match rustix::io::write(stdout(), queue) {
                Ok(count) => queue = queue.get(count..).unwrap_or_default(),
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(refusal(&error.into())),
            }
        }
        Ok(self.told)
    }
}

fn calm(is_calm: bool) -> Result<(), Refusal> {
    rustix::io::ioctl_fionbio(stdout(), is_calm).map_err(|error| refusal(&error.into()))
}
