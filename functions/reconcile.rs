//! Reconciling what the table says with what providers run: whatever was interrupted is finished, whatever outlived
//! its time is ended, whatever nobody owns is removed. A scheduled function, and a loop in the local stack.

mod accounts;
mod agents;
mod hosts;
mod lanes;
mod orphans;

use crate::agents::Sandboxes;
use crate::deployment::{Capability, Deployment};
use crate::emf;
use crate::limits::Watch;
use crate::sessions::{pause, terminate};
use futures_util::FutureExt;
use futures_util::future::join;
use hosts::Hosts;
use lanes::in_lanes;
use serde::Serialize;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::AddAssign;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::Presence;
use theazo_store::{
    Agents, DeletionState, Measurements, OrphanNotes, PlatformDeletion, PlatformSuspension, SecretSealer,
    SessionStatus, Sessions, Table, Work, WorkItem, as_function, now_ms,
};
use theazo_tenancy::{Mode, Operator, PlatformId, SessionId, TenantScope};
use tokio::time::Instant;

/// How long a run begins new work. Its function ends after two minutes, and a thing that was begun has [`ITEM_TIME`].
const RUN_TIME: Duration = Duration::from_secs(75);
/// How long one thing may take, most of it a provider's.
const ITEM_TIME: Duration = Duration::from_secs(30);
/// Platforms looked after side by side.
const PLATFORMS_AT_ONCE: usize = 16;
/// After how long one whose providers are slow is in nobody's way any more: then its agents are looked after beside those
/// sixteen. So a run comes by every platform as long as fewer than some two hundred are as slow as that.
const PLATFORM_SLICE: Duration = Duration::from_secs(4);
/// Things of one platform, and after how long one is in no other's way: those of another provider do not wait for one that
/// is silent.
const ITEMS_AT_ONCE: usize = 4;
const ITEM_SLICE: Duration = Duration::from_secs(2);
/// How often the order in which things are looked at changes, milliseconds.
const TURN_MS: i64 = 60_000;
/// Spreads consecutive turns, and every second one, over all places (Knuth's multiplicative hashing: 2^64 over the golden
/// ratio).
const TURN_SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// The agents that have something in an account, and how much, by account: a provider's name, the platform whose
/// account it is, and which of its hosts.
type Found = HashMap<(String, Option<PlatformId>, Option<String>), HashMap<String, Presence>>;

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Outcome {
    /// Boots that were interrupted and taken back.
    pub failed_boots: usize,
    /// Pauses that were interrupted and finished.
    pub pauses: usize,
    /// Agents that were paused because they had nothing to do.
    pub idle: usize,
    /// Agents that had run out of time.
    pub expired: usize,
    /// Agents that a limit of their session, or their own, has paused.
    pub over_limit: usize,
    /// Agents that were paused because the operator has suspended their platform.
    pub suspended: usize,
    /// Agents whose sandbox was gone.
    pub lost: usize,
    /// Agents that have failed because their host could not be asked about them for too long.
    pub unreachable: usize,
    /// Ended agents whose sandbox was still to be removed.
    pub settled: usize,
    /// Checkpoints that nobody makes or keeps any more and that were removed.
    pub checkpoints: usize,
    /// Hosts that what an agent has there was removed from, because it lives on another.
    pub cleared_hosts: usize,
    /// Terminated sessions whose removal was finished, and paused ones whose agents all are.
    pub sessions: usize,
    /// Deleted platforms of which now only the tombstone is left.
    pub platforms: usize,
    /// Sandboxes that no agent owns, of which some may still have time.
    pub ownerless: usize,
    /// Most of them that one owner has at one provider and an earlier run had found as well.
    pub lingering: usize,
    /// Those of them that were removed.
    pub orphans: usize,
    /// Things that could not be done now and stay on the list.
    pub postponed: usize,
    /// Things that the run had no time left for. The next run begins elsewhere.
    pub skipped: usize,
    /// How long after its time the latest of the expired agents was ended, milliseconds.
    pub lag_ms: u64,
}

impl AddAssign for Outcome {
    fn add_assign(&mut self, more: Self) {
        let Self {
            failed_boots,
            pauses,
            idle,
            expired,
            over_limit,
            suspended,
            lost,
            unreachable,
            settled,
            checkpoints,
            cleared_hosts,
            sessions,
            platforms,
            ownerless,
            lingering,
            orphans,
            postponed,
            skipped,
            lag_ms,
        } = more;
        self.failed_boots += failed_boots;
        self.pauses += pauses;
        self.idle += idle;
        self.expired += expired;
        self.over_limit += over_limit;
        self.suspended += suspended;
        self.lost += lost;
        self.unreachable += unreachable;
        self.settled += settled;
        self.checkpoints += checkpoints;
        self.cleared_hosts += cleared_hosts;
        self.sessions += sessions;
        self.platforms += platforms;
        self.ownerless += ownerless;
        self.lingering = self.lingering.max(lingering);
        self.orphans += orphans;
        self.postponed += postponed;
        self.skipped += skipped;
        self.lag_ms = self.lag_ms.max(lag_ms);
    }
}

/// Whether other processes may be booting agents at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Boots {
    /// They may: a boot is given its time.
    UnderWay,
    /// They cannot, as when a local stack has just started: every recorded boot was interrupted.
    Impossible,
}

/// How far a run has come with its list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Things that were looked after, or for which there was no time.
    pub done: usize,
    /// Things on the list.
    pub all: usize,
}

/// Reconciles once.
///
/// # Errors
/// `internal_error` when the work list cannot be read. A provider that does not answer postpones its items instead.
pub async fn reconcile(deployment: &Deployment, boots: Boots) -> Result<Outcome, ApiError> {
    reconcile_telling(deployment, boots, &|_| ()).await
}

/// The same, telling somebody who waits how far it is: when every provider was asked, and after each thing.
///
/// # Errors
/// As [`reconcile`].
pub async fn reconcile_telling(
    deployment: &Deployment,
    boots: Boots,
    tell: &(dyn Fn(Progress) + Sync),
) -> Result<Outcome, ApiError> {
    as_function("reconcile", reconcile_as_itself(deployment, boots, tell)).await
}

async fn reconcile_as_itself(
    deployment: &Deployment,
    boots: Boots,
    tell: &(dyn Fn(Progress) + Sync),
) -> Result<Outcome, ApiError> {
    let started = Instant::now();
    // A row that is not where it belongs is looked after like any other: what it stands for must not run on for ever.
    let deployment = &deployment.on_schedule();
    let Upkeep { work, orphans, platforms, suspension } = Upkeep::of(deployment.table());
    let mut run = Run {
        sandboxes: Sandboxes::of(deployment),
        agents: Agents::of(deployment),
        sessions: Sessions::of(deployment),
        sealer: SecretSealer::of(deployment),
        measurements: Measurements::of(deployment),
        work,
        platforms,
        suspension,
        boots,
        dead_host_after_ms: i64::try_from(deployment.config().dead_host_after.as_millis()).unwrap_or(i64::MAX),
        watch: Watch::default(),
        until: started + RUN_TIME,
    };
    let listed_at_ms = now_ms();
    let turn = usize::try_from(listed_at_ms.div_euclid(TURN_MS)).unwrap_or(0);
    let accounts = Box::pin(accounts::ask(&run.sandboxes, &run.work, turn)).await?;
    // Also for what is done by sessions, and on hosts where agents do not live: what the table says changes, and the rest is
    // done when the host answers.
    run.sandboxes = run.sandboxes.without(accounts.hosts().unheard());
    // An agent is on the list before its sandbox is made, so what was listed before this and is missing here has no owner.
    let items = run.work.list().await?;
    let found = accounts.found();
    let platforms = by_platform(&items, turn);
    let seen = (&found, accounts.hosts(), listed_at_ms);
    let (all, done) = (items.len(), AtomicUsize::new(0));
    tell(Progress { done: 0, all });
    let one_more = || tell(Progress { done: done.fetch_add(1, Ordering::Relaxed) + 1, all });
    // On the heap: unoptimised, what is nested in this is more than a thread's stack.
    let mut visits = Vec::with_capacity(platforms.len());
    for items in platforms {
        visits.push(Box::pin(run.platform_items(items, seen, &one_more)));
    }
    let visits = in_lanes(visits, PLATFORMS_AT_ONCE, PLATFORM_SLICE);
    let grace_ms = i64::try_from(deployment.config().orphan_grace.as_millis()).unwrap_or(i64::MAX);
    // Side by side: accounts that do not let go of orphans take no time of anybody's agents.
    let known: HashSet<&str> = items.iter().filter_map(agent_of).collect();
    let removals = Box::pin(accounts.remove_orphans(&orphans, known, turn, grace_ms, run.until));
    let (mut outcome, visited) = join(removals, Box::pin(visits)).await;
    visited.into_iter().for_each(|visited| outcome += visited);
    if outcome.skipped > 0 {
        tracing::warn!(skipped = outcome.skipped, "a run did not come to the end of its list");
    }
    emf::reconciled(deployment, &outcome, u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    Ok(outcome)
}

/// The list by platform, so that none waits for another's. Whose turn is first changes from run to run, among the
/// platforms and within each: what one run did not come to, a later one begins with.
fn by_platform(items: &[WorkItem], turn: usize) -> Vec<Vec<&WorkItem>> {
    let mut platforms: BTreeMap<&PlatformId, Vec<&WorkItem>> = BTreeMap::new();
    for item in items {
        platforms.entry(platform_of(item)).or_default().push(item);
    }
    let mut platforms: Vec<_> = platforms.into_values().collect();
    platforms.iter_mut().for_each(|items| in_turn(items, turn));
    in_turn(&mut platforms, turn);
    platforms
}

fn platform_of(item: &WorkItem) -> &PlatformId {
    match item {
        WorkItem::Agent(work) => &work.platform,
        WorkItem::Session(platform, ..) | WorkItem::Platform(platform) => platform,
    }
}

fn agent_of(item: &WorkItem) -> Option<&str> {
    match item {
        WorkItem::Agent(work) => Some(work.agent.as_str()),
        WorkItem::Session(..) | WorkItem::Platform(_) => None,
    }
}

/// The same things, beginning elsewhere each turn.
fn in_turn<T>(things: &mut [T], turn: usize) {
    let spread = (turn as u64).wrapping_mul(TURN_SPREAD) >> 32;
    let first = usize::try_from(spread).unwrap_or(0) % things.len().max(1);
    things.rotate_left(first);
}

/// What only the operator may do.
struct Upkeep {
    work: Work,
    orphans: OrphanNotes,
    platforms: PlatformDeletion,
    suspension: PlatformSuspension,
}

impl Upkeep {
    #[expect(clippy::disallowed_methods, reason = "reconciling acts for every tenant and has no caller")]
    fn of(table: &Table) -> Self {
        let operator = || Operator::assume().on_schedule();
        Self {
            work: Work::new(table.clone(), operator()),
            orphans: OrphanNotes::new(table.clone(), operator()),
            platforms: PlatformDeletion::new(table.clone(), operator()),
            suspension: PlatformSuspension::new(table.clone(), operator()),
        }
    }
}

/// What was found before the list was gone through.
struct Look<'a> {
    found: &'a Found,
    /// What was heard of platforms' own hosts.
    hosts: &'a Hosts,
    /// When accounts were asked, Unix milliseconds.
    listed_at_ms: i64,
    /// Whether the platform is suspended.
    suspended: bool,
    /// Whether the platform is being deleted.
    deleted: bool,
    /// Agents that boot or run, as they are come by: live ones and test ones.
    active: [AtomicU64; 2],
}

impl Look<'_> {
    fn active(&self, mode: Mode) -> &AtomicU64 {
        let [live, test] = &self.active;
        match mode {
            Mode::Live => live,
            Mode::Test => test,
        }
    }
}

struct Run {
    sandboxes: Sandboxes,
    agents: Agents,
    sessions: Sessions,
    sealer: SecretSealer,
    measurements: Measurements,
    work: Work,
    platforms: PlatformDeletion,
    suspension: PlatformSuspension,
    boots: Boots,
    /// How long a host may be silent before its agents have failed, milliseconds.
    dead_host_after_ms: i64,
    watch: Watch,
    /// When nothing more is begun.
    until: Instant,
}

impl Run {
    /// What is to be done for one platform, a few things side by side.
    async fn platform_items(
        &self,
        items: Vec<&WorkItem>,
        (found, hosts, listed_at_ms): (&Found, &Hosts, i64),
        one_more: &(dyn Fn() + Sync),
    ) -> Outcome {
        let Some(platform) = items.first().map(|item| platform_of(item)) else { return Outcome::default() };
        let suspended = self.suspension.is_suspended(platform).await;
        let suspended = suspended.unwrap_or_else(|error| {
            tracing::warn!(%error, "whether a platform is suspended is not known");
            false
        });
        let deleted = items.iter().any(|item| matches!(item, WorkItem::Platform(_)));
        let look = Look { found, hosts, listed_at_ms, suspended, deleted, active: Default::default() };
        let mut visits = Vec::with_capacity(items.len());
        for item in items {
            let visit = self.item(item, &look);
            visits.push(Box::pin(visit.inspect(|_| one_more())));
        }
        let mut outcome = Outcome::default();
        in_lanes(visits, ITEMS_AT_ONCE, ITEM_SLICE).await.into_iter().for_each(|visited| outcome += visited);
        // Who was not come by is not counted, and half a figure is none.
        if outcome.skipped == 0 {
            self.note_active(platform, &look).await;
        }
        outcome
    }

    /// One thing of the list, which takes no longer than [`ITEM_TIME`], whatever its provider does.
    async fn item(&self, item: &WorkItem, look: &Look<'_>) -> Outcome {
        if Instant::now() >= self.until {
            return Outcome { skipped: 1, ..Outcome::default() };
        }
        let mut outcome = Outcome::default();
        let visit = async {
            match item {
                WorkItem::Agent(work) => self.agent(work, look, &mut outcome).await,
                WorkItem::Session(platform, mode, session) => {
                    let scope = self.work.operator().tenant(platform, *mode);
                    let done = self.session(&scope, session).await;
                    outcome.sessions += usize::from(done.is_ok());
                    done
                }
                WorkItem::Platform(platform) => self.platform(platform, &mut outcome).await,
            }
        };
        let done = tokio::time::timeout(ITEM_TIME, visit).await;
        let late = || ApiError::new(ErrorCode::Timeout, "it took too long");
        if let Err(error) = done.unwrap_or_else(|_| Err(late())) {
            tracing::warn!(?item, ?error, "postponed");
            outcome.postponed += 1;
        }
        outcome
    }

    /// Notes how many of a platform's agents were active, for the minute in which this run began: runs begin a minute
    /// apart, and come by sooner or later. Minutes without a note count as none.
    async fn note_active(&self, platform: &PlatformId, look: &Look<'_>) {
        for mode in [Mode::Live, Mode::Test] {
            let agents = look.active(mode).load(Ordering::Relaxed);
            let scope = self.work.operator().tenant(platform, mode);
            if agents > 0
                && let Err(error) = self.measurements.active(&scope, agents, look.listed_at_ms).await
            {
                tracing::error!(%error, "a measurement is lost");
            }
        }
    }

    /// Goes on with what a session's agents are still to do.
    async fn session(&self, scope: &TenantScope, id: &SessionId) -> Result<(), ApiError> {
        let Self { sessions, agents, sealer, sandboxes, .. } = self;
        match sessions.get(scope, id).await? {
            Some(session) if session.status == SessionStatus::Paused => {
                pause::finish(scope, &session, sessions, agents, sandboxes).await
            }
            // It was resumed since.
            Some(session) if session.status == SessionStatus::Active => {
                Ok(sessions.settle_paused(scope, &session).await?)
            }
            _ => terminate::finish(scope, id, sessions, agents, sealer, sandboxes).await,
        }
    }

    /// Goes on with a platform's deletion. Its agents end by its sessions' items, of which this may add some that are
    /// done by the next run.
    async fn platform(&self, platform: &PlatformId, outcome: &mut Outcome) -> Result<(), ApiError> {
        let state = self.platforms.advance(platform, now_ms()).await?;
        outcome.platforms += usize::from(state == DeletionState::Gone);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_tenancy::{AgentId, WorkRef};

    #[test]
    fn every_platform_and_every_thing_of_one_is_first_at_times_and_none_is_left_out() {
        let platforms: Vec<PlatformId> = (0..5).map(|_| PlatformId::make()).collect();
        let item = |platform: &PlatformId| {
            WorkItem::Agent(WorkRef { platform: platform.clone(), mode: Mode::Live, agent: AgentId::make() })
        };
        let items: Vec<WorkItem> = platforms
            .iter()
            .enumerate()
            .flat_map(|(index, platform)| (0..=index).map(move |_| item(platform)))
            .collect();
        let (mut first, mut first_of_last) = (HashSet::new(), HashSet::new());
        for turn in 0..30 {
            let by_platform = by_platform(&items, turn);
            assert_eq!(by_platform.len(), platforms.len());
            for items in &by_platform {
                assert!(items.iter().all(|item| platform_of(item) == platform_of(items[0])), "one platform's only");
            }
            let all: Vec<_> = by_platform.iter().flatten().copied().collect();
            assert!(all.len() == items.len() && items.iter().all(|item| all.contains(&item)));
            first.insert(platform_of(by_platform[0][0]).clone());
            let last = by_platform.iter().find(|items| *platform_of(items[0]) == platforms[4]).unwrap();
            first_of_last.insert(format!("{:?}", last[0]));
        }
        assert_eq!((first.len(), first_of_last.len()), (5, 5));
        assert!(by_platform(&[], 3).is_empty());
    }

    #[test]
    fn every_place_of_any_number_is_first_at_times_even_where_only_every_second_turn_comes() {
        for count in [2, 5, 64, 127, 254, 300] {
            for step in [1, 2] {
                let first = (0..count * 40).map(|turn| {
                    let mut things: Vec<usize> = (0..count).collect();
                    in_turn(&mut things, turn * step);
                    things[0]
                });
                assert_eq!(first.collect::<HashSet<_>>().len(), count, "{count} by {step}");
            }
        }
    }
}
