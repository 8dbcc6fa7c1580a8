//! `POST /v1/agents/{id}/resume`

use super::again::{boot_again, may_resume};
use super::boot::Boot;
use super::create::{no_regions, provider_for, read_region};
use super::{Sandboxes, authenticate, show};
use theazo_http::{Answer, ApiError, Call, ErrorCode};
use theazo_providers::ProviderKind;
use theazo_store::{Agent, AgentCopies, AgentTokens, Agents, Intent, SecretOpener, Sessions};

/// What is part of the contract and not built yet.
const UNBUILT: &[&str] = &["checkpoint"];

/// Boots a paused agent on its files, with the vault's secrets of now.
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
        Ok((fields.one_of("provider", ProviderKind::parse)?, read_region(&fields)?))
    };
    let (principal, agent, (provider, region)) = authenticate(&call, &agents, parse).await?;
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
    let allowed = |agent: &Agent| may_resume(&principal, agent);
    let agent = boot_again(&scope, agent, Intent::Resuming, &sessions, &opener, &boot, allowed).await?;
    Answer::json(200, &show(&agent))
}
