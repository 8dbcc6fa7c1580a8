//! Many callers at once: counters that limit never let one too many through.

use crate::harness::{OwnStack, Platform, docker_engine, scan_everything, stack};
use futures_util::future::join_all;
use serde_json::json;
use std::collections::HashSet;
use std::time::{Duration, Instant};
use theazo_functions::deployment::DockerEngine;
use theazo_providers::docker::Endpoint;

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
async fn a_create_without_any_engine_records_nothing() {
    let (own, client) = OwnStack::start(None).await;
    let session = client.session("u").await;
    for (asked, details) in [(json!({}), json!({})), (json!({ "provider": "docker" }), json!({ "provider": "docker" }))]
    {
        let refused = client.post(&format!("/v1/sessions/{session}/agents"), asked).await;
        assert_eq!(refused.expect_error(503, "no_providers_available")["details"], details);
    }
    let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!((&usage["activeAgents"], &usage["totalAgentsCreated"]), (&json!(0), &json!(0)));
    assert_eq!(client.get("/v1/providers").await.expect(200), json!({ "data": [], "hasMore": false }));
    own.stop().await;
}

#[tokio::test]
async fn a_create_on_an_engine_that_is_away_or_silent_fails_in_time_and_gives_its_place_back() {
    let folder = std::env::temp_dir().join(format!("theazo-silent-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let silent = folder.join("silent.sock");
    let listener = tokio::net::UnixListener::bind(&silent).unwrap();
    let holding = tokio::spawn(async move {
        let mut held = Vec::new();
        loop {
            held.push(listener.accept().await.unwrap());
        }
    });
    for socket in [folder.join("away.sock"), silent] {
        let engine = DockerEngine { endpoint: Endpoint::Unix(socket.clone()), image: "theazo-agent:any".into() };
        let (own, client) = OwnStack::start(Some(engine)).await;
        let limits = json!({ "limits": { "maxAgents": 1 } });
        let session = client.post("/v1/sessions", limits).await.expect(201)["id"].as_str().unwrap().to_owned();
        let started = Instant::now();
        let failed = client.post(&format!("/v1/sessions/{session}/agents"), json!({})).await;
        let took = started.elapsed();
        assert!(!failed.text.contains(".sock"), "{failed:?}");
        let error = failed.expect_error(502, "provider_error");
        assert_eq!(error["details"], json!({ "provider": "docker", "status": null, "retryable": true }));
        assert!(took < Duration::from_secs(25), "{} took {took:?}", socket.display());
        let listed = client.get("/v1/agents").await.expect(200);
        assert_eq!(listed["data"][0]["status"], "failed", "{listed}");
        let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        assert_eq!((&usage["activeAgents"], &usage["totalAgentsCreated"]), (&json!(0), &json!(1)));
        assert_eq!(client.get("/v1/providers").await.expect(200)["data"][0]["health"]["healthy"], false);
        own.stop().await;
    }
    holding.abort();
    std::fs::remove_dir_all(folder).unwrap();
}

#[tokio::test]
async fn a_create_that_fails_leaves_nothing_and_gives_its_place_back() {
    let engine = tokio::task::spawn_blocking(docker_engine).await.unwrap();
    let missing = DockerEngine { image: "theazo-agent:there-is-no-such-image".into(), ..engine.clone() };
    let (own, client) = OwnStack::start(Some(missing)).await;
    let limits = json!({ "limits": { "maxAgents": 1 } });
    let session = client.post("/v1/sessions", limits).await.expect(201)["id"].as_str().unwrap().to_owned();
    client.set_secrets(&session, json!({ "A": "a value of the vault" })).await;

    for _ in 0..2 {
        let started = Instant::now();
        let failed = client.post(&format!("/v1/sessions/{session}/agents"), json!({})).await;
        assert!(started.elapsed() < Duration::from_secs(25));
        assert!(!failed.text.contains("there-is-no-such-image") && !failed.text.contains("a value of the vault"));
        let error = failed.expect_error(502, "provider_error");
        assert_eq!(error["details"], json!({ "provider": "docker", "status": null, "retryable": false }));
    }
    let listed = client.get(&format!("/v1/sessions/{session}/agents")).await.expect(200);
    let statuses: Vec<_> = listed["data"].as_array().unwrap().iter().map(|agent| agent["status"].clone()).collect();
    assert_eq!(statuses, ["failed", "failed"]);
    let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!((&usage["activeAgents"], &usage["totalAgentsCreated"]), (&json!(0), &json!(2)));
    assert_eq!(crate::harness::left_on_engine(&own.stack).await, Vec::<String>::new());
    own.stop().await;
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

#[tokio::test]
async fn a_session_that_ends_while_secrets_are_set_keeps_none() {
    let platform = Platform::make("end during sets").await;
    let client = &platform.client;
    for round in 0..4 {
        let session = client.session(&format!("u{round}")).await;
        let secrets = format!("/v1/sessions/{session}/secrets");
        let sets = join_all((0..20).map(|index| client.post(&secrets, json!({ format!("N{index}"): "v" }))));
        let end = async {
            tokio::time::sleep(Duration::from_millis(round * 15)).await;
            client.terminate(&session).await;
        };
        let (sets, ()) = tokio::join!(sets, end);
        for answer in sets {
            assert!([204, 409].contains(&answer.status), "{answer:?}");
        }
        assert_eq!(client.get(&secrets).await.expect(200), json!([]));
        let scanned = scan_everything(&tokio::task::spawn_blocking(stack).await.unwrap().dynamodb_url()).await;
        let values = |partition: &&String| partition.contains(&session) && partition.ends_with("#values");
        assert_eq!(scanned.partitions.iter().filter(values).count(), 0);
    }
}

#[tokio::test]
async fn calls_by_user_while_their_session_ends_get_a_live_one() {
    let platform = Platform::make("by-user during ends").await;
    let client = &platform.client;
    let mut live = client.session("u").await;
    for _ in 0..5 {
        let calls = join_all((0..20).map(|_| client.session("u")));
        let (given, ()) = tokio::join!(calls, client.terminate(&live));
        let given: HashSet<String> = given.into_iter().collect();
        // The old one, for those that came before its end, and one new one.
        assert!(given.iter().filter(|session| **session != live).count() <= 1, "{given:?}");
        live = client.session("u").await;
        let listed = client.get("/v1/sessions?status=active&userId=u").await.expect(200);
        assert_eq!(listed["data"].as_array().unwrap().len(), 1, "{listed}");
        assert_eq!(listed["data"][0]["id"], json!(live));
    }
}

#[tokio::test]
async fn changes_of_one_session_at_once_are_all_applied_or_refused_never_lost() {
    let platform = Platform::make("changes at once").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let limits = format!("/v1/sessions/{session}/limits");
    let by_user = json!({ "metadata": { "k": "v" } });
    let (patches, notes) = tokio::join!(
        join_all((1..=10).map(|max| {
            let (client, limits) = (client.clone(), limits.clone());
            async move { client.call("PATCH", &limits, Some(&json!({ "maxAgents": max }))).await.expect(200) }
        })),
        join_all((0..10).map(|_| client.post("/v1/sessions/by-user/u", by_user.clone()))),
    );
    for (index, patched) in patches.into_iter().enumerate() {
        assert_eq!(patched["maxAgents"]["limit"], json!(index + 1));
    }
    assert!(notes.into_iter().all(|answer| answer.expect(200)["id"] == json!(session)));
    // A change of one part does not put an old state of the other back.
    let shown = client.get(&format!("/v1/sessions/{session}")).await.expect(200);
    assert_eq!(shown["metadata"], json!({ "k": "v" }));
    assert!((1..=10).contains(&shown["limits"]["maxAgents"].as_u64().unwrap()), "{shown}");
}
