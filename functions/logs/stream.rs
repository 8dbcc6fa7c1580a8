//! `GET /v1/logs/stream`

use super::{Live, last_event_id, read_filter};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Logs, now_ms};

/// How far back a stream begins whose reader does not say from when, milliseconds: 15 minutes.
const HISTORY_MS: i64 = 15 * 60 * 1000;

/// Log entries as Server-Sent Events, oldest first: from `since` on, or from after `Last-Event-ID`, and then as they are
/// written. The other filters are those of the list, but for `until`.
pub async fn handle(call: Call, logs: Logs) -> Result<Answer, ApiError> {
    let read = |scope| {
        let (call, logs) = (&call, &logs);
        async move {
            let mut filter = read_filter(&call.query()?)?;
            if filter.until_ms.is_some() {
                return Err(ApiError::invalid("until", "is for lists; a stream goes on"));
            }
            let after = last_event_id(call)?;
            filter.since_ms = filter.since_ms.or_else(|| after.is_none().then(|| now_ms() - HISTORY_MS));
            Ok(logs.tail(&scope, filter, after).await?)
        }
    };
    let (_, tail) = call.authenticate_with(read).await?;
    Ok(Live::new(call, tail.ok_or_else(ApiError::not_found)?, None).answer())
}
