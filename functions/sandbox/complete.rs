//! `POST /a/{token}/v1/sandbox/complete`

use super::Report;
use serde_json::json;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{AgentReports, LogLevel, LogSource, LogWriter, NewLog, TokenCopies};

/// What the agent says came of its work. It goes on running, and being metered, until it is ended.
pub async fn handle(
    call: Call,
    copies: TokenCopies,
    reports: AgentReports,
    logs: LogWriter,
) -> Result<Answer, ApiError> {
    let report = Report::receive(&call, &copies).await?;
    let (output, artifacts) = (report.kept("output"), report.kept("artifacts"));
    let mut details = json!({ "event": "agent.result" });
    for name in ["output", "artifacts"] {
        if let Some(said) = report.fields.raw(name) {
            details[name] = report.mask_json(said);
        }
    }
    let entry = NewLog::of_agent(&report.agent, LogLevel::Info, LogSource::Agent, "reports its result".to_owned());
    reports.result(&report.scope, &report.agent.id, output.as_deref(), artifacts.as_deref()).await?;
    // Only now: whoever is told that it failed reports again, and there would be two entries of one report.
    logs.later(&report.scope, vec![entry.metadata(&details)]);
    Ok(Answer::no_content())
}
