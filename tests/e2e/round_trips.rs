//! Sequential round trips to AWS services, which is what a caller waits for. The local stack counts them.

use crate::harness::Platform;
use serde_json::json;

#[tokio::test]
async fn a_read_answers_after_one_round_trip_and_a_write_after_two() {
    let platform = Platform::make("round trips").await;
    let client = &platform.client;
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "A": "1" })).await;
    client.post("/v1/secrets", json!({ "B": "1" })).await.expect(204);
    let agent = client.boot(&session, json!({})).await;

    for (method, path, body, expected) in [
        ("GET", "/health".to_owned(), None, 0),
        ("GET", "/v1/whoami".to_owned(), None, 1),
        ("GET", "/v1/sessions".to_owned(), None, 1),
        ("GET", format!("/v1/sessions/{session}"), None, 1),
        ("GET", format!("/v1/sessions/{session}/limits"), None, 1),
        // What an agent that runs books meanwhile is counted once, which takes a second look.
        ("GET", format!("/v1/sessions/{session}/usage"), None, 2),
        ("GET", format!("/v1/sessions/{session}/secrets"), None, 1),
        ("GET", format!("/v1/sessions/{session}/secrets?details=true&inherited=true"), None, 1),
        ("GET", "/v1/secrets?details=true".to_owned(), None, 1),
        ("GET", format!("/v1/sessions/{session}/agents"), None, 1),
        ("GET", "/v1/agents".to_owned(), None, 1),
        ("GET", format!("/v1/agents/{agent}"), None, 1),
        ("GET", format!("/v1/agents/{agent}/status"), None, 1),
        ("GET", format!("/v1/agents/{agent}/files?dir=/data"), None, 1),
        ("GET", "/v1/providers".to_owned(), None, 1),
        ("GET", "/v1/logs".to_owned(), None, 1),
        ("GET", format!("/v1/logs?sessionId={session}&agentId={agent}"), None, 1),
        // To find the agent's session takes one more.
        ("GET", format!("/v1/logs?agentId={agent}"), None, 2),
        ("POST", format!("/v1/agents/{agent}/exec"), Some(json!({ "language": "bash", "code": ":" })), 1),
        ("POST", format!("/v1/agents/{agent}/files"), Some(json!({ "path": "/data/a", "data": "" })), 1),
        ("POST", "/v1/sessions".to_owned(), Some(json!({})), 2),
        ("POST", "/v1/sessions/by-user/u".to_owned(), None, 2),
        ("POST", "/v1/sessions/by-user/new".to_owned(), None, 2),
        ("POST", format!("/v1/sessions/{session}/secrets"), Some(json!({ "A": "2", "C": "3" })), 2),
        ("POST", "/v1/secrets".to_owned(), Some(json!({ "B": "2" })), 2),
        ("DELETE", format!("/v1/sessions/{session}/secrets/A"), None, 2),
        ("DELETE", "/v1/secrets/B".to_owned(), None, 2),
        ("PATCH", format!("/v1/sessions/{session}/limits"), Some(json!({ "maxAgents": 5 })), 2),
        ("PATCH", format!("/v1/sessions/{session}/limits"), Some(json!({})), 2),
        ("GET", "/v1/sessions?status=active&userId=u".to_owned(), None, 1),
        ("GET", "/v1/agents?status=ready&compute=python".to_owned(), None, 1),
        ("GET", format!("/v1/agents/{agent}/files/data/a"), None, 1),
        // To find the user's session takes one more.
        ("POST", "/v1/sessions/by-user/u".to_owned(), Some(json!({ "metadata": { "a": "b" } })), 3),
    ] {
        let answer = client.call(method, &path, body.as_ref()).await;
        assert!(answer.status < 300, "{answer:?}");
        assert_eq!(answer.round_trips(), expected, "{method} {path}");
    }
    // What is refused writes nothing.
    for (method, path, body, status, expected) in [
        ("POST", format!("/v1/sessions/{session}/secrets"), Some(json!({ "PATH": "x" })), 422, 1),
        ("POST", format!("/v1/sessions/{session}/agents"), Some(json!({ "gpu": true })), 422, 1),
        ("DELETE", format!("/v1/sessions/{session}/secrets/ABSENT"), None, 404, 1),
        ("GET", "/v1/agents/x".to_owned(), None, 404, 1),
        ("GET", "/v1/nothing".to_owned(), None, 404, 0),
    ] {
        let answer = client.call(method, &path, body.as_ref()).await;
        assert_eq!((answer.status, answer.round_trips()), (status, expected), "{method} {path}");
    }
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_credential_that_cannot_be_good_costs_no_round_trip_and_an_unknown_one_costs_one() {
    let platform = Platform::make("round trips refused").await;
    let unknown = theazo_tenancy::make_api_key(&platform.id, theazo_tenancy::Mode::Live);
    for (key, expected) in [(None, 0), (Some("nonsense"), 0), (Some(unknown.text.as_str()), 1)] {
        for path in ["/v1/whoami", "/v1/sessions", "/v1/secrets?details=true", "/v1/agents/x"] {
            let answer = platform.client.with_key(key).get(path).await;
            assert_eq!((answer.status, answer.round_trips()), (401, expected), "{path}");
        }
    }
}
