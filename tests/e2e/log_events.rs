//! What becomes a log entry, each as it is shown: level, source, message and details.

use crate::e2b::{configure, on_e2b, sandboxes_of};
use crate::harness::{Client, E2B_KEY, Platform, e2b_emulator, end_agent, own_deployment};
use crate::limits::Priced;
use crate::logs::entries;
use crate::matrix::agent_token;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use theazo_e2b_emulator::{Fault, FaultKind};
use theazo_functions::reconcile::{Boots, reconcile};
use theazo_store::{AgentStatus, now_ms};
use theazo_tenancy::Mode;

/// What somebody has seen of a session's log so far.
struct Reader {
    client: Client,
    session: String,
    seen: BTreeSet<String>,
}

impl Reader {
    fn of(client: &Client, session: &str) -> Self {
        Self { client: client.clone(), session: session.to_owned(), seen: BTreeSet::new() }
    }

    /// What is new, the earliest first, once there is that much of it.
    async fn news(&mut self, count: usize) -> Vec<Value> {
        let query = format!("sessionId={}", self.session);
        let all = entries(&self.client, &query, self.seen.len() + count).await;
        let mut fresh: Vec<Value> = all.into_iter().rev().collect();
        fresh.retain(|entry| self.seen.insert(entry["id"].as_str().unwrap().to_owned()));
        fresh
    }

    /// Panics unless exactly that is new, all of it about that agent, or about the session itself. What an entry has only by
    /// chance is `null` in what is expected of its details.
    #[track_caller]
    fn expect(&mut self, agent: Option<&str>, expected: Vec<Value>) -> impl Future<Output = Vec<Value>> {
        let place = std::panic::Location::caller();
        let agent = agent.map(str::to_owned);
        async move {
            let fresh = self.news(expected.len()).await;
            assert_eq!(fresh.len(), expected.len(), "{place}: {fresh:#?}");
            for (entry, expected) in fresh.iter().zip(&expected) {
                let mut details = entry["metadata"].clone();
                for (name, value) in expected[3].as_object().unwrap() {
                    if value.is_null() && details[name] != Value::Null {
                        details[name] = Value::Null;
                    }
                }
                let shown = json!([entry["level"], entry["source"], entry["message"], details]);
                assert_eq!(shown, *expected, "{place}");
                assert_eq!((&entry["agentId"], &entry["sessionId"]), (&json!(agent), &json!(self.session)), "{place}");
                assert_eq!(entry["userId"], "ann", "{place}");
            }
            fresh
        }
    }
}

fn of_session(message: &str, status: &str, limits: Value) -> Value {
    json!(["info", "system", message, { "event": "session.status", "status": status, "limits": limits }])
}

fn became(status: &str, from: Option<&str>) -> Value {
    let level = if status == "failed" { "error" } else { "info" };
    let details = json!({ "event": "agent.status", "status": status, "from": from });
    json!([level, "system", format!("agent is {status}"), details])
}

async fn act(client: &Client, path: &str, body: Value) -> Value {
    let answer = client.post(path, body).await;
    let status = answer.status;
    assert!((200..300).contains(&status), "{path}: {answer:?}");
    answer.expect(status)
}

#[tokio::test]
async fn every_change_of_a_session_is_on_record_with_what_it_then_is() {
    let platform = Platform::make("events of sessions").await;
    let client = &platform.client;
    let session = client.session("ann").await;
    let mut log = Reader::of(client, &session);
    log.expect(None, vec![of_session("session created", "active", json!({}))]).await;
    let (path, limits) = (format!("/v1/sessions/{session}"), json!({ "maxAgents": 3 }));
    client.call("PATCH", &format!("{path}/limits"), Some(&limits)).await.expect(200);
    log.expect(None, vec![of_session("session changed", "active", limits.clone())]).await;
    act(client, "/v1/sessions/by-user/ann", json!({ "metadata": { "plan": "pro" } })).await;
    log.expect(None, vec![of_session("session changed", "active", limits.clone())]).await;
    for (what, message, status) in [
        ("pause", "session paused", "paused"),
        ("resume", "session resumed", "active"),
        ("terminate", "session terminated", "terminated"),
    ] {
        for expected in [vec![of_session(message, status, limits.clone())], Vec::new()] {
            act(client, &format!("{path}/{what}"), json!({})).await;
            log.expect(None, expected).await;
        }
    }
}

#[tokio::test]
async fn every_change_of_an_agent_is_on_record_in_the_order_in_which_it_happened() {
    let platform = Platform::make("events of agents").await;
    let client = &platform.client.with_key(Some(&platform.test_key));
    let session = client.session("ann").await;
    let mut log = Reader::of(client, &session);
    log.news(1).await;
    let agent = client.boot(&session, json!({})).await;
    let own = Some(agent.as_str());
    log.expect(own, vec![became("booting", None), became("ready", Some("booting"))]).await;
    let path = |what: &str| format!("/v1/agents/{agent}/{what}");
    act(client, &path("restart"), json!({})).await;
    log.expect(own, vec![became("booting", Some("ready")), became("ready", Some("booting"))]).await;
    act(client, &path("pause"), json!({})).await;
    log.expect(own, vec![became("paused", Some("ready"))]).await;
    act(client, &path("resume"), json!({})).await;
    log.expect(own, vec![became("booting", Some("paused")), became("ready", Some("booting"))]).await;
    let made = act(client, &path("checkpoints"), json!({ "phase": "half" })).await;
    let details = json!({ "event": "agent.checkpoint", "checkpoint": made["id"] });
    log.expect(own, vec![json!(["info", "system", "agent has a checkpoint", details])]).await;
    act(client, &path("ports"), json!({ "port": 8080 })).await;
    let details = json!({ "event": "agent.port", "port": 8080 });
    log.expect(own, vec![json!(["info", "system", "port 8080 is open", details])]).await;
    end_agent(&platform.id, Mode::Test, &agent, AgentStatus::Failed).await;
    log.expect(own, vec![became("failed", Some("ready"))]).await;
    act(client, &path("retry"), json!({})).await;
    log.expect(own, vec![became("booting", Some("failed")), became("ready", Some("booting"))]).await;
    // With its session, and then for good.
    act(client, &format!("/v1/sessions/{session}/pause"), json!({})).await;
    act(client, &format!("/v1/sessions/{session}/resume"), json!({})).await;
    let fresh = log.news(5).await;
    let messages: Vec<&str> = fresh.iter().map(|entry| entry["message"].as_str().unwrap()).collect();
    let expected = ["session paused", "agent is paused", "session resumed", "agent is booting", "agent is ready"];
    assert_eq!(messages, expected);
    act(client, &path("terminate"), json!({})).await;
    log.expect(own, vec![became("completed", Some("ready"))]).await;
    client.terminate(&session).await;
}

#[tokio::test]
async fn what_an_agent_says_from_inside_is_on_record_as_it_said_it_and_as_its_own_word() {
    let platform = Platform::make("events from inside").await;
    let client = &platform.client.with_key(Some(&platform.test_key));
    let session = client.session("ann").await;
    let agent = client.boot(&session, json!({})).await;
    let mut log = Reader::of(client, &session);
    log.news(3).await;
    let token = agent_token(&platform.id, &session, &agent).await;
    let say = async |kind: &str, body: Value| {
        let mut body = body;
        (body["agentId"], body["sessionId"]) = (json!(agent), json!(session));
        let nobody = client.with_key(None);
        nobody.post(&format!("/a/{token}/v1/sandbox/{kind}"), body).await.expect(204);
    };
    let own = Some(agent.as_str());
    for level in ["debug", "info", "warn", "error"] {
        let details = json!({ "step": 3, "of": ["a", { "b": null }] });
        say("log", json!({ "level": level, "message": format!("a {level} line"), "metadata": details })).await;
        log.expect(own, vec![json!([level, "agent", format!("a {level} line"), details])]).await;
    }
    // What it claims to have spent is in no entry: it is reported elsewhere, and apart.
    say("model", json!({ "model": "m-1", "inputTokens": 7, "outputTokens": 5, "cost": 0.25 })).await;
    let details = json!({ "model": "m-1", "inputTokens": 7, "outputTokens": 5 });
    log.expect(own, vec![json!(["info", "model", "called m-1", details])]).await;
    for (status, error, level) in [
        ("ok", Value::Null, "debug"),
        ("error", Value::Null, "error"),
        ("ERROR", json!("it broke"), "error"),
        ("ok", json!({ "code": 5 }), "error"),
    ] {
        let mut span = json!({
            "startTime": 1, "endTime": 2.5, "durationMs": 1.5, "status": status, "attributes": { "k": "v" },
        });
        if !error.is_null() {
            span["error"] = error;
        }
        let mut said = span.clone();
        said["name"] = json!("work");
        say("span", said).await;
        log.expect(own, vec![json!([level, "agent", "span work", span])]).await;
    }
    say("progress", json!({ "percentage": 5, "message": "begun" })).await;
    let details = json!({ "event": "agent.progress", "percentage": 5, "message": "begun" });
    log.expect(own, vec![json!(["info", "agent", "progress: 5 %", details])]).await;
    say("complete", json!({ "output": { "sum": 3 } })).await;
    let details = json!({ "event": "agent.result", "output": { "sum": 3 } });
    log.expect(own, vec![json!(["info", "agent", "reports its result", details])]).await;
    // When it was, by its own word.
    for (metadata, at, details) in [
        (Value::Null, json!("2026-11-26T09:00:00Z"), json!({ "claimedAt": "2026-11-26T09:00:00Z" })),
        (json!({ "a": 1 }), json!(5), json!({ "a": 1, "claimedAt": 5 })),
        (json!({ "claimedAt": "own" }), json!(5), json!({ "claimedAt": "own" })),
    ] {
        say("log", json!({ "message": "late", "metadata": metadata, "timestamp": at })).await;
        log.expect(own, vec![json!(["info", "agent", "late", details])]).await;
    }
    client.terminate(&session).await;
}

#[tokio::test]
async fn that_an_agent_had_nothing_to_do_is_on_record_before_that_it_is_paused() {
    let bed = Priced::make("idle agents", 0).await;
    let client = &bed.platform.client.with_key(Some(&bed.platform.test_key));
    let session = client.session("ann").await;
    let agent = client.boot(&session, json!({ "lifecycle": { "autoPause": "2m" } })).await;
    let mut log = Reader::of(client, &session);
    log.news(3).await;
    // Two minutes ago it began to do nothing.
    let at = json!({ ":at": { "N": (now_ms() - 120_000).to_string() } });
    bed.change("test", &session, &agent, "SET run_started_ms = :at REMOVE busy_until_ms", at).await;
    reconcile(&own_deployment(), Boots::UnderWay).await.unwrap();
    let idle = json!(["info", "system", "agent has had nothing to do", { "event": "agent.idle" }]);
    log.expect(Some(&agent), vec![idle, became("paused", Some("ready"))]).await;
    client.terminate(&session).await;
}

#[tokio::test]
async fn that_a_sandbox_did_not_boot_is_on_record_as_the_providers_failure_before_that_its_agent_has_failed() {
    let platform = Platform::make("events of boots").await;
    let client = &platform.client;
    // A key that E2B does not take.
    configure(client, &E2B_KEY.replace("7d0c", "0c7d")).await;
    let session = client.session("ann").await;
    let mut log = Reader::of(client, &session);
    log.news(1).await;
    client.post(&format!("/v1/sessions/{session}/agents"), on_e2b()).await.expect_error(502, "provider_error");
    let listed = client.get(&format!("/v1/sessions/{session}/agents?status=failed")).await.expect(200);
    let agent = listed["data"][0]["id"].as_str().unwrap_or_else(|| panic!("{listed}"));
    let details = json!({ "event": "provider.boot_failed", "error": "provider_error" });
    let failed = json!(["error", "provider", "the sandbox did not boot: provider_error", details]);
    let details = json!({ "event": "provider.removal_failed", "error": "provider_error" });
    let left = json!(["error", "provider", "the sandbox was not removed: provider_error", details]);
    let seen = log.news(4).await;
    let shown = seen.iter().map(|entry| json!([entry["level"], entry["source"], entry["message"], entry["metadata"]]));
    let mut shown: Vec<Value> = shown.collect();
    // Whoever reconciles for another test meanwhile tries to remove it as well.
    shown.dedup();
    assert_eq!(shown, [became("booting", None), failed, became("failed", Some("booting")), left]);
    for entry in &seen {
        let of = (&entry["agentId"], &entry["sessionId"], &entry["userId"]);
        assert_eq!(of, (&json!(agent), &json!(session), &json!("ann")), "{entry}");
    }
    assert_eq!(seen[1]["provider"], "e2b", "{seen:?}");
    configure(client, E2B_KEY).await;
    client.terminate(&session).await;
}

#[tokio::test]
async fn what_a_provider_fails_to_stop_to_keep_or_to_open_is_on_record_as_the_providers_failure() {
    let platform = Platform::make("events of providers").await;
    let client = &platform.client;
    configure(client, E2B_KEY).await;
    let session = client.session("ann").await;
    let agent = client.boot(&session, on_e2b()).await;
    let mut log = Reader::of(client, &session);
    log.news(3).await;
    let sandbox = sandboxes_of(&agent).await.remove(0);
    let fail = |method: &str, path: &str| {
        let kind = FaultKind::Refuse { status: 500, code: Some("words-of-the-provider".into()), headers: Vec::new() };
        let (method, path) = (method.to_owned(), format!("/sandboxes/{sandbox}{path}"));
        // As often as it may be tried.
        e2b_emulator().controls.fault(Fault { method, path, times: 2, kind });
    };
    let (own, path) = (Some(agent.as_str()), |what: &str| format!("/v1/agents/{agent}/{what}"));
    let failed = |level: &str, event: &str, message: &str, code: &str| json!([level, "provider", format!("{message}: {code}"), { "event": event, "error": code }]);
    // One of the sandbox's own ports, which it can give to nobody.
    client.post(&path("ports"), json!({ "port": 49983 })).await.expect_invalid("port");
    let expected = failed("warn", "provider.port_failed", "a port was not opened", "invalid_request");
    log.expect(own, vec![expected]).await;
    for (method, part, what, body, event, message) in [
        ("GET", "", "ports", json!({ "port": 8080 }), "provider.port_failed", "a port was not opened"),
        ("POST", "/snapshots", "checkpoints", json!({}), "provider.checkpoint_failed", "no checkpoint was made"),
        ("POST", "/pause", "pause", json!({}), "provider.stop_failed", "the sandbox was not stopped"),
    ] {
        fail(method, part);
        client.post(&path(what), body).await.expect_error(502, "provider_error");
        let seen = log.expect(own, vec![failed("error", event, message, "provider_error")]).await;
        assert!(seen[0]["provider"] == "e2b" && !json!(seen).to_string().contains("words-of"), "{seen:?}");
    }
    // What has begun ends: once the provider does it, the agent is paused.
    let mut paused = client.post(&path("pause"), json!({})).await;
    for _ in 0..3 {
        if paused.status == 200 {
            break;
        }
        paused = client.post(&path("pause"), json!({})).await;
    }
    paused.expect(200);
    let last = log.news(1).await.pop().unwrap();
    assert_eq!(last["message"], "agent is paused");
    client.terminate(&session).await;
}
