//! `PATCH /v1/sessions/{id}/limits`

use super::limits;
use futures_util::future::try_join3;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, SessionChanges, Sessions, now_ms};

/// Changes the limits that are named; `null` lifts one. Answers as the GET does.
pub async fn handle(call: Call, sessions: Sessions, agents: Agents) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, sessions) = (&call, &sessions);
        async move {
            let fields = call.request().fields(false)?;
            let single_limits = limits::parse(&fields)?;
            let session = sessions.get(&scope, &call.request().session_id()?).await?;
            Ok((SessionChanges { single_limits, ..SessionChanges::default() }, session))
        }
    };
    let (principal, (changes, session)) = call.authenticate_with(read).await?;
    let scope = principal.scope();
    let session = session.ok_or_else(ApiError::not_found)?;
    let own = scope.session(&session.id).ok_or_else(ApiError::not_found)?;
    let changed = sessions.change_read(&scope, session, &changes);
    let (changed, counters, live) =
        try_join3(changed, sessions.counters(&own), agents.unsettled_of_session(&own)).await?;
    let used = counters.used(&changed, &live, now_ms());
    Answer::json(200, &limits::show(&changed.limits, &counters, &used))
}
