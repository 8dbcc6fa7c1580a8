//! `GET /v1/agents/{id}/progress`

use super::authenticate;
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call, format_duration};
use theazo_store::{Agent, AgentStatus, Agents, now_ms};

/// How far an agent has come: how long it has existed and how much of that it ran. Checkpoints are not built yet, so none
/// is counted.
pub async fn handle(call: Call, agents: Agents) -> Result<Answer, ApiError> {
    let (_, agent, ()) = authenticate(&call, &agents, || Ok(())).await?;
    Answer::json(200, &show(&agent, now_ms()))
}

fn show(agent: &Agent, now_ms: i64) -> Value {
    let total = (agent.ended_at_ms.unwrap_or(now_ms) - agent.created_at_ms).max(0);
    let ran = agent.compute_ms(now_ms);
    json!({
        "phase": null,
        "checkpoints": 0,
        "totalDuration": format_duration(total),
        "totalDurationMs": total,
        "activeDuration": format_duration(ran),
        "activeDurationMs": ran,
        "status": match agent.status {
            AgentStatus::Booting | AgentStatus::Ready | AgentStatus::Running => "active",
            AgentStatus::Paused => "hibernated",
            AgentStatus::Completed | AgentStatus::Failed => "terminated",
        },
        "lastCheckpointAt": null,
    })
}
