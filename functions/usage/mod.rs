//! What a platform's agents used and cost: reports of what live keys ran. Running agents are in them to the millisecond.
//! Of test keys nothing is metered, and their reports are empty.

pub mod by_provider;
pub mod daily;
pub mod export;
pub mod summary;
pub mod user;

use serde_json::{Value, json};
use std::collections::HashMap;
use std::future::Future;
use theazo_http::{ApiError, QueryParams};
use theazo_metering::to_cents;
use theazo_store::{Agent, Agents, Counters, Days, StoreError};
use theazo_tenancy::{Mode, ReadScope};

/// Micro-cents as the API shows money.
pub(crate) fn money(microcents: i64) -> Value {
    json!({ "amount": to_cents(microcents), "currency": "usd" })
}

/// `today`, `yesterday`, `week` (seven days, today the last of them), `month` (the calendar's, so far) or `last_month`, in
/// UTC; a month unless asked otherwise.
fn read_period(query: &QueryParams, now_ms: i64) -> Result<Days, ApiError> {
    let days = query.one_of("period", |name| match name {
        "today" => Some(Days::last(1, now_ms)),
        "yesterday" => Some(Days::yesterday(now_ms)),
        "week" => Some(Days::last(7, now_ms)),
        "month" => Some(Days::month(now_ms)),
        "last_month" => Some(Days::last_month(now_ms)),
        _ => None,
    })?;
    Ok(days.unwrap_or(Days::month(now_ms)))
}

/// How often a report is read until no agent books anything meanwhile.
const READS: u32 = 4;

/// What was booked, and the agents whose running may not be booked yet, as of one moment: what one books between two reads
/// is in both or in neither. So agents are read before and after, and all again where one of them has booked. On a
/// platform on which agents book all the time, the last try is as near as one gets.
///
/// Three round trips, two more for each time that all is read again, one more where as many agents are unsettled as may
/// be read for a caller who has proven nothing yet, and two more for each further page of their rows.
pub(crate) async fn with_live<T, F>(
    agents: &Agents,
    scope: &ReadScope,
    booked: impl Fn() -> F,
) -> Result<(T, Vec<Agent>), StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    match scope.mode() {
        Mode::Test => Ok((booked().await?, Vec::new())),
        Mode::Live => {
            at_one_moment(|| agents.unsettled_of_platform(scope), booked, |before, after| has_booked(before, after))
                .await
        }
    }
}

/// Reads one thing between two reads of the other, until that has not changed meanwhile.
async fn at_one_moment<T, A, E, Between, Around>(
    around: impl Fn() -> Around,
    between: impl Fn() -> Between,
    has_changed: impl Fn(&A, &A) -> bool,
) -> Result<(T, A), E>
where
    Around: Future<Output = Result<A, E>>,
    Between: Future<Output = Result<T, E>>,
{
    let mut before = around().await?;
    let mut read = 1;
    loop {
        let found = between().await?;
        let after = around().await?;
        if read == READS || !has_changed(&before, &after) {
            return Ok((found, after));
        }
        (before, read) = (after, read + 1);
    }
}

/// What a session has booked, and its agents, as of one moment; `first` is one read of both.
pub(crate) async fn until_nothing_is_booked<F>(
    first: (Counters, Vec<Agent>),
    again: impl Fn() -> F,
) -> Result<(Counters, Vec<Agent>), StoreError>
where
    F: Future<Output = Result<(Counters, Vec<Agent>), StoreError>>,
{
    let alike = |before: &(Counters, Vec<Agent>), after: &(Counters, Vec<Agent>)| {
        before.0.booked() == after.0.booked() && !has_booked(&before.1, &after.1)
    };
    until_two_are_alike(first, again, alike).await
}

/// Reads two things side by side until two reads in a row found the same. The first read of either then ended before the
/// second of the other began: the spans in which the one and the other did not change overlap, and both are as of one
/// moment in them.
async fn until_two_are_alike<T, E, F>(first: T, again: impl Fn() -> F, alike: impl Fn(&T, &T) -> bool) -> Result<T, E>
where
    F: Future<Output = Result<T, E>>,
{
    let mut before = first;
    for _ in 2..READS {
        let after = again().await?;
        if alike(&before, &after) {
            return Ok(after);
        }
        before = after;
    }
    again().await
}

/// Whether one of the agents has booked anything from one read to another.
fn has_booked(before: &[Agent], after: &[Agent]) -> bool {
    let after: HashMap<&str, &Agent> = after.iter().map(|agent| (agent.id.as_str(), agent)).collect();
    before.iter().any(|agent| {
        let now = after.get(agent.id.as_str());
        now.is_none_or(|now| {
            (&now.meter, now.since_ms, now.stored_to_ms) != (&agent.meter, agent.since_ms, agent.stored_to_ms)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;
    use std::convert::Infallible;

    #[tokio::test]
    async fn what_is_booked_between_two_reads_is_read_again_and_is_in_the_sum_once() {
        // Of ten, some are booked and the others are not; somebody books while it is read, a few times.
        for bookings in 0..=i64::from(READS) + 2 {
            let (booked, left) = (Cell::new(0), Cell::new(bookings));
            let reads = Cell::new(0);
            let between = async || {
                let found = booked.get();
                reads.set(reads.get() + 1);
                if left.get() > 0 {
                    left.set(left.get() - 1);
                    booked.set(booked.get() + 1);
                }
                Ok::<_, Infallible>(found)
            };
            let around = async || Ok::<_, Infallible>(10 - booked.get());
            let Ok((found, unbooked)) = at_one_moment(around, between, |before, after| before != after).await;
            if bookings < i64::from(READS) {
                assert_eq!(found + unbooked, 10, "{bookings}");
            }
            assert_eq!(reads.get(), (bookings + 1).min(READS.into()), "{bookings}");
        }
    }

    #[tokio::test]
    async fn what_is_booked_while_both_are_read_is_read_again_and_is_in_the_sum_once() {
        for bookings in 0..=i64::from(READS) + 2 {
            let (booked, left, reads) = (Cell::new(0), Cell::new(bookings), Cell::new(0));
            // Somebody books after the one is read and before the other is, whichever comes first.
            let read = async || {
                let (before, odd) = (booked.get(), left.get() % 2 == 1);
                reads.set(reads.get() + 1);
                if left.get() > 0 {
                    left.set(left.get() - 1);
                    booked.set(before + 1);
                }
                let after = booked.get();
                Ok::<_, Infallible>(if odd { (before, 10 - after) } else { (after, 10 - before) })
            };
            let Ok(first) = read().await;
            let Ok((found, unbooked)) = until_two_are_alike(first, read, |before, after| before == after).await;
            if bookings < i64::from(READS) {
                assert_eq!(found + unbooked, 10, "{bookings}");
            }
            assert!((2..=READS).contains(&reads.get()), "{bookings}: {}", reads.get());
        }
    }
}
