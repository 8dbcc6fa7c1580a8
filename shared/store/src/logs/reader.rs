//! Reading pages of entries, newest first, over the partitions of their days.
//!
//! A page's position is an id: everything that sorts from it on was looked at. What is written while someone pages is
//! newer than that and in nobody's way; so every entry that was written before the first page was asked for is on
//! exactly one page.

use super::places::{CLOCK_SKEW_MS, Day, Place, merge};
use super::{LogEntry, LogLevel, SETTLE_MS};
use crate::page::{RowFilter, Span};
use crate::table::{Item, TTL, from_item};
use crate::{Page, PageRequest, Position, StoreError, Table, now_ms};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::try_join_all;
use serde::Deserialize;
use theazo_tenancy::{AgentId, LogId, ReadScope, SessionId};

/// Rows that a page with a filter goes through before it ends early, with a cursor to go on from: about 2,000, and what
/// the last round of queries finds beyond.
const MAX_SCANNED: usize = 2000;
/// Queries that a page may cost: enough for every day of 30 days' retention of a platform.
const MAX_QUERIES: usize = 256;
/// Days that are asked for at once at most.
const MAX_DAYS_AT_ONCE: usize = 8;

/// Reading log entries. No way to write one.
#[derive(Clone)]
pub struct Logs {
    pub(super) table: Table,
    pub(super) settle_ms: i64,
}

/// Which entries to list.
#[derive(Clone, Debug, Default)]
pub struct LogFilter {
    /// Only about this session.
    pub session: Option<SessionId>,
    /// Only about this agent. Where the session is not named, its agent's is looked up first, for one more round trip; a
    /// list of one whose row is gone goes through the entries of the whole platform.
    pub agent: Option<AgentId>,
    /// Only of this level, neither above nor below.
    pub level: Option<LogLevel>,
    /// Only with this text in the message, whatever the case of its letters.
    pub search: Option<String>,
    /// Only from then on, Unix milliseconds.
    pub since_ms: Option<i64>,
    /// Only from before then, Unix milliseconds.
    pub until_ms: Option<i64>,
}

impl LogFilter {
    /// The part that the table applies.
    pub(super) fn terms(&self) -> RowFilter {
        let text = |value: &str| AttributeValue::S(value.into());
        let mut terms = RowFilter::default();
        if let Some(agent) = &self.agent {
            terms = terms.compare("agent", "=", text(agent.as_str()));
        }
        if let Some(level) = self.level {
            terms = terms.compare("level", "=", text(level.as_str()));
        }
        terms
    }

    pub(super) fn matches(&self, entry: &LogEntry) -> bool {
        self.search.as_ref().is_none_or(|text| entry.message.to_lowercase().contains(&text.to_lowercase()))
    }

    const fn is_sparse(&self) -> bool {
        self.agent.is_some() || self.level.is_some() || self.search.is_some()
    }
}

/// What an agent's entries are found by.
#[derive(Deserialize)]
struct AgentSession {
    session: SessionId,
}

/// A stretch of ids that a page goes through.
struct Walk {
    place: Place,
    /// The lowest id.
    from: LogId,
    /// What sorts from there on was looked at.
    before: Option<LogId>,
    day: Day,
}

impl Logs {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self { table, settle_ms: SETTLE_MS }
    }

    /// The same with tails that wait so many milliseconds for entries to settle, instead of [`SETTLE_MS`].
    #[must_use]
    pub fn settling(self, ms: i64) -> Self {
        Self { settle_ms: ms, ..self }
    }

    /// A page of entries, newest first. What has expired is not shown, whether or not the table has dropped it.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn list(
        &self,
        scope: &ReadScope,
        filter: &LogFilter,
        page: &PageRequest,
    ) -> Result<Page<LogEntry>, StoreError> {
        let nothing = Page { rows: Vec::new(), next: None };
        let place = match self.place(scope, filter).await? {
            // Entries may be kept for longer than the row of their agent, which alone says of which session it was.
            None if filter.session.is_none() && scope.confined_to().is_none() => {
                Place::Platform(scope.platform_wide()?)
            }
            None => return Ok(nothing),
            Some(place) => place,
        };
        let now = now_ms();
        let Some(mut walk) = self.walk(place, filter, page.after.as_ref(), now) else { return Ok(nothing) };
        let terms = filter.terms();
        let mut found: Vec<LogEntry> = Vec::new();
        let (mut queries, mut scanned, mut days) = (0, 0, 1);
        let mut is_over = false;
        while !is_over && found.len() <= page.limit && queries < MAX_QUERIES && scanned < MAX_SCANNED {
            let wanted = page.limit + 1 - found.len();
            let wave = self.back(&mut walk, days, wanted, filter.is_sparse(), &terms).await?;
            (queries, scanned, is_over) = (queries + wave.queries, scanned + wave.scanned, wave.is_over);
            days = if wave.is_finished { (days * 2).min(MAX_DAYS_AT_ONCE) } else { 1 };
            for row in wave.rows {
                let entry = read_row(row, now)?;
                found.extend(entry.filter(|entry| filter.matches(entry)));
            }
        }
        let next = if found.len() > page.limit {
            found.truncate(page.limit);
            found.last().map(|entry| entry.id.clone())
        } else {
            walk.before.filter(|_| !is_over)
        };
        Ok(Page { rows: found, next: next.map(|id| Position(id.to_string())) })
    }

    /// Whose entries a caller asks for; nothing for what is not theirs or not there.
    pub(super) async fn place(&self, scope: &ReadScope, filter: &LogFilter) -> Result<Option<Place>, StoreError> {
        let named = filter.session.as_ref().or(scope.confined_to());
        if let Some(session) = named {
            return Ok(scope.session(session).map(Place::Session));
        }
        let Some(agent) = &filter.agent else { return Ok(Some(Place::Platform(scope.platform_wide()?))) };
        let found: Option<AgentSession> = self.table.get(&scope.agent_key(agent)?).await?;
        Ok(found.and_then(|agent| scope.session(&agent.session)).map(Place::Session))
    }

    /// The lowest id that can be asked for.
    pub(super) fn lowest(&self, place: &Place, filter: &LogFilter, now_ms: i64) -> LogId {
        let kept = now_ms.saturating_sub(self.table.log_retention_ms).saturating_add(1);
        let made = place.made_ms(filter.agent.as_ref());
        LogId::first_at(filter.since_ms.unwrap_or(0).max(kept).max(made))
    }

    /// Nothing when no entry can be found. The position may not be one of ours: it is authenticated only afterwards.
    fn walk(&self, place: Place, filter: &LogFilter, after: Option<&Position>, now_ms: i64) -> Option<Walk> {
        let from = self.lowest(&place, filter, now_ms);
        let newest_ms = now_ms.saturating_add(CLOCK_SKEW_MS);
        let before = match (after, filter.until_ms) {
            (Some(after), _) => Some(LogId::parse(&after.0).ok()?),
            (None, Some(until)) if until <= newest_ms => Some(LogId::first_at(until)),
            (None, _) => None,
        };
        let day = before.as_ref().map_or(Day::of(newest_ms), |before| Day::of(before.at_ms().min(newest_ms)));
        let is_empty = before.as_ref().is_some_and(|before| *before <= from) || day < Day::of(from.at_ms());
        (!is_empty).then_some(Walk { place, from, before, day })
    }

    /// Reads some days at once, back from where the walk is, up to the first that is not finished.
    async fn back(
        &self,
        walk: &mut Walk,
        days: usize,
        wanted: usize,
        is_sparse: bool,
        terms: &RowFilter,
    ) -> Result<Wave, StoreError> {
        let oldest = Day::of(walk.from.at_ms());
        let all = std::iter::successors(Some(walk.day), |day| Some(day.before()));
        let days: Vec<Day> = all.take_while(|day| *day >= oldest).take(days).collect();
        let read = days.iter().map(|day| {
            let partitions = walk.place.partitions(*day);
            let wanted = if is_sparse { (MAX_SCANNED / partitions.len()).max(wanted) } else { wanted };
            let before = walk.before.as_ref().filter(|before| Day::of(before.at_ms()) == *day).map(LogId::as_str);
            let span = Span { before, from: Some(walk.from.as_str()) };
            async move {
                let reads = partitions.iter().map(|partition| self.table.query_back(partition, span, wanted, terms));
                try_join_all(reads).await
            }
        });
        let mut wave = Wave { rows: Vec::new(), queries: 0, scanned: 0, is_finished: true, is_over: false };
        for (day, stretches) in days.iter().zip(try_join_all(read).await?) {
            wave.queries += stretches.len();
            wave.scanned += stretches.iter().map(|stretch| stretch.scanned).sum::<usize>();
            let unfinished = stretches.iter().filter_map(|stretch| LogId::parse(stretch.last.as_ref()?).ok()).max();
            let rows = stretches.into_iter().flat_map(|stretch| stretch.rows);
            let rows = rows.filter_map(|row| Some((id_of(&row)?, row))).collect();
            wave.rows.extend(merge(rows, unfinished.as_ref(), true).into_iter().map(|(_, row)| row));
            if unfinished.is_some() {
                (walk.day, walk.before, wave.is_finished) = (*day, unfinished, false);
                return Ok(wave);
            }
            (walk.day, walk.before) = (day.before(), Some(LogId::first_at(day.start_ms())));
        }
        wave.is_over = walk.day < oldest;
        Ok(wave)
    }
}

/// What some days gave.
struct Wave {
    rows: Vec<Item>,
    queries: usize,
    scanned: usize,
    /// Whether every day was read to its end.
    is_finished: bool,
    /// Whether there can be no more.
    is_over: bool,
}

pub(super) fn id_of(row: &Item) -> Option<LogId> {
    LogId::parse(row.get("sk")?.as_s().ok()?).ok()
}

/// A row's entry, unless it has expired.
pub(super) fn read_row(row: Item, now_ms: i64) -> Result<Option<LogEntry>, StoreError> {
    let ttl = row.get(TTL).and_then(|value| value.as_n().ok()?.parse::<i64>().ok());
    if ttl.is_some_and(|ttl| ttl.saturating_mul(1000) <= now_ms) {
        return Ok(None);
    }
    from_item(row).map(Some)
}
