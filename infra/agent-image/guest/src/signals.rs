//! Signals as something to wait for. Owns the pipe that wakes the guest when a child ends or when it is
//! told to end; as process 1 it would not even get SIGTERM without a handler.

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use signal_hook::consts::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use std::io::Read;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The handlers, installed for the life of the process.
pub struct Signals {
    woken: UnixStream,
    told_to_end: Arc<AtomicBool>,
}

impl Signals {
    /// Installs the handlers.
    pub fn install() -> std::io::Result<Self> {
        let (woken, waker) = UnixStream::pair()?;
        woken.set_nonblocking(true)?;
        let told_to_end = Arc::new(AtomicBool::new(false));
        for signal in [SIGTERM, SIGINT, SIGHUP] {
            signal_hook::flag::register(signal, Arc::clone(&told_to_end))?;
            signal_hook::low_level::pipe::register(signal, waker.try_clone()?)?;
        }
        signal_hook::low_level::pipe::register(SIGCHLD, waker)?;
        Ok(Self { woken, told_to_end })
    }

    /// Whether someone asked this process to end.
    pub fn told_to_end(&self) -> bool {
        self.told_to_end.load(Ordering::SeqCst)
    }

    /// Readable after a signal, until [`Self::acknowledge`].
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.woken.as_fd()
    }

    /// Empties the pipe. Look at children and at [`Self::told_to_end`] after this, never before.
    pub fn acknowledge(&self) {
        let mut buffer = [0; 64];
        while matches!((&self.woken).read(&mut buffer), Ok(n) if n > 0) {}
    }

    /// Sleeps until a signal comes or `until` is reached; `None` waits for ever.
    pub fn wait(&self, until: Option<Instant>) {
        let left = until.map(|until| timespec(until.saturating_duration_since(Instant::now())));
        let _ = poll(&mut [PollFd::new(&self.woken, PollFlags::IN)], left.as_ref());
        self.acknowledge();
    }
}

/// A duration as the kernel wants it, rounded up so that a sleep never ends early and turns into a busy loop.
pub fn timespec(duration: Duration) -> Timespec {
    Timespec::try_from(duration + Duration::from_micros(50))
        .unwrap_or(Timespec { tv_sec: i64::from(i32::MAX), tv_nsec: 0 })
}

/// A write over the sandbox's file size limit then fails with an error; by default it would end the guest.
pub fn survive_file_size_limit() {
    let _ = signal_hook::flag::register(SIGXFSZ, Arc::new(AtomicBool::new(false)));
}
