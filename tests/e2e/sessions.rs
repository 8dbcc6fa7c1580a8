//! Sessions, by the contract.

use crate::harness::Platform;
use serde_json::json;
use theazo_http::parse_time_ms;

#[tokio::test]
async fn a_session_is_made_with_what_was_given_and_shows_it() {
    let platform = Platform::make("sessions").await;
    let client = &platform.client;
    let body = json!({
        "userId": "a/b \u{fc}", "environment": "staging", "metadata": { "plan": "pro" }, "limits": { "maxAgents": 2 },
    });
    let made = client.post("/v1/sessions", body).await.expect(201);
    let id = made["id"].as_str().unwrap();
    assert!(id.starts_with("ses_") && id.len() == 30);
    let shown = client.get(&format!("/v1/sessions/{id}")).await.expect(200);
    assert_eq!(shown, made);
    assert_eq!((&shown["userId"], &shown["environment"]), (&json!("a/b \u{fc}"), &json!("staging")));
    assert_eq!((&shown["metadata"], &shown["limits"]), (&json!({ "plan": "pro" }), &json!({ "maxAgents": 2 })));
    assert_eq!((&shown["status"], &shown["pausedAt"]), (&json!("active"), &json!(null)));
    let created = shown["createdAt"].as_str().unwrap();
    assert!(created.len() == 24 && created.ends_with('Z') && parse_time_ms(created).is_some());

    // The user's live session is found by name, and a further one stands beside it.
    assert_eq!(client.session("a%2Fb%20%C3%BC").await, id);
    let beside = client.post("/v1/sessions", json!({ "userId": "a/b \u{fc}" })).await.expect(201);
    assert_ne!(beside["id"], id);
    assert_eq!(client.session("a%2Fb%20%C3%BC").await, id);
    let empty = client.call("POST", "/v1/sessions", None).await.expect(201);
    assert_eq!((&empty["userId"], &empty["environment"]), (&json!(null), &json!("production")));
}

#[tokio::test]
async fn user_ids_that_look_like_paths_or_routes_are_user_ids() {
    let platform = Platform::make("user ids").await;
    let client = &platform.client;
    let long = "x".repeat(512);
    let mut ids = std::collections::HashSet::new();
    for (raw, user) in [
        ("secrets", "secrets"),
        ("by-user", "by-user"),
        ("a%2Fb", "a/b"),
        ("%C3%BC", "\u{fc}"),
        ("%252e", "%2e"),
        ("a%23b%3Fc", "a#b?c"),
        ("a+b", "a+b"),
        ("x%23values", "x#values"),
        (long.as_str(), long.as_str()),
    ] {
        let answer = client.call("POST", &format!("/v1/sessions/by-user/{raw}"), None).await.expect(200);
        assert_eq!(answer["userId"], user);
        let id = answer["id"].as_str().unwrap().to_owned();
        client.get(&format!("/v1/sessions/{id}/secrets")).await.expect(200);
        assert!(ids.insert(id), "{user}");
    }
    for bad in ["x".repeat(513), "a%00b".into(), "a%0Ab".into()] {
        let refused = client.call("POST", &format!("/v1/sessions/by-user/{bad}"), None).await;
        assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], "userId");
    }
    for unknown in ["/v1/sessions/by-user/a/b", "/v1/sessions/by-user/", "/v1/sessions/by-user/%ff"] {
        client.call("POST", unknown, None).await.expect_error(404, "not_found");
    }
}

#[tokio::test]
async fn dots_sent_as_they_are_reach_the_route_as_a_user_id() {
    use std::io::{Read, Write};
    let platform = Platform::make("raw dots").await;
    let base = crate::harness::stack().base_url();
    // HTTP libraries resolve dots before they send a path; other clients do not.
    for dots in ["..", "%2e%2e", "%2E."] {
        let (base, key) = (base.clone(), platform.live_key.clone());
        let exchange = move || {
            let mut stream = std::net::TcpStream::connect(base.trim_start_matches("http://")).unwrap();
            write!(
                stream,
                "POST /v1/sessions/by-user/{dots} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\
                 Content-Length: 0\r\nConnection: close\r\n\r\n"
            )
            .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let answer = tokio::task::spawn_blocking(exchange).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.contains(r#""userId":"..""#), "{dots}: {answer}");
    }
}

#[tokio::test]
async fn by_user_updates_what_is_given_and_keeps_the_rest() {
    let platform = Platform::make("by-user updates").await;
    let client = &platform.client;
    let path = "/v1/sessions/by-user/u";
    let first = client.post(path, json!({ "metadata": { "a": "1" }, "limits": { "maxAgents": 5 } })).await.expect(200);
    let second = client.post(path, json!({ "metadata": { "b": "2" } })).await.expect(200);
    assert_eq!(second["id"], first["id"]);
    assert_eq!((&second["metadata"], &second["limits"]), (&json!({ "b": "2" }), &json!({ "maxAgents": 5 })));
    let third = client.post(path, json!({ "limits": { "maxAgents": 1 } })).await.expect(200);
    assert_eq!((&third["metadata"], &third["limits"]), (&json!({ "b": "2" }), &json!({ "maxAgents": 1 })));
    client.post(path, json!({ "metadata": [] })).await.expect_error(400, "invalid_request");
}

#[tokio::test]
async fn limits_are_shown_with_their_use_and_can_be_changed_and_lifted() {
    let platform = Platform::make("limits").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let limits = format!("/v1/sessions/{session}/limits");
    assert_eq!(client.get(&limits).await.expect(200), json!({}));
    let patch = async |body: serde_json::Value| client.call("PATCH", &limits, Some(&body)).await.expect(200);
    let set = patch(json!({ "maxAgents": 2 })).await;
    assert_eq!(set["maxAgents"], json!({ "limit": 2, "used": 0, "remaining": 2, "percentage": 0.0 }));
    client.boot(&session, json!({})).await;
    assert_eq!(client.get(&limits).await.expect(200)["maxAgents"]["percentage"], 50.0);
    patch(json!({})).await;
    assert_eq!(patch(json!({ "maxAgents": 1 })).await["maxAgents"]["remaining"], 0);
    let agents = format!("/v1/sessions/{session}/agents");
    client.post(&agents, json!({})).await.expect_error(402, "session_limit_exceeded");
    assert_eq!(patch(json!({ "maxAgents": null })).await, json!({}));
    client.boot(&session, json!({})).await;
    let refused = client.call("PATCH", &limits, Some(&json!({ "maxCost": 5 }))).await;
    assert_eq!(refused.expect_error(422, "unprocessable_entity")["details"]["feature"], "maxCost");
    client.terminate(&session).await;
}

#[tokio::test]
async fn usage_counts_running_and_ended_agents() {
    let platform = Platform::make("usage").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let usage = async || client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    let money = json!({ "amount": 0, "currency": "usd" });
    let nothing = json!({ "cost": money, "computeMinutes": 0.0, "activeAgents": 0, "totalAgentsCreated": 0 });
    assert_eq!(usage().await, nothing);
    let agent = client.boot(&session, json!({})).await;
    let status = format!("/v1/agents/{agent}/status");
    // A hundredth of a minute is the least that usage shows.
    while client.get(&status).await.expect(200)["durationMs"].as_i64().unwrap() < 1_300 {
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    let running = usage().await;
    assert!(running["computeMinutes"].as_f64().unwrap() >= 0.02, "{running}");
    client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await.expect(200);
    let ended = usage().await;
    assert_eq!((&ended["activeAgents"], &ended["totalAgentsCreated"]), (&json!(0), &json!(1)));
    let ran = client.get(&status).await.expect(200);
    let minutes = ran["durationMs"].as_f64().unwrap() / 60_000.0;
    assert!((ended["computeMinutes"].as_f64().unwrap() - minutes).abs() <= 0.005, "{ended} {ran}");
    assert_eq!((&ran["status"], &ran["provider"], &ran["cost"]), (&json!("completed"), &json!("docker"), &money));
    assert_eq!(usage().await, ended);
    client.terminate(&session).await;
}

#[tokio::test]
async fn terminating_is_final_and_removes_agents_and_secrets() {
    let platform = Platform::make("terminate").await;
    let client = &platform.client;
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "A": "1", "B": "2" })).await;
    let agent = client.boot(&session, json!({})).await;
    let terminate = format!("/v1/sessions/{session}/terminate");
    let ended = client.call("POST", &terminate, None).await.expect(200);
    assert_eq!(ended["status"], "terminated");
    assert!(ended["terminatedAt"].is_string());
    assert_eq!(client.call("POST", &terminate, None).await.expect(200)["terminatedAt"], ended["terminatedAt"]);
    let shown = client.get(&format!("/v1/agents/{agent}")).await.expect(200);
    assert_eq!(shown["status"], "completed");
    let left = crate::harness::left_on_engine(crate::harness::stack()).await;
    assert!(!left.contains(&agent));
    assert_eq!(client.get(&format!("/v1/sessions/{session}/secrets")).await.expect(200), json!([]));
    client.post(&format!("/v1/sessions/{session}/secrets"), json!({ "A": "1" })).await.expect_error(409, "conflict");
    client.delete(&format!("/v1/sessions/{session}/secrets/A")).await.expect_error(409, "conflict");
    client.post(&format!("/v1/sessions/{session}/agents"), json!({})).await.expect_error(409, "conflict");
    let exec = json!({ "language": "bash", "code": ":" });
    client.post(&format!("/v1/agents/{agent}/exec"), exec).await.expect_error(409, "conflict");
    let body = json!({ "maxAgents": 1 });
    client.call("PATCH", &format!("/v1/sessions/{session}/limits"), Some(&body)).await.expect_error(409, "conflict");
    assert_ne!(client.session("u").await, session);
}

#[tokio::test]
async fn an_agent_that_has_run_out_of_time_ends() {
    let platform = Platform::make("out of time").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({ "timeout": "1s" })).await;
    tokio::time::sleep(std::time::Duration::from_millis(2_500)).await;
    // Its sandbox has ended by itself, whatever the control plane did; what still asks learns that it is gone.
    let exec = client.post(&format!("/v1/agents/{agent}/exec"), json!({ "language": "bash", "code": ":" })).await;
    assert!([409, 502].contains(&exec.status), "{exec:?}");
    let shown = client.get(&format!("/v1/agents/{agent}")).await.expect(200);
    assert!(["failed", "completed"].contains(&shown["status"].as_str().unwrap()), "{shown}");
    client.terminate(&session).await;
}
