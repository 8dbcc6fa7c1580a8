//! A Docker engine on another machine: TCP, and TLS with exactly one certificate authority on either side.
//!
//! What such an engine sends is bounded: bollard reads answers whole, and a host is somebody else's machine.

use super::ranges::HostRanges;
use hyper_util::client::legacy::connect::{Connected, Connection};
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long a connection may take, its name's lookup and the TLS handshake included.
const CONNECT_WITHIN: Duration = Duration::from_secs(3);
/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 4;
/// Most that an engine may send before its first answer has begun, bytes.
const LONGEST_HEAD: u64 = 1024 * 1024;

/// Where an engine on another machine listens, and how both sides know each other.
#[derive(Clone)]
pub struct TlsEndpoint {
    /// As written: `host:port`.
    name: Arc<str>,
    host: ServerName<'static>,
    port: u16,
    tls: Arc<ClientConfig>,
    ranges: HostRanges,
}

impl TlsEndpoint {
    /// The engine at that port of `host`, a name or an address.
    pub(super) fn new(
        host: ServerName<'static>,
        port: u16,
        name: &str,
        tls: Arc<ClientConfig>,
        ranges: HostRanges,
    ) -> Self {
        Self { name: name.into(), host, port, tls, ranges }
    }

    /// Its name or address, as it is written in a URL.
    pub(super) fn host(&self) -> &str {
        self.name.rsplit_once(':').map_or(&self.name, |(host, _)| host)
    }

    /// Connects, in time. Where the name leads is looked up here and nowhere else, so that what was allowed is what is used.
    pub(super) async fn connect(&self) -> io::Result<Bounded> {
        let connected = tokio::time::timeout(CONNECT_WITHIN, async {
            let tcp = self.reach().await?;
            tcp.set_nodelay(true)?;
            TlsConnector::from(self.tls.clone()).connect(self.host.clone(), tcp).await
        });
        let stream = connected.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        Ok(Bounded { stream: Box::new(stream), allowance: Allowance::new() })
    }

    async fn reach(&self) -> io::Result<TcpStream> {
        let host = self.host.to_str();
        let addresses = lookup_host((host.as_ref(), self.port)).await?;
        let mut failure = io::Error::new(io::ErrorKind::PermissionDenied, "an address that hosts may not have");
        for address in addresses.filter(|address| self.ranges.allow(address.ip())).take(MOST_ADDRESSES) {
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

/// Says where, and nothing of the key.
impl fmt::Debug for TlsEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "tcp://{}", self.name)
    }
}

impl PartialEq for TlsEndpoint {
    fn eq(&self, other: &Self) -> bool {
        (&self.name, &self.ranges) == (&other.name, &other.ranges) && Arc::ptr_eq(&self.tls, &other.tls)
    }
}

impl Eq for TlsEndpoint {}

/// What may still come over a connection.
#[derive(Clone)]
pub(super) struct Allowance(Arc<Left>);

struct Left {
    bytes: AtomicU64,
    /// Of the present answer, from its beginning.
    longest: AtomicU64,
}

impl Allowance {
    fn new() -> Self {
        Self(Arc::new(Left { bytes: AtomicU64::new(LONGEST_HEAD), longest: AtomicU64::new(LONGEST_HEAD) }))
    }

    /// An answer has begun that may be so long, in bytes, and the next one's head after it.
    pub(super) fn begin(&self, longest: u64) {
        self.0.longest.store(longest.saturating_add(LONGEST_HEAD), Ordering::Relaxed);
        self.renew();
    }

    /// The present answer may be that long again.
    pub(super) fn renew(&self) {
        self.0.bytes.store(self.0.longest.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Takes so much of it; whether it was there.
    fn take(&self, bytes: usize) -> bool {
        let left = |left: u64| left.checked_sub(bytes as u64);
        self.0.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, left).is_ok()
    }
}

/// A connection that breaks when its engine sends more than an answer can be.
pub(super) struct Bounded {
    stream: Box<TlsStream<TcpStream>>,
    allowance: Allowance,
}

impl Connection for Bounded {
    fn connected(&self) -> Connected {
        // It comes back with every answer of this connection.
        Connected::new().extra(self.allowance.clone())
    }
}

impl AsyncRead for Bounded {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut *self.stream).poll_read(cx, buf);
        if self.allowance.take(buf.filled().len() - before) {
            polled
        } else {
            Poll::Ready(Err(io::Error::other("the engine's answer is too long")))
        }
    }
}

impl AsyncWrite for Bounded {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write_vectored(cx, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}
