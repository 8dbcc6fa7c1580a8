//! The local server: every route of the table behind one address, with the gateway's limits.

use axum::Router;
use axum::body::Body;
use axum::extract::{ConnectInfo, State};
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request};
use http_body_util::{BodyExt, Limited};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use theazo_functions::deployment::Deployment;
use theazo_functions::routes::Route;
use theazo_functions::{Incoming, serve};
use theazo_http::{ApiError, MAX_BODY_BYTES};
use theazo_tenancy::RequestId;
use tokio::net::TcpListener;

/// How many round trips to AWS services the answer had to wait for; only the local stack tells.
const ROUND_TRIPS: HeaderName = HeaderName::from_static("x-theazo-round-trips");
/// How many calls to them it made in all.
const CALLS: HeaderName = HeaderName::from_static("x-theazo-calls");

/// How much of a body that is too large is read and thrown away, in bytes and time. A caller who is still sending
/// when the connection closes may see only that, and not the answer.
const MAX_DISCARDED_BYTES: usize = 64_000_000;
const MAX_DISCARDING: Duration = Duration::from_secs(10);

/// What is served to whom.
#[derive(Clone)]
pub(crate) struct Audience {
    /// What is there for them.
    pub routes: Vec<&'static Route>,
    /// Who they are, by their address. For others nothing is there.
    pub admits: fn(IpAddr) -> bool,
}

#[derive(Clone)]
struct Serving {
    deployment: Arc<Deployment>,
    audience: Arc<Audience>,
}

/// Serves until `shutdown`, then lets running requests finish.
pub(crate) async fn run(
    listener: TcpListener,
    deployment: Arc<Deployment>,
    audience: Audience,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let app = Router::new().fallback(answer).with_state(Serving { deployment, audience: Arc::new(audience) });
    axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>())
        .with_graceful_shutdown(shutdown)
        .await
}

async fn answer(
    State(Serving { deployment, audience }): State<Serving>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    request: Request<Body>,
) -> Response {
    if !(audience.admits)(peer.ip()) {
        let id = RequestId::make();
        return ApiError::not_found().into_answer(&id).into_response(id.as_str()).map(Body::new);
    }
    // On a task of its own: a caller who hangs up does not stop what was begun, as in Lambda.
    let handled = tokio::spawn(async move {
        let (parts, body) = request.into_parts();
        let Some(body) = read_whole(body).await else {
            let id = RequestId::make();
            let refusal = ApiError::invalid("body", "must arrive whole and be at most 6 MB");
            return refusal.into_answer(&id).into_response(id.as_str()).map(Body::new);
        };
        let incoming = Incoming {
            method: parts.method,
            source_ip: Some(peer.ip()),
            raw_path: parts.uri.path().to_owned(),
            raw_query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers,
            body,
        };
        let (mut response, trips) = serve(&deployment, &audience.routes, incoming).await;
        response.headers_mut().insert(ROUND_TRIPS, HeaderValue::from(trips.sequential));
        response.headers_mut().insert(CALLS, HeaderValue::from(trips.total));
        response.map(Body::new)
    });
    handled.await.unwrap_or_else(|_| {
        let id = RequestId::make();
        ApiError::internal().into_answer(&id).into_response(id.as_str()).map(Body::new)
    })
}

/// The body, unless it is too large or breaks off.
async fn read_whole(mut body: Body) -> Option<Bytes> {
    if let Ok(whole) = Limited::new(&mut body, MAX_BODY_BYTES).collect().await {
        return Some(whole.to_bytes());
    }
    let mut rest = Limited::new(body, MAX_DISCARDED_BYTES);
    let discarding = async { while let Some(Ok(_)) = rest.frame().await {} };
    // Whoever sends for longer than this has been given every chance.
    let _ = tokio::time::timeout(MAX_DISCARDING, discarding).await;
    None
}
