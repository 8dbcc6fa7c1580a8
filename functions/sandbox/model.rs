//! `POST /a/{token}/v1/sandbox/model`

use super::{Report, amount};
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call, Fields};
use theazo_store::{
    AgentReports, LogLevel, LogSource, LogWriter, MAX_CLAIMED_COST, MAX_CLAIMED_TOKENS, NewLog, ReportedCall,
    TokenCopies,
};

const MICRO_CENTS_PER_CENT: u64 = 1_000_000;
const MICRO_CENTS_PER_DOLLAR: f64 = 100_000_000.0;

/// A call of a model, as the agent claims it: tokens and cost, kept apart from what is metered.
pub async fn handle(
    call: Call,
    copies: TokenCopies,
    reports: AgentReports,
    logs: LogWriter,
) -> Result<Answer, ApiError> {
    let report = Report::receive(&call, &copies).await?;
    let fields = &report.fields;
    let model = report.mask(fields.required_text("model", 256)?);
    let claim = ReportedCall {
        input_tokens: tokens(fields, "inputTokens")?,
        output_tokens: tokens(fields, "outputTokens")?,
        cost: cost(fields)?,
    };
    let details = json!({ "model": model, "inputTokens": claim.input_tokens, "outputTokens": claim.output_tokens });
    let entry = NewLog::of_agent(&report.agent, LogLevel::Info, LogSource::Model, format!("called {model}"));
    reports.model(&report.scope, &report.agent, &claim).await?;
    // Only now, and whatever comes of it: whoever is told that it failed reports again. There would be two entries of one
    // report, or its tokens would be counted twice.
    logs.later(&report.scope, vec![entry.metadata(&details)]);
    Ok(Answer::no_content())
}

fn tokens(fields: &Fields, name: &str) -> Result<u64, ApiError> {
    let tokens = fields.number(name, 0, MAX_CLAIMED_TOKENS)?;
    tokens.ok_or_else(|| ApiError::invalid(name, "is required"))
}

/// Dollars as a number, or `{amount, currency}` in cents as everywhere else, in micro-cents.
fn cost(fields: &Fields) -> Result<u64, ApiError> {
    if let Some(Value::Object(_)) = fields.raw("cost") {
        let Some(money) = fields.object("cost")? else { return Ok(0) };
        money.one_of("currency", |currency| (currency == "usd").then_some(()))?;
        let cents = money.number("amount", 0, MAX_CLAIMED_COST / MICRO_CENTS_PER_CENT)?;
        return Ok(cents.unwrap_or(0) * MICRO_CENTS_PER_CENT);
    }
    #[expect(clippy::cast_precision_loss, reason = "the bound has far fewer digits than a double holds")]
    let dollars = amount(fields, "cost", MAX_CLAIMED_COST as f64 / MICRO_CENTS_PER_DOLLAR)?.unwrap_or(0.0);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is within bounds")]
    let micro_cents = (dollars * MICRO_CENTS_PER_DOLLAR).round() as u64;
    Ok(micro_cents)
}
