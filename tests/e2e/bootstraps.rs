//! Functions' binaries under the Lambda Runtime API, with the events that API Gateway really sends: of a REST API, which
//! is what the template makes, and of an HTTP API. The table behind them is the shared stack's.
//!
//! A sample is run; `THEAZO_ALL_FUNCTIONS=1 cargo test -p theazo-local --test e2e -- bootstraps::` builds and runs all, and
//! `THEAZO_BOOTSTRAPS=target/lambda` in its place runs the release binaries that `cargo lambda build` has left there.

use crate::harness::{
    Break, Platform, Tap, bootstrap, has_bootstrap, is_release, make_canary, may_call_services, sha256, stack,
};
use serde_json::json;
use std::time::{Duration, Instant};
use theazo_functions::deployment::CapabilityName;
use theazo_functions::routes::{ROUTES, Route};
use theazo_functions::schedule::SCHEDULED;
use theazo_http::Caller;
use theazo_local::lambda::gateway::{Asked, Got, read};
use theazo_local::lambda::{Bootstrap, Outcome};
use theazo_store::{Aws, AwsEndpoints, Table};
use theazo_tenancy::{AgentId, Mode, PlatformId, SessionId, make_agent_token, make_api_key};
use tokio::task::spawn_blocking;

const LIMIT: Duration = Duration::from_secs(30);

/// A function with the variables that the template gives it, or those in their place.
async fn start_with(name: &str, more: &[(&str, &str)]) -> Bootstrap {
    start_for(name, more, LIMIT).await
}

/// The same, with so long for each event.
async fn start_for(name: &str, more: &[(&str, &str)], limit: Duration) -> Bootstrap {
    let asked = name.to_owned();
    let (stack, binary) = spawn_blocking(move || (stack(), bootstrap(&asked))).await.unwrap();
    let environment = stack.data_dir().read("lambda.env").unwrap().expect("the functions' environment");
    let lines = environment.lines().map(|line| line.split_once('=').expect("NAME=value"));
    let has_key = ROUTES.iter().any(|route| route.info.name == name && route.info.authenticates());
    let lines = lines.filter(|(variable, _)| has_key || *variable != "THEAZO_CREDENTIAL_KEY");
    let lines = lines.filter(|(variable, _)| more.iter().all(|(other, _)| variable != other));
    let variables = lines.chain([("RUST_LOG", "error")]).chain(more.iter().copied());
    let variables: Vec<_> = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Bootstrap::start(binary, &variables, limit).await.unwrap()
}

async fn start(name: &str) -> Bootstrap {
    start_with(name, &[]).await
}

fn route(name: &str) -> &'static Route {
    ROUTES.iter().find(|route| route.info.name == name).unwrap()
}

/// A request of a route, with every parameter of its path given some value.
fn ask(name: &str, key: &str, params: &[&str], body: &str) -> Asked {
    let info = &route(name).info;
    let mut path = info.pattern.0.to_owned();
    for index in 0.. {
        let Some((before, rest)) = path.split_once('{') else { break };
        let param = params.get(index).copied().unwrap_or("x");
        path = format!("{before}{param}{}", rest.split_once('}').unwrap().1);
    }
    Asked {
        method: info.method.into(),
        path,
        headers: vec![
            ("Authorization".into(), format!("Bearer {key}")),
            ("content-type".into(), "application/json".into()),
        ],
        body: body.into(),
        source_ip: "192.0.2.7".into(),
        ..Asked::default()
    }
}

/// What each payload gets: the REST API's, the HTTP API's, and both with the body in base64.
async fn answers(function: &Bootstrap, asked: &Asked) -> Vec<(Got, Outcome)> {
    let mut answers = Vec::new();
    for event in [
        asked.rest_event("/", false),
        asked.http_event("$default", false),
        asked.rest_event("/", true),
        asked.http_event("$default", true),
    ] {
        let outcome = function.invoke(&event).await.unwrap();
        let got = read(&outcome).unwrap_or_else(|| panic!("no answer of a function's: {outcome:?}"));
        answers.push((got, outcome));
    }
    answers
}

/// Empty tables, for scheduled runs.
const OWN_TABLE: &str = "bootstraps";

/// What EventBridge sends on a schedule.
fn minute() -> serde_json::Value {
    json!({
        "version": "0",
        "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa",
        "detail-type": "Scheduled Event",
        "source": "aws.events",
        "account": "000000000000",
        "time": "2015-10-08T16:53:06Z",
        "region": "us-east-1",
        "resources": ["arn:aws:events:us-east-1:000000000000:rule/minutely"],
        "detail": {},
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_function_starts_and_answers_events_of_both_kinds_of_api() {
    let mut started = 0;
    for route in ROUTES.iter().filter(|route| has_bootstrap(route.info.name)) {
        let (name, streams) = (route.info.name, route.info.streams);
        let function = start(name).await;
        // Well-formed, so that it is looked for in the table.
        let (platform, session, agent) = (PlatformId::make(), SessionId::make(), AgentId::make());
        let key = make_api_key(&platform, Mode::Live);
        let token = make_agent_token(&platform, Mode::Live, &session, &agent);
        let plain = ask(name, &key.text, &[&token.text], "{}");
        // Of a path with encoded segments, where a token has its own place, and with a header that is there twice.
        let has_token = route.info.pattern.0.contains("{token}");
        let params = [if has_token { &token.text } else { "a%20b%2F%C3%A9" }, "%E2%82%AC"];
        let mut odd = ask(name, &key.text, &params, "{}");
        odd.headers.extend(["1", "2"].map(|value| ("X-Twice".to_owned(), value.to_owned())));
        let told = [answers(&function, &plain).await, answers(&function, &odd).await];
        for (got, outcome) in told.into_iter().flatten() {
            let is_open = route.info.callers.contains(&Caller::Anyone);
            let expected = if is_open { 200 } else { 401 };
            assert_eq!(got.status, expected, "{name}: {got:?}");
            assert!(got.headers["x-request-id"].starts_with("req_"), "{name}: {got:?}");
            assert!(is_open || got.headers["content-type"] == "application/json", "{name}: {got:?}");
            let Outcome::Answered { streamed, .. } = outcome else { panic!("{name} failed") };
            assert_eq!(streamed, streams, "{name}");
        }
        started += 1;
    }
    let endpoints = AwsEndpoints { dynamodb: spawn_blocking(stack).await.unwrap().dynamodb_url(), kms: None };
    Table::new(&Aws::local(&endpoints), OWN_TABLE).ensure_exists().await.unwrap();
    for function in SCHEDULED.iter().filter(|function| has_bootstrap(function.name)) {
        // Over tables of its own: the stack has work of other tests on its list.
        let function_name = function.name;
        let function =
            start_with(function.name, &[("THEAZO_TABLE", OWN_TABLE), ("THEAZO_DEPLOYMENT", "bootstraps")]).await;
        let Outcome::Answered { body, streamed, .. } = function.invoke(&minute()).await.unwrap() else {
            panic!("a scheduled run failed")
        };
        let told: serde_json::Value = serde_json::from_slice(&body).unwrap();
        let field = if function_name == "reconcile" { "orphans" } else { "platformsFinished" };
        assert!(!streamed && told[field] == 0, "{told}");
        started += 1;
    }
    let names = ROUTES.iter().map(|route| route.info.name).chain(SCHEDULED.iter().map(|function| function.name));
    assert_eq!(started, names.filter(|name| has_bootstrap(name)).count());
    assert!(started > 0, "there is no function");
}

/// What the code of a service leaves in a binary, and whether a function may call that.
fn parts(name: &str) -> Vec<(&'static str, bool)> {
    let (data, kms) = may_call_services(name);
    let sandboxes = match ROUTES.iter().find(|route| route.info.name == name) {
        Some(route) => route.capabilities.contains(&CapabilityName::Sandboxes),
        None => SCHEDULED.iter().any(|function| function.name == name && function.sandboxes),
    };
    vec![
        ("DynamoDB_20120810.", data),
        ("TrentService.", kms),
        // AWS's roots, for TLS to either.
        ("-----BEGIN CERTIFICATE-----", data || kms),
        // Docker's API.
        ("/containers/create", sandboxes),
    ]
}

#[test]
fn a_function_of_a_release_contains_the_code_of_the_services_that_it_calls_and_of_no_other() {
    // What is not optimised has everything.
    if !is_release() {
        return;
    }
    let names = ROUTES.iter().map(|route| route.info.name).chain(SCHEDULED.iter().map(|function| function.name));
    for name in names.filter(|name| has_bootstrap(name)) {
        let binary = std::fs::read(bootstrap(name)).unwrap();
        for (part, expected) in parts(name) {
            let has = memchr::memmem::find(&binary, part.as_bytes()).is_some();
            assert_eq!(has, expected, "{name}: {part}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_stays_warm_goes_on_with_the_connections_that_it_has() {
    let platform = Platform::make("warm").await;
    let session = platform.client.session("u").await;
    platform.client.set_secrets(&session, json!({ "A": "1" })).await;
    let agent = platform.client.boot(&session, json!({})).await;
    let table = spawn_blocking(stack).await.unwrap().dynamodb_url();
    for (name, params, body) in [
        ("secrets-set", [&session], r#"{"A": "2"}"#),
        ("agents-exec", [&agent], r#"{"language": "bash", "code": "true"}"#),
    ] {
        let tap = Tap::tcp(table.trim_start_matches("http://").parse().unwrap()).await;
        let function = start_with(name, &[("AWS_ENDPOINT_URL_DYNAMODB", &tap.url())]).await;
        let asked = ask(name, &platform.live_key, &params.map(String::as_str), body);
        let mut made = Vec::new();
        for _ in 0..12 {
            let outcome = function.invoke(&asked.rest_event("/", false)).await.unwrap();
            assert!(read(&outcome).unwrap().status < 300, "{outcome:?}");
            function.frozen().await.unwrap();
            made.push(tap.wires().len());
        }
        // What goes side by side has a connection each, and a later request may find one of them still in use.
        assert!(made[0] > 0 && made[11] <= 2 * made[0], "{name}: {made:?}");
    }
    platform.client.terminate(&session).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_seals_what_another_delivers_and_a_third_runs_code_with_it() {
    let platform = Platform::make("bootstraps at work").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let value = make_canary("sealed");
    let sealing = start("secrets-set").await;
    let body = json!({ "api_token": value }).to_string();
    let asked = ask("secrets-set", &platform.live_key, &[&session], &body);
    for (got, _) in answers(&sealing, &asked).await {
        assert_eq!(got.status, 204, "{got:?}");
    }
    let agent = client.boot(&session, json!({})).await;
    let running = start("agents-exec").await;
    let code = json!({ "language": "bash", "code": "printf $API_TOKEN | sha256sum | cut -c1-64" }).to_string();
    for (got, _) in answers(&running, &ask("agents-exec", &platform.live_key, &[&agent], &code)).await {
        let told: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        assert_eq!((got.status, &told["stdout"]), (200, &json!(format!("{}\n", sha256(&value)))), "{told}");
    }
    client.terminate(&session).await;
}

/// The silence that connections on the way may end at is five minutes; ours is less by one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn code_that_says_nothing_for_four_minutes_has_its_connection_kept_alive_by_its_function() {
    let platform = Platform::make("long silence").await;
    let session = platform.client.session("u").await;
    let agent = platform.client.boot(&session, json!({})).await;
    let function = start_for("agents-exec", &[], Duration::from_secs(400)).await;
    let run = json!({ "language": "bash", "code": "sleep 244; echo done", "timeout": "5m" }).to_string();
    let asked = ask("agents-exec", &platform.live_key, &[&agent], &run);
    let mut pieces = function.stream(&asked.rest_event("/", false)).unwrap();
    let (began, mut text) = (Instant::now(), Vec::new());
    let mut kept_alive = Vec::new();
    while let Some(piece) = pieces.recv().await {
        if !piece.is_empty() && piece.iter().all(|byte| *byte == b' ') {
            kept_alive.push(began.elapsed().as_secs());
        }
        text.extend_from_slice(&piece);
    }
    // After four minutes, and before the code ended.
    assert!(kept_alive.first().is_some_and(|after| *after >= 239), "{kept_alive:?}");
    let text = String::from_utf8(text).unwrap();
    let told: serde_json::Value = serde_json::from_str(text.rsplit('\0').next().unwrap()).unwrap();
    assert_eq!((&told["stdout"], &told["exitCode"]), (&json!("done\n"), &json!(0)), "{text}");
    platform.client.terminate(&session).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_run_leaves_in_the_log_is_written_before_its_function_may_be_frozen_and_nobody_waits_for_it() {
    let platform = Platform::make("frozen").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let table = spawn_blocking(stack).await.unwrap().dynamodb_url();
    let tap = Tap::tcp(table.trim_start_matches("http://").parse().unwrap()).await;
    for round in 1..=5 {
        let function = start_with("agents-exec", &[("AWS_ENDPOINT_URL_DYNAMODB", &tap.url())]).await;
        // Entries are all that a run writes several rows of at once.
        tap.fail_some("batchwriteitem", 0, usize::MAX, Break::Held);
        let run = json!({ "language": "bash", "code": "# theazo:stdout x" }).to_string();
        let asked = ask("agents-exec", &platform.test_key, &[&agent], &run);
        let outcome = function.invoke(&asked.rest_event("/", false)).await.unwrap();
        tap.mend();
        function.frozen().await.unwrap();
        // Nothing of it goes on after that.
        drop(function);
        assert_eq!(read(&outcome).unwrap().status, 200, "{outcome:?}");
        let logs = client.get(&format!("/v1/logs?agentId={agent}&limit=100")).await.expect(200);
        let runs = logs["data"].as_array().unwrap().iter().filter(|entry| entry["metadata"]["event"] == "agent.exec");
        assert_eq!(runs.count(), round);
    }
    client.terminate(&session).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_no_request_fails_and_does_not_keep_its_function_awake() {
    let platform = Platform::make("odd-event").await;
    let function = start("agents-exec").await;
    for _ in 0..2 {
        // As from the console's own button for tests.
        let outcome = function.invoke(&json!({ "key1": "value1" })).await.unwrap();
        assert!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
        function.frozen().await.unwrap();
        let nobody = AgentId::make().to_string();
        let asked = ask("agents-exec", &platform.test_key, &[&nobody], r#"{"language": "bash", "code": "true"}"#);
        let outcome = function.invoke(&asked.rest_event("/", false)).await.unwrap();
        assert_eq!(read(&outcome).unwrap().status, 404, "{outcome:?}");
        function.frozen().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_paths_headers_and_queries_arrive_as_they_were_sent_whatever_the_payload() {
    let platform = Platform::make("bootstraps").await;
    let key = &platform.live_key;
    let by_user = start("sessions-by-user").await;
    for (encoded, decoded) in
        [("a%2Fb", "a/b"), ("a%252Fb", "a%2Fb"), ("a%20b", "a b"), ("a+b", "a+b"), ("%C3%A9", "é")]
    {
        for (got, _) in answers(&by_user, &ask("sessions-by-user", key, &[encoded], "{}")).await {
            assert_eq!(got.status, 200, "{encoded}: {got:?}");
            let session: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
            assert_eq!(session["userId"], decoded, "{encoded}");
        }
    }

    let session = platform.client.session("u").await;
    let (set, list) = (start("secrets-set").await, start("secrets-list").await);
    let canary = make_canary("bootstrap");
    let body = json!({ "TOKEN": canary, "accents": "é\u{1f600}" }).to_string();
    for (got, _) in answers(&set, &ask("secrets-set", key, &[&session], &body)).await {
        assert_eq!((got.status, got.body.len()), (204, 0), "{got:?}");
    }
    let mut asked = ask("secrets-list", key, &[&session], "");
    asked.headers.extend([("X-Twice".to_owned(), "1".to_owned()), ("X-Twice".to_owned(), "2".to_owned())]);
    // Which of two values is meant nobody chooses.
    for query in ["details=true&details=true", "details=true&details=false", "details=false&details=true"] {
        asked.query = query.into();
        let got = answers(&list, &asked).await.into_iter().map(|(got, _)| got);
        assert_eq!(got.map(|got| got.status).collect::<Vec<_>>(), [400; 4], "{query}");
    }
    asked.query = "details=true".into();
    for (got, _) in answers(&list, &asked).await {
        let listed: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
        assert_eq!((got.status, listed[0]["version"].as_u64()), (200, Some(4)), "{listed}");
    }
    // The caller's address is the gateway's word.
    let audit = platform.client.get("/v1/audit").await.expect(200);
    let entries = audit["data"].as_array().unwrap();
    let sealed =
        entries.iter().find(|entry| entry["action"].as_str().is_some_and(|action| action.contains("set"))).unwrap();
    assert!(sealed.to_string().contains("192.0.2.7"), "{sealed}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_local_stack_takes_of_a_bodys_size_a_function_takes_too_and_it_refuses_the_rest_alike() {
    let platform = Platform::make("large bodies").await;
    let by_user = start("sessions-by-user").await;
    let mut refused = Vec::new();
    for bytes in [6_000_000, 6_000_001] {
        let around = r#"{"metadata":{"a":""}}"#;
        let body = around.replace("\"\"", &format!("\"{}\"", "x".repeat(bytes - around.len())));
        assert_eq!(body.len(), bytes);
        let path = "/v1/sessions/by-user/large";
        let own = platform.client.try_call("POST", path, Some(body.clone().into_bytes())).await.unwrap();
        let own = own.expect_error(400, "invalid_request");
        for (got, _) in answers(&by_user, &ask("sessions-by-user", &platform.live_key, &["large"], &body)).await {
            let told: serde_json::Value = serde_json::from_slice(&got.body).unwrap();
            assert_eq!((got.status, &told["error"]["details"]), (400, &own["details"]));
        }
        refused.push(own["details"]["field"].clone());
    }
    // What fits is read, and refused for what it says.
    assert_eq!(refused, ["metadata.a", "body"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_that_is_sent_twice_means_the_same_whatever_the_payload_and_the_order() {
    let platform = Platform::make("twice").await;
    let session = platform.client.session("u").await;
    let twice = |asked: &Asked, name: &str, values: [&str; 2]| {
        let mut asked = asked.clone();
        asked.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        asked.headers.extend(values.map(|value| (name.to_owned(), value.to_owned())));
        asked
    };
    let list = start("secrets-list").await;
    let asked = ask("secrets-list", &platform.live_key, &[&session], "");
    let (good, nonsense) = (format!("Bearer {}", platform.live_key), "Bearer nonsense");
    for (name, values) in [
        ("Authorization", [nonsense, &good]),
        ("Authorization", [&good, nonsense]),
        ("Authorization", [&good, &good]),
        ("authorization", [nonsense, &good]),
    ] {
        let got = answers(&list, &twice(&asked, name, values)).await.into_iter().map(|(got, _)| got.status);
        assert_eq!(
            got.collect::<Vec<_>>(),
            [401; 4],
            "{name}, {}",
            if values[0] == good { "good first" } else { "last" }
        );
    }
    assert!(answers(&list, &asked).await.iter().all(|(got, _)| got.status == 200));

    // A request is done once under both of two keys, and under neither alone: another one is refused, or done.
    let by_user = start("sessions-by-user").await;
    let asked = ask("sessions-by-user", &platform.live_key, &["twice"], "{}");
    let other = Asked { body: r#"{"metadata":{"other":"body"}}"#.into(), ..asked.clone() };
    for values in [["one", "two"], ["two", "one"]] {
        let event = twice(&asked, "Idempotency-Key", values).rest_event("/", false);
        assert_eq!(read(&by_user.invoke(&event).await.unwrap()).unwrap().status, 200);
        let statuses = async |asked: &Asked| {
            let answers = answers(&by_user, asked).await;
            answers.into_iter().map(|(got, _)| got.status).collect::<Vec<_>>()
        };
        assert_eq!(statuses(&twice(&other, "Idempotency-Key", values)).await, [409; 4], "{values:?}");
        for value in values {
            let mut alone = other.clone();
            alone.headers.push(("Idempotency-Key".to_owned(), value.to_owned()));
            assert_eq!(statuses(&alone).await, [200; 4], "{value}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_arrives_piece_by_piece_while_it_goes_on() {
    let platform = Platform::make("live stream").await;
    let first = platform.client.session("u").await;
    let function = start("logs-stream").await;
    let asked = ask("logs-stream", &platform.live_key, &[], "");
    let mut pieces = function.stream(&asked.rest_event("/", false)).unwrap();
    let mut arrived = Vec::new();
    // How many pieces there were once a session's entry had arrived. The stream itself goes on for minutes.
    let mut until = async |session: &str| {
        let reading = async {
            loop {
                let piece = pieces.recv().await.expect("the stream goes on");
                arrived.push(piece);
                let so_far = arrived.concat();
                let text = String::from_utf8_lossy(&so_far);
                // An event is whole at its empty line.
                if text.split("\n\n").any(|event| event.contains(session)) && text.ends_with("\n\n") {
                    return (arrived.len(), text.into_owned());
                }
            }
        };
        tokio::time::timeout(LIMIT, reading).await.expect("an entry arrives while the stream goes on")
    };
    let (before, text) = until(&first).await;
    let (head, events) = text.split_once(&"\0".repeat(8)).expect("a head, and what follows it");
    let head: serde_json::Value = serde_json::from_str(head).unwrap();
    assert_eq!((&head["statusCode"], &head["headers"]["content-type"]), (&json!(200), &json!("text/event-stream")));
    assert!(events.contains("event: log\n") && events.contains("session created"), "{events}");

    // What is written only now is in none of the pieces that have arrived.
    let second = platform.client.session("v").await;
    let (after, text) = until(&second).await;
    assert!(before >= 1 && after > before, "{before} pieces, then {after}");
    assert!(text.find(&first) < text.find(&second), "{text}");
}
