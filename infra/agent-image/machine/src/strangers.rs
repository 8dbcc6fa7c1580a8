//! Connections on which nobody has shown a token yet. There may be so many; whoever comes then takes the place of whoever has
//! been there longest. Strangers who merely stay therefore keep nobody out: to do that they would have to come in such numbers
//! within the moment that a client needs for its handshake and token.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, PoisonError};

/// The places that there are for strangers.
pub(crate) struct Strangers {
    most: usize,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next: u64,
    /// The longest there first.
    there: VecDeque<(u64, TcpStream)>,
}

/// A stranger's place. It is free when this is dropped.
pub(crate) struct Stranger<'a> {
    all: &'a Strangers,
    id: u64,
}

impl Strangers {
    /// So many.
    pub(crate) fn new(most: usize) -> Self {
        Self { most, waiting: Mutex::default() }
    }

    /// A place for one more, at the cost of the one that has been there longest if need be.
    pub(crate) fn enter(&self, connection: &TcpStream) -> io::Result<Stranger<'_>> {
        let kept = connection.try_clone()?;
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let id = waiting.next;
        waiting.next += 1;
        if waiting.there.len() >= self.most
            && let Some((_, longest)) = waiting.there.pop_front()
        {
            // Whoever waits for it to say something hears that it is over.
            let _ = longest.shutdown(Shutdown::Both);
        }
        waiting.there.push_back((id, kept));
        Ok(Stranger { all: self, id })
    }
}

impl Stranger<'_> {
    /// It is none any more, and stays. False when it has had to go.
    pub(crate) fn admit(&self) -> bool {
        let mut waiting = self.all.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let Ok(at) = waiting.there.binary_search_by_key(&self.id, |(id, _)| *id) else { return false };
        waiting.there.remove(at).is_some()
    }
}

impl Drop for Stranger<'_> {
    fn drop(&mut self) {
        self.admit();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;
    use std::time::Duration;

    #[test]
    fn one_too_many_takes_the_place_of_who_was_there_longest_and_of_nobody_who_was_admitted() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let strangers = Strangers::new(3);
        let mut clients = Vec::new();
        let mut come = || {
            clients.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let (connection, _) = listener.accept().unwrap();
            let stranger = strangers.enter(&connection).unwrap();
            (stranger, connection)
        };
        let mut there: Vec<_> = (0..3).map(|_| come()).collect();
        assert!(there[0].0.admit(), "it has a place of another kind now");
        there.extend([come(), come()]);
        let admitted: Vec<bool> = there.iter().map(|(stranger, _)| stranger.admit()).collect();
        assert_eq!(admitted, [false, false, true, true, true], "the second was there longest of those who waited");
        // The first is spoken to as before; the second hears that it is over.
        clients[0].set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert_eq!(clients[0].read(&mut [0]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        assert_eq!(clients[1].read(&mut [0]).unwrap(), 0);
        // Who leaves makes room.
        drop(there);
        let (stranger, _connection) = {
            clients.push(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
            let (connection, _) = listener.accept().unwrap();
            (strangers.enter(&connection).unwrap(), connection)
        };
        assert_eq!(strangers.waiting.lock().unwrap().there.len(), 1);
        assert!(stranger.admit());
    }
}
