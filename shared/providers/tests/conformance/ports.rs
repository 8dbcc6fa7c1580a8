//! The promises about ports that are reached from outside.

use crate::bed::{Bed, environment};
use std::sync::Arc;
use std::time::Duration;
use theazo_providers::{AgentRef, Language, OpenPort, Presence, ProviderError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

crate::promises! { "ports":
    Ports a_port_answers_those_who_have_its_token_and_nobody_else;
    Ports an_upgraded_connection_is_copied_both_ways;
    Ports a_port_that_is_asked_for_again_is_the_same_and_no_other_agents;
    Ports a_port_ends_with_the_run_of_its_agent;
}

const WITHIN: Duration = Duration::from_secs(20);

/// Answers what it was asked, or echoes in capitals once it was upgraded. Says on which port of its own choice.
const SERVER: &str = r"
import http.server, os, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        if self.headers.get('Upgrade') == 'capitals':
            self.send_response(101)
            self.send_header('Connection', 'Upgrade')
            self.send_header('Upgrade', 'capitals')
            self.end_headers()
            for line in self.rfile:
                self.wfile.write(line.upper())
            return
        told = f'{self.command} {self.path}\n{self.headers}\ntold to {sys.argv[1]}\n'.encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(told)))
        self.end_headers()
        self.wfile.write(told)
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('0.0.0.0', 0), Handler)
with open('/data/port.new', 'w') as file: file.write(str(server.server_port))
os.rename('/data/port.new', '/data/port')
server.serve_forever()
";

/// Has an agent serve, and tells on which port.
pub(crate) async fn serve(bed: &Bed, agent: &AgentRef, name: &str) -> u16 {
    bed.write(agent, "/data/server.py", SERVER.as_bytes()).await.unwrap();
    let start = format!(
        "rm -f /data/port; python3 /data/server.py {name} > /dev/null 2>&1 &
        for i in $(seq 200); do [ -s /data/port ] && break; sleep 0.05; done; cat /data/port"
    );
    bed.bash(agent, &start).await.trim().parse().unwrap()
}

/// The headers of a way, as lines.
pub(crate) fn lines(way: &OpenPort) -> String {
    way.headers.iter().map(|(name, value)| format!("{name}: {}\r\n", value.as_str())).collect()
}

/// The header that has the token: the last, and not what a sandbox is named by.
pub(crate) fn token(way: &OpenPort) -> &str {
    let (name, token) = way.headers.last().unwrap();
    assert!(name.contains("token"), "{name}");
    token
}

/// Connects to where a way begins, and says something.
async fn say(way: &OpenPort, text: &str) -> std::io::Result<TcpStream> {
    let place = way.url.strip_prefix("http://").and_then(|rest| rest.strip_suffix('/')).unwrap();
    let connected = tokio::time::timeout(WITHIN, TcpStream::connect(place)).await;
    let mut stream = connected.expect("it takes a connection or does not")?;
    stream.write_all(text.as_bytes()).await?;
    Ok(stream)
}

/// Reads until that was said, or until the end.
async fn until(stream: &mut TcpStream, mark: &str) -> String {
    let (mut said, mut piece) = (Vec::new(), [0; 4096]);
    while !String::from_utf8_lossy(&said).contains(mark) {
        match tokio::time::timeout(WITHIN, stream.read(&mut piece)).await.expect("it came in time") {
            Ok(count) if count > 0 => said.extend_from_slice(&piece[..count]),
            _ => break,
        }
    }
    String::from_utf8_lossy(&said).into_owned()
}

/// What a request with these headers is answered; nothing when no connection is taken.
pub(crate) async fn ask(way: &OpenPort, headers: &str) -> String {
    let request = format!("GET /path?q HTTP/1.1\r\nHost: a.example\r\nConnection: close\r\n{headers}\r\n");
    match say(way, &request).await {
        Ok(mut stream) => until(&mut stream, "\u{0}no such text").await,
        Err(_) => String::new(),
    }
}

pub(crate) async fn open(bed: &Bed, agent: &AgentRef, port: u16) -> OpenPort {
    bed.provider.open_port(agent, port).await.unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) async fn refusal(bed: &Bed, agent: &AgentRef, port: u16) -> ProviderError {
    bed.provider.open_port(agent, port).await.err().expect("it is refused")
}

async fn a_port_answers_those_who_have_its_token_and_nobody_else(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let port = serve(&bed, &agent, "one").await;
    let way = open(&bed, &agent, port).await;
    assert!(!way.url.contains(token(&way)));
    let answer = ask(&way, &format!("{}X-Own: kept\r\n", lines(&way))).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("told to one"), "{answer}");
    assert!(answer.contains("GET /path?q\n") && answer.to_lowercase().contains("x-own: kept"), "{answer}");
    assert!(!answer.contains(token(&way)), "the program is not told the token: {answer}");
    // As many letters, another token; none; one that is cut.
    let wrong: String = token(&way).chars().map(|letter| if letter == '0' { '1' } else { '0' }).collect();
    let cut = token(&way).split_at(10).0;
    for bad in [lines(&way).replace(token(&way), &wrong), lines(&way).replace(token(&way), cut), {
        let (name, value) = way.headers.last().unwrap();
        lines(&way).replace(&format!("{name}: {}\r\n", value.as_str()), "")
    }] {
        let answer = ask(&way, &bad).await;
        assert!(["HTTP/1.1 401", "HTTP/1.1 403"].iter().any(|status| answer.starts_with(status)), "{answer}");
        assert!(!answer.contains("told to"), "{answer}");
    }
    // One that nobody listens on.
    let closed = bed.run(
        &agent,
        Language::Python,
        "import socket; s = socket.socket(); s.bind(('', 0)); print(s.getsockname()[1])",
    );
    let closed: u16 = String::from_utf8_lossy(&closed.await.stdout).trim().parse().unwrap();
    let way = open(&bed, &agent, closed).await;
    let answer = ask(&way, &lines(&way)).await;
    assert!(answer.starts_with("HTTP/1.1 502"), "{answer}");
    bed.destroy(&agent).await;
}

async fn an_upgraded_connection_is_copied_both_ways(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    let port = serve(&bed, &agent, "one").await;
    let way = open(&bed, &agent, port).await;
    let head = "GET / HTTP/1.1\r\nHost: a.example\r\nConnection: Upgrade\r\nUpgrade: capitals\r\n";
    let mut stream = say(&way, &format!("{head}{}\r\n", lines(&way))).await.unwrap();
    let answer = until(&mut stream, "\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 101"), "{answer}");
    for word in ["one", "another"] {
        stream.write_all(format!("{word}\n").as_bytes()).await.unwrap();
        assert_eq!(until(&mut stream, "\n").await, format!("{}\n", word.to_uppercase()));
    }
    // And not without the token.
    let answer = match say(&way, &format!("{head}\r\n")).await {
        Ok(mut stream) => until(&mut stream, "\r\n\r\n").await,
        Err(_) => String::new(),
    };
    assert!(!answer.starts_with("HTTP/1.1 101"), "{answer}");
    bed.destroy(&agent).await;
}

async fn a_port_that_is_asked_for_again_is_the_same_and_no_other_agents(bed: Arc<Bed>) {
    let ((_, one), (_, other)) = tokio::join!(bed.create(&[]), bed.create(&[]));
    let ports = [serve(&bed, &one, "one").await, serve(&bed, &other, "other").await];
    let ways = [open(&bed, &one, ports[0]).await, open(&bed, &other, ports[1]).await];
    let (again, at_once) = tokio::join!(open(&bed, &one, ports[0]), open(&bed, &one, ports[0]));
    for again in [again, at_once] {
        assert_eq!((&again.url, token(&again)), (&ways[0].url, token(&ways[0])));
    }
    assert_ne!(token(&ways[0]), token(&ways[1]));
    for (own, foreign) in [(&ways[0], &ways[1]), (&ways[1], &ways[0])] {
        assert!(ask(own, &lines(own)).await.contains("told to"));
        let answer = ask(own, &lines(own).replace(token(own), token(foreign))).await;
        assert!(["HTTP/1.1 401", "HTTP/1.1 403"].iter().any(|status| answer.starts_with(status)), "{answer}");
    }
    tokio::join!(bed.destroy(&one), bed.destroy(&other));
}

async fn a_port_ends_with_the_run_of_its_agent(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[]).await;
    let port = serve(&bed, &agent, "first").await;
    let way = open(&bed, &agent, port).await;
    assert!(ask(&way, &lines(&way)).await.contains("told to first"));
    bed.provider.stop(&agent).await.unwrap();
    let answer = ask(&way, &lines(&way)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(matches!(refusal(&bed, &agent, port).await, ProviderError::SandboxGone));
    assert_eq!(bed.listed(&agent).await, Some(Presence::Kept), "it is stopped, and asking has not changed that");

    bed.provider.resume(&spec, &environment(&[])).await.unwrap();
    let port = serve(&bed, &agent, "second").await;
    let next = open(&bed, &agent, port).await;
    assert!(ask(&next, &lines(&next)).await.contains("told to second"));
    bed.destroy(&agent).await;
    let answer = ask(&next, &lines(&next)).await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 502"), "{answer}");
    assert!(matches!(refusal(&bed, &agent, port).await, ProviderError::SandboxGone));
    assert_eq!(bed.listed(&agent).await, None);
}
