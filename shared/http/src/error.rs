//! Errors as callers see them. What we log is another text.

use crate::Answer;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use theazo_store::StoreError;
use theazo_tenancy::{RequestId, Unauthorized};

/// The detail that is also given as the header `Retry-After`.
const RETRY_AFTER: &str = "retryAfter";

/// The closed list of error codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorCode {
    /// Body, query, path or header is malformed.
    InvalidRequest,
    /// No good credential; one identical answer for all.
    Unauthorized,
    /// One of the session's limits is reached.
    SessionLimitExceeded,
    /// The caller's kind may not use this route at all.
    Forbidden,
    /// Absent, or someone else's.
    NotFound,
    /// The state does not allow it.
    Conflict,
    /// Well-formed but impossible, or a feature that is not built.
    UnprocessableEntity,
    /// Too many requests.
    RateLimited,
    /// Our fault.
    Internal,
    /// The compute provider failed.
    Provider,
    /// No configured provider, or none with capacity.
    NoProvidersAvailable,
    /// An exec passed its limit.
    Timeout,
}

impl ErrorCode {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::InvalidRequest,
        Self::Unauthorized,
        Self::SessionLimitExceeded,
        Self::Forbidden,
        Self::NotFound,
        Self::Conflict,
        Self::UnprocessableEntity,
        Self::RateLimited,
        Self::Internal,
        Self::Provider,
        Self::NoProvidersAvailable,
        Self::Timeout,
    ];

    /// The code on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::Unauthorized => "unauthorized",
            Self::SessionLimitExceeded => "session_limit_exceeded",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not_found",
            Self::Conflict => "conflict",
            Self::UnprocessableEntity => "unprocessable_entity",
            Self::RateLimited => "rate_limited",
            Self::Internal => "internal_error",
            Self::Provider => "provider_error",
            Self::NoProvidersAvailable => "no_providers_available",
            Self::Timeout => "timeout",
        }
    }

    /// The code of that name.
    fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.as_str() == name)
    }

    /// The HTTP status.
    pub const fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Unauthorized => 401,
            Self::SessionLimitExceeded => 402,
            Self::Forbidden => 403,
            Self::NotFound => 404,
            Self::Conflict => 409,
            Self::UnprocessableEntity => 422,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::Provider => 502,
            Self::NoProvidersAvailable => 503,
            Self::Timeout => 504,
        }
    }
}

/// An error as the caller sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ApiError {
    code: ErrorCode,
    message: Cow<'static, str>,
    details: Map<String, Value>,
    /// Whether what was asked for may have been done all the same. Not shown.
    unclear: bool,
}

impl ApiError {
    /// An error with a message for the caller. It must not carry a secret's value or anything internal.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), details: Map::new(), unclear: false }
    }

    /// Adds a detail.
    #[must_use]
    pub fn detail(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// A malformed field, by name.
    pub fn invalid(field: &str, rule: &str) -> Self {
        Self::new(ErrorCode::InvalidRequest, format!("{field}: {rule}")).detail("field", field)
    }

    /// A field that asks for something not built.
    pub fn not_built(feature: &str) -> Self {
        Self::new(ErrorCode::UnprocessableEntity, format!("{feature} is not available")).detail("feature", feature)
    }

    /// Absent, or someone else's: the one answer for both.
    pub fn not_found() -> Self {
        Self::new(ErrorCode::NotFound, "not found")
    }

    /// Too many requests; the caller may try again after that many seconds.
    pub fn rate_limited(seconds: u64) -> Self {
        Self::new(ErrorCode::RateLimited, "too many requests").detail(RETRY_AFTER, seconds)
    }

    /// Our fault. The cause is logged where it happened, never shown.
    pub fn internal() -> Self {
        Self::new(ErrorCode::Internal, "something went wrong on our side")
    }

    /// The code.
    pub fn code(&self) -> ErrorCode {
        self.code
    }

    /// Whether nobody can tell if the change was made: the table was asked to make it and did not answer.
    pub fn is_unclear(&self) -> bool {
        self.unclear
    }

    /// Its details by name.
    #[cfg(test)]
    pub(crate) fn details(&self) -> &Map<String, Value> {
        &self.details
    }

    /// The error as text, to be given again later.
    pub fn to_json(&self) -> String {
        json!({ "code": self.code.as_str(), "message": self.message, "details": self.details }).to_string()
    }

    /// The error in such a text.
    pub fn from_json(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_str(text).ok()?;
        Some(Self {
            code: ErrorCode::parse(value["code"].as_str()?)?,
            message: value["message"].as_str()?.to_owned().into(),
            details: value["details"].as_object()?.clone(),
            unclear: false,
        })
    }

    /// The answer, with the request's id in both places where clients look for it.
    pub fn into_answer(self, request_id: &RequestId) -> Answer {
        let body = json!({
            "error": {
                "code": self.code.as_str(),
                "message": self.message,
                "details": self.details,
                "requestId": request_id,
            },
            "requestId": request_id,
        });
        let answer = Answer::from_value(self.code.status(), &body);
        match self.details.get(RETRY_AFTER).and_then(Value::as_u64) {
            Some(seconds) => answer.retry_after(seconds),
            None => answer,
        }
    }
}

impl From<Unauthorized> for ApiError {
    fn from(_: Unauthorized) -> Self {
        Self::new(ErrorCode::Unauthorized, "a valid API key is required")
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::NotFound => Self::not_found(),
            StoreError::Conflict(why) => Self::new(ErrorCode::Conflict, why),
            StoreError::Overtaken => Self::new(ErrorCode::Conflict, "it was changed at the same time"),
            StoreError::LimitExceeded { limit, used, max } => {
                Self::new(ErrorCode::SessionLimitExceeded, format!("the session's {limit} is reached"))
                    .detail("limit", limit)
                    .detail("used", used)
                    .detail("max", max)
            }
            StoreError::ProviderFull { provider, max } => {
                Self::new(ErrorCode::NoProvidersAvailable, format!("as many agents run at {provider} as may"))
                    .detail("provider", provider)
                    .detail("limit", "maxConcurrent")
                    .detail("max", max)
            }
            StoreError::ScopeFull(rule) => Self::new(ErrorCode::UnprocessableEntity, rule),
            StoreError::UnusableCredential(why) => Self::invalid("credentialRef", &why),
            StoreError::UnknownSecret(name) => {
                Self::new(ErrorCode::InvalidRequest, format!("secrets: there is no secret {name} to select"))
                    .detail("field", "secrets")
            }
            StoreError::Contended(_)
            | StoreError::Corrupt(_)
            | StoreError::Table { .. }
            | StoreError::Kms { .. }
            | StoreError::Environment(_)
            | StoreError::NoRootKey
            | StoreError::NoCredentialKey
            | StoreError::Vault(_) => {
                tracing::error!(%error, "the store failed");
                Self { unclear: error.may_be_done(), ..Self::internal() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_store::KmsFailure;

    fn body(error: ApiError) -> Value {
        serde_json::from_slice(error.into_answer(&RequestId::make()).body()).unwrap()
    }

    #[test]
    fn every_code_has_the_name_and_status_of_the_contract() {
        for (code, name, status) in [
            (ErrorCode::InvalidRequest, "invalid_request", 400),
            (ErrorCode::Unauthorized, "unauthorized", 401),
            (ErrorCode::SessionLimitExceeded, "session_limit_exceeded", 402),
            (ErrorCode::Forbidden, "forbidden", 403),
            (ErrorCode::NotFound, "not_found", 404),
            (ErrorCode::Conflict, "conflict", 409),
            (ErrorCode::UnprocessableEntity, "unprocessable_entity", 422),
            (ErrorCode::RateLimited, "rate_limited", 429),
            (ErrorCode::Internal, "internal_error", 500),
            (ErrorCode::Provider, "provider_error", 502),
            (ErrorCode::NoProvidersAvailable, "no_providers_available", 503),
            (ErrorCode::Timeout, "timeout", 504),
        ] {
            let answer = ApiError::new(code, "m").into_answer(&RequestId::make());
            assert_eq!(answer.status(), status);
            let shown: Value = serde_json::from_slice(answer.body()).unwrap();
            assert_eq!(shown["error"]["code"], name);
        }
    }

    #[test]
    fn an_error_carries_the_requests_id_in_both_places_and_its_details() {
        let id = RequestId::make();
        let answer = ApiError::invalid("limits.maxAgents", "must be \"small\"").into_answer(&id);
        let shown: Value = serde_json::from_slice(answer.body()).unwrap();
        let expected = json!({
            "error": {
                "code": "invalid_request",
                "message": "limits.maxAgents: must be \"small\"",
                "details": { "field": "limits.maxAgents" },
                "requestId": id.as_str(),
            },
            "requestId": id.as_str(),
        });
        assert_eq!(shown, expected);
        assert_eq!(body(ApiError::not_found())["error"]["details"], json!({}));
        assert_eq!(body(ApiError::not_built("gpu"))["error"]["details"], json!({ "feature": "gpu" }));
    }

    #[test]
    fn what_fails_inside_is_not_told_outside() {
        let table = || StoreError::Table { operation: "inner-operation", code: "inner-code".into() };
        let kms = StoreError::Kms { operation: "inner-operation", code: "inner-code".into() };
        for error in [table(), kms, StoreError::Contended(77), StoreError::Corrupt("inner-row"), StoreError::NoRootKey]
        {
            let shown = body(error.into());
            assert_eq!(shown["error"]["code"], "internal_error");
            assert_eq!(shown["error"]["details"], json!({}));
            for inner in ["inner", "77", "root key"] {
                assert!(!shown["error"]["message"].as_str().unwrap().contains(inner), "{shown}");
            }
        }
    }

    #[test]
    fn why_the_key_service_failed_is_not_told_outside() {
        let codes = [
            "ThrottlingException",
            "AccessDeniedException",
            "DisabledException",
            "KMSInvalidStateException",
            "InvalidCiphertextException",
            "IncorrectKeyException",
            "NotFoundException",
            "timeout",
            "no connection",
        ];
        let mut told = std::collections::HashSet::new();
        for code in codes {
            let error = StoreError::Kms { operation: "Decrypt", code: code.into() };
            assert!(error.kms_failure().is_some_and(|failure| failure != KmsFailure::Other), "{code}");
            let shown = body(error.into());
            assert_eq!((&shown["error"]["code"], &shown["error"]["details"]), (&json!("internal_error"), &json!({})));
            told.insert(shown["error"]["message"].to_string());
        }
        assert_eq!(told.len(), 1, "{told:?}");
    }

    #[test]
    fn a_reached_limit_tells_which_how_much_is_used_and_how_much_there_is() {
        let shown = body(StoreError::LimitExceeded { limit: "maxAgents", used: 3, max: 3 }.into());
        assert_eq!(shown["error"]["code"], "session_limit_exceeded");
        assert_eq!(shown["error"]["details"], json!({ "limit": "maxAgents", "used": 3, "max": 3 }));
    }

    #[test]
    fn a_full_provider_tells_which_it_is_and_how_many_may_run_there() {
        let shown = body(StoreError::ProviderFull { provider: "e2b".into(), max: 3 }.into());
        assert_eq!(shown["error"]["code"], "no_providers_available");
        assert_eq!(shown["error"]["details"], json!({ "provider": "e2b", "limit": "maxConcurrent", "max": 3 }));
    }

    #[test]
    fn what_a_caller_can_do_something_about_is_told_as_it_is() {
        for (error, code) in [
            (StoreError::NotFound, "not_found"),
            (StoreError::Conflict("why"), "conflict"),
            (StoreError::Overtaken, "conflict"),
            (StoreError::ScopeFull("why"), "unprocessable_entity"),
            (StoreError::UnknownSecret("NAME".into()), "invalid_request"),
        ] {
            assert_eq!(body(error.into())["error"]["code"], code);
        }
    }
}
