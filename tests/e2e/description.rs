//! The API's own description, put to use by programs that we did not write: a browser that shows it, a fuzzer that tries
//! whatever it allows, a client that was generated from it.

use crate::harness::{Client, Platform, serve_deployment, stack, with_streams};
use crate::logs::token;
use crate::matrix::agent_token;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use theazo_functions::routes::ROUTES;
use theazo_http::StreamLimits;

/// A program that the plain set-up does not bring. Where it is missing, that is said and the test is skipped, unless
/// nothing may be skipped.
fn find_tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        assert!(std::env::var_os("THEAZO_CI").is_none(), "{name} is not installed, and nothing may be skipped");
        let _ = writeln!(std::io::stderr(), "skipped: {name} is not installed");
    }
    found
}

#[tokio::test]
async fn the_page_opens_in_a_browser_lists_every_route_and_asks_nobody_else() {
    let Some(driver) = find_tool("chromedriver") else { return };
    let browser = Browser::start(&driver).await;
    let base = stack().base_url();
    browser.command("url", json!({ "url": format!("{base}/docs") })).await;
    let started = Instant::now();
    let listed = loop {
        let listed = browser.run("return [...document.querySelectorAll('.opblock')].map(route => route.id)").await;
        let listed = listed.as_array().unwrap().clone();
        if !listed.is_empty() || started.elapsed() > Duration::from_secs(60) {
            break listed;
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    };
    for route in ROUTES {
        // The viewer's id of a route ends with the route's own, with another sign for its hyphens.
        let name = route.info.name.replace('-', "_");
        let is_it = |id: &Value| id.as_str().is_some_and(|id| id.replace('-', "_").ends_with(&format!("_{name}")));
        assert!(listed.iter().any(is_it), "{name} is not among {listed:?}");
    }
    assert_eq!(listed.len(), ROUTES.len());
    // Opening a route's part shows what it takes; the console stays empty and nobody else is asked all the while.
    browser.run("document.querySelector('[id$=sessions-create] button').click()").await;
    let opened = "return document.querySelector('[id$=sessions-create]').innerText.includes('user_123')";
    for attempt in 0.. {
        if browser.run(opened).await == json!(true) {
            break;
        }
        assert!(attempt < 100, "the part does not open");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let loaded = browser.run("return performance.getEntriesByType('resource').map(entry => entry.name)").await;
    let loaded: Vec<&str> = loaded.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(loaded.iter().all(|url| url.starts_with(&base) || url.starts_with("data:")), "{loaded:?}");
    let log = browser.command("se/log", json!({ "type": "browser" })).await;
    assert_eq!(log, json!([]));
    browser.end().await;
}

/// A headless Chromium, by the WebDriver protocol (<https://www.w3.org/TR/webdriver2/>).
struct Browser {
    driver: Child,
    session: String,
    http: reqwest::Client,
}

impl Browser {
    async fn start(driver: &Path) -> Self {
        let mut driver = Command::new(driver)
            .arg("--port=0")
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .unwrap();
        let lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let port = lines
            .map_while(Result::ok)
            .find_map(|line| {
                line.trim_end_matches('.').split_once("successfully on port ").map(|(_, port)| port.to_owned())
            })
            .expect("chromedriver says its port");
        let http = reqwest::Client::builder().timeout(Duration::from_secs(90)).build().unwrap();
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
        ];
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:loggingPrefs": { "browser": "ALL" },
            "goog:chromeOptions": { "args": arguments },
        } } });
        let mut browser = Self { driver, session: format!("http://127.0.0.1:{port}"), http };
        let session = browser.command("session", wanted).await;
        browser.session = format!("{}/session/{}", browser.session, session["sessionId"].as_str().unwrap());
        browser
    }

    async fn command(&self, path: &str, body: Value) -> Value {
        let answer = self.http.post(format!("{}/{path}", self.session)).json(&body).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        assert!(answer["value"]["error"].is_null(), "{path}: {answer}");
        answer["value"].clone()
    }

    async fn run(&self, script: &str) -> Value {
        self.command("execute/sync", json!({ "script": script, "args": [] })).await
    }

    async fn end(self) {
        self.http.delete(&self.session).send().await.unwrap();
    }
}

impl Drop for Browser {
    /// The browser is in its driver's process group.
    fn drop(&mut self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.driver.id().try_into().unwrap_or(0)) {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.driver.wait();
    }
}

/// Requests that the fuzzer makes of each route at most; `THEAZO_FUZZ_EXAMPLES` sets another number.
const EXAMPLES: &str = "8";

/// What CPython 3.11 says at times when two threads parse at once: it counts the depth of both together.
const PYTHONS_OWN_FAULT: &str = "AST constructor recursion depth mismatch";

/// What the fuzzer is let loose on: a platform's test mode, served so that streams end soon.
struct Fuzzed {
    folder: Folder,
    base: String,
    platform: Platform,
    client: Client,
    session: String,
    /// Of what some routes end there is another, so that the others do not lose theirs.
    spare_session: String,
    ended_agent: String,
    spare_key: String,
}

impl Fuzzed {
    /// Where a path names something, it names what is there, so that requests come past the first look.
    async fn make(name: &str) -> Self {
        let platform = Platform::make(&format!("description: {name}")).await;
        let soon = StreamLimits {
            lifetime: Duration::from_millis(50),
            heartbeat: Duration::from_millis(20),
            ..StreamLimits::default()
        };
        let base = serve_deployment(with_streams(stack(), soon)).await;
        let client = Client::new(&base, Some(&platform.test_key));
        let (session, spare_session) = (client.session("fuzzed").await, client.session("spare").await);
        let mut agents = Vec::new();
        for _ in 0..3 {
            agents.push(client.boot(&session, json!({})).await);
        }
        let [agent, moved, ended_agent] = agents.try_into().unwrap();
        let spare_key = json!({ "name": "spare", "environment": "test" });
        let spare_key = client.post("/v1/api-keys", spare_key).await.expect(201)["id"].as_str().unwrap().to_owned();
        let token = agent_token(&platform.id, &session, &agent).await;
        let folder = Folder::make(name);
        let mut config = String::new();
        for route in ROUTES {
            let (name, pattern) = (route.info.name, route.info.pattern.0);
            let id = match name {
                "sessions-pause" | "sessions-resume" | "sessions-terminate" => &spare_session,
                "agents-pause" | "agents-resume" | "agents-restart" | "agents-retry" => &moved,
                "agents-terminate" => &ended_agent,
                _ if pattern.starts_with("/v1/sessions/{id}") => &session,
                _ if pattern.starts_with("/v1/agents/{id}") => &agent,
                _ if pattern.starts_with("/v1/api-keys/{id}") => &spare_key,
                _ => "",
            };
            for (parameter, value) in [("id", id), ("token", token.as_str())] {
                if pattern.contains(&format!("{{{parameter}}}")) {
                    assert!(!value.is_empty(), "{name}");
                    let parameters = format!("parameters = {{ \"path.{parameter}\" = \"{value}\" }}\n\n");
                    config.push_str(&format!("[[operations]]\ninclude-operation-id = \"{name}\"\n{parameters}"));
                }
            }
        }
        std::fs::write(folder.0.join("schemathesis.toml"), config).unwrap();
        std::fs::write(folder.0.join("openapi.json"), client.get("/v1/openapi.json").await.text).unwrap();
        Self { folder, base, platform, client, session, spare_session, ended_agent, spare_key }
    }

    /// Has the fuzzer try every route with that credential, and panics with what it found.
    async fn run(&self, schemathesis: &Path, key: &str, phases: &str, examples: &str) {
        let checks = "not_a_server_error,status_code_conformance,content_type_conformance,\
            response_headers_conformance,response_schema_conformance,ignored_auth";
        let mut command = tokio::process::Command::new(schemathesis);
        command
            .current_dir(&self.folder.0)
            .args(["run", "openapi.json", "--url", &self.base, "--checks", checks])
            .args(["--phases", phases, "--max-examples", examples, "--seed", "1"])
            .args(["--workers", "2", "--request-timeout", "60", "--no-color", "--suppress-health-check", "all"])
            .args(["--header", &format!("Authorization: Bearer {key}")])
            .kill_on_drop(true);
        // It takes a minute and a half alone, and six times that beside all the others.
        let mut run =
            async || tokio::time::timeout(Duration::from_secs(1800), command.output()).await.expect("it ends").unwrap();
        let mut output = run().await;
        if String::from_utf8_lossy(&output.stdout).contains(PYTHONS_OWN_FAULT) {
            output = run().await;
        }
        let said = String::from_utf8_lossy(&output.stdout);
        let findings =
            said.split_once("FAILURES").or_else(|| said.split_once("ERRORS")).map_or(&*said, |(_, rest)| rest);
        assert!(output.status.success(), "{}: {findings}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
        // It has indeed tried every route.
        assert!(said.contains(&format!("{} selected", ROUTES.len())), "{said}");
    }

    /// Whether what the fuzzer may end has ended: the session, the agent and the key.
    async fn ended(&self) -> [bool; 3] {
        let session = self.client.get(&format!("/v1/sessions/{}", self.spare_session)).await.expect(200);
        let agent = self.client.get(&format!("/v1/agents/{}", self.ended_agent)).await.expect(200);
        let keys = self.client.get("/v1/api-keys?limit=100").await.text;
        [session["status"] == "terminated", agent["status"] == "completed", !keys.contains(&self.spare_key)]
    }

    async fn end(self) {
        for session in [&self.session, &self.spare_session] {
            self.client.terminate(session).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_description_allows_or_forbids_is_answered_as_it_says_and_never_with_a_5xx() {
    let Some(schemathesis) = find_tool("schemathesis") else { return };
    let fuzzed = Fuzzed::make("fuzzed").await;
    let examples = std::env::var("THEAZO_FUZZ_EXAMPLES").unwrap_or_else(|_| EXAMPLES.to_owned());
    let key = fuzzed.platform.test_key.clone();
    fuzzed.run(&schemathesis, &key, "examples,coverage,fuzzing", &examples).await;
    // It was let at those too.
    assert_eq!(fuzzed.ended().await, [true; 3]);
    fuzzed.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sessions_token_is_answered_as_the_description_says_on_every_route_too() {
    let Some(schemathesis) = find_tool("schemathesis") else { return };
    let fuzzed = Fuzzed::make("fuzzed by a session").await;
    let user = token(&fuzzed.client, &fuzzed.session).await;
    fuzzed.run(&schemathesis, user.key().unwrap(), "examples,fuzzing", "3").await;
    // It was good to the end.
    user.get("/v1/whoami").await.expect(200);
    assert_eq!(fuzzed.ended().await, [false, true, false], "it ends what is its own and nothing else");
    fuzzed.end().await;
}

/// Does the main job with the package that the generator made; says what the agent printed.
const MAIN_JOB: &str = r#"
import sys
from theazo_client import AuthenticatedClient
from theazo_client.api.agents import agents_create, agents_exec
from theazo_client.api.secrets import secrets_set
from theazo_client.api.sessions import sessions_by_user, sessions_terminate
from theazo_client.models import Exec, ExecLanguage, NewAgent, SecretsToSet

base, key = sys.argv[1:3]
client = AuthenticatedClient(base_url=base, token=key, raise_on_unexpected_status=True)
session = sessions_by_user.sync(user_id="generated", client=client)
secrets = SecretsToSet.from_dict({"api_token": "a value nobody sees"})
assert secrets_set.sync_detailed(id=session.id, client=client, body=secrets).status_code == 204
agent = agents_create.sync(id=session.id, client=client, body=NewAgent(timeout="10m"))
code = "import os; print(len(os.environ['API_TOKEN']))"
result = agents_exec.sync(id=agent.id, client=client, body=Exec(language=ExecLanguage.PYTHON, code=code))
print(result.stdout, end="")
sessions_terminate.sync(id=session.id, client=client)
"#;

#[tokio::test]
async fn a_client_that_a_public_generator_made_of_it_does_the_main_job() {
    let Some(generator) = find_tool("openapi-python-client") else { return };
    let platform = Platform::make("description: generated").await;
    let folder = Folder::make("generated");
    let document = folder.0.join("openapi.json");
    let given = Client::new(stack().base_url(), None).get("/v1/openapi.json").await.expect(200);
    std::fs::write(&document, given.to_string()).unwrap();
    std::fs::write(folder.0.join("config.yml"), "package_name_override: theazo_client\npost_hooks: []\n").unwrap();
    let mut generate = tokio::process::Command::new(&generator);
    generate.current_dir(&folder.0).args(["generate", "--path", "openapi.json", "--config", "config.yml"]);
    let generated = generate.args(["--meta", "none", "--output-path", "theazo_client"]).output().await.unwrap();
    let said = [generated.stdout, generated.stderr].map(|said| String::from_utf8_lossy(&said).into_owned()).concat();
    assert!(generated.status.success() && !said.contains("WARNING"), "{said}");
    std::fs::write(folder.0.join("main_job.py"), MAIN_JOB).unwrap();
    // The interpreter that the generator runs in has what its clients need.
    let mut run = tokio::process::Command::new(generator.with_file_name("python3"));
    let ran = run.current_dir(&folder.0).args(["main_job.py", &stack().base_url(), &platform.live_key]).output();
    let ran = tokio::time::timeout(Duration::from_secs(120), ran).await.expect("it ends").unwrap();
    assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
    assert_eq!(String::from_utf8_lossy(&ran.stdout), "19\n");
}

/// A folder that is gone with the test.
struct Folder(PathBuf);

impl Folder {
    fn make(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("theazo-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
