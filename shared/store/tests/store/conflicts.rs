//! What the embedded engine never does by itself: conflicts between transactions, throttling, lost answers.

use crate::agents::new_agent;
use crate::proxy::{Fault, Proxy};
use crate::support::{World, aws, credential_key, own, pairs, refused, secret};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use theazo_store::{
    AgentReports, Agents, Days, NewSession, Payer, ReportedCall, ReportedModels, SecretSealer, SessionFilter, Sessions,
    StoreError, Table, Usage, now_ms,
};

/// Part of what the service says beside its code; it must go nowhere.
const CHATTER: &str = "chatter of the service";
const OPERATION: &str = "TransactWriteItems";
/// Attempts of one transaction, as the store promises to bound them.
const ATTEMPTS: usize = 12;

fn canceled(reasons: &[&str]) -> String {
    let reasons: Vec<_> = reasons.iter().map(|code| serde_json::json!({ "Code": code, "Message": CHATTER })).collect();
    serde_json::json!({
        "__type": "com.amazonaws.dynamodb.v20120810#TransactionCanceledException",
        "Message": CHATTER,
        "CancellationReasons": reasons,
    })
    .to_string()
}

fn exception(code: &str) -> String {
    let kind = format!("com.amazonaws.dynamodb.v20120810#{code}");
    serde_json::json!({ "__type": kind, "message": CHATTER }).to_string()
}

fn fault(operation: &'static str, times: usize, body: String) -> Fault {
    Fault { operation, times, forward: false, status: 400, body }
}

/// The world's table through a proxy.
async fn disturbed(world: &World) -> (Proxy, Table) {
    let proxy = Proxy::start(&world.dynamodb_url).await;
    let table = Table::new(&aws(&proxy.url, &world.kms_url), "theazo").with_credential_key(credential_key());
    (proxy, table)
}

fn assert_code_only(error: &StoreError, operation: &str, code: &str) {
    let StoreError::Table { operation: at, code: said } = error else { panic!("{error:?}") };
    assert_eq!((*at, said.as_str()), (operation, code));
    assert!(!format!("{error} {error:?}").contains(CHATTER));
}

#[tokio::test]
async fn transactions_in_conflict_are_tried_again_until_they_succeed() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let (proxy, table) = disturbed(&world).await;
    proxy.inject(fault(OPERATION, 5, canceled(&["None", "TransactionConflict"])));
    let session = Sessions::new(table.clone()).create(&scope, &NewSession::default()).await.unwrap();
    let calls = proxy.calls(OPERATION);
    assert_eq!(calls.len(), 6);
    // A token remembers its first outcome; a new attempt needs a new one. The writes are the same.
    let tokens: HashSet<_> = calls.iter().map(|call| call["ClientRequestToken"].as_str().unwrap()).collect();
    assert_eq!(tokens.len(), 6);
    assert!(calls.iter().all(|call| call["TransactItems"] == calls[0]["TransactItems"]));
    assert!(world.sessions().get(&scope, &session.id).await.unwrap().is_some());

    proxy.inject(fault(OPERATION, 3, canceled(&["TransactionConflict", "None", "None", "None"])));
    let sealer = SecretSealer::new(table, world.keys.clone());
    let read = sealer.load(&scope, &own(&session)).await.unwrap();
    sealer.set(&scope, &own(&session), read, &[secret("A", "a")]).await.unwrap();
    assert_eq!(world.versions(&scope, &own(&session)).await["A"], 1);
    assert_eq!(world.delivered(&scope, &session.id).await.unwrap(), pairs(&[("A", "a")]));
}

#[tokio::test]
async fn passing_throttling_of_a_part_is_tried_again_as_well() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let (proxy, table) = disturbed(&world).await;
    let sessions = Sessions::new(table);
    for reason in ["ThrottlingError", "ProvisionedThroughputExceeded"] {
        proxy.inject(fault(OPERATION, 2, canceled(&["None", reason, "None"])));
        sessions.create(&scope, &NewSession::default()).await.unwrap();
    }
    proxy.inject(fault(OPERATION, 1, exception("TransactionInProgressException")));
    sessions.create(&scope, &NewSession::default()).await.unwrap();
}

#[tokio::test]
async fn a_condition_that_fails_beside_a_conflict_is_an_answer_and_not_tried_again() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let (proxy, table) = disturbed(&world).await;
    proxy.inject(fault(OPERATION, 1, canceled(&["ConditionalCheckFailed", "TransactionConflict", "None"])));
    let error = refused(Agents::new(table).begin_boot(&scope, &session, new_agent()).await);
    assert!(matches!(error, StoreError::Conflict(_)), "{error:?}");
    assert_eq!(proxy.calls(OPERATION).len(), 1);
}

#[tokio::test]
async fn endless_conflicts_end_after_a_bounded_number_of_attempts_and_write_nothing() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let before = world.scan().await;
    let (proxy, table) = disturbed(&world).await;
    proxy.inject(fault(OPERATION, usize::MAX, canceled(&["TransactionConflict", "None"])));
    let started = Instant::now();
    let mut waits = Vec::new();
    for round in 1..=2 {
        let began = Instant::now();
        let error = refused(Sessions::new(table.clone()).create(&scope, &NewSession::default()).await);
        assert!(matches!(error, StoreError::Contended(attempts) if attempts as usize == ATTEMPTS), "{error:?}");
        assert_eq!(proxy.calls(OPERATION).len(), round * ATTEMPTS);
        waits.push(began.elapsed());
    }
    assert!(started.elapsed() < Duration::from_secs(30), "{waits:?}");
    assert!(waits.iter().all(|wait| *wait > Duration::from_millis(20)), "it waits between attempts: {waits:?}");
    assert_eq!(world.scan().await, before);
}

#[tokio::test]
async fn a_transaction_that_can_never_succeed_is_not_tried_again() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let (proxy, table) = disturbed(&world).await;
    proxy.inject(fault(OPERATION, usize::MAX, canceled(&["None", "ItemCollectionSizeLimitExceeded"])));
    let error = refused(Sessions::new(table.clone()).create(&scope, &NewSession::default()).await);
    assert_code_only(&error, OPERATION, "ItemCollectionSizeLimitExceeded");
    proxy.inject(fault(OPERATION, usize::MAX, exception("ValidationException")));
    let error = refused(Sessions::new(table).create(&scope, &NewSession::default()).await);
    assert_code_only(&error, OPERATION, "ValidationException");
    assert_eq!(proxy.calls(OPERATION).len(), 2);
}

#[tokio::test]
async fn throttling_and_failures_of_the_service_surface_with_their_code_only() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let (proxy, table) = disturbed(&world).await;
    let sessions = Sessions::new(table);
    for code in ["ThrottlingException", "ProvisionedThroughputExceededException", "AccessDeniedException"] {
        proxy.inject(fault(OPERATION, usize::MAX, exception(code)));
        let error = refused(sessions.create(&scope, &NewSession::default()).await);
        assert_code_only(&error, OPERATION, code);
    }
    proxy.inject(fault("GetItem", usize::MAX, exception("ThrottlingException")));
    assert_code_only(&refused(sessions.get(&scope, &session.id).await), "GetItem", "ThrottlingException");
    proxy.inject(fault("Query", usize::MAX, exception("RequestLimitExceeded")));
    let page = theazo_store::PageRequest { limit: 10, after: None };
    let error = refused(sessions.list(&scope, &SessionFilter::default(), &page).await);
    assert_code_only(&error, "Query", "RequestLimitExceeded");
}

#[tokio::test]
async fn a_write_whose_answer_was_lost_happens_once() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let (proxy, table) = disturbed(&world).await;
    let lost = Fault { forward: true, status: 500, ..fault(OPERATION, 1, exception("InternalServerError")) };
    proxy.inject(lost);
    Agents::new(table).begin_boot(&scope, &session, new_agent()).await.unwrap();
    let calls = proxy.calls(OPERATION);
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[0]["ClientRequestToken"], calls[1]["ClientRequestToken"]);
    let counters = world.sessions().counters(&scope.session(&session.id).unwrap()).await.unwrap();
    assert_eq!((counters.active_agents, counters.total_agents), (1, 1));
}

#[tokio::test]
async fn a_claim_whose_answer_was_lost_is_counted_once_by_its_agent_and_its_user() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let agent = Agents::new(world.table.clone()).begin_boot(&scope, &session, new_agent()).await.unwrap();
    let (proxy, table) = disturbed(&world).await;
    let claim = ReportedCall { input_tokens: 10, output_tokens: 5, cost: 7 };
    let counted = async || {
        let of_agent = AgentReports::new(world.table.clone()).of_agent(&scope, &agent.id).await.unwrap();
        let (payer, today) = (Payer::of(&agent), Days::last(1, now_ms()));
        let of_user = Usage::new(world.table.clone()).of_payer(&scope, &payer, today).await.unwrap().claimed;
        let of_user = of_user.into_values().next().unwrap_or_default();
        (of_agent.models.unwrap_or_default(), of_user)
    };
    let times = |calls| ReportedModels { calls, input_tokens: 10 * calls, output_tokens: 5 * calls, cost: 7 * calls };
    for operation in [OPERATION, "UpdateItem"] {
        let lost = Fault { forward: true, status: 500, ..fault(operation, 1, exception("InternalServerError")) };
        proxy.inject(lost);
        AgentReports::new(table.clone()).model(&scope, &agent, &claim).await.unwrap();
        proxy.mend();
    }
    assert_eq!(counted().await, (times(2), times(2)));
    // One that is not made at all is in neither.
    proxy.inject(fault(OPERATION, usize::MAX, exception("AccessDeniedException")));
    refused(AgentReports::new(table.clone()).model(&scope, &agent, &claim).await);
    assert_eq!(counted().await, (times(2), times(2)));
}

#[tokio::test]
async fn a_service_that_is_not_there_is_unreachable_and_one_that_refuses_is_not() {
    let world = World::start().await;
    let scope = world.tenant().await;
    let session = world.session(&scope).await;
    let nobody = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("http://{}", listener.local_addr().unwrap())
    };
    let sessions = Sessions::new(Table::new(&aws(&nobody, &world.kms_url), "theazo"));
    let error = refused(sessions.get(&scope, &session.id).await);
    assert!(error.is_unreachable(), "{error:?}");
    let sessions = Sessions::new(Table::new(&aws(&world.dynamodb_url, &world.kms_url), "another"));
    let error = refused(sessions.get(&scope, &session.id).await);
    assert!(!error.is_unreachable(), "{error:?}");
    assert!(matches!(&error, StoreError::Table { code, .. } if code == "ResourceNotFoundException"), "{error:?}");
}
