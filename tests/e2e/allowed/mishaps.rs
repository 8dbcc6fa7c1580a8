//! What goes wrong, so that functions are seen to do what they do then: sandboxes that are gone, boots that fail, pauses
//! that were interrupted, changes that somebody else was quicker with, and requests that failed after they were noted.

use super::Recorder;
use super::scenario::id;
use crate::harness::{Break, container_name, docker, provider_of};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join;
use serde_json::{Value, json};
use std::time::Duration;
use theazo_functions::deployment::DockerEngine;
use theazo_functions::routes::ROUTES;
use theazo_http::Repeats;
use theazo_providers::docker::Endpoint;
use theazo_providers::{AgentRef, Provider};

/// A call to an agent: the function, what follows the agent's id in its path, its query and its body.
type AgentCall = (&'static str, &'static [&'static str], &'static str, Value);

fn calls() -> [AgentCall; 5] {
    [
        ("agents-exec", &[], "", json!({ "language": "bash", "code": "true" })),
        ("agents-files-write", &[], "", json!({ "path": "/data/a", "data": "a" })),
        ("agents-ports-open", &[], "", json!({ "port": 3000 })),
        ("agents-files-list", &[], "dir=/data", Value::Null),
        ("agents-files-read", &["data/a"], "", Value::Null),
    ]
}

/// What is done with agents' sandboxes as a whole.
fn turns() -> [AgentCall; 4] {
    ["agents-pause", "agents-checkpoints-create", "agents-restart", "agents-resume"]
        .map(|name| -> AgentCall { (name, &[], "", Value::Null) })
}

pub(super) async fn of_every_kind(recorder: &mut Recorder) {
    for (mode, key) in [("live", recorder.live_key.clone()), ("test", recorder.test_key.clone())] {
        recorder.key = key;
        noted_calls(recorder, mode).await;
    }
    recorder.key = recorder.live_key.clone();
    lost(recorder).await;
    failing_boots(recorder).await;
    ended_while_booting(recorder).await;
    behind(recorder).await;
    interrupted_pauses(recorder).await;
    recorder.key = recorder.test_key.clone();
    lost_in_test(recorder).await;
    large_answer(recorder).await;
    forgotten_notes(recorder).await;
    contended(recorder).await;
    expected(recorder);
}

async fn session_of(recorder: &mut Recorder, user: &str) -> String {
    id(&recorder.ok("sessions-by-user", &[user], json!({})).await)
}

async fn boot(recorder: &mut Recorder, session: &str) -> String {
    id(&recorder.ok("agents-create", &[session], json!({})).await)
}

/// Calls to an agent that is paused when it has none: that it has one is noted, each time as if for the first time.
async fn noted_calls(recorder: &mut Recorder, mode: &str) {
    let platform = recorder.ok("whoami", &[], Value::Null).await["platformId"].as_str().unwrap().to_owned();
    let session = session_of(recorder, "noted").await;
    let agent = id(&recorder.ok("agents-create", &[&session], json!({ "lifecycle": { "autoPause": "1h" } })).await);
    for (name, rest, query, body) in calls() {
        let agents = format!("{platform}#{mode}#agents");
        recorder.edit(&agents, &agent, "SET busy_until_ms = :t", json!({ ":t": { "N": "1" } })).await;
        let params: Vec<&str> = [agent.as_str()].into_iter().chain(rest.iter().copied()).collect();
        let (status, answer) = recorder.call(name, &params, query, body).await;
        recorder.expect(status < 300, || format!("{name} of one that is paused when idle: {status} {answer}"));
    }
    recorder.ok("agents-terminate", &[&agent], Value::Null).await;
}

async fn destroy(recorder: &Recorder, agent: &str) {
    provider_of(&recorder.config.name).destroy(&AgentRef { agent: agent.to_owned() }).await.unwrap();
}

/// How an agent loses its sandbox.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Loss {
    /// It is gone with its files.
    Young,
    /// The same, of one that has booted more than once: what it was given lies where its row does not say.
    Old,
    /// Its own clock has stopped it on account of a limit that does not hold any more: its files are there.
    ByItsClock,
}

/// What is asked of agents whose sandboxes are gone.
async fn lost(recorder: &mut Recorder) {
    let platform = recorder.ok("whoami", &[], Value::Null).await["platformId"].as_str().unwrap().to_owned();
    let session = session_of(recorder, "lost").await;
    for (name, rest, query, body) in calls().into_iter().chain(turns()) {
        for loss in [Loss::Young, Loss::Old, Loss::ByItsClock] {
            let is_paused = name == "agents-resume";
            let expected = if loss == Loss::ByItsClock { 409 } else { 502 };
            // A pause or a restart of one that has stopped is one of its files.
            if loss == Loss::ByItsClock && (is_paused || ["agents-pause", "agents-restart"].contains(&name)) {
                continue;
            }
            let agent = boot(recorder, &session).await;
            if loss == Loss::Old {
                recorder.ok("agents-restart", &[&agent], json!({})).await;
            }
            if is_paused {
                recorder.ok("agents-pause", &[&agent], Value::Null).await;
            }
            if loss == Loss::ByItsClock {
                let rows = format!("{platform}#live#agents");
                recorder.edit(&rows, &agent, "SET allowed_ms = :t", json!({ ":t": { "N": "1" } })).await;
                docker().await.kill_container(&container_name(&agent), None).await.unwrap();
            } else {
                destroy(recorder, &agent).await;
            }
            let params: Vec<&str> = [agent.as_str()].into_iter().chain(rest.iter().copied()).collect();
            let (status, answer) = recorder.call(name, &params, query, body.clone()).await;
            recorder.expect(status == expected, || format!("{name} of one that is lost ({loss:?}): {status} {answer}"));
        }
    }
    let over = super::scenario::over(recorder, &session, json!({})).await;
    destroy(recorder, &over).await;
    let (status, answer) = recorder.call("agents-retry", &[&over], "", json!({})).await;
    recorder.expect(status >= 400, || format!("agents-retry of one without files: {status} {answer}"));
    recorder.ok("sessions-terminate", &[&session], Value::Null).await;
    for name in ["sessions-pause", "sessions-resume", "sessions-terminate"] {
        let session = session_of(recorder, "lost-too").await;
        let agent = boot(recorder, &session).await;
        if name == "sessions-resume" {
            recorder.ok("sessions-pause", &[&session], Value::Null).await;
        }
        destroy(recorder, &agent).await;
        recorder.call(name, &[&session], "", Value::Null).await;
        recorder.ok("sessions-terminate", &[&session], Value::Null).await;
    }
}

/// Simulated agents whose sandboxes are gone, and what a pause of one throws away: pieces of files lie in the table.
async fn lost_in_test(recorder: &mut Recorder) {
    let platform = recorder.ok("whoami", &[], Value::Null).await["platformId"].as_str().unwrap().to_owned();
    let file = |path: &str| json!({ "path": path, "data": "in a piece" });
    let key = |agent: &str| json!({ "pk": { "S": format!("{platform}#test#{agent}#disk") }, "sk": { "S": "index" } });
    let lose = |agent: &str| json!({ "TableName": super::DATA, "Key": key(agent) });
    let session = session_of(recorder, "lost").await;
    for (name, rest, query, body) in calls().into_iter().chain(turns()) {
        let agent = boot(recorder, &session).await;
        recorder.ok("agents-files-write", &[&agent], file("/data/a")).await;
        if name == "agents-resume" {
            recorder.ok("agents-pause", &[&agent], Value::Null).await;
        }
        recorder.table("DeleteItem", lose(&agent)).await;
        let params: Vec<&str> = [agent.as_str()].into_iter().chain(rest.iter().copied()).collect();
        let (status, answer) = recorder.call(name, &params, query, body.clone()).await;
        recorder.expect(status >= 400, || format!("{name} of a simulated one that is lost: {status} {answer}"));
    }
    recorder.ok("sessions-terminate", &[&session], Value::Null).await;
    let session = session_of(recorder, "late").await;
    // Those that their own clock has stopped: before their time, or on account of a limit that does not hold any more.
    for (name, rest, query, body) in calls() {
        for (by_a_limit, has_checkpoint) in [(true, false), (false, false), (false, true)] {
            let agent = boot(recorder, &session).await;
            recorder.ok("agents-files-write", &[&agent], file("/data/a")).await;
            if has_checkpoint {
                recorder.ok("agents-checkpoints-create", &[&agent], json!({})).await;
            }
            if by_a_limit {
                let rows = format!("{platform}#test#agents");
                recorder.edit(&rows, &agent, "SET allowed_ms = :t", json!({ ":t": { "N": "1" } })).await;
            }
            stop_clock(recorder, key(&agent)).await;
            let params: Vec<&str> = [agent.as_str()].into_iter().chain(rest.iter().copied()).collect();
            let (status, answer) = recorder.call(name, &params, query, body.clone()).await;
            let expected = if by_a_limit { 409 } else { 502 };
            recorder.expect(status == expected, || {
                format!(
                    "{name} of a simulated one whose time is over ({by_a_limit}, {has_checkpoint}): {status} {answer}"
                )
            });
            recorder.call("agents-terminate", &[&agent], "", Value::Null).await;
        }
        recorder.expect_recorded(name, "Data PutItem *#disk");
    }
    recorder.ok("sessions-terminate", &[&session], Value::Null).await;
    for name in ["agents-pause", "agents-restart", "sessions-pause"] {
        let session = session_of(recorder, "thrown-away").await;
        let agent = boot(recorder, &session).await;
        recorder.ok("agents-files-write", &[&agent], file("/tmp/a")).await;
        let param = if name == "sessions-pause" { &session } else { &agent };
        recorder.ok(name, &[param], json!({})).await;
        recorder.expect_recorded(name, "Data BatchWriteItem *#disk");
        recorder.ok("sessions-terminate", &[&session], Value::Null).await;
    }
    for name in ["sessions-pause", "sessions-resume", "sessions-terminate"] {
        let session = session_of(recorder, "lost-too").await;
        let agent = boot(recorder, &session).await;
        recorder.ok("agents-files-write", &[&agent], file("/data/a")).await;
        if name == "sessions-resume" {
            recorder.ok("sessions-pause", &[&session], Value::Null).await;
        }
        recorder.table("DeleteItem", lose(&agent)).await;
        recorder.call(name, &[&session], "", Value::Null).await;
        recorder.ok("sessions-terminate", &[&session], Value::Null).await;
    }
    for name in ["agents-exec", "agents-files-read", "agents-files-list", "agents-files-write", "agents-ports-open"] {
        recorder.expect_recorded(name, "Data DeleteItem *#disk");
        recorder.expect_recorded(name, "Data Query *#disk");
    }
}

/// Has a simulated sandbox end by itself.
async fn stop_clock(recorder: &Recorder, key: Value) {
    let found = recorder.table("GetItem", json!({ "TableName": super::DATA, "Key": key })).await;
    let mut item = found["Item"].clone();
    let index = STANDARD.decode(item["content"]["B"].as_str().expect("an index")).unwrap();
    let mut index: Value = serde_json::from_slice(&index).unwrap();
    index["ends_at_ms"] = 1.into();
    item["content"]["B"] = STANDARD.encode(index.to_string()).into();
    recorder.table("PutItem", json!({ "TableName": super::DATA, "Item": item })).await;
}

/// Boots that fail at the provider, and are taken back; and boots that no provider is there for.
async fn failing_boots(recorder: &mut Recorder) {
    let good = recorder.config.docker.clone();
    let absent = good.clone().map(|engine| DockerEngine { image: "theazo.invalid/absent:none".into(), ..engine });
    let session = session_of(recorder, "failing").await;
    let running = boot(recorder, &session).await;
    let paused = boot(recorder, &session).await;
    recorder.ok("agents-pause", &[&paused], Value::Null).await;
    let over = super::scenario::over(recorder, &session, json!({})).await;
    let other = session_of(recorder, "failing-too").await;
    boot(recorder, &other).await;
    recorder.ok("sessions-pause", &[&other], Value::Null).await;
    for docker in [None, absent] {
        recorder.config.docker = docker;
        for (name, param) in [
            ("agents-create", session.as_str()),
            ("agents-resume", &paused),
            ("agents-restart", &running),
            ("agents-retry", &over),
            ("sessions-resume", &other),
        ] {
            let (status, answer) = recorder.call(name, &[param], "", json!({})).await;
            recorder.expect(status >= 400, || format!("{name} of an image that there is not: {status} {answer}"));
        }
    }
    recorder.config.docker = good;
    for session in [session, other] {
        recorder.ok("sessions-terminate", &[&session], Value::Null).await;
    }
}

/// Boots in the middle of which somebody ends the agent.
async fn ended_while_booting(recorder: &mut Recorder) {
    for name in ["agents-create", "agents-resume", "agents-restart", "agents-retry", "sessions-resume"] {
        let mut is_seen = false;
        for _ in 0..5 {
            let session = session_of(recorder, "ended").await;
            let mut param = session.clone();
            let agent = match name {
                "agents-create" => None,
                "agents-retry" => Some(super::scenario::over(recorder, &session, json!({})).await),
                _ => Some(boot(recorder, &session).await),
            };
            if let Some(agent) = &agent {
                match name {
                    "agents-resume" => drop(recorder.ok("agents-pause", &[agent], Value::Null).await),
                    "sessions-resume" => drop(recorder.ok("sessions-pause", &[&session], Value::Null).await),
                    _ => {}
                }
                if name != "sessions-resume" {
                    param.clone_from(agent);
                }
            }
            let client = recorder.client.clone();
            let agents = format!("/v1/sessions/{session}/agents?status=booting");
            let end = async move {
                for _ in 0..200 {
                    let listed = client.get(&agents).await.expect(200);
                    if let Some(booting) = listed["data"].as_array().unwrap().first() {
                        let path = format!("/v1/agents/{}/terminate", booting["id"].as_str().unwrap());
                        return client.call("POST", &path, None).await.status == 200;
                    }
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                false
            };
            let (ended, (status, _)) = join(end, recorder.call(name, &[&param], "", json!({}))).await;
            recorder.ok("sessions-terminate", &[&session], Value::Null).await;
            is_seen = ended && (status >= 400 || name == "sessions-resume");
            if is_seen {
                break;
            }
        }
        recorder.expect(is_seen, || format!("{name} was never too late for an agent's end"));
    }
}

/// Boots in a session of which another agent has run beyond what it claimed of the session's limits.
async fn behind(recorder: &mut Recorder) {
    let platform = recorder.ok("whoami", &[], Value::Null).await["platformId"].as_str().unwrap().to_owned();
    let session = session_of(recorder, "behind").await;
    let over = super::scenario::over(recorder, &session, json!({})).await;
    let [behind, running, paused] =
        [boot(recorder, &session).await, boot(recorder, &session).await, boot(recorder, &session).await];
    recorder.ok("agents-pause", &[&paused], Value::Null).await;
    recorder.ok("sessions-limits-set", &[&session], json!({ "maxComputeMinutes": 1_000_000 })).await;
    for (name, param) in [
        ("agents-create", session.as_str()),
        ("agents-resume", &paused),
        ("agents-restart", &running),
        ("agents-retry", &over),
    ] {
        let ago = |ms: i64| json!({ "N": (theazo_store::now_ms() - ms).to_string() });
        let times = json!({ ":at": ago(300_000), ":claimed": ago(240_000) });
        let update = "SET meter.run.started_ms = :at, meter.run.booked_to_ms = :at, meter.run.claimed_to_ms = :claimed";
        for partition in ["agents", &format!("{session}#live-agents")] {
            recorder.edit(&format!("{platform}#live#{partition}"), &behind, update, times.clone()).await;
        }
        let (status, answer) = recorder.call(name, &[param], "", json!({})).await;
        recorder.expect(status < 300, || format!("{name} beside one that is behind: {status} {answer}"));
    }
    recorder.ok("sessions-terminate", &[&session], Value::Null).await;
}

/// Pauses that the engine did not carry out. Whoever pauses or resumes the session next finishes them, with the sandbox
/// there and with the sandbox gone.
async fn interrupted_pauses(recorder: &mut Recorder) {
    let good = recorder.config.docker.clone();
    let nowhere = Endpoint::parse("unix:///nonexistent/engine.sock").unwrap();
    let dead = good.clone().map(|engine| DockerEngine { endpoint: nowhere, ..engine });
    for name in ["sessions-resume", "sessions-pause", "sessions-terminate"] {
        for is_gone in [false, true] {
            let session = session_of(recorder, "interrupted").await;
            let agent = boot(recorder, &session).await;
            recorder.config.docker.clone_from(&dead);
            let (status, answer) = recorder.call("sessions-pause", &[&session], "", Value::Null).await;
            recorder.expect(status == 502, || format!("sessions-pause without an engine: {status} {answer}"));
            recorder.config.docker.clone_from(&good);
            if is_gone {
                destroy(recorder, &agent).await;
            }
            let (status, answer) = recorder.call(name, &[&session], "", Value::Null).await;
            let is_as_expected = status < 300 || is_gone;
            recorder.expect(is_as_expected, || format!("{name} after an interrupted pause: {status} {answer}"));
            recorder.ok("sessions-terminate", &[&session], Value::Null).await;
        }
    }
}

/// An answer that takes more than one row, given again. Each of these letters takes six in JSON.
async fn large_answer(recorder: &mut Recorder) {
    let session = session_of(recorder, "large").await;
    let agent = json!({ "instructions": "\u{1}".repeat(60 * 1024) });
    recorder.ok("agents-create", &[&session], agent).await;
    recorder.ok("sessions-terminate", &[&session], Value::Null).await;
}

/// A change that the table refuses, as when the condition of its first write does not hold.
fn quicker() -> Break {
    let reasons = json!([{ "Code": "ConditionalCheckFailed" }]);
    let kind = "com.amazonaws.dynamodb.v20120810#TransactionCanceledException";
    Break::Answer(400, json!({ "__type": kind, "Message": "m", "CancellationReasons": reasons }).to_string())
}

/// Something for every function that changes something, in a fresh session: names, parameters and bodies.
async fn changes(recorder: &mut Recorder, user: &str) -> (String, Vec<(&'static str, Vec<String>, Value)>) {
    let refusing = recorder.refusing.take();
    let none = Value::Null;
    let session = session_of(recorder, user).await;
    let secrets = json!({ "A": "value of a", "B": "value of b" });
    recorder.ok("secrets-set", &[&session], secrets.clone()).await;
    recorder.ok("platform-secrets-set", &[], json!({ "P": "value of p", "Q": "value of q" })).await;
    recorder.ok("providers-set", &["e2b"], json!({ "credentialRef": "P" })).await;
    let [running, other] = [boot(recorder, &session).await, boot(recorder, &session).await];
    let paused = boot(recorder, &session).await;
    recorder.ok("agents-pause", &[&paused], none.clone()).await;
    let over = super::scenario::over(recorder, &session, json!({})).await;
    let key = json!({ "name": "n", "environment": "test" });
    let old = id(&recorder.ok("api-keys-create", &[], key.clone()).await);
    recorder.refusing = refusing;
    let one = |name: &'static str, params: &[&str], body: &Value| {
        (name, params.iter().map(|param| (*param).to_owned()).collect(), body.clone())
    };
    let new = json!({ "userId": format!("{user}-other") });
    let calls = vec![
        one("api-keys-create", &[], &key),
        one("api-keys-rotate", &[&old], &json!({})),
        one("api-keys-delete", &[&old], &none),
        one("sessions-create", &[], &new),
        one("sessions-by-user", &[&format!("{user}-third")], &json!({})),
        one("sessions-by-user", &[user], &json!({ "metadata": { "a": "b" } })),
        one("sessions-limits-set", &[&session], &json!({ "maxAgents": 50 })),
        one("sessions-tokens-create", &[&session], &json!({})),
        one("sessions-tokens-delete", &[&session], &none),
        one("secrets-set", &[&session], &secrets),
        one("secrets-delete", &[&session, "B"], &none),
        one("platform-secrets-set", &[], &json!({ "P": "value of p" })),
        one("platform-secrets-delete", &["Q"], &none),
        one("providers-set", &["e2b"], &json!({ "credentialRef": "P" })),
        one("providers-delete", &["e2b"], &none),
        one("agents-create", &[&session], &json!({})),
        one("agents-checkpoints-create", &[&running], &json!({})),
        one("agents-restart", &[&running], &json!({})),
        one("agents-pause", &[&running], &none),
        one("agents-resume", &[&paused], &json!({})),
        one("agents-retry", &[&over], &json!({})),
        one("agents-terminate", &[&other], &none),
        one("sessions-pause", &[&session], &none),
        one("sessions-resume", &[&session], &json!({})),
        one("sessions-terminate", &[&session], &none),
    ];
    (session, calls)
}

fn is_once(name: &str) -> bool {
    ROUTES.iter().any(|route| route.info.name == name && route.info.repeats == Repeats::Once)
}

/// Requests that fail for good after they were noted, and take their note back.
async fn forgotten_notes(recorder: &mut Recorder) {
    let kind = "com.amazonaws.dynamodb.v20120810#ValidationException";
    let refused = Break::Answer(400, json!({ "__type": kind, "message": "m" }).to_string());
    let (session, changes) = changes(recorder, "forgotten").await;
    // The note is a transaction as well.
    recorder.refusing = Some((1, usize::MAX, refused));
    for (name, params, body) in changes.into_iter().filter(|(name, ..)| is_once(name)) {
        let params: Vec<&str> = params.iter().map(String::as_str).collect();
        let (status, answer) = recorder.call(name, &params, "", body).await;
        recorder.expect(status == 500, || format!("{name} without a table: {status} {answer}"));
    }
    recorder.refusing = None;
    recorder.ok("sessions-terminate", &[&session], Value::Null).await;
}

/// Changes that somebody else is quicker with: the first, the second, or a later one of a request.
async fn contended(recorder: &mut Recorder) {
    for spared in 0..3 {
        recorder.refusing = Some((spared, 1, quicker()));
        let (session, changes) = changes(recorder, "contended").await;
        for (name, params, body) in changes {
            let params: Vec<&str> = params.iter().map(String::as_str).collect();
            if let Some((before, ..)) = &mut recorder.refusing {
                *before = spared + usize::from(is_once(name));
            }
            recorder.call(name, &params, "", body).await;
        }
        recorder.refusing = None;
        recorder.ok("sessions-terminate", &[&session], Value::Null).await;
    }
}

/// What functions do only then. It was missing from their roles once.
fn expected(recorder: &mut Recorder) {
    for (name, ..) in calls() {
        for grant in
            ["Data UpdateItem *#agents", "Data PutItem *#audit#*", "Data Query *#copies", "Data Query *#token-copies"]
        {
            recorder.expect_recorded(name, grant);
        }
    }
    for name in ["agents-create", "agents-resume", "agents-restart", "agents-retry"] {
        for grant in ["Data DeleteItem *#live-agents", "Data GetItem *#agents", "Data PutItem *#live-agents"] {
            recorder.expect_recorded(name, grant);
        }
    }
    for route in ROUTES.iter().filter(|route| route.info.repeats == Repeats::Once) {
        recorder.expect_recorded(route.info.name, "Data DeleteItem *#replays");
    }
    for (name, grant) in [
        ("agents-create", "Data BatchGetItem *#replays"),
        ("agents-create", "Data Query *#providers"),
        ("platform-secrets-delete", "Data Query *#providers"),
        ("sessions-resume", "Data Query *#copies"),
        ("sessions-resume", "Data Query *#token-copies"),
        ("sessions-resume", "Data UpdateItem *#usage#*"),
        ("sessions-pause", "Data ConditionCheckItem *#sessions"),
        ("providers-delete", "Data PutItem *#providers"),
        ("providers-set", "Data PutItem *#providers"),
    ] {
        recorder.expect_recorded(name, grant);
    }
}
