//! One request to a program, and its answer: for a connection of its own, and with what is said after an upgrade.

use crate::idle::Idle;
use bytes::Bytes;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::Body as HttpBody;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::upgrade::OnUpgrade;
use hyper::{Request, Response, StatusCode, Uri, Version};
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::time::Duration;
use tokio::net::TcpStream;

/// Longest head of a request or answer in bytes, and the most that is held of a body on its way.
pub(crate) const LONGEST_HEAD: usize = 64 * 1024;

/// What concerns a connection and not who is at its far end.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// An answer's body.
pub type Body = BoxBody<Bytes, hyper::Error>;

/// The program said nothing that is an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

/// Sends a request over a connection of its own, and gives the answer as it comes. After an upgrade bytes are copied both
/// ways, and `held` is kept for as long. Where nothing is said for `silence`, the connection ends. Not for `CONNECT`.
///
/// # Errors
/// [`NoAnswer`].
pub async fn forward<B>(
    mut request: Request<B>,
    program: TcpStream,
    silence: Duration,
    held: impl Send + 'static,
) -> Result<Response<Body>, NoAnswer>
where
    B: HttpBody<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let caller = wanted_upgrade(request.headers()).is_some().then(|| hyper::upgrade::on(&mut request));
    prepare(&mut request, &program)?;
    let io = TokioIo::new(Idle::new(program, silence));
    let mut client = hyper::client::conn::http1::Builder::new();
    client.max_buf_size(LONGEST_HEAD);
    let (mut sender, connection) = client.handshake(io).await.map_err(|_| NoAnswer)?;
    // It ends when the request and its answer are dropped.
    tokio::spawn(connection.with_upgrades());
    let mut response = sender.send_request(request).await.map_err(|_| NoAnswer)?;
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        let program = hyper::upgrade::on(&mut response);
        tokio::spawn(tunnel(caller.ok_or(NoAnswer)?, program, held));
    } else {
        settle_length(response.headers_mut());
        drop_hop_by_hop(response.headers_mut());
    }
    *response.version_mut() = Version::HTTP_11;
    Ok(response.map(BodyExt::boxed))
}

/// Copies bytes both ways after an upgrade, until both sides have ended or nothing is said for long.
async fn tunnel(caller: OnUpgrade, program: OnUpgrade, _held: impl Send) {
    if let (Ok(caller), Ok(program)) = tokio::join!(caller, program) {
        let _ = tokio::io::copy_bidirectional(&mut TokioIo::new(caller), &mut TokioIo::new(program)).await;
    }
}

/// What a request asks to be switched to, if anything.
fn wanted_upgrade(headers: &HeaderMap) -> Option<HeaderValue> {
    let asks = options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    headers.get(header::UPGRADE).filter(|_| asks).cloned()
}

/// The options of a connection.
fn options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let lines = headers.get_all(header::CONNECTION).iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim)
}

/// Makes a caller's request the program's: for a connection of its own, by its path.
fn prepare<B>(request: &mut Request<B>, program: &TcpStream) -> Result<(), NoAnswer> {
    let upgrade = wanted_upgrade(request.headers());
    let headers = request.headers_mut();
    // It was answered here.
    headers.remove(header::EXPECT);
    let is_chunked = settle_length(headers);
    drop_hop_by_hop(headers);
    if is_chunked {
        // Of some methods no body is expected unless it is announced.
        headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
    if let Some(protocol) = upgrade {
        headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
    if !headers.contains_key(header::HOST) {
        let host = program.peer_addr().ok().and_then(|to| HeaderValue::try_from(to.to_string()).ok());
        let host = host.ok_or(NoAnswer)?;
        headers.insert(header::HOST, host);
    }
    // A caller that takes this for a proxy names a host in the target as well.
    let path = request.uri().path_and_query().map_or("/", |path| path.as_str());
    *request.uri_mut() = path.parse::<Uri>().map_err(|_| NoAnswer)?;
    *request.version_mut() = Version::HTTP_11;
    Ok(())
}

/// Of two lengths of a body the encoding counts, and only that is passed on. Whether it is in pieces.
fn settle_length(headers: &mut HeaderMap) -> bool {
    let is_chunked = headers.contains_key(header::TRANSFER_ENCODING);
    if is_chunked {
        headers.remove(header::CONTENT_LENGTH);
    }
    is_chunked
}

fn drop_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = options(headers).filter_map(|option| option.parse().ok()).collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        // How long a body is concerns both ends.
        if name != header::CONTENT_LENGTH {
            headers.remove(name);
        }
    }
}
