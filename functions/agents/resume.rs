//! `POST /v1/agents/{id}/resume`

use super::again::{boot_from, may_resume};
use super::boot::Boot;
use super::create::provider_for;
use super::{Sandboxes, authenticate, checkpoints, show};
use theazo_http::{Answer, ApiError, Call, ErrorCode};
use theazo_providers::ProviderKind;
use theazo_store::{Agent, AgentCopies, AgentTokens, Agents, Intent, SecretOpener, Sessions};

/// What is part of the contract and not built yet.
const UNBUILT: &[&str] = &["region"];

/// Boots a paused agent on its files, or on those of a checkpoint that is named, with the vault's secrets of now.
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
    let parse = || {
        let fields = call.request().fields(true)?;
        fields.refuse_unbuilt(UNBUILT)?;
        Ok((fields.one_of("provider", ProviderKind::parse)?, checkpoints::named(&fields)?))
    };
    let (principal, agent, (asked, named)) = authenticate(&call, &agents, parse).await?;
    let scope = principal.scope();
    if let Some(asked) = asked
        && provider_for(scope.mode(), "provider", asked)?.as_str() != agent.provider
    {
        let why = format!("the agent's files are at {}; they cannot be moved", agent.provider);
        return Err(ApiError::new(ErrorCode::Conflict, why).detail("field", "provider"));
    }
    let chosen = |agent: &Agent| {
        may_resume(&principal, agent)?;
        let is_kept = named.as_ref().is_none_or(|id| agent.kept_checkpoint(id).is_some());
        if is_kept { Ok(named.clone()) } else { Err(checkpoints::not_there()) }
    };
    let agent = boot_from(&scope, agent, Intent::Resuming, &sessions, &opener, &boot, chosen).await?;
    Answer::json(200, &show(&agent))
}
