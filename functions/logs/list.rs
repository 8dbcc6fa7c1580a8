//! `GET /v1/logs`

use super::{read_filter, show};
use theazo_http::{Answer, ApiError, Call, PageQuery, list_answer};
use theazo_store::Logs;

/// A page of log entries, newest first: the platform's, or those of the session whose token it is. With filters, a page
/// goes through some thousands of entries and may then end early, even empty, with a cursor to go on from.
pub async fn handle(call: Call, logs: Logs) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, logs) = (&call, &logs);
        async move {
            let filter = read_filter(&call.query()?)?;
            let page = PageQuery::parse(call)?;
            let entries = logs.list(&scope, &filter, page.request()).await?;
            Ok((page, entries))
        }
    };
    let (principal, (page, entries)) = call.authenticate_with(read).await?;
    list_answer(&call, &principal, &page, entries, show)
}
