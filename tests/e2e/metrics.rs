//! How a platform's agents do, over HTTP: what is measured, how it is asked for, and who sees it.

use crate::exec_streams;
use crate::harness::{CapturedLog, Client, Platform, incoming, own_deployment, stack};
use crate::logs::entries;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_functions::emf::{RECONCILE_FIGURES, REQUEST_FIGURES, REQUEST_KINDS};
use theazo_functions::reconcile::{Boots, reconcile};
use theazo_functions::routes::ROUTES;
use theazo_functions::serve;
use theazo_http::{LogFormat, format_time};
use theazo_store::{HOUR_MS, Measurements, Metrics, now_ms};
use theazo_tenancy::{Mode, Operator, TenantScope};
use tracing::instrument::WithSubscriber;

const MINUTE_MS: i64 = 60_000;
const METRICS: [&str; 5] = ["agents.boot_time", "agents.active", "exec.duration", "cost.total", "error_rate"];

async fn series(client: &Client, query: &str) -> Vec<Value> {
    let answer = client.get(&format!("/v1/metrics?{query}")).await;
    assert!(answer.round_trips() <= 3, "{query}");
    answer.expect(200).as_array().unwrap().clone()
}

/// The last point, once it is as it should be: what costs no round trip is written a moment later.
async fn until(client: &Client, query: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    for _ in 0..200 {
        last = series(client, query).await.last().cloned().unwrap_or_default();
        if holds(&last) {
            return last;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("{query}: {last}");
}

/// Where the platform's test keys act.
#[expect(clippy::disallowed_methods, reason = "a test looks at its platform's rows as the operator does")]
fn test_scope(platform: &Platform) -> TenantScope {
    Operator::assume().tenant(&platform.id, Mode::Test)
}

/// How many of a platform's test agents reconciling finds active now.
async fn noted(platform: &Platform) -> u64 {
    let (metrics, scope) = (Metrics::new(own_deployment().table().clone()), test_scope(platform));
    for _ in 0..20 {
        let minute = now_ms().div_euclid(MINUTE_MS) * MINUTE_MS;
        reconcile(&own_deployment(), Boots::UnderWay).await.unwrap();
        // A run that ended in a later minute has noted that one; one that passed somebody over, none.
        let noted = metrics.active(&scope, minute, minute + MINUTE_MS).await.unwrap();
        if let Some(agents) = noted.get(&minute) {
            return *agents;
        }
    }
    panic!("no run has noted anything");
}

#[tokio::test]
async fn an_hour_that_is_asked_for_has_its_own_points_and_each_quantile_its_own_figure() {
    let platform = Platform::make("an hour of metrics").await;
    let test = platform.client.with_key(Some(&platform.test_key));
    let (scope, deployment) = (test_scope(&platform), &own_deployment());
    let measurements = Measurements::new(deployment.table().clone(), deployment.log_queue().clone());
    let hour = (now_ms().div_euclid(HOUR_MS) - 3) * HOUR_MS;
    for minute in 0..60_u32 {
        let at = i64::from(minute) * MINUTE_MS;
        measurements.active(&scope, minute.into(), hour + at).await.unwrap();
        for beside in [hour - HOUR_MS, hour + HOUR_MS] {
            measurements.active(&scope, 70, beside + at).await.unwrap();
        }
    }
    let point = |at: i64, [p50, p95, p99]: [u64; 3]| json!({ "timestamp": format_time(at), "p50": p50, "p95": p95, "p99": p99 });
    let asked = async |hours: i64| {
        let (since, until) = (format_time(hour), format_time(hour + hours * HOUR_MS));
        series(&test, &format!("metric=agents.active&interval=1h&since={since}&until={until}")).await
    };
    assert_eq!(asked(1).await, [point(hour, [29, 56, 59])]);
    assert_eq!(asked(2).await, [point(hour, [29, 56, 59]), point(hour + HOUR_MS, [70, 70, 70])]);
}

#[tokio::test]
async fn what_code_takes_is_measured_from_its_beginning_to_its_end_in_one_piece_and_as_a_stream() {
    let platform = Platform::make("durations").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let code = json!({ "language": "bash", "code": "sleep 1" });
    let mut most = 0;
    for is_stream in [false, true] {
        let began = Instant::now();
        match is_stream {
            false => drop(client.post(&format!("/v1/agents/{agent}/exec"), code.clone()).await.expect(200)),
            true => {
                let mut stream = exec_streams::open(client, &agent, &code).await;
                assert_eq!(exec_streams::rest(&mut stream).await.last, Ok(json!({ "exitCode": 0 })));
            }
        }
        most = most.max(u64::try_from(began.elapsed().as_millis()).unwrap());
    }
    // Of both, and three of its boot and its session.
    let ran = entries(client, &format!("sessionId={session}"), 5).await;
    let ran: Vec<_> = ran.iter().filter(|entry| entry["metadata"]["event"] == "agent.exec").collect();
    assert_eq!(ran.len(), 2, "{ran:?}");
    for entry in ran {
        let ms = entry["metadata"]["durationMs"].as_u64().unwrap();
        assert!((1_000..=most).contains(&ms), "{ms} of {most}");
        assert_eq!(entry["message"], format!("bash exited with 0 after {ms} ms"));
    }
    let took = until(client, "metric=exec.duration&interval=1d", |point| point["p99"].is_u64()).await;
    // A sketch's figure is within a hundredth.
    for quantile in ["p50", "p99"] {
        let ms = took[quantile].as_u64().unwrap();
        assert!((990..=most + most / 100 + 1).contains(&ms), "{took} of {most}");
    }
    client.terminate(&session).await;
}

#[tokio::test]
async fn boots_execs_and_failures_are_measured_and_each_mode_sees_its_own() {
    let platform = Platform::make("metrics").await;
    let test = platform.client.with_key(Some(&platform.test_key));
    let session = test.session("u").await;
    let agents = [test.boot(&session, json!({})).await, test.boot(&session, json!({})).await];
    for n in 0..3 {
        test.run(&agents[0], "bash", &format!("# theazo:stdout {n}")).await;
    }
    // A result is a result, whatever its exit code; what the caller did wrong is nobody's failure; a provider's is.
    let exec = async |code: &str, language: &str| {
        let body = json!({ "language": language, "code": code });
        test.post(&format!("/v1/agents/{}/exec", agents[0]), body).await
    };
    exec("# theazo:exit 3", "bash").await.expect(200);
    exec("x", "cobol").await.expect_error(400, "invalid_request");
    exec("# theazo:fail", "bash").await.expect_error(502, "provider_error");
    let rate = until(&test, "metric=error_rate&interval=1d", |point| point["p50"].as_f64() > Some(0.0)).await;
    // Two boots and four execs went well.
    assert_eq!((&rate["p50"], &rate["p95"], &rate["p99"]), (&json!(0.142_857), &json!(0.142_857), &json!(0.142_857)));
    let took = until(&test, "metric=exec.duration", |point| point["p99"].is_u64()).await;
    assert!(took["p50"].as_u64() <= took["p95"].as_u64() && took["p95"].as_u64() <= took["p99"].as_u64(), "{took}");
    let boots = series(&test, "metric=agents.boot_time&interval=31d").await;
    assert!(!boots.is_empty() && boots.iter().all(|point| point["p50"].as_u64() < Some(60_000)), "{boots:?}");
    assert!((1..=2).contains(&series(&test, "metric=agents.boot_time").await.len()));

    assert_eq!(noted(&platform).await, 2);

    let summary = test.get("/v1/metrics/summary").await;
    assert!(summary.round_trips() <= 2);
    let nothing = json!({ "amount": 0, "currency": "usd" });
    let expected = json!({
        "activeAgents": 2, "activeSessions": 1, "costToday": nothing, "agentsCreatedToday": 2, "errorRate": 0.142_857,
    });
    assert_eq!(summary.expect(200), expected);
    test.call("POST", &format!("/v1/agents/{}/terminate", agents[1]), None).await.expect(200);
    let left = test.get("/v1/metrics/summary").await.expect(200);
    assert_eq!((&left["activeAgents"], &left["agentsCreatedToday"]), (&json!(1), &json!(2)));
    assert_eq!(noted(&platform).await, 1);
    test.terminate(&session).await;

    // The other mode has had nothing, nor have others.
    let stranger = Platform::make("no metrics").await;
    for client in [&platform.client, &stranger.client] {
        let idle = json!({
            "activeAgents": 0, "activeSessions": 0, "costToday": nothing, "agentsCreatedToday": 0, "errorRate": 0.0,
        });
        assert_eq!(client.get("/v1/metrics/summary").await.expect(200), idle);
        for metric in ["agents.boot_time", "exec.duration", "error_rate"] {
            assert!(series(client, &format!("metric={metric}")).await.is_empty(), "{metric}");
        }
        for metric in ["agents.active", "cost.total"] {
            let points = series(client, &format!("metric={metric}")).await;
            assert!(points.len() >= 24 && points.iter().all(|point| point["p99"].as_f64() == Some(0.0)), "{points:?}");
        }
    }
}

#[tokio::test]
async fn a_metric_is_asked_for_in_bounds_and_by_who_may_see_all_of_the_platform() {
    let platform = Platform::make("metric queries").await;
    let client = &platform.client;
    for (query, field) in [
        ("", "metric"),
        ("metric=agents", "metric"),
        ("metric=error_rate&interval=5m", "interval"),
        ("metric=error_rate&interval=32d", "interval"),
        ("metric=cost.total&interval=1h", "interval"),
        ("metric=error_rate&since=2026-01-01T00:00:00Z", "since"),
        ("metric=error_rate&since=2999-01-01T00:00:00Z", "since"),
        ("metric=error_rate&until=soon", "until"),
    ] {
        client.get(&format!("/v1/metrics?{query}")).await.expect_invalid(field);
    }
    let session = client.session("u").await;
    let minted = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    let token = client.with_key(minted["token"].as_str());
    token.get("/v1/metrics/summary").await.expect_error(403, "forbidden");
    for metric in METRICS {
        token.get(&format!("/v1/metrics?metric={metric}")).await.expect_error(403, "forbidden");
        series(client, &format!("metric={metric}&interval=7d")).await;
    }
    client.terminate(&session).await;
}

/// The figures that some work writes to the operator's log of that form.
async fn figures_of<T>(format: LogFormat, work: impl AsyncFn() -> T) -> Vec<Value> {
    // A line can be lost when another test's subscriber comes or goes at the same moment: tracing keeps one note per place
    // in the code of who wants to know.
    for _ in 0..5 {
        let captured = CapturedLog::default();
        work().with_subscriber(captured.subscriber(format, "info")).await;
        let log = captured.text();
        assert!(!log.contains("theazo::figures"), "a line is not wrapped in another: {log}");
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let found: Vec<Value> = lines.filter(|line| line.get("_aws").is_some()).collect();
        if !found.is_empty() {
            return found;
        }
    }
    Vec::new()
}

/// Holds a line against the embedded metric format: what `_aws` names is at the top, of the right kind, and named once.
fn check_figures(line: &Value) {
    let about = &line["_aws"];
    assert!(about["Timestamp"].as_i64() > Some(1_700_000_000_000), "{line}");
    let directives = about["CloudWatchMetrics"].as_array().unwrap();
    assert_eq!(directives.len(), 1, "{line}");
    let namespace = format!("Theazo/{}", stack().deployment().config().name);
    assert_eq!(directives[0]["Namespace"], namespace.as_str(), "{line}");
    let dimensions = directives[0]["Dimensions"].as_array().unwrap();
    for name in dimensions.iter().flat_map(|set| set.as_array().unwrap()) {
        assert!(line[name.as_str().unwrap()].is_string(), "{line}");
    }
    let metrics = directives[0]["Metrics"].as_array().unwrap();
    assert!(dimensions.len() == 1 && !metrics.is_empty(), "{line}");
    for metric in metrics {
        assert!(line[metric["Name"].as_str().unwrap()].is_u64(), "{line}");
        assert!(["Milliseconds", "Count"].contains(&metric["Unit"].as_str().unwrap()), "{line}");
    }
}

#[tokio::test]
async fn every_request_and_every_run_of_reconciling_writes_figures_for_the_operator_and_no_more() {
    let platform = Platform::make("figures").await;
    let deployment = &own_deployment();
    let ask = async |path: &str, key: &str| {
        let path = format!("{path}?search=private");
        serve(deployment, ROUTES, incoming("GET", &path, Some(key), &Value::Null)).await
    };
    for (path, route, kind, trips) in [
        ("/v1/logs", "logs-list", "read", 1),
        ("/v1/sessions/private", "sessions-get", "read", 1),
        ("/v1/private", "none", "none", 0),
    ] {
        let lines = figures_of(LogFormat::Json, async || ask(path, &platform.live_key).await).await;
        assert_eq!(lines.len(), 1, "{lines:?}");
        check_figures(&lines[0]);
        assert_eq!((&lines[0]["Route"], &lines[0]["Kind"]), (&json!(route), &json!(kind)));
        assert_eq!((&lines[0]["RoundTrips"], &lines[0]["Errors"]), (&json!(trips), &json!(0)));
        assert!(REQUEST_KINDS.contains(&kind) && REQUEST_FIGURES.iter().all(|name| lines[0][name].is_u64()));
        let text = lines[0].to_string();
        for private in ["private", &platform.live_key[8..], platform.id.as_str()] {
            assert!(!text.contains(private), "{text}");
        }
    }
    let lines = figures_of(LogFormat::Json, async || reconcile(deployment, Boots::UnderWay).await.unwrap()).await;
    assert_eq!(lines.len(), 1, "{lines:?}");
    check_figures(&lines[0]);
    assert!(lines[0]["Function"] == "reconcile" && RECONCILE_FIGURES.iter().all(|name| lines[0][name].is_u64()));
    // A terminal is not told.
    let lines = figures_of(LogFormat::Text, async || ask("/v1/logs", &platform.live_key).await).await;
    assert!(lines.is_empty(), "{lines:?}");
}

/// What Lambda writes around an invocation (START, END, REPORT), and the gateway to its access log, bytes: these are as long
/// for all.
const AROUND: f64 = 520.0;

#[tokio::test]
async fn a_request_calls_and_logs_as_much_as_the_guide_reckons() {
    let platform = Platform::make("guide").await;
    let path = format!("/v1/sessions/{}", platform.client.session("u").await);
    let (deployment, mut calls, mut logged) = (own_deployment(), Vec::new(), 0);
    // A line can be lost, as above.
    for _ in 0..5 {
        let captured = CapturedLog::default();
        let asked = incoming("GET", &path, Some(&platform.live_key), &Value::Null);
        let (answer, trips) =
            serve(&deployment, ROUTES, asked).with_subscriber(captured.subscriber(LogFormat::Json, "info")).await;
        assert_eq!(answer.status(), 200);
        calls.push(trips.total);
        logged = logged.max(captured.bytes().len());
    }
    // One update, and two reads; of an instance that knows the second that others count in. The first call of a second may
    // take an update more.
    assert_eq!(calls.iter().min(), Some(&3), "{calls:?}");
    let guide = include_str!("../../infra/README.md");
    let reckoned = guide.split("| logs | 1 M x ").nth(1).and_then(|rest| rest.split_once(" KB")).unwrap().0;
    let reckoned = reckoned.parse::<f64>().unwrap() * 1000.0;
    let found = logged as f64 + AROUND;
    assert!((found * 0.85..found * 1.15).contains(&reckoned), "{found} bytes, and the guide says {reckoned}");
}
