//! Endpoints called as what they are in production: Lambda binaries, here under `cargo lambda watch`.
//!
//! `cargo lambda watch` stands for the gateway and for the Lambda runtime's API; the binaries are the real ones, and
//! the table, the key service and the Docker engine are the shared stack's.

use crate::exec_streams;
use crate::harness::{Answer, Client, DevCommand, Platform, built, collect, make_canary, sha256, stack, workspace};
use serde_json::json;
use std::io::Write;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use theazo_functions::routes::ROUTES;
use theazo_local::Stack;

const FUNCTIONS: [&str; 3] = ["secrets-list", "secrets-set", "sessions-by-user"];
const MAIN_JOB: [&str; 6] =
    ["sessions-by-user", "secrets-set", "secrets-list", "agents-create", "agents-exec", "sessions-terminate"];

#[tokio::test]
async fn the_main_job_runs_through_the_binaries_that_the_router_of_the_route_table_names() {
    let Some(lambdas) = Lambdas::start_with(&MAIN_JOB).await else { return };
    let platform = Platform::make("lambda: main job").await;
    let client = &platform.client.with_base(&lambdas.base);
    let session = client.session("user").await;
    let (canary, name) = (make_canary("main-job"), "hubspot_api_key");
    client.set_secrets(&session, json!({ name: canary })).await;
    assert_eq!(client.get(&format!("/v1/sessions/{session}/secrets")).await.expect(200), json!([name]));
    let agent = client.boot(&session, json!({})).await;
    let seen = client.environment(&agent).await;
    assert_eq!(seen["HUBSPOT_API_KEY"], (canary.len(), sha256(&canary)));
    let printed = client.run(&agent, "bash", "echo $HUBSPOT_API_KEY").await;
    assert_eq!(printed.trim(), "[secret:HUBSPOT_API_KEY]");
    // The code goes on once its beginning has arrived.
    let code = "echo begun; while [ ! -e /data/go ]; do sleep 0.05; done; echo $HUBSPOT_API_KEY";
    let mut stream = exec_streams::open(client, &agent, &json!({ "language": "bash", "code": code })).await;
    assert_eq!(stream.next().await.unwrap().json()["stdout"], "begun\n");
    let go = json!({ "path": "/data/go", "data": "" });
    platform.client.post(&format!("/v1/agents/{agent}/files"), go).await.expect(204);
    let told = exec_streams::rest(&mut stream).await;
    assert_eq!((told.stdout.as_str(), told.last), ("[secret:HUBSPOT_API_KEY]\n", Ok(json!({ "exitCode": 0 }))));
    client.terminate(&session).await;
    assert!(!lambdas.output().contains(&canary));
}

/// Stands for a function: answers each of its events with its name.
async fn answer_with_the_name(api: String, name: &'static str) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    while let Ok(event) = http.get(format!("{api}/invocation/next")).send().await {
        let id = event.headers()["lambda-runtime-aws-request-id"].to_str().unwrap().to_owned();
        let answer = json!({
            "statusCode": 200, "headers": {}, "multiValueHeaders": {}, "body": name, "isBase64Encoded": false, "cookies": [],
        });
        let _ = http.post(format!("{api}/invocation/{id}/response")).body(answer.to_string()).send().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_router_sends_every_route_of_the_table_to_its_own_function() {
    let Some(lambdas) = Lambdas::start_with(&[]).await else { return };
    let mut functions = tokio::task::JoinSet::new();
    for route in ROUTES {
        let name = route.info.name;
        functions.spawn(answer_with_the_name(format!("{}/.rt/{name}/2018-06-01/runtime", lambdas.base), name));
    }
    let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap();
    for route in ROUTES {
        let segments = route.info.pattern.0.split('/').map(|segment| match segment.strip_prefix('{') {
            Some(rest) if rest.ends_with("*}") => "some/where",
            Some(_) => "some%20thing",
            None => segment,
        });
        let path = segments.collect::<Vec<_>>().join("/");
        let method = route.info.method.parse().unwrap();
        let answer = http.request(method, format!("{}{path}", lambdas.base)).body("{}").send().await.unwrap();
        let told = (answer.status().as_u16(), answer.text().await.unwrap());
        assert_eq!(told, (200, route.info.name.to_owned()), "{} {path}: {}", route.info.method, lambdas.output());
    }
    functions.shutdown().await;
}

#[tokio::test]
async fn a_secret_set_through_one_lambda_function_is_listed_through_another_and_by_the_stack() {
    let Some(lambdas) = Lambdas::start().await else { return };
    let platform = Platform::make("lambda: set and list").await;
    let canary = make_canary("lambda");
    let by_user = lambdas.call("sessions-by-user", &platform.live_key, "POST", "/v1/sessions/by-user/u", None).await;
    let session = by_user.expect(200)["id"].as_str().unwrap().to_owned();
    let secrets = format!("/v1/sessions/{session}/secrets");

    let body = json!({ "HUBSPOT_API_KEY": canary, "database_url": "x" }).to_string();
    let set = lambdas.call("secrets-set", &platform.live_key, "POST", &secrets, Some(&body)).await;
    assert!(set.headers["x-request-id"].starts_with("req_"), "{set:?}");
    set.expect(204);

    let listed = lambdas.call("secrets-list", &platform.live_key, "GET", &secrets, None).await.expect(200);
    assert_eq!(listed, json!(["HUBSPOT_API_KEY", "database_url"]));
    assert_eq!(platform.client.get(&secrets).await.expect(200), listed);
    let query = format!("{secrets}?details=true");
    let details = lambdas.call("secrets-list", &platform.live_key, "GET", &query, None).await.expect(200);
    assert_eq!(platform.client.get(&query).await.expect(200), details);
    assert_eq!(details[0]["version"].as_u64().map(|version| version > 0), Some(true), "{details}");

    // The functions have written their log lines, and neither the value nor the key is in any of them.
    let log = lambdas.output();
    for name in FUNCTIONS {
        assert!(log.contains(name), "{name} logged nothing: {log}");
    }
    assert!(!log.contains(&canary) && !log.contains(&platform.live_key));
}

#[tokio::test]
async fn a_lambda_function_refuses_with_the_very_answers_of_the_stack() {
    let Some(lambdas) = Lambdas::start().await else { return };
    let platform = Platform::make("lambda: refusals").await;
    let session = platform.client.session("u").await;
    let secrets = format!("/v1/sessions/{session}/secrets");
    let stranger = Platform::make("lambda: stranger").await;
    let mut wrong_checksum = platform.live_key.clone();
    let last = wrong_checksum.pop().unwrap();
    wrong_checksum.push(if last == '0' { '1' } else { '0' });
    let absent = format!("/v1/sessions/{}/secrets", "ses_01arz3ndektsv4rrffq69g5fav");
    let set = Some(r#"{"A":1}"#);
    let refusals = [
        ("secrets-list", "nonsense", "GET", &secrets, None, (401, "unauthorized")),
        ("secrets-list", wrong_checksum.as_str(), "GET", &secrets, None, (401, "unauthorized")),
        ("secrets-list", &stranger.live_key, "GET", &secrets, None, (404, "not_found")),
        ("secrets-list", &platform.live_key, "GET", &absent, None, (404, "not_found")),
        ("secrets-set", "nonsense", "POST", &secrets, set, (401, "unauthorized")),
        ("secrets-set", &platform.live_key, "POST", &secrets, set, (400, "invalid_request")),
        ("secrets-set", &platform.live_key, "POST", &secrets, Some("{"), (400, "invalid_request")),
    ];
    for (function, key, method, path, body, (status, code)) in refusals {
        let context = format!("{function} {status} {code} {body:?}");
        let answer = lambdas.call(function, key, method, path, body).await;
        let client = platform.client.with_key(Some(key));
        let same = client.try_call(method, path, body.map(|body| body.as_bytes().to_vec())).await.unwrap();
        assert_eq!(answer.without_request_id(), same.without_request_id(), "{context}");
        assert_eq!(answer.headers["content-type"], same.headers["content-type"], "{context}");
        answer.expect_error(status, code);
    }

    // A function answers for its own route and for no other, whatever its gateway sends it.
    for (method, path) in [("GET", "/v1/whoami"), ("POST", secrets.as_str()), ("GET", "/v1/sessions"), ("GET", "/")] {
        // By its whole path no route of the API's, so that the answer is not held against that route's description.
        let client = platform.client.with_base(&lambdas.base);
        let answer = client.call(method, &format!("/lambda-url/secrets-list{path}"), None).await;
        answer.expect_error(404, "not_found");
    }
}

#[tokio::test]
async fn a_percent_encoded_path_is_decoded_once_by_a_lambda_function() {
    let Some(lambdas) = Lambdas::start().await else { return };
    let platform = Platform::make("lambda: paths").await;
    for (encoded, decoded) in
        [("a%2Fb", "a/b"), ("a%252Fb", "a%2Fb"), ("a%20b", "a b"), ("a+b", "a+b"), ("%C3%A9", "é"), ("a%3Fb", "a?b")]
    {
        let path = format!("/v1/sessions/by-user/{encoded}");
        let through = lambdas.call("sessions-by-user", &platform.live_key, "POST", &path, None).await.expect(200);
        assert_eq!(through["userId"], decoded, "{encoded}");
        let direct = platform.client.call("POST", &path, None).await.expect(200);
        assert_eq!(direct["id"], through["id"], "{encoded}");
    }
    let two_segments = "/v1/sessions/by-user/a/b";
    let refused = lambdas.call("sessions-by-user", &platform.live_key, "POST", two_segments, None).await;
    refused.expect_error(404, "not_found");
}

/// It builds each function as it is called first, apart from what the tests have built, which takes minutes.
#[tokio::test]
async fn cargo_dev_lambda_tells_its_whole_story_through_the_functions_that_it_watches() {
    if std::env::var_os("THEAZO_LAMBDA_WATCH").is_none() {
        return;
    }
    let temp = std::env::temp_dir().join(make_canary("dev-lambda"));
    std::fs::create_dir(&temp).unwrap();
    let mut running = DevCommand::start(&["lambda"], &temp);
    for _ in 0..3600 {
        if running.has_ended() {
            break;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let (code, told) = running.end().await;
    assert_eq!(code, Some(0), "{told}");
    assert!(told.contains("cargo lambda watch listens on") && told.contains("All of it held."), "{told}");
    let left: Vec<_> = std::fs::read_dir(&temp).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    std::fs::remove_dir(&temp).unwrap();
}

/// `cargo lambda watch` and a process of each function. All of it ends when this is dropped.
struct Lambdas {
    processes: Vec<Child>,
    base: String,
    output: Arc<Mutex<String>>,
}

impl Lambdas {
    /// Starts them, or says why not: `cargo-lambda` is a tool that a machine may lack, but not the one that decides.
    async fn start() -> Option<Self> {
        Self::start_with(&FUNCTIONS).await
    }

    async fn start_with(functions: &[&str]) -> Option<Self> {
        let found = Command::new("cargo-lambda").args(["lambda", "--version"]).output();
        if !found.is_ok_and(|output| output.status.success()) {
            let decides = std::env::var_os("THEAZO_CI").is_some_and(|value| value == "1");
            assert!(!decides, "cargo-lambda is not installed, and THEAZO_CI=1 lets nothing be skipped");
            // Past the test harness, which would keep it to itself.
            let _ = writeln!(std::io::stderr(), "skipped: cargo-lambda is not installed (`pip install cargo-lambda`)");
            return None;
        }
        let (stack, folder) = tokio::task::spawn_blocking(|| (stack(), built())).await.unwrap();
        for _ in 0..5 {
            if let Some(lambdas) = Self::try_start(stack, folder, functions).await {
                return Some(lambdas);
            }
        }
        panic!("cargo lambda watch found no free port in five attempts");
    }

    /// Another process may take the port between our looking for it and `watch` binding it; then it gives `None`.
    async fn try_start(stack: &Stack, folder: &Path, functions: &[&str]) -> Option<Self> {
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let base = format!("http://{address}");
        let mut lambdas = Self { processes: Vec::new(), base, output: Arc::default() };
        // `watch` alone would have cargo resolve features without the tests' and build the AWS SDK a second time, so
        // it plays the Lambda service only and the functions are started here.
        lambdas.spawn(
            Command::new("cargo-lambda")
                .args(["lambda", "watch", "--only-lambda-apis", "--ignore-changes", "-A", "127.0.0.1", "-P"])
                .arg(address.port().to_string())
                .current_dir(workspace()),
        );
        if !lambdas.listens(address).await {
            return None;
        }
        let environment = stack.data_dir().read("lambda.env").unwrap().expect("the functions' environment");
        for name in functions {
            let mut command = Command::new(folder.join(name));
            // What a function finds in its environment: the file that the stack writes for `cargo lambda watch`, and
            // nothing of this machine.
            command
                .env_clear()
                .env("AWS_LAMBDA_RUNTIME_API", format!("{}/.rt/{name}", lambdas.base))
                .env("AWS_LAMBDA_FUNCTION_NAME", name)
                .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
                .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
                .env("RUST_LOG", "debug")
                .envs(environment.lines().map(|line| line.split_once('=').expect("NAME=value")));
            lambdas.spawn(&mut command);
        }
        Some(lambdas)
    }

    fn spawn(&mut self, command: &mut Command) {
        let command = command.process_group(0).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        collect(child.stdout.take().unwrap(), self.output.clone());
        collect(child.stderr.take().unwrap(), self.output.clone());
        self.processes.push(child);
    }

    async fn listens(&mut self, address: SocketAddr) -> bool {
        for _ in 0..600 {
            if self.processes[0].try_wait().unwrap().is_some() {
                return false;
            }
            if TcpStream::connect(address).is_ok() {
                return true;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        panic!("cargo lambda watch does not listen: {}", self.output());
    }

    async fn call(&self, function: &str, key: &str, method: &str, path: &str, body: Option<&str>) -> Answer {
        let client = Client::new(format!("{}/lambda-url/{function}", self.base), Some(key));
        let called = client.try_call(method, path, body.map(|body| body.as_bytes().to_vec())).await;
        called.unwrap_or_else(|error| panic!("{function} {path}: {error}; {}", self.output()))
    }

    /// What `watch` and the functions have printed and logged so far.
    fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }
}

impl Drop for Lambdas {
    fn drop(&mut self) {
        for child in &mut self.processes {
            signal("-INT", child);
        }
        for child in &mut self.processes {
            let mut waited = 0;
            while matches!(child.try_wait(), Ok(None)) && waited < 50 {
                std::thread::sleep(Duration::from_millis(20));
                waited += 1;
            }
            // The rest of its group, or all of it when it did not listen.
            signal("-KILL", child);
            let _ = child.wait();
        }
    }
}

fn signal(name: &str, child: &Child) {
    let group = format!("-{}", child.id());
    let _ = Command::new("kill").args([name, "--", &group]).stdout(Stdio::null()).stderr(Stdio::null()).status();
}
