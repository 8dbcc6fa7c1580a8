//! Checkpoints of running agents, resuming from one, and retrying what is over.

use crate::crash_checkpoints::on_engine;
use crate::e2b::{on_e2b, with_e2b, with_own_e2b};
use crate::harness::{
    Answer, Client, E2B_KEY, OwnStack, Platform, container_name, docker, dynamodb, end_agent, fail_agent, make_canary,
    sha256, wait_until,
};
use serde_json::{Value, json};
use std::time::Duration;
use theazo_e2b_emulator::{Fault, FaultKind};
use theazo_functions::reconcile::{Boots, reconcile};
use theazo_store::AgentStatus;
use theazo_tenancy::Mode;

async fn act(client: &Client, agent: &str, what: &str, body: Value) -> Answer {
    client.post(&format!("/v1/agents/{agent}/{what}"), body).await
}

async fn checkpoint(client: &Client, agent: &str, phase: &str) -> String {
    let made = act(client, agent, "checkpoints", json!({ "phase": phase })).await.expect(201);
    made["id"].as_str().unwrap().to_owned()
}

/// The phases of an agent's checkpoints.
async fn phases(client: &Client, agent: &str) -> Vec<String> {
    let listed = client.get(&format!("/v1/agents/{agent}/checkpoints")).await.expect(200);
    let listed = listed["data"].as_array().unwrap().clone();
    listed.iter().map(|one| one["phase"].as_str().unwrap().to_owned()).collect()
}

async fn progress(client: &Client, agent: &str) -> Value {
    client.get(&format!("/v1/agents/{agent}/progress")).await.expect(200)
}

async fn write(client: &Client, agent: &str, path: &str, data: &str) {
    client.post(&format!("/v1/agents/{agent}/files"), json!({ "path": path, "data": data })).await.expect(204);
}

async fn read(client: &Client, agent: &str, path: &str) -> Value {
    client.get(&format!("/v1/agents/{agent}/files{path}")).await.expect(200)["data"].clone()
}

async fn status(client: &Client, agent: &str) -> Value {
    client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"].clone()
}

async fn active(client: &Client, session: &str) -> Value {
    client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200)["activeAgents"].clone()
}

/// All of it, as far as it is the same at every provider, with an agent that is gone then. `exec` says whether code really
/// runs.
pub async fn circle(platform: &Platform, client: &Client, mode: Mode, new: Value, exec: bool) -> String {
    let session = client.session("checkpoints").await;
    let values = [make_canary("before"), make_canary("after")];
    client.set_secrets(&session, json!({ "KEY": values[0] })).await;
    let agent = client.boot(&session, new).await;
    assert_eq!(progress(client, &agent).await["lastCheckpointAt"], Value::Null);
    write(client, &agent, "/data/dir/file", "first").await;
    write(client, &agent, "/tmp/lost", "lost").await;

    let about = json!({ "phase": "collecting", "progress": 41.666, "metadata": { "batch": "7" } });
    let first = act(client, &agent, "checkpoints", about).await.expect(201);
    let prefixed = |field: &str, prefix: &str| first[field].as_str().unwrap().starts_with(prefix);
    assert!(prefixed("id", "ckpt_") && prefixed("snapshotId", "snap_"), "{first}");
    assert_eq!((&first["agentId"], &first["phase"]), (&json!(agent), &json!("collecting")));
    assert_eq!((&first["progress"], &first["metadata"]), (&json!(41.67), &json!({ "batch": "7" })));
    // It runs on, and what it does from now on is in no checkpoint.
    assert_eq!(status(client, &agent).await, "ready");
    write(client, &agent, "/data/dir/file", "second").await;
    write(client, &agent, "/data/later", "later").await;
    let second = checkpoint(client, &agent, "second").await;
    write(client, &agent, "/data/dir/file", "third").await;
    assert_eq!(phases(client, &agent).await, ["second", "collecting"]);
    let told = progress(client, &agent).await;
    assert_eq!((&told["phase"], &told["checkpoints"], &told["progress"]), (&json!("second"), &json!(2), &Value::Null));
    assert!(told["lastCheckpointAt"].as_str().unwrap().ends_with('Z'));
    let other = client.boot(&session, json!({})).await;
    for refused in [
        act(client, &agent, "resume", json!({ "checkpoint": first["id"] })).await,
        act(client, &agent, "retry", json!({})).await,
        act(client, &other, "retry", json!({})).await,
    ] {
        refused.expect_error(409, "conflict");
    }

    act(client, &agent, "pause", json!({})).await.expect(200);
    act(client, &agent, "checkpoints", json!({})).await.expect_error(409, "conflict");
    act(client, &agent, "retry", json!({})).await.expect_error(409, "conflict");
    client.set_secrets(&session, json!({ "KEY": values[1] })).await;
    act(client, &other, "pause", json!({})).await.expect(200);
    let foreign = act(client, &other, "resume", json!({ "checkpoint": first["id"] })).await;
    assert_eq!(foreign.expect_error(400, "invalid_request")["details"]["field"], "checkpoint");
    act(client, &other, "terminate", json!({})).await.expect(200);
    let resumed = act(client, &agent, "resume", json!({ "checkpoint": first["id"] })).await.expect(200);
    assert_eq!((&resumed["id"], &resumed["status"]), (&json!(agent), &json!("ready")));
    assert_eq!(read(client, &agent, "/data/dir/file").await, "first");
    for gone in ["/data/later", "/tmp/lost"] {
        client.get(&format!("/v1/agents/{agent}/files{gone}")).await.expect_error(404, "not_found");
    }
    if exec {
        assert_eq!(client.environment(&agent).await["KEY"].1, sha256(&values[1]));
    }
    // Pauses keep its own files again.
    write(client, &agent, "/data/own", "own").await;
    act(client, &agent, "pause", json!({})).await.expect(200);
    act(client, &agent, "resume", json!({})).await.expect(200);
    assert_eq!(read(client, &agent, "/data/own").await, "own");

    for (end, chosen) in [(AgentStatus::Failed, None), (AgentStatus::Completed, Some(&first["id"]))] {
        end_agent(&platform.id, mode, &agent, end).await;
        assert_eq!(status(client, &agent).await, end.as_str());
        assert_eq!(active(client, &session).await, 0);
        assert_eq!(phases(client, &agent).await, ["second", "collecting"], "they stay");
        act(client, &agent, "resume", json!({})).await.expect_error(409, "conflict");
        let unknown = act(client, &agent, "retry", json!({ "checkpoint": "ckpt_01jd9s6q0f3v8x2n4m5k7h9tbc" })).await;
        unknown.expect_error(400, "invalid_request");
        let retried = act(client, &agent, "retry", json!({ "checkpoint": chosen })).await.expect(200);
        assert_eq!((&retried["id"], &retried["status"]), (&json!(agent), &json!("ready")));
        assert_eq!(active(client, &session).await, 1);
        let expected = if chosen.is_some() { "first" } else { "second" };
        assert_eq!(read(client, &agent, "/data/dir/file").await, expected);
        client.get(&format!("/v1/agents/{agent}/files/data/own")).await.expect_error(404, "not_found");
        act(client, &agent, "retry", json!({})).await.expect_error(409, "conflict");
    }
    if exec {
        assert_eq!(client.environment(&agent).await["KEY"].1, sha256(&values[1]));
    }
    assert_eq!(progress(client, &agent).await["phase"], "second");
    let used = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!(used["totalAgentsCreated"], 2, "a retry makes no agent");
    trail(client, &session, &agent).await;
    let _ = second;

    end_agent(&platform.id, mode, &agent, AgentStatus::Failed).await;
    let ended = act(client, &agent, "terminate", json!({})).await.expect(200);
    assert_eq!(ended["status"], "failed");
    assert!(phases(client, &agent).await.is_empty(), "nothing is left at its provider");
    act(client, &agent, "retry", json!({})).await.expect_error(409, "conflict");
    assert_eq!(progress(client, &agent).await["phase"], "second", "what it said stays");
    client.terminate(&session).await;
    agent
}

async fn trail(client: &Client, session: &str, agent: &str) {
    let trail = client.get(&format!("/v1/audit?session={session}&limit=100")).await.expect(200);
    let trail = trail["data"].as_array().unwrap();
    for (action, outcomes) in [("agent.checkpoint", 4), ("agent.retry", 4)] {
        let entries: Vec<_> = trail.iter().filter(|entry| entry["action"] == action).collect();
        assert_eq!(entries.len(), outcomes, "{entries:?}");
        assert!(entries.iter().all(|entry| entry["agentId"] == json!(agent)));
        let says = |outcome: &str| entries.iter().filter(|entry| entry["outcome"] == outcome).count();
        assert_eq!((says("started"), says("succeeded")), (outcomes / 2, outcomes / 2), "{entries:?}");
    }
    let logs = client.get(&format!("/v1/logs?agentId={agent}&limit=100")).await.expect(200);
    let said = logs["data"].as_array().unwrap().iter().filter(|log| log["metadata"]["event"] == "agent.checkpoint");
    assert_eq!(said.count(), 2);
}

#[tokio::test]
async fn a_test_agent_is_resumed_and_retried_from_its_checkpoints() {
    let platform = Platform::make("checkpoints test").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    circle(&platform, &client, Mode::Test, json!({}), false).await;
}

/// The rows of an agent's simulated disk.
async fn rows_of_disk(own: &OwnStack, agent: &str) -> usize {
    let scanned = dynamodb(&own.stack.dynamodb_url(), "Scan", json!({ "TableName": "theazo" })).await;
    let rows = scanned["Items"].as_array().unwrap();
    let of_disk = |row: &&Value| row["pk"]["S"].as_str().is_some_and(|pk| pk.contains(agent) && pk.ends_with("#disk"));
    rows.iter().filter(of_disk).count()
}

#[tokio::test]
async fn a_test_agents_checkpoint_that_nobody_made_to_its_end_is_removed_with_all_its_pieces() {
    let (own, _) = OwnStack::start_still(None, |_| {}).await;
    let client = own.client("test-api-key");
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    write(&client, &agent, "/data/file", "kept").await;
    let before = rows_of_disk(&own, &agent).await;
    checkpoint(&client, &agent, "left over").await;
    assert!(rows_of_disk(&own, &agent).await > before + 1, "its list, and a copy of the file");
    // As after a process that ended between asking for its removal and the removal.
    let url = own.stack.dynamodb_url();
    let scanned = dynamodb(&url, "Scan", json!({ "TableName": "theazo" })).await;
    let of_agent = |row: &&Value| row["checkpoints"]["L"].as_array().is_some_and(|kept| !kept.is_empty());
    let row = scanned["Items"].as_array().unwrap().iter().find(of_agent).expect("the agent's row");
    let change = json!({
        "TableName": "theazo",
        "Key": { "pk": row["pk"], "sk": row["sk"] },
        "UpdateExpression": "SET checkpoints[0].#state = :removing",
        "ExpressionAttributeNames": { "#state": "state" },
        "ExpressionAttributeValues": { ":removing": { "S": "removing" } },
    });
    dynamodb(&url, "UpdateItem", change).await;
    assert_eq!(own.reconcile().await.checkpoints, 1);
    assert_eq!((phases(&client, &agent).await.len(), rows_of_disk(&own, &agent).await), (0, before));
    assert_eq!(read(&client, &agent, "/data/file").await, "kept");
    own.stop().await;
}

#[tokio::test]
async fn an_agent_keeps_its_ten_last_checkpoints_and_a_repeated_request_makes_no_second() {
    let platform = Platform::make("checkpoints bound").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let path = format!("/v1/agents/{agent}/checkpoints");
    let once = client.post_once(&path, json!({ "phase": "0" }), "same").await.expect(201);
    assert_eq!(client.post_once(&path, json!({ "phase": "0" }), "same").await.expect(201), once);
    client.post_once(&path, json!({ "phase": "1" }), "same").await.expect_error(409, "conflict");
    for number in 1..12 {
        checkpoint(&client, &agent, &number.to_string()).await;
    }
    let kept: Vec<String> = (2..12).rev().map(|number| number.to_string()).collect();
    assert_eq!(phases(&client, &agent).await, kept);
    assert_eq!(progress(&client, &agent).await["checkpoints"], 10);
    act(&client, &agent, "pause", json!({})).await.expect(200);
    let gone = act(&client, &agent, "resume", json!({ "checkpoint": once["id"] })).await;
    gone.expect_error(400, "invalid_request");
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_retry_takes_a_place_and_has_its_whole_time_again() {
    let platform = Platform::make("checkpoints limits").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    client.call("PATCH", &format!("/v1/sessions/{session}/limits"), Some(&json!({ "maxAgents": 1 }))).await.expect(200);
    let agent = client.boot(&session, json!({})).await;
    act(&client, &agent, "checkpoints", json!({})).await.expect(201);
    fail_agent(&platform.id, Mode::Test, &agent).await;
    let other = client.boot(&session, json!({})).await;
    act(&client, &agent, "retry", json!({})).await.expect_error(402, "session_limit_exceeded");
    assert_eq!(status(&client, &agent).await, "failed");
    act(&client, &other, "terminate", json!({})).await.expect(200);
    act(&client, &agent, "retry", json!({})).await.expect(200);
    assert_eq!(active(&client, &session).await, 1);
    // Of a session that has ended nothing is retried, nor kept.
    fail_agent(&platform.id, Mode::Test, &agent).await;
    client.terminate(&session).await;
    act(&client, &agent, "retry", json!({})).await.expect_error(409, "conflict");
    assert!(phases(&client, &agent).await.is_empty());
}

#[tokio::test]
async fn an_agent_on_the_engine_is_resumed_and_retried_from_its_checkpoints_and_none_is_left_of_it() {
    let platform = Platform::make("checkpoints docker").await;
    let agent = circle(&platform, &platform.client, Mode::Live, json!({}), true).await;
    assert_eq!(on_engine(&agent).await, (0, 0, 0));
}

#[tokio::test]
async fn an_agent_on_e2b_is_resumed_and_retried_from_its_checkpoints() {
    let platform = with_e2b("checkpoints e2b").await;
    circle(&platform, &platform.client, Mode::Live, on_e2b(), true).await;
}

#[tokio::test]
async fn an_agent_on_fly_is_resumed_and_retried_from_its_checkpoints_and_nothing_is_left_of_it() {
    let platform = crate::fly::with_fly("checkpoints fly").await;
    let agent = circle(&platform, &platform.client, Mode::Live, json!({ "provider": "fly" }), true).await;
    assert!(!crate::fly::is_there(&agent).await);
}

#[tokio::test]
async fn a_sandbox_that_was_lost_leaves_checkpoints_to_retry_from_and_cannot_be_checkpointed() {
    let platform = Platform::make("checkpoints lost").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    write(client, &agent, "/data/file", "kept").await;
    checkpoint(client, &agent, "one").await;
    docker().await.kill_container(&container_name(&agent), None).await.unwrap();
    act(client, &agent, "checkpoints", json!({})).await.expect_error(502, "provider_error");
    assert_eq!(status(client, &agent).await, "failed");
    assert_eq!(phases(client, &agent).await, ["one"]);
    act(client, &agent, "retry", json!({})).await.expect(200);
    assert_eq!(read(client, &agent, "/data/file").await, "kept");
    client.terminate(&session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_that_comes_about_when_it_was_given_up_already_does_not_run() {
    const LATE: Duration = Duration::from_secs(35);
    let (own, client, emulator) = with_own_e2b("e2b-late-retry").await;
    let session = client.session("u").await;
    let agent = client.boot(&session, on_e2b()).await;
    write(&client, &agent, "/data/file", "kept").await;
    checkpoint(&client, &agent, "one").await;
    let manage = async |method: reqwest::Method, path: String| {
        let call = reqwest::Client::new().request(method, format!("{}{path}", emulator.endpoints.api));
        call.header("x-api-key", E2B_KEY).send().await.unwrap().text().await.unwrap()
    };
    let listed: Value = serde_json::from_str(&manage(reqwest::Method::GET, "/v2/sandboxes".into()).await).unwrap();
    manage(reqwest::Method::DELETE, format!("/sandboxes/{}", listed[0]["sandboxID"].as_str().unwrap())).await;
    own.reconcile().await;
    assert_eq!(status(&client, &agent).await, "failed");
    let kind = FaultKind::Late { millis: LATE.as_millis() as u64 };
    emulator.controls.fault(Fault { method: "POST".into(), path: "/v2/sandboxes".into(), times: 1, kind });
    let refused = act(&client, &agent, "retry", json!({})).await;
    assert!(refused.status >= 500, "{refused:?}");
    own.reconcile().await;
    let left = || emulator.controls.left().len();
    assert_eq!((left(), status(&client, &agent).await), (1, json!("failed")), "only its checkpoint");
    wait_until("it comes about", async || left() == 2).await;
    own.reconcile().await;
    assert_eq!((left(), status(&client, &agent).await), (1, json!("failed")));
    act(&client, &agent, "retry", json!({})).await.expect(200);
    assert_eq!(read(&client, &agent, "/data/file").await, "kept");
    client.terminate(&session).await;
    assert_eq!(left(), 0);
    own.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_that_comes_about_when_it_was_given_up_already_does_not_stay() {
    // Longer than it is waited for, and than what is tried before takes on a machine under load.
    const LATE: Duration = Duration::from_secs(35);
    let (own, client, emulator) = with_own_e2b("e2b-late").await;
    let session = client.session("u").await;
    let agent = client.boot(&session, on_e2b()).await;
    let kind = FaultKind::Late { millis: LATE.as_millis() as u64 };
    emulator.controls.fault(Fault { method: "POST".into(), path: "/snapshots".into(), times: 1, kind });
    act(&client, &agent, "checkpoints", json!({ "phase": "late" })).await.expect_error(502, "provider_error");
    let left = || emulator.controls.left().len();
    assert_eq!(left(), 1, "only its sandbox");
    // It is in nobody's way, nor forgotten for the next, or because its control plane has started anew.
    assert!(!checkpoint(&client, &agent, "next").await.is_empty());
    let begun = Box::pin(reconcile(own.stack.deployment(), Boots::Impossible)).await.unwrap();
    assert_eq!((begun.checkpoints, left()), (0, 2), "not there yet: {begun:?}");
    wait_until("it comes about", async || left() == 3).await;
    own.reconcile().await;
    assert_eq!((left(), status(&client, &agent).await), (2, json!("ready")));
    assert_eq!(phases(&client, &agent).await, ["next"]);
    client.terminate(&session).await;
    assert_eq!(left(), 0);
    own.stop().await;
}
