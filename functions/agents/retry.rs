//! `POST /v1/agents/{id}/retry`

use super::again::{boot_from, may_undo_pause};
use super::boot::Boot;
use super::{Sandboxes, authenticate, checkpoints, not_usable, show};
use theazo_http::{Answer, ApiError, Call, ErrorCode};
use theazo_store::{Agent, AgentCopies, AgentTokens, Agents, Intent, SecretOpener, Sessions, now_ms};
use theazo_tenancy::CheckpointId;

/// Boots an agent that is over from its last checkpoint, or the one that is named, with the vault's secrets of now and all
/// of its running time before it. One that has failed because its host was not to be reached, or has lost what ran there,
/// boots on its own files, unless a checkpoint is named.
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
    let chosen = |agent: &Agent| {
        choose(agent, named.as_ref()).and_then(|chosen| may_undo_pause(&principal, agent).map(|()| chosen))
    };
    let agent = boot_from(&scope, agent, Intent::Retrying, &sessions, &opener, &boot, chosen).await?;
    Answer::json(200, &show(&agent))
}

/// The checkpoint that an agent is retried from; nothing where that is from its own files.
fn choose(agent: &Agent, named: Option<&CheckpointId>) -> Result<Option<CheckpointId>, ApiError> {
    if !agent.status.is_over() {
        return Err(not_usable(agent));
    }
    let conflict = |why: &'static str| ApiError::new(ErrorCode::Conflict, why).detail("status", agent.status.as_str());
    if agent.terminated {
        return Err(conflict("the agent was terminated"));
    }
    if !agent.keeps_files(now_ms()) {
        return Err(conflict("the agent has no checkpoint"));
    }
    if !agent.only_kept {
        // Until then its host may still run it.
        return Err(conflict(match agent.silence {
            Some(_) => "what the agent's last run has left is removed as soon as its host answers again",
            None => "what the agent's last run has left is still being removed",
        }));
    }
    match named {
        Some(id) => {
            agent.kept_checkpoint(id).map(|checkpoint| Some(checkpoint.id.clone())).ok_or_else(checkpoints::not_there)
        }
        None if agent.keeps_own_files() => Ok(None),
        None => Ok(agent.kept_checkpoints().last().map(|checkpoint| checkpoint.id.clone())),
    }
}
