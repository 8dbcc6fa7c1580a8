//! `GET /v1/agents/{id}/status`

use super::authenticate;
use crate::metered::Metered;
use serde_json::json;
use theazo_http::{Answer, ApiError, Call, format_duration};
use theazo_store::{Agents, now_ms};

/// How an agent stands, how long it has run and what that cost.
pub async fn handle(call: Call, agents: Agents) -> Result<Answer, ApiError> {
    let (principal, agent, ()) = authenticate(&call, &agents, || Ok(())).await?;
    let now = now_ms();
    let ran = agent.compute_ms(now);
    Answer::json(
        200,
        &json!({
            "status": agent.status,
            "duration": format_duration(ran),
            "durationMs": ran,
            "cost": Metered::of(&principal).money(agent.cost(now)),
            "task": null,
            "provider": agent.provider,
            "region": agent.region,
        }),
    )
}
