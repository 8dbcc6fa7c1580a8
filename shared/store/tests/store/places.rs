//! Places at providers: how many agents of a platform may run at one of them at a time.

use crate::agents::new_agent;
use crate::support::{World, refused};
use futures_util::future::join_all;
use std::sync::Arc;
use theazo_store::{Agent, AgentStatus, Intent, NewAgent, NextBoot, PausedBy, Session, StoreError};
use theazo_tenancy::TenantScope;

fn at(provider: &str, max_concurrent: Option<u32>) -> NewAgent {
    NewAgent { provider: provider.into(), max_concurrent, ..new_agent() }
}

fn expect_full(error: StoreError, expected: u32) {
    let StoreError::ProviderFull { provider, max } = error else { panic!("{error:?}") };
    assert_eq!((provider.as_str(), max), ("e2b", expected));
}

struct Bed {
    world: World,
    scope: TenantScope,
    session: Session,
}

impl Bed {
    async fn start() -> Self {
        let world = World::start().await;
        let scope = world.tenant().await;
        Self { session: world.session(&scope).await, world, scope }
    }

    async fn begin(&self, new: NewAgent) -> Result<Agent, StoreError> {
        self.world.agents().begin_boot(&self.scope, &self.session, new).await
    }

    async fn run(&self, max: Option<u32>) -> Agent {
        let agent = self.begin(at("e2b", max)).await.unwrap();
        self.enter(&agent, AgentStatus::Ready).await
    }

    async fn enter(&self, agent: &Agent, status: AgentStatus) -> Agent {
        self.world.agents().transition(&self.scope, &agent.id, status, |_| {}).await.unwrap()
    }

    async fn pause(&self, agent: &Agent) -> Agent {
        self.world.agents().begin_pause(&self.scope, &agent.id, PausedBy::Platform).await.unwrap();
        self.world.agents().finish_pause(&self.scope, &agent.id, None).await.unwrap()
    }

    async fn again(&self, agent: &Agent, intent: Intent, max: u32) -> Result<Agent, StoreError> {
        let next = NextBoot { max_concurrent: Some(max), ..NextBoot::default() };
        self.world.agents().begin_again(&self.scope, &self.session, agent, intent, next).await
    }

    async fn taken(&self) -> i64 {
        let row = self.world.row(&self.scope.provider_counters().unwrap().row("e2b")).await;
        row.map_or(0, |row| row["active"].as_n().unwrap().parse().unwrap())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_fifty_concurrent_boots_in_two_sessions_exactly_as_many_begin_as_may_run_there() {
    let world = Arc::new(World::start().await);
    for _ in 0..10 {
        let scope = world.tenant().await;
        let sessions = [world.session(&scope).await, world.session(&scope).await];
        let boots = (0..50).map(|index| {
            let (world, scope, session) = (world.clone(), scope.clone(), sessions[index % 2].clone());
            tokio::spawn(async move { world.agents().begin_boot(&scope, &session, at("e2b", Some(3))).await })
        });
        let mut made = 0;
        for outcome in join_all(boots).await {
            match outcome.unwrap() {
                Ok(_) => made += 1,
                Err(error) => expect_full(error, 3),
            }
        }
        assert_eq!(made, 3);
        assert_eq!(world.agents().unsettled_of_platform(&scope).await.unwrap().len(), 3, "the others left no row");
        world.agents().begin_boot(&scope, &sessions[0], at("fly", Some(1))).await.unwrap();
    }
}

#[tokio::test]
async fn a_place_is_given_back_once_by_a_pause_or_an_end_and_taken_again_by_a_resume() {
    let bed = Bed::start().await;
    let (first, second) = (bed.run(Some(2)).await, bed.run(Some(2)).await);
    expect_full(refused(bed.begin(at("e2b", Some(2))).await), 2);

    let paused = bed.pause(&first).await;
    assert_eq!(bed.taken().await, 1);
    let third = bed.run(Some(2)).await;
    expect_full(refused(bed.again(&paused, Intent::Resuming, 2).await), 2);
    let unchanged = bed.world.agents().get(&bed.scope, &first.id).await.unwrap().unwrap();
    assert_eq!((unchanged.status, unchanged.revision), (AgentStatus::Paused, paused.revision));

    // A restart keeps the place that it has, also where there are fewer by now.
    let restarting = bed.again(&third, Intent::Restarting, 1).await.unwrap();
    assert_eq!(bed.taken().await, 2);
    bed.enter(&restarting, AgentStatus::Failed).await;
    bed.world.agents().settle(&bed.scope, &third.id).await.unwrap();
    assert_eq!(bed.taken().await, 1);
    let resumed = bed.again(&paused, Intent::Resuming, 2).await.unwrap();
    bed.enter(&resumed, AgentStatus::Ready).await;
    assert_eq!(bed.taken().await, 2);
    for agent in [&first, &second] {
        bed.enter(agent, AgentStatus::Completed).await;
        bed.enter(agent, AgentStatus::Completed).await;
    }
    assert_eq!(bed.taken().await, 0);
}

#[tokio::test]
async fn without_a_limit_no_place_is_counted_and_with_none_nothing_boots() {
    let bed = Bed::start().await;
    let uncounted = bed.run(None).await;
    assert!(!uncounted.has_place && bed.taken().await == 0);
    expect_full(refused(bed.begin(at("e2b", Some(0))).await), 0);
    // What began without a limit gives nothing back, and is counted from its next resume on.
    let paused = bed.pause(&uncounted).await;
    assert_eq!(bed.taken().await, 0);
    assert!(bed.again(&paused, Intent::Resuming, 1).await.unwrap().has_place);
    expect_full(refused(bed.begin(at("e2b", Some(1))).await), 1);
    let other = bed.world.tenant().await;
    let session = bed.world.session(&other).await;
    bed.world.agents().begin_boot(&other, &session, at("e2b", Some(1))).await.unwrap();
}
