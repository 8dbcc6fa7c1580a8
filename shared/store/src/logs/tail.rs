//! Following entries as they are written.
//!
//! The table has no order of arrival. An entry's id is made by its writer's clock, and its rows can be seen some moments
//! later; so one with a smaller id can appear after one with a greater. A tail therefore has two cursors:
//!
//! - the *front* goes through ids in order, but only up to [`SETTLE_MS`] before now (a deployment can say otherwise). An entry that can be seen within
//!   that time of its id's moment, by the reader's clock, is given exactly once and in order, and a reader that comes
//!   back with the last id it was given misses none and gets none twice. Writing takes milliseconds and machines' clocks
//!   differ by less than that.
//! - the *rear* goes through the same ids again [`LATE_MS`] later, and gives what the front did not see: entries
//!   whose writer had to try again for seconds (the SDK gives up after 12), or whose clock was behind. They come out of
//!   order, exactly once for a reader that stays. One that comes back in the meantime does not get them any more; they
//!   are in every list.

use super::places::{Day, Place, merge};
use super::reader::{id_of, read_row};
use super::{LogEntry, LogFilter, Logs};
use crate::page::RowFilter;
use crate::{StoreError, now_ms};
use futures_util::future::try_join_all;
use std::collections::BTreeSet;
use theazo_tenancy::{LogId, ReadScope};

/// How long after its id's moment an entry is given, milliseconds, unless configured otherwise.
pub const SETTLE_MS: i64 = 2_000;

/// How much later than that an entry may appear and still be given, milliseconds.
pub const LATE_MS: i64 = 13_000;

/// How often the rear goes on, milliseconds.
const REAR_EVERY_MS: i64 = 2_000;

/// How much older than [`LATE_MS`] the front has to be for a step over history, milliseconds.
const HISTORY_MS: i64 = 1_000;

/// Rows that one step reads of a partition at most.
const ROWS_AT_ONCE: usize = 500;
/// Days that one step reads at most. Of those after one that is not read to its end nothing can be used, so it is more
/// than one only where those before were read to theirs.
const DAYS_AT_ONCE: usize = 8;

/// What a step gave.
#[derive(Debug, Default)]
pub struct Tailed {
    /// The next entries, in the order of their ids.
    pub entries: Vec<LogEntry>,
    /// Entries that appeared too late to be among them.
    pub late: Vec<LogEntry>,
    /// Whether more can be read at once, without waiting for any to be written.
    pub is_behind: bool,
}

/// A place in the stream of entries that goes on from step to step.
pub struct LogTail {
    logs: Logs,
    place: Place,
    filter: LogFilter,
    /// Everything up to there was given, but for what appears late.
    front: LogId,
    /// Everything up to there was given.
    rear: LogId,
    /// What was given between the two.
    given: BTreeSet<LogId>,
    /// Days of history that the next step reads.
    days: usize,
}

impl Logs {
    /// Follows entries: from after that id on, or from the filter's `since_ms` on. Nothing for what is not the scope's.
    /// The filter's `until_ms` is not looked at.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn tail(
        &self,
        scope: &ReadScope,
        filter: LogFilter,
        after: Option<LogId>,
    ) -> Result<Option<LogTail>, StoreError> {
        let Some(place) = self.place(scope, &filter).await? else { return Ok(None) };
        let lowest = self.lowest(&place, &filter, now_ms());
        let start = after.map_or(lowest.clone(), |after| after.max(lowest));
        let (logs, front, given) = (self.clone(), start.clone(), BTreeSet::new());
        Ok(Some(LogTail { logs, place, filter, front, rear: start, given, days: 1 }))
    }
}

impl LogTail {
    /// The moment up to which everything was given that appeared in time, Unix milliseconds.
    pub fn reached_ms(&self) -> i64 {
        self.front.at_ms()
    }

    /// Where a reader goes on that has taken everything and comes back: at the last entry that it was given in order, or,
    /// where that is long ago, at what was read since and can hold nothing late any more.
    pub fn position(&self) -> &LogId {
        self.given.last().map_or(&self.rear, |last| last.max(&self.rear))
    }

    /// What has been written since the step before, as far as it has settled. Two or more queries side by side.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer. The tail is where it was, and can go on.
    pub async fn step(&mut self, now_ms: i64) -> Result<Tailed, StoreError> {
        let settled = LogId::first_at(now_ms.saturating_sub(self.logs.settle_ms));
        let closed = LogId::first_at(now_ms.saturating_sub(self.logs.settle_ms + LATE_MS));
        let terms = self.filter.terms();
        // What is so old that nothing can appear there any more is not gone through twice.
        let is_history = self.rear == self.front && self.front.at_ms() + HISTORY_MS < closed.at_ms();
        let until = if is_history { &closed } else { &settled };
        if *until <= self.front {
            return Ok(Tailed::default());
        }
        let days = if is_history { self.days } else { DAYS_AT_ONCE };
        let front = self.read(&self.front, until, days, &terms);
        if is_history {
            let read = front.await?;
            let entries = self.shown(read.rows, now_ms)?;
            (self.front, self.rear) = (read.reached.clone(), read.reached);
            self.days = if read.is_finished { (self.days * 2).min(DAYS_AT_ONCE) } else { 1 };
            return Ok(Tailed { entries, late: Vec::new(), is_behind: true });
        }
        // Never past the front: what lies beyond is the front's to give.
        let rear_until = closed.clone().min(self.front.clone());
        let rear = async {
            match rear_until.at_ms() - self.rear.at_ms() >= REAR_EVERY_MS {
                true => self.read(&self.rear, &rear_until, DAYS_AT_ONCE, &terms).await.map(Some),
                false => Ok(None),
            }
        };
        let (front, rear) = futures_util::future::try_join(front, rear).await?;
        let entries = self.shown(front.rows, now_ms)?;
        let late = match &rear {
            Some(rear) => {
                let unseen = rear.rows.iter().filter(|(id, _)| !self.given.contains(id)).cloned().collect();
                self.shown(unseen, now_ms)?
            }
            None => Vec::new(),
        };
        self.given.extend(entries.iter().map(|entry| entry.id.clone()));
        if let Some(rear) = rear {
            self.given = self.given.split_off(&rear.reached);
            self.rear = rear.reached;
        }
        let is_behind = front.reached < settled;
        self.front = front.reached;
        Ok(Tailed { entries, late, is_behind })
    }

    fn shown(&self, rows: Vec<(LogId, crate::table::Item)>, now_ms: i64) -> Result<Vec<LogEntry>, StoreError> {
        let entries = rows.into_iter().map(|(_, row)| read_row(row, now_ms));
        let entries = entries.filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
        Ok(entries.into_iter().filter(|entry| self.filter.matches(entry)).collect())
    }

    /// Reads on from after one id up to another as far as one step goes.
    async fn read(&self, after: &LogId, until: &LogId, days: usize, terms: &RowFilter) -> Result<Forward, StoreError> {
        let from = after.successor();
        let last = Day::of(until.at_ms());
        let all = std::iter::successors(Some(Day::of(after.at_ms())), |day| Some(day.after()));
        let days: Vec<Day> = all.take_while(|day| *day <= last).take(days).collect();
        let read = days.iter().map(|day| {
            let partitions = self.place.partitions(*day);
            let range = (from.as_str(), until.as_str());
            async move {
                let reads = partitions
                    .iter()
                    .map(|partition| self.logs.table.query_between(partition, range, ROWS_AT_ONCE, terms));
                try_join_all(reads).await
            }
        });
        let mut forward = Forward { rows: Vec::new(), reached: after.clone(), is_finished: true };
        for (day, stretches) in days.iter().zip(try_join_all(read).await?) {
            let unfinished = stretches.iter().filter_map(|stretch| LogId::parse(stretch.last.as_ref()?).ok()).min();
            let rows = stretches.into_iter().flat_map(|stretch| stretch.rows);
            let rows = rows.filter_map(|row| Some((id_of(&row)?, row))).collect();
            forward.rows.extend(merge(rows, unfinished.as_ref(), false));
            if let Some(unfinished) = unfinished {
                (forward.reached, forward.is_finished) = (unfinished, false);
                return Ok(forward);
            }
            forward.reached = LogId::first_at(day.after().start_ms()).min(until.clone());
        }
        Ok(forward)
    }
}

/// What one step read.
struct Forward {
    rows: Vec<(LogId, crate::table::Item)>,
    /// Everything up to there was read.
    reached: LogId,
    /// Whether every day was read to its end.
    is_finished: bool,
}
