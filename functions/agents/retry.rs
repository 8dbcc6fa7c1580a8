//! `POST /v1/agents/{id}/retry`

use super::again::boot_from;
use super::boot::Boot;
use super::{Sandboxes, authenticate, checkpoints, not_usable, show};
use theazo_http::{Answer, ApiError, Call, ErrorCode};
use theazo_store::{Agent, AgentCopies, AgentTokens, Agents, Intent, SecretOpener, Sessions, now_ms};
use theazo_tenancy::CheckpointId;

/// Boots an agent that is over from its last checkpoint, or the one that is named, with the vault's secrets of now and all
/// of its running time before it.
pub async fn handle(
    call: Call,
    sessions: Sessions,
    agents: Agents,
    opener: SecretOpener,
    copies: AgentCopies,
    tokens: AgentTokens,
    sandboxes: Sandboxes,
) -> Result<Answer, ApiError> {
    let boot = Boot::begin(agents.clone(), copies, tokens, sandboxes);
    let parse = || checkpoints::named(&call.request().fields(true)?);
    let (principal, agent, named) = authenticate(&call, &agents, parse).await?;
    let scope = principal.scope();
    let chosen = |agent: &Agent| choose(agent, named.as_ref()).map(Some);
    let agent = boot_from(&scope, agent, Intent::Retrying, &sessions, &opener, &boot, chosen).await?;
    Answer::json(200, &show(&agent))
}

/// The checkpoint that an agent is retried from.
fn choose(agent: &Agent, named: Option<&CheckpointId>) -> Result<CheckpointId, ApiError> {
    if !agent.status.is_over() {
        return Err(not_usable(agent));
    }
    let conflict = |why: &'static str| ApiError::new(ErrorCode::Conflict, why).detail("status", agent.status.as_str());
    if agent.terminated {
        return Err(conflict("the agent was terminated"));
    }
    let last = agent.kept_checkpoints().last().filter(|_| agent.keeps_checkpoints(now_ms()));
    let last = last.ok_or_else(|| conflict("the agent has no checkpoint"))?;
    if !agent.only_checkpoints {
        return Err(conflict("what the agent's last run has left is still being removed"));
    }
    match named {
        Some(id) => {
            agent.kept_checkpoint(id).map(|checkpoint| checkpoint.id.clone()).ok_or_else(checkpoints::not_there)
        }
        None => Ok(last.id.clone()),
    }
}
