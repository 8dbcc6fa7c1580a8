//! API keys and sessions' tokens in the table: accepted as they were written and in no other way, managed, revoked.

use crate::support::{Item, World, number, operator, refused, text};
use futures_util::future::{join, join_all};
use std::sync::Arc;
use theazo_store::{
    ApiKeys, Credentials, NewApiKey, PageRequest, Platforms, RateLimits, SessionTokens, StoreError, now_ms,
};
use theazo_tenancy::{
    Claim, IssuedKey, KeyId, Mode, Permissions, PlatformId, Principal, TableKey, make_api_key, make_session_token,
};

const ALL: PageRequest = PageRequest { limit: 100, after: None };
const EXEC: Permissions = Permissions { exec: true };
const HOUR_MS: i64 = 60 * 60 * 1000;

/// A platform with its first keys.
pub struct Company {
    pub id: PlatformId,
    pub live: IssuedKey,
    pub test: IssuedKey,
}

impl Company {
    pub async fn make(world: &World) -> Self {
        let made = Platforms::new(world.table.clone(), operator()).create("a company").await.unwrap();
        Self { id: made.platform.id, live: made.live, test: made.test }
    }
}

pub fn claim(key: &IssuedKey) -> Claim {
    Claim::parse(&key.text).unwrap()
}

/// Who a request with this credential comes from, if anybody takes it.
async fn admitted(world: &World, key: &IssuedKey) -> Option<Principal> {
    let credentials = Credentials::new(world.table.clone(), RateLimits::default());
    let admission = credentials.admit(&claim(key)).await.unwrap();
    claim(key).prove(admission.record.as_ref(), now_ms()).ok()
}

/// Whether a row was found that the deployment wrote just so.
async fn is_sealed(world: &World, key: &IssuedKey) -> bool {
    let credentials = Credentials::new(world.table.clone(), RateLimits::default());
    credentials.admit(&claim(key)).await.unwrap().record.is_some()
}

fn place(key: &IssuedKey) -> TableKey {
    claim(key).credential_key()
}

fn named(name: &str, mode: Mode, expires_at_ms: Option<i64>) -> NewApiKey {
    NewApiKey { name: name.into(), mode, expires_at_ms }
}

async fn ids(world: &World, caller: &Principal) -> Vec<KeyId> {
    let page = ApiKeys::new(world.table.clone()).list(&caller.scope(), &ALL).await.unwrap();
    page.rows.into_iter().map(|key| key.id).collect()
}

fn edited(row: &Item, column: &str, value: Option<aws_sdk_dynamodb::types::AttributeValue>) -> Item {
    let mut row = row.clone();
    match value {
        Some(value) => row.insert(column.into(), value),
        None => row.remove(column),
    };
    row
}

#[tokio::test]
async fn a_credential_whose_row_was_edited_is_refused_whatever_was_edited() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = admitted(&world, &company.live).await.unwrap();
    let session = world.session(&caller.scope()).await;
    let tokens = SessionTokens::new(world.table.clone());
    let read = Permissions { exec: false };
    let token = tokens.mint(&caller, &session, now_ms() + HOUR_MS, read).await.unwrap();
    let other = PlatformId::make();
    for key in [&company.live, &token] {
        let row = world.row(&place(key)).await.unwrap();
        let edits = [
            ("id", Some(text(KeyId::make().as_str()))),
            ("kind", Some(text("agent"))),
            ("platform", Some(text(other.as_str()))),
            ("mode", Some(text("test"))),
            ("mode", Some(text("other"))),
            ("hash", Some(text(&"0".repeat(64)))),
            ("cursor_key", Some(text(&"0".repeat(64)))),
            ("expires_at_ms", Some(number(now_ms() + 2 * HOUR_MS))),
            ("session", Some(text("ses_00000000000000000000000000"))),
            ("agent", Some(text("agt_00000000000000000000000000"))),
            ("epoch", Some(number(1))),
            ("may_exec", Some(aws_sdk_dynamodb::types::AttributeValue::Bool(std::ptr::eq(key, &token)))),
            ("mac", Some(text(&"0".repeat(64)))),
            ("mac", Some(text("x"))),
            ("mac", None),
            ("id", None),
        ];
        for (column, value) in edits {
            world.put(&place(key), edited(&row, column, value)).await;
            assert!(!is_sealed(&world, key).await, "{column}");
        }
        world.put(&place(key), edited(&row, "hits", Some(number(0)))).await;
        assert!(admitted(&world, key).await.is_some(), "put back");
    }
    // A token without an end.
    let row = world.row(&place(&token)).await.unwrap();
    world.put(&place(&token), edited(&row, "expires_at_ms", None)).await;
    assert!(!is_sealed(&world, &token).await);
}

#[tokio::test]
async fn a_credential_that_somebody_else_wrote_is_none() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = admitted(&world, &company.live).await.unwrap();
    let session = world.session(&caller.scope()).await;
    let row = world.row(&place(&company.live)).await.unwrap();
    let forged = make_api_key(&company.id, Mode::Live);
    let forged_token = make_session_token(&company.id, Mode::Live, &session.id);
    for key in [&forged, &forged_token] {
        for mac in [None, row.get("mac").cloned()] {
            let mut inserted = edited(&row, "hash", Some(text(&hex(&key.hash))));
            inserted = edited(&inserted, "mac", mac);
            if std::ptr::eq(key, &forged_token) {
                inserted = edited(&inserted, "kind", Some(text("session")));
                inserted = edited(&inserted, "session", Some(text(session.id.as_str())));
            }
            world.put(&place(key), inserted).await;
            assert!(!is_sealed(&world, key).await);
        }
        // The whole row of a good key under another's hash.
        world.put(&place(key), row.clone()).await;
        assert!(admitted(&world, key).await.is_none());
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn a_revoked_key_stays_revoked_when_the_revocation_is_edited_away() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = admitted(&world, &company.live).await.unwrap();
    let keys = ApiKeys::new(world.table.clone());
    let (shown, key) = keys.create(&caller, &named("spare", Mode::Live, None)).await.unwrap();
    assert!(admitted(&world, &key).await.is_some());
    keys.revoke(&caller.scope(), &shown.id, false).await.unwrap();
    assert!(admitted(&world, &key).await.is_none());
    let row = world.row(&place(&key)).await.unwrap();
    assert!(!row.contains_key("mac") && row.contains_key("ttl"));
    world.put(&place(&key), edited(&row, "revoked_at_ms", None)).await;
    assert!(!is_sealed(&world, &key).await);
    assert!(matches!(refused(keys.revoke(&caller.scope(), &shown.id, true).await), StoreError::NotFound));
}

#[tokio::test]
async fn rotating_seals_no_row_that_is_not_ours() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = admitted(&world, &company.live).await.unwrap();
    let keys = ApiKeys::new(world.table.clone());
    let (shown, key) = keys.create(&caller, &named("app", Mode::Live, None)).await.unwrap();
    let listed = caller.scope().platform_wide().unwrap().api_keys().row(shown.id.as_str());
    let (list_row, row) = (world.row(&listed).await.unwrap(), world.row(&place(&key)).await.unwrap());

    // The thief's key in the place where the platform finds its own.
    let thief = make_api_key(&company.id, Mode::Live);
    world.put(&place(&thief), edited(&row, "hash", Some(text(&hex(&thief.hash))))).await;
    world.put(&listed, edited(&list_row, "hash", Some(text(&hex(&thief.hash))))).await;
    assert!(matches!(refused(keys.rotate(&caller, &shown.id, HOUR_MS).await), StoreError::NotFound));
    assert!(admitted(&world, &thief).await.is_none());
    // A good credential of ours, but another one.
    let test = claim(&company.test).credential_key();
    let test_hash = world.row(&test).await.unwrap()["hash"].clone();
    world.put(&listed, edited(&list_row, "hash", Some(test_hash))).await;
    assert!(matches!(refused(keys.rotate(&caller, &shown.id, HOUR_MS).await), StoreError::NotFound));
    world.put(&listed, edited(&list_row, "mode", Some(text("test")))).await;
    assert!(matches!(refused(keys.rotate(&caller, &shown.id, HOUR_MS).await), StoreError::NotFound));

    world.put(&listed, list_row).await;
    let (next, successor) = keys.rotate(&caller, &shown.id, HOUR_MS).await.unwrap();
    assert_eq!((next.name.as_str(), next.expires_at_ms), ("app", None));
    let old = admitted(&world, &key).await.unwrap();
    let ends = old.expires_at_ms().unwrap() - now_ms();
    assert!((HOUR_MS - 60_000..=HOUR_MS).contains(&ends), "{ends}");
    assert_eq!(admitted(&world, &successor).await.unwrap().expires_at_ms(), None);
    assert!(matches!(refused(keys.rotate(&caller, &shown.id, HOUR_MS).await), StoreError::Conflict(_)));
}

#[tokio::test]
async fn revoking_a_key_whose_row_was_led_astray_is_never_said_to_be_done_and_takes_nobody_elses() {
    let world = World::start().await;
    let (company, other) = (Company::make(&world).await, Company::make(&world).await);
    let caller = admitted(&world, &company.live).await.unwrap();
    let keys = ApiKeys::new(world.table.clone());
    let (shown, key) = keys.create(&caller, &named("app", Mode::Live, None)).await.unwrap();
    let listed = caller.scope().platform_wide().unwrap().api_keys().row(shown.id.as_str());
    let list_row = world.row(&listed).await.unwrap();
    let stays = async |hash: aws_sdk_dynamodb::types::AttributeValue| {
        world.put(&listed, edited(&list_row, "hash", Some(hash))).await;
        let outcome = keys.revoke(&caller.scope(), &shown.id, false).await;
        assert!(matches!(outcome, Err(StoreError::Corrupt(_))), "{outcome:?}");
        for good in [&key, &company.test, &other.live] {
            assert!(admitted(&world, good).await.is_some(), "it was revoked in its place");
        }
    };
    for strangers in [&company.test, &other.live] {
        stays(text(&hex(&strangers.hash))).await;
    }
    // A row that says of itself to be that key, where it is not.
    let planted = make_api_key(&company.id, Mode::Live);
    let copied = world.row(&place(&key)).await.unwrap();
    world.put(&place(&planted), edited(&copied, "hash", Some(text(&hex(&planted.hash))))).await;
    stays(text(&hex(&planted.hash))).await;
    // One that is listed as over, and is not.
    world.put(&listed, edited(&list_row, "expires_at_ms", Some(number(now_ms() - HOUR_MS)))).await;
    keys.revoke(&caller.scope(), &shown.id, false).await.unwrap();
    assert!(admitted(&world, &key).await.is_none());
    assert!(matches!(refused(keys.revoke(&caller.scope(), &shown.id, false).await), StoreError::NotFound));
}

#[tokio::test]
async fn a_rotated_key_ends_no_later_than_it_would_have_and_its_successor_has_the_same_life() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = admitted(&world, &company.live).await.unwrap();
    let keys = ApiKeys::new(world.table.clone());
    let end = now_ms() + 2 * HOUR_MS;
    let (shown, key) = keys.create(&caller, &named("app", Mode::Test, Some(end))).await.unwrap();
    assert_eq!(admitted(&world, &key).await.unwrap().mode(), Mode::Test);
    let (next, _) = keys.rotate(&caller, &shown.id, 24 * HOUR_MS).await.unwrap();
    assert_eq!(admitted(&world, &key).await.unwrap().expires_at_ms(), Some(end));
    let life = next.expires_at_ms.unwrap() - next.created_at_ms;
    assert!((life - 2 * HOUR_MS).abs() < 60_000, "{life}");
    assert_eq!(next.mode, "test");
}

#[tokio::test]
async fn a_key_that_is_rotated_while_it_is_revoked_loses_neither() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = admitted(&world, &company.live).await.unwrap();
    let scope = caller.scope();
    let keys = ApiKeys::new(world.table.clone());
    let mut both = 0;
    for _ in 0..60 {
        let (shown, _) = keys.create(&caller, &named("app", Mode::Live, None)).await.unwrap();
        let (rotated, revoked) =
            join(keys.rotate(&caller, &shown.id, HOUR_MS), keys.revoke(&scope, &shown.id, false)).await;
        revoked.unwrap();
        let row = world.row(&scope.platform_wide().unwrap().api_keys().row(shown.id.as_str())).await.unwrap();
        assert!(row.contains_key("revoked_at_ms"));
        // Whoever came first, the other has seen it.
        let successor = rotated.as_ref().ok().map(|(next, _)| text(next.id.as_str()));
        assert_eq!(row.get("successor"), successor.as_ref());
        both += usize::from(successor.is_some());
        if let Ok((next, _)) = rotated {
            keys.revoke(&scope, &next.id, false).await.unwrap();
        }
    }
    assert!(both > 0, "no revocation came second");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_many_who_revoke_one_key_at_once_one_does_and_to_the_others_it_is_gone() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = admitted(&world, &company.live).await.unwrap();
    let (keys, scope) = (ApiKeys::new(world.table.clone()), caller.scope());
    for _ in 0..10 {
        let (shown, _) = keys.create(&caller, &named("app", Mode::Test, None)).await.unwrap();
        let outcomes = (0..12).map(|_| {
            let (keys, scope, id) = (keys.clone(), scope.clone(), shown.id.clone());
            tokio::spawn(async move { keys.revoke(&scope, &id, false).await })
        });
        let mut done = 0;
        for outcome in join_all(outcomes).await {
            match outcome.unwrap() {
                Ok(()) => done += 1,
                Err(error) => assert!(matches!(error, StoreError::NotFound), "{error:?}"),
            }
        }
        assert_eq!(done, 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_that_ends_sooner_than_its_overlap_is_rotated_once_by_many_at_once() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = Arc::new(admitted(&world, &company.live).await.unwrap());
    let keys = ApiKeys::new(world.table.clone());
    for _ in 0..10 {
        // Its credential stays as it is: it ends when it would have.
        let (shown, _) = keys.create(&caller, &named("app", Mode::Test, Some(now_ms() + HOUR_MS))).await.unwrap();
        let outcomes = (0..8).map(|_| {
            let (keys, caller, id) = (keys.clone(), caller.clone(), shown.id.clone());
            tokio::spawn(async move { keys.rotate(&caller, &id, 24 * HOUR_MS).await })
        });
        let mut made = 0;
        for outcome in join_all(outcomes).await {
            match outcome.unwrap() {
                Ok((successor, _)) => {
                    made += 1;
                    keys.revoke(&caller.scope(), &successor.id, false).await.unwrap();
                }
                Err(error) => assert!(matches!(error, StoreError::Conflict(_)), "{error:?}"),
            }
        }
        assert_eq!(made, 1);
    }
}

#[tokio::test]
async fn of_the_last_two_live_keys_one_stays_however_they_are_revoked() {
    let world = World::start().await;
    let keys = ApiKeys::new(world.table.clone());
    for (first, second) in [(None, None), (Some(HOUR_MS), Some(2 * HOUR_MS)), (None, Some(HOUR_MS))] {
        let company = Company::make(&world).await;
        let caller = admitted(&world, &company.live).await.unwrap();
        let scope = caller.scope();
        let made = [("one", first), ("two", second)].map(|(name, life)| {
            let (keys, caller) = (keys.clone(), &caller);
            async move { keys.create(caller, &named(name, Mode::Live, life.map(|life| now_ms() + life))).await.unwrap() }
        });
        let made = join_all(made).await;
        keys.revoke(&scope, caller.credential_id(), false).await.unwrap();

        let outcomes = join_all(made.iter().map(|(key, _)| keys.revoke(&scope, &key.id, false))).await;
        let revoked = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        assert_eq!(revoked, 1, "{outcomes:?}");
        assert!(outcomes.iter().any(|outcome| matches!(outcome, Err(StoreError::Conflict(_)))), "{outcomes:?}");
        let mut left = 0;
        for (_, key) in &made {
            left += usize::from(admitted(&world, key).await.is_some());
        }
        assert_eq!(left, 1);
        // Forced, the last one goes too.
        let last = outcomes.iter().position(Result::is_err).unwrap();
        keys.revoke(&scope, &made[last].0.id, true).await.unwrap();
        assert!(admitted(&world, &made[last].1).await.is_none());
    }
}

#[tokio::test]
async fn a_key_that_is_over_does_not_count_as_the_one_that_is_left() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = admitted(&world, &company.live).await.unwrap();
    let keys = ApiKeys::new(world.table.clone());
    let (over, key) = keys.create(&caller, &named("over", Mode::Live, Some(now_ms() + 300))).await.unwrap();
    tokio::time::sleep(std::time::Duration::from_millis(350)).await;
    assert!(admitted(&world, &key).await.is_none());
    let refusal = refused(keys.revoke(&caller.scope(), caller.credential_id(), false).await);
    assert!(matches!(refusal, StoreError::Conflict(_)), "{refusal}");
    assert!(matches!(refused(keys.revoke(&caller.scope(), &over.id, true).await), StoreError::NotFound));
    assert_eq!(ids(&world, &caller).await.len(), 2, "what is over is not listed");
    // Nor does one that was rotated and is good for some time yet: its successor is the last.
    let (rotated, _) = keys.create(&caller, &named("rotated", Mode::Live, None)).await.unwrap();
    let (successor, _) = keys.rotate(&caller, &rotated.id, HOUR_MS).await.unwrap();
    keys.revoke(&caller.scope(), caller.credential_id(), false).await.unwrap();
    let refusal = refused(keys.revoke(&caller.scope(), &successor.id, false).await);
    assert!(matches!(refusal, StoreError::Conflict(_)), "{refusal}");
    keys.revoke(&caller.scope(), &rotated.id, false).await.unwrap();
    // A test key is nobody's last.
    let test = admitted(&world, &company.test).await.unwrap();
    keys.revoke(&caller.scope(), test.credential_id(), false).await.unwrap();
}

#[tokio::test]
async fn a_test_key_manages_test_keys_only_and_use_is_shown_to_the_second() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let live = admitted(&world, &company.live).await.unwrap();
    let test = admitted(&world, &company.test).await.unwrap();
    let keys = ApiKeys::new(world.table.clone());
    assert_eq!(ids(&world, &test).await, [test.credential_id().clone()]);
    assert_eq!(ids(&world, &live).await.len(), 2);
    for outcome in [
        keys.revoke(&test.scope(), live.credential_id(), true).await,
        keys.rotate(&test, live.credential_id(), 0).await.map(|_| ()),
    ] {
        assert!(matches!(refused(outcome), StoreError::NotFound));
    }
    let (unused, _) = keys.create(&live, &named("unused", Mode::Live, None)).await.unwrap();
    let all = keys.list(&live.scope(), &ALL).await.unwrap().rows;
    let used = keys.last_used(&live.scope(), &all).await.unwrap();
    assert!(!used.contains_key(&unused.id));
    let at = used[live.credential_id()];
    assert!(at % 1000 == 0 && (now_ms() - at).abs() < 60_000, "{at}");
}

#[tokio::test]
async fn a_token_ends_with_its_session_with_its_sessions_tokens_and_with_its_time() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = admitted(&world, &company.live).await.unwrap();
    let scope = caller.scope();
    let (session, other) = (world.session(&scope).await, world.session(&scope).await);
    let tokens = SessionTokens::new(world.table.clone());
    let end = now_ms() + HOUR_MS;
    let first = tokens.mint(&caller, &session, end, EXEC).await.unwrap();
    let others = tokens.mint(&caller, &other, end, Permissions { exec: false }).await.unwrap();
    let short = tokens.mint(&caller, &other, now_ms() + 200, EXEC).await.unwrap();
    assert!(world.row(&place(&first)).await.unwrap().contains_key("ttl"));
    let user = admitted(&world, &first).await.unwrap();
    assert_eq!((user.session(), user.expires_at_ms(), user.permissions()), (Some(&session.id), Some(end), EXEC));
    assert!(!admitted(&world, &others).await.unwrap().permissions().exec);

    tokens.revoke_all(&scope, &session.id).await.unwrap();
    assert!(admitted(&world, &first).await.is_none() && admitted(&world, &others).await.is_some());
    // What was read before the revocation is out of date, and read again.
    let second = tokens.mint(&caller, &session, end, EXEC).await.unwrap();
    assert!(admitted(&world, &second).await.is_some() && admitted(&world, &first).await.is_none());
    tokio::time::sleep(std::time::Duration::from_millis(250)).await;
    assert!(admitted(&world, &short).await.is_none());

    world.sessions().terminate(&scope, &session.id).await.unwrap();
    assert!(admitted(&world, &second).await.is_none());
    assert!(matches!(refused(tokens.mint(&caller, &session, end, EXEC).await), StoreError::Conflict(_)));
    assert!(admitted(&world, &others).await.is_some());
    let nowhere = theazo_tenancy::SessionId::make();
    assert!(matches!(refused(tokens.revoke_all(&scope, &nowhere).await), StoreError::NotFound));
}

#[tokio::test]
async fn a_session_without_an_epoch_is_in_its_first() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = admitted(&world, &company.live).await.unwrap();
    let scope = caller.scope();
    let session = world.session(&scope).await;
    let own = scope.session(&session.id).unwrap().key();
    let row = world.row(&own).await.unwrap();
    world.put(&own, edited(&row, "token_epoch", None)).await;
    let tokens = SessionTokens::new(world.table.clone());
    let token = tokens.mint(&caller, &session, now_ms() + HOUR_MS, EXEC).await.unwrap();
    assert!(admitted(&world, &token).await.is_some());
    tokens.revoke_all(&scope, &session.id).await.unwrap();
    assert!(admitted(&world, &token).await.is_none());
    assert_eq!(world.row(&own).await.unwrap()["token_epoch"], number(1));
}

#[tokio::test]
async fn of_a_tokens_session_it_is_known_whether_it_is_paused() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = admitted(&world, &company.live).await.unwrap();
    let scope = caller.scope();
    let session = world.session(&scope).await;
    let tokens = SessionTokens::new(world.table.clone());
    let token = tokens.mint(&caller, &session, now_ms() + HOUR_MS, EXEC).await.unwrap();
    let credentials = Credentials::new(world.table.clone(), RateLimits::default());
    let is_paused = async |key| credentials.admit(&claim(key)).await.unwrap().session_is_paused;
    assert!(!is_paused(&token).await);
    world.sessions().pause(&scope, &session.id).await.unwrap();
    assert!(is_paused(&token).await && !is_paused(&company.live).await);
    world.sessions().resume(&scope, &session.id).await.unwrap();
    assert!(!is_paused(&token).await);
}
