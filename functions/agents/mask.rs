//! Masking what an agent gives away of the secrets it booted with.

use super::not_usable;
use theazo_http::ApiError;
use theazo_redaction::{Masked, Redactor};
use theazo_store::{Agent, AgentCopies, Agents, SealedCopies, StoreError};
use theazo_tenancy::TenantScope;

/// Masks the output of one agent. It cannot be had without the agent's copies, and those that are missing are an error,
/// unless the agent turns out to have ended or stopped since it was read, or to have come to take calls only after its
/// copies were.
pub(super) async fn redactor(
    scope: &TenantScope,
    agent: &Agent,
    agents: &Agents,
    copies: &AgentCopies,
    sealed: &SealedCopies,
) -> Result<Redactor, ApiError> {
    let opened = match copies.open(scope, agent, sealed).await {
        Err(StoreError::Corrupt(_)) => {
            let agent = agents.get(scope, &agent.id).await?.ok_or_else(ApiError::not_found)?;
            if !agent.takes_calls() {
                return Err(not_usable(&agent));
            }
            copies.open(scope, &agent, &copies.load(scope, &agent.id).await?).await
        }
        opened => opened,
    };
    Ok(Redactor::new(opened?.iter().map(|(name, value)| Masked { name, value })))
}
