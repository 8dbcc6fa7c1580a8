#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::{Admission, Way};
use sha2::{Digest, Sha256};
use std::net::SocketAddr;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinHandle;

const WITHIN: Duration = Duration::from_secs(20);
const TOKEN: &str = "theazo-port-token: 0123\r\n";

/// A forwarder to an agent that is this test.
struct Bed {
    agent: TcpListener,
    address: SocketAddr,
    serving: JoinHandle<()>,
}

impl Drop for Bed {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn bed() -> Bed {
    with_limits(SILENCE, HEAD_WITHIN).await
}

async fn with_limits(silence: Duration, head_within: Duration) -> Bed {
    let agent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(to) = agent.local_addr().unwrap() else { panic!("it is of version 4") };
    let admission = Admission::parse(&hex::encode(Sha256::digest(b"0123"))).unwrap();
    let routes = Routes::new([(admission, Way::new(to, "lo").unwrap())]);
    let proxy = Proxy::with_limits(routes, silence, head_within).screening(|headers| {
        headers.remove("x-screened");
        if headers.contains_key("x-refused") { Err(NoAnswer) } else { Ok(()) }
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    Bed { agent, address, serving: tokio::spawn(proxy.serve(listener)) }
}

impl Bed {
    async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).await.unwrap()
    }

    /// What the agent is asked next: the connection, and what came up to the end of the head and perhaps beyond.
    async fn asked(&self) -> (TcpStream, String) {
        let (mut stream, _) = tokio::time::timeout(WITHIN, self.agent.accept()).await.unwrap().unwrap();
        let head = until(&mut stream, "\r\n\r\n").await;
        (stream, head)
    }

    /// Whether somebody has connected to the agent.
    async fn is_reached(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(100), self.agent.accept()).await.is_ok()
    }
}

async fn say(stream: &mut TcpStream, text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
}

/// Reads until that has been said, or until the end.
async fn until(stream: &mut TcpStream, mark: &str) -> String {
    let mut said = Vec::new();
    let mut piece = [0; 4096];
    while !String::from_utf8_lossy(&said).contains(mark) {
        match tokio::time::timeout(WITHIN, stream.read(&mut piece)).await.expect("it came in time") {
            Ok(count) if count > 0 => said.extend_from_slice(&piece[..count]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// Everything up to the end of the connection.
async fn rest(stream: &mut TcpStream) -> String {
    until(stream, "\u{0}no such text").await
}

#[tokio::test]
async fn a_request_with_the_token_is_forwarded_without_it() {
    let bed = bed().await;
    let mut caller = bed.connect().await;
    let head = "Host: a.example\r\nX-Own: kept\r\nKeep-Alive: 5\r\nX-Hop: x\r\nConnection: x-hop\r\n";
    say(&mut caller, &format!("POST http://b.example/p?q=1 HTTP/1.1\r\n{head}{TOKEN}Content-Length: 4\r\n\r\nbody"))
        .await;
    let (mut agent, mut asked) = bed.asked().await;
    if !asked.ends_with("body") {
        asked += &until(&mut agent, "body").await;
    }
    assert!(asked.starts_with("POST /p?q=1 HTTP/1.1\r\n"), "{asked}");
    let lower = asked.to_lowercase();
    assert!(lower.contains("host: a.example\r\n") && lower.contains("x-own: kept\r\n"), "{asked}");
    for gone in ["theazo", "0123", "keep-alive", "x-hop"] {
        assert!(!lower.contains(gone), "{gone}: {asked}");
    }
    say(&mut agent, "HTTP/1.1 418 Odd\r\nX-Answer: yes\r\nContent-Length: 3\r\n\r\nhey").await;
    let answer = until(&mut caller, "hey").await;
    assert!(answer.starts_with("HTTP/1.1 418") && answer.to_lowercase().contains("x-answer: yes\r\n"), "{answer}");
}

#[tokio::test]
async fn without_the_token_nothing_reaches_the_agent() {
    let bed = bed().await;
    for head in ["", "theazo-port-token: 0124\r\n", "theazo-port-token:\r\n", "Authorization: Bearer 0123\r\n"] {
        let mut caller = bed.connect().await;
        say(&mut caller, &format!("GET / HTTP/1.1\r\nHost: a\r\n{head}\r\n")).await;
        let answer = rest(&mut caller).await;
        assert!(answer.starts_with("HTTP/1.1 401"), "{head}: {answer}");
    }
    for odd in ["nothing of HTTP\r\n\r\n", "\u{16}\u{3}\u{1}\u{2}", "GET / HTTP/1.1\r\nHost : a\r\n\r\n"] {
        let mut caller = bed.connect().await;
        say(&mut caller, odd).await;
        caller.shutdown().await.unwrap();
        let answer = rest(&mut caller).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{odd}: {answer}");
    }
    let mut caller = bed.connect().await;
    say(&mut caller, &format!("CONNECT agent:22 HTTP/1.1\r\nHost: agent:22\r\n{TOKEN}\r\n")).await;
    let answer = until(&mut caller, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert!(!bed.is_reached().await);
}

#[tokio::test]
async fn each_request_on_a_connection_is_looked_at() {
    let bed = bed().await;
    let mut caller = bed.connect().await;
    let good = format!("GET /first HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\n");
    say(&mut caller, &good).await;
    let (mut agent, _) = bed.asked().await;
    say(&mut agent, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none").await;
    assert!(until(&mut caller, "one").await.starts_with("HTTP/1.1 200"));
    // A good one again, and with it one that is not.
    say(&mut caller, &format!("{good}GET /second HTTP/1.1\r\nHost: a\r\n\r\n")).await;
    let (mut agent, _) = bed.asked().await;
    say(&mut agent, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo").await;
    let answers = rest(&mut caller).await;
    assert!(answers.starts_with("HTTP/1.1 200") && answers.contains("two"), "{answers}");
    assert!(answers.contains("HTTP/1.1 401"), "{answers}");
    assert!(!bed.is_reached().await, "the second was not forwarded");
}

#[tokio::test]
async fn what_follows_a_body_of_two_lengths_is_looked_at_too() {
    let bed = bed().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    for lengths in [
        format!("Content-Length: {}\r\nTransfer-Encoding: chunked\r\n", smuggled.len() + 5),
        format!("Transfer-Encoding: chunked\r\nContent-Length: {}\r\n", smuggled.len() + 5),
    ] {
        let mut caller = bed.connect().await;
        let request = format!("POST /first HTTP/1.1\r\nHost: a\r\n{TOKEN}{lengths}\r\n0\r\n\r\n{smuggled}");
        say(&mut caller, &request).await;
        let refused = tokio::time::timeout(Duration::from_millis(300), bed.agent.accept()).await;
        let seen = match refused {
            Err(_) => String::new(),
            Ok(accepted) => {
                let mut agent = accepted.unwrap().0;
                let mut seen = until(&mut agent, "0\r\n\r\n").await;
                say(&mut agent, "HTTP/1.1 204 No Content\r\n\r\n").await;
                seen += &rest(&mut agent).await;
                seen
            }
        };
        assert!(!seen.contains("smuggled") && !seen.to_lowercase().contains("content-length"), "{seen}");
        // What follows is looked at, or not even read.
        let answers = rest(&mut caller).await;
        let statuses: Vec<&str> = answers.lines().filter_map(|line| line.strip_prefix("HTTP/1.1 ")).collect();
        assert!(["204 No Content", "400 Bad Request"].iter().any(|first| statuses.first() == Some(first)), "{answers}");
        assert!(statuses.iter().skip(1).all(|status| status.starts_with("401")), "{answers}");
    }
    assert!(!bed.is_reached().await);
}

#[tokio::test]
async fn after_an_upgrade_bytes_are_copied_both_ways() {
    let bed = bed().await;
    let mut caller = bed.connect().await;
    let upgrade = "Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n";
    say(&mut caller, &format!("GET /ws HTTP/1.1\r\nHost: a\r\n{upgrade}{TOKEN}\r\n")).await;
    let (mut agent, asked) = bed.asked().await;
    let asked = asked.to_lowercase();
    assert!(asked.contains("connection: upgrade\r\n") && asked.contains("upgrade: websocket\r\n"), "{asked}");
    assert!(asked.contains("sec-websocket-key: k\r\n") && !asked.contains("theazo"), "{asked}");
    let switching =
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Accept: y\r\n\r\nfirst";
    say(&mut agent, switching).await;
    let answer = until(&mut caller, "first").await;
    let lower = answer.to_lowercase();
    assert!(lower.starts_with("http/1.1 101") && lower.contains("x-accept: y\r\n"), "{answer}");
    assert!(lower.contains("upgrade: websocket\r\n"), "{answer}");
    say(&mut caller, "\u{1}ping").await;
    assert_eq!(until(&mut agent, "ping").await, "\u{1}ping");
    say(&mut agent, "pong").await;
    assert_eq!(until(&mut caller, "pong").await, "pong");
    // Either side may end its half.
    caller.shutdown().await.unwrap();
    assert_eq!(rest(&mut agent).await, "");
    say(&mut agent, "last").await;
    drop(agent);
    assert_eq!(rest(&mut caller).await, "last");
}

#[tokio::test]
async fn bodies_are_passed_on_as_they_come() {
    let bed = bed().await;
    let mut caller = bed.connect().await;
    let head =
        format!("POST / HTTP/1.1\r\nHost: a\r\n{TOKEN}Transfer-Encoding: chunked\r\nExpect: 100-continue\r\n\r\n");
    say(&mut caller, &head).await;
    assert!(until(&mut caller, "\r\n\r\n").await.starts_with("HTTP/1.1 100"));
    say(&mut caller, "5\r\nearly\r\n").await;
    let (mut agent, asked) = bed.asked().await;
    if !asked.contains("early") {
        until(&mut agent, "early").await;
    }
    // Answered before the request has ended, and in pieces.
    say(
        &mut agent,
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n3\r\none\r\n",
    )
    .await;
    assert!(until(&mut caller, "one").await.starts_with("HTTP/1.1 200"));
    say(&mut caller, "4\r\nlate\r\n0\r\n\r\n").await;
    until(&mut agent, "late").await;
    say(&mut agent, "3\r\ntwo\r\n0\r\n\r\n").await;
    let answer = until(&mut caller, "0\r\n\r\n").await;
    assert!(answer.contains("two"), "{answer}");
}

#[tokio::test]
async fn a_body_in_pieces_is_passed_on_whatever_the_method_and_an_answer_has_one_length() {
    let bed = bed().await;
    let mut caller = bed.connect().await;
    let head = format!("GET /search HTTP/1.1\r\nHost: a\r\n{TOKEN}Transfer-Encoding: chunked\r\n\r\n");
    say(&mut caller, &format!("{head}5\r\nquery\r\n0\r\n\r\n")).await;
    let (mut agent, mut asked) = bed.asked().await;
    if !asked.contains("query") {
        asked += &until(&mut agent, "query").await;
    }
    assert!(asked.to_lowercase().contains("transfer-encoding: chunked\r\n"), "{asked}");
    say(&mut agent, "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n3\r\nhey\r\n0\r\n\r\n")
        .await;
    let answer = until(&mut caller, "hey").await.to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && !answer.contains("content-length"), "{answer}");
}

#[tokio::test]
async fn a_port_that_is_closed_or_speaks_no_http_is_told() {
    let bed = bed().await;
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\n");
    let mut caller = bed.connect().await;
    say(&mut caller, &request).await;
    let (mut agent, _) = bed.asked().await;
    say(&mut agent, "SSH-2.0-agent\r\n\r\n").await;
    drop(agent);
    let answer = until(&mut caller, "}}").await;
    assert!(answer.starts_with("HTTP/1.1 502") && answer.contains("bad_answer"), "{answer}");
    // One that switches to something that nobody asked for.
    say(&mut caller, &request).await;
    let (mut agent, _) = bed.asked().await;
    say(&mut agent, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n").await;
    let answer = until(&mut caller, "}}").await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(nobody) = closed.local_addr().unwrap() else { panic!("it is of version 4") };
    drop(closed);
    assert!(Way::new(nobody, "lo").unwrap().connect().await.is_err());
}

#[tokio::test]
async fn an_answer_passes_as_its_screen_leaves_it_or_not_at_all() {
    let bed = bed().await;
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\n");
    let mut caller = bed.connect().await;
    say(&mut caller, &request).await;
    let (mut agent, _) = bed.asked().await;
    say(&mut agent, "HTTP/1.1 200 OK\r\nX-Screened: a\r\nX-screened: b\r\nX-Own: c\r\nContent-Length: 3\r\n\r\none")
        .await;
    let answer = until(&mut caller, "one").await.to_lowercase();
    assert!(answer.contains("x-own: c") && !answer.contains("x-screened"), "{answer}");
    for answered in
        ["200 OK\r\nContent-Length: 6", "101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: capitals"]
    {
        let mut caller = bed.connect().await;
        say(&mut caller, &request.replace("Host: a", "Host: a\r\nConnection: upgrade\r\nUpgrade: capitals")).await;
        let (mut agent, _) = bed.asked().await;
        say(&mut agent, &format!("HTTP/1.1 {answered}\r\nX-Refused: yes\r\n\r\nsecret")).await;
        let answer = until(&mut caller, "}}").await;
        assert!(answer.starts_with("HTTP/1.1 502") && !answer.contains("secret"), "{answer}");
    }
}

#[tokio::test]
async fn dawdlers_keep_no_connection() {
    let short = Duration::from_millis(300);
    let bed = with_limits(short * 3, short).await;
    // One who says nothing, one who never finishes a head, and one who stays after an answer.
    let mut silent = bed.connect().await;
    let mut slow = bed.connect().await;
    say(&mut slow, "GET / HTTP/1.1\r\nX: ").await;
    let mut admitted = bed.connect().await;
    say(&mut admitted, &format!("GET / HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\n")).await;
    let (mut agent, _) = bed.asked().await;
    say(&mut agent, "HTTP/1.1 204 No Content\r\n\r\n").await;
    for stream in [&mut silent, &mut slow, &mut admitted] {
        let said = rest(stream).await;
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408") || said.starts_with("HTTP/1.1 204"), "{said}");
    }
    // An agent that takes a request and never answers.
    let mut caller = bed.connect().await;
    say(&mut caller, &format!("GET / HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\n")).await;
    let (_agent, _) = bed.asked().await;
    let said = rest(&mut caller).await;
    assert!(said.is_empty() || said.starts_with("HTTP/1.1 502"), "{said}");
}

#[tokio::test]
async fn a_head_has_a_longest_length() {
    let bed = bed().await;
    let mut caller = bed.connect().await;
    // Its buffer may be larger than what it was told to hold.
    let long = "x".repeat(LONGEST_HEAD * 2);
    let _ = caller.write_all(format!("GET / HTTP/1.1\r\nHost: a\r\n{TOKEN}X: {long}\r\n\r\n").as_bytes()).await;
    let answer = rest(&mut caller).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 431"), "{answer}");
    assert!(!bed.is_reached().await);
}

#[tokio::test]
async fn strangers_take_no_place_of_those_who_have_shown_the_token() {
    let bed = bed().await;
    let mut admitted = bed.connect().await;
    let request = format!("GET / HTTP/1.1\r\nHost: a\r\n{TOKEN}\r\n");
    say(&mut admitted, &request).await;
    let (mut agent, _) = bed.asked().await;
    say(&mut agent, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\none").await;
    until(&mut admitted, "one").await;
    let mut strangers = Vec::new();
    for _ in 0..STRANGERS {
        strangers.push(bed.connect().await);
    }
    // Nor do they keep anybody out: for one more the oldest has to go. Who was admitted before is still served.
    let mut newcomer = bed.connect().await;
    assert_eq!(rest(&mut strangers[0]).await, "");
    say(&mut newcomer, &request).await;
    let (mut agent, _) = bed.asked().await;
    say(&mut agent, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nnew").await;
    assert!(until(&mut newcomer, "new").await.starts_with("HTTP/1.1 200"));
    for _ in 0..STRANGERS {
        strangers.push(bed.connect().await);
    }
    assert_eq!(rest(&mut strangers[STRANGERS - 1]).await, "", "all but the latest have gone");
    say(&mut admitted, &request).await;
    let (mut agent, _) = bed.asked().await;
    say(&mut agent, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\ntwo").await;
    assert!(until(&mut admitted, "two").await.starts_with("HTTP/1.1 200"));
    drop(strangers);
}

#[tokio::test]
async fn there_is_no_way_through_an_interface_that_is_not_there() {
    let way = Way::new("127.0.0.1:9".parse().unwrap(), "ag-00000000").unwrap();
    assert!(!way.is_there() && way.try_out().is_err() && way.connect().await.is_err());
    assert!(Way::new("127.0.0.1:9".parse().unwrap(), "lo").unwrap().is_there());
}

#[tokio::test]
async fn an_address_that_is_behind_another_interface_is_not_reached() {
    let agent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let SocketAddr::V4(to) = agent.local_addr().unwrap() else { panic!("it is of version 4") };
    assert!(Way::new(to, "lo").unwrap().connect().await.is_ok());
    agent.accept().await.unwrap();
    // Any but that one, if there is any.
    let interfaces = std::fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name());
    let Some(other) = interfaces.filter_map(|name| name.into_string().ok()).find(|name| name != "lo") else { return };
    assert!(Way::new(to, &other).unwrap().connect().await.is_err(), "{other}");
}
