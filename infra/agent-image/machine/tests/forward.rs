//! The forwarder as a process of its own, told what is open as the main process tells it.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use sha2::{Digest, Sha256};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

const WITHIN: Duration = Duration::from_secs(20);

struct Forwarder {
    process: Child,
    control: UnixStream,
    address: SocketAddr,
    /// Held, as the main process holds it.
    _ingress: TcpListener,
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Forwarder {
    fn start() -> Self {
        let ingress = TcpListener::bind("127.0.0.1:0").unwrap();
        let (control, theirs) = UnixStream::pair().unwrap();
        control.set_read_timeout(Some(WITHIN)).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_theazo-machine"));
        command.arg("forward").stdin(OwnedFd::from(ingress.try_clone().unwrap())).stdout(OwnedFd::from(theirs));
        let (process, address) = (command.spawn().unwrap(), ingress.local_addr().unwrap());
        Self { process, control, address, _ingress: ingress }
    }

    /// Tells that those ports are open to those tokens.
    fn tell(&mut self, open: &[(u16, &str)]) {
        let entry = |(port, token): &(u16, &str)| format!("{port}={}", hex::encode(Sha256::digest(token)));
        let line = open.iter().map(entry).collect::<Vec<_>>().join(" ");
        self.control.write_all(format!("{line}\n").as_bytes()).unwrap();
        self.control.read_exact(&mut [0]).unwrap();
    }

    /// A request with that token.
    fn begin(&self, token: &str) -> TcpStream {
        let mut caller = TcpStream::connect(self.address).unwrap();
        caller.set_read_timeout(Some(WITHIN)).unwrap();
        let head = format!("Host: a\r\nConnection: close\r\ntheazo-port-token: {token}\r\n");
        caller.write_all(format!("GET / HTTP/1.1\r\n{head}\r\n").as_bytes()).unwrap();
        caller
    }

    /// What a request with that token is answered.
    fn ask(&self, token: &str) -> String {
        answer_to(self.begin(token))
    }
}

fn answer_to(mut caller: TcpStream) -> String {
    let mut answer = String::new();
    caller.read_to_string(&mut answer).unwrap();
    answer
}

/// A program of the agent's that says the same to everybody, on a port of its own.
fn program(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                connection.read_exact(&mut byte).unwrap();
                asked.extend(byte);
            }
            assert!(!String::from_utf8_lossy(&asked).contains("theazo"), "the token is not passed on");
            connection.write_all(answer.as_bytes()).unwrap();
        }
    });
    port
}

#[test]
fn each_token_opens_its_port_for_as_long_as_it_is_told_to_be_open() {
    let mut forwarder = Forwarder::start();
    let one = program("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none");
    let two = program("HTTP/1.1 200 OK\r\nFly-Replay: app=other\r\nContent-Length: 3\r\n\r\ntwo");
    let early = forwarder.begin("first");
    forwarder.tell(&[(one, "first"), (two, "second")]);
    assert!(answer_to(early).ends_with("one"), "who came before it knew what is open has waited");
    assert!(forwarder.ask("first").ends_with("one"));
    let answer = forwarder.ask("second");
    assert!(answer.ends_with("two") && !answer.to_lowercase().contains("fly-replay"), "{answer}");
    assert!(forwarder.ask("third").starts_with("HTTP/1.1 401"));
    forwarder.tell(&[(two, "second")]);
    assert!(forwarder.ask("first").starts_with("HTTP/1.1 401"), "it was closed");
    forwarder.tell(&[(two, "third")]);
    assert!(forwarder.ask("second").starts_with("HTTP/1.1 401"), "it has another token");
    assert!(forwarder.ask("third").ends_with("two"));
    forwarder.tell(&[]);
    assert!(forwarder.ask("third").starts_with("HTTP/1.1 401"), "nothing is open");
}

#[test]
fn it_ends_with_the_main_process_and_with_what_it_does_not_understand() {
    for last_words in [None, Some("anything else\n")] {
        let mut forwarder = Forwarder::start();
        forwarder.tell(&[]);
        match last_words {
            None => forwarder.control.shutdown(std::net::Shutdown::Both).unwrap(),
            Some(words) => forwarder.control.write_all(words.as_bytes()).unwrap(),
        }
        let until = Instant::now() + WITHIN;
        while forwarder.process.try_wait().unwrap().is_none() {
            assert!(Instant::now() < until, "it goes on");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
