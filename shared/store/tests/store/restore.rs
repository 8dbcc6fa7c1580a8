//! The restore drill: a table that was put back to an earlier moment, and the ledger of all that was deleted since.

use crate::deletion::{Furnished, deletion, is_accepted};
use crate::proxy::Proxy;
use crate::support::{Item, World, aws, credential_key, name, operator, own, pairs, secret};
use aws_sdk_dynamodb::types::AttributeValue;
use std::collections::{BTreeMap, BTreeSet};
use theazo_store::{
    ApiKeys, Credentials, DeletionState, KeyRing, Platforms, ProviderCredentials, RateLimits, Replay, ReplayMode,
    Restore, SecretOpener, SecretSealer, SecretSelection, SecretTarget, SessionStatus, SessionTokens, Sessions,
    StoreError, Table, Tally, Work, WorkItem, now_ms,
};
use theazo_tenancy::{Claim, IssuedKey, KeyId, Mode, Permissions, Principal, SessionId, TenantScope};

const RESTORED: &str = "theazo-restored";
const LEDGER: &str = "theazo-ledger";

type Rows = BTreeMap<(String, String), Item>;

async fn rows(world: &World, table: &str) -> Rows {
    let pages = world.raw.scan().table_name(table).into_paginator().items().send();
    let rows = pages.collect::<Result<Vec<_>, _>>().await.unwrap().into_iter();
    rows.map(|row| ((row["pk"].as_s().unwrap().clone(), row["sk"].as_s().unwrap().clone()), row)).collect()
}

/// A new table with the rows of a backup, beside the ledger that was in use.
async fn restore(world: &World, backup: &Rows) -> Table {
    let table = Table::new(&aws(&world.dynamodb_url, &world.kms_url), RESTORED)
        .with_ledger(LEDGER)
        .with_credential_key(credential_key());
    table.ensure_exists().await.unwrap();
    for row in backup.values() {
        world.raw.put_item().table_name(RESTORED).set_item(Some(row.clone())).send().await.unwrap();
    }
    table
}

async fn replay(table: &Table, mode: ReplayMode) -> Replay {
    Restore::new(table.clone(), operator()).replay(mode, |_| ()).await.unwrap()
}

/// Revokes a key as its platform does.
async fn revoke(world: &World, scope: &TenantScope, key: &KeyId) {
    ApiKeys::new(world.table.clone()).revoke(scope, key, true).await.unwrap();
}

async fn delivered(world: &World, keys: &KeyRing, table: &Table, scope: &TenantScope, id: &SessionId) -> Vec<String> {
    let _ = world;
    let opener = SecretOpener::new(table.clone(), keys.clone());
    let sealed = opener.load(scope, id).await.unwrap();
    let opened = opener.open(scope, &sealed, &SecretSelection::All, now_ms()).await.unwrap();
    let shown = opened.iter().map(|secret| {
        format!("{}@{}={}", secret.booted.name, secret.booted.version, String::from_utf8_lossy(secret.value.expose()))
    });
    shown.collect()
}

/// Whoever presents that key.
async fn caller(world: &World, key: &IssuedKey) -> Principal {
    let claim = Claim::parse(&key.text).unwrap();
    let admission = Credentials::new(world.table.clone(), RateLimits::default()).admit(&claim).await.unwrap();
    claim.prove(admission.record.as_ref(), now_ms()).unwrap()
}

/// A deployment, its backup, and what was deleted after it.
struct Drill {
    world: World,
    backup: Rows,
    scope: TenantScope,
    /// A session that lives on.
    kept: SessionId,
    /// One that was terminated since.
    over: SessionId,
    /// A key that was revoked since, and one that was not.
    revoked: IssuedKey,
    good: IssuedKey,
    /// One that was given a successor since, and ended at once.
    rotated: IssuedKey,
    /// A token of the session that lives on, revoked since.
    token: IssuedKey,
    /// A platform that was deleted since.
    gone: Furnished,
}

impl Drill {
    async fn hold() -> Self {
        let world = World::start().await;
        let platforms = Platforms::new(world.table.clone(), operator());
        let made = platforms.create("kept").await.unwrap();
        let scope = operator().tenant(&made.platform.id, Mode::Live);
        let (revoked_id, revoked) = platforms.create_key(&made.platform.id, Mode::Live, "to be revoked").await.unwrap();
        let (kept, over) = (world.session(&scope).await, world.session(&scope).await);
        for session in [&kept, &over] {
            let secrets = ["A", "B", "C", "D"].map(|name| secret(name, &format!("{name} of before")));
            world.set(&scope, &own(session), &secrets).await.unwrap();
        }
        let secrets = ["E2B", "P", "Q"].map(|name| secret(name, &format!("{name} of before")));
        world.set(&scope, &SecretTarget::Platform, &secrets).await.unwrap();
        let credentials = ProviderCredentials::new(world.table.clone(), world.keys.clone());
        credentials.configure(&scope, "e2b", &name("E2B")).await.unwrap();
        // Deleted and set again before the backup: the ledger knows of the first value only.
        world.delete(&scope, &own(&kept), "B").await.unwrap();
        world.set(&scope, &own(&kept), &[secret("B", "B set again")]).await.unwrap();
        let gone = Furnished::make(&world).await;
        let (rotated_id, rotated) = platforms.create_key(&made.platform.id, Mode::Live, "to be rotated").await.unwrap();
        let (keys, tokens) = (ApiKeys::new(world.table.clone()), SessionTokens::new(world.table.clone()));
        let caller = caller(&world, &made.live).await;
        // An earlier epoch than the first.
        tokens.revoke_all(&scope, &kept.id).await.unwrap();
        let token = tokens.mint(&caller, &kept, now_ms() + 3_600_000, Permissions { exec: true }).await.unwrap();

        let backup = rows(&world, "theazo").await;

        world.delete(&scope, &own(&kept), "A").await.unwrap();
        world.delete(&scope, &own(&kept), "C").await.unwrap();
        world.set(&scope, &own(&kept), &[secret("C", "C after the backup")]).await.unwrap();
        world.delete(&scope, &SecretTarget::Platform, "P").await.unwrap();
        world.remove_provider(&scope, "e2b").await;
        world.delete(&scope, &SecretTarget::Platform, "E2B").await.unwrap();
        world.sessions().terminate(&scope, &over.id).await.unwrap();
        world.sealer().remove_all(&scope, &over.id).await.unwrap();
        world.sessions().settle_terminated(&scope, &over.id).await.unwrap();
        revoke(&world, &scope, &revoked_id).await;
        keys.rotate(&caller, &rotated_id, 0).await.unwrap();
        tokens.revoke_all(&scope, &kept.id).await.unwrap();
        tokens.revoke_all(&scope, &kept.id).await.unwrap();
        let deletion = deletion(&world.table);
        deletion.begin(&gone.id).await.unwrap();
        deletion.advance(&gone.id, now_ms()).await.unwrap();
        Self { world, backup, scope, kept: kept.id, over: over.id, revoked, good: made.live, rotated, token, gone }
    }

    /// What must hold once the ledger was replayed on the restored table.
    async fn assert_replayed(&self, table: &Table) {
        let Self { world, scope, kept, over, .. } = self;
        assert_eq!(
            delivered(world, &world.keys, table, scope, kept).await,
            ["B@2=B set again", "D@1=D of before", "Q@1=Q of before"]
        );
        let session = Sessions::new(table.clone()).get(scope, over).await.unwrap().unwrap();
        assert_eq!(session.status, SessionStatus::Terminated);
        let work = Work::new(table.clone(), operator()).list().await.unwrap();
        assert!(work.contains(&WorkItem::Session(scope.platform().clone(), Mode::Live, over.clone())));
        assert!(work.contains(&WorkItem::Platform(self.gone.id.clone())));

        // Row by row against the backup: what may be gone or changed, and nothing else.
        let after = rows(world, RESTORED).await;
        let own = scope.session(kept).unwrap();
        let (values, platform_values) = (own.secret_values(), scope.secret_values().unwrap());
        let ended = [&self.revoked, &self.rotated, &self.token].map(|key| hex::encode(key.hash));
        let changed = |(pk, sk): &(String, String)| {
            let key = |key: theazo_tenancy::TableKey| key.pk() == pk && key.sk() == sk;
            let is_revoked = || {
                self.backup[&(pk.clone(), sk.clone())]
                    .get("hash")
                    .and_then(|hash| hash.as_s().ok())
                    .is_some_and(|hash| ended.contains(hash))
            };
            let is_deleted_platforms = || {
                let platform = AttributeValue::S(self.gone.id.to_string());
                pk.starts_with(self.gone.id.as_str())
                    || sk == self.gone.id.as_str()
                    || self.backup[&(pk.clone(), sk.clone())].get("platform") == Some(&platform)
            };
            ["A", "C"].into_iter().any(|name| key(values.row(name)))
                || ["E2B", "P"].into_iter().any(|name| key(platform_values.row(name)))
                || key(own.secret_names_key())
                || key(scope.secret_names_key().unwrap())
                || key(scope.providers().unwrap().row("e2b"))
                || key(scope.platform_wide().unwrap().sessions().row(over.as_str()))
                || key(scope.platform_wide().unwrap().sessions().row(kept.as_str()))
                || pk.starts_with(&format!("{}#live#{over}", scope.platform())) && !pk.ends_with("#counters")
                || is_revoked()
                || is_deleted_platforms()
        };
        for (key, row) in &self.backup {
            if !changed(key) {
                assert_eq!(after.get(key), Some(row), "{key:?}");
            }
        }
        let new: BTreeSet<_> = after.keys().filter(|key| !self.backup.contains_key(*key)).collect();
        // What a replay ends again is put on record and logged, and may leave work.
        let on_record = |pk: &str| pk.contains("#audit#") || pk.contains("#logs#") || pk.starts_with("work#");
        assert!(new.iter().all(|(pk, _)| on_record(pk)), "{new:?}");
        let sealed_of = |rows: &Rows, prefix: &str| {
            let blobs = rows.iter().filter(|((pk, _), row)| pk.starts_with(prefix) && row.contains_key("blob"));
            blobs.filter(|(_, row)| row["provider"].as_bool() != Ok(&true)).count()
        };
        assert!(sealed_of(&self.backup, self.gone.id.as_str()) > 0);
        assert_eq!(sealed_of(&after, self.gone.id.as_str()), 0);
        assert_eq!(sealed_of(&after, &format!("{}#live#{over}", scope.platform())), 0);
        // Last, because every request is counted in its key's row.
        assert!(is_accepted(table, &self.good).await);
        for ended in [&self.revoked, &self.rotated, &self.token] {
            assert!(!is_accepted(table, ended).await);
        }
        for key in &self.gone.keys {
            assert!(!is_accepted(table, key).await);
        }
    }
}

#[tokio::test]
async fn after_a_restore_and_a_replay_what_was_deleted_is_gone_and_nothing_else_has_changed() {
    let drill = Drill::hold().await;
    let table = restore(&drill.world, &drill.backup).await;
    // Without the replay it would all be back.
    for back in [&drill.revoked, &drill.rotated, &drill.token, &drill.gone.keys[0]] {
        assert!(is_accepted(&table, back).await);
    }
    let back = delivered(&drill.world, &drill.world.keys, &table, &drill.scope, &drill.kept).await;
    assert!(back.contains(&"A@1=A of before".to_owned()));

    let ledger = rows(&drill.world, LEDGER).await;
    let restored = rows(&drill.world, RESTORED).await;
    let counted = replay(&table, ReplayMode::DryRun).await;
    assert_eq!(rows(&drill.world, RESTORED).await, restored, "a dry run changes nothing");

    let done = replay(&table, ReplayMode::Apply).await;
    for replay in [&counted, &done] {
        assert_eq!(replay.secrets, Tally { noted: 5, deleted: 4 });
        // Those of the deleted platform were terminated with it.
        assert_eq!(replay.sessions.noted, 7);
        assert_eq!(replay.tokens, Tally { noted: 1, deleted: 1 });
        assert_eq!(replay.keys, Tally { noted: 2, deleted: 2 });
        assert_eq!(replay.platforms, Tally { noted: 1, deleted: 1 });
        assert_eq!(replay.providers, [(drill.scope.platform().clone(), "e2b".to_owned())]);
        assert!(replay.failures.is_empty(), "{:?}", replay.failures);
    }
    drill.assert_replayed(&table).await;
    let after = rows(&drill.world, LEDGER).await;
    assert!(ledger.keys().eq(after.keys()), "the ledger keeps its rows");

    // Again: there is nothing left to do.
    let before = rows(&drill.world, RESTORED).await;
    let again = replay(&table, ReplayMode::Apply).await;
    let again_deleted = [again.secrets, again.sessions, again.tokens, again.keys, again.platforms];
    assert_eq!((again_deleted.map(|tally| tally.deleted), again.providers.len()), ([0; 5], 0));
    assert_eq!(rows(&drill.world, RESTORED).await, before);
}

#[tokio::test]
async fn a_version_that_was_deleted_never_comes_back_after_a_replay() {
    let drill = Drill::hold().await;
    let table = restore(&drill.world, &drill.backup).await;
    replay(&table, ReplayMode::Apply).await;
    let target = SecretTarget::Session(drill.kept.clone());
    let sealer = SecretSealer::new(table.clone(), drill.world.keys.clone());
    let read = sealer.load(&drill.scope, &target).await.unwrap();
    sealer.set(&drill.scope, &target, read, &[secret("A", "anew"), secret("NEW", "new")]).await.unwrap();
    let got = delivered(&drill.world, &drill.world.keys, &table, &drill.scope, &drill.kept).await;
    // A was deleted at version 4 or below by the floor; both begin above it.
    assert!(got.iter().any(|shown| shown.ends_with("=anew")), "{got:?}");
    let versions: Vec<u64> = got
        .iter()
        .filter(|shown| shown.starts_with("A@") || shown.starts_with("NEW@"))
        .map(|shown| shown.split(['@', '=']).nth(1).unwrap().parse().unwrap())
        .collect();
    let noted = rows(&drill.world, LEDGER)
        .await
        .into_values()
        .filter(|row| row["pk"].as_s().unwrap().starts_with(drill.scope.platform().as_str()));
    let highest = noted.filter(|row| row["sk"].as_s().unwrap().contains(drill.kept.as_str()));
    let highest = highest.filter_map(|row| row.get("version")?.as_n().ok()?.parse::<u64>().ok()).max().unwrap();
    assert!(versions.len() == 2 && versions.iter().all(|version| *version > highest), "{versions:?} over {highest}");
    // And a replay after that leaves what was set since.
    let again = replay(&table, ReplayMode::Apply).await;
    assert_eq!(again.secrets.deleted, 0);
    assert_eq!(delivered(&drill.world, &drill.world.keys, &table, &drill.scope, &drill.kept).await, got);
}

#[tokio::test]
async fn a_replay_that_is_interrupted_at_any_write_is_finished_by_repeating_it() {
    let drill = Drill::hold().await;
    let table = restore(&drill.world, &drill.backup).await;
    let proxy = Proxy::start(&drill.world.dynamodb_url).await;
    let disturbed = Table::new(&aws(&proxy.url, &drill.world.kms_url), RESTORED)
        .with_ledger(LEDGER)
        .with_credential_key(credential_key());
    let restore = Restore::new(disturbed, operator());
    let mut interruptions = 0;
    loop {
        proxy.allow_writes(1);
        match restore.replay(ReplayMode::Apply, |_| ()).await {
            Ok(replay) => break assert!(replay.failures.is_empty(), "{:?}", replay.failures),
            Err(StoreError::Table { code, .. }) if code == "AccessDeniedException" => interruptions += 1,
            Err(error) => panic!("{error:?}"),
        }
        assert!(interruptions < 200, "it makes no progress");
    }
    assert!(interruptions > 5, "{interruptions} interruptions");
    drill.assert_replayed(&table).await;
    let later = now_ms() + 60 * 60 * 1000;
    assert_eq!(deletion(&table).advance(&drill.gone.id, later).await.unwrap(), DeletionState::Gone);
}

/// What a replay puts on record.
const DEEDS: [&str; 7] = [
    "secrets.delete",
    "provider.delete",
    "session.terminate",
    "token.revoke",
    "key.revoke",
    "key.rotate",
    "platform.delete",
];

/// Makes the table refuse the entries of one kind of deed, and what is written with them.
fn refuse<const DEED: usize>(_: &str, body: &mut serde_json::Value) {
    let writes = body.get_mut("TransactItems").and_then(serde_json::Value::as_array_mut);
    for write in writes.into_iter().flatten() {
        if write["Put"]["Item"]["action"]["S"] == DEEDS[DEED] {
            write["Put"]["Item"].as_object_mut().unwrap().remove("sk");
        }
    }
}

#[tokio::test]
async fn what_a_replay_cannot_put_on_record_it_does_not_do_and_does_later() {
    let drill = Drill::hold().await;
    let proxy = Proxy::start(&drill.world.dynamodb_url).await;
    let disturbed = Table::new(&aws(&proxy.url, &drill.world.kms_url), RESTORED)
        .with_ledger(LEDGER)
        .with_credential_key(credential_key());
    let edits: [crate::proxy::Edit; DEEDS.len()] =
        [refuse::<0>, refuse::<1>, refuse::<2>, refuse::<3>, refuse::<4>, refuse::<5>, refuse::<6>];
    for (deed, edit) in DEEDS.into_iter().zip(edits) {
        let table = restore(&drill.world, &drill.backup).await;
        let told = async || {
            let rows = rows(&drill.world, RESTORED).await.into_iter();
            let new = rows.filter(|(key, _)| !drill.backup.contains_key(key));
            new.filter(|(_, row)| row.get("action").is_some_and(|action| action.as_s().unwrap() == deed)).count()
        };
        proxy.edit(Some(edit));
        // Others are carried out meanwhile, as many as there are at a time.
        for _ in 0..5 {
            let error = Restore::new(disturbed.clone(), operator()).replay(ReplayMode::Apply, |_| ()).await;
            assert!(
                matches!(error, Err(StoreError::Table { .. })),
                "{deed}: {:?}",
                error.map(|replay| replay.failures)
            );
        }
        assert_eq!(told().await, 0, "{deed}");
        proxy.edit(None);
        let replay = replay(&table, ReplayMode::Apply).await;
        assert!(replay.failures.is_empty(), "{deed}: {:?}", replay.failures);
        assert!(told().await > 0, "{deed} was done without a word");
        drill.assert_replayed(&table).await;
        for (pk, sk) in rows(&drill.world, RESTORED).await.into_keys() {
            let key = Item::from([("pk".into(), AttributeValue::S(pk)), ("sk".into(), AttributeValue::S(sk))]);
            drill.world.raw.delete_item().table_name(RESTORED).set_key(Some(key)).send().await.unwrap();
        }
    }
}

#[tokio::test]
async fn a_replay_on_the_table_that_was_never_restored_changes_nothing() {
    let drill = Drill::hold().await;
    let before = rows(&drill.world, "theazo").await;
    let done = replay(&drill.world.table, ReplayMode::Apply).await;
    let deleted = [done.secrets, done.sessions, done.tokens, done.keys, done.platforms].map(|tally| tally.deleted);
    assert_eq!(deleted, [0; 5]);
    assert!(done.failures.is_empty() && done.providers.is_empty());
    assert_eq!(rows(&drill.world, "theazo").await, before);
    let got = drill.world.delivered(&drill.scope, &drill.kept).await.unwrap();
    assert_eq!(
        got,
        pairs(&[("B", "B set again"), ("C", "C after the backup"), ("D", "D of before"), ("Q", "Q of before")])
    );
}

#[tokio::test]
async fn a_row_of_the_ledger_that_cannot_be_read_is_reported_and_the_others_are_carried_out() {
    let drill = Drill::hold().await;
    let table = restore(&drill.world, &drill.backup).await;
    let text = |value: &str| AttributeValue::S(value.to_owned());
    let odd =
        Item::from([("pk".to_owned(), text("odd")), ("sk".to_owned(), text("row")), ("what".to_owned(), text("x"))]);
    drill.world.raw.put_item().table_name(LEDGER).set_item(Some(odd)).send().await.unwrap();
    let done = replay(&table, ReplayMode::Apply).await;
    assert_eq!(done.failures, ["odd row: the row cannot be read"]);
    drill.assert_replayed(&table).await;
}
