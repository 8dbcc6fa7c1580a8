//! A socket on which strangers do not dawdle: until its client is admitted, everything together ends by one moment. A limit
//! on each read would be none, as TLS reads until it has a whole message, and a byte now and then starts the limit anew.

use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::{Duration, Instant};

pub struct Socket {
    connection: TcpStream,
    /// None once the client is admitted.
    until: Option<Instant>,
}

impl Socket {
    pub fn new(connection: TcpStream, admitted_within: Duration) -> io::Result<Self> {
        connection.set_nodelay(true)?;
        Ok(Self { connection, until: Some(Instant::now() + admitted_within) })
    }

    /// From now on only silence ends it, of that length.
    pub fn admit(&mut self, patience: Duration) -> io::Result<()> {
        self.until = None;
        self.connection.set_read_timeout(Some(patience))?;
        self.connection.set_write_timeout(Some(patience))
    }

    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        if left == Some(Duration::ZERO) { Err(ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

/// What the system says when a limit of the socket is over.
fn late(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let Some(left) = self.left()? {
            self.connection.set_read_timeout(Some(left))?;
        }
        self.connection.read(buffer).map_err(late)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if let Some(left) = self.left()? {
            self.connection.set_write_timeout(Some(left))?;
        }
        self.connection.write(bytes).map_err(late)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.connection.flush()
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.connection.as_fd()
    }
}
