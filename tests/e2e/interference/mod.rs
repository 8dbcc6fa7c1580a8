//! Non-interference: whatever another platform does, a platform observes what it would have observed alone.
//!
//! A random script of one platform is run twice, each time on a platform of its own: by itself, and with a second
//! platform calling at the same time, with its own credentials, forged ones and none, about its own things and about the
//! first one's. Status and body of every answer must be the same, but for ids, times and what is measured. Once with test
//! keys, and once with live ones and agents that really run, in one account of E2B's for both platforms.

mod calls;

use crate::e2b::{configure, sandboxes_of};
use crate::harness::{Answer, Client, E2B_KEY, Platform, e2b_emulator, stack};
use crate::matrix::agent_token;
use calls::{AGENT_TOKEN, ALL_CALLS, CALLS, FIRST_PAGE, Reporter, Request, Step, Things, request};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use theazo_e2b_emulator::{Fault, FaultKind};
use theazo_tenancy::{AgentId, Mode, SessionId, make_agent_token, make_api_key, make_session_token};

/// Scripts in one mode, and the time after which no new one is begun.
const SCRIPTS: u32 = 40;
const TIME: Duration = Duration::from_secs(15);
/// Another number of seconds than that.
const SECONDS: &str = "THEAZO_INTERFERENCE_SECONDS";
/// Fewer than that would say little. Agents that run take their time.
fn least_scripts(mode: Mode) -> u32 {
    match mode {
        Mode::Test => 4,
        Mode::Live => 2,
    }
}
/// Steps of a script.
const STEPS: std::ops::Range<usize> = 4..14;
/// Calls of the other platform beside one step.
const BESIDE: std::ops::Range<usize> = 0..9;

/// A platform with its things, and the token of its first session.
struct Side {
    client: Client,
    token: String,
    things: Things,
}

/// A call of the other platform.
#[derive(Clone, Copy, Debug)]
struct Beside {
    step: Step,
    /// Whether it names the first platform's things.
    aimed: bool,
    credential: Credential,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Credential {
    Key,
    Token,
    /// Of the first platform, with a right checksum.
    ForgedKey,
    /// Of the first platform's session, likewise.
    ForgedToken,
    None,
}

impl Side {
    async fn make(platform: Platform, mode: Mode) -> Self {
        let client = match mode {
            Mode::Test => platform.client.with_key(Some(&platform.test_key)),
            Mode::Live => platform.client.clone(),
        };
        if mode == Mode::Live {
            configure(&client, E2B_KEY).await;
        }
        let sessions = vec![client.session("first").await, client.session("second").await];
        let minted = client.post(&format!("/v1/sessions/{}/tokens", sessions[0]), json!({})).await.expect(201);
        let token = minted["token"].as_str().unwrap().to_owned();
        let body = if mode == Mode::Live { json!({ "provider": "e2b" }) } else { json!({}) };
        let agents = vec![client.boot(&sessions[0], body.clone()).await, client.boot(&sessions[1], body).await];
        // What only the other one makes and takes away while they run, both have from the start.
        for agent in &agents {
            let of_agent = format!("/v1/agents/{agent}/checkpoints");
            client.post(&of_agent, json!({ "phase": "begun", "progress": 5 })).await.expect(201);
        }
        let spare = client.post("/v1/api-keys", json!({ "name": "spare", "environment": "test" })).await.expect(201);
        let keys = vec![spare["id"].as_str().unwrap().to_owned()];
        let things = Things { mode, platform: platform.id, sessions, agents, keys, reporter: None };
        Self { client, token, things }
    }

    /// Has one more agent, and takes its token out of it, which shows in its log.
    async fn with_reporter(mut self) -> Self {
        let session = self.client.session("reporter").await;
        let body = if self.things.mode == Mode::Live { json!({ "provider": "e2b" }) } else { json!({}) };
        let agent = self.client.boot(&session, body).await;
        let token = match self.things.mode {
            Mode::Test => agent_token(&self.things.platform, &session, &agent).await,
            Mode::Live => self.client.steal_token(&agent).await,
        };
        self.things.reporter = Some(Reporter { session, agent, token });
        self
    }

    /// Makes a call with one of its own credentials, and takes note of what it made.
    async fn take(&mut self, step: Step) -> Answer {
        let request = request(step, &self.things);
        let client = if request.by_token { self.client.with_key(Some(&self.token)) } else { self.client.clone() };
        let answer = send(&client, &request).await.expect("an answer that ends");
        if answer.status == 201
            && let Some(id) = answer.json()["id"].as_str()
        {
            let made = match id.split_once('_').map(|(kind, _)| kind) {
                Some("key") => &mut self.things.keys,
                Some("ses") => &mut self.things.sessions,
                Some("agt") => &mut self.things.agents,
                _ => return answer,
            };
            if !made.iter().any(|known| known == id) {
                made.push(id.to_owned());
            }
        }
        // A list goes on from where its first page ended.
        if request.path == FIRST_PAGE
            && answer.status == 200
            && let Some(cursor) = answer.json()["nextCursor"].as_str()
        {
            return client.get(&format!("{FIRST_PAGE}&cursor={cursor}")).await;
        }
        answer
    }

    /// What it has run is what its own sessions have, and nobody's else. Everything of it is booked.
    async fn is_billed_for_its_own(&self) {
        let listed = self.client.get("/v1/sessions?limit=100").await.expect(200);
        let mut minutes = 0.0;
        let sessions = listed["data"].as_array().unwrap();
        for session in sessions {
            let path = format!("/v1/sessions/{}/usage", session["id"].as_str().unwrap());
            minutes += self.client.get(&path).await.expect(200)["computeMinutes"].as_f64().unwrap();
        }
        let exported = self.client.get("/v1/usage/export?format=json").await.expect(200);
        let rows = exported.as_array().unwrap();
        let booked: f64 = rows.iter().map(|row| row["computeMs"].as_f64().unwrap() / 60_000.0).sum();
        // The sessions' figures are rounded.
        let slack = 0.01 * (sessions.len() + 1) as f64;
        assert!(
            minutes > 0.0 && (minutes - booked).abs() < slack,
            "{minutes} min ran, {booked} min are billed: {exported}"
        );
    }

    /// Its provider answers late, wrongly or not at all about its agents from now on.
    async fn at_a_hostile_provider(self) -> Self {
        let answers = [
            ("/pause", FaultKind::Delay { millis: 2_000 }),
            ("/connect", FaultKind::Refuse { status: 500, code: Some("x".repeat(10_000)), headers: Vec::new() }),
            ("/snapshots", FaultKind::Instead { content: json!([[{ "sandboxID": self.things.agents }]]) }),
        ];
        for agent in &self.things.agents {
            for sandbox in sandboxes_of(agent).await {
                for (call, kind) in answers.clone() {
                    let path = format!("/sandboxes/{sandbox}{call}");
                    e2b_emulator().controls.fault(Fault { method: "POST".into(), path, times: 10_000, kind });
                }
            }
        }
        self
    }

    /// Makes a call beside the first platform's.
    async fn disturb(&self, beside: Beside, first: &Things) {
        let mut request = request(beside.step, if beside.aimed { first } else { &self.things });
        let session = SessionId::parse(&first.sessions[0]).unwrap();
        let is_forged = matches!(beside.credential, Credential::ForgedKey | Credential::ForgedToken | Credential::None);
        if request.path.contains(AGENT_TOKEN) {
            let agent = AgentId::parse(&first.agents[0]).unwrap();
            let token = match is_forged {
                true => make_agent_token(&first.platform, first.mode, &session, &agent).text.to_string(),
                false => self.things.reporter.as_ref().unwrap().token.clone(),
            };
            request.path = request.path.replace(AGENT_TOKEN, &token);
        }
        let with = |credential: Option<&str>| self.client.with_key(credential);
        let client = match beside.credential {
            Credential::Key => self.client.clone(),
            Credential::Token => with(Some(&self.token)),
            Credential::ForgedKey => with(Some(&make_api_key(&first.platform, first.mode).text)),
            Credential::ForgedToken => with(Some(&make_session_token(&first.platform, first.mode, &session).text)),
            Credential::None => with(None),
        };
        let answer = send(&client, &request).await;
        let Some(answer) = answer else { return };
        if is_forged {
            assert_eq!(answer.status, 401, "{answer:?}");
        }
        // Nor does it learn anything of what is the first one's.
        for id in first.sessions.iter().chain(&first.agents).chain(&first.keys) {
            assert!(!answer.text.contains(id.as_str()), "{beside:?}: {answer:?}");
        }
    }
}

/// How long a stream is listened to.
const LISTENING: Duration = Duration::from_millis(50);

/// Nothing for what does not end by itself.
async fn send(client: &Client, request: &Request) -> Option<Answer> {
    if request.path.contains("/logs/stream") {
        let stream = client.open(&request.path, &[]).await;
        let _ = tokio::time::timeout(LISTENING, stream.bytes()).await;
        return None;
    }
    Some(match (&request.once, &request.body) {
        (Some(key), Some(body)) => client.post_once(&request.path, body.clone(), key).await,
        _ => client.call(request.method, &request.path, request.body.as_ref()).await,
    })
}

/// What a platform saw: every answer without what differs from run to run.
struct Observations {
    mode: Mode,
    seen: Vec<String>,
    ids: HashMap<String, String>,
}

/// Fields that are random by their nature, or measured.
const OTHER: [&str; 10] = [
    "cursor",
    "key",
    "prefix",
    "token",
    "duration",
    "durationMs",
    "totalDuration",
    "totalDurationMs",
    "activeDuration",
    "activeDurationMs",
];
/// What is measured of live agents alone: who has cost most is, too.
const METERED: [&str; 10] = [
    "amount",
    "computeMinutes",
    "computeMs",
    "cost",
    "costMicrocents",
    "costToday",
    "gbHours",
    "minutes",
    "storageGbHours",
    "topUser",
];

impl Observations {
    fn note(&mut self, what: &str, answer: &Answer) {
        let mut body = if answer.text.is_empty() { Value::Null } else { answer.json() };
        // Whether a provider answers is not for anybody to change, and changes by itself.
        for row in body.get_mut("data").and_then(Value::as_array_mut).into_iter().flatten() {
            row.as_object_mut().map(|fields| fields.remove("health"));
        }
        // A platform's first keys are made at one moment, and listed in any order.
        if let Some(keys) = body.get_mut("data").and_then(Value::as_array_mut)
            && keys.iter().all(|key| key.get("prefix").is_some())
        {
            keys.sort_by_key(|key| key["name"].to_string());
        }
        let mut body = self.same_in_every_run(body);
        // What one call did at once is on record in any order.
        if let Some(entries) = body.get_mut("data").and_then(Value::as_array_mut)
            && is_trail(entries)
        {
            entries.sort_by_key(Value::to_string);
        }
        self.seen.push(format!("{what} -> {} {body}", answer.status));
    }

    /// Ids become numbers in the order in which they were first seen, times and measures words.
    fn same_in_every_run(&mut self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.named(text)),
            Value::Array(parts) => parts.into_iter().map(|part| self.same_in_every_run(part)).collect(),
            // An entry of the audit trail or of the log may be the first to name something.
            Value::Object(mut fields) if is_entry(&fields) => {
                let ids = ["id", "keyId", "sessionId", "agentId", "requestId", "names", "timestamp", "traceId"];
                ids.into_iter().for_each(|name| drop(fields.remove(name)));
                let fields = fields.into_iter().map(|(name, value)| (name, self.same_in_every_run(value)));
                Value::Object(fields.collect())
            }
            Value::Object(fields) => {
                let fields = fields.into_iter().map(|(name, value)| {
                    let is_metered = self.mode == Mode::Live && METERED.contains(&name.as_str());
                    let is_other = (OTHER.contains(&name.as_str()) || is_metered) && !value.is_null();
                    let value = if is_other { json!("<other>") } else { self.same_in_every_run(value) };
                    (name, value)
                });
                Value::Object(fields.collect())
            }
            other => other,
        }
    }

    fn named(&mut self, text: String) -> String {
        if theazo_http::parse_time_ms(&text).is_some() {
            return "<time>".into();
        }
        if let Some((what, _)) = text.split_once(" after ").filter(|(_, time)| time.ends_with(" ms")) {
            return format!("{what} after <time>");
        }
        match text.split_once('_') {
            Some(("req", _)) => "<request>".into(),
            Some((kind, rest)) if rest.len() == 26 && IDS.contains(&kind) => {
                let next = format!("<{kind} {}>", self.ids.len());
                self.ids.entry(text).or_insert(next).clone()
            }
            _ => text,
        }
    }
}

fn is_trail(entries: &[Value]) -> bool {
    entries.iter().any(|entry| entry.as_object().is_some_and(is_entry))
}

fn is_entry(fields: &serde_json::Map<String, Value>) -> bool {
    fields.contains_key("principal") || fields.contains_key("level")
}

/// What ids begin with.
const IDS: [&str; 8] = ["plt", "key", "ses", "agt", "snap", "ckpt", "log", "aud"];

/// Runs a script of the first platform, with the other's calls or without, and gives what the first saw.
async fn run(script: &[(Step, Vec<Beside>)], mode: Mode, other: Option<&Side>) -> Vec<String> {
    let mut side = Side::make(Platform::make("first").await, mode).await;
    let mut seen = Observations { mode, seen: Vec::new(), ids: HashMap::new() };
    for (step, beside) in script {
        let shown = request(*step, &side.things);
        let things = side.things.clone();
        let disturbing = async {
            if let Some(other) = other {
                futures_util::future::join_all(beside.iter().map(|call| other.disturb(*call, &things))).await;
            }
        };
        let (answer, ()) = tokio::join!(side.take(*step), disturbing);
        seen.note(&format!("{} call {}", shown.method, step.call), &answer);
    }
    // Some entries of the log are written without anybody waiting for them.
    stack().deployment().log_queue().written().await;
    // All that it can look at, in the end.
    let lists = [
        "/v1/sessions",
        "/v1/agents",
        "/v1/secrets?details=true",
        "/v1/providers",
        "/v1/api-keys",
        "/v1/audit?limit=100",
        "/v1/usage/summary",
        "/v1/usage/daily",
        "/v1/usage/by-provider",
        "/v1/usage/users/first",
        "/v1/usage/users/user-0",
        "/v1/usage/users/user-1",
        "/v1/usage/users/user-2",
        "/v1/usage/export?format=json",
        "/v1/metrics/summary",
        "/v1/whoami",
        "/v1/logs?limit=100",
    ];
    let mut paths: Vec<String> = lists.map(str::to_owned).to_vec();
    for session in &side.things.sessions {
        paths.extend(
            ["", "/secrets?details=true", "/usage", "/limits"].map(|rest| format!("/v1/sessions/{session}{rest}")),
        );
    }
    for agent in &side.things.agents {
        paths.extend(
            ["", "/files?dir=/data", "/secrets", "/progress", "/checkpoints"]
                .map(|rest| format!("/v1/agents/{agent}{rest}")),
        );
    }
    for path in paths {
        let answer = side.client.get(&path).await;
        assert!(answer.status < 500, "{path}: {answer:?}");
        seen.note("GET", &answer);
    }
    assert!(!side.things.sessions.is_empty() && seen.ids.len() > 3, "there is nothing to see");
    if mode == Mode::Live {
        for session in &side.things.sessions {
            side.client.terminate(session).await;
        }
        side.is_billed_for_its_own().await;
    }
    seen.seen
}

fn steps(calls: usize) -> impl Strategy<Value = Step> {
    (0..calls, 0..3usize, 0..6usize).prop_map(|(call, which, variant)| Step { call, which, variant })
}

fn scripts() -> impl Strategy<Value = Vec<(Step, Vec<Beside>)>> {
    let credential = prop_oneof![
        4 => Just(Credential::Key),
        2 => Just(Credential::Token),
        1 => Just(Credential::ForgedKey),
        1 => Just(Credential::ForgedToken),
        1 => Just(Credential::None),
    ];
    let beside = (steps(ALL_CALLS), any::<bool>(), credential);
    let beside = beside.prop_map(|(step, aimed, credential)| Beside { step, aimed, credential });
    prop::collection::vec((steps(CALLS), prop::collection::vec(beside, BESIDE)), STEPS)
}

/// A script in which a platform does what its users do, and beside it the other one makes every call that there is about
/// the first one's things, with every credential.
fn sweep() -> Vec<(Step, Vec<Beside>)> {
    const CALLS: [usize; 19] = [0, 4, 7, 10, 12, 31, 14, 3, 40, 42, 44, 22, 45, 46, 24, 33, 27, 39, 48];
    let credentials =
        [Credential::Key, Credential::Token, Credential::ForgedKey, Credential::ForgedToken, Credential::None];
    let all = (0..ALL_CALLS).flat_map(|call| credentials.map(|credential| (call, credential)));
    let all: Vec<Beside> = all
        .map(|(call, credential)| {
            let step = Step { call, which: call % 2, variant: call % 6 };
            Beside { step, aimed: true, credential }
        })
        .collect();
    let at_once = all.len().div_ceil(CALLS.len());
    let beside = all.chunks(at_once).map(<[Beside]>::to_vec);
    CALLS.into_iter().map(|call| Step { call, which: 0, variant: 4 }).zip(beside).collect()
}

#[test]
fn every_call_about_a_platforms_things_with_every_credential_of_another_changes_nothing_of_what_it_observes() {
    stack();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let script = sweep();
    assert_eq!(script.iter().map(|(_, beside)| beside.len()).sum::<usize>(), 5 * ALL_CALLS);
    for mode in [Mode::Test, Mode::Live] {
        let other = async { Side::make(Platform::make("other").await, mode).await.with_reporter().await };
        let other = runtime.block_on(other);
        let alone = runtime.block_on(run(&script, mode, None));
        let disturbed = runtime.block_on(run(&script, mode, Some(&other)));
        for (alone, disturbed) in alone.iter().zip(&disturbed) {
            assert_eq!(alone, disturbed, "{mode:?}");
        }
        assert_eq!(alone.len(), disturbed.len());
    }
}

#[test]
fn whatever_another_platform_does_with_test_keys_a_platform_observes_what_it_would_alone() {
    println!("{}", compare(Mode::Test));
}

#[test]
fn whatever_another_platform_does_with_agents_that_run_a_platform_observes_what_it_would_alone() {
    println!("{}", compare(Mode::Live));
}

/// Panics where observations differ; otherwise tells how many scripts ran.
fn compare(mode: Mode) -> String {
    stack();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    // One other platform for all scripts: what it left behind must not matter either.
    let other = async { Side::make(Platform::make("other").await, mode).await.with_reporter().await };
    let mut other = runtime.block_on(other);
    if mode == Mode::Live {
        other = runtime.block_on(other.at_a_hostile_provider());
    }
    let (started, ran) = (Instant::now(), Cell::new(0));
    let seconds = std::env::var(SECONDS).ok().map(|seconds| seconds.parse().expect("a number of seconds"));
    let (time, scripts_at_most) = match seconds {
        Some(seconds) => (Duration::from_secs(seconds), 10_000),
        None => (TIME, SCRIPTS),
    };
    let config =
        Config { cases: scripts_at_most, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&scripts(), |script| {
        if started.elapsed() > time && ran.get() >= least_scripts(mode) {
            return Ok(());
        }
        let alone = runtime.block_on(run(&script, mode, None));
        let disturbed = runtime.block_on(run(&script, mode, Some(&other)));
        ran.set(ran.get() + 1);
        match alone.iter().zip(&disturbed).find(|(alone, disturbed)| alone != disturbed) {
            Some((alone, disturbed)) => Err(TestCaseError::fail(format!("alone:     {alone}\ndisturbed: {disturbed}"))),
            None => {
                prop_assert_eq!(alone.len(), disturbed.len());
                Ok(())
            }
        }
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    assert!(ran.get() >= least_scripts(mode));
    format!("{} scripts in {:?}", ran.get(), started.elapsed())
}
