//! Agents whose host cannot be asked about them: what is kept of that, when they have failed, what they have cost by then,
//! and how they boot again.

use crate::agents::new_agent;
use crate::support::World;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use theazo_metering::Prices;
use theazo_store::{
    Agent, AgentStatus, Agents, Clock, Intent, Limits, NewAgent, NewCheckpoint, NewSession, NextBoot, PausedBy,
    Session, Sessions, Silence, StoreError, Unreachable,
};
use theazo_tenancy::TenantScope;

const HOST: &str = "one.example.com:2376";
const NOON: i64 = 1_835_352_000_000;
const MINUTE: i64 = 60_000;
const AFTER: i64 = 15 * MINUTE;
/// Running for a minute costs a cent.
const PRICES: &str = r#"{"docker": {"standard": 60000000}}"#;
const CENT: i64 = 1_000_000;

/// A tenant with a session, whose clock stands still until it is moved.
struct Bed {
    world: World,
    scope: TenantScope,
    session: Session,
    now: Arc<AtomicI64>,
    agents: Agents,
}

impl Bed {
    async fn start() -> Self {
        let world = World::start().await;
        let scope = world.tenant().await;
        let now = Arc::new(AtomicI64::new(NOON));
        let clock = now.clone();
        let table = world.table.clone().with_clock(Clock::new(move || clock.load(Ordering::Relaxed)));
        let limits = Limits { max_agents: Some(1), ..Limits::default() };
        let new = NewSession { limits, ..NewSession::default() };
        let session = Sessions::new(table.clone()).create(&scope, &new).await.unwrap();
        let agents = Agents::new(table).with_prices(Prices::parse(PRICES).unwrap());
        Self { world, scope, session, now, agents }
    }

    fn pass(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::Relaxed);
    }

    fn now(&self) -> i64 {
        self.now.load(Ordering::Relaxed)
    }

    async fn booting(&self) -> Agent {
        let new = NewAgent {
            host: Some(HOST.into()),
            provider: "docker".into(),
            max_concurrent: Some(1),
            timeout_ms: 600 * MINUTE,
            ..new_agent()
        };
        self.agents.begin_boot(&self.scope, &self.session, new).await.unwrap()
    }

    async fn become_(&self, agent: &Agent, status: AgentStatus) -> Agent {
        self.agents.transition(&self.scope, &agent.id, status, |_| {}).await.unwrap()
    }

    async fn running(&self) -> Agent {
        self.become_(&self.booting().await, AgentStatus::Ready).await
    }

    async fn look(&self, agent: &Agent) -> Agent {
        let seen = (Unreachable::HostSilent, self.now());
        self.agents.note_silence(&self.scope, agent, seen, AFTER).await.unwrap()
    }

    /// Looks every minute until the agent has failed.
    async fn dies(&self, agent: &Agent) -> Agent {
        for _ in 0..=15 {
            let now = self.look(agent).await;
            if now.status == AgentStatus::Failed {
                return now;
            }
            self.pass(MINUTE);
        }
        panic!("it lives");
    }

    async fn again(&self, agent: &Agent, intent: Intent, next: NextBoot) -> Result<Agent, StoreError> {
        self.agents.begin_again(&self.scope, &self.session, agent, intent, next).await
    }

    /// All rows of such partitions, as text.
    async fn rows_of(&self, partition: &str) -> String {
        let rows = self.world.scan().await;
        let rows = rows.iter().filter(|row| row["pk"].as_s().is_ok_and(|pk| pk.contains(partition)));
        rows.map(|row| format!("{row:?}\n")).collect()
    }

    /// Places that are taken in the session, and its compute.
    async fn counted(&self) -> (i64, i64) {
        let counters = self.world.sessions().counters(&self.scope.session(&self.session.id).unwrap()).await.unwrap();
        (counters.active_agents, counters.compute_ms)
    }
}

#[tokio::test]
async fn an_agent_of_a_dead_host_fails_once_costs_nothing_from_the_first_look_on_and_gives_its_places_back() {
    let bed = Bed::start().await;
    let agent = bed.running().await;
    bed.pass(10 * MINUTE);
    let since = bed.now();
    let dead = bed.dies(&agent).await;
    assert_eq!(bed.now() - since, AFTER);
    assert_eq!(dead.silence.map(|silence| silence.since_ms), Some(since));
    assert!(dead.own_files && !dead.only_kept && !dead.sandbox_gone);
    assert_eq!((dead.compute_ms(bed.now()), dead.cost(bed.now())), (10 * MINUTE, 10 * CENT));
    assert_eq!(dead.ended_at_ms, Some(bed.now()));
    assert_eq!(bed.counted().await, (0, 10 * MINUTE));
    // Whoever says it again, or did not know, changes nothing.
    for read in [&agent, &dead] {
        bed.pass(MINUTE);
        assert_eq!(bed.look(read).await.revision, dead.revision);
    }
    assert_eq!(bed.agents.note_answer(&bed.scope, &agent.id).await.unwrap().revision, dead.revision);
    // Both of its places are free.
    bed.running().await;

    // For the platform and for its session.
    let logged = bed.rows_of("#logs#").await;
    assert_eq!(logged.matches("agent.unreachable").count(), 2, "{logged}");
    assert!(logged.contains("host_silent") && !logged.contains(HOST), "{logged}");
    assert!(bed.rows_of("#audit#").await.contains("agent.end"));
}

#[tokio::test]
async fn an_agent_whose_host_answers_again_ran_all_the_while_and_its_next_silence_begins_anew() {
    let bed = Bed::start().await;
    let agent = bed.running().await;
    bed.pass(MINUTE);
    for _ in 0..14 {
        assert_eq!(bed.look(&agent).await.status, AgentStatus::Ready);
        bed.pass(MINUTE);
    }
    let silent = bed.agents.get(&bed.scope, &agent.id).await.unwrap().unwrap();
    assert_eq!(
        (silent.compute_ms(bed.now()), silent.unbooked(bed.now()).iter().map(|part| part.ms).sum()),
        (MINUTE, MINUTE)
    );
    let heard = bed.agents.note_answer(&bed.scope, &agent.id).await.unwrap();
    assert_eq!((heard.silence, heard.compute_ms(bed.now())), (None, 15 * MINUTE));
    // Half an hour after the first look, and not in a row.
    for _ in 0..14 {
        bed.pass(MINUTE);
        assert_eq!(bed.look(&agent).await.status, AgentStatus::Ready);
    }
    // A pause that its host has carried out is an answer.
    bed.agents.begin_pause(&bed.scope, &agent.id, PausedBy::Session).await.unwrap();
    let paused = bed.agents.finish_pause(&bed.scope, &agent.id, Some(1)).await.unwrap();
    assert_eq!((paused.silence, paused.compute_ms(bed.now())), (None, 29 * MINUTE));
    // Nothing of it runs, so there is nothing to miss.
    bed.pass(60 * MINUTE);
    assert_eq!(bed.look(&paused).await.revision, paused.revision);
}

#[tokio::test]
async fn rows_are_written_a_few_times_and_only_for_the_agent_as_it_was_read() {
    let bed = Bed::start().await;
    let agent = bed.running().await;
    let dead = bed.dies(&agent).await;
    assert_eq!(dead.revision - agent.revision, 4);

    let other = bed.running().await;
    bed.look(&other).await;
    bed.agents.begin_pause(&bed.scope, &other.id, PausedBy::Session).await.unwrap();
    bed.pass(AFTER);
    let pausing = bed.look(&other).await;
    assert_eq!((pausing.intent, pausing.silence.map(|silence| silence.looks)), (Some(Intent::Pausing), Some(1)));
}

#[tokio::test]
async fn an_agent_that_is_being_paused_or_boots_on_its_files_fails_too_and_keeps_them() {
    let bed = Bed::start().await;
    let agent = bed.running().await;
    let pausing = bed.agents.begin_pause(&bed.scope, &agent.id, PausedBy::Session).await.unwrap();
    let dead = bed.dies(&pausing).await;
    assert!(dead.own_files && dead.intent.is_none());

    let other = bed.running().await;
    let restarting = bed.again(&other, Intent::Restarting, NextBoot::default()).await.unwrap();
    assert!(bed.dies(&restarting).await.own_files);

    // Those of a checkpoint take their place as soon as the boot begins, and nobody knows how far it came.
    let third = bed.running().await;
    let (_, id) = bed.agents.begin_checkpoint(&bed.scope, &third.id, NewCheckpoint::default()).await.unwrap();
    bed.agents.finish_checkpoint(&bed.scope, &third.id, &id, Some(5)).await.unwrap();
    bed.agents.begin_pause(&bed.scope, &third.id, PausedBy::Session).await.unwrap();
    let paused = bed.agents.finish_pause(&bed.scope, &third.id, None).await.unwrap();
    let next = NextBoot { checkpoint: Some(id), ..NextBoot::default() };
    let resuming = bed.again(&paused, Intent::Resuming, next).await.unwrap();
    let dead = bed.dies(&resuming).await;
    assert!(!dead.own_files && dead.keeps_files(bed.now()));
    assert_eq!(bed.counted().await.0, 0);
}

#[tokio::test]
async fn what_has_failed_with_its_host_boots_again_on_its_own_files_until_they_are_lost_or_it_is_terminated() {
    let bed = Bed::start().await;
    let (agents, scope) = (&bed.agents, &bed.scope);
    let agent = bed.running().await;
    let dead = bed.dies(&agent).await;
    // Its host may still run it.
    let early = bed.again(&dead, Intent::Retrying, NextBoot::default()).await;
    assert!(matches!(early, Err(StoreError::Conflict(_))), "{early:?}");
    let settled = agents.settle_all_but_kept(scope, &agent.id).await.unwrap();
    assert!(settled.only_kept && settled.can_be_retried(bed.now()));
    assert!(!settled.can_be_retried(bed.now() + 30 * 24 * 60 * MINUTE));
    let booting = bed.again(&settled, Intent::Retrying, NextBoot::default()).await.unwrap();
    assert_eq!((booting.restores.clone(), booting.silence), (None::<_>, None::<Silence>));
    assert_eq!(booting.time_left_ms(), booting.timeout_ms);
    // That boot fails, the files stay; the next does not, and they are the running agent's.
    let failed = bed.become_(&booting, AgentStatus::Failed).await;
    assert!(failed.own_files && failed.keeps_files(bed.now()));
    let settled = agents.settle_all_but_kept(scope, &agent.id).await.unwrap();
    bed.again(&settled, Intent::Retrying, NextBoot::default()).await.unwrap();
    let ready = bed.become_(&agent, AgentStatus::Ready).await;
    assert!(!ready.own_files);
    // Whatever else it fails of is its own affair.
    assert!(!bed.become_(&ready, AgentStatus::Failed).await.keeps_files(bed.now()));
    agents.settle(scope, &agent.id).await.unwrap();

    let lost = bed.dies(&bed.running().await).await;
    let without = agents.lose_own_files(scope, &lost.id).await.unwrap();
    assert!(!without.keeps_files(bed.now()));
    assert!(agents.settle(scope, &lost.id).await.unwrap().sandbox_gone);

    let ended = bed.dies(&bed.running().await).await;
    let ended = agents.terminate_over(scope, &ended.id).await.unwrap();
    assert!(!ended.keeps_files(bed.now()) && agents.settle(scope, &ended.id).await.unwrap().sandbox_gone);
}
