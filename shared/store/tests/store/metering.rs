//! What agents run and cost: claimed from limits before they start, booked to the millisecond, and the same by every
//! path, at a clock that tests set.

use crate::agents;
use crate::support::{World, refused};
use futures_util::future::join_all;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use theazo_metering::{Day, Prices};
use theazo_store::{
    Agent, AgentStatus, Agents, Clock, CostPeriod, Counters, Currency, Days, Intent, Limits, MaxCost, MaxDuration,
    NewAgent, NewSession, Payer, Session, SessionChanges, Sessions, Snapshot, StoreError, Sum, Table, Usage, unbooked,
};
use theazo_tenancy::{SnapshotId, TenantScope};

/// 2028-02-28T12:00Z, so that a leap day and a month's end lie ahead.
const NOON: i64 = 1_835_352_000_000;
const MINUTE: i64 = 60_000;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
/// Running for a minute costs a cent on `docker`. Running for an hour on `fly` costs 100 cents and a bit.
const PRICES: &str = r#"{"docker": {"standard": 60000000}, "fly": {"standard": 100000007}, "e2b": {"standard": 0}}"#;

/// A tenant whose clock stands still until it is moved.
struct Bed {
    world: World,
    scope: TenantScope,
    now: Arc<AtomicI64>,
    table: Table,
}

impl Bed {
    async fn start() -> Self {
        let world = World::start().await;
        let scope = world.tenant().await;
        let now = Arc::new(AtomicI64::new(NOON));
        let clock = now.clone();
        let table = world.table.clone().with_clock(Clock::new(move || clock.load(Ordering::Relaxed)));
        Self { world, scope, now, table }
    }

    fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::Relaxed);
    }

    fn agents(&self) -> Agents {
        Agents::new(self.table.clone()).with_prices(Prices::parse(PRICES).unwrap())
    }

    fn sessions(&self) -> Sessions {
        Sessions::new(self.table.clone())
    }

    async fn session(&self, limits: Limits) -> Session {
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
        let keep = |agent: &mut Agent| {
            if status == AgentStatus::Paused {
                agent.snapshot = Some(Snapshot { id: SnapshotId::make(), bytes: Some(bytes) });
            }
        };
        self.agents().transition(&self.scope, &agent.id, status, keep).await.unwrap()
    }

    async fn charge(&self, session: &Session, agent: &Agent) -> Agent {
        self.agents().charge(&self.scope, session, &agent.id).await.unwrap()
    }

    async fn counters(&self, session: &Session) -> Counters {
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

fn on(provider: &str) -> NewAgent {
    NewAgent { provider: provider.into(), ..new_agent() }
}

fn cents(amount: u32, period: CostPeriod) -> Limits {
    Limits { max_cost: Some(MaxCost { amount, currency: Currency::Usd, period }), ..Limits::default() }
}

fn minutes(minutes: u32) -> Limits {
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
type Sums = BTreeMap<&'static str, (i64, i64, i128)>;

/// What an agent's files take until then if it is paused, byte-milliseconds.
fn in_pause(agent: &Agent, now_ms: i64) -> i128 {
    let bytes = agent.snapshot.as_ref().and_then(|snapshot| snapshot.bytes).unwrap_or(0);
    let ms = if agent.status == AgentStatus::Paused { (now_ms - agent.since_ms).max(0) } else { 0 };
    i128::from(bytes) * i128::from(ms)
}

async fn usage_rows(bed: &Bed) -> Sums {
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_by_any_path_agree_to_the_micro_cent_with_the_sum_of_the_agents() {
    let mut runner = TestRunner::deterministic();
    let steps = proptest::collection::vec(
        (
            prop_oneof![
                3 => 0_i64..10 * MINUTE,
                2 => 0_i64..2 * DAY,
                1 => Just(DAY),
                1 => Just(70 * DAY),
                1 => -2 * HOUR..0,
            ],
            any::<u8>(),
            any::<u8>(),
        ),
        30..40,
    );
    for _ in 0..4 {
        let bed = Bed::start().await;
        let user = |name| theazo_tenancy::UserId::parse(name);
        let mut sessions = Vec::new();
        for (name, limits) in [("a", Limits::default()), ("b", cents(1_000_000, CostPeriod::Month))] {
            let new = NewSession { user: user(name), limits, ..NewSession::default() };
            sessions.push(bed.sessions().create(&bed.scope, &new).await.unwrap());
        }
        sessions.push(bed.session(minutes(10_000_000)).await);
        let mut agents: Vec<(usize, Agent)> = Vec::new();
        // What files took, reckoned by this test.
        let mut kept = 0_i128;
        for (passed, what, which) in steps.new_tree(&mut runner).unwrap().current() {
            bed.pass(passed);
            let at = usize::from(which) % agents.len().max(1);
            match (what % 8, agents.get_mut(at)) {
                (0 | 1, _) | (_, None) => {
                    let session = usize::from(which) % sessions.len();
                    let new = on(["docker", "fly"][usize::from(which) % 2]);
                    let agent = bed.agents().begin_boot(&bed.scope, &sessions[session], new).await.unwrap();
                    agents.push((session, agent));
                }
                (2..=4, Some((session, agent))) if agent.status == AgentStatus::Ready => {
                    *agent = bed.charge(&sessions[*session], agent).await;
                }
                (4, Some((_, agent))) if agent.status == AgentStatus::Paused => {
                    *agent = bed.agents().charge_storage(&bed.scope, agent.clone()).await.unwrap();
                }
                (step, Some((_, agent))) => {
                    let to = match (agent.status, step) {
                        (AgentStatus::Booting, 7) => AgentStatus::Failed,
                        (AgentStatus::Booting, _) => AgentStatus::Ready,
                        (AgentStatus::Ready, 7) => AgentStatus::Completed,
                        (AgentStatus::Ready, _) => AgentStatus::Paused,
                        (AgentStatus::Paused, _) => AgentStatus::Booting,
                        _ => continue,
                    };
                    kept += in_pause(agent, bed.now());
                    *agent = bed.become_with(agent, to, u64::from(which) << 30).await;
                }
            }
        }
        // What is not booked yet is in reports all the same.
        let days = Days { first: Day::of(NOON - 30 * DAY), last: Day::of(bed.now() + 60 * DAY) };
        let live = bed.agents().unsettled_of_platform(&bed.scope).await.unwrap();
        let paused: i128 = agents.iter().map(|(_, agent)| in_pause(agent, bed.now())).sum();
        let mut reported = usage_rows(&bed).await.get("day").copied().unwrap_or_default();
        for (_, _, sum) in unbooked(&live, days, bed.now()) {
            reported = (reported.0 + sum.compute_ms, reported.1 + sum.cost, reported.2 + sum.storage);
        }
        let used = agents.iter().fold((0, 0, kept + paused), |sum, (_, agent)| {
            (sum.0 + agent.compute_ms(bed.now()), sum.1 + agent.cost(bed.now()), sum.2)
        });
        assert_eq!(reported, used);
        for (_, agent) in agents.iter_mut().filter(|(_, agent)| !agent.status.is_over()) {
            kept += in_pause(agent, bed.now());
            *agent = bed.become_(agent, AgentStatus::Completed).await;
        }
        let mut whole = (0, 0);
        for (index, session) in sessions.iter().enumerate() {
            let own = agents.iter().filter(|(of, _)| *of == index);
            let sum = own.fold((0, 0), |sum: (i64, i64), (_, agent)| {
                (sum.0 + agent.compute_ms(bed.now()), sum.1 + agent.cost(bed.now()))
            });
            let counters = bed.counters(session).await;
            assert_eq!((counters.compute_ms, counters.cost, counters.active_agents), (sum.0, sum.1, 0));
            assert_eq!(counters.used(session, [], bed.now()).compute_ms, sum.0, "nothing is claimed any more");
            whole = (whole.0 + sum.0, whole.1 + sum.1);
        }
        let sums = usage_rows(&bed).await;
        let of_all = (whole.0, whole.1, kept);
        assert_eq!(sums, Sums::from([("day", of_all), ("user", of_all), ("user-day", of_all)]));
        assert!(whole.1 > 0);

        // The reports find all of these rows.
        let usage = Usage::new(bed.table.clone());
        let whole = Sum { compute_ms: whole.0, cost: whole.1, storage: kept };
        let total = |sums: &mut dyn Iterator<Item = Sum>| {
            let mut total = Sum::default();
            sums.for_each(|sum| total += sum);
            total
        };
        assert_eq!(total(&mut usage.by_provider(&bed.scope, days).await.unwrap().into_values()), whole);
        let by_payer = usage.by_payer(&bed.scope, days).await.unwrap();
        assert_eq!(total(&mut by_payer.values().copied()), whole);
        let payers: BTreeSet<&Payer> = by_payer.keys().map(|(_, payer)| payer).collect();
        let (mut of_payers, mut of_months) = (Sum::default(), Sum::default());
        for payer in payers {
            for part in days.each().collect::<Vec<_>>().chunks(100) {
                let some = Days { first: part[0], last: *part.last().unwrap() };
                of_payers += total(&mut usage.of_payer(&bed.scope, payer, some).await.unwrap().into_values());
            }
        }
        let months: BTreeSet<_> = days.each().map(|day| day.month()).collect();
        for month in months {
            of_months += total(&mut usage.of_month(&bed.scope, month.first_day()).await.unwrap().into_values());
        }
        assert_eq!((of_payers, of_months), (whole, whole));
    }
}
