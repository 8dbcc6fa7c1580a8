//! The agent's ports that are open to callers outside. What reads their requests is the [forwarder](crate::forward), a
//! process of its own as a user of its own: it has no right here, and strangers in any number take neither files nor
//! memory of the main process. What is open is known here, and the forwarder is told all of it at each change.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use theazo_guest_protocol::Refusal;
use theazo_guest_protocol::forwarder::FORWARDER_UID;
use theazo_guest_protocol::machine::{INGRESS_PORT, MACHINE_PORT, MOST_PORTS};

/// How long the forwarder may take to do as it is told.
const TOLD_WITHIN: Duration = Duration::from_secs(5);
/// `EIO`, where the system has said nothing.
const EIO: i32 = 5;

/// Open ports, each by the digest of the token that opens it.
type Open = BTreeMap<u16, String>;

pub struct Ports {
    /// Held as long as the machine runs, so that nobody else takes its place.
    ingress: TcpListener,
    program: PathBuf,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    open: Open,
    forwarder: Option<Forwarder>,
}

impl Ports {
    /// None is open. The program is this one, where it is found.
    pub fn new(ingress: TcpListener, program: impl AsRef<Path>) -> Self {
        Self { ingress, program: program.as_ref().to_owned(), state: Mutex::default() }
    }

    /// Sees to it that there is a forwarder: without one callers would wait, whom nobody answers.
    pub fn keep_up(&self) -> io::Result<()> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.forwarder.as_mut().is_some_and(Forwarder::runs) {
            return Ok(());
        }
        let open = state.open.clone();
        self.tell(&mut state, &open)
    }

    /// Opens a port to those who have the token with that digest, and to nobody else.
    pub fn open(&self, port: u16, digest: &str) -> Result<(), Refusal> {
        if [0, MACHINE_PORT, INGRESS_PORT].contains(&port) {
            return Err(Refusal::PortReserved);
        }
        if !hex::decode(digest).is_ok_and(|bytes| bytes.len() == 32) {
            return Err(Refusal::BadRequest);
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut open = state.open.clone();
        open.insert(port, digest.to_owned());
        if open.len() > MOST_PORTS {
            return Err(Refusal::TooManyPorts);
        }
        self.tell(&mut state, &open).map_err(|error| Refusal::Os(error.raw_os_error().unwrap_or(EIO)))?;
        state.open = open;
        Ok(())
    }

    /// Closes all.
    pub fn close(&self) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if !std::mem::take(&mut state.open).is_empty() {
            // One that could not be told is gone, and forwards nothing.
            let _ = self.tell(&mut state, &Open::new());
        }
    }

    /// Tells the forwarder what is open: another one, where there is none that does as it is told.
    fn tell(&self, state: &mut State, open: &Open) -> io::Result<()> {
        if let Some(forwarder) = &mut state.forwarder
            && forwarder.tell(open).is_ok()
        {
            return Ok(());
        }
        state.forwarder = None;
        let mut forwarder = Forwarder::start(&self.program, &self.ingress)?;
        forwarder.tell(open)?;
        state.forwarder = Some(forwarder);
        Ok(())
    }
}

/// The forwarder's process, which ends when this is dropped.
struct Forwarder {
    process: Child,
    control: UnixStream,
}

impl Forwarder {
    fn start(program: &Path, ingress: &TcpListener) -> io::Result<Self> {
        let (control, theirs) = UnixStream::pair()?;
        control.set_read_timeout(Some(TOLD_WITHIN))?;
        control.set_write_timeout(Some(TOLD_WITHIN))?;
        let mut command = Command::new(program);
        command.arg("forward").uid(FORWARDER_UID).gid(FORWARDER_UID).env_clear().current_dir("/");
        command.stdin(OwnedFd::from(ingress.try_clone()?)).stdout(OwnedFd::from(theirs)).stderr(Stdio::null());
        Ok(Self { process: command.spawn()?, control })
    }

    fn runs(&mut self) -> bool {
        matches!(self.process.try_wait(), Ok(None))
    }

    fn tell(&mut self, open: &Open) -> io::Result<()> {
        let entries: Vec<String> = open.iter().map(|(port, digest)| format!("{port}={digest}")).collect();
        self.control.write_all(format!("{}\n", entries.join(" ")).as_bytes())?;
        self.control.read_exact(&mut [0])
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn what_is_no_port_of_the_agents_or_no_digest_is_refused_before_anything_is_started() {
        let ports = Ports::new(TcpListener::bind("127.0.0.1:0").unwrap(), "/nowhere");
        let digest = "0a".repeat(32);
        for reserved in [0, MACHINE_PORT, INGRESS_PORT] {
            assert_eq!(ports.open(reserved, &digest), Err(Refusal::PortReserved), "{reserved}");
        }
        let long = "0a".repeat(33);
        let odd = "0 8=0a0a".repeat(8);
        for bad in ["", "0a", "not hex", long.as_str(), odd.as_str()] {
            assert_eq!(ports.open(3000, bad), Err(Refusal::BadRequest), "{bad}");
        }
        // And where none can be started nothing is said to be open.
        assert!(matches!(ports.open(3000, &digest), Err(Refusal::Os(_))));
        assert!(ports.state.lock().unwrap().open.is_empty());
    }
}
