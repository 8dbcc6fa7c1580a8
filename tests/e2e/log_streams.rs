//! Streams of log entries: what they give and to whom, how they end, and how much goes through them: many readers that
//! go and are cut off, and one that has a thousand a second. `THEAZO_LOG_ENTRIES` says how many entries, where there is
//! more time than a test may take.

use crate::harness::{
    CapturedLog, Client, EventStream, Lines, OwnStack, Platform, incoming, serve_deployment, stack, with_streams,
};
use crate::logs::{entries, token};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use std::time::{Duration, Instant};
use theazo_functions::deployment::{Deployment, DeploymentConfig};
use theazo_http::{LogFormat, StreamLimits};
use theazo_store::{Aws, AwsEndpoints, LATE_MS, RateLimits};
use theazo_tenancy::Mode;
use tracing::instrument::WithSubscriber;

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
    // Of one agent likewise, and of nobody else's.
    let agent = client.boot(&session, json!({})).await;
    let path = format!("/v1/agents/{agent}/logs/stream?token=");
    let mut stream = EventStream::open(&nobody, &format!("{path}{token}"), None).await;
    let first = stream.next().await.unwrap().json();
    assert_eq!((&first["agentId"], &first["message"]), (&json!(agent), &json!("agent is booting")));
    let other = client.session("other").await;
    let minted = client.post(&format!("/v1/sessions/{other}/tokens"), json!({})).await.expect(201);
    nobody.get(&format!("{path}{}", minted["token"].as_str().unwrap())).await.expect_error(404, "not_found");
    client.terminate(&other).await;
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
        let captured = CapturedLog::default();
        let subscriber = captured.subscriber(LogFormat::Json, "trace");
        let traced = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        let mut incoming = incoming("GET", &format!("/v1/logs/stream?token={token}"), None, &Value::Null);
        incoming.headers.insert("traceparent", traced.parse().unwrap());
        let serving = theazo_functions::serve(&deployment, theazo_functions::routes::ROUTES, incoming);
        let (answer, _) = serving.with_subscriber(subscriber).await;
        assert_eq!(answer.status(), 200);
        let log = captured.text();
        assert!(!log.contains(token) && !log.contains("token="), "{log}");
        (answer, log)
    };
    // A line, or the span around it, can be lost when another test's subscriber comes or goes at the same moment:
    // tracing keeps one note per place in the code of who wants to know.
    let mut observed = observe().await;
    for _ in 0..4 {
        let is_whole = |line: &str| line.contains("\"answered\"") && line.contains("\"route\":");
        if observed.1.lines().any(is_whole) {
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

    let long = StreamLimits { recheck: heartbeat, ..StreamLimits::default() };
    let client = Client::new(serve_deployment(with_streams(stack(), long)).await, None);
    let own = token(&platform.client, &session).await.with_base(client.base());
    let made = json!({ "name": "watcher", "environment": "live" });
    let made = platform.client.post("/v1/api-keys", made).await.expect(201);
    let watcher = client.with_key(made["key"].as_str());
    let mut of_token = EventStream::open(&own, "/v1/logs/stream?level=error", None).await;
    let mut of_key = EventStream::open(&watcher, "/v1/logs/stream?level=error", None).await;
    platform.client.delete(&format!("/v1/sessions/{session}/tokens")).await.expect(204);
    platform.client.delete(&format!("/v1/api-keys/{}", made["id"].as_str().unwrap())).await.expect(204);
    for stream in [&mut of_token, &mut of_key] {
        let event = stream.next().await.unwrap();
        assert_eq!((event.name.as_str(), &event.json()["reason"]), ("reconnect", &json!("credential")));
        assert_eq!(stream.next().await, None);
    }
    platform.client.terminate(&session).await;
}

#[tokio::test]
async fn where_streams_look_before_each_piece_nothing_is_given_to_a_credential_that_was_revoked() {
    let platform = Platform::make("stream looks").await;
    let session = platform.client.session("u").await;
    let limits = StreamLimits { recheck: Duration::ZERO, ..StreamLimits::default() };
    let client = Client::new(serve_deployment(with_streams(stack(), limits)).await, None);
    let own = token(&platform.client, &session).await.with_base(client.base());
    let mut stream = EventStream::open(&own, "/v1/logs/stream?search=line", None).await;
    let lines = Lines::of(stack(), &platform.id, Mode::Live, &session).await;
    lines.write(["line before".to_owned()]).await;
    assert_eq!(stream.next().await.unwrap().json()["message"], "line before");
    platform.client.delete(&format!("/v1/sessions/{session}/tokens")).await.expect(204);
    lines.write(["line after".to_owned()]).await;
    let event = stream.next().await.unwrap();
    assert_eq!((event.name.as_str(), &event.json()["reason"]), ("reconnect", &json!("credential")));
    platform.client.terminate(&session).await;
}

#[tokio::test]
async fn a_stream_outlives_that_its_credential_has_made_too_many_requests() {
    let platform = Platform::make("busy stream").await;
    let session = platform.client.session("u").await;
    let limits = StreamLimits {
        heartbeat: Duration::from_millis(150),
        recheck: Duration::from_millis(150),
        lifetime: Duration::from_secs(3),
        ..StreamLimits::default()
    };
    let config = with_streams(stack(), limits).config().clone();
    let aws = Aws::local(&AwsEndpoints { dynamodb: stack().dynamodb_url(), kms: Some(stack().kms_url()) });
    let rate_limits = RateLimits { token: 2, ..RateLimits::default() };
    let few = Deployment::new(&aws, DeploymentConfig { rate_limits, ..config });
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
    let client = Client::new(serve_deployment(with_streams(stack(), limits)).await, Some(&platform.live_key));
    let read = async || {
        let mut quick = EventStream::open(&client, "/v1/logs/stream", None).await;
        for n in 0..21 {
            let message = quick.next().await.unwrap().json()["message"].as_str().unwrap().to_owned();
            assert!(n == 0 || message.starts_with(&format!("{} ", n - 1)), "{n}: {message}");
        }
    };
    // From now on all of it is found at once, which is more than a piece.
    read().await;
    let incoming = incoming("GET", "/v1/logs/stream", Some(&platform.live_key), &Value::Null);
    let (answer, _) = theazo_functions::serve(&deployment, theazo_functions::routes::ROUTES, incoming).await;
    let mut slow = answer.into_body().into_pieces();
    let mut text = String::new();
    for _ in 0..2 {
        let piece = futures_util::StreamExt::next(&mut slow).await.unwrap();
        text.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert!(text.contains("event: log"));
    read().await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let mut rest = String::new();
    while let Some(piece) = futures_util::StreamExt::next(&mut slow).await {
        rest.push_str(std::str::from_utf8(&piece).unwrap());
    }
    assert_eq!(rest, "event: reconnect\ndata: {\"reason\":\"slow_reader\"}\n\n");
    platform.client.terminate(&session).await;
}

#[tokio::test]
async fn a_connection_that_takes_nothing_for_a_while_is_ended_for_that_and_nobody_elses_is() {
    let platform = Platform::make("a slow connection").await;
    let session = platform.client.session("u").await;
    let lines = Lines::of(stack(), &platform.id, Mode::Live, &session).await;
    // More than what the sockets at both ends hold, and what is between.
    let (count, bytes) = (240, 8000);
    for start in (0..count).step_by(20) {
        lines.write((start..start + 20).map(|n| format!("{n} {}", "x".repeat(bytes)))).await;
    }
    let limits = StreamLimits { slow_reader: Duration::from_millis(500), ..StreamLimits::default() };
    let base = serve_deployment(with_streams(stack(), limits)).await;
    let client = Client::new(base.clone(), Some(&platform.live_key));
    // Once another reader has all of it, all is history, and found as quickly as it is taken.
    let read_all = async || {
        let mut quick = EventStream::open(&client, "/v1/logs/stream?search=x", None).await;
        for n in 0..count {
            let message = quick.next().await.unwrap().json()["message"].as_str().unwrap().to_owned();
            assert!(message.starts_with(&format!("{n} ")), "{n}: {}", &message[..10]);
        }
    };
    read_all().await;
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(65_536).unwrap();
    let authority = base.strip_prefix("http://").unwrap();
    let mut slow = socket.connect(authority.parse().unwrap()).await.unwrap();
    let request = format!(
        "GET /v1/logs/stream?search=x HTTP/1.1\r\nhost: {authority}\r\nauthorization: Bearer {}\r\n\r\n",
        platform.live_key
    );
    tokio::io::AsyncWriteExt::write_all(&mut slow, request.as_bytes()).await.unwrap();
    // It takes nothing, and holds nobody up.
    tokio::time::sleep(Duration::from_millis(700)).await;
    read_all().await;
    // What comes, when it goes on, is what was under way, and why that was the end.
    let mut text = Vec::new();
    let mut buffer = vec![0; 65_536];
    let end = b"data: {\"reason\":\"slow_reader\"}\n\n";
    while !text.windows(end.len()).rev().take(200).any(|window| window == end) {
        let read = tokio::io::AsyncReadExt::read(&mut slow, &mut buffer);
        let read = tokio::time::timeout(Duration::from_secs(20), read).await.expect("an end is told").unwrap();
        assert!(read > 0, "an end is told");
        text.extend_from_slice(&buffer[..read]);
    }
    let given = text.windows(10).filter(|window| window == b"event: log").count();
    assert!(given > 0 && given < count, "{given} of {count}");
    platform.client.terminate(&session).await;
}

/// How long an entry has to be there: a busy machine may take seconds for a write.
const SETTLE: Duration = Duration::from_secs(6);

/// How many entries are followed: `THEAZO_LOG_ENTRIES`, or as many as a test may take.
fn entries_to_follow() -> usize {
    std::env::var("THEAZO_LOG_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(2_000)
}

/// What a reader has of a stream, and how often it was cut off on the way: by itself, and by the server.
#[derive(Default)]
struct Read {
    seen: Vec<String>,
    own_cuts: usize,
    servers_cuts: usize,
}

/// Follows a stream until it has so many entries. It goes away by itself in the middle of things, if it is told to, and comes
/// back where it was, as it does when the server ends the stream.
async fn follow(client: Client, path: String, count: usize, goes_after: Option<usize>) -> Read {
    let (mut read, mut last_id) = (Read::default(), None::<String>);
    while read.seen.len() < count {
        let mut stream = EventStream::open(&client, &path, last_id.as_deref()).await;
        let begun = read.seen.len();
        loop {
            let event = stream.next().await.expect("an end is told");
            last_id.clone_from(&stream.last_id);
            // What was sent and not read is lost with the connection.
            let is_underway = read.seen.len() > begun && read.seen.len() < count;
            if event.name == "reconnect" {
                assert_eq!(event.json()["reason"], "time_limit");
                read.servers_cuts += usize::from(is_underway);
                assert_eq!(stream.next().await, None);
                break;
            }
            assert_eq!(event.name, "log");
            read.seen.push(event.json()["message"].as_str().unwrap().to_owned());
            if read.seen.len() == count {
                break;
            }
            if goes_after.is_some_and(|most| read.seen.len() - begun >= most) {
                read.own_cuts += 1;
                break;
            }
        }
    }
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_readers_that_go_and_that_are_cut_off_in_the_middle_end_with_exactly_the_sequence() {
    let count = entries_to_follow();
    let (own, _) = OwnStack::start(None).await;
    let platform = Platform::make_on(&own.stack, "ten readers").await;
    let session = platform.client.session("u").await;
    let lines = Lines::of(&own.stack, &platform.id, Mode::Live, &session).await;
    // The server ends streams several times while they give what is written.
    let lifetime = Duration::from_millis(700);
    let limits = StreamLimits { settle: SETTLE, lifetime, ..StreamLimits::default() };
    let client = Client::new(serve_deployment(with_streams(&own.stack, limits)).await, Some(&platform.live_key));
    let readers: Vec<_> = (0..10_usize)
        .map(|reader| {
            // Half of them follow the platform, half the session.
            let path = match reader % 2 {
                0 => "/v1/logs/stream?search=entry".to_owned(),
                _ => format!("/v1/logs/stream?search=entry&sessionId={session}"),
            };
            let goes_after = (reader >= 5).then_some((count / 50).min(100) + reader);
            tokio::spawn(follow(client.clone(), path, count, goes_after))
        })
        .collect();
    let expected: Vec<String> = (0..count).map(|n| format!("entry {n}")).collect();
    let began = Instant::now();
    // A while for what is written, so that it is given over a while.
    let mut tick = tokio::time::interval(Duration::from_millis(15));
    for batch in expected.chunks(if count > 10_000 { AT_ONCE } else { 12 }) {
        tick.tick().await;
        lines.write(batch.iter().cloned()).await;
    }
    let written = began.elapsed();
    let (mut own_cuts, mut servers_cuts) = (0, 0);
    for (reader, following) in readers.into_iter().enumerate() {
        let read = following.await.unwrap();
        assert!(read.seen == expected, "{} of {count} in another order or not at all", read.seen.len());
        assert!(read.own_cuts > 3 || reader < 5, "{}", read.own_cuts);
        assert!(read.servers_cuts > 0 || reader >= 5, "its stream was never ended while it gave something");
        own_cuts += read.own_cuts;
        servers_cuts += read.servers_cuts;
    }
    let line = format!(
        "{count} entries: written in {:.1} s, all ten readers had them after {:.1} s; {own_cuts} times a reader went, \
         {servers_cuts} times its stream was ended in the middle\n",
        written.as_secs_f64(),
        began.elapsed().as_secs_f64(),
    );
    let _ = std::io::stderr().write_all(line.as_bytes());
    own.stop().await;
}

/// Entries in each write, and how often one is begun: a little more than a thousand entries a second.
const AT_ONCE: usize = 50;
const EVERY: Duration = Duration::from_millis(48);

/// After so long what a stream has passed over is given.
const LATE: Duration = Duration::from_millis(LATE_MS.unsigned_abs());

/// How many entries a second have to be written and read, where the machine has nothing else to do: `THEAZO_LOG_RATE`.
fn rate_to_hold() -> Option<f64> {
    std::env::var("THEAZO_LOG_RATE").ok().map(|text| text.parse().unwrap())
}

/// What went through one stream, entries a second, and how long the last was under way after it was written.
struct Carried {
    written: f64,
    read: f64,
    late: Duration,
}

/// Writes entries as quickly as that, if the machine can, while one stream is read that is as deployments have it: each comes
/// once, and in order but for those that appeared too late for that.
async fn carry(count: usize) -> Carried {
    let (own, _) = OwnStack::start(None).await;
    let platform = Platform::make_on(&own.stack, "a thousand a second").await;
    let session = platform.client.session("u").await;
    let lines = Lines::of(&own.stack, &platform.id, Mode::Live, &session).await;
    let limits = StreamLimits::default();
    let client = Client::new(serve_deployment(with_streams(&own.stack, limits)).await, Some(&platform.live_key));
    let mut stream = EventStream::open(&client, "/v1/logs/stream?search=entry", None).await;
    let began = Instant::now();
    let reading = tokio::spawn(async move {
        let (mut arrived, mut seen) = (Vec::with_capacity(count), BTreeSet::new());
        while seen.len() < count {
            let event = stream.next().await.expect("an open stream");
            assert_eq!(event.name, "log");
            let message = event.json()["message"].as_str().unwrap().to_owned();
            let number: usize = message.strip_prefix("entry ").unwrap().parse().unwrap();
            assert!(number < count && seen.insert(number), "{message} once more");
            arrived.push((number, Instant::now()));
        }
        arrived
    });
    let mut tick = tokio::time::interval(EVERY);
    let mut begun = Vec::new();
    for start in (0..count).step_by(AT_ONCE) {
        tick.tick().await;
        begun.push(Instant::now());
        lines.write((start..start + AT_ONCE).map(|n| format!("entry {n}"))).await;
    }
    let written = began.elapsed();
    let arrived = reading.await.unwrap();
    // Those that came in order, and the last moment of one.
    let (mut next, mut in_order, mut last) = (0, 0, began);
    for (number, at) in &arrived {
        let waited = at.duration_since(begun[number / AT_ONCE]);
        assert!(*number >= next || waited > LATE, "entry {number} came after {next}, when it was {waited:?} old");
        if *number >= next {
            (next, in_order, last) = (number + 1, in_order + 1, *at);
        }
    }
    own.stop().await;
    let rate = |count: usize, time: Duration| count as f64 / time.as_secs_f64();
    Carried {
        written: rate(count, written),
        read: rate(in_order, last.duration_since(arrived[0].1)),
        late: arrived[count - 1].1.duration_since(began + written),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_stream_carries_a_thousand_entries_a_second_as_they_are_written() {
    // For so long that what does not keep up falls behind by more than a busy machine explains.
    let count = entries_to_follow().max(10_000).next_multiple_of(AT_ONCE);
    let attempts = if rate_to_hold().is_some() { 3 } else { 1 };
    for attempt in 1..=attempts {
        let Carried { written, read, late } = carry(count).await;
        let line = format!(
            "{count} entries: written at {written:.0} a second, read at {read:.0}; the last one was read {:.1} s after it was \
             written\n",
            late.as_secs_f64(),
        );
        let _ = std::io::stderr().write_all(line.as_bytes());
        // It keeps up with what is written: the last entry comes when it has settled, or when one has that was late, and a
        // little for a busy machine.
        let most = StreamLimits::default().settle + LATE + Duration::from_secs(5);
        assert!(late < most, "the last one was read {late:?} after it was written");
        match rate_to_hold() {
            Some(rate) if written < rate || read < rate => assert!(attempt < attempts, "slower than {rate}: {line}"),
            _ => break,
        }
    }
}
