//! `GET /v1/sessions/{id}/usage`

use futures_util::future::try_join3;
use serde_json::json;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, Sessions, now_ms};

/// What a session has used so far, running agents included.
pub async fn handle(call: Call, sessions: Sessions, agents: Agents) -> Result<Answer, ApiError> {
    let read = |scope: theazo_tenancy::ReadScope| {
        let (call, sessions, agents) = (&call, &sessions, &agents);
        async move {
            let id = call.request().session_id()?;
            let own = scope.session(&id).ok_or_else(ApiError::not_found)?;
            let counters = sessions.counters(&own);
            Ok(try_join3(sessions.get(&scope, &id), counters, agents.unsettled_of_session(&own)).await?)
        }
    };
    let (principal, (session, counters, agents)) = call.authenticate_with(read).await?;
    if !session.is_some_and(|session| principal.scope().sees(&session.id)) {
        return Err(ApiError::not_found());
    }
    // An ended agent's time was booked when it ended; only those still alive are added here.
    let now = now_ms();
    let running: i64 = agents.iter().filter(|agent| !agent.status.is_over()).map(|agent| agent.compute_ms(now)).sum();
    let minutes = (counters.compute_ms + running) as f64 / 60_000.0;
    Answer::json(
        200,
        &json!({
            "cost": { "amount": 0, "currency": "usd" },
            "computeMinutes": (minutes * 100.0).round() / 100.0,
            "activeAgents": counters.active_agents,
            "totalAgentsCreated": counters.total_agents,
        }),
    )
}
