//! `cargo dev bench month`: what every report takes of a platform on which agents ran 100,000 times in a month, and sixty
//! run on.
//!
//! The baseline is one bare read of the table in the same run.

use super::caller::{ask, idle_agent};
use super::world::{TABLE, World};
use super::{Failure, Report, Row, Unit};
use crate::terminal::say;
use futures_util::future::try_join_all;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use theazo_metering::{Day, Prices, cost_of, parts};
use theazo_store::{AgentStatus, Agents, Clock, NewAgent, NewSession, Sessions, StoreError, Table, now_ms};
use theazo_tenancy::{PlatformScope, SessionId, TenantScope, UserId};

/// End users whose agents ran, `user-0` and so on.
pub const USERS: u64 = 200;
/// Where they ran, and what an hour there costs, micro-cents.
const PROVIDERS: [(&str, u64); 3] = [("docker", 60_000_001), ("e2b", 10_890_000), ("fly", 3_599_999)];
/// No run took longer, milliseconds.
const LONGEST_RUN_MS: u64 = 3 * 3_600_000;
/// Rows of one request, a limit of DynamoDB.
const BATCH: usize = 25;
/// What those that run on cost, micro-cents an hour.
const RUNNING_RATE: u64 = 60_000_000;
/// Where those run that run on.
pub const RUNNING_AT: &str = "e2b";
/// Agents that are begun at once.
const AT_ONCE: usize = 16;
const TEN_MINUTES_MS: i64 = 10 * 60_000;

/// How much to measure.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Calls of each report.
    pub samples: usize,
    /// What agents ran in the month, and as much again in the one before.
    pub runs: u64,
    /// Agents that run on.
    pub running: u64,
}

impl Effort {
    /// Takes half a minute, optimised.
    pub const FULL: Self = Self { samples: 50, runs: 100_000, running: 60 };
}

/// Measures every report.
///
/// # Errors
/// When the embedded services do not start, or a report is not made as it should be.
pub async fn run(effort: Effort) -> Result<Report, Failure> {
    let world = World::start().await?;
    let now = now_ms();
    let first = Day::of(now).month().first_day();
    let before = first.plus(-1).month().first_day();
    for (first, until) in [(before, first.start_ms()), (first, now)] {
        let booked = Booked::make(&world.scope, effort.runs, first, until)?;
        booked.write(world.dynamodb_url(), TABLE).await?;
    }
    let running = Running::start(&world.table, &world.scope, effort.running, now).await?;
    say(&format!("    {} runs a month are booked, {} agents run", effort.runs, effort.running));
    let (deployment, key) = (world.deployment()?, world.live_key());
    let sessions = Sessions::new(world.table.clone());
    let session = SessionId::parse(&running.sessions[0])?;
    let mut rows = Vec::new();
    for path in reports(&session) {
        let (mut ours, mut bare, mut trips) = (Vec::new(), Vec::new(), usize::MAX);
        ask(&deployment, &key, "GET", &path, String::new()).await?.expect_success()?;
        for _ in 0..effort.samples {
            let asked = ask(&deployment, &key, "GET", &path, String::new()).await?;
            asked.expect_success()?;
            ours.push(asked.ms);
            // Calls side by side count as one after the other where one has ended before the other could begin.
            trips = trips.min(asked.trips);
            let started = std::time::Instant::now();
            sessions.get(&world.scope, &session).await?.ok_or("the session is gone")?;
            bare.push(started.elapsed().as_secs_f64() * 1000.0);
        }
        let name = path.trim_start_matches("/v1/").replace(session.as_str(), "{id}");
        rows.push(Row::new(name, Unit::Milliseconds, ours, Some(bare), "").with_trips(trips));
    }
    Ok(Report::new("month", rows))
}

/// Everything that is reported of what agents did and cost, a session's own with it.
pub fn reports(session: &SessionId) -> Vec<String> {
    let mut paths = Vec::new();
    for period in ["today", "yesterday", "week", "month", "last_month"] {
        for what in ["summary", "users/user-7", "by-provider"] {
            paths.push(format!("/v1/usage/{what}?period={period}"));
        }
    }
    for format in ["csv", "json", "stripe"] {
        paths.push(format!("/v1/usage/export?period=month&format={format}"));
    }
    paths.extend(["last_30_days", "last_7_days"].map(|days| format!("/v1/usage/daily?period={days}")));
    for metric in
        ["agents.boot_time", "agents.active", "exec.duration", "error_rate", "cost.total", "cost.total&interval=31d"]
    {
        paths.push(format!("/v1/metrics?metric={metric}"));
    }
    paths.push("/v1/metrics/summary".to_owned());
    paths.extend(["usage", "limits"].map(|what| format!("/v1/sessions/{session}/{what}")));
    paths
}

/// Numbers that look like chance and are the same each time.
struct Chance(u64);

impl Chance {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// Runs of agents that are over: what they cost, and the rows that the transactions of their ends leave.
#[derive(Default)]
pub struct Booked {
    /// Micro-cents, all in all.
    pub total: i64,
    /// Of each user, by number.
    pub users: BTreeMap<u64, i64>,
    /// At each provider.
    pub providers: BTreeMap<&'static str, i64>,
    /// On each day that had any, as it is shown.
    pub days: BTreeMap<String, i64>,
    /// Days on which `user-7` ran anything. On each a gigabyte-hour was kept for them.
    pub days_of_user_7: u32,
    items: Vec<Value>,
}

impl Booked {
    /// So many runs between the first day of a month and a moment of it, or its end.
    ///
    /// # Errors
    /// Where the scope does not reach over a platform.
    pub fn make(scope: &TenantScope, runs: u64, first: Day, until_ms: i64) -> Result<Self, Failure> {
        let month = first.month().to_string();
        let span = u64::try_from(until_ms - first.start_ms()).unwrap_or(0).max(2);
        let (mut chance, mut booked) = (Chance(7), Self::default());
        // What is added up of one payer: milliseconds and micro-cents.
        let mut rows: BTreeMap<(String, String), (i64, i64)> = BTreeMap::new();
        for _ in 0..runs {
            let (user, (provider, rate)) = (chance.below(USERS), PROVIDERS[chance.below(3) as usize]);
            let start = until_ms - signed(chance.below(span));
            let length = signed(chance.below(LONGEST_RUN_MS)).min(until_ms - start);
            let cost = cost_of(rate, length);
            booked.total += cost;
            *booked.users.entry(user).or_default() += cost;
            *booked.providers.entry(provider).or_default() += cost;
            let payer = format!("u#user-{user}");
            for part in parts(rate, start, start, start + length) {
                let date = part.day.to_string();
                let day = date.rsplit('-').next().unwrap_or_default();
                for row in [format!("day#{day}#{provider}"), format!("user#{payer}"), format!("user-day#{day}#{payer}")]
                {
                    let sum = rows.entry((payer.clone(), row)).or_default();
                    *sum = (sum.0 + part.ms, sum.1 + part.cost);
                }
                *booked.days.entry(date).or_default() += part.cost;
            }
        }
        booked.items = booked.items_of(&scope.platform_wide()?, &month, rows);
        Ok(booked)
    }

    fn items_of(
        &mut self,
        wide: &PlatformScope,
        month: &str,
        rows: BTreeMap<(String, String), (i64, i64)>,
    ) -> Vec<Value> {
        // A day's row of a provider is one for all payers of a partition.
        let mut sums: BTreeMap<(String, String), (i64, i64)> = BTreeMap::new();
        for ((payer, row), (ms, cost)) in rows {
            let key = wide.usage(month, &payer).row(&row);
            let sum = sums.entry((key.pk().to_owned(), key.sk().to_owned())).or_default();
            *sum = (sum.0 + ms, sum.1 + cost);
        }
        let number = |value: i64| json!({ "N": value.to_string() });
        let item = |((pk, sk), (ms, cost)): ((String, String), (i64, i64))| {
            let mut item =
                json!({ "pk": { "S": pk }, "sk": { "S": sk }, "compute_ms": number(ms), "cost": number(cost) });
            if sk.starts_with("user-day#") && sk.ends_with("#u#user-7") {
                item["stored_byte_ms"] = number(3_600_000_000_000_000);
                self.days_of_user_7 += 1;
            }
            json!({ "PutRequest": { "Item": item } })
        };
        sums.into_iter().map(item).collect()
    }

    /// Puts the rows into a table.
    ///
    /// # Errors
    /// When the engine does not take them.
    pub async fn write(&self, dynamodb_url: &str, table: &str) -> Result<(), Failure> {
        let client = reqwest::Client::builder().no_proxy().build()?;
        for batch in self.items.chunks(BATCH) {
            let request = client
                .post(dynamodb_url)
                .header("content-type", "application/x-amz-json-1.0")
                .header("x-amz-target", "DynamoDB_20120810.BatchWriteItem")
                .header("x-amz-date", "20300101T000000Z")
                .header("authorization", "AWS4-HMAC-SHA256 Credential=local/20300101/us-east-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0")
                .body(json!({ "RequestItems": { table: batch } }).to_string());
            let answer = request.send().await?.error_for_status()?.json::<Value>().await?;
            if answer["UnprocessedItems"].as_object().is_some_and(|left| !left.is_empty()) {
                return Err("the engine did not take all rows at once".into());
            }
        }
        Ok(())
    }
}

/// A number that is below some span in milliseconds.
fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Agents that run on since one moment, each the end user's of its number, of whom nothing is booked yet. They run as far
/// as the table knows; nothing looks for their sandboxes at a provider that is not configured.
pub struct Running {
    /// When they began, Unix milliseconds.
    pub began_ms: i64,
    /// The session of each.
    pub sessions: Vec<String>,
}

impl Running {
    /// Begins them ten minutes ago, or with the month.
    ///
    /// # Errors
    /// When the table does not answer.
    pub async fn start(table: &Table, scope: &TenantScope, count: u64, now_ms: i64) -> Result<Self, Failure> {
        let began_ms = (now_ms - TEN_MINUTES_MS).max(Day::of(now_ms).month().first_day().start_ms());
        let table = table.clone().with_clock(Clock::new(move || began_ms));
        let prices = json!({ RUNNING_AT: { "standard": RUNNING_RATE } }).to_string();
        let agents = Agents::new(table.clone()).with_prices(Prices::parse(&prices)?);
        let users: Vec<u64> = (0..count).collect();
        let mut sessions = Vec::with_capacity(users.len());
        for some in users.chunks(AT_ONCE) {
            let begun = some.iter().map(|user| {
                let (agents, table) = (&agents, table.clone());
                async move {
                    let new = NewSession { user: UserId::parse(&format!("user-{user}")), ..NewSession::default() };
                    let session = Sessions::new(table).create(scope, &new).await?;
                    let new = NewAgent { provider: RUNNING_AT.into(), timeout_ms: 24 * 3_600_000, ..idle_agent() };
                    let agent = agents.begin_boot(scope, &session, new).await?;
                    agents.transition(scope, &agent.id, AgentStatus::Ready, |_| {}).await?;
                    Ok::<_, StoreError>(session.id.to_string())
                }
            });
            sessions.extend(try_join_all(begun).await?);
        }
        Ok(Self { began_ms, sessions })
    }

    /// What so many of them have cost by then, micro-cents.
    pub fn cost(&self, of: u64, at_ms: i64) -> i64 {
        cost_of(RUNNING_RATE, at_ms - self.began_ms) * signed(of)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn every_report_is_measured_and_takes_three_round_trips_at_most() {
        let report = run(Effort { samples: 3, runs: 500, running: 2 }).await.unwrap();
        assert_eq!(report.rows.len(), reports(&SessionId::make()).len());
        for row in &report.rows {
            assert!(row.ours.p50 > 0.0 && row.ratio.is_some(), "{}", row.name);
            assert!(row.trips <= Some(3), "{} took {:?}", row.name, row.trips);
        }
    }
}
