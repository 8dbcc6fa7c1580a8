//! `GET /v1/agents/{id}/checkpoints`

use super::{authenticate, checkpoints};
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::Agents;

/// An agent's checkpoints, newest first: those that it can be booted from.
pub async fn handle(call: Call, agents: Agents) -> Result<Answer, ApiError> {
    let (_, agent, ()) = authenticate(&call, &agents, || Ok(())).await?;
    let shown: Vec<Value> =
        agent.kept_checkpoints().rev().map(|checkpoint| checkpoints::show(&agent, checkpoint)).collect();
    Answer::json(200, &json!({ "data": shown }))
}
