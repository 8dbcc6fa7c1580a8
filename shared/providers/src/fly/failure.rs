//! From the service's refusals to ours: status, the service's own code for it, and our words. A message of the service can
//! quote a request and is not passed on; only what is known to mean that there is no room is looked for in it.

use super::KIND;
use crate::ProviderError;
use serde::Deserialize;

/// What the service says of an error, as far as it is used. Which of the two names the text has depends on the endpoint.
#[derive(Default, Deserialize)]
#[serde(default)]
struct Told {
    error: String,
    message: String,
    status: Option<String>,
}

/// Words of refusals for want of room, on a host, in a region or of an account, which come with several statuses.
const NO_ROOM: [&str; 7] = [
    "no capacity",
    "over the allowed quota",
    "insufficient memory available",
    "insufficient resources",
    "could not reserve resource",
    "reached its machine limit",
    "machine limit",
];

/// The error of an answer that is none of the expected ones.
pub(super) fn from_answer(operation: &'static str, status: u16, body: &[u8]) -> ProviderError {
    let told: Told = serde_json::from_slice(body).unwrap_or_default();
    let code = told.status.unwrap_or_default();
    let says = |words: &&str| told.error.contains(*words) || told.message.contains(*words);
    match (status, code.as_str()) {
        (_, "insufficient_capacity" | "volume_placement_capacity") => ProviderError::NoCapacity,
        (400..=499, _) if NO_ROOM.iter().any(says) => ProviderError::NoCapacity,
        (401 | 403, _) => failed(operation, Some(status), false, "Fly does not accept the token for this"),
        (_, code) => {
            let plain = !code.is_empty()
                && code.len() <= 64
                && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let code = if plain { format!(", {code}") } else { String::new() };
            let retryable = status >= 500 || matches!(status, 408 | 409 | 412 | 429);
            failed(operation, Some(status), retryable, format!("Fly answered {status}{code}"))
        }
    }
}

/// A failure in our own words.
pub(super) fn failed(
    operation: &'static str,
    status: Option<u16>,
    retryable: bool,
    reason: impl Into<String>,
) -> ProviderError {
    ProviderError::Failed { provider: KIND, operation, status, retryable, reason: reason.into() }
}

/// An answer that cannot be read.
pub(super) fn not_understood(operation: &'static str) -> ProviderError {
    failed(operation, None, false, "Fly's answer was not understood")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_the_status_and_the_code_and_never_the_message() {
        let body = br#"{"error":"canary","status":"unknown"}"#;
        let error = from_answer("start machine", 412, body);
        assert_eq!(error.to_string(), "fly failed at start machine: Fly answered 412, unknown");
        assert!(matches!(error, ProviderError::Failed { status: Some(412), retryable: true, .. }));
        let odd = from_answer("x", 422, br#"{"error":"canary","status":"Canary with <spaces>"}"#).to_string();
        assert_eq!(odd, "fly failed at x: Fly answered 422");
        assert!(!format!("{:?}", from_answer("x", 500, b"<html>canary</html>")).contains("canary"));
    }

    #[test]
    fn a_service_without_room_is_told_apart_from_one_that_fails() {
        for (status, body) in [
            (400, r#"{"error":"no capacity available in region"}"#),
            (403, r#"{"error":"you are over the allowed quota"}"#),
            (409, r#"{"error":"aborted: insufficient memory available to fulfill request"}"#),
            (412, r#"{"message":"insufficient resources to create new machine with existing volume"}"#),
            (503, r#"{"error":"x","status":"insufficient_capacity"}"#),
        ] {
            assert!(matches!(from_answer("create", status, body.as_bytes()), ProviderError::NoCapacity), "{body}");
        }
        let other = from_answer("create", 403, br#"{"error":"forbidden"}"#);
        assert!(matches!(other, ProviderError::Failed { retryable: false, .. }));
    }
}
