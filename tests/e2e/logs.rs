//! Log entries over HTTP: what is written when, who reads which, and streams without gap or repeat.

use crate::e2b::{configure, on_e2b, sandboxes_of};
use crate::harness::{Client, E2B_KEY, EventStream, Platform, e2b_emulator, make_canary, serve_deployment, stack};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use theazo_e2b_emulator::{Fault, FaultKind};
use theazo_functions::deployment::{Deployment, DeploymentConfig};
use theazo_http::{LogFormat, StreamLimits, make_subscriber};
use theazo_local::Stack;
use theazo_store::{
    Aws, AwsEndpoints, LogLevel, LogQueue, LogSource, LogWriter, NewLog, RateLimits, Session, Sessions,
};
use theazo_tenancy::{Mode, Operator, PlatformId, SessionId, TenantScope};
use tracing::instrument::WithSubscriber;

fn messages(page: &Value) -> Vec<String> {
    page["data"].as_array().unwrap().iter().map(|entry| entry["message"].as_str().unwrap().to_owned()).collect()
}

/// The entries of a query, once there are that many.
async fn entries(client: &Client, query: &str, count: usize) -> Vec<Value> {
    for _ in 0..200 {
        let page = client.get(&format!("/v1/logs?limit=100&{query}")).await.expect(200);
        let data = page["data"].as_array().unwrap();
        if data.len() >= count {
            return data.clone();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("there are not {count} entries of {query}");
}

async fn token(client: &Client, session: &str) -> Client {
    let minted = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    client.with_key(minted["token"].as_str())
}

/// Writes lines straight into the table, as endpoints for what happens inside sandboxes do.
pub struct Lines {
    writer: LogWriter,
    scope: TenantScope,
    session: Session,
}

impl Lines {
    #[expect(clippy::disallowed_methods, reason = "a test writes for a tenant without a caller")]
    pub async fn of(stack: &Stack, platform: &PlatformId, mode: Mode, session: &str) -> Self {
        let table = stack.deployment().table();
        let scope = Operator::assume().tenant(platform, mode);
        let id = SessionId::parse(session).unwrap();
        let session = Sessions::new(table.clone()).get(&scope, &id).await.unwrap().unwrap();
        Self { writer: LogWriter::new(table.clone(), LogQueue::default()), scope, session }
    }

    pub async fn write(&self, texts: impl IntoIterator<Item = String>) {
        let line = |text| NewLog::of_session(&self.session, LogLevel::Info, LogSource::Agent, text);
        self.writer.append(&self.scope, texts.into_iter().map(line).collect()).await.unwrap();
    }
}

/// That stack's table behind streams with other limits.
pub fn with_streams(stack: &Stack, streams: StreamLimits) -> Deployment {
    let aws = Aws::local(&AwsEndpoints { dynamodb: stack.dynamodb_url(), kms: Some(stack.kms_url()) });
    Deployment::new(&aws, DeploymentConfig { streams, ..stack.deployment().config().clone() }).unwrap()
}

#[tokio::test]
async fn what_happens_to_a_session_and_its_agents_is_on_record_for_those_whose_it_is() {
    let platform = Platform::make("logs").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.post("/v1/sessions", json!({ "userId": "ann" })).await.expect(201);
    let session = session["id"].as_str().unwrap();
    let agent = client.boot(session, json!({})).await;
    client.run(&agent, "bash", "# theazo:stdout hello").await;
    let failing = json!({ "language": "python", "code": "# theazo:exit 3" });
    client.post(&format!("/v1/agents/{agent}/exec"), failing).await.expect(200);
    let failing = json!({ "language": "python", "code": "# theazo:fail" });
    client.post(&format!("/v1/agents/{agent}/exec"), failing).await.expect_error(502, "provider_error");
    client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await.expect(200);
    let other = client.session("other").await;
    let by_agent = entries(&client, &format!("agentId={agent}"), 6).await;
    let events: Vec<_> = by_agent.iter().map(|entry| entry["metadata"]["event"].as_str().unwrap()).collect();
    assert_eq!(events.iter().filter(|event| **event == "agent.exec").count(), 3);
    let statuses: Vec<_> = by_agent.iter().rev().filter_map(|entry| entry["metadata"]["status"].as_str()).collect();
    assert_eq!(statuses, ["booting", "ready", "completed"]);
    let find = |part: &str| by_agent.iter().find(|entry| entry["message"].as_str().unwrap().contains(part)).unwrap();
    let ran = find("bash exited with 0");
    assert_eq!((&ran["level"], &ran["source"]), (&json!("info"), &json!("agent")));
    assert_eq!(ran["metadata"]["stdout"], "hello\n");
    assert_eq!(ran["metadata"]["code"], "# theazo:stdout hello");
    assert!(ran["metadata"]["durationMs"].is_u64());
    for (name, value) in
        [("agentId", agent.as_str()), ("sessionId", session), ("userId", "ann"), ("provider", "simulated")]
    {
        assert_eq!(ran[name], value, "{name}");
    }
    assert_eq!(find("exited with 3")["level"], "warn");
    let failed = find("not run to its end");
    assert_eq!((&failed["level"], &failed["source"]), (&json!("error"), &json!("provider")));

    // A session's token sees its own, whatever it asks for; the other mode and other platforms see nothing.
    let all = client.get("/v1/logs?limit=100").await.expect(200);
    assert_eq!(messages(&all).len(), 8);
    let own = token(&client, session).await;
    let shown = own.get("/v1/logs?limit=100").await;
    assert_eq!(shown.round_trips(), 1);
    assert_eq!(messages(&shown.expect(200)).len(), 7);
    assert_eq!(messages(&own.get(&format!("/v1/logs?sessionId={other}")).await.expect(200)).len(), 0);
    let others = token(&client, &other).await;
    for query in ["", &format!("sessionId={session}"), &format!("agentId={agent}")] {
        let seen = others.get(&format!("/v1/logs?{query}")).await.expect(200);
        assert!(messages(&seen).iter().all(|text| text == "session created"), "{seen}");
        assert_eq!(messages(&platform.client.get(&format!("/v1/logs?{query}")).await.expect(200)).len(), 0);
    }
    let stranger = Platform::make("logs of others").await;
    let stranger = stranger.client.with_key(Some(&stranger.test_key));
    assert_eq!(messages(&stranger.get(&format!("/v1/logs?sessionId={session}")).await.expect(200)).len(), 0);
    stranger.get(&format!("/v1/agents/{agent}/logs/stream")).await.expect_error(404, "not_found");
    others.get(&format!("/v1/agents/{agent}/logs/stream")).await.expect_error(404, "not_found");
    others.get(&format!("/v1/logs/stream?sessionId={session}")).await.expect_error(404, "not_found");
}

#[tokio::test]
async fn what_a_provider_does_by_itself_is_on_record_as_its_own() {
    let platform = Platform::make("provider events").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let lost = json!({ "language": "bash", "code": "# theazo:lose" });
    client.post(&format!("/v1/agents/{agent}/exec"), lost).await.expect_error(502, "provider_error");
    let gone = &entries(&client, &format!("agentId={agent}&search=sandbox%20is%20gone"), 1).await[0];
    assert_eq!((&gone["source"], &gone["level"]), (&json!("provider"), &json!("error")));
    assert_eq!((&gone["provider"], &gone["metadata"]["event"]), (&json!("simulated"), &json!("provider.sandbox_gone")));
    // The cause is there before what it led to.
    let statuses = entries(&client, &format!("agentId={agent}&search=agent%20is%20failed"), 1).await;
    assert!(statuses[0]["id"].as_str() > gone["id"].as_str());
    client.terminate(&session).await;
}

#[tokio::test]
async fn what_a_provider_refuses_or_fails_to_do_is_on_record_without_its_words() {
    let platform = Platform::make("provider refusals").await;
    let client = &platform.client;
    configure(client, E2B_KEY).await;
    let session = client.session("u").await;
    let agent = client.boot(&session, on_e2b()).await;
    let sandbox = sandboxes_of(&agent).await.remove(0);
    let fail = |method: &str, path: &str, times, status| {
        let kind = FaultKind::Refuse { status, code: Some("words-of-the-provider".into()), headers: Vec::new() };
        let (method, path) = (method.to_owned(), format!("/sandboxes/{sandbox}{path}"));
        e2b_emulator().controls.fault(Fault { method, path, times, kind });
    };
    let act = async |what: &str| client.call("POST", &format!("/v1/agents/{agent}/{what}"), None).await;
    let told = async |event: &str, level: &str, code: &str| {
        let found = entries(client, &format!("agentId={agent}&level={level}"), 1).await;
        let entry = found.iter().find(|entry| entry["metadata"]["event"] == event);
        let entry = entry.unwrap_or_else(|| panic!("no {event}: {found:?}"));
        assert_eq!((&entry["source"], &entry["provider"]), (&json!("provider"), &json!("e2b")));
        assert_eq!(entry["metadata"]["error"], code);
        assert!(!json!(found).to_string().contains("words-of-the-provider"));
    };
    fail("POST", "/pause", 1, 400);
    act("pause").await.expect_error(409, "conflict");
    told("provider.pause_refused", "warn", "conflict").await;
    fail("DELETE", "", 2, 500);
    act("terminate").await.expect_error(502, "provider_error");
    told("provider.removal_failed", "error", "provider_error").await;
    for _ in 0..10 {
        if act("terminate").await.status == 200 {
            return client.terminate(&session).await;
        }
    }
    panic!("the agent is not removed although its provider would");
}

#[tokio::test]
async fn entries_are_filtered_and_walked_page_by_page_and_wrong_queries_are_refused_by_name() {
    let platform = Platform::make("log pages").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let lines = Lines::of(stack(), &platform.id, Mode::Live, &session).await;
    lines.write((0..25).map(|n| format!("Line {n}"))).await;
    for (filter, limits, expected) in [
        ("search=LINE%201", [1, 2, 100], 11),
        ("", [10, 11, 100], 26),
        ("level=info", [10, 11, 100], 26),
        ("level=error", [1, 10, 100], 0),
    ] {
        for limit in limits {
            let (mut seen, mut next) = (Vec::new(), String::new());
            for _ in 0..30 {
                let page = client.get(&format!("/v1/logs?{filter}&limit={limit}{next}")).await;
                assert_eq!(page.round_trips(), 1);
                let page = page.expect(200);
                seen.extend(messages(&page));
                let Some(cursor) = page["cursor"].as_str() else { break };
                next = format!("&cursor={cursor}");
                lines.write(["meanwhile".to_owned()]).await;
            }
            seen.retain(|text| text != "meanwhile");
            assert_eq!(seen.len(), expected, "{filter} {limit}");
            assert_eq!(seen.iter().collect::<BTreeSet<_>>().len(), expected, "{filter} {limit}");
        }
    }
    for (query, field) in [
        ("sessionId=x", "sessionId"),
        ("agentId=ses_00000000000000000000000000", "agentId"),
        ("level=fatal", "level"),
        ("since=yesterday", "since"),
        ("until=2026-01-01", "until"),
        ("limit=0", "limit"),
        ("cursor=x", "cursor"),
        ("search=%ff", "query"),
    ] {
        client.get(&format!("/v1/logs?{query}")).await.expect_invalid(field);
    }
    let long = "x".repeat(257);
    client.get(&format!("/v1/logs?search={long}")).await.expect_invalid("search");
    client.get("/v1/logs/stream?until=2999-01-01T00:00:00Z").await.expect_invalid("until");
    client.get("/v1/logs/stream?level=loud").await.expect_invalid("level");
    let refused = client.open("/v1/logs/stream", &[("last-event-id", "log_x")]).await;
    assert_eq!(refused.status().as_u16(), 400);
    let page = client.get("/v1/logs?limit=1").await.expect(200);
    let cursor = page["cursor"].as_str().unwrap();
    client.get(&format!("/v1/logs?level=info&cursor={cursor}")).await.expect_invalid("cursor");
}

#[tokio::test]
async fn a_secret_in_code_or_output_is_masked_before_it_is_on_record() {
    let platform = Platform::make("log masking").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let canary = make_canary("log");
    client.set_secrets(&session, json!({ "API_TOKEN": canary })).await;
    let agent = client.boot(&session, json!({})).await;
    // In the code where an entry cuts it, and in the output.
    let code = format!("{}\n# theazo:stdout {canary}\n# theazo:stderr {canary}", "#".repeat(230));
    client.run(&agent, "bash", &code).await;
    let ran = &entries(&client, &format!("agentId={agent}&search=exited"), 1).await[0];
    let text = ran.to_string();
    for length in 6..=canary.len() {
        assert!(!text.contains(&canary[..length]), "{length} characters of it: {text}");
    }
    assert_eq!(ran["metadata"]["stdout"], "[secret:API_TOKEN]\n");
    assert!(ran["metadata"]["code"].as_str().unwrap().len() < 300);
    let stored = client.get("/v1/logs?limit=100").await;
    assert!(!stored.text.contains(&canary));
}

#[tokio::test]
async fn a_stream_gives_history_then_what_comes_and_ends_when_its_agent_has() {
    let platform = Platform::make("agent stream").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let beside = client.boot(&session, json!({})).await;
    let path = format!("/v1/agents/{agent}/logs/stream");
    let own = token(&client, &session).await;
    let mut streams = [EventStream::open(&client, &path, None).await, EventStream::open(&own, &path, None).await];
    client.run(&beside, "bash", "# theazo:stdout of another").await;
    for n in 0..3 {
        client.run(&agent, "bash", &format!("# theazo:stdout {n}")).await;
    }
    client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await.expect(200);
    let listed = entries(&client, &format!("agentId={agent}"), 6).await;
    let expected: Vec<Value> = listed.into_iter().rev().collect();
    let mut ids = Vec::new();
    for stream in &mut streams {
        let mut seen = Vec::new();
        loop {
            let event = stream.next().await.expect("the stream says that it is done");
            if event.data == "[DONE]" {
                break;
            }
            assert_eq!(event.name, "log");
            assert_eq!(stream.last_id.as_deref(), event.json()["id"].as_str());
            ids.push(stream.last_id.clone().unwrap());
            seen.push(event.json());
        }
        assert_eq!(stream.next().await, None);
        assert_eq!(seen, expected);
    }
    // Whoever comes back gets the rest, and then the same end.
    let mut rest = EventStream::open(&client, &path, Some(&ids[2])).await;
    for entry in &expected[3..] {
        assert_eq!(rest.next().await.unwrap().json(), *entry);
    }
    assert_eq!(rest.next().await.unwrap().data, "[DONE]");
    client.terminate(&session).await;
}

/// Log lines of one test.
#[derive(Clone, Default)]
struct Captured(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Captured {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_browser_may_name_a_sessions_token_in_a_streams_address_and_nothing_else_anywhere_else() {
    let platform = Platform::make("stream tokens").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let minted = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    let token = minted["token"].as_str().unwrap();
    let nobody = client.with_key(None);
    let mut stream = EventStream::open(&nobody, &format!("/v1/logs/stream?token={token}"), None).await;
    assert_eq!(stream.next().await.unwrap().json()["message"], "session created");
    for path in [
        format!("/v1/logs/stream?token={}", platform.live_key),
        format!("/v1/logs?token={token}"),
        format!("/v1/sessions/{session}?token={token}"),
        format!("/v1/logs/stream?token={token}&token={token}"),
        "/v1/logs/stream?token=".to_owned(),
        "/v1/logs/stream?token=x".to_owned(),
        "/v1/logs/stream".to_owned(),
    ] {
        nobody.get(&path).await.expect_error(401, "unauthorized");
    }
    // Of a header and a token in the address neither is chosen, whatever the header.
    for key in ["nonsense", platform.live_key.as_str(), token] {
        let with_header = client.with_key(Some(key));
        with_header.get(&format!("/v1/logs/stream?token={token}")).await.expect_error(401, "unauthorized");
    }

    // What a request logs of itself has neither.
    let deployment = with_streams(stack(), StreamLimits::default());
    let observe = async || {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = make_subscriber(LogFormat::Json, "trace".parse().unwrap(), move || writer.clone());
        let mut headers = http::HeaderMap::new();
        headers.insert("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".parse().unwrap());
        let incoming = theazo_functions::Incoming {
            method: http::Method::GET,
            source_ip: None,
            raw_path: "/v1/logs/stream".into(),
            raw_query: format!("token={token}"),
            headers,
            body: bytes::Bytes::new(),
        };
        let serving = theazo_functions::serve(&deployment, theazo_functions::routes::ROUTES, incoming);
        let (answer, _) = serving.with_subscriber(subscriber).await;
        assert_eq!(answer.status(), 200);
        let log = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
        assert!(!log.contains(token) && !log.contains("token="), "{log}");
        (answer, log)
    };
    // A line can be lost when another test's subscriber comes or goes at the same moment: tracing keeps one note per place
    // in the code of who wants to know.
    let mut observed = observe().await;
    for _ in 0..4 {
        if observed.1.contains("\"answered\"") {
            break;
        }
        observed = observe().await;
    }
    let (answer, log) = observed;
    let line = log.lines().find(|line| line.contains("\"answered\""));
    let line = line.unwrap_or_else(|| panic!("no line for the request: {log}"));
    let line: Value = serde_json::from_str(line).unwrap();
    let of_request = &line["span"];
    assert_eq!((&line["status"], &of_request["route"]), (&json!(200), &json!("logs-stream")), "{line}");
    assert_eq!(of_request["trace"], "4bf92f3577b34da6a3ce929d0e0e4736", "{line}");
    assert_eq!(of_request["id"], answer.headers()["x-request-id"].to_str().unwrap(), "{line}");
    assert!(of_request["credential"].as_str().unwrap().starts_with("key_"), "{line}");
    assert_eq!(of_request["platform"], platform.id.as_str(), "{line}");
    assert!(line["ms"].is_u64() && line["round_trips"].is_u64(), "{line}");
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_stream_has_heartbeats_and_ends_at_its_time_limit_and_with_its_credential() {
    let platform = Platform::make("stream ends").await;
    let session = platform.client.session("u").await;
    let heartbeat = Duration::from_millis(150);
    let short = StreamLimits { heartbeat, lifetime: Duration::from_secs(1), ..StreamLimits::default() };
    let client = Client::new(serve_deployment(with_streams(stack(), short)).await, Some(&platform.live_key));
    let mut stream = EventStream::open(&client, "/v1/logs/stream?level=error", None).await;
    let event = stream.next().await.unwrap();
    assert_eq!((event.name.as_str(), &event.json()["reason"]), ("reconnect", &json!("time_limit")));
    assert_eq!(stream.next().await, None);
    assert!(stream.comments >= 2, "{}", stream.comments);
    // Although it was given no entry, it knows where to go on.
    let reached = stream.last_id.clone().expect("a place to go on from");
    let lines = Lines::of(stack(), &platform.id, Mode::Live, &session).await;
    lines.write(["meanwhile".to_owned()]).await;
    let mut next = EventStream::open(&platform.client, "/v1/logs/stream?search=meanwhile", Some(&reached)).await;
    assert_eq!(next.next().await.unwrap().json()["message"], "meanwhile");

    let long = StreamLimits { heartbeat, ..StreamLimits::default() };
    let client = Client::new(serve_deployment(with_streams(stack(), long)).await, None);
    let own = token(&platform.client, &session).await.with_base(client.base());
    let mut stream = EventStream::open(&own, "/v1/logs/stream?level=error", None).await;
    platform.client.delete(&format!("/v1/sessions/{session}/tokens")).await.expect(204);
    let event = stream.next().await.unwrap();
    assert_eq!((event.name.as_str(), &event.json()["reason"]), ("reconnect", &json!("credential")));
    assert_eq!(stream.next().await, None);
    platform.client.terminate(&session).await;
}

#[tokio::test]
async fn a_stream_outlives_that_its_credential_has_made_too_many_requests() {
    let platform = Platform::make("busy stream").await;
    let session = platform.client.session("u").await;
    let limits = StreamLimits {
        heartbeat: Duration::from_millis(150),
        lifetime: Duration::from_secs(3),
        ..StreamLimits::default()
    };
    let config = with_streams(stack(), limits).config().clone();
    let aws = Aws::local(&AwsEndpoints { dynamodb: stack().dynamodb_url(), kms: Some(stack().kms_url()) });
    let rate_limits = RateLimits { token: 2, ..RateLimits::default() };
    let few = Deployment::new(&aws, DeploymentConfig { rate_limits, ..config }).unwrap();
    let client = Client::new(serve_deployment(few).await, None);
    let own = token(&platform.client, &session).await.with_base(client.base());
    let mut stream = EventStream::open(&own, "/v1/logs/stream?level=error", None).await;
    let mut refused = 0;
    let event = loop {
        tokio::select! {
            event = stream.next() => break event.unwrap(),
            answer = own.get("/v1/logs") => refused += u32::from(answer.status == 429),
        }
    };
    assert!(refused > 0, "its credential was never refused");
    assert_eq!((event.name.as_str(), &event.json()["reason"]), ("reconnect", &json!("time_limit")));
    platform.client.terminate(&session).await;
}

#[tokio::test]
async fn a_reader_that_takes_too_long_is_told_to_come_back_and_others_are_not_held_up() {
    let platform = Platform::make("slow readers").await;
    let session = platform.client.session("u").await;
    let lines = Lines::of(stack(), &platform.id, Mode::Live, &session).await;
    lines.write((0..20).map(|n| format!("{n} {}", "x".repeat(4000)))).await;
    let limits = StreamLimits { slow_reader: Duration::from_millis(400), ..StreamLimits::default() };
    let deployment = with_streams(stack(), limits);
    let mut headers = http::HeaderMap::new();
    headers.insert("authorization", format!("Bearer {}", platform.live_key).parse().unwrap());
    let incoming = theazo_functions::Incoming {
        method: http::Method::GET,
        source_ip: None,
        raw_path: "/v1/logs/stream".into(),
        raw_query: String::new(),
        headers,
        body: bytes::Bytes::new(),
    };
    let (answer, _) = theazo_functions::serve(&deployment, theazo_functions::routes::ROUTES, incoming).await;
    let mut slow = answer.into_body().into_pieces();
    let mut text = String::new();
    for _ in 0..2 {
        let piece = futures_util::StreamExt::next(&mut slow).await.unwrap();
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert!(text.contains("event: log"));
    let client = Client::new(serve_deployment(deployment).await, Some(&platform.live_key));
    let mut quick = EventStream::open(&client, "/v1/logs/stream", None).await;
    for n in 0..21 {
        let message = quick.next().await.unwrap().json()["message"].as_str().unwrap().to_owned();
        assert!(n == 0 || message.starts_with(&format!("{} ", n - 1)), "{n}: {message}");
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut rest = String::new();
    while let Some(piece) = futures_util::StreamExt::next(&mut slow).await {
        rest.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert_eq!(rest, "event: reconnect\ndata: {\"reason\":\"slow_reader\"}\n\n");
    platform.client.terminate(&session).await;
}

#[tokio::test]
async fn code_that_runs_long_has_its_connection_kept_alive_and_answers_all_the_same() {
    let platform = Platform::make("long exec").await;
    let session = platform.client.session("u").await;
    let agent = platform.client.boot(&session, json!({})).await;
    let (silence, heartbeat) = (Duration::from_millis(300), Duration::from_millis(200));
    let limits = StreamLimits { silence, heartbeat, ..StreamLimits::default() };
    let client = Client::new(serve_deployment(with_streams(stack(), limits)).await, Some(&platform.live_key));
    let path = format!("/v1/agents/{agent}/exec");
    let slow = client.post(&path, json!({ "language": "bash", "code": "sleep 1.5; echo done; exit 4" })).await;
    assert!(slow.text.starts_with("   "), "{slow:?}");
    assert_eq!(slow.headers["content-type"], "application/json");
    let shown = slow.expect(200);
    assert_eq!((&shown["stdout"], &shown["exitCode"]), (&json!("done\n"), &json!(4)));
    // The status is gone by then: the failure is in the body.
    let late = client.post(&path, json!({ "language": "bash", "code": "sleep 9", "timeout": "1s" })).await;
    assert!(late.text.starts_with(' '));
    let late = late.expect(200);
    assert_eq!((&late["error"]["code"], &late["error"]["requestId"]), (&json!("timeout"), &late["requestId"]));
    // Within the usual limit there is no white space.
    let quick = platform.client.post(&path, json!({ "language": "bash", "code": "echo quick" })).await;
    assert!(quick.text.starts_with('{'), "{quick:?}");
    client.post(&path, json!({ "language": "cobol", "code": "" })).await.expect_error(400, "invalid_request");
    platform.client.terminate(&session).await;
}
