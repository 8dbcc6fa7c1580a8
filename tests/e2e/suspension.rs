//! A platform that the operator suspends, and what its users find.

use crate::harness::{Client, Platform, own_deployment};
use serde_json::{Value, json};
use std::time::Duration;
use theazo_functions::reconcile::{Boots, reconcile};
use theazo_store::{AgentStatus, Agents, PausedBy, PlatformSuspension};
use theazo_tenancy::{AgentId, Mode, Operator, make_api_key};

#[expect(clippy::disallowed_methods, reason = "a test suspends as the operator does")]
fn operator() -> Operator {
    Operator::assume()
}

fn suspension() -> PlatformSuspension {
    PlatformSuspension::new(own_deployment().table().clone(), operator())
}

/// Every kind of call is refused by that name, and by one round trip.
async fn assert_refused(client: &Client, path: &str) {
    let answer = client.get(path).await;
    assert_eq!(answer.round_trips(), 1);
    let refused = answer.expect_error(403, "forbidden");
    assert_eq!(refused["details"], json!({ "reason": "platform_suspended" }), "{path}");
}

#[tokio::test]
async fn a_suspended_platform_is_refused_whoever_calls_and_its_agents_keep_their_files() {
    let (platform, other) = (Platform::make("suspended").await, Platform::make("not suspended").await);
    let client = &platform.client;
    let with_test_key = client.with_key(Some(&platform.test_key));
    let session = with_test_key.session("u").await;
    with_test_key.set_secrets(&session, json!({ "TOKEN": "a value that is kept" })).await;
    let agent = with_test_key.boot(&session, json!({})).await;
    let file = json!({ "path": "/data/kept", "data": "kept" });
    with_test_key.post(&format!("/v1/agents/{agent}/files"), file).await.expect(204);
    let minted = with_test_key.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    let token = client.with_key(minted["token"].as_str());
    token.get("/v1/whoami").await.expect(200);

    suspension().suspend(&platform.id).await.unwrap();
    suspension().suspend(&platform.id).await.unwrap();
    for caller in [client, &with_test_key, &token] {
        for path in ["/v1/whoami".to_owned(), "/v1/logs".to_owned(), format!("/v1/agents/{agent}")] {
            assert_refused(caller, &path).await;
        }
    }
    let path = format!("/v1/sessions/{session}/secrets");
    with_test_key.post(&path, json!({ "TOKEN": "another" })).await.expect_error(403, "forbidden");
    // It is told to nobody without a good credential.
    let unknown = make_api_key(&platform.id, Mode::Live);
    client.with_key(Some(&unknown.text)).get("/v1/whoami").await.expect_error(401, "unauthorized");
    other.client.get("/v1/whoami").await.expect(200);

    let agents = Agents::new(own_deployment().table().clone());
    let scope = operator().tenant(&platform.id, Mode::Test);
    let mut paused = None;
    // The stack's own clean-up may have begun it.
    for _ in 0..50 {
        reconcile(&own_deployment(), Boots::UnderWay).await.unwrap();
        let agent = agents.get(&scope, &AgentId::parse(&agent).unwrap()).await.unwrap().unwrap();
        if agent.status == AgentStatus::Paused {
            paused = Some(agent);
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let paused = paused.expect("reconciling pauses it");
    assert_eq!((paused.status.as_str(), paused.paused_by), ("paused", Some(PausedBy::Operator)));

    suspension().resume(&platform.id).await.unwrap();
    suspension().resume(&platform.id).await.unwrap();
    let logs = with_test_key.get(&format!("/v1/logs?agentId={agent}&level=warn")).await.expect(200);
    assert_eq!(logs["data"][0]["message"], "the operator has suspended the platform");
    // Its users cannot undo it, the platform can.
    let resume = format!("/v1/agents/{agent}/resume");
    token.call("POST", &resume, None).await.expect_error(403, "forbidden");
    with_test_key.call("POST", &resume, None).await.expect(200);
    let read = with_test_key.get(&format!("/v1/agents/{agent}/files/data/kept")).await.expect(200);
    assert_eq!(read["data"], "kept");
    let trail = client.get("/v1/audit").await.expect(200);
    let actions: Vec<&Value> = trail["data"].as_array().unwrap().iter().map(|entry| &entry["action"]).collect();
    for action in ["platform.suspend", "platform.resume"] {
        assert_eq!(actions.iter().filter(|told| **told == action).count(), 1, "{actions:?}");
    }
    with_test_key.terminate(&session).await;
}
