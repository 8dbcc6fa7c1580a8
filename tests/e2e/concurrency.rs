//! Many callers at once: counters that limit never let one too many through.

use crate::harness::{Client, Platform, docker_engine};
use futures_util::future::join_all;
use serde_json::json;
use std::collections::HashSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};
use theazo_functions::deployment::DockerEngine;
use theazo_local::{Stack, StackConfig};

#[tokio::test]
async fn fifty_parallel_calls_by_user_yield_one_session() {
    let platform = Platform::make("by-user at once").await;
    let client = &platform.client;
    let sessions: HashSet<String> = join_all((0..50).map(|_| client.session("same"))).await.into_iter().collect();
    assert_eq!(sessions.len(), 1);
    let listed = client.get("/v1/sessions?userId=same").await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn fifty_parallel_creates_against_a_limit_of_three_yield_exactly_three() {
    let platform = Platform::make("creates at once").await;
    let client = &platform.client;
    let limits = json!({ "limits": { "maxAgents": 3 } });
    let session = client.post("/v1/sessions", limits).await.expect(201)["id"].as_str().unwrap().to_owned();
    let agents = format!("/v1/sessions/{session}/agents");
    let answers = join_all((0..50).map(|_| client.post(&agents, json!({})))).await;
    let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
    assert_eq!(made.len(), 3);
    for answer in refused {
        let error = answer.expect_error(402, "session_limit_exceeded");
        assert_eq!(error["details"], json!({ "limit": "maxAgents", "used": 3, "max": 3 }));
    }
    let used = client.get(&format!("/v1/sessions/{session}/limits")).await.expect(200);
    assert_eq!(used["maxAgents"], json!({ "limit": 3, "used": 3, "remaining": 0, "percentage": 100.0 }));

    let first = made[0].json()["id"].as_str().unwrap().to_owned();
    let terminate = format!("/v1/agents/{first}/terminate");
    let ends = join_all((0..5).map(|_| client.call("POST", &terminate, None))).await;
    assert!(ends.into_iter().all(|end| end.expect(200)["status"] == "completed"));
    let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!((&usage["activeAgents"], &usage["totalAgentsCreated"]), (&json!(2), &json!(3)));
    client.boot(&session, json!({})).await;
    client.post(&agents, json!({})).await.expect_error(402, "session_limit_exceeded");
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_create_that_fails_leaves_nothing_and_gives_its_place_back() {
    let engine = tokio::task::spawn_blocking(docker_engine).await.unwrap();
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let folder = std::env::temp_dir().join(format!("theazo-no-image-{}", std::process::id()));
    let stack = Stack::start(StackConfig {
        data_dir: folder.clone(),
        listen: loopback,
        dynamodb_listen: loopback,
        docker: Some(DockerEngine { image: "theazo-agent:there-is-no-such-image".into(), ..engine.clone() }),
    })
    .await
    .unwrap();
    let key = std::fs::read_to_string(folder.join("api-key")).unwrap();
    let client = Client::new(stack.base_url(), Some(key.trim()));
    let limits = json!({ "limits": { "maxAgents": 1 } });
    let session = client.post("/v1/sessions", limits).await.expect(201)["id"].as_str().unwrap().to_owned();
    client.set_secrets(&session, json!({ "A": "a value of the vault" })).await;

    for _ in 0..2 {
        let started = Instant::now();
        let failed = client.post(&format!("/v1/sessions/{session}/agents"), json!({})).await;
        assert!(started.elapsed() < Duration::from_secs(25));
        assert!(!failed.text.contains("there-is-no-such-image") && !failed.text.contains("a value of the vault"));
        let error = failed.expect_error(502, "provider_error");
        assert_eq!(error["details"]["provider"], "docker");
    }
    let listed = client.get(&format!("/v1/sessions/{session}/agents")).await.expect(200);
    let statuses: Vec<_> = listed["data"].as_array().unwrap().iter().map(|agent| agent["status"].clone()).collect();
    assert_eq!(statuses, ["failed", "failed"]);
    let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!((&usage["activeAgents"], &usage["totalAgentsCreated"]), (&json!(0), &json!(2)));
    assert_eq!(crate::harness::left_on_engine(&stack).await, Vec::<String>::new());
    stack.stop().await;
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_session_that_ends_while_agents_boot_leaves_none() {
    let platform = Platform::make("end during boots").await;
    let client = &platform.client;
    for delay_ms in [0, 150, 350, 700] {
        let session = client.session(&format!("u{delay_ms}")).await;
        let agents = format!("/v1/sessions/{session}/agents");
        let boots = join_all((0..3).map(|_| client.post(&agents, json!({}))));
        let end = async {
            tokio::time::sleep(Duration::from_millis(delay_ms)).await;
            client.terminate(&session).await;
        };
        let (boots, ()) = tokio::join!(boots, end);
        assert!(boots.iter().all(|answer| [201, 409].contains(&answer.status)), "{boots:?}");
        // A boot that was under way is taken back before its caller is answered.
        let listed = client.get(&agents).await.expect(200);
        for agent in listed["data"].as_array().unwrap() {
            assert!(["completed", "failed"].contains(&agent["status"].as_str().unwrap()), "{agent}");
        }
        let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        assert_eq!(usage["activeAgents"], 0);
        let ids: Vec<_> = listed["data"].as_array().unwrap().iter().map(|agent| agent["id"].clone()).collect();
        let left = crate::harness::left_on_engine(crate::harness::stack()).await;
        assert!(left.iter().all(|left| !ids.contains(&json!(left))), "{left:?}");
    }
}
