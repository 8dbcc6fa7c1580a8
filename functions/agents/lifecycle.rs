//! Ending agents: one way for callers, failed boots, session ends and the scheduled clean-up.

use super::{Sandboxes, failure};
use theazo_http::ApiError;
use theazo_providers::AgentRef;
use theazo_store::{Agent, AgentStatus, Agents, StoreError};
use theazo_tenancy::TenantScope;

/// Ends an agent and removes everything it has at its provider. The row says so first, so that being interrupted
/// leaves a note to finish by, never a sandbox that nobody knows. Idempotent; an agent that is over stays as it was.
///
/// # Errors
/// `provider_error` when the sandbox could not be removed; the agent stays on the work list.
pub async fn end(
    scope: &TenantScope,
    agent: &Agent,
    status: AgentStatus,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Agent, ApiError> {
    let ended = match agents.transition(scope, &agent.id, status, |_| {}).await {
        Ok(ended) => ended,
        // It ended in another way meanwhile; what is left to do is the same.
        Err(StoreError::Conflict(_)) => agents.get(scope, &agent.id).await?.ok_or_else(ApiError::not_found)?,
        Err(error) => return Err(error.into()),
    };
    if ended.sandbox_gone {
        return Ok(ended);
    }
    remove(scope, agent, agents, sandboxes).await
}

/// Takes a boot back that did not come to its end. Its row may be over already, and its sandbox counted as removed, by
/// someone who ended it while it was still being made; so the provider is asked again in any case.
///
/// # Errors
/// As [`end`].
pub async fn take_back(
    scope: &TenantScope,
    agent: &Agent,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> Result<Agent, ApiError> {
    match agents.transition(scope, &agent.id, AgentStatus::Failed, |_| {}).await {
        Ok(_) | Err(StoreError::Conflict(_)) => remove(scope, agent, agents, sandboxes).await,
        Err(error) => Err(error.into()),
    }
}

async fn remove(scope: &TenantScope, agent: &Agent, agents: &Agents, sandboxes: &Sandboxes) -> Result<Agent, ApiError> {
    let sandbox = AgentRef { agent: agent.id.to_string() };
    let destroyed = sandboxes.provider(&agent.provider)?.destroy(&sandbox).await;
    destroyed.map_err(|error| failure::to_api(&agent.provider, &error))?;
    Ok(agents.settle(scope, &agent.id).await?)
}
