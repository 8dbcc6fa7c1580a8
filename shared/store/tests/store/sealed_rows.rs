//! Sealed rows that somebody with the table, and without the key, moved, edited or removed.

use crate::support::{World, name, number, own, pairs, refused, secret, text};
use aws_sdk_dynamodb::types::AttributeValue;
use theazo_store::{NewSecret, ProviderCredentials, SecretTarget, Session, StoreError, now_ms};
use theazo_tenancy::{Mode, TableKey, TenantScope};

fn value_key(scope: &TenantScope, target: &SecretTarget, name: &str) -> TableKey {
    match target {
        SecretTarget::Platform => scope.secret_values().unwrap().row(name),
        SecretTarget::Session(id) => scope.session(id).unwrap().secret_values().row(name),
    }
}

fn names_key(scope: &TenantScope, target: &SecretTarget) -> TableKey {
    match target {
        SecretTarget::Platform => scope.secret_names_key().unwrap(),
        SecretTarget::Session(id) => scope.session(id).unwrap().secret_names_key(),
    }
}

async fn assert_vault_refuses(world: &World, scope: &TenantScope, session: &Session, why: &str) {
    match world.delivered(scope, &session.id).await {
        Err(StoreError::Vault(_)) => {}
        Err(error) => panic!("{why}: {error:?}"),
        Ok(delivered) => panic!("{why}: delivered {:?}", delivered.keys()),
    }
}

/// Puts the value's row of one place into another, asserts that it does not open there, and puts things right again.
async fn assert_does_not_open_there(
    world: &World,
    from: &TableKey,
    to: &TableKey,
    reader: (&TenantScope, &Session),
    why: &str,
) {
    let (moved, original) = (world.row(from).await.unwrap(), world.row(to).await.unwrap());
    world.put(to, moved).await;
    assert_vault_refuses(world, reader.0, reader.1, why).await;
    world.put(to, original).await;
    assert!(world.delivered(reader.0, &reader.1.id).await.is_ok(), "{why}");
}

#[tokio::test]
async fn a_value_moved_to_another_name_or_session_or_level_does_not_open() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let (one, other, plain) = (world.session(&scope).await, world.session(&scope).await, world.session(&scope).await);
    let platform = SecretTarget::Platform;
    for target in [own(&one), own(&other), platform.clone()] {
        world.set(&scope, &target, &[secret("A", "a"), secret("B", "b")]).await.unwrap();
    }
    let key = |target: &SecretTarget, name| value_key(&scope, target, name);
    let cases = [
        (key(&own(&one), "A"), key(&own(&one), "B"), &one, "another name"),
        (key(&own(&one), "A"), key(&own(&other), "A"), &other, "another session"),
        (key(&own(&one), "A"), key(&platform, "A"), &plain, "from a session to its platform"),
        (key(&platform, "A"), key(&own(&one), "A"), &one, "from a platform to its session"),
        (key(&platform, "A"), key(&platform, "B"), &plain, "another name of the platform"),
    ];
    for (from, to, reader, why) in cases {
        assert_does_not_open_there(&world, &from, &to, (&scope, reader), why).await;
    }
}

#[tokio::test]
async fn a_value_moved_to_another_platform_does_not_open_even_with_that_platforms_salt() {
    let world = World::start().await;
    let (one, other) = (world.tenant().await, world.tenant().await);
    let reader = world.session(&other).await;
    let platform = SecretTarget::Platform;
    for scope in [&one, &other] {
        world.set(scope, &platform, &[secret("A", "a")]).await.unwrap();
    }
    let (from, to) = (value_key(&one, &platform, "A"), value_key(&other, &platform, "A"));
    assert_does_not_open_there(&world, &from, &to, (&other, &reader), "another platform").await;

    let source = world.row(&one.platform_key()).await.unwrap();
    let mut row = world.row(&other.platform_key()).await.unwrap();
    for column in ["vault_salt", "vault_key_version"] {
        row.insert(column.into(), source[column].clone());
    }
    world.put(&other.platform_key(), row).await;
    world.put(&to, world.row(&from).await.unwrap()).await;
    assert_vault_refuses(&world, &other, &reader, "another platform with its salt").await;
}

#[tokio::test]
async fn a_value_moved_between_live_and_test_does_not_open() {
    let world = World::start().await;
    let live = world.tenant().await;
    let test = crate::support::operator().tenant(live.platform(), Mode::Test);
    let platform = SecretTarget::Platform;
    for scope in [&live, &test] {
        world.set(scope, &platform, &[secret("A", "a")]).await.unwrap();
    }
    let (in_live, in_test) = (world.session(&live).await, world.session(&test).await);
    let (live_key, test_key) = (value_key(&live, &platform, "A"), value_key(&test, &platform, "A"));
    assert_does_not_open_there(&world, &live_key, &test_key, (&test, &in_test), "from live to test").await;
    assert_does_not_open_there(&world, &test_key, &live_key, (&live, &in_live), "from test to live").await;
}

/// Sets or removes a column of a value's row and, as a careful intruder would, of its entry among the names.
async fn edit(world: &World, value: &TableKey, names: Option<&TableKey>, column: &str, to: Option<AttributeValue>) {
    let mut row = world.row(value).await.unwrap();
    change(&mut row, column, to.clone());
    world.put(value, row).await;
    if let Some(key) = names {
        let mut row = world.row(key).await.unwrap();
        let Some(AttributeValue::M(entries)) = row.get_mut("entries") else { panic!("a map of entries") };
        let Some(AttributeValue::M(entry)) = entries.get_mut(value.sk()) else { panic!("an entry") };
        change(entry, column, to);
        world.put(key, row).await;
    }
}

fn change(row: &mut crate::support::Item, column: &str, to: Option<AttributeValue>) {
    match to {
        Some(value) => row.insert(column.into(), value),
        None => row.remove(column),
    };
}

#[tokio::test]
async fn a_value_with_an_edited_column_does_not_open_even_when_the_names_say_the_same() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let later = now_ms() + 3_600_000;
    let (mine, platform) = (own(&session), SecretTarget::Platform);
    let expiring = NewSecret { expires_at_ms: Some(later), ..secret("EXPIRING", "x") };
    let bare = NewSecret { mask: false, inherit: false, ..secret("BARE", "x") };
    world.set(&scope, &mine, &[secret("A", "a"), expiring]).await.unwrap();
    world.set(&scope, &platform, &[secret("P", "p"), secret("KEY", "k"), bare]).await.unwrap();
    let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
    credentials.configure(&scope, "e2b", &name("KEY")).await.unwrap();
    let good = pairs(&[("A", "a"), ("EXPIRING", "x"), ("P", "p")]);
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), good);

    let edits = [
        (&mine, "A", "version", Some(number(2))),
        (&mine, "A", "version", Some(number(0))),
        (&mine, "A", "expires_at_ms", Some(number(later))),
        (&mine, "EXPIRING", "expires_at_ms", Some(number(later + 1))),
        (&mine, "EXPIRING", "expires_at_ms", None),
        (&mine, "A", "mask", Some(AttributeValue::Bool(false))),
        (&mine, "A", "inherit", Some(AttributeValue::Bool(false))),
        (&platform, "P", "mask", Some(AttributeValue::Bool(false))),
        (&platform, "BARE", "inherit", Some(AttributeValue::Bool(true))),
        (&platform, "KEY", "provider", Some(AttributeValue::Bool(false))),
    ];
    for (target, name, column, to) in edits {
        let (value, names) = (value_key(&scope, target, name), names_key(&scope, target));
        let before = (world.row(&value).await.unwrap(), world.row(&names).await.unwrap());
        edit(&world, &value, Some(&names), column, to.clone()).await;
        assert_vault_refuses(&world, &scope, &session, &format!("{name}.{column} = {to:?}")).await;
        world.put(&value, before.0).await;
        world.put(&names, before.1).await;
    }
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), good);
}

#[tokio::test]
async fn a_record_with_a_flipped_byte_or_of_an_older_version_does_not_open() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    world.set(&scope, &own(&session), &[secret("A", "old")]).await.unwrap();
    let key = value_key(&scope, &own(&session), "A");
    let old = world.row(&key).await.unwrap();
    world.set(&scope, &own(&session), &[secret("A", "new")]).await.unwrap();
    let good = world.row(&key).await.unwrap();

    let mut rolled_back = good.clone();
    rolled_back.insert("blob".into(), old["blob"].clone());
    world.put(&key, rolled_back).await;
    assert_vault_refuses(&world, &scope, &session, "an older record").await;

    let AttributeValue::B(blob) = &good["blob"] else { panic!("a binary") };
    let blob = blob.as_ref().to_vec();
    for index in [0, 1, 15, 40, 60, 90, blob.len() - 1] {
        let (mut row, mut flipped) = (good.clone(), blob.clone());
        flipped[index] ^= 1;
        row.insert("blob".into(), AttributeValue::B(flipped.into()));
        world.put(&key, row).await;
        assert_vault_refuses(&world, &scope, &session, &format!("byte {index}")).await;
    }
}

/// Asserts that a change behind the store's back makes reading fail, instead of leaving a secret out.
async fn assert_never_left_out(world: &World, scope: &TenantScope, session: &Session, why: &str) {
    let error = refused(world.delivered(scope, &session.id).await);
    assert!(matches!(error, StoreError::Corrupt(_) | StoreError::Vault(_)), "{why}: {error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_vanished_or_came_from_nowhere_is_an_error_and_not_a_silent_omission() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let mine = own(&session);
    let expiring = NewSecret { expires_at_ms: Some(now_ms() + 3_600_000), ..secret("EXPIRING", "x") };
    world.set(&scope, &mine, &[secret("A", "a"), expiring]).await.unwrap();
    for name in ["A", "EXPIRING"] {
        let key = value_key(&scope, &mine, name);
        let row = world.row(&key).await.unwrap();
        world.remove(&key).await;
        assert_never_left_out(&world, &scope, &session, name).await;
        world.put(&key, row).await;
    }
    let stray = value_key(&scope, &mine, "STRAY");
    world.put(&stray, world.row(&value_key(&scope, &mine, "A")).await.unwrap()).await;
    assert_never_left_out(&world, &scope, &session, "a value without a name").await;
    world.remove(&stray).await;
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_edited_to_be_left_out_is_an_error_and_not_a_silent_omission() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let platform = SecretTarget::Platform;
    world.set(&scope, &platform, &[secret("P", "p")]).await.unwrap();
    let key = value_key(&scope, &platform, "P");
    let good = world.row(&key).await.unwrap();
    let edits = [
        ("expires_at_ms", number(now_ms() - 1000)),
        ("inherit", AttributeValue::Bool(false)),
        ("provider", AttributeValue::Bool(true)),
        ("version", text("not a number")),
    ];
    for (column, to) in edits {
        edit(&world, &key, None, column, Some(to)).await;
        assert_never_left_out(&world, &scope, &session, column).await;
        world.put(&key, good.clone()).await;
    }
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), pairs(&[("P", "p")]));
}
