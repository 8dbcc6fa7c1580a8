//! `GET /v1/usage/users/{userId}`

use super::{live, money, read_period};
use crate::sessions::minutes;
use futures_util::future::try_join;
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, Payer, Sum, Usage, now_ms, unbooked};
use theazo_tenancy::{ReadScope, UserId};

/// What one end user's agents used, in all of their sessions; nothing, of a user whom nobody knows. Models and storage
/// are not metered yet.
pub async fn handle(call: Call, usage: Usage, agents: Agents) -> Result<Answer, ApiError> {
    let now = now_ms();
    let read = |scope: ReadScope| {
        let (call, usage, agents) = (&call, &usage, &agents);
        async move {
            let user = UserId::parse(call.request().param("userId")?)
                .ok_or_else(|| ApiError::invalid("userId", "cannot be a user id"))?;
            let payer = Payer::User(user.to_string());
            let days = read_period(&call.request().query()?, now)?;
            let (sums, live) = try_join(usage.of_payer(&scope, &payer, days), live(agents, &scope)).await?;
            Ok((payer, days, sums, live))
        }
    };
    let (_, (payer, days, mut sums, live)) = call.authenticate_with(read).await?;
    for (_, day, sum) in unbooked(&live, days, now).filter(|(agent, ..)| Payer::of(agent) == payer) {
        *sums.entry(day).or_default() += sum;
    }
    let mut total = Sum::default();
    sums.values().for_each(|sum| total += *sum);
    let breakdown: Vec<Value> =
        sums.iter().map(|(day, sum)| json!({ "date": day.to_string(), "total": money(sum.cost) })).collect();
    Answer::json(
        200,
        &json!({
            "compute": { "minutes": minutes(total.compute_ms), "cost": money(total.cost) },
            "models": { "calls": 0, "tokens": { "input": 0, "output": 0 }, "cost": money(0) },
            "storage": { "gbHours": 0.0, "cost": money(0) },
            "total": money(total.cost),
            "breakdown": breakdown,
        }),
    )
}
