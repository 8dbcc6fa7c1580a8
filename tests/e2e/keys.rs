//! API keys and sessions' tokens over HTTP.

use crate::harness::Platform;
use serde_json::{Value, json};
use std::time::Duration;
use theazo_http::{format_time, parse_time_ms};
use theazo_store::now_ms;

/// The time that a field holds, Unix milliseconds.
fn time(of: &Value) -> i64 {
    parse_time_ms(of.as_str().unwrap_or_default()).unwrap_or_else(|| panic!("{of} is no time"))
}

#[tokio::test]
async fn a_key_is_shown_once_works_at_once_and_not_a_moment_after_it_is_revoked() {
    let platform = Platform::make("keys").await;
    let client = &platform.client;
    let made = client.post("/v1/api-keys", json!({ "name": "ci", "environment": "live" })).await.expect(201);
    let key = made["key"].as_str().unwrap();
    assert_eq!(made["prefix"], key[..12]);
    assert_eq!(
        (&made["name"], &made["environment"], &made["lastUsedAt"]),
        (&json!("ci"), &json!("live"), &Value::Null)
    );
    let id = made["id"].as_str().unwrap();

    let listed = client.get("/v1/api-keys").await;
    assert!(!listed.text.contains(key), "a key is shown again");
    let listed = listed.expect(200);
    let unused = listed["data"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap().clone();
    assert_eq!(unused["lastUsedAt"], Value::Null);
    let holder = client.with_key(Some(key));
    for pause_ms in [0, 1_100] {
        tokio::time::sleep(Duration::from_millis(pause_ms)).await;
        let began = now_ms();
        assert_eq!(holder.get("/v1/whoami").await.expect(200)["keyId"], id);
        let ended = now_ms();
        let listed = client.get("/v1/api-keys").await.expect(200);
        let used = listed["data"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap().clone();
        // Told to the second.
        let at = time(&used["lastUsedAt"]);
        assert!(at > began - 1000 && at <= ended && at % 1000 == 0, "{used}, {began} to {ended}");
    }

    client.delete(&format!("/v1/api-keys/{id}")).await.expect(204);
    holder.get("/v1/whoami").await.expect_error(401, "unauthorized");
    client.delete(&format!("/v1/api-keys/{id}")).await.expect_error(404, "not_found");
    for (body, field) in [
        (json!({ "environment": "live" }), "name"),
        (json!({ "name": "", "environment": "live" }), "name"),
        (json!({ "name": "x" }), "environment"),
        (json!({ "name": "x", "environment": "prod" }), "environment"),
        (json!({ "name": "x", "environment": "live", "expiresAt": "2001-01-01T00:00:00Z" }), "expiresAt"),
        (json!({ "name": "x", "environment": "live", "expiresAt": "soon" }), "expiresAt"),
    ] {
        let refused = client.post("/v1/api-keys", body).await.expect_error(400, "invalid_request");
        assert_eq!(refused["details"]["field"], field);
    }
}

#[tokio::test]
async fn the_last_live_key_stays_unless_that_is_forced() {
    let platform = Platform::make("last key").await;
    let client = &platform.client;
    let listed = client.get("/v1/api-keys").await.expect(200);
    let id_of = |environment: &str| {
        let rows = listed["data"].as_array().unwrap();
        rows.iter().find(|row| row["environment"] == environment).unwrap()["id"].as_str().unwrap().to_owned()
    };
    client.delete(&format!("/v1/api-keys/{}", id_of("test"))).await.expect(204);
    let live = format!("/v1/api-keys/{}", id_of("live"));
    client.delete(&live).await.expect_error(409, "conflict");
    // One that is about to end by itself is no other; one that lasts is, and so is the first while that one is there.
    let ends = |seconds: i64| format_time(now_ms() + seconds * 1000);
    let make = async |expires: String| {
        let new = json!({ "name": "other", "environment": "live", "expiresAt": expires });
        client.post("/v1/api-keys", new).await.expect(201)["id"].as_str().unwrap().to_owned()
    };
    make(ends(3_500)).await;
    client.delete(&live).await.expect_error(409, "conflict");
    let lasting = make(ends(3_700)).await;
    client.delete(&format!("/v1/api-keys/{lasting}")).await.expect(204);
    client.delete(&live).await.expect_error(409, "conflict");
    client.delete(&format!("{live}?force=maybe")).await.expect_error(400, "invalid_request");
    client.get("/v1/whoami").await.expect(200);
    client.delete(&format!("{live}?force=true")).await.expect(204);
    client.get("/v1/whoami").await.expect_error(401, "unauthorized");
}

#[tokio::test]
async fn a_rotated_key_ends_after_the_overlap_and_its_successor_goes_on() {
    let platform = Platform::make("rotation").await;
    let client = &platform.client;
    let made = client.post("/v1/api-keys", json!({ "name": "app", "environment": "live" })).await.expect(201);
    let old = client.with_key(made["key"].as_str());
    let path = format!("/v1/api-keys/{}/rotate", made["id"].as_str().unwrap());
    client.post(&path, json!({ "overlap": "40d" })).await.expect_error(400, "invalid_request");
    let next = client.post(&path, json!({ "overlap": "2s" })).await.expect(201);
    assert_eq!((&next["name"], &next["expiresAt"]), (&json!("app"), &Value::Null));
    let new = client.with_key(next["key"].as_str());
    old.get("/v1/whoami").await.expect(200);
    new.get("/v1/whoami").await.expect(200);
    client.post(&path, json!({})).await.expect_error(409, "conflict");
    tokio::time::sleep(Duration::from_millis(2100)).await;
    old.get("/v1/whoami").await.expect_error(401, "unauthorized");
    new.get("/v1/whoami").await.expect(200);
    client.post(&path, json!({})).await.expect_error(404, "not_found");
}

#[tokio::test]
async fn a_rotated_key_ends_after_a_day_unless_said_otherwise() {
    let client = Platform::make("overlap").await.client;
    let made = client.post("/v1/api-keys", json!({ "name": "app", "environment": "live" })).await.expect(201);
    let (id, began) = (made["id"].as_str().unwrap(), now_ms());
    client.post(&format!("/v1/api-keys/{id}/rotate"), json!({})).await.expect(201);
    let rows = client.get("/v1/api-keys").await.expect(200);
    let old = rows["data"].as_array().unwrap().iter().find(|row| row["id"] == id).unwrap().clone();
    let (day, ends) = (24 * 3_600_000, time(&old["expiresAt"]));
    assert!((began + day..=now_ms() + day).contains(&ends), "{old}");
}

#[tokio::test]
async fn a_sessions_token_does_what_it_was_minted_for_in_its_session() {
    let platform = Platform::make("tokens").await;
    let client = &platform.client;
    let (session, other) = (client.session("u").await, client.session("another").await);
    client.set_secrets(&session, json!({ "TOKEN": "a value" })).await;
    let tokens = format!("/v1/sessions/{session}/tokens");
    let began = now_ms();
    let minted = client.post(&tokens, json!({})).await.expect(201);
    let (quarter, ends) = (15 * 60_000, time(&minted["expiresAt"]));
    assert!((began + quarter..=now_ms() + quarter).contains(&ends), "{}", minted["expiresAt"]);
    let user = client.with_key(minted["token"].as_str());
    assert!(minted["token"].as_str().unwrap().starts_with("th_sess_"));
    let who = user.get("/v1/whoami").await.expect(200);
    assert_eq!((&who["kind"], &who["sessionId"]), (&json!("session"), &json!(session)));
    assert_eq!(who["expiresAt"], minted["expiresAt"]);

    let agent = user.boot(&session, json!({})).await;
    assert_eq!(user.run(&agent, "bash", "echo ${#TOKEN}").await, "7\n");
    assert_eq!(user.get(&format!("/v1/sessions/{session}/secrets")).await.expect(200), json!(["TOKEN"]));
    user.post(&format!("/v1/sessions/{other}/agents"), json!({})).await.expect_error(404, "not_found");
    user.post(&format!("/v1/sessions/{session}/secrets"), json!({ "A": "b" })).await.expect_error(403, "forbidden");

    let read = client.post(&tokens, json!({ "permissions": ["read"], "expiresIn": "2s" })).await.expect(201);
    let reader = client.with_key(read["token"].as_str());
    reader.get(&format!("/v1/agents/{agent}")).await.expect(200);
    let exec = json!({ "language": "bash", "code": "true" });
    reader.post(&format!("/v1/agents/{agent}/exec"), exec).await.expect_error(403, "forbidden");
    for (body, field) in [
        (json!({ "expiresIn": "25h" }), "expiresIn"),
        (json!({ "permissions": [] }), "permissions"),
        (json!({ "permissions": ["write"] }), "permissions"),
    ] {
        let refused = client.post(&tokens, body).await.expect_error(400, "invalid_request");
        assert_eq!(refused["details"]["field"], field);
    }
    tokio::time::sleep(Duration::from_millis(2100)).await;
    reader.get(&format!("/v1/agents/{agent}")).await.expect_error(401, "unauthorized");

    client.terminate(&session).await;
    user.get(&format!("/v1/agents/{agent}")).await.expect_error(401, "unauthorized");
    client.post(&tokens, json!({})).await.expect_error(409, "conflict");
}

#[tokio::test]
async fn revoking_a_sessions_tokens_ends_all_of_them_and_no_others() {
    let platform = Platform::make("revoked tokens").await;
    let client = &platform.client;
    let (session, other) = (client.session("u").await, client.session("another").await);
    let mut users = Vec::new();
    for id in [&session, &session, &other] {
        let minted = client.post(&format!("/v1/sessions/{id}/tokens"), json!({})).await.expect(201);
        users.push(client.with_key(minted["token"].as_str()));
    }
    client.delete(&format!("/v1/sessions/{session}/tokens")).await.expect(204);
    for user in &users[..2] {
        user.get("/v1/whoami").await.expect_error(401, "unauthorized");
    }
    users[2].get("/v1/whoami").await.expect(200);
    let minted = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    client.with_key(minted["token"].as_str()).get("/v1/whoami").await.expect(200);
    client.delete("/v1/sessions/ses_00000000000000000000000000/tokens").await.expect_error(404, "not_found");
}
