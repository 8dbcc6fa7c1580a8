//! A session's counters: what it has used, and what its running agents have claimed ahead.
//!
//! All limits of a session are held by one row, because the condition of one write can speak of one row only. Beside
//! totals it has an attribute for the cost of each day and month that an agent has claimed in lately
//! (`claimed_2026-11-25`, `claimed_2026-11`). Those of days long gone are removed as new ones come.

use crate::limits::{CostPeriod, Figures, Limits, PeriodCosts, Reached};
use crate::table::{Item, from_item, number};
use crate::transaction::Expression;
use crate::{Agent, Session, StoreError};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use theazo_metering::{Changes, Day, Part};

/// What the names of days' and months' attributes begin with.
const CLAIMED: &str = "claimed_";
/// A day's attribute is removed by whoever writes this many days later, up to a week more.
const FORGET_DAYS: std::ops::Range<i64> = 3..10;
const FORGET_MONTHS: std::ops::Range<i64> = 2..4;

/// What a session has used.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Counters {
    /// Agents alive now.
    pub active_agents: i64,
    /// Agents ever made.
    pub total_agents: i64,
    /// Milliseconds of compute that are booked.
    pub compute_ms: i64,
    /// Micro-cents that are booked.
    #[serde(default)]
    pub cost: i64,
    /// Milliseconds of compute that are booked or claimed.
    #[serde(default)]
    claimed_compute_ms: i64,
    /// Micro-cents that are booked or claimed, by day (`2026-11-25`) and month (`2026-11`).
    #[serde(skip)]
    claimed_cost: BTreeMap<String, i64>,
}

impl Counters {
    /// All that is booked: milliseconds of compute and micro-cents. Neither ever falls.
    pub fn booked(&self) -> (i64, i64) {
        (self.compute_ms, self.cost)
    }

    pub(crate) fn read(item: Item) -> Result<Self, StoreError> {
        let periods = item.iter().filter_map(|(name, value)| {
            let period =
                name.strip_prefix(CLAIMED).filter(|period| period.starts_with(|c: char| c.is_ascii_digit()))?;
            Some((period.to_owned(), value.as_n().ok()?.parse().ok()?))
        });
        let claimed_cost = periods.collect();
        Ok(Self { claimed_cost, ..from_item(item)? })
    }

    /// What is used or claimed: what decides whether one more may start.
    pub fn claimed(&self, session: &Session, now_ms: i64) -> Figures {
        let day = Day::of(now_ms);
        let of = |period: String| self.claimed_cost.get(&period).copied().unwrap_or(0);
        let ends_in = |next: Day| next.start_ms().saturating_sub(now_ms);
        Figures {
            cost: PeriodCosts { day: of(day.to_string()), month: of(day.month().to_string()) },
            compute_ms: self.claimed_compute_ms,
            age_ms: now_ms.saturating_sub(session.created_at_ms),
            left: PeriodCosts { day: ends_in(day.plus(1)), month: ends_in(day.month().plus(1).first_day()) },
        }
    }

    /// What is used to the millisecond, running agents included: what decides whether they may go on.
    pub fn used<'a>(&self, session: &Session, live: impl IntoIterator<Item = &'a Agent>, now_ms: i64) -> Figures {
        let parts = live.into_iter().flat_map(|agent| agent.unused(now_ms));
        self.claimed(session, now_ms).with(parts, now_ms)
    }
}

/// A change of a session's counters, and the limits under which it may happen.
pub(crate) struct CountersUpdate {
    adds: BTreeMap<String, i64>,
    today: Day,
    conditions: Vec<(String, i64)>,
}

impl CountersUpdate {
    /// What a change of a meter adds.
    pub(crate) fn of(changes: &Changes, now_ms: i64) -> Self {
        let mut adds = BTreeMap::new();
        let mut add = |name: String, by: i64| *adds.entry(name).or_insert(0) += by;
        for Part { ms, cost, .. } in &changes.booked {
            add("compute_ms".into(), *ms);
            add("cost".into(), *cost);
        }
        for Part { day, ms, cost } in &changes.claimed {
            add("claimed_compute_ms".into(), *ms);
            add(format!("{CLAIMED}{day}"), *cost);
            add(format!("{CLAIMED}{}", day.month()), *cost);
        }
        Self { adds, today: Day::of(now_ms), conditions: Vec::new() }
    }

    /// Adds to another counter.
    pub(crate) fn add(mut self, name: &str, by: i64) -> Self {
        *self.adds.entry(name.to_owned()).or_insert(0) += by;
        self
    }

    /// Only if it breaks none of these limits.
    pub(crate) fn within(mut self, limits: &Limits) -> Self {
        let mut conditions: Vec<(String, i64)> = Vec::new();
        let added = |name: &str| self.adds.get(name).copied().unwrap_or(0);
        if let (Some(max), 1..) = (limits.max_agents, added("active_agents")) {
            conditions.push(("active_agents".into(), i64::from(max) - added("active_agents")));
        }
        if let Some(max) = limits.max_compute_ms() {
            conditions.push(("claimed_compute_ms".into(), max - added("claimed_compute_ms").max(1)));
        }
        if let Some(max) = &limits.max_cost {
            let today = match max.period {
                CostPeriod::Day => self.today.to_string(),
                CostPeriod::Month => self.today.month().to_string(),
            };
            // A claim may reach into the next day. What costs nothing must still find some money left today.
            let is_later = |name: &&String| {
                name.strip_prefix(CLAIMED).is_some_and(|period| period.len() == today.len() && *period > *today)
            };
            let mut names: Vec<String> = self.adds.keys().filter(is_later).cloned().collect();
            let today = format!("{CLAIMED}{today}");
            names.push(today.clone());
            for name in names {
                let by = added(&name).max(i64::from(name == today));
                conditions.push((name, max.microcents() - by));
            }
        }
        self.conditions = conditions;
        self
    }

    /// Whether there is nothing to change.
    pub(crate) fn is_empty(&self) -> bool {
        self.adds.values().all(|by| *by == 0)
    }

    /// The update, and the condition under which it may happen.
    pub(crate) fn expression(self) -> (Expression, String) {
        let (mut adds, mut conditions) = (Vec::new(), Vec::new());
        let mut expression = Expression::default();
        for (index, (name, by)) in self.adds.iter().enumerate() {
            adds.push(format!("#a{index} :a{index}"));
            expression = expression.name(&format!("#a{index}"), name).value(&format!(":a{index}"), number(*by));
        }
        for (index, (name, at_most)) in self.conditions.iter().enumerate() {
            // An attribute that is not there is zero.
            conditions.push(match at_most {
                0.. => format!("(attribute_not_exists(#c{index}) OR #c{index} <= :c{index})"),
                _ => format!("#c{index} <= :c{index}"),
            });
            expression = expression.name(&format!("#c{index}"), name).value(&format!(":c{index}"), number(*at_most));
        }
        let old_days = FORGET_DAYS.map(|back| self.today.plus(-back).to_string());
        let old_months = FORGET_MONTHS.map(|back| self.today.month().plus(-back).to_string());
        let old = old_days.chain(old_months).map(|period| format!("{CLAIMED}{period}"));
        let mut removes = Vec::new();
        for (index, name) in old.filter(|name| !self.adds.contains_key(name)).enumerate() {
            removes.push(format!("#r{index}"));
            expression = expression.name(&format!("#r{index}"), &name);
        }
        let update = format!("ADD {} REMOVE {}", adds.join(", "), removes.join(", "));
        (expression.text(&update), conditions.join(" AND "))
    }
}

impl Limits {
    /// Whether as many agents are alive as may be.
    pub(crate) fn full(&self, counters: &Counters) -> Option<Reached> {
        let max = self.max_agents?;
        let used = u64::try_from(counters.active_agents).unwrap_or(0);
        (used >= max.into()).then_some(Reached { limit: "maxAgents", used, max: max.into() })
    }
}
