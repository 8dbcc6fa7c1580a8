//! Test keys: the whole API on the simulated provider, apart from all that is live.

use crate::harness::{
    Answer, Client, CountedListener, OwnStack, Platform, container_name, docker, dynamodb, make_canary, own_deployment,
    sha256, stack,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::time::{Duration, Instant};
use theazo_docker_hosts::Authority;
use theazo_functions::reconcile::{Boots, reconcile};
use tokio::time::sleep;

const MIB: usize = 1024 * 1024;
/// Most bytes in one call.
const PIECE: usize = 4 * MIB;
/// How often many creates meet a limit, where nothing may be skipped and elsewhere, unless `THEAZO_ROUNDS` says otherwise.
const ROUNDS_IN_CI: u32 = 100;
const ROUNDS: u32 = 6;

/// A platform by its test key, with a session.
struct Bed {
    platform: Platform,
    client: Client,
    session: String,
}

impl Bed {
    async fn make(name: &str) -> Self {
        let platform = Platform::make(name).await;
        let client = platform.client.with_key(Some(&platform.test_key));
        let session = client.session("u").await;
        Self { platform, client, session }
    }

    async fn exec(&self, agent: &str, language: &str, code: &str) -> Answer {
        self.client.post(&format!("/v1/agents/{agent}/exec"), json!({ "language": language, "code": code })).await
    }

    async fn status(&self, agent: &str) -> Value {
        self.client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"].clone()
    }

    /// How many rows the agent's disk has in the table.
    async fn rows_of_disk(&self, agent: &str) -> u64 {
        let query = json!({
            "TableName": "theazo", "Select": "COUNT", "ConsistentRead": true, "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": { ":pk": { "S": format!("{}#test#{agent}#disk", self.platform.id) } },
        });
        dynamodb(&stack().dynamodb_url(), "Query", query).await["Count"].as_u64().unwrap()
    }
}

/// The engine itself has nothing of these agents.
async fn assert_not_on_engine(agents: &[String]) {
    let docker = docker().await;
    for agent in agents {
        let name = container_name(agent);
        assert!(docker.inspect_container(&name, None).await.is_err(), "a container of {agent}");
        assert!(docker.inspect_network(&name, None).await.is_err(), "a network of {agent}");
        assert!(docker.inspect_volume(&name).await.is_err(), "a volume of {agent}");
    }
}

#[tokio::test]
async fn the_main_job_runs_with_a_test_key_and_provisions_nothing() {
    let bed = Bed::make("test main job").await;
    let Bed { client, session, .. } = &bed;
    let secret = make_canary("simulated");
    client
        .set_secrets(session, json!({ "HUBSPOT_API_KEY": secret, "plain": { "value": "shown", "mask": false } }))
        .await;
    let body = json!({ "provider": "docker", "metadata": { "a": "b" }, "secrets": ["hubspot_api_key"] });
    let made = client.post(&format!("/v1/sessions/{session}/agents"), body).await.expect(201);
    assert_eq!(
        (&made["status"], &made["provider"], &made["compute"], &made["metadata"], &made["region"]),
        (&json!("ready"), &json!("simulated"), &json!("python"), &json!({ "a": "b" }), &json!(null))
    );
    let agent = made["id"].as_str().unwrap().to_owned();
    assert_eq!(bed.rows_of_disk(&agent).await, 1);
    assert_not_on_engine(std::slice::from_ref(&agent)).await;

    let code = "print(1)";
    for language in ["python", "node", "bash"] {
        let expected = format!(
            "simulated {language}: code sha256:{} (8 bytes), stdin sha256:{} (0 bytes)\n",
            sha256(code),
            sha256("")
        );
        let ran = bed.exec(&agent, language, code).await.expect(200);
        assert_eq!(ran, json!({ "stdout": expected, "stderr": "", "exitCode": 0 }));
    }
    // What it prints is masked as anything is; the variables are those that were selected.
    let code = format!(
        "# theazo:stdout a {secret} b {}\n# theazo:stderr {secret}\n# theazo:env HUBSPOT_API_KEY\n# theazo:env PLAIN\n\
         # theazo:env THEAZO_AGENT_ID\n# theazo:env THEAZO_SESSION_ID",
        STANDARD.encode(&secret)
    );
    let ran = bed.exec(&agent, "python", &code).await.expect(200);
    let masked = "[secret:HUBSPOT_API_KEY]";
    assert_eq!(ran["stdout"], format!("a {masked} b {masked}\n{masked}\n\n{agent}\n{session}\n"));
    assert_eq!(ran["stderr"], format!("{masked}\n"));

    let status = client.get(&format!("/v1/agents/{agent}/status")).await.expect(200);
    assert_eq!((&status["status"], &status["provider"]), (&json!("ready"), &json!("simulated")));
    for list in ["/v1/agents?provider=simulated&status=ready", &format!("/v1/sessions/{session}/agents")] {
        assert_eq!(client.get(list).await.expect(200)["data"][0]["id"], *agent, "{list}");
    }
    assert_eq!(client.get("/v1/agents?provider=docker").await.expect(200)["data"], json!([]));
    let providers = client.get("/v1/providers").await.expect(200);
    assert_eq!(
        (providers["data"].as_array().unwrap().len(), &providers["data"][0]["provider"]),
        (1, &json!("simulated"))
    );
    assert_eq!(providers["data"][0]["health"]["healthy"], true);

    client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await.expect(200);
    assert_eq!(bed.status(&agent).await, "completed");
    assert_eq!(bed.rows_of_disk(&agent).await, 0);
    bed.exec(&agent, "bash", "x").await.expect_error(409, "conflict");
    let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
    assert_eq!((&usage["activeAgents"], &usage["totalAgentsCreated"]), (&json!(0), &json!(1)));
    assert_eq!(usage["cost"], json!({ "amount": 0, "currency": "usd" }));
    client.terminate(session).await;
    assert_not_on_engine(&[agent]).await;
}

#[tokio::test]
async fn comments_in_code_lead_to_every_kind_of_answer() {
    let bed = Bed::make("test errors").await;
    let agent = bed.client.boot(&bed.session, json!({})).await;
    assert_eq!(bed.exec(&agent, "bash", "# theazo:exit 3").await.expect(200)["exitCode"], 3);
    assert_eq!(bed.exec(&agent, "node", "// theazo:stderr bad").await.expect(200)["stderr"], "bad\n");
    let cut = bed.exec(&agent, "python", &format!("# theazo:fill {}", MIB + 1)).await.expect(200);
    assert_eq!((cut["stdout"].as_str().unwrap().len(), &cut["truncated"]), (MIB, &json!(["stdout"])));
    let started = Instant::now();
    let late = json!({ "language": "python", "code": "# theazo:timeout", "timeout": "5m" });
    let late = bed.client.post(&format!("/v1/agents/{agent}/exec"), late).await.expect_error(504, "timeout");
    assert_eq!(late["details"]["timeoutMs"], 300_000);
    let usual = bed.exec(&agent, "python", "# theazo:timeout").await.expect_error(504, "timeout");
    assert_eq!(usual["details"]["timeoutMs"], 120_000, "where no other time is asked for");
    assert!(started.elapsed() < Duration::from_secs(20));
    let failed = bed.exec(&agent, "python", "# theazo:fail").await.expect_error(502, "provider_error");
    assert_eq!(failed["details"], json!({ "provider": "simulated", "status": null, "retryable": true }));
    let go = bed.exec(&agent, "go", "x").await.expect_error(422, "unprocessable_entity");
    assert_eq!(go["details"]["feature"], "language.go");
    assert_eq!(bed.status(&agent).await, "ready");

    let lost = bed.exec(&agent, "bash", "# theazo:lose").await.expect_error(502, "provider_error");
    assert_eq!(lost["details"], json!({ "provider": "simulated", "status": null, "retryable": false }));
    assert_eq!(bed.status(&agent).await, "failed");
    assert_eq!(bed.rows_of_disk(&agent).await, 0);
    bed.client.terminate(&bed.session).await;
}

#[tokio::test]
async fn test_keys_may_name_any_provider_and_live_keys_never_the_simulated_one() {
    let bed = Bed::make("test providers").await;
    let agents = format!("/v1/sessions/{}/agents", bed.session);
    for provider in ["docker", "e2b", "fly", "simulated"] {
        let made = bed.client.post(&agents, json!({ "provider": provider })).await.expect(201);
        assert_eq!(made["provider"], "simulated", "{provider}");
    }
    let unknown = bed.client.post(&agents, json!({ "provider": "aws" })).await.expect_error(400, "invalid_request");
    assert_eq!(unknown["details"]["field"], "provider");
    for (body, feature) in [(json!({ "compute": "go" }), "compute.go"), (json!({ "gpu": "a100" }), "gpu")] {
        let refused = bed.client.post(&agents, body).await.expect_error(422, "unprocessable_entity");
        assert_eq!(refused["details"]["feature"], feature);
    }
    let live = &bed.platform.client;
    let session = live.session("u").await;
    let body = json!({ "provider": "simulated" });
    let refused = live.post(&format!("/v1/sessions/{session}/agents"), body).await.expect_error(400, "invalid_request");
    assert_eq!(refused["details"]["field"], "provider");
    assert_eq!(live.get(&format!("/v1/sessions/{session}/usage")).await.expect(200)["totalAgentsCreated"], 0);
    let providers = live.get("/v1/providers").await.expect(200);
    assert!(!providers.to_string().contains("simulated"), "{providers}");
    bed.client.terminate(&bed.session).await;
}

#[tokio::test]
async fn what_a_test_key_configures_is_connected_to_by_nobody_and_says_nothing_of_live_accounts() {
    let (own, _) = OwnStack::start(None).await;
    let platform = Platform::make_on(&own.stack, "configured by a test key").await;
    let listener = CountedListener::start().await;
    let port = listener.port;
    let authority = Authority::make("a host that is counted");
    let pair = authority.client();
    let url = format!("tcp://127.0.0.1:{port}");
    let host = json!({ "url": url, "ca": authority.cert(), "cert": pair.cert, "key": pair.key, "maxAgents": 1 });
    let hosts = json!({ "hosts": [host] }).to_string();
    let configure = async |client: &Client, providers: &[&str]| {
        client.post("/v1/secrets", json!({ "HOSTS": hosts, "OTHER": "a token" })).await.expect(204);
        for provider in providers {
            let body = match *provider {
                "docker" => json!({ "credentialRef": "HOSTS", "config": { "image": "agent:1" } }),
                "fly" => json!({ "credentialRef": "OTHER", "config": { "image": "agent:1", "organization": "o" } }),
                _ => json!({ "credentialRef": "OTHER" }),
            };
            client.call("PUT", &format!("/v1/providers/{provider}"), Some(&body)).await.expect(200);
        }
        let listed = client.get("/v1/providers").await.expect(200);
        let own = listed["data"].as_array().unwrap().iter().filter(|one| one["source"] == "platform");
        own.map(|one| one["health"]["healthy"].as_bool().unwrap()).collect::<Vec<_>>()
    };
    let test = platform.client.with_key(Some(&platform.test_key));
    assert_eq!(configure(&test, &["docker", "e2b", "fly"]).await, [true; 3]);
    let outcome = own.reconcile().await;
    assert_eq!((outcome.postponed, outcome.orphans), (0, 0), "{outcome:?}");
    assert_eq!(listener.connections(), 0);
    // What a live key configures is.
    assert_eq!(configure(&platform.client, &["docker"]).await, [false]);
    assert!(listener.connections() > 0);
    let outcome = own.reconcile().await;
    assert_eq!(outcome.postponed, 1, "{outcome:?}");
    own.stop().await;
}

#[tokio::test]
async fn live_and_test_keys_reach_nothing_of_each_other() {
    let bed = Bed::make("test apart").await;
    let (test, live) = (&bed.client, &bed.platform.client);
    let live_session = live.session("u").await;
    let live_agent = live.boot(&live_session, json!({})).await;
    let agent = test.boot(&bed.session, json!({})).await;
    for (client, agent) in [(test, &agent), (live, &live_agent)] {
        let body = json!({ "path": "/data/kept", "data": agent });
        client.post(&format!("/v1/agents/{agent}/files"), body).await.expect(204);
    }
    for (client, agent, session) in [(live, &agent, &bed.session), (test, &live_agent, &live_session)] {
        let (of_agent, of_session) = (format!("/v1/agents/{agent}"), format!("/v1/sessions/{session}"));
        for (method, path, body) in [
            ("GET", of_agent.clone(), None),
            ("GET", format!("{of_agent}/status"), None),
            ("GET", format!("{of_agent}/files"), None),
            ("GET", format!("{of_agent}/files/data/kept"), None),
            ("POST", format!("{of_agent}/files"), Some(json!({ "path": "/data/kept", "data": "x" }))),
            ("POST", format!("{of_agent}/exec"), Some(json!({ "language": "bash", "code": "rm kept" }))),
            ("POST", format!("{of_agent}/terminate"), None),
            ("GET", of_session.clone(), None),
            ("GET", format!("{of_session}/agents"), None),
            ("GET", format!("{of_session}/secrets"), None),
            ("GET", format!("{of_session}/usage"), None),
            ("GET", format!("{of_session}/limits"), None),
            ("POST", format!("{of_session}/agents"), Some(json!({}))),
            ("POST", format!("{of_session}/tokens"), Some(json!({}))),
            ("POST", format!("{of_session}/terminate"), None),
        ] {
            let answer = client.call(method, &path, body.as_ref()).await;
            assert_eq!(answer.status, 404, "{method} {path}: {answer:?}");
        }
        for list in ["/v1/agents", "/v1/sessions", "/v1/audit?limit=100"] {
            let listed = client.get(list).await.expect(200).to_string();
            assert!(!listed.contains(agent.as_str()) && !listed.contains(session.as_str()), "{list}: {listed}");
        }
    }
    for (client, agent, session) in [(test, &agent, &bed.session), (live, &live_agent, &live_session)] {
        let kept = client.get(&format!("/v1/agents/{agent}/files/data/kept")).await.expect(200);
        assert_eq!(kept["data"], **agent);
        client.terminate(session).await;
    }
}

#[tokio::test]
async fn a_sessions_token_of_test_mode_works_on_its_simulated_agent() {
    let bed = Bed::make("test token").await;
    let minted = bed.client.post(&format!("/v1/sessions/{}/tokens", bed.session), json!({})).await.expect(201);
    let holder = bed.client.with_key(minted["token"].as_str());
    assert_eq!(holder.get("/v1/whoami").await.expect(200)["environment"], "test");
    let agent = holder.boot(&bed.session, json!({})).await;
    assert_eq!(holder.run(&agent, "bash", "# theazo:stdout hello").await, "hello\n");
    assert_eq!(holder.get(&format!("/v1/agents/{agent}")).await.expect(200)["provider"], "simulated");
    bed.client.terminate(&bed.session).await;
    assert_eq!(bed.status(&agent).await, "completed");
    assert_eq!(bed.rows_of_disk(&agent).await, 0);
}

#[tokio::test]
async fn agents_end_when_their_time_is_over_whether_called_or_not() {
    let bed = Bed::make("test time").await;
    let called = bed.client.boot(&bed.session, json!({ "timeout": "1s" })).await;
    let forgotten = bed.client.boot(&bed.session, json!({ "timeout": "1s" })).await;
    let lasting = bed.client.boot(&bed.session, json!({})).await;
    sleep(Duration::from_millis(1500)).await;
    bed.exec(&called, "bash", "x").await.expect_error(409, "conflict");
    assert_eq!(bed.status(&called).await, "completed");
    reconcile(&own_deployment(), Boots::UnderWay).await.unwrap();
    assert_eq!(bed.status(&forgotten).await, "completed");
    for agent in [&called, &forgotten] {
        assert_eq!(bed.rows_of_disk(agent).await, 0);
        let told = bed.client.get(&format!("/v1/logs?agentId={agent}&search=completed")).await.expect(200);
        let entry = &told["data"][0];
        assert_eq!(entry["message"], "agent is completed: timeout", "{told}");
        assert_eq!(entry["metadata"]["reason"], "timeout", "{told}");
    }
    let other = bed.client.boot(&bed.session, json!({})).await;
    bed.client.call("POST", &format!("/v1/agents/{other}/terminate"), None).await.expect(200);
    let told = bed.client.get(&format!("/v1/logs?agentId={other}&search=completed")).await.expect(200);
    assert_eq!(told["data"][0]["message"], "agent is completed", "{told}");
    assert_eq!(bed.status(&lasting).await, "ready", "no provider's list says that it is lost");
    assert_eq!(bed.rows_of_disk(&lasting).await, 1);
    bed.client.terminate(&bed.session).await;
}

#[tokio::test]
async fn fifty_parallel_creates_against_a_limit_of_three_yield_exactly_three_round_after_round() {
    let bed = Bed::make("test creates at once").await;
    let client = &bed.client;
    let usual = if std::env::var_os("THEAZO_CI").is_some() { ROUNDS_IN_CI } else { ROUNDS };
    let rounds = std::env::var("THEAZO_ROUNDS").map_or(usual, |rounds| rounds.parse().unwrap());
    let (started, mut last) = (Instant::now(), Vec::new());
    for round in 0..rounds {
        let limits = json!({ "limits": { "maxAgents": 3 } });
        let session = client.post("/v1/sessions", limits).await.expect(201)["id"].as_str().unwrap().to_owned();
        let agents = format!("/v1/sessions/{session}/agents");
        let answers = join_all((0..50).map(|_| client.post(&agents, json!({})))).await;
        let (made, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(|answer| answer.status == 201);
        for answer in refused {
            let error = answer.expect_error(402, "session_limit_exceeded");
            assert_eq!(error["details"], json!({ "limit": "maxAgents", "used": 3, "max": 3 }));
        }
        assert_eq!(made.len(), 3, "round {round}");
        let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        assert_eq!((&usage["activeAgents"], &usage["totalAgentsCreated"]), (&json!(3), &json!(3)));
        client.terminate(&session).await;
        let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        assert_eq!(usage["activeAgents"], 0);
        last = made.iter().map(|answer| answer.json()["id"].as_str().unwrap().to_owned()).collect();
    }
    println!("{rounds} rounds of 50 creates in {:?}", started.elapsed());
    assert_not_on_engine(&last).await;
}

#[tokio::test]
async fn twenty_agents_made_and_written_to_at_once_each_keep_their_own() {
    let bed = Bed::make("test many").await;
    let (client, session) = (&bed.client, &bed.session);
    let agents: HashSet<String> =
        join_all((0..20).map(|_| client.boot(session, json!({})))).await.into_iter().collect();
    assert_eq!(agents.len(), 20);
    join_all(agents.iter().map(|agent| async move {
        let files = format!("/v1/agents/{agent}/files");
        client.post(&files, json!({ "path": "/data/own", "data": agent })).await.expect(204);
        assert_eq!(client.get(&format!("{files}/data/own")).await.expect(200)["data"], **agent);
    }))
    .await;
    // Many who append to one file at once lose nothing of each other's.
    let files = format!("/v1/agents/{}/files", agents.iter().next().unwrap());
    let append = |number: u32| json!({ "path": "/data/log", "data": format!("{number:02}\n"), "append": true });
    join_all((0..20).map(|number| {
        let written = client.post(&files, append(number));
        async { written.await.expect(204) }
    }))
    .await;
    let log = client.get(&format!("{files}/data/log")).await.expect(200);
    let mut lines: Vec<&str> = log["data"].as_str().unwrap().lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, (0..20).map(|number| format!("{number:02}")).collect::<Vec<_>>());
    let agents: Vec<String> = agents.into_iter().collect();
    client.terminate(session).await;
    assert_not_on_engine(&agents).await;
}

#[tokio::test]
async fn five_mib_go_through_in_pieces_and_a_full_disk_says_so() {
    let bed = Bed::make("test large").await;
    let agent = bed.client.boot(&bed.session, json!({})).await;
    let files = format!("/v1/agents/{agent}/files");
    let bytes: Vec<u8> = (0..5 * MIB).map(|index| (index % 251) as u8 ^ (index >> 16) as u8).collect();
    for (number, piece) in bytes.chunks(PIECE).enumerate().collect::<Vec<_>>().into_iter().rev() {
        let data = STANDARD.encode(piece);
        let body = json!({ "path": "/data/large", "data": data, "encoding": "base64", "offset": number * PIECE });
        bed.client.post(&files, body).await.expect(204);
    }
    let mut read = Vec::new();
    while read.len() < bytes.len() {
        let path = format!("{files}/data/large?offset={}&encoding=base64", read.len());
        let piece = bed.client.get(&path).await.expect(200);
        assert_eq!(piece["size"], bytes.len());
        read.extend(STANDARD.decode(piece["data"].as_str().unwrap()).unwrap());
    }
    assert!(read == bytes);
    let body = json!({ "path": "/data/large", "data": "x", "offset": 16 * MIB });
    bed.client.post(&files, body).await.expect_error(422, "unprocessable_entity");
    assert_eq!(bed.client.get(&files).await.expect(200)[0]["size"], bytes.len());
    bed.client.terminate(&bed.session).await;
    assert_eq!(bed.rows_of_disk(&agent).await, 0);
}

/// What an answer says, without what may differ: the request's id, times, and sizes of directories.
fn comparable(answer: &Answer) -> Value {
    if answer.text.is_empty() {
        return Value::Null;
    }
    let mut body = serde_json::from_str::<Value>(&answer.without_request_id()).unwrap();
    for entry in body.as_array_mut().into_iter().flatten() {
        entry["modified"] = json!("");
        if entry["type"] == "directory" {
            entry["size"] = json!(0);
        }
    }
    body
}

#[tokio::test]
async fn file_calls_are_answered_as_on_docker_word_for_word() {
    let bed = Bed::make("test conformance").await;
    let live = &bed.platform.client;
    let live_session = live.session("u").await;
    let (simulated, real) = (bed.client.boot(&bed.session, json!({})).await, live.boot(&live_session, json!({})).await);
    let long = |text: &str, count| format!("/data/{}", text.repeat(count));
    let mut calls: Vec<(&str, String, Option<Value>)> = Vec::new();
    for body in [
        json!({ "path": "/data/a/b/c.txt", "data": "line \u{fc}\u{1f980}\r\n\t\"\\ \u{2028}" }),
        json!({ "path": "data//a/./b/d \u{fc}\n.bin", "data": STANDARD.encode([0, 255, 10]), "encoding": "base64" }),
        json!({ "path": "/data/a-", "data": "" }),
        json!({ "path": "/data/a.txt", "data": "x", "append": true }),
        json!({ "path": "/data/a.txt", "data": "+", "append": true }),
        json!({ "path": "/data/a.txt", "data": "N", "offset": 0 }),
        json!({ "path": "/data/a.txt", "data": "!", "offset": 6 }),
        json!({ "path": "/data/a.txt", "data": "", "offset": 60 }),
        json!({ "path": "/data/...", "data": "dots" }),
        json!({ "path": "/tmp/x", "data": "longer" }),
        json!({ "path": "/tmp/x", "data": "new" }),
        json!({ "path": "/data", "data": "x" }),
        json!({ "path": "/tmp/", "data": "x", "append": true }),
        json!({ "path": "/data/a/b", "data": "x" }),
        json!({ "path": "/data/a.txt/below", "data": "x" }),
        json!({ "path": "/data/a\0b", "data": "x" }),
        json!({ "path": long("x", 256), "data": "x" }),
        json!({ "path": long("x", 255), "data": "x" }),
        json!({ "path": long("x/", 2100), "data": "x" }),
        json!({ "path": "/etc/passwd", "data": "x" }),
        json!({ "path": "/data/../etc/passwd", "data": "x" }),
        json!({ "path": "/data/a/../a.txt", "data": "x" }),
        json!({ "path": "/database/x", "data": "x" }),
        json!({ "path": "/", "data": "x" }),
        json!({ "data": "x" }),
        json!({ "path": "/data/x", "data": "not base64!", "encoding": "base64" }),
        json!({ "path": "/data/x", "data": "x", "append": true, "offset": 1 }),
        json!({ "path": "/data/x", "data": "x", "offset": -1 }),
    ] {
        calls.push(("POST", String::new(), Some(body)));
    }
    for read in [
        "/data/a/b/c.txt",
        "/data/a/b/c.txt?encoding=base64",
        "/%2Fdata%2Fa%2Fb%2Fc.txt",
        "/data/a/b/d%20%C3%BC%0A.bin",
        "/data/a.txt",
        "/data/a.txt?offset=1&length=3",
        "/data/a.txt?offset=7",
        "/data/a.txt?length=0",
        "/data/...",
        "/data/a-",
        "/tmp/x",
        "/data/none",
        "/data/none/below",
        "/data/a",
        "/data",
        "/data/a.txt/below",
        "/etc/passwd",
        "/data%2F..%2Fetc%2Fpasswd",
        "/data/a%00b",
        "/run/agent/env",
        "/data/a.txt?offset=-1",
        "/data/a.txt?length=4194305",
        "?dir=/data",
        "",
        "?dir=data/",
        "?dir=//data/.",
        "?dir=/data/a",
        "?dir=/data/a/b",
        "?dir=/tmp",
        "?dir=/data/none",
        "?dir=/data/a.txt",
        "?dir=/",
        "?dir=/data/..",
        "?dir=/etc",
    ] {
        calls.push(("GET", read.to_owned(), None));
    }
    let mut seen = HashSet::new();
    for (method, path, body) in &calls {
        let on = async |client: &Client, agent: &str| {
            client.call(method, &format!("/v1/agents/{agent}/files{path}"), body.as_ref()).await
        };
        let (ours, theirs) = (on(&bed.client, &simulated).await, on(live, &real).await);
        assert_eq!((ours.status, comparable(&ours)), (theirs.status, comparable(&theirs)), "{path} {body:?}");
        seen.insert(ours.status);
    }
    assert_eq!(seen, HashSet::from([200, 204, 400, 404]));
    live.terminate(&live_session).await;
    bed.client.terminate(&bed.session).await;
}
