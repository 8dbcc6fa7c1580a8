//! Compute providers as a platform sees them.

pub mod delete;
pub mod list;
pub mod set;

use serde_json::{Value, json};
use theazo_http::{ApiError, Call, ErrorCode, format_time};
use theazo_providers::e2b::DEFAULT_TEMPLATE;
use theazo_providers::{Health, ProviderKind};
use theazo_store::{Agent, Agents, ProviderConfig};
use theazo_tenancy::ReadScope;

/// The provider that the path names, if a platform can configure it.
fn configurable(call: &Call) -> Result<ProviderKind, ApiError> {
    match ProviderKind::parse(call.request().param("provider")?) {
        Some(kind) if kind != ProviderKind::Simulated => Ok(kind),
        _ => Err(ApiError::not_found()),
    }
}

/// Refuses as long as agents have something at the provider: nobody could reach or end them any more.
async fn refuse_while_used(kind: ProviderKind, scope: &ReadScope, agents: &Agents) -> Result<(), ApiError> {
    let unsettled = agents.unsettled_of_platform(scope).await?;
    // Those on an engine of the deployment's are none of the platform's own hosts' business.
    let own =
        |agent: &&Agent| agent.provider == kind.as_str() && (kind != ProviderKind::Docker || agent.host.is_some());
    let there = unsettled.iter().filter(own).count();
    if there == 0 {
        return Ok(());
    }
    let why = format!("{there} agents have something there still; terminate them first");
    Err(ApiError::new(ErrorCode::Conflict, why).detail("agents", there))
}

/// Longest code of a region.
pub const MAX_REGION: usize = 32;

/// Whether a provider could have a region of that code. Which it has, it says itself.
pub fn is_region(code: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !code.is_empty() && code.len() <= MAX_REGION && code.bytes().all(plain)
}

/// A platform's own configuration as the API shows it. Never a credential.
fn show(config: &ProviderConfig, health: Option<Health>) -> Value {
    let template = config.template.as_deref().or((config.provider == "e2b").then_some(DEFAULT_TEMPLATE));
    let mut settings = json!({ "template": template });
    if config.provider == "docker" {
        settings["draining"] = json!(config.draining);
    }
    let others = [("organization", &config.organization), ("image", &config.image), ("region", &config.region)];
    for (name, value) in others {
        if let Some(value) = value {
            settings[name] = value.as_str().into();
        }
    }
    let mut shown = json!({
        "provider": config.provider,
        "source": "platform",
        "credentialRef": config.credential,
        "config": settings,
        "updatedAt": format_time(config.updated_at_ms),
    });
    if let Some(Health { healthy, message }) = health {
        shown["health"] = json!({ "healthy": healthy, "message": message });
    }
    shown
}
