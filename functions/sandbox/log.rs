//! `POST /a/{token}/v1/sandbox/log`

use super::Report;
use serde_json::json;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{LogLevel, LogSource, LogWriter, NewLog, TokenCopies};

/// A line of the agent's own log.
pub async fn handle(call: Call, copies: TokenCopies, logs: LogWriter) -> Result<Answer, ApiError> {
    let report = Report::receive(&call, &copies).await?;
    let level = report.fields.one_of("level", LogLevel::parse)?.unwrap_or(LogLevel::Info);
    let message = report.mask(report.fields.required_text("message", super::MAX_BODY)?);
    // Whatever its names are: they are the agent's own.
    report.fields.object("metadata")?;
    let entry = NewLog::of_agent(&report.agent, level, LogSource::Agent, message);
    let mut details = report.fields.raw("metadata").map(|metadata| report.mask_json(metadata));
    // Its own word for when that was: lines may be kept back, and the entry's time is when it came.
    if let Some(at) = report.fields.raw("timestamp") {
        let details = details.get_or_insert_with(|| json!({}));
        if details.get("claimedAt").is_none() {
            details["claimedAt"] = report.mask_json(at);
        }
    }
    let entry = match details {
        Some(details) => entry.metadata(&details),
        None => entry,
    };
    logs.append(&report.scope, vec![entry]).await?;
    Ok(Answer::no_content())
}
