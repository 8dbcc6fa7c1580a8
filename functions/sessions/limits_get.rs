//! `GET /v1/sessions/{id}/limits`

use super::limits;
use futures_util::future::try_join3;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, Sessions, now_ms};

/// Each limit that is set, and how much of it is used.
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
    let (principal, (session, counters, live)) = call.authenticate_with(read).await?;
    let session = session.filter(|session| principal.scope().sees(&session.id)).ok_or_else(ApiError::not_found)?;
    let used = counters.used(&session, &live, now_ms());
    Answer::json(200, &limits::show(&session.limits, &counters, &used))
}
