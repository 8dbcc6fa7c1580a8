//! Keys in memory: warm requests ask KMS nothing, for a bounded time, and never with the wrong key.

use crate::proxy::Proxy;
use crate::rotation::rotate;
use crate::support::{DEPLOYMENT, World, aws, key_ring, number, operator, own, pairs, secret, text};
use futures_util::future::try_join_all;
use std::time::Duration;
use theazo_store::{
    AgentCopies, KeyRing, SecretOpener, SecretSealer, SecretSelection, SecretTarget, StoreError, count_round_trips,
    now_ms,
};
use theazo_tenancy::{Mode, SessionId, TenantScope};

const HOUR: Duration = Duration::from_secs(3600);

/// A world whose key ring reaches KMS through a proxy.
async fn counted(ttl: Duration) -> (World, Proxy) {
    let mut world = World::start().await;
    let proxy = Proxy::start(&world.kms_url).await;
    let aws = aws(&world.dynamodb_url, &proxy.url);
    world.keys = key_ring(&aws, &world.table, DEPLOYMENT, &world.kms_key_arn, ttl);
    (world, proxy)
}

async fn boot(world: &World, keys: &KeyRing, scope: &TenantScope, session: &SessionId) -> Result<usize, StoreError> {
    let opener = SecretOpener::new(world.table.clone(), keys.clone());
    let sealed = opener.load(scope, session).await?;
    Ok(opener.open(scope, &sealed, &SecretSelection::All, now_ms()).await?.len())
}

#[tokio::test]
async fn warm_requests_of_any_platform_ask_kms_nothing() {
    let (world, kms) = counted(HOUR).await;
    let mut tenants = Vec::new();
    for _ in 0..8 {
        let scope = world.tenant().await;
        let session = world.session(&scope).await;
        world.set(&scope, &SecretTarget::Platform, &[secret("SHARED", "shared")]).await.unwrap();
        world.set(&scope, &own(&session), &[secret("OWN", "own")]).await.unwrap();
        tenants.push((scope, session));
    }
    assert_eq!(kms.count(), 1, "one key for all that was sealed");
    for _ in 0..3 {
        for (scope, session) in &tenants {
            let (opened, trips) = count_round_trips(boot(&world, &world.keys, scope, &session.id)).await;
            assert_eq!((opened.unwrap(), trips.sequential), (2, 1));
            world.set(scope, &own(session), &[secret("OWN", "own")]).await.unwrap();
        }
    }
    assert_eq!(kms.count(), 1);
}

#[tokio::test]
async fn the_first_request_of_a_process_takes_two_round_trips_more_and_those_after_it_none() {
    let (world, kms) = counted(HOUR).await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    world.set(&scope, &own(&session), &[secret("A", "a")]).await.unwrap();
    let aws = aws(&world.dynamodb_url, &kms.url);
    let keys = key_ring(&aws, &world.table, DEPLOYMENT, &world.kms_key_arn, HOUR);
    let asked = kms.count();
    // The root key's row, and KMS with what is in it.
    for (expected, of_kms) in [(3, 1), (1, 1)] {
        let (opened, trips) = count_round_trips(boot(&world, &keys, &scope, &session.id)).await;
        assert_eq!((opened.unwrap(), trips.sequential, kms.count() - asked), (1, expected, of_kms));
    }
}

#[tokio::test]
async fn a_derived_key_lives_no_longer_than_the_root_key_it_comes_from() {
    const LIFE: Duration = Duration::from_millis(1000);
    // On a busy machine the life may be over before the key has been used within it: then once more.
    for _ in 0..10 {
        let (world, kms) = counted(LIFE).await;
        let scope = world.tenant().await;
        let session = world.session(&scope).await;
        world.set(&scope, &own(&session), &[secret("A", "a")]).await.unwrap();
        let began_before = std::time::Instant::now();
        tokio::time::sleep(LIFE / 2).await;
        // A use does not lengthen a life.
        boot(&world, &world.keys, &scope, &session.id).await.unwrap();
        if kms.count() > 1 {
            continue;
        }
        world.kms.disable_key().key_id(&world.kms_key_arn).send().await.unwrap();
        tokio::time::sleep((LIFE + Duration::from_millis(10)).saturating_sub(began_before.elapsed())).await;
        let outcome = boot(&world, &world.keys, &scope, &session.id).await;
        assert!(matches!(outcome, Err(StoreError::Kms { .. })), "{outcome:?}");
        assert!(kms.count() >= 2);
        return;
    }
    panic!("the machine was too busy ten times");
}

#[tokio::test]
async fn the_active_key_is_asked_for_again_somewhat_before_its_life_is_over() {
    let (world, kms) = counted(Duration::from_millis(2000)).await;
    world.keys.active().await.unwrap();
    tokio::time::sleep(Duration::from_millis(1600)).await;
    world.keys.version(1).await.unwrap();
    assert_eq!(kms.count(), 1);
    world.keys.active().await.unwrap();
    assert_eq!(kms.count(), 2, "what is sealed must be written within the life");
}

#[tokio::test]
async fn an_edited_salt_or_key_version_is_not_answered_from_memory() {
    let (world, _kms) = counted(HOUR).await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    world.set(&scope, &own(&session), &[secret("A", "a")]).await.unwrap();
    assert_eq!(boot(&world, &world.keys, &scope, &session.id).await.unwrap(), 1);
    let good = world.row(&scope.platform_key()).await.unwrap();
    for (column, value) in [("vault_salt", text(&"0".repeat(64))), ("vault_key_version", number(2))] {
        let mut edited = good.clone();
        edited.insert(column.into(), value);
        world.put(&scope.platform_key(), edited).await;
        let outcome = boot(&world, &world.keys, &scope, &session.id).await;
        assert!(matches!(outcome, Err(StoreError::Vault(_))), "{column}: {outcome:?}");
    }
    world.put(&scope.platform_key(), good).await;
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), pairs(&[("A", "a")]));
}

#[tokio::test]
async fn more_platforms_than_fit_into_memory_cost_no_call_either() {
    let (world, kms) = counted(HOUR).await;
    let copies = AgentCopies::new(world.table.clone(), world.keys.clone());
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    world.set(&scope, &own(&session), &[secret("A", "value a")]).await.unwrap();
    // One platform's row under many ids: each has a key of its own.
    let row = world.row(&scope.platform_key()).await.unwrap();
    for _ in 0..300 {
        let other = operator().tenant(&theazo_tenancy::PlatformId::make(), Mode::Live);
        let mut columns = row.clone();
        columns.insert("id".into(), text(other.platform().as_str()));
        world.put(&other.platform_key(), columns).await;
        let sealer = SecretSealer::new(world.table.clone(), world.keys.clone());
        let read = sealer.load(&other, &SecretTarget::Platform).await.unwrap();
        sealer.set(&other, &SecretTarget::Platform, read, &[secret("B", "value b")]).await.unwrap();
    }
    assert_eq!(boot(&world, &world.keys, &scope, &session.id).await.unwrap(), 1);
    assert!(copies.load(&scope, &theazo_tenancy::AgentId::make()).await.is_ok());
    assert_eq!(kms.count(), 1);
}

/// How often KMS is asked while many want something at once, and all get it.
async fn asked_for(kms: &Proxy, uses: impl AsyncFn() -> Result<u32, StoreError>) -> (usize, u32) {
    // Long enough that all of them come while the first waits.
    kms.delay(Duration::from_millis(150));
    let before = kms.count();
    let versions = try_join_all((0..40).map(|_| uses())).await.unwrap();
    kms.delay(Duration::ZERO);
    assert!(versions.iter().all(|version| *version == versions[0]), "{versions:?}");
    (kms.count() - before, versions[0])
}

#[tokio::test]
async fn many_who_want_a_key_whose_life_is_over_ask_kms_once_for_the_active_one_and_for_a_version_alike() {
    let life = Duration::from_secs(2);
    let (world, kms) = counted(HOUR).await;
    rotate(&world, now_ms()).await;
    let aws = aws(&world.dynamodb_url, &kms.url);
    let keys = key_ring(&aws, &world.table, DEPLOYMENT, &world.kms_key_arn, life);
    let active = async || keys.active().await.map(|key| key.version());
    let first = async || keys.version(1).await.map(|key| key.version());
    for round in ["cold", "after its life", "after another"] {
        assert_eq!(asked_for(&kms, active).await, (1, 2), "{round}");
        assert_eq!(asked_for(&kms, first).await, (1, 1), "{round}");
        let read_at = std::time::Instant::now();
        // In memory they cost nothing, whoever asks.
        assert_eq!(asked_for(&kms, first).await, (0, 1), "{round}");
        tokio::time::sleep((life + Duration::from_millis(20)).saturating_sub(read_at.elapsed())).await;
    }
}
