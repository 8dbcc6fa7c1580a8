//! `POST /v1/agents/{id}/resume`

use super::again::{boot_from, may_resume};
use super::boot::Boot;
use super::create::{no_regions, provider_for, read_region};
use super::{Sandboxes, authenticate, checkpoints, show};
use theazo_http::{Answer, ApiError, Call, ErrorCode};
use theazo_providers::ProviderKind;
use theazo_store::{Agent, AgentCopies, AgentTokens, Agents, Intent, SecretOpener, Sessions};

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
        let named = checkpoints::named(&fields)?;
        Ok((fields.one_of("provider", ProviderKind::parse)?, read_region(&fields)?, named))
    };
    let (principal, agent, (provider, region, named)) = authenticate(&call, &agents, parse).await?;
    let scope = principal.scope();
    let elsewhere = |field: &str, place: &str| {
        let why = format!("the agent's files are at {place}; they cannot be moved");
        Err(ApiError::new(ErrorCode::Conflict, why).detail("field", field))
    };
    if let Some(asked) = provider
        && provider_for(scope.mode(), "provider", asked)?.as_str() != agent.provider
    {
        return elsewhere("provider", &agent.provider);
    }
    if region.is_some() && region != agent.region {
        return match &agent.region {
            Some(own) => elsewhere("region", own),
            None => Err(no_regions(&agent.provider)),
        };
    }
    let chosen = |agent: &Agent| {
        may_resume(&principal, agent)?;
        let is_kept = named.as_ref().is_none_or(|id| agent.kept_checkpoint(id).is_some());
        if is_kept { Ok(named.clone()) } else { Err(checkpoints::not_there()) }
    };
    let agent = boot_from(&scope, agent, Intent::Resuming, &sessions, &opener, &boot, chosen).await?;
    Answer::json(200, &show(&agent))
}
