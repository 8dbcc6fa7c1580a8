//! The HTTP side: one address for the management API, the daemons of all sandboxes, and the emulator's own controls.

use crate::api::{self, ApiCall};
use crate::envd::Rpc;
use crate::error::{EmulatorError, Refusal};
use crate::faults::FaultKind;
use crate::room::User;
use crate::{Controls, files, multipart, ports};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::future::Future;
use std::time::Duration;
use tokio::net::TcpListener;

const LONGEST_BODY: usize = 128 * 1024 * 1024;

/// See [`crate::Emulator::serve`].
pub(crate) async fn serve(
    controls: Controls,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), EmulatorError> {
    let router = Router::new().fallback(answer).with_state(controls);
    // Streams of processes that run would hold a graceful end up for ever.
    tokio::select! {
        served = axum::serve(listener, router) => served.map_err(EmulatorError::Serve),
        () = shutdown => Ok(()),
    }
}

async fn answer(State(controls): State<Controls>, request: Request) -> Response {
    let (method, path) = (request.method().to_string(), request.uri().path().to_owned());
    if let Some(subject) = path.strip_prefix("/_emulator/") {
        return control(&controls, &method, subject, request).await;
    }
    match controls.faults.take(&method, &path) {
        None => dispatch(&controls, request).await,
        Some(FaultKind::Refuse { status, code, headers }) => refused(status, code.as_deref(), &headers),
        Some(FaultKind::Reset) => broken(),
        Some(FaultKind::LoseAnswer) => {
            // Read to its end: what a stream would still do is part of what is done.
            let done = dispatch(&controls, request).await;
            let _ = axum::body::to_bytes(done.into_body(), LONGEST_BODY).await;
            broken()
        }
        Some(FaultKind::Twice) => {
            let (parts, body) = request.into_parts();
            let Ok(body) = axum::body::to_bytes(body, LONGEST_BODY).await else { return broken() };
            let once = Request::from_parts(parts.clone(), Body::from(body.clone()));
            let _ = axum::body::to_bytes(dispatch(&controls, once).await.into_body(), LONGEST_BODY).await;
            dispatch(&controls, Request::from_parts(parts, Body::from(body))).await
        }
        Some(FaultKind::Instead { content }) => {
            let status = dispatch(&controls, request).await.status();
            shown(status.as_u16(), &content)
        }
        Some(FaultKind::Late { millis }) => {
            let done = tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(millis)).await;
                dispatch(&controls, request).await
            });
            done.await.unwrap_or_else(|_| broken())
        }
        Some(FaultKind::Delay { millis }) => {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            dispatch(&controls, request).await
        }
    }
}

/// An answer that breaks off before its body is whole.
fn broken() -> Response {
    let pieces = [Ok(Bytes::from_static(b"{")), Err(std::io::Error::other("a fault was asked for"))];
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(futures_util::stream::iter(pieces)))
        .into_response()
}

fn refused(status: u16, code: Option<&str>, headers: &[(String, String)]) -> Response {
    let mut content = json!({ "code": status, "message": "a fault was asked for" });
    if let Some(code) = code {
        content["error_code"] = code.into();
    }
    let mut response = Response::builder().status(status).header(header::CONTENT_TYPE, "application/json");
    for (name, value) in headers {
        response = response.header(name, value);
    }
    response.body(Body::from(content.to_string())).unwrap_or_else(|_| broken())
}

async fn control(controls: &Controls, method: &str, subject: &str, request: Request) -> Response {
    let body = axum::body::to_bytes(request.into_body(), LONGEST_BODY).await.unwrap_or_default();
    match (method, subject) {
        ("GET", "records") => shown(200, &serde_json::to_value(controls.records()).unwrap_or_default()),
        ("POST", "faults") => match serde_json::from_slice(&body) {
            Ok(fault) => {
                controls.fault(fault);
                shown(204, &Value::Null)
            }
            Err(error) => shown(400, &json!({ "message": error.to_string() })),
        },
        _ => shown(404, &json!({ "message": "GET /_emulator/records, POST /_emulator/faults" })),
    }
}

pub(crate) fn shown(status: u16, content: &Value) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if content.is_null() {
        return status.into_response();
    }
    (status, [(header::CONTENT_TYPE, "application/json")], content.to_string()).into_response()
}

async fn dispatch(controls: &Controls, request: Request) -> Response {
    match ports::named(request.headers()) {
        Ok(Some((id, ports::DAEMON))) => in_sandbox(controls, &id, request).await,
        Ok(Some((id, port))) => ports::answer(controls, &id, port, request).await,
        Ok(None) => manage(controls, request).await,
        Err(why) => (StatusCode::BAD_REQUEST, why).into_response(),
    }
}

/// A call of the management API.
async fn manage(controls: &Controls, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let header = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (method, path) = (parts.method.to_string(), parts.uri.path().to_owned());
    if path != "/health" && header("x-api-key").is_none_or(|key| !controls.accepts(&key)) {
        return refusal(&Refusal::new(401, "Invalid API key"));
    }
    let (query, key) = (parts.uri.query().unwrap_or_default().to_owned(), header("idempotency-key"));
    let Ok(body) = axum::body::to_bytes(body, LONGEST_BODY).await else { return broken() };
    let content: Value = serde_json::from_slice(&body).unwrap_or_default();
    let (inner, subject) = (controls.clone(), format!("{method} {path}?{query}"));
    let outcome = tokio::task::spawn_blocking(move || {
        let call =
            ApiCall { method: &method, path: &path, query: &query, idempotency_key: key.as_deref(), body: &body };
        api::answer(&inner.sandboxes, &call)
    });
    let outcome = outcome.await.unwrap_or_else(|_| Err(Refusal::new(500, "the emulator failed")));
    let told = outcome.as_ref().ok().and_then(|answer| answer.content.clone()).map(without_tokens);
    controls.records.add("api", None, &subject, json!({ "request": content, "answer": told }));
    match outcome {
        Ok(answer) => {
            let mut response = shown(answer.status, &answer.content.unwrap_or_default());
            for (name, value) in answer.headers {
                if let Ok(value) = value.parse() {
                    response.headers_mut().insert(name, value);
                }
            }
            response
        }
        Err(error) => refusal(&error),
    }
}

/// The tokens that open a sandbox are its client's, and not part of what is logged.
fn without_tokens(mut answer: Value) -> Value {
    if let Some(fields) = answer.as_object_mut() {
        fields.retain(|name, _| !name.ends_with("AccessToken"));
    }
    answer
}

fn refusal(error: &Refusal) -> Response {
    let mut content = json!({ "code": error.status, "message": error.message });
    if let Some(code) = error.code {
        content["error_code"] = code.into();
    }
    shown(error.status, &content)
}

/// What the edge says of a sandbox that does not run.
pub(crate) fn not_found(id: &str) -> Response {
    shown(502, &json!({ "sandboxId": id, "message": "The sandbox was not found", "code": 502 }))
}

/// A call of the daemon in a sandbox.
async fn in_sandbox(controls: &Controls, id: &str, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let Some(running) = controls.sandboxes.running(id) else { return not_found(id) };
    let (method, path) = (parts.method.as_str(), parts.uri.path());
    if path == "/health" {
        return StatusCode::NO_CONTENT.into_response();
    }
    let token = parts.headers.get("x-access-token").and_then(|token| token.to_str().ok());
    if token != Some(controls.sandboxes.envd_token(id).as_str()) {
        let message = "unauthorized access, please provide a valid access token or method signing if supported";
        return shown(401, &json!({ "code": 401, "message": message }));
    }
    let query = api::pairs(parts.uri.query().unwrap_or_default());
    let parameter = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone());
    let named = parameter("username").or_else(|| basic_user(&parts.headers)).unwrap_or_default();
    let Some(user) = User::parse(&named) else {
        return shown(401, &json!({ "code": "unauthenticated", "message": format!("invalid username: '{named}'") }));
    };
    let root = running.room.root();
    match (method, path) {
        ("GET", "/envs") => shown(200, &json!(running.envs)),
        ("GET", "/files") => {
            let path = parameter("path").unwrap_or_default();
            let read = tokio::task::spawn_blocking(move || files::read(&root, user, &path)).await;
            match read.unwrap_or_else(|_| Err(std::io::Error::other("the emulator failed"))) {
                Ok(bytes) => ([(header::CONTENT_TYPE, "application/octet-stream")], bytes).into_response(),
                Err(error) => file_refusal(&error),
            }
        }
        ("POST", "/files") => {
            let Ok(body) = axum::body::to_bytes(body, LONGEST_BODY).await else { return broken() };
            let kind = parts.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
            let files = match multipart::boundary(kind) {
                Some(boundary) => multipart::files(&body, &boundary),
                None => vec![(String::new(), body)],
            };
            let path = parameter("path");
            let written = tokio::task::spawn_blocking(move || {
                let write =
                    |(name, bytes): &(String, Bytes)| files::write(&root, user, path.as_deref().unwrap_or(name), bytes);
                files.iter().map(write).collect::<Result<Vec<Value>, _>>()
            });
            match written.await.unwrap_or_else(|_| Err(std::io::Error::other("the emulator failed"))) {
                Ok(entries) => shown(200, &entries.into()),
                Err(error) => file_refusal(&error),
            }
        }
        ("POST", procedure) => {
            let rpc = Rpc { sandbox: id, running, user, headers: &parts.headers, records: &controls.records };
            rpc.call(procedure.trim_start_matches('/'), body).await
        }
        _ => shown(404, &json!({ "code": 404, "message": "not found" })),
    }
}

fn basic_user(headers: &HeaderMap) -> Option<String> {
    let encoded = headers.get(header::AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    Some(text.split_once(':')?.0.to_owned())
}

fn file_refusal(error: &std::io::Error) -> Response {
    use std::io::ErrorKind;
    let status = match error.kind() {
        ErrorKind::NotFound => 404,
        ErrorKind::IsADirectory | ErrorKind::NotADirectory | ErrorKind::InvalidInput => 400,
        ErrorKind::StorageFull => 507,
        _ => 500,
    };
    shown(status, &json!({ "code": status, "message": error.to_string() }))
}
