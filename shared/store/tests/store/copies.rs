//! Copies of what agents booted with: whole or not at all while an agent runs, and gone when it is over.

use crate::rotation::{boot, copies, masked, open, rotate, sealed_rows, world};
use crate::support::{Item, World, credential_key, name, number, own, pairs, refused, secret, text};
use crate::{agents::new_agent, proxy::Proxy, support::aws};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join;
use theazo_store::{
    Agent, AgentStatus, Agents, BOOT_GRACE_MS, Clock, Intent, NewAgent, OpenedSecret, ProviderCredentials, SealedCopy,
    SecretTarget, Session, StoreError, Table, WorkItem, now_ms,
};
use theazo_tenancy::TenantScope;

const DAY_MS: i64 = 24 * 60 * 60 * 1000;

/// The rows that lie beside an agent.
async fn beside(world: &World, scope: &TenantScope, agent: &Agent) -> Vec<Item> {
    let place = text(scope.agent_copies(&agent.id).unwrap().pk());
    world.scan().await.into_iter().filter(|row| row["pk"] == place).collect()
}

async fn assert_none_beside(world: &World, scope: &TenantScope, agent: &Agent, why: &str) {
    let left = beside(world, scope, agent).await;
    assert!(left.is_empty(), "{why}: {} copies are left", left.len());
}

async fn session_with_secrets(world: &World, scope: &TenantScope) -> Session {
    let session = world.session(scope).await;
    let hidden = theazo_store::NewSecret { mask: false, ..secret("SHOWN", "shown value") };
    world.set(scope, &own(&session), &[secret("A", "value a"), secret("B", "value b"), hidden]).await.unwrap();
    session
}

async fn end(agents: &Agents, scope: &TenantScope, agent: &Agent, status: AgentStatus) -> Result<(), StoreError> {
    agents.transition(scope, &agent.id, status, |_| {}).await?;
    agents.settle(scope, &agent.id).await?;
    Ok(())
}

/// An agent whose boot has come as far as its copies, which are not written yet.
async fn half_booted(world: &World, scope: &TenantScope, session: &Session) -> (Agent, Vec<SealedCopy>) {
    let (sealed, opened) = open(world, scope, session).await;
    let secrets = opened.iter().map(|secret| secret.booted.clone()).collect();
    let agent = world.agents().begin_boot(scope, session, NewAgent { secrets, ..new_agent() }).await.unwrap();
    let kept = copies(world).seal(scope, &agent.id, &sealed, &opened, now_ms() + DAY_MS).await.unwrap();
    (agent, kept)
}

#[tokio::test]
async fn an_agents_copies_are_there_until_it_is_settled_and_then_none_is_left() {
    let world = world().await;
    let scope = world.tenant().await;
    let session = session_with_secrets(&world, &scope).await;
    for status in [AgentStatus::Completed, AgentStatus::Failed] {
        let (agent, other) = (boot(&world, &scope, &session).await, boot(&world, &scope, &session).await);
        world.agents().transition(&scope, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap();
        // Whatever becomes of the secrets themselves.
        world.delete(&scope, &own(&session), "A").await.unwrap();
        let all = pairs(&[("A", "value a"), ("B", "value b")]);
        assert_eq!(masked(&world, &scope, &agent).await.unwrap(), all, "a value that is shown has no copy");
        assert!(beside(&world, &scope, &agent).await.len() >= 2);
        world.agents().transition(&scope, &agent.id, status, |_| {}).await.unwrap();
        assert!(beside(&world, &scope, &agent).await.len() >= 2, "its sandbox may still be printing");
        world.agents().settle(&scope, &agent.id).await.unwrap();
        assert_none_beside(&world, &scope, &agent, "settled").await;
        assert_eq!(masked(&world, &scope, &other).await.unwrap(), all, "a sibling keeps its own");
        world.set(&scope, &own(&session), &[secret("A", "value a")]).await.unwrap();
    }
}

#[tokio::test]
async fn a_copy_that_nobody_removes_goes_by_itself_a_day_after_the_agents_time() {
    let world = world().await;
    let scope = world.tenant().await;
    let session = session_with_secrets(&world, &scope).await;
    let agent = boot(&world, &scope, &session).await;
    let at_most = (now_ms() + DAY_MS) / 1000 + 1;
    rotate(&world, now_ms()).await;
    for row in beside(&world, &scope, &agent).await {
        let ttl: i64 = row["ttl"].as_n().unwrap().parse().unwrap();
        assert!((now_ms() / 1000..=at_most).contains(&ttl), "{ttl}");
    }
}

#[tokio::test]
async fn an_agent_with_a_copy_missing_or_tampered_with_shows_nothing() {
    let world = world().await;
    let scope = world.tenant().await;
    let session = session_with_secrets(&world, &scope).await;
    let (agent, sibling) = (boot(&world, &scope, &session).await, boot(&world, &scope, &session).await);
    let place = scope.agent_copies(&agent.id).unwrap();
    for good in beside(&world, &scope, &agent).await {
        let key = place.row(good["sk"].as_s().unwrap());
        let assert_closed = async |what: &str| {
            let error = refused(masked(&world, &scope, &agent).await);
            assert!(matches!(error, StoreError::Corrupt(_) | StoreError::Vault(_)), "{}: {what}: {error:?}", key.sk());
            assert!(masked(&world, &scope, &sibling).await.is_ok(), "{}: {what}", key.sk());
        };
        world.remove(&key).await;
        assert_closed("removed").await;

        let AttributeValue::B(blob) = &good["blob"] else { panic!("a binary") };
        for at in [0, 12, 50, 60, 90, blob.as_ref().len() - 1] {
            let (mut row, mut flipped) = (good.clone(), blob.as_ref().to_vec());
            flipped[at] ^= 1;
            row.insert("blob".into(), AttributeValue::B(flipped.into()));
            world.put(&key, row).await;
            assert_closed(&format!("byte {at}")).await;
        }
        for (column, edited) in [
            ("version", number(7)),
            ("mask", AttributeValue::Bool(false)),
            ("inherit", AttributeValue::Bool(true)),
            ("blob", AttributeValue::B(Vec::new().into())),
        ] {
            let mut row = good.clone();
            row.insert(column.into(), edited);
            world.put(&key, row).await;
            assert_closed(column).await;
        }
        // Another agent's copy of the same value, and the value itself as it lies in its session.
        let others = world.row(&scope.agent_copies(&sibling.id).unwrap().row(key.sk())).await;
        let values = scope.session(&session.id).unwrap().secret_values();
        for moved in [others, world.row(&values.row(key.sk())).await].into_iter().flatten() {
            world.put(&key, moved).await;
            assert_closed("moved here").await;
        }
        world.put(&key, good).await;
        assert!(masked(&world, &scope, &agent).await.is_ok(), "{}", key.sk());
    }
}

#[tokio::test]
async fn an_agent_that_is_ended_before_its_copies_are_written_keeps_none_once_its_boot_is_taken_back() {
    let world = world().await;
    let scope = world.tenant().await;
    let session = session_with_secrets(&world, &scope).await;
    let (agent, late) = half_booted(&world, &scope, &session).await;
    end(&world.agents(), &scope, &agent, AgentStatus::Completed).await.unwrap();
    copies(&world).keep(late).await.unwrap();
    assert!(!beside(&world, &scope, &agent).await.is_empty(), "they came too late to be removed by the end");
    // What a boot does that finds its agent ended.
    let ready = world.agents().transition(&scope, &agent.id, AgentStatus::Ready, |_| {}).await;
    assert!(matches!(refused(ready), StoreError::Conflict(_)));
    world.agents().settle(&scope, &agent.id).await.unwrap();
    assert_none_beside(&world, &scope, &agent, "taken back").await;
}

#[tokio::test]
async fn copies_that_a_boot_writes_after_its_agent_was_ended_go_even_if_the_boot_dies_of_it() {
    let world = world().await;
    let scope = world.tenant().await;
    let session = session_with_secrets(&world, &scope).await;
    let (agent, late) = half_booted(&world, &scope, &session).await;
    end(&world.agents(), &scope, &agent, AgentStatus::Completed).await.unwrap();
    copies(&world).keep(late).await.unwrap();
    assert!(!beside(&world, &scope, &agent).await.is_empty());
    // Its process is gone, and nobody takes it back. What is left to do is on the list until no boot can be writing.
    let listed = async || {
        let work = world.work().list().await.unwrap();
        work.iter().any(|item| matches!(item, WorkItem::Agent(work) if work.agent == agent.id))
    };
    assert!(listed().await);
    let later = Agents::new(world.table.clone().with_clock(Clock::new(|| now_ms() + BOOT_GRACE_MS)));
    assert!(later.settle(&scope, &agent.id).await.unwrap().sandbox_gone);
    assert_none_beside(&world, &scope, &agent, "settled once more").await;
    assert!(!listed().await);
}

#[tokio::test]
async fn an_agent_that_is_ended_while_it_restarts_leaves_nothing_of_its_earlier_boot() {
    let world = world().await;
    let scope = world.tenant().await;
    let session = session_with_secrets(&world, &scope).await;
    let agent = boot(&world, &scope, &session).await;
    let running = world.agents().transition(&scope, &agent.id, AgentStatus::Ready, |_| {}).await.unwrap();
    world.delete(&scope, &own(&session), "A").await.unwrap();
    let (_, opened) = open(&world, &scope, &session).await;
    let secrets = opened.iter().map(|secret| secret.booted.clone()).collect::<Vec<_>>();
    world.agents().begin_again(&scope, &session, &running, Intent::Restarting, secrets).await.unwrap();
    end(&world.agents(), &scope, &agent, AgentStatus::Completed).await.unwrap();
    assert_none_beside(&world, &scope, &agent, "ended while it restarts").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_at_any_moment_of_a_boot_leaves_no_copy_and_a_boot_that_wins_has_all() {
    let world = world().await;
    let scope = world.tenant().await;
    let session = session_with_secrets(&world, &scope).await;
    for delay in 0..12 {
        let (agent, kept) = half_booted(&world, &scope, &session).await;
        let (agents, copies) = (world.agents(), copies(&world));
        let booting = async {
            copies.keep(kept).await.unwrap();
            match agents.transition(&scope, &agent.id, AgentStatus::Ready, |_| {}).await {
                Ok(_) => masked(&world, &scope, &agent).await.map(|all| assert_eq!(all.len(), 2)),
                Err(StoreError::Conflict(_)) => agents.settle(&scope, &agent.id).await.map(drop),
                Err(error) => Err(error),
            }
        };
        let ending = async {
            tokio::time::sleep(std::time::Duration::from_millis(delay)).await;
            end(&agents, &scope, &agent, AgentStatus::Completed).await
        };
        let (booted, ended) = join(booting, ending).await;
        ended.unwrap();
        // It may have been ended between becoming ready and being looked at.
        assert!(matches!(booted, Ok(()) | Err(StoreError::Corrupt(_))), "{booted:?}");
        assert_none_beside(&world, &scope, &agent, &format!("ended after {delay} ms")).await;
    }
    let left = sealed_rows(&world).await;
    assert_eq!(left.len(), 3, "the session's own values, and nothing else: {:?}", left.keys());
}

#[tokio::test]
async fn an_end_that_is_interrupted_at_any_write_leaves_no_copy_when_it_is_repeated() {
    let world = world().await;
    let scope = world.tenant().await;
    let session = session_with_secrets(&world, &scope).await;
    let agent = boot(&world, &scope, &session).await;
    let proxy = Proxy::start(&world.dynamodb_url).await;
    let agents =
        Agents::new(Table::new(&aws(&proxy.url, &world.kms_url), "theazo").with_credential_key(credential_key()));
    let mut interruptions = 0;
    loop {
        proxy.allow_writes(interruptions);
        match end(&agents, &scope, &agent, AgentStatus::Failed).await {
            Ok(()) => break,
            Err(StoreError::Table { code, .. }) if code == "AccessDeniedException" => interruptions += 1,
            Err(error) => panic!("{error:?}"),
        }
        assert!(interruptions < 20, "it makes no progress");
    }
    assert!(interruptions > 0);
    assert_none_beside(&world, &scope, &agent, "interrupted").await;
}

async fn confirmed(
    world: &World,
    scope: &TenantScope,
    session: &Session,
    opened: &[OpenedSecret],
) -> Result<(), StoreError> {
    world.opener().confirm(scope, &session.id, opened.iter().map(|secret| &secret.booted)).await
}

#[tokio::test]
async fn what_was_removed_between_opening_and_booting_is_not_confirmed() {
    let world = world().await;
    let scope = world.tenant().await;
    let session = session_with_secrets(&world, &scope).await;
    let inherited = [secret("KEPT", "kept value"), secret("TAKEN", "taken value")];
    world.set(&scope, &SecretTarget::Platform, &inherited).await.unwrap();
    let (_, opened) = open(&world, &scope, &session).await;
    let confirm = async || confirmed(&world, &scope, &session, &opened).await;
    confirm().await.unwrap();
    // A new value is for the next boot, and one that comes anew is no concern of this one.
    world.set(&scope, &own(&session), &[secret("A", "another"), secret("NEW", "new")]).await.unwrap();
    confirm().await.unwrap();
    let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
    credentials.configure(&scope, "e2b", &name("TAKEN")).await.unwrap();
    assert!(matches!(refused(confirm().await), StoreError::Conflict(_)));

    let (_, opened) = open(&world, &scope, &session).await;
    let confirm = async || confirmed(&world, &scope, &session, &opened).await;
    confirm().await.unwrap();
    world.delete(&scope, &own(&session), "B").await.unwrap();
    assert!(matches!(refused(confirm().await), StoreError::Conflict(_)));
}
