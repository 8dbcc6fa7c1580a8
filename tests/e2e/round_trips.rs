//! Sequential round trips to AWS services, which is what a caller waits for. The local stack counts them.

use crate::harness::{Answer, Platform};
use serde_json::json;

fn trips(answer: &Answer) -> u32 {
    assert!(answer.status < 300, "{answer:?}");
    answer.headers["x-theazo-round-trips"].parse().unwrap()
}

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
        ("GET", format!("/v1/sessions/{session}/usage"), None, 1),
        ("GET", format!("/v1/sessions/{session}/secrets"), None, 1),
        ("GET", format!("/v1/sessions/{session}/secrets?details=true&inherited=true"), None, 1),
        ("GET", "/v1/secrets?details=true".to_owned(), None, 1),
        ("GET", format!("/v1/sessions/{session}/agents"), None, 1),
        ("GET", "/v1/agents".to_owned(), None, 1),
        ("GET", format!("/v1/agents/{agent}"), None, 1),
        ("GET", format!("/v1/agents/{agent}/status"), None, 1),
        ("GET", format!("/v1/agents/{agent}/files?dir=/data"), None, 1),
        ("GET", "/v1/providers".to_owned(), None, 1),
        ("POST", format!("/v1/agents/{agent}/exec"), Some(json!({ "language": "bash", "code": ":" })), 1),
        ("POST", format!("/v1/agents/{agent}/files"), Some(json!({ "path": "/data/a", "data": "" })), 1),
        ("POST", "/v1/sessions".to_owned(), Some(json!({})), 2),
        ("POST", "/v1/sessions/by-user/u".to_owned(), None, 2),
        ("POST", "/v1/sessions/by-user/new".to_owned(), None, 2),
        ("POST", format!("/v1/sessions/{session}/secrets"), Some(json!({ "A": "2", "C": "3" })), 2),
        ("POST", "/v1/secrets".to_owned(), Some(json!({ "B": "2" })), 2),
        ("DELETE", format!("/v1/sessions/{session}/secrets/A"), None, 2),
        ("DELETE", "/v1/secrets/B".to_owned(), None, 2),
    ] {
        let answer = client.call(method, &path, body.as_ref()).await;
        assert_eq!(trips(&answer), expected, "{method} {path}");
    }
    client.terminate(&session).await;
}
