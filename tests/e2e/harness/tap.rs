//! A tap: stands between us and a service, keeps every byte of every connection, and can break connections.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

/// How the tap breaks connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Break {
    /// Not at all.
    Never,
    /// New ones are closed as soon as they are made.
    AtOnce,
    /// They end after so many bytes of the service's answer.
    AfterBytes(usize),
    /// Every answer is one that the service would never give.
    Nonsense,
}

/// One connection's bytes.
#[derive(Clone, Default)]
pub struct Wire {
    /// From us to the service.
    pub sent: Vec<u8>,
    /// From the service to us.
    pub received: Vec<u8>,
}

/// Everything that went over it.
pub struct Tap {
    wires: Arc<Mutex<Vec<Arc<Mutex<Wire>>>>>,
    breaks: Arc<Mutex<Break>>,
    listens: Listens,
}

enum Listens {
    At(SocketAddr),
    On(PathBuf),
}

impl Tap {
    /// Before a service on a port.
    pub async fn tcp(upstream: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let tap = Self::new(Listens::At(listener.local_addr().unwrap()));
        let (wires, breaks) = (tap.wires.clone(), tap.breaks.clone());
        tokio::spawn(async move {
            while let Ok((ours, _)) = listener.accept().await {
                let (wire, broken) = begin(&wires, &breaks);
                tokio::spawn(async move {
                    if let Ok(theirs) = TcpStream::connect(upstream).await {
                        relay(ours.into_split(), theirs.into_split(), wire, broken).await;
                    }
                });
            }
        });
        tap
    }

    /// Before a service on a Unix socket.
    pub async fn unix(upstream: &Path, at: PathBuf) -> Self {
        let _ = std::fs::remove_file(&at);
        let listener = UnixListener::bind(&at).unwrap();
        let upstream = upstream.to_owned();
        let tap = Self::new(Listens::On(at));
        let (wires, breaks) = (tap.wires.clone(), tap.breaks.clone());
        tokio::spawn(async move {
            while let Ok((ours, _)) = listener.accept().await {
                let (wire, broken) = begin(&wires, &breaks);
                let upstream = upstream.clone();
                tokio::spawn(async move {
                    if let Ok(theirs) = UnixStream::connect(upstream).await {
                        relay(ours.into_split(), theirs.into_split(), wire, broken).await;
                    }
                });
            }
        });
        tap
    }

    fn new(listens: Listens) -> Self {
        Self { wires: Arc::default(), breaks: Arc::new(Mutex::new(Break::Never)), listens }
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        match &self.listens {
            Listens::At(address) => format!("http://{address}"),
            Listens::On(path) => format!("unix://{}", path.display()),
        }
    }

    /// How connections break from now on.
    pub fn set(&self, how: Break) {
        *self.breaks.lock().unwrap() = how;
    }

    /// Every connection until now.
    pub fn wires(&self) -> Vec<Wire> {
        self.wires.lock().unwrap().iter().map(|wire| wire.lock().unwrap().clone()).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Listens::On(path) = &self.listens {
            let _ = std::fs::remove_file(path);
        }
    }
}

type Wires = Arc<Mutex<Vec<Arc<Mutex<Wire>>>>>;

fn begin(wires: &Wires, breaks: &Arc<Mutex<Break>>) -> (Arc<Mutex<Wire>>, Arc<Mutex<Break>>) {
    let wire = Arc::new(Mutex::new(Wire::default()));
    wires.lock().unwrap().push(wire.clone());
    (wire, breaks.clone())
}

async fn relay<R, W>(
    (mut our_read, mut our_write): (R, W),
    (mut their_read, mut their_write): (R, W),
    wire: Arc<Mutex<Wire>>,
    breaks: Arc<Mutex<Break>>,
) where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    if *breaks.lock().unwrap() == Break::AtOnce {
        return;
    }
    let up = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(read @ 1..) = our_read.read(&mut buffer).await {
            wire.lock().unwrap().sent.extend_from_slice(&buffer[..read]);
            if their_write.write_all(&buffer[..read]).await.is_err() {
                break;
            }
        }
        // What was said is passed on; the other side may still have an answer.
        let _ = their_write.shutdown().await;
    };
    let down = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut total = 0;
        while let Ok(read @ 1..) = their_read.read(&mut buffer).await {
            let how = *breaks.lock().unwrap();
            let kept = match how {
                Break::Never => &buffer[..read],
                Break::AtOnce => break,
                Break::AfterBytes(most) => &buffer[..read.min(most.saturating_sub(total))],
                Break::Nonsense => b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{\"x\":".as_slice(),
            };
            wire.lock().unwrap().received.extend_from_slice(kept);
            total += read;
            if our_write.write_all(kept).await.is_err() || matches!(how, Break::AfterBytes(most) if total >= most) {
                break;
            }
        }
        let _ = our_write.shutdown().await;
    };
    // A broken answer ends the connection; otherwise both directions run to their ends.
    tokio::select! {
        () = async { up.await; std::future::pending().await } => {}
        () = down => {}
    }
}
