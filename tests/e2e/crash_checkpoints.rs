//! `kill -9` of the whole control plane in the middle of checkpoints and of boots from them: what was not finished is
//! removed, what was is there, and the agent goes on. `THEAZO_CRASH_TRIALS` says how often; 4 times unless it does.

use crate::harness::{Client, Kills, Process, docker};
use bollard::query_parameters::{ListContainersOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use theazo_providers::Provider;

/// After so many the next agent is tried on: one keeps ten checkpoints.
const AN_AGENTS_TRIALS: usize = 6;

async fn status(client: &Client, agent: &str) -> String {
    client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"].as_str().unwrap().to_owned()
}

async fn kept(client: &Client, agent: &str) -> Vec<Value> {
    let listed = client.get(&format!("/v1/agents/{agent}/checkpoints")).await.expect(200);
    listed["data"].as_array().unwrap().clone()
}

/// How many containers, networks and volumes the engine has of an agent's.
pub async fn on_engine(agent: &str) -> (usize, usize, usize) {
    let filter = HashMap::from([("label", vec![format!("theazo.agent={agent}")])]);
    let containers = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
    let networks = ListNetworksOptionsBuilder::default().filters(&filter).build();
    let volumes = ListVolumesOptionsBuilder::default().filters(&filter).build();
    let docker = docker().await;
    let containers = docker.list_containers(Some(containers)).await.unwrap();
    let networks = docker.list_networks(Some(networks)).await.unwrap();
    let volumes = docker.list_volumes(Some(volumes)).await.unwrap().volumes.unwrap_or_default();
    (containers.len(), networks.len(), volumes.len())
}

/// Does that and kills the process in the middle of it. Gives its successor, and the answer if there was one.
async fn killed(
    mut process: Process,
    kills: &mut Kills,
    what: &'static str,
    path: String,
    body: Value,
) -> (Process, Option<u16>, Duration) {
    let acting = tokio::spawn({
        let (client, began) = (process.client(), Instant::now());
        async move {
            let answer = client.try_call("POST", &path, Some(body.to_string().into_bytes())).await;
            answer.map(|answer| (answer.status, began.elapsed()))
        }
    });
    let delay = kills.delay(what);
    tokio::time::sleep(delay).await;
    process.kill();
    let answer = acting.await.unwrap().ok().map(|(status, whole)| {
        if status < 300 {
            kills.took(what, whole);
        }
        status
    });
    kills.note(what, answer.is_some());
    (process.restart("info").await, answer, delay)
}

async fn write(client: &Client, agent: &str, content: &str) {
    let body = json!({ "path": "/data/file", "data": content });
    client.post(&format!("/v1/agents/{agent}/files"), body).await.expect(204);
}

/// An agent, and its first checkpoint.
async fn begin(client: &Client, session: &str) -> (String, Value) {
    let agent = client.boot(session, json!({ "timeout": "24h" })).await;
    write(client, &agent, "first").await;
    let first = client.post(&format!("/v1/agents/{agent}/checkpoints"), json!({ "phase": "first" })).await.expect(201);
    (agent, first["id"].clone())
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_checkpoint_or_of_a_boot_from_one_leaves_nothing_half_made() {
    let mut process = Process::start("info").await;
    let session = process.client().session("u").await;
    let (mut agent, mut first) = begin(&process.client(), &session).await;
    let mut kills = Kills::new(4);
    for trial in 0..kills.trials() {
        // The first checkpoint must not be the one that goes because there are too many.
        if trial > 0 && trial % AN_AGENTS_TRIALS == 0 {
            process.client().call("POST", &format!("/v1/agents/{agent}/terminate"), None).await.expect(200);
            assert_eq!(on_engine(&agent).await, (0, 0, 0));
            (agent, first) = begin(&process.client(), &session).await;
        }
        let checkpoints = format!("/v1/agents/{agent}/checkpoints");
        let phase = format!("trial {trial}");
        write(&process.client(), &agent, &phase).await;
        let before = kept(&process.client(), &agent).await.len();
        let (next, answer, delay) =
            killed(process, &mut kills, "checkpoint", checkpoints, json!({ "phase": phase })).await;
        process = next;
        let client = process.client();
        let context = format!("checkpoint killed after {delay:?}: {answer:?}");
        assert_eq!(status(&client, &agent).await, "ready", "{context}");
        // It does not stand still.
        assert_eq!(client.run(&agent, "bash", "cat /data/file").await, phase, "{context}");
        let now = kept(&client, &agent).await;
        assert!(now.len() == before || (now.len() == before + 1 && now[0]["phase"] == phase), "{context}: {now:?}");
        assert!(answer != Some(201) || now.len() == before + 1, "{context}");
        assert_eq!(on_engine(&agent).await, (1, 1, 1 + now.len()), "{context}: {}", process.output());

        client.call("POST", &format!("/v1/agents/{agent}/pause"), None).await.expect(200);
        let resume = format!("/v1/agents/{agent}/resume");
        let (next, answer, delay) =
            killed(process, &mut kills, "resume", resume.clone(), json!({ "checkpoint": first })).await;
        process = next;
        let client = process.client();
        let context = format!("resume killed after {delay:?}: {answer:?}");
        let after = status(&client, &agent).await;
        assert!(["ready", "paused"].contains(&after.as_str()), "{context}: {after} {}", process.output());
        let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        assert_eq!(usage["activeAgents"], json!(usize::from(after == "ready")), "{context}");
        let mut begun = true;
        if after == "paused" {
            client.post(&resume, json!({})).await.expect(200);
            begun = client.run(&agent, "bash", "cat /data/file").await == "first";
        }
        // Killed before it had begun, it was not to boot from the checkpoint.
        let content = client.run(&agent, "bash", "cat /data/file").await;
        assert_eq!(content, if begun { "first" } else { phase.as_str() }, "{context}");
        assert_eq!(on_engine(&agent).await, (1, 1, 1 + kept(&client, &agent).await.len()), "{context}");
    }
    kills.tell(&["checkpoint", "resume"]);
    process.client().terminate(&session).await;
    assert_eq!(on_engine(&agent).await, (0, 0, 0));
    assert!(process.provider().list_mine().await.unwrap().is_empty());
}
