//! Where entries lie: days, and whose.

use std::fmt;
use theazo_tenancy::{AgentId, LogId, Partition, PlatformScope, SessionScope};
use time::OffsetDateTime;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// How far the clocks of two of our machines may differ, milliseconds: entries are looked for so much earlier than
/// what they are about was made, and so much later than now.
pub(super) const CLOCK_SKEW_MS: i64 = 60_000;

/// A day in UTC, which names partitions: `2026-11-25`. Counted from 1970-01-01.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Day(i64);

impl Day {
    /// The day of that moment, Unix milliseconds.
    pub(super) const fn of(at_ms: i64) -> Self {
        Self(at_ms.div_euclid(DAY_MS))
    }

    pub(super) const fn before(self) -> Self {
        Self(self.0 - 1)
    }

    pub(super) const fn after(self) -> Self {
        Self(self.0 + 1)
    }

    /// Its first moment, Unix milliseconds.
    pub(super) const fn start_ms(self) -> i64 {
        self.0.saturating_mul(DAY_MS)
    }
}

impl fmt::Display for Day {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = OffsetDateTime::from_unix_timestamp(self.start_ms().div_euclid(1000));
        let date = time.unwrap_or(OffsetDateTime::UNIX_EPOCH).date();
        write!(f, "{:04}-{:02}-{:02}", date.year(), u8::from(date.month()), date.day())
    }
}

/// Whose entries are read.
#[derive(Clone)]
pub(crate) enum Place {
    /// All of a platform's.
    Platform(PlatformScope),
    /// One session's.
    Session(SessionScope),
}

impl Place {
    /// A day's partitions.
    pub(super) fn partitions(&self, day: Day) -> Vec<Partition> {
        let day = day.to_string();
        match self {
            Self::Platform(scope) => scope.logs(&day).collect(),
            Self::Session(scope) => vec![scope.logs(&day)],
        }
    }

    /// Every partition that can hold an entry that has not expired.
    pub(crate) fn kept_partitions(&self, retention_ms: i64, now_ms: i64) -> Vec<Partition> {
        let oldest = Day::of(self.made_ms(None).max(now_ms.saturating_sub(retention_ms)));
        let newest = Day::of(now_ms.saturating_add(CLOCK_SKEW_MS));
        let days = std::iter::successors(Some(oldest), |day| Some(day.after())).take_while(|day| *day <= newest);
        days.flat_map(|day| self.partitions(day)).collect()
    }

    /// A moment before which there can be no entry, Unix milliseconds: ids tell when what they name was made.
    pub(super) fn made_ms(&self, agent: Option<&AgentId>) -> i64 {
        let made = match self {
            Self::Platform(scope) => scope.platform().at_ms(),
            Self::Session(scope) => scope.id().at_ms(),
        };
        made.max(agent.map_or(0, AgentId::at_ms)).saturating_sub(CLOCK_SKEW_MS)
    }
}

/// Some rows of each of a day's partitions, put in order: those up to where all of them were read.
pub(super) fn merge<T>(rows: Vec<(LogId, T)>, reach: Option<&LogId>, newest_first: bool) -> Vec<(LogId, T)> {
    let is_sure = |id: &LogId| reach.is_none_or(|reach| if newest_first { id >= reach } else { id <= reach });
    let mut sure: Vec<_> = rows.into_iter().filter(|(id, _)| is_sure(id)).collect();
    sure.sort_unstable_by(|(a, _), (b, _)| if newest_first { b.cmp(a) } else { a.cmp(b) });
    sure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_day_is_named_by_its_date_in_utc() {
        for (at_ms, name) in [
            (0, "1970-01-01"),
            (DAY_MS - 1, "1970-01-01"),
            (DAY_MS, "1970-01-02"),
            (1_790_000_000_123, "2026-09-21"),
            (1_709_164_800_000, "2024-02-29"),
        ] {
            let day = Day::of(at_ms);
            assert_eq!(day.to_string(), name);
            assert!(day.start_ms() <= at_ms && at_ms < day.after().start_ms());
            assert_eq!(day.after().before(), day);
        }
    }

    #[test]
    fn rows_beyond_where_every_partition_was_read_are_left_for_later() {
        let ids: Vec<LogId> = (1..=5).map(LogId::make_at).collect();
        let rows = || vec![(ids[3].clone(), ()), (ids[0].clone(), ()), (ids[4].clone(), ()), (ids[2].clone(), ())];
        let merged = |reach: Option<&LogId>, newest_first| {
            merge(rows(), reach, newest_first).into_iter().map(|(id, ())| id.at_ms()).collect::<Vec<_>>()
        };
        assert_eq!(merged(None, true), [5, 4, 3, 1]);
        assert_eq!(merged(Some(&ids[2]), true), [5, 4, 3]);
        assert_eq!(merged(None, false), [1, 3, 4, 5]);
        assert_eq!(merged(Some(&ids[2]), false), [1, 3]);
    }
}
