//! A provider's failures as callers see them.

use theazo_http::{ApiError, ErrorCode};
use theazo_providers::ProviderError;

/// The caller's error for a failed call. The provider's own words stay in our log.
pub(super) fn to_api(provider: &str, error: &ProviderError) -> ApiError {
    to_api_naming("path", provider, error)
}

/// The same where the path came in another field.
pub(super) fn to_api_naming(field: &str, provider: &str, error: &ProviderError) -> ApiError {
    let failed = |status: Option<u16>, retryable: bool| {
        tracing::warn!(provider, %error, "a provider failed");
        ApiError::new(ErrorCode::Provider, "the compute provider failed")
            .detail("provider", provider)
            .detail("status", status)
            .detail("retryable", retryable)
    };
    match error {
        ProviderError::Failed { status, retryable, .. } => failed(*status, *retryable),
        ProviderError::NoCapacity => {
            ApiError::new(ErrorCode::NoProvidersAvailable, "the compute provider has no capacity left")
                .detail("provider", provider)
        }
        ProviderError::UnknownRegion => {
            ApiError::invalid("region", "is none that the provider has").detail("provider", provider)
        }
        ProviderError::CannotPause => ApiError::new(
            ErrorCode::Conflict,
            "the compute provider cannot pause this agent without keeping its memory",
        )
        .detail("provider", provider),
        ProviderError::CannotCheckpoint => ApiError::new(
            ErrorCode::Conflict,
            "the compute provider cannot make a checkpoint of this agent's files alone",
        )
        .detail("provider", provider),
        ProviderError::NoPorts => ApiError::not_built("ports").detail("provider", provider),
        ProviderError::TooManyPorts { most } => {
            let why = format!("the agent has {most} open ports, which is as many as it may have");
            ApiError::new(ErrorCode::Conflict, why).detail("limit", "ports").detail("max", *most)
        }
        ProviderError::PortUnusable(rule) => ApiError::invalid("port", rule),
        ProviderError::SandboxGone => failed(None, false),
        ProviderError::TimedOut => failed(None, true),
        ProviderError::FileNotFound => ApiError::not_found(),
        ProviderError::PathOutside => ApiError::invalid(field, "must lie beneath /data or /tmp"),
        ProviderError::PathUnusable(rule) => ApiError::invalid(field, rule),
        ProviderError::NoSpace => ApiError::new(ErrorCode::UnprocessableEntity, "no space is left in the sandbox"),
        ProviderError::NoRuntime => ApiError::not_built("language"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn what_a_provider_cannot_do_for_a_port_is_told_by_name() {
        for (error, code, details) in [
            (ProviderError::NoPorts, ErrorCode::UnprocessableEntity, json!({ "feature": "ports", "provider": "fly" })),
            (ProviderError::TooManyPorts { most: 8 }, ErrorCode::Conflict, json!({ "limit": "ports", "max": 8 })),
            (ProviderError::PortUnusable("is taken"), ErrorCode::InvalidRequest, json!({ "field": "port" })),
        ] {
            let told = to_api("fly", &error);
            let shown: Value = serde_json::from_str(&told.to_json()).unwrap();
            assert_eq!((told.code(), &shown["details"]), (code, &details), "{error}");
        }
    }
}
