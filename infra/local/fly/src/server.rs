//! The HTTP side: the API, and the emulator's own controls.

use crate::Controls;
use crate::api::{self, ApiCall};
use crate::described::Exchange;
use crate::error::{EmulatorError, Refusal};
use crate::faults::FaultKind;
use crate::leases::NONCE;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use std::future::Future;
use std::time::Duration;
use tokio::net::TcpListener;

const LONGEST_BODY: usize = 4 * 1024 * 1024;

/// See [`crate::Emulator::serve`].
pub(crate) async fn serve(
    controls: Controls,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), EmulatorError> {
    let router = Router::new().fallback(answer).with_state(controls);
    // Calls that wait for a machine would hold a graceful end up.
    tokio::select! {
        served = axum::serve(listener, router) => served.map_err(EmulatorError::Serve),
        () = shutdown => Ok(()),
    }
}

async fn answer(State(controls): State<Controls>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Ok(body) = axum::body::to_bytes(body, LONGEST_BODY).await else { return broken() };
    let (method, path) = (parts.method.to_string(), parts.uri.path().to_owned());
    if let Some(subject) = path.strip_prefix("/_emulator/") {
        return control(&controls, &method, subject, &body);
    }
    let call = Called { method, path, query: parts.uri.query().unwrap_or_default().to_owned(), body };
    // Before faults: they are for calls that are answered.
    if call.path.strip_prefix("/v1").is_some_and(|path| !controls.pace.allows(&call.method, path)) {
        return refused(&Refusal::new(429, "rate limit exceeded"));
    }
    match controls.faults.take(&call.method, &call.path) {
        None => manage(&controls, &parts.headers, call).await,
        Some(FaultKind::Refuse { status, code, headers }) => {
            let refusal = Refusal { status, message: "a fault was asked for".into(), code };
            let mut response = refused(&refusal);
            for (name, value) in headers {
                if let (Ok(name), Ok(value)) = (header::HeaderName::try_from(name), value.parse()) {
                    response.headers_mut().insert(name, value);
                }
            }
            response
        }
        Some(FaultKind::Reset) => broken(),
        Some(FaultKind::LoseAnswer) => {
            manage(&controls, &parts.headers, call).await;
            broken()
        }
        Some(FaultKind::Twice) => {
            manage(&controls, &parts.headers, call.clone()).await;
            manage(&controls, &parts.headers, call).await
        }
        Some(FaultKind::Alter { place, value }) => {
            altered(manage(&controls, &parts.headers, call).await, &place, value).await
        }
        Some(FaultKind::Delay { millis }) => {
            let (controls, headers) = (controls.clone(), parts.headers.clone());
            let later = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                manage(&controls, &headers, call).await
            });
            later.await.unwrap_or_else(|_| broken())
        }
    }
}

#[derive(Clone)]
struct Called {
    method: String,
    path: String,
    query: String,
    body: Bytes,
}

/// An answer that breaks off before its body is whole.
fn broken() -> Response {
    let pieces = [Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("a fault was asked for"))];
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(futures_util::stream::iter(pieces)))
        .into_response()
}

async fn altered(response: Response, place: &str, value: Value) -> Response {
    let status = response.status().as_u16();
    let Ok(body) = axum::body::to_bytes(response.into_body(), usize::MAX).await else { return broken() };
    let Ok(mut content) = serde_json::from_slice::<Value>(&body) else { return broken() };
    if let Some(part) = content.pointer_mut(place) {
        *part = value;
    }
    shown(status, Some(&content))
}

fn control(controls: &Controls, method: &str, subject: &str, body: &[u8]) -> Response {
    match (method, subject) {
        ("GET", "records") => shown(200, Some(&serde_json::to_value(controls.records()).unwrap_or_default())),
        ("GET", "violations") => shown(200, Some(&controls.violations().into())),
        ("POST", "faults") => match serde_json::from_slice(body) {
            Ok(fault) => {
                controls.fault(fault);
                shown(204, None)
            }
            Err(error) => shown(400, Some(&json!({ "error": error.to_string() }))),
        },
        _ => {
            let known = "GET /_emulator/records, GET /_emulator/violations, POST /_emulator/faults";
            shown(404, Some(&json!({ "error": known })))
        }
    }
}

fn shown(status: u16, content: Option<&Value>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    match content {
        Some(content) => (status, [(header::CONTENT_TYPE, "application/json")], content.to_string()).into_response(),
        None => status.into_response(),
    }
}

fn refused(refusal: &Refusal) -> Response {
    shown(refusal.status, Some(&refusal_body(refusal)))
}

fn refusal_body(Refusal { message, code, .. }: &Refusal) -> Value {
    let mut content = json!({ "error": message });
    if let Some(code) = code {
        content["status"] = code.clone().into();
    }
    content
}

/// The token, whichever of its two schemes it comes with.
fn token(headers: &HeaderMap) -> Option<&str> {
    let text = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    text.strip_prefix("Bearer ").or_else(|| text.strip_prefix("FlyV1 "))
}

async fn manage(controls: &Controls, headers: &HeaderMap, call: Called) -> Response {
    if token(headers).is_none_or(|token| !controls.accepts(token)) {
        return refused(&Refusal::new(401, "unauthorized"));
    }
    let Some(path) = call.path.strip_prefix("/v1").map(str::to_owned) else {
        return refused(&Refusal::new(404, "404 page not found"));
    };
    let (query, request) = (api::pairs(&call.query), serde_json::from_slice::<Value>(&call.body).ok());
    let nonce = headers.get(NONCE).and_then(|nonce| nonce.to_str().ok()).map(str::to_owned);
    let outcome = tokio::task::spawn_blocking({
        let (world, path, query, call) = (controls.world.clone(), path.clone(), query.clone(), call.clone());
        move || {
            let Called { method, body, .. } = &call;
            api::answer(&world, &ApiCall { method, path: &path, query: &query, body, nonce: nonce.as_deref() })
        }
    });
    let outcome = outcome.await.unwrap_or_else(|_| Err(Refusal::new(500, "the emulator failed")));
    let (status, content) = match outcome {
        Ok(answer) => answer,
        Err(refusal) => (refusal.status, Some(refusal_body(&refusal))),
    };
    let (method, request, answer) = (call.method.as_str(), request.as_ref(), content.as_ref());
    controls.described.check(&Exchange { method, path: &path, query: &query, request, status, answer });
    let subject = format!("{method} {path}?{}", call.query);
    controls.records.add("api", &subject, json!({ "request": request, "status": status, "answer": content }));
    shown(status, content.as_ref())
}
