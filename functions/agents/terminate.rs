//! `POST /v1/agents/{id}/terminate`

use super::{Sandboxes, authenticate, lifecycle, show};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::Agents;

/// Ends an agent and leaves nothing at its provider, its checkpoints included. Idempotent.
pub async fn handle(call: Call, agents: Agents, sandboxes: Sandboxes) -> Result<Answer, ApiError> {
    let (principal, agent, ()) = authenticate(&call, &agents, || Ok(())).await?;
    let ended = lifecycle::terminate_in_time(&principal.scope(), &agent, &agents, &sandboxes).await?;
    Answer::json(200, &show(&ended))
}
