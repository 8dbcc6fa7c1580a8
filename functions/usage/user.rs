//! `GET /v1/usage/users/{userId}`

use super::{money, read_period, with_live};
use crate::sessions::minutes;
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call};
use theazo_metering::to_gb_hours;
use theazo_store::{Agents, OfPayer, Payer, ReportedModels, Sum, Usage, now_ms, unbooked};
use theazo_tenancy::{ReadScope, UserId};

/// What one end user's agents used, in all of their sessions; nothing, of a user whom nobody knows. What models cost is
/// what agents claim of it, and no part of the total, which is metered. Storage is that of the files of paused agents, and
/// costs nothing.
pub async fn handle(call: Call, usage: Usage, agents: Agents) -> Result<Answer, ApiError> {
    let now = now_ms();
    let read = |scope: ReadScope| {
        let (call, usage, agents) = (&call, &usage, &agents);
        async move {
            let user = UserId::parse(call.request().param("userId")?)
                .ok_or_else(|| ApiError::invalid("userId", "cannot be a user id"))?;
            let payer = Payer::User(user.to_string());
            let days = read_period(&call.query()?, now)?;
            let (booked, live) = with_live(agents, &scope, || usage.of_payer(&scope, &payer, days)).await?;
            Ok((payer, days, booked, live))
        }
    };
    let (_, (payer, days, OfPayer { mut sums, claimed }, live)) = call.authenticate_with(read).await?;
    for (_, day, sum) in unbooked(&live, days, now).filter(|(agent, ..)| Payer::of(agent) == payer) {
        *sums.entry(day).or_default() += sum;
    }
    let mut total = Sum::default();
    sums.values().for_each(|sum| total += *sum);
    let breakdown: Vec<Value> =
        sums.iter().map(|(day, sum)| json!({ "date": day.to_string(), "total": money(sum.cost) })).collect();
    let mut models = ReportedModels::default();
    claimed.into_values().for_each(|claimed| models += claimed);
    Answer::json(
        200,
        &json!({
            "compute": { "minutes": minutes(total.compute_ms), "cost": money(total.cost) },
            "models": {
                "calls": models.calls,
                "tokens": { "input": models.input_tokens, "output": models.output_tokens },
                "cost": money(i64::try_from(models.cost).unwrap_or(i64::MAX)),
            },
            "storage": { "gbHours": to_gb_hours(total.storage), "cost": money(0) },
            "total": money(total.cost),
            "breakdown": breakdown,
        }),
    )
}
