//! Sessions, and the pointer from a user to their live one.

use crate::support::{World, refused};
use futures_util::future::join_all;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use theazo_store::{
    Limits, NewSession, PageRequest, SessionChanges, SessionFilter, SessionStatus, StoreError, WorkItem,
};
use theazo_tenancy::{Mode, SessionId, TenantScope, UserId};

fn user(text: &str) -> UserId {
    UserId::parse(text).unwrap()
}

async fn all(world: &World, scope: &TenantScope) -> Vec<theazo_store::Session> {
    let page = PageRequest { limit: 100, after: None };
    world.sessions().list(scope, &SessionFilter::default(), &page).await.unwrap().rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_concurrent_calls_for_one_user_yield_one_session() {
    let world = Arc::new(World::start().await);
    let scope = world.tenant().await;
    let calls = (0..50).map(|_| {
        let (world, scope) = (world.clone(), scope.clone());
        tokio::spawn(async move {
            let user = user("a/user");
            world.sessions().by_user(&scope, &user, &SessionChanges::default(), None).await.map(|session| session.id)
        })
    });
    let outcomes = join_all(calls).await.into_iter().map(|id| id.unwrap().unwrap());
    let ids: HashSet<_> = outcomes.collect();
    assert_eq!(ids.len(), 1);
    assert_eq!(all(&world, &scope).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_changes_of_one_session_all_happen_in_some_order() {
    let world = Arc::new(World::start().await);
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let calls = (0..12_u32).map(|n| {
        let (world, scope, id) = (world.clone(), scope.clone(), session.id.clone());
        tokio::spawn(async move {
            let changes = if n % 2 == 0 {
                SessionChanges {
                    limits: Some(Limits { max_agents: Some(n), ..Limits::default() }),
                    ..SessionChanges::default()
                }
            } else {
                let metadata = BTreeMap::from([("n".to_owned(), n.to_string())]);
                SessionChanges { metadata: Some(metadata), ..SessionChanges::default() }
            };
            world.sessions().change(&scope, &id, &changes).await
        })
    });
    let revisions = join_all(calls).await.into_iter().map(|session| session.unwrap().unwrap().revision);
    assert_eq!(revisions.collect::<HashSet<_>>().len(), 12, "each change had a revision of its own");
    let after = world.sessions().get(&scope, &session.id).await.unwrap().unwrap();
    assert_eq!(after.revision, 13);
    assert!(after.limits.max_agents.is_some() && after.metadata.contains_key("n"), "neither kind undid the other");
}

#[tokio::test]
async fn a_terminated_session_gives_its_user_up_and_a_new_one_is_made() {
    let world = World::start().await;
    let (scope, sessions) = (world.tenant().await, world.sessions());
    let (user, nothing) = (user("someone"), SessionChanges::default());
    let first = sessions.by_user(&scope, &user, &nothing, None).await.unwrap();
    assert_eq!(sessions.find_by_user(&scope, &user).await.unwrap(), Some(first.id.clone()));
    assert_eq!(sessions.by_user(&scope, &user, &nothing, Some(first.id.clone())).await.unwrap().id, first.id);

    let ended = sessions.terminate(&scope, &first.id).await.unwrap();
    assert_eq!(ended.status, SessionStatus::Terminated);
    assert_eq!(sessions.find_by_user(&scope, &user).await.unwrap(), None);
    // Even when the pointer was read before.
    let second = sessions.by_user(&scope, &user, &nothing, Some(first.id.clone())).await.unwrap();
    assert!(second.id != first.id && second.status == SessionStatus::Active);
    assert_eq!(sessions.find_by_user(&scope, &user).await.unwrap(), Some(second.id.clone()));

    let again = sessions.terminate(&scope, &first.id).await.unwrap();
    assert_eq!((again.terminated_at_ms, again.revision), (ended.terminated_at_ms, ended.revision));
    assert_eq!(sessions.find_by_user(&scope, &user).await.unwrap(), Some(second.id), "another session's pointer stays");
    let limits = SessionChanges { limits: Some(Limits::default()), ..SessionChanges::default() };
    assert!(matches!(refused(sessions.change(&scope, &first.id, &limits).await), StoreError::Conflict(_)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn terminating_and_asking_for_a_users_session_at_once_never_gives_a_dead_pointer() {
    let world = Arc::new(World::start().await);
    let scope = world.tenant().await;
    for round in 0..10 {
        let name = format!("user {round}");
        let first = world.sessions().by_user(&scope, &user(&name), &SessionChanges::default(), None).await.unwrap();
        let terminating = {
            let (world, scope, id) = (world.clone(), scope.clone(), first.id.clone());
            tokio::spawn(async move { world.sessions().terminate(&scope, &id).await })
        };
        let asking = (0..4).map(|_| {
            let (world, scope, name) = (world.clone(), scope.clone(), name.clone());
            tokio::spawn(async move {
                world.sessions().by_user(&scope, &user(&name), &SessionChanges::default(), None).await
            })
        });
        let asked = join_all(asking).await;
        terminating.await.unwrap().unwrap();
        assert!(asked.into_iter().all(|session| session.unwrap().is_ok()));
        if let Some(id) = world.sessions().find_by_user(&scope, &user(&name)).await.unwrap() {
            let session = world.sessions().get(&scope, &id).await.unwrap().unwrap();
            assert_eq!(session.status, SessionStatus::Active);
        }
        let found = world.sessions().by_user(&scope, &user(&name), &SessionChanges::default(), None).await.unwrap();
        assert!(found.id != first.id && found.status == SessionStatus::Active);
    }
}

#[tokio::test]
async fn a_second_session_of_a_user_stands_beside_the_first() {
    let world = World::start().await;
    let (scope, sessions) = (world.tenant().await, world.sessions());
    let new = NewSession { user: Some(user("someone")), ..NewSession::default() };
    let first = sessions.create(&scope, &new).await.unwrap();
    let second = sessions.create(&scope, &new).await.unwrap();
    assert_ne!(first.id, second.id);
    assert_eq!(sessions.find_by_user(&scope, &user("someone")).await.unwrap(), Some(first.id));
    sessions.terminate(&scope, &second.id).await.unwrap();
    assert!(sessions.find_by_user(&scope, &user("someone")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_terminated_session_is_on_the_work_list_until_it_is_settled() {
    let world = World::start().await;
    let (scope, sessions) = (world.tenant().await, world.sessions());
    let session = world.session(&scope).await;
    assert_eq!(world.work().list().await.unwrap(), []);
    sessions.terminate(&scope, &session.id).await.unwrap();
    let item = WorkItem::Session(scope.platform().clone(), Mode::Live, session.id.clone());
    assert_eq!(world.work().list().await.unwrap(), [item]);
    for _ in 0..2 {
        sessions.settle_terminated(&scope, &session.id).await.unwrap();
        assert_eq!(world.work().list().await.unwrap(), []);
    }
}

#[tokio::test]
async fn sessions_of_another_tenant_or_mode_are_not_there() {
    let world = World::start().await;
    let (scope, stranger, sessions) = (world.tenant().await, world.tenant().await, world.sessions());
    let test = crate::support::operator().tenant(scope.platform(), Mode::Test);
    let session = world.session(&scope).await;
    for other in [&stranger, &test] {
        assert!(sessions.get(other, &session.id).await.unwrap().is_none());
        assert!(matches!(refused(sessions.terminate(other, &session.id).await), StoreError::NotFound));
        assert!(all(&world, other).await.is_empty());
    }
    assert!(sessions.get(&scope, &SessionId::make()).await.unwrap().is_none());
    assert_eq!(sessions.get(&scope, &session.id).await.unwrap().unwrap().status, SessionStatus::Active);
}
