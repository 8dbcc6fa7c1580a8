//! `POST /v1/agents/{id}/restart`

use super::again::{boot_again, may_restart};
use super::boot::Boot;
use super::{Sandboxes, authenticate, show};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{AgentCopies, AgentTokens, Agents, Intent, SecretOpener, Sessions};

/// Boots a running agent again on the same files, with the vault's secrets of now.
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
    let (principal, agent, ()) = authenticate(&call, &agents, || Ok(())).await?;
    let scope = principal.scope();
    let agent = boot_again(&scope, agent, Intent::Restarting, &sessions, &opener, &boot, may_restart).await?;
    Answer::json(200, &show(&agent))
}
