//! Connections, and a guest for each request.

use crate::ports::Ports;
use crate::socket::Socket;
use crate::strangers::Strangers;
use crate::{admission, complain, layout, tls};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{DumpableBehavior, Pid, Signal, kill_process, set_dumpable_behavior};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use theazo_guest_protocol::machine::{
    ADMITTED, ALIVE, ALIVE_SECONDS, ANSWER, INGRESS_PORT, MACHINE_PATH, MACHINE_PORT, MAX_PIECE, PIECE, REFUSED, TOKEN,
};
use theazo_guest_protocol::{
    AGENT_UID, GUEST_PATH, MAX_HEADER, MAX_PAYLOAD, Request, Response, encode_header, read_header, write_message,
};
use zeroize::Zeroizing;

/// Clients at once that were admitted. An agent has at most 20 calls at a time.
const CLIENTS: usize = 64;
/// Connections at once of whom nobody knows whether they will be.
const STRANGERS: usize = 128;
/// How long a client has until it is admitted, handshake and token together.
const ADMITTED_WITHIN: Duration = Duration::from_secs(10);
/// How long an admitted client may be silent that has something to say.
const PATIENCE: Duration = Duration::from_secs(20);
const TICK: Duration = Duration::from_millis(200);
/// How often it is looked whether the forwarder is still there.
const LOOK_AFTER_FORWARDER: Duration = Duration::from_secs(1);
/// How long a guest that is told to end may take for ending what it has started.
const END_WITHIN: Duration = Duration::from_secs(12);
/// Longest answer of a guest, in bytes.
const LONGEST_ANSWER: u64 = (4 + MAX_HEADER + MAX_PAYLOAD) as u64;

type Stream = StreamOwned<ServerConnection, Socket>;

/// What connections share.
struct Server {
    config: Arc<ServerConfig>,
    ports: Ports,
    strangers: Strangers,
    clients: AtomicUsize,
}

/// A client that was admitted.
struct Client<'a>(&'a AtomicUsize);

impl Drop for Client<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Server {
    fn new(config: Arc<ServerConfig>, ports: Ports) -> Self {
        Self { config, ports, strangers: Strangers::new(STRANGERS), clients: AtomicUsize::new(0) }
    }

    /// A place for a client; none where there are too many.
    fn client(&self) -> Option<Client<'_>> {
        let client = Client(&self.clients);
        (self.clients.fetch_add(1, Ordering::SeqCst) < CLIENTS).then_some(client)
    }
}

/// Serves until told to end, or until the machine's time is over.
pub fn run() -> io::Result<()> {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    layout::prepare()?;
    let told_to_end = Arc::new(AtomicBool::new(false));
    for signal in [SIGTERM, SIGINT] {
        signal_hook::flag::register(signal, told_to_end.clone())?;
    }
    let (config, fingerprint) = tls::make()?;
    // Both before any code of the agent's runs, which could take them otherwise.
    let (listener, ingress) = (bind(MACHINE_PORT)?, bind(INGRESS_PORT)?);
    let server = Arc::new(Server::new(config, Ports::new(ingress, MACHINE_PATH)));
    if let Err(error) = server.ports.keep_up() {
        complain(&format!("theazo-machine: no forwarder can be started: {error}"));
    }
    admission::announce(&fingerprint)?;
    std::thread::spawn({
        let server = server.clone();
        move || accept(&listener, &server)
    });
    std::thread::spawn(move || {
        loop {
            std::thread::sleep(LOOK_AFTER_FORWARDER);
            // It was said when the machine booted, should none start.
            let _ = server.ports.keep_up();
        }
    });
    while !told_to_end.load(Ordering::SeqCst) && !admission::is_over() {
        std::thread::sleep(TICK);
    }
    Ok(())
}

fn bind(port: u16) -> io::Result<TcpListener> {
    // Both families, by Linux's default for this address.
    TcpListener::bind((Ipv6Addr::UNSPECIFIED, port)).or_else(|_| TcpListener::bind(("0.0.0.0", port)))
}

fn accept(listener: &TcpListener, server: &Arc<Server>) {
    for connection in listener.incoming() {
        let Ok(connection) = connection else {
            std::thread::sleep(TICK);
            continue;
        };
        let server = server.clone();
        std::thread::spawn(move || {
            // A connection that fails is its client's to notice.
            let _ = attend(connection, &server, ADMITTED_WITHIN);
        });
    }
}

/// One connection: a token, a request, an answer.
fn attend(connection: TcpStream, server: &Server, admitted_within: Duration) -> io::Result<()> {
    let stranger = server.strangers.enter(&connection)?;
    let socket = Socket::new(connection, admitted_within)?;
    let tls = ServerConnection::new(server.config.clone()).map_err(io::Error::other)?;
    let mut stream = StreamOwned::new(tls, socket);
    let mut token = Zeroizing::new([0; TOKEN]);
    stream.read_exact(token.as_mut())?;
    if !admission::admits(&token) {
        stream.write_all(&[REFUSED])?;
        return farewell(stream);
    }
    let client = server.client();
    if !stranger.admit() || client.is_none() {
        return Err(io::Error::other("there are too many"));
    }
    stream.sock.admit(PATIENCE)?;
    stream.write_all(&[ADMITTED])?;
    stream.flush()?;
    let request: Request = read_header(&mut stream).map_err(io::Error::other)?;
    let length = request.payload_len();
    if length > MAX_PAYLOAD {
        return Err(io::Error::other("a payload over the limit"));
    }
    let mut payload = Zeroizing::new(vec![0; length]);
    stream.read_exact(&mut payload)?;
    match &request {
        Request::OpenPort { port, digest } => {
            let opened = server.ports.open(*port, digest);
            let answer = opened.map_or_else(|reason| Response::Refused { reason }, |()| Response::Done);
            return tell(stream, &encode_header(&answer).map_err(io::Error::other)?);
        }
        // Ways to what ran before are not those to what will.
        Request::Deliver { .. } => server.ports.close(),
        _ => {}
    }
    let mut guest = Guest(start(&request)?);
    if let Some(mut input) = guest.0.stdin.take() {
        // A guest that has ended takes nothing; what it has answered counts.
        let _ = write_message(&mut input, &request, &[&payload]);
    }
    drop(payload);
    let Some(output) = guest.0.stdout.take() else { return Err(io::ErrorKind::BrokenPipe.into()) };
    let told = if matches!(request, Request::Exec { stream: true, .. }) { Told::AsItComes } else { Told::AtTheEnd };
    let answer = await_answer(&mut stream, output, told)?;
    let _ = guest.0.wait();
    tell(stream, &answer)
}

/// Gives an answer, and ends the connection.
fn tell(mut stream: Stream, answer: &[u8]) -> io::Result<()> {
    stream.write_all(&[ANSWER])?;
    stream.write_all(answer)?;
    farewell(stream)
}

/// Ends a connection so that the client knows it has everything.
fn farewell(mut stream: Stream) -> io::Result<()> {
    stream.conn.send_close_notify();
    stream.flush()
}

/// A guest process of its own for a request, as the user that the request needs.
fn start(request: &Request) -> io::Result<Child> {
    let user = if matches!(request, Request::Deliver { .. }) { 0 } else { AGENT_UID };
    let mut command = Command::new(GUEST_PATH);
    command.uid(user).gid(AGENT_UID).env_clear().current_dir("/");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().inspect_err(|error| complain(&format!("theazo-machine: no guest can be started: {error}")))
}

/// When a client hears what its guest says.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Told {
    AsItComes,
    AtTheEnd,
}

/// Takes what the guest says while its client listens, and gives what was not told. An error means that the client has
/// gone.
fn await_answer(stream: &mut Stream, output: ChildStdout, told: Told) -> io::Result<Vec<u8>> {
    let mut output = output.take(LONGEST_ANSWER);
    let (mut answer, mut piece) = (Vec::new(), vec![0; MAX_PIECE]);
    let mut alive_at = Instant::now();
    loop {
        let left = Duration::from_secs(ALIVE_SECONDS).saturating_sub(alive_at.elapsed());
        let limit = Timespec::try_from(left + Duration::from_millis(1)).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let watched = &mut [PollFd::new(output.get_ref(), PollFlags::IN), PollFd::new(&stream.sock, PollFlags::IN)];
        match poll(watched, Some(&limit)) {
            Err(rustix::io::Errno::INTR) => continue,
            other => other?,
        };
        let [said, client] = watched.each_ref().map(|watched| !watched.revents().is_empty());
        if said {
            match output.read(&mut piece)? {
                0 => return Ok(answer),
                count => {
                    let piece = piece.get(..count).unwrap_or_default();
                    match told {
                        Told::AtTheEnd => answer.extend_from_slice(piece),
                        Told::AsItComes => {
                            tell_piece(stream, piece)?;
                            alive_at = Instant::now();
                        }
                    }
                }
            }
        } else if client {
            // It has nothing more to say: it is leaving, or has left.
            return Err(io::ErrorKind::ConnectionAborted.into());
        }
        if alive_at.elapsed() >= Duration::from_secs(ALIVE_SECONDS) {
            alive_at = Instant::now();
            stream.write_all(&[ALIVE])?;
            stream.flush()?;
        }
    }
}

fn tell_piece(stream: &mut Stream, piece: &[u8]) -> io::Result<()> {
    let length = u32::try_from(piece.len()).map_err(io::Error::other)?;
    stream.write_all(&[PIECE])?;
    stream.write_all(&length.to_be_bytes())?;
    stream.write_all(piece)?;
    stream.flush()
}

/// A guest that is told to end, with all that it has started, should its client go before it.
struct Guest(Child);

impl Drop for Guest {
    fn drop(&mut self) {
        if !matches!(self.0.try_wait(), Ok(None)) {
            return;
        }
        let _ = kill_process(Pid::from_child(&self.0), Signal::TERM);
        let until = Instant::now() + END_WITHIN;
        while Instant::now() < until {
            if !matches!(self.0.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    const LIMIT: Duration = Duration::from_millis(500);

    fn server() -> Server {
        let ingress = TcpListener::bind("127.0.0.1:0").unwrap();
        Server::new(tls::make().unwrap().0, Ports::new(ingress, MACHINE_PATH))
    }

    /// What becomes of a connection on which a stranger says these bytes, one every 50 ms.
    fn drip(bytes: Vec<u8>) -> (io::Result<()>, Duration) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut stranger = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (connection, _) = listener.accept().unwrap();
        std::thread::spawn(move || {
            for byte in bytes {
                if stranger.write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        let begun = Instant::now();
        (attend(connection, &server(), LIMIT), begun.elapsed())
    }

    #[test]
    fn a_stranger_who_says_a_byte_now_and_then_keeps_no_connection() {
        // The beginning of a handshake that goes on for long.
        let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3];
        let (outcome, took) = drip(hello.into_iter().chain([0; 80]).collect());
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(took < LIMIT * 3, "{took:?}");
    }

    #[test]
    fn a_stranger_who_says_nothing_keeps_no_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _stranger = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let begun = Instant::now();
        let outcome = attend(listener.accept().unwrap().0, &server(), LIMIT);
        assert_eq!(outcome.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begun.elapsed() < LIMIT * 3);
    }
}
