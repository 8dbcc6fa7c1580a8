//! A busy month of one platform: what 100,000 runs of agents left behind is reported exactly, by every path, at once.

use crate::harness::{OwnStack, Platform, dynamodb};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use theazo_local::Stack;
use theazo_metering::{Day, cost_of, parts, to_cents};
use theazo_store::now_ms;
use theazo_tenancy::{Mode, Operator, SessionId};

const INTERVALS: u64 = 100_000;
const USERS: u64 = 200;
const PROVIDERS: [(&str, u64); 3] = [("docker", 60_000_001), ("e2b", 10_890_000), ("fly", 3_599_999)];
/// Rows of one request, a limit of DynamoDB.
const BATCH: usize = 25;

/// Numbers that look like chance and are the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// What the runs cost, micro-cents: in all, by user, by provider and by day.
#[derive(Default)]
struct Costs {
    total: i64,
    users: BTreeMap<u64, i64>,
    providers: BTreeMap<&'static str, i64>,
    days: BTreeMap<String, i64>,
    days_of_user_7: u32,
}

/// Books the runs of a month so far as the transactions that end runs do, and tells what they cost.
#[expect(clippy::disallowed_methods, reason = "a test writes for a tenant without a caller")]
async fn book(stack: &Stack, platform: &Platform, now: i64) -> Costs {
    let scope = Operator::assume().tenant(&platform.id, Mode::Live);
    let own = scope.session(&SessionId::make()).unwrap();
    let month = Day::of(now).month();
    let span = u64::try_from(now - month.first_day().start_ms()).unwrap().max(2);
    let (mut chance, mut costs) = (Chance(7), Costs::default());
    let mut rows: BTreeMap<(String, String), (i64, i64)> = BTreeMap::new();
    for _ in 0..INTERVALS {
        let (user, (provider, rate)) = (chance.below(USERS), PROVIDERS[chance.below(3) as usize]);
        let start = now - i64::try_from(chance.below(span)).unwrap();
        let length = i64::try_from(chance.below(3 * 3_600_000)).unwrap().min(now - start);
        let cost = cost_of(rate, length);
        costs.total += cost;
        *costs.users.entry(user).or_default() += cost;
        *costs.providers.entry(provider).or_default() += cost;
        let payer = format!("u#user-{user}");
        for part in parts(rate, start, start, start + length) {
            let day = part.day.to_string();
            *costs.days.entry(day.clone()).or_default() += part.cost;
            let day = day.rsplit('-').next().unwrap();
            for row in [format!("day#{day}#{provider}"), format!("user#{payer}"), format!("user-day#{day}#{payer}")] {
                let sum = rows.entry((payer.clone(), row)).or_default();
                *sum = (sum.0 + part.ms, sum.1 + part.cost);
            }
        }
    }
    // A day's row of a provider is one for all payers of a partition.
    let mut items: BTreeMap<(String, String), (i64, i64)> = BTreeMap::new();
    for ((payer, row), (ms, cost)) in rows {
        let key = own.usage_key_of_platform(&month.to_string(), &payer, &row);
        let sum = items.entry((key.pk().to_owned(), key.sk().to_owned())).or_default();
        *sum = (sum.0 + ms, sum.1 + cost);
    }
    let url = stack.dynamodb_url();
    let table = stack.deployment().config().table.clone();
    let puts: Vec<Value> = items
        .into_iter()
        .map(|((pk, sk), (ms, cost))| {
            let number = |value: i64| json!({ "N": value.to_string() });
            let mut item =
                json!({ "pk": { "S": pk }, "sk": { "S": sk }, "compute_ms": number(ms), "cost": number(cost) });
            if sk.starts_with("user-day#") && sk.ends_with("#u#user-7") {
                // A gigabyte-hour each day that they ran anything.
                item["stored_byte_ms"] = number(3_600_000_000_000_000);
                costs.days_of_user_7 += 1;
            }
            json!({ "PutRequest": { "Item": item } })
        })
        .collect();
    for batch in puts.chunks(BATCH) {
        dynamodb(&url, "BatchWriteItem", json!({ "RequestItems": { table.as_str(): batch } })).await;
    }
    costs
}

#[tokio::test]
async fn a_month_of_a_hundred_thousand_runs_is_reported_exactly_in_three_round_trips_at_most_by_every_path() {
    // A table of its own: to fill it takes time that other tests would wait for.
    let (own, _) = OwnStack::start(None).await;
    let platform = Platform::make_on(&own.stack, "a busy month").await;
    let client = &platform.client;
    let now = now_ms();
    let costs = book(&own.stack, &platform, now).await;
    let mut answers = BTreeMap::new();
    for path in [
        "/v1/usage/summary?period=month",
        "/v1/usage/users/user-7?period=month",
        "/v1/usage/daily?period=last_30_days",
        "/v1/usage/by-provider?period=month",
        "/v1/usage/export?period=month&format=json",
        "/v1/metrics?metric=cost.total&interval=31d",
    ] {
        let mut best = Duration::MAX;
        for _ in 0..3 {
            let started = Instant::now();
            let answer = client.get(path).await;
            best = best.min(started.elapsed());
            assert!(answer.round_trips() <= 3, "{path}");
            answers.insert(path, answer.expect(200));
        }
        let line = format!("{path}: {} ms\n", best.as_millis());
        let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    }
    let cents = |shown: &Value| shown["amount"].as_i64().unwrap();
    assert_eq!(cents(&answers["/v1/usage/summary?period=month"]["totalCost"]), to_cents(costs.total));
    let (top, most) = costs.users.iter().max_by_key(|(_, cost)| **cost).unwrap();
    let shown = &answers["/v1/usage/summary?period=month"]["topUser"];
    assert_eq!((&shown["userId"], cents(&shown["cost"])), (&json!(format!("user-{top}")), to_cents(*most)));
    assert_eq!(cents(&answers["/v1/usage/users/user-7?period=month"]["total"]), to_cents(costs.users[&7]));
    for (provider, cost) in &costs.providers {
        assert_eq!(cents(&answers["/v1/usage/by-provider?period=month"][provider]), to_cents(*cost), "{provider}");
    }
    // To the micro-cent where that is shown.
    let rows = answers["/v1/usage/export?period=month&format=json"].as_array().unwrap();
    let exported: i64 = rows.iter().map(|row| row["costMicrocents"].as_i64().unwrap()).sum();
    assert_eq!(exported, costs.total);
    let of_user = &answers["/v1/usage/users/user-7?period=month"]["storage"];
    assert_eq!((of_user["gbHours"].as_f64(), cents(&of_user["cost"])), (Some(f64::from(costs.days_of_user_7)), 0));
    let stored: f64 = rows.iter().map(|row| row["storageGbHours"].as_f64().unwrap()).sum();
    assert_eq!(stored, f64::from(costs.days_of_user_7));
    // A month may have a day that is not among the last 30.
    let by_day = answers["/v1/usage/daily?period=last_30_days"].as_array().unwrap();
    assert_eq!(by_day.len(), 30);
    for day in by_day {
        let cost = costs.days.get(day["date"].as_str().unwrap()).copied().unwrap_or(0);
        assert_eq!(cents(&day["cost"]), to_cents(cost), "{day}");
    }
    // Intervals of 31 days are counted from 1970 on: two of them may share the month.
    let points = answers["/v1/metrics?metric=cost.total&interval=31d"].as_array().unwrap();
    let shown: f64 = points.iter().map(|point| point["p50"].as_f64().unwrap()).sum();
    let of_days: i64 = costs.days.values().sum();
    assert!((shown - of_days as f64 / 1e6).abs() < 0.01, "{shown} of {of_days}");
    own.stop().await;
}
