//! `GET /v1/sessions/{id}/agents`

use super::{read_filter, show};
use futures_util::future::try_join;
use theazo_http::{Answer, ApiError, Call, PageQuery, list_answer};
use theazo_store::{Agents, Sessions};

/// A page of one session's agents, newest first.
pub async fn handle(call: Call, sessions: Sessions, agents: Agents) -> Result<Answer, ApiError> {
    let read = |scope: theazo_tenancy::ReadScope| {
        let (call, sessions, agents) = (&call, &sessions, &agents);
        async move {
            let filter = read_filter(&call.query()?)?;
            let page = PageQuery::parse(call)?;
            let id = call.request().session_id()?;
            let own = scope.session(&id).ok_or_else(ApiError::not_found)?;
            let rows = agents.list_of_session(&own, &filter, page.request());
            let (session, rows) = try_join(sessions.get(&scope, &id), rows).await?;
            Ok((page, session, rows))
        }
    };
    let (principal, (page, session, rows)) = call.authenticate_with(read).await?;
    if !session.is_some_and(|session| principal.scope().sees(&session.id)) {
        return Err(ApiError::not_found());
    }
    list_answer(&call, &principal, &page, rows, show)
}
