//! The forwarder: takes requests to the agent's ports from the provider's proxy, and hands on those that carry a port's
//! token.
//!
//! Its standard input is the socket that it takes connections from, and its standard output one to the main process. A line
//! on that has all open ports, each as `PORT=DIGEST`, and is answered by a byte once it holds. It ends with that connection.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::AsFd;
use theazo_forwarder::{Admission, NoAnswer, Proxy, Routes, Way};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{TcpListener, UnixStream};

/// The only interface that connections leave through.
const INTERFACE: &str = "lo";
/// How names of headers begin by which a program would give the provider's proxy orders, and what is in the content type
/// of answers that are one. Such a one sends the request to another machine, with its token and all.
const ORDERS: (&str, &[u8]) = ("fly-", b"vnd.fly");

/// Forwards until the main process is gone.
pub fn run() -> io::Result<()> {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let ingress = std::net::TcpListener::from(io::stdin().as_fd().try_clone_to_owned()?);
    let control = std::os::unix::net::UnixStream::from(io::stdout().as_fd().try_clone_to_owned()?);
    ingress.set_nonblocking(true)?;
    control.set_nonblocking(true)?;
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let (ingress, control) = (TcpListener::from_std(ingress)?, UnixStream::from_std(control)?);
        let routes = Routes::default();
        let (told, mut done) = control.into_split();
        let mut lines = BufReader::new(told).lines();
        // Whoever comes before it is known what is open waits: refused, he would take his token for a wrong one.
        if !follow(&mut lines, &mut done, &routes).await? {
            return Ok(());
        }
        let orders = async {
            while follow(&mut lines, &mut done, &routes).await? {}
            Ok(())
        };
        tokio::select! {
            () = Proxy::new(routes.clone()).screening(screen).serve(ingress) => Ok(()),
            ended = orders => ended,
        }
    })
}

/// Does as it is told next. Whether it was told anything.
async fn follow(
    told: &mut Lines<impl AsyncBufRead + Unpin>,
    done: &mut OwnedWriteHalf,
    routes: &Routes,
) -> io::Result<bool> {
    let Some(line) = told.next_line().await? else { return Ok(false) };
    routes.replace(parse(&line).ok_or(ErrorKind::InvalidData)?);
    done.write_all(b"\n").await?;
    Ok(true)
}

fn parse(line: &str) -> Option<Vec<(Admission, Way)>> {
    let entry = |entry: &str| {
        let (port, digest) = entry.split_once('=')?;
        let to = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port.parse().ok()?);
        Some((Admission::parse(digest)?, Way::new(to, INTERFACE)?))
    };
    line.split_whitespace().map(entry).collect()
}

/// Leaves nothing in an answer that the provider's proxy would take for an order.
fn screen(headers: &mut HeaderMap) -> Result<(), NoAnswer> {
    let (prefix, kind) = ORDERS;
    let orders: Vec<_> = headers.keys().filter(|name| name.as_str().starts_with(prefix)).cloned().collect();
    orders.iter().for_each(|order| drop(headers.remove(order)));
    let is_order = |value: &[u8]| value.to_ascii_lowercase().windows(kind.len()).any(|part| part == kind);
    match headers.get_all(CONTENT_TYPE).iter().any(|value| is_order(value.as_bytes())) {
        true => Err(NoAnswer),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test fails by panicking")]
    use super::*;
    use http::HeaderValue;

    #[test]
    fn a_program_gives_the_providers_proxy_no_orders() {
        let screened = |pairs: &[(&'static str, &'static str)]| {
            let mut headers = HeaderMap::new();
            for (name, value) in pairs {
                headers.append(*name, HeaderValue::from_static(value));
            }
            screen(&mut headers).map(|()| headers.keys().map(|name| name.to_string()).collect::<Vec<_>>())
        };
        let orders =
            [("fly-replay", "app=other"), ("fly-replay", "instance=x"), ("fly-replay-cache", "x"), ("x-own", "y")];
        assert_eq!(screened(&orders).unwrap(), ["x-own"]);
        assert_eq!(screened(&[("content-type", "text/html"), ("butterfly-x", "y")]).unwrap().len(), 2);
        for kind in ["application/vnd.fly.replay+json", " Application/VND.Fly.Replay+json; charset=utf-8"] {
            assert!(screened(&[("content-type", "text/html"), ("content-type", kind)]).is_err(), "{kind}");
        }
    }

    #[test]
    fn a_line_is_taken_whole_or_not_at_all() {
        let digest = "0a".repeat(32);
        assert_eq!(parse("").unwrap().len(), 0);
        assert_eq!(parse(&format!("80={digest} 3000={digest}")).unwrap().len(), 2);
        for bad in ["80".to_owned(), format!("0={digest}"), format!("80={digest} 65536={digest}"), "80=0a".to_owned()] {
            assert!(parse(&bad).is_none(), "{bad}");
        }
    }
}
