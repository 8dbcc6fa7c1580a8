//! `GET /v1/agents/{id}/progress`

use super::authenticate;
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call, format_duration, format_time};
use theazo_store::{Agent, AgentStatus, Agents, now_ms};

/// How far an agent has come: how long it has existed and how much of that it ran, and what its last checkpoint
/// said, also when that is not kept any more.
pub async fn handle(call: Call, agents: Agents) -> Result<Answer, ApiError> {
    let (_, agent, ()) = authenticate(&call, &agents, || Ok(())).await?;
    Answer::json(200, &show(&agent, now_ms()))
}

fn show(agent: &Agent, now_ms: i64) -> Value {
    let total = (agent.ended_at_ms.unwrap_or(now_ms) - agent.created_at_ms).max(0);
    let ran = agent.compute_ms(now_ms);
    let last = agent.last_checkpoint.as_ref();
    json!({
        "phase": last.map(|last| &last.phase),
        "progress": last.map(|last| last.progress),
        "checkpoints": agent.kept_checkpoints().count(),
        "totalDuration": format_duration(total),
        "totalDurationMs": total,
        "activeDuration": format_duration(ran),
        "activeDurationMs": ran,
        "status": match agent.status {
            AgentStatus::Booting | AgentStatus::Ready | AgentStatus::Running => "active",
            AgentStatus::Paused => "hibernated",
            AgentStatus::Completed | AgentStatus::Failed => "terminated",
        },
        "lastCheckpointAt": last.map(|last| format_time(last.created_at_ms)),
    })
}
