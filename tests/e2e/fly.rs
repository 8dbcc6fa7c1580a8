//! Agents on Fly, by its emulator: the main job and what is around it, through the API.

use crate::harness::{
    Canary, Client, FLY_ORGANIZATION, FLY_TOKEN, GATEWAY_WAITS, OwnStack, Platform, fly_emulator, make_canary,
    own_deployment, sha256, stack, start_fly_emulator,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_fly_emulator::{Fault, FaultKind};
use theazo_functions::reconcile::{Boots, reconcile};
use theazo_providers::fly::{FlyProvider, FlyService, FlySettings};
use theazo_providers::{AgentRef, Environment, Provider, ProviderError, SandboxSpec};
use theazo_tenancy::AgentId;
use theazo_vault::SecretValue;

/// A platform with an account at Fly.
pub async fn with_fly(name: &str) -> Platform {
    let platform = Platform::make(name).await;
    configure(&platform.client, FLY_TOKEN).await;
    platform
}

pub async fn configure(client: &Client, token: &str) -> Value {
    client.post("/v1/secrets", json!({ "FLY_API_TOKEN": token })).await.expect(204);
    let config = json!({ "organization": FLY_ORGANIZATION, "image": "registry.fly.io/agents:1", "region": "iad" });
    let body = json!({ "credentialRef": "fly_api_token", "config": config });
    client.call("PUT", "/v1/providers/fly", Some(&body)).await.expect(200)
}

pub fn on_fly() -> Value {
    json!({ "provider": "fly" })
}

/// A call as somebody with the account's token makes it, again where other tests' calls leave it no rate.
async fn manage(method: reqwest::Method, path: &str) -> (u16, Value) {
    let url = format!("{}/v1{path}", fly_emulator().endpoints.api);
    for _ in 0..20 {
        let call = reqwest::Client::new().request(method.clone(), &url).bearer_auth(FLY_TOKEN);
        let answer = call.send().await.unwrap();
        let status = answer.status().as_u16();
        if status != 429 {
            return (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("the rate is always used up");
}

fn app(agent: &str) -> String {
    agent.replace('_', "-")
}

/// Whether anything of an agent's is at Fly.
pub async fn is_there(agent: &str) -> bool {
    manage(reqwest::Method::GET, &format!("/apps/{}", app(agent))).await.0 == 200
}

/// The account as a deployment of that name uses it.
fn account(deployment: &str) -> FlyProvider {
    let service = FlyService::new(fly_emulator().endpoints.clone(), deployment).unwrap();
    let settings = FlySettings { organization: FLY_ORGANIZATION.into(), image: "agents:1".into(), region: None };
    FlyProvider::new(service.into(), &SecretValue::from_text(FLY_TOKEN.to_owned()), settings).unwrap()
}

#[tokio::test]
async fn key_session_secret_agent_and_variable_on_fly_and_nothing_shows_the_value_but_the_agent() {
    let platform = with_fly("fly main job").await;
    let client = &platform.client;
    let session = client.session("user_123").await;
    let (hubspot, changed) = (make_canary("hubspot"), make_canary("changed"));
    client.set_secrets(&session, json!({ "hubspot_api_key": hubspot })).await;
    let agent = client.boot(&session, json!({ "provider": "fly", "region": "ams" })).await;
    let shown = client.get(&format!("/v1/agents/{agent}")).await.expect(200);
    assert_eq!(
        (&shown["provider"], &shown["status"], &shown["region"]),
        (&json!("fly"), &json!("ready"), &json!("ams"))
    );

    let seen = client.environment(&agent).await;
    assert_eq!(seen["HUBSPOT_API_KEY"], (hubspot.len(), sha256(&hubspot)));
    assert_eq!(seen["THEAZO_AGENT_ID"].1, sha256(&agent));
    assert!(!seen.contains_key("FLY_API_TOKEN"), "the account's token is no agent's");
    for (language, code) in [
        ("node", "console.log(process.env.HUBSPOT_API_KEY.length)"),
        ("bash", "python3 -c 'import os; print(len(os.environ[\"HUBSPOT_API_KEY\"]))'"),
    ] {
        assert_eq!(client.run(&agent, language, code).await.trim(), hubspot.len().to_string(), "{language}");
    }
    assert_eq!(client.run(&agent, "bash", "echo $HUBSPOT_API_KEY").await, "[secret:HUBSPOT_API_KEY]\n");

    // Nobody could end it without the account.
    let refused = client.delete("/v1/providers/fly").await.expect_error(409, "conflict");
    assert_eq!(refused["details"]["agents"], 1);

    // Nor reach it in another organization; all else of the configuration may change.
    let config = |organization: &str, region: &str| {
        let config = json!({ "organization": organization, "image": "registry.fly.io/agents:1", "region": region });
        json!({ "credentialRef": "fly_api_token", "config": config })
    };
    let refused = client.call("PUT", "/v1/providers/fly", Some(&config("another", "iad"))).await;
    assert_eq!(refused.expect_error(409, "conflict")["details"], json!({ "agents": 1 }));
    let kept = client.call("PUT", "/v1/providers/fly", Some(&config(FLY_ORGANIZATION, "syd"))).await.expect(200);
    assert_eq!((&kept["config"]["organization"], &kept["config"]["region"]), (&json!(FLY_ORGANIZATION), &json!("syd")));

    // Files, a pause, and the vault's values of now.
    let file = json!({ "path": "/data/a b/ü.txt", "data": "kept" });
    client.post(&format!("/v1/agents/{agent}/files"), file).await.expect(204);
    let paused = client.call("POST", &format!("/v1/agents/{agent}/pause"), None).await.expect(200);
    assert_eq!(paused["provider"], "fly");
    client.post(&format!("/v1/agents/{agent}/exec"), json!({ "language": "bash", "code": "true" })).await.expect(409);
    client.set_secrets(&session, json!({ "hubspot_api_key": changed, "ADDED": "x" })).await;
    // Its files are where it ran.
    let moved = client.post(&format!("/v1/agents/{agent}/resume"), json!({ "region": "iad" })).await;
    assert_eq!(moved.expect_error(409, "conflict")["details"]["field"], "region");
    // No provider reads what another keeps of a paused agent.
    let moved = client.post(&format!("/v1/agents/{agent}/resume"), json!({ "provider": "docker" })).await;
    assert_eq!(moved.expect_error(409, "conflict")["details"]["field"], "provider");
    assert_eq!(client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"], "paused");
    client.post(&format!("/v1/agents/{agent}/resume"), json!({ "provider": "fly", "region": "ams" })).await.expect(200);
    let seen = client.environment(&agent).await;
    assert_eq!((&seen["HUBSPOT_API_KEY"].1, &seen["ADDED"].1), (&sha256(&changed), &sha256("x")));
    let read = client.get(&format!("/v1/agents/{agent}/files/data/a%20b/%C3%BC.txt")).await.expect(200);
    assert_eq!(read["data"], "kept");
    client.delete(&format!("/v1/sessions/{session}/secrets/added")).await.expect(204);
    client.call("POST", &format!("/v1/agents/{agent}/restart"), None).await.expect(200);
    assert!(!client.environment(&agent).await.contains_key("ADDED"));
    let shown = client.get(&format!("/v1/agents/{agent}")).await.expect(200);
    assert_eq!((&shown["region"], &shown["providerDetails"]["isolation"]), (&json!("ams"), &json!("microvm")));
    let machines = manage(reqwest::Method::GET, &format!("/apps/{}/machines", app(&agent))).await.1;
    assert_eq!(machines.as_array().unwrap().len(), 1);

    client.terminate(&session).await;
    assert!(!is_there(&agent).await, "nothing is left at Fly");
    client.call("PUT", "/v1/providers/fly", Some(&config("another", "iad"))).await.expect(200);
    client.delete("/v1/providers/fly").await.expect(204);
    let records = serde_json::to_string(&fly_emulator().controls.records()).unwrap();
    assert!(records.contains(&agent));
    for value in [&hubspot, &changed] {
        Canary::of_credential(value).is_not_in("the records", &records);
    }
    assert_eq!(fly_emulator().controls.violations(), [""; 0]);
}

#[tokio::test]
async fn fly_is_refused_until_it_is_configured_and_a_fallback_takes_its_place() {
    let platform = Platform::make("fly unconfigured").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agents = format!("/v1/sessions/{session}/agents");
    let refused = client.post(&agents, on_fly()).await.expect_error(503, "no_providers_available");
    assert_eq!(refused["details"]["provider"], "fly");
    let fallback = json!({ "provider": "fly", "providerFallback": ["docker"] });
    assert_eq!(client.post(&agents, fallback.clone()).await.expect(201)["provider"], "docker");

    // An account whose token is refused: named by itself it is the provider's error, and with a fallback none.
    let wrong = make_canary("wrong-token");
    configure(client, &wrong).await;
    let failed = client.post(&agents, on_fly()).await;
    assert!(!failed.text.contains(&wrong));
    let failed = failed.expect_error(502, "provider_error");
    assert_eq!(failed["details"], json!({ "provider": "fly", "status": 401, "retryable": false }));
    assert_eq!(client.post(&agents, fallback).await.expect(201)["provider"], "docker");

    // A new value of the credential is used at once.
    let shown = configure(client, FLY_TOKEN).await;
    assert_eq!(
        (&shown["config"]["organization"], &shown["config"]["region"]),
        (&json!(FLY_ORGANIZATION), &json!("iad"))
    );
    let agent = client.boot(&session, json!({ "provider": "docker", "providerFallback": "fly" })).await;
    assert_eq!(client.get(&format!("/v1/agents/{agent}")).await.expect(200)["provider"], "docker");
    let agent = client.boot(&session, json!({ "provider": "fly", "providerFallback": "docker" })).await;
    let shown = client.get(&format!("/v1/agents/{agent}")).await.expect(200);
    assert_eq!((&shown["provider"], &shown["region"]), (&json!("fly"), &json!("iad")));
    let nowhere = client.post(&agents, json!({ "provider": "fly", "region": "mars" })).await;
    assert_eq!(nowhere.expect_error(400, "invalid_request")["details"]["field"], "region");
    let listed = client.get("/v1/providers").await.expect(200);
    let fly = listed["data"].as_array().unwrap().iter().find(|entry| entry["provider"] == "fly").unwrap().clone();
    assert_eq!(fly["health"]["healthy"], true, "{fly}");
    client.terminate(&session).await;
    assert!(!is_there(&agent).await);
}

#[tokio::test]
async fn reconciling_removes_what_no_agent_owns_at_fly_and_ends_agents_whose_machine_is_gone() {
    let platform = with_fly("fly reconcile").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let (kept, lost) = (client.boot(&session, on_fly()).await, client.boot(&session, on_fly()).await);
    let make = async |deployment: &str| {
        // The stack reconciles by itself as well, and may find what has no agent before it is whole.
        for _ in 0..5 {
            let agent = AgentId::make().to_string();
            let spec = SandboxSpec {
                agent: agent.clone(),
                session: "ses_x".into(),
                platform: "plt_x".into(),
                lifetime: std::time::Duration::from_secs(300),
                internet: false,
                region: None,
            };
            match account(deployment).create(&spec, &Environment::default()).await {
                Err(ProviderError::SandboxGone) => {}
                made => {
                    made.unwrap();
                    return agent;
                }
            }
        }
        panic!("nothing stays there long enough to be found");
    };
    let orphan = make(&stack().deployment().config().name).await;
    let stranger = make("another deployment").await;
    manage(reqwest::Method::DELETE, &format!("/apps/{}?force=true", app(&lost))).await;

    reconcile(&own_deployment(), Boots::UnderWay).await.unwrap();
    assert!(!is_there(&orphan).await, "the orphan is removed");
    assert!(is_there(&stranger).await, "another deployment's app is left alone");
    assert_eq!(client.get(&format!("/v1/agents/{lost}")).await.expect(200)["status"], "failed");
    assert_eq!(client.run(&kept, "bash", "echo alive").await, "alive\n");
    client.terminate(&session).await;
    account("another deployment").destroy(&AgentRef { agent: stranger }).await.unwrap();
}

#[tokio::test]
async fn test_keys_may_name_fly_and_a_region_and_nothing_leaves_the_service() {
    let platform = with_fly("fly test key").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let body = json!({ "provider": "fly", "region": "iad" });
    let agent = client.post(&format!("/v1/sessions/{session}/agents"), body).await.expect(201);
    assert_eq!((&agent["provider"], &agent["region"]), (&json!("simulated"), &json!("iad")));
    assert!(!is_there(agent["id"].as_str().unwrap()).await);
    client.terminate(&session).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn when_fly_is_silent_it_is_given_up_before_the_gateway_gives_up_on_the_answer_and_nothing_is_lost() {
    let emulator = start_fly_emulator("fly-silent").await;
    let (own, client) = OwnStack::start_still(None, |config| config.fly = emulator.endpoints.clone()).await;
    configure(&client, FLY_TOKEN).await;
    let (session, other) = (client.session("user").await, client.session("other").await);
    let (agent, others) = (client.boot(&session, on_fly()).await, client.boot(&other, on_fly()).await);
    let kind = FaultKind::Delay { millis: 120_000 };
    emulator.controls.fault(Fault { method: "DELETE".into(), path: "/v1/apps/".into(), times: 2, kind });
    let ends = [format!("/v1/agents/{agent}/terminate"), format!("/v1/sessions/{other}/terminate")];
    let given_up = async |path: &String| {
        let started = Instant::now();
        let told = client.call("POST", path, None).await.expect_error(502, "provider_error");
        assert!(started.elapsed() < GATEWAY_WAITS, "{path}: {:?}", started.elapsed());
        let details = &told["details"];
        assert_eq!((&details["provider"], &details["retryable"]), (&json!("fly"), &json!(true)), "{path}");
    };
    join_all(ends.iter().map(given_up)).await;
    assert_eq!(client.get(&format!("/v1/agents/{others}")).await.expect(200)["status"], "completed");
    assert!(!emulator.controls.left().is_empty());
    for path in &ends {
        client.call("POST", path, None).await.expect(200);
    }
    assert_eq!(emulator.controls.left(), [""; 0]);
    assert_eq!(emulator.controls.violations(), [""; 0]);
    own.stop().await;
}
