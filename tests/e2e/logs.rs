//! Log entries over HTTP: what is written when, and who reads which.

use crate::e2b::{configure, on_e2b, sandboxes_of};
use crate::harness::{Client, E2B_KEY, Lines, Platform, e2b_emulator, make_canary, stack};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use theazo_e2b_emulator::{Fault, FaultKind};
use theazo_tenancy::Mode;

fn messages(page: &Value) -> Vec<String> {
    page["data"].as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
}

/// The entries of a query, once there are that many.
pub async fn entries(client: &Client, query: &str, count: usize) -> Vec<Value> {
    for _ in 0..200 {
        let page = client.get(&format!("/v1/logs?limit=100&{query}")).await.expect(200);
        let data = page["data"].as_array().unwrap();
        if data.len() >= count {
            return data.clone();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("there are not {count} entries of {query}");
}

pub async fn token(client: &Client, session: &str) -> Client {
    let minted = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    client.with_key(minted["token"].as_str())
}

#[tokio::test]
async fn what_happens_to_a_session_and_its_agents_is_on_record_for_those_whose_it_is() {
    let platform = Platform::make("logs").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.post("/v1/sessions", json!({ "userId": "ann" })).await.expect(201);
    let session = session["id"].as_str().unwrap();
    let agent = client.boot(session, json!({})).await;
    client.run(&agent, "bash", "# theazo:stdout hello").await;
    let failing = json!({ "language": "python", "code": "# theazo:exit 3" });
    client.post(&format!("/v1/agents/{agent}/exec"), failing).await.expect(200);
    let failing = json!({ "language": "python", "code": "# theazo:fail" });
    client.post(&format!("/v1/agents/{agent}/exec"), failing).await.expect_error(502, "provider_error");
    client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await.expect(200);
    let other = client.session("other").await;
    let by_agent = entries(&client, &format!("agentId={agent}"), 6).await;
    let events: Vec<_> = by_agent.iter().map(|entry| entry["metadata"]["event"].as_str().unwrap()).collect();
    assert_eq!(events.iter().filter(|event| **event == "agent.exec").count(), 3);
    let statuses: Vec<_> = by_agent.iter().rev().filter_map(|entry| entry["metadata"]["status"].as_str()).collect();
    assert_eq!(statuses, ["booting", "ready", "completed"]);
    let find = |part: &str| by_agent.iter().find(|entry| entry["message"].as_str().unwrap().contains(part)).unwrap();
    let ran = find("bash exited with 0");
    assert_eq!((&ran["level"], &ran["source"]), (&json!("info"), &json!("agent")));
    assert_eq!(ran["metadata"]["stdout"], "hello\n");
    assert_eq!(ran["metadata"]["code"], "# theazo:stdout hello");
    assert!(ran["metadata"]["durationMs"].is_u64());
    for (name, value) in
        [("agentId", agent.as_str()), ("sessionId", session), ("userId", "ann"), ("provider", "simulated")]
    {
        assert_eq!(ran[name], value, "{name}");
    }
    assert_eq!(find("exited with 3")["level"], "warn");
    let failed = find("not run to its end");
    assert_eq!((&failed["level"], &failed["source"]), (&json!("error"), &json!("provider")));

    // A session's token sees its own, whatever it asks for; the other mode and other platforms see nothing.
    let all = client.get("/v1/logs?limit=100").await.expect(200);
    assert_eq!(messages(&all).len(), 8);
    let own = token(&client, session).await;
    let shown = own.get("/v1/logs?limit=100").await;
    assert_eq!(shown.round_trips(), 1);
    assert_eq!(messages(&shown.expect(200)).len(), 7);
    assert_eq!(messages(&own.get(&format!("/v1/logs?sessionId={other}")).await.expect(200)).len(), 0);
    let others = token(&client, &other).await;
    for query in ["", &format!("sessionId={session}"), &format!("agentId={agent}")] {
        let seen = others.get(&format!("/v1/logs?{query}")).await.expect(200);
        assert!(messages(&seen).iter().all(|text| text == "session created"), "{seen}");
        assert_eq!(messages(&platform.client.get(&format!("/v1/logs?{query}")).await.expect(200)).len(), 0);
    }
    let stranger = Platform::make("logs of others").await;
    let stranger = stranger.client.with_key(Some(&stranger.test_key));
    assert_eq!(messages(&stranger.get(&format!("/v1/logs?sessionId={session}")).await.expect(200)).len(), 0);
    stranger.get(&format!("/v1/agents/{agent}/logs/stream")).await.expect_error(404, "not_found");
    others.get(&format!("/v1/agents/{agent}/logs/stream")).await.expect_error(404, "not_found");
    others.get(&format!("/v1/logs/stream?sessionId={session}")).await.expect_error(404, "not_found");
}

#[tokio::test]
async fn what_a_provider_does_by_itself_is_on_record_as_its_own() {
    let platform = Platform::make("provider events").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let lost = json!({ "language": "bash", "code": "# theazo:lose" });
    client.post(&format!("/v1/agents/{agent}/exec"), lost).await.expect_error(502, "provider_error");
    let gone = &entries(&client, &format!("agentId={agent}&search=sandbox%20is%20gone"), 1).await[0];
    assert_eq!((&gone["source"], &gone["level"]), (&json!("provider"), &json!("error")));
    assert_eq!((&gone["provider"], &gone["metadata"]["event"]), (&json!("simulated"), &json!("provider.sandbox_gone")));
    // The cause is there before what it led to.
    let statuses = entries(&client, &format!("agentId={agent}&search=agent%20is%20failed"), 1).await;
    assert!(statuses[0]["id"].as_str() > gone["id"].as_str());
    client.terminate(&session).await;
}

#[tokio::test]
async fn what_a_provider_refuses_or_fails_to_do_is_on_record_without_its_words() {
    let platform = Platform::make("provider refusals").await;
    let client = &platform.client;
    configure(client, E2B_KEY).await;
    let session = client.session("u").await;
    let agent = client.boot(&session, on_e2b()).await;
    let sandbox = sandboxes_of(&agent).await.remove(0);
    let fail = |method: &str, path: &str, times, status| {
        let kind = FaultKind::Refuse { status, code: Some("words-of-the-provider".into()), headers: Vec::new() };
        let (method, path) = (method.to_owned(), format!("/sandboxes/{sandbox}{path}"));
        e2b_emulator().controls.fault(Fault { method, path, times, kind });
    };
    let act = async |what: &str| client.call("POST", &format!("/v1/agents/{agent}/{what}"), None).await;
    let told = async |event: &str, level: &str, code: &str| {
        let found = entries(client, &format!("agentId={agent}&level={level}"), 1).await;
        let entry = found.iter().find(|entry| entry["metadata"]["event"] == event);
        let entry = entry.unwrap_or_else(|| panic!("no {event}: {found:?}"));
        assert_eq!((&entry["source"], &entry["provider"]), (&json!("provider"), &json!("e2b")));
        assert_eq!(entry["metadata"]["error"], code);
        assert!(!json!(found).to_string().contains("words-of-the-provider"));
    };
    fail("POST", "/pause", 1, 400);
    act("pause").await.expect_error(409, "conflict");
    told("provider.pause_refused", "warn", "conflict").await;
    fail("DELETE", "", 2, 500);
    act("terminate").await.expect_error(502, "provider_error");
    told("provider.removal_failed", "error", "provider_error").await;
    for _ in 0..10 {
        if act("terminate").await.status == 200 {
            return client.terminate(&session).await;
        }
    }
    panic!("the agent is not removed although its provider would");
}

#[tokio::test]
async fn entries_are_filtered_and_walked_page_by_page_and_wrong_queries_are_refused_by_name() {
    let platform = Platform::make("log pages").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let lines = Lines::of(stack(), &platform.id, Mode::Live, &session).await;
    lines.write((0..25).map(|n| format!("Line {n}"))).await;
    for (filter, limits, expected) in [
        ("search=LINE%201", [1, 2, 100], 11),
        ("", [10, 11, 100], 26),
        ("level=info", [10, 11, 100], 26),
        ("level=error", [1, 10, 100], 0),
    ] {
        for limit in limits {
            let (mut seen, mut next) = (Vec::new(), String::new());
            for _ in 0..30 {
                let page = client.get(&format!("/v1/logs?{filter}&limit={limit}{next}")).await;
                assert_eq!(page.round_trips(), 1);
                let page = page.expect(200);
                seen.extend(messages(&page));
                let Some(cursor) = page["cursor"].as_str() else { break };
                next = format!("&cursor={cursor}");
                lines.write(["meanwhile".to_owned()]).await;
            }
            seen.retain(|text| text != "meanwhile");
            assert_eq!(seen.len(), expected, "{filter} {limit}");
            assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), expected, "{filter} {limit}");
        }
    }
    for (query, field) in [
        ("sessionId=x", "sessionId"),
        ("agentId=ses_00000000000000000000000000", "agentId"),
        ("level=fatal", "level"),
        ("since=yesterday", "since"),
        ("until=2026-01-01", "until"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
        ("search=%ff", "query"),
    ] {
        client.get(&format!("/v1/logs?{query}")).await.expect_invalid(field);
    }
    let long = "x".repeat(257);
    client.get(&format!("/v1/logs?search={long}")).await.expect_invalid("search");
    client.get("/v1/logs/stream?until=2999-01-01T00:00:00Z").await.expect_invalid("until");
    client.get("/v1/logs/stream?level=loud").await.expect_invalid("level");
    let refused = client.open("/v1/logs/stream", &[("last-event-id", "log_x")]).await;
    assert_eq!(refused.status().as_u16(), 400);
    let page = client.get("/v1/logs?limit=1").await.expect(200);
    let cursor = page["cursor"].as_str().unwrap();
    client.get(&format!("/v1/logs?level=info&cursor={cursor}")).await.expect_invalid("cursor");
}

#[tokio::test]
async fn a_secret_in_code_or_output_is_masked_before_it_is_on_record() {
    let platform = Platform::make("log masking").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let canary = make_canary("log");
    client.set_secrets(&session, json!({ "API_TOKEN": canary })).await;
    let agent = client.boot(&session, json!({})).await;
    // In the code where an entry cuts it, and in the output.
    let code = format!("{}\n# theazo:stdout {canary}\n# theazo:stderr {canary}", "#".repeat(230));
    client.run(&agent, "bash", &code).await;
    let ran = &entries(&client, &format!("agentId={agent}&search=exited"), 1).await[0];
    let text = ran.to_string();
    for length in 6..=canary.len() {
        assert!(!text.contains(&canary[..length]), "{length} characters of it: {text}");
    }
    assert_eq!(ran["metadata"]["stdout"], "[secret:API_TOKEN]\n");
    assert!(ran["metadata"]["code"].as_str().unwrap().len() < 300);
    let stored = client.get("/v1/logs?limit=100").await;
    assert!(!stored.text.contains(&canary));
}
