//! The HTTP side: finds the operation, runs it off the async threads, shapes answers and refusals.

use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use tokio::net::TcpListener;
use zeroize::Zeroizing;

use crate::error::{EmulatorError, code};
use crate::ids::KeyId;
use crate::operations;
use crate::store::Store;
use crate::wire::answers::Refusal;

const CONTENT_TYPE: &str = "application/x-amz-json-1.1";

/// See [`crate::Emulator::serve`].
pub(crate) async fn serve(
    store: Arc<Store>,
    listener: TcpListener,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> Result<(), EmulatorError> {
    let router = Router::new().route("/", post(answer)).with_state(store);
    axum::serve(listener, router).with_graceful_shutdown(shutdown).await.map_err(EmulatorError::Serve)
}

async fn answer(State(store): State<Arc<Store>>, headers: HeaderMap, body: Bytes) -> Response {
    let operation = operation(&headers).to_owned();
    // A change syncs the disk while it holds the lock, and a read may wait for that lock.
    let outcome = tokio::task::spawn_blocking(move || operations::run(&store, &operation, &body)).await;
    match outcome {
        Ok(Ok(content)) => respond(StatusCode::OK, content),
        Ok(Err(EmulatorError::Refused { code, message })) => refuse(StatusCode::BAD_REQUEST, code, &message),
        Ok(Err(error)) => {
            tracing::error!(%error, "a KMS request failed");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL, "The emulator failed; see its log.")
        }
        Err(_) => {
            tracing::error!("a KMS operation panicked");
            refuse(StatusCode::INTERNAL_SERVER_ERROR, code::INTERNAL, "The emulator failed; see its log.")
        }
    }
}

/// The operation's name; empty, and so unknown, when the header is missing or of another service.
fn operation(headers: &HeaderMap) -> &str {
    let target = headers.get("x-amz-target").and_then(|value| value.to_str().ok());
    target.and_then(|target| target.strip_prefix("TrentService.")).unwrap_or_default()
}

fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    let content = serde_json::to_vec(&Refusal { code, message }).unwrap_or_default();
    respond(status, Zeroizing::new(content))
}

/// The body keeps the content as it is and wipes it after sending.
fn respond(status: StatusCode, content: Zeroizing<Vec<u8>>) -> Response {
    let request_id = KeyId::make().map(|id| id.to_string()).unwrap_or_default();
    let headers = [(header::CONTENT_TYPE.as_str(), CONTENT_TYPE), ("x-amzn-requestid", &request_id)];
    (status, headers, Body::from(Bytes::from_owner(content))).into_response()
}
