//! `GET /v1/sessions/{id}/usage`

use super::limits;
use crate::metered::Metered;
use crate::usage::until_nothing_is_booked;
use futures_util::future::{try_join, try_join3};
use serde_json::json;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, Sessions, now_ms};

/// What a session has used so far, running agents included.
pub async fn handle(call: Call, sessions: Sessions, agents: Agents) -> Result<Answer, ApiError> {
    let now = now_ms();
    let read = |scope: theazo_tenancy::ReadScope| {
        let (call, sessions, agents) = (&call, &sessions, &agents);
        async move {
            let id = call.request().session_id()?;
            let own = scope.session(&id).ok_or_else(ApiError::not_found)?;
            let counters = sessions.counters(&own);
            let (session, counters, agents) =
                try_join3(sessions.get(&scope, &id), counters, agents.unsettled_of_session(&own)).await?;
            Ok((own, session, (counters, agents)))
        }
    };
    let (principal, (own, session, first)) = call.authenticate_with(read).await?;
    if !session.is_some_and(|session| principal.scope().sees(&session.id)) {
        return Err(ApiError::not_found());
    }
    let (counters, running) = if first.0.active_agents == 0 {
        // All is booked, whatever the agents were as of another moment.
        (first.0, Vec::new())
    } else {
        let again = || try_join(sessions.counters(&own), agents.unsettled_of_session(&own));
        until_nothing_is_booked(first, again).await?
    };
    // What running agents have not booked yet is added here.
    let unbooked = running.iter().flat_map(|agent| agent.unbooked(now));
    let (ms, cost) =
        unbooked.fold((counters.compute_ms, counters.cost), |(ms, cost), part| (ms + part.ms, cost + part.cost));
    let metered = Metered::of(&principal);
    Answer::json(
        200,
        &json!({
            "cost": metered.money(cost),
            "computeMinutes": limits::minutes(metered.ms(ms)),
            "activeAgents": counters.active_agents,
            "totalAgentsCreated": counters.total_agents,
        }),
    )
}
