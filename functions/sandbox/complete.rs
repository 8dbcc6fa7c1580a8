//! `POST /a/{token}/v1/sandbox/complete`

use super::Report;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{AgentReports, TokenCopies};

/// What the agent says came of its work. It goes on running, and being metered, until it is ended.
pub async fn handle(call: Call, copies: TokenCopies, reports: AgentReports) -> Result<Answer, ApiError> {
    let report = Report::receive(&call, &copies).await?;
    let (output, artifacts) = (report.kept("output"), report.kept("artifacts"));
    reports.result(&report.scope, &report.agent.id, output.as_deref(), artifacts.as_deref()).await?;
    Ok(Answer::no_content())
}
