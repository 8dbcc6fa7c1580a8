//! Secrets, by the contract. What an agent sees of them is in `main_job`.

use crate::harness::{Platform, make_canary, sha256};
use futures_util::future::join_all;
use serde_json::{Map, Value, json};
use std::time::Duration;

#[tokio::test]
async fn a_bad_entry_refuses_the_whole_call_and_is_named() {
    let platform = Platform::make("secret names").await;
    let client = &platform.client;
    let session = client.session("u").await;
    for (path, listed) in [
        (format!("/v1/sessions/{session}/secrets"), format!("/v1/sessions/{session}/secrets")),
        ("/v1/secrets".to_owned(), "/v1/secrets".to_owned()),
    ] {
        for name in
            ["PATH", "home", "Ld_Preload", "NODE_OPTIONS", "THEAZO_X", "GIT_SSH_COMMAND", "BASH_ENV", "1A", "A-B", ""]
        {
            let refused = client.post(&path, json!({ "GOOD": "x", name: "y" })).await;
            assert_eq!(refused.expect_error(422, "unprocessable_entity")["details"]["field"], name);
        }
        for (value, what) in [
            (json!(""), "empty"),
            (json!("a\0b"), "NUL"),
            (json!("x".repeat(32 * 1024 + 1)), "large"),
            (json!(5), "number"),
            (json!({ "mask": true }), "no value"),
        ] {
            let refused = client.post(&path, json!({ "GOOD": "x", "BAD": value })).await;
            assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], "BAD", "{what}");
        }
        assert_eq!(client.get(&listed).await.expect(200), json!([]));
        client.post(&path, json!({ "MAX": "x".repeat(32 * 1024), "MIN": "x" })).await.expect(204);
        assert_eq!(client.get(&listed).await.expect(200), json!(["MAX", "MIN"]));
    }
}

#[tokio::test]
async fn a_scope_holds_a_hundred_names_and_256_kib() {
    let platform = Platform::make("scope limits").await;
    let client = &platform.client;
    let secrets = format!("/v1/sessions/{}/secrets", client.session("u").await);
    let names = |from: usize, to: usize| -> Value {
        (from..to).map(|index| (format!("N{index:03}"), json!("v"))).collect::<Map<_, _>>().into()
    };
    client.post(&secrets, names(0, 91)).await.expect_error(400, "invalid_request");
    client.post(&secrets, names(0, 90)).await.expect(204);
    client.post(&secrets, names(90, 100)).await.expect(204);
    client.post(&secrets, names(100, 101)).await.expect_error(422, "unprocessable_entity");
    client.post(&secrets, names(50, 60)).await.expect(204);
    assert_eq!(client.get(&secrets).await.expect(200).as_array().unwrap().len(), 100);

    let secrets = format!("/v1/sessions/{}/secrets", client.session("large").await);
    let large = |from: usize, to: usize| -> Value {
        let value = json!("x".repeat(32 * 1024));
        (from..to).map(|index| (format!("L{index}"), value.clone())).collect::<Map<_, _>>().into()
    };
    client.post(&secrets, large(0, 8)).await.expect(204);
    client.post(&secrets, json!({ "ONE_MORE": "x" })).await.expect_error(422, "unprocessable_entity");
    client.post(&secrets, json!({ "L0": "x", "ONE_MORE": "x" })).await.expect(204);
}

#[tokio::test]
async fn names_do_not_differ_by_case_and_show_as_last_written() {
    let platform = Platform::make("case").await;
    let client = &platform.client;
    let secrets = format!("/v1/sessions/{}/secrets", client.session("u").await);
    client.post(&secrets, json!({ "api_key": "one" })).await.expect(204);
    client.post(&secrets, json!({ "Api_Key": "two", "zeta": "x", "Alpha": "x" })).await.expect(204);
    assert_eq!(client.get(&secrets).await.expect(200), json!(["Alpha", "Api_Key", "zeta"]));
    client.post(&secrets, json!({ "x": "1", "X": "2" })).await.expect_error(400, "invalid_request");
    client.delete(&format!("{secrets}/API_KEY")).await.expect(204);
    client.delete(&format!("{secrets}/api_key")).await.expect_error(404, "not_found");
    client.delete(&format!("{secrets}/PATH")).await.expect_error(404, "not_found");
    client.delete(&format!("{secrets}/a%2Fb")).await.expect_error(404, "not_found");
    assert_eq!(client.get(&secrets).await.expect(200), json!(["Alpha", "zeta"]));
}

#[tokio::test]
async fn details_tell_everything_but_the_value() {
    let platform = Platform::make("details").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let secrets = format!("/v1/sessions/{session}/secrets");
    let canary = make_canary("details");
    client
        .post("/v1/secrets", json!({ "SHARED": canary, "HIDDEN": { "value": canary, "inherit": false } }))
        .await
        .expect(204);
    let expiry = json!({ "value": canary, "expiresAt": "2999-01-01T00:00:00Z", "mask": false });
    client.post(&secrets, json!({ "first": canary, "second": expiry })).await.expect(204);
    client.post(&secrets, json!({ "first": canary })).await.expect(204);
    let answer = client.get(&format!("{secrets}?details=true&inherited=true")).await;
    assert!(!answer.text.contains(&canary));
    let details = answer.expect(200);
    let rows = details.as_array().unwrap();
    let shape: Vec<_> =
        rows.iter().map(|row| (row["name"].clone(), row["version"].clone(), row["scope"].clone())).collect();
    assert_eq!(json!(shape), json!([["first", 2, "session"], ["second", 1, "session"], ["SHARED", 1, "platform"]]));
    assert_eq!((&rows[1]["expiresAt"], &rows[1]["expired"]), (&json!("2999-01-01T00:00:00.000Z"), &json!(false)));
    assert_eq!((&rows[0]["expiresAt"], &rows[0]["retainedBy"]), (&json!(null), &json!([])));
    assert!(rows[0]["updatedAt"].as_str() >= rows[0]["createdAt"].as_str());

    // A name that comes back after a deletion never repeats a version.
    client.delete(&format!("{secrets}/first")).await.expect(204);
    client.post(&secrets, json!({ "first": "again" })).await.expect(204);
    let again = client.get(&format!("{secrets}?details=true")).await.expect(200);
    assert_eq!((&again[0]["name"], &again[0]["version"]), (&json!("first"), &json!(3)));
    client.get(&format!("{secrets}?details=yes")).await.expect_error(400, "invalid_request");
}

#[tokio::test]
async fn an_expired_secret_is_not_delivered() {
    let platform = Platform::make("expiry").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let secrets = format!("/v1/sessions/{session}/secrets");
    let soon = theazo_http::format_time(theazo_store::now_ms() + 2_000);
    client.post(&secrets, json!({ "SHORT": { "value": "x", "expiresAt": soon }, "LONG": "y" })).await.expect(204);
    let details = format!("{secrets}?details=true");
    let mut expired = false;
    for _ in 0..100 {
        expired = client.get(&details).await.expect(200)[1]["expired"] == true;
        if expired {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(expired);
    let agent = client.boot(&session, json!({})).await;
    let seen = client.environment(&agent).await;
    assert!(!seen.contains_key("SHORT"));
    assert_eq!(seen["LONG"].1, sha256("y"));
    let selected = client.post(&format!("/v1/sessions/{session}/agents"), json!({ "secrets": ["SHORT"] })).await;
    selected.expect_error(400, "invalid_request");
    client.terminate(&session).await;
}

#[tokio::test]
async fn concurrent_sets_and_deletes_of_one_session_all_take_effect() {
    let platform = Platform::make("sets at once").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let secrets = format!("/v1/sessions/{session}/secrets");
    let old: Map<String, Value> = (0..10).map(|index| (format!("OLD{index}"), json!("v"))).collect();
    client.post(&secrets, old.into()).await.expect(204);
    let sets = join_all((0..30).map(|index| client.set_secrets(&session, json!({ format!("NEW{index}"): "v" }))));
    let deletes = join_all((0..10).map(|index| {
        let path = format!("{secrets}/OLD{index}");
        async move { client.delete(&path).await.expect(204) }
    }));
    tokio::join!(sets, deletes);
    let listed = client.get(&secrets).await.expect(200);
    let listed: Vec<&str> = listed.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    assert_eq!(listed.len(), 30);
    assert!(listed.iter().all(|name| name.starts_with("NEW")));
}
