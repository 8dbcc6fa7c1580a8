//! `PATCH /v1/sessions/{id}/limits`

use super::{limits_get, parse_limits};
use futures_util::future::try_join;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{SessionChanges, Sessions};

/// Changes the limits that are named; `null` lifts one. Answers as the GET does.
pub async fn handle(call: Call, sessions: Sessions) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, sessions) = (&call, &sessions);
        async move {
            let fields = call.request().fields(false)?;
            let given = parse_limits(&fields)?;
            let lifted = fields.is_null("maxAgents");
            let session = sessions.get(&scope, &call.request().session_id()?).await?;
            Ok((given, lifted, session))
        }
    };
    let (principal, (given, lifted, session)) = call.authenticate_with(read).await?;
    let scope = principal.scope();
    let session = session.ok_or_else(ApiError::not_found)?;
    let own = scope.session(&session.id).ok_or_else(ApiError::not_found)?;
    // One limit is built; with more, those that are not named must keep what they have at the time of the write.
    let named = given.max_agents.is_some() || lifted;
    let changes = SessionChanges { limits: named.then_some(given), metadata: None };
    let (changed, counters) =
        try_join(sessions.change_read(&scope, session, &changes), sessions.counters(&own)).await?;
    Answer::json(200, &limits_get::show(&changed.limits, &counters))
}
