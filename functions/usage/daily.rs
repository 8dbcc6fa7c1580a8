//! `GET /v1/usage/daily`

use super::{money, with_live};
use crate::sessions::minutes;
use futures_util::future::try_join;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use theazo_http::{Answer, ApiError, Call};
use theazo_metering::Day;
use theazo_store::{Agents, Days, Sum, Usage, now_ms, unbooked};
use theazo_tenancy::ReadScope;

/// Each of the last 7 or 30 days in UTC, the earliest first, those without usage too. Calls of models are what agents
/// claim.
pub async fn handle(call: Call, usage: Usage, agents: Agents) -> Result<Answer, ApiError> {
    let now = now_ms();
    let read = |scope: ReadScope| {
        let (call, usage, agents) = (&call, &usage, &agents);
        async move {
            let days = call.query()?.one_of("period", |name| match name {
                "last_7_days" => Some(Days::last(7, now)),
                "last_30_days" => Some(Days::last(30, now)),
                _ => None,
            })?;
            let days = days.unwrap_or(Days::last(30, now));
            let booked = || try_join(usage.by_provider(&scope, days), usage.models_by_day(&scope, days));
            let ((sums, claims), live) = with_live(agents, &scope, booked).await?;
            Ok((days, sums, claims, live))
        }
    };
    let (_, (days, sums, claims, live)) = call.authenticate_with(read).await?;
    let mut by_day: BTreeMap<Day, Sum> = days.each().map(|day| (day, Sum::default())).collect();
    let booked = sums.into_iter().map(|((day, _), sum)| (day, sum));
    for (day, sum) in booked.chain(unbooked(&live, days, now).map(|(_, day, sum)| (day, sum))) {
        *by_day.entry(day).or_default() += sum;
    }
    let shown: Vec<Value> = by_day
        .into_iter()
        .map(|(day, sum)| {
            json!({
                "date": day.to_string(),
                "cost": money(sum.cost),
                "computeMinutes": minutes(sum.compute_ms),
                "modelCalls": claims.get(&day).map_or(0, |claimed| claimed.calls),
            })
        })
        .collect();
    Answer::json(200, &shown)
}
