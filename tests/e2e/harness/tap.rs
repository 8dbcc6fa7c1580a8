//! A tap: stands between us and a service that speaks HTTP, keeps every byte of every connection, and fails requests.

use memchr::memmem;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::Notify;

/// Bytes of a body that is looked at.
const LOOKED_AT: usize = 64 * 1024;

/// How requests fail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Break {
    /// Not at all.
    Never,
    /// The connection ends instead of an answer; the service never hears of the request.
    AtOnce,
    /// The connection ends after so many bytes of the service's answer.
    AfterBytes(usize),
    /// The connection ends after so many bytes of the body of the service's answer. One without a body is whole.
    InBody(usize),
    /// The answer is one that the service would never give.
    Nonsense,
    /// The service is not asked, and this is answered: a status and a body.
    Answer(u16, String),
    /// The service hears of it when all is let through again.
    Held,
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
    shared: Shared,
    listens: Listens,
}

/// What the connections share.
#[derive(Clone)]
struct Shared {
    wires: Arc<Mutex<Vec<Arc<Mutex<Wire>>>>>,
    plan: Arc<Mutex<Plan>>,
}

/// Which requests fail, and how.
struct Plan {
    how: Break,
    /// Only requests count in which this stands, in lowercase: in their heads, or in bodies that are not long.
    kind: String,
    /// So many requests go through before.
    spared: usize,
    /// So many fail then.
    failing: usize,
    /// Requests since it was made.
    seen: usize,
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
        let shared = tap.shared.clone();
        tokio::spawn(async move {
            while let Ok((ours, _)) = listener.accept().await {
                let relay = Relay::begin(&shared);
                tokio::spawn(async move {
                    if let Ok(theirs) = TcpStream::connect(upstream).await {
                        relay.run(ours.into_split(), theirs.into_split()).await;
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
        let shared = tap.shared.clone();
        tokio::spawn(async move {
            while let Ok((ours, _)) = listener.accept().await {
                let relay = Relay::begin(&shared);
                let upstream = upstream.clone();
                tokio::spawn(async move {
                    if let Ok(theirs) = UnixStream::connect(upstream).await {
                        relay.run(ours.into_split(), theirs.into_split()).await;
                    }
                });
            }
        });
        tap
    }

    fn new(listens: Listens) -> Self {
        let plan = Plan { how: Break::Never, kind: String::new(), spared: 0, failing: 0, seen: 0 };
        Self { shared: Shared { wires: Arc::default(), plan: Arc::new(Mutex::new(plan)) }, listens }
    }

    /// `http://host:port`.
    pub fn url(&self) -> String {
        match &self.listens {
            Listens::At(address) => format!("http://{address}"),
            Listens::On(path) => format!("unix://{}", path.display()),
        }
    }

    /// From now on so many requests go through, and all that follow fail like this. Starts counting anew.
    pub fn fail_after(&self, spared: usize, how: Break) {
        self.fail_some("", spared, usize::MAX, how);
    }

    /// From now on, of the requests with that word in their head, or in a body of at most 64 KiB, so many go through, those
    /// that follow fail like this, and after so many failures all go through again. Starts counting anew.
    pub fn fail_some(&self, kind: &str, spared: usize, failing: usize, how: Break) {
        *self.shared.plan.lock().unwrap() = Plan { how, kind: kind.to_lowercase(), spared, failing, seen: 0 };
    }

    /// Lets everything through from now on. Starts counting anew.
    pub fn mend(&self) {
        self.fail_after(0, Break::Never);
    }

    /// Requests since the counting began.
    pub fn requests(&self) -> usize {
        self.shared.plan.lock().unwrap().seen
    }

    /// Every connection until now.
    pub fn wires(&self) -> Vec<Wire> {
        self.shared.wires.lock().unwrap().iter().map(|wire| wire.lock().unwrap().clone()).collect()
    }

    /// The connections that are over, which are forgotten here.
    pub fn take_ended(&self) -> Vec<Wire> {
        let mut wires = self.shared.wires.lock().unwrap();
        // Of one that is over, nobody else holds the bytes.
        let (ended, open) = std::mem::take(&mut *wires).into_iter().partition(|wire| Arc::strong_count(wire) == 1);
        *wires = open;
        let ended: Vec<Arc<Mutex<Wire>>> = ended;
        ended.iter().map(|wire| std::mem::take(&mut *wire.lock().unwrap())).collect()
    }
}

impl Drop for Tap {
    fn drop(&mut self) {
        if let Listens::On(path) = &self.listens {
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Plan {
    /// How the request fails that has just come, with that head and body in lowercase.
    fn next(&mut self, request: &str) -> Break {
        if !request.contains(&self.kind) {
            return Break::Never;
        }
        self.seen += 1;
        let fails = self.seen > self.spared && self.seen - self.spared <= self.failing;
        if fails { self.how.clone() } else { Break::Never }
    }
}

/// One connection.
struct Relay {
    wire: Arc<Mutex<Wire>>,
    plan: Arc<Mutex<Plan>>,
    /// How the request fails whose answer is due.
    now: Mutex<Break>,
    /// Bytes of that answer so far.
    answered: Mutex<usize>,
    /// Wakes whoever waits for the service, which is not asked.
    instead: Notify,
}

/// Where in a connection we are.
enum Reading {
    Head,
    Body {
        left: usize,
        upgrades: bool,
    },
    /// Nothing but a stream follows.
    Stream,
}

impl Relay {
    fn begin(shared: &Shared) -> Self {
        let wire = Arc::new(Mutex::new(Wire::default()));
        shared.wires.lock().unwrap().push(wire.clone());
        let (now, answered) = (Mutex::new(Break::Never), Mutex::new(0));
        Self { wire, plan: shared.plan.clone(), now, answered, instead: Notify::new() }
    }

    async fn run<R, W>(self, (our_read, our_write): (R, W), (their_read, their_write): (R, W))
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // A broken answer ends the connection; otherwise both directions run to their ends.
        tokio::select! {
            () = async { self.up(our_read, their_write).await; std::future::pending().await } => {}
            () = self.down(their_read, our_write) => {}
        }
    }

    async fn up(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let (mut buffer, mut waiting) = (vec![0; 64 * 1024], Vec::new());
        let mut reading = Reading::Head;
        while let Ok(read @ 1..) = from.read(&mut buffer).await {
            self.wire.lock().unwrap().sent.extend_from_slice(&buffer[..read]);
            waiting.extend_from_slice(&buffer[..read]);
            while let Some(ready) = self.take(&mut reading, &mut waiting) {
                self.hold().await;
                let asked = !matches!(*self.now.lock().unwrap(), Break::AtOnce | Break::Answer(..));
                if asked && to.write_all(&ready).await.is_err() {
                    return;
                }
                if !asked && matches!(reading, Reading::Head | Reading::Stream) {
                    self.instead.notify_one();
                }
            }
        }
        // What was said is passed on; the other side may still have an answer.
        let _ = to.shutdown().await;
    }

    /// Waits as long as what is under way is held.
    async fn hold(&self) {
        while *self.now.lock().unwrap() == Break::Held {
            if self.plan.lock().unwrap().how != Break::Held {
                *self.now.lock().unwrap() = Break::Never;
            }
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// The next bytes that are a whole head, or of one body, or of the stream; none until more has come.
    fn take(&self, reading: &mut Reading, waiting: &mut Vec<u8>) -> Option<Vec<u8>> {
        let count = match reading {
            Reading::Head => {
                let end = memmem::find(waiting, b"\r\n\r\n")? + 4;
                let head = String::from_utf8_lossy(&waiting[..end]).to_lowercase();
                let field = |name: &str| Some(head.split(&format!("\r\n{name}: ")).nth(1)?.lines().next()?.to_owned());
                let left = field("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
                let looked_at = if left <= LOOKED_AT { left } else { 0 };
                let request = String::from_utf8_lossy(waiting.get(..end + looked_at)?).to_lowercase();
                *self.now.lock().unwrap() = self.plan.lock().unwrap().next(&request);
                *self.answered.lock().unwrap() = 0;
                *reading = next(left, field("upgrade").is_some() || field("transfer-encoding").is_some());
                end
            }
            Reading::Body { left, upgrades } => {
                let count = waiting.len().min(*left);
                *reading = next(*left - count, *upgrades);
                count
            }
            Reading::Stream => waiting.len(),
        };
        (count > 0).then(|| waiting.drain(..count).collect())
    }

    async fn down(&self, mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            let read = tokio::select! {
                read = from.read(&mut buffer) => read.unwrap_or(0),
                () = self.instead.notified() => 0,
            };
            let how = self.now.lock().unwrap().clone();
            let answered = {
                let mut answered = self.answered.lock().unwrap();
                *answered += read;
                *answered
            };
            let (told, goes_on) = match (how, &buffer[..read]) {
                // Not the service's own words, so not kept.
                (Break::Answer(status, body), _) => {
                    let _ = to.write_all(&answer(status, &body)).await;
                    break;
                }
                (Break::AtOnce, _) | (_, []) => (Vec::new(), false),
                (Break::Never | Break::Held, bytes) => (bytes.to_vec(), true),
                (Break::AfterBytes(most), bytes) => {
                    let kept = read.min(most.saturating_sub(answered - read));
                    (bytes[..kept].to_vec(), answered < most)
                }
                (Break::InBody(most), bytes) => {
                    // A head comes whole with the first bytes.
                    let first = answered == read;
                    let head = if first { memmem::find(bytes, b"\r\n\r\n").map_or(read, |end| end + 4) } else { 0 };
                    let kept = read.min(head + most);
                    (bytes[..kept].to_vec(), kept == head)
                }
                (Break::Nonsense, _) => (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n{\"x\":".to_vec(), false),
            };
            self.wire.lock().unwrap().received.extend_from_slice(&told);
            if to.write_all(&told).await.is_err() || !goes_on {
                break;
            }
        }
        let _ = to.shutdown().await;
    }
}

fn next(left: usize, upgrades: bool) -> Reading {
    match (left, upgrades) {
        (0, true) => Reading::Stream,
        (0, false) => Reading::Head,
        (left, upgrades) => Reading::Body { left, upgrades },
    }
}

fn answer(status: u16, body: &str) -> Vec<u8> {
    let kind = "application/x-amz-json-1.0";
    let length = body.len();
    format!("HTTP/1.1 {status} Failed\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{body}")
        .into_bytes()
}
