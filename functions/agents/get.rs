//! `GET /v1/agents/{id}`

use super::{authenticate, show};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::Agents;

/// One agent.
pub async fn handle(call: Call, agents: Agents) -> Result<Answer, ApiError> {
    let (_, agent, ()) = authenticate(&call, &agents, || Ok(())).await?;
    Answer::json(200, &show(&agent))
}
