//! Ending agents: one way for callers, failed boots, session ends and the scheduled clean-up.

use super::{Sandboxes, failure, not_running};
use theazo_http::ApiError;
use theazo_providers::{AgentRef, ProviderError};
use theazo_store::{Agent, AgentStatus, Agents, StoreError, now_ms};
use theazo_tenancy::TenantScope;

/// A sandbox's own clock starts before the agent is ready, so it ends somewhat before the agent's time is over.
const CLOCK_SLACK_MS: i64 = 10_000;

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

/// Ends an agent whose sandbox turned out to be gone, and tells what its caller learns. A sandbox ends by itself when
/// the agent's time is over, and that is no failure.
pub async fn lost(scope: &TenantScope, agent: &Agent, agents: &Agents, sandboxes: &Sandboxes) -> ApiError {
    let over = now_ms() + CLOCK_SLACK_MS >= agent.deadline_ms();
    let status = if over { AgentStatus::Completed } else { AgentStatus::Failed };
    match end(scope, agent, status, agents, sandboxes).await {
        Ok(ended) if ended.status == AgentStatus::Completed => not_running(ended.status),
        Ok(_) => failure::to_api(&agent.provider, &ProviderError::SandboxGone),
        Err(error) => {
            tracing::warn!(agent = %agent.id, ?error, "a lost sandbox is not cleaned up yet");
            failure::to_api(&agent.provider, &ProviderError::SandboxGone)
        }
    }
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
    let destroyed = sandboxes.provider(scope, &agent.provider)?.destroy(&sandbox).await;
    destroyed.map_err(|error| failure::to_api(&agent.provider, &error))?;
    Ok(agents.settle(scope, &agent.id).await?)
}
