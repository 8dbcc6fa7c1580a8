//! Calls over HTTP/1.1, pooled, with a limit on the whole of each. HTTP/2 is not spoken: E2B's proxy sends empty frames in
//! downloads, which the usual Rust implementation takes for an attack.

use super::failure::NetworkFault;
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

/// A whole answer.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// A call.
#[derive(Clone)]
pub(super) struct Call {
    pub(super) method: Method,
    pub(super) uri: Uri,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// The pooled client. Any number of accounts may share it: a credential is part of a call.
pub(super) struct Http(Client<HttpsConnector<HttpConnector>, Full<Bytes>>);

impl Http {
    /// A client that trusts the machine's certificate authorities, which are read only where there is `tls` to speak.
    pub(super) fn new(tls: bool) -> io::Result<Self> {
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
    pub(super) async fn send(&self, call: Call, limit: Duration) -> Result<Answer, NetworkFault> {
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
    pub(super) async fn begin(&self, call: Call) -> Result<Response<Incoming>, NetworkFault> {
        let mut request = Request::new(Full::new(call.body));
        (*request.method_mut(), *request.uri_mut(), *request.headers_mut()) = (call.method, call.uri, call.headers);
        self.0
            .request(request)
            .await
            .map_err(|error| if error.is_connect() { NetworkFault::Unreachable } else { NetworkFault::Broken })
    }
}
