//! Setting, deleting and delivering secrets.

use crate::proxy::Proxy;
use crate::support::{Item, World, aws, name, own, pairs, refused, secret};
use aws_sdk_dynamodb::types::AttributeValue;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use theazo_store::{
    MAX_NAMES_PER_CALL, MAX_NAMES_PER_SCOPE, MAX_SCOPE_BYTES, MAX_VALUE_BYTES, NewSecret, ProviderConfigs,
    ProviderCredentials, SecretSealer, SecretSelection, SecretTarget, StoreError, Table, now_ms,
};
use theazo_tenancy::SessionId;
use theazo_vault::{MAX_VALUE_LEN, SecretValue};

fn only(names: &[&str]) -> SecretSelection {
    SecretSelection::Only(names.iter().map(|text| name(text)).collect())
}

#[tokio::test]
async fn a_set_merges_and_counts_versions_for_each_name() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let target = own(&session);
    world.set(&scope, &target, &[secret("A", "a1"), secret("B", "b1")]).await.unwrap();
    world.set(&scope, &target, &[secret("B", "b2"), secret("C", "c1")]).await.unwrap();
    world.set(&scope, &target, &[secret("B", "b3")]).await.unwrap();
    let versions = world.versions(&scope, &target).await;
    assert_eq!(versions.into_iter().collect::<Vec<_>>(), [("A".into(), 1), ("B".into(), 3), ("C".into(), 1)]);
    let delivered = world.delivered(&scope, &session.id).await.unwrap();
    assert_eq!(delivered, pairs(&[("A", "a1"), ("B", "b3"), ("C", "c1")]));
    assert_eq!(
        world.delivered_of(&scope, &session.id, &only(&["b"])).await.unwrap(),
        pairs(&[("B", "b3")]),
        "a selection does not regard case"
    );
    assert!(world.delivered_of(&scope, &session.id, &only(&[])).await.unwrap().is_empty());
    let error = refused(world.delivered_of(&scope, &session.id, &only(&["A", "nope"])).await);
    assert!(matches!(&error, StoreError::UnknownSecret(name) if name == "nope"), "{error:?}");
}

#[tokio::test]
async fn names_are_one_without_regard_to_case_and_show_as_last_written() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let target = own(&session);
    for (index, text) in ["database_url", "DATABASE_URL", "Database_Url"].into_iter().enumerate() {
        world.set(&scope, &target, &[secret(text, text)]).await.unwrap();
        let names = world.names().load(&scope, &target).await.unwrap();
        let shown: Vec<_> = names.entries().map(|(name, entry)| (name, entry.display.as_str())).collect();
        assert_eq!(shown, [("DATABASE_URL", text)]);
        assert_eq!(names.get("DATABASE_URL").unwrap().version, index as u64 + 1);
    }
    let delivered = world.delivered(&scope, &session.id).await.unwrap();
    assert_eq!(delivered, pairs(&[("DATABASE_URL", "Database_Url")]));
}

#[tokio::test]
async fn a_deleted_secret_is_gone_at_once_and_comes_back_above_its_last_version() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let target = own(&session);
    for value in ["1", "2", "3"] {
        world.set(&scope, &target, &[secret("A", value)]).await.unwrap();
    }
    world.set(&scope, &target, &[secret("B", "b")]).await.unwrap();
    world.delete(&scope, &target, "A").await.unwrap();
    let value_row = scope.session(&session.id).unwrap().secret_values().row("A");
    assert!(world.row(&value_row).await.is_none());
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), pairs(&[("B", "b")]));
    assert!(matches!(refused(world.delete(&scope, &target, "A").await), StoreError::NotFound));

    world.set(&scope, &target, &[secret("A", "4")]).await.unwrap();
    assert_eq!(world.versions(&scope, &target).await["A"], 4);
    world.delete(&scope, &target, "A").await.unwrap();
    world.set(&scope, &target, &[secret("B", "b2"), secret("a", "5")]).await.unwrap();
    let versions = world.versions(&scope, &target).await;
    assert_eq!((versions["A"], versions["B"]), (5, 2));
}

#[tokio::test]
async fn a_set_beyond_a_hundred_names_leaves_the_scope_as_it_was() {
    let world = World::start().await;
    let scope = world.tenant().await;
    for target in [own(&world.session(&scope).await), SecretTarget::Platform] {
        let numbered = |from: usize, to: usize| (from..to).map(|n| secret(&format!("N{n}"), "x")).collect::<Vec<_>>();
        world.set(&scope, &target, &numbered(0, MAX_NAMES_PER_CALL)).await.unwrap();
        world.set(&scope, &target, &numbered(MAX_NAMES_PER_CALL, MAX_NAMES_PER_SCOPE)).await.unwrap();
        let before = world.scan().await;
        let outcome = world.set(&scope, &target, &[secret("N0", "new"), secret("ONE_MORE", "x")]).await;
        assert!(matches!(refused(outcome), StoreError::ScopeFull(_)));
        assert_eq!(world.scan().await, before);
        // What is there can still be replaced, and room can be made.
        world.set(&scope, &target, &[secret("n0", "new")]).await.unwrap();
        world.delete(&scope, &target, "N1").await.unwrap();
        world.set(&scope, &target, &[secret("ONE_MORE", "x")]).await.unwrap();
        assert_eq!(world.versions(&scope, &target).await.len(), MAX_NAMES_PER_SCOPE);
    }
}

#[tokio::test]
async fn a_set_beyond_256_kib_leaves_the_scope_as_it_was() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let target = own(&session);
    let large = "x".repeat(MAX_VALUE_BYTES);
    let fitting = MAX_SCOPE_BYTES as usize / MAX_VALUE_BYTES;
    let full: Vec<_> = (0..fitting).map(|n| secret(&format!("L{n}"), &large)).collect();
    world.set(&scope, &target, &full).await.unwrap();
    let before = world.scan().await;
    let outcome = world.set(&scope, &target, &[secret("L0", "changed"), secret("L_A", &large)]).await;
    assert!(matches!(refused(outcome), StoreError::ScopeFull(_)));
    assert!(matches!(refused(world.set(&scope, &target, &[secret("L_B", "x")]).await), StoreError::ScopeFull(_)));
    assert_eq!(world.scan().await, before);
    // A replaced value makes room for what is set with it.
    let shorter = &"x".repeat(MAX_VALUE_BYTES - 1);
    world.set(&scope, &target, &[secret("L0", shorter), secret("L_B", "x")]).await.unwrap();
    let delivered = world.delivered(&scope, &session.id).await.unwrap();
    assert_eq!(delivered.values().map(String::len).sum::<usize>(), MAX_SCOPE_BYTES as usize);
}

#[tokio::test]
async fn one_bad_secret_refuses_the_whole_set() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let target = own(&world.session(&scope).await);
    let before = world.scan().await;
    let huge = NewSecret { value: SecretValue::from_bytes(vec![b'x'; MAX_VALUE_LEN + 1]), ..secret("HUGE", "") };
    let outcome = world.set(&scope, &target, &[secret("GOOD", "good"), huge]).await;
    assert!(matches!(refused(outcome), StoreError::Vault(_)));
    assert_eq!(world.scan().await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_concurrent_sets_to_one_scope_lose_nothing() {
    let world = Arc::new(World::start().await);
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let target = own(&session);
    let sets = (0..30).map(|n| {
        let (world, scope, target) = (world.clone(), scope.clone(), target.clone());
        let secrets = [secret(&format!("OWN_{n}"), &n.to_string()), secret("SHARED", &n.to_string())];
        tokio::spawn(async move { world.set(&scope, &target, &secrets).await })
    });
    for outcome in join_all(sets).await {
        outcome.unwrap().unwrap();
    }
    let versions = world.versions(&scope, &target).await;
    assert_eq!(versions.len(), 31);
    assert_eq!(versions["SHARED"], 30);
    let delivered = world.delivered(&scope, &session.id).await.unwrap();
    for n in 0..30 {
        assert_eq!(delivered[&format!("OWN_{n}")], n.to_string());
    }
}

#[tokio::test]
async fn a_set_with_an_outdated_reading_loses_nothing() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let (sealer, target) = (world.sealer(), own(&session));
    let first = sealer.load(&scope, &target).await.unwrap();
    let second = sealer.load(&scope, &target).await.unwrap();
    let third = sealer.load(&scope, &target).await.unwrap();
    sealer.set(&scope, &target, first, &[secret("A", "a")]).await.unwrap();
    sealer.set(&scope, &target, second, &[secret("B", "b")]).await.unwrap();
    assert!(matches!(refused(sealer.delete(&scope, &target, third, "A").await), StoreError::NotFound));
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), pairs(&[("A", "a"), ("B", "b")]));
}

#[tokio::test]
async fn no_secret_can_be_set_on_an_absent_or_terminated_session_not_even_by_an_old_reading() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let (sealer, target) = (world.sealer(), own(&session));
    world.set(&scope, &target, &[secret("A", "a")]).await.unwrap();
    let read = sealer.load(&scope, &target).await.unwrap();
    world.sessions().terminate(&scope, &session.id).await.unwrap();
    assert!(matches!(refused(world.set(&scope, &target, &[secret("B", "b")]).await), StoreError::NotFound));
    sealer.remove_all(&scope, &session.id).await.unwrap();
    let before = world.scan().await;
    let outcome = sealer.set(&scope, &target, read, &[secret("B", "b")]).await;
    assert!(matches!(refused(outcome), StoreError::NotFound));
    let absent = SecretTarget::Session(SessionId::make());
    assert!(matches!(refused(world.set(&scope, &absent, &[secret("B", "b")]).await), StoreError::NotFound));
    assert_eq!(world.scan().await, before);
}

#[tokio::test]
async fn removing_a_sessions_secrets_is_idempotent_and_touches_nobody_elses() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let (gone, stays) = (world.session(&scope).await, world.session(&scope).await);
    world.set(&scope, &SecretTarget::Platform, &[secret("P", "p")]).await.unwrap();
    world.set(&scope, &own(&stays), &[secret("S", "s")]).await.unwrap();
    let others = world.scan_without_audit().await;
    let many: Vec<_> = (0..40).map(|n| secret(&format!("N{n}"), "x")).collect();
    world.set(&scope, &own(&gone), &many).await.unwrap();
    for _ in 0..2 {
        world.sealer().remove_all(&scope, &gone.id).await.unwrap();
        assert_eq!(world.scan_without_audit().await, others);
    }
    // An interrupted removal is finished by the next one, with or without the names.
    world.set(&scope, &own(&gone), &many).await.unwrap();
    world.remove(&scope.session(&gone.id).unwrap().secret_names_key()).await;
    world.sealer().remove_all(&scope, &gone.id).await.unwrap();
    assert_eq!(world.scan_without_audit().await, others);
}

#[tokio::test]
async fn sessions_inherit_what_the_platform_lets_them_and_their_own_wins() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let kept = NewSecret { inherit: false, ..secret("KEPT", "kept") };
    let inherited = [secret("BOTH", "platform's"), secret("INHERITED", "inherited"), kept];
    world.set(&scope, &SecretTarget::Platform, &inherited).await.unwrap();
    world.set(&scope, &own(&session), &[secret("both", "session's")]).await.unwrap();
    let expected = pairs(&[("BOTH", "session's"), ("INHERITED", "inherited")]);
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), expected);
    let outcome = world.delivered_of(&scope, &session.id, &only(&["KEPT"])).await;
    assert!(matches!(refused(outcome), StoreError::UnknownSecret(_)));
}

#[tokio::test]
async fn an_expired_secret_is_not_delivered_before_or_after_the_table_drops_it() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let expiring = |name, at| NewSecret { expires_at_ms: Some(at), ..secret(name, "x") };
    let secrets = [expiring("OVER", now_ms() - 5000), expiring("LATER", now_ms() + 3_600_000), secret("EVER", "x")];
    world.set(&scope, &own(&session), &secrets).await.unwrap();
    let expected = pairs(&[("EVER", "x"), ("LATER", "x")]);
    for swept in [false, true] {
        if swept {
            world.engine.sweep_ttl().unwrap();
        }
        let row = world.row(&scope.session(&session.id).unwrap().secret_values().row("OVER")).await;
        assert_eq!(row.is_none(), swept);
        assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), expected);
        let outcome = world.delivered_of(&scope, &session.id, &only(&["OVER"])).await;
        assert!(matches!(refused(outcome), StoreError::UnknownSecret(_)));
    }
    let opener = world.opener();
    let sealed = opener.load(&scope, &session.id).await.unwrap();
    let at = secrets[1].expires_at_ms.unwrap();
    for (now, expected) in [(at - 1, 2), (at, 1)] {
        assert_eq!(opener.open(&scope, &sealed, &SecretSelection::All, now).await.unwrap().len(), expected);
    }
    // A new value brings the name back.
    world.set(&scope, &own(&session), &[secret("OVER", "again")]).await.unwrap();
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap()["OVER"], "again");
}

#[tokio::test]
async fn a_providers_credential_is_never_delivered_from_that_moment_on() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let platform = SecretTarget::Platform;
    let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
    let outcome = credentials.configure(&scope, "e2b", &name("ABSENT")).await;
    assert!(matches!(refused(outcome), StoreError::UnknownSecret(_)));
    world.set(&scope, &platform, &[secret("E2B_KEY", "e2b"), secret("OTHER", "other")]).await.unwrap();
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap().len(), 2);

    credentials.configure(&scope, "e2b", &name("e2b_key")).await.unwrap();
    credentials.configure(&scope, "e2b", &name("E2B_KEY")).await.unwrap();
    let check = async || {
        assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), pairs(&[("OTHER", "other")]));
        let outcome = world.delivered_of(&scope, &session.id, &only(&["E2B_KEY"])).await;
        assert!(matches!(refused(outcome), StoreError::UnknownSecret(_)));
    };
    check().await;
    assert_eq!(world.versions(&scope, &platform).await["E2B_KEY"], 2, "sealed anew, once");
    assert!(matches!(refused(world.delete(&scope, &platform, "E2B_KEY").await), StoreError::Conflict(_)));
    world.set(&scope, &platform, &[secret("e2b_key", "rotated")]).await.unwrap();
    check().await;
    world.remove_provider(&scope, "e2b").await;
    check().await;
    world.delete(&scope, &platform, "E2B_KEY").await.unwrap();
    check().await;
}

#[tokio::test]
async fn nothing_in_the_table_holds_a_value_in_any_encoding() {
    const CANARY: &str = "canary?>~7f3a9c51d2e84b06";
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let padded = format!("before {CANARY} after");
    let expiring = NewSecret { expires_at_ms: Some(now_ms() + 60_000), mask: false, ..secret("C", CANARY) };
    let secrets = [secret("A", CANARY), secret("B", &padded), expiring];
    world.set(&scope, &own(&session), &secrets).await.unwrap();
    world.set(&scope, &own(&session), &[secret("A", CANARY)]).await.unwrap();
    world.set(&scope, &SecretTarget::Platform, &[secret("P", CANARY), secret("KEY", CANARY)]).await.unwrap();
    let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
    credentials.configure(&scope, "e2b", &name("KEY")).await.unwrap();
    let delivered = world.delivered(&scope, &session.id).await.unwrap();
    assert!(delivered.len() == 4 && delivered.values().all(|value| value.contains(CANARY)));

    let needles = encodings(CANARY.as_bytes());
    let rows = world.scan().await;
    let fields: Vec<_> = rows.iter().flat_map(flatten).collect();
    for needle in &needles {
        for field in &fields {
            assert!(!contains(field, needle), "{}", String::from_utf8_lossy(field));
        }
    }
    // The search finds what is there: a name, and the canary once somebody writes it.
    assert!(fields.iter().any(|field| contains(field, b"KEY")));
    for needle in &needles {
        let row = Item::from([("x".to_owned(), AttributeValue::B(needle.clone().into()))]);
        assert!(flatten(&row).iter().any(|field| contains(field, needle)));
    }
}

fn contains(field: &[u8], needle: &[u8]) -> bool {
    field.windows(needle.len()).any(|window| window == needle)
}

/// Raw, both cases of hexadecimal, and base64 at each of its three alignments without what neighbours may change.
fn encodings(value: &[u8]) -> Vec<Vec<u8>> {
    let mut found = vec![value.to_vec(), hex::encode(value).into_bytes(), hex::encode_upper(value).into_bytes()];
    for engine in [STANDARD, URL_SAFE] {
        for shift in 0..3 {
            let shifted = [&vec![0; shift], value].concat();
            let encoded = engine.encode(&shifted).into_bytes();
            let whole = shifted.len() / 3 * 4;
            let start = if shift == 0 { 0 } else { 4 };
            found.push(encoded[start..whole].to_vec());
        }
    }
    found
}

/// Every name, text, number and binary of a row.
fn flatten(row: &Item) -> Vec<Vec<u8>> {
    row.iter().flat_map(|(name, value)| [vec![name.clone().into_bytes()], leaves(value)].concat()).collect()
}

fn leaves(value: &AttributeValue) -> Vec<Vec<u8>> {
    match value {
        AttributeValue::S(text) | AttributeValue::N(text) => vec![text.clone().into_bytes()],
        AttributeValue::B(bytes) => vec![bytes.as_ref().to_vec()],
        AttributeValue::L(list) => list.iter().flat_map(leaves).collect(),
        AttributeValue::M(map) => flatten(map),
        AttributeValue::Bool(_) | AttributeValue::Null(_) => Vec::new(),
        other => panic!("the store writes no {other:?}"),
    }
}

#[tokio::test]
async fn a_credential_that_is_deleted_while_a_provider_is_configured_is_never_left_to_agents() {
    let world = World::start().await;
    let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
    let configs = ProviderConfigs::new(world.table.clone());
    let target = SecretTarget::Platform;
    for _ in 0..40 {
        let scope = world.tenant().await;
        world.set(&scope, &target, &[secret("KEY", "v")]).await.unwrap();
        credentials.configure(&scope, "e2b", &name("KEY")).await.unwrap();
        world.remove_provider(&scope, "e2b").await;
        let key = name("KEY");
        let (deleted, configured) =
            tokio::join!(world.delete(&scope, &target, "KEY"), credentials.configure(&scope, "e2b", &key));
        let named = !configs.list(&scope).await.unwrap().is_empty();
        let names = world.names().load(&scope, &target).await.unwrap();
        assert_eq!(named, configured.is_ok());
        assert_eq!(names.get("KEY").is_some_and(|entry| entry.provider), named, "{deleted:?} {configured:?}");
    }
}

#[tokio::test]
async fn expired_secrets_make_room_in_a_full_scope() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let target = own(&session);
    let short = |index: usize| NewSecret { expires_at_ms: Some(now_ms() + 3_000), ..secret(&format!("S{index}"), "v") };
    let shorts: Vec<_> = (0..60).map(short).collect();
    world.set(&scope, &target, &shorts).await.unwrap();
    let longs: Vec<_> = (0..40).map(|index| secret(&format!("L{index}"), "v")).collect();
    world.set(&scope, &target, &longs).await.unwrap();
    for attempt in 0.. {
        match world.set(&scope, &target, &[secret("ONE_MORE", "v")]).await {
            Ok(()) => break,
            Err(StoreError::ScopeFull(_)) if attempt < 1_000 => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(world.versions(&scope, &target).await.len(), 41);
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap().len(), 41);
    // A name that was given up does not come back with a version that it had.
    world.set(&scope, &target, &[secret("S0", "again")]).await.unwrap();
    assert_eq!(world.versions(&scope, &target).await["S0"], 2);
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap()["S0"], "again");
}

#[tokio::test]
async fn removing_all_that_is_interrupted_at_any_write_leaves_no_value_when_it_is_repeated() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let kept = world.session(&scope).await;
    world.set(&scope, &own(&kept), &[secret("A", "another session's")]).await.unwrap();
    let proxy = Proxy::start(&world.dynamodb_url).await;
    let sealer = SecretSealer::new(Table::new(&aws(&proxy.url, &world.kms_url), "theazo"), world.keys.clone());
    let mut left_by_interruptions = Vec::new();
    for writes in 0.. {
        assert!(writes < 20, "it makes no progress");
        let session = world.session(&scope).await;
        world.set(&scope, &own(&session), &[secret("A", "a"), secret("B", "b"), secret("C", "c")]).await.unwrap();
        let values = async || {
            let rows = world.scan().await;
            let of_session = |row: &&Item| row["pk"].as_s().unwrap().contains(session.id.as_str());
            let is_value = |row: &&Item| row["pk"].as_s().unwrap().ends_with("#values");
            rows.iter().filter(of_session).filter(is_value).count()
        };
        assert_eq!(values().await, 3);
        proxy.allow_writes(writes);
        let interrupted = match sealer.remove_all(&scope, &session.id).await {
            Ok(()) => false,
            Err(StoreError::Table { code, .. }) if code == "AccessDeniedException" => true,
            Err(error) => panic!("{error:?}"),
        };
        left_by_interruptions.push(values().await);
        world.sealer().remove_all(&scope, &session.id).await.unwrap();
        assert_eq!(values().await, 0, "interrupted after {writes} writes");
        let names = world.names().load(&scope, &own(&session)).await.unwrap();
        assert_eq!(names.entries().count(), 0, "interrupted after {writes} writes");
        if !interrupted {
            break;
        }
    }
    // Some interruptions left values behind, or nothing was there to be finished.
    assert_eq!(left_by_interruptions[..3], [3, 2, 1]);
    assert_eq!(world.delivered(&scope, &kept.id).await.unwrap(), pairs(&[("A", "another session's")]));
}
