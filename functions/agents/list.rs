//! `GET /v1/agents`

use super::{read_filter, show};
use theazo_http::{Answer, ApiError, Call, PageQuery, list_answer};
use theazo_store::Agents;

/// A page of the platform's agents, newest first.
pub async fn handle(call: Call, agents: Agents) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, agents) = (&call, &agents);
        async move {
            let filter = read_filter(&call.query()?)?;
            let page = PageQuery::parse(call)?;
            let rows = agents.list(&scope, &filter, page.request()).await?;
            Ok((page, rows))
        }
    };
    let (principal, (page, rows)) = call.authenticate_with(read).await?;
    list_answer(&call, &principal, &page, rows, show)
}
