//! What a platform's agents used and cost: reports of what live keys ran. Running agents are in them to the millisecond.
//! Of test keys nothing is metered, and their reports are empty.

pub mod by_provider;
pub mod daily;
pub mod export;
pub mod summary;
pub mod user;

use serde_json::{Value, json};
use theazo_http::{ApiError, QueryParams};
use theazo_metering::to_cents;
use theazo_store::{Agent, Agents, Days, StoreError};
use theazo_tenancy::{Mode, ReadScope};

/// Micro-cents as the API shows money.
pub(crate) fn money(microcents: i64) -> Value {
    json!({ "amount": to_cents(microcents), "currency": "usd" })
}

/// `today`, `week` (seven days, today the last of them) or `month` (the calendar's, so far), in UTC; a month unless
/// asked otherwise.
fn read_period(query: &QueryParams, now_ms: i64) -> Result<Days, ApiError> {
    let days = query.one_of("period", |name| match name {
        "today" => Some(Days::last(1, now_ms)),
        "week" => Some(Days::last(7, now_ms)),
        "month" => Some(Days::month(now_ms)),
        _ => None,
    })?;
    Ok(days.unwrap_or(Days::month(now_ms)))
}

/// The agents whose running may not be booked yet.
pub(crate) async fn read_live(agents: &Agents, scope: &ReadScope) -> Result<Vec<Agent>, StoreError> {
    match scope.mode() {
        Mode::Live => agents.unsettled_of_platform(scope).await,
        Mode::Test => Ok(Vec::new()),
    }
}

/// The same of agents that were read already.
pub(crate) fn live(mode: Mode, unsettled: &[Agent]) -> &[Agent] {
    match mode {
        Mode::Live => unsettled,
        Mode::Test => &[],
    }
}
