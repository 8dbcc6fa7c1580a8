//! `GET /v1/sessions/{id}`

use super::show;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::Sessions;

/// One session.
pub async fn handle(call: Call, sessions: Sessions) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, sessions) = (&call, &sessions);
        async move { Ok(sessions.get(&scope, &call.request().session_id()?).await?) }
    };
    let (principal, session) = call.authenticate_with(read).await?;
    let session = session.filter(|session| principal.scope().sees(&session.id));
    Answer::json(200, &show(&session.ok_or_else(ApiError::not_found)?))
}
