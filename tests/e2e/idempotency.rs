//! Requests that are done once, however often they are sent.

use crate::harness::Platform;
use futures_util::future::join_all;
use serde_json::json;

#[tokio::test]
async fn the_same_request_is_answered_again_and_done_once() {
    let platform = Platform::make("once").await;
    let client = &platform.client;
    let body = json!({ "userId": "u", "metadata": { "k": "v" } });
    let first = client.post_once("/v1/sessions", body.clone(), "key-1").await;
    let again = client.post_once("/v1/sessions", body.clone(), "key-1").await;
    assert_eq!((again.status, again.json()), (201, first.json()));
    let other = client.post_once("/v1/sessions", json!({ "userId": "x" }), "key-1").await;
    other.expect_error(409, "conflict");
    assert_eq!(client.get("/v1/sessions").await.expect(200)["data"].as_array().unwrap().len(), 1);

    let session = first.expect(201)["id"].as_str().unwrap().to_owned();
    let agents = format!("/v1/sessions/{session}/agents");
    let agent = client.post_once(&agents, json!({}), "key-2").await.expect(201);
    assert_eq!(client.post_once(&agents, json!({}), "key-2").await.expect(201), agent);
    assert_eq!(client.get(&agents).await.expect(200)["data"].as_array().unwrap().len(), 1);
    client.terminate(&session).await;
}

#[tokio::test]
async fn an_answer_that_is_given_again_shows_no_key_and_no_token() {
    let platform = Platform::make("once shown").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let new = json!({ "name": "n", "environment": "test" });
    for (path, body, shown) in
        [("/v1/api-keys".to_owned(), new, "key"), (format!("/v1/sessions/{session}/tokens"), json!({}), "token")]
    {
        let first = client.post_once(&path, body.clone(), shown).await;
        let mut expected = first.json();
        let text = expected[shown].as_str().unwrap().to_owned();
        expected.as_object_mut().unwrap().remove(shown);
        let again = client.post_once(&path, body.clone(), shown).await;
        assert!(!again.text.contains(&text));
        assert_eq!((again.status, again.json()), (201, expected));
        let another = client.post_once(&path, body, &format!("another {shown}").replace(' ', "-")).await;
        assert!(another.expect(201)[shown].is_string(), "another key is another request");
    }
}

#[tokio::test]
async fn of_concurrent_requests_under_one_key_one_is_done() {
    let platform = Platform::make("once at a time").await;
    let client = &platform.client;
    let calls = (0..20).map(|_| client.post_once("/v1/sessions", json!({}), "race"));
    let answers = join_all(calls).await;
    let made = answers.iter().filter(|answer| answer.status == 201).count();
    assert!(made >= 1 && answers.iter().all(|answer| [201, 409].contains(&answer.status)));
    assert_eq!(client.get("/v1/sessions").await.expect(200)["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn a_refused_request_leaves_no_note_and_a_bad_key_is_refused_by_name() {
    let platform = Platform::make("once refused").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let secrets = format!("/v1/sessions/{session}/secrets");
    client.post_once(&secrets, json!({ "PATH": "x" }), "k").await.expect_error(422, "unprocessable_entity");
    client.post_once(&secrets, json!({ "NAME": "x" }), "k").await.expect(204);
    client.set_secrets(&session, json!({ "NAME": "newer" })).await;
    client.post_once(&secrets, json!({ "NAME": "x" }), "k").await.expect(204);
    let details = client.get(&format!("{secrets}?details=true")).await.expect(200);
    assert_eq!(details[0]["version"], 2, "the first request is not done again");
    let long = "k".repeat(256);
    for key in ["", "two words", long.as_str()] {
        let refused = client.post_once("/v1/sessions", json!({}), key).await.expect_error(400, "invalid_request");
        assert_eq!(refused["details"]["field"], "idempotency-key");
    }
    let absent = "/v1/agents/agt_00000000000000000000000000/exec";
    let refused = client.post_once(absent, json!({ "language": "bash", "code": "true" }), "k").await;
    assert_eq!(refused.expect_error(422, "unprocessable_entity")["details"]["feature"], "idempotency-key");
}
