//! The local server: every route of the table behind one address, with the gateway's limits.

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Request};
use std::sync::Arc;
use theazo_functions::deployment::Deployment;
use theazo_functions::routes::ROUTES;
use theazo_functions::{Incoming, serve};
use theazo_http::{ApiError, MAX_BODY_BYTES};
use theazo_tenancy::RequestId;
use tokio::net::TcpListener;

/// How many round trips to AWS services the answer had to wait for; only the local stack tells.
const ROUND_TRIPS: HeaderName = HeaderName::from_static("x-theazo-round-trips");

/// Serves until `shutdown`, then lets running requests finish.
pub(crate) async fn run(
    listener: TcpListener,
    deployment: Arc<Deployment>,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let app = Router::new().fallback(answer).with_state(deployment);
    axum::serve(listener, app).with_graceful_shutdown(shutdown).await
}

async fn answer(State(deployment): State<Arc<Deployment>>, request: Request<Body>) -> Response {
    // On a task of its own: a caller who hangs up does not stop what was begun, as in Lambda.
    let handled = tokio::spawn(async move {
        let (parts, body) = request.into_parts();
        let Ok(body) = to_bytes(body, MAX_BODY_BYTES).await else {
            let id = RequestId::make();
            let refusal = ApiError::invalid("body", "must arrive whole and be at most 6 MB");
            return refusal.into_answer(&id).into_response(id.as_str()).map(Body::from);
        };
        let incoming = Incoming {
            method: parts.method,
            raw_path: parts.uri.path().to_owned(),
            raw_query: parts.uri.query().unwrap_or_default().to_owned(),
            headers: parts.headers,
            body,
        };
        let (mut response, trips) = serve(&deployment, ROUTES, incoming).await;
        response.headers_mut().insert(ROUND_TRIPS, HeaderValue::from(trips.sequential));
        response.map(Body::from)
    });
    handled.await.unwrap_or_else(|_| {
        let id = RequestId::make();
        ApiError::internal().into_answer(&id).into_response(id.as_str()).map(Body::from)
    })
}
