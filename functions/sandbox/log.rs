//! `POST /a/{token}/v1/sandbox/log`

use super::Report;
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
    let entry = match report.fields.raw("metadata") {
        Some(metadata) => entry.metadata(&report.mask_json(metadata)),
        None => entry,
    };
    logs.append(&report.scope, vec![entry]).await?;
    Ok(Answer::no_content())
}
