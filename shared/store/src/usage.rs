//! What live agents of a platform used, rolled up by day, by provider and by end user, in the transactions that book it.
//!
//! | sort key | sums |
//! |---|---|
//! | `day#25#docker` | a day's, by provider |
//! | `user#u#<user>` | a user's of the month |
//! | `user-day#25#u#<user>` | a user's of a day |
//! | `models#25#u#<user>` | what a user's agents claim to have called of models on a day |
//!
//! A session without a user stands for itself: `s#ses_…` in the place of `u#<user>`. Partitions are a month's, and the
//! month's rows are spread over several by the end user.

use crate::table::{Item, number};
use crate::transaction::{Expression, Transaction};
use crate::{Agent, ReportedModels, StoreError, Table};
use futures_util::future::try_join_all;
use std::collections::{BTreeMap, HashMap};
use std::ops::AddAssign;
use theazo_metering::{Day, Part};
use theazo_tenancy::{Mode, Partition, ReadScope, SessionScope, TableKey};

/// Reading what a platform's live agents used. Every report asks all partitions at once.
#[derive(Clone)]
pub struct Usage(Table);

/// The kind of rows that hold claims of models. No figure in them is metered.
const MODELS: &str = "models";
const USER_DAY: &str = "user-day";

/// Some usage, added up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Sum {
    /// Micro-cents.
    pub cost: i64,
    /// Milliseconds of compute.
    pub compute_ms: i64,
    /// Byte-milliseconds of files that were kept of paused agents.
    pub storage: i128,
}

/// What one payer's agents have used, by day.
#[derive(Clone, Debug, Default)]
pub struct OfPayer {
    /// What is metered.
    pub sums: BTreeMap<Day, Sum>,
    /// What they claim to have called of models.
    pub claimed: BTreeMap<Day, ReportedModels>,
}

/// Whose usage it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Payer {
    /// An end user's, by the platform's own name for them.
    User(String),
    /// That of a session without one, by its id.
    Session(String),
}

/// Days of a report, both included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Days {
    /// The first.
    pub first: Day,
    /// The last.
    pub last: Day,
}

impl AddAssign for Sum {
    fn add_assign(&mut self, other: Self) {
        self.cost += other.cost;
        self.compute_ms += other.compute_ms;
        self.storage += other.storage;
    }
}

impl From<Part> for Sum {
    fn from(part: Part) -> Self {
        Self { cost: part.cost, compute_ms: part.ms, storage: 0 }
    }
}

impl Payer {
    /// Whose an agent's usage is.
    pub fn of(agent: &Agent) -> Self {
        match &agent.user_id {
            Some(user) => Self::User(user.clone()),
            None => Self::Session(agent.session.to_string()),
        }
    }

    /// As part of sort keys; also what partitions are chosen by.
    fn key(&self) -> String {
        match self {
            Self::User(user) => format!("u#{user}"),
            Self::Session(session) => format!("s#{session}"),
        }
    }

    fn parse(key: &str) -> Option<Self> {
        let user = key.strip_prefix("u#").map(|user| Self::User(user.to_owned()));
        user.or_else(|| key.strip_prefix("s#").map(|session| Self::Session(session.to_owned())))
    }
}

impl Days {
    /// The last so many days, of which one is today.
    pub fn last(count: i64, now_ms: i64) -> Self {
        let last = Day::of(now_ms);
        Self { first: last.plus(1 - count), last }
    }

    /// The present month so far.
    pub fn month(now_ms: i64) -> Self {
        let last = Day::of(now_ms);
        Self { first: last.month().first_day(), last }
    }

    /// The day before today.
    pub fn yesterday(now_ms: i64) -> Self {
        let day = Day::of(now_ms).plus(-1);
        Self { first: day, last: day }
    }

    /// The month before the present one, whole.
    pub fn last_month(now_ms: i64) -> Self {
        let last = Day::of(now_ms).month().first_day().plus(-1);
        Self { first: last.month().first_day(), last }
    }

    /// Whether it is all that there is of a calendar month at that moment.
    pub fn is_month(self, now_ms: i64) -> bool {
        self == Self::month(now_ms) || self == Self::last_month(now_ms)
    }

    /// Each of them, in order.
    pub fn each(self) -> impl Iterator<Item = Day> {
        std::iter::successors(Some(self.first), |day| Some(day.plus(1))).take_while(move |day| *day <= self.last)
    }

    /// Whether that is one of them.
    pub fn contains(&self, day: Day) -> bool {
        (self.first..=self.last).contains(&day)
    }

    /// The stretch of them that lies in each month.
    fn by_month(self) -> Vec<Self> {
        let mut stretches: Vec<Self> = Vec::new();
        for day in self.each() {
            match stretches.last_mut() {
                Some(stretch) if stretch.last.month() == day.month() => stretch.last = day,
                _ => stretches.push(Self { first: day, last: day }),
            }
        }
        stretches
    }
}

/// The row of a payer's claims of a day.
pub(crate) fn models_key(scope: &ReadScope, agent: &Agent, day: Day) -> Result<TableKey, StoreError> {
    let payer = Payer::of(agent).key();
    let row = format!("{MODELS}#{}#{payer}", of_month(day));
    Ok(scope.claimed_usage_key(&agent.id, &day.month().to_string(), &payer, &row)?)
}

fn of_month(day: Day) -> String {
    day.to_string().rsplit('-').next().unwrap_or_default().to_owned()
}

/// What of these agents' running, and of their files while they are paused, is not booked yet and falls on those days.
pub fn unbooked(live: &[Agent], days: Days, now_ms: i64) -> impl Iterator<Item = (&Agent, Day, Sum)> {
    live.iter()
        .flat_map(move |agent| {
            let ran = agent.unbooked(now_ms).into_iter().map(|part| (part.day, Sum::from(part)));
            let kept = agent.stored(now_ms).into_iter();
            let kept = kept.map(|(day, storage)| (day, Sum { storage, ..Sum::default() }));
            ran.chain(kept).map(move |(day, sum)| (agent, day, sum))
        })
        .filter(move |(_, day, _)| days.contains(*day))
}

impl Usage {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// By day and provider.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn by_provider(&self, scope: &ReadScope, days: Days) -> Result<BTreeMap<(Day, String), Sum>, StoreError> {
        self.rows(scope, days, "day", sum).await
    }

    /// By day and payer.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn by_payer(&self, scope: &ReadScope, days: Days) -> Result<BTreeMap<(Day, Payer), Sum>, StoreError> {
        let rows = self.rows(scope, days, USER_DAY, sum).await?;
        Ok(rows.into_iter().filter_map(|((day, key), sum)| Some(((day, Payer::parse(&key)?), sum))).collect())
    }

    /// By payer, in the month that this day lies in: a row each.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn of_month(&self, scope: &ReadScope, day: Day) -> Result<BTreeMap<Payer, Sum>, StoreError> {
        let partitions: Vec<_> = scope.platform_wide()?.all_usage(&day.month().to_string()).collect();
        let found = try_join_all(partitions.iter().map(|own| self.0.query_all_between(own, "user#", "user$"))).await?;
        let payer = |row: &Item| Payer::parse(row.get("sk")?.as_s().ok()?.strip_prefix("user#")?);
        let rows = found.iter().flatten().filter_map(|row| Some((payer(row)?, row)));
        rows.map(|(payer, row)| Ok((payer, sum(row)?))).collect()
    }

    /// One payer's, by day, and beside it what that one's agents claim to have called of models, in one read. At most 50
    /// days.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn of_payer(&self, scope: &ReadScope, payer: &Payer, days: Days) -> Result<OfPayer, StoreError> {
        let (wide, key) = (scope.platform_wide()?, payer.key());
        let own = |day: Day, kind: &str| {
            let row = format!("{kind}#{}#{key}", of_month(day));
            wide.usage(&day.month().to_string(), &key).row(&row)
        };
        let of_day = |day: Day| [USER_DAY, MODELS].map(|kind| (day, kind, own(day, kind)));
        let keys: Vec<_> = days.each().flat_map(of_day).collect();
        let rows = self.0.get_many(keys.iter().map(|(.., key)| key.clone())).await?;
        let place = |row: &Item| Some((row.get("pk")?.as_s().ok()?.clone(), row.get("sk")?.as_s().ok()?.clone()));
        let rows: HashMap<_, _> = rows.into_iter().filter_map(|row| Some((place(&row)?, row))).collect();
        let mut found = OfPayer::default();
        for (day, kind, key) in keys {
            let Some(row) = rows.get(&(key.pk().to_owned(), key.sk().to_owned())) else { continue };
            if kind == USER_DAY {
                found.sums.insert(day, sum(row)?);
            } else {
                found.claimed.insert(day, models(row)?);
            }
        }
        Ok(found)
    }

    /// What all agents claim to have called of models, by day.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn models_by_day(
        &self,
        scope: &ReadScope,
        days: Days,
    ) -> Result<BTreeMap<Day, ReportedModels>, StoreError> {
        let mut sums: BTreeMap<Day, ReportedModels> = BTreeMap::new();
        for ((day, _), claimed) in self.rows(scope, days, MODELS, models).await? {
            *sums.entry(day).or_default() += claimed;
        }
        Ok(sums)
    }

    /// The rows of a kind on those days, by what follows the day in their key.
    async fn rows<T: AddAssign + Default>(
        &self,
        scope: &ReadScope,
        days: Days,
        kind: &str,
        read: impl Fn(&Item) -> Result<T, StoreError>,
    ) -> Result<BTreeMap<(Day, String), T>, StoreError> {
        let wide = scope.platform_wide()?;
        let mut queries: Vec<(Days, Partition)> = Vec::new();
        for stretch in days.by_month() {
            queries.extend(wide.all_usage(&stretch.first.month().to_string()).map(|partition| (stretch, partition)));
        }
        let found = try_join_all(queries.iter().map(|(stretch, partition)| async move {
            let (from, to) = (of_month(stretch.first), of_month(stretch.last));
            let rows =
                self.0.query_all_between(partition, &format!("{kind}#{from}#"), &format!("{kind}#{to}$")).await?;
            Ok::<_, StoreError>((*stretch, rows))
        }))
        .await?;
        let mut sums: BTreeMap<(Day, String), T> = BTreeMap::new();
        for (stretch, rows) in found {
            let named: BTreeMap<String, Day> = stretch.each().map(|day| (of_month(day), day)).collect();
            for row in rows {
                let parsed = row.get("sk").and_then(|sk| sk.as_s().ok()).and_then(|sk| {
                    let (day, rest) = sk.strip_prefix(kind)?.strip_prefix('#')?.split_once('#')?;
                    Some((*named.get(day)?, rest.to_owned()))
                });
                let key = parsed.ok_or(StoreError::Corrupt("a row of usage"))?;
                *sums.entry(key).or_default() += read(&row)?;
            }
        }
        Ok(sums)
    }
}

/// What agents claim has no bound that holds for all of them together; no figure may make a report impossible.
fn models(row: &Item) -> Result<ReportedModels, StoreError> {
    let figure = |name: &str| {
        let number: u128 = row.get(name)?.as_n().ok()?.parse().ok()?;
        Some(u64::try_from(number).unwrap_or(u64::MAX))
    };
    let read = || {
        Some(ReportedModels {
            calls: figure("calls")?,
            input_tokens: figure("input_tokens")?,
            output_tokens: figure("output_tokens")?,
            cost: figure("cost")?,
        })
    };
    read().ok_or(StoreError::Corrupt("a row of usage"))
}

fn sum(row: &Item) -> Result<Sum, StoreError> {
    let text = |name: &str| row.get(name).and_then(|value| value.as_n().ok());
    let figure = |name: &str| text(name)?.parse().ok();
    // Most rows have none.
    let storage = || text("stored_byte_ms").map_or(Some(0), |text| text.parse().ok());
    let read = || Some(Sum { cost: figure("cost")?, compute_ms: figure("compute_ms")?, storage: storage()? });
    read().ok_or(StoreError::Corrupt("a row of usage"))
}

/// Adds what was booked to the platform's usage, and what files took while an agent was paused, by day. Nothing in test
/// mode: test keys do not meter.
pub(crate) fn add_usage(
    mut transaction: Transaction,
    table: &Table,
    mode: Mode,
    own: &SessionScope,
    agent: &Agent,
    booked: &[Part],
    stored: &[(Day, i128)],
) -> Transaction {
    if mode == Mode::Test {
        return transaction;
    }
    let payer = Payer::of(agent).key();
    // A transaction may write a row once only: a month's sums come from several days.
    let mut sums: BTreeMap<(String, String), Sum> = BTreeMap::new();
    let ran = booked.iter().map(|part| (&part.day, Sum::from(*part)));
    let kept = stored.iter().map(|(day, storage)| (day, Sum { storage: *storage, ..Sum::default() }));
    for (day, part) in ran.chain(kept) {
        let (month, date) = (day.month().to_string(), of_month(*day));
        let rows =
            [format!("day#{date}#{}", agent.provider), format!("user#{payer}"), format!("{USER_DAY}#{date}#{payer}")];
        for row in rows {
            *sums.entry((month.clone(), row)).or_default() += part;
        }
    }
    for ((month, row), Sum { cost, compute_ms, storage }) in sums {
        let mut add = Expression::new("ADD compute_ms :ms, cost :cost")
            .value(":ms", number(compute_ms))
            .value(":cost", number(cost));
        if storage != 0 {
            add = add.text("ADD compute_ms :ms, cost :cost, stored_byte_ms :stored").value(":stored", number(storage));
        }
        transaction = transaction.update(table, &own.usage_key_of_platform(&month, &payer, &row), add, "");
    }
    transaction
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_month_that_is_over_is_whole_and_yesterday_may_be_in_it() {
        let first = Day::of(1_795_564_800_000).month().first_day();
        for now_ms in [first.start_ms(), first.plus(9).start_ms() + 5, first.plus(1).start_ms() - 1] {
            let last = Days::last_month(now_ms);
            assert_eq!((last.first.month(), last.last), (first.month().plus(-1), first.plus(-1)));
            assert_eq!(last.first, last.first.month().first_day());
            assert!(last.is_month(now_ms) && Days::month(now_ms).is_month(now_ms));
            assert!(!Days::last(7, now_ms).is_month(now_ms));
        }
        let yesterday = Days::yesterday(first.start_ms());
        assert_eq!((yesterday.first, yesterday.last), (first.plus(-1), first.plus(-1)));
    }
}
