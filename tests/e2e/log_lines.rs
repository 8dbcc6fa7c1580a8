//! The operator's log, line by line, as a process of its own writes it, and the ids by which a line, an answer and what was
//! written for a request are found from one another.
//!
//! Within this process lines can be lost when another test begins or ends to look at them.

use crate::harness::{Break, Client, Platform, Tap, dynamodb, send_raw, serve_deployment, sha256, stack, wait_until};
use crate::logs::{entries, token};
use crate::matrix::agent_token;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use theazo_functions::deployment::{Deployment, DeploymentConfig};
use theazo_http::{LogFormat, init_logging};
use theazo_store::{Aws, AwsEndpoints};

/// Where a process that is this test's serves from: the table's and the key service's address.
const SERVES: &str = "THEAZO_TEST_SERVES";
const SAYS: &str = "it serves at ";

/// How long the table is held up under a request.
const HELD: Duration = Duration::from_millis(400);

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const ROOT: &str = "1-5759e988-bd862e3fe1be46a994272793";

/// A process with the shared stack's configuration and data, a tap between it and its table.
struct Served {
    child: Child,
    stdout: BufReader<ChildStdout>,
    base: String,
    table: Tap,
}

impl Served {
    /// Starts one, with variables of its own, by running the test of that name in another process.
    async fn start(test: &str, variables: &[(&str, &str)]) -> Self {
        let stack = tokio::task::spawn_blocking(stack).await.unwrap();
        let table = Tap::tcp(stack.dynamodb_url().strip_prefix("http://").unwrap().parse().unwrap()).await;
        let mut command = Command::new(std::env::current_exe().unwrap());
        command
            .args(["--exact", &format!("log_lines::{test}"), "--nocapture"])
            .envs(stack.deployment().config().to_env())
            .envs(variables.iter().copied())
            .env(SERVES, format!("{} {}", table.url(), stack.kms_url()))
            .env("RUST_LOG", "info")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains(SAYS) {
            line.clear();
            assert!(stdout.read_line(&mut line).unwrap() > 0, "the process says where it serves");
        }
        let base = line.split_once(SAYS).unwrap().1.trim().to_owned();
        Self { child, stdout, base, table }
    }

    /// Whether this is such a process; then it has served, until its test had enough.
    async fn has_served() -> bool {
        let Some(from) = std::env::var(SERVES).ok() else { return false };
        init_logging(LogFormat::Json).unwrap();
        let (dynamodb, kms) = from.split_once(' ').unwrap();
        let aws = Aws::local(&AwsEndpoints { dynamodb: dynamodb.to_owned(), kms: Some(kms.to_owned()) });
        let deployment = Deployment::new(&aws, DeploymentConfig::from_env().unwrap());
        let base = serve_deployment(deployment).await;
        std::io::stdout().write_all(format!("{SAYS}{base}\n").as_bytes()).unwrap();
        tokio::task::spawn_blocking(|| std::io::stdin().read_to_end(&mut Vec::new()).unwrap()).await.unwrap();
        true
    }

    /// Ends it, and gives all that it has written to its log, of which every line is JSON.
    fn end(mut self) -> Vec<Value> {
        drop(self.child.stdin.take());
        let mut log = String::new();
        self.child.stderr.take().unwrap().read_to_string(&mut log).unwrap();
        self.stdout.read_to_string(&mut String::new()).unwrap();
        assert!(self.child.wait().unwrap().success(), "{log}");
        log.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"))).collect()
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A request that was made, and what its line has to say.
#[derive(Debug)]
struct Made {
    id: String,
    route: &'static str,
    status: u16,
    credential: Option<String>,
    round_trips: u32,
    calls: u32,
}

/// The name by which a credential's lines know it.
async fn name_of(client: &Client) -> Option<String> {
    client.get("/v1/whoami").await.expect(200)["keyId"].as_str().map(str::to_owned)
}

#[tokio::test]
async fn every_request_has_one_line_with_who_asked_what_and_how_it_went_whoever_asks_and_however_it_goes() {
    if Served::has_served().await {
        return;
    }
    let name = "every_request_has_one_line_with_who_asked_what_and_how_it_went_whoever_asks_and_however_it_goes";
    let served = Served::start(name, &[]).await;
    let platform = Platform::make("log lines").await;
    let key = platform.client.with_key(Some(&platform.test_key));
    let session = key.session("u").await;
    let agent = key.boot(&session, json!({})).await;
    let user = token(&key, &session).await;
    let (key_id, user_id) = (name_of(&key).await, name_of(&user).await);
    let agent_key = agent_token(&platform.id, &session, &agent).await;
    let row = json!({ "pk": { "S": format!("credential#{}", sha256(&agent_key)) }, "sk": { "S": "credential" } });
    let row = dynamodb(&stack().dynamodb_url(), "GetItem", json!({ "TableName": "theazo", "Key": row })).await;
    let agent_id = row["Item"]["id"]["S"].as_str().map(str::to_owned);
    let unknown = theazo_tenancy::make_api_key(&platform.id, theazo_tenancy::Mode::Live);

    let base = &served.base;
    let (nobody, made_up) = (Client::new(base, None), Client::new(base, Some(&unknown.text)));
    let (key, user) = (key.with_base(base), user.with_base(base));
    let of_session = format!("/v1/sessions/{session}");
    let exec = format!("/v1/agents/{agent}/exec");
    let code = json!({ "language": "bash", "code": "true" });
    let report = format!("/a/{agent_key}/v1/sandbox/log");
    let said = |message: Value| json!({ "agentId": agent, "sessionId": session, "message": message });
    let mut made = Vec::new();
    // Round trips: at least so many. Of a credential that another process used in the same second it is one more.
    for (client, method, path, body, route, status, credential, least, is_counted) in [
        (&key, "GET", "/v1/whoami", None, "whoami", 200, &key_id, 1, true),
        (&user, "GET", "/v1/whoami", None, "whoami", 200, &user_id, 1, true),
        (&key, "GET", of_session.as_str(), None, "sessions-get", 200, &key_id, 1, true),
        (&user, "GET", &of_session, None, "sessions-get", 200, &user_id, 1, true),
        (&key, "POST", "/v1/sessions", Some(json!({})), "sessions-create", 201, &key_id, 2, true),
        (&key, "POST", "/v1/sessions", Some(json!({ "userId": 5 })), "sessions-create", 400, &key_id, 1, true),
        (&user, "GET", "/v1/agents", None, "agents-list", 403, &user_id, 1, true),
        (&user, "POST", "/v1/sessions", Some(json!({})), "sessions-create", 403, &user_id, 1, true),
        (&nobody, "GET", "/v1/whoami", None, "whoami", 401, &None, 0, true),
        (&made_up, "GET", "/v1/whoami", None, "whoami", 401, &None, 1, true),
        (&nobody, "GET", "/health", None, "health", 200, &None, 0, true),
        (&key, "GET", "/v1/agents/x", None, "agents-get", 404, &key_id, 1, true),
        (&key, "GET", "/v1/nothing", None, "none", 404, &None, 0, true),
        (&nobody, "POST", &report, Some(said("hello".into())), "sandbox-log", 204, &agent_id, 2, true),
        (&nobody, "POST", &report, Some(said(5.into())), "sandbox-log", 400, &agent_id, 1, true),
        // What they leave to be written later nothing is counted after.
        (&key, "POST", &exec, Some(code.clone()), "agents-exec", 200, &key_id, 1, false),
        (&user, "POST", &exec, Some(code), "agents-exec", 200, &user_id, 1, false),
    ] {
        served.table.mend();
        let answer = client.call(method, path, body.as_ref()).await;
        assert_eq!(answer.status, status, "{method} {route}: {}", answer.text);
        let (id, round_trips) = (answer.headers["x-request-id"].clone(), answer.round_trips());
        let calls = answer.headers["x-theazo-calls"].parse().unwrap();
        // Where all calls are made before the answer, they are what the table was asked.
        if is_counted {
            assert!((least..=least + 1).contains(&round_trips), "{method} {route}: {round_trips}");
            assert_eq!(calls as usize, served.table.requests(), "{method} {route}");
        }
        made.push(Made { id, route, status, credential: credential.clone(), round_trips, calls });
    }
    // A stream's line is written when it begins.
    for (client, credential) in [(&key, &key_id), (&user, &user_id)] {
        let mut stream = client.open("/v1/logs/stream", &[]).await;
        assert!(stream.chunk().await.unwrap().is_some());
        let (id, status) = (stream.headers()["x-request-id"].to_str().unwrap().to_owned(), stream.status().as_u16());
        let counted = ["x-theazo-round-trips", "x-theazo-calls"].map(|name| stream.headers()[name].to_str().unwrap());
        let [round_trips, calls] = counted.map(|text| text.parse().unwrap());
        made.push(Made { id, route: "logs-stream", status, credential: credential.clone(), round_trips, calls });
    }
    // One that waits for the table takes as long as that, by its line and by its figures.
    served.table.fail_after(0, Break::Held);
    let began = Instant::now();
    let asking = tokio::spawn({
        let key = key.clone();
        async move { key.get("/v1/whoami").await }
    });
    wait_until("the table is asked", async || served.table.requests() > 0).await;
    tokio::time::sleep(HELD).await;
    served.table.mend();
    let held = asking.await.unwrap();
    let took = began.elapsed();
    assert_eq!(held.status, 200, "{held:?}");
    let held_id = held.headers["x-request-id"].clone();
    let calls = held.headers["x-theazo-calls"].parse().unwrap();
    let round_trips = held.round_trips();
    let (id, credential) = (held_id.clone(), key_id.clone());
    made.push(Made { id, route: "whoami", status: 200, credential, round_trips, calls });
    // Nobody knows who asks when the table fails.
    let words = json!({ "__type": "com.amazonaws.dynamodb.v20120810#ResourceNotFoundException", "message": "gone" });
    served.table.fail_after(0, Break::Answer(400, words.to_string()));
    let failed = key.get("/v1/whoami").await;
    served.table.mend();
    assert!(failed.status >= 500, "{failed:?}");
    let (id, round_trips) = (failed.headers["x-request-id"].clone(), failed.round_trips());
    let (status, calls) = (failed.status, failed.headers["x-theazo-calls"].parse().unwrap());
    made.push(Made { id, route: "whoami", status, credential: None, round_trips, calls });

    let log = served.end();
    let ids: BTreeSet<_> = made.iter().map(|made| &made.id).collect();
    assert_eq!(ids.len(), made.len());
    for made in &made {
        let of_it: Vec<_> = log.iter().filter(|line| line["span"]["id"] == made.id.as_str()).collect();
        let told: Vec<_> = of_it.iter().filter(|line| line["message"] == "answered").collect();
        assert_eq!(told.len(), 1, "{made:?}: {of_it:?}");
        // What went wrong has lines of its own before.
        assert!(of_it.len() == 1 || made.status >= 500, "{made:?}: {of_it:?}");
        let (line, span) = (told[0], &told[0]["span"]);
        assert_eq!((&span["route"], &line["status"]), (&json!(made.route), &json!(made.status)), "{line}");
        assert_eq!(span["credential"], json!(made.credential), "{line}");
        let known = made.credential.as_ref().map(|_| platform.id.as_str());
        assert_eq!(span["platform"], json!(known), "{line}");
        assert!(line["ms"].is_u64(), "{line}");
        assert_eq!((&line["round_trips"], &line["calls"]), (&json!(made.round_trips), &json!(made.calls)), "{line}");
    }
    // There is no line of a request that nobody made.
    let answered: Vec<_> = log.iter().filter(|line| line["message"] == "answered").collect();
    assert_eq!(answered.len(), made.len());
    let ms = answered.iter().find(|line| line["span"]["id"] == held_id.as_str()).unwrap()["ms"].as_u64().unwrap();
    assert!((HELD.as_millis()..=took.as_millis()).contains(&u128::from(ms)), "{ms} of {took:?}");
    let figures: Vec<_> = log.iter().filter(|line| line.get("_aws").is_some() && line["Route"].is_string()).collect();
    assert_eq!(figures.len(), made.len());
    assert!(figures.iter().any(|line| line["Route"] == "whoami" && line["Latency"] == ms), "{ms}: {figures:?}");
    key.with_base(&stack().base_url()).terminate(&session).await;
}

#[tokio::test]
async fn a_requests_trace_and_id_are_the_same_in_its_answer_its_line_and_all_that_was_written_for_it() {
    if Served::has_served().await {
        return;
    }
    let name = "a_requests_trace_and_id_are_the_same_in_its_answer_its_line_and_all_that_was_written_for_it";
    // Entries are kept for as long as the functions are told.
    let served = Served::start(name, &[("THEAZO_LOG_RETENTION_DAYS", "3")]).await;
    let platform = Platform::make("traces").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let parent = format!("traceparent: 00-{TRACE}-00f067aa0ba902b7-01");
    let amazon = format!("x-amzn-trace-id: Root={ROOT};Parent=53995c3f42cd8ad8;Sampled=1");
    let mut made = Vec::new();
    let mut sessions = Vec::new();
    for (header, trace) in [(parent.as_str(), Some(TRACE)), (&amazon, Some(ROOT)), ("x-other: 1", None)] {
        let mut ask = async |path: &str, body: Value, status: u16| {
            let body = body.to_string();
            let key = (!path.starts_with("/a/")).then_some(platform.test_key.as_str());
            let answer = send_raw(&served.base, "POST", path, key, &[header], body.as_bytes()).await;
            let id = answer.headers["x-request-id"].clone();
            made.push((id.clone(), trace));
            (answer.expect(status), id)
        };
        let (session, _) = ask("/v1/sessions", json!({}), 201).await;
        let session = session["id"].as_str().unwrap().to_owned();
        let (_, set) = ask(&format!("/v1/sessions/{session}/secrets"), json!({ "NAME": "value" }), 204).await;
        let (agent, booted) = ask(&format!("/v1/sessions/{session}/agents"), json!({}), 201).await;
        let agent = agent["id"].as_str().unwrap().to_owned();
        let exec = json!({ "language": "bash", "code": "true" });
        ask(&format!("/v1/agents/{agent}/exec"), exec, 200).await;
        let agent_key = agent_token(&platform.id, &session, &agent).await;
        let line = json!({ "agentId": agent, "sessionId": session, "message": "hello" });
        ask(&format!("/a/{agent_key}/v1/sandbox/log"), line, 204).await;
        let (_, ended) = ask(&format!("/v1/agents/{agent}/terminate"), json!({}), 200).await;

        // The session's beginning, the agent's, its boot, what it ran and what it said, and its end.
        let written = entries(&client, &format!("sessionId={session}"), 6).await;
        for entry in &written {
            assert_eq!(entry["traceId"], json!(trace), "{entry}");
        }
        let audit = client.get(&format!("/v1/audit?session={session}&limit=100")).await.expect(200);
        let audit = audit["data"].as_array().unwrap();
        let requests: BTreeSet<_> = audit.iter().map(|entry| entry["requestId"].as_str().unwrap()).collect();
        for id in [&set, &booted] {
            assert!(requests.contains(id.as_str()), "{id}: {audit:?}");
        }
        assert!(requests.iter().all(|id| made.iter().any(|(made, _)| made == id)), "{audit:?}");
        assert!(!ended.is_empty());
        sessions.push((session, written.len()));
    }
    let log = served.end();
    for (id, trace) in &made {
        let lines: Vec<_> = log.iter().filter(|line| line["span"]["id"] == id.as_str()).collect();
        assert!(!lines.is_empty(), "{id}");
        assert!(lines.iter().all(|line| line["span"]["trace"] == json!(trace)), "{lines:?}");
    }
    for (session, count) in sessions {
        let rows = rows_of_log(&session).await;
        // Each is there twice: for the platform, and for the session.
        assert_eq!(rows.len(), 2 * count, "{rows:?}");
        for row in rows {
            let number = |name: &str| row[name]["N"].as_str().unwrap().parse::<i64>().unwrap();
            let kept_ms = number("ttl") * 1000 - number("at_ms");
            // A ttl is whole seconds, and none too early.
            assert!((0..=1000).contains(&(kept_ms - 3 * 24 * 3_600_000)), "{row}");
        }
        client.terminate(&session).await;
    }
}

/// The rows of a session's log entries, wherever they lie.
async fn rows_of_log(session: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    let mut request = json!({
        "TableName": "theazo",
        "FilterExpression": "contains(pk, :logs) AND #session = :session",
        "ExpressionAttributeNames": { "#session": "session" },
        "ExpressionAttributeValues": { ":logs": { "S": "logs#" }, ":session": { "S": session } },
    });
    loop {
        let page = dynamodb(&stack().dynamodb_url(), "Scan", request.clone()).await;
        rows.extend(page["Items"].as_array().unwrap().iter().cloned());
        match &page["LastEvaluatedKey"] {
            Value::Null => return rows,
            next => request["ExclusiveStartKey"] = next.clone(),
        }
    }
}
