//! Checkpoints in agents' rows: what is noted before and after, what an agent that is over keeps, and how it boots again.

use crate::pausing::{copies_of, counters, running};
use crate::support::{World, own, refused, secret};
use futures_util::future::join_all;
use std::sync::Arc;
use theazo_store::{
    Agent, AgentStatus, Agents, CHECKPOINT_GRACE_MS, CheckpointState, Clock, Intent, MAX_CHECKPOINTS, NewCheckpoint,
    NextBoot, PausedBy, Session, StoreError, WorkItem, now_ms,
};
use theazo_tenancy::{CheckpointId, TenantScope};

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

pub fn conflict<T: std::fmt::Debug>(outcome: Result<T, StoreError>) {
    assert!(matches!(refused(outcome), StoreError::Conflict(_)));
}

/// The agents as they are so much later.
fn later(world: &World, by_ms: i64) -> Agents {
    Agents::new(world.table.clone().with_clock(Clock::new(move || now_ms() + by_ms)))
}

fn on_files_of(checkpoint: Option<&CheckpointId>) -> NextBoot {
    NextBoot { checkpoint: checkpoint.cloned(), ..NextBoot::default() }
}

async fn keep(agents: &Agents, scope: &TenantScope, agent: &Agent, phase: &str) -> CheckpointId {
    let new = NewCheckpoint { phase: Some(phase.to_owned()), progress: Some(12.5), ..NewCheckpoint::default() };
    let (_, id) = agents.begin_checkpoint(scope, &agent.id, new).await.unwrap();
    agents.finish_checkpoint(scope, &agent.id, &id, Some(5)).await.unwrap();
    id
}

async fn fail(agents: &Agents, scope: &TenantScope, agent: &Agent) -> Agent {
    agents.transition(scope, &agent.id, AgentStatus::Failed, |_| {}).await.unwrap();
    agents.settle_all_but_kept(scope, &agent.id).await.unwrap()
}

async fn retry(
    agents: &Agents,
    scope: &TenantScope,
    session: &Session,
    agent: &Agent,
    checkpoint: Option<&CheckpointId>,
) -> Result<Agent, StoreError> {
    agents.begin_again(scope, session, agent, Intent::Retrying, on_files_of(checkpoint)).await
}

#[tokio::test]
async fn a_checkpoint_is_noted_before_it_is_made_and_counts_only_if_its_run_went_on() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let agent = running(&world, &scope, &session).await;
    let (making, id) = agents.begin_checkpoint(&scope, &agent.id, NewCheckpoint::default()).await.unwrap();
    assert_eq!((making.checkpoints[0].state, making.kept_checkpoints().count()), (CheckpointState::Making, 0));
    conflict(agents.begin_checkpoint(&scope, &agent.id, NewCheckpoint::default()).await);
    assert!(!making.checkpoints[0].is_left_over(now_ms(), CHECKPOINT_GRACE_MS));
    // What a process that died has begun stands in nobody's way later.
    let much_later = later(&world, CHECKPOINT_GRACE_MS);
    let (_, second) = much_later.begin_checkpoint(&scope, &agent.id, NewCheckpoint::default()).await.unwrap();
    let kept = much_later.finish_checkpoint(&scope, &agent.id, &second, Some(7)).await.unwrap();
    assert_eq!(
        much_later.finish_checkpoint(&scope, &agent.id, &second, Some(8)).await.unwrap().revision,
        kept.revision
    );
    assert_eq!(kept.kept_checkpoint(&second).unwrap().bytes, Some(7));
    let given_up = agents.give_up_checkpoint(&scope, &agent.id, &id, true).await.unwrap();
    assert!(given_up.checkpoints[0].is_left_over(now_ms(), i64::MAX));
    conflict(agents.finish_checkpoint(&scope, &agent.id, &id, None).await);
    // It may come about, and is known as long as that.
    for (agents, left) in [(&agents, 2), (&much_later, 1), (&much_later, 1)] {
        let now = agents.forget_checkpoint(&scope, &agent.id, &id).await.unwrap();
        assert_eq!(now.checkpoints.len(), left);
    }
    // One that is there is neither given up nor forgotten.
    agents.give_up_checkpoint(&scope, &agent.id, &second, false).await.unwrap();
    let left = agents.forget_checkpoint(&scope, &agent.id, &second).await.unwrap();
    assert_eq!(left.kept_checkpoints().count(), 1);

    // Paused and resumed meanwhile: nobody knows of which moment it is.
    let (_, third) = much_later.begin_checkpoint(&scope, &agent.id, NewCheckpoint::default()).await.unwrap();
    agents.begin_pause(&scope, &agent.id, PausedBy::Session).await.unwrap();
    conflict(agents.finish_checkpoint(&scope, &agent.id, &third, None).await);
    let paused = agents.finish_pause(&scope, &agent.id, None).await.unwrap();
    conflict(agents.begin_checkpoint(&scope, &agent.id, NewCheckpoint::default()).await);
    agents.begin_again(&scope, &session, &paused, Intent::Resuming, Vec::new()).await.unwrap();
    agents.transition(&scope, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap();
    conflict(agents.finish_checkpoint(&scope, &agent.id, &third, None).await);
}

#[tokio::test]
async fn with_one_more_than_an_agent_may_have_the_oldest_is_to_go() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let agent = running(&world, &scope, &session).await;
    let mut made = Vec::new();
    for number in 0..MAX_CHECKPOINTS + 2 {
        made.push(keep(&agents, &scope, &agent, &number.to_string()).await);
    }
    let now = agents.get(&scope, &agent.id).await.unwrap().unwrap();
    let kept: Vec<_> = now.kept_checkpoints().map(|checkpoint| checkpoint.id.clone()).collect();
    assert_eq!(kept, made[2..]);
    assert!(now.checkpoints[..2].iter().all(|checkpoint| checkpoint.state == CheckpointState::Removing));
    let last = now.last_checkpoint.unwrap();
    assert_eq!((last.phase.as_deref(), last.progress), (Some("11"), Some(12.5)));
    // Nobody boots from one that goes.
    agents.begin_pause(&scope, &agent.id, PausedBy::Session).await.unwrap();
    let paused = agents.finish_pause(&scope, &agent.id, None).await.unwrap();
    let gone = agents.begin_again(&scope, &session, &paused, Intent::Resuming, on_files_of(Some(&made[0]))).await;
    conflict(gone);
    let from = agents.begin_again(&scope, &session, &paused, Intent::Resuming, on_files_of(Some(&made[5])));
    let booting = from.await.unwrap();
    assert_eq!(booting.restores.as_ref(), Some(&made[5]));
    // Taken back, it boots from the same the next time; once it has run, from its own files.
    let back = agents.back_to_paused(&scope, &agent.id, booting.boots, None).await.unwrap();
    assert_eq!((back.status, back.restores.as_ref()), (AgentStatus::Paused, Some(&made[5])));
    let again = agents.begin_again(&scope, &session, &back, Intent::Resuming, Vec::new()).await.unwrap();
    assert_eq!(again.restores.as_ref(), Some(&made[5]));
    let ready = agents.transition(&scope, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap();
    assert_eq!(ready.restores, None);
}

#[tokio::test]
async fn what_is_over_keeps_its_checkpoints_and_a_retry_takes_a_place_and_gives_all_its_time_again() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    world.set(&scope, &own(&session), &[secret("A", "a value to be masked")]).await.unwrap();
    let agent = running(&world, &scope, &session).await;
    let kept = keep(&agents, &scope, &agent, "p").await;
    conflict(retry(&agents, &scope, &session, &agent, Some(&kept)).await);
    let failed = agents.transition(&scope, &agent.id, AgentStatus::Failed, |_| {}).await.unwrap();
    // Not before its sandbox is known to be gone: whoever removes it may be late.
    conflict(retry(&agents, &scope, &session, &failed, Some(&kept)).await);
    let failed = agents.settle_all_but_kept(&scope, &agent.id).await.unwrap();
    assert!(failed.only_kept && !failed.sandbox_gone && failed.can_be_retried(now_ms()));
    assert_eq!(copies_of(&world, &scope, &agent).await, 0);
    let (active, total, spent) = counters(&world, &scope, &session).await;
    assert_eq!((active, total), (0, 1));
    assert!(spent >= 5000 && failed.ran_before_ms == spent);
    let items = world.work().list().await.unwrap();
    assert!(items.iter().any(|item| matches!(item, WorkItem::Agent(work) if work.agent == agent.id)), "{items:?}");

    conflict(retry(&agents, &scope, &session, &failed, None).await);
    conflict(retry(&agents, &scope, &session, &failed, Some(&CheckpointId::make())).await);
    let booting = retry(&agents, &scope, &session, &failed, Some(&kept)).await.unwrap();
    assert_eq!((booting.status, booting.intent), (AgentStatus::Booting, Some(Intent::Retrying)));
    assert_eq!((booting.ended_at_ms, booting.only_kept), (None, false));
    assert_eq!(booting.time_left_ms(), booting.timeout_ms);
    assert_eq!(booting.compute_ms(now_ms()), spent, "what it ran is not forgotten");
    let (active, total, _) = counters(&world, &scope, &session).await;
    assert_eq!((active, total), (1, 1));
    conflict(retry(&agents, &scope, &session, &failed, Some(&kept)).await);
    // A boot that fails leaves it as it was.
    let again = fail(&agents, &scope, &booting).await;
    assert!(again.can_be_retried(now_ms()));
    assert_eq!(counters(&world, &scope, &session).await.0, 0);

    // By time or by the end of its session; not what was terminated.
    let over = agents.terminate_over(&scope, &agent.id).await.unwrap();
    assert_eq!((over.terminated, over.kept_checkpoints().count()), (true, 0));
    conflict(retry(&agents, &scope, &session, &over, Some(&kept)).await);
    let gone = agents.settle(&scope, &agent.id).await.unwrap();
    assert!(gone.sandbox_gone && gone.checkpoints.is_empty() && gone.last_checkpoint.is_some());
    let items = world.work().list().await.unwrap();
    assert!(!items.iter().any(|item| matches!(item, WorkItem::Agent(work) if work.agent == agent.id)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_retries_at_once_one_boots_and_a_termination_among_them_wins_for_good() {
    let world = Arc::new(World::start().await);
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    for ends in [false, true] {
        let agent = running(&world, &scope, &session).await;
        let kept = keep(&world.agents(), &scope, &agent, "p").await;
        let failed = fail(&world.agents(), &scope, &agent).await;
        let calls = (0..12).map(|n| {
            let (agents, scope, session, failed, kept) =
                (world.agents(), scope.clone(), session.clone(), failed.clone(), kept.clone());
            tokio::spawn(async move {
                if ends && n == 3 {
                    return agents.terminate_over(&scope, &failed.id).await;
                }
                retry(&agents, &scope, &session, &failed, Some(&kept)).await
            })
        });
        let outcomes: Vec<_> = join_all(calls).await.into_iter().map(Result::unwrap).collect();
        let booted = outcomes.iter().flatten().filter(|agent| agent.status == AgentStatus::Booting).count();
        let now = world.agents().get(&scope, &agent.id).await.unwrap().unwrap();
        assert_eq!(booted, usize::from(!now.terminated), "{outcomes:?}");
        assert_eq!(counters(&world, &scope, &session).await.0, i64::try_from(booted).unwrap());
        if booted == 1 {
            world
                .agents()
                .transition(&scope, &agent.id, AgentStatus::Completed, |agent| agent.terminated = true)
                .await
                .unwrap();
        }
    }
}

#[tokio::test]
async fn checkpoints_of_what_is_over_end_with_its_time_to_be_readable_and_one_in_the_making_is_waited_for() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let agent = running(&world, &scope, &session).await;
    keep(&agents, &scope, &agent, "p").await;
    let failed = fail(&agents, &scope, &agent).await;
    assert!(failed.keeps_files(now_ms() + 29 * DAY_MS) && !failed.keeps_files(now_ms() + 30 * DAY_MS));
    assert!(!failed.can_be_retried(now_ms() + 30 * DAY_MS));
    let month = later(&world, 30 * DAY_MS);
    assert!(month.get(&scope, &agent.id).await.unwrap().is_some(), "until nothing of it is at its provider");
    month.settle(&scope, &agent.id).await.unwrap();
    assert!(month.get(&scope, &agent.id).await.unwrap().is_none());

    let other = running(&world, &scope, &session).await;
    let (_, making) = agents.begin_checkpoint(&scope, &other.id, NewCheckpoint::default()).await.unwrap();
    agents.transition(&scope, &other.id, AgentStatus::Completed, |agent| agent.terminated = true).await.unwrap();
    assert!(!agents.settle(&scope, &other.id).await.unwrap().sandbox_gone, "somebody may still be making it");
    assert!(later(&world, CHECKPOINT_GRACE_MS).settle(&scope, &other.id).await.unwrap().sandbox_gone);
    conflict(agents.finish_checkpoint(&scope, &other.id, &making, None).await);
}
