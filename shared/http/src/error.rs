//! Errors as callers see them. What we log is another text.

use crate::Answer;
use serde_json::{Map, Value, json};
use std::borrow::Cow;
use theazo_store::StoreError;
use theazo_tenancy::{RequestId, Unauthorized};

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
}

impl ApiError {
    /// An error with a message for the caller. It must not carry a secret's value or anything internal.
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), details: Map::new() }
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

    /// Our fault. The cause is logged where it happened, never shown.
    pub fn internal() -> Self {
        Self::new(ErrorCode::Internal, "something went wrong on our side")
    }

    /// The code.
    pub fn code(&self) -> ErrorCode {
        self.code
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
        Answer::from_value(self.code.status(), &body)
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
            StoreError::LimitExceeded { limit, used, max } => {
                Self::new(ErrorCode::SessionLimitExceeded, format!("the session's {limit} is reached"))
                    .detail("limit", limit)
                    .detail("used", used)
                    .detail("max", max)
            }
            StoreError::ScopeFull(rule) => Self::new(ErrorCode::UnprocessableEntity, rule),
            StoreError::UnknownSecret(name) => {
                Self::new(ErrorCode::InvalidRequest, format!("secrets: there is no secret {name} to select"))
                    .detail("field", "secrets")
            }
            StoreError::Contended(_)
            | StoreError::Corrupt(_)
            | StoreError::Table { .. }
            | StoreError::Kms { .. }
            | StoreError::NoRootKey
            | StoreError::Vault(_) => {
                tracing::error!(%error, "the store failed");
                Self::internal()
            }
        }
    }
}
