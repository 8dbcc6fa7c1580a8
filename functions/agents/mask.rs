//! Masking what an agent gives away of the secrets it booted with.

use theazo_http::ApiError;
use theazo_redaction::{Masked, Redactor};
use theazo_store::{Agent, AgentCopies, SealedCopies};
use theazo_tenancy::TenantScope;

/// Masks the output of one agent. It cannot be had without the agent's copies, and those that are missing are an error.
pub(super) async fn redactor(
    scope: &TenantScope,
    agent: &Agent,
    copies: &AgentCopies,
    sealed: &SealedCopies,
) -> Result<Redactor, ApiError> {
    let opened = copies.open(scope, agent, sealed).await?;
    Ok(Redactor::new(opened.iter().map(|(name, value)| Masked { name, value })))
}
