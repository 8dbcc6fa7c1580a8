//! Ports of sandboxes, as the service's edge has them: a sandbox and a port are named by a host or by headers, and what
//! does not carry the sandbox's traffic token is refused where the sandbox wants one.

use crate::Controls;
use crate::room::Room;
use crate::server::{not_found, shown};
use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use std::collections::HashSet;
use std::fs;
use std::net::Ipv4Addr;
use std::time::Duration;
use tokio::net::TcpStream;

/// The port of the daemon in every sandbox, which has a token of its own.
pub(crate) const DAEMON: u16 = 49983;
const SANDBOX_HEADER: &str = "e2b-sandbox-id";
const PORT_HEADER: &str = "e2b-sandbox-port";
const TOKEN_HEADER: &str = "e2b-traffic-access-token";
/// How long nothing may be said on a connection.
const SILENCE: Duration = Duration::from_secs(600);

/// The sandbox and port that a request is for, if it is for one.
pub(crate) fn named(headers: &HeaderMap) -> Result<Option<(String, u16)>, &'static str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    if let Some(id) = text(SANDBOX_HEADER) {
        let port = text(PORT_HEADER).map_or(Ok(DAEMON), str::parse).map_err(|_| "Invalid sandbox port")?;
        return Ok(Some((id.to_owned(), port)));
    }
    let label = text(header::HOST.as_str()).and_then(|host| host.split('.').next()).unwrap_or_default();
    let is_number = |port: &str| !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    let named = label.split_once('-').filter(|(port, id)| is_number(port) && !id.is_empty());
    let Some((port, id)) = named else { return Ok(None) };
    Ok(Some((id.to_owned(), port.parse().map_err(|_| "Invalid sandbox port")?)))
}

/// Passes a request on to what listens on a port of a sandbox.
pub(crate) async fn answer(controls: &Controls, id: &str, port: u16, mut request: Request) -> Response {
    let Some(running) = controls.sandboxes.running(id) else { return not_found(id) };
    if let Some(wanted) = controls.sandboxes.traffic_token(id) {
        let token = request.headers().get(TOKEN_HEADER).and_then(|token| token.to_str().ok());
        if token != Some(wanted.as_str()) {
            let message = "The traffic access token is missing or invalid";
            return shown(403, &json!({ "sandboxId": id, "message": message, "code": 403 }));
        }
    }
    for ours in [SANDBOX_HEADER, PORT_HEADER, TOKEN_HEADER] {
        request.headers_mut().remove(ours);
    }
    let closed = || {
        let message = "The sandbox is running but port is not open";
        shown(502, &json!({ "sandboxId": id, "message": message, "port": port, "code": 502 }))
    };
    // The network is this machine's: other programs, and other sandboxes', listen on it as well.
    let room = running.room.clone();
    let listens = tokio::task::spawn_blocking(move || listens(&room, port)).await;
    if !listens.unwrap_or(false) {
        return closed();
    }
    let Ok(program) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await else { return closed() };
    match theazo_forwarder::forward(request, program, SILENCE, ()).await {
        Ok(response) => response.map(Body::new).into_response(),
        Err(_) => closed(),
    }
}

/// Whether a process of a sandbox listens on a port.
fn listens(room: &Room, port: u16) -> bool {
    let sockets: HashSet<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(|line| listening(line, port)).collect::<Vec<_>>())
        .map(|inode| format!("socket:[{inode}]"))
        .collect();
    let processes = fs::read_dir(room.root().join("proc")).into_iter().flatten().flatten();
    let files = processes.filter_map(|process| fs::read_dir(process.path().join("fd")).ok()).flatten().flatten();
    let mut opened = files.filter_map(|file| fs::read_link(file.path()).ok());
    opened.any(|opened| opened.to_str().is_some_and(|opened| sockets.contains(opened)))
}

/// The inode of a socket that listens on that port, in a line of the kernel's table.
fn listening(line: &str, port: u16) -> Option<String> {
    const LISTENS: &str = "0A";
    let columns: Vec<&str> = line.split_whitespace().collect();
    let (_, own) = columns.get(1)?.rsplit_once(':')?;
    let is_it = u16::from_str_radix(own, 16) == Ok(port) && *columns.get(3)? == LISTENS;
    columns.get(9).filter(|_| is_it).map(|inode| (*inode).to_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;

    #[test]
    fn a_sandbox_and_a_port_are_named_by_headers_or_by_a_host() {
        let named = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.insert(*name, value.parse().unwrap());
            }
            named(&headers)
        };
        let found = |id: &str, port| Ok(Some((id.to_owned(), port)));
        assert_eq!(named(&[("host", "3000-iabc.e2b.example:80")]), found("iabc", 3000));
        assert_eq!(named(&[("host", "127.0.0.1:1"), ("e2b-sandbox-id", "iabc")]), found("iabc", DAEMON));
        assert_eq!(named(&[("e2b-sandbox-id", "iabc"), ("e2b-sandbox-port", "80")]), found("iabc", 80));
        for nothing in ["127.0.0.1:9000", "localhost", "api.e2b.example", "-iabc.x", "3000-.x"] {
            assert_eq!(named(&[("host", nothing)]), Ok(None), "{nothing}");
        }
        assert!(named(&[("host", "65536-iabc.x")]).is_err());
        assert!(named(&[("e2b-sandbox-id", "iabc"), ("e2b-sandbox-port", "x")]).is_err());
    }

    #[test]
    fn only_listening_sockets_of_the_port_are_found() {
        let line = |port: &str, state: &str| {
            format!("   0: 00000000:{port} 00000000:0000 {state} 00000000:00000000 00:00000000 00000000  0  0 1234 1 0")
        };
        assert_eq!(listening(&line("0BB8", "0A"), 3000).as_deref(), Some("1234"));
        assert_eq!(listening(&line("0BB8", "01"), 3000), None);
        assert_eq!(listening(&line("0BB9", "0A"), 3000), None);
        assert_eq!(listening("  sl  local_address rem_address   st", 3000), None);
    }
}
