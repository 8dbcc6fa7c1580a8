//! `POST /a/{token}/v1/sandbox/progress`

use super::{Report, amount};
use serde_json::json;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{AgentReports, LogLevel, LogSource, LogWriter, NewLog, TokenCopies};

/// How far the agent says it is.
pub async fn handle(
    call: Call,
    copies: TokenCopies,
    reports: AgentReports,
    logs: LogWriter,
) -> Result<Answer, ApiError> {
    let report = Report::receive(&call, &copies).await?;
    let percentage = amount(&report.fields, "percentage", 100.0)?;
    let percentage = percentage.ok_or_else(|| ApiError::invalid("percentage", "is required"))?;
    let message = report.mask(report.fields.text("message", 4096)?.unwrap_or_default());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 100")]
    let percentage = percentage as u8;
    let details = json!({ "event": "agent.progress", "percentage": percentage, "message": message });
    let entry = NewLog::of_agent(&report.agent, LogLevel::Info, LogSource::Agent, format!("progress: {percentage} %"));
    reports.progress(&report.scope, &report.agent.id, percentage, &message).await?;
    // Only now: whoever is told that it failed reports again, and there would be two entries of one report.
    logs.later(&report.scope, vec![entry.metadata(&details)]);
    Ok(Answer::no_content())
}
