//! Agents on E2B, by its emulator: the main job and what is around it, through the API.

use crate::harness::{
    Canary, Client, E2B_KEY, E2bEmulator, GATEWAY_WAITS, OwnStack, Platform, dynamodb, e2b_emulator, make_canary,
    own_deployment, sha256, stack, start_e2b_emulator,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_e2b_emulator::{Fault, FaultKind};
use theazo_functions::reconcile::{Boots, Outcome, reconcile};
use theazo_tenancy::AgentId;

/// A platform with an account at E2B.
pub async fn with_e2b(name: &str) -> Platform {
    let platform = Platform::make(name).await;
    configure(&platform.client, E2B_KEY).await;
    platform
}

/// A still stack with an emulator of its own, and its platform with an account there.
pub async fn with_own_e2b(name: &str) -> (OwnStack, Client, E2bEmulator) {
    let emulator = start_e2b_emulator(name).await;
    let (own, client) = OwnStack::start_still(None, |config| config.e2b = emulator.endpoints.clone()).await;
    configure(&client, E2B_KEY).await;
    (own, client, emulator)
}

pub async fn configure(client: &Client, key: &str) -> Value {
    client.post("/v1/secrets", json!({ "E2B_API_KEY": key })).await.expect(204);
    client.call("PUT", "/v1/providers/e2b", Some(&json!({ "credentialRef": "e2b_api_key" }))).await.expect(200)
}

pub fn on_e2b() -> Value {
    json!({ "provider": "e2b" })
}

/// A management call as somebody with the account's key makes it.
async fn manage(method: reqwest::Method, path: &str, body: Value) -> Value {
    let url = format!("{}{path}", e2b_emulator().endpoints.api);
    let call = reqwest::Client::new().request(method, url).header("x-api-key", E2B_KEY).json(&body);
    let text = call.send().await.unwrap().text().await.unwrap();
    serde_json::from_str(&text).unwrap_or_default()
}

/// The ids of an agent's sandboxes, running or paused.
pub async fn sandboxes_of(agent: &str) -> Vec<String> {
    let listed =
        manage(reqwest::Method::GET, &format!("/v2/sandboxes?metadata=theazo.agent%3D{agent}"), json!({})).await;
    listed.as_array().unwrap().iter().map(|shown| shown["sandboxID"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn key_session_secret_agent_and_variable_on_e2b_and_nothing_shows_the_value_but_the_agent() {
    let platform = with_e2b("e2b main job").await;
    let client = &platform.client;
    let session = client.session("user_123").await;
    let (hubspot, changed) = (make_canary("hubspot"), make_canary("changed"));
    client.set_secrets(&session, json!({ "hubspot_api_key": hubspot })).await;
    let agent = client.boot(&session, on_e2b()).await;
    let shown = client.get(&format!("/v1/agents/{agent}")).await.expect(200);
    assert_eq!((&shown["provider"], &shown["status"]), (&json!("e2b"), &json!("ready")));

    let seen = client.environment(&agent).await;
    assert_eq!(seen["HUBSPOT_API_KEY"], (hubspot.len(), sha256(&hubspot)));
    assert_eq!(seen["THEAZO_AGENT_ID"].1, sha256(&agent));
    assert!(!seen.contains_key("E2B_API_KEY"), "the account's key is no agent's");
    for (language, code) in [
        ("node", "console.log(process.env.HUBSPOT_API_KEY.length)"),
        ("bash", "echo ${#HUBSPOT_API_KEY}"),
        ("bash", "python3 -c 'import os; print(len(os.environ[\"HUBSPOT_API_KEY\"]))'"),
    ] {
        assert_eq!(client.run(&agent, language, code).await.trim(), hubspot.len().to_string(), "{language}");
    }
    assert_eq!(client.run(&agent, "bash", "echo $HUBSPOT_API_KEY").await, "[secret:HUBSPOT_API_KEY]\n");

    // Nobody could end it without the account.
    let refused = client.delete("/v1/providers/e2b").await.expect_error(409, "conflict");
    assert_eq!(refused["details"]["agents"], 1);

    // Files, a pause, and the vault's values of now.
    let file = json!({ "path": "/data/a b/ü.txt", "data": "kept" });
    client.post(&format!("/v1/agents/{agent}/files"), file).await.expect(204);
    let paused = client.call("POST", &format!("/v1/agents/{agent}/pause"), None).await.expect(200);
    assert_eq!(paused["provider"], "e2b");
    client.post(&format!("/v1/agents/{agent}/exec"), json!({ "language": "bash", "code": "true" })).await.expect(409);
    client.set_secrets(&session, json!({ "hubspot_api_key": changed, "ADDED": "x" })).await;
    // No provider reads what another keeps of a paused agent.
    let moved = client.post(&format!("/v1/agents/{agent}/resume"), json!({ "provider": "docker" })).await;
    assert_eq!(moved.expect_error(409, "conflict")["details"]["field"], "provider");
    assert_eq!(client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"], "paused");
    client.call("POST", &format!("/v1/agents/{agent}/resume"), None).await.expect(200);
    let seen = client.environment(&agent).await;
    assert_eq!((&seen["HUBSPOT_API_KEY"].1, &seen["ADDED"].1), (&sha256(&changed), &sha256("x")));
    let read = client.get(&format!("/v1/agents/{agent}/files/data/a%20b/%C3%BC.txt")).await.expect(200);
    assert_eq!(read["data"], "kept");
    client.delete(&format!("/v1/sessions/{session}/secrets/added")).await.expect(204);
    client.call("POST", &format!("/v1/agents/{agent}/restart"), None).await.expect(200);
    assert!(!client.environment(&agent).await.contains_key("ADDED"));
    assert_eq!(sandboxes_of(&agent).await.len(), 1);
    let shown = client.get(&format!("/v1/agents/{agent}")).await.expect(200);
    assert_eq!(shown["providerDetails"]["isolation"], "microvm");

    client.terminate(&session).await;
    assert!(sandboxes_of(&agent).await.is_empty(), "nothing is left at E2B");
    client.delete("/v1/providers/e2b").await.expect(204);
    let records = e2b_emulator().controls.records();
    let records = serde_json::to_string(&records).unwrap();
    assert!(records.contains(&agent));
    for value in [&hubspot, &changed] {
        Canary::of_credential(value).is_not_in("the records", &records);
    }
}

#[tokio::test]
async fn e2b_is_refused_until_it_is_configured_and_a_fallback_takes_its_place() {
    let platform = Platform::make("e2b unconfigured").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agents = format!("/v1/sessions/{session}/agents");
    let refused = client.post(&agents, on_e2b()).await.expect_error(503, "no_providers_available");
    assert_eq!(refused["details"]["provider"], "e2b");
    let fallback = json!({ "provider": "e2b", "providerFallback": ["docker"] });
    let agent = client.post(&agents, fallback.clone()).await.expect(201);
    assert_eq!(agent["provider"], "docker");

    // An account whose key is refused: named by itself it is the provider's error, and with a fallback none.
    let wrong = make_canary("wrong-key");
    configure(client, &wrong).await;
    let failed = client.post(&agents, on_e2b()).await;
    assert!(!failed.text.contains(&wrong));
    let failed = failed.expect_error(502, "provider_error");
    assert_eq!(failed["details"], json!({ "provider": "e2b", "status": 401, "retryable": false }));
    let told = client.get("/v1/logs?search=did%20not%20boot").await.expect(200);
    assert_eq!(
        (&told["data"][0]["source"], &told["data"][0]["provider"]),
        (&json!("provider"), &json!("e2b")),
        "{told}"
    );
    let agent = client.post(&agents, fallback).await.expect(201);
    assert_eq!(agent["provider"], "docker");

    // A new value of the credential is used at once.
    client.post("/v1/secrets", json!({ "E2B_API_KEY": E2B_KEY })).await.expect(204);
    let agent = client.boot(&session, json!({ "provider": "e2b", "providerFallback": "docker" })).await;
    assert_eq!(client.get(&format!("/v1/agents/{agent}")).await.expect(200)["provider"], "e2b");
    let listed = client.get("/v1/providers").await.expect(200);
    let e2b = listed["data"].as_array().unwrap().iter().find(|entry| entry["provider"] == "e2b").unwrap().clone();
    assert_eq!(e2b["health"]["healthy"], true, "{e2b}");
    client.terminate(&session).await;
    assert!(sandboxes_of(&agent).await.is_empty());
}

/// Changes an agent's four rows, as only who holds the table can.
async fn edit_rows(own: &OwnStack, client: &Client, session: &str, agent: &str, update: &str, values: Value) {
    let platform = client.get("/v1/whoami").await.expect(200)["platformId"].as_str().unwrap().to_owned();
    for partition in ["agents", "live-agents", &format!("{session}#agents"), &format!("{session}#live-agents")] {
        let edit = json!({
            "TableName": "theazo", "UpdateExpression": update, "ConditionExpression": "attribute_exists(pk)",
            "Key": { "pk": { "S": format!("{platform}#live#{partition}") }, "sk": { "S": agent } },
            "ExpressionAttributeValues": values,
        });
        dynamodb(&own.stack.dynamodb_url(), "UpdateItem", edit).await;
    }
}

#[tokio::test]
async fn agents_from_before_the_credential_key_was_replaced_are_nobodys_and_end_with_their_session() {
    let (own, client) = OwnStack::start_still(None, |_| {}).await;
    configure(&client, E2B_KEY).await;
    let session = client.session("u").await;
    let agents = [client.boot(&session, on_e2b()).await, client.boot(&session, on_e2b()).await];
    for agent in &agents {
        edit_rows(&own, &client, &session, agent, "SET tag = :t", json!({ ":t": { "S": "00".repeat(32) } })).await;
    }
    let run = async || own.reconcile().await;
    let left = async || sandboxes_of(&agents[0]).await.len() + sandboxes_of(&agents[1]).await.len();
    for _ in 0..2 {
        let outcome = run().await;
        assert_eq!((outcome.ownerless, outcome.postponed, left().await), (0, 0, 2), "{outcome:?}");
    }
    client.get(&format!("/v1/agents/{}", agents[0])).await.expect_error(404, "not_found");
    let listed = client.get(&format!("/v1/sessions/{session}/agents")).await.expect(200);
    assert_eq!(listed["data"], json!([]));
    // Neither a pause nor the end of the session is kept from its own by them.
    let act = async |what: &str| client.call("POST", &format!("/v1/sessions/{session}/{what}"), None).await;
    act("pause").await.expect(200);
    assert_eq!((run().await.postponed, left().await), (0, 2));
    act("resume").await.expect(200);
    client.terminate(&session).await;
    assert_eq!(left().await, 2, "who has the key does not touch them");
    let outcome = run().await;
    assert_eq!((outcome.sessions, left().await), (1, 0), "{outcome:?}");
    assert_eq!(run().await, Outcome::default(), "and nothing is left to do");
    own.stop().await;
}

#[tokio::test]
async fn what_runs_of_a_paused_agent_is_stopped_and_nobody_resumes_it_meanwhile() {
    let (own, client) = OwnStack::start_still(None, |_| {}).await;
    configure(&client, E2B_KEY).await;
    let session = client.session("u").await;
    let agent = client.boot(&session, on_e2b()).await;
    client.run(&agent, "bash", "echo kept > /data/kept").await;
    let act = async |what: &str| client.call("POST", &format!("/v1/agents/{agent}/{what}"), None).await;
    act("pause").await.expect(200);
    let state = async || {
        let listed = format!("/v2/sandboxes?metadata=theazo.agent%3D{agent}");
        manage(reqwest::Method::GET, &listed, json!({})).await[0]["state"].clone()
    };
    let sandbox = sandboxes_of(&agent).await.remove(0);
    let run = async || own.reconcile().await;
    assert_eq!((run().await.pauses, state().await), (0, json!("paused")));
    // As a resume does that lands when nobody waits for it any more.
    manage(
        reqwest::Method::POST,
        &format!("/v2/sandboxes/{sandbox}/connect"),
        json!({ "timeout": 600, "memory": false }),
    )
    .await;
    assert_eq!(state().await, "running");
    assert_eq!((run().await.pauses, state().await), (1, json!("paused")));
    // Whoever was at that has died.
    edit_rows(
        &own,
        &client,
        &session,
        &agent,
        "SET intent = :i ADD revision :one",
        json!({
            ":i": { "S": "pausing" }, ":one": { "N": "1" },
        }),
    )
    .await;
    act("resume").await.expect_error(409, "conflict");
    assert_eq!(run().await.pauses, 1);
    act("resume").await.expect(200);
    assert_eq!(client.run(&agent, "bash", "cat /data/kept").await, "kept\n");
    client.terminate(&session).await;
    own.stop().await;
}

#[tokio::test]
async fn what_runs_of_a_paused_agent_and_cannot_be_stopped_is_tried_again_and_without_its_files_it_has_failed() {
    let (own, client, emulator) = with_own_e2b("e2b-stray").await;
    let session = client.session("u").await;
    let agent = client.boot(&session, on_e2b()).await;
    let act = async |what: &str| client.call("POST", &format!("/v1/agents/{agent}/{what}"), None).await;
    act("pause").await.expect(200);
    let manage = async |method: &str, path: String, body: Value| {
        let call = reqwest::Client::new().request(method.parse().unwrap(), format!("{}{path}", emulator.endpoints.api));
        let answer = call.header("x-api-key", E2B_KEY).json(&body).send().await.unwrap().text().await.unwrap();
        serde_json::from_str::<Value>(&answer).unwrap_or_default()
    };
    let sandbox = manage("GET", "/v2/sandboxes".into(), json!({})).await[0]["sandboxID"].as_str().unwrap().to_owned();
    manage("POST", format!("/v2/sandboxes/{sandbox}/connect"), json!({ "timeout": 600 })).await;
    let run = async || {
        let outcome = own.reconcile().await;
        (outcome.pauses, outcome.postponed, outcome.lost + outcome.over_limit)
    };
    let status = async || client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"].clone();
    let fault = |kind: FaultKind| {
        let fault = Fault { method: "POST".into(), path: "/pause".into(), times: 1, kind };
        emulator.controls.fault(fault);
    };
    let refusal = |status: u16, code: Option<&str>| FaultKind::Refuse {
        status,
        code: code.map(str::to_owned),
        headers: Vec::new(),
    };
    // Nobody knows what became of the call: no resume gets between.
    fault(refusal(403, None));
    assert_eq!((run().await, status().await), ((0, 1, 0), json!("paused")));
    act("resume").await.expect_error(409, "conflict");
    // Nor one of its session, which does not say that all is well.
    let whole = async |what: &str| client.call("POST", &format!("/v1/sessions/{session}/{what}"), None).await;
    let paused_by = async |agent: &str, by: &str| {
        edit_rows(&own, &client, &session, agent, "SET paused_by = :by", json!({ ":by": { "S": by } })).await;
    };
    paused_by(&agent, "suspension").await;
    whole("pause").await.expect(200);
    whole("resume").await.expect_error(409, "conflict");
    // It cannot be stopped: then whoever resumes it takes it over, and it is metered. Nobody's files are lost for that, not
    // where the operator has paused it either.
    let cannot = || refusal(409, Some("snapshot_filesystem_only_unsupported_node"));
    for by in ["operator", "platform"] {
        paused_by(&agent, by).await;
        fault(cannot());
        assert_eq!((run().await, status().await), ((0, 1, 0), json!("paused")), "{by}");
    }
    act("resume").await.expect(200);
    act("pause").await.expect(200);

    manage("POST", format!("/v2/sandboxes/{sandbox}/connect"), json!({ "timeout": 600 })).await;
    fault(refusal(404, None));
    assert_eq!((run().await, status().await), ((0, 0, 1), json!("failed")));
    assert_eq!(run().await, (0, 0, 0));
    assert_eq!(emulator.controls.left(), [""; 0]);

    // What a limit has paused does not run on.
    let agent = client.boot(&session, on_e2b()).await;
    client.call("POST", &format!("/v1/agents/{agent}/pause"), None).await.expect(200);
    paused_by(&agent, "limit").await;
    let sandbox = manage("GET", "/v2/sandboxes".into(), json!({})).await[0]["sandboxID"].as_str().unwrap().to_owned();
    manage("POST", format!("/v2/sandboxes/{sandbox}/connect"), json!({ "timeout": 600 })).await;
    fault(cannot());
    assert_eq!(run().await, (0, 0, 1));
    assert_eq!(client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"], "completed");
    assert_eq!(emulator.controls.left(), [""; 0]);
    client.terminate(&session).await;
    own.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_that_takes_its_time_does_not_stop_what_was_resumed_after_another_had_been_asked_for() {
    let (own, client, emulator) = with_own_e2b("e2b-two-pauses").await;
    let session = client.session("u").await;
    let agent = client.boot(&session, on_e2b()).await;
    client.run(&agent, "bash", "echo kept > /data/kept").await;
    for _ in 0..3 {
        let kind = FaultKind::Delay { millis: 2_500 };
        emulator.controls.fault(Fault { method: "POST".into(), path: "/pause".into(), times: 1, kind });
        let first = tokio::spawn({
            let (client, path) = (client.clone(), format!("/v1/agents/{agent}/pause"));
            async move { client.call("POST", &path, None).await }
        });
        tokio::time::sleep(Duration::from_millis(700)).await;
        let act = async |what: &str| client.call("POST", &format!("/v1/agents/{agent}/{what}"), None).await;
        // Whoever comes second waits for the first.
        act("pause").await.expect(200);
        act("resume").await.expect(200);
        first.await.unwrap().expect(200);
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(client.run(&agent, "bash", "cat /data/kept").await, "kept\n");
    }
    client.terminate(&session).await;
    own.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_an_agent_paused_that_cannot_be_again_and_again_does_not_keep_a_limit_from_it() {
    let (own, client, emulator) = with_own_e2b("e2b-pausing").await;
    let session = client.session("u").await;
    let agent = client.boot(&session, on_e2b()).await;
    emulator.controls.refuse_files_only(true);
    let kind = FaultKind::Delay { millis: 3_000 };
    emulator.controls.fault(Fault { method: "POST".into(), path: "/pause".into(), times: 1, kind });
    let minted = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    let (holder, path) = (client.with_key(minted["token"].as_str()), format!("/v1/agents/{agent}/pause"));
    let pausing = tokio::spawn(async move { holder.call("POST", &path, None).await });
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let limits = json!({ "maxAgents": 0 });
    client.call("PATCH", &format!("/v1/sessions/{session}/limits"), Some(&limits)).await.expect(200);
    own.reconcile().await;
    pausing.await.unwrap().expect_error(409, "conflict");
    let shown = client.get(&format!("/v1/agents/{agent}")).await.expect(200);
    assert_eq!(shown["status"], "completed", "{shown}");
    assert_eq!(emulator.controls.left(), [""; 0]);
    let why = client.get(&format!("/v1/logs?agentId={agent}&level=warn")).await.expect(200);
    assert!(why["data"].as_array().unwrap().iter().any(|entry| entry["metadata"]["limit"] == "maxAgents"), "{why}");
    client.terminate(&session).await;
    own.stop().await;
}

#[tokio::test]
async fn what_no_agent_owns_is_removed_when_it_has_been_so_for_a_while_and_not_if_it_has_an_owner_again() {
    const GRACE: Duration = Duration::from_secs(2);
    let (own, client) = OwnStack::start_still(None, |config| config.orphan_grace = GRACE).await;
    configure(&client, E2B_KEY).await;
    let session = client.session("u").await;
    let (lost, found) = (client.boot(&session, on_e2b()).await, client.boot(&session, on_e2b()).await);
    let url = own.stack.dynamodb_url();
    // As a table that was put back knows nothing of what is newer.
    let work = dynamodb(&url, "Scan", json!({ "TableName": "theazo", "ConsistentRead": true })).await;
    let rows = work["Items"].as_array().unwrap().clone();
    let on_list = |agent: &str| {
        let is_it = |row: &&Value| {
            row["pk"]["S"].as_str().unwrap().starts_with("work#") && row["sk"]["S"].as_str().unwrap().ends_with(agent)
        };
        rows.iter().find(is_it).unwrap().clone()
    };
    let (lost_row, found_row) = (on_list(&lost), on_list(&found));
    let remove = async |row: &Value| {
        let key = json!({ "pk": row["pk"], "sk": row["sk"] });
        dynamodb(&url, "DeleteItem", json!({ "TableName": "theazo", "Key": key })).await;
    };
    let run = async || own.reconcile().await;
    remove(&lost_row).await;
    remove(&found_row).await;
    let outcome = run().await;
    assert_eq!((outcome.ownerless, outcome.orphans), (2, 0), "{outcome:?}");
    // Somebody puts the one back in time.
    dynamodb(&url, "PutItem", json!({ "TableName": "theazo", "Item": found_row })).await;
    let outcome = run().await;
    assert_eq!((outcome.ownerless, outcome.orphans), (1, 0), "{outcome:?}");
    assert_eq!((sandboxes_of(&lost).await.len(), sandboxes_of(&found).await.len()), (1, 1));
    tokio::time::sleep(GRACE).await;
    remove(&found_row).await;
    // Its time begins anew.
    let outcome = run().await;
    assert_eq!((outcome.ownerless, outcome.orphans), (2, 1), "{outcome:?}");
    assert_eq!((sandboxes_of(&lost).await.len(), sandboxes_of(&found).await.len()), (0, 1));
    tokio::time::sleep(GRACE).await;
    let outcome = run().await;
    assert_eq!((outcome.ownerless, outcome.orphans), (1, 1), "{outcome:?}");
    assert!(sandboxes_of(&found).await.is_empty());
    let outcome = run().await;
    assert_eq!((outcome.ownerless, outcome.orphans), (0, 0), "{outcome:?}");
    own.stop().await;
}

#[tokio::test]
async fn reconciling_removes_what_no_agent_owns_at_e2b_and_ends_agents_whose_sandbox_is_gone() {
    let platform = with_e2b("e2b reconcile").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let (kept, lost) = (client.boot(&session, on_e2b()).await, client.boot(&session, on_e2b()).await);
    let orphan = AgentId::make().to_string();
    let make = |agent: &str, deployment: &str| {
        let body =
            json!({ "templateID": "base", "metadata": { "theazo.deployment": deployment, "theazo.agent": agent } });
        manage(reqwest::Method::POST, "/v2/sandboxes", body)
    };
    let deployment = stack().deployment().config().name.clone();
    make(&orphan, &deployment).await;
    let stranger = AgentId::make().to_string();
    make(&stranger, "another deployment").await;
    let gone = sandboxes_of(&lost).await.remove(0);
    manage(reqwest::Method::DELETE, &format!("/sandboxes/{gone}"), json!({})).await;

    reconcile(&own_deployment(), Boots::UnderWay).await.unwrap();
    assert!(sandboxes_of(&orphan).await.is_empty(), "the orphan is removed");
    assert_eq!(sandboxes_of(&stranger).await.len(), 1, "another deployment's sandbox is left alone");
    assert_eq!(client.get(&format!("/v1/agents/{lost}")).await.expect(200)["status"], "failed");
    assert_eq!(client.run(&kept, "bash", "echo alive").await, "alive\n");
    client.terminate(&session).await;
    let left = sandboxes_of(&stranger).await.remove(0);
    manage(reqwest::Method::DELETE, &format!("/sandboxes/{left}"), json!({})).await;
}

#[tokio::test]
async fn test_keys_may_name_e2b_and_nothing_leaves_the_service() {
    let platform = with_e2b("e2b test key").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.post(&format!("/v1/sessions/{session}/agents"), on_e2b()).await.expect(201);
    assert_eq!(agent["provider"], "simulated");
    assert!(sandboxes_of(agent["id"].as_str().unwrap()).await.is_empty());
    client.terminate(&session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_silent_is_given_up_before_the_gateway_gives_up_on_the_answer() {
    let (own, client, emulator) = with_own_e2b("e2b-silent").await;
    let (session, other) = (client.session("user").await, client.session("other").await);
    let (agent, others) = (client.boot(&session, on_e2b()).await, client.boot(&other, on_e2b()).await);
    let silent = |method: &str, path: &str, times| {
        let kind = FaultKind::Delay { millis: 120_000 };
        emulator.controls.fault(Fault { method: method.into(), path: path.into(), times, kind });
    };
    let refused = async |calls: &[(&str, String, Value)]| {
        join_all(calls.iter().map(|(method, path, body)| {
            let client = &client;
            async move {
                let started = Instant::now();
                let body = (!body.is_null()).then_some(body);
                let told = client.call(method, path, body).await.expect_error(502, "provider_error");
                assert!(started.elapsed() < GATEWAY_WAITS, "{path}: {:?}", started.elapsed());
                assert_eq!(
                    (&told["details"]["provider"], &told["details"]["retryable"]),
                    (&json!("e2b"), &json!(true))
                );
            }
        }))
        .await;
    };
    let files = format!("/v1/agents/{agent}/files");
    silent("POST", "/process.Process/Start", 3);
    refused(&[
        ("GET", format!("{files}/data/x"), Value::Null),
        ("GET", format!("{files}?dir=/data"), Value::Null),
        ("POST", files.clone(), json!({ "path": "/data/x", "data": "x" })),
    ])
    .await;
    let ends = [format!("/v1/agents/{agent}/terminate"), format!("/v1/sessions/{other}/terminate")];
    silent("DELETE", "/sandboxes/", 2);
    refused(&ends.clone().map(|path| ("POST", path, Value::Null))).await;
    // Nothing is lost by that: it is over, and said again it is finished.
    assert_eq!(client.get(&format!("/v1/agents/{others}")).await.expect(200)["status"], "completed");
    assert!(!emulator.controls.left().is_empty());
    for path in &ends {
        client.call("POST", path, None).await.expect(200);
    }
    assert_eq!(emulator.controls.left(), [""; 0]);
    own.stop().await;
}
