//! A session's limits as the API takes and shows them.

use serde_json::{Value, json};
use theazo_http::{ApiError, Fields, MAX_CENTS};
use theazo_metering::{MICROCENTS_PER_CENT, to_cents};
use theazo_store::{CostPeriod, Counters, Currency, Figures, LimitChanges, Limits, MaxCost, MaxDuration};

const MAX_AGENTS: u64 = 100_000;
/// Some 190 years.
const MAX_MINUTES: u64 = 100_000_000;
const MAX_SECONDS: u64 = MAX_MINUTES * 60 / 2;

/// The `limits` of a body, if given: all that a session is to have.
pub(super) fn read(fields: &Fields, name: &str) -> Result<Option<Limits>, ApiError> {
    let Some(given) = fields.object(name)? else { return Ok(None) };
    let mut limits = Limits::default();
    parse(&given)?.apply(&mut limits);
    Ok(Some(limits))
}

/// The limits that are named; `null` lifts one.
pub(super) fn parse(fields: &Fields) -> Result<LimitChanges, ApiError> {
    Ok(LimitChanges {
        max_cost: named(fields, "maxCost", max_cost)?,
        max_agents: named(fields, "maxAgents", |fields, name| small(fields, name, MAX_AGENTS))?,
        max_compute_minutes: named(fields, "maxComputeMinutes", |fields, name| small(fields, name, MAX_MINUTES))?,
        max_duration: named(fields, "maxDuration", max_duration)?,
    })
}

fn named<T>(
    fields: &Fields,
    name: &str,
    read: impl Fn(&Fields, &str) -> Result<Option<T>, ApiError>,
) -> Result<Option<Option<T>>, ApiError> {
    if fields.is_null(name) { Ok(Some(None)) } else { Ok(read(fields, name)?.map(Some)) }
}

fn small(fields: &Fields, name: &str, max: u64) -> Result<Option<u32>, ApiError> {
    Ok(fields.number(name, 0, max)?.and_then(|number| u32::try_from(number).ok()))
}

fn max_cost(fields: &Fields, name: &str) -> Result<Option<MaxCost>, ApiError> {
    let Some(amount) = fields.cents(name, 0, MAX_CENTS)? else { return Ok(None) };
    let Some(given) = fields.object(name)? else { return Ok(None) };
    let period = given.one_of("period", |name| match name {
        "day" => Some(CostPeriod::Day),
        "month" => Some(CostPeriod::Month),
        _ => None,
    })?;
    let period = period.ok_or_else(|| given.wrong("period", "must be day or month"))?;
    Ok(Some(MaxCost { amount, currency: Currency::Usd, period }))
}

fn max_duration(fields: &Fields, name: &str) -> Result<Option<MaxDuration>, ApiError> {
    let Some(given) = fields.object(name)? else { return Ok(None) };
    let hours = small(&given, "hours", MAX_SECONDS / 3_600)?;
    let (minutes, seconds) = (small(&given, "minutes", MAX_SECONDS / 60)?, small(&given, "seconds", MAX_SECONDS)?);
    if (hours, minutes, seconds) == (None, None, None) {
        return Err(fields.wrong(name, "must have hours, minutes or seconds"));
    }
    Ok(Some(MaxDuration { hours, minutes, seconds }))
}

/// Each limit that is set, and how much of it is used: money in cents, time in minutes of compute and in seconds of the
/// session's age.
pub(super) fn show(limits: &Limits, counters: &Counters, used: &Figures) -> Value {
    let mut shown = json!({});
    if let Some(max) = &limits.max_cost {
        let cost = max.period.of(used.cost).max(0);
        shown["maxCost"] = json!({
            "limit": max.amount,
            "used": to_cents(cost),
            "remaining": (i64::from(max.amount) - to_cents(cost)).max(0),
            "percentage": percentage(cost, i64::from(max.amount) * MICROCENTS_PER_CENT),
            "currency": max.currency,
            "period": max.period,
        });
    }
    if let Some(max) = limits.max_agents {
        let used = u32::try_from(counters.active_agents).unwrap_or(0);
        shown["maxAgents"] = json!({
            "limit": max,
            "used": used,
            "remaining": max.saturating_sub(used),
            "percentage": percentage(used.into(), max.into()),
        });
    }
    if let Some(max) = limits.max_compute_minutes {
        let (max_ms, used_ms) = (i64::from(max) * 60_000, used.compute_ms.max(0));
        shown["maxComputeMinutes"] = json!({
            "limit": max,
            "used": minutes(used_ms),
            "remaining": minutes((max_ms - used_ms).max(0)),
            "percentage": percentage(used_ms, max_ms),
        });
    }
    if let Some(max) = &limits.max_duration {
        let max = i64::try_from(max.seconds()).unwrap_or(i64::MAX);
        let used = used.age_ms.max(0) / 1000;
        shown["maxDuration"] = json!({
            "limit": max,
            "used": used,
            "remaining": (max - used).max(0),
            "percentage": percentage(used, max),
        });
    }
    shown
}

/// Minutes with two decimals.
pub(crate) fn minutes(ms: i64) -> f64 {
    (ms as f64 / 600.0).round() / 100.0
}

/// With two decimals. All of nothing is used from the beginning.
fn percentage(used: i64, max: i64) -> f64 {
    if max == 0 { 100.0 } else { (used as f64 * 10_000.0 / max as f64).round() / 100.0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_store::PeriodCosts;

    #[test]
    fn a_limit_shows_what_is_used_and_what_remains() {
        let mut counters = Counters::default();
        (counters.active_agents, counters.total_agents) = (1, 5);
        let agents = |max| Limits { max_agents: Some(max), ..Limits::default() };
        let used = Figures {
            cost: PeriodCosts { day: 1_500_000, month: 12_499_999 },
            compute_ms: 90_000,
            age_ms: 1_800_999,
            ..Figures::default()
        };
        let shown = show(&agents(3), &counters, &used);
        assert_eq!(shown["maxAgents"], json!({"limit": 3, "used": 1, "remaining": 2, "percentage": 33.33}));
        assert_eq!(show(&Limits::default(), &counters, &used), json!({}));
        assert_eq!(show(&agents(0), &counters, &used)["maxAgents"]["percentage"], 100.0);

        let cost = |amount, period| Some(MaxCost { amount, currency: Currency::Usd, period });
        let day = Limits { max_cost: cost(4, CostPeriod::Day), ..Limits::default() };
        let expected = json!({
            "limit": 4, "used": 2, "remaining": 2, "percentage": 37.5, "currency": "usd", "period": "day",
        });
        assert_eq!(show(&day, &counters, &used), json!({ "maxCost": expected }));
        let all = Limits {
            max_cost: cost(10, CostPeriod::Month),
            max_compute_minutes: Some(2),
            max_duration: Some(MaxDuration { hours: Some(1), minutes: None, seconds: None }),
            ..Limits::default()
        };
        let shown = show(&all, &counters, &used);
        assert_eq!((&shown["maxCost"]["used"], &shown["maxCost"]["remaining"]), (&json!(12), &json!(0)));
        let expected = json!({ "limit": 2, "used": 1.5, "remaining": 0.5, "percentage": 75.0 });
        assert_eq!(shown["maxComputeMinutes"], expected);
        let expected = json!({ "limit": 3600, "used": 1800, "remaining": 1800, "percentage": 50.0 });
        assert_eq!(shown["maxDuration"], expected);
    }
}
