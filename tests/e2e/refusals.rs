//! Refusals: their form, and that what is not built says so by name.

use crate::harness::{Platform, send_raw};
use serde_json::{Value, json};
use std::collections::HashSet;
use theazo_tenancy::{KeyId, RequestId};

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
    client.saying_more().post("/v1/sessions", unknown).await.expect(201);
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
        (json!({ "lifecycle": { "autoResume": true } }), "lifecycle.autoResume"),
        (json!({ "compute": "go" }), "compute.go"),
        (json!({ "network": { "allow": ["example.com"] } }), "network.allow"),
    ] {
        let refused = client.post(&agents, body).await.expect_error(422, "unprocessable_entity");
        assert_eq!(refused["details"]["feature"], feature);
    }
    for (body, field) in [
        (json!({ "compute": "cobol" }), "compute"),
        (json!({ "region": "fra" }), "region"),
        (json!({ "provider": "e2b", "region": "fra" }), "region"),
        (json!({ "provider": "fly", "providerFallback": "docker", "region": "iad" }), "region"),
        (json!({ "provider": "fly", "region": "Über" }), "region"),
        (json!({ "provider": "aws" }), "provider"),
        (json!({ "providerFallback": ["docker"] }), "providerFallback"),
        (json!({ "provider": "docker", "providerFallback": ["aws"] }), "providerFallback"),
        (json!({ "provider": "docker", "providerFallback": 7 }), "providerFallback"),
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
    let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!(usage["totalAgentsCreated"], 0);

    let body = json!({
        "browser": false, "model": "m", "instructions": "be brief", "tools": [{ "name": "t" }], "timeout": "5m",
        "metadata": { "a": "b" }, "network": { "internet": false }, "something": "else",
    });
    let agent = client.saying_more().post(&agents, body).await.expect(201);
    assert_eq!((&agent["browser"], &agent["model"], &agent["region"]), (&json!(false), &json!("m"), &json!(null)));
    assert_eq!((&agent["instructions"], &agent["tools"]), (&json!("be brief"), &json!([{ "name": "t" }])));
    assert_eq!(
        (&agent["provider"], &agent["compute"], &agent["userId"]),
        (&json!("docker"), &json!("python"), &json!("u"))
    );
    client.terminate(&session).await;
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

#[tokio::test]
async fn every_answer_has_the_standing_headers_and_an_id_of_its_own() {
    let platform = Platform::make("standing headers").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let secrets = format!("/v1/sessions/{session}/secrets");
    let mut ids = HashSet::new();
    for (method, path, body, key, status) in [
        ("GET", "/health", None, false, 200),
        ("GET", "/v1/whoami", None, true, 200),
        ("POST", "/v1/sessions", None, true, 201),
        ("POST", secrets.as_str(), Some(json!({ "A": "b" })), true, 204),
        ("POST", secrets.as_str(), Some(json!({ "A": 5 })), true, 400),
        ("GET", "/v1/whoami", None, false, 401),
        ("GET", "/v1/agents/x", None, true, 404),
        ("GET", "/v1/nothing", None, false, 404),
        ("POST", secrets.as_str(), Some(json!({ "PATH": "x" })), true, 422),
    ] {
        let key = key.then_some(platform.live_key.as_str());
        let answer = client.with_key(key).call(method, path, body.as_ref()).await;
        assert_eq!(answer.status, status, "{method} {path}: {answer:?}");
        assert_eq!(answer.headers["cache-control"], "no-store");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff");
        let id = answer.headers["x-request-id"].clone();
        assert!(RequestId::parse(&id).is_ok() && ids.insert(id.clone()), "{id}");
        if status == 204 {
            assert!(answer.text.is_empty() && !answer.headers.contains_key("content-type"), "{answer:?}");
            continue;
        }
        assert_eq!(answer.headers["content-type"], "application/json");
        if status >= 400 {
            let body = answer.json();
            assert_eq!((&body["requestId"], &body["error"]["requestId"]), (&json!(id), &json!(id)));
            let fields: Vec<_> = body["error"].as_object().unwrap().keys().collect();
            assert_eq!(fields, ["code", "details", "message", "requestId"]);
        }
    }
}

#[tokio::test]
async fn what_no_route_fits_is_not_found_in_our_form_with_a_key_or_without() {
    let platform = Platform::make("no route").await;
    let base = platform.client.base();
    let mut texts = HashSet::new();
    for key in [Some(platform.live_key.as_str()), None, Some("nonsense")] {
        for (method, target) in [
            ("GET", "/"),
            ("GET", "/v1"),
            ("GET", "/v1/"),
            ("GET", "/v2/sessions"),
            ("GET", "/V1/sessions"),
            ("GET", "/v1/sessions/"),
            ("GET", "//v1/sessions"),
            ("GET", "/v1//sessions"),
            ("GET", "/v1/../v1/sessions"),
            ("GET", "/v1/sessions%2Fx"),
            ("GET", "/v1/sessions/%FF"),
            ("GET", "/v1/sessions/by-user/u"),
            ("PUT", "/v1/sessions"),
            ("PATCH", "/v1/sessions"),
            ("DELETE", "/v1/sessions"),
            ("POST", "/health"),
            ("POST", "/v1/whoami"),
            ("get", "/v1/whoami"),
            ("BREW", "/v1/whoami"),
            ("OPTIONS", "/v1/sessions"),
            ("OPTIONS", "*"),
        ] {
            let answer = send_raw(base, method, target, key, &[], b"").await;
            assert_eq!(answer.status, 404, "{method} {target}: {answer:?}");
            texts.insert(answer.without_request_id());
            answer.expect_error(404, "not_found");
        }
    }
    assert_eq!(texts.len(), 1, "{texts:?}");
}

#[tokio::test]
async fn a_body_of_6_mb_is_read_and_a_larger_one_is_refused_whole_however_it_is_sent() {
    let platform = Platform::make("body size").await;
    let client = &platform.client;
    let mut largest = b"{}".to_vec();
    largest.resize(6_000_000, b' ');
    client.try_call("POST", "/v1/sessions", Some(largest.clone())).await.unwrap().expect(201);
    largest.push(b' ');
    for size in [6_000_001, 7_000_000, 20_000_000] {
        largest.resize(size, b' ');
        for path in ["/v1/sessions", "/v1/sessions/by-user/u", "/v1/secrets"] {
            let answer = client.try_call("POST", path, Some(largest.clone())).await;
            answer.unwrap_or_else(|error| panic!("{size} {path}: {error}")).expect_invalid("body");
        }
    }
    // Without a length in front: one chunk after another.
    let chunk = [b"100000\r\n".as_slice(), &[b' '; 0x10_0000], b"\r\n"].concat();
    let chunked = [chunk.repeat(7).as_slice(), b"0\r\n\r\n"].concat();
    let headers = ["transfer-encoding: chunked"];
    let key = Some(platform.live_key.as_str());
    send_raw(client.base(), "POST", "/v1/sessions", key, &headers, &chunked).await.expect_invalid("body");
    assert_eq!(client.get("/v1/sessions").await.expect(200)["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn what_is_no_json_object_in_utf_8_is_refused_on_every_route_with_a_body_and_never_quoted() {
    let platform = Platform::make("malformed bodies").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let deep = [b"{\"a\":".repeat(100_000), b"1".to_vec()].concat();
    let own = format!("/v1/sessions/{session}");
    for (method, path) in [
        ("POST", "/v1/sessions".to_owned()),
        ("POST", "/v1/sessions/by-user/u".to_owned()),
        ("PATCH", format!("{own}/limits")),
        ("POST", format!("{own}/secrets")),
        ("POST", "/v1/secrets".to_owned()),
        ("POST", format!("{own}/agents")),
        ("PUT", "/v1/providers/e2b".to_owned()),
    ] {
        for body in [
            b"{\"a\": s3cr3t}".as_slice(),
            b"{\"a\": \"s3cr3t\"",
            b"[\"s3cr3t\"]",
            b"\"s3cr3t\"",
            b"{\"a\": \"s3cr3t\xff\"}",
            b"\xef\xbb\xbf{\"a\": \"s3cr3t\"}",
            b"{\"a\": \"s3cr3t\\ud800\"}",
            b"{\"a\": \"s3cr3t\"} {}",
            b"null",
            b"a=s3cr3t",
            &deep,
        ] {
            let answer = client.try_call(method, &path, Some(body.to_vec())).await.unwrap();
            assert!(!answer.text.contains("s3cr3t"), "{method} {path}: {answer:?}");
            answer.expect_invalid("body");
        }
    }
}

#[tokio::test]
async fn an_agents_time_is_from_one_second_to_a_day() {
    let client = Platform::make("agent times").await.client;
    let session = client.session("u").await;
    let agents = format!("/v1/sessions/{session}/agents");
    for timeout in [
        json!("999ms"),
        json!(999),
        json!("0s"),
        json!(-5),
        json!("-5m"),
        json!("25h"),
        json!("86401s"),
        json!(86_400_001),
        json!(u64::MAX),
        json!("99999999999999999999d"),
        json!(1.5),
        json!("1.5h"),
        json!("5 m"),
        json!(""),
        json!(true),
        json!(["5m"]),
    ] {
        client.post(&agents, json!({ "timeout": timeout })).await.expect_invalid("timeout");
    }
    for (body, field) in [
        (json!({ "compute": 5 }), "compute"),
        (json!({ "provider": ["docker"] }), "provider"),
        (json!({ "model": {} }), "model"),
        (json!({ "model": "x".repeat(257) }), "model"),
        (json!({ "instructions": "x".repeat(64 * 1024 + 1) }), "instructions"),
        (json!({ "tools": "x".repeat(64 * 1024) }), "tools"),
        (json!({ "network": true }), "network"),
        (json!({ "secrets": [5] }), "secrets"),
        (json!({ "secrets": ["PATH"] }), "secrets"),
        (json!({ "secrets": { "A": true } }), "secrets"),
    ] {
        client.post(&agents, body).await.expect_invalid(field);
    }
    for feature in ["browser", "gpu", "guardrails", "approvals", "knowledge", "definition"] {
        for asked in [json!(true), json!("x"), json!({}), json!([]), json!(0)] {
            client.post(&agents, json!({ feature: asked })).await.expect_not_built(feature);
        }
    }
    client
        .post(&agents, json!({ "network": { "internet": false, "other": 1 } }))
        .await
        .expect_not_built("network.other");
    client.post(&agents, json!({ "provider": "simulated" })).await.expect_invalid("provider");
    assert_eq!(client.get(&agents).await.expect(200)["data"], json!([]));

    // What declines a feature asks for nothing.
    let declined = json!({ "gpu": false, "region": null, "network": {}, "timeout": 86_400_000, "secrets": null });
    let longest = client.saying_more().boot(&session, declined).await;
    let shortest = client.boot(&session, json!({ "timeout": "1s" })).await;
    assert_ne!(longest, shortest);
    client.terminate(&session).await;
}

#[tokio::test]
async fn providers_and_whoami_have_exactly_their_fields() {
    let platform = Platform::make("shapes").await;
    let client = &platform.client;
    let who = client.get("/v1/whoami").await.expect(200);
    let expected = json!({
        "kind": "platform",
        "platformId": platform.id.as_str(),
        "sessionId": null,
        "environment": "live",
        "keyId": who["keyId"],
        "expiresAt": null,
    });
    assert_eq!(who, expected);
    assert!(KeyId::parse(who["keyId"].as_str().unwrap()).is_ok());

    client.post("/v1/secrets", json!({ "E2B": "s3cr3t value" })).await.expect(204);
    client.call("PUT", "/v1/providers/e2b", Some(&json!({ "credentialRef": "e2b" }))).await.expect(200);
    let answer = client.get("/v1/providers").await;
    assert!(!answer.text.contains("s3cr3t"));
    let listed = answer.expect(200);
    let rows = listed["data"].as_array().unwrap();
    assert_eq!((&listed["hasMore"], rows.len()), (&json!(false), 2));
    let fields = |row: &Value| row.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!((&rows[0]["provider"], &rows[0]["source"]), (&json!("docker"), &json!("deployment")));
    assert_eq!(fields(&rows[0]), ["health", "provider", "source"]);
    assert_eq!(rows[0]["health"]["healthy"], true, "{listed}");
    assert_eq!((&rows[1]["provider"], &rows[1]["credentialRef"]), (&json!("e2b"), &json!("E2B")));
    let own = ["config", "credentialRef", "health", "limits", "priority", "provider", "source", "updatedAt"];
    assert_eq!(fields(&rows[1]), own);
    assert_eq!(rows[1]["config"], json!({ "template": "base" }));
}
