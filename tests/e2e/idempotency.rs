//! Requests that are done once, however often they are sent.

use crate::harness::{Platform, dynamodb, sha256, stack};
use futures_util::future::join_all;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use theazo_functions::routes::ROUTES;
use theazo_http::Repeats;

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

#[tokio::test]
async fn a_rotation_that_is_answered_again_shows_no_key_and_a_successor_starts_anew() {
    let platform = Platform::make("once rotated").await;
    let client = &platform.client;
    let made = client.post("/v1/api-keys", json!({ "name": "app", "environment": "live" })).await.expect(201);
    let path = format!("/v1/api-keys/{}/rotate", made["id"].as_str().unwrap());
    let holder = client.with_key(made["key"].as_str());
    let first = holder.post_once(&path, json!({}), "rotate").await;
    let shown = first.json()["key"].as_str().unwrap().to_owned();
    let again = holder.post_once(&path, json!({}), "rotate").await;
    assert!(!again.text.contains(&shown));
    let mut expected = first.json();
    expected.as_object_mut().unwrap().remove("key");
    assert_eq!((again.status, again.json()), (201, expected));
    // The notes are the old key's; to its successor the request is a new one, which finds the key rotated.
    let successor = client.with_key(Some(&shown));
    successor.post_once(&path, json!({}), "rotate").await.expect_error(409, "conflict");
    let session = holder.post_once("/v1/sessions", json!({}), "session").await.expect(201);
    assert_ne!(successor.post_once("/v1/sessions", json!({}), "session").await.expect(201), session);
}

#[tokio::test]
async fn what_was_answered_is_answered_again_whatever_has_become_of_the_session() {
    let platform = Platform::make("once over").await;
    let client = &platform.client;
    let first = client.post_once("/v1/sessions/by-user/u", json!({ "metadata": { "a": "b" } }), "by-user").await;
    let session = first.json()["id"].as_str().unwrap().to_owned();
    let secrets = format!("/v1/sessions/{session}/secrets");
    let tokens = format!("/v1/sessions/{session}/tokens");
    client.post_once(&secrets, json!({ "A": "1" }), "set").await.expect(204);
    client.post_once(&tokens, json!({}), "mint").await.expect(201);
    client.terminate(&session).await;
    client.post_once(&secrets, json!({ "A": "1" }), "set").await.expect(204);
    client.post_once(&secrets, json!({ "A": "1" }), "another").await.expect_error(409, "conflict");
    client.post_once(&tokens, json!({}), "mint").await.expect(201);
    let again = client.post_once("/v1/sessions/by-user/u", json!({ "metadata": { "a": "b" } }), "by-user").await;
    assert_eq!(again.json(), first.json());
    let other = client.post_once("/v1/sessions/by-user/u", json!({}), "by-user").await;
    other.expect_error(409, "conflict");
}

#[tokio::test]
async fn an_answer_with_the_largest_instructions_is_given_again_whole() {
    let platform = Platform::make("once large").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agents = format!("/v1/sessions/{session}/agents");
    // Each of these characters takes six in JSON.
    let body = json!({ "instructions": "\u{1}".repeat(64 * 1024), "tools": ["x".repeat(60 * 1024)] });
    let first = client.post_once(&agents, body.clone(), "large").await;
    assert!(first.text.len() > 400 * 1024);
    let again = client.post_once(&agents, body, "large").await;
    assert_eq!((again.status, again.json()), (201, first.expect(201)));
    assert_eq!(client.get(&agents).await.expect(200)["data"].as_array().unwrap().len(), 1);
}

/// The note of a request in the table.
async fn note_row(platform: &Platform, credential: &str, key: &str) -> Value {
    let mut place = Sha256::new();
    for part in [credential, key] {
        place.update((part.len() as u64).to_be_bytes());
        place.update(part);
    }
    let sk = format!("once#{}", hex::encode(place.finalize()));
    let key = json!({ "pk": { "S": format!("{}#live#replays", platform.id) }, "sk": { "S": sk } });
    dynamodb(&stack().dynamodb_url(), "GetItem", json!({ "TableName": "theazo", "Key": key })).await["Item"].clone()
}

#[tokio::test]
async fn a_request_cut_off_by_a_crash_is_not_done_a_second_time() {
    let platform = Platform::make("once crashed").await;
    let client = &platform.client;
    client.post_once("/v1/sessions", json!({}), "crash").await.expect(201);
    let mut row = note_row(&platform, &platform.live_key, "crash").await;
    let columns = row.as_object_mut().unwrap();
    assert!(columns.remove("status").is_some() && columns.remove("body").is_some());
    dynamodb(&stack().dynamodb_url(), "PutItem", json!({ "TableName": "theazo", "Item": row })).await;
    let again = client.post_once("/v1/sessions", json!({}), "crash").await.expect_error(409, "conflict");
    assert_eq!(again["details"]["field"], "idempotency-key");
    assert_eq!(client.get("/v1/sessions").await.expect(200)["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn the_note_of_a_request_is_no_oracle_for_a_secrets_value() {
    let platform = Platform::make("once oracle").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let path = format!("/v1/sessions/{session}/secrets");
    let body = json!({ "PIN": "4711" });
    client.post_once(&path, body.clone(), "set").await.expect(204);
    let note = note_row(&platform, &platform.live_key, "set").await;
    let digest = note["digest"]["S"].as_str().unwrap();

    // Whoever reads the table knows all of it, and guesses right.
    let hash = sha256(&platform.live_key);
    let credential = json!({ "pk": { "S": format!("credential#{hash}") }, "sk": { "S": "credential" } });
    let get = json!({ "TableName": "theazo", "Key": credential });
    let row = dynamodb(&stack().dynamodb_url(), "GetItem", get).await["Item"].clone();
    let guess = |key: &[u8]| {
        let mut digest = Hmac::<Sha256>::new_from_slice(key).unwrap();
        for part in ["secrets-set", &path, &body.to_string()] {
            digest.update(&(part.len() as u64).to_be_bytes());
            digest.update(part.as_bytes());
        }
        hex::encode(digest.finalize().into_bytes())
    };
    let mut known: Vec<Vec<u8>> = vec![Vec::new(), platform.id.to_string().into_bytes(), session.clone().into_bytes()];
    for value in row.as_object().unwrap().values().chain(note.as_object().unwrap().values()) {
        let text = value["S"].as_str().or(value["N"].as_str()).unwrap_or_default();
        known.push(text.as_bytes().to_vec());
        known.extend(hex::decode(text));
    }
    assert!(known.len() > 20);
    for key in &known {
        assert_ne!(guess(key), digest, "a guess can be verified with what the table holds");
    }
    // Who holds the credential can; else the guesses above would be of something that is not noted at all.
    let key = hex::decode(sha256(&format!("theazo/idempotency/v1/digest{}", platform.live_key))).unwrap();
    assert_eq!(guess(&key), digest, "only the credential itself verifies it");
    assert!(!note.to_string().contains("4711"));

    // Another key of the same platform, and one of another, learn nothing of the note either.
    let spare = client.post("/v1/api-keys", json!({ "name": "spare", "environment": "live" })).await.expect(201);
    let spare = client.with_key(spare["key"].as_str());
    spare.post_once(&path, json!({ "PIN": "0000" }), "set").await.expect(204);
}

#[tokio::test]
async fn every_route_that_creates_is_done_once_under_a_key_and_none_that_may_not_takes_one() {
    let platform = Platform::make("once everywhere").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let key =
        client.post("/v1/api-keys", json!({ "name": "k", "environment": "test" })).await.expect(201)["id"].clone();
    let mut once = BTreeSet::new();
    for (number, route) in ROUTES.iter().filter(|route| route.info.method == "POST").enumerate() {
        let (name, pattern) = (route.info.name, route.info.pattern.0);
        if route.info.has_credential_in_path() {
            continue;
        }
        let id = match pattern.split('/').nth(2) {
            Some("agents") => agent.as_str(),
            Some("api-keys") => key.as_str().unwrap(),
            _ => session.as_str(),
        };
        let path = pattern.replace("{id}", id).replace("{userId}", "somebody");
        let (body, other) = match name {
            "api-keys-create" => {
                (json!({ "name": "n", "environment": "test" }), json!({ "name": "o", "environment": "test" }))
            }
            "secrets-set" | "platform-secrets-set" => (json!({ "A": "1" }), json!({ "A": "2" })),
            "api-keys-rotate" => (json!({ "overlap": "1h" }), json!({ "overlap": "2h" })),
            "sessions-tokens-create" => (json!({ "expiresIn": "1h" }), json!({ "expiresIn": "2h" })),
            _ => (json!({ "metadata": { "k": "v" } }), json!({ "metadata": { "k": "other" } })),
        };
        match route.info.repeats {
            Repeats::Once => {
                once.insert(name);
                let key = format!("once-{number}");
                let first = client.post_once(&path, body.clone(), &key).await;
                assert!((200..300).contains(&first.status), "{name}: {first:?}");
                let again = client.post_once(&path, body, &key).await;
                let without_credential = |text: &str| {
                    let mut answer: Value = serde_json::from_str(text).unwrap_or(Value::Null);
                    if let Some(fields) = answer.as_object_mut() {
                        fields.remove("key");
                        fields.remove("token");
                    }
                    answer
                };
                assert_eq!(again.status, first.status, "{name}: {again:?}");
                assert_eq!(without_credential(&again.text), without_credential(&first.text), "{name}");
                if let Ok(Value::Object(made)) = serde_json::from_str(&first.text) {
                    let shown = ["key", "token"].into_iter().filter_map(|field| made.get(field)?.as_str());
                    shown.for_each(|text| assert!(!again.text.contains(text), "{name} shows a credential again"));
                }
                let refused = client.post_once(&path, other, &key).await;
                assert_eq!(refused.status, 409, "{name}: {refused:?}");
            }
            Repeats::Again => {
                let refused = client.post_once(&path, body, "not-here").await.expect_error(422, "unprocessable_entity");
                assert_eq!(refused["details"]["feature"], "idempotency-key", "{name}");
            }
            Repeats::Harmless => {}
        }
    }
    // Whatever makes something.
    let making = [
        "agents-checkpoints-create",
        "agents-create",
        "api-keys-create",
        "api-keys-rotate",
        "platform-secrets-set",
        "secrets-set",
        "sessions-by-user",
        "sessions-create",
        "sessions-tokens-create",
    ];
    assert_eq!(once, making.into());
    let versions = client.get(&format!("/v1/sessions/{session}/secrets?details=true")).await.expect(200);
    assert_eq!(versions[0]["version"], 1, "it was set once");
    client.terminate(&session).await;
}
