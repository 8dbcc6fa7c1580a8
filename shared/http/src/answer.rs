//! Answers.

use crate::ApiError;
use bytes::Bytes;
use serde::Serialize;
use serde_json::Value;

/// Largest buffered answer: the gateway's 6 MB.
pub const MAX_ANSWER_BYTES: usize = 6_000_000;

/// A whole, buffered answer.
#[derive(Clone, Debug)]
pub struct Answer {
    status: u16,
    body: Bytes,
    retry_after_s: Option<u64>,
}

impl Answer {
    /// A JSON answer.
    ///
    /// # Errors
    /// `internal_error` when the value cannot be written as JSON or is larger than [`MAX_ANSWER_BYTES`].
    pub fn json(status: u16, value: &impl Serialize) -> Result<Self, ApiError> {
        let body = serde_json::to_vec(value).map_err(|_| ApiError::internal())?;
        if body.len() > MAX_ANSWER_BYTES {
            tracing::error!(bytes = body.len(), "an answer is too large");
            return Err(ApiError::internal());
        }
        Ok(Self { status, body: body.into(), retry_after_s: None })
    }

    /// A JSON answer of a value that is known to be small.
    pub(crate) fn from_value(status: u16, value: &Value) -> Self {
        Self { status, body: value.to_string().into(), retry_after_s: None }
    }

    /// 204.
    pub fn no_content() -> Self {
        Self { status: 204, body: Bytes::new(), retry_after_s: None }
    }

    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// An answer that was given before: its status and its body as JSON text, empty for none.
    pub fn again(status: u16, body: String) -> Self {
        Self { status, body: body.into(), retry_after_s: None }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The body: JSON, or nothing.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The whole answer as an HTTP response with its standing headers.
    pub fn into_response(self, request_id: &str) -> http::Response<Bytes> {
        let mut response = http::Response::new(self.body);
        *response.status_mut() =
            http::StatusCode::from_u16(self.status).unwrap_or(http::StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        if let Ok(id) = http::HeaderValue::from_str(request_id) {
            headers.insert("x-request-id", id);
        }
        headers.insert(http::header::CACHE_CONTROL, http::HeaderValue::from_static("no-store"));
        if let Some(seconds) = self.retry_after_s {
            headers.insert(http::header::RETRY_AFTER, http::HeaderValue::from(seconds));
        }
        headers.insert("x-content-type-options", http::HeaderValue::from_static("nosniff"));
        if !response.body().is_empty() {
            let json = http::HeaderValue::from_static("application/json");
            response.headers_mut().insert(http::header::CONTENT_TYPE, json);
        }
        response
    }
}
