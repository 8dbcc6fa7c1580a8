//! What one platform's provider does or does not do holds up nobody else's agents.

use crate::e2b::sandboxes_of;
use crate::harness::{E2B_KEY, OwnStack, Platform, e2b_emulator, start_e2b_emulator};
use serde_json::json;
use std::time::{Duration, Instant};
use theazo_e2b_emulator::{Fault, FaultKind};
use theazo_functions::reconcile::{Boots, reconcile};

/// More than are looked after side by side, each of which takes its provider's whole time.
const AGENTS: usize = 6;
/// Longer than a provider is given.
const SILENCE: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_whose_provider_does_not_answer_hold_up_no_other_platforms_limits() {
    // A stack of its own: those of other tests would wait here too.
    let (own, client) = OwnStack::start(None).await;
    client.post("/v1/secrets", json!({ "E2B_API_KEY": E2B_KEY })).await.expect(204);
    client.call("PUT", "/v1/providers/e2b", Some(&json!({ "credentialRef": "E2B_API_KEY" }))).await.expect(200);
    let session = client.session("u").await;
    for _ in 0..AGENTS {
        let agent = client.boot(&session, json!({ "provider": "e2b" })).await;
        // Whoever pauses it, now or later in this test, hears nothing.
        for sandbox in sandboxes_of(&agent).await {
            let millis = SILENCE.as_millis() as u64;
            let path = format!("{sandbox}/pause");
            let fault = Fault { method: "POST".into(), path, times: 20, kind: FaultKind::Delay { millis } };
            e2b_emulator().controls.fault(fault);
        }
    }
    let other = Platform::make_on(&own.stack, "beside it").await.test_key;
    let with_test_key = client.with_key(Some(&other));
    let short = json!({ "limits": { "maxDuration": { "seconds": 1 } } });
    let short = with_test_key.post("/v1/sessions", short).await.expect(201)["id"].as_str().unwrap().to_owned();
    let agent = with_test_key.boot(&short, json!({})).await;
    let limits = json!({ "maxDuration": { "seconds": 1 } });
    client.call("PATCH", &format!("/v1/sessions/{session}/limits"), Some(&limits)).await.expect(200);
    tokio::time::sleep(Duration::from_millis(1100)).await;

    let began = Instant::now();
    let run = reconcile(own.stack.deployment(), Boots::UnderWay);
    let paused = async {
        while with_test_key.get(&format!("/v1/agents/{agent}/status")).await.expect(200)["status"] != "paused" {
            assert!(began.elapsed() < Duration::from_secs(25), "it was held up");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let (outcome, ()) = futures_util::future::join(run, paused).await;
    assert!(began.elapsed() < Duration::from_secs(110), "a run ends before its function does");
    let outcome = outcome.unwrap();
    // By this run, or by the stack's own, which may have begun them.
    let listed = client.get(&format!("/v1/sessions/{session}/agents?status=ready")).await.expect(200);
    let left = listed["data"].as_array().unwrap().len();
    assert!(left > 0 && outcome.over_limit < AGENTS, "some are still to be paused: {left}, {outcome:?}");
    client.terminate(&session).await;
    with_test_key.terminate(&short).await;
    own.stop().await;
}

/// More than are asked side by side.
const SILENT_ACCOUNTS: usize = 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn accounts_that_are_silent_take_no_more_of_anybodys_time_the_more_there_are() {
    let emulator = start_e2b_emulator("e2b-silent-accounts").await;
    let (own, client) = OwnStack::start_with(None, |config| {
        config.e2b = emulator.endpoints.clone();
        config.reconcile_every = Duration::from_secs(3_600);
    })
    .await;
    for index in 0..SILENT_ACCOUNTS {
        let platform = Platform::make_on(&own.stack, &format!("silent {index}")).await;
        platform.client.post("/v1/secrets", json!({ "E2B_API_KEY": E2B_KEY })).await.expect(204);
        let configured = json!({ "credentialRef": "E2B_API_KEY" });
        platform.client.call("PUT", "/v1/providers/e2b", Some(&configured)).await.expect(200);
    }
    let with_test_key = client.with_key(Some(&Platform::make_on(&own.stack, "beside them").await.test_key));
    let short = json!({ "limits": { "maxDuration": { "seconds": 1 } } });
    let short = with_test_key.post("/v1/sessions", short).await.expect(201)["id"].as_str().unwrap().to_owned();
    let agent = with_test_key.boot(&short, json!({})).await;
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let kind = FaultKind::Delay { millis: SILENCE.as_millis() as u64 };
    emulator.controls.fault(Fault { method: "GET".into(), path: "/".into(), times: 10_000, kind });

    let began = Instant::now();
    let run = reconcile(own.stack.deployment(), Boots::UnderWay);
    let paused = async {
        while with_test_key.get(&format!("/v1/agents/{agent}/status")).await.expect(200)["status"] != "paused" {
            // An account has eighteen seconds, and those that are asked after others begin two seconds later.
            assert!(began.elapsed() < Duration::from_secs(30), "it waited for one after the other");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    };
    let (outcome, ()) = futures_util::future::join(run, paused).await;
    assert_eq!(outcome.unwrap().postponed, SILENT_ACCOUNTS, "all were asked");
    with_test_key.terminate(&short).await;
    own.stop().await;
}
