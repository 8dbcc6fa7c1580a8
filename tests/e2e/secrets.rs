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
            (json!({ "mask": false }), "no value"),
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
    assert_eq!(json!(shape), json!([["SHARED", 1, "platform"], ["first", 2, "session"], ["second", 1, "session"]]));
    assert_eq!((&rows[2]["expiresAt"], &rows[2]["expired"]), (&json!("2999-01-01T00:00:00.000Z"), &json!(false)));
    assert_eq!((&rows[1]["expiresAt"], &rows[1]["retainedBy"]), (&json!(null), &json!([])));
    assert!(rows[1]["updatedAt"].as_str() >= rows[1]["createdAt"].as_str());

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

/// Every name of the contract's closed list, and some of each family.
const RESERVED: &[&str] = &[
    "PATH",
    "HOME",
    "SHELL",
    "USER",
    "IFS",
    "ENV",
    "BASH_ENV",
    "PS4",
    "PROMPT_COMMAND",
    "LD_PRELOAD",
    "LD_LIBRARY_PATH",
    "LD_AUDIT",
    "LD_",
    "GLIBC_TUNABLES",
    "GCONV_PATH",
    "NODE_OPTIONS",
    "NODE_PATH",
    "PYTHONPATH",
    "PYTHONHOME",
    "PYTHONSTARTUP",
    "PYTHONINSPECT",
    "PERL5LIB",
    "PERL5OPT",
    "RUBYLIB",
    "RUBYOPT",
    "JAVA_TOOL_OPTIONS",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "THEAZO_AGENT_ID",
    "THEAZO_ENDPOINT",
    "THEAZO_",
];

#[tokio::test]
async fn every_reserved_or_impossible_name_is_refused_in_any_case_and_its_neighbours_are_not() {
    let client = Platform::make("all names").await.client;
    let secrets = format!("/v1/sessions/{}/secrets", client.session("u").await);
    let long = "x".repeat(129);
    let impossible = ["", "1A", "A-B", "A B", "A=B", "A.B", "A\0", "\u{fc}", "A\n", " A", "\u{212a}EY", long.as_str()];
    let lowercase: Vec<String> = RESERVED.iter().map(|name| name.to_ascii_lowercase()).collect();
    for name in RESERVED.iter().copied().chain(lowercase.iter().map(String::as_str)).chain(impossible) {
        let answer = client.post(&secrets, json!({ "GOOD": "s3cr3t", name: "s3cr3t" })).await;
        assert!(!answer.text.contains("s3cr3t"), "{answer:?}");
        let error = answer.expect_error(422, "unprocessable_entity");
        let shown: String = name.chars().take(128).collect();
        assert_eq!(error["details"]["field"], shown);
    }
    assert_eq!(client.get(&secrets).await.expect(200), json!([]));
    let long = "x".repeat(128);
    let good =
        ["_", "a", "PATHS", "MY_PATH", "LD", "LDAP_URL", "GIT_TOKEN", "THEAZO", "NODE_ENV", "USERNAME", long.as_str()];
    let all: Map<String, Value> = good.iter().map(|name| ((*name).to_owned(), json!("v"))).collect();
    client.post(&secrets, all.into()).await.expect(204);
    let mut sorted = good.to_vec();
    sorted.sort_unstable();
    assert_eq!(client.get(&secrets).await.expect(200), json!(sorted));
}

#[tokio::test]
async fn a_refused_call_leaves_what_was_there_as_it_was() {
    let client = Platform::make("all or nothing").await.client;
    let session = client.session("u").await;
    for secrets in [format!("/v1/sessions/{session}/secrets"), "/v1/secrets".to_owned()] {
        client.post(&secrets, json!({ "KEPT": "before" })).await.expect(204);
        let before = client.get(&format!("{secrets}?details=true")).await.expect(200);
        for bad in [
            json!({ "kept": "s3cr3t", "PATH": "s3cr3t" }),
            json!({ "kept": "s3cr3t", "B": "s3cr3t\0" }),
            json!({ "kept": "s3cr3t", "B": null }),
            json!({ "kept": "s3cr3t", "B": ["s3cr3t"] }),
            json!({ "kept": "s3cr3t", "KEPT": "s3cr3t" }),
            json!({ "kept": { "value": "s3cr3t", "mask": "s3cr3t" } }),
            json!({ "kept": { "value": "s3cr3t", "expiresAt": "2001-01-01T00:00:00Z" } }),
            json!({ "kept": { "value": "s3cr3t", "expiresAt": 4_102_444_800_000_u64 } }),
            json!({ "kept": { "valu": "s3cr3t" } }),
            json!({}),
        ] {
            let answer = client.post(&secrets, bad.clone()).await;
            assert!([400, 422].contains(&answer.status), "{bad}: {answer:?}");
            assert!(!answer.text.contains("s3cr3t"), "{answer:?}");
        }
        assert_eq!(client.get(&format!("{secrets}?details=true")).await.expect(200), before);
    }
    client.set_secrets(&session, json!({ "OWN": "x" })).await;
    let agent = client.boot(&session, json!({})).await;
    assert_eq!(client.environment(&agent).await["KEPT"].1, sha256("before"));
    client.terminate(&session).await;
}

#[tokio::test]
async fn the_platforms_own_scope_has_the_same_limits() {
    let client = Platform::make("platform limits").await.client;
    let names = |from: usize, to: usize| -> Value {
        (from..to).map(|index| (format!("N{index:03}"), json!("v"))).collect::<Map<_, _>>().into()
    };
    client.post("/v1/secrets", names(0, 91)).await.expect_invalid("body");
    client.post("/v1/secrets", names(0, 90)).await.expect(204);
    client.post("/v1/secrets", names(85, 101)).await.expect_error(422, "unprocessable_entity");
    assert_eq!(client.get("/v1/secrets").await.expect(200).as_array().unwrap().len(), 90);
    client.post("/v1/secrets", names(85, 100)).await.expect(204);
    client.post("/v1/secrets", json!({ "ONE_MORE": "v" })).await.expect_error(422, "unprocessable_entity");
    client.delete("/v1/secrets/n000").await.expect(204);
    client.post("/v1/secrets", json!({ "ONE_MORE": "v" })).await.expect(204);
    // A session's own names count apart.
    let session = client.session("u").await;
    client.post(&format!("/v1/sessions/{session}/secrets"), names(0, 90)).await.expect(204);
}

#[tokio::test]
async fn a_value_is_measured_in_bytes_and_kept_byte_by_byte() {
    let client = Platform::make("value sizes").await.client;
    let session = client.session("u").await;
    let secrets = format!("/v1/sessions/{session}/secrets");
    let longest = "\u{fc}".repeat(16 * 1024);
    client.post(&secrets, json!({ "LONG": format!("{longest}x") })).await.expect_invalid("LONG");
    client.post(&secrets, json!({ "EMPTY": { "value": "" } })).await.expect_invalid("EMPTY");
    let odd = " \t\r\n\u{1}\u{7f}'\"\\$`=\u{1f980}\u{feff} ";
    client.set_secrets(&session, json!({ "LONG": longest, "ODD": odd, "SHORT": "x" })).await;
    let agent = client.boot(&session, json!({})).await;
    let seen = client.environment(&agent).await;
    for (name, value) in [("LONG", longest.as_str()), ("ODD", odd), ("SHORT", "x")] {
        assert_eq!(seen[name], (value.len(), sha256(value)), "{name}");
    }
    client.terminate(&session).await;
}

#[tokio::test]
async fn details_have_exactly_the_fields_of_the_contract() {
    let client = Platform::make("detail fields").await.client;
    let session = client.session("u").await;
    let expiring = json!({ "value": "x", "expiresAt": "2999-01-01T02:00:00+02:00" });
    for (secrets, scope) in [(format!("/v1/sessions/{session}/secrets"), "session"), ("/v1/secrets".into(), "platform")]
    {
        client.post(&secrets, json!({ "plain": "x", "Expiring": expiring })).await.expect(204);
        let rows = client.get(&format!("{secrets}?details=true")).await.expect(200);
        let (expiring, plain) = (&rows[0], &rows[1]);
        let mut expected = json!({
            "name": "plain", "version": 1, "createdAt": plain["createdAt"], "updatedAt": plain["createdAt"],
            "scope": scope, "retainedBy": [],
        });
        assert_eq!(plain, &expected);
        let created = theazo_http::parse_time_ms(plain["createdAt"].as_str().unwrap()).unwrap();
        assert!((theazo_store::now_ms() - created).abs() < 600_000);
        expected["name"] = json!("Expiring");
        expected["expiresAt"] = json!("2999-01-01T00:00:00.000Z");
        expected["expired"] = json!(false);
        assert_eq!(expiring, &expected);
        // A set without an expiry takes the old one away. Times are told by the millisecond.
        tokio::time::sleep(Duration::from_millis(5)).await;
        client.post(&secrets, json!({ "EXPIRING": "y" })).await.expect(204);
        let again = client.get(&format!("{secrets}?details=true")).await.expect(200)[0].clone();
        assert_eq!((&again["name"], &again["version"]), (&json!("EXPIRING"), &json!(2)));
        assert_eq!((&again["expiresAt"], &again["createdAt"]), (&json!(null), &expiring["createdAt"]));
        let updated = |row: &Value| theazo_http::parse_time_ms(row["updatedAt"].as_str().unwrap()).unwrap();
        assert!(updated(&again) > updated(expiring), "{again} after {expiring}");
    }
}

#[tokio::test]
async fn an_expired_secret_is_as_good_as_absent_for_the_platform_and_over_an_inherited_one() {
    let client = Platform::make("platform expiry").await.client;
    let session = client.session("u").await;
    let soon = theazo_http::format_time(theazo_store::now_ms() + 2_000);
    let short = |value: &str| json!({ "value": value, "expiresAt": soon });
    client
        .post("/v1/secrets", json!({ "SHORT": short("p"), "LONG": "platform", "BOTH": "platform" }))
        .await
        .expect(204);
    client.set_secrets(&session, json!({ "BOTH": short("session") })).await;
    let mut expired = false;
    for _ in 0..100 {
        let rows = client.get("/v1/secrets?details=true").await.expect(200);
        expired = rows.as_array().unwrap().iter().any(|row| row["name"] == "SHORT" && row["expired"] == true);
        if expired {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(expired);
    // What is listed with the inherited ones is what an agent gets: what has expired hides nothing.
    let of_session = format!("/v1/sessions/{session}/secrets");
    let listed = client.get(&format!("{of_session}?inherited=true")).await.expect(200);
    assert_eq!(listed, json!(["BOTH", "LONG", "SHORT"]));
    let details = client.get(&format!("{of_session}?inherited=true&details=true")).await.expect(200);
    let rows = details.as_array().unwrap().iter();
    let shown: Vec<_> = rows.map(|row| json!([row["name"], row["scope"], row["expired"]])).collect();
    assert_eq!(
        json!(shown),
        json!([
            ["BOTH", "platform", null],
            ["BOTH", "session", true],
            ["LONG", "platform", null],
            ["SHORT", "platform", true]
        ])
    );
    let agent = client.boot(&session, json!({})).await;
    let seen = client.environment(&agent).await;
    assert!(!seen.contains_key("SHORT"));
    assert_eq!((&seen["LONG"].1, &seen["BOTH"].1), (&sha256("platform"), &sha256("platform")));
    let agents = format!("/v1/sessions/{session}/agents");
    client.post(&agents, json!({ "secrets": ["SHORT"] })).await.expect_invalid("secrets");
    // Names stay until they are deleted.
    client.delete("/v1/secrets/short").await.expect(204);
    client.delete("/v1/secrets/short").await.expect_error(404, "not_found");
    client.terminate(&session).await;
}

#[tokio::test]
async fn forty_concurrent_sets_of_different_names_all_arrive_and_of_one_name_are_counted() {
    let platform = Platform::make("forty sets").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let secrets = format!("/v1/sessions/{session}/secrets");
    join_all((0..40).map(|index| client.set_secrets(&session, json!({ format!("NAME_{index:02}"): "v" })))).await;
    let expected: Vec<String> = (0..40).map(|index| format!("NAME_{index:02}")).collect();
    assert_eq!(client.get(&secrets).await.expect(200), json!(expected));
    join_all((0..10).map(|index| client.post("/v1/secrets", json!({ "ONE": format!("{index}") })))).await;
    let rows = client.get("/v1/secrets?details=true").await.expect(200);
    assert_eq!((&rows[0]["version"], rows.as_array().unwrap().len()), (&json!(10), 1));
}

#[tokio::test]
async fn a_selection_is_bounded_and_counts_a_name_once() {
    let platform = Platform::make("selection").await;
    let client = &platform.client;
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "A": "1" })).await;
    let agents = format!("/v1/sessions/{session}/agents");
    let refused = client.post(&agents, json!({ "secrets": vec!["A"; 201] })).await;
    assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], "secrets");
    let agent = client.boot(&session, json!({ "secrets": vec!["a"; 200] })).await;
    assert_eq!(client.environment(&agent).await["A"].1, sha256("1"));
    client.terminate(&session).await;
}
