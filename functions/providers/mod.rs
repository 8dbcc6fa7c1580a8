//! Compute providers as a platform sees them.

pub mod delete;
pub mod list;
pub mod set;

use serde_json::{Value, json};
use theazo_http::{ApiError, Call, format_time};
use theazo_providers::e2b::DEFAULT_TEMPLATE;
use theazo_providers::{Health, ProviderKind};
use theazo_store::ProviderConfig;

/// The provider that the path names, if a platform can configure it.
fn configurable(call: &Call) -> Result<ProviderKind, ApiError> {
    match ProviderKind::parse(call.request().param("provider")?) {
        Some(kind) if kind != ProviderKind::Simulated => Ok(kind),
        _ => Err(ApiError::not_found()),
    }
}

/// A platform's own configuration as the API shows it. Never a credential.
fn show(config: &ProviderConfig, health: Option<Health>) -> Value {
    let template = config.template.as_deref().or((config.provider == "e2b").then_some(DEFAULT_TEMPLATE));
    let mut shown = json!({
        "provider": config.provider,
        "source": "platform",
        "credentialRef": config.credential,
        "config": { "template": template },
        "updatedAt": format_time(config.updated_at_ms),
    });
    if let Some(Health { healthy, message }) = health {
        shown["health"] = json!({ "healthy": healthy, "message": message });
    }
    shown
}
