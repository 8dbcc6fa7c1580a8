//! The main job: key, session, secret, agent, environment variable.

use crate::harness::{Platform, make_canary, sha256};
use serde_json::json;

#[tokio::test]
async fn an_agent_sees_its_sessions_secrets_as_uppercase_variables_and_nothing_else_does() {
    let platform = Platform::make("main job").await;
    let client = &platform.client;
    let session = client.session("user_123").await;
    let (hubspot, database) = (make_canary("hubspot"), make_canary("database"));
    client.set_secrets(&session, json!({ "HUBSPOT_API_KEY": hubspot, "database_url": database })).await;
    let listed = client.get(&format!("/v1/sessions/{session}/secrets")).await.expect(200);
    assert_eq!(listed, json!(["HUBSPOT_API_KEY", "database_url"]));

    let agent = client.boot(&session, json!({})).await;
    let shown = client.get(&format!("/v1/agents/{agent}")).await.expect(200);
    // What the engine has.
    let isolation = shown["providerDetails"]["isolation"].as_str();
    assert!(matches!(isolation, Some("runc" | "runsc")), "{shown}");
    let seen = client.environment(&agent).await;
    assert_eq!(seen["HUBSPOT_API_KEY"], (hubspot.len(), sha256(&hubspot)));
    assert_eq!(seen["DATABASE_URL"], (database.len(), sha256(&database)));
    assert!(!seen.contains_key("database_url"));
    assert_eq!(seen["THEAZO_AGENT_ID"].1, sha256(&agent));
    assert_eq!(seen["THEAZO_SESSION_ID"].1, sha256(&session));
    for (language, code) in [
        ("node", "console.log(process.env.HUBSPOT_API_KEY.length)"),
        ("bash", "echo ${#HUBSPOT_API_KEY}; sh -c 'exit 0'"),
        ("bash", "python3 -c 'import os; print(len(os.environ[\"HUBSPOT_API_KEY\"]))'"),
    ] {
        assert_eq!(client.run(&agent, language, code).await.trim(), hubspot.len().to_string(), "{language}");
    }
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_set_or_delete_reaches_the_next_boot_and_not_a_running_agent() {
    let platform = Platform::make("next boot").await;
    let client = &platform.client;
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "KEPT": "one", "GONE": "two" })).await;
    let running = client.boot(&session, json!({})).await;
    client.delete(&format!("/v1/sessions/{session}/secrets/gone")).await.expect(204);
    client.set_secrets(&session, json!({ "kept": "changed", "NEW": "three" })).await;

    let seen = client.environment(&running).await;
    assert_eq!((&seen["KEPT"].1, &seen["GONE"].1), (&sha256("one"), &sha256("two")));
    assert!(!seen.contains_key("NEW"));
    let details = client.get(&format!("/v1/sessions/{session}/secrets?details=true")).await.expect(200);
    let kept = details.as_array().unwrap().iter().find(|entry| entry["name"] == "kept").unwrap();
    assert_eq!((kept["version"].as_u64(), &kept["retainedBy"]), (Some(2), &json!([running])));

    let next = client.boot(&session, json!({})).await;
    let seen = client.environment(&next).await;
    assert_eq!((&seen["KEPT"].1, &seen["NEW"].1), (&sha256("changed"), &sha256("three")));
    assert!(!seen.contains_key("GONE"));
    client.delete(&format!("/v1/sessions/{session}/secrets/gone")).await.expect_error(404, "not_found");
    client.terminate(&session).await;
}

#[tokio::test]
async fn platform_secrets_are_inherited_and_a_selection_is_exact() {
    let platform = Platform::make("inheritance").await;
    let client = &platform.client;
    let shared = json!({ "SHARED": "platform", "BOTH": "platform", "PRIVATE": { "value": "x", "inherit": false } });
    client.post("/v1/secrets", shared).await.expect(204);
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "both": "session", "OWN": "session" })).await;
    let inherited = client.get(&format!("/v1/sessions/{session}/secrets?inherited=true")).await.expect(200);
    assert_eq!(inherited, json!(["OWN", "SHARED", "both"]));

    let all = client.boot(&session, json!({})).await;
    let seen = client.environment(&all).await;
    assert_eq!((&seen["SHARED"].1, &seen["BOTH"].1), (&sha256("platform"), &sha256("session")));
    assert!(seen.contains_key("OWN") && !seen.contains_key("PRIVATE"));

    let one = client.boot(&session, json!({ "secrets": ["shared"] })).await;
    let seen = client.environment(&one).await;
    assert!(seen.contains_key("SHARED") && !seen.contains_key("BOTH") && !seen.contains_key("OWN"));
    let none = client.boot(&session, json!({ "secrets": [] })).await;
    let seen = client.environment(&none).await;
    assert!(!seen.contains_key("SHARED") && !seen.contains_key("OWN"));

    let agents = format!("/v1/sessions/{session}/agents");
    for unknown in ["NOPE", "PRIVATE"] {
        let refused = client.post(&agents, json!({ "secrets": [unknown] })).await;
        assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], "secrets");
    }
    client.terminate(&session).await;
}
