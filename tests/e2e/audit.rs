//! The audit trail: what was done with a key, as its platform can read it afterwards, and nobody else.

use crate::harness::{Answer, Canary, Client, Platform};
use serde_json::{Value, json};
use std::collections::HashSet;

/// The entries of a page of that query, newest first.
async fn entries(client: &Client, query: &str) -> Vec<Value> {
    let page = client.get(&format!("/v1/audit?limit=100&{query}")).await.expect(200);
    assert_eq!(page["hasMore"], false, "{page}");
    page["data"].as_array().unwrap().clone()
}

fn request_id(answer: &Answer) -> String {
    assert!(answer.status < 300, "{answer:?}");
    answer.headers["x-request-id"].clone()
}

fn actions(entries: &[Value]) -> Vec<&str> {
    entries.iter().map(|entry| entry["action"].as_str().unwrap()).collect()
}

/// What a session's life left: its session, agent, and the requests of each call.
struct Life {
    session: String,
    agent: String,
    set: String,
    boot: String,
    end: String,
    terminate: String,
}

/// Sets a secret, boots an agent, and ends both.
async fn live(client: &Client, value: &str) -> Life {
    let session = client.session("u").await;
    let secrets = json!({ "my_Token": value, "Other": { "value": value, "mask": false } });
    let set = client.post(&format!("/v1/sessions/{session}/secrets"), secrets).await;
    let boot = client.post(&format!("/v1/sessions/{session}/agents"), json!({})).await;
    let agent = boot.json()["id"].as_str().unwrap().to_owned();
    let end = client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await;
    let terminate = client.call("POST", &format!("/v1/sessions/{session}/terminate"), None).await;
    let [set, boot, end, terminate] = [set, boot, end, terminate].map(|answer| request_id(&answer));
    Life { session, agent, set, boot, end, terminate }
}

#[tokio::test]
async fn a_platform_reads_who_set_a_secret_and_which_agent_got_it() {
    let platform = Platform::make("audit").await;
    let client = &platform.client;
    let secret = Canary::make();
    let life = live(client, secret.value()).await;
    let key = client.get("/v1/whoami").await.expect(200)["keyId"].clone();

    let trail = entries(client, &format!("session={}", life.session)).await;
    let told: Vec<_> = trail
        .iter()
        .map(|entry| {
            let text = |name: &str| entry[name].as_str().unwrap_or_default().to_owned();
            let mut names = entry["names"].clone();
            names.as_array_mut().unwrap().sort_by_key(Value::to_string);
            (text("action"), text("outcome"), text("requestId"), text("agentId"), names)
        })
        .collect();
    let (names, none) = (json!(["MY_TOKEN", "OTHER"]), json!([]));
    let created = told.last().unwrap().2.clone();
    let step = |action: &str, outcome: &str, request: &str, agent: &str, names: &Value| {
        (action.to_owned(), outcome.to_owned(), request.to_owned(), agent.to_owned(), names.clone())
    };
    assert_eq!(
        told,
        [
            step("session.terminate", "succeeded", &life.terminate, "", &names),
            step("agent.end", "succeeded", &life.end, &life.agent, &names),
            step("agent.boot", "succeeded", &life.boot, &life.agent, &names),
            step("agent.boot", "started", &life.boot, &life.agent, &names),
            step("secrets.set", "succeeded", &life.set, "", &names),
            step("session.create", "succeeded", &created, "", &none),
        ]
    );
    for entry in &trail {
        assert_eq!((&entry["principal"], &entry["keyId"]), (&json!("platform"), &key), "{entry}");
        assert_eq!((&entry["sourceIp"], &entry["sessionId"]), (&json!("127.0.0.1"), &json!(life.session)), "{entry}");
        let names: HashSet<_> = entry.as_object().unwrap().keys().map(String::as_str).collect();
        let shown = ["id", "timestamp", "principal", "keyId", "action", "names", "sessionId", "agentId", "outcome"];
        assert_eq!(names, shown.into_iter().chain(["sourceIp", "requestId"]).collect());
        assert!(entry["id"].as_str().unwrap().starts_with("aud_"));
    }
    secret.is_not_in("the trail", Value::from(trail.clone()).to_string());

    let of_secret = entries(client, "secret=MY_token").await;
    assert_eq!(actions(&of_secret), ["session.terminate", "agent.end", "agent.boot", "agent.boot", "secrets.set"]);
    assert_eq!(entries(client, "secret=MY_TOKE").await, Vec::<Value>::new());
    let by_key = entries(client, &format!("key={}&session={}", key.as_str().unwrap(), life.session)).await;
    assert_eq!(by_key, trail);
    let boot = trail[3]["timestamp"].as_str().unwrap();
    let since = entries(client, &format!("session={}&since={boot}", life.session)).await;
    let until = entries(client, &format!("session={}&until={boot}", life.session)).await;
    assert!(!since.is_empty() && !until.is_empty());
    assert_eq!([since, until].concat(), trail, "what is not since then is until then");
}

#[tokio::test]
async fn a_platforms_first_keys_are_on_record_as_the_operators_work() {
    let platform = Platform::make("audit of keys").await;
    for (key, other) in [(&platform.live_key, &platform.test_key), (&platform.test_key, &platform.live_key)] {
        let client = platform.client.with_key(Some(key));
        let who = client.get("/v1/whoami").await.expect(200)["keyId"].clone();
        let other = client.with_key(Some(other)).get("/v1/whoami").await.expect(200)["keyId"].clone();
        let trail = entries(&client, "").await;
        assert_eq!(actions(&trail), ["key.create"]);
        assert_eq!((&trail[0]["principal"], &trail[0]["names"]), (&json!("operator"), &json!([who])));
        for field in ["keyId", "sourceIp", "requestId", "sessionId", "agentId"] {
            assert_eq!(trail[0][field], Value::Null, "{field}");
        }
        assert!(!trail[0].to_string().contains(other.as_str().unwrap()));
    }
}

#[tokio::test]
async fn nobody_else_sees_anything_of_a_trail() {
    let (platform, stranger) = (Platform::make("audited").await, Platform::make("stranger").await);
    let client = &platform.client;
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "NAME": "value" })).await;
    let key = client.get("/v1/whoami").await.expect(200)["keyId"].as_str().unwrap().to_owned();
    assert_eq!(actions(&entries(client, "").await), ["secrets.set", "session.create", "key.create"]);
    let cursor = client.get("/v1/audit?limit=1").await.expect(200)["cursor"].as_str().unwrap().to_owned();
    for other in [stranger.client.clone(), client.with_key(Some(&platform.test_key))] {
        assert_eq!(actions(&entries(&other, "").await), ["key.create"], "its own");
        for query in [format!("session={session}"), "secret=NAME".to_owned(), format!("key={key}")] {
            assert_eq!(entries(&other, &query).await, Vec::<Value>::new(), "{query}");
        }
        other.get(&format!("/v1/audit?limit=1&cursor={cursor}")).await.expect_invalid("cursor");
    }
    client.with_key(None).get("/v1/audit").await.expect_error(401, "unauthorized");
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_trail_that_is_asked_for_by_a_key_has_all_that_this_key_did_and_nothing_that_another_did() {
    let platform = Platform::make("audit by key").await;
    let first = &platform.client;
    let made = first.post("/v1/api-keys", json!({ "name": "second", "environment": "live" })).await.expect(201);
    let second = first.with_key(made["key"].as_str());
    let session = first.session("u").await;
    first.set_secrets(&session, json!({ "ONE": "value" })).await;
    second.set_secrets(&session, json!({ "TWO": "value" })).await;
    second.delete(&format!("/v1/sessions/{session}/secrets/ONE")).await.expect(204);
    first.terminate(&session).await;
    let whole = entries(first, "").await;
    let mut told = 0;
    for (client, did) in [
        (first, vec!["session.terminate", "secrets.set", "session.create", "key.create"]),
        (&second, vec!["secrets.delete", "secrets.set"]),
    ] {
        let id = client.get("/v1/whoami").await.expect(200)["keyId"].as_str().unwrap().to_owned();
        // Whoever asks.
        for reader in [first, &second] {
            let trail = entries(reader, &format!("key={id}")).await;
            assert_eq!(actions(&trail), did);
            assert!(trail.iter().all(|entry| entry["keyId"] == id.as_str() && whole.contains(entry)), "{trail:?}");
        }
        told += did.len();
    }
    // The platform's first key was the operator's work.
    assert_eq!(whole.len(), told + 1, "{whole:?}");
    assert_eq!(entries(first, &format!("key={}", theazo_tenancy::KeyId::make())).await, Vec::<Value>::new());
}

#[tokio::test]
async fn what_a_sessions_token_was_used_for_is_on_record_as_the_sessions_doing_and_by_which_token() {
    let platform = Platform::make("audit of tokens").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let own_key = client.get("/v1/whoami").await.expect(200)["keyId"].as_str().unwrap().to_owned();
    let mut tokens = Vec::new();
    for _ in 0..2 {
        let minted = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
        let holder = client.with_key(minted["token"].as_str());
        let id = holder.get("/v1/whoami").await.expect(200)["keyId"].as_str().unwrap().to_owned();
        tokens.push((holder, id));
    }
    let [(first, first_id), (second, second_id)] = &tokens[..] else { unreachable!("two were minted") };
    let agent = first.boot(&session, json!({})).await;
    for (caller, what) in [(second, "restart"), (first, "pause"), (second, "resume"), (&client, "terminate")] {
        caller.call("POST", &format!("/v1/agents/{agent}/{what}"), None).await.expect(200);
    }

    let trail = entries(&client, &format!("session={session}")).await;
    let told = trail
        .iter()
        .rev()
        .map(|entry| ["action", "outcome", "principal", "keyId"].map(|field| entry[field].as_str().unwrap()));
    let told: Vec<_> = told.collect();
    assert_eq!(
        told,
        [
            ["session.create", "succeeded", "platform", &own_key],
            ["token.create", "succeeded", "platform", &own_key],
            ["token.create", "succeeded", "platform", &own_key],
            ["agent.boot", "started", "session", first_id],
            ["agent.boot", "succeeded", "session", first_id],
            ["agent.restart", "started", "session", second_id],
            ["agent.restart", "succeeded", "session", second_id],
            ["agent.pause", "started", "session", first_id],
            ["agent.pause", "succeeded", "session", first_id],
            ["agent.resume", "started", "session", second_id],
            ["agent.resume", "succeeded", "session", second_id],
            ["agent.end", "succeeded", "platform", &own_key],
        ]
    );
    // A token's id leads to who minted it.
    let minted: Vec<_> = trail.iter().rev().filter(|entry| entry["action"] == "token.create").collect();
    assert_eq!(
        minted.iter().map(|entry| &entry["names"]).collect::<Vec<_>>(),
        [&json!([first_id]), &json!([second_id])]
    );
    assert!(trail.iter().all(|entry| entry["sourceIp"] == "127.0.0.1" && entry["requestId"].is_string()));
    for (_, id) in &tokens {
        let of_token = entries(&client, &format!("key={id}")).await;
        assert_eq!(of_token.len(), 4);
        assert!(of_token.iter().all(|entry| entry["keyId"] == *id && trail.contains(entry)), "{of_token:?}");
    }
    client.terminate(&session).await;
}

#[tokio::test]
async fn the_trail_is_walked_page_by_page_and_wrong_queries_are_refused_by_name() {
    let platform = Platform::make("audit pages").await;
    let client = &platform.client;
    for n in 0..5 {
        client.post("/v1/secrets", json!({ format!("N{n}"): "value" })).await.expect(204);
    }
    client.delete("/v1/secrets/n0").await.expect(204);
    let all = entries(client, "").await;
    assert_eq!(actions(&all)[..2], ["secrets.delete", "secrets.set"]);
    for (filter, limit, expected) in [("", 2, 7), ("secret=n0&", 1, 2), ("until=2999-01-01T00:00:00Z&", 3, 7)] {
        let mut seen = Vec::new();
        let mut next = String::new();
        for _ in 0..20 {
            let answer = client.get(&format!("/v1/audit?{filter}limit={limit}{next}")).await;
            assert_eq!(answer.round_trips(), 1);
            let page = answer.expect(200);
            seen.extend(page["data"].as_array().unwrap().clone());
            let Some(cursor) = page["cursor"].as_str() else { break };
            next = format!("&cursor={cursor}");
            // What happens meanwhile is newer than what is still to come.
            client.session("meanwhile").await;
        }
        let of_secrets: Vec<_> = seen.iter().filter(|entry| entry["action"] != "session.create").cloned().collect();
        assert_eq!(of_secrets.len(), expected, "{filter}");
        let ids: HashSet<_> = seen.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), seen.len());
        assert!(of_secrets.iter().all(|entry| all.contains(entry)));
    }
    for (query, field) in [
        ("secret=", "secret"),
        ("secret=1bad", "secret"),
        ("secret=a-b", "secret"),
        ("session=x", "session"),
        ("session=agt_00000000000000000000000000", "session"),
        ("key=", "key"),
        ("key=th_live_x", "key"),
        ("since=yesterday", "since"),
        ("until=2026-01-01", "until"),
        ("until=", "until"),
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("cursor=x", "cursor"),
        ("secret=%ff", "query"),
    ] {
        client.get(&format!("/v1/audit?{query}")).await.expect_invalid(field);
    }
    // Forged positions: well-formed cursors that this list did not give.
    for bytes in [36, 64, 1056] {
        client.get(&format!("/v1/audit?cursor={}", "A".repeat(bytes / 3 * 4))).await.expect_invalid("cursor");
    }
    for empty in ["since=2999-01-01T00:00:00Z", "until=2020-01-01T00:00:00Z", "secret=ABSENT"] {
        assert_eq!(
            client.get(&format!("/v1/audit?{empty}")).await.expect(200),
            json!({ "data": [], "hasMore": false })
        );
    }
}

#[tokio::test]
async fn what_is_refused_is_not_on_record() {
    let platform = Platform::make("audit of refusals").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let before = entries(client, "").await;
    let (own, agents) = (format!("/v1/sessions/{session}/secrets"), format!("/v1/sessions/{session}/agents"));
    client.post(&own, json!({ "PATH": "x" })).await.expect_error(422, "unprocessable_entity");
    client.post(&own, json!({ "A": 5 })).await.expect_error(400, "invalid_request");
    client.delete(&format!("{own}/ABSENT")).await.expect_error(404, "not_found");
    client.post(&agents, json!({ "gpu": true })).await.expect_error(422, "unprocessable_entity");
    client.post(&agents, json!({ "secrets": ["ABSENT"] })).await.expect_error(400, "invalid_request");
    client.delete("/v1/providers/e2b").await.expect_error(404, "not_found");
    assert_eq!(entries(client, "").await, before);
    client.terminate(&session).await;
}
