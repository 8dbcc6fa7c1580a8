//! Pausing agents and booting them again: counters, copies, who may, and what an interruption leaves.

use crate::agents::new_agent;
use crate::checkpoints::conflict;
use crate::support::{World, own, pairs, refused, secret};
use futures_util::future::join_all;
use std::sync::Arc;
use theazo_store::{
    Agent, AgentCopies, AgentStatus, Agents, AuditAction, AuditFilter, AuditLog, AuditOutcome, Clock, Intent, Limits,
    NewAgent, PageRequest, PausedBy, SecretSelection, Session, SessionChanges, SessionStatus, StopAttempt, StoreError,
    WorkItem, now_ms,
};
use theazo_tenancy::TenantScope;

const HOUR_MS: i64 = 60 * 60 * 1000;

/// An agent that runs since five seconds, as far as the store is concerned.
pub async fn running(world: &World, scope: &TenantScope, session: &Session) -> Agent {
    let (sealed, opened) = {
        let opener = world.opener();
        let sealed = opener.load(scope, &session.id).await.unwrap();
        let opened = opener.open(scope, &sealed, &SecretSelection::All, now_ms()).await.unwrap();
        (sealed, opened)
    };
    let secrets = opened.iter().map(|secret| secret.booted.clone()).collect();
    let new = NewAgent { secrets, ..new_agent() };
    let slow = Agents::new(world.table.clone().with_clock(Clock::new(|| now_ms() - 5000)));
    let agent = slow.begin_boot(scope, session, new).await.unwrap();
    let copies = AgentCopies::new(world.table.clone(), world.keys.clone());
    let kept = copies.seal(scope, &agent.id, &sealed, &opened, now_ms() + HOUR_MS).await.unwrap();
    copies.keep(kept).await.unwrap();
    slow.transition(scope, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap()
}

async fn paused(world: &World, scope: &TenantScope, session: &Session, by: PausedBy) -> Agent {
    let agent = running(world, scope, session).await;
    world.agents().begin_pause(scope, &agent.id, by).await.unwrap();
    world.agents().finish_pause(scope, &agent.id, Some(12)).await.unwrap()
}

pub async fn counters(world: &World, scope: &TenantScope, session: &Session) -> (i64, i64, i64) {
    let counters = world.sessions().counters(&scope.session(&session.id).unwrap()).await.unwrap();
    (counters.active_agents, counters.total_agents, counters.compute_ms)
}

pub async fn copies_of(world: &World, scope: &TenantScope, agent: &Agent) -> usize {
    let pk = scope.agent_copies(&agent.id).unwrap();
    world.scan().await.iter().filter(|row| row["pk"].as_s().is_ok_and(|found| found == pk.pk())).count()
}

async fn latest(world: &World, scope: &TenantScope, session: &Session) -> Session {
    world.sessions().get(scope, &session.id).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_stop_is_one_attempts_until_it_is_given_up_or_its_time_is_over() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agent = running(&world, &scope, &session).await;
    let agents = world.agents();
    let late = Agents::new(world.table.clone().with_clock(Clock::new(|| now_ms() + 31_000)));
    let [first, second, third] = [(); 3].map(|()| StopAttempt::make());
    let any = |_: &Agent| true;
    let pausing = agents.begin_pause_if(&scope, &agent.id, PausedBy::Session, &first, any).await.unwrap();
    assert!(pausing.is_stopped_by(&first));
    // Who comes second has nothing to stop, and changes nothing, whichever way they come.
    let again = agents.begin_pause_if(&scope, &agent.id, PausedBy::Session, &second, any).await.unwrap();
    let taken = agents.take_up_stop(&scope, &agent.id, &second).await.unwrap();
    assert_eq!([again.revision, taken.revision], [pausing.revision; 2]);
    assert!(!agents.give_up_stop(&scope, &agent.id, &second).await.unwrap().is_stopped_by(&second));
    assert!(agents.take_up_stop(&scope, &agent.id, &first).await.unwrap().is_stopped_by(&first));
    // One that was given up is the next one's, and so is one that has taken too long, or whose process is dead.
    agents.give_up_stop(&scope, &agent.id, &first).await.unwrap();
    assert!(agents.take_up_stop(&scope, &agent.id, &second).await.unwrap().is_stopped_by(&second));
    assert!(late.take_up_stop(&scope, &agent.id, &third).await.unwrap().is_stopped_by(&third));
    let alone = StopAttempt::make_alone();
    assert!(agents.take_up_stop(&scope, &agent.id, &alone).await.unwrap().is_stopped_by(&alone));
    let paused = agents.finish_pause(&scope, &agent.id, None).await.unwrap();
    assert!(!paused.is_stopped_by(&alone));
    // The same of what runs of an agent that is paused.
    assert!(agents.hold_paused(&scope, &agent.id, &first).await.unwrap().is_stopped_by(&first));
    conflict(agents.hold_paused(&scope, &agent.id, &second).await);
    conflict(agents.release_paused(&scope, &agent.id, &second).await);
    assert_eq!(agents.release_paused(&scope, &agent.id, &first).await.unwrap().intent, None);
    assert_eq!(agents.take_up_stop(&scope, &agent.id, &second).await.unwrap().intent, None);
}

#[tokio::test]
async fn a_pause_gives_the_place_back_books_the_run_and_drops_the_copies() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    world
        .set(&scope, &own(&session), &[secret("A", "a value to be masked"), secret("B", "another value")])
        .await
        .unwrap();
    let agent = running(&world, &scope, &session).await;
    // One more vouches for what it booted with.
    assert_eq!(copies_of(&world, &scope, &agent).await, 3);

    let pausing = world.agents().begin_pause(&scope, &agent.id, PausedBy::Session).await.unwrap();
    assert_eq!((pausing.status, pausing.intent), (AgentStatus::Ready, Some(Intent::Pausing)));
    // Until it is stopped it holds what it booted with, and its place.
    assert_eq!(copies_of(&world, &scope, &agent).await, 3);
    assert_eq!(counters(&world, &scope, &session).await, (1, 1, 0));

    let stopped = world.agents().finish_pause(&scope, &agent.id, Some(1234)).await.unwrap();
    assert_eq!((stopped.status, stopped.intent), (AgentStatus::Paused, None));
    let snapshot = stopped.snapshot.clone().unwrap();
    assert_eq!((Some(snapshot.id), snapshot.bytes), (pausing.snapshot.map(|snapshot| snapshot.id), Some(1234)));
    assert_eq!(copies_of(&world, &scope, &agent).await, 0);
    let (active, total, spent) = counters(&world, &scope, &session).await;
    assert_eq!((active, total), (0, 1));
    assert!((5000..15_000).contains(&spent) && spent == stopped.compute_ms(now_ms() + HOUR_MS), "{spent}");

    // It is still looked after: it has files at its provider.
    let items = world.work().list().await.unwrap();
    assert!(items.iter().any(|item| matches!(item, WorkItem::Agent(work) if work.agent == agent.id)), "{items:?}");
    // Time does not run while it is paused.
    assert_eq!(stopped.time_left_ms(), stopped.timeout_ms - spent);
    world.agents().transition(&scope, &agent.id, AgentStatus::Completed, |_| {}).await.unwrap();
    assert_eq!(counters(&world, &scope, &session).await, (0, 1, spent));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_pauses_at_once_pause_once_and_end_or_pause_but_not_both_gives_one_place_back() {
    let world = Arc::new(World::start().await);
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    for ends in [false, true] {
        let agent = running(&world, &scope, &session).await;
        let before = counters(&world, &scope, &session).await.2;
        let calls = (0..12).map(|n| {
            let (agents, scope, id) = (world.agents(), scope.clone(), agent.id.clone());
            tokio::spawn(async move {
                if ends && n == 5 {
                    return agents.transition(&scope, &id, AgentStatus::Completed, |_| {}).await;
                }
                agents.begin_pause(&scope, &id, PausedBy::Session).await?;
                agents.finish_pause(&scope, &id, Some(n)).await
            })
        });
        for outcome in join_all(calls).await {
            match outcome.unwrap() {
                Ok(_) => {}
                Err(StoreError::Conflict(_)) if ends => {}
                Err(error) => panic!("{error:?}"),
            }
        }
        let after = world.agents().get(&scope, &agent.id).await.unwrap().unwrap();
        assert_eq!(after.status, if ends { AgentStatus::Completed } else { AgentStatus::Paused });
        let (active, _, spent) = counters(&world, &scope, &session).await;
        assert_eq!((active, spent - before), (0, after.ran_before_ms));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_resumes_take_no_more_places_than_the_limit_has() {
    let world = Arc::new(World::start().await);
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let mut agents = Vec::new();
    for _ in 0..6 {
        agents.push(paused(&world, &scope, &session, PausedBy::Platform).await);
    }
    let changes = SessionChanges {
        limits: Some(Limits { max_agents: Some(2), ..Limits::default() }),
        ..SessionChanges::default()
    };
    let session = world.sessions().change(&scope, &session.id, &changes).await.unwrap();
    let calls = agents.iter().flat_map(|agent| [agent, agent]).map(|agent| {
        let (world, scope, session, agent) = (world.clone(), scope.clone(), session.clone(), agent.clone());
        tokio::spawn(
            async move { world.agents().begin_again(&scope, &session, &agent, Intent::Resuming, Vec::new()).await },
        )
    });
    let mut booting = 0;
    for outcome in join_all(calls).await {
        match outcome.unwrap() {
            Ok(agent) => {
                assert_eq!(
                    (agent.status, agent.intent, agent.boots),
                    (AgentStatus::Booting, Some(Intent::Resuming), 2)
                );
                booting += 1;
            }
            Err(StoreError::LimitExceeded { limit: "maxAgents", used: 2, max: 2 } | StoreError::Conflict(_)) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    assert_eq!(booting, 2);
    assert_eq!(counters(&world, &scope, &session).await.0, 2);
}

#[tokio::test]
async fn what_the_platform_pauses_stays_the_platforms_whoever_was_first() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let agent = paused(&world, &scope, &session, PausedBy::Session).await;
    for (by, after) in [
        (PausedBy::Suspension, PausedBy::Session),
        (PausedBy::Platform, PausedBy::Platform),
        (PausedBy::Session, PausedBy::Platform),
        (PausedBy::Suspension, PausedBy::Platform),
    ] {
        let again = agents.begin_pause(&scope, &agent.id, by).await.unwrap();
        assert_eq!((again.status, again.paused_by), (AgentStatus::Paused, Some(after)), "{by:?}");
        assert_eq!(again.snapshot, agent.snapshot);
    }
    let binding = [PausedBy::Platform, PausedBy::Suspension, PausedBy::Operator];
    assert!(binding.into_iter().all(PausedBy::binds_session));
    let others = [PausedBy::Session, PausedBy::Idle, PausedBy::Upkeep, PausedBy::Limit];
    assert!(!others.into_iter().any(PausedBy::binds_session));
    // It is over with the pause.
    let again = agents.get(&scope, &agent.id).await.unwrap().unwrap();
    agents.begin_again(&scope, &session, &again, Intent::Resuming, Vec::new()).await.unwrap();
    let ready = agents.transition(&scope, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap();
    assert_eq!((ready.paused_by, ready.intent), (None, None));
}

#[tokio::test]
async fn nothing_boots_again_from_a_state_that_has_changed_since_it_was_read() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let conflict = |outcome| assert!(matches!(refused(outcome), StoreError::Conflict(_)));
    let ready = running(&world, &scope, &session).await;
    conflict(agents.begin_again(&scope, &session, &ready, Intent::Resuming, Vec::new()).await);
    let pausing = agents.begin_pause(&scope, &ready.id, PausedBy::Session).await.unwrap();
    for read in [&ready, &pausing] {
        conflict(agents.begin_again(&scope, &session, read, Intent::Restarting, Vec::new()).await);
    }
    let stopped = agents.finish_pause(&scope, &ready.id, None).await.unwrap();

    // A session that is paused, or was since it was read, boots nothing.
    let suspended = world.sessions().pause(&scope, &session.id).await.unwrap();
    for session in [&session, &suspended] {
        conflict(agents.begin_again(&scope, session, &stopped, Intent::Resuming, Vec::new()).await);
    }
    let session = world.sessions().resume(&scope, &session.id).await.unwrap();
    assert_eq!((session.status, session.paused_at_ms), (SessionStatus::Active, None));
    agents.begin_again(&scope, &session, &stopped, Intent::Resuming, Vec::new()).await.unwrap();
    conflict(agents.begin_again(&scope, &session, &stopped, Intent::Resuming, Vec::new()).await);
    conflict(agents.begin_pause(&scope, &ready.id, PausedBy::Session).await);
    assert_eq!(counters(&world, &scope, &session).await.0, 1);
}

#[tokio::test]
async fn a_boot_that_is_taken_back_gives_its_place_back_and_one_that_stalled_changes_nothing_of_the_next() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let stopped = paused(&world, &scope, &session, PausedBy::Session).await;
    let first = agents.begin_again(&scope, &session, &stopped, Intent::Resuming, Vec::new()).await.unwrap();
    let back = agents.back_to_paused(&scope, &first.id, first.boots, None).await.unwrap();
    assert_eq!((back.status, back.paused_by), (AgentStatus::Paused, Some(PausedBy::Session)));
    assert_eq!((back.snapshot.clone(), back.ran_before_ms), (stopped.snapshot.clone(), stopped.ran_before_ms));
    assert_eq!(counters(&world, &scope, &session).await.0, 0);

    let second = agents.begin_again(&scope, &session, &back, Intent::Resuming, Vec::new()).await.unwrap();
    assert!(matches!(
        refused(agents.back_to_paused(&scope, &first.id, first.boots, None).await),
        StoreError::Conflict(_)
    ));
    let is_first = |now: &Agent| now.boots == first.boots;
    let late = agents.transition_if(&scope, &first.id, AgentStatus::Ready, is_first, |_| {}).await;
    assert!(matches!(refused(late), StoreError::Conflict(_)));
    let is_second = |now: &Agent| now.boots == second.boots;
    agents.transition_if(&scope, &first.id, AgentStatus::Ready, is_second, |_| {}).await.unwrap();
    // Now it is ready, and the first still has no part in it.
    let late = agents.transition_if(&scope, &first.id, AgentStatus::Ready, is_first, |_| {}).await;
    assert!(matches!(refused(late), StoreError::Conflict(_)));

    // A restart that is taken back has nobody who paused it.
    let ready = agents.get(&scope, &first.id).await.unwrap().unwrap();
    let again = agents.begin_again(&scope, &session, &ready, Intent::Restarting, Vec::new()).await.unwrap();
    assert_eq!(counters(&world, &scope, &session).await.0, 1);
    let back = agents.back_to_paused(&scope, &again.id, again.boots, None).await.unwrap();
    assert_eq!((back.paused_by, back.status), (Some(PausedBy::Upkeep), AgentStatus::Paused));
    assert_eq!(counters(&world, &scope, &session).await.0, 0);
}

#[tokio::test]
async fn pauses_and_later_boots_leave_their_intent_and_their_outcome_in_the_trail() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    world.set(&scope, &own(&session), &[secret("A", "a value to be masked")]).await.unwrap();
    let stopped = paused(&world, &scope, &session, PausedBy::Platform).await;
    let secrets = stopped.secrets.clone();
    let first = agents.begin_again(&scope, &session, &stopped, Intent::Resuming, secrets.clone()).await.unwrap();
    let back = agents.back_to_paused(&scope, &first.id, first.boots, None).await.unwrap();
    agents.begin_again(&scope, &session, &back, Intent::Resuming, secrets.clone()).await.unwrap();
    let ready = agents.transition(&scope, &first.id, AgentStatus::Ready, |_| {}).await.unwrap();
    agents.begin_again(&scope, &session, &ready, Intent::Restarting, Vec::new()).await.unwrap();
    let running = agents.transition(&scope, &first.id, AgentStatus::Ready, |_| {}).await.unwrap();
    // An end that overtakes a boot or a pause ends that as well.
    agents.begin_again(&scope, &session, &running, Intent::Restarting, Vec::new()).await.unwrap();
    agents.transition(&scope, &first.id, AgentStatus::Completed, |_| {}).await.unwrap();
    let other = self::running(&world, &scope, &session).await;
    agents.begin_pause(&scope, &other.id, PausedBy::Platform).await.unwrap();
    agents.transition(&scope, &other.id, AgentStatus::Failed, |_| {}).await.unwrap();

    let page = PageRequest { limit: 100, after: None };
    let trail = AuditLog::new(world.table.clone()).list(&scope, &AuditFilter::default(), &page).await.unwrap();
    let entries = trail.rows.iter().filter(|entry| entry.agent.is_some());
    // Entries of one millisecond are in no order.
    let mut told: Vec<_> = entries.map(|entry| (entry.action, entry.outcome, entry.names.len())).collect();
    use AuditAction::{AgentBoot, AgentEnd, AgentPause, AgentRestart, AgentResume};
    use AuditOutcome::{Failed, Started, Succeeded};
    let mut expected = vec![
        (AgentBoot, Started, 1),
        (AgentBoot, Succeeded, 1),
        (AgentPause, Started, 1),
        (AgentPause, Succeeded, 1),
        (AgentResume, Started, 1),
        (AgentResume, Failed, 1),
        (AgentResume, Started, 1),
        (AgentResume, Succeeded, 1),
        (AgentRestart, Started, 0),
        (AgentRestart, Succeeded, 0),
        (AgentRestart, Started, 0),
        (AgentRestart, Failed, 0),
        (AgentEnd, Succeeded, 0),
        (AgentBoot, Started, 1),
        (AgentBoot, Succeeded, 1),
        (AgentPause, Started, 1),
        (AgentPause, Failed, 1),
        (AgentEnd, Failed, 1),
    ];
    told.sort_by_key(|entry| format!("{entry:?}"));
    expected.sort_by_key(|entry| format!("{entry:?}"));
    assert_eq!(told, expected);
}

#[tokio::test]
async fn a_later_boot_gets_those_of_its_names_that_there_still_are() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    world.set(&scope, &own(&session), &[secret("A", "1"), secret("B", "2"), secret("C", "3")]).await.unwrap();
    world.delete(&scope, &own(&session), "B").await.unwrap();
    world.set(&scope, &own(&session), &[secret("A", "new")]).await.unwrap();
    let among = SecretSelection::Among(["A", "B"].map(crate::support::name).to_vec());
    assert_eq!(world.delivered_of(&scope, &session.id, &among).await.unwrap(), pairs(&[("A", "new")]));
}

#[tokio::test]
async fn a_paused_session_is_on_the_work_list_until_its_agents_are_paused() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let sessions = world.sessions();
    let is_noted = || async {
        world
            .work()
            .list()
            .await
            .unwrap()
            .iter()
            .any(|item| matches!(item, WorkItem::Session(_, _, id) if *id == session.id))
    };
    let suspended = sessions.pause(&scope, &session.id).await.unwrap();
    assert!(suspended.paused_at_ms.is_some() && is_noted().await);
    let again = sessions.pause(&scope, &session.id).await.unwrap();
    assert_eq!((again.revision, again.paused_at_ms), (suspended.revision, suspended.paused_at_ms));
    sessions.settle_paused(&scope, &suspended).await.unwrap();
    assert!(!is_noted().await);

    // Who pauses and resumes meanwhile leaves a note that stays.
    sessions.resume(&scope, &session.id).await.unwrap();
    let paused_again = sessions.pause(&scope, &session.id).await.unwrap();
    sessions.settle_paused(&scope, &suspended).await.unwrap();
    assert!(is_noted().await);
    sessions.terminate(&scope, &session.id).await.unwrap();
    sessions.settle_paused(&scope, &paused_again).await.unwrap();
    assert!(is_noted().await, "of a terminated session there is more to do");
    for outcome in [sessions.pause(&scope, &session.id).await, sessions.resume(&scope, &session.id).await] {
        assert!(matches!(refused(outcome), StoreError::Conflict(_)));
    }
    assert_eq!(latest(&world, &scope, &session).await.status, SessionStatus::Terminated);
}

#[tokio::test]
async fn an_agent_is_idle_when_its_last_call_is_over_for_as_long_as_its_creator_said() {
    const MINUTE_MS: i64 = 60_000;
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agents = world.agents();
    let new = NewAgent { auto_pause_ms: Some(5 * MINUTE_MS), ..new_agent() };
    let agent = agents.begin_boot(&scope, &session, new).await.unwrap();
    assert!(!agent.is_idle(now_ms() + HOUR_MS), "one that boots is busy booting");
    let agent = agents.transition(&scope, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap();
    let ready = agent.run_started_ms.unwrap();
    let idle_from = |agent: &Agent, at: i64| !agent.is_idle(at - 1) && agent.is_idle(at);
    assert!(idle_from(&agent, ready + 5 * MINUTE_MS));

    // A call of ten minutes, one that ends earlier, and one that ends somewhat later: half a minute is not noted.
    for (until, noted) in [(10, 10), (2, 10), (11, 11)] {
        let read = agents.get(&scope, &agent.id).await.unwrap().unwrap();
        agents.note_call(&scope, &read, ready + until * MINUTE_MS).await.unwrap();
        let read = agents.get(&scope, &agent.id).await.unwrap().unwrap();
        assert!(idle_from(&read, ready + (noted + 5) * MINUTE_MS), "{until}");
        assert_eq!(read.revision, agent.revision, "it is no change of the agent");
    }
    let read = agents.get(&scope, &agent.id).await.unwrap().unwrap();
    agents.note_call(&scope, &read, ready + 11 * MINUTE_MS + 29_000).await.unwrap();
    assert!(idle_from(&agents.get(&scope, &agent.id).await.unwrap().unwrap(), ready + 16 * MINUTE_MS));
    let pausing = agents.begin_pause(&scope, &agent.id, PausedBy::Idle).await.unwrap();
    assert!(!pausing.is_idle(now_ms() + HOUR_MS), "it is being paused already");

    let other = running(&world, &scope, &session).await;
    agents.note_call(&scope, &other, now_ms() + HOUR_MS).await.unwrap();
    let other = agents.get(&scope, &other.id).await.unwrap().unwrap();
    assert_eq!((other.busy_until_ms, other.is_idle(now_ms() + 10 * HOUR_MS)), (None, false));
}
