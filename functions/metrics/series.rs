//! `GET /v1/metrics`

use crate::usage::with_live;
use futures_util::future::try_join;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use theazo_http::{Answer, ApiError, Call, QueryParams, format_time, parse_duration_ms, parse_time_ms};
use theazo_metering::{DAY_MS, Day, MICROCENTS_PER_CENT};
use theazo_store::{Agents, Days, HOUR_MS, Measure, Measured, Metrics, Quantiles, Usage, now_ms, unbooked};
use theazo_tenancy::ReadScope;

/// Between the first moment that is asked for and the last, at most, milliseconds.
const LONGEST_RANGE_MS: i64 = 31 * DAY_MS;
const MINUTE_MS: i64 = 60_000;
/// How far apart notes of one minute after another may be: a run of reconciling may take longer than a minute.
const CLOSE_MS: i64 = 3 * MINUTE_MS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Metric {
    Measured(Measure),
    ErrorRate,
    ActiveAgents,
    TotalCost,
}

impl Metric {
    fn parse(name: &str) -> Option<Self> {
        Some(match name {
            "agents.boot_time" => Self::Measured(Measure::BootTime),
            "exec.duration" => Self::Measured(Measure::ExecDuration),
            "agents.active" => Self::ActiveAgents,
            "cost.total" => Self::TotalCost,
            "error_rate" => Self::ErrorRate,
            _ => return None,
        })
    }

    /// What intervals are made of: costs are kept by day, everything else by hour.
    const fn step_ms(self) -> i64 {
        match self {
            Self::TotalCost => DAY_MS,
            Self::Measured(_) | Self::ErrorRate | Self::ActiveAgents => HOUR_MS,
        }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wanted {
    metric: Metric,
    interval_ms: i64,
    /// The beginning of the first interval.
    from_ms: i64,
    /// The first moment that is not asked for any more, and not after now.
    to_ms: i64,
}

impl Wanted {
    fn read(query: &QueryParams, now_ms: i64) -> Result<Self, ApiError> {
        const NAMES: &str = "must be agents.boot_time, agents.active, exec.duration, cost.total or error_rate";
        let metric = query.get("metric").and_then(Metric::parse).ok_or_else(|| ApiError::invalid("metric", NAMES))?;
        let until_ms = query.one_of("until", parse_time_ms)?.unwrap_or(now_ms);
        let usual = if metric == Metric::TotalCost { 30 * DAY_MS } else { DAY_MS };
        let since_ms = query.one_of("since", parse_time_ms)?.unwrap_or(until_ms.saturating_sub(usual));
        let step_ms = metric.step_ms();
        let interval_ms = match query.get("interval") {
            None => step_ms,
            Some(text) => {
                let rule = match metric {
                    Metric::TotalCost => "must be whole days, 1d to 31d",
                    _ => "must be whole hours, 1h to 744h",
                };
                let found = parse_duration_ms(text).filter(|ms| (step_ms..=LONGEST_RANGE_MS).contains(ms));
                found.filter(|ms| ms % step_ms == 0).ok_or_else(|| ApiError::invalid("interval", rule))?
            }
        };
        match until_ms.checked_sub(since_ms) {
            Some(1..=LONGEST_RANGE_MS) => {}
            Some(..=0) => return Err(ApiError::invalid("since", "must be before until, which is now unless given")),
            _ => return Err(ApiError::invalid("since", "must be at most 31 days before until")),
        }
        let from_ms = since_ms.div_euclid(interval_ms).saturating_mul(interval_ms);
        Ok(Self { metric, interval_ms, from_ms, to_ms: until_ms.min(now_ms) })
    }

    /// The beginning of the interval that a moment lies in.
    const fn interval_of(&self, at_ms: i64) -> i64 {
        at_ms.div_euclid(self.interval_ms) * self.interval_ms
    }

    /// The beginning of each interval.
    fn each(self) -> impl Iterator<Item = i64> {
        std::iter::successors(Some(self.from_ms), move |at| Some(at + self.interval_ms))
            .take_while(move |at| *at < self.to_ms)
    }

    /// Sums by interval.
    fn by_interval<T: Default>(
        &self,
        parts: impl IntoIterator<Item = (i64, T)>,
        add: impl Fn(&mut T, T),
    ) -> BTreeMap<i64, T> {
        let mut sums = BTreeMap::new();
        for (at_ms, part) in parts {
            add(sums.entry(self.interval_of(at_ms)).or_default(), part);
        }
        sums
    }
}

/// A metric by interval, the earliest first, in UTC. Durations are milliseconds, and of each interval in which something
/// was measured; numbers of agents are by minute, over all minutes of the interval so far; costs are cents and error rates
/// parts of 1, and are the interval's as a whole, so that all three figures are the same.
pub async fn handle(call: Call, metrics: Metrics, usage: Usage, agents: Agents) -> Result<Answer, ApiError> {
    let now = now_ms();
    let read = |scope: ReadScope| {
        let (call, metrics, usage, agents) = (&call, &metrics, &usage, &agents);
        async move {
            let wanted = Wanted::read(&call.query()?, now)?;
            points(&scope, &wanted, now, metrics, usage, agents).await
        }
    };
    let (_, points) = call.authenticate_with(read).await?;
    Answer::json(200, &points)
}

async fn points(
    scope: &ReadScope,
    wanted: &Wanted,
    now_ms: i64,
    metrics: &Metrics,
    usage: &Usage,
    agents: &Agents,
) -> Result<Vec<Value>, ApiError> {
    let hours = |measure| metrics.hours(scope, measure, wanted.from_ms, wanted.to_ms);
    let merge = |sum: &mut Measured, part| *sum += part;
    Ok(match wanted.metric {
        Metric::Measured(measure) => {
            let sums = wanted.by_interval(hours(measure).await?, merge);
            sums.iter().filter_map(|(at, sum)| Some(quantiles(*at, sum.quantiles()?))).collect()
        }
        Metric::ErrorRate => {
            let (boots, execs) = try_join(hours(Measure::BootTime), hours(Measure::ExecDuration)).await?;
            let sums = wanted.by_interval(boots.into_iter().chain(execs), merge);
            sums.iter().filter_map(|(at, sum)| Some(whole(*at, sum.error_rate()?))).collect()
        }
        Metric::ActiveAgents => {
            let minutes = metrics.active(scope, wanted.from_ms, wanted.to_ms).await?;
            wanted
                .each()
                .filter_map(|at| Some(quantiles(at, active(&minutes, at, at + wanted.interval_ms, wanted.to_ms)?)))
                .collect()
        }
        Metric::TotalCost => {
            let days = Days { first: Day::of(wanted.from_ms), last: Day::of(wanted.to_ms - 1) };
            let (sums, live) = with_live(agents, scope, || usage.by_provider(scope, days)).await?;
            let booked = sums.into_iter().map(|((day, _), sum)| (day, sum));
            let costs = booked.chain(unbooked(&live, days, now_ms).map(|(_, day, sum)| (day, sum)));
            let costs = costs.map(|(day, sum)| (day.start_ms(), sum.cost));
            let sums = wanted.by_interval(costs, |sum: &mut i64, cost| *sum += cost);
            let cents = |at: &i64| sums.get(at).copied().unwrap_or(0) as f64 / MICROCENTS_PER_CENT as f64;
            wanted.each().map(|at| whole(at, cents(&at))).collect()
        }
    })
}

/// Of the minutes of an interval that are over. Nothing before the first is over.
fn active(minutes: &BTreeMap<i64, u64>, from_ms: i64, to_ms: i64, end_ms: i64) -> Option<Quantiles> {
    let passed = (to_ms.min(end_ms) - from_ms) / MINUTE_MS;
    let each = (0..passed).map(|minute| from_ms + minute * MINUTE_MS);
    Quantiles::of(each.filter_map(|at| Some((active_at(minutes, at)?, 1))))
}

/// How many agents a minute had. Of minutes that nobody noted those had none that are not close to one that was noted, as when
/// a run of reconciling has taken long: up to [`CLOSE_MS`] after one they have as many as that, and where nothing is noted
/// since, nobody knows yet.
fn active_at(minutes: &BTreeMap<i64, u64>, at_ms: i64) -> Option<u64> {
    if let Some(agents) = minutes.get(&at_ms) {
        return Some(*agents);
    }
    let close = minutes.range(at_ms - CLOSE_MS..at_ms).next_back();
    match (close, minutes.range(at_ms..).next()) {
        (Some((before, agents)), Some((after, _))) if after - before <= CLOSE_MS => Some(*agents),
        (Some(_), None) => None,
        _ => Some(0),
    }
}

fn quantiles(at_ms: i64, quantiles: Quantiles) -> Value {
    let Quantiles { p50, p95, p99 } = quantiles;
    json!({ "timestamp": format_time(at_ms), "p50": p50, "p95": p95, "p99": p99 })
}

fn whole(at_ms: i64, figure: f64) -> Value {
    json!({ "timestamp": format_time(at_ms), "p50": figure, "p95": figure, "p99": figure })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-25T10:17:00Z.
    const NOW: i64 = 1_795_564_800_000 + 10 * HOUR_MS + 17 * MINUTE_MS;

    fn read(query: &str) -> Result<Wanted, ApiError> {
        Wanted::read(&QueryParams::parse(query).unwrap(), NOW)
    }

    #[test]
    fn intervals_are_those_of_the_clock_and_the_last_goes_to_now() {
        let wanted = read("metric=exec.duration").unwrap();
        let starts: Vec<_> = wanted.each().collect();
        assert_eq!((starts.len(), starts[24]), (25, NOW - 17 * MINUTE_MS));
        let wanted = read("metric=error_rate&interval=6h&since=2026-11-25T07:00:00Z&until=2027-01-01T00:00:00Z");
        assert!(wanted.is_err(), "more than 31 days");
        let wanted =
            read("metric=error_rate&interval=6h&since=2026-11-25T07:00:00Z&until=2026-11-26T00:00:00Z").unwrap();
        let starts: Vec<_> = wanted.each().map(format_time).collect();
        assert_eq!(starts, ["2026-11-25T06:00:00.000Z"]);
        let wanted = read("metric=cost.total").unwrap();
        assert_eq!((wanted.each().count(), wanted.each().last()), (31, Some(1_795_564_800_000)));
        assert_eq!(
            read("metric=cost.total&since=2027-01-01T00:00:00Z&until=2027-01-02T00:00:00Z").unwrap().each().count(),
            0
        );
    }

    #[test]
    fn what_cannot_be_answered_is_refused_by_the_name_of_its_parameter() {
        for (query, field) in [
            ("", "metric"),
            ("metric=agents", "metric"),
            ("metric=error_rate&since=yesterday", "since"),
            ("metric=error_rate&until=2026-01-01", "until"),
            ("metric=error_rate&since=2026-11-26T00:00:00Z", "since"),
            ("metric=error_rate&since=2026-10-01T00:00:00Z", "since"),
            ("metric=error_rate&since=-9999-01-01T00:00:00Z&until=9999-01-01T00:00:00Z", "since"),
            ("metric=error_rate&interval=0", "interval"),
            ("metric=error_rate&interval=5m", "interval"),
            ("metric=error_rate&interval=90m", "interval"),
            ("metric=error_rate&interval=32d", "interval"),
            ("metric=error_rate&interval=hourly", "interval"),
            ("metric=cost.total&interval=12h", "interval"),
        ] {
            let refusal = read(query).err().unwrap_or_else(|| panic!("{query} is accepted")).to_json();
            assert!(refusal.contains(&format!("\"field\":\"{field}\"")), "{query}: {refusal}");
        }
    }

    #[test]
    fn minutes_that_nobody_noted_count_as_none_but_between_two_that_are_close() {
        let minutes = BTreeMap::from([(0, 4), (MINUTE_MS, 4), (2 * MINUTE_MS, 8)]);
        let of = |end| active(&minutes, 0, HOUR_MS, end).map(|found| (found.p50, found.p99));
        assert_eq!(of(HOUR_MS), Some((0, 8)));
        assert_eq!(of(3 * MINUTE_MS), Some((4, 8)));
        assert_eq!(active(&BTreeMap::new(), 0, HOUR_MS, MINUTE_MS - 1), None);
        // Every second minute, by runs that take longer than one: fifty agents run all the time.
        let slow: BTreeMap<i64, u64> = (0..30).map(|turn| (2 * turn * MINUTE_MS, 50)).collect();
        let found = active(&slow, 0, HOUR_MS, HOUR_MS).unwrap();
        assert_eq!((found.p50, found.p99), (50, 50));
        let at = |minute: i64| {
            active_at(&BTreeMap::from([(0, 7), (3 * MINUTE_MS, 9), (7 * MINUTE_MS, 9)]), minute * MINUTE_MS)
        };
        assert_eq!([-1, 0, 1, 2, 3, 4, 6].map(at), [0, 7, 7, 7, 9, 0, 0].map(Some));
        assert_eq!([8, 10, 11].map(at), [None, None, Some(0)], "nobody knows yet of what is not over for long");
    }
}
