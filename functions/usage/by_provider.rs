//! `GET /v1/usage/by-provider`

use super::{money, read_period, with_live};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{Agents, Usage, now_ms, unbooked};
use theazo_tenancy::ReadScope;

/// What agents cost at each provider that any ran on.
pub async fn handle(call: Call, usage: Usage, agents: Agents) -> Result<Answer, ApiError> {
    let now = now_ms();
    let read = |scope: ReadScope| {
        let (call, usage, agents) = (&call, &usage, &agents);
        async move {
            let days = read_period(&call.query()?, now)?;
            let (sums, live) = with_live(agents, &scope, || usage.by_provider(&scope, days)).await?;
            Ok((days, sums, live))
        }
    };
    let (_, (days, sums, live)) = call.authenticate_with(read).await?;
    let mut costs: BTreeMap<String, i64> = BTreeMap::new();
    let booked = sums.into_iter().map(|((_, provider), sum)| (provider, sum));
    for (provider, sum) in booked.chain(unbooked(&live, days, now).map(|(agent, _, sum)| (agent.provider.clone(), sum)))
    {
        *costs.entry(provider).or_default() += sum.cost;
    }
    let shown: Map<String, Value> = costs.into_iter().map(|(provider, cost)| (provider, money(cost))).collect();
    Answer::json(200, &shown)
}
