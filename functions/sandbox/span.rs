//! `POST /a/{token}/v1/sandbox/span`

use super::{Report, amount, check_time};
use serde_json::{Map, Value};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{LogLevel, LogSource, LogWriter, NewLog, TokenCopies};

/// Longest span, milliseconds: longer than any agent runs.
const MAX_SPAN_MS: f64 = 7.0 * 24.0 * 60.0 * 60.0 * 1000.0;
/// What is kept of a span besides its name.
const DETAILS: [&str; 6] = ["startTime", "endTime", "durationMs", "status", "error", "attributes"];

/// A stretch of the agent's work, kept as a log entry.
pub async fn handle(call: Call, copies: TokenCopies, logs: LogWriter) -> Result<Answer, ApiError> {
    let report = Report::receive(&call, &copies).await?;
    let fields = &report.fields;
    let name = report.mask(fields.required_text("name", 256)?);
    let status = fields.text("status", 64)?;
    let failed = fields.raw("error").is_some() || status.is_some_and(|status| status.eq_ignore_ascii_case("error"));
    check_time(fields, "startTime")?;
    check_time(fields, "endTime")?;
    amount(fields, "durationMs", MAX_SPAN_MS)?;
    fields.object("attributes")?;
    if !matches!(fields.raw("error"), None | Some(Value::String(_) | Value::Object(_))) {
        return Err(ApiError::invalid("error", "must be a string or an object"));
    }
    let given = DETAILS.iter().filter_map(|name| Some(((*name).to_owned(), report.mask_json(fields.raw(name)?))));
    let details = Value::Object(given.collect::<Map<_, _>>());
    let level = if failed { LogLevel::Error } else { LogLevel::Debug };
    let entry = NewLog::of_agent(&report.agent, level, LogSource::Agent, format!("span {name}")).metadata(&details);
    logs.append(&report.scope, vec![entry]).await?;
    Ok(Answer::no_content())
}
