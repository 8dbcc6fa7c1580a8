//! `kill -9` of the whole control plane in the middle of anything that it does at a provider: a create, a pause, a resume,
//! also on a checkpoint, a restart, a checkpoint, a termination. Nothing is left over there, no agent is lost or left in
//! between, no counter is off. `THEAZO_CRASH_TRIALS` says how often; 8 times unless it does.

use crate::crash_checkpoints::on_engine;
use crate::harness::{
    Client, E2B_KEY, E2bEmulator, FLY_ORGANIZATION, FLY_TOKEN, FlyEmulator, Kills, Process, make_canary,
    start_e2b_emulator, start_fly_emulator,
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};
use theazo_providers::e2b::{E2bProvider, E2bService};
use theazo_providers::fly::{FlyProvider, FlyService, FlySettings};
use theazo_providers::{Presence, Provider};
use theazo_vault::SecretValue;

/// Where agents are, and nobody else's.
enum Place {
    E2b(E2bEmulator),
    Fly(FlyEmulator),
    /// The local engine.
    Docker,
}

impl Place {
    fn name(&self) -> &'static str {
        match self {
            Self::E2b(_) => "e2b",
            Self::Fly(_) => "fly",
            Self::Docker => "docker",
        }
    }

    /// The platform's key there, if it needs one, and how it is configured.
    fn credential(&self) -> Option<(&'static str, Value)> {
        let fly = json!({ "organization": FLY_ORGANIZATION, "image": "agents:1", "region": "iad" });
        match self {
            Self::E2b(_) => Some((E2B_KEY, json!({}))),
            Self::Fly(_) => Some((FLY_TOKEN, fly)),
            Self::Docker => None,
        }
    }

    /// How a process finds it.
    fn variables(&self) -> Vec<(&'static str, &str)> {
        let mut variables = vec![("RUST_LOG", "info")];
        match self {
            Self::E2b(served) => {
                variables.push(("THEAZO_E2B_API_URL", served.endpoints.api.as_str()));
                variables.push(("THEAZO_E2B_SANDBOX_URL", served.endpoints.sandbox.as_str()));
            }
            Self::Fly(served) => variables.push(("THEAZO_FLY_API_URL", served.endpoints.api.as_str())),
            Self::Docker => {}
        }
        variables
    }

    /// What runs (true) or is paused there, by agent.
    async fn there(&self, process: &Process) -> BTreeMap<String, bool> {
        let deployment = std::fs::read_to_string(process.folder().join("deployment")).unwrap();
        let key = |key: &str| SecretValue::from_text(key.to_owned());
        let listed = match self {
            Self::E2b(served) => {
                let service = E2bService::new(served.endpoints.clone(), deployment.trim()).unwrap();
                E2bProvider::new(service.into(), &key(E2B_KEY), None).unwrap().list_mine().await
            }
            Self::Fly(served) => {
                let service = FlyService::new(served.endpoints.clone(), deployment.trim()).unwrap();
                let organization = FLY_ORGANIZATION.to_owned();
                let settings = FlySettings { organization, image: "agents:1".into(), region: None };
                FlyProvider::new(service.into(), &key(FLY_TOKEN), settings).unwrap().list_mine().await
            }
            Self::Docker => process.provider().list_mine().await,
        };
        listed.unwrap().into_iter().map(|sandbox| (sandbox.agent, sandbox.presence == Presence::Running)).collect()
    }

    /// The same once it is as expected, or as it stays: Fly's lists lag behind.
    async fn there_soon(&self, process: &Process, expected: &BTreeMap<String, bool>) -> BTreeMap<String, bool> {
        let mut there = self.there(process).await;
        for _ in 0..6 {
            if there == *expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
            there = self.there(process).await;
        }
        there
    }

    /// Panics unless there is exactly what those agents, running or paused, with so many checkpoints, must have there.
    /// At a service that is all there is in it; on an engine, which is everybody's, what has the agents' labels. Of
    /// `unmade` ones a boot from a checkpoint was interrupted: their sandboxes are made anew by the next boot, and may
    /// be gone until then.
    async fn has_exactly(
        &self,
        agents: &BTreeMap<String, (bool, usize)>,
        unmade: &BTreeSet<String>,
        gone: &[&str],
        context: &str,
    ) {
        let checkpoints: usize = agents.values().map(|(_, kept)| kept).sum();
        let (left, expected, of_sandbox) = match self {
            // A sandbox; and snapshots.
            Self::E2b(served) => (served.controls.left(), agents.len() + checkpoints, 1),
            // An app, its address, a machine, its volume; and volumes.
            Self::Fly(served) => (served.controls.left(), 4 * agents.len() + checkpoints, 2),
            Self::Docker => {
                for (agent, (running, kept)) in agents {
                    // A paused one has its files and nothing else.
                    let (containers, networks, volumes) = on_engine(agent).await;
                    let own = if unmade.contains(agent) { volumes - kept } else { 1 };
                    assert!(own <= 1, "{agent}: {volumes} volumes: {context}");
                    let runs = usize::from(*running);
                    assert_eq!((containers, networks, volumes), (runs, runs, own + kept), "{agent}: {context}");
                }
                for agent in gone {
                    assert_eq!(on_engine(agent).await, (0, 0, 0), "{agent}: {context}");
                }
                return;
            }
        };
        let least = expected - of_sandbox * unmade.len();
        assert!((least..=expected).contains(&left.len()), "{left:?} of {agents:?}, {unmade:?}: {context}");
    }
}

/// An agent, its status, and its checkpoints.
type Standing = (String, String, Vec<String>);

async fn agents_of(client: &Client, session: &str) -> Vec<Standing> {
    let listed = client.get(&format!("/v1/sessions/{session}/agents?limit=100")).await.expect(200);
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut agents = Vec::new();
    for agent in listed["data"].as_array().unwrap() {
        let (id, status) = (text(&agent["id"]), text(&agent["status"]));
        let mut checkpoints = Vec::new();
        if is_alive(&status) {
            let kept = client.get(&format!("/v1/agents/{id}/checkpoints")).await.expect(200);
            checkpoints.extend(kept["data"].as_array().unwrap().iter().map(|kept| text(&kept["id"])));
        }
        agents.push((id, status, checkpoints));
    }
    agents
}

async fn status_of(client: &Client, session: &str) -> String {
    let shown = client.get(&format!("/v1/sessions/{session}")).await.expect(200);
    shown["status"].as_str().unwrap().to_owned()
}

fn is_alive(status: &str) -> bool {
    ["ready", "paused"].contains(&status)
}

/// Agents at a time, by the platform's own limit where the provider has one: a place that a kill has lost, or counted twice,
/// refuses what should boot.
const PLACES: usize = 3;

/// What can be killed.
const KINDS: [&str; 9] = [
    "create",
    "terminate",
    "pause",
    "resume",
    "resume on a checkpoint",
    "restart",
    "checkpoint",
    "pause of all",
    "resume of all",
];

/// One of [`KINDS`], and its call.
type Step = (&'static str, String, Value);

/// Every step that can be taken from where things stand.
fn steps(place: &Place, session: &str, is_paused: bool, agents: &[Standing]) -> Vec<Step> {
    let whole = |what: &'static str, path: &str| (what, format!("/v1/sessions/{session}/{path}"), json!({}));
    if is_paused {
        return vec![whole("resume of all", "resume")];
    }
    let mut steps = vec![whole("pause of all", "pause")];
    let alive: Vec<_> = agents.iter().filter(|(_, status, _)| is_alive(status)).collect();
    if alive.len() < PLACES {
        steps.push(("create", format!("/v1/sessions/{session}/agents"), json!({ "provider": place.name() })));
    }
    for (agent, status, kept) in alive {
        let with = |what: &'static str, path: &str, body: Value| (what, format!("/v1/agents/{agent}/{path}"), body);
        steps.push(with("terminate", "terminate", json!({})));
        if status == "paused" {
            steps.push(with("resume", "resume", json!({})));
            steps.extend(
                kept.iter().map(|kept| with("resume on a checkpoint", "resume", json!({ "checkpoint": kept }))),
            );
        } else {
            steps.push(with("pause", "pause", json!({})));
            steps.push(with("checkpoint", "checkpoints", json!({})));
            steps.push(with("restart", "restart", json!({})));
        }
    }
    steps
}

#[tokio::test]
async fn a_kill_in_the_middle_of_anything_at_e2b_leaves_no_sandbox_or_snapshot_over_and_loses_no_agent() {
    kill_often(Place::E2b(start_e2b_emulator("e2b-crash").await)).await;
}

#[tokio::test]
async fn a_kill_in_the_middle_of_anything_at_fly_leaves_no_app_or_volume_over_and_loses_no_agent() {
    kill_often(Place::Fly(start_fly_emulator("fly-crash").await)).await;
}

#[tokio::test]
async fn a_kill_in_the_middle_of_anything_on_docker_leaves_no_container_or_volume_over_and_loses_no_agent() {
    kill_often(Place::Docker).await;
}

async fn kill_often(place: Place) {
    let variables = place.variables();
    let name = format!("theazo-e2e-process-{}", hex::encode(theazo_tenancy::make_random_bytes::<6>()));
    let mut process = Process::start_with(std::env::temp_dir().join(name), &variables).await;
    if let Some((key, config)) = place.credential() {
        process.client().post("/v1/secrets", json!({ "ACCOUNT": key })).await.expect(204);
        let limits = json!({ "maxConcurrent": PLACES });
        let configured = json!({ "credentialRef": "ACCOUNT", "config": config, "limits": limits });
        process.client().call("PUT", &format!("/v1/providers/{}", place.name()), Some(&configured)).await.expect(200);
    }
    let session = process.client().session("u").await;
    process.client().set_secrets(&session, json!({ "KEY": make_canary("crash") })).await;
    // A create takes longest, however fast this machine is.
    let began = Instant::now();
    process.client().boot(&session, json!({ "provider": place.name() })).await;
    let mut kills = Kills::new(8);
    kills.took("create", began.elapsed());
    let mut unmade: BTreeSet<String> = BTreeSet::new();
    // What a pause of all has paused, and its resuming resumes.
    let mut suspended: BTreeSet<String> = BTreeSet::new();
    for _ in 0..kills.trials() {
        let mut before = agents_of(&process.client(), &session).await;
        let is_paused = status_of(&process.client(), &session).await == "paused";
        // Else there would be nothing to kill but a create, which leaves nothing, and a pause of nothing.
        if !is_paused && !before.iter().any(|(_, status, _)| is_alive(status)) {
            process.client().boot(&session, json!({ "provider": place.name() })).await;
            before = agents_of(&process.client(), &session).await;
        }
        let (what, path, body) = kills.rarest(steps(&place, &session, is_paused, &before), |(what, ..)| what);
        let acting = tokio::spawn({
            let (client, path, body) = (process.client(), path.clone(), body.to_string().into_bytes());
            let began = Instant::now();
            async move { client.try_call("POST", &path, Some(body)).await.map(|answer| (answer, began.elapsed())) }
        });
        let delay = kills.delay(what);
        tokio::time::sleep(delay).await;
        process.kill();
        let answer = acting.await.unwrap().ok().map(|(answer, whole)| {
            kills.took(what, whole);
            answer
        });
        kills.note(what, answer.is_some());
        // What the service was asked for, it still does.
        tokio::time::sleep(Duration::from_millis(1500)).await;
        process = process.restart_with(&variables).await;

        let client = process.client();
        let after = agents_of(&client, &session).await;
        let context = format!("{path} killed after {delay:?}: {before:?} -> {after:?}, {answer:?}");
        let expected: BTreeMap<String, bool> = after
            .iter()
            .filter_map(|(agent, status, _)| match status.as_str() {
                "ready" => Some((agent.clone(), true)),
                "paused" => Some((agent.clone(), false)),
                "completed" | "failed" => None,
                other => panic!("{other}: {context}: {}", process.output()),
            })
            .collect();
        assert_eq!(place.there_soon(&process, &expected).await, expected, "{context}: {}", process.output());
        let kept = |agent: &String| after.iter().find(|(same, ..)| same == agent).map_or(0, |(.., kept)| kept.len());
        let kept = expected.iter().map(|(agent, running)| (agent.clone(), (*running, kept(agent)))).collect();
        let gone = after.iter().filter(|(agent, ..)| !expected.contains_key(agent)).map(|(agent, ..)| agent.as_str());
        if what == "resume on a checkpoint" {
            unmade.extend(path.split('/').nth(3).map(str::to_owned));
        }
        unmade.retain(|agent| expected.get(agent) == Some(&false));
        let context_of_all = format!("{context}: {}", process.output());
        place.has_exactly(&kept, &unmade, &gone.collect::<Vec<_>>(), &context_of_all).await;
        let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        let ready = expected.values().filter(|running| **running).count();
        assert_eq!(usage["activeAgents"], json!(ready), "{context}");
        // No agent is lost, and no checkpoint: only a terminate ends one that was there.
        for (agent, status, checkpoints) in &before {
            let is_there = expected.contains_key(agent);
            let was_to_end = what == "terminate" && path.contains(agent.as_str());
            let lost = is_alive(status) && !is_there && !was_to_end;
            assert!(!lost, "{agent} is lost: {context}: {}", process.output());
            let has = |kept: &String| after.iter().any(|(same, _, now)| same == agent && now.contains(kept));
            // Beyond ten the oldest go.
            assert!(!is_there || checkpoints.len() >= 10 || checkpoints.iter().all(has), "{context}");
        }
        // What was acknowledged is so.
        if let Some(answer) = &answer {
            assert!(answer.status < 300, "{context}");
            let told: Value = serde_json::from_str(&answer.text).unwrap();
            let its = |agent: &str| expected.get(agent).copied();
            let of = path.split('/').nth(3).unwrap();
            let status = status_of(&client, &session).await;
            let holds = match what {
                "pause of all" => status == "paused" && expected.values().all(|running| !running),
                "resume of all" => status == "active" && suspended.iter().all(|agent| its(agent) == Some(true)),
                "create" => its(told["id"].as_str().unwrap()) == Some(true),
                "terminate" => its(of).is_none(),
                "pause" => its(of) == Some(false),
                "checkpoint" => {
                    let made = told["id"].as_str().unwrap();
                    after.iter().any(|(same, _, kept)| same == of && kept.iter().any(|kept| kept == made))
                }
                _ => its(of) == Some(true),
            };
            assert!(holds, "{context}: {}", process.output());
        }
        if status_of(&client, &session).await != "paused" {
            suspended.clear();
        } else if what == "pause of all" {
            // A session that is paused has nothing that runs, whoever had to finish that.
            assert!(expected.values().all(|running| !running), "{context}: {}", process.output());
            suspended = before.iter().filter(|(_, status, _)| status == "ready").map(|(id, ..)| id.clone()).collect();
        }
        for (agent, _) in expected.iter().filter(|(_, running)| **running) {
            let told = client.run(agent, "bash", "[ -n \"$KEY\" ] && echo delivered").await;
            assert_eq!(told, "delivered\n", "{context}");
        }
    }
    kills.tell(&KINDS);
    // Nothing was counted twice, or not at all. An agent whose create was not answered was made, too.
    let running = place.there(&process).await.values().filter(|running| **running).count();
    let counted = process.client().get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    let all = agents_of(&process.client(), &session).await.len();
    assert_eq!((&counted["activeAgents"], &counted["totalAgentsCreated"]), (&json!(running), &json!(all)), "{counted}");
    process.client().terminate(&session).await;
    assert!(place.there(&process).await.is_empty(), "{kills:?}");
    let all = agents_of(&process.client(), &session).await;
    let gone: Vec<&str> = all.iter().map(|(agent, ..)| agent.as_str()).collect();
    place.has_exactly(&BTreeMap::new(), &BTreeSet::new(), &gone, "in the end").await;
    if place.credential().is_some() {
        let (client, session) = (process.client(), process.client().session("places").await);
        let on_it = json!({ "provider": place.name() });
        for _ in 0..PLACES {
            client.boot(&session, on_it.clone()).await;
        }
        let refused = client.post(&format!("/v1/sessions/{session}/agents"), on_it).await;
        let refused = refused.expect_error(503, "no_providers_available");
        assert_eq!(refused["details"]["limit"], "maxConcurrent", "{refused}");
        client.terminate(&session).await;
    }
    if let Place::Fly(served) = &place {
        assert_eq!(served.controls.violations(), [""; 0], "calls that are not as Fly describes them");
    }
}
