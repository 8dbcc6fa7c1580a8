//! What agents run and cost: claimed from limits before they start and booked to the millisecond, at a clock that tests
//! set.

use crate::agents;
use crate::support::{World, refused};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use theazo_metering::{Day, Prices};
use theazo_store::{
    Agent, AgentStatus, Agents, Clock, CostPeriod, Counters, Currency, Intent, Limits, MaxCost, MaxDuration, NewAgent,
    NewSession, PausedBy, Session, SessionChanges, Sessions, Snapshot, StoreError, Table,
};
use theazo_tenancy::{SnapshotId, TenantScope};

/// 2028-02-28T12:00Z, so that a leap day and a month's end lie ahead.
pub const NOON: i64 = 1_835_352_000_000;
pub const MINUTE: i64 = 60_000;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;
/// Running for a minute costs a cent on `docker`. Running for an hour on `fly` costs 100 cents and a bit.
const PRICES: &str = r#"{"docker": {"standard": 60000000}, "fly": {"standard": 100000007}, "e2b": {"standard": 0}}"#;

/// A tenant whose clock stands still until it is moved.
pub struct Bed {
    pub world: World,
    pub scope: TenantScope,
    now: Arc<AtomicI64>,
    pub table: Table,
}

impl Bed {
    async fn start() -> Self {
        let world = World::start().await;
        let table = world.table.clone();
        Self::over(world, table).await
    }

    /// Over a table that is perhaps reached in another way.
    pub async fn over(world: World, table: Table) -> Self {
        let scope = world.tenant().await;
        let now = Arc::new(AtomicI64::new(NOON));
        let clock = now.clone();
        let table = table.with_clock(Clock::new(move || clock.load(Ordering::Relaxed)));
        Self { world, scope, now, table }
    }

    pub fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    pub fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::Relaxed);
    }

    /// Until then.
    pub fn pass_until(&self, at_ms: i64) {
        self.now.store(at_ms, Ordering::Relaxed);
    }

    pub fn agents(&self) -> Agents {
        Agents::new(self.table.clone()).with_prices(Prices::parse(PRICES).unwrap())
    }

    pub fn sessions(&self) -> Sessions {
        Sessions::new(self.table.clone())
    }

    pub async fn session(&self, limits: Limits) -> Session {
        self.sessions().create(&self.scope, &NewSession { limits, ..NewSession::default() }).await.unwrap()
    }

    /// An agent that runs from now on.
    async fn run(&self, session: &Session, new: NewAgent) -> Agent {
        let agent = self.agents().begin_boot(&self.scope, session, new).await.unwrap();
        self.become_(&agent, AgentStatus::Ready).await
    }

    async fn become_(&self, agent: &Agent, status: AgentStatus) -> Agent {
        self.agents().transition(&self.scope, &agent.id, status, |_| {}).await.unwrap()
    }

    /// The same, with that many bytes of files where it pauses.
    async fn become_with(&self, agent: &Agent, status: AgentStatus, bytes: u64) -> Agent {
        self.try_become_with(agent, status, bytes).await.unwrap()
    }

    /// The same where that may fail.
    pub async fn try_become_with(&self, agent: &Agent, to: AgentStatus, bytes: u64) -> Result<Agent, StoreError> {
        let keep = |agent: &mut Agent| {
            if to == AgentStatus::Paused {
                agent.snapshot = Some(Snapshot { id: SnapshotId::make(), bytes: Some(bytes) });
            }
            // What has failed has its files yet, and can be retried.
            agent.own_files = to == AgentStatus::Failed;
        };
        self.agents().transition(&self.scope, &agent.id, to, keep).await
    }

    /// As the platform pauses it, in two steps, with that many bytes of files in the end. Stopping its sandbox takes a moment.
    pub async fn try_pause(&self, agent: &Agent, bytes: u64) -> Result<Agent, StoreError> {
        if agent.intent != Some(Intent::Pausing) {
            self.agents().begin_pause(&self.scope, &agent.id, PausedBy::Platform).await?;
            self.pass(777);
        }
        self.agents().finish_pause(&self.scope, &agent.id, Some(bytes)).await
    }

    async fn charge(&self, session: &Session, agent: &Agent) -> Agent {
        self.agents().charge(&self.scope, session, &agent.id).await.unwrap()
    }

    pub async fn counters(&self, session: &Session) -> Counters {
        self.sessions().counters(&self.scope.session(&session.id).unwrap()).await.unwrap()
    }

    async fn refusal(&self, session: &Session) -> (&'static str, u64, u64) {
        match refused(self.agents().begin_boot(&self.scope, session, new_agent()).await) {
            StoreError::LimitExceeded { limit, used, max } => (limit, used, max),
            error => panic!("{error:?}"),
        }
    }
}

/// One that may run for longer than most of these tests last.
fn new_agent() -> NewAgent {
    NewAgent { timeout_ms: DAY, ..agents::new_agent() }
}

pub fn on(provider: &str) -> NewAgent {
    NewAgent { provider: provider.into(), ..new_agent() }
}

pub fn cents(amount: u32, period: CostPeriod) -> Limits {
    Limits { max_cost: Some(MaxCost { amount, currency: Currency::Usd, period }), ..Limits::default() }
}

pub fn minutes(minutes: u32) -> Limits {
    Limits { max_compute_minutes: Some(minutes), ..Limits::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_parallel_spends_against_one_limit_are_never_one_too_many() {
    let bed = Arc::new(Bed::start().await);
    for (limits, new, expected, limit, max) in [
        (cents(3, CostPeriod::Day), on("docker"), 3, "maxCost", 3),
        (cents(4, CostPeriod::Month), on("docker"), 4, "maxCost", 4),
        // Two whole claims, and one of what is left.
        (cents(4, CostPeriod::Day), on("fly"), 3, "maxCost", 4),
        (minutes(2), on("e2b"), 2, "maxComputeMinutes", 2),
        (cents(0, CostPeriod::Day), on("e2b"), 0, "maxCost", 0),
        (cents(3, CostPeriod::Day), on("e2b"), 20, "", 0),
    ] {
        let session = bed.session(limits).await;
        let spends = (0..20).map(|_| {
            let (bed, session, new) = (bed.clone(), session.clone(), new.clone());
            tokio::spawn(async move { bed.agents().begin_boot(&bed.scope, &session, new).await })
        });
        let mut made = 0;
        for outcome in join_all(spends).await {
            match outcome.unwrap() {
                Ok(_) => made += 1,
                Err(StoreError::LimitExceeded { limit: by, used, max: of }) => {
                    assert_eq!((by, used, of), (limit, max, max));
                }
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(made, expected, "{limit} {max}");
        assert_eq!(bed.counters(&session).await.active_agents, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ran_before_a_limit_was_set_counts_when_twenty_spend_at_once_what_is_left() {
    let bed = Arc::new(Bed::start().await);
    for limits in [cents(7, CostPeriod::Day), cents(7, CostPeriod::Month), minutes(7)] {
        let session = bed.session(Limits::default()).await;
        // No limit waits for it, so that nothing of its five minutes is booked, nor of its next claimed.
        let running = bed.run(&session, on("docker")).await;
        bed.pass(5 * MINUTE);
        let changes = SessionChanges { limits: Some(limits), ..SessionChanges::default() };
        let session = bed.sessions().change(&bed.scope, &session.id, &changes).await.unwrap();
        let spends = (0..20).map(|_| {
            let (bed, session) = (bed.clone(), session.clone());
            tokio::spawn(async move { bed.agents().begin_boot(&bed.scope, &session, on("docker")).await })
        });
        let mut made = Vec::new();
        for outcome in join_all(spends).await {
            match outcome.unwrap() {
                Ok(agent) => made.push(agent),
                Err(StoreError::LimitExceeded { used: 7, max: 7, .. }) => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        assert_eq!(made.len(), 1, "five minutes are over, the sixth is the running one's");
        assert_eq!(made[0].allowed_ms, Some(3 * MINUTE), "its sandbox's own clock knows of it too");
        // What runs is restarted on what it has left.
        bed.become_(&made[0], AgentStatus::Failed).await;
        let running = bed.agents().get(&bed.scope, &running.id).await.unwrap().unwrap();
        bed.pass(MINUTE + MINUTE / 2);
        let (agents, intent) = (bed.agents(), Intent::Restarting);
        let again = agents.begin_again(&bed.scope, &session, &running, intent, Vec::new()).await.unwrap();
        assert_eq!(again.allowed_ms, Some(2 * MINUTE + MINUTE / 2));
    }
}

#[tokio::test]
async fn what_a_boot_claimed_and_did_not_use_is_given_back() {
    let bed = Bed::start().await;
    let session = bed.session(cents(1, CostPeriod::Month)).await;
    let failed = bed.agents().begin_boot(&bed.scope, &session, new_agent()).await.unwrap();
    assert_eq!(bed.refusal(&session).await, ("maxCost", 1, 1));
    bed.become_(&failed, AgentStatus::Failed).await;
    let agent = bed.run(&session, new_agent()).await;
    bed.pass(MINUTE / 2);
    let agent = bed.become_(&agent, AgentStatus::Completed).await;
    assert_eq!((agent.cost(bed.now() + HOUR), agent.compute_ms(bed.now() + HOUR)), (500_000, MINUTE / 2));
    let counters = bed.counters(&session).await;
    assert_eq!((counters.cost, counters.compute_ms, counters.active_agents), (500_000, MINUTE / 2, 0));
    assert_eq!(counters.used(&session, [], bed.now()).cost.month, 500_000);
    // Half a cent is left, and half a minute of it is claimed.
    bed.run(&session, new_agent()).await;
    assert_eq!(bed.refusal(&session).await, ("maxCost", 1, 1));
}

#[tokio::test]
async fn a_limit_is_reached_by_running_and_stays_so_until_it_is_raised() {
    let bed = Bed::start().await;
    let session = bed.session(minutes(3)).await;
    let agent = bed.run(&session, on("e2b")).await;
    let figures = async || {
        let own = bed.scope.session(&session.id).unwrap();
        let live = bed.agents().unsettled_of_session(&own).await.unwrap();
        bed.counters(&session).await.used(&session, &live, bed.now())
    };
    for minute in 1..=5 {
        bed.pass(MINUTE);
        let used = figures().await;
        assert_eq!(used.compute_ms, minute * MINUTE);
        assert_eq!(session.limits.reached(&used).is_some(), minute >= 3);
        bed.charge(&session, &agent).await;
        assert_eq!(bed.counters(&session).await.compute_ms, minute * MINUTE);
    }
    bed.become_(&agent, AgentStatus::Paused).await;
    assert_eq!(bed.refusal(&session).await, ("maxComputeMinutes", 5, 3));
    let raise = SessionChanges { limits: Some(minutes(6)), ..SessionChanges::default() };
    let session = bed.sessions().change(&bed.scope, &session.id, &raise).await.unwrap();
    bed.run(&session, on("e2b")).await;
    assert_eq!(bed.refusal(&session).await, ("maxComputeMinutes", 6, 6));
}

#[tokio::test]
async fn a_new_day_and_a_new_month_have_their_own_money() {
    let bed = Bed::start().await;
    let (day, month) = (bed.session(cents(1, CostPeriod::Day)).await, bed.session(cents(1, CostPeriod::Month)).await);
    for session in [&day, &month] {
        let agent = bed.run(session, new_agent()).await;
        bed.pass(MINUTE);
        bed.become_(&agent, AgentStatus::Completed).await;
        assert_eq!(bed.refusal(session).await, ("maxCost", 1, 1));
    }
    bed.pass(DAY);
    assert_eq!(bed.refusal(&month).await, ("maxCost", 1, 1));
    bed.run(&day, new_agent()).await;
    // 2028-03-01.
    bed.pass(DAY);
    bed.run(&month, new_agent()).await;
    assert_eq!(bed.refusal(&month).await, ("maxCost", 1, 1));
}

#[tokio::test]
async fn a_claim_over_midnight_takes_from_both_days() {
    let bed = Bed::start().await;
    bed.pass(12 * HOUR - MINUTE / 2);
    let session = bed.session(cents(1, CostPeriod::Day)).await;
    // Half a cent of today and half a cent of tomorrow each.
    let first = bed.run(&session, new_agent()).await;
    let second = bed.run(&session, new_agent()).await;
    assert_eq!(bed.refusal(&session).await, ("maxCost", 1, 1));
    bed.pass(MINUTE / 2);
    assert_eq!(bed.refusal(&session).await, ("maxCost", 1, 1));
    // What they did not use of the new day is there again; what they used of the old one stays there.
    for agent in [&first, &second] {
        bed.become_(agent, AgentStatus::Completed).await;
    }
    let counters = bed.counters(&session).await;
    assert_eq!((counters.cost, counters.used(&session, [], bed.now()).cost.day), (1_000_000, 0));
    assert_eq!(counters.used(&session, [], bed.now() - 1).cost.day, 1_000_000);
    bed.run(&session, new_agent()).await;
}

#[tokio::test]
async fn a_session_has_an_age_and_nothing_starts_after_it() {
    let bed = Bed::start().await;
    let max_duration = Some(MaxDuration { hours: Some(1), minutes: Some(30), seconds: None });
    let session = bed.session(Limits { max_duration, ..Limits::default() }).await;
    bed.pass(90 * MINUTE - 1000);
    // Its sandbox ends two minutes after the limit, whatever its own timeout.
    let agent = bed.run(&session, NewAgent { timeout_ms: DAY, ..new_agent() }).await;
    assert_eq!(agent.lifetime_ms(), 1000 + 2 * MINUTE);
    bed.pass(1000);
    assert_eq!(bed.refusal(&session).await, ("maxDuration", 5400, 5400));
}

#[tokio::test]
async fn an_agent_reaches_its_own_cost_cap_and_its_sandbox_knows() {
    let bed = Bed::start().await;
    let session = bed.session(Limits::default()).await;
    let capped = NewAgent { cost_cap: Some(5), timeout_ms: DAY, ..new_agent() };
    let agent = bed.run(&session, capped).await;
    // The cap's last micro-cent lasts until the sixth begins.
    assert_eq!(agent.lifetime_ms() / MINUTE, 5 + 2);
    assert!(agent.cost_cap_reached(bed.now() + 5 * MINUTE - 1).is_none());
    assert_eq!(agent.cost_cap_reached(bed.now() + 5 * MINUTE).unwrap().limit, "costCap");
    let short = NewAgent { cost_cap: Some(5), timeout_ms: MINUTE, ..new_agent() };
    assert_eq!(bed.run(&session, short).await.lifetime_ms(), MINUTE);
}

#[tokio::test]
async fn a_clock_that_is_put_back_books_nothing_until_it_has_caught_up() {
    let bed = Bed::start().await;
    let session = bed.session(cents(100, CostPeriod::Day)).await;
    let agent = bed.run(&session, new_agent()).await;
    for (passed, booked) in [(MINUTE, 1), (-HOUR, 1), (HOUR, 1), (MINUTE, 2)] {
        bed.pass(passed);
        bed.charge(&session, &agent).await;
        assert_eq!(bed.counters(&session).await.cost, booked * 1_000_000);
    }
    bed.pass(-DAY);
    let ended = bed.become_(&agent, AgentStatus::Completed).await;
    assert_eq!(ended.cost(bed.now()), 2_000_000);
    assert_eq!(bed.counters(&session).await.cost, 2_000_000);
}

#[tokio::test]
async fn a_pause_of_any_length_ends_and_is_booked_day_by_day() {
    for (days, kept_up) in [(60, false), (60, true), (400, false)] {
        let bed = Bed::start().await;
        let session = bed.session(Limits::default()).await;
        let agent = bed.run(&session, on("docker")).await;
        let agent = bed.become_with(&agent, AgentStatus::Paused, 1 << 30).await;
        let paused = bed.now();
        for _ in 0..days {
            bed.pass(DAY);
            if kept_up {
                let booked = bed.agents().charge_storage(&bed.scope, agent.clone()).await.unwrap();
                let left = booked.stored(bed.now());
                assert_eq!(left.iter().map(|(day, _)| *day).collect::<Vec<_>>(), [Day::of(bed.now())]);
            }
        }
        // Whoever resumes it may have read it before it was booked.
        let resumed = bed.agents().begin_again(&bed.scope, &session, &agent, Intent::Resuming, Vec::new()).await;
        let agent = resumed.unwrap();
        let expected = i128::from(bed.now() - paused) << 30;
        assert_eq!(usage_rows(&bed).await["user-day"].2, expected, "{days} days");
        // The next pause begins anew, and ends with the agent.
        let agent = bed.become_(&agent, AgentStatus::Ready).await;
        let agent = bed.become_with(&agent, AgentStatus::Paused, 1 << 30).await;
        bed.pass(days * DAY);
        bed.become_(&agent, AgentStatus::Completed).await;
        assert_eq!(usage_rows(&bed).await["day"].2, 2 * expected, "{days} days");
    }
}

#[tokio::test]
async fn a_run_is_metered_up_to_the_end_of_its_sandbox_however_late_that_is_noticed() {
    let bed = Bed::start().await;
    for limits in [Limits::default(), minutes(1_000)] {
        let session = bed.session(limits).await;
        let agent = bed.run(&session, NewAgent { timeout_ms: HOUR, ..on("docker") }).await;
        bed.pass(3 * HOUR);
        assert_eq!((agent.compute_ms(bed.now()), agent.cost(bed.now())), (HOUR, 60_000_000));
        let agent = bed.charge(&session, &agent).await;
        assert_eq!(agent.unbooked(bed.now()), []);
        assert_eq!(bed.counters(&session).await.compute_ms, HOUR);
        let agent = bed.become_(&agent, AgentStatus::Completed).await;
        assert_eq!((agent.compute_ms(bed.now()), agent.cost(bed.now())), (HOUR, 60_000_000));
        let counters = bed.counters(&session).await;
        assert_eq!((counters.compute_ms, counters.cost), (HOUR, 60_000_000));
        assert_eq!(counters.used(&session, [], bed.now()).compute_ms, HOUR);
    }
}

#[tokio::test]
async fn days_long_gone_leave_the_counters_row() {
    let bed = Bed::start().await;
    let session = bed.session(cents(100, CostPeriod::Month)).await;
    for _ in 0..40 {
        let agent = bed.run(&session, new_agent()).await;
        bed.become_(&agent, AgentStatus::Completed).await;
        bed.pass(DAY);
    }
    let row = bed.world.row(&bed.scope.session(&session.id).unwrap().counters_key()).await.unwrap();
    let kept = row.keys().filter(|name| name.starts_with("claimed_2")).count();
    assert!((2..=6).contains(&kept), "{:?}", row.keys());
}

/// What the table's rows of usage add up to, by everything before the first and after it: (milliseconds, micro-cents,
/// byte-milliseconds).
pub type Sums = BTreeMap<&'static str, (i64, i64, i128)>;

/// What an agent's files take until then if it is paused, byte-milliseconds.
pub fn in_pause(agent: &Agent, now_ms: i64) -> i128 {
    let bytes = agent.snapshot.as_ref().and_then(|snapshot| snapshot.bytes).unwrap_or(0);
    let ms = if agent.status == AgentStatus::Paused { (now_ms - agent.since_ms).max(0) } else { 0 };
    i128::from(bytes) * i128::from(ms)
}

pub async fn usage_rows(bed: &Bed) -> Sums {
    let mut sums = Sums::new();
    for row in bed.world.scan().await {
        let pk = row["pk"].as_s().unwrap();
        if !pk.starts_with(bed.scope.platform().as_str()) || !pk.contains("#usage#") {
            continue;
        }
        let kind = match row["sk"].as_s().unwrap().split('#').next().unwrap() {
            "day" => "day",
            "user" => "user",
            "user-day" => "user-day",
            "metric" => continue,
            other => panic!("{other}"),
        };
        let figure = |name: &str| row[name].as_n().unwrap().parse::<i64>().unwrap();
        let storage = row.get("stored_byte_ms").map_or(0, |storage| storage.as_n().unwrap().parse().unwrap());
        let sum = sums.entry(kind).or_default();
        *sum = (sum.0 + figure("compute_ms"), sum.1 + figure("cost"), sum.2 + storage);
    }
    sums
}
