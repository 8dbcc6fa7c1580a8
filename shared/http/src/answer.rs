//! Answers.

use crate::ApiError;
use crate::stream::{Body, Streamed};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use serde_json::Value;
use std::fmt;

/// Largest answer, bytes of its body. One that is not streamed must also keep [`MAX_PAYLOAD_BYTES`].
pub const MAX_ANSWER_BYTES: usize = 6_000_000;

/// Largest body of a request, or of an answer that is not streamed, as [`payload_len`] counts it. Lambda takes and gives
/// 6,291,556 bytes (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>) of JSON, in which the body
/// is one string; what is left is for the rest of the event.
pub const MAX_PAYLOAD_BYTES: usize = 6_200_000;

/// Bytes of a body as a string in JSON, which escapes quotes, backslashes and control characters.
pub fn payload_len(body: &[u8]) -> usize {
    let escapes = body.iter().map(|byte| match byte {
        b'"' | b'\\' | b'\n' | b'\r' | b'\t' | 8 | 12 => 1,
        0..=0x1f => 5,
        _ => 0,
    });
    body.len() + escapes.sum::<usize>()
}

/// An answer: whole, or a stream. Its `Debug` says nothing of the body, which may be a key that is shown this once.
pub struct Answer {
    status: u16,
    body: Bytes,
    retry_after_s: Option<u64>,
    stream: Option<Streamed>,
    /// Of a body that is no stream.
    content_type: &'static str,
    /// What a browser may do with a page, as `Content-Security-Policy` says it.
    policy: Option<&'static str>,
}

impl fmt::Debug for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Answer").field("status", &self.status).field("bytes", &self.body.len()).finish_non_exhaustive()
    }
}

const JSON: &str = "application/json";

impl Answer {
    const fn of(status: u16, body: Bytes) -> Self {
        Self { status, body, retry_after_s: None, stream: None, content_type: JSON, policy: None }
    }

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
        Ok(Self::of(status, body.into()))
    }

    /// Whether Lambda could give it to a gateway that waits for all of it.
    pub fn fits_payload(&self) -> bool {
        self.stream.is_some() || payload_len(&self.body) <= MAX_PAYLOAD_BYTES
    }

    /// A JSON answer of a value that is known to be small.
    pub(crate) fn from_value(status: u16, value: &Value) -> Self {
        Self::of(status, value.to_string().into())
    }

    /// 204.
    pub fn no_content() -> Self {
        Self::of(204, Bytes::new())
    }

    pub(crate) fn retry_after(self, seconds: u64) -> Self {
        Self { retry_after_s: Some(seconds), ..self }
    }

    /// An answer that was given before: its status and its body as JSON text, empty for none.
    pub fn again(status: u16, body: String) -> Self {
        Self::of(status, body.into())
    }

    /// A table, as CSV in UTF-8.
    pub fn csv(body: String) -> Self {
        Self { content_type: "text/csv; charset=utf-8", ..Self::of(200, body.into()) }
    }

    /// A page for a browser, which may do what that `Content-Security-Policy` says.
    pub fn page(html: &'static str, policy: &'static str) -> Self {
        let body = Bytes::from_static(html.as_bytes());
        Self { content_type: "text/html; charset=utf-8", policy: Some(policy), ..Self::of(200, body) }
    }

    /// JSON text that is part of the program.
    pub const fn json_text(text: &'static str) -> Self {
        Self::of(200, Bytes::from_static(text.as_bytes()))
    }

    /// A stream of that type.
    pub(crate) fn streamed(
        status: u16,
        content_type: &'static str,
        pieces: impl Stream<Item = Bytes> + Send + 'static,
    ) -> Self {
        Self { stream: Some(Streamed { content_type, pieces: pieces.boxed() }), ..Self::of(status, Bytes::new()) }
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The body: JSON, CSV, a page, or nothing. A stream's is nothing here.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The whole answer as an HTTP response with its standing headers.
    pub fn into_response(self, request_id: &str) -> http::Response<Body> {
        let content_type = match &self.stream {
            Some(stream) => Some(stream.content_type),
            None => (!self.body.is_empty()).then_some(self.content_type),
        };
        let body = match self.stream {
            Some(stream) => Body::Stream(stream.pieces),
            None => Body::Whole(self.body),
        };
        let mut response = http::Response::new(body);
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
        if let Some(policy) = self.policy {
            headers.insert(http::header::CONTENT_SECURITY_POLICY, http::HeaderValue::from_static(policy));
        }
        if let Some(content_type) = content_type {
            headers.insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(content_type));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_of_an_answer_is_nothing_that_is_in_it() {
        let answer = Answer::json(201, &serde_json::json!({ "key": "shown once" })).unwrap();
        let printed = format!("{answer:?} {answer:#?}");
        assert!(printed.contains("201") && !printed.contains("once") && !printed.contains("key"), "{printed}");
    }

    #[test]
    fn a_payload_is_as_long_as_json_makes_of_its_body() {
        let every: String = (0..128).map(char::from).chain("h\u{e9}llo \u{1f600}".chars()).collect();
        for text in ["", "plain", "{\"a\":\"b\\n\"}", &every] {
            let quoted = serde_json::to_string(text).expect("a string is JSON");
            assert_eq!(payload_len(text.as_bytes()) + 2, quoted.len(), "{text:?}");
        }
        let whole = |len: usize| Answer::of(200, "x".repeat(len).into());
        assert!(whole(MAX_PAYLOAD_BYTES).fits_payload() && !whole(MAX_PAYLOAD_BYTES + 1).fits_payload());
        assert!(!Answer::of(200, "\"".repeat(MAX_PAYLOAD_BYTES / 2 + 1).into()).fits_payload());
    }
}
