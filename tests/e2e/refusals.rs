//! Refusals: their form, and that what is not built says so by name.

use crate::harness::Platform;
use serde_json::json;

#[tokio::test]
async fn errors_have_one_form_and_name_the_request_twice() {
    let platform = Platform::make("error form").await;
    let client = &platform.client;
    for (method, path) in [
        ("GET", "/v1/nothing"),
        ("PUT", "/v1/sessions"),
        ("GET", "/"),
        ("DELETE", "/v1/sessions"),
        ("GET", "/v1/sessions/"),
    ] {
        let answer = client.call(method, path, None).await;
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["content-type"], "application/json");
        let id = answer.headers["x-request-id"].clone();
        assert!(id.starts_with("req_") && id.len() == 30);
        let error = answer.expect_error(404, "not_found");
        assert_eq!(error["requestId"], id.as_str());
        assert!(error["details"].is_object() && error["message"].is_string());
    }
}

#[tokio::test]
async fn bodies_that_are_not_what_they_should_be_are_refused_by_name() {
    let platform = Platform::make("bodies").await;
    let client = &platform.client;
    for (body, field) in [
        ("{", "body"),
        ("[]", "body"),
        ("\"x\"", "body"),
        (r#"{"userId": 5}"#, "userId"),
        (r#"{"userId": ""}"#, "userId"),
        (r#"{"userId": "a\u0000b"}"#, "userId"),
        (r#"{"environment": "mars"}"#, "environment"),
        (r#"{"metadata": "x"}"#, "metadata"),
        (r#"{"metadata": {"a": 1}}"#, "metadata.a"),
        (r#"{"limits": 5}"#, "limits"),
        (r#"{"limits": {"maxAgents": "3"}}"#, "limits.maxAgents"),
        (r#"{"limits": {"maxAgents": -1}}"#, "limits.maxAgents"),
        (r#"{"limits": {"maxAgents": 1.5}}"#, "limits.maxAgents"),
    ] {
        let answer = client.try_call("POST", "/v1/sessions", Some(body.into())).await.unwrap();
        assert_eq!(answer.expect_error(400, "invalid_request")["details"]["field"], field, "{body}");
    }
    let not_utf8 = client.try_call("POST", "/v1/sessions", Some(b"{\"userId\": \"\xff\"}".to_vec())).await.unwrap();
    not_utf8.expect_error(400, "invalid_request");
    let large = format!(r#"{{"userId": "{}"}}"#, "x".repeat(6_000_001));
    let refused = client.try_call("POST", "/v1/sessions", Some(large.into_bytes())).await.unwrap();
    assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], "body");
    let unknown = json!({ "whatever": { "deep": [1] }, "userId": null });
    client.post("/v1/sessions", unknown).await.expect(201);
}

#[tokio::test]
async fn fields_that_ask_for_what_is_not_built_are_refused_by_name_and_make_nothing() {
    let platform = Platform::make("not built").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agents = format!("/v1/sessions/{session}/agents");
    for (body, feature) in [
        (json!({ "browser": true }), "browser"),
        (json!({ "gpu": "a100" }), "gpu"),
        (json!({ "guardrails": {} }), "guardrails"),
        (json!({ "approvals": [] }), "approvals"),
        (json!({ "knowledge": ["x"] }), "knowledge"),
        (json!({ "definition": "x" }), "definition"),
        (json!({ "providerFallback": ["fly"] }), "providerFallback"),
        (json!({ "region": "fra" }), "region"),
        (json!({ "costCap": { "amount": 1, "currency": "usd" } }), "costCap"),
        (json!({ "lifecycle": { "autoPause": "5m" } }), "lifecycle"),
        (json!({ "compute": "go" }), "compute.go"),
        (json!({ "provider": "e2b" }), "provider.e2b"),
        (json!({ "provider": "fly" }), "provider.fly"),
        (json!({ "network": { "allow": ["example.com"] } }), "network.allow"),
    ] {
        let refused = client.post(&agents, body).await.expect_error(422, "unprocessable_entity");
        assert_eq!(refused["details"]["feature"], feature);
    }
    for (body, field) in [
        (json!({ "compute": "cobol" }), "compute"),
        (json!({ "provider": "aws" }), "provider"),
        (json!({ "timeout": "25h" }), "timeout"),
        (json!({ "timeout": "soon" }), "timeout"),
        (json!({ "timeout": 0 }), "timeout"),
        (json!({ "secrets": "ALL" }), "secrets"),
        (json!({ "secrets": ["a-b"] }), "secrets"),
        (json!({ "network": { "internet": "no" } }), "network.internet"),
        (json!({ "metadata": { "a": {} } }), "metadata.a"),
    ] {
        let refused = client.post(&agents, body).await.expect_error(400, "invalid_request");
        assert_eq!(refused["details"]["field"], field);
    }
    for (limit, value) in [
        ("maxCost", json!({ "amount": 1, "currency": "usd", "period": "day" })),
        ("maxComputeMinutes", json!(5)),
        ("maxDuration", json!({ "hours": 1 })),
    ] {
        let body = json!({ "limits": { limit: value } });
        let refused = client.post("/v1/sessions", body).await.expect_error(422, "unprocessable_entity");
        assert_eq!(refused["details"]["feature"], format!("limits.{limit}"));
    }
    let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!(usage["totalAgentsCreated"], 0);

    let body = json!({
        "browser": false, "model": "m", "instructions": "be brief", "tools": [{ "name": "t" }], "timeout": "5m",
        "metadata": { "a": "b" }, "network": { "internet": false }, "something": "else",
    });
    let agent = client.post(&agents, body).await.expect(201);
    assert_eq!((&agent["browser"], &agent["model"], &agent["region"]), (&json!(false), &json!("m"), &json!(null)));
    assert_eq!((&agent["instructions"], &agent["tools"]), (&json!("be brief"), &json!([{ "name": "t" }])));
    assert_eq!(
        (&agent["provider"], &agent["compute"], &agent["userId"]),
        (&json!("docker"), &json!("python"), &json!("u"))
    );
    client.terminate(&session).await;
}

#[tokio::test]
async fn an_idempotency_key_is_refused_until_it_can_be_honoured() {
    let platform = Platform::make("idempotency").await;
    let base = crate::harness::stack().base_url();
    let answer = reqwest::Client::new()
        .post(format!("{base}/v1/sessions"))
        .bearer_auth(&platform.live_key)
        .header("Idempotency-Key", "k1")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status().as_u16(), 422);
    let error: serde_json::Value = serde_json::from_str(&answer.text().await.unwrap()).unwrap();
    assert_eq!(error["error"]["details"]["feature"], "idempotency-key");
    let listed = platform.client.get("/v1/sessions").await.expect(200);
    assert_eq!(listed, json!({ "data": [], "hasMore": false }));
}

#[tokio::test]
async fn health_needs_no_key_and_whoami_tells_what_a_key_is() {
    let platform = Platform::make("whoami").await;
    let client = &platform.client;
    assert_eq!(client.with_key(None).get("/health").await.expect(200), json!({ "status": "ok" }));
    for (key, environment) in [(&platform.live_key, "live"), (&platform.test_key, "test")] {
        let who = client.with_key(Some(key)).get("/v1/whoami").await.expect(200);
        assert_eq!((&who["kind"], &who["environment"]), (&json!("platform"), &json!(environment)));
        assert_eq!(who["platformId"], platform.id.as_str());
        assert_eq!((&who["sessionId"], &who["expiresAt"]), (&json!(null), &json!(null)));
        assert!(who["keyId"].as_str().unwrap().starts_with("key_"));
    }
}
