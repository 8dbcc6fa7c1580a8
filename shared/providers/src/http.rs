//! Calls over HTTP/1.1, pooled, with a limit on the whole of each, for adapters of services. HTTP/2 is not spoken: E2B's
//! proxy sends empty frames in downloads, which the usual Rust implementation takes for an attack.

use crate::{ProviderError, ProviderKind};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, Uri};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper::body::Incoming;
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
        let mut connector = HttpConnector::new();
        connector.enforce_http(false);
        connector.set_connect_timeout(Some(CONNECT_WITHIN));
        connector.set_nodelay(true);
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let https = if tls {
            HttpsConnectorBuilder::new().with_provider_and_native_roots(provider)?
        } else {
            let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            let config = config.map_err(io::Error::other)?.with_root_certificates(RootCertStore::empty());
            HttpsConnectorBuilder::new().with_tls_config(config.with_no_client_auth())
        };
        let https = https.https_or_http().enable_http1().wrap_connector(connector);
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_FOR)
            .pool_max_idle_per_host(IDLE_CONNECTIONS)
            .build(https);
        Ok(Self(client))
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
