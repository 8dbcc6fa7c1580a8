//! From the service's refusals to ours: status, the service's own code for it, and our words. A
//! message of the service can quote a request and is not passed on.

use crate::{ProviderError, ProviderKind};
use serde::Deserialize;

/// What the service says of an error, as far as it is used.
#[derive(Default, Deserialize)]
#[serde(default)]
pub(super) struct Told {
    pub(super) error_code: Option<String>,
    pub(super) message: String,
}

/// The error of an answer that is none of the expected ones.
pub(super) fn from_answer(operation: &'static str, status: u16, body: &[u8]) -> ProviderError {
    let told: Told = serde_json::from_slice(body).unwrap_or_default();
    match (status, told.error_code.as_deref()) {
        (_, Some("sandbox_capacity_unavailable" | "sandbox_placement_timeout" | "sandbox_no_compatible_node")) => {
            ProviderError::NoCapacity
        }
        (401 | 403, _) => failed(operation, Some(status), false, "E2B does not accept the API key for this"),
        (_, code) => {
            let plain =
                |code: &&str| code.len() <= 64 && code.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
            let code = code.filter(plain).map(|code| format!(", {code}")).unwrap_or_default();
            let retryable = status >= 500 || matches!(status, 409 | 429);
            failed(operation, Some(status), retryable, format!("E2B answered {status}{code}"))
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
    ProviderError::Failed { provider: ProviderKind::E2b, operation, status, retryable, reason: reason.into() }
}

/// An answer that cannot be read.
pub(super) fn not_understood(operation: &'static str) -> ProviderError {
    failed(operation, None, false, "E2B's answer was not understood")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_keeps_the_status_and_the_code_and_never_the_message() {
        let body = br#"{"code":409,"message":"canary","error_code":"sandbox_start_in_flight"}"#;
        let error = from_answer("pause", 409, body);
        assert_eq!(error.to_string(), "e2b failed at pause: E2B answered 409, sandbox_start_in_flight");
        assert!(matches!(error, ProviderError::Failed { status: Some(409), retryable: true, .. }));
        let odd = from_answer("pause", 418, br#"{"error_code":"Canary with <spaces>"}"#).to_string();
        assert_eq!(odd, "e2b failed at pause: E2B answered 418");
        assert!(!format!("{:?}", from_answer("x", 500, b"canary, not JSON")).contains("canary"));
    }

    #[test]
    fn a_service_without_room_is_told_apart_from_one_that_fails() {
        let full = from_answer("create", 503, br#"{"error_code":"sandbox_capacity_unavailable"}"#);
        assert!(matches!(full, ProviderError::NoCapacity));
        assert!(matches!(from_answer("create", 503, b""), ProviderError::Failed { retryable: true, .. }));
    }
}
