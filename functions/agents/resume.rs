//! `POST /v1/agents/{id}/resume`

use super::again::{boot_again, may_resume};
use super::boot::Boot;
use super::create::provider_for;
use super::{Sandboxes, authenticate, show};
use theazo_http::{Answer, ApiError, Call, ErrorCode};
use theazo_providers::ProviderKind;
use theazo_store::{Agent, AgentCopies, AgentTokens, Agents, Intent, SecretOpener, Sessions};

/// What is part of the contract and not built yet.
const UNBUILT: &[&str] = &["region", "checkpoint"];

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
        fields.one_of("provider", ProviderKind::parse)
    };
    let (principal, agent, asked) = authenticate(&call, &agents, parse).await?;
    let scope = principal.scope();
    if let Some(asked) = asked
        && provider_for(scope.mode(), "provider", asked)?.as_str() != agent.provider
    {
        let why = format!("the agent's files are at {}; they cannot be moved", agent.provider);
        return Err(ApiError::new(ErrorCode::Conflict, why).detail("field", "provider"));
    }
    let allowed = |agent: &Agent| may_resume(&principal, agent);
    let agent = boot_again(&scope, agent, Intent::Resuming, &sessions, &opener, &boot, allowed).await?;
    Answer::json(200, &show(&agent))
}
