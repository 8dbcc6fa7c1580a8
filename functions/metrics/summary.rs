//! `GET /v1/metrics/summary`

use crate::usage::{money, with_live};
use futures_util::future::try_join;
use serde_json::json;
use std::collections::HashSet;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, Days, Measure, Measured, Metrics, Usage, now_ms, unbooked};
use theazo_tenancy::{Mode, ReadScope};

/// The platform at a glance. An agent is active while it boots or runs, and a session while an agent of it is. Today is
/// the day in UTC; the error rate is that of its boots and execs, and 0 before the first.
pub async fn handle(call: Call, metrics: Metrics, usage: Usage, agents: Agents) -> Result<Answer, ApiError> {
    let now = now_ms();
    let today = Days::last(1, now);
    let read = |scope: ReadScope| {
        let (metrics, usage, agents) = (&metrics, &usage, &agents);
        async move {
            let hours = |measure| metrics.hours(&scope, measure, today.first.start_ms(), now);
            let measured = || try_join(hours(Measure::BootTime), hours(Measure::ExecDuration));
            let reports = || try_join(measured(), usage.by_provider(&scope, today));
            Ok(match scope.mode() {
                Mode::Live => with_live(agents, &scope, reports).await?,
                // Nothing is booked of these.
                Mode::Test => try_join(reports(), agents.unsettled_of_platform(&scope)).await?,
            })
        }
    };
    let (principal, (((boots, execs), sums), unsettled)) = call.authenticate_with(read).await?;
    let mut measured = Measured::default();
    boots.into_values().chain(execs.into_values()).for_each(|hour| measured += hour);
    let active: Vec<_> = unsettled.iter().filter(|agent| agent.status.takes_place()).collect();
    let sessions: HashSet<&str> = active.iter().map(|agent| agent.session.as_str()).collect();
    let metered: &[_] = if principal.scope().mode() == Mode::Live { &unsettled } else { &[] };
    let booked = sums.into_values();
    let cost: i64 = booked.chain(unbooked(metered, today, now).map(|(_, _, sum)| sum)).map(|sum| sum.cost).sum();
    Answer::json(
        200,
        &json!({
            "activeAgents": active.len(),
            "activeSessions": sessions.len(),
            "costToday": money(cost),
            "agentsCreatedToday": measured.created(),
            "errorRate": measured.error_rate().unwrap_or(0.0),
        }),
    )
}
