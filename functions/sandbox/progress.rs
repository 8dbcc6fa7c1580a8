//! `POST /a/{token}/v1/sandbox/progress`

use super::{Report, amount};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{AgentReports, TokenCopies};

/// How far the agent says it is.
pub async fn handle(call: Call, copies: TokenCopies, reports: AgentReports) -> Result<Answer, ApiError> {
    let report = Report::receive(&call, &copies).await?;
    let percentage = amount(&report.fields, "percentage", 100.0)?;
    let percentage = percentage.ok_or_else(|| ApiError::invalid("percentage", "is required"))?;
    let message = report.mask(report.fields.text("message", 4096)?.unwrap_or_default());
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 100")]
    reports.progress(&report.scope, &report.agent.id, percentage as u8, &message).await?;
    Ok(Answer::no_content())
}
