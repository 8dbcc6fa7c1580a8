//! Providers: their configuration, and the credential that no agent may ever see.

use crate::e2b::{configure, on_e2b, with_own_e2b};
use crate::harness::{E2B_KEY, Platform, make_canary, sha256};
use serde_json::{Value, json};
use std::time::Duration;
use theazo_functions::reconcile::Outcome;
use theazo_store::ProviderConfigs;
use theazo_tenancy::{Mode, Operator, PlatformId};

#[expect(clippy::disallowed_methods, reason = "a test stops in the middle of what a function does")]
fn operator() -> Operator {
    Operator::assume()
}

/// A JSON object with the fields of another.
fn with(object: &Value, more: Value) -> Value {
    let fields = [object.clone(), more].into_iter().filter_map(|value| value.as_object().cloned()).flatten();
    Value::Object(fields.collect())
}

#[tokio::test]
async fn a_providers_credential_never_reaches_an_agent_from_the_moment_it_is_named() {
    let platform = Platform::make("credential").await;
    let client = &platform.client;
    let (credential, other) = (make_canary("credential"), make_canary("other"));
    client.post("/v1/secrets", json!({ "e2b_key": credential, "OTHER": other })).await.expect(204);
    let session = client.session("u").await;
    let before = client.boot(&session, json!({})).await;
    assert_eq!(client.environment(&before).await["E2B_KEY"].1, sha256(&credential));

    let set = client.call("PUT", "/v1/providers/e2b", Some(&json!({ "credentialRef": "E2B_Key" }))).await.expect(200);
    assert_eq!(set["credentialRef"], "E2B_KEY");

    let after = client.boot(&session, json!({})).await;
    let seen = client.environment(&after).await;
    assert!(!seen.contains_key("E2B_KEY"));
    assert_eq!(seen["OTHER"].1, sha256(&other));
    let agents = format!("/v1/sessions/{session}/agents");
    let selected = client.post(&agents, json!({ "secrets": ["E2B_KEY"] })).await;
    assert_eq!(selected.expect_error(400, "invalid_request")["details"]["field"], "secrets");
    let inherited = client.get(&format!("/v1/sessions/{session}/secrets?inherited=true")).await.expect(200);
    assert_eq!(inherited, json!(["OTHER"]));

    // A new value of it is a credential too, and it cannot be deleted while it is in use.
    client.post("/v1/secrets", json!({ "E2B_KEY": make_canary("rotated") })).await.expect(204);
    let rotated = client.boot(&session, json!({})).await;
    assert!(!client.environment(&rotated).await.contains_key("E2B_KEY"));
    client.delete("/v1/secrets/e2b_key").await.expect_error(409, "conflict");

    // Removing the configuration does not turn a credential back into an agent's secret.
    client.delete("/v1/providers/e2b").await.expect(204);
    let removed = client.boot(&session, json!({})).await;
    assert!(!client.environment(&removed).await.contains_key("E2B_KEY"));
    client.delete("/v1/secrets/e2b_key").await.expect(204);
    client.post("/v1/secrets", json!({ "E2B_KEY": "an ordinary value" })).await.expect(204);
    let ordinary = client.boot(&session, json!({})).await;
    assert_eq!(client.environment(&ordinary).await["E2B_KEY"].1, sha256("an ordinary value"));
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_session_may_have_a_secret_of_the_same_name_as_a_providers_credential() {
    let platform = Platform::make("same name").await;
    let client = &platform.client;
    client.post("/v1/secrets", json!({ "FLY_TOKEN": make_canary("fly") })).await.expect(204);
    let fly = json!({ "credentialRef": "FLY_TOKEN", "config": { "organization": "o", "image": "i" } });
    client.call("PUT", "/v1/providers/fly", Some(&fly)).await.expect(200);
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "fly_token": "the user's own" })).await;
    let agent = client.boot(&session, json!({ "secrets": ["FLY_TOKEN"] })).await;
    assert_eq!(client.environment(&agent).await["FLY_TOKEN"].1, sha256("the user's own"));
    client.terminate(&session).await;
}

#[tokio::test]
async fn what_cannot_be_configured_is_refused_and_nothing_shows_a_credential() {
    let platform = Platform::make("provider refusals").await;
    let client = &platform.client;
    let put = |provider: &'static str, body: serde_json::Value| async move {
        client.call("PUT", &format!("/v1/providers/{provider}"), Some(&body)).await
    };
    let missing = put("e2b", json!({ "credentialRef": "NOPE" })).await.expect_error(400, "invalid_request");
    assert_eq!(missing["details"]["field"], "credentialRef");
    let absent = put("e2b", json!({})).await.expect_error(400, "invalid_request");
    assert_eq!(absent["details"]["field"], "credentialRef");
    for (config, field) in [
        (json!(null), "config"),
        (json!({ "draining": [] }), "config.image"),
        (json!({ "image": "a b" }), "config.image"),
        (json!({ "image": "i", "draining": ["a b"] }), "config.draining"),
        (json!({ "image": "i", "draining": "a:1" }), "config.draining"),
    ] {
        let refused = put("docker", json!({ "credentialRef": "A", "config": config })).await;
        assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], field);
    }
    let url = json!({ "credentialRef": "A", "config": { "image": "i", "url": "tcp://x:1" } });
    let refused = put("docker", url).await.expect_error(422, "unprocessable_entity");
    assert_eq!(refused["details"]["feature"], "config.url");
    for (body, field) in [
        (json!({ "priority": 0 }), "priority"),
        (json!({ "priority": 101 }), "priority"),
        (json!({ "priority": "first" }), "priority"),
        (json!({ "limits": 3 }), "limits"),
        (json!({ "limits": { "maxConcurrent": -1 } }), "limits.maxConcurrent"),
        (json!({ "limits": { "maxConcurrent": 10_001 } }), "limits.maxConcurrent"),
    ] {
        let refused = put("e2b", with(&body, json!({ "credentialRef": "A" }))).await;
        assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], field);
    }
    let other = put("e2b", json!({ "credentialRef": "A", "limits": { "maxCost": 1 } })).await;
    assert_eq!(other.expect_error(422, "unprocessable_entity")["details"]["feature"], "limits.maxCost");
    put("simulated", json!({ "credentialRef": "A" })).await.expect_error(404, "not_found");
    for (config, field) in [
        (json!(null), "config"),
        (json!({ "image": "i" }), "config.organization"),
        (json!({ "organization": "My Org", "image": "i" }), "config.organization"),
        (json!({ "organization": "o" }), "config.image"),
        (json!({ "organization": "o", "image": "a b" }), "config.image"),
        (json!({ "organization": "o", "image": "i", "region": "../x" }), "config.region"),
    ] {
        let refused = put("fly", json!({ "credentialRef": "A", "config": config })).await;
        assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], field);
    }
    let url = json!({ "organization": "o", "image": "i", "url": "http://x" });
    let refused = put("fly", json!({ "credentialRef": "A", "config": url })).await;
    assert_eq!(refused.expect_error(422, "unprocessable_entity")["details"]["feature"], "config.url");
    client.delete("/v1/providers/e2b").await.expect_error(404, "not_found");

    let credential = make_canary("shown");
    client.post("/v1/secrets", json!({ "KEY": credential })).await.expect(204);
    put("e2b", json!({ "credentialRef": "KEY" })).await.expect(200);
    let listed = client.get("/v1/providers").await;
    assert!(!listed.text.contains(&credential));
    let listed = listed.expect(200);
    let of = |name: &str| listed["data"].as_array().unwrap().iter().find(|entry| entry["provider"] == name).unwrap();
    assert_eq!(of("docker")["health"]["healthy"], true);
    assert_eq!(of("e2b")["health"]["healthy"], false);
    assert_eq!(of("e2b")["config"]["template"], "base");
    for (config, field) in [(json!({ "template": "a b" }), "config.template"), (json!(7), "config")] {
        let refused = put("e2b", json!({ "credentialRef": "KEY", "config": config })).await;
        assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], field);
    }
    let region = put("e2b", json!({ "credentialRef": "KEY", "config": { "region": "x" } })).await;
    assert_eq!(region.expect_error(422, "unprocessable_entity")["details"]["feature"], "config.region");
}

#[tokio::test]
async fn a_platforms_priorities_and_limits_decide_where_agents_run() {
    let platform = Platform::make("provider priorities").await;
    let client = &platform.client;
    let set = async |more: Value| {
        let body = with(&json!({ "credentialRef": "E2B_API_KEY" }), more);
        client.call("PUT", "/v1/providers/e2b", Some(&body)).await.expect(200)
    };
    let session = client.session("u").await;
    let agents = format!("/v1/sessions/{session}/agents");
    let boot = async |body: Value| client.post(&agents, body).await.expect(201);
    let configured = configure(client, E2B_KEY).await;
    assert_eq!((&configured["priority"], &configured["limits"]), (&Value::Null, &json!({})));
    assert_eq!(boot(json!({})).await["provider"], "docker", "without a priority the deployment's own comes first");

    let shown = set(json!({ "priority": 7, "limits": { "maxConcurrent": 1 } })).await;
    assert_eq!((&shown["priority"], &shown["limits"]), (&json!(7), &json!({ "maxConcurrent": 1 })));
    let listed = client.get("/v1/providers").await.expect(200);
    let e2b = listed["data"].as_array().unwrap().iter().find(|entry| entry["provider"] == "e2b").unwrap().clone();
    assert_eq!((&e2b["priority"], &e2b["limits"]["maxConcurrent"]), (&json!(7), &json!(1)));

    let first = boot(json!({})).await;
    assert_eq!(first["provider"], "e2b");
    assert_eq!(boot(json!({})).await["provider"], "docker", "full, so the next in turn");
    let refused = client.post(&agents, on_e2b()).await.expect_error(503, "no_providers_available");
    assert_eq!(refused["details"], json!({ "provider": "e2b", "limit": "maxConcurrent", "max": 1 }));
    let listed = client.get(&format!("{agents}?provider=e2b")).await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1, "what was refused left no row");

    // A paused agent takes no place, and needs one to be resumed.
    let first = format!("/v1/agents/{}", first["id"].as_str().unwrap());
    client.call("POST", &format!("{first}/pause"), None).await.expect(200);
    let second = boot(on_e2b()).await;
    let refused = client.call("POST", &format!("{first}/resume"), None).await;
    assert_eq!(refused.expect_error(503, "no_providers_available")["details"]["limit"], "maxConcurrent");
    let second = format!("/v1/agents/{}", second["id"].as_str().unwrap());
    client.call("POST", &format!("{second}/restart"), None).await.expect(200);
    client.call("POST", &format!("{second}/terminate"), None).await.expect(200);
    client.call("POST", &format!("{first}/resume"), None).await.expect(200);

    // What is not said again holds no more.
    assert_eq!(set(json!({ "limits": { "maxConcurrent": null } })).await["limits"], json!({}));
    assert_eq!(boot(on_e2b()).await["provider"], "e2b");
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_provider_is_removed_or_an_agent_boots_there_but_never_both() {
    let (own, client, emulator) = with_own_e2b("e2b-removed").await;
    let session = client.session("u").await;
    let agents = format!("/v1/sessions/{session}/agents");
    let (mut removals, mut boots) = (0, 0);
    for round in 0..90 {
        if round >= 30 && removals > 0 && boots > 0 {
            break;
        }
        configure(&client, E2B_KEY).await;
        let remove = async {
            tokio::time::sleep(Duration::from_millis(3 * (round % 60))).await;
            client.delete("/v1/providers/e2b").await
        };
        let (created, removed) = tokio::join!(client.post(&agents, on_e2b()), remove);
        match removed.status {
            204 => {
                removals += 1;
                created.expect_error(503, "no_providers_available");
            }
            _ => {
                removed.expect_error(409, "conflict");
                // Where each has seen the other, neither comes about.
                if created.status == 503 {
                    created.expect_error(503, "no_providers_available");
                } else {
                    boots += 1;
                    let agent = created.expect(201)["id"].as_str().unwrap().to_owned();
                    client.run(&agent, "bash", "true").await;
                    client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await.expect(200);
                }
                client.delete("/v1/providers/e2b").await.expect(204);
            }
        }
        assert_eq!(emulator.controls.left(), [""; 0], "round {round}");
    }
    assert!(removals > 0 && boots > 0, "{removals} removals, {boots} boots");
    // Nor is anything left to do of those that came too late.
    let Outcome { settled, failed_boots, skipped, .. } = own.reconcile().await;
    assert_eq!((settled, failed_boots, skipped), (0, 0, 0));
    own.stop().await;
}

#[tokio::test]
async fn an_agent_that_is_recorded_while_its_provider_is_being_removed_asks_it_for_nothing() {
    let (own, client, emulator) = with_own_e2b("e2b-closed").await;
    let session = client.session("u").await;
    let agents = format!("/v1/sessions/{session}/agents");
    let platform = client.get("/v1/whoami").await.expect(200)["platformId"].as_str().unwrap().to_owned();
    let scope = operator().tenant(&PlatformId::parse(&platform).unwrap(), Mode::Live);
    let configs = ProviderConfigs::new(own.stack.deployment().table().clone());
    let closed = configs.close(&scope, "e2b").await.unwrap();
    let refused = client.post(&agents, on_e2b()).await.expect_error(503, "no_providers_available");
    assert_eq!(refused["details"]["provider"], "e2b");
    let calls = serde_json::to_string(&emulator.controls.records()).unwrap();
    assert!(!calls.contains("POST /v2/sandboxes"), "{calls}");
    configs.reopen(&scope, closed).await.unwrap();
    client.boot(&session, on_e2b()).await;
    let calls = serde_json::to_string(&emulator.controls.records()).unwrap();
    assert!(calls.contains("POST /v2/sandboxes"), "this is how a sandbox is made: {calls}");
    client.terminate(&session).await;
    own.stop().await;
}
