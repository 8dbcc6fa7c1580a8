//! Whatever agents go through, and wherever a process dies on the way, what they cost is the same by every path: at a clock
//! that passes midnights, a leap day and ends of months, and is put back now and then.
//!
//! Each run is another one. `THEAZO_SEED` has one again that failed.

use crate::metering::{Bed, DAY, HOUR, MINUTE, NOON, Sums, cents, in_pause, minutes, on, usage_rows};
use crate::proxy::{Fault, Proxy};
use crate::support::{World, aws, credential_key};
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};
use std::collections::{BTreeMap, BTreeSet};
use theazo_metering::{Day, cost_of};
use theazo_store::{
    Agent, AgentStatus, CostPeriod, Days, Intent, Limits, NewSession, Payer, Session, StoreError, Sum, Table, Usage,
    unbooked,
};
use theazo_tenancy::{AgentId, UserId};

/// Cases of a run, and what happens in each at least and at most.
const CASES: usize = 4;
const STEPS: std::ops::Range<usize> = 30..40;

/// What becomes of a step's write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mishap {
    None,
    /// It did not happen, and whoever asked for it is dead.
    NotDone,
    /// It happened, and whoever asked for it died before it was told.
    Unheard,
    /// It happened, its answer was lost on the way, and it is asked for again.
    Again,
}

/// What happens: how much time passes, what is done to which agent, and what becomes of which of its writes.
#[derive(Clone, Debug)]
struct Step {
    passed: i64,
    what: u8,
    which: u8,
    mishap: Mishap,
    spared: usize,
}

fn steps(clock_is_put_back: bool) -> impl Strategy<Value = Vec<Step>> {
    let back = if clock_is_put_back { -2 * HOUR..0 } else { 0..1 };
    let passed = prop_oneof![
        3 => 0_i64..10 * MINUTE,
        2 => 0_i64..2 * DAY,
        1 => Just(DAY),
        1 => Just(70 * DAY),
        1 => back,
    ];
    let mishap = prop_oneof![
        12 => Just(Mishap::None),
        4 => Just(Mishap::NotDone),
        4 => Just(Mishap::Unheard),
        1 => Just(Mishap::Again),
    ];
    let spared = prop_oneof![3 => Just(0_usize), 1 => Just(1)];
    let step = (passed, any::<u8>(), any::<u8>(), mishap, spared)
        .prop_map(|(passed, what, which, mishap, spared)| Step { passed, what, which, mishap, spared });
    proptest::collection::vec(step, STEPS)
}

/// An agent as it was read last, and what this test has reckoned of it: by itself, from when it ran.
struct Life {
    session: usize,
    agent: Agent,
    /// When the present run began and how long its sandbox lasts.
    run: Option<(i64, i64)>,
    ran_ms: i64,
    cost: i64,
}

/// Some sessions, and what goes on in them.
struct Case {
    bed: Bed,
    proxy: Proxy,
    sessions: Vec<Session>,
    lives: BTreeMap<AgentId, Life>,
    /// What files took, reckoned by this test.
    kept: i128,
}

impl Case {
    async fn start() -> Self {
        let world = World::start().await;
        let proxy = Proxy::start(&world.dynamodb_url).await;
        let table = Table::new(&aws(&proxy.url, &world.kms_url), "theazo").with_credential_key(credential_key());
        let bed = Bed::over(world, table).await;
        let mut sessions = Vec::new();
        for (name, limits) in [("a", Limits::default()), ("b", cents(1_000_000, CostPeriod::Month))] {
            let new = NewSession { user: UserId::parse(name), limits, ..NewSession::default() };
            sessions.push(bed.sessions().create(&bed.scope, &new).await.unwrap());
        }
        sessions.push(bed.session(minutes(10_000_000)).await);
        Self { bed, proxy, sessions, lives: BTreeMap::new(), kept: 0 }
    }

    async fn take(&mut self, step: &Step) -> Result<(), StoreError> {
        let body = |code: &str| format!(r#"{{"__type":"com.amazonaws.dynamodb.v20120810#{code}"}}"#);
        let (forward, status, code) = match step.mishap {
            Mishap::None => (false, 0, ""),
            Mishap::NotDone => (false, 400, "AccessDeniedException"),
            Mishap::Unheard => (true, 400, "AccessDeniedException"),
            Mishap::Again => (true, 500, "InternalServerError"),
        };
        if step.mishap != Mishap::None {
            let fault = Fault { operation: "TransactWriteItems", times: 1, forward, status, body: body(code) };
            self.proxy.inject_after(step.spared, fault);
        }
        let outcome = self.act(step).await;
        self.proxy.mend();
        outcome
    }

    async fn act(&self, step: &Step) -> Result<(), StoreError> {
        let (bed, chance, which) = (&self.bed, step.which, usize::from(step.which));
        let chosen = self.lives.values().nth(which % self.lives.len().max(1));
        match (step.what % 8, chosen) {
            (0 | 1, _) | (_, None) => {
                let new = on(["docker", "fly"][which % 2]);
                bed.agents().begin_boot(&bed.scope, &self.sessions[which % self.sessions.len()], new).await?;
            }
            (2..=4, Some(Life { session, agent, .. })) if agent.status == AgentStatus::Ready => {
                bed.agents().charge(&bed.scope, &self.sessions[*session], &agent.id).await?;
            }
            (4, Some(Life { agent, .. })) if agent.status == AgentStatus::Paused => {
                bed.agents().charge_storage(&bed.scope, agent.clone()).await?;
            }
            (5, Some(Life { session, agent, .. })) if agent.status == AgentStatus::Ready && agent.intent.is_none() => {
                self.begin_again(*session, agent, Intent::Restarting).await?;
            }
            // Somebody died while it was paused.
            (_, Some(Life { agent, .. })) if agent.intent == Some(Intent::Pausing) => {
                bed.try_pause(agent, u64::from(chance) << 30).await?;
            }
            (_, Some(Life { session, agent, .. })) if agent.status == AgentStatus::Paused => {
                self.begin_again(*session, agent, Intent::Resuming).await?;
            }
            (_, Some(Life { session, agent, .. })) if agent.status == AgentStatus::Failed => {
                let kept = bed.agents().settle_all_but_kept(&bed.scope, &agent.id).await?;
                if kept.can_be_retried(bed.now()) {
                    self.begin_again(*session, &kept, Intent::Retrying).await?;
                }
            }
            (step, Some(Life { agent, .. })) => {
                let to = match (agent.status, step) {
                    (AgentStatus::Booting, 7) => AgentStatus::Failed,
                    (AgentStatus::Booting, _) => AgentStatus::Ready,
                    (AgentStatus::Ready, 7) => [AgentStatus::Completed, AgentStatus::Failed][which % 2],
                    (AgentStatus::Ready, _) => AgentStatus::Paused,
                    _ => return Ok(()),
                };
                let bytes = u64::from(chance) << 30;
                match to {
                    AgentStatus::Paused => bed.try_pause(agent, bytes).await?,
                    _ => bed.try_become_with(agent, to, bytes).await?,
                };
            }
        }
        Ok(())
    }

    async fn begin_again(&self, session: usize, agent: &Agent, intent: Intent) -> Result<(), StoreError> {
        let (bed, session) = (&self.bed, &self.sessions[session]);
        bed.agents().begin_again(&bed.scope, session, agent, intent, Vec::new()).await.map(drop)
    }

    /// Whatever chance has left out: one agent boots again in every way that there is. Its runs and its pauses go over
    /// midnights and over ends of months, and the clock is put back under it where it may be.
    async fn boot_again_in_every_way(&mut self, clock_is_put_back: bool, what: &str) {
        let booted = self.bed.agents().begin_boot(&self.bed.scope, &self.sessions[1], on("fly")).await.unwrap();
        let id = booted.id;
        self.look().await;
        for (to, again, minutes) in [
            (AgentStatus::Paused, Intent::Resuming, 3),
            (AgentStatus::Ready, Intent::Restarting, 7),
            (AgentStatus::Failed, Intent::Retrying, 11),
        ] {
            // It boots until shortly before the end that it runs over.
            self.bed.pass_until(Day::of(self.bed.now()).month().plus(1).first_day().start_ms() - minutes * MINUTE);
            for status in [AgentStatus::Ready, to] {
                let agent = &self.lives[&id].agent;
                if agent.status != status {
                    match status {
                        AgentStatus::Paused => self.bed.try_pause(agent, 1 << 30).await.unwrap(),
                        _ => self.bed.try_become_with(agent, status, 1 << 30).await.unwrap(),
                    };
                }
                self.look().await;
                self.assert_agreed(what).await;
                self.bed.pass(minutes * MINUTE + 1);
                self.assert_agreed(what).await;
                if clock_is_put_back {
                    self.bed.pass(-MINUTE);
                    self.assert_agreed(what).await;
                }
                let next_midnight = Day::of(self.bed.now()).plus(1).start_ms();
                self.bed.pass_until(next_midnight + 1);
                self.assert_agreed(what).await;
            }
            if to == AgentStatus::Failed {
                self.bed.agents().settle_all_but_kept(&self.bed.scope, &id).await.unwrap();
                self.look().await;
            }
            self.begin_again(1, &self.lives[&id].agent, again).await.unwrap();
            self.look().await;
            self.assert_agreed(what).await;
        }
    }

    /// Reads every agent, as whoever comes after a death does, and reckons with what became of it.
    async fn look(&mut self) {
        let now = self.bed.now();
        for agent in self.bed.agents().unsettled_of_platform(&self.bed.scope).await.unwrap() {
            let session = self.sessions.iter().position(|session| session.id == agent.session).unwrap();
            let new = || Life { session, agent: agent.clone(), run: None, ran_ms: 0, cost: 0 };
            let life = self.lives.entry(agent.id.clone()).or_insert_with(new);
            if life.agent.status == AgentStatus::Paused && agent.status != AgentStatus::Paused {
                self.kept += in_pause(&life.agent, now);
            }
            let runs = agent.status == AgentStatus::Ready;
            match life.run {
                None if runs => life.run = Some((now, agent.lifetime_ms())),
                Some((began, lifetime)) if !runs => {
                    let ms = (now - began).min(lifetime);
                    life.ran_ms += ms;
                    life.cost += cost_of(agent.meter.rate(), ms);
                    life.run = None;
                }
                _ => {}
            }
            life.agent = agent;
        }
    }

    fn days(&self) -> Days {
        Days { first: Day::of(NOON - 30 * DAY), last: Day::of(self.bed.now() + 60 * DAY) }
    }

    /// What is booked and what is not yet, together, is what the agents say; the places that they take are counted.
    async fn assert_agreed(&self, what: &str) {
        let now = self.bed.now();
        let agents: Vec<Agent> = self.lives.values().map(|life| life.agent.clone()).collect();
        let mut reported = usage_rows(&self.bed).await.get("day").copied().unwrap_or_default();
        for (_, _, sum) in unbooked(&agents, self.days(), now) {
            reported = (reported.0 + sum.compute_ms, reported.1 + sum.cost, reported.2 + sum.storage);
        }
        let paused: i128 = agents.iter().map(|agent| in_pause(agent, now)).sum();
        let used = agents.iter().fold((0, 0, self.kept + paused), |sum, agent| {
            (sum.0 + agent.compute_ms(now), sum.1 + agent.cost(now), sum.2)
        });
        assert_eq!(reported, used, "{what}");
        for (index, session) in self.sessions.iter().enumerate() {
            let own = self.lives.values().filter(|life| life.session == index);
            let places = own.clone().filter(|life| life.agent.status.takes_place()).count();
            let counters = self.bed.counters(session).await;
            let counted = (counters.active_agents, counters.total_agents);
            assert_eq!(counted, (places as i64, own.count() as i64), "{what}");
        }
    }

    /// Ends all that is left, and holds every report to the sum of the agents.
    async fn end(mut self, clock_is_put_back: bool, what: &str) {
        let left: Vec<Agent> = self.lives.values().map(|life| life.agent.clone()).collect();
        for agent in left.iter().filter(|agent| !agent.status.is_over()) {
            self.bed.try_become_with(agent, AgentStatus::Completed, 0).await.unwrap();
        }
        self.look().await;
        self.assert_agreed(what).await;
        let (bed, now) = (&self.bed, self.bed.now());
        let mut whole = (0, 0);
        for (index, session) in self.sessions.iter().enumerate() {
            let own = self.lives.values().filter(|life| life.session == index);
            let sum = own.fold((0, 0), |sum: (i64, i64), Life { agent, .. }| {
                (sum.0 + agent.compute_ms(now), sum.1 + agent.cost(now))
            });
            let counters = bed.counters(session).await;
            assert_eq!((counters.compute_ms, counters.cost, counters.active_agents), (sum.0, sum.1, 0), "{what}");
            assert_eq!(counters.used(session, [], now).compute_ms, sum.0, "{what}: nothing is claimed any more");
            whole = (whole.0 + sum.0, whole.1 + sum.1);
        }
        // A clock that is put back has its own rules; one that is not leaves nothing to the meter.
        for life in self.lives.values().filter(|_| !clock_is_put_back) {
            let told = (life.agent.compute_ms(now), life.agent.cost(now));
            assert_eq!(told, (life.ran_ms, life.cost), "{what}: {:?}", life.agent);
        }
        let of_all = (whole.0, whole.1, self.kept);
        let sums = usage_rows(bed).await;
        if whole != (0, 0) {
            assert_eq!(sums, Sums::from([("day", of_all), ("user", of_all), ("user-day", of_all)]), "{what}");
        }
        let whole = Sum { compute_ms: whole.0, cost: whole.1, storage: self.kept };
        self.assert_reported(whole, what).await;
    }

    /// The reports find all of the rows.
    async fn assert_reported(&self, whole: Sum, what: &str) {
        let (scope, days, usage) = (&self.bed.scope, self.days(), Usage::new(self.bed.table.clone()));
        let total = |sums: &mut dyn Iterator<Item = Sum>| {
            let mut total = Sum::default();
            sums.for_each(|sum| total += sum);
            total
        };
        assert_eq!(total(&mut usage.by_provider(scope, days).await.unwrap().into_values()), whole, "{what}");
        let by_payer = usage.by_payer(scope, days).await.unwrap();
        assert_eq!(total(&mut by_payer.values().copied()), whole, "{what}");
        let payers: BTreeSet<&Payer> = by_payer.keys().map(|(_, payer)| payer).collect();
        let (mut of_payers, mut of_months) = (Sum::default(), Sum::default());
        for payer in payers {
            for part in days.each().collect::<Vec<_>>().chunks(50) {
                let some = Days { first: part[0], last: *part.last().unwrap() };
                of_payers += total(&mut usage.of_payer(scope, payer, some).await.unwrap().sums.into_values());
            }
        }
        let months: BTreeSet<_> = days.each().map(|day| day.month()).collect();
        for month in months {
            of_months += total(&mut usage.of_month(scope, month.first_day()).await.unwrap().into_values());
        }
        assert_eq!((of_payers, of_months), (whole, whole), "{what}");
    }
}

/// What this run is made of: at random, or as it is told.
fn seed() -> [u8; 32] {
    match std::env::var("THEAZO_SEED") {
        Ok(text) => hex::decode(text).unwrap().try_into().unwrap(),
        Err(_) => theazo_tenancy::make_random_bytes(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn totals_by_any_path_agree_to_the_micro_cent_with_the_sum_of_the_agents_whoever_dies_on_the_way() {
    let seed = seed();
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(ProptestConfig::default(), rng);
    let (mut deaths, mut cost) = (BTreeMap::new(), 0);
    for number in 0..CASES {
        let clock_is_put_back = number % 2 == 1;
        let mut case = Case::start().await;
        for step in steps(clock_is_put_back).new_tree(&mut runner).unwrap().current() {
            let what = format!("THEAZO_SEED={}, case {number}, {step:?}", hex::encode(seed));
            case.bed.pass(step.passed);
            match case.take(&step).await {
                Ok(()) => {}
                Err(StoreError::Table { .. }) if [Mishap::NotDone, Mishap::Unheard].contains(&step.mishap) => {
                    *deaths.entry(step.mishap).or_insert(0) += 1;
                }
                // What was asked for again was there already.
                Err(StoreError::Conflict(_)) if step.mishap == Mishap::Again => {}
                Err(error) => panic!("{what}: {error:?}"),
            }
            case.look().await;
            case.assert_agreed(&what).await;
        }
        case.boot_again_in_every_way(
            clock_is_put_back,
            &format!("THEAZO_SEED={}, case {number}, in every way", hex::encode(seed)),
        )
        .await;
        cost += case.lives.values().map(|life| life.agent.cost(case.bed.now())).sum::<i64>();
        case.end(clock_is_put_back, &format!("THEAZO_SEED={}, case {number}", hex::encode(seed))).await;
    }
    let seed = hex::encode(seed);
    assert!(deaths.len() == 2 && cost > 0, "THEAZO_SEED={seed}: {deaths:?} {cost}");
}
