//! Non-interference: whatever another platform does, a platform observes what it would have observed alone.
//!
//! A random script of one platform is run twice, each time on a platform of its own: by itself, and with a second
//! platform calling at the same time, with its own credentials, forged ones and none, about its own things and about the
//! first one's. Status and body of every answer must be the same, but for ids, times and what is measured. Once with test
//! keys, and once with live ones and agents that really run, in one account of E2B's for both platforms.

use crate::e2b::configure;
use crate::harness::{Answer, Client, E2B_KEY, Platform, stack};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::HashMap;
use std::time::{Duration, Instant};
use theazo_tenancy::{Mode, PlatformId, SessionId, make_api_key, make_session_token};

/// Scripts in one mode, and the time after which no new one is begun.
const SCRIPTS: u32 = 40;
const TIME: Duration = Duration::from_secs(15);
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
const BESIDE: std::ops::Range<usize> = 0..5;

/// What a platform has and can name.
#[derive(Clone)]
struct Things {
    mode: Mode,
    platform: PlatformId,
    sessions: Vec<String>,
    agents: Vec<String>,
    keys: Vec<String>,
}

/// A platform with its things, and the token of its first session.
struct Side {
    client: Client,
    token: String,
    things: Things,
}

/// One call: which, and about which of the things.
#[derive(Clone, Copy, Debug)]
struct Step {
    call: usize,
    which: usize,
    /// A variant of names and values.
    variant: usize,
}

/// A call of the other platform.
#[derive(Clone, Copy, Debug)]
struct Beside {
    step: Step,
    /// Whether it names the first platform's things.
    aimed: bool,
    credential: Credential,
}

#[derive(Clone, Copy, Debug)]
enum Credential {
    Key,
    Token,
    /// Of the first platform, with a right checksum.
    ForgedKey,
    /// Of the first platform's session, likewise.
    ForgedToken,
    None,
}

struct Request {
    method: &'static str,
    path: String,
    body: Option<Value>,
    /// An idempotency key.
    once: Option<String>,
    /// By the session's token rather than the key.
    by_token: bool,
}

/// How many calls [`request`] knows.
const CALLS: usize = 50;

fn request(step: Step, things: &Things) -> Request {
    let pick = |things: &[String], absent: &str| match things.len() {
        0 => absent.to_owned(),
        len => things[step.which % len].clone(),
    };
    let session = pick(&things.sessions, "ses_00000000000000000000000000");
    let agent = pick(&things.agents, "agt_00000000000000000000000000");
    let key = pick(&things.keys, "key_00000000000000000000000000");
    let name = format!("NAME_{}", step.variant % 3);
    let user = step.variant % 3;
    // What a simulated agent goes by is a comment to one that runs.
    let (exit, is_live) = (step.variant % 2, things.mode == Mode::Live);
    let simulated = format!("# theazo:stdout {}\n# theazo:env NAME_0\n# theazo:exit {exit}", step.variant);
    let code = format!("{simulated}\necho {} $NAME_0\nexit {exit}", step.variant);
    let agent_body = |more: Value| match is_live {
        true => json!({ "provider": "e2b", "metadata": more }),
        false => json!({ "metadata": more }),
    };
    let of_session = |rest: &str| format!("/v1/sessions/{session}{rest}");
    let of_agent = |rest: &str| format!("/v1/agents/{agent}{rest}");
    let variant = step.variant;
    let (method, path, body) = match step.call {
        0 | 1 => ("POST", of_session("/secrets"), Some(json!({ &name: format!("a value {variant}") }))),
        2 => ("DELETE", of_session(&format!("/secrets/{name}")), None),
        3 => ("GET", of_session("/secrets?details=true&inherited=true"), None),
        4 => ("POST", "/v1/secrets".into(), Some(json!({ &name: format!("a shared value {variant}") }))),
        5 => ("DELETE", format!("/v1/secrets/{name}"), None),
        6 => ("GET", "/v1/secrets?details=true".into(), None),
        7..=9 | 38 => ("POST", of_session("/agents"), Some(agent_body(json!({ "k": variant.to_string() })))),
        10 | 11 => ("POST", of_agent("/exec"), Some(json!({ "language": "bash", "code": code }))),
        12 => {
            ("POST", of_agent("/files"), Some(json!({ "path": format!("/data/{user}"), "data": variant.to_string() })))
        }
        13 => ("GET", of_agent(&format!("/files/data/{user}")), None),
        14 => ("GET", of_agent("/files?dir=/data"), None),
        15 => ("POST", of_agent("/terminate"), None),
        16 => ("GET", "/v1/agents".into(), None),
        17 => ("GET", "/v1/agents?status=ready&limit=2".into(), None),
        18 => ("GET", of_session("/agents"), None),
        19 | 20 => ("GET", of_agent(""), None),
        21 => ("GET", of_agent("/status"), None),
        22 => ("PATCH", of_session("/limits"), Some(json!({ "maxAgents": variant }))),
        23 => ("GET", of_session("/limits"), None),
        24 => ("GET", of_session("/usage"), None),
        25 => ("POST", of_session("/terminate"), None),
        26 => ("POST", format!("/v1/sessions/by-user/user-{user}"), None),
        27 => ("POST", "/v1/sessions".into(), Some(json!({ "userId": format!("user-{user}") }))),
        28 => ("GET", "/v1/sessions".into(), None),
        29 | 30 => ("GET", of_session(""), None),
        31 => ("POST", "/v1/api-keys".into(), Some(json!({ "name": name, "environment": "test" }))),
        32 => ("DELETE", format!("/v1/api-keys/{key}"), None),
        33 => ("GET", "/v1/api-keys".into(), None),
        // Live agents need the account that is configured.
        34 | 35 if is_live => ("GET", "/v1/providers".into(), None),
        34 => ("PUT", "/v1/providers/e2b".into(), Some(json!({ "credentialRef": name }))),
        35 => ("DELETE", "/v1/providers/e2b".into(), None),
        36 => ("GET", "/v1/providers".into(), None),
        37 => ("DELETE", of_session("/tokens"), None),
        39 => ("GET", "/v1/audit?limit=100".into(), None),
        40 | 41 => ("POST", of_agent("/pause"), None),
        42 | 43 => ("POST", of_agent("/resume"), None),
        44 => ("POST", of_agent("/restart"), None),
        45 => ("POST", of_session("/pause"), None),
        46 => ("POST", of_session("/resume"), None),
        47 => ("GET", "/v1/usage/summary".into(), None),
        48 => ("GET", of_agent("/progress"), None),
        _ => ("GET", of_agent("/secrets"), None),
    };
    // Both platforms use the same keys for different requests.
    let once = (method == "POST" && [0, 4, 7, 27, 31].contains(&step.call)).then(|| format!("once-{user}"));
    let by_token = [3, 8, 10, 13, 18, 20, 21, 24, 30].contains(&step.call);
    Request { method, path, body, once, by_token }
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
        let things = Things { mode, platform: platform.id, sessions, agents, keys: Vec::new() };
        Self { client, token, things }
    }

    /// Makes a call with one of its own credentials, and takes note of what it made.
    async fn take(&mut self, step: Step) -> Answer {
        let request = request(step, &self.things);
        let client = if request.by_token { self.client.with_key(Some(&self.token)) } else { self.client.clone() };
        let answer = send(&client, &request).await;
        if answer.status == 201
            && let Some(id) = answer.json()["id"].as_str()
        {
            let made = match request.path.as_str() {
                "/v1/api-keys" => &mut self.things.keys,
                "/v1/sessions" => &mut self.things.sessions,
                _ => &mut self.things.agents,
            };
            if !made.iter().any(|known| known == id) {
                made.push(id.to_owned());
            }
        }
        answer
    }

    /// Makes a call beside the first platform's.
    async fn disturb(&self, beside: Beside, first: &Things) {
        let request = request(beside.step, if beside.aimed { first } else { &self.things });
        let forged = match beside.credential {
            Credential::Key => return drop(send(&self.client, &request).await),
            Credential::Token => Some(self.token.clone()),
            Credential::ForgedKey => Some(make_api_key(&first.platform, first.mode).text.to_string()),
            Credential::ForgedToken => {
                let session = SessionId::parse(&first.sessions[0]).unwrap();
                Some(make_session_token(&first.platform, first.mode, &session).text.to_string())
            }
            Credential::None => None,
        };
        let answer = send(&self.client.with_key(forged.as_deref()), &request).await;
        if matches!(beside.credential, Credential::ForgedKey | Credential::ForgedToken | Credential::None) {
            assert_eq!(answer.status, 401, "{answer:?}");
        }
    }
}

async fn send(client: &Client, request: &Request) -> Answer {
    match (&request.once, &request.body) {
        (Some(key), Some(body)) => client.post_once(&request.path, body.clone(), key).await,
        _ => client.call(request.method, &request.path, request.body.as_ref()).await,
    }
}

/// What a platform saw: every answer without what differs from run to run.
#[derive(Default)]
struct Observations {
    seen: Vec<String>,
    ids: HashMap<String, String>,
}

/// Fields that are random by their nature, or measured: who has cost most is, too.
const OTHER: [&str; 13] = [
    "cursor",
    "key",
    "prefix",
    "token",
    "computeMinutes",
    "duration",
    "durationMs",
    "totalDuration",
    "totalDurationMs",
    "activeDuration",
    "activeDurationMs",
    "cost",
    "topUser",
];

impl Observations {
    fn note(&mut self, what: &str, answer: &Answer) {
        let mut body = if answer.text.is_empty() { Value::Null } else { answer.json() };
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
                    let is_other = OTHER.contains(&name.as_str()) && !value.is_null();
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
    let mut seen = Observations::default();
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
    stack().deployment().log_queue().flushed().await;
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
        "/v1/logs?limit=100",
    ];
    let mut paths: Vec<String> = lists.map(str::to_owned).to_vec();
    for session in &side.things.sessions {
        paths.extend(
            ["", "/secrets?details=true", "/usage", "/limits"].map(|rest| format!("/v1/sessions/{session}{rest}")),
        );
    }
    for agent in &side.things.agents {
        paths.extend(["", "/files?dir=/data", "/secrets"].map(|rest| format!("/v1/agents/{agent}{rest}")));
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
    }
    seen.seen
}

fn steps() -> impl Strategy<Value = Step> {
    (0..CALLS, 0..3usize, 0..6usize).prop_map(|(call, which, variant)| Step { call, which, variant })
}

fn scripts() -> impl Strategy<Value = Vec<(Step, Vec<Beside>)>> {
    let credential = prop_oneof![
        4 => Just(Credential::Key),
        2 => Just(Credential::Token),
        1 => Just(Credential::ForgedKey),
        1 => Just(Credential::ForgedToken),
        1 => Just(Credential::None),
    ];
    let beside = (steps(), any::<bool>(), credential);
    let beside = beside.prop_map(|(step, aimed, credential)| Beside { step, aimed, credential });
    prop::collection::vec((steps(), prop::collection::vec(beside, BESIDE)), STEPS)
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
    let other = runtime.block_on(async { Side::make(Platform::make("other").await, mode).await });
    let (started, ran) = (Instant::now(), Cell::new(0));
    let config = Config { cases: SCRIPTS, max_shrink_iters: 40, failure_persistence: None, ..Config::default() };
    let outcome = TestRunner::new(config).run(&scripts(), |script| {
        if started.elapsed() > TIME && ran.get() >= least_scripts(mode) {
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
