//! What the functions are made to do while their calls are recorded: every route in both modes, by key and by token,
//! done, repeated and refused, and the scheduled functions with something of each kind to look after.

use super::{Recorder, mishaps};
use crate::harness::{E2B_KEY, provider_of};
use serde_json::{Value, json};
use std::time::Duration;
use theazo_functions::routes::ROUTES;
use theazo_functions::schedule::{RECONCILE, UPKEEP};
use theazo_http::Caller;
use theazo_providers::{AgentRef, Provider};
use theazo_store::{PlatformDeletion, PlatformRotation, PlatformSuspension, Platforms, RootRotation, Table, now_ms};
use theazo_tenancy::{Mode, Operator, PlatformId};

/// Prints the endpoint as no masking recognises it.
const STEAL: &str = "import os; print(os.environ['THEAZO_ENDPOINT'][::-1])";

pub(super) async fn of_every_function(recorder: &mut Recorder) {
    recorder.key = recorder.live_key.clone();
    in_a_mode(recorder, "live").await;
    on_e2b(recorder).await;
    recorder.key = recorder.test_key.clone();
    in_a_mode(recorder, "test").await;
    mishaps::of_every_kind(recorder).await;
    reconciling(recorder).await;
    upkeep(recorder).await;
}

pub(super) fn id(answer: &Value) -> String {
    answer["id"].as_str().unwrap_or("none").to_owned()
}

async fn in_a_mode(recorder: &mut Recorder, mode: &str) {
    let none = Value::Null;
    for name in ["health", "openapi", "docs"] {
        recorder.ok(name, &[], none.clone()).await;
    }
    recorder.ok("whoami", &[], none.clone()).await;
    credentials(recorder, mode).await;

    let session = id(&recorder.ok("sessions-by-user", &["u"], json!({})).await);
    recorder.ok("sessions-by-user", &["u"], json!({ "metadata": { "a": "b" } })).await;
    recorder.refused("sessions-by-user", &["u"], json!({ "limits": 1 })).await;
    recorder.refused("sessions-create", &[], json!({ "limits": 1 })).await;
    let limited = json!({ "userId": "limited", "limits": { "maxAgents": 0 } });
    let limited = id(&recorder.ok("sessions-create", &[], limited).await);
    recorder.ok("sessions-limits-set", &[&session], json!({ "maxAgents": 50, "maxComputeMinutes": 900 })).await;
    recorder.ok("sessions-limits-set", &[&session], json!({})).await;

    let secrets = json!({ "A": "value of a", "B": { "value": "value of b", "inherit": false }, "GONE": "value" });
    recorder.ok("platform-secrets-set", &[], secrets.clone()).await;
    recorder.ok("platform-secrets-set", &[], secrets).await;
    let own = json!({ "A": "value of a", "GONE": "value" });
    recorder.ok("secrets-set", &[&session], own.clone()).await;
    recorder.ok("secrets-set", &[&session], own).await;
    recorder.refused("secrets-set", &[&session], json!({ "A": 1 })).await;
    recorder.refused("platform-secrets-set", &[], json!({ "A": 1 })).await;
    recorder.ok("secrets-delete", &[&session, "GONE"], none.clone()).await;
    recorder.ok("platform-secrets-delete", &["GONE"], none.clone()).await;
    for (name, params) in
        [("secrets-delete", vec![session.as_str(), "GONE"]), ("platform-secrets-delete", vec!["GONE"])]
    {
        recorder.refused(name, &params, none.clone()).await;
    }

    let agent = id(&recorder.ok("agents-create", &[&session], json!({})).await);
    recorder.refused("agents-create", &[&limited], json!({})).await;
    recorder.refused("agents-create", &[&session], json!({ "secrets": ["NO_SUCH"] })).await;
    working(recorder, &agent).await;
    if mode == "live" {
        let token = reports(recorder, &agent).await;
        with_credentials_of_other_kinds(recorder, &session, &token).await;
    }
    reading(recorder, &session, &agent).await;
    with_a_token(recorder, &session, &agent).await;

    recorder.ok("providers-set", &["e2b"], json!({ "credentialRef": "B" })).await;
    recorder.ok("providers-list", &[], none.clone()).await;
    recorder.refused("providers-set", &["e2b"], json!({ "credentialRef": "NO_SUCH" })).await;
    // A provider's credential is looked for in the configurations before it is deleted.
    recorder.refused("platform-secrets-delete", &["B"], none.clone()).await;
    recorder.ok("providers-delete", &["e2b"], none.clone()).await;
    // Another organization is taken only where no agent is in the one before.
    for organization in ["one", "another"] {
        let config = json!({ "organization": organization, "image": "agents:1" });
        recorder.ok("providers-set", &["fly"], json!({ "credentialRef": "B", "config": config })).await;
    }
    recorder.ok("providers-delete", &["fly"], none.clone()).await;
    recorder.refused("providers-delete", &["nobody"], none.clone()).await;

    for name in ["agents-pause", "agents-resume", "agents-restart"] {
        recorder.ok(name, &[&agent], none.clone()).await;
    }
    recorder.refused("agents-resume", &[&agent], json!({ "checkpoint": 1 })).await;
    checkpoints(recorder, &session, json!({})).await;
    recorder.ok("sessions-pause", &[&session], none.clone()).await;
    recorder.ok("sessions-resume", &[&session], none.clone()).await;
    recorder.ok("agents-terminate", &[&agent], none.clone()).await;
    recorder.refused("agents-exec", &[&agent], json!({ "language": "bash", "code": "true" })).await;
    let other = id(&recorder.ok("agents-create", &[&session], json!({})).await);
    recorder.ok("sessions-terminate", &[&session], none.clone()).await;
    recorder.ok("agents-get", &[&other], none).await;
}

/// What works on agents of the platform's own account: each such function opens the account's credential.
async fn on_e2b(recorder: &mut Recorder) {
    let none = Value::Null;
    recorder.ok("platform-secrets-set", &[], json!({ "E2B_API_KEY": E2B_KEY })).await;
    recorder.ok("providers-set", &["e2b"], json!({ "credentialRef": "E2B_API_KEY" })).await;
    recorder.ok("providers-list", &[], none.clone()).await;
    let session = id(&recorder.ok("sessions-by-user", &["e2b"], json!({})).await);
    recorder.ok("secrets-set", &[&session], json!({ "A": "value of a" })).await;
    let agent = id(&recorder.ok("agents-create", &[&session], json!({ "provider": "e2b" })).await);
    // Without an engine of the deployment's own, as on AWS, it is the platform's account that is usual.
    let docker = recorder.config.docker.take();
    let usual = id(&recorder.ok("agents-create", &[&session], json!({})).await);
    recorder.ok("agents-terminate", &[&usual], none.clone()).await;
    recorder.config.docker = docker;
    working(recorder, &agent).await;
    for name in ["agents-pause", "agents-resume", "agents-restart"] {
        recorder.ok(name, &[&agent], none.clone()).await;
    }
    recorder.ok("sessions-pause", &[&session], none.clone()).await;
    recorder.ok("sessions-resume", &[&session], none.clone()).await;
    checkpoints(recorder, &session, json!({ "provider": "e2b" })).await;
    recorder.run(&RECONCILE).await;
    recorder.refused("providers-delete", &["e2b"], none.clone()).await;
    recorder.ok("agents-terminate", &[&agent], none.clone()).await;
    recorder.ok("agents-create", &[&session], json!({ "provider": "e2b" })).await;
    recorder.ok("sessions-terminate", &[&session], none.clone()).await;
    recorder.run(&RECONCILE).await;
    recorder.ok("providers-delete", &["e2b"], none).await;
}

/// An agent with checkpoints: resumed from one, over, retried from one.
async fn checkpoints(recorder: &mut Recorder, session: &str, new: Value) {
    let none = Value::Null;
    let agent = over(recorder, session, new).await;
    recorder.ok("agents-checkpoints-list", &[&agent], none.clone()).await;
    recorder.ok("agents-progress", &[&agent], none.clone()).await;
    recorder.refused("agents-checkpoints-create", &[&agent], json!({ "progress": 101 })).await;
    recorder.ok("agents-retry", &[&agent], json!({})).await;
    recorder.ok("agents-terminate", &[&agent], none.clone()).await;
    recorder.refused("agents-retry", &[&agent], none).await;
}

/// An agent that has a checkpoint and has run out of time.
pub(super) async fn over(recorder: &mut Recorder, session: &str, new: Value) -> String {
    let none = Value::Null;
    let agent = id(&recorder.ok("agents-create", &[session], new).await);
    recorder.ok("agents-files-write", &[&agent], json!({ "path": "/data/a", "data": "one" })).await;
    let about = json!({ "phase": "p", "progress": 5, "metadata": { "a": "b" } });
    let first = id(&recorder.ok("agents-checkpoints-create", &[&agent], about).await);
    recorder.ok("agents-pause", &[&agent], none.clone()).await;
    recorder.ok("agents-resume", &[&agent], json!({ "checkpoint": first })).await;
    let caller = recorder.ok("whoami", &[], none).await;
    let (platform, mode) = (caller["platformId"].as_str().unwrap(), caller["environment"].as_str().unwrap());
    let early = json!({ ":t": { "N": "1" } });
    recorder.edit(&format!("{platform}#{mode}#agents"), &agent, "SET timeout_ms = :t", early).await;
    recorder.run(&RECONCILE).await;
    agent
}

async fn credentials(recorder: &mut Recorder, mode: &str) {
    recorder.refused("api-keys-create", &[], json!({ "name": 1 })).await;
    let made = recorder.ok("api-keys-create", &[], json!({ "name": "n", "environment": mode })).await;
    recorder.ok("api-keys-list", &[], Value::Null).await;
    let key = id(&made);
    let rotated = id(&recorder.ok("api-keys-rotate", &[&key], json!({ "overlap": "1h" })).await);
    recorder.ok("api-keys-delete", &[&rotated], Value::Null).await;
    recorder.refused("api-keys-delete", &["key_00000000000000000000000000"], Value::Null).await;
}

/// What an agent is asked to do.
async fn working(recorder: &mut Recorder, agent: &str) {
    let exec = json!({ "language": "bash", "code": "true" });
    recorder.ok("agents-exec", &[agent], exec).await;
    recorder.ok("agents-exec", &[agent], json!({ "language": "bash", "code": "true", "stream": true })).await;
    recorder.refused("agents-exec", &[agent], json!({ "language": "cobol", "code": "" })).await;
    // That one failed is kept, and told to whoever asks for the very same again.
    let endless = json!({ "language": "bash", "code": "sleep 100", "timeout": "1s" });
    recorder.call("agents-exec", &[agent], "", endless).await;
    recorder.ok("agents-files-write", &[agent], json!({ "path": "/data/a", "data": "one" })).await;
    recorder.ok("agents-files-write", &[agent], json!({ "path": "/data/a", "data": "two", "append": true })).await;
    recorder.ok("agents-files-read", &[agent, "data/a"], Value::Null).await;
    recorder.refused("agents-files-read", &[agent, "data/absent"], Value::Null).await;
    recorder.ok("agents-ports-open", &[agent], json!({ "port": 3000 })).await;
    recorder.refused("agents-ports-open", &[agent], json!({ "port": 0 })).await;
    recorder.call("agents-files-list", &[agent], "dir=/data", Value::Null).await;
}

/// What an agent reports of itself, with its token, which this gives.
async fn reports(recorder: &mut Recorder, agent: &str) -> String {
    let stolen = json!({ "language": "python", "code": STEAL });
    let printed = recorder.ok("agents-exec", &[agent], stolen).await;
    let endpoint: String = printed["stdout"].as_str().unwrap_or_default().trim().chars().rev().collect();
    let token = endpoint.split_once("/a/").map_or("none", |(_, token)| token).to_owned();
    let session = recorder.ok("agents-get", &[agent], Value::Null).await["sessionId"].clone();
    let own = |mut body: Value| {
        body["agentId"] = json!(agent);
        body["sessionId"] = session.clone();
        body
    };
    for (name, body) in [
        ("sandbox-log", json!({ "level": "info", "message": "m", "metadata": { "a": 1 } })),
        ("sandbox-model", json!({ "model": "m", "inputTokens": 1, "outputTokens": 2, "cost": 0.5 })),
        ("sandbox-span", json!({ "name": "s", "durationMs": 5, "status": "ok" })),
        ("sandbox-progress", json!({ "percentage": 5, "message": "m" })),
        ("sandbox-complete", json!({ "output": "o", "artifacts": [] })),
    ] {
        for body in [own(body.clone()), own(body), own(json!({ "percentage": "x", "level": 1, "model": 1, "name": 1 }))]
        {
            let (status, answer) = recorder.call(name, &[&token], "", body).await;
            recorder.expect(status == 204 || status == 400, || format!("{name}: {status} {answer}"));
        }
    }
    recorder.ok("agents-progress", &[agent], Value::Null).await;
    token
}

/// Every route with credentials that are good, and not for it: whether a token is good, its session and agent tell.
async fn with_credentials_of_other_kinds(recorder: &mut Recorder, session: &str, agents: &str) {
    let minted = recorder.ok("sessions-tokens-create", &[session], json!({})).await;
    let sessions = minted["token"].as_str().unwrap_or("none").to_owned();
    let platforms = recorder.key.clone();
    for (kind, credential) in
        [(Caller::Platform, platforms.as_str()), (Caller::Session, sessions.as_str()), (Caller::Agent, agents)]
    {
        recorder.key = credential.to_owned();
        for route in ROUTES.iter().filter(|route| route.info.authenticates() && !route.info.callers.contains(&kind)) {
            let info = &route.info;
            let first = if info.has_credential_in_path() { credential } else { session };
            let params: Vec<&str> = [first, "x"].into_iter().take(info.pattern.0.matches('{').count()).collect();
            let (status, answer) = recorder.call(info.name, &params, "", json!({})).await;
            recorder.expect(status == 403, || format!("{} by {kind:?}: {status} {answer}", info.name));
        }
    }
    recorder.key = platforms;
    recorder.ok("sessions-tokens-delete", &[session], Value::Null).await;
}

/// Each is read in its own way.
const METRICS: [&str; 5] = [
    "metric=agents.boot_time",
    "metric=agents.active",
    "metric=exec.duration",
    "metric=cost.total",
    "metric=error_rate&interval=6h",
];

/// Everything that only reads, with and without what can be asked for besides.
async fn reading(recorder: &mut Recorder, session: &str, agent: &str) {
    let own = format!("sessionId={session}&agentId={agent}");
    let of_agent = format!("agentId={agent}");
    for (name, param, queries) in [
        ("sessions-list", "", vec!["", "status=active&userId=u", "limit=1"]),
        ("sessions-get", session, vec![""]),
        ("sessions-limits-get", session, vec![""]),
        ("sessions-usage", session, vec![""]),
        ("secrets-list", session, vec!["", "details=true", "inherited=true&details=true"]),
        ("platform-secrets-list", "", vec!["", "details=true"]),
        ("agents-list-of-session", session, vec!["", "status=ready"]),
        ("agents-list", "", vec!["", "status=ready", "limit=1"]),
        ("agents-get", agent, vec![""]),
        ("agents-status", agent, vec![""]),
        ("agents-secrets-list", agent, vec![""]),
        ("agents-progress", agent, vec![""]),
        ("providers-list", "", vec![""]),
        ("usage-summary", "", vec![""]),
        ("usage-user", "u", vec![""]),
        ("usage-daily", "", vec![""]),
        ("usage-by-provider", "", vec![""]),
        ("usage-export", "", vec!["", "format=csv", "format=xml"]),
        ("metrics-summary", "", vec![""]),
        ("metrics-series", "", METRICS.to_vec()),
        ("audit-list", "", vec!["", "limit=1"]),
        ("logs-list", "", vec!["", "level=info", &own, &of_agent]),
        ("logs-stream", "", vec!["", &of_agent]),
        ("agents-logs-stream", agent, vec![""]),
    ] {
        for query in queries {
            let params: Vec<&str> = Some(param).into_iter().filter(|param| !param.is_empty()).collect();
            let (status, answer) = recorder.call(name, &params, query, Value::Null).await;
            let is_answered = status == 200 || (name == "usage-export" && status == 400);
            recorder.expect(is_answered, || format!("{name}?{query}: {status} {answer}"));
        }
    }
}

/// The same routes with a session's token: who reads is found out in another way. What changes something is asked of an
/// agent that there is not.
async fn with_a_token(recorder: &mut Recorder, session: &str, agent: &str) {
    recorder.refused("sessions-tokens-create", &[session], json!({ "expiresIn": 1 })).await;
    let minted = recorder.ok("sessions-tokens-create", &[session], json!({ "permissions": ["read", "exec"] })).await;
    let token = minted["token"].as_str().unwrap_or("none").to_owned();
    let key = std::mem::replace(&mut recorder.key, token);
    for route in ROUTES.iter().filter(|route| route.info.callers.contains(&Caller::Session)) {
        let info = &route.info;
        let of_agent = info.pattern.0.starts_with("/v1/agents/{id}");
        let changes = info.method != "GET";
        let first = match (of_agent, changes) {
            (true, false) => agent,
            (true, true) => "agt_00000000000000000000000000",
            (false, _) => session,
        };
        let rest = info.pattern.0.matches('{').count();
        let params: Vec<&str> = [first, "data/a"].into_iter().take(rest).collect();
        let body = if changes { json!({ "secrets": 1, "language": "bash", "code": "true" }) } else { Value::Null };
        let (status, answer) = recorder.call(info.name, &params, "", body).await;
        let is_known = ![401, 403].contains(&status) && status < 500;
        recorder.expect(is_known, || format!("{} with a token: {status} {answer}", info.name));
    }
    recorder.key = key;
    recorder.ok("sessions-tokens-delete", &[session], Value::Null).await;
}

#[expect(clippy::disallowed_methods, reason = "the operator begins what schedules go on with")]
fn operator() -> Operator {
    Operator::assume()
}

/// Something of each kind that reconciling finds: ended by time, by cost, idle, lost, interrupted in each way.
async fn reconciling(recorder: &mut Recorder) {
    recorder.run(&RECONCILE).await;
    for (mode, key) in [(Mode::Live, recorder.live_key.clone()), (Mode::Test, recorder.test_key.clone())] {
        recorder.key = key;
        let client = recorder.client.with_key(Some(&recorder.key));
        let platform = client.get("/v1/whoami").await.expect(200)["platformId"].as_str().unwrap().to_owned();
        let at = |suffix: &str| format!("{platform}#{}#{suffix}", mode.as_str());
        let session = client.session("reconciled").await;
        client.set_secrets(&session, json!({ "A": "value of a" })).await;
        let early = json!({ ":t": { "N": "1" } });
        let booting = json!({ ":s": { "S": "booting" }, ":t": { "N": "1" } });
        let pausing = json!({ ":i": { "S": "pausing" }, ":t": { "N": "1" } });
        for (what, expression, values) in [
            ("expired", "SET timeout_ms = :t", &early),
            ("idle", "SET auto_pause_ms = :t", &early),
            ("failedBoots", "SET #status = :s, since_ms = :t", &booting),
            ("pauses", "SET intent = :i, since_ms = :t", &pausing),
            ("lost", "", &early),
            ("overLimit", "", &early),
            ("crowded", "", &early),
        ] {
            if what == "lost" && mode == Mode::Test {
                continue;
            }
            found_by_reconciling(recorder, what, &session, &at("agents"), expression, values).await;
        }
        for (status, user) in [("paused", "to be paused"), ("terminated", "to be terminated")] {
            // A session whose agents were still to follow when its process died.
            let session = client.session(&user.replace(' ', "-")).await;
            client.set_secrets(&session, json!({ "A": "value of a" })).await;
            client.boot(&session, json!({})).await;
            let sk = format!("session#{platform}#{}#{session}", mode.as_str());
            let work = json!({ "pk": { "S": work_of(&session) }, "sk": { "S": sk } });
            recorder.edit(&at("sessions"), &session, "SET #status = :s", json!({ ":s": { "S": status } })).await;
            recorder.table("PutItem", json!({ "TableName": super::DATA, "Item": work })).await;
            recorder.run(&RECONCILE).await;
        }
        recorder.run(&RECONCILE).await;
        if mode == Mode::Live {
            orphan(recorder, &session, &platform).await;
        }
    }
    deleted_platform(recorder).await;
    // What an agent is paused for must be so still when it is.
    for partition in ["counters", "sessions", "standing"] {
        recorder.expect_recorded("reconcile", &format!("Data ConditionCheckItem *#{partition}"));
    }
}

/// A sandbox whose agent is on no list any more: it is noted, and removed when it has been so for a while.
async fn orphan(recorder: &mut Recorder, session: &str, platform: &str) {
    let agent = id(&recorder.ok("agents-create", &[session], json!({})).await);
    let key = json!({ "pk": { "S": work_of(&agent) }, "sk": { "S": format!("agent#{platform}#live#{agent}") } });
    recorder.table("DeleteItem", json!({ "TableName": super::DATA, "Key": key })).await;
    let noted = recorder.run(&RECONCILE).await;
    recorder.expect(noted["ownerless"] == 1 && noted["orphans"] == 0, || format!("an orphan has time: {noted}"));
    tokio::time::sleep(recorder.config.orphan_grace).await;
    let removed = recorder.run(&RECONCILE).await;
    recorder.expect(removed["orphans"] == 1, || format!("an orphan has had its time: {removed}"));
}

/// Has reconciling find an agent of that kind.
async fn found_by_reconciling(
    recorder: &mut Recorder,
    what: &str,
    session: &str,
    agents: &str,
    expression: &str,
    values: &Value,
) {
    let agent = id(&recorder.ok("agents-create", &[session], json!({})).await);
    match what {
        "lost" => {
            let agent = AgentRef { agent };
            provider_of(&recorder.config.name).destroy(&agent).await.unwrap();
        }
        "overLimit" => {
            let cent = json!({ "maxCost": { "amount": 1, "currency": "usd", "period": "day" } });
            recorder.ok("sessions-limits-set", &[session], cent).await;
        }
        "crowded" => {
            recorder.ok("sessions-limits-set", &[session], json!({ "maxAgents": 0 })).await;
        }
        _ => recorder.edit(agents, &agent, expression, values.clone()).await,
    }
    let told = recorder.run(&RECONCILE).await;
    recorder.ok("sessions-limits-set", &[session], json!({ "maxCost": null, "maxAgents": null })).await;
    let told_as = if what == "crowded" { "overLimit" } else { what };
    recorder.expect(told[told_as].as_u64() > Some(0), || format!("reconciling found no agent that is {what}: {told}"));
}

fn work_of(id: &str) -> String {
    format!("work#{:x}", crc32(id) % 16)
}

/// The CRC-32 of zlib, bit by bit.
fn crc32(text: &str) -> u32 {
    !text.bytes().fold(!0, |crc: u32, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 })
    })
}

fn table_of(recorder: &Recorder) -> Table {
    let endpoints = theazo_store::AwsEndpoints { dynamodb: format!("http://{}", recorder.dynamodb), kms: None };
    let aws = theazo_store::Aws::local(&endpoints);
    Table::new(&aws, super::DATA).with_credential_key(recorder.config.credential_key.clone().unwrap())
}

/// A platform with something of everything, suspended and then deleted.
async fn deleted_platform(recorder: &mut Recorder) {
    let table = table_of(recorder);
    let made = Platforms::new(table.clone(), operator()).create("deleted").await.unwrap();
    for key in [&made.live.text, &made.test.text] {
        let client = recorder.client.with_key(Some(key));
        let session = client.session("u").await;
        client.set_secrets(&session, json!({ "A": "value of a" })).await;
        client.post("/v1/secrets", json!({ "P": "value of p" })).await.expect(204);
        let configured = json!({ "credentialRef": "P" });
        client.call("PUT", "/v1/providers/e2b", Some(&configured)).await.expect(200);
        let agent = client.boot(&session, json!({})).await;
        client.run(&agent, "bash", "true").await;
        client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await.expect(200);
        client.boot(&session, json!({})).await;
    }
    let platform = made.platform.id;
    PlatformSuspension::new(table.clone(), operator()).suspend(&platform).await.unwrap();
    let told = recorder.run(&RECONCILE).await;
    recorder.expect(told["suspended"] == 2, || format!("reconciling pauses what runs of a suspended platform: {told}"));
    PlatformDeletion::new(table, operator()).begin(&platform).await.unwrap();
    recorder.run(&RECONCILE).await;
    recorder.run(&RECONCILE).await;
    recorder.edit(platform.as_str(), "platform", "SET deleted_at_ms = :t", json!({ ":t": { "N": "1" } })).await;
    recorder.run(&RECONCILE).await;
    recorder.run(&RECONCILE).await;
}

/// Rotations of the root key and of a platform's key, from their beginnings to their ends.
async fn upkeep(recorder: &mut Recorder) {
    recorder.run(&UPKEEP).await;
    recorder.config.key_cache = Duration::ZERO;
    let client = recorder.client.with_key(Some(&recorder.live_key));
    let session = client.session("rotated").await;
    client.set_secrets(&session, json!({ "A": "value of a" })).await;
    client.boot(&session, json!({})).await;
    let platform = client.get("/v1/whoami").await.expect(200)["platformId"].as_str().unwrap().to_owned();
    let platform = PlatformId::parse(&platform).unwrap();
    let (dynamodb, kms) = (recorder.dynamodb, recorder.kms);
    let endpoints =
        theazo_store::AwsEndpoints { dynamodb: format!("http://{dynamodb}"), kms: Some(format!("http://{kms}")) };
    let aws = theazo_store::Aws::local(&endpoints);
    let deployment = theazo_functions::deployment::Deployment::new(&aws, recorder.config.clone());
    let (table, keys) = (deployment.table().clone(), deployment.keys().clone());
    RootRotation::new(table.clone(), keys.clone(), operator(), Duration::ZERO).begin(now_ms()).await.unwrap();
    keep_up_until(recorder, "rootFinished", &json!(true)).await;
    PlatformRotation::new(table.clone(), keys.clone(), operator()).begin(&platform).await.unwrap();
    keep_up_until(recorder, "platformsFinished", &json!(1)).await;
    // A value that does not open holds a rotation up: it is looked at once more before that is said.
    let key = json!({ "pk": { "S": format!("{platform}#live#{session}#values") }, "sk": { "S": "A" } });
    let mut damaged = recorder.table("GetItem", json!({ "TableName": super::DATA, "Key": key })).await["Item"].clone();
    damaged["version"] = json!({ "N": "7" });
    recorder.table("PutItem", json!({ "TableName": super::DATA, "Item": damaged })).await;
    PlatformRotation::new(table, keys, operator()).begin(&platform).await.unwrap();
    keep_up_until(recorder, "platformsStuck", &json!(1)).await;
    client.terminate(&session).await;
}

/// Runs upkeep until it tells that.
async fn keep_up_until(recorder: &mut Recorder, what: &str, told: &Value) {
    for _ in 0..20 {
        if recorder.run(&UPKEEP).await[what] == *told {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    recorder.expect(false, || format!("upkeep never told {what}: {told}"));
}
