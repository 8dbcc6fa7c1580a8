//! Agents: sandboxes that run an end user's work.

mod again;
mod boot;
mod checkpoints;
pub mod checkpoints_create;
pub mod checkpoints_list;
pub mod create;
mod docker_hosts;
pub mod exec;
mod exec_record;
mod exec_stream;
mod failure;
pub mod files_list;
pub mod files_read;
pub mod files_write;
pub mod get;
pub mod lifecycle;
pub mod list;
pub mod list_of_session;
pub mod logs_stream;
mod mask;
mod moving;
pub mod pause;
pub mod pausing;
pub mod ports_open;
pub mod progress;
mod removal;
pub mod restart;
pub mod resume;
pub mod retry;
mod sandboxes;
pub mod secrets_list;
mod services;
mod simulated;
pub mod status;
#[cfg(test)]
mod support;
pub mod terminate;

pub(crate) use again::boot_again;
pub(crate) use boot::Boot;
pub(crate) use checkpoints::remove_left_over;
pub use docker_hosts::Docker;
pub(crate) use moving::{QUIET_MS, clear_hosts};
pub use sandboxes::Sandboxes;
pub(crate) use sandboxes::SilentHosts;
pub use services::{E2b, Fly};

use futures_util::future::{BoxFuture, join};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use theazo_http::{ApiError, Call, ErrorCode, QueryParams, format_time};
use theazo_providers::{AgentRef, Provider, ProviderError, ProviderKind};
use theazo_store::{Agent, AgentFilter, AgentStatus, Agents, Intent, now_ms};
use theazo_tenancy::{Principal, TenantScope};

/// An agent as the API shows it.
fn show(agent: &Agent) -> Value {
    let tools = agent.tools.as_deref().and_then(|tools| serde_json::from_str::<Value>(tools).ok());
    json!({
        "id": agent.id,
        "sessionId": agent.session,
        "userId": agent.user_id,
        "status": agent.status,
        "provider": agent.provider,
        "compute": agent.compute,
        "model": agent.model,
        "instructions": agent.instructions,
        "tools": tools,
        "browser": false,
        "region": agent.region,
        "providerDetails": { "isolation": agent.isolation },
        "metadata": agent.metadata,
        "failure": failure_of(agent),
        "createdAt": format_time(agent.created_at_ms),
    })
}

/// Why an agent has failed, where nobody called for what failed.
fn failure_of(agent: &Agent) -> Option<Value> {
    let silence = agent.silence.filter(|_| agent.status == AgentStatus::Failed)?;
    let message = silence.why.message();
    Some(json!({ "reason": silence.why, "message": message, "since": format_time(silence.since_ms) }))
}

/// The filters of a list of agents.
fn read_filter(query: &QueryParams) -> Result<AgentFilter, ApiError> {
    Ok(AgentFilter {
        status: query.one_of("status", AgentStatus::parse)?,
        provider: query.one_of("provider", ProviderKind::parse)?.map(|kind| kind.as_str().to_owned()),
        compute: query.one_of("compute", parse_compute)?.map(str::to_owned),
    })
}

/// A runtime of the contract.
fn parse_compute(name: &str) -> Option<&'static str> {
    ["python", "node", "go"].into_iter().find(|known| *known == name)
}

/// The caller and the agent that the path names, after one round trip. `parse` reads the rest of the request, so
/// that a caller with no good credential learns nothing of what is wrong with it.
async fn authenticate<T>(
    call: &Call,
    agents: &Agents,
    parse: impl FnOnce() -> Result<T, ApiError> + Send,
) -> Result<(Principal, Agent, T), ApiError>
where
    T: Send,
{
    let read = |scope| -> BoxFuture<'_, Result<(Option<Agent>, T), ApiError>> {
        Box::pin(async move {
            let id = call.request().agent_id()?;
            let parsed = parse()?;
            Ok((agents.get(&scope, &id).await?, parsed))
        })
    };
    let (principal, (agent, parsed)) = call.authenticate_with(read).await?;
    let agent = agent.filter(|agent| principal.scope().sees(&agent.session));
    Ok((principal, agent.ok_or_else(ApiError::not_found)?, parsed))
}

/// The provider of an agent whose sandbox takes calls. In a session that is paused none takes its user's, even where it
/// still runs because its provider cannot pause it, or because it is being paused.
async fn usable(
    principal: &Principal,
    agent: &Agent,
    sandboxes: &Sandboxes,
) -> Result<(Arc<dyn Provider>, AgentRef), ApiError> {
    if !agent.takes_calls() {
        return Err(not_usable(agent));
    }
    if principal.session_is_paused() {
        return Err(ApiError::new(ErrorCode::Conflict, "the session is paused"));
    }
    let scope = principal.scope();
    Ok((sandboxes.of_agent(&scope, agent).await?, AgentRef { agent: agent.id.to_string() }))
}

/// Makes a call to a sandbox that may take so long, and notes side by side that the agent has something to do. The note
/// is of use only to a clean-up that comes minutes later; the call does not fail for it.
async fn noted<T>(
    scope: &TenantScope,
    agent: &Agent,
    agents: &Agents,
    takes: Duration,
    call: impl Future<Output = T>,
) -> T {
    let until_ms = now_ms().saturating_add(i64::try_from(takes.as_millis()).unwrap_or(i64::MAX));
    let (noted, outcome) = join(agents.note_call(scope, agent, until_ms), call).await;
    if let Err(error) = noted {
        tracing::warn!(agent = %agent.id, %error, "a call was not noted");
    }
    outcome
}

/// How long a request waits for a provider, where its answer is no stream: the gateway and Lambda cut those off at 29 s.
/// What is not done by then is for the scheduled clean-up, or for the caller to ask again.
pub(crate) const PROVIDER_WAIT: Duration = Duration::from_secs(22);

/// A call for an agent's files, noted likewise, and given up before the gateway gives up on its answer.
async fn in_time<T>(
    scope: &TenantScope,
    agent: &Agent,
    agents: &Agents,
    call: impl Future<Output = Result<T, ProviderError>>,
) -> Result<T, ProviderError> {
    let call = tokio::time::timeout(PROVIDER_WAIT, call);
    noted(scope, agent, agents, Duration::ZERO, call).await.unwrap_or(Err(ProviderError::TimedOut))
}

/// The refusal of a call that the agent's state does not allow.
fn not_usable(agent: &Agent) -> ApiError {
    let status = agent.status.as_str();
    let state = if agent.intent == Some(Intent::Pausing) { "being paused" } else { status };
    ApiError::new(ErrorCode::Conflict, format!("the agent is {state}")).detail("status", status)
}

/// What the caller learns of a failed call to a sandbox; `field` is where the request names its path. An agent whose
/// sandbox is gone ends with this.
async fn refuse(
    field: &str,
    error: ProviderError,
    principal: &Principal,
    agent: &Agent,
    agents: &Agents,
    sandboxes: &Sandboxes,
) -> ApiError {
    match error {
        ProviderError::SandboxGone => lifecycle::lost(&principal.scope(), agent, agents, sandboxes).await,
        other => failure::to_api_naming(field, &agent.provider, &other),
    }
}
