//! A secret's value is in the agent that it is for, and nowhere else: not in any answer, log, row, file, engine
//! record, image, command line or environment around it. An API key or token is in the answer that makes it, and
//! nowhere else.

mod bodies;

use crate::harness::{
    Answer, Canary, Client, CommandLines, Events, Process, UNHEARD_OF, commit_and_search, container_name, docker,
    docker_engine, engine_records, scan_everything, sha256,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bodies::wrong_bodies;
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
    /// API keys and a token that were made over HTTP, and used.
    credentials: Vec<Canary>,
    /// The id of an API key.
    key: String,
    /// The token of the first agent.
    token: String,
}

impl Bed {
    /// Calls, and looks for the value and the credentials in the whole answer.
    async fn call(&self, client: &Client, method: &str, path: &str, body: Option<&str>) -> Answer {
        let answer = client.try_call(method, path, body.map(|body| body.as_bytes().to_vec())).await.unwrap();
        let place = format!("the answer {} of {method} {}", answer.status, path.replace(self.canary.value(), "..."));
        self.is_not_in(&place, &answer.text);
        for (name, value) in &answer.headers {
            self.is_not_in(&place, format!("{name}: {value}"));
        }
        answer
    }

    /// Fails if the value or a credential is in these bytes.
    #[track_caller]
    fn is_not_in(&self, place: &str, bytes: impl AsRef<[u8]>) {
        self.canary.is_not_in(place, bytes.as_ref());
        self.credentials.iter().for_each(|credential| credential.is_not_in(place, bytes.as_ref()));
    }

    /// Makes a credential, which its answer shows in that field, and gives the whole answer.
    async fn make_credential(&mut self, path: &str, body: Value, field: &str) -> Value {
        let answer = self.client.post(path, body).await;
        self.canary.is_not_in(path, &answer.text);
        let made = answer.expect(201);
        self.credentials.push(Canary::of_credential(made[field].as_str().unwrap()));
        made
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> Answer {
        let body = (!body.is_null()).then(|| body.to_string());
        self.call(&self.client, method, path, body.as_deref()).await
    }

    /// A route's path in which every parameter is good but those that `wrong` gives another value.
    fn path(&self, route: &Route, wrong: &[(&str, &str)]) -> String {
        let pattern = route.info.pattern.0;
        let id = match pattern.split('/').nth(2) {
            Some("agents") => &self.agents[0],
            Some("api-keys") => &self.key,
            _ => &self.session,
        };
        let good = [
            ("{id}", id.as_str()),
            ("{name}", "ABSENT"),
            ("{path*}", "data/kept"),
            ("{userId}", "u"),
            ("{provider}", "e2b"),
            ("{token}", &self.token),
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
    let left = scan_everything(&table_url(&bed.process)).await.partitions;
    assert!(!left.iter().any(|partition| partition.ends_with("#copies")), "copies outlive their agents: {left:?}");
    let late = json!({ "LATE": bed.canary.value() });
    assert!(bed.ask("POST", &format!("/v1/sessions/{}/secrets", bed.session), late).await.status >= 400);
    let Bed { mut process, canary, credentials, .. } = bed;
    assert!(process.interrupt().await.success());
    canary.is_not_in("the output after the end", process.output());
    credentials.iter().for_each(|credential| credential.is_not_in("the output after the end", process.output()));
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
    let (agents, credentials) = (Vec::new(), vec![Canary::of_credential(&client_key(&process))]);
    let (key, token) = (String::new(), String::new());
    let mut bed = Bed { process, client, canary: Canary::make(), planted, session, agents, credentials, key, token };
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
    make_credentials(&mut bed).await;
    bed.token = bed.client.steal_token(&bed.agents[0]).await;
    bed.credentials.push(Canary::of_credential(&bed.token));
    bed
}

fn client_key(process: &Process) -> String {
    std::fs::read_to_string(process.folder().join("api-key")).unwrap().trim().to_owned()
}

/// Makes credentials of each kind and uses each, well and badly.
async fn make_credentials(bed: &mut Bed) {
    let new = json!({ "name": "made", "environment": "live" });
    let made = bed.make_credential("/v1/api-keys", new, "key").await;
    bed.key = made["id"].as_str().unwrap().to_owned();
    let rotate = format!("/v1/api-keys/{}/rotate", bed.key);
    bed.make_credential(&rotate, json!({ "overlap": "1h" }), "key").await;
    let tokens = format!("/v1/sessions/{}/tokens", bed.session);
    bed.make_credential(&tokens, json!({ "permissions": ["read", "exec"] }), "token").await;
    let (session, agent) = (&bed.session, &bed.agents[0]);
    for credential in &bed.credentials {
        let holder = bed.client.with_key(Some(credential.value()));
        for path in ["/v1/whoami".into(), format!("/v1/sessions/{session}/secrets"), format!("/v1/agents/{agent}")] {
            bed.call(&holder, "GET", &path, None).await.expect(200);
        }
        let exec = json!({ "language": "bash", "code": "true" }).to_string();
        bed.call(&holder, "POST", &format!("/v1/agents/{agent}/exec"), Some(&exec)).await.expect(200);
        let text = credential.value();
        for path in [format!("/v1/agents/{text}"), format!("/v1/{text}"), format!("/v1/agents?cursor={text}")] {
            assert!(bed.call(&bed.client, "GET", &path, None).await.status >= 400);
        }
        let cut = bed.client.with_key(Some(&text[..text.len() - 1]));
        bed.call(&cut, "GET", "/v1/whoami", None).await.expect_error(401, "unauthorized");
        let once = bed.client.once(&text.repeat(4));
        let refused = bed.call(&once, "POST", "/v1/sessions", Some("{}")).await;
        assert_eq!(refused.expect_error(400, "invalid_request")["details"]["field"], "idempotency-key");
    }
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
    // The key of a request that is to be done once is its caller's to choose.
    let once = bed.client.once(&STANDARD.encode(held));
    let (first, other) = (json!({ "ONCE": held }).to_string(), json!({ "ONCE": [held], "OTHER": held }).to_string());
    let secrets = format!("/v1/sessions/{session}/secrets");
    for _ in 0..2 {
        bed.call(&once, "POST", &secrets, Some(&first)).await.expect(204);
    }
    assert!(bed.call(&once, "POST", &secrets, Some(&other)).await.status >= 400);
    let other = json!({ "OTHER": held }).to_string();
    bed.call(&once, "POST", &secrets, Some(&other)).await.expect_error(409, "conflict");
    bed.ask("DELETE", &format!("{secrets}/once"), Value::Null).await.expect(204);
    let written = json!({ "path": "/data/written", "data": "x" });
    bed.ask("POST", &format!("/v1/agents/{agent}/files"), written).await.expect(204);
    // An agent reports its own value, in whatever place there is.
    for route in ROUTES.iter().filter(|route| route.info.has_credential_in_path()) {
        let report = json!({
            "agentId": agent, "sessionId": session, "message": held, "model": held, "name": held, "error": held,
            "output": { held: held }, "artifacts": [held], "metadata": { held: [held] }, "percentage": 5, "inputTokens": 1, "outputTokens": 2,
        });
        let report = report.to_string();
        let answer = bed.call(&bed.client.saying_more(), "POST", &bed.path(route, &[]), Some(&report)).await;
        assert!(answer.status < 300, "{}: {answer:?}", route.info.name);
    }
    let limits = json!({ "maxAgents": 9 });
    bed.ask("PATCH", &format!("/v1/sessions/{session}/limits"), limits).await.expect(200);
    let provider = json!({ "credentialRef": "KEPT_OUT" });
    bed.ask("PUT", "/v1/providers/e2b", provider).await;
    for route in ROUTES.iter().filter(|route| route.info.method == "GET" && !route.info.streams) {
        for query in ["", "details=true", "inherited=true&details=true", "limit=1"] {
            let takes = |pair: &str| pair.split('=').next().is_some_and(|name| route.info.query.contains(&name));
            if !query.is_empty() && !query.split('&').all(takes) {
                continue;
            }
            // One of them must be asked for something.
            let query = if route.info.name == "metrics-series" { "metric=error_rate" } else { query };
            let answer = bed.ask("GET", &format!("{}?{query}", bed.path(route, &[])), Value::Null).await;
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
        for parameter in ["{id}", "{name}", "{path*}", "{userId}", "{provider}", "{token}"] {
            if route.info.pattern.0.contains(parameter) {
                let path = bed.path(route, &[(parameter, &in_path)]);
                let answer = bed.call(&bed.client, method, &path, Some("{}")).await;
                assert!(answer.status >= 400, "{name}: {answer:?}");
            }
        }
        let path = bed.path(route, &[]);
        bed.call(&as_key, method, &path, Some(&quoted)).await;
        // A stream that is not refused has no end to wait for.
        let taken = route.info.query.iter().filter(|name| !route.info.streams || **name == "until");
        let unheard_of = (method == "GET" && !route.info.streams).then_some(&UNHEARD_OF);
        for parameter in taken.chain(unheard_of) {
            bed.ask(method, &format!("{path}?{parameter}={in_path}"), Value::Null).await;
        }
        if method == "GET" {
            continue;
        }
        for (number, body) in wrong_bodies(name, value).into_iter().enumerate() {
            let once = bed.client.once(&format!("{number}-{name}-{}", STANDARD.encode(value)));
            let client = if number % 2 == 0 { &bed.client } else { &once };
            let answer = bed.call(client, method, &path, Some(&body)).await;
            assert!(answer.status >= 400, "{name} took {}: {answer:?}", body.replace(value, "..."));
            wrong_calls += 1;
        }
    }
    assert!(wrong_calls > 120, "only {wrong_calls} wrong bodies were sent");
    let unknown = bed.ask("POST", &format!("/v1/{in_path}"), json!({ "A": value })).await;
    unknown.expect_error(404, "not_found");
    // A name is told to the one who sent it, and nobody else.
    let secrets = format!("/v1/sessions/{}/secrets", bed.session);
    let swapped = json!({ value: "NAME" }).to_string().into_bytes();
    bed.client.try_call("POST", &secrets, Some(swapped)).await.unwrap().expect_error(422, "unprocessable_entity");
}

/// What the process printed, and what it was started with.
fn in_the_process(bed: &Bed) {
    let output = bed.process.output();
    bed.is_not_in("the output", &output);
    for told in ["agents-create", "secrets-set", "agents-exec", "answered"] {
        assert!(output.contains(told), "the log must tell of {told}");
    }
    assert!(output.contains("TRACE") && output.contains("begins"), "not all that can be logged was");
    let environment = std::fs::read(format!("/proc/{}/environ", bed.process.id())).unwrap();
    assert!(environment.windows(14).any(|part| part == b"RUST_LOG=trace"), "the environment is not the process's");
    bed.is_not_in("the process's environment", environment);
}

/// Where the embedded table listens.
fn table_url(process: &Process) -> String {
    let output = process.output();
    let line = output.lines().find(|line| line.trim_start().starts_with("table ")).unwrap();
    line.split_whitespace().find(|word| word.starts_with("http://")).unwrap().to_owned()
}

/// Every table of the embedded engine, page by page, every attribute decoded.
async fn in_the_table(bed: &Bed) {
    let scanned = scan_everything(&table_url(&bed.process)).await;
    assert!(scanned.pages.len() > 2, "the table has more than {} pages", scanned.pages.len());
    let sealed = scanned.partitions.iter().filter(|partition| partition.ends_with("#values")).count();
    assert_eq!(sealed, 2, "the session's and the platform's sealed values are among what was searched");
    let copies = scanned.partitions.iter().filter(|partition| partition.ends_with("#copies")).count();
    assert_eq!(copies, bed.agents.len(), "the sealed copies beside the agents too");
    assert!(bed.planted.find_in(&scanned.decoded).is_some(), "the search of the table finds nothing");
    bed.is_not_in("the table", &scanned.decoded);
    for page in &scanned.pages {
        bed.is_not_in("a page of the table", page);
    }
}

/// The files of the data folder as bytes.
fn in_the_folder(bed: &Bed) {
    let files = files_in(bed.process.folder());
    let mut found = false;
    for (path, bytes) in &files {
        if path.ends_with("/api-key") {
            // The stack's own key, which it made, and leaves there for its user.
            assert_eq!(bytes.trim_ascii(), bed.credentials[0].value().as_bytes());
            continue;
        }
        bed.is_not_in(path, bytes);
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
