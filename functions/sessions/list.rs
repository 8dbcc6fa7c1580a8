//! `GET /v1/sessions`

use super::show;
use theazo_http::{Answer, ApiError, Call, PageQuery, list_answer, parse_time_ms};
use theazo_store::{SessionFilter, SessionStatus, Sessions};
use theazo_tenancy::UserId;

/// A page of sessions, newest first.
pub async fn handle(call: Call, sessions: Sessions) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, sessions) = (&call, &sessions);
        async move {
            let query = call.query()?;
            let filter = SessionFilter {
                status: query.one_of("status", SessionStatus::parse)?,
                user: query.one_of("userId", UserId::parse)?,
                created_after_ms: query.one_of("createdAfter", parse_time_ms)?,
            };
            let page = PageQuery::parse(call)?;
            let rows = sessions.list(&scope, &filter, page.request()).await?;
            Ok((page, rows))
        }
    };
    let (principal, (page, rows)) = call.authenticate_with(read).await?;
    list_answer(&call, &principal, &page, rows, show)
}
