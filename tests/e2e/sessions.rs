//! Sessions, by the contract.

use crate::harness::{Answer, Client, Platform, scan_everything, send_raw, stack};
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashSet};
use theazo_http::parse_time_ms;
use theazo_tenancy::SessionId;

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
    assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], "maxCost");
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
    // Its sandbox has ended by itself, whatever the control plane did; whoever still asks is told that it is over.
    let exec = client.post(&format!("/v1/agents/{agent}/exec"), json!({ "language": "bash", "code": ":" })).await;
    assert_eq!(exec.expect_error(409, "conflict")["details"]["status"], "completed");
    let shown = client.get(&format!("/v1/agents/{agent}")).await.expect(200);
    assert_eq!(shown["status"], "completed");
    client.terminate(&session).await;
}

/// Fails unless this is a time of the last minutes in the one form that the API writes.
#[track_caller]
fn assert_recent(time: &Value) {
    let text = time.as_str().unwrap_or_else(|| panic!("not a time: {time}"));
    let ms = parse_time_ms(text).unwrap_or_else(|| panic!("not a time: {text}"));
    assert_eq!(theazo_http::format_time(ms), text, "not ISO 8601 in UTC with milliseconds");
    let age = theazo_store::now_ms() - ms;
    assert!((-1_000..600_000).contains(&age), "{text} is {age} ms ago");
}

async fn patch_limits(client: &Client, session: &str, limits: Value) -> Answer {
    client.call("PATCH", &format!("/v1/sessions/{session}/limits"), Some(&limits)).await
}

#[tokio::test]
async fn what_is_left_out_has_its_default_null_is_left_out_and_unknown_fields_are_ignored() {
    let client = Platform::make("defaults").await.client;
    let nothing = client.call("POST", "/v1/sessions", None).await.expect(201);
    let spaces = client.try_call("POST", "/v1/sessions", Some(b" \r\n".to_vec())).await.unwrap().expect(201);
    let nulls = json!({ "userId": null, "environment": null, "metadata": null, "limits": null });
    let nulls = client.post("/v1/sessions", nulls).await.expect(201);
    let in_limits = json!({ "limits": { "maxAgents": null, "unknown": 5 }, "id": "ses_mine", "status": "paused" });
    let in_limits = client.saying_more().post("/v1/sessions", in_limits).await.expect(201);
    let mut ids = HashSet::new();
    for made in [nothing, spaces, nulls, in_limits] {
        assert!(ids.insert(made["id"].to_string()), "every call makes a session: {made}");
        assert_recent(&made["createdAt"]);
        let expected = json!({
            "id": made["id"], "userId": null, "status": "active", "environment": "production", "metadata": {},
            "limits": {}, "createdAt": made["createdAt"], "pausedAt": null, "terminatedAt": null,
        });
        assert_eq!(made, expected);
    }
}

#[tokio::test]
async fn a_wrong_field_is_named_wherever_it_is_and_nothing_is_made_or_changed() {
    let client = Platform::make("wrong fields").await.client;
    let many: Value = (0..65).map(|index| (format!("k{index}"), json!("v"))).collect::<serde_json::Map<_, _>>().into();
    let shared = [
        (json!({ "metadata": [] }), "metadata"),
        (json!({ "metadata": { "": "v" } }), "metadata"),
        (json!({ "metadata": { "k": null } }), "metadata.k"),
        (json!({ "metadata": { "k": "x".repeat(1024) } }), "metadata.k"),
        (json!({ "metadata": many }), "metadata"),
        (json!({ "limits": [] }), "limits"),
        (json!({ "limits": { "maxAgents": "3" } }), "limits.maxAgents"),
        (json!({ "limits": { "maxAgents": 100_001 } }), "limits.maxAgents"),
        (json!({ "limits": { "maxAgents": {} } }), "limits.maxAgents"),
        (json!({ "limits": { "maxAgents": false } }), "limits.maxAgents"),
        (json!([]), "body"),
        (json!(null), "body"),
    ];
    for (body, field) in [
        (json!({ "userId": "x".repeat(513) }), "userId"),
        (json!({ "userId": "a\nb" }), "userId"),
        (json!({ "userId": ["u"] }), "userId"),
        (json!({ "environment": "Production" }), "environment"),
        (json!({ "environment": 1 }), "environment"),
    ]
    .iter()
    .chain(&shared)
    {
        client.post("/v1/sessions", body.clone()).await.expect_invalid(field);
    }
    for (body, field) in &shared {
        client.post("/v1/sessions/by-user/u", body.clone()).await.expect_invalid(field);
    }
    assert_eq!(client.get("/v1/sessions").await.expect(200)["data"], json!([]));

    let kept = json!({ "limits": { "maxAgents": 2 }, "metadata": { "k": "v" } });
    let before = client.post("/v1/sessions/by-user/u", kept).await.expect(200);
    let session = before["id"].as_str().unwrap();
    for (body, field) in &shared {
        client.post("/v1/sessions/by-user/u", body.clone()).await.expect_invalid(field);
    }
    for wrong in [json!("3"), json!(-1), json!(1.5), json!(100_001), json!([]), json!(false)] {
        patch_limits(&client, session, json!({ "maxAgents": wrong })).await.expect_invalid("maxAgents");
    }
    for wrong in [json!([]), json!(5), json!(null)] {
        patch_limits(&client, session, wrong).await.expect_invalid("body");
    }
    client.call("PATCH", &format!("/v1/sessions/{session}/limits"), None).await.expect_invalid("body");
    assert_eq!(client.get(&format!("/v1/sessions/{session}")).await.expect(200), before);
}

#[tokio::test]
async fn every_limit_can_be_set_on_every_way_and_is_shown_as_it_was_given() {
    let client = Platform::make("every limit").await.client;
    let limits = json!({
        "maxCost": { "amount": 500, "currency": "usd", "period": "month" }, "maxAgents": 1, "maxComputeMinutes": 10,
        "maxDuration": { "hours": 1, "seconds": 30 },
    });
    let body = json!({ "limits": limits });
    for way in ["/v1/sessions", "/v1/sessions/by-user/new", "/v1/sessions/by-user/new"] {
        let answer = client.post(way, body.clone()).await;
        assert!([200, 201].contains(&answer.status), "{answer:?}");
        assert_eq!(answer.json()["limits"], limits, "{way}");
    }
    let session = client.session("u").await;
    // One by one, and none undoes another.
    for (name, value) in limits.as_object().unwrap() {
        let shown = patch_limits(&client, &session, json!({ name: value })).await.expect(200);
        assert!(shown[name]["limit"].is_number(), "{shown}");
    }
    assert_eq!(client.get(&format!("/v1/sessions/{session}")).await.expect(200)["limits"], limits);
    let shown = client.get(&format!("/v1/sessions/{session}/limits")).await.expect(200);
    let expected = json!({
        "limit": 500, "used": 0, "remaining": 500, "percentage": 0.0, "currency": "usd", "period": "month",
    });
    assert_eq!((&shown["maxCost"], &shown["maxDuration"]["limit"]), (&expected, &json!(3630)));
    for name in limits.as_object().unwrap().keys() {
        assert!(patch_limits(&client, &session, json!({ name: null })).await.expect(200).get(name).is_none());
    }
}

#[tokio::test]
async fn a_user_id_is_the_same_in_any_spelling_of_the_path_in_a_body_and_in_a_filter() {
    let platform = Platform::make("user id spellings").await;
    let (base, key) = (platform.client.base(), Some(platform.live_key.as_str()));
    let longest = "%C3%BC".repeat(256);
    let good = [
        ("..", ".."),
        ("%2e%2e", ".."),
        ("%2E.", ".."),
        (".", "."),
        ("a%2Fb", "a/b"),
        ("a%2fb", "a/b"),
        ("a%252Fb", "a%2Fb"),
        ("%73ecrets", "secrets"),
        ("a%20b", "a b"),
        ("user@example.com", "user@example.com"),
        ("a%23b%23live%23sessions", "a#b#live#sessions"),
        ("%F0%9F%A6%80", "\u{1f980}"),
        (&longest, &"\u{fc}".repeat(256)),
    ];
    let mut sessions = BTreeMap::new();
    for (raw, user) in good {
        let answer = send_raw(base, "POST", &format!("/v1/sessions/by-user/{raw}"), key, &[], b"").await;
        let session = answer.expect(200);
        assert_eq!(session["userId"], user, "{raw}");
        assert_eq!(*sessions.entry(user.to_owned()).or_insert(session["id"].clone()), session["id"], "{raw}");
    }
    let distinct: HashSet<_> = sessions.values().map(Value::to_string).collect();
    assert_eq!(distinct.len(), sessions.len());
    for (user, id) in &sessions {
        let made = platform.client.post("/v1/sessions", json!({ "userId": user })).await.expect(201);
        let encoded = percent_encoding::utf8_percent_encode(user, percent_encoding::NON_ALPHANUMERIC);
        let listed = platform.client.get(&format!("/v1/sessions?userId={encoded}")).await.expect(200);
        let listed: HashSet<_> = listed["data"].as_array().unwrap().iter().map(|row| row["id"].to_string()).collect();
        assert_eq!(listed, HashSet::from([made["id"].to_string(), id.to_string()]), "{user}");
    }
    for bad in ["%00", "%7F", "%C2%85", "a%1Bb", &format!("x{longest}")] {
        let answer = send_raw(base, "POST", &format!("/v1/sessions/by-user/{bad}"), key, &[], b"").await;
        answer.expect_invalid("userId");
    }
}

#[tokio::test]
async fn a_limit_below_what_is_used_ends_nothing_and_lets_nothing_in() {
    let client = Platform::make("limit below use").await.client;
    let session = client.session("u").await;
    patch_limits(&client.saying_more(), &session, json!({ "maxAgents": 3, "unknown": 1 })).await.expect(200);
    let agent = client.boot(&session, json!({})).await;
    let limits = client.get(&format!("/v1/sessions/{session}/limits")).await.expect(200);
    assert_eq!(limits, json!({ "maxAgents": { "limit": 3, "used": 1, "remaining": 2, "percentage": 33.33 } }));
    let over = json!({ "maxAgents": { "limit": 0, "used": 1, "remaining": 0, "percentage": 100.0 } });
    assert_eq!(patch_limits(&client, &session, json!({ "maxAgents": 0 })).await.expect(200), over);
    let refused = client.post(&format!("/v1/sessions/{session}/agents"), json!({})).await;
    let details = refused.expect_error(402, "session_limit_exceeded")["details"].clone();
    assert_eq!(details, json!({ "limit": "maxAgents", "used": 1, "max": 0 }));
    assert_eq!(client.run(&agent, "bash", "echo alive").await, "alive\n");
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_terminated_session_stays_listed_has_no_row_of_a_secret_and_its_user_starts_anew() {
    let client = Platform::make("terminated").await.client;
    let first = client.post("/v1/sessions/by-user/u", json!({ "metadata": { "old": "1" } })).await.expect(200);
    let session = first["id"].as_str().unwrap();
    client.set_secrets(session, json!({ "ONE": "1", "two": "2" })).await;
    let path = format!("/v1/sessions/{session}");
    let ended = client.post(&format!("{path}/terminate"), json!({ "ignored": 1 })).await.expect(200);
    assert_recent(&ended["terminatedAt"]);
    let mut expected = first.clone();
    (expected["status"], expected["terminatedAt"]) = (json!("terminated"), ended["terminatedAt"].clone());
    assert_eq!(ended, expected);
    assert_eq!(client.get(&path).await.expect(200), ended);
    for query in ["", "?details=true", "?details=true&inherited=true"] {
        assert_eq!(client.get(&format!("{path}/secrets{query}")).await.expect(200), json!([]), "{query}");
    }
    let scanned = scan_everything(&tokio::task::spawn_blocking(stack).await.unwrap().dynamodb_url()).await;
    let left: Vec<_> = scanned.partitions.iter().filter(|partition| partition.contains(session)).collect();
    assert!(!left.is_empty(), "counters stay readable");
    assert!(!left.iter().any(|left| left.ends_with("#names") || left.ends_with("#values")), "{left:?}");
    assert_eq!(client.get("/v1/sessions?status=terminated").await.expect(200)["data"], json!([ended]));
    assert_eq!(client.get("/v1/sessions?status=active").await.expect(200)["data"], json!([]));

    let next = client.call("POST", "/v1/sessions/by-user/u", None).await.expect(200);
    assert_ne!(next["id"], first["id"]);
    assert_eq!((&next["status"], &next["metadata"]), (&json!("active"), &json!({})));
    // Terminating the old one once more, or one that stands beside, does not touch the new one.
    let beside = client.post("/v1/sessions", json!({ "userId": "u" })).await.expect(201);
    client.terminate(session).await;
    client.terminate(beside["id"].as_str().unwrap()).await;
    assert_eq!(client.call("POST", "/v1/sessions/by-user/u", None).await.expect(200), next);
}

#[tokio::test]
async fn what_is_no_session_is_not_found_on_every_route() {
    let client = Platform::make("absent").await.client;
    let absent = SessionId::make().to_string();
    for id in [absent.as_str(), &absent.to_uppercase(), "x", "ses_", "a%2Fb", "agt_01k00000000000000000000000", "%00"] {
        let path = format!("/v1/sessions/{id}");
        for read in ["", "/limits", "/usage", "/secrets", "/secrets?details=true&inherited=true", "/agents"] {
            client.get(&format!("{path}{read}")).await.expect_error(404, "not_found");
        }
        client.post(&format!("{path}/secrets"), json!({ "A": "b" })).await.expect_error(404, "not_found");
        client.delete(&format!("{path}/secrets/A")).await.expect_error(404, "not_found");
        client.post(&format!("{path}/agents"), json!({})).await.expect_error(404, "not_found");
        client.call("POST", &format!("{path}/terminate"), None).await.expect_error(404, "not_found");
        patch_limits(&client, id, json!({ "maxAgents": 1 })).await.expect_error(404, "not_found");
    }
}

#[tokio::test]
async fn an_agent_whose_sandbox_is_gone_is_found_by_the_clean_up_and_by_file_calls() {
    let platform = Platform::make("lost sandboxes").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let docker = crate::harness::docker().await;
    let kill = async |agent: &str| {
        let name = crate::harness::container_name(agent);
        docker.kill_container(&name, None).await.unwrap();
        while docker.inspect_container(&name, None).await.unwrap().state.unwrap().running == Some(true) {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    let status = async |agent: &str| client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"].clone();
    let (by_files, by_cleanup, alive) = (
        client.boot(&session, json!({})).await,
        client.boot(&session, json!({})).await,
        client.boot(&session, json!({})).await,
    );
    kill(&by_files).await;
    let read = client.get(&format!("/v1/agents/{by_files}/files/data/a")).await;
    assert_eq!(read.expect_error(502, "provider_error")["details"]["retryable"], false);
    assert_eq!(status(&by_files).await, "failed");

    kill(&by_cleanup).await;
    theazo_functions::reconcile::reconcile(
        &crate::harness::own_deployment(),
        theazo_functions::reconcile::Boots::UnderWay,
    )
    .await
    .unwrap();
    assert_eq!(status(&by_cleanup).await, "failed");
    assert_eq!(status(&alive).await, "ready");
    let left = crate::harness::left_on_engine(crate::harness::stack()).await;
    assert!(!left.contains(&by_files) && !left.contains(&by_cleanup) && left.contains(&alive));
    let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!(usage["activeAgents"], 1);
    client.terminate(&session).await;
}
