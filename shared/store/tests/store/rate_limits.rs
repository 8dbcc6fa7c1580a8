//! Counting a credential's requests: by the second, in its own row, for all processes together.

use crate::credentials::{Company, claim};
use crate::proxy::{Fault, Proxy};
use crate::support::{World, aws, credential_key, number};
use std::time::Duration;
use theazo_store::{Admission, Credentials, RateLimits, SessionTokens, StoreError, Table, count_round_trips, now_ms};
use theazo_tenancy::{IssuedKey, Mode, Permissions, make_api_key, make_session_token};

const LIMITS: RateLimits = RateLimits { key: 3, token: 2, agent: 2 };

fn process(world: &World) -> Credentials {
    Credentials::new(world.table.clone(), LIMITS)
}

async fn admit(process: &Credentials, key: &IssuedKey) -> Admission {
    process.admit(&claim(key)).await.unwrap()
}

/// Has the credential's requests counted in that window, of which so many were made.
async fn in_window(world: &World, key: &IssuedKey, window: i64, hits: i64) {
    let place = claim(key).credential_key();
    let mut row = world.row(&place).await.unwrap();
    row.insert("window".into(), number(window));
    row.insert("hits".into(), number(hits));
    world.put(&place, row).await;
}

async fn counted(world: &World, key: &IssuedKey) -> (i64, i64) {
    let row = world.row(&claim(key).credential_key()).await.unwrap();
    let of = |name: &str| row[name].as_n().unwrap().parse().unwrap();
    (of("window"), of("hits"))
}

#[tokio::test]
async fn two_processes_share_a_credentials_limit_and_a_clock_that_is_ahead_gains_nothing() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    // Somebody's clock is an hour ahead; the window is open for as long as this test runs.
    let ahead = now_ms() / 1000 + 3600;
    in_window(&world, &company.live, ahead, 0).await;
    let processes = [process(&world), process(&world)];
    for request in 0..3 {
        let admission = admit(&processes[request % 2], &company.live).await;
        assert!(admission.record.is_some() && !admission.over_limit, "{request}");
        assert_eq!(counted(&world, &company.live).await, (ahead, request as i64 + 1));
    }
    for process in &processes {
        let admission = admit(process, &company.live).await;
        assert!(admission.record.is_some() && admission.over_limit);
    }
    assert_eq!(counted(&world, &company.live).await, (ahead, 3), "what is refused is not counted");
    assert!(!admit(&processes[0], &company.test).await.over_limit, "another credential has its own limit");
}

#[tokio::test]
async fn a_new_second_begins_to_count_anew_and_tokens_have_a_limit_of_their_own() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let caller = claim(&company.live);
    let admission = admit(&process(&world), &company.live).await;
    let caller = caller.prove(admission.record.as_ref(), now_ms()).unwrap();
    let session = world.session(&caller.scope()).await;
    let permissions = Permissions { exec: true };
    let minted = SessionTokens::new(world.table.clone()).mint(&caller, &session, i64::MAX, permissions).await;
    let token = minted.unwrap();
    for (key, limit) in [(&company.live, 3), (&token, 2)] {
        let before = now_ms() / 1000;
        in_window(&world, key, before - 1, 100).await;
        let process = process(&world);
        assert!(!admit(&process, key).await.over_limit);
        let (window, hits) = counted(&world, key).await;
        assert!(window >= before && hits == 1);

        in_window(&world, key, now_ms() / 1000 + 3600, limit - 1).await;
        assert!(!admit(&process, key).await.over_limit);
        assert!(admit(&process, key).await.over_limit);
    }
}

#[tokio::test]
async fn a_credential_that_is_not_there_is_not_written_to() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let session = world.session(&crate::support::operator().tenant(&company.id, Mode::Live)).await;
    let before = world.scan().await;
    let process = process(&world);
    for key in [make_api_key(&company.id, Mode::Live), make_session_token(&company.id, Mode::Live, &session.id)] {
        for _ in 0..5 {
            let admission = admit(&process, &key).await;
            assert!(admission.record.is_none() && !admission.over_limit);
        }
    }
    assert_eq!(world.scan().await, before);
}

#[tokio::test]
async fn a_process_that_counts_on_asks_once_and_one_that_guesses_wrong_twice() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let process = process(&world);
    // Beside it, always, whether the platform is suspended.
    for _ in 0..3 {
        let (_, made) = count_round_trips(admit(&process, &company.live)).await;
        assert_eq!((made.total, made.sequential), (2, 1));
    }
    // A window that others have opened already.
    in_window(&world, &company.test, now_ms() / 1000 + 3600, 0).await;
    let (_, made) = count_round_trips(admit(&process, &company.test)).await;
    assert_eq!((made.total, made.sequential), (3, 2));
}

#[tokio::test]
async fn a_credential_that_a_transaction_holds_is_counted_when_it_lets_go() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let proxy = Proxy::start(&world.dynamodb_url).await;
    let table = Table::new(&aws(&proxy.url, &world.kms_url), "theazo").with_credential_key(credential_key());
    let process = Credentials::new(table, LIMITS);
    let body = r#"{"__type":"com.amazonaws.dynamodb.v20120810#TransactionConflictException","message":"m"}"#;
    let held = |times| Fault { operation: "UpdateItem", times, forward: false, status: 400, body: body.into() };
    proxy.inject(held(3));
    assert!(admit(&process, &company.live).await.record.is_some());
    assert_eq!(proxy.calls("UpdateItem").len(), 4);
    proxy.inject(held(usize::MAX));
    let failed = process.admit(&claim(&company.live)).await.err().unwrap();
    assert!(matches!(failed, StoreError::Contended(8)), "{failed}");
    assert_eq!(proxy.calls("UpdateItem").len(), 12);
}

#[tokio::test]
async fn a_process_for_whom_every_call_takes_longer_than_a_window_is_admitted_beside_others() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let proxy = Proxy::start(&world.dynamodb_url).await;
    let table = Table::new(&aws(&proxy.url, &world.kms_url), "theazo").with_credential_key(credential_key());
    let process = Credentials::new(table, LIMITS);
    let begins = now_ms() / 1000 + 3600;
    in_window(&world, &company.live, begins, 0).await;
    proxy.delay(Duration::from_millis(300));
    // Others open one window after the other while a call of this one is on its way.
    let others = async {
        for window in begins.. {
            in_window(&world, &company.live, window, 0).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let admission = tokio::select! {
        admission = admit(&process, &company.live) => admission,
        () = others => unreachable!("windows do not end"),
    };
    assert!(admission.record.is_some() && !admission.over_limit);
    assert_eq!(proxy.calls("UpdateItem").len(), 2, "it finds out that there is a later window, and counts in that");
}

#[tokio::test]
async fn a_table_without_the_credential_key_admits_nobody() {
    let world = World::start().await;
    let company = Company::make(&world).await;
    let unkeyed = Table::new(&aws(&world.dynamodb_url, &world.kms_url), "theazo");
    let failed = Credentials::new(unkeyed, LIMITS).admit(&claim(&company.live)).await.err().unwrap();
    assert!(matches!(failed, StoreError::NoCredentialKey), "{failed}");
}
