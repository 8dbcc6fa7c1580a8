//! `kill -9` of the whole control plane at any point: what was acknowledged stays, what was not leaves nothing.

use crate::harness::{Client, Process, make_canary, scan_everything, sha256};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use theazo_providers::Provider;

/// The main job, a step at a time, and what must hold after each.
struct Job {
    key: String,
    user: String,
    canary: String,
    session: String,
    agent: String,
}

const STEPS: [&str; 8] = ["key", "session", "secrets", "agent", "exec", "delete", "terminate", "session terminate"];

impl Job {
    fn secrets(&self) -> String {
        format!("/v1/sessions/{}/secrets", self.session)
    }

    async fn step(&mut self, client: &Client, step: &str) {
        match step {
            "key" => {
                let who = client.get("/v1/whoami").await.expect(200);
                self.key = who["keyId"].as_str().unwrap().to_owned();
            }
            "session" => self.session = client.session(&self.user).await,
            "secrets" => client.set_secrets(&self.session, json!({ "gone_key": self.canary, "KEPT": "kept" })).await,
            "agent" => self.agent = client.boot(&self.session, json!({})).await,
            "exec" => {
                let code = "printf %s \"$GONE_KEY\" | sha256sum | cut -c1-64 > /data/mark; echo done";
                assert_eq!(client.run(&self.agent, "bash", code).await, "done\n");
            }
            "delete" => {
                client.delete(&format!("{}/gone_key", self.secrets())).await.expect(204);
            }
            "terminate" => {
                let path = format!("/v1/agents/{}/terminate", self.agent);
                client.call("POST", &path, None).await.expect(200);
            }
            "session terminate" => client.terminate(&self.session).await,
            other => panic!("{other} is no step"),
        }
    }

    /// Everything that the first `done` steps were acknowledged to have done, and nothing else.
    async fn check(&self, process: &Process, done: usize) {
        let client = process.client();
        let has = |step: &str| STEPS[..done].contains(&step);
        if has("key") {
            assert_eq!(client.get("/v1/whoami").await.expect(200)["keyId"], self.key);
        }
        if !has("session") {
            return;
        }
        let session = client.get(&format!("/v1/sessions/{}", self.session)).await.expect(200);
        assert_eq!(session["userId"], self.user);
        let status = if has("session terminate") { "terminated" } else { "active" };
        assert_eq!(session["status"], status);
        let names = match (has("secrets"), has("delete"), has("session terminate")) {
            (false, ..) | (_, _, true) => json!([]),
            (_, false, _) => json!(["KEPT", "gone_key"]),
            (_, true, _) => json!(["KEPT"]),
        };
        assert_eq!(client.get(&self.secrets()).await.expect(200), names);
        let running = has("agent") && !has("terminate");
        assert_consistent(process, &self.session, usize::from(running)).await;
        if !has("agent") {
            return;
        }
        let agent = client.get(&format!("/v1/agents/{}", self.agent)).await.expect(200);
        assert_eq!(agent["status"], if running { "ready" } else { "completed" });
        if running {
            // It goes on with what it booted with, also with what was deleted since.
            let seen = client.environment(&self.agent).await;
            assert_eq!(seen["GONE_KEY"], (self.canary.len(), sha256(&self.canary)));
            assert_eq!(seen["KEPT"].1, sha256("kept"));
        }
        if running && has("exec") {
            let mark = client.run(&self.agent, "bash", "cat /data/mark").await;
            assert_eq!(mark.trim(), sha256(&self.canary));
        }
    }
}

/// No agent of the session is half-made, what the API counts is what is ready, and the engine holds exactly that.
/// The session is the only one of its stack that has agents.
async fn assert_consistent(process: &Process, session: &str, ready: usize) {
    let client = process.client();
    let agents = agents_of(&client, session).await;
    let undecided: Vec<_> = agents.iter().filter(|(_, status)| status == "booting").collect();
    assert!(undecided.is_empty(), "{undecided:?}");
    let alive: BTreeSet<String> =
        agents.into_iter().filter(|(_, status)| status == "ready").map(|(id, _)| id).collect();
    assert_eq!(alive.len(), ready, "{alive:?}");
    let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!(usage["activeAgents"], json!(ready), "{usage}");
    assert_eq!(on_engine(process).await, alive, "{}", process.output());
}

async fn agents_of(client: &Client, session: &str) -> Vec<(String, String)> {
    let listed = client.get(&format!("/v1/sessions/{session}/agents?limit=100")).await.expect(200);
    assert_eq!(listed["hasMore"], false);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    listed["data"].as_array().unwrap().iter().map(|agent| (text(&agent["id"]), text(&agent["status"]))).collect()
}

async fn on_engine(process: &Process) -> BTreeSet<String> {
    let listed = process.provider().list_mine().await.unwrap();
    listed.into_iter().map(|sandbox| sandbox.agent).collect()
}

#[tokio::test]
async fn what_was_acknowledged_is_there_after_a_kill_between_any_two_steps() {
    let mut process = Process::start("info").await;
    for done in 0..=STEPS.len() {
        let mut job = Job {
            key: String::new(),
            user: format!("killed-after-{done}"),
            canary: make_canary("crash"),
            session: String::new(),
            agent: String::new(),
        };
        for step in &STEPS[..done] {
            job.step(&process.client(), step).await;
        }
        process.kill();
        process = process.restart("info").await;
        job.check(&process, done).await;
        for (index, step) in STEPS.iter().enumerate().skip(done) {
            job.step(&process.client(), step).await;
            job.check(&process, index + 1).await;
        }
        assert_eq!(on_engine(&process).await, BTreeSet::new());
    }
}

#[tokio::test]
async fn a_kill_in_the_middle_of_a_boot_leaves_no_agent_half_made_and_no_sandbox_behind() {
    let mut process = Process::start("info").await;
    let session = process.client().session("u").await;
    process.client().set_secrets(&session, json!({ "NAME": "value" })).await;
    let agents = format!("/v1/sessions/{session}/agents");
    // One is running all the time: recovery must not take it for something left behind.
    let mut acknowledged = BTreeSet::from([process.client().boot(&session, json!({})).await]);
    // Random moments, spread so that every stretch of a boot is hit in every run.
    for from in [20, 100, 180, 260, 340, 420, 500] {
        let delay = Duration::from_millis(from + u64::from(theazo_tenancy::make_random_bytes::<1>()[0]) * 100 / 256);
        let booting = tokio::spawn({
            let (client, agents) = (process.client(), agents.clone());
            async move { client.try_call("POST", &agents, Some(b"{}".to_vec())).await }
        });
        tokio::time::sleep(delay).await;
        process.kill();
        // No answer says nothing; an answer is a promise.
        if let Ok(answer) = booting.await.unwrap() {
            acknowledged.insert(answer.expect(201)["id"].as_str().unwrap().to_owned());
        }
        process = process.restart("info").await;

        let context = format!("killed after {delay:?}: {}", process.output());
        let client = process.client();
        let listed = agents_of(&client, &session).await;
        assert!(listed.iter().all(|(_, status)| status != "booting"), "{listed:?} {context}");
        let ready: BTreeSet<String> =
            listed.into_iter().filter(|(_, status)| status == "ready").map(|(id, _)| id).collect();
        // A boot that was ready when the kill came, and whose answer did not get out, is as good.
        assert!(ready.is_superset(&acknowledged), "{ready:?} {acknowledged:?} {context}");
        assert!(ready.len() <= acknowledged.len() + 1, "{ready:?} {acknowledged:?} {context}");
        let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        assert_eq!(usage["activeAgents"], json!(ready.len()), "{usage} {context}");
        assert_eq!(on_engine(&process).await, ready, "{context}");
        for agent in &ready {
            assert_eq!(client.environment(agent).await["NAME"].1, sha256("value"), "{context}");
        }
        println!("killed after {delay:?}: {} ready", ready.len());
        acknowledged = ready;
    }
    // Otherwise no kill came in the middle of anything, and all of the above says little.
    assert!(process.output().contains("failed_boots: 1"), "{}", process.output());
    process.client().terminate(&session).await;
    assert_consistent(&process, &session, 0).await;
}

#[tokio::test]
async fn a_session_end_that_a_kill_interrupted_is_finished_by_the_next_start() {
    let mut process = Process::start("info").await;
    // The kill may come too late to interrupt anything; then it is tried again.
    for attempt in 0..8 {
        let client = process.client();
        let session = client.session(&format!("u{attempt}")).await;
        client.set_secrets(&session, json!({ "ONE": "1", "TWO": "2", "THREE": "3" })).await;
        for _ in 0..2 {
            client.boot(&session, json!({})).await;
        }
        let path = format!("/v1/sessions/{session}");
        let ending = tokio::spawn({
            let (client, path) = (client.clone(), format!("{path}/terminate"));
            async move { client.try_call("POST", &path, None).await }
        });
        for poll in 0.. {
            assert!(poll < 2000, "the session does not end");
            if client.get(&path).await.expect(200)["status"] == "terminated" {
                break;
            }
        }
        process.kill();
        let interrupted = ending.await.unwrap().is_err() && !on_engine(&process).await.is_empty();

        process = process.restart("info").await;
        let client = process.client();
        assert_eq!(client.get(&path).await.expect(200)["status"], "terminated");
        assert_eq!(client.get(&format!("{path}/secrets")).await.expect(200), json!([]));
        // What the API lists are names. Of the values themselves, none may lie on.
        let of_session = format!("#{session}#values");
        let partitions = scan_everything(&process.table_url()).await.partitions;
        assert!(partitions.iter().any(|partition| partition.contains(&session)), "the table was not read");
        assert!(!partitions.iter().any(|partition| partition.ends_with(&of_session)), "{partitions:?}");
        let listed = agents_of(&client, &session).await;
        assert!(listed.len() == 2 && listed.iter().all(|(_, status)| status == "completed"), "{listed:?}");
        assert_consistent(&process, &session, 0).await;
        let refused = client.post(&format!("{path}/agents"), json!({})).await;
        refused.expect_error(409, "conflict");
        if interrupted {
            return;
        }
    }
    panic!("no kill came while a session was ending");
}
