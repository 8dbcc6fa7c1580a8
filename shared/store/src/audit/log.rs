//! Reading the audit trail, newest first, over the partitions of its months.

use super::AuditEntry;
use crate::page::{RowFilter, Span};
use crate::table::{Item, from_item};
use crate::{Page, PageRequest, Position, SecretName, StoreError, Table, now_ms};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::try_join_all;
use std::fmt;
use theazo_tenancy::{AuditId, KeyId, PlatformId, ReadScope, SessionId};
use time::{Date, OffsetDateTime};

/// Queries one page may cost: one for each month that can hold an entry (400 days, the usual retention, touch 15 at
/// most), so that a trail that fits on a page is one. A sparse filter over a large trail then ends early with a cursor
/// to go on from.
const MAX_QUERIES: usize = 16;

/// Months that are asked for at once to begin with: shortly after a month has begun, a page has entries of two.
const FIRST_MONTHS: usize = 2;

/// How much later by its id than by its first entry a platform may seem to be made, milliseconds: clocks differ.
const CLOCK_SKEW_MS: i64 = 24 * 60 * 60 * 1000;

/// Reading the audit trail. No way to write or remove an entry.
#[derive(Clone)]
pub struct AuditLog(Table);

/// Which entries to list.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only about this secret, whatever the case of its letters.
    pub secret: Option<SecretName>,
    /// Only about this session.
    pub session: Option<SessionId>,
    /// Only by this credential.
    pub key: Option<KeyId>,
    /// Only from then on, Unix milliseconds.
    pub since_ms: Option<i64>,
    /// Only from before then, Unix milliseconds.
    pub until_ms: Option<i64>,
}

impl AuditFilter {
    fn terms(&self) -> RowFilter {
        let text = |value: &str| AttributeValue::S(value.into());
        let mut terms = RowFilter::default();
        if let Some(secret) = &self.secret {
            terms = terms.contains("names", text(secret.canonical()));
        }
        if let Some(session) = &self.session {
            terms = terms.compare("session", "=", text(session.as_str()));
        }
        if let Some(key) = &self.key {
            terms = terms.compare("key", "=", text(key.as_str()));
        }
        terms
    }
}

/// A calendar month in UTC, which names a partition: `2026-11`. Counted from the year 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Month(i32);

impl Month {
    /// The month of that moment, Unix milliseconds.
    pub(super) fn of(at_ms: i64) -> Self {
        let time = OffsetDateTime::from_unix_timestamp(at_ms.div_euclid(1000)).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        Self(time.year() * 12 + i32::from(u8::from(time.month())) - 1)
    }

    fn parse(text: &str) -> Option<Self> {
        let (year, month) = text.split_once('-')?;
        let parsed = Self(year.parse::<u16>().ok()?.checked_mul(12)?.checked_add(month.parse().ok()?)?.into()).before();
        (parsed.to_string() == text).then_some(parsed)
    }

    const fn before(self) -> Self {
        Self(self.0 - 1)
    }

    const fn after(self) -> Self {
        Self(self.0 + 1)
    }

    /// Its first moment, Unix milliseconds.
    fn start_ms(self) -> i64 {
        let month = u8::try_from(self.0.rem_euclid(12) + 1).ok().and_then(|month| time::Month::try_from(month).ok());
        let day = month.and_then(|month| Date::from_calendar_date(self.0.div_euclid(12), month, 1).ok());
        day.map_or(i64::MIN, |day| day.midnight().assume_utc().unix_timestamp() * 1000)
    }
}

impl fmt::Display for Month {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}", self.0.div_euclid(12), self.0.rem_euclid(12) + 1)
    }
}

/// Where to read on: in that month, with what sorts before an id, or from the month's end.
#[derive(Clone, Debug, PartialEq)]
struct Place {
    month: Month,
    before: Option<String>,
}

impl Place {
    fn position(&self) -> Position {
        Position(format!("{}#{}", self.month, self.before.as_deref().unwrap_or_default()))
    }

    /// Where a position leads. It may not be one of ours: it is authenticated only after the reading.
    fn parse(position: &Position) -> Option<Self> {
        let (month, id) = position.0.split_once('#')?;
        let before = match id {
            "" => None,
            id => Some(AuditId::parse(id).ok()?.to_string()),
        };
        Some(Self { month: Month::parse(month)?, before })
    }
}

/// The entries that can be asked for, as a range of months and ids.
struct Range {
    start: Place,
    oldest: Month,
    /// The lowest id.
    from: String,
}

impl Range {
    /// Nothing when no entry can be in it.
    fn find(
        scope: &ReadScope,
        filter: &AuditFilter,
        after: Option<&Position>,
        now_ms: i64,
        retention_ms: i64,
    ) -> Option<Self> {
        let newest = Month::of(now_ms);
        let from_ms = filter.since_ms.unwrap_or(0).max(now_ms - retention_ms + 1);
        if from_ms > now_ms {
            return None;
        }
        let mut oldest = Month::of(from_ms);
        // A platform has no entries from before it was made, and its id tells when that was.
        while oldest < newest
            && *scope.platform() > PlatformId::first_at(oldest.after().start_ms().saturating_add(CLOCK_SKEW_MS))
        {
            oldest = oldest.after();
        }
        let start = match (after, filter.until_ms) {
            (Some(after), _) => Place::parse(after)?,
            (None, Some(until)) if until <= now_ms => {
                Place { month: Month::of(until.saturating_sub(1)), before: Some(AuditId::first_at(until).to_string()) }
            }
            (None, _) => Place { month: newest, before: None },
        };
        let from = AuditId::first_at(from_ms).to_string();
        // What is older has expired since the page before, or is not asked for.
        let is_over = start.month < oldest || start.before.as_ref().is_some_and(|before| *before < from);
        (!is_over).then_some(Self { start, oldest, from })
    }
}

impl AuditLog {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// A page of entries, newest first. What has expired is not shown, whether or not the table has dropped it.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn list(
        &self,
        scope: &ReadScope,
        filter: &AuditFilter,
        page: &PageRequest,
    ) -> Result<Page<AuditEntry>, StoreError> {
        let retention_ms = self.0.audit_retention_ms();
        let Some(range) = Range::find(scope, filter, page.after.as_ref(), now_ms(), retention_ms) else {
            return Ok(Page { rows: Vec::new(), next: None });
        };
        let terms = filter.terms();
        let wanted = page.limit + 1;
        let mut found: Vec<(Month, Item)> = Vec::new();
        let mut place = Some(range.start.clone());
        let (mut queries, mut at_once) = (0, FIRST_MONTHS);
        while let Some(here) = place.as_ref().filter(|_| queries < MAX_QUERIES && found.len() < wanted) {
            let wave = self.read(scope, &range, here, at_once.min(MAX_QUERIES - queries), wanted - found.len(), &terms);
            let wave = wave.await?;
            queries += wave.queries;
            // What is read beyond a month that is not finished is read for nothing.
            at_once = if wave.is_finished { at_once * 2 } else { 1 };
            found.extend(wave.rows);
            place = wave.next;
        }
        if found.len() >= wanted {
            found.truncate(page.limit);
            place = found.last().and_then(|(month, row)| {
                let id = row.get("sk")?.as_s().ok()?;
                Some(Place { month: *month, before: Some(id.clone()) })
            });
        }
        let rows = found.into_iter().map(|(_, row)| from_item(row)).collect::<Result<_, _>>()?;
        Ok(Page { rows, next: place.map(|place| place.position()) })
    }

    /// Reads some months at once, beginning at that place, up to the first that is not finished.
    async fn read(
        &self,
        scope: &ReadScope,
        range: &Range,
        here: &Place,
        months: usize,
        wanted: usize,
        terms: &RowFilter,
    ) -> Result<Wave, StoreError> {
        let all = std::iter::successors(Some(here.month), |month| Some(month.before()));
        let scope = scope.platform_wide()?;
        let months: Vec<Month> = all.take_while(|month| *month >= range.oldest).take(months).collect();
        let stretches = try_join_all(months.iter().map(|month| {
            let before = here.before.as_deref().filter(|_| *month == here.month);
            let span = Span { before, from: Some(&range.from) };
            let partition = scope.audit(&month.to_string());
            async move { self.0.query_back(&partition, span, wanted, terms).await }
        }));
        let mut wave = Wave { rows: Vec::new(), next: None, is_finished: true, queries: months.len() };
        for (month, stretch) in months.iter().zip(stretches.await?) {
            wave.rows.extend(stretch.rows.into_iter().map(|row| (*month, row)));
            if let Some(last) = stretch.last {
                wave.is_finished = false;
                wave.next = Some(Place { month: *month, before: Some(last) });
                return Ok(wave);
            }
        }
        let next = months.last().map(|month| month.before()).filter(|month| *month >= range.oldest);
        wave.next = next.map(|month| Place { month, before: None });
        Ok(wave)
    }
}

/// What some months gave.
struct Wave {
    rows: Vec<(Month, Item)>,
    /// Where to go on, if there may be more.
    next: Option<Place>,
    /// Whether every month was read to its end.
    is_finished: bool,
    queries: usize,
}

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_tenancy::{Mode, Operator};

    const DAY_MS: i64 = 24 * 60 * 60 * 1000;
    const RETENTION_MS: i64 = 400 * DAY_MS;
    /// 2027-03-01T00:00:00Z, after which 400 days touch as many months as they can.
    const MARCH_MS: i64 = 1_803_859_200_000;

    #[expect(clippy::disallowed_methods, reason = "a test takes every part")]
    fn scope_since(at_ms: i64) -> theazo_tenancy::TenantScope {
        Operator::assume().tenant(&PlatformId::make_at(at_ms), Mode::Live)
    }

    fn range(scope: &ReadScope, filter: &AuditFilter, after: Option<&str>) -> Option<(String, String)> {
        let after = after.map(|after| Position(after.into()));
        let range = Range::find(scope, filter, after.as_ref(), MARCH_MS, RETENTION_MS)?;
        Some((range.start.position().0, range.oldest.to_string()))
    }

    #[test]
    fn months_are_in_utc_and_follow_one_another_over_years() {
        assert_eq!(Month::of(0).to_string(), "1970-01");
        assert_eq!((Month::of(MARCH_MS).to_string(), Month::of(MARCH_MS).start_ms()), ("2027-03".into(), MARCH_MS));
        assert_eq!(Month::of(MARCH_MS - 1), Month::of(MARCH_MS).before());
        assert_eq!(Month::parse("2026-12").unwrap().after(), Month::parse("2027-01").unwrap());
        for bad in ["", "2026", "2026-0", "2026-00", "2026-13", "2026-1", "02026-01", "+2026-01", "2026-+1", "a-b"] {
            assert_eq!(Month::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_page_can_reach_every_month_that_holds_an_entry() {
        let all = AuditFilter::default();
        let (start, oldest) = range(&scope_since(0), &all, None).unwrap();
        assert_eq!((start.as_str(), oldest.as_str()), ("2027-03#", "2026-01"));
        let months = Month::parse("2027-03").unwrap().0 - Month::parse("2026-01").unwrap().0 + 1;
        assert!(usize::try_from(months).unwrap() <= MAX_QUERIES);
        // A platform's first entries may carry an earlier month than its id, if the clocks differ.
        for (made_ms, oldest) in
            [(MARCH_MS + DAY_MS / 2, "2027-02"), (MARCH_MS + 2 * DAY_MS, "2027-03"), (MARCH_MS * 2, "2027-03")]
        {
            assert_eq!(range(&scope_since(made_ms), &all, None).unwrap().1, oldest);
        }
    }

    #[test]
    fn a_range_of_times_bounds_months_and_ids_and_may_be_empty() {
        let scope = scope_since(0);
        let between = |since_ms, until_ms| AuditFilter { since_ms, until_ms, ..AuditFilter::default() };
        let until = |at_ms| format!("#{}", AuditId::first_at(at_ms));
        assert_eq!(
            range(&scope, &between(None, Some(MARCH_MS)), None).unwrap(),
            (format!("2027-02{}", until(MARCH_MS)), "2026-01".into())
        );
        assert_eq!(range(&scope, &between(Some(MARCH_MS - 1), None), None).unwrap().1, "2027-02");
        assert_eq!(range(&scope, &between(Some(0), Some(MARCH_MS + 1)), None).unwrap().0, "2027-03#");
        let expired = MARCH_MS - RETENTION_MS;
        for (since, until) in [(Some(MARCH_MS + 1), None), (Some(50), Some(40)), (None, Some(expired))] {
            assert_eq!(range(&scope, &between(since, until), None), None);
        }
    }

    #[test]
    fn a_position_that_is_no_place_leads_nowhere() {
        let (scope, all) = (scope_since(0), AuditFilter::default());
        let id = AuditId::make_at(MARCH_MS - DAY_MS);
        for good in ["2027-02#".to_owned(), format!("2027-02#{id}")] {
            assert_eq!(range(&scope, &all, Some(&good)).unwrap().0, good);
        }
        let expired = AuditId::make_at(MARCH_MS - RETENTION_MS);
        let before_that = format!("2026-01#{expired}");
        for bad in ["", "2027-02", "2025-12#", "2027-02#x", "values#", "2027-2#", &before_that, &format!("#{id}")] {
            assert_eq!(range(&scope, &all, Some(bad)), None, "{bad}");
        }
    }
}
