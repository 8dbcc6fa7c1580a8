//! Agents whose host cannot be asked about them: it does not answer, or it is none of their platform's any more.
//!
//! One look proves nothing: hosts restart, networks fail, and whoever looks may have slept. So what was seen is kept in the
//! agent's row, from the first look on, until the host answers again or has been silent for so long, at every look, that the
//! agent counts as failed. From the first look on the agent is not metered either: nobody knows whether it ran. If its host
//! answers again before its time is over, it did, and what it ran is booked then.

use super::changes::{Change, outcomes};
use super::{Agent, AgentStatus, Agents, Intent};
use crate::{LogLevel, LogSource, NewLog, StoreError};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::time::Duration;
use theazo_tenancy::{AgentId, TenantScope};

/// How long a host may be silent before its agents have failed, unless configured otherwise.
pub const DEAD_HOST_AFTER: Duration = Duration::from_secs(15 * 60);
/// How often it must have been found so by then.
const LOOKS: u32 = 3;
/// Looks that are farther apart are not in a row, milliseconds: nobody knows what the host did in between.
const APART_MS: i64 = 5 * 60_000;
/// How late a look may be told of, milliseconds: a run of reconciling takes two minutes at most.
const LATE_MS: i64 = 2 * 60_000;

/// Why an agent's host cannot be asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unreachable {
    /// It does not answer.
    HostSilent,
    /// The platform's credential does not name it.
    HostRemoved,
}

impl Unreachable {
    /// The name on the wire and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::HostSilent => "host_silent",
            Self::HostRemoved => "host_removed",
        }
    }

    /// The same in words. Which host it is is the platform's own affair, and its users read this too.
    pub const fn message(self) -> &'static str {
        match self {
            Self::HostSilent => "the agent's host has not answered any more",
            Self::HostRemoved => "the agent's host is not among the platform's Docker hosts any more",
        }
    }
}

/// Looks in a row at which an agent's host could not be asked about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Silence {
    /// Why, at the latest of them.
    pub why: Unreachable,
    /// When the first was, Unix milliseconds.
    pub since_ms: i64,
    /// When the latest was that counts, Unix milliseconds.
    pub last_ms: i64,
    /// How many count.
    pub looks: u32,
}

/// What follows from one more look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// Nothing that must be kept.
    Known,
    /// It counts.
    Counted(Silence),
    /// It is one too many.
    Dead(Silence),
}

/// What follows when a host is found so at a moment, and may be so for `after_ms`. A few looks count, spread over that time,
/// and the row is written no more often.
fn judge(before: Option<Silence>, why: Unreachable, at_ms: i64, after_ms: i64) -> Verdict {
    let spread_ms = (after_ms + i64::from(LOOKS) - 1) / i64::from(LOOKS);
    // There may have been looks since the last one that counts. A clock that was put back begins anew, too.
    // A look that began before the last one and is told of after it says nothing new.
    if before.is_some_and(|before| (1..=LATE_MS).contains(&(before.last_ms - at_ms))) {
        return Verdict::Known;
    }
    let in_a_row = |before: &Silence| (0..=APART_MS + spread_ms).contains(&(at_ms - before.last_ms));
    let Some(before) = before.filter(in_a_row) else {
        return Verdict::Counted(Silence { why, since_ms: at_ms, last_ms: at_ms, looks: 1 });
    };
    let counts = at_ms - before.last_ms >= spread_ms;
    let looks = before.looks.saturating_add(u32::from(counts));
    let last_ms = if counts { at_ms } else { before.last_ms };
    let now = Silence { why, last_ms, looks, ..before };
    match (looks >= LOOKS && at_ms - before.since_ms >= after_ms, counts) {
        (true, _) => Verdict::Dead(now),
        (false, true) => Verdict::Counted(now),
        (false, false) => Verdict::Known,
    }
}

impl Agent {
    /// Whether the host, should it ever answer again, has files of the agent's own.
    fn has_own_files(&self) -> bool {
        match (self.status, self.intent) {
            (AgentStatus::Ready | AgentStatus::Running, _) => true,
            // Files of a checkpoint take the place of its own, and nobody knows how far that came.
            (AgentStatus::Booting, Some(Intent::Resuming | Intent::Restarting)) => self.restores.is_none(),
            _ => false,
        }
    }
}

/// What the log says of an agent that has failed for that.
fn dead(agent: &Agent, silence: Silence) -> NewLog {
    let details = json!({
        "event": "agent.unreachable",
        "reason": silence.why,
        "sinceMs": silence.since_ms,
        "looks": silence.looks,
    });
    NewLog::of_agent(agent, LogLevel::Error, LogSource::Provider, silence.why.message()).metadata(&details)
}

impl Agents {
    /// Notes that at `at_ms` an agent's host could not be asked about it. When that has been so for `after_ms`, at several
    /// looks in a row, the agent has failed: its run has ended with the first of them, its place is given back, and what its
    /// host has of its files is to be kept, so that it can be retried. An agent that has changed since it was read stays as
    /// it is, and so does one that has nothing that runs.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn note_silence(
        &self,
        scope: &TenantScope,
        read: &Agent,
        (why, at_ms): (Unreachable, i64),
        after_ms: i64,
    ) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            let is_same = (before.status, before.intent, before.boots, &before.host)
                == (read.status, read.intent, read.boots, &read.host);
            if !is_same || !before.status.takes_place() || before.host.is_none() {
                return Ok(None);
            }
            let mut after = before.clone();
            match judge(before.silence, why, at_ms, after_ms) {
                Verdict::Known => Ok(None),
                Verdict::Counted(silence) => {
                    after.silence = Some(silence);
                    Ok(Some(Change::to(after)))
                }
                Verdict::Dead(silence) => {
                    let metered = after.enter(AgentStatus::Failed, self.0.now_ms());
                    (after.silence, after.own_files) = (Some(silence), before.has_own_files());
                    let news = Some(dead(&after, silence));
                    Ok(Some(Change { deeds: outcomes(before, &after), metered, news, ..Change::to(after) }))
                }
            }
        };
        self.apply(scope, &read.id, step).await
    }

    /// Notes that the host of an agent that is not over answers again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn note_answer(&self, scope: &TenantScope, id: &AgentId) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            if before.status.is_over() || before.silence.is_none() {
                return Ok(None);
            }
            let after = Agent { silence: None, ..before.clone() };
            Ok(Some(Change::to(after)))
        };
        self.apply(scope, id, step).await
    }

    /// Notes that an agent that is over has no files of its own any more: its host has lost them.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn lose_own_files(&self, scope: &TenantScope, id: &AgentId) -> Result<Agent, StoreError> {
        let step = |before: &Agent| {
            if !before.status.is_over() || !before.own_files {
                return Ok(None);
            }
            let after = Agent { own_files: false, ..before.clone() };
            Ok(Some(Change::to(after)))
        };
        self.apply(scope, id, step).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Unreachable::{HostRemoved, HostSilent};
    use proptest::collection::vec;
    use proptest::prelude::*;

    const MINUTE: i64 = 60_000;
    const AFTER: i64 = 15 * MINUTE;

    /// At which of these looks, each of which finds the host silent, its agents fail, and how often a row is written by then.
    fn looks(at: impl IntoIterator<Item = i64>, after_ms: i64) -> (Option<i64>, usize) {
        let (mut silence, mut written) = (None, 0);
        for at in at {
            match judge(silence, HostSilent, at, after_ms) {
                Verdict::Known => {}
                Verdict::Counted(now) => (silence, written) = (Some(now), written + 1),
                Verdict::Dead(now) => {
                    assert!(now.looks >= LOOKS && at - now.since_ms >= after_ms);
                    return (Some(at), written + 1);
                }
            }
        }
        (None, written)
    }

    #[test]
    fn a_host_that_is_silent_at_every_look_of_a_quarter_of_an_hour_is_dead_and_its_agents_rows_are_written_a_few_times()
    {
        let (dead, written) = looks((0..60).map(|minute| minute * MINUTE), AFTER);
        assert_eq!((dead, written), (Some(AFTER), 4));
        // The schedule is a minute, and is not to the second.
        let (dead, written) = looks((0..60).map(|minute| minute * MINUTE + (minute * 7919) % 2000), AFTER);
        assert!(dead.is_some_and(|at| at < AFTER + 2 * MINUTE) && written <= 4, "{dead:?} {written}");
        // No time is too short for the schedule.
        assert_eq!(looks((0..60).map(|minute| minute * (MINUTE + 900)), MINUTE).0, Some(2 * (MINUTE + 900)));
    }

    #[test]
    fn neither_one_look_nor_two_kill_however_long_there_was_none_in_between() {
        for apart in [0, 1, MINUTE, AFTER, AFTER + 1, 60 * MINUTE, i64::MAX / 2] {
            assert_eq!(looks([0, apart], AFTER).0, None, "{apart}");
        }
        // An hour without looks, and then as many as it takes: they count from there.
        let after_sleep = [0].into_iter().chain((60..90).map(|minute| minute * MINUTE));
        assert_eq!(looks(after_sleep, AFTER).0, Some(60 * MINUTE + AFTER));
        // Nor does a clock that was put back.
        assert_eq!(looks([AFTER, 0, 2 * AFTER, 2 * AFTER + 1], AFTER).0, None);
    }

    #[test]
    fn a_look_that_is_told_of_after_a_later_one_changes_nothing() {
        let known = Silence { why: HostSilent, since_ms: 0, last_ms: 10 * MINUTE, looks: 2 };
        for late in [1, MINUTE, LATE_MS] {
            assert_eq!(judge(Some(known), HostSilent, known.last_ms - late, AFTER), Verdict::Known);
        }
        let begun_anew = judge(Some(known), HostSilent, known.last_ms - LATE_MS - 1, AFTER);
        assert!(matches!(begun_anew, Verdict::Counted(Silence { looks: 1, .. })), "{begun_anew:?}");
    }

    #[test]
    fn what_it_is_called_is_of_the_last_look_and_since_when_of_the_first() {
        let first = Silence { why: HostSilent, since_ms: 0, last_ms: 10 * MINUTE, looks: 3 };
        let Verdict::Dead(now) = judge(Some(first), HostRemoved, AFTER, AFTER) else { panic!("it lives") };
        assert_eq!((now.why, now.since_ms), (HostRemoved, 0));
    }

    proptest! {
        #[test]
        fn whatever_the_looks_no_host_is_dead_before_its_time_and_three_of_them_without_a_long_gap(
            steps in vec(0..20 * MINUTE, 1..40),
            after_ms in MINUTE..60 * MINUTE,
        ) {
            let mut at: Vec<i64> = steps.iter().scan(0, |at, step| { *at += step; Some(*at) }).collect();
            if let (Some(dead), _) = looks(at.clone(), after_ms) {
                at.retain(|look| *look <= dead);
                let longest = 5 * MINUTE + after_ms / 3 + 1;
                // The last ones without a gap are what it has died of.
                let row: Vec<i64> = at.iter().rev().copied().collect();
                let length = row.windows(2).take_while(|pair| pair[0] - pair[1] <= longest).count();
                prop_assert!(length + 1 >= 3, "{at:?}");
                prop_assert!(row[0] - row[length] >= after_ms, "{at:?}");
            }
        }

        #[test]
        fn a_host_that_is_silent_for_good_is_dead_soon_after_its_time_however_the_looks_come(
            steps in vec(1..APART_MS, 400),
            after_ms in MINUTE..60 * MINUTE,
        ) {
            let at: Vec<i64> = steps.iter().scan(0, |at, step| { *at += step; Some(*at) }).collect();
            let (dead, written) = looks(at.clone(), after_ms);
            let since = at[0];
            // Two more looks are the most that it takes where they are rare.
            prop_assert!(dead.is_some_and(|dead| dead - since <= after_ms + 3 * APART_MS), "{dead:?}");
            prop_assert!(written <= 4);
        }
    }
}
