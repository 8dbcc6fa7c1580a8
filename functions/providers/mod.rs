//! Compute providers as a platform sees them.

pub mod delete;
pub mod list;
pub mod set;

use serde_json::{Map, Value, json};
use theazo_http::{ApiError, Call, ErrorCode, format_time};
use theazo_providers::e2b::DEFAULT_TEMPLATE;
use theazo_providers::{Health, ProviderKind};
use theazo_store::{Agent, Agents, ProviderConfig, ProviderConfigs, StoreError};
use theazo_tenancy::{ReadScope, TenantScope};

/// The provider that the path names, if a platform can configure it.
fn configurable(call: &Call) -> Result<ProviderKind, ApiError> {
    match ProviderKind::parse(call.request().param("provider")?) {
        Some(kind) if kind != ProviderKind::Simulated => Ok(kind),
        _ => Err(ApiError::not_found()),
    }
}

/// How many agents have something at a provider of the platform's: nobody could reach or end them without it.
async fn agents_at(kind: ProviderKind, scope: &ReadScope, agents: &Agents) -> Result<usize, StoreError> {
    let unsettled = agents.unsettled_of_platform(scope).await?;
    // Those on an engine of the deployment's are none of the platform's own hosts' business.
    let own =
        |agent: &&Agent| agent.provider == kind.as_str() && (kind != ProviderKind::Docker || agent.host.is_some());
    Ok(unsettled.iter().filter(own).count())
}

fn in_use(agents: usize) -> ApiError {
    let why = format!("{agents} agents have something there still; terminate them first");
    ApiError::new(ErrorCode::Conflict, why).detail("agents", agents)
}

async fn refuse_while_used(kind: ProviderKind, scope: &ReadScope, agents: &Agents) -> Result<(), ApiError> {
    match agents_at(kind, scope, agents).await? {
        0 => Ok(()),
        there => Err(in_use(there)),
    }
}

/// How many agents have something at a provider.
struct InUse(usize);

/// Has a provider take no new agents for the moment, if no agent has anything there, not one either that is about to boot.
async fn close_unused(
    kind: ProviderKind,
    scope: &TenantScope,
    configs: &ProviderConfigs,
    agents: &Agents,
) -> Result<Result<ProviderConfig, InUse>, StoreError> {
    let closed = configs.close(scope, kind.as_str()).await?;
    let there = agents_at(kind, scope, agents).await?;
    if there == 0 {
        return Ok(Ok(closed));
    }
    configs.reopen(scope, closed).await?;
    Ok(Err(InUse(there)))
}

/// How often a configuration that others change at the same time is looked at anew before it is removed.
const ATTEMPTS: u32 = 10;

/// Removes a provider's configuration, unless agents have something there. Gives how many.
///
/// # Errors
/// [`StoreError::NotFound`] when it is not configured; [`StoreError::Contended`] when others keep changing it.
pub async fn remove_unused(
    kind: ProviderKind,
    scope: &TenantScope,
    configs: &ProviderConfigs,
    agents: &Agents,
) -> Result<usize, StoreError> {
    for _ in 0..ATTEMPTS {
        let closed = match close_unused(kind, scope, configs, agents).await? {
            Ok(closed) => closed,
            Err(InUse(there)) => return Ok(there),
        };
        match configs.remove(scope, &closed).await {
            Err(StoreError::Conflict(_)) => {}
            removed => return removed.map(|()| 0),
        }
    }
    Err(StoreError::Contended(ATTEMPTS))
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
    let texts = [
        ("template", template),
        ("organization", config.organization.as_deref()),
        ("image", config.image.as_deref()),
        ("region", config.region.as_deref()),
    ];
    let mut settings = Map::new();
    settings.extend(texts.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.into()))));
    if config.provider == "docker" {
        settings.insert("draining".into(), json!(config.draining));
    }
    let limits = config.max_concurrent.map_or_else(|| json!({}), |max| json!({ "maxConcurrent": max }));
    let mut shown = json!({
        "provider": config.provider,
        "source": "platform",
        "credentialRef": config.credential,
        "config": settings,
        "priority": config.priority,
        "limits": limits,
        "updatedAt": format_time(config.updated_at_ms),
    });
    if let Some(Health { healthy, message }) = health {
        shown["health"] = json!({ "healthy": healthy, "message": message });
    }
    shown
}
