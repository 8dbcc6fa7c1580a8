//! A listener that counts who connects, and says nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// It listens for as long as this lives.
pub struct CountedListener {
    /// Its port, on the loopback address.
    pub port: u16,
    connections: Arc<AtomicUsize>,
    counting: JoinHandle<()>,
}

impl CountedListener {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let counting = tokio::spawn(async move {
            while listener.accept().await.is_ok() {
                counted.fetch_add(1, Ordering::Relaxed);
            }
        });
        Self { port, connections, counting }
    }

    /// How many connections there were.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for CountedListener {
    fn drop(&mut self) {
        self.counting.abort();
    }
}
