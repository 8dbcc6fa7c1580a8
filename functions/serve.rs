//! From a raw request to a whole response, for the local server and for Lambda alike.

use crate::deployment::Deployment;
use crate::emf;
use crate::routes::Route;
use bytes::Bytes;
use futures_util::FutureExt;
use std::net::IpAddr;
use std::panic::AssertUnwindSafe;
use std::time::Instant;
use theazo_http::{
    Answer, ApiError, Body, Call, LateOutcome, MAX_BODY_BYTES, MAX_PAYLOAD_BYTES, Pattern, Request, payload_len,
};
use theazo_store::{RoundTrips, as_function, count_round_trips, pieces_as_function};
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
            tracing::trace!("begins");
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
            let call = call.with_streams(deployment.config().streams).with_late(late(deployment, route, started));
            let answer = (route.handler)(call, deployment).await?;
            if !route.info.streams && !answer.fits_payload() {
                tracing::error!("an answer is too large for Lambda");
                return Err(ApiError::internal());
            }
            Ok(answer)
        };
        // A handler that panics has met a mistake of ours; the caller gets a 500 and the process goes on.
        let caught = AssertUnwindSafe(as_function(name, count_round_trips(handling))).catch_unwind().await;
        let (outcome, trips) =
            caught.unwrap_or_else(|_| (Err(ApiError::internal()), RoundTrips { total: 0, sequential: 0 }));
        let answer: Answer = outcome.unwrap_or_else(|error| error.into_answer(&id));
        let ms = ms_since(started);
        emf::request(deployment, found, answer.status(), ms, trips);
        tracing::info!(status = answer.status(), ms, round_trips = trips.sequential, calls = trips.total, "answered");
        (answer, trips)
    }
    .instrument(span)
    .await;
    let mut response = outcome.into_response(id.as_str()).map(|body| match body {
        Body::Stream(pieces) => Body::Stream(pieces_as_function(name, pieces)),
        whole @ Body::Whole(_) => whole,
    });
    if let Some(origin) = &deployment.config().cors_origin {
        let headers = response.headers_mut();
        headers.insert(http::header::ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
        headers.insert(http::header::ACCESS_CONTROL_EXPOSE_HEADERS, EXPOSED);
    }
    (response, trips)
}

/// Tells of work that ended after its answer had begun: a line in the request's span with the status that the answer
/// would have had and the time until then, and a figure where that is an error. The request was counted when it was
/// answered.
fn late(deployment: &Deployment, route: &'static Route, started: Instant) -> LateOutcome {
    if !route.info.streams {
        return LateOutcome::default();
    }
    let name = deployment.config().name.clone();
    LateOutcome::to(move |status, trips| {
        let ms = ms_since(started);
        if status >= 500 {
            emf::failed_late(&name, Some(route));
        }
        tracing::info!(status, ms, round_trips = trips.sequential, calls = trips.total, "ended after its answer began");
    })
}

fn ms_since(started: Instant) -> u64 {
    u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn find(routes: &[&'static Route], incoming: &Incoming) -> Option<(&'static Route, theazo_http::Params)> {
    let candidates: Vec<&'static Route> =
        routes.iter().copied().filter(|route| route.info.method == incoming.method.as_str()).collect();
    let (route, params) = Pattern::best(&candidates, |route| route.info.pattern, &incoming.raw_path)?;
    Some((*route, params))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::deployment::DeploymentConfig;
    use http::HeaderValue;
    use serde_json::{Value, json};
    use std::io::{BufRead, BufReader};
    use std::sync::Arc;
    use std::time::Duration;
    use theazo_http::{Caller, ErrorCode, LogFormat, Repeats, RouteInfo, StreamLimits, make_subscriber};
    use theazo_metering::Prices;
    use theazo_providers::docker::HostRanges;
    use theazo_providers::e2b::E2bEndpoints;
    use theazo_providers::fly::FlyEndpoints;
    use theazo_store::{Aws, AwsEndpoints, RateLimits};

    const fn open_to_all(method: &'static str, path: &'static str, name: &'static str, streams: bool) -> RouteInfo {
        let (pattern, callers) = (Pattern(path), &[Caller::Anyone]);
        RouteInfo { name, method, pattern, callers, streams, repeats: Repeats::Again, query: &[] }
    }

    /// Begins to answer at once, and then fails.
    static FAILS_LATE: Route = Route {
        info: open_to_all("POST", "/late", "fails-late", true),
        capabilities: &[],
        handler: |call, _| {
            Box::pin(async move {
                let work = async {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    Err(ApiError::new(ErrorCode::Timeout, "too long"))
                };
                Answer::kept_alive(call.streams(), call.request().id.clone(), call.late(), work).await
            })
        },
    };

    /// Answers with more than Lambda takes in one piece.
    static TOO_LARGE: Route = Route {
        info: open_to_all("GET", "/large", "too-large", false),
        capabilities: &[],
        handler: |_, _| Box::pin(async { Ok(Answer::csv("x".repeat(MAX_PAYLOAD_BYTES + 1))) }),
    };

    fn deployment(cors_origin: Option<HeaderValue>) -> Deployment {
        // Port 1 of the loopback has no listener.
        let aws = Aws::local(&AwsEndpoints { dynamodb: "http://127.0.0.1:1".into(), kms: None });
        let config = DeploymentConfig {
            name: "late".into(),
            table: "none".into(),
            ledger: None,
            kms_key_arn: "none".into(),
            audit_days: 1,
            docker: None,
            docker_ranges: HostRanges::default(),
            e2b: E2bEndpoints::default(),
            fly: FlyEndpoints::default(),
            agent_endpoint: None,
            credential_key: None,
            rate_limits: RateLimits::default(),
            key_cache: Duration::from_secs(1),
            log_retention_days: 1,
            dead_host_after: Duration::from_secs(900),
            orphan_grace: Duration::ZERO,
            streams: StreamLimits { silence: Duration::from_millis(1), ..StreamLimits::default() },
            prices: Prices::default(),
            cors_origin,
        };
        Deployment::new(&aws, config)
    }

    fn asked(method: &str, path: &str) -> Incoming {
        Incoming {
            method: method.parse().unwrap(),
            source_ip: None,
            raw_path: path.into(),
            raw_query: String::new(),
            headers: http::HeaderMap::new(),
            body: Bytes::new(),
        }
    }

    #[tokio::test]
    async fn pages_of_the_origin_that_is_set_may_read_every_answer_whatever_it_is_and_others_none() {
        let origin = HeaderValue::from_static("https://app.example");
        for (method, path, status) in [("POST", "/late", 200), ("GET", "/large", 500), ("GET", "/nothing", 404)] {
            for set in [Some(origin.clone()), None] {
                let routes = [&FAILS_LATE, &TOO_LARGE];
                let (answer, _) = serve(&deployment(set.clone()), &routes, asked(method, path)).await;
                let header = |name: http::HeaderName| answer.headers().get(name).cloned();
                assert_eq!(answer.status(), status, "{path}");
                assert_eq!(header(http::header::ACCESS_CONTROL_ALLOW_ORIGIN), set, "{path}");
                let exposed = header(http::header::ACCESS_CONTROL_EXPOSE_HEADERS);
                assert_eq!(exposed, set.map(|_| EXPOSED), "{path}");
            }
        }
    }

    #[tokio::test]
    async fn an_answer_that_lambda_would_not_take_is_a_failure_of_ours_and_not_sent() {
        let (answer, _) = serve(&deployment(None), &[&TOO_LARGE], asked("GET", "/large")).await;
        assert_eq!(answer.status(), 500);
        let body = answer.into_body().collect().await;
        assert!(body.len() < 1_000, "{}", body.len());
    }

    /// What the log says of one such request.
    async fn logged() -> Vec<Value> {
        let (reader, writer) = std::io::pipe().unwrap();
        let subscriber = make_subscriber(LogFormat::Json, "info".parse().unwrap(), Arc::new(writer));
        let subscriber = tracing::subscriber::set_default(subscriber);
        let (answer, _) = serve(&deployment(None), &[&FAILS_LATE], asked("POST", "/late")).await;
        assert_eq!(answer.status(), 200);
        answer.into_body().collect().await;
        drop(subscriber);
        BufReader::new(reader).lines().map(|line| serde_json::from_str(&line.unwrap()).unwrap()).collect()
    }

    #[tokio::test]
    async fn what_fails_after_its_answer_began_is_told_with_the_status_it_would_have_had_and_counted_as_an_error() {
        // A line can be lost when another test's subscriber comes or goes at the same moment.
        let mut lines = logged().await;
        for _ in 0..4 {
            if lines.len() >= 4 {
                break;
            }
            lines = logged().await;
        }
        let told: Vec<_> = lines.iter().filter(|line| line["status"].is_u64()).collect();
        assert_eq!(
            told.iter().map(|line| &line["status"]).collect::<Vec<_>>(),
            [&json!(200), &json!(504)],
            "{lines:?}"
        );
        let (first, late) = (told[0], told[1]);
        assert_eq!(late["span"], first["span"]);
        assert_eq!(late["span"]["route"], "fails-late");
        assert!(late["ms"].as_u64().unwrap() >= 50 && late["round_trips"] == 0 && late["calls"] == 0, "{late}");
        let errors: Vec<_> = lines.iter().filter_map(|line| Some((line.get("Errors")?, &line["Route"]))).collect();
        assert_eq!(errors, [(&json!(0), &json!("fails-late")), (&json!(1), &json!("fails-late"))], "{lines:?}");
        assert_eq!(lines.iter().filter(|line| line.get("Latency").is_some()).count(), 1, "counted once");
    }
}
