//! `kill -9` of the whole control plane in the middle of anything that it does at E2B or Fly: nothing is left over there, no
//! agent is lost or left in between, no counter is off. `THEAZO_CRASH_TRIALS` says how often; 8 times unless it does.

use crate::harness::{Client, E2B_KEY, FLY_ORGANIZATION, FLY_TOKEN, Process, e2b_emulator, fly_emulator, make_canary};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;
use theazo_providers::Provider;
use theazo_providers::e2b::{E2bProvider, E2bService};
use theazo_providers::fly::{FlyProvider, FlyService, FlySettings};
use theazo_vault::SecretValue;

fn trials() -> usize {
    std::env::var("THEAZO_CRASH_TRIALS").ok().and_then(|count| count.parse().ok()).unwrap_or(8)
}

fn random(below: u64) -> u64 {
    u64::from_be_bytes(theazo_tenancy::make_random_bytes()) % below
}

/// The platform's account at a provider.
#[derive(Clone, Copy)]
enum Account {
    E2b,
    Fly,
}

impl Account {
    fn name(self) -> &'static str {
        match self {
            Self::E2b => "e2b",
            Self::Fly => "fly",
        }
    }

    /// Its key, and how it is configured.
    fn credential(self) -> (&'static str, Value) {
        match self {
            Self::E2b => (E2B_KEY, json!({})),
            Self::Fly => (FLY_TOKEN, json!({ "organization": FLY_ORGANIZATION, "image": "agents:1", "region": "iad" })),
        }
    }

    /// How a process finds the emulator.
    fn variables(self) -> Vec<(&'static str, &'static str)> {
        let mut variables = vec![("RUST_LOG", "info")];
        match self {
            Self::E2b => {
                let endpoints = &e2b_emulator().endpoints;
                variables.push(("THEAZO_E2B_API_URL", endpoints.api.as_str()));
                variables.push(("THEAZO_E2B_SANDBOX_URL", endpoints.sandbox.as_str()));
            }
            Self::Fly => variables.push(("THEAZO_FLY_API_URL", fly_emulator().endpoints.api.as_str())),
        }
        variables
    }

    /// What runs (true) or is paused there, by agent.
    async fn there(self, process: &Process) -> BTreeMap<String, bool> {
        let deployment = std::fs::read_to_string(process.folder().join("deployment")).unwrap();
        let key = SecretValue::from_text(self.credential().0.to_owned());
        let listed = match self {
            Self::E2b => {
                let service = E2bService::new(e2b_emulator().endpoints.clone(), deployment.trim()).unwrap();
                E2bProvider::new(service.into(), &key, None).unwrap().list_mine().await
            }
            Self::Fly => {
                let service = FlyService::new(fly_emulator().endpoints.clone(), deployment.trim()).unwrap();
                let organization = FLY_ORGANIZATION.to_owned();
                let settings = FlySettings { organization, image: "agents:1".into(), region: None };
                FlyProvider::new(service.into(), &key, settings).unwrap().list_mine().await
            }
        };
        listed.unwrap().into_iter().map(|sandbox| (sandbox.agent, sandbox.running)).collect()
    }
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
    kill_often(Account::E2b).await;
}

#[tokio::test]
async fn a_kill_in_the_middle_of_anything_at_fly_leaves_no_app_over_and_loses_no_agent() {
    kill_often(Account::Fly).await;
}

async fn kill_often(account: Account) {
    let variables = tokio::task::spawn_blocking(move || account.variables()).await.unwrap();
    let name = format!("theazo-e2e-process-{}", hex::encode(theazo_tenancy::make_random_bytes::<6>()));
    let mut process = Process::start_with(std::env::temp_dir().join(name), &variables).await;
    let (key, config) = account.credential();
    process.client().post("/v1/secrets", json!({ "ACCOUNT": key })).await.expect(204);
    let configured = json!({ "credentialRef": "ACCOUNT", "config": config });
    process.client().call("PUT", &format!("/v1/providers/{}", account.name()), Some(&configured)).await.expect(200);
    let session = process.client().session("u").await;
    process.client().set_secrets(&session, json!({ "KEY": make_canary("crash") })).await;
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    for _ in 0..trials() {
        let before = agents_of(&process.client(), &session).await;
        let path = step(&session, &before);
        let acting = tokio::spawn({
            let (client, path) = (process.client(), path.clone());
            let body = json!({ "provider": account.name() }).to_string().into_bytes();
            async move { client.try_call("POST", &path, Some(body)).await }
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
        assert_eq!(account.there(&process).await, expected, "{context}: {}", process.output());
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
    process.client().terminate(&session).await;
    assert!(account.there(&process).await.is_empty(), "{seen:?}");
}
