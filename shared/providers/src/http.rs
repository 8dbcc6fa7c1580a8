//! Calls over HTTP/1.1, pooled, with a limit on the whole of each, for adapters of services. HTTP/2 is not spoken: E2B's
//! proxy sends empty frames in downloads, which the usual Rust implementation takes for an attack.

use crate::{ProviderError, ProviderKind};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
use hyper_rustls::builderstates::WantsSchemes;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::{ClientConfig, RootCertStore};
use std::io;
use std::sync::Arc;
use std::time::Duration;

const CONNECT_WITHIN: Duration = Duration::from_secs(5);
const IDLE_CONNECTIONS: usize = 32;
const IDLE_FOR: Duration = Duration::from_secs(60);
/// Longest answer that is read whole, in bytes.
const LONGEST_ANSWER: usize = 8 * 1024 * 1024;

/// A call without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NetworkFault {
    /// No connection came about: nothing was sent.
    Unreachable,
    /// The connection broke: whether the call was done is not known.
    Broken,
    /// The answer did not come in time.
    Late,
    /// The answer is longer than any that is expected.
    TooLong,
}

impl NetworkFault {
    pub(crate) fn to_error(self, provider: ProviderKind, operation: &'static str) -> ProviderError {
        let failed = |retryable, reason: &str| {
            let reason = reason.to_owned();
            ProviderError::Failed { provider, operation, status: None, retryable, reason }
        };
        match self {
            Self::Unreachable => failed(true, "the service cannot be reached"),
            Self::Broken => failed(true, "the connection to the service broke"),
            Self::Late => ProviderError::TimedOut,
            Self::TooLong => failed(false, "the service's answer is too long"),
        }
    }
}

/// A whole answer.
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A call.
#[derive(Clone)]
pub(crate) struct Call {
    pub(crate) method: Method,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// The pooled client. Any number of accounts may share it: a credential is part of a call.
pub(crate) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Http {
    /// A client that trusts the machine's certificate authorities, which are read only where there is `tls` to speak.
    pub(crate) fn new(tls: bool) -> io::Result<Self> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let https = if tls {
            HttpsConnectorBuilder::new().with_provider_and_native_roots(provider)?
        } else {
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.map_err(io::Error::other)?.with_root_certificates(RootCertStore::empty());
            HttpsConnectorBuilder::new().with_tls_config(config.with_no_client_auth())
        };
        Ok(Self::over(https))
    }

    /// Speaks HTTP/1.1 and nothing else: E2B's proxy sends empty frames with files by HTTP/2, and after a hundred of them
    /// `h2` gives the connection up.
    fn over(https: HttpsConnectorBuilder<WantsSchemes>) -> Self {
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_WITHIN));
        connector.set_nodelay(true);
        let https = https.https_or_http().enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(https);
        Self(client)
    }

    /// Makes a call and reads its answer whole.
    pub(crate) async fn send(&self, call: Call, limit: Duration) -> Result<Answer, NetworkFault> {
        let exchange = async {
            let (head, body) = self.begin(call).await?.into_parts();
            let body = Limited::new(body, LONGEST_ANSWER).collect().await.map_err(|error| {
                if error.is::<LengthLimitError>() { NetworkFault::TooLong } else { NetworkFault::Broken }
            })?;
            Ok(Answer { status: head.status.as_u16(), headers: head.headers, body: body.to_bytes() })
        };
        tokio::time::timeout(limit, exchange).await.unwrap_or(Err(NetworkFault::Late))
    }

    /// Makes a call and gives its answer when it has begun. Its caller limits the wait.
    pub(crate) async fn begin(&self, call: Call) -> Result<Response<Incoming>, NetworkFault> {
        let mut request = Request::new(Full::new(call.body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (call.method, call.uri, call.headers);
        self.0
            .request(request)
            .await
            .map_err(|error| if error.is_connect() { NetworkFault::Unreachable } else { NetworkFault::Broken })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::ServerConfig;
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use theazo_docker_hosts::Authority;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    #[tokio::test]
    async fn a_service_that_would_rather_speak_http_2_is_spoken_to_by_http_1_1() {
        let authority = Authority::make("a service's");
        let shown = authority.server("127.0.0.1");
        let certificates = |pem: &str| -> Vec<CertificateDer<'static>> {
            CertificateDer::pem_slice_iter(pem.as_bytes()).map(Result::unwrap).collect()
        };
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut server = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(certificates(&shown.cert), PrivateKeyDer::from_pem_slice(shown.key.as_bytes()).unwrap())
            .unwrap();
        server.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("https://{}/file", listener.local_addr().unwrap());
        let serving = tokio::spawn(async move {
            let (connection, _) = listener.accept().await.unwrap();
            let mut connection = TlsAcceptor::from(Arc::new(server)).accept(connection).await.unwrap();
            let chosen = connection.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
            let mut asked = Vec::new();
            while !asked.ends_with(b"\r\n\r\n") {
                assert_ne!(connection.read_buf(&mut asked).await.unwrap(), 0);
            }
            connection.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi").await.unwrap();
            connection.flush().await.unwrap();
            (chosen, String::from_utf8(asked).unwrap())
        });
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(certificates(authority.cert()));
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let config = config.with_root_certificates(roots).with_no_client_auth();
        let http = Http::over(HttpsConnectorBuilder::new().with_tls_config(config));
        let (method, uri, headers) = (Method::GET, url.parse().unwrap(), HeaderMap::new());
        let call = Call { method, uri, headers, body: Bytes::new() };
        let answer = http.send(call, Duration::from_secs(10)).await.unwrap();
        assert_eq!((answer.status, &answer.body[..]), (200, &b"hi"[..]));
        let (chosen, asked) = serving.await.unwrap();
        assert!(chosen.as_deref().is_none_or(|chosen| chosen == b"http/1.1"), "{chosen:?}");
        assert!(asked.starts_with("GET /file HTTP/1.1\r\n"), "{asked}");
    }
}
