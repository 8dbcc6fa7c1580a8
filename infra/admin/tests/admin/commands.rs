//! Platforms, keys, providers and reconciling, by the command.

use crate::local::{Local, command, output, stderr, stdout, text};
use serde_json::Value;
use std::net::TcpListener;
use std::process::Output;

/// Runs the command with those variables and no others.
async fn admin(args: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = command(args);
    command.envs(environment.iter().copied());
    output(command).await
}

/// What the API says of a key.
async fn whoami(local: &Local, key: &str) -> (u16, Value) {
    local.call(&key.into(), "GET", "/whoami", None).await
}

fn names(object: &Value) -> Vec<&str> {
    let mut names: Vec<_> = object.as_object().unwrap().keys().map(String::as_str).collect();
    names.sort_unstable();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_platform_has_a_live_and_a_test_key_that_work_over_http() {
    let local = Local::start().await;
    let made = local.json(&["platform", "create", "Acme & S\u{f6}hne"]).await;
    assert_eq!(names(&made), ["id", "liveKey", "name", "testKey"]);
    assert_eq!(made["name"], "Acme & S\u{f6}hne");
    for (field, environment) in [("liveKey", "live"), ("testKey", "test")] {
        let (status, answer) = whoami(&local, text(&made[field])).await;
        assert_eq!(status, 200);
        assert_eq!(answer["platformId"], made["id"]);
        assert_eq!(answer["environment"], environment);
        assert_eq!(answer["kind"], "platform");
    }
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_belongs_to_its_platform_and_says_its_environment() {
    let local = Local::start().await;
    let platform = local.json(&["platform", "create", "acme"]).await;
    let id = text(&platform["id"]);
    for environment in ["test", "live"] {
        let key = local.json(&["key", "create", id, "--environment", environment, "--name", "ci"]).await;
        assert_eq!(names(&key), ["environment", "id", "key", "name", "platformId"]);
        assert_eq!(key["platformId"], platform["id"]);
        assert_eq!(key["environment"], environment);
        assert_eq!(key["name"], "ci");
        assert!(text(&key["key"]).starts_with(&format!("th_{environment}_")));
        let (status, answer) = whoami(&local, text(&key["key"])).await;
        assert_eq!((status, &answer["keyId"], &answer["platformId"]), (200, &key["id"], &platform["id"]));
        assert_eq!(answer["environment"], environment);
        assert!(key["key"] != platform["liveKey"] && key["key"] != platform["testKey"]);
    }
    // The first keys go on working.
    assert_eq!(whoami(&local, text(&platform["liveKey"])).await.0, 200);
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_keys_of_a_platform_are_listed_without_themselves_and_revoked_when_that_is_said_twice() {
    let local = Local::start().await;
    let (mine, other) =
        (local.json(&["platform", "create", "acme"]).await, local.json(&["platform", "create", "b"]).await);
    let (id, other) = (text(&mine["id"]), text(&other["id"]));
    let another = local.json(&["key", "create", id, "--environment", "live", "--name", "ci"]).await;
    let list = async |id: &str| local.json(&["key", "list", id]).await.as_array().unwrap().clone();
    let listed = list(id).await;
    let named = |name: &str| listed.iter().find(|line| line["name"] == name).unwrap_or_else(|| panic!("{listed:?}"));
    assert_eq!(listed.len(), 3, "{listed:?}");
    let line = named("ci");
    assert_eq!(names(line), ["createdAt", "environment", "id", "name", "prefix"]);
    assert_eq!((&line["id"], &line["environment"]), (&another["id"], &"live".into()));
    assert!(text(&another["key"]).starts_with(text(&line["prefix"])) && line["prefix"] != another["key"], "{line}");
    let output = local.admin(&["key", "list", id]).await;
    for key in [&mine["liveKey"], &mine["testKey"], &another["key"]] {
        assert!(!stdout(&output).contains(text(key)), "{}", stdout(&output));
    }

    let key = text(&another["id"]);
    let unconfirmed = local.admin(&["key", "revoke", id, key]).await;
    assert!(unconfirmed.status.code() == Some(1) && stderr(&unconfirmed).contains("say --yes if that is meant"));
    // Nor is it another platform's to revoke.
    let strange = local.admin(&["key", "revoke", other, key, "--yes"]).await;
    assert!(strange.status.code() == Some(1) && stderr(&strange).contains("has no key"), "{}", stderr(&strange));
    assert_eq!(whoami(&local, text(&another["key"])).await.0, 200);
    let revoked = local.json(&["key", "revoke", id, key, "--yes"]).await;
    assert_eq!((&revoked["id"], &revoked["status"]), (&another["id"], &"revoked".into()));
    assert_eq!(whoami(&local, text(&another["key"])).await.0, 401);
    assert_eq!(list(id).await.len(), 2);
    let again = local.admin(&["key", "revoke", id, key, "--yes"]).await;
    assert!(stderr(&again).contains("has no key"), "{}", stderr(&again));

    // The last live key only by force.
    let (_, answer) = whoami(&local, text(&mine["liveKey"])).await;
    let last = text(&answer["keyId"]);
    let refused = local.admin(&["key", "revoke", id, last, "--yes"]).await;
    assert!(refused.status.code() == Some(1) && stderr(&refused).contains("say --force"), "{}", stderr(&refused));
    assert_eq!(whoami(&local, text(&mine["liveKey"])).await.0, 200);
    local.json(&["key", "revoke", id, last, "--yes", "--force"]).await;
    assert_eq!(whoami(&local, text(&mine["liveKey"])).await.0, 401);
    assert_eq!(list(id).await.len(), 1);
    let absent = local.admin(&["key", "list", &format!("plt_{}", "0".repeat(26))]).await;
    assert!(absent.status.success() && stderr(&absent).contains("or there is no such platform"), "{}", stderr(&absent));
    assert_eq!(local.admin(&["key", "revoke", id, "nonsense", "--yes"]).await.status.code(), Some(2));
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_list_shows_every_platform_once_newest_first_and_no_key() {
    let local = Local::start().await;
    let mut made = Vec::new();
    for name in ["one", "two", "three"] {
        made.push(local.json(&["platform", "create", name]).await);
    }
    let listed = local.json(&["platform", "list"]).await;
    let listed = listed.as_array().unwrap();
    assert!(listed.iter().all(|platform| names(platform) == ["createdAt", "id", "name"]));
    assert!(listed.iter().all(|platform| text(&platform["createdAt"]).ends_with('Z')));
    let shown: Vec<_> = listed.iter().map(|platform| (&platform["id"], text(&platform["name"]))).collect();
    let expected: Vec<_> = made.iter().rev().map(|platform| (&platform["id"], text(&platform["name"]))).collect();
    assert_eq!(shown[..3], expected);
    // Beside them only the stack's own.
    assert_eq!(shown[3..].iter().map(|(_, name)| *name).collect::<Vec<_>>(), ["local"]);

    let output = local.admin(&["platform", "list"]).await;
    let lines: Vec<_> = stdout(&output).lines().collect();
    assert!(lines[0].starts_with("PLATFORM"), "{lines:?}");
    assert!(lines[1].starts_with(text(&made[2]["id"])) && lines[1].ends_with("three"), "{lines:?}");
    assert_eq!(lines.len(), 5);
    assert!(!stdout(&output).contains("th_"));
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_platform_is_refused_and_shown_as_such_until_it_is_resumed() {
    let local = Local::start().await;
    let made = local.json(&["platform", "create", "acme"]).await;
    let (id, key) = (text(&made["id"]), text(&made["liveKey"]));
    let listed = async || {
        let listed = local.json(&["platform", "list"]).await;
        listed.as_array().unwrap().iter().find(|platform| platform["id"] == id).unwrap().clone()
    };
    for _ in 0..2 {
        let answer = local.json(&["platform", "suspend", id]).await;
        assert_eq!(answer, serde_json::json!({ "id": id, "status": "suspended" }));
        assert_eq!(whoami(&local, key).await.0, 403);
        assert!(listed().await["suspendedAt"].is_string());
    }
    let output = local.admin(&["platform", "list"]).await;
    let line = stdout(&output).lines().find(|line| line.starts_with(id)).unwrap().to_owned();
    assert!(line.contains("suspended"), "{line}");
    for _ in 0..2 {
        assert_eq!(local.json(&["platform", "resume", id]).await["status"], "active");
        assert_eq!(whoami(&local, key).await.0, 200);
        assert!(listed().await.get("suspendedAt").is_none());
    }
    // One that is deleted is neither suspended nor resumed, and one that is suspended can be deleted.
    local.json(&["platform", "suspend", id]).await;
    local.json(&["platform", "delete", id, "--yes"]).await;
    for verb in ["suspend", "resume"] {
        let output = local.admin(&["platform", verb, id]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(&format!("there is no platform {id}")), "{}", stderr(&output));
    }
    assert_eq!(whoami(&local, key).await.0, 401);
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_printed_once_with_a_sentence_that_says_so_and_nowhere_else() {
    let local = Local::start().await;
    let output = local.admin(&["platform", "create", "acme"]).await;
    assert!(output.status.success());
    let keys: Vec<_> = stdout(&output).split_whitespace().filter(|word| word.starts_with("th_")).collect();
    assert_eq!(keys.len(), 2, "{}", stdout(&output));
    for key in &keys {
        assert_eq!(whoami(&local, key).await.0, 200);
    }
    assert!(stderr(&output).contains("shown this once"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("th_"));

    let id = stdout(&output).split_whitespace().find(|word| word.starts_with("plt_")).unwrap();
    let output = local.admin(&["key", "create", id, "--environment", "test", "--json"]).await;
    let key: Value = serde_json::from_slice(&output.stdout).expect("JSON alone on standard output");
    assert_eq!(stdout(&output).matches(text(&key["key"])).count(), 1);
    assert!(stderr(&output).contains("shown this once") && !stderr(&output).contains("th_"));

    // Nor does the deepest logging of the libraries say a key: this program sets none up.
    let endpoint = local.endpoint().to_owned();
    let args = ["--endpoint", &endpoint, "key", "create", id, "--environment", "live"];
    let output = admin(&args, &[("RUST_LOG", "trace")]).await;
    assert_eq!(stderr(&output).lines().count(), 1, "{}", stderr(&output));
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_that_is_not_there_is_a_clear_failure() {
    let local = Local::start().await;
    let absent = format!("plt_{}", "0".repeat(26));
    let output = local.admin(&["key", "create", &absent, "--environment", "live"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains(&format!("there is no platform {absent}")), "{}", stderr(&output));
    assert!(output.stdout.is_empty());
    let output = local.admin(&["platform", "list", "--table", "other"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("there is no table `other` at http://127.0.0.1:"), "{}", stderr(&output));
    local.stop().await;
}

#[tokio::test]
async fn a_stack_that_is_not_running_is_a_clear_failure() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().port()
    };
    let endpoint = format!("http://127.0.0.1:{port}");
    for args in [["platform", "list"].as_slice(), &["platform", "create", "acme"]] {
        let key = ("THEAZO_CREDENTIAL_KEY", "5a".repeat(32));
        let output = admin(&[&["--endpoint", &endpoint], args].concat(), &[(key.0, &key.1)]).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(&format!("nothing answers at {endpoint}: is `cargo dev` running?")));
        assert!(output.stdout.is_empty());
    }
    // A key cannot be made without the one that seals it, which is said before anything is asked of the table.
    for (environment, why) in
        [(&[][..], "is needed"), (&[("THEAZO_CREDENTIAL_KEY", "5a")][..], "is not 64 hexadecimal digits")]
    {
        let output = admin(&["--endpoint", &endpoint, "platform", "create", "acme"], environment).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains(&format!("THEAZO_CREDENTIAL_KEY {why}")), "{}", stderr(&output));
    }
}

#[tokio::test]
async fn what_cannot_be_understood_is_a_usage_error() {
    let absent = format!("plt_{}", "0".repeat(26));
    let long = "x".repeat(129);
    let bad: &[&[&str]] = &[
        &[],
        &["platform"],
        &["platform", "destroy"],
        &["platform", "create"],
        &["platform", "create", ""],
        &["platform", "create", "a\nb"],
        &["platform", "create", &long],
        &["key", "create", &absent],
        &["key", "create", &absent, "--environment", "production"],
        &["key", "create", &absent, "--environment", "live", "--name", ""],
        &["key", "create", "plt_short", "--environment", "live"],
        &["platform", "list", "--endpoint", "127.0.0.1:9001"],
        &["platform", "list", "--endpoint", "https://127.0.0.1:9001"],
        &["platform", "list", "--endpoint", "http://127.0.0.1:9001", "--aws"],
    ];
    for args in bad {
        let output = admin(args, &[]).await;
        assert_eq!(output.status.code(), Some(2), "{args:?}: {}", stderr(&output));
        assert!(!output.stderr.is_empty() && output.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(admin(&["--help"], &[]).await.status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn aws_is_reached_as_the_usual_variables_say_and_only_when_asked() {
    let local = Local::start().await;
    let endpoint = local.endpoint().to_owned();
    let variables = [
        ("AWS_ENDPOINT_URL_DYNAMODB", endpoint.as_str()),
        ("AWS_REGION", "eu-central-1"),
        ("AWS_ACCESS_KEY_ID", "x"),
        ("AWS_SECRET_ACCESS_KEY", "x"),
    ];
    let output = admin(&["platform", "list", "--aws", "--json"], &variables).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(listed[0]["name"], "local");

    // Nor does a credential go anywhere as long as nobody has said where providers are.
    for command in [&["doctor"][..], &["provider", "list"], &["reconcile", "now"]] {
        let output = admin(&[command, &["--aws"]].concat(), &variables).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(stderr(&output).contains("THEAZO_DOCKER_PRIVATE_RANGES is not set"), "{}", stderr(&output));
    }

    let output = admin(&["platform", "list", "--aws"], &variables[..2]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("AWS cannot be reached"), "{}", stderr(&output));
    assert!(!stderr(&output).contains("cargo dev"));
    local.stop().await;
}

#[tokio::test]
async fn reconciling_can_be_asked_for_and_says_what_it_did() {
    let local = Local::start().await;
    let folder = local.folder.to_str().unwrap();
    let told = local.json(&["reconcile", "now", "--data-dir", folder]).await;
    assert_eq!((&told["orphans"], &told["postponed"]), (&0.into(), &0.into()), "{told}");
    // Whoever waits is told how far it is: of a platform that goes, which is on the list.
    let made = local.json(&["platform", "create", "acme"]).await;
    local.json(&["platform", "delete", text(&made["id"]), "--yes"]).await;
    let output = local.admin(&["reconcile", "now", "--data-dir", folder]).await;
    let said = ["0 of 1 things on the list", "1 of 1 things on the list"].map(|said| stderr(&output).find(said));
    assert!(said[0].is_some() && said[0] < said[1], "{}", stderr(&output));
    // Without the stack's folder it is not known which deployment is meant.
    let output = local.admin(&["reconcile", "now", "--data-dir", "/nowhere"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("THEAZO_DEPLOYMENT"), "{}", stderr(&output));
    local.stop().await;
}

#[tokio::test]
async fn what_platforms_have_configured_at_providers_is_listed_with_its_health_and_can_be_removed() {
    let local = Local::start().await;
    let made = local.json(&["platform", "create", "acme"]).await;
    let id = text(&made["id"]);
    let call = async |method: reqwest::Method, path: &str, key: &str, body: Value| {
        let url = format!("{}{path}", local.stack().base_url());
        let answer = reqwest::Client::new().request(method, url).bearer_auth(key).json(&body).send().await.unwrap();
        assert!(answer.status().is_success(), "{path}: {answer:?}");
    };
    for key in [text(&made["liveKey"]), text(&made["testKey"])] {
        call(reqwest::Method::POST, "/v1/secrets", key, serde_json::json!({ "E2B_KEY": "e2b_x" })).await;
        let config = serde_json::json!({ "credentialRef": "E2B_KEY" });
        call(reqwest::Method::PUT, "/v1/providers/e2b", key, config).await;
    }
    let endpoint = local.endpoint().to_owned();
    let folder = local.folder.to_str().unwrap();
    let credential_key = local.credential_key();
    // An account at an address where nobody answers.
    let environment = [
        ("THEAZO_CREDENTIAL_KEY", credential_key.as_str()),
        ("THEAZO_E2B_API_URL", "http://127.0.0.1:9"),
        ("THEAZO_E2B_SANDBOX_URL", "http://127.0.0.1:9"),
    ];
    let run = async |args: &[&str]| {
        let all = ["--endpoint", &endpoint, "--data-dir", folder, "--json"];
        admin(&[&all, args].concat(), &environment).await
    };
    let provider = async |args: &[&str]| run(&[&["provider"], args].concat()).await;
    let listed = async |args: &[&str]| {
        let output = provider(&[&["list"], args].concat()).await;
        assert!(output.status.success(), "{}", stderr(&output));
        let listed: Value = serde_json::from_slice(&output.stdout).unwrap();
        let shown = |line: &Value| {
            assert_eq!((text(&line["platform"]), text(&line["provider"])), (id, "e2b"));
            (text(&line["environment"]).to_owned(), line["healthy"].as_bool().unwrap())
        };
        let mut lines: Vec<_> = listed.as_array().unwrap().iter().map(shown).collect();
        lines.sort();
        lines
    };
    assert_eq!(listed(&[id]).await, [("live".to_owned(), false), ("test".to_owned(), true)]);
    assert_eq!(listed(&[]).await.len(), 2);

    // So does doctor, which fails for the one that does not answer.
    let looked_at = async || {
        let output = run(&["doctor"]).await;
        let found: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{}", stderr(&output)));
        let is_account = |line: &&Value| text(&line["what"]).starts_with("provider e2b of ");
        let accounts = found.as_array().unwrap().iter().filter(is_account);
        let mut lines: Vec<_> =
            accounts.map(|line| (text(&line["what"]).to_owned(), text(&line["verdict"]).to_owned())).collect();
        lines.sort();
        (output.status.code(), lines)
    };
    let of = |environment, verdict: &str| (format!("provider e2b of {id}, {environment}"), verdict.to_owned());
    assert_eq!(looked_at().await, (Some(1), vec![of("live", "bad"), of("test", "good")]));

    let unconfirmed = provider(&["remove", id, "e2b"]).await;
    assert!(unconfirmed.status.code() == Some(1) && stderr(&unconfirmed).contains("say --yes if that is meant"));
    let removed = provider(&["remove", id, "e2b", "--yes"]).await;
    assert!(removed.status.success(), "{}", stderr(&removed));
    assert_eq!(listed(&[]).await, [("test".to_owned(), true)]);
    assert_eq!(looked_at().await, (Some(0), vec![of("test", "good")]));
    let again = provider(&["remove", id, "e2b", "--yes"]).await;
    assert!(stderr(&again).contains(&format!("{id} has not configured e2b")), "{}", stderr(&again));
    assert_eq!(provider(&["remove", id, "abacus", "--yes"]).await.status.code(), Some(2));
    local.stop().await;
}
