//! `kill -9` of the whole control plane in the middle of pauses, resumes and restarts: no agent is lost, none is left in
//! between, nothing runs that is not counted. `THEAZO_CRASH_TRIALS` says how often; 8 times unless it does.

use crate::harness::{Client, Kills, Process, make_canary, random, sha256};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_providers::{OwnedSandbox, Presence, Provider};

async fn status(client: &Client, agent: &str) -> String {
    let agent = client.get(&format!("/v1/agents/{agent}")).await.expect(200);
    agent["status"].as_str().unwrap().to_owned()
}

/// Does it to the end, and tells how long that took.
async fn whole(client: &Client, agent: &str, what: &str) -> Duration {
    let began = Instant::now();
    client.call("POST", &format!("/v1/agents/{agent}/{what}"), None).await.expect(200);
    began.elapsed()
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_pause_a_resume_or_a_restart_loses_no_agent_and_leaves_none_in_between() {
    let mut process = Process::start("info").await;
    let session = process.client().session("u").await;
    let secrets = format!("/v1/sessions/{session}/secrets");
    process.client().set_secrets(&session, json!({ "KEY": "value 0" })).await;
    let agent = process.client().boot(&session, json!({ "timeout": "24h" })).await;
    let kept = make_canary("kept");
    let file = json!({ "path": "/data/kept", "data": kept });
    process.client().post(&format!("/v1/agents/{agent}/files"), file).await.expect(204);
    let mut kills = Kills::new(8);
    for what in ["pause", "resume", "restart"] {
        kills.took(what, whole(&process.client(), &agent, what).await);
    }
    for trial in 0..kills.trials() {
        // A resume that was cut off leaves a paused one, as often as not: the others get their turn all the same.
        if trial % 3 == 2 && status(&process.client(), &agent).await == "paused" {
            whole(&process.client(), &agent, "resume").await;
        }
        let before = status(&process.client(), &agent).await;
        let what = match before.as_str() {
            "paused" => "resume",
            _ if random(2) == 0 => "pause",
            _ => "restart",
        };
        let value = format!("value {trial}");
        process.client().post(&secrets, json!({ "KEY": value })).await.expect(204);
        let acting = tokio::spawn({
            let (client, path) = (process.client(), format!("/v1/agents/{agent}/{what}"));
            async move { client.try_call("POST", &path, None).await }
        });
        let delay = kills.delay(what);
        tokio::time::sleep(delay).await;
        process.kill();
        let answer = acting.await.unwrap().ok();
        kills.note(what, answer.is_some());
        process = process.restart("info").await;

        let client = process.client();
        let after = status(&client, &agent).await;
        let context = format!("{what} of a {before} one killed after {delay:?}: {after}, {answer:?}");
        assert!(["ready", "paused"].contains(&after.as_str()), "{context}: {}", process.output());
        if let Some(answer) = &answer {
            assert_eq!((answer.status, after == "paused"), (200, what == "pause"), "{context}");
        }
        let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        assert_eq!(usage["activeAgents"], json!(usize::from(after == "ready")), "{context}");
        let listed = process.provider().list_mine().await.unwrap();
        let presence = if after == "ready" { Presence::Running } else { Presence::Kept };
        assert_eq!(listed, [OwnedSandbox { agent: agent.clone(), presence }], "{context}");
        if after == "ready" {
            let data: Value = client.get(&format!("/v1/agents/{agent}/files/data/kept")).await.expect(200);
            assert_eq!(data["data"], kept, "{context}");
            let delivered = client.environment(&agent).await["KEY"].1.clone();
            assert!((0..=trial).any(|one| sha256(&format!("value {one}")) == delivered), "{context}");
            if what != "pause" && before != after {
                assert_eq!(delivered, sha256(&value), "{context}");
            }
        }
    }
    kills.tell(&["pause", "resume", "restart"]);
    // Whatever was interrupted, it goes on from here.
    let client = process.client();
    if status(&client, &agent).await == "ready" {
        client.call("POST", &format!("/v1/agents/{agent}/pause"), None).await.expect(200);
    }
    client.call("POST", &format!("/v1/agents/{agent}/resume"), None).await.expect(200);
    let data = client.get(&format!("/v1/agents/{agent}/files/data/kept")).await.expect(200);
    assert_eq!(data["data"], kept);
    client.terminate(&session).await;
    assert!(process.provider().list_mine().await.unwrap().is_empty());
}
