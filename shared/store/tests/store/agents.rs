//! Agents' rows, and the counters that they move.

use crate::support::{Item, World, refused};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use theazo_store::{
    Agent, AgentStatus, Agents, Clock, Limits, NewAgent, NewSession, Session, StoreError, WorkItem, now_ms,
};
use theazo_tenancy::{AgentId, Mode, TenantScope, WorkRef};

pub fn new_agent() -> NewAgent {
    NewAgent {
        provider: "docker".into(),
        compute: "python".into(),
        region: None,
        host: None,
        model: None,
        instructions: None,
        tools: None,
        metadata: BTreeMap::new(),
        internet: true,
        timeout_ms: 60_000,
        auto_pause_ms: None,
        selection: None,
        cost_cap: None,
        max_concurrent: None,
        secrets: Vec::new(),
    }
}

async fn limited(world: &World, scope: &TenantScope, max_agents: u32) -> Session {
    let new =
        NewSession { limits: Limits { max_agents: Some(max_agents), ..Limits::default() }, ..NewSession::default() };
    world.sessions().create(scope, &new).await.unwrap()
}

async fn counters(world: &World, scope: &TenantScope, session: &Session) -> (i64, i64, i64) {
    let own = scope.session(&session.id).unwrap();
    let counters = world.sessions().counters(&own).await.unwrap();
    (counters.active_agents, counters.total_agents, counters.compute_ms)
}

/// The agent's row, which must be the same for the platform and for the session.
async fn row(world: &World, scope: &TenantScope, agent: &Agent) -> Item {
    let own = scope.session(&agent.session).unwrap();
    let mut rows = Vec::new();
    for partition in [scope.platform_wide().unwrap().agents(), own.agents()] {
        let mut row = world.row(&partition.row(agent.id.as_str())).await.unwrap();
        row.remove("pk");
        rows.push(row);
    }
    assert_eq!(rows[0], rows[1]);
    rows.remove(0)
}

async fn work(world: &World) -> Vec<AgentId> {
    let items = world.work().list().await.unwrap().into_iter();
    items.filter_map(|item| if let WorkItem::Agent(work) = item { Some(work.agent) } else { None }).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_a_hundred_rounds_fifty_concurrent_boots_against_a_limit_of_three_give_exactly_three() {
    let world = Arc::new(World::start().await);
    for _ in 0..100 {
        let scope = world.tenant().await;
        let session = limited(&world, &scope, 3).await;
        let made = fifty_boots(&world, &scope, &session).await;
        assert_eq!(made.len(), 3);
        assert_eq!(counters(&world, &scope, &session).await, (3, 3, 0));
        let own = scope.session(&session.id).unwrap();
        assert_eq!(world.agents().unsettled_of_session(&own).await.unwrap().len(), 3);
    }
    assert_eq!(work(&world).await.len(), 300);
}

async fn fifty_boots(world: &Arc<World>, scope: &TenantScope, session: &Session) -> Vec<Agent> {
    let boots = (0..50).map(|_| {
        let (world, scope, session) = (world.clone(), scope.clone(), session.clone());
        tokio::spawn(async move { world.agents().begin_boot(&scope, &session, new_agent()).await })
    });
    let mut made = Vec::new();
    for outcome in join_all(boots).await {
        match outcome.unwrap() {
            Ok(agent) => made.push(agent),
            Err(StoreError::LimitExceeded { limit: "maxAgents", used: 3, max: 3 }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    made
}

#[tokio::test]
async fn a_place_that_is_given_back_is_a_place_for_exactly_one_more() {
    let world = Arc::new(World::start().await);
    let scope = world.tenant().await;
    let session = limited(&world, &scope, 3).await;
    let made = fifty_boots(&world, &scope, &session).await;
    world.agents().transition(&scope, &made[0].id, AgentStatus::Failed, |_| {}).await.unwrap();
    world.agents().begin_boot(&scope, &session, new_agent()).await.unwrap();
    let error = refused(world.agents().begin_boot(&scope, &session, new_agent()).await);
    assert!(matches!(error, StoreError::LimitExceeded { used: 3, max: 3, .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_ended_by_many_at_once_gives_its_place_and_its_time_back_once() {
    let world = Arc::new(World::start().await);
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let now = Arc::new(AtomicI64::new(now_ms()));
    let clock = now.clone();
    let table = world.table.clone().with_clock(Clock::new(move || clock.load(Ordering::Relaxed)));
    let agents = Agents::new(table);
    for ends in [vec![AgentStatus::Completed], vec![AgentStatus::Completed, AgentStatus::Failed]] {
        let (_, _, spent_before) = counters(&world, &scope, &session).await;
        let agent = agents.begin_boot(&scope, &session, new_agent()).await.unwrap();
        let ready = agents.transition(&scope, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap();
        let ready_at = ready.run_started_ms.unwrap();
        now.fetch_add(5000, Ordering::Relaxed);
        assert_eq!(counters(&world, &scope, &session).await.0, 1);

        let calls = (0..12).map(|n| {
            let (agents, scope, id, end) = (agents.clone(), scope.clone(), agent.id.clone(), ends[n % ends.len()]);
            tokio::spawn(async move { agents.transition(&scope, &id, end, |_| {}).await })
        });
        let outcomes: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        let after = agents.get(&scope, &agent.id).await.unwrap().unwrap();
        assert!(after.status.is_over() && ends.contains(&after.status));
        for outcome in outcomes {
            match outcome {
                Ok(ended) => assert_eq!((ended.status, ended.revision), (after.status, after.revision)),
                Err(StoreError::Conflict(_)) => assert_eq!(ends.len(), 2),
                Err(error) => panic!("{error:?}"),
            }
        }
        row(&world, &scope, &agent).await;
        let (active, _, spent) = counters(&world, &scope, &session).await;
        assert_eq!(active, 0);
        assert_eq!(spent - spent_before, after.ended_at_ms.unwrap() - ready_at);
        assert_eq!(spent - spent_before, 5000);
    }
}

#[tokio::test]
async fn both_rows_of_an_agent_are_equal_at_every_step() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let agent = agents.begin_boot(&scope, &session, new_agent()).await.unwrap();
    assert_eq!(row(&world, &scope, &agent).await["status"].as_s().unwrap(), "booting");
    let steps = [AgentStatus::Ready, AgentStatus::Paused, AgentStatus::Booting, AgentStatus::Ready];
    for (index, status) in steps.into_iter().enumerate() {
        let change = |agent: &mut Agent| agent.region = Some(format!("r{index}"));
        agents.transition(&scope, &agent.id, status, change).await.unwrap();
        let row = row(&world, &scope, &agent).await;
        assert_eq!(row["status"].as_s().unwrap(), status.as_str());
        assert_eq!(row["region"].as_s().unwrap(), &format!("r{index}"));
    }
    agents.transition(&scope, &agent.id, AgentStatus::Completed, |_| {}).await.unwrap();
    assert!(!row(&world, &scope, &agent).await.contains_key("ttl"), "it may still have something at its provider");
    agents.settle(&scope, &agent.id).await.unwrap();
    assert!(row(&world, &scope, &agent).await.contains_key("ttl"));
    for to in AgentStatus::ALL.into_iter().filter(|status| *status != AgentStatus::Completed) {
        assert!(matches!(refused(agents.transition(&scope, &agent.id, to, |_| {}).await), StoreError::Conflict(_)));
    }
}

#[tokio::test]
async fn an_agent_is_on_the_work_list_from_its_boot_until_it_is_settled() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let agent = agents.begin_boot(&scope, &session, new_agent()).await.unwrap();
    let own = scope.session(&session.id).unwrap();
    let item = WorkRef { platform: scope.platform().clone(), mode: Mode::Live, agent: agent.id.clone() };
    assert_eq!(world.work().list().await.unwrap(), [WorkItem::Agent(item)]);
    assert!(matches!(refused(agents.settle(&scope, &agent.id).await), StoreError::Conflict(_)));
    agents.transition(&scope, &agent.id, AgentStatus::Failed, |_| {}).await.unwrap();
    assert_eq!(work(&world).await.len(), 1, "its provider was not asked yet");
    assert_eq!(agents.unsettled_of_session(&own).await.unwrap().len(), 1);
    let calls = join_all((0..5).map(|_| agents.settle(&scope, &agent.id))).await;
    assert!(calls.into_iter().all(|outcome| outcome.unwrap().sandbox_gone));
    assert!(work(&world).await.is_empty());
    assert!(agents.unsettled_of_session(&own).await.unwrap().is_empty());
    assert!(agents.unsettled_of_platform(&scope).await.unwrap().is_empty());
    assert!(agents.get(&scope, &agent.id).await.unwrap().is_some(), "it stays readable");
}

#[tokio::test]
async fn a_boot_that_is_refused_writes_nothing() {
    let world = World::start().await;
    let (scope, stranger) = (world.tenant().await, world.tenant().await);
    let (session, none) = (world.session(&scope).await, limited(&world, &scope, 0).await);
    let agents = world.agents();
    let before = world.scan().await;
    let error = refused(agents.begin_boot(&scope, &none, new_agent()).await);
    assert!(matches!(error, StoreError::LimitExceeded { used: 0, max: 0, .. }), "{error:?}");
    let error = refused(agents.begin_boot(&stranger, &session, new_agent()).await);
    assert!(matches!(error, StoreError::Conflict(_)), "{error:?}");
    assert_eq!(world.scan().await, before);

    world.sessions().terminate(&scope, &session.id).await.unwrap();
    let before = world.scan().await;
    let ended = world.sessions().get(&scope, &session.id).await.unwrap().unwrap();
    for read in [session, ended] {
        let error = refused(agents.begin_boot(&scope, &read, new_agent()).await);
        assert!(matches!(error, StoreError::Conflict(_)), "{error:?}");
    }
    assert_eq!(world.scan().await, before);
}

#[tokio::test]
async fn an_agent_of_another_tenant_is_not_there() {
    let world = World::start().await;
    let (scope, stranger) = (world.tenant().await, world.tenant().await);
    let test = crate::support::operator().tenant(scope.platform(), Mode::Test);
    let agent = world.agents().begin_boot(&scope, &world.session(&scope).await, new_agent()).await.unwrap();
    for other in [&stranger, &test] {
        assert!(world.agents().get(other, &agent.id).await.unwrap().is_none());
        let outcome = world.agents().transition(other, &agent.id, AgentStatus::Completed, |_| {}).await;
        assert!(matches!(refused(outcome), StoreError::NotFound));
    }
    assert_eq!(world.agents().get(&scope, &agent.id).await.unwrap().unwrap().status, AgentStatus::Booting);
}
