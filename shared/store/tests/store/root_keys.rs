//! Root keys: what is in the table opens only where and as it was written, and KMS is asked no more than needed.

use crate::logs;
use crate::proxy::Proxy;
use crate::support::{DEPLOYMENT, Item, World, aws, key_ring, number, operator, own, pairs, refused, secret, text};
use aws_sdk_dynamodb::primitives::Blob;
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use theazo_store::{
    KeyRing, SecretOpener, SecretSealer, SecretSelection, StoreError, Table, count_round_trips, now_ms,
};
use theazo_tenancy::TableKey;
use theazo_vault::{Context, Flags, Purpose, RootKey, Scope, SecretValue, open, seal};

const HOUR: Duration = Duration::from_secs(3600);

fn active() -> TableKey {
    operator().root_keys().row("active")
}

fn version_1() -> TableKey {
    operator().root_keys().row("version#0000000001")
}

/// Whether two root keys have the same bytes: what one seals, the other opens.
fn agree(one: &RootKey, other: &RootKey) -> bool {
    let context = Context {
        deployment: DEPLOYMENT,
        platform: "plt_x",
        mode: "live",
        scope: Scope::Platform,
        purpose: Purpose::AgentSecret,
        name: "X",
        version: 1,
        expires_at_ms: None,
        flags: Flags { mask: true, inherit: true },
    };
    let value = SecretValue::from_text("value".into());
    let record = seal(&one.derive_platform_key("plt_x", &[7; 32], 1), &context, &value).unwrap();
    open(&other.derive_platform_key("plt_x", &[7; 32], 1), &context, &record).is_ok()
}

fn is_refusal(error: &StoreError) -> bool {
    matches!(error, StoreError::Kms { operation: "Decrypt", .. } | StoreError::Corrupt(_))
}

async fn both(keys: &KeyRing) -> [Result<Arc<RootKey>, StoreError>; 2] {
    [keys.active().await, keys.version(1).await]
}

#[tokio::test]
async fn a_wrapped_root_key_opens_as_the_active_one_and_by_its_version() {
    let world = World::start().await;
    let one = world.cold_keys(HOUR).active().await.unwrap();
    let other = world.cold_keys(HOUR).version(1).await.unwrap();
    assert_eq!((one.version(), other.version()), (1, 1));
    assert!(agree(&one, &other));
    let stranger = World::start().await.keys.active().await.unwrap();
    assert!(!agree(&one, &stranger));
    assert!(matches!(refused(world.keys.version(2).await), StoreError::NoRootKey));
}

#[tokio::test]
async fn a_deployment_without_a_root_key_opens_nothing() {
    let world = World::without_root_key().await;
    for outcome in both(&world.keys).await {
        assert!(matches!(refused(outcome), StoreError::NoRootKey));
    }
}

#[tokio::test]
async fn a_root_key_row_with_an_edited_column_is_refused() {
    let world = World::start().await;
    for key in [active(), version_1()] {
        let good = world.row(&key).await.unwrap();
        let AttributeValue::B(ciphertext) = &good["ciphertext"] else { panic!("a binary") };
        let ciphertext = ciphertext.as_ref();
        let created: i64 = good["created_at_ms"].as_n().unwrap().parse().unwrap();
        let other_arn = world.kms.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap();
        let mut edits = vec![
            ("version", number(2)),
            ("version", number(0)),
            ("created_at_ms", number(created + 1)),
            ("kms_key_arn", text(&other_arn)),
            ("kms_key_arn", text("alias/theazo")),
            ("ciphertext", AttributeValue::B(Blob::new(ciphertext.split_last().unwrap().1))),
        ];
        for index in [0, 20, ciphertext.len() / 2, ciphertext.len() - 1] {
            let mut flipped = ciphertext.to_vec();
            flipped[index] ^= 1;
            edits.push(("ciphertext", AttributeValue::B(Blob::new(flipped))));
        }
        for (column, value) in edits {
            let mut edited = good.clone();
            edited.insert(column.into(), value.clone());
            world.put(&key, edited).await;
            let error = refused(by_key(&world.cold_keys(HOUR), &key).await);
            assert!(is_refusal(&error), "{column} = {value:?}: {error:?}");
        }
        for column in ["version", "created_at_ms", "kms_key_arn", "ciphertext"] {
            let mut edited = good.clone();
            edited.remove(column);
            world.put(&key, edited).await;
            assert!(matches!(refused(by_key(&world.cold_keys(HOUR), &key).await), StoreError::Corrupt(_)), "{column}");
        }
        world.put(&key, good).await;
        assert!(by_key(&world.cold_keys(HOUR), &key).await.is_ok());
    }
}

async fn by_key(keys: &KeyRing, key: &TableKey) -> Result<Arc<RootKey>, StoreError> {
    if key.sk() == "active" { keys.active().await } else { keys.version(1).await }
}

#[tokio::test]
async fn the_active_row_and_a_versions_row_cannot_take_each_others_place() {
    let world = World::start().await;
    let (one, other) = (world.row(&active()).await.unwrap(), world.row(&version_1()).await.unwrap());
    world.put(&active(), other).await;
    world.put(&version_1(), one).await;
    for outcome in both(&world.cold_keys(HOUR)).await {
        let error = refused(outcome);
        assert!(matches!(error, StoreError::Kms { operation: "Decrypt", .. }), "{error:?}");
    }
}

#[tokio::test]
async fn a_versions_row_cannot_pass_as_another_version() {
    let world = World::start().await;
    let version_2 = operator().root_keys().row("version#0000000002");
    let good = world.row(&version_1()).await.unwrap();
    for version in [1, 2] {
        let mut columns = good.clone();
        columns.insert("version".into(), number(version));
        world.put(&version_2, columns).await;
        assert!(is_refusal(&refused(world.cold_keys(HOUR).version(2).await)));
    }
}

#[tokio::test]
async fn a_row_copied_from_another_deployment_is_refused_under_the_same_kms_key() {
    let world = World::start().await;
    let aws = aws(&world.dynamodb_url, &world.kms_url);
    let table = Table::new(&aws, "staging");
    table.ensure_exists().await.unwrap();
    let ring = |deployment| key_ring(&aws, &table, deployment, &world.kms_key_arn, HOUR);
    ring("staging").ensure_root_key().await.unwrap();
    assert!(both(&ring("staging")).await.iter().all(Result::is_ok));
    for key in [active(), version_1()] {
        let columns: Item = world.row(&key).await.unwrap();
        world.raw.put_item().table_name("staging").set_item(Some(columns)).send().await.unwrap();
    }
    for outcome in both(&ring("staging")).await {
        let error = refused(outcome);
        assert!(matches!(error, StoreError::Kms { operation: "Decrypt", .. }), "{error:?}");
    }
    // The copies are whole: only the deployment's name is in the way.
    assert!(both(&ring(DEPLOYMENT)).await.iter().all(Result::is_ok));
}

#[tokio::test]
async fn a_warm_key_ring_asks_nobody_and_one_past_its_time_asks_again() {
    let world = World::start().await;
    let proxy = Proxy::start(&world.kms_url).await;
    let aws = aws(&world.dynamodb_url, &proxy.url);
    let ring = |ttl| key_ring(&aws, &world.table, DEPLOYMENT, &world.kms_key_arn, ttl);

    let warm = ring(HOUR);
    let (_, cold_trips) = count_round_trips(warm.active()).await;
    assert_eq!(cold_trips.total, 2, "the row and KMS");
    let (_, warm_trips) = count_round_trips(async {
        for _ in 0..10 {
            warm.active().await.unwrap();
            warm.version(1).await.unwrap();
        }
    })
    .await;
    assert_eq!((warm_trips.total, proxy.count()), (0, 1));

    let forgetful = ring(Duration::ZERO);
    for asked in 2..5 {
        forgetful.active().await.unwrap();
        assert_eq!(proxy.calls("Decrypt").len(), asked);
    }
    let brief = ring(Duration::from_millis(50));
    brief.active().await.unwrap();
    let asked = proxy.count();
    tokio::time::sleep(Duration::from_millis(60)).await;
    brief.active().await.unwrap();
    assert_eq!(proxy.count(), asked + 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrent_first_uses_ask_kms_once() {
    let world = World::start().await;
    let proxy = Proxy::start(&world.kms_url).await;
    let keys = key_ring(&aws(&world.dynamodb_url, &proxy.url), &world.table, DEPLOYMENT, &world.kms_key_arn, HOUR);
    let uses = (0..40).map(|_| {
        let keys = keys.clone();
        tokio::spawn(async move { keys.active().await.map(|key| key.version()) })
    });
    for version in join_all(uses).await {
        assert_eq!(version.unwrap().unwrap(), 1);
    }
    assert_eq!(proxy.calls("Decrypt").len(), 1);
}

#[tokio::test]
async fn a_disabled_kms_key_closes_the_vault_until_it_is_enabled_again() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    world.set(&scope, &own(&session), &[secret("OLD", "old value")]).await.unwrap();
    world.kms.disable_key().key_id(&world.kms_key_arn).send().await.unwrap();
    let before = world.scan().await;

    let cold = world.cold_keys(HOUR);
    for outcome in both(&cold).await {
        let error = refused(outcome);
        assert!(matches!(&error, StoreError::Kms { code, .. } if code == "DisabledException"), "{error:?}");
    }
    let sealer = SecretSealer::new(world.table.clone(), cold.clone());
    let read = sealer.load(&scope, &own(&session)).await.unwrap();
    let outcome = sealer.set(&scope, &own(&session), read, &[secret("NEW", "new value")]).await;
    assert!(matches!(refused(outcome), StoreError::Kms { .. }));
    let opener = SecretOpener::new(world.table.clone(), cold.clone());
    let sealed = opener.load(&scope, &session.id).await.unwrap();
    let outcome = opener.open(&scope, &sealed, &SecretSelection::All, now_ms()).await;
    assert!(matches!(refused(outcome), StoreError::Kms { .. }));
    assert_eq!(world.scan().await, before);

    world.kms.enable_key().key_id(&world.kms_key_arn).send().await.unwrap();
    assert!(cold.active().await.is_ok());
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), pairs(&[("OLD", "old value")]));
}

#[tokio::test]
async fn a_key_ring_past_its_time_does_not_go_on_with_what_it_had() {
    let world = World::start().await;
    let brief = world.cold_keys(Duration::from_millis(200));
    brief.active().await.unwrap();
    world.kms.disable_key().key_id(&world.kms_key_arn).send().await.unwrap();
    tokio::time::sleep(Duration::from_millis(210)).await;
    for outcome in both(&brief).await {
        assert!(matches!(refused(outcome), StoreError::Kms { .. }));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn making_the_root_key_again_or_at_the_same_time_changes_nothing() {
    let world = World::without_root_key().await;
    let rings: Vec<_> = (0..12).map(|_| world.cold_keys(HOUR)).collect();
    let races = rings.iter().cloned().map(|keys| tokio::spawn(async move { keys.ensure_root_key().await }));
    for outcome in join_all(races).await {
        outcome.unwrap().unwrap();
    }
    let rows = world.scan().await;
    assert_eq!(rows.len(), 2, "one active row and one version");
    let first = rings[0].active().await.unwrap();
    for keys in &rings {
        for key in both(keys).await {
            assert!(agree(&first, &key.unwrap()));
        }
    }
    world.keys.ensure_root_key().await.unwrap();
    assert_eq!(world.scan().await, rows);
}

#[tokio::test(flavor = "current_thread")]
async fn only_a_refusal_of_kms_is_logged_as_one() {
    logs::capture();
    let world = World::start().await;
    assert!(both(&world.cold_keys(HOUR)).await.iter().all(Result::is_ok));
    let logged = logs::take();
    assert!(!logged.contains("refused"), "{logged}");
    world.kms.disable_key().key_id(&world.kms_key_arn).send().await.unwrap();
    assert!(world.cold_keys(HOUR).active().await.is_err());
    let logged = logs::take();
    assert!(logged.contains("the key service refused") && logged.contains("DisabledException"), "{logged}");
}
