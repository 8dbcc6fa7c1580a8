//! An agent's meter: what it has run and cost, what of that is booked, and what it has claimed ahead.

use crate::{Part, cost_of, parts};
use serde::{Deserialize, Serialize};

/// An agent's meter, part of its row. Every change of it gives the [`Changes`] that belong into the same transaction.
///
/// A *run* goes from one start to the next pause or end. *Booked* is what has been added to counters and reports so far.
/// *Claimed* is what has been taken from the session's limits: it runs ahead of what is booked, so that agents which
/// start at the same moment cannot spend the same money.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Meter {
    /// Micro-cents an hour of the present run, or of the last one.
    rate: u64,
    /// Milliseconds of earlier runs.
    ran_ms: i64,
    /// What earlier runs cost, micro-cents.
    cost: i64,
    /// The present run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    run: Option<Run>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Run {
    /// Whether it has started. Before that only its claim counts.
    started: bool,
    started_ms: i64,
    booked_to_ms: i64,
    /// Never before `booked_to_ms`.
    claimed_to_ms: i64,
}

/// What a change of a meter adds to counters: by day, and negative where a claim is given back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[must_use]
pub struct Changes {
    /// To what has been used.
    pub booked: Vec<Part>,
    /// To what is used or claimed.
    pub claimed: Vec<Part>,
}

impl Changes {
    /// These and others.
    pub fn and(mut self, other: Self) -> Self {
        self.booked.extend(other.booked);
        self.claimed.extend(other.claimed);
        self
    }
}

impl Meter {
    /// Claims that many milliseconds for a run that is about to start, at that rate.
    pub fn claim(&mut self, rate: u64, now_ms: i64, length_ms: i64) -> Changes {
        let mut changes = self.stop(now_ms);
        self.rate = rate;
        let claimed_to_ms = now_ms.saturating_add(length_ms.max(0));
        self.run = Some(Run { started: false, started_ms: now_ms, booked_to_ms: now_ms, claimed_to_ms });
        changes.claimed.extend(parts(rate, now_ms, now_ms, claimed_to_ms));
        changes
    }

    /// Starts the run that was claimed; its claim counts from now. A run that has started goes on, and one that nothing
    /// was claimed for has claimed nothing.
    pub fn start(&mut self, now_ms: i64) -> Changes {
        let unclaimed = Run { started: false, started_ms: now_ms, booked_to_ms: now_ms, claimed_to_ms: now_ms };
        let run = self.run.get_or_insert(unclaimed);
        if run.started {
            return Changes::default();
        }
        let mut claimed = parts(self.rate, run.started_ms, run.claimed_to_ms, run.started_ms);
        let claimed_to_ms = now_ms.saturating_add(run.claimed_to_ms - run.started_ms);
        *run = Run { started: true, started_ms: now_ms, booked_to_ms: now_ms, claimed_to_ms };
        claimed.extend(parts(self.rate, now_ms, now_ms, claimed_to_ms));
        Changes { booked: Vec::new(), claimed }
    }

    /// Books what has passed since the last time, and claims up to `claim_to_ms`, or as far as is claimed already. A
    /// clock that was put back books nothing until it has caught up.
    pub fn advance(&mut self, now_ms: i64, claim_to_ms: i64) -> Changes {
        let Some(run) = self.run.as_mut().filter(|run| run.started) else { return Changes::default() };
        let now = now_ms.max(run.booked_to_ms);
        let claim_to = claim_to_ms.max(now).max(run.claimed_to_ms);
        let changes = Changes {
            booked: parts(self.rate, run.started_ms, run.booked_to_ms, now),
            claimed: parts(self.rate, run.started_ms, run.claimed_to_ms, claim_to),
        };
        (run.booked_to_ms, run.claimed_to_ms) = (now, claim_to);
        changes
    }

    /// Ends the run: books the rest of it and gives back what it had claimed beyond. One that never started costs
    /// nothing.
    pub fn stop(&mut self, now_ms: i64) -> Changes {
        let Some(run) = self.run.take() else { return Changes::default() };
        let end = if run.started { now_ms.max(run.booked_to_ms) } else { run.started_ms };
        self.ran_ms = self.ran_ms.saturating_add(end - run.started_ms);
        self.cost = self.cost.saturating_add(cost_of(self.rate, end - run.started_ms));
        Changes {
            booked: parts(self.rate, run.started_ms, run.booked_to_ms, end),
            claimed: parts(self.rate, run.started_ms, run.claimed_to_ms, end),
        }
    }

    /// Micro-cents an hour of the present run, or of the last one.
    pub fn rate(&self) -> u64 {
        self.rate
    }

    /// Milliseconds that it has run by then, all runs together.
    pub fn ran_ms(&self, now_ms: i64) -> i64 {
        self.ran_ms.saturating_add(self.elapsed_ms(now_ms))
    }

    /// What it has cost by then, micro-cents, all runs together.
    pub fn cost(&self, now_ms: i64) -> i64 {
        self.cost.saturating_add(cost_of(self.rate, self.elapsed_ms(now_ms)))
    }

    /// Up to when the present run is booked, Unix milliseconds, if one has started.
    pub fn booked_to_ms(&self) -> Option<i64> {
        self.run.as_ref().filter(|run| run.started).map(|run| run.booked_to_ms)
    }

    /// Up to when the present run has claimed, Unix milliseconds, if one has started.
    pub fn claimed_to_ms(&self) -> Option<i64> {
        self.run.as_ref().filter(|run| run.started).map(|run| run.claimed_to_ms)
    }

    /// What has passed and is not booked yet, by day.
    pub fn unbooked(&self, now_ms: i64) -> Vec<Part> {
        self.clone().advance(now_ms, now_ms).booked
    }

    /// What is to be added to what is claimed to know what is used by then: less, as far as it has claimed ahead.
    pub fn unused(&self, now_ms: i64) -> Vec<Part> {
        self.clone().stop(now_ms).claimed
    }

    /// Of the present run. Never less than what is booked, whatever the clock says.
    fn elapsed_ms(&self, now_ms: i64) -> i64 {
        let started = self.run.as_ref().filter(|run| run.started);
        started.map_or(0, |run| now_ms.max(run.booked_to_ms) - run.started_ms)
    }
}
