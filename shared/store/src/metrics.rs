//! What a platform's agents did, measured: how long boots and execs take, how often they fail, how many agents are active.
//!
//! A measurement is an `ADD` to a row of its hour, so that functions which measure at the same moment need not know of
//! each other. What must not count twice is part of the transaction that it tells of. Rows of different places and hours
//! merge by addition, and quantiles are taken of the sum.
//!
//! | sort key | attributes |
//! |---|---|
//! | `metric#boot_time#25T07` | `b<ms>`: boots that took about so long; `failed`; `created`: agents that were made |
//! | `metric#exec.duration#25T07` | `b<ms>`, `failed`: the same of execs |
//! | `metric#active#25T07` | `m<minute>`: agents that were active in that minute |
//!
//! They lie among the month's usage, spread by the agent, and expire.

use crate::error::table_error;
use crate::logs::LogQueue;
use crate::table::{Item, TTL, number, ttl_seconds};
use crate::transaction::{Expression, Transaction};
use crate::{Agent, AgentStatus, StoreError, Table};
use futures_util::future::try_join_all;
use hdrhistogram::Histogram;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::AddAssign;
use std::sync::LazyLock;
use theazo_metering::{DAY_MS, Day, Month};
use theazo_tenancy::{ReadScope, SessionScope, TableKey, TenantScope};

/// An hour, milliseconds: what a row is of.
pub const HOUR_MS: i64 = 3_600_000;
const MINUTE_MS: i64 = 60_000;
/// How long measurements are kept, days.
pub const METRICS_KEPT_DAYS: i64 = 90;
/// Decimal digits of a duration that are kept: quantiles are true to 1 in 100.
const DIGITS: u8 = 2;
/// What takes longer counts as this long, milliseconds.
const LONGEST_MS: u64 = 24 * 60 * 60 * 1000;
/// What the shard of the counts of active agents is chosen by.
const ACTIVE_SHARD: &str = "active";

/// What is measured of agents, each time that it happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// From the decision to boot an agent (made, resumed or restarted) until it is ready.
    BootTime,
    /// Running code in an agent, as its caller waits for it.
    ExecDuration,
}

impl Measure {
    const fn as_str(self) -> &'static str {
        match self {
            Self::BootTime => "boot_time",
            Self::ExecDuration => "exec.duration",
        }
    }
}

/// How something went that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measurement {
    /// It succeeded, after so many milliseconds.
    Took(u64),
    /// It failed, for no reason of the caller's.
    Failed,
}

/// What was measured in some time. These add up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Measured {
    /// How often about so many milliseconds.
    took: BTreeMap<u64, u64>,
    failed: u64,
    created: u64,
}

/// Half, 95 and 99 of 100 are as small as these or smaller.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quantiles {
    /// The median.
    pub p50: u64,
    /// Of 95 in 100.
    pub p95: u64,
    /// Of 99 in 100.
    pub p99: u64,
}

impl Quantiles {
    /// Of values and how often each was seen; nothing of none. True to 1 in 100, and exact up to 255.
    pub fn of(values: impl IntoIterator<Item = (u64, u64)>) -> Option<Self> {
        let mut sketch = empty_sketch();
        for (value, count) in values {
            sketch.saturating_record_n(value.min(LONGEST_MS), count);
        }
        let at = |quantile| sketch.value_at_quantile(quantile);
        (!sketch.is_empty()).then(|| Self { p50: at(0.50), p95: at(0.95), p99: at(0.99) })
    }
}

impl Measured {
    /// How often it succeeded.
    pub fn succeeded(&self) -> u64 {
        self.took.values().fold(0, |sum, count| sum.saturating_add(*count))
    }

    /// How often it failed.
    pub const fn failed(&self) -> u64 {
        self.failed
    }

    /// Agents that were made.
    pub const fn created(&self) -> u64 {
        self.created
    }

    /// Of what succeeded, milliseconds.
    pub fn quantiles(&self) -> Option<Quantiles> {
        Quantiles::of(self.took.iter().map(|(ms, count)| (*ms, *count)))
    }

    /// The share that failed, from 0 to 1; nothing where nothing happened.
    pub fn error_rate(&self) -> Option<f64> {
        let all = self.succeeded().saturating_add(self.failed);
        // Rounded to what can be told apart, so that a third is shown with a few digits.
        (all > 0).then(|| (self.failed as f64 / all as f64 * 1e6).round() / 1e6)
    }

    fn read(row: &Item) -> Result<Self, StoreError> {
        let mut measured = Self::default();
        for (name, value) in row {
            let count = || {
                let count = value.as_n().ok().and_then(|text| text.parse::<u64>().ok());
                count.ok_or(StoreError::Corrupt("a measurement"))
            };
            match name.as_str() {
                "failed" => measured.failed = count()?,
                "created" => measured.created = count()?,
                name => {
                    if let Some(ms) = name.strip_prefix('b').and_then(|ms| ms.parse().ok()) {
                        measured.took.insert(ms, count()?);
                    }
                }
            }
        }
        Ok(measured)
    }
}

impl AddAssign for Measured {
    fn add_assign(&mut self, other: Self) {
        for (ms, count) in other.took {
            let sum = self.took.entry(ms).or_default();
            *sum = sum.saturating_add(count);
        }
        self.failed = self.failed.saturating_add(other.failed);
        self.created = self.created.saturating_add(other.created);
    }
}

fn empty_sketch() -> Histogram<u64> {
    Histogram::new_with_max(LONGEST_MS, DIGITS).expect("these bounds are good")
}

/// The smallest duration that the sketch cannot tell from this one.
fn bucket(ms: u64) -> u64 {
    static SKETCH: LazyLock<Histogram<u64>> = LazyLock::new(empty_sketch);
    SKETCH.lowest_equivalent(ms.min(LONGEST_MS))
}

/// `25T07`: a day of its month, and an hour of it.
fn hour_name(at_ms: i64) -> String {
    let day = Day::of(at_ms);
    let date = day.to_string();
    let hour = (at_ms - day.start_ms()) / HOUR_MS;
    format!("{}T{hour:02}", date.rsplit('-').next().unwrap_or_default())
}

/// The beginning of the hour of that name in that month, Unix milliseconds.
fn hour_of(month: Month, name: &str) -> Option<i64> {
    let (day, hour) = name.split_once('T')?;
    let (day, hour): (i64, i64) = (day.parse().ok()?, hour.parse().ok()?);
    ((1..=31).contains(&day) && (0..24).contains(&hour))
        .then(|| month.first_day().start_ms() + (day - 1) * DAY_MS + hour * HOUR_MS)
}

fn row_name(kind: &str, at_ms: i64) -> String {
    format!("metric#{kind}#{}", hour_name(at_ms))
}

fn month_of(at_ms: i64) -> Month {
    Day::of(at_ms).month()
}

/// One more of that attribute in a row of the agent's.
fn one_more(
    own: &SessionScope,
    agent: &Agent,
    measure: Measure,
    attribute: &str,
    at_ms: i64,
) -> (TableKey, Expression) {
    let month = month_of(at_ms).to_string();
    let key = own.usage_key_of_platform(&month, agent.id.as_str(), &row_name(measure.as_str(), at_ms));
    let add = Expression::new("SET #ttl = :ttl ADD #count :one")
        .name("#ttl", TTL)
        .name("#count", attribute)
        .value(":ttl", number(expires(at_ms)))
        .value(":one", number(1));
    (key, add)
}

/// The same for all that is measured in an hour, so that it does not matter who comes last.
fn expires(at_ms: i64) -> i64 {
    ttl_seconds(at_ms - at_ms.rem_euclid(HOUR_MS) + HOUR_MS + METRICS_KEPT_DAYS * DAY_MS)
}

fn attribute(measurement: Measurement) -> String {
    match measurement {
        Measurement::Took(ms) => format!("b{}", bucket(ms)),
        Measurement::Failed => "failed".to_owned(),
    }
}

/// What a change of an agent's status says of booting it: that it is ready, or will not be. An agent that fails later
/// failed as well.
fn boot_measured(before: &Agent, after: &Agent) -> Option<Measurement> {
    match (before.status, after.status) {
        (AgentStatus::Booting, AgentStatus::Ready | AgentStatus::Running) => {
            Some(Measurement::Took(u64::try_from(after.since_ms - before.since_ms).unwrap_or(0)))
        }
        (AgentStatus::Booting, AgentStatus::Paused) => Some(Measurement::Failed),
        (before, AgentStatus::Failed) if before != AgentStatus::Failed => Some(Measurement::Failed),
        _ => None,
    }
}

impl Transaction {
    /// Adds what a change of an agent's status measures of its boot. It refuses nothing, like an entry of the log.
    pub(crate) fn measure_boot(self, table: &Table, own: &SessionScope, before: &Agent, after: &Agent) -> Self {
        let Some(measured) = boot_measured(before, after) else { return self };
        let (key, add) = one_more(own, after, Measure::BootTime, &attribute(measured), after.since_ms);
        self.update(table, &key, add, "")
    }

    /// Adds that an agent was made, likewise.
    pub(crate) fn measure_created(self, table: &Table, own: &SessionScope, agent: &Agent) -> Self {
        let (key, add) = one_more(own, agent, Measure::BootTime, "created", agent.created_at_ms);
        self.update(table, &key, add, "")
    }
}

/// Recording what is part of no transaction. No way to read any of it.
#[derive(Clone)]
pub struct Measurements {
    table: Table,
    queue: LogQueue,
}

impl Measurements {
    /// Over that table, with the process's queue.
    pub fn new(table: Table, queue: LogQueue) -> Self {
        Self { table, queue }
    }

    /// Counts an exec, without waiting: what is measured costs nobody a round trip. What cannot be written is told to the
    /// operator. [`LogQueue::flushed`] tells when it is done. Must be called on a Tokio runtime.
    pub fn exec(&self, scope: &TenantScope, agent: &Agent, measured: Measurement) {
        let Some(own) = scope.session(&agent.session) else { return };
        let (key, add) = one_more(&own, agent, Measure::ExecDuration, &attribute(measured), self.table.now_ms());
        let table = self.table.clone();
        self.queue.run(async move {
            if let Err(error) = table.update(&key, add).await {
                tracing::error!(%error, "a measurement is lost");
            }
        });
    }

    /// Notes how many of a platform's agents are active in that minute. Whoever notes it last is right.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn active(&self, scope: &TenantScope, agents: u64, at_ms: i64) -> Result<(), StoreError> {
        let month = month_of(at_ms).to_string();
        let key = scope.platform_wide()?.usage(&month, ACTIVE_SHARD).row(&row_name("active", at_ms));
        let minute = at_ms.rem_euclid(HOUR_MS) / MINUTE_MS;
        let set = Expression::new("SET #ttl = :ttl, #minute = :agents")
            .name("#ttl", TTL)
            .name("#minute", &format!("m{minute}"))
            .value(":ttl", number(expires(at_ms)))
            .value(":agents", number(agents));
        self.table.update(&key, set).await
    }
}

/// Reading what was measured. Every report asks all partitions at once, those beyond
/// [`MAX_UNPROVEN_CALLS`](crate::MAX_UNPROVEN_CALLS) after its caller's proof: two round trips.
#[derive(Clone)]
pub struct Metrics(Table);

impl Metrics {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// What was measured in the hours from one moment to another, by the beginning of the hour, Unix milliseconds. Hours
    /// without anything are not there.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn hours(
        &self,
        scope: &ReadScope,
        measure: Measure,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<BTreeMap<i64, Measured>, StoreError> {
        let wide = scope.platform_wide()?;
        let months = months(from_ms, to_ms);
        let mut places = Vec::new();
        for month in months {
            places.extend(wide.all_usage(&month.to_string()).map(|partition| (month, partition)));
        }
        let mut sums: BTreeMap<i64, Measured> = BTreeMap::new();
        for (hour, row) in self.rows(places, measure.as_str(), from_ms, to_ms).await? {
            *sums.entry(hour).or_default() += Measured::read(&row)?;
        }
        Ok(sums)
    }

    /// How many agents were active in each minute from one moment to another, by the beginning of the minute, Unix
    /// milliseconds. Minutes that nobody noted are not there.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn active(&self, scope: &ReadScope, from_ms: i64, to_ms: i64) -> Result<BTreeMap<i64, u64>, StoreError> {
        let wide = scope.platform_wide()?;
        let place = |month: Month| (month, wide.usage(&month.to_string(), ACTIVE_SHARD));
        let places = months(from_ms, to_ms).into_iter().map(place).collect();
        let mut minutes = BTreeMap::new();
        for (hour, row) in self.rows(places, "active", from_ms, to_ms).await? {
            for (name, value) in &row {
                let minute = name.strip_prefix('m').and_then(|minute| minute.parse::<i64>().ok());
                let Some(minute) = minute.map(|minute| hour + minute * MINUTE_MS) else { continue };
                let agents = value.as_n().ok().and_then(|text| text.parse().ok());
                let agents: u64 = agents.ok_or(StoreError::Corrupt("a measurement"))?;
                if (from_ms..to_ms).contains(&minute) {
                    minutes.insert(minute, agents);
                }
            }
        }
        Ok(minutes)
    }

    /// The rows of a kind in those partitions, by the beginning of their hour.
    async fn rows(
        &self,
        places: Vec<(Month, theazo_tenancy::Partition)>,
        kind: &str,
        from_ms: i64,
        to_ms: i64,
    ) -> Result<Vec<(i64, Item)>, StoreError> {
        let prefix = format!("metric#{kind}#");
        let found = try_join_all(places.iter().map(|(month, partition)| {
            let start_ms = month.first_day().start_ms();
            // Names sort as their hours do; a month's first and last are known.
            let from = if from_ms > start_ms { hour_name(from_ms) } else { "01T00".to_owned() };
            let to = if month_of(to_ms) == *month { hour_name(to_ms) } else { "31T23".to_owned() };
            let (from, to) = (format!("{prefix}{from}"), format!("{prefix}{to}"));
            async move { self.0.query_all_between(partition, &from, &to).await }
        }))
        .await?;
        let mut rows = Vec::new();
        for ((month, _), found) in places.iter().zip(found) {
            for row in found {
                let name = row.get("sk").and_then(|sk| sk.as_s().ok()).and_then(|sk| sk.strip_prefix(&prefix));
                let hour = name.and_then(|name| hour_of(*month, name)).ok_or(StoreError::Corrupt("a measurement"))?;
                if hour < to_ms && hour + HOUR_MS > from_ms {
                    rows.push((hour, row));
                }
            }
        }
        Ok(rows)
    }
}

/// The months that lie between two moments.
fn months(from_ms: i64, to_ms: i64) -> BTreeSet<Month> {
    let last = month_of(to_ms.max(from_ms));
    std::iter::successors(Some(month_of(from_ms)), |month| Some(month.plus(1)))
        .take_while(|month| *month <= last)
        .collect()
}

impl Table {
    /// Updates a row, or makes it.
    async fn update(&self, key: &TableKey, update: Expression) -> Result<(), StoreError> {
        let (text, names, values) = update.into_parts();
        self.client
            .update_item()
            .table_name(&self.name)
            .key("pk", aws_sdk_dynamodb::types::AttributeValue::S(key.pk().into()))
            .key("sk", aws_sdk_dynamodb::types::AttributeValue::S(key.sk().into()))
            .update_expression(text)
            .set_expression_attribute_names(Some(names))
            .set_expression_attribute_values(Some(values))
            .send()
            .await
            .map_err(table_error("UpdateItem"))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_keeps_two_digits_and_quantiles_of_merged_counts_are_those_of_all() {
        for ms in [0, 1, 99, 255, 256, 1000, 12_345, 599_999, LONGEST_MS, u64::MAX] {
            let kept = bucket(ms);
            let ms = ms.min(LONGEST_MS);
            assert!(kept <= ms && ms - kept <= ms / 100, "{ms} is kept as {kept}");
            assert_eq!(bucket(kept), kept);
        }
        let one = |ms| Measured { took: BTreeMap::from([(bucket(ms), 1)]), ..Measured::default() };
        let mut all = Measured::default();
        (1..=10_000).rev().for_each(|ms| all += one(ms));
        let Quantiles { p50, p95, p99 } = all.quantiles().unwrap();
        for (found, exact) in [(p50, 5_000), (p95, 9_500), (p99, 9_900)] {
            assert!(found.abs_diff(exact) <= exact / 100, "{found} for {exact}");
        }
        assert_eq!((all.succeeded(), all.error_rate()), (10_000, Some(0.0)));
        all += Measured { failed: 5_000, ..Measured::default() };
        assert_eq!(all.error_rate(), Some(0.333_333));
        assert_eq!((Measured::default().quantiles(), Measured::default().error_rate()), (None, None));
    }

    #[test]
    fn the_name_of_an_hour_says_which_it_is() {
        let last = Day::of(1_835_352_000_000).month().plus(1).first_day().start_ms() - 1;
        assert_eq!(hour_name(last), "29T23");
        assert_eq!(hour_of(month_of(last), "29T23"), Some(last + 1 - HOUR_MS));
        assert_eq!(months(last, last + 2).len(), 2);
        for name in ["", "29", "00T00", "32T00", "01T24", "aTb"] {
            assert_eq!(hour_of(month_of(last), name), None, "{name}");
        }
    }
}
