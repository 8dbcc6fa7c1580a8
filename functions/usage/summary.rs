//! `GET /v1/usage/summary`

use super::{money, read_period, with_live};
use futures_util::future::try_join;
use serde_json::json;
use std::collections::{BTreeMap, HashSet};
use theazo_http::{Answer, ApiError, Call};
use theazo_store::{AgentStatus, Agents, Days, Payer, StoreError, Sum, Usage, now_ms, unbooked};
use theazo_tenancy::ReadScope;

/// The platform at a glance. A session is active while an agent of it boots or runs.
pub async fn handle(call: Call, usage: Usage, agents: Agents) -> Result<Answer, ApiError> {
    let now = now_ms();
    let read = |scope: ReadScope| {
        let (call, usage, agents) = (&call, &usage, &agents);
        async move {
            let days = read_period(&call.query()?, now)?;
            let booked = || try_join(usage.by_provider(&scope, days), payers(usage, &scope, days, now));
            let ((sums, payers), live) = with_live(agents, &scope, booked).await?;
            Ok((days, sums, payers, live))
        }
    };
    let (_, (days, sums, mut payers, live)) = call.authenticate_with(read).await?;
    let mut total: i64 = sums.values().map(|sum| sum.cost).sum();
    for (agent, _, sum) in unbooked(&live, days, now) {
        total += sum.cost;
        *payers.entry(Payer::of(agent)).or_default() += sum;
    }
    let at_work: Vec<_> = live.iter().filter(|agent| agent.status.takes_place()).collect();
    let sessions: HashSet<&str> = at_work.iter().map(|agent| agent.session.as_str()).collect();
    let running = at_work.iter().filter(|agent| agent.status != AgentStatus::Booting).count();
    let users = payers.iter().filter_map(|(payer, sum)| match payer {
        Payer::User(user) => Some((user, sum)),
        Payer::Session(_) => None,
    });
    let top = users.max_by_key(|(_, sum)| **sum);
    Answer::json(
        200,
        &json!({
            "totalCost": money(total),
            "activeSessions": sessions.len(),
            "runningAgents": running,
            "topUser": top.map(|(user, sum)| json!({ "userId": user, "cost": money(sum.cost) })),
        }),
    )
}

/// A month's payers have a row each; of other spans their days are added up.
async fn payers(usage: &Usage, scope: &ReadScope, days: Days, now_ms: i64) -> Result<BTreeMap<Payer, Sum>, StoreError> {
    if days.is_month(now_ms) {
        return usage.of_month(scope, days.last).await;
    }
    let mut payers: BTreeMap<Payer, Sum> = BTreeMap::new();
    for ((_, payer), sum) in usage.by_payer(scope, days).await? {
        *payers.entry(payer).or_default() += sum;
    }
    Ok(payers)
}
