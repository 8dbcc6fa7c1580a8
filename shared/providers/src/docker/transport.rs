//! How requests reach a Docker engine: one pooled HTTP client per engine, behind bollard's custom transport.
//!
//! bollard 0.21 drops the API version from every path and puts names into paths unescaped
//! (<https://github.com/fussybeaver/bollard/issues/736>), so both are dealt with here, in one place that every request
//! passes. Bodies are never looked at. bollard itself logs bodies at debug level: whoever installs a log subscriber
//! must cap the `bollard` and `hyper` targets at info.

use super::lists::Lists;
use super::tls::{Allowance, Bounded, TlsEndpoint};
use crate::{ProviderError, ProviderKind};
use bollard::errors::Error as EngineError;
use bollard::models::SystemVersion;
use bollard::{BollardRequest, ClientVersion, Docker};
use bytes::Bytes;
use http::uri::{Parts, PathAndQuery};
use http::{Method, Request, Response, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::{Connected, Connection};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde::Deserialize;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;
use theazo_guest_protocol::{MAX_HEADER, MAX_PAYLOAD};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::OnceCell;

/// The newest engine API whose answers this adapter was written for, as `1.NN`.
const NEWEST_MINOR: u32 = 53;
/// Seconds until an answer's headers must have come; callers put their own, shorter limits around calls.
const HEADERS_WITHIN_SECONDS: u64 = 120;
/// A `/version` answer is about 1 KiB; more than this is not an engine.
const VERSION_BODY_LIMIT: usize = 64 * 1024;
/// Most that an engine may send as one answer, in bytes: the longest that a guest gives, in frames of an exec's stream, with
/// room to spare.
const LONGEST_STREAM: usize = MAX_HEADER + MAX_PAYLOAD + 8 * 1024 * 1024;
/// As one list, which is read a row at a time. A volume takes half a kilobyte, and each of an agent's ten checkpoints is one.
const LONGEST_LIST: usize = 64 * 1024 * 1024;
/// As anything else, which tells of one thing: bollard reads it whole, and makes more of it than it takes in JSON.
const LONGEST_ACCOUNT: usize = 256 * 1024;
/// Idle connections kept per engine, and for how long.
const IDLE_CONNECTIONS: usize = 32;
const IDLE_FOR: Duration = Duration::from_secs(30);

/// Where a Docker engine listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A Unix socket of this machine.
    Unix(PathBuf),
    /// A port of another machine, over TLS in which both sides are known.
    Tls(TlsEndpoint),
}

impl Endpoint {
    /// Reads an endpoint as written in configuration: `unix:///path/to.sock`.
    ///
    /// # Errors
    /// [`ProviderError::Failed`] for another scheme or a path that is not absolute.
    pub fn parse(text: &str) -> Result<Self, ProviderError> {
        let path = text.strip_prefix("unix://").map(Path::new).filter(|path| path.is_absolute());
        path.map(|path| Self::Unix(path.to_owned())).ok_or_else(|| ProviderError::Failed {
            provider: ProviderKind::Docker,
            operation: "endpoint",
            status: None,
            retryable: false,
            reason: "a Docker endpoint is written unix:///path/to.sock".into(),
        })
    }
}

/// A client for the engine at `endpoint`. Nothing is sent yet: the API version is settled with the first request.
///
/// Connections are pooled. Only the wait for an answer's headers is limited (120 s); callers limit the rest with
/// `tokio::time::timeout`, and may change the limit with [`Docker::with_timeout`].
///
/// # Errors
/// [`ProviderError::Failed`] if the client cannot be put together.
pub fn connect(endpoint: &Endpoint) -> Result<Docker, ProviderError> {
    client(Transport::to(endpoint, None))
}

/// The same with a way to read lists.
///
/// # Errors
/// As [`connect`].
pub(super) fn connect_with_lists(endpoint: &Endpoint) -> Result<(Docker, Lists), ProviderError> {
    let transport = Transport::to(endpoint, None);
    Ok((client(transport.clone())?, Lists::new(transport)))
}

/// A client for one answer that may be longer than any other: whoever reads it renews the allowance piece by piece, so
/// that none of the pieces can be.
///
/// # Errors
/// As [`connect`].
pub(super) fn connect_for_stream(endpoint: &Endpoint) -> Result<(Docker, Renewal), ProviderError> {
    let renewal = Renewal::default();
    Ok((client(Transport::to(endpoint, Some(renewal.clone())))?, renewal))
}

/// What a long answer may be, from the answer's last piece on.
#[derive(Clone, Default)]
pub(super) struct Renewal(Arc<Mutex<Option<Allowance>>>);

impl Renewal {
    /// A piece was taken.
    pub(super) fn renew(&self) {
        if let Some(allowance) = &*self.0.lock().unwrap_or_else(PoisonError::into_inner) {
            allowance.renew();
        }
    }

    fn follow(&self, allowance: &Allowance) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(allowance.clone());
    }
}

fn client(transport: Arc<Transport>) -> Result<Docker, ProviderError> {
    Docker::connect_with_custom_transport(
        move |request: BollardRequest| Arc::clone(&transport).send(request),
        Some("http://docker"),
        HEADERS_WITHIN_SECONDS,
        &ClientVersion { major_version: 1, minor_version: NEWEST_MINOR as usize },
    )
    .map_err(|error| super::failure::from_engine("connect", error))
}

type Body = http_body_util::Either<
    http_body_util::Full<Bytes>,
    http_body_util::StreamBody<Pin<Box<dyn futures_util::Stream<Item = Frame> + Send>>>,
>;
type Frame = Result<hyper::body::Frame<Bytes>, io::Error>;

/// The pooled client and what the engine said about its version.
pub(super) struct Transport {
    client: Client<Connector, Body>,
    version: OnceCell<ApiVersion>,
    /// Where it is for one long answer.
    renewal: Option<Renewal>,
}

impl Transport {
    fn to(endpoint: &Endpoint, renewal: Option<Renewal>) -> Arc<Self> {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(Connector(Arc::new(endpoint.clone())));
        Arc::new(Self { client, version: OnceCell::new(), renewal })
    }

    /// Reads an answer piece by piece.
    pub(super) async fn read(
        self: Arc<Self>,
        path: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), EngineError>,
    ) -> Result<(), EngineError> {
        let request = Request::builder()
            .method(Method::GET)
            .uri(format!("http://docker{path}"))
            .body(bollard::body_full(Bytes::new()))?;
        let response = self.send(request).await?;
        let status = response.status();
        if !status.is_success() {
            return Err(EngineError::DockerResponseServerError {
                status_code: status.as_u16(),
                message: "a list was refused".into(),
            });
        }
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            if let Some(piece) = frame?.data_ref() {
                take(piece)?;
            }
        }
        Ok(())
    }

    async fn send(self: Arc<Self>, mut request: BollardRequest) -> Result<Response<Incoming>, EngineError> {
        check_path(request.uri().path())?;
        // A health check must be able to say what is wrong with an engine that is too old or too new.
        if !matches!(request.uri().path(), "/version" | "/_ping") {
            let version = self.version.get_or_try_init(|| self.ask_version()).await?;
            *request.uri_mut() = with_version(request.uri().clone(), *version)?;
        }
        let longest = longest_answer(request.uri().path());
        let response = self.client.request(request).await?;
        if let Some(allowance) = response.extensions().get::<Allowance>() {
            allowance.begin(longest);
            if let Some(renewal) = &self.renewal {
                renewal.follow(allowance);
            }
        }
        Ok(response)
    }

    async fn ask_version(&self) -> Result<ApiVersion, EngineError> {
        let request = Request::builder()
            .method(Method::GET)
            .uri("http://docker/version")
            .body(bollard::body_full(Bytes::new()))?;
        let response = self.client.request(request).await?;
        if !response.status().is_success() {
            return Err(refuse("the engine does not tell its version"));
        }
        let body = Limited::new(response.into_body(), VERSION_BODY_LIMIT).collect().await;
        let body = body.map_err(|_| refuse("the engine's version answer was cut short or too long"))?.to_bytes();
        let told: ToldVersion =
            serde_json::from_slice(&body).map_err(|_| refuse("the engine's version answer was not understood"))?;
        choose_version(&told)
    }
}

/// The engine API version that requests are pinned to: `1.<minor>`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct ApiVersion {
    minor: u32,
}

#[derive(Deserialize)]
struct ToldVersion {
    #[serde(rename = "ApiVersion")]
    newest: String,
    #[serde(rename = "MinAPIVersion", default)]
    oldest: Option<String>,
}

/// The newer of what both sides speak, if there is any.
fn choose_version(told: &ToldVersion) -> Result<ApiVersion, EngineError> {
    let minor = |text: &str| text.strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok());
    let newest = minor(&told.newest).ok_or_else(|| refuse("the engine speaks no API version 1.x"))?;
    let oldest = match &told.oldest {
        Some(text) => minor(text).ok_or_else(|| refuse("the engine speaks no API version 1.x"))?,
        None => 0,
    };
    let chosen = newest.min(NEWEST_MINOR);
    if chosen < oldest {
        return Err(refuse("the engine no longer speaks an API version this adapter knows"));
    }
    Ok(ApiVersion { minor: chosen })
}

/// One line on an engine's version, for people; an error if no API version is spoken by both sides.
pub(super) fn usable(told: &SystemVersion) -> Result<String, ProviderError> {
    let versions =
        ToldVersion { newest: told.api_version.clone().unwrap_or_default(), oldest: told.min_api_version.clone() };
    let chosen = choose_version(&versions).map_err(|error| super::failure::from_engine("version", error))?;
    // The engine's own text goes into our logs and answers, so only what a version looks like is kept.
    let plain = |letter: &char| letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '+' | '~');
    let version: String = told.version.iter().flat_map(|text| text.chars()).filter(plain).take(40).collect();
    Ok(format!("Docker Engine {version}, API 1.{}", chosen.minor))
}

/// How long an answer may be, by the path without its version, bytes.
fn longest_answer(path: &str) -> u64 {
    let path = path.strip_prefix("/v1.").and_then(|path| path.find('/').map(|at| path.split_at(at).1)).unwrap_or(path);
    let longest = match path {
        "/containers/json" | "/networks" | "/volumes" => LONGEST_LIST,
        _ if path.starts_with("/images/") => LONGEST_STREAM,
        _ => match path.rsplit('/').next() {
            Some("start" | "attach" | "logs" | "archive" | "export") => LONGEST_STREAM,
            _ => LONGEST_ACCOUNT,
        },
    };
    longest as u64
}

/// Refuses paths that would reach another endpoint than the code that built them meant.
fn check_path(path: &str) -> Result<(), EngineError> {
    let clean = path.starts_with('/') && !path.contains('%') && !path.contains("..") && !path.contains("//");
    if clean { Ok(()) } else { Err(refuse("a request path with dots, escapes or empty segments")) }
}

fn with_version(uri: Uri, version: ApiVersion) -> Result<Uri, EngineError> {
    let mut parts: Parts = uri.into_parts();
    let rest = parts.path_and_query.as_ref().map_or("/", PathAndQuery::as_str);
    parts.path_and_query = Some(format!("/v1.{}{rest}", version.minor).parse()?);
    Ok(Uri::from_parts(parts)?)
}

fn refuse(reason: &'static str) -> EngineError {
    EngineError::IOError { err: io::Error::other(reason) }
}

/// Connects every request of one client to one engine, whatever its URI says.
#[derive(Clone)]
struct Connector(Arc<Endpoint>);

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let endpoint = Arc::clone(&self.0);
        Box::pin(async move {
            Ok(TokioIo::new(match endpoint.as_ref() {
                Endpoint::Unix(path) => Stream::Unix(UnixStream::connect(path.as_path()).await?),
                Endpoint::Tls(there) => Stream::Tls(there.connect().await?),
            }))
        })
    }
}

/// A connection of either kind.
enum Stream {
    Unix(UnixStream),
    Tls(Bounded),
}

/// Hands a call on to whichever kind it is.
macro_rules! either {
    ($stream:expr, $inner:ident => $call:expr) => {
        match $stream.get_mut() {
            Stream::Unix($inner) => $call,
            Stream::Tls($inner) => $call,
        }
    };
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        match self {
            Self::Unix(_) => Connected::new(),
            Self::Tls(stream) => stream.connected(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => Pin::new(inner).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        either!(self, inner => Pin::new(inner).poll_write(cx, data))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        either!(self, inner => Pin::new(inner).poll_write_vectored(cx, data))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Unix(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => Pin::new(inner).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        either!(self, inner => Pin::new(inner).poll_shutdown(cx))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(newest: &str, oldest: Option<&str>) -> ToldVersion {
        ToldVersion { newest: newest.into(), oldest: oldest.map(Into::into) }
    }

    #[test]
    fn only_absolute_unix_endpoints_are_read() {
        assert_eq!(Endpoint::parse("unix:///run/d.sock").unwrap(), Endpoint::Unix("/run/d.sock".into()));
        for bad in ["unix://d.sock", "tcp://127.0.0.1:2375", "/run/d.sock", ""] {
            assert!(Endpoint::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_version_is_the_newest_that_both_sides_speak() {
        assert_eq!(choose_version(&told("1.41", Some("1.12"))).unwrap().minor, 41);
        assert_eq!(choose_version(&told("1.60", Some("1.44"))).unwrap().minor, NEWEST_MINOR);
        assert_eq!(choose_version(&told("1.41", None)).unwrap().minor, 41);
        assert!(choose_version(&told("1.90", Some("1.60"))).is_err());
        assert!(choose_version(&told("2.0", None)).is_err());
        assert!(choose_version(&told("", None)).is_err());
    }

    #[test]
    fn the_version_goes_before_the_path_and_leaves_the_query_alone() {
        let uri = "http://docker/containers/json?all=true".parse().unwrap();
        let uri = with_version(uri, ApiVersion { minor: 41 }).unwrap();
        assert_eq!(uri.to_string(), "http://docker/v1.41/containers/json?all=true");
    }

    #[test]
    fn only_what_streams_and_lists_may_be_long() {
        for path in
            ["/exec/a/start", "/v1.41/exec/a/start", "/containers/a/attach", "/containers/a/logs", "/images/load"]
        {
            assert_eq!(longest_answer(path), LONGEST_STREAM as u64, "{path}");
        }
        for path in ["/containers/json", "/v1.53/containers/json", "/networks", "/volumes"] {
            assert_eq!(longest_answer(path), LONGEST_LIST as u64, "{path}");
        }
        for path in ["/containers/a/json", "/v1.41/networks/a", "/volumes/a", "/info", "/version", "/exec/a/json", "/"]
        {
            assert_eq!(longest_answer(path), LONGEST_ACCOUNT as u64, "{path}");
        }
    }

    #[test]
    fn paths_that_could_reach_another_endpoint_are_refused() {
        assert!(check_path("/containers/agt-1/json").is_ok());
        assert!(check_path("/images/a/b:1/json").is_ok());
        for bad in ["/containers/../images", "/containers/%2e%2e/images", "/containers//json", "containers", "/a%00"] {
            assert!(check_path(bad).is_err(), "{bad}");
        }
    }
}
