//! A secret's value is in the agent that it is for, and nowhere else: not in any answer, log, row, file, engine
//! record, image, command line or environment around it.

use crate::harness::{
    Answer, Canary, Client, CommandLines, Events, Process, commit_and_search, container_name, docker, docker_engine,
    engine_records, scan_everything, sha256,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bollard::Docker;
use bollard::models::ContainerCreateBody;
use bollard::query_parameters::{CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use theazo_functions::routes::{ROUTES, Route};

/// Tells an agent's variables without printing one.
const DIGESTS: &str = "import os, json, hashlib, time; time.sleep(1)\n\
    print(json.dumps({k: hashlib.sha256(v.encode()).hexdigest() for k, v in os.environ.items()}))";

/// A running `theazo-dev` that logs all it can, with the value in its vault.
struct Bed {
    process: Process,
    client: Client,
    canary: Canary,
    /// Another value, where it can be found by whoever looks: in the session's metadata.
    planted: Canary,
    session: String,
    agents: Vec<String>,
}

impl Bed {
    /// Calls, and looks for the value in the whole answer.
    async fn call(&self, client: &Client, method: &str, path: &str, body: Option<&str>) -> Answer {
        let answer = client.try_call(method, path, body.map(|body| body.as_bytes().to_vec())).await.unwrap();
        let place = format!("the answer {} of {method} {}", answer.status, path.replace(self.canary.value(), "..."));
        self.canary.is_not_in(&place, &answer.text);
        for (name, value) in &answer.headers {
            self.canary.is_not_in(&place, format!("{name}: {value}"));
        }
        answer
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = (!body.is_null()).then(|| body.to_string());
        self.call(&self.client, method, path, body.as_deref()).await
    }

    /// A route's path in which every parameter is good but those that `wrong` gives another value.
    fn path(&self, route: &Route, wrong: &[(&str, &str)]) -> String {
        let pattern = route.info.pattern.0;
        let id = if pattern.starts_with("/v1/agents/") { &self.agents[0] } else { &self.session };
        let good = [
            ("{id}", id.as_str()),
            ("{name}", "ABSENT"),
            ("{path*}", "data/kept"),
            ("{userId}", "u"),
            ("{provider}", "e2b"),
        ];
        let path = wrong.iter().fold(pattern.to_owned(), |path, (name, value)| path.replace(name, value));
        good.iter().fold(path, |path, (name, value)| path.replace(name, value))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secrets_value_is_found_in_its_agent_and_nowhere_else() {
    let docker = docker().await;
    let events = Events::start(&docker);
    let watch = CommandLines::start();
    let bed = boot().await;
    succeed_on_every_route(&bed).await;
    fail_on_every_route(&bed).await;

    in_the_process(&bed);
    in_the_table(&bed).await;
    in_the_folder(&bed);
    for agent in &bed.agents {
        in_the_engine(&bed.canary, &docker, &container_name(agent)).await;
    }
    in_an_export_and_an_image(&bed.canary, &docker, &container_name(&bed.agents[0])).await;
    in_command_lines(&bed.canary, watch);

    let ended = bed.ask("POST", &format!("/v1/sessions/{}/terminate", bed.session), Value::Null).await;
    ended.expect(200);
    for agent in &bed.agents {
        // The path of a container's life, so that what was searched is all of it.
        let name = container_name(agent);
        let events = events.until(&["\"create\"", &name, "exec_create", &name, "\"destroy\"", &name]).await;
        bed.canary.is_not_in("the engine's events", events);
    }
    let late = json!({ "LATE": bed.canary.value() });
    assert!(bed.ask("POST", &format!("/v1/sessions/{}/secrets", bed.session), late).await.status >= 400);
    let Bed { mut process, canary, .. } = bed;
    assert!(process.interrupt().await.success());
    canary.is_not_in("the output after the end", process.output());
    for (path, bytes) in files_in(process.folder()) {
        canary.is_not_in(&path, bytes);
    }
}

/// Puts the value into the vault in every way there is, and boots agents with it.
async fn boot() -> Bed {
    let process = Process::start("trace").await;
    let client = process.client();
    let planted = Canary::make();
    let new = json!({ "userId": "u", "metadata": { "planted": planted.value() } });
    let session = client.post("/v1/sessions", new).await.expect(201);
    assert!(planted.find_in(session.to_string().as_bytes()).is_some());
    let session = session["id"].as_str().unwrap().to_owned();
    let mut bed = Bed { process, client, canary: Canary::make(), planted, session, agents: Vec::new() };
    let value = bed.canary.value().to_owned();
    let secrets = format!("/v1/sessions/{}/secrets", bed.session);
    for _ in 0..2 {
        let session = json!({ "token_one": value, "Two": { "value": value, "mask": false, "expiresAt": "2999-01-01T00:00:00Z" } });
        bed.ask("POST", &secrets, session).await.expect(204);
        let platform = json!({ "SHARED": value, "KEPT_OUT": { "value": value, "inherit": false }, "GONE": value });
        bed.ask("POST", "/v1/secrets", platform).await.expect(204);
    }
    bed.ask("DELETE", "/v1/secrets/gone", Value::Null).await.expect(204);
    let agents = format!("/v1/sessions/{}/agents", bed.session);
    for (body, names) in [
        (json!({}), vec!["TOKEN_ONE", "TWO", "SHARED"]),
        (json!({ "secrets": ["two"], "network": { "internet": false } }), vec!["TWO"]),
    ] {
        let agent = bed.ask("POST", &agents, body).await.expect(201)["id"].as_str().unwrap().to_owned();
        // Without this, that it is nowhere else would say nothing.
        let seen = bed.client.environment(&agent).await;
        for name in names {
            assert_eq!(seen[name], (value.len(), sha256(&value)), "{name}");
        }
        assert!(!seen.contains_key("KEPT_OUT") && !seen.contains_key("GONE"));
        bed.agents.push(agent);
    }
    bed
}

/// Every route once or more as its callers use it.
async fn succeed_on_every_route(bed: &Bed) {
    let (session, agent) = (&bed.session, &bed.agents[0]);
    let exec = format!("/v1/agents/{agent}/exec");
    let held = bed.canary.value();
    for (language, code) in [
        ("python", DIGESTS),
        ("node", "console.log(require('crypto').createHash('sha256').update(process.env.TOKEN_ONE).digest('hex'))"),
        ("bash", "printf %s \"$TOKEN_ONE\" | sha256sum; echo kept > /data/kept"),
    ] {
        let ran = bed.ask("POST", &exec, json!({ "language": language, "code": code, "stdin": "x" })).await.expect(200);
        assert!(ran["stdout"].as_str().unwrap().contains(&sha256(held)), "{ran}");
    }
    let endless = json!({ "language": "bash", "code": "sleep 100", "timeout": "1s" });
    bed.ask("POST", &exec, endless).await.expect_error(504, "timeout");
    let own = json!({ "userId": "other", "limits": { "maxAgents": 0 } });
    let full = bed.ask("POST", "/v1/sessions", own).await.expect(201)["id"].as_str().unwrap().to_owned();
    bed.ask("POST", &format!("/v1/sessions/{full}/secrets"), json!({ "A": held })).await.expect(204);
    bed.ask("POST", &format!("/v1/sessions/{full}/agents"), json!({}))
        .await
        .expect_error(402, "session_limit_exceeded");
    bed.ask("POST", &format!("/v1/sessions/{full}/terminate"), Value::Null).await.expect(200);
    let written = json!({ "path": "/data/written", "data": "x" });
    bed.ask("POST", &format!("/v1/agents/{agent}/files"), written).await.expect(204);
    let limits = json!({ "maxAgents": 9 });
    bed.ask("PATCH", &format!("/v1/sessions/{session}/limits"), limits).await.expect(200);
    let provider = json!({ "credentialRef": "KEPT_OUT" });
    bed.ask("PUT", "/v1/providers/e2b", provider).await;
    for route in ROUTES.iter().filter(|route| route.info.method == "GET") {
        for query in ["", "?details=true", "?inherited=true&details=true", "?limit=1"] {
            let answer = bed.ask("GET", &(bed.path(route, &[]) + query), Value::Null).await;
            assert_eq!(answer.status, 200, "{}: {answer:?}", route.info.name);
        }
    }
    bed.ask("DELETE", "/v1/providers/e2b", Value::Null).await;
    bed.ask("DELETE", &format!("/v1/sessions/{session}/secrets/none"), Value::Null)
        .await
        .expect_error(404, "not_found");
}

/// Every route with the value in places where no value belongs.
async fn fail_on_every_route(bed: &Bed) {
    let value = bed.canary.value();
    let quoted = Value::from(value).to_string();
    let in_path = utf8_percent_encode(value, NON_ALPHANUMERIC).to_string();
    let as_key = bed.client.with_key(Some(&STANDARD.encode(value)));
    let mut wrong_calls = 0;
    for route in ROUTES {
        let (method, name) = (route.info.method, route.info.name);
        for parameter in ["{id}", "{name}", "{path*}", "{userId}", "{provider}"] {
            if route.info.pattern.0.contains(parameter) {
                let path = bed.path(route, &[(parameter, &in_path)]);
                let answer = bed.call(&bed.client, method, &path, Some("{}")).await;
                assert!(answer.status >= 400, "{name}: {answer:?}");
            }
        }
        let path = bed.path(route, &[]);
        bed.call(&as_key, method, &path, Some(&quoted)).await;
        if method == "GET" {
            for parameter in [
                "limit",
                "cursor",
                "status",
                "createdAfter",
                "userId",
                "dir",
                "offset",
                "length",
                "encoding",
                "details",
                "inherited",
                "provider",
                "compute",
                "secret",
                "session",
                "key",
                "since",
                "until",
            ] {
                bed.ask(method, &format!("{path}?{parameter}={in_path}"), Value::Null).await;
            }
            continue;
        }
        for body in wrong_bodies(name, value) {
            let answer = bed.call(&bed.client, method, &path, Some(&body)).await;
            assert!(answer.status >= 400, "{name} took {}: {answer:?}", body.replace(value, "..."));
            wrong_calls += 1;
        }
    }
    assert!(wrong_calls > 80, "only {wrong_calls} wrong bodies were sent");
    let unknown = bed.ask("POST", &format!("/v1/{in_path}"), json!({ "A": value })).await;
    unknown.expect_error(404, "not_found");
    // A name is told to the one who sent it, and nobody else.
    let secrets = format!("/v1/sessions/{}/secrets", bed.session);
    let swapped = json!({ value: "NAME" }).to_string().into_bytes();
    bed.client.try_call("POST", &secrets, Some(swapped)).await.unwrap().expect_error(422, "unprocessable_entity");
}

/// Bodies with the value in them that this route must refuse.
fn wrong_bodies(route: &str, value: &str) -> Vec<String> {
    let quoted = Value::from(value).to_string();
    let long = value.repeat(300);
    let fields = match route {
        "sessions-create" | "sessions-by-user" => vec![
            json!({ "limits": value }),
            json!({ "limits": { "maxAgents": value } }),
            json!({ "limits": { "maxCost": value } }),
            json!({ "metadata": [value] }),
            json!({ "metadata": { "k": [value] } }),
            json!({ "metadata": { "k": long } }),
        ],
        "sessions-limits-set" => vec![json!({ "maxAgents": value }), json!({ "maxCost": { "amount": value } })],
        "secrets-set" | "platform-secrets-set" => vec![
            json!({ "A": [value] }),
            json!({ "A": { "value": [value] } }),
            json!({ "A": { "value": { "value": value } } }),
            json!({ "A": { "value": value, "expiresAt": value } }),
            json!({ "A": { "value": value, "expiresAt": "2001-01-01T00:00:00Z" } }),
            json!({ "A": { "value": value, "mask": value } }),
            json!({ "A": { "value": value, "inherit": value } }),
            json!({ "A": { "VALUE": value } }),
            json!({ "1bad": value }),
            json!({ "bad name\n": value }),
            json!({ "PATH": value, "OK": value }),
            json!({ "THEAZO_X": { "value": value } }),
            json!({ "Twice": value, "tWICE": value }),
            json!({ "A": long }),
            json!({ "A": format!("{value}\0") }),
            json!({ "OK": value, "B": null }),
        ],
        "agents-create" => vec![
            json!({ "compute": value }),
            json!({ "provider": value }),
            json!({ "timeout": value }),
            json!({ "secrets": value }),
            json!({ "secrets": [value] }),
            json!({ "network": value }),
            json!({ "network": { "internet": value } }),
            json!({ "browser": value }),
            json!({ "definition": { "x": value } }),
            json!({ "model": [value] }),
            json!({ "model": long }),
            json!({ "instructions": { "x": value } }),
            json!({ "metadata": [value] }),
        ],
        "agents-exec" => vec![
            json!({ "language": value, "code": "true" }),
            json!({ "language": "bash", "code": [value] }),
            json!({ "language": "bash", "code": "true", "timeout": value }),
            json!({ "language": "bash", "code": "true", "stdin": { "x": value } }),
            json!({ "language": "bash", "code": "true", "encoding": value }),
            json!({ "language": "go", "code": value }),
        ],
        "agents-files-write" => vec![
            json!({ "path": value, "data": "x" }),
            json!({ "path": format!("/data/{long}"), "data": value }),
            json!({ "path": "/etc/x", "data": value }),
            json!({ "path": "/data/x", "data": [value] }),
            json!({ "path": "/data/x", "data": value, "encoding": "base64" }),
            json!({ "path": "/data/x", "data": value, "encoding": value }),
            json!({ "path": "/data/x", "data": value, "offset": value }),
            json!({ "path": "/data/x", "data": value, "append": value }),
        ],
        "providers-set" => vec![json!({ "credentialRef": value }), json!({ "credentialRef": [value] })],
        // Their bodies are not read.
        _ => return Vec::new(),
    };
    let whole = [
        quoted.clone(),
        format!("[{quoted}]"),
        format!("{{\"A\": {quoted}"),
        format!("{{\"A\": {quoted}}} {quoted}"),
        format!("{{\"A\": {quoted}, }}"),
        format!("{{\"A\": {quoted} \"B\"}}"),
        value.to_owned(),
        format!("{{\"A\": \"{value}\"}}"),
        format!("{{\"A\": \"\\ud800{}\"}}", quoted.trim_matches('"')),
    ];
    whole.into_iter().chain(fields.into_iter().map(|body| body.to_string())).collect()
}

/// What the process printed, and what it was started with.
fn in_the_process(bed: &Bed) {
    let output = bed.process.output();
    bed.canary.is_not_in("the output", &output);
    for told in ["agents-create", "secrets-set", "agents-exec", "answered"] {
        assert!(output.contains(told), "the log must tell of {told}");
    }
    let environment = std::fs::read(format!("/proc/{}/environ", bed.process.id())).unwrap();
    assert!(environment.windows(14).any(|part| part == b"RUST_LOG=trace"), "the environment is not the process's");
    bed.canary.is_not_in("the process's environment", environment);
}

/// Every table of the embedded engine, page by page, every attribute decoded.
async fn in_the_table(bed: &Bed) {
    let output = bed.process.output();
    let line = output.lines().find(|line| line.trim_start().starts_with("table ")).unwrap();
    let url = line.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
    let scanned = scan_everything(url).await;
    assert!(scanned.pages.len() > 2, "the table has more than {} pages", scanned.pages.len());
    let sealed = scanned.partitions.iter().filter(|partition| partition.ends_with("#values")).count();
    assert_eq!(sealed, 2, "the session's and the platform's sealed values are among what was searched");
    assert!(bed.planted.find_in(&scanned.decoded).is_some(), "the search of the table finds nothing");
    bed.canary.is_not_in("the table", &scanned.decoded);
    for page in &scanned.pages {
        bed.canary.is_not_in("a page of the table", page);
    }
}

/// The files of the data folder as bytes.
fn in_the_folder(bed: &Bed) {
    let files = files_in(bed.process.folder());
    let mut found = false;
    for (path, bytes) in &files {
        bed.canary.is_not_in(path, bytes);
        found |= bed.planted.find_in(bytes).is_some();
    }
    assert!(found, "the search of the files finds nothing");
    for name in ["table.sqlite", "kms.json"] {
        assert!(files.iter().any(|(path, bytes)| path.ends_with(name) && !bytes.is_empty()), "{name}");
    }
}

fn files_in(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_in(&path));
        } else if let Ok(bytes) = std::fs::read(&path) {
            files.push((path.display().to_string(), bytes));
        }
    }
    files
}

async fn in_the_engine(canary: &Canary, docker: &Docker, name: &str) {
    let records = engine_records(docker, name).await;
    let kinds: Vec<_> = records.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, ["container", "network", "volume", "changes", "logs"]);
    for (kind, bytes) in &records {
        canary.is_not_in(&format!("the engine's {kind}"), bytes);
    }
}

/// The container's file system, and an image committed while it runs.
async fn in_an_export_and_an_image(canary: &Canary, docker: &Docker, name: &str) {
    let (found, size) = canary.find_in_stream(docker.export_container(name)).await;
    assert!(size > 1024 * 1024, "{size} bytes are no file system");
    assert_eq!(found, None, "the export has the value");
    let (shown, found, size) = commit_and_search(canary, docker, name).await;
    assert!(size > 1024 * 1024, "{size} bytes are no image");
    canary.is_not_in("the image's description", shown);
    assert_eq!(found, None, "the image has the value");
}

fn in_command_lines(canary: &Canary, watch: CommandLines) {
    let seen = watch.end();
    for part in ["theazo-guest", "main.py"] {
        let found = seen.iter().any(|line| memchr::memmem::find(line, part.as_bytes()).is_some());
        assert!(found, "the agents' {part} must be among the {} command lines seen", seen.len());
    }
    for line in &seen {
        canary.is_not_in("a command line", line);
    }
}

#[tokio::test]
async fn the_searches_find_a_value_that_is_planted() {
    let docker = docker().await;
    let (raw, encoded) = (Canary::make(), Canary::make());
    let events = Events::start(&docker);
    let name = format!("theazo-e2e-planted-{}", hex::encode(theazo_tenancy::make_random_bytes::<6>()));
    let body = ContainerCreateBody {
        image: Some(docker_engine().image.clone()),
        labels: Some(HashMap::from([
            ("planted".to_owned(), raw.value().to_owned()),
            ("encoded".to_owned(), STANDARD.encode(format!("x{}", encoded.value()))),
        ])),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&name).build();
    docker.create_container(Some(options), body).await.unwrap();
    let records = engine_records(&docker, &name).await;
    let committed = commit_and_search(&raw, &docker, &name).await;
    let events = events.until(&["\"create\"", &name]).await;
    let remove = RemoveContainerOptionsBuilder::default().force(true).build();
    docker.remove_container(&name, Some(remove)).await.unwrap();
    for bytes in [&records[0].1, &events] {
        assert!(raw.find_in(bytes).is_some());
        assert_eq!(encoded.find_in(bytes), Some("base64"));
    }
    assert!(raw.find_in(committed.0.as_bytes()).is_some());
    assert!(committed.1.is_some(), "not found in {} bytes of image", committed.2);

    let watch = CommandLines::start();
    let mut child = Command::new("sleep").arg("2").arg0(raw.value()).spawn().unwrap();
    child.wait().unwrap();
    let seen = watch.end();
    assert!(seen.iter().any(|line| raw.find_in(line).is_some()), "not found in {} command lines", seen.len());
}
