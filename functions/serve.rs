//! From a raw request to a whole response, for the local server and for Lambda alike.

use crate::deployment::Deployment;
use crate::emf;
use crate::routes::Route;
use bytes::Bytes;
use futures_util::FutureExt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::time::Instant;
use theazo_http::{Answer, ApiError, Body, Call, MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, Pattern, Request, payload_len};
use theazo_store::{RoundTrips, count_round_trips};
use theazo_tenancy::RequestId;
use tracing::Instrument;

/// What pages of the deployment's origin may read of an answer besides its body.
const EXPOSED: http::HeaderValue = http::HeaderValue::from_static("x-request-id, retry-after");

/// A request as it came in.
pub struct Incoming {
    /// The HTTP method.
    pub method: http::Method,
    /// The address it came from, as the gateway or the listening socket saw it.
    pub source_ip: Option<IpAddr>,
    /// The path, still percent-encoded.
    pub raw_path: String,
    /// The query, still percent-encoded.
    pub raw_query: String,
    /// The headers.
    pub headers: http::HeaderMap,
    /// The body.
    pub body: Bytes,
}

/// Answers one request by one of these routes, and writes its log line.
pub async fn serve(
    deployment: &Deployment,
    routes: &[&'static Route],
    incoming: Incoming,
) -> (http::Response<Body>, RoundTrips) {
    let id = RequestId::make();
    let started = Instant::now();
    let route = find(routes, &incoming);
    let found = route.as_ref().map(|(route, _)| *route);
    let name = found.map_or("none", |route| route.info.name);
    let trace = Request::trace_of(&incoming.headers);
    let span = tracing::info_span!(
        "request",
        id = %id,
        trace,
        route = name,
        // Both are known once the caller is.
        platform = tracing::field::Empty,
        credential = tracing::field::Empty,
    );
    let (outcome, trips) = async {
        let handling = async {
            let (route, params) = route.ok_or_else(ApiError::not_found)?;
            let Incoming { source_ip, mut raw_path, raw_query, headers, body, .. } = incoming;
            if route.info.has_credential_in_path() {
                // Nothing needs such a path any more, and what is not kept cannot be written down.
                raw_path.clear();
            }
            if body.len() > MAX_BODY_BYTES {
                return Err(ApiError::invalid("body", "must be at most 6 MB"));
            }
            // The gateway would not let it through; nor does the local stack.
            if payload_len(&body) > MAX_PAYLOAD_BYTES {
                return Err(ApiError::invalid(
                    "body",
                    "must be at most 6 MB, counting what escapes it as a JSON string",
                ));
            }
            let request = Request { id: id.clone(), source_ip, raw_path, params, raw_query, headers, body };
            let call = Call::new(request, &route.info, deployment.credentials());
            let answer = (route.handler)(call.with_streams(deployment.config().streams), deployment).await?;
            if !route.info.streams && !answer.fits_payload() {
                tracing::error!("an answer is too large for Lambda");
                return Err(ApiError::internal());
            }
            Ok(answer)
        };
        // A handler that panics has met a mistake of ours; the caller gets a 500 and the process goes on.
        let caught = AssertUnwindSafe(count_round_trips(handling)).catch_unwind().await;
        let (outcome, trips) =
            caught.unwrap_or_else(|_| (Err(ApiError::internal()), RoundTrips { total: 0, sequential: 0 }));
        let answer: Answer = outcome.unwrap_or_else(|error| error.into_answer(&id));
        let ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        emf::request(deployment, found, answer.status(), ms, trips);
        tracing::info!(status = answer.status(), ms, round_trips = trips.sequential, calls = trips.total, "answered");
        (answer, trips)
    }
    .instrument(span)
    .await;
    let mut response = outcome.into_response(id.as_str());
    if let Some(origin) = &deployment.config().cors_origin {
        let headers = response.headers_mut();
        headers.insert(http::header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(http::header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    (response, trips)
}

fn find(routes: &[&'static Route], incoming: &Incoming) -> Option<(&'static Route, theazo_http::Params)> {
    let candidates: Vec<&'static Route> =
        routes.iter().copied().filter(|route| route.info.method == incoming.method.as_str()).collect();
    let (route, params) = Pattern::best(&candidates, |route| route.info.pattern, &incoming.raw_path)?;
    Some((*route, params))
}
