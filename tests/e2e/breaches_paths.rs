//! Breach drills: who sends cursors and paths that mean harm.

use crate::breaches::Victim;
use crate::harness::{Platform, send_raw};
use serde_json::json;
use theazo_functions::routes::ROUTES;
use theazo_tenancy::{AgentId, KeyId, SessionId};

#[tokio::test]
async fn a_malicious_cursor_or_path_is_refused_and_breaks_nothing() {
    let (victim, thief) = (Victim::make("cursors").await, Platform::make("cursor thief").await);
    victim.client().post("/v1/sessions", json!({})).await.expect(201);
    let page = victim.client().get("/v1/sessions?limit=1").await.expect(200);
    let cursor = page["cursor"].as_str().unwrap().to_owned();
    let mut flipped = cursor.clone().into_bytes();
    flipped[3] = if flipped[3] == b'A' { b'B' } else { b'A' };
    let flipped = String::from_utf8(flipped).unwrap();
    let long = "A".repeat(10_000);
    for (client, path) in [
        (&thief.client, format!("/v1/sessions?limit=1&cursor={cursor}")),
        (victim.client(), format!("/v1/agents?cursor={cursor}")),
        (victim.client(), format!("/v1/sessions?status=active&cursor={cursor}")),
        (victim.client(), format!("/v1/sessions?cursor={flipped}")),
        (victim.client(), format!("/v1/sessions?cursor={}", &cursor[..cursor.len() - 1])),
        (victim.client(), format!("/v1/sessions?cursor={long}")),
        (victim.client(), "/v1/sessions?cursor=%00".to_owned()),
    ] {
        let refused = client.get(&path).await.expect_error(400, "invalid_request");
        assert_eq!(refused["details"]["field"], "cursor");
    }
    let session = &victim.session;
    for path in [
        format!("/v1/sessions/{session}%00"),
        format!("/v1/sessions/{session}/"),
        format!("/v1/sessions/{session}%2f..%2f{session}"),
        format!("/v1/sessions/..%2f{session}"),
        format!("/v1/sessions/{}", session.to_uppercase()),
        format!("/v1/sessions/{}", session.replace("ses_", "s\u{435}s_").replace('\u{435}', "%D0%B5")),
        format!("/v1/sessions/{session}%23values"),
        format!("/v1/sessions/{long}"),
        format!("/v1/agents/{long}/files/%2e%2e%2f%2e%2e%2fetc%2fpasswd"),
    ] {
        let answer = victim.client().get(&path).await;
        answer.expect_error(404, "not_found");
    }
    assert_eq!(victim.client().get(&format!("/v1/sessions/{session}")).await.status, 200);
}

/// What a path's parameter is replaced with: none of it is an id, and none may be more than text on its way in.
const MALICIOUS: [&str; 14] = [
    "..",
    "%2e%2e",
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2f",
    "%5c..%5c",
    "%00",
    "x%00y",
    "%23values",
    "x%23live%23values",
    "%25%32%65",
    "s%D0%B5s_00000000000000000000000000",
    "%EF%BC%8E%EF%BC%8E%EF%BC%8F",
    "%E2%80%AE%F0%9F%A6%80",
    "%27%20OR%20pk%20%3C%3E%20%27",
];

#[tokio::test]
async fn a_malicious_part_of_any_routes_path_is_at_most_text_that_names_nothing() {
    let victim = Victim::make("paths").await;
    let test = victim.client().with_key(Some(&victim.platform.test_key));
    let session = test.session("user").await;
    let agent = test.boot(&session, json!({})).await;
    let (long, absent) = ("A".repeat(10_000), AgentId::make());
    let mut tried = 0;
    for route in ROUTES {
        let pattern = route.info.pattern.0;
        let parameters = pattern.split('/').filter(|part| part.starts_with('{'));
        for parameter in parameters {
            for malicious in MALICIOUS.into_iter().chain([long.as_str()]) {
                // Of two parameters the other one is good.
                let id = if pattern.starts_with("/v1/agents/") { &agent } else { &session };
                let path = pattern.replace(parameter, malicious);
                let path = path.replace("{id}", id).replace("{name}", "ABSENT").replace("{path*}", "data/none");
                // A client would tidy the path up.
                let key = Some(victim.platform.test_key.as_str());
                let answer = send_raw(test.base(), route.info.method, &path, key, &[], b"{}").await;
                // What an end user is called is the platform's own choice.
                let is_user = parameter == "{userId}" && answer.status == 200;
                assert!(is_user || (400..500).contains(&answer.status), "{} {path}: {answer:?}", route.info.name);
                assert!(!answer.text.contains("root:"), "{path}: {answer:?}");
                tried += 1;
            }
        }
    }
    assert!(tried > 300, "{tried} paths");
    // Ids that are good in form and of another noun.
    for id in [absent.to_string(), KeyId::make().to_string(), SessionId::make().to_string()] {
        for path in [format!("/v1/sessions/{id}"), format!("/v1/agents/{id}")] {
            test.get(&path).await.expect_error(404, "not_found");
        }
    }
    test.get(&format!("/v1/agents/{session}")).await.expect_error(404, "not_found");
    test.get(&format!("/v1/sessions/{agent}")).await.expect_error(404, "not_found");
    assert_eq!(test.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"], "ready");
}
