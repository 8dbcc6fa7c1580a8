//! Pausing, resuming and restarting: files stay, secrets are the vault's of now, and who may.

use crate::harness::{
    Answer, Client, OwnStack, Platform, container_name, docker, docker_engine, dynamodb, make_canary, sha256, stack,
};
use bollard::models::NetworkCreateRequest;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::Duration;

async fn act(client: &Client, agent: &str, what: &str) -> Answer {
    client.call("POST", &format!("/v1/agents/{agent}/{what}"), None).await
}

async fn status(client: &Client, agent: &str) -> Value {
    client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"].clone()
}

async fn write(client: &Client, agent: &str, path: &str, data: &str) {
    client.post(&format!("/v1/agents/{agent}/files"), json!({ "path": path, "data": data })).await.expect(204);
}

async fn read(client: &Client, agent: &str, path: &str) -> Value {
    client.get(&format!("/v1/agents/{agent}/files{path}")).await.expect(200)["data"].clone()
}

async fn active(client: &Client, session: &str) -> Value {
    client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200)["activeAgents"].clone()
}

/// Whether the engine has a container and a volume of the agent's.
async fn on_engine(agent: &str) -> (bool, bool) {
    let (docker, name) = (docker().await, container_name(agent));
    (docker.inspect_container(&name, None).await.is_ok(), docker.inspect_volume(&name).await.is_ok())
}

/// The whole circle, as far as it is the same with both kinds of keys. `exec` says whether code really runs.
async fn circle(client: &Client, provider: &str, exec: bool) {
    let session = client.session("circle").await;
    let values = [make_canary("before"), make_canary("after"), make_canary("third")];
    client.set_secrets(&session, json!({ "changes": values[0], "GOES": "goes", "STAYS": "stays" })).await;
    let agent = client.boot(&session, json!({})).await;
    write(client, &agent, "/data/dir/kept", "kept").await;
    write(client, &agent, "/tmp/lost", "lost").await;
    let secrets = format!("/v1/agents/{agent}/secrets");
    let fresh = |name: &str| json!({ "name": name, "version": 1, "scope": "session", "stale": false });
    assert_eq!(client.get(&secrets).await.expect(200), json!([fresh("CHANGES"), fresh("GOES"), fresh("STAYS")]));

    let paused = act(client, &agent, "pause").await.expect(200);
    assert!(paused["id"].as_str().unwrap().starts_with("snap_"), "{paused}");
    let size = paused["size"].as_str().unwrap();
    let (number, unit) = size.split_once(' ').unwrap();
    assert!(number.parse::<f64>().is_ok() && ["B", "KB"].contains(&unit), "{size}");
    assert_eq!(paused["provider"], provider);
    assert_eq!(act(client, &agent, "pause").await.expect(200), paused, "once more is the same");
    assert_eq!(status(client, &agent).await, "paused");
    assert_eq!(active(client, &session).await, 0);
    let code = json!({ "language": "bash", "code": ":" });
    for refused in [
        client.post(&format!("/v1/agents/{agent}/exec"), code).await,
        client.get(&format!("/v1/agents/{agent}/files?dir=/data")).await,
        act(client, &agent, "restart").await,
    ] {
        let error = refused.expect_error(409, "conflict");
        assert_eq!(error["details"]["status"], "paused");
    }

    client.set_secrets(&session, json!({ "changes": values[1], "NEW": "new" })).await;
    client.delete(&format!("/v1/sessions/{session}/secrets/GOES")).await.expect(204);
    let listed = client.get(&secrets).await.expect(200);
    let stale: Vec<_> = listed.as_array().unwrap().iter().map(|one| (&one["name"], &one["stale"])).collect();
    assert_eq!(json!(stale), json!([["CHANGES", true], ["GOES", true], ["STAYS", false]]));
    assert_eq!(listed[1]["deleted"], true);
    let details = client.get(&format!("/v1/sessions/{session}/secrets?details=true")).await.expect(200);
    let details = details.as_array().unwrap();
    assert!(details.iter().all(|secret| secret["retainedBy"] == json!([])), "it holds nothing: {details:?}");

    for (body, status) in [
        (json!({ "region": "fra" }), 400),
        (json!({ "region": "Über all" }), 400),
        (json!({ "checkpoint": "ckpt_x" }), 400),
        (json!({ "checkpoint": "ckpt_01jd9s6q0f3v8x2n4m5k7h9tbc" }), 400),
        (json!({ "provider": "nowhere" }), 400),
        (json!({ "provider": 5 }), 400),
    ] {
        assert_eq!(client.post(&format!("/v1/agents/{agent}/resume"), body.clone()).await.status, status, "{body}");
    }
    assert_eq!(status(client, &agent).await, "paused");
    let resumed = act(client, &agent, "resume").await.expect(200);
    assert_eq!((&resumed["id"], &resumed["status"]), (&json!(agent), &json!("ready")));
    assert_eq!(active(client, &session).await, 1);
    assert_eq!(read(client, &agent, "/data/dir/kept").await, "kept");
    client.get(&format!("/v1/agents/{agent}/files/tmp/lost")).await.expect_error(404, "not_found");
    let listed = client.get(&secrets).await.expect(200);
    let now: Vec<_> = listed.as_array().unwrap().iter().map(|one| (&one["name"], &one["stale"])).collect();
    assert_eq!(json!(now), json!([["CHANGES", false], ["NEW", false], ["STAYS", false]]));
    act(client, &agent, "resume").await.expect_error(409, "conflict");
    if exec {
        let seen = client.environment(&agent).await;
        assert_eq!(seen["CHANGES"].1, sha256(&values[1]));
        assert_eq!(seen["NEW"].1, sha256("new"));
        assert!(!seen.contains_key("GOES"));
        assert_eq!(
            client.run(&agent, "bash", "echo $CHANGES").await,
            "[secret:CHANGES]\n",
            "what it has now is masked"
        );
    }

    client.set_secrets(&session, json!({ "changes": values[2] })).await;
    client.delete(&format!("/v1/sessions/{session}/secrets/NEW")).await.expect(204);
    let restarted = act(client, &agent, "restart").await.expect(200);
    assert_eq!(restarted["status"], "ready");
    assert_eq!(read(client, &agent, "/data/dir/kept").await, "kept");
    assert_eq!(active(client, &session).await, 1);
    if exec {
        let seen = client.environment(&agent).await;
        assert_eq!((&seen["CHANGES"].1, seen.contains_key("NEW")), (&sha256(&values[2]), false));
        let shown = client.run(&agent, "bash", &format!("echo $CHANGES {}", values[1])).await;
        assert_eq!(shown, format!("[secret:CHANGES] {}\n", values[1]), "what it had before is none of its secrets");
    }
    let trail = client.get(&format!("/v1/audit?session={session}&limit=100")).await.expect(200);
    let trail = trail["data"].as_array().unwrap();
    for (action, outcomes) in [("agent.pause", 2), ("agent.resume", 2), ("agent.restart", 2)] {
        let entries: Vec<_> = trail.iter().filter(|entry| entry["action"] == action).collect();
        assert_eq!(entries.len(), outcomes, "{entries:?}");
        assert!(entries.iter().all(|entry| entry["agentId"] == json!(agent)));
        let says = |outcome: &str| entries.iter().any(|entry| entry["outcome"] == outcome);
        assert!(says("started") && says("succeeded"), "{entries:?}");
    }
    act(client, &agent, "pause").await.expect(200);
    assert_eq!(on_engine(&agent).await, (false, exec), "of a paused one the files, and nothing else");
    act(client, &agent, "terminate").await.expect(200);
    assert_eq!(on_engine(&agent).await, (false, false));
    act(client, &agent, "resume").await.expect_error(409, "conflict");
    act(client, &agent, "pause").await.expect_error(409, "conflict");
    client.terminate(&session).await;
}

#[tokio::test]
async fn an_agent_on_docker_is_paused_resumed_and_restarted_on_its_files_with_the_secrets_of_each_time() {
    let platform = Platform::make("circle").await;
    circle(&platform.client, "docker", true).await;
}

#[tokio::test]
async fn a_simulated_agent_is_paused_resumed_and_restarted_alike() {
    let platform = Platform::make("simulated circle").await;
    circle(&platform.client.with_key(Some(&platform.test_key)), "simulated", false).await;
}

#[tokio::test]
async fn the_holder_of_a_session_token_undoes_its_own_pauses_and_none_of_the_platforms() {
    let platform = Platform::make("who paused").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let minted = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    let user = client.with_key(minted["token"].as_str());
    let reader = client.post(&format!("/v1/sessions/{session}/tokens"), json!({ "permissions": ["read"] })).await;
    let reader = client.with_key(reader.expect(201)["token"].as_str());

    act(&reader, &agent, "pause").await.expect_error(403, "forbidden");
    act(&user, &agent, "pause").await.expect(200);
    act(&user, &agent, "resume").await.expect(200);
    act(&user, &agent, "restart").await.expect(200);
    act(&client, &agent, "pause").await.expect(200);
    act(&user, &agent, "resume").await.expect_error(403, "forbidden");
    // Not by pausing it once more either.
    act(&user, &agent, "pause").await.expect(200);
    act(&user, &agent, "resume").await.expect_error(403, "forbidden");
    act(&client, &agent, "resume").await.expect(200);
    // And what the platform pauses on top of the holder's own pause is the platform's.
    act(&user, &agent, "pause").await.expect(200);
    act(&client, &agent, "pause").await.expect(200);
    act(&user, &agent, "resume").await.expect_error(403, "forbidden");
    for what in ["pause", "resume"] {
        let path = format!("/v1/sessions/{session}/{what}");
        user.call("POST", &path, None).await.expect_error(403, "forbidden");
    }
    assert_eq!(status(&client, &agent).await, "paused");

    let stranger = Platform::make("who paused, a stranger").await;
    let stranger = stranger.client.with_key(Some(&stranger.test_key));
    for what in ["pause", "resume", "restart"] {
        act(&stranger, &agent, what).await.expect_error(404, "not_found");
    }
    stranger.get(&format!("/v1/agents/{agent}/secrets")).await.expect_error(404, "not_found");
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_paused_agent_leaves_its_place_to_others_and_needs_one_to_come_back() {
    let platform = Platform::make("places").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.post("/v1/sessions", json!({ "limits": { "maxAgents": 1 } })).await.expect(201);
    let session = session["id"].as_str().unwrap().to_owned();
    let first = client.boot(&session, json!({})).await;
    act(&client, &first, "pause").await.expect(200);
    let second = client.boot(&session, json!({})).await;
    let error = act(&client, &first, "resume").await.expect_error(402, "session_limit_exceeded");
    assert_eq!(error["details"], json!({ "limit": "maxAgents", "used": 1, "max": 1 }));
    assert_eq!(status(&client, &first).await, "paused");
    act(&client, &second, "restart").await.expect(200);
    act(&client, &second, "terminate").await.expect(200);
    act(&client, &first, "resume").await.expect(200);
    assert_eq!(active(&client, &session).await, 1);
    client.terminate(&session).await;
}

/// Pausing and resuming a session, with both kinds of keys.
async fn suspend(client: &Client) {
    let session = client.session("suspended").await;
    client.set_secrets(&session, json!({ "KEY": make_canary("first") })).await;
    let (with_it, by_itself) = (client.boot(&session, json!({})).await, client.boot(&session, json!({})).await);
    write(client, &with_it, "/data/kept", "kept").await;
    act(client, &by_itself, "pause").await.expect(200);
    let path = |what: &str| format!("/v1/sessions/{session}/{what}");
    let shown = client.call("POST", &path("pause"), None).await.expect(200);
    assert_eq!(shown["status"], "paused");
    assert!(shown["pausedAt"].is_string());
    assert_eq!(client.call("POST", &path("pause"), None).await.expect(200), shown);
    for agent in [&with_it, &by_itself] {
        assert_eq!(status(client, agent).await, "paused");
        act(client, agent, "resume").await.expect_error(409, "conflict");
    }
    client.post(&path("agents"), json!({})).await.expect_error(409, "conflict");
    let code = json!({ "language": "bash", "code": ":" });
    client.post(&format!("/v1/agents/{with_it}/exec"), code).await.expect_error(409, "conflict");
    client.set_secrets(&session, json!({ "KEY": make_canary("second") })).await;

    let shown = client.call("POST", &path("resume"), None).await.expect(200);
    assert_eq!((&shown["status"], &shown["pausedAt"]), (&json!("active"), &Value::Null));
    assert_eq!(status(client, &with_it).await, "ready");
    assert_eq!(status(client, &by_itself).await, "paused", "it was paused for itself");
    assert_eq!(read(client, &with_it, "/data/kept").await, "kept");
    let secrets = client.get(&format!("/v1/agents/{with_it}/secrets")).await.expect(200);
    assert_eq!(secrets[0]["stale"], false);
    client.call("POST", &path("resume"), None).await.expect(200);
    act(client, &by_itself, "resume").await.expect(200);
    client.terminate(&session).await;
    for what in ["pause", "resume"] {
        client.call("POST", &path(what), None).await.expect_error(409, "conflict");
    }
}

#[tokio::test]
async fn a_session_is_paused_and_resumed_with_all_that_runs_in_it() {
    let platform = Platform::make("suspended").await;
    suspend(&platform.client).await;
}

#[tokio::test]
async fn a_session_of_a_test_key_is_paused_and_resumed_alike() {
    let platform = Platform::make("suspended, simulated").await;
    suspend(&platform.client.with_key(Some(&platform.test_key))).await;
}

#[tokio::test]
async fn a_session_that_is_resumed_while_it_is_being_paused_runs_with_all_of_its_agents() {
    let platform = Platform::make("pause and resume at once").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    for _ in 0..12 {
        client.boot(&session, json!({})).await;
    }
    let act = async |what: &str, after: u64| {
        tokio::time::sleep(Duration::from_millis(after)).await;
        client.call("POST", &format!("/v1/sessions/{session}/{what}"), None).await
    };
    let mut overtaken = 0;
    for round in 0..30 {
        let (paused, resumed) = tokio::join!(act("pause", 0), act("resume", 4 * round));
        let now = client.get(&format!("/v1/sessions/{session}")).await.expect(200)["status"].clone();
        let was_last = now == "active" && resumed.status == 200;
        if was_last {
            overtaken += 1;
        } else {
            act("resume", 0).await.expect(200);
        }
        assert!([200, 409].contains(&paused.status), "{}", paused.status);
        let agents = client.get(&format!("/v1/sessions/{session}/agents")).await.expect(200)["data"].clone();
        let statuses: Vec<_> = agents.as_array().unwrap().iter().map(|agent| agent["status"].clone()).collect();
        assert_eq!(statuses, ["ready"; 12], "round {round}, resumed last: {was_last}");
    }
    assert!(overtaken > 0, "no pause was overtaken");
    client.terminate(&session).await;
}

#[tokio::test]
async fn what_a_given_up_resume_has_made_on_the_engine_meanwhile_goes_and_the_files_stay() {
    let engine = tokio::task::spawn_blocking(docker_engine).await.unwrap();
    let (own, client) = OwnStack::start_still(Some(engine.clone()), |_| {}).await;
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    write(&client, &agent, "/data/kept", "kept").await;
    act(&client, &agent, "pause").await.expect(200);
    let docker = docker().await;
    let labels = HashMap::from([
        ("theazo.deployment".to_owned(), own.stack.deployment().config().name.clone()),
        ("theazo.agent".to_owned(), agent.clone()),
    ]);
    let late = NetworkCreateRequest {
        name: container_name(&agent),
        internal: Some(true),
        labels: Some(labels),
        ..NetworkCreateRequest::default()
    };
    docker.create_network(late).await.unwrap();
    assert_eq!(crate::crash_checkpoints::on_engine(&agent).await, (0, 1, 1));
    let run = own.reconcile().await;
    assert_eq!(crate::crash_checkpoints::on_engine(&agent).await, (0, 0, 1), "{run:?}");
    assert_eq!(own.reconcile().await.pauses, 0, "and it is done");
    assert_eq!(status(&client, &agent).await, "paused");
    act(&client, &agent, "resume").await.expect(200);
    assert_eq!(read(&client, &agent, "/data/kept").await, "kept");
    client.terminate(&session).await;
    own.stop().await;
}

#[tokio::test]
async fn a_pause_in_the_middle_of_an_exec_ends_the_exec_and_not_the_agent() {
    let platform = Platform::make("pause under exec").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let running = tokio::spawn({
        let (client, path) = (client.clone(), format!("/v1/agents/{agent}/exec"));
        async move { client.post(&path, json!({ "language": "bash", "code": "echo begun > /data/mark; sleep 60" })).await }
    });
    let mark = format!("/v1/agents/{agent}/files/data/mark");
    for poll in 0.. {
        if client.get(&mark).await.status == 200 {
            break;
        }
        assert!(poll < 200, "the exec does not begin");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    act(client, &agent, "pause").await.expect(200);
    running.await.unwrap().expect_error(409, "conflict");
    assert_eq!(status(client, &agent).await, "paused");
    act(client, &agent, "resume").await.expect(200);
    assert_eq!(read(client, &agent, "/data/mark").await, "begun\n");
    client.terminate(&session).await;
}

#[tokio::test]
async fn in_a_paused_session_nothing_that_still_runs_takes_its_users_calls() {
    let platform = Platform::make("paused around").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let minted = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    let token = client.with_key(minted["token"].as_str());
    let file = format!("/v1/agents/{agent}/files/data/a");
    write(&token, &agent, "/data/a", "before").await;
    // As where its provider could not pause it, or has not done so yet.
    let key = json!({ "pk": { "S": format!("{}#test#sessions", platform.id) }, "sk": { "S": session } });
    let change = json!({
        "TableName": "theazo", "Key": key, "UpdateExpression": "SET #s = :paused",
        "ExpressionAttributeNames": { "#s": "status" }, "ExpressionAttributeValues": { ":paused": { "S": "paused" } },
    });
    dynamodb(&stack().dynamodb_url(), "UpdateItem", change).await;
    let code = json!({ "language": "bash", "code": ":" });
    token.post(&format!("/v1/agents/{agent}/exec"), code.clone()).await.expect_error(409, "conflict");
    let write = json!({ "path": "/data/a", "data": "after" });
    token.post(&format!("/v1/agents/{agent}/files"), write).await.expect_error(409, "conflict");
    token.get(&file).await.expect_error(409, "conflict");
    token.get(&format!("/v1/agents/{agent}/files?dir=/data")).await.expect_error(409, "conflict");
    // It is the platform's own pause, and it may look inside.
    assert_eq!(client.get(&file).await.expect(200)["data"], "before");
    client.post(&format!("/v1/agents/{agent}/exec"), code).await.expect(200);
    client.terminate(&session).await;
}
