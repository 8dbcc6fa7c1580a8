//! What a session may use, and whether it has.

use crate::StoreError;
use serde::{Deserialize, Serialize};
use theazo_metering::{Day, MICROCENTS_PER_CENT, Part, affordable_ms, cost_of, to_cents};

/// What a session may use. Serialised as the API shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Limits {
    /// Money in a day or a month.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_cost: Option<MaxCost>,
    /// Agents alive at a time.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_agents: Option<u32>,
    /// Minutes that all its agents run, added up, ever.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_compute_minutes: Option<u32>,
    /// The session's age, from its creation on.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub max_duration: Option<MaxDuration>,
}

/// What a session may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxCost {
    /// Cents.
    pub amount: u32,
    /// In which currency.
    pub currency: Currency,
    /// In which span of time. It ends at midnight UTC.
    pub period: CostPeriod,
}

/// What prices are in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Currency {
    /// US dollars.
    #[default]
    Usd,
}

/// A span of time that a limit of money is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CostPeriod {
    /// A day in UTC.
    Day,
    /// A calendar month in UTC.
    Month,
}

/// A duration as it was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MaxDuration {
    /// Hours.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub hours: Option<u32>,
    /// Minutes.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub minutes: Option<u32>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub seconds: Option<u32>,
}

/// Limits to be changed one by one: absent stays, `Some(None)` is lifted.
#[derive(Clone, Debug, Default)]
pub struct LimitChanges {
    /// Of money.
    pub max_cost: Option<Option<MaxCost>>,
    /// Of agents alive at a time.
    pub max_agents: Option<Option<u32>>,
    /// Of minutes of compute.
    pub max_compute_minutes: Option<Option<u32>>,
    /// Of the session's age.
    pub max_duration: Option<Option<MaxDuration>>,
}

/// How much of what limits speak of is used, at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Micro-cents in the present day and in the present month, UTC.
    pub cost: PeriodCosts,
    /// Milliseconds that agents ran, ever.
    pub compute_ms: i64,
    /// The session's age, milliseconds.
    pub age_ms: i64,
    /// How long until the day and the month end, milliseconds.
    pub left: PeriodCosts,
}

/// A figure for the present day and one for the present month.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeriodCosts {
    /// For the day.
    pub day: i64,
    /// For the month.
    pub month: i64,
}

/// A limit that is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its name, as in the API.
    pub limit: &'static str,
    /// What is used, in the limit's unit: cents, agents, minutes or seconds.
    pub used: u64,
    /// What is allowed, likewise.
    pub max: u64,
}

impl From<Reached> for StoreError {
    fn from(reached: Reached) -> Self {
        let Reached { limit, used, max } = reached;
        Self::LimitExceeded { limit, used, max }
    }
}

impl MaxCost {
    /// Micro-cents.
    pub fn microcents(&self) -> i64 {
        i64::from(self.amount) * MICROCENTS_PER_CENT
    }
}

impl MaxDuration {
    /// Seconds.
    pub fn seconds(&self) -> u64 {
        let part = |number: Option<u32>| u64::from(number.unwrap_or(0));
        part(self.hours) * 3_600 + part(self.minutes) * 60 + part(self.seconds)
    }

    fn ms(&self) -> i64 {
        i64::try_from(self.seconds()).unwrap_or(i64::MAX).saturating_mul(1000)
    }
}

impl CostPeriod {
    /// The figure of this period.
    pub fn of(self, costs: PeriodCosts) -> i64 {
        match self {
            Self::Day => costs.day,
            Self::Month => costs.month,
        }
    }
}

impl LimitChanges {
    /// Whether nothing is to change.
    pub fn is_empty(&self) -> bool {
        let Self { max_cost, max_agents, max_compute_minutes, max_duration } = self;
        max_cost.is_none() && max_agents.is_none() && max_compute_minutes.is_none() && max_duration.is_none()
    }

    /// Changes those that are named.
    pub fn apply(&self, limits: &mut Limits) {
        let Self { max_cost, max_agents, max_compute_minutes, max_duration } = self;
        limits.max_cost = max_cost.unwrap_or(limits.max_cost);
        limits.max_agents = max_agents.unwrap_or(limits.max_agents);
        limits.max_compute_minutes = max_compute_minutes.unwrap_or(limits.max_compute_minutes);
        limits.max_duration = max_duration.unwrap_or(limits.max_duration);
    }
}

impl Figures {
    /// With what these parts of runs add to it, or take from it.
    pub(crate) fn with(mut self, parts: impl IntoIterator<Item = Part>, now_ms: i64) -> Self {
        let today = Day::of(now_ms);
        for part in parts {
            self.compute_ms += part.ms;
            if part.day == today {
                self.cost.day += part.cost;
            }
            if part.day.month() == today.month() {
                self.cost.month += part.cost;
            }
        }
        self
    }

    /// The same when one more agent has run for a millisecond.
    pub(crate) fn after_a_moment(&self, rate: u64) -> Self {
        let cost = cost_of(rate, 1);
        let costs = PeriodCosts { day: self.cost.day + cost, month: self.cost.month + cost };
        Self { cost: costs, compute_ms: self.compute_ms + 1, age_ms: self.age_ms + 1, ..*self }
    }
}

impl Limits {
    /// Milliseconds of compute, if they are limited.
    pub(crate) fn max_compute_ms(&self) -> Option<i64> {
        self.max_compute_minutes.map(|minutes| i64::from(minutes) * 60_000)
    }

    /// Whether any of them grows with what agents use, so that agents must claim ahead what they are going to use.
    pub fn meter_use(&self) -> bool {
        self.max_cost.is_some() || self.max_compute_minutes.is_some()
    }

    /// The first limit by which nothing may run any more. That of agents is not among them: where it was lowered, as many
    /// as may run go on.
    pub fn reached(&self, figures: &Figures) -> Option<Reached> {
        let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
        let cost = self.max_cost.and_then(|max| {
            let used = max.period.of(figures.cost);
            let reached = Reached { limit: "maxCost", used: unsigned(to_cents(used)), max: max.amount.into() };
            (used >= max.microcents()).then_some(reached)
        });
        let minutes = || {
            let (max, minutes) = (self.max_compute_ms()?, self.max_compute_minutes?);
            let used = unsigned(figures.compute_ms / 60_000);
            let reached = Reached { limit: "maxComputeMinutes", used, max: minutes.into() };
            (figures.compute_ms >= max).then_some(reached)
        };
        let duration = || {
            let max = self.max_duration?;
            let used = unsigned(figures.age_ms / 1000);
            (figures.age_ms >= max.ms()).then_some(Reached { limit: "maxDuration", used, max: max.seconds() })
        };
        cost.or_else(minutes).or_else(duration)
    }

    /// How long one more agent at that rate may run until a limit is reached, milliseconds; `i64::MAX` when none will be.
    /// A new day, or month, begins with nothing used.
    pub fn allowance_ms(&self, figures: &Figures, rate: u64) -> i64 {
        let cost = self.max_cost.map(|max| {
            let left = max.period.of(figures.left);
            let now = affordable_ms(rate, max.microcents() - max.period.of(figures.cost));
            if now < left { now } else { left.saturating_add(affordable_ms(rate, max.microcents())) }
        });
        let minutes = self.max_compute_ms().map(|max| max - figures.compute_ms);
        let duration = self.max_duration.map(|max| max.ms() - figures.age_ms);
        [cost, minutes, duration].into_iter().flatten().min().unwrap_or(i64::MAX).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn figures() -> Figures {
        let cost = PeriodCosts { day: 1_000_000, month: 5_000_000 };
        let left = PeriodCosts { day: HOUR_MS, month: 10 * HOUR_MS };
        Figures { cost, compute_ms: 90_000, age_ms: 7_000, left }
    }

    fn cost(amount: u32, period: CostPeriod) -> Option<MaxCost> {
        Some(MaxCost { amount, currency: Currency::Usd, period })
    }

    fn duration(minutes: u32, seconds: u32) -> Option<MaxDuration> {
        Some(MaxDuration { hours: None, minutes: Some(minutes), seconds: Some(seconds) })
    }

    #[test]
    fn a_limit_is_reached_when_all_of_it_is_used_and_not_a_moment_earlier() {
        let limit =
            |limits: Limits| limits.reached(&figures()).map(|reached| (reached.limit, reached.used, reached.max));
        for period in [CostPeriod::Day, CostPeriod::Month] {
            let used = u32::try_from(period.of(figures().cost) / 1_000_000).unwrap();
            let of = |amount| Limits { max_cost: cost(amount, period), ..Limits::default() };
            assert_eq!(limit(of(used)), Some(("maxCost", used.into(), used.into())));
            assert_eq!(limit(of(used + 1)), None);
        }
        let minutes = |max| Limits { max_compute_minutes: Some(max), ..Limits::default() };
        assert_eq!((limit(minutes(1)), limit(minutes(2))), (Some(("maxComputeMinutes", 1, 1)), None));
        let age = |minutes, seconds| Limits { max_duration: duration(minutes, seconds), ..Limits::default() };
        assert_eq!((limit(age(0, 7)), limit(age(0, 8))), (Some(("maxDuration", 7, 7)), None));
        assert_eq!(limit(Limits { max_agents: Some(0), ..Limits::default() }), None);
    }

    #[test]
    fn a_limit_of_nothing_is_reached_before_anything_is_used() {
        let fresh = Figures::default();
        for limits in [
            Limits { max_cost: cost(0, CostPeriod::Day), ..Limits::default() },
            Limits { max_compute_minutes: Some(0), ..Limits::default() },
            Limits { max_duration: duration(0, 0), ..Limits::default() },
        ] {
            assert!(limits.reached(&fresh).is_some(), "{limits:?}");
        }
    }

    #[test]
    fn an_allowance_is_the_shortest_time_that_any_limit_leaves() {
        let rate = 60_000_000; // a cent a minute
        let of = |limits: Limits| limits.allowance_ms(&figures(), rate);
        assert_eq!(of(Limits::default()), i64::MAX);
        // Two cents are left today: two minutes.
        assert_eq!(of(Limits { max_cost: cost(3, CostPeriod::Day), ..Limits::default() }), 120_000);
        // Enough until midnight, and then a day's money again.
        let over_midnight = of(Limits { max_cost: cost(100, CostPeriod::Day), ..Limits::default() });
        assert_eq!(over_midnight, HOUR_MS + 100 * 60_000);
        let minutes = Limits { max_compute_minutes: Some(2), ..Limits::default() };
        assert_eq!(of(minutes.clone()), 30_000);
        assert_eq!(of(Limits { max_duration: duration(0, 10), ..minutes }), 3_000);
        assert_eq!(of(Limits { max_duration: duration(0, 5), ..Limits::default() }), 0);
        let free = Limits { max_cost: cost(3, CostPeriod::Day), ..Limits::default() };
        assert_eq!(free.allowance_ms(&figures(), 0), i64::MAX);
    }

    #[test]
    fn limits_that_are_not_named_stay_and_those_that_are_null_go() {
        let mut limits = Limits { max_agents: Some(3), max_compute_minutes: Some(5), ..Limits::default() };
        let changes =
            LimitChanges { max_agents: Some(None), max_duration: Some(duration(1, 0)), ..LimitChanges::default() };
        assert!(!changes.is_empty() && LimitChanges::default().is_empty());
        changes.apply(&mut limits);
        let expected = Limits { max_compute_minutes: Some(5), max_duration: duration(1, 0), ..Limits::default() };
        assert_eq!(limits, expected);
    }

    #[test]
    fn limits_are_written_as_they_are_shown() {
        let limits = Limits {
            max_cost: cost(500, CostPeriod::Month),
            max_agents: Some(3),
            max_compute_minutes: Some(60),
            max_duration: duration(30, 5),
        };
        let shown = serde_json::to_value(&limits).unwrap();
        let expected = serde_json::json!({
            "maxCost": { "amount": 500, "currency": "usd", "period": "month" },
            "maxAgents": 3, "maxComputeMinutes": 60, "maxDuration": { "minutes": 30, "seconds": 5 },
        });
        assert_eq!((&shown, serde_json::from_value::<Limits>(shown.clone()).unwrap()), (&expected, limits));
    }
}
