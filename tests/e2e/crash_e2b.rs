//! `kill -9` of the whole control plane in the middle of anything that it does at E2B: no sandbox is left over, no agent is
//! lost or left in between, no counter is off. `THEAZO_CRASH_TRIALS` says how often; 8 times unless it does.

use crate::harness::{Client, E2B_KEY, Process, e2b_emulator, make_canary};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use theazo_providers::Provider;
use theazo_providers::e2b::{E2bProvider, E2bService};
use theazo_vault::SecretValue;

fn trials() -> usize {
    std::env::var("THEAZO_CRASH_TRIALS").ok().and_then(|count| count.parse().ok()).unwrap_or(8)
}

fn random(below: u64) -> u64 {
    u64::from_be_bytes(theazo_tenancy::make_random_bytes()) % below
}

/// What runs (true) or is paused at E2B, by agent.
async fn at_e2b(process: &Process) -> BTreeMap<String, bool> {
    let deployment = std::fs::read_to_string(process.folder().join("deployment")).unwrap();
    let service = E2bService::new(e2b_emulator().endpoints.clone(), deployment.trim()).unwrap();
    let provider = E2bProvider::new(service.into(), &SecretValue::from_text(E2B_KEY.to_owned()), None).unwrap();
    let listed = provider.list_mine().await.unwrap();
    listed.into_iter().map(|sandbox| (sandbox.agent, sandbox.running)).collect()
}

async fn agents_of(client: &Client, session: &str) -> Vec<(String, String)> {
    let listed = client.get(&format!("/v1/sessions/{session}/agents?limit=100")).await.expect(200);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    listed["data"].as_array().unwrap().iter().map(|agent| (text(&agent["id"]), text(&agent["status"]))).collect()
}

/// The call of a random step from where things stand.
fn step(session: &str, agents: &[(String, String)]) -> String {
    let alive: Vec<_> = agents.iter().filter(|(_, status)| ["ready", "paused"].contains(&status.as_str())).collect();
    let Some((agent, status)) = alive.get(random(alive.len().max(1) as u64) as usize) else {
        return format!("/v1/sessions/{session}/agents");
    };
    match (alive.len() < 3, random(5), status.as_str()) {
        (true, 0, _) => format!("/v1/sessions/{session}/agents"),
        (_, 1, _) => format!("/v1/agents/{agent}/terminate"),
        (_, _, "paused") => format!("/v1/agents/{agent}/resume"),
        (_, 2 | 3, _) => format!("/v1/agents/{agent}/pause"),
        _ => format!("/v1/agents/{agent}/restart"),
    }
}

#[tokio::test]
async fn a_kill_in_the_middle_of_anything_at_e2b_leaves_no_sandbox_over_and_loses_no_agent() {
    let emulator = tokio::task::spawn_blocking(e2b_emulator).await.unwrap();
    let variables = [
        ("RUST_LOG", "info"),
        ("THEAZO_E2B_API_URL", emulator.endpoints.api.as_str()),
        ("THEAZO_E2B_SANDBOX_URL", emulator.endpoints.sandbox.as_str()),
    ];
    let name = format!("theazo-e2e-process-{}", hex::encode(theazo_tenancy::make_random_bytes::<6>()));
    let mut process = Process::start_with(std::env::temp_dir().join(name), &variables).await;
    process.client().post("/v1/secrets", json!({ "E2B": E2B_KEY })).await.expect(204);
    let configured = json!({ "credentialRef": "E2B" });
    process.client().call("PUT", "/v1/providers/e2b", Some(&configured)).await.expect(200);
    let session = process.client().session("u").await;
    process.client().set_secrets(&session, json!({ "KEY": make_canary("crash") })).await;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..trials() {
        let before = agents_of(&process.client(), &session).await;
        let path = step(&session, &before);
        let acting = tokio::spawn({
            let (client, path) = (process.client(), path.clone());
            async move { client.try_call("POST", &path, Some(json!({ "provider": "e2b" }).to_string().into_bytes())).await }
        });
        let delay = Duration::from_millis(5 + random(1500));
        tokio::time::sleep(delay).await;
        process.kill();
        let answer = acting.await.unwrap().ok();
        // What the service was asked for, it still does.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        process = process.restart_with(&variables).await;

        let client = process.client();
        let after = agents_of(&client, &session).await;
        let context = format!("{path} killed after {delay:?}: {before:?} -> {after:?}, {answer:?}");
        let expected: BTreeMap<String, bool> = after
            .iter()
            .filter_map(|(agent, status)| match status.as_str() {
                "ready" => Some((agent.clone(), true)),
                "paused" => Some((agent.clone(), false)),
                "completed" | "failed" => None,
                other => panic!("{other}: {context}: {}", process.output()),
            })
            .collect();
        assert_eq!(at_e2b(&process).await, expected, "{context}: {}", process.output());
        let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        let ready = expected.values().filter(|running| **running).count();
        assert_eq!(usage["activeAgents"], json!(ready), "{context}");
        // No agent is lost: only a terminate ends one that was there.
        for (agent, status) in &before {
            let alive = ["ready", "paused"].contains(&status.as_str());
            let lost = alive && !expected.contains_key(agent) && !path.ends_with("/terminate");
            assert!(!lost, "{agent} is lost: {context}: {}", process.output());
        }
        if let Some(answer) = &answer {
            assert!(answer.status < 300, "{context}");
        }
        for (agent, _) in expected.iter().filter(|(_, running)| **running) {
            assert_eq!(
                client.run(agent, "bash", "[ -n \"$KEY\" ] && echo delivered").await,
                "delivered\n",
                "{context}"
            );
        }
        let what = path.rsplit('/').next().unwrap_or_default().to_owned();
        *seen.entry(format!("{what}, {}", if answer.is_some() { "answered" } else { "interrupted" })).or_default() += 1;
    }
    println!("{seen:?}");
    process.client().terminate(&session).await;
    assert!(at_e2b(&process).await.is_empty());
}
