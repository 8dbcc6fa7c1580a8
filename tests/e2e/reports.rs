//! What agents report of themselves, from inside their sandboxes with the plain client, and what a stolen token or hostile
//! code can do with it.

use crate::harness::{
    Answer, Break, CapturedLog, Client, Platform, Tap, has_firewall, incoming, incoming_bytes, own_deployment,
    scan_everything, stack,
};
use futures_util::future::join_all;
use serde_json::{Value, json};
use std::time::Duration;
use theazo_functions::deployment::{Capability, Deployment};
use theazo_functions::routes::{ROUTES, Route};
use theazo_functions::serve;
use theazo_http::{Caller, LogFormat};
use theazo_store::{AgentReports, Aws, AwsEndpoints, ReportedModels, Reports};
use theazo_tenancy::{AgentId, Mode, Operator, PlatformId, SessionId, make_agent_token};
use tracing::instrument::WithSubscriber;

/// As the published client inside a sandbox does it: JSON, no credential.
const CLIENT: &str = r#"
import datetime, json, os, urllib.error, urllib.request
def post(kind, body):
    body = {
        "agentId": os.environ["THEAZO_AGENT_ID"],
        "sessionId": os.environ["THEAZO_SESSION_ID"],
        "timestamp": datetime.datetime.now(datetime.timezone.utc).isoformat(),
        **body,
    }
    url = os.environ["THEAZO_ENDPOINT"] + "/v1/sandbox/" + kind
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        return urllib.request.urlopen(request, timeout=10).status
    except urllib.error.HTTPError as error:
        return error.code
"#;

const VALUE: &str = "value of a secret 7c1e5";
/// A value that is much longer when it is masked, and a twentieth of its name.
const SHORT: &str = "q7x9zk";
const LONG: &str = "LETTER";

/// A platform with a session that has a secret, and an agent.
struct Bed {
    platform: Platform,
    session: String,
    agent: String,
}

impl Bed {
    async fn make(name: &str, agent: Value) -> Self {
        let platform = Platform::make(name).await;
        let session = platform.client.session("user").await;
        platform.client.set_secrets(&session, json!({ "TOKEN": VALUE, (LONG.repeat(20)): SHORT })).await;
        let agent = platform.client.boot(&session, agent).await;
        Self { platform, session, agent }
    }

    fn client(&self) -> &Client {
        &self.platform.client
    }

    async fn run(&self, code: &str) -> String {
        self.client().run(&self.agent, "python", &format!("{CLIENT}{code}")).await
    }

    /// The agent's token.
    async fn steal(&self) -> String {
        self.client().steal_token(&self.agent).await
    }

    /// Reports with a token through the stack's ordinary address, at the rate that it may report with.
    async fn report(&self, token: &str, kind: &str, body: Value) -> Answer {
        in_time(async || self.report_at_once(token, kind, body.clone()).await).await
    }

    /// The same, however often.
    async fn report_at_once(&self, token: &str, kind: &str, body: Value) -> Answer {
        let nobody = self.client().with_key(None);
        nobody.post(&format!("/a/{token}/v1/sandbox/{kind}"), body).await
    }

    /// A report's body with the agent's own ids.
    fn own(&self, mut body: Value) -> Value {
        body["agentId"] = json!(self.agent);
        body["sessionId"] = json!(self.session);
        body
    }

    /// What is recorded of the agent's reports.
    #[expect(clippy::disallowed_methods, reason = "no endpoint shows all of it")]
    async fn recorded(&self) -> Reports {
        let scope = Operator::assume().tenant(&self.platform.id, Mode::Live);
        let agent = AgentId::parse(&self.agent).unwrap();
        AgentReports::of(&own_deployment()).of_agent(&scope, &agent).await.unwrap()
    }

    /// All of the table, to be searched.
    async fn dump(&self) -> String {
        String::from_utf8_lossy(&scan_everything(&stack().dynamodb_url()).await.decoded).into_owned()
    }
}

#[tokio::test]
async fn an_agent_reports_with_the_plain_client_also_without_internet_and_its_secrets_are_masked() {
    for network in [json!({}), json!({ "network": { "internet": false } })] {
        let bed = Bed::make("reports", network).await;
        let code = "
token, endpoint = os.environ['TOKEN'], os.environ['THEAZO_ENDPOINT']
print(
    post('log', {'level': 'warn', 'message': 'logged ' + token + ' at ' + endpoint, 'metadata': {'a': [token], token: 1}, 'other': 1}),
    post('model', {'model': 'm', 'inputTokens': 7, 'outputTokens': 5, 'cost': 0.25}),
    post('model', {'model': 'm', 'inputTokens': 1, 'outputTokens': 1}),
    post('span', {'name': 'work', 'startTime': 1, 'endTime': 2.5, 'durationMs': 1.5, 'status': 'ok', 'attributes': {'k': token}}),
    post('progress', {'percentage': 41.7, 'message': 'half of ' + token}),
    post('complete', {'output': {'text': token, 'n': [1, None, True]}, 'artifacts': [endpoint]}),
)";
        assert_eq!(bed.run(code).await.trim(), "204 204 204 204 204 204");
        let reports = bed.recorded().await;
        let claimed = ReportedModels { calls: 2, input_tokens: 8, output_tokens: 6, cost: 25_000_000 };
        assert_eq!(reports.models, Some(claimed));
        let usage = bed.client().get("/v1/usage/users/user").await.expect(200);
        let cost = json!({ "amount": 25, "currency": "usd" });
        assert_eq!(usage["models"], json!({ "calls": 2, "tokens": { "input": 8, "output": 6 }, "cost": cost }));
        assert_eq!(usage["total"], usage["compute"]["cost"], "a claim costs nobody anything");
        let days = bed.client().get("/v1/usage/daily?period=last_7_days").await.expect(200);
        assert_eq!(days[6]["modelCalls"], 2);
        let progress = reports.progress.unwrap();
        assert_eq!((progress.percentage, progress.message.as_deref()), (41, Some("half of [secret:TOKEN]")));
        let result = reports.result.unwrap();
        assert_eq!(result.output.unwrap(), r#"{"n":[1,null,true],"text":"[secret:TOKEN]"}"#);
        assert_eq!(result.artifacts.unwrap(), r#"["[secret:THEAZO_ENDPOINT]"]"#);
        let dump = bed.dump().await;
        assert!(dump.contains("logged [secret:TOKEN] at [secret:THEAZO_ENDPOINT]"), "the log entry is kept, masked");
        assert!(!dump.contains(VALUE), "a value is in the table");
        // Nothing of it has changed the agent.
        assert_eq!(bed.client().get(&format!("/v1/agents/{}", bed.agent)).await.expect(200)["status"], "ready");
        bed.client().terminate(&bed.session).await;
        assert_eq!(bed.recorded().await.models.unwrap().calls, 2, "reports are kept with the agent");
    }
}

#[tokio::test]
async fn the_endpoint_is_masked_in_what_an_agent_prints() {
    let bed = Bed::make("masked endpoint", json!({})).await;
    let printed =
        bed.run("e = os.environ['THEAZO_ENDPOINT']; print(e); print(e.split('/a/')[1]); print(e.encode().hex())").await;
    assert_eq!(printed, "[secret:THEAZO_ENDPOINT]\n[secret:THEAZO_TOKEN]\n[secret:THEAZO_ENDPOINT]\n");
    let environment = bed.client().environment(&bed.agent).await;
    let own: Vec<&str> = environment.keys().map(String::as_str).filter(|name| name.starts_with("THEAZO_")).collect();
    assert_eq!(own, ["THEAZO_AGENT_ID", "THEAZO_ENDPOINT", "THEAZO_SESSION_ID"]);
    bed.client().terminate(&bed.session).await;
}

/// Prints which of this machine's ports and paths answer an agent.
fn knock(bed: &Bed, service: u16) -> String {
    let stack = stack();
    let port = |url: &str| url.rsplit(':').next().unwrap().to_owned();
    let mut ports = [stack.base_url(), stack.dynamodb_url(), stack.kms_url()].map(|url| port(&url)).to_vec();
    ports.push(service.to_string());
    format!(
        "
import socket
host = endpoint_host = os.environ['THEAZO_ENDPOINT'].split('/')[2]
name, port = host.split(':')
for closed in {ports:?} + ['22', '2375', '2376', '80', '443']:
    try:
        socket.create_connection((name, int(closed)), timeout=1).close()
        print('reached', closed)
    except OSError:
        pass
for path in ['/health', '/v1/whoami', '/v1/sessions', '/v1/agents/{agent}', '/', '/a/x']:
    request = urllib.request.Request('http://' + host + path, headers={{'authorization': 'Bearer {key}'}})
    try:
        print(path, urllib.request.urlopen(request, timeout=5).status)
    except urllib.error.HTTPError as error:
        if error.code != 404: print(path, error.code)
",
        agent = bed.agent,
        key = bed.platform.live_key,
    )
}

#[tokio::test]
async fn an_agent_finds_nothing_on_its_host_but_what_it_reports_to() {
    if !tokio::task::spawn_blocking(has_firewall).await.unwrap() {
        return;
    }
    let service = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    for network in [json!({}), json!({ "network": { "internet": false } })] {
        let bed = Bed::make("knocking", network).await;
        let code = knock(&bed, service.local_addr().unwrap().port());
        assert_eq!(bed.run(&code).await, "");
        bed.client().terminate(&bed.session).await;
    }
}

/// A call of a route by somebody who has only an agent's token, in the header.
async fn call_as_agent(bed: &Bed, token: &str, route: &Route) -> Answer {
    let pattern = route.info.pattern.0;
    let id = if pattern.starts_with("/v1/agents/") { &bed.agent } else { &bed.session };
    let path = pattern.replace("{id}", id).replace("{name}", "TOKEN").replace("{path*}", "data/x");
    let path = path.replace("{userId}", "user").replace("{provider}", "e2b");
    let body = (route.info.method != "GET").then(|| json!({ "language": "bash", "code": "echo x", "path": "/data/x" }));
    bed.client().with_key(Some(token)).call(route.info.method, &path, body.as_ref()).await
}

#[tokio::test]
async fn an_agent_that_reports_without_end_is_held_to_its_own_rate_and_nobody_else_is() {
    let bed = Bed::make("floods", json!({})).await;
    let token = bed.steal().await;
    // More in a moment than an agent may in a second, until a moment lies within one.
    let mut refused = Vec::new();
    for _ in 0..20 {
        let flood =
            join_all((0..30).map(|_| bed.report_at_once(&token, "log", bed.own(json!({ "message": "again" }))))).await;
        refused.extend(flood.into_iter().filter(|answer| answer.status == 429));
        if !refused.is_empty() {
            break;
        }
    }
    assert!(!refused.is_empty(), "it may report without end");
    for answer in refused {
        assert_eq!(answer.headers["retry-after"], "1");
        answer.expect_error(429, "rate_limited");
    }
    bed.client().get("/v1/whoami").await.expect(200);
    bed.client().terminate(&bed.session).await;
}

/// A call that is made again when it comes too soon after others with the same token.
async fn in_time(call: impl AsyncFn() -> Answer) -> Answer {
    for _ in 0..10 {
        let answer = call().await;
        if answer.status != 429 {
            return answer;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("it is always too soon");
}

#[tokio::test]
async fn a_stolen_agent_token_reports_for_that_agent_until_it_stops_and_does_nothing_else() {
    let bed = Bed::make("stolen agent token", json!({})).await;
    let other = bed.client().boot(&bed.session, json!({})).await;
    let token = bed.steal().await;
    bed.report(&token, "progress", bed.own(json!({ "percentage": 1 }))).await.expect(204);
    let mut refused = 0;
    for route in ROUTES.iter().filter(|route| !route.info.has_credential_in_path()) {
        let answer = in_time(async || call_as_agent(&bed, &token, route).await).await;
        if route.info.callers.contains(&Caller::Anyone) {
            assert_eq!(answer.status, 200, "{}", route.info.name);
        } else {
            assert_eq!(answer.status, 403, "{}: {answer:?}", route.info.name);
            refused += 1;
        }
    }
    assert!(refused > 30, "{refused}");
    // For others it reports nothing, whoever they are, and does not tell whether they are there.
    let mut answers = Vec::new();
    for id in [json!(other), json!(AgentId::make()), json!("agt_x"), json!(7), json!([]), Value::Null] {
        let mut body = bed.own(json!({ "percentage": 2 }));
        body["agentId"] = id;
        answers.push(bed.report(&token, "progress", body).await);
    }
    let mut body = bed.own(json!({ "percentage": 2 }));
    body.as_object_mut().unwrap().remove("agentId");
    answers.push(bed.report(&token, "progress", body).await);
    for answer in &answers {
        assert_eq!((answer.status, answer.without_request_id()), (400, answers[0].without_request_id()));
        assert_eq!(answer.json()["error"]["details"]["field"], "agentId");
    }
    for id in [json!(SessionId::make()), json!(bed.agent), Value::Null] {
        let mut body = bed.own(json!({ "percentage": 2 }));
        body["sessionId"] = id;
        let error = bed.report(&token, "progress", body).await.expect_error(400, "invalid_request");
        assert_eq!(error["details"]["field"], "sessionId");
    }
    assert_eq!(bed.recorded().await.progress.unwrap().percentage, 1);
    // Other credentials open nothing there.
    let session_token = bed.client().post(&format!("/v1/sessions/{}/tokens", bed.session), json!({})).await.expect(201);
    let report = |token: String| bed.report_owned(token);
    for other in [bed.platform.live_key.clone(), session_token["token"].as_str().unwrap().to_owned()] {
        report(other).await.expect_error(403, "forbidden");
    }
    let (agent, session) = (AgentId::parse(&bed.agent).unwrap(), SessionId::parse(&bed.session).unwrap());
    let mut wrong = token.clone();
    wrong.replace_range(12..13, if wrong.as_bytes()[12] == b'a' { "b" } else { "a" });
    let made_up = make_agent_token(&bed.platform.id, Mode::Live, &session, &agent).text.to_string();
    let elsewhere = make_agent_token(&PlatformId::make(), Mode::Live, &session, &agent).text.to_string();
    for bad in ["x".to_owned(), wrong, made_up, elsewhere, token.to_uppercase()] {
        report(bad).await.expect_error(401, "unauthorized");
    }
    // Revoking what the session's users hold leaves what its agents report with.
    bed.client().delete(&format!("/v1/sessions/{}/tokens", bed.session)).await.expect(204);
    report(token.clone()).await.expect(204);
    bed.client().post(&format!("/v1/agents/{}/terminate", bed.agent), json!({})).await.expect(200);
    report(token.clone()).await.expect_error(401, "unauthorized");
    assert!(!bed.dump().await.contains(&token), "the token is nowhere in the table");
    bed.client().terminate(&bed.session).await;
}

impl Bed {
    async fn report_owned(&self, token: String) -> Answer {
        self.report(&token, "progress", self.own(json!({ "percentage": 3 }))).await
    }
}

#[tokio::test]
async fn a_report_that_fails_leaves_no_entry_and_its_repeat_leaves_one() {
    let bed = Bed::make("failed reports", json!({})).await;
    let token = bed.steal().await;
    let table = Tap::tcp(stack().dynamodb_url().trim_start_matches("http://").parse().unwrap()).await;
    let aws = Aws::local(&AwsEndpoints { dynamodb: table.url(), kms: Some(stack().kms_url()) });
    let deployment = Deployment::new(&aws, stack().deployment().config().clone());
    for (kind, body, says) in [
        ("progress", json!({ "percentage": 7 }), "progress:"),
        ("complete", json!({ "output": 1 }), "result"),
        ("model", json!({ "model": "m", "inputTokens": 1, "outputTokens": 1 }), "called"),
    ] {
        let report = async || {
            let asked = incoming("POST", &format!("/a/{token}/v1/sandbox/{kind}"), None, &bed.own(body.clone()));
            let status = serve(&deployment, ROUTES, asked).await.0.status().as_u16();
            deployment.log_queue().flushed().await;
            let logs = bed.client().get(&format!("/v1/logs?agentId={}&search={says}", bed.agent)).await.expect(200);
            (status, logs["data"].as_array().unwrap().len())
        };
        let refused = json!({ "__type": "com.amazonaws.dynamodb.v20120810#ValidationException", "message": "no" });
        // The partition that reports change, and nothing else.
        table.fail_some("#reports\"", 0, usize::MAX, Break::Answer(400, refused.to_string()));
        assert_eq!(report().await, (500, 0), "{kind}");
        assert!(table.requests() > 0, "{kind} was refused before");
        table.mend();
        assert_eq!(report().await, (204, 1), "{kind}");
    }
    bed.client().terminate(&bed.session).await;
}

#[tokio::test]
async fn hostile_reports_are_refused_by_name_and_change_nothing() {
    let bed = Bed::make("hostile reports", json!({})).await;
    let token = bed.steal().await;
    let model = |change: Value| {
        let mut body = bed.own(json!({ "model": "m", "inputTokens": 1, "outputTokens": 1 }));
        body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        body
    };
    let own = |body| bed.own(body);
    for (kind, body, field) in [
        ("model", model(json!({ "inputTokens": -1 })), "inputTokens"),
        ("model", model(json!({ "outputTokens": 1e12 })), "outputTokens"),
        ("model", model(json!({ "inputTokens": 100_000_001 })), "inputTokens"),
        ("model", model(json!({ "inputTokens": null })), "inputTokens"),
        ("model", model(json!({ "inputTokens": "5" })), "inputTokens"),
        ("model", model(json!({ "cost": -0.01 })), "cost"),
        ("model", model(json!({ "cost": 1e300 })), "cost"),
        ("model", model(json!({ "cost": "free" })), "cost"),
        ("model", model(json!({ "cost": { "amount": -5, "currency": "usd" } })), "cost.amount"),
        ("model", model(json!({ "cost": { "amount": 5, "currency": "eur" } })), "cost.currency"),
        ("model", model(json!({ "model": 5 })), "model"),
        ("model", model(json!({ "model": "x".repeat(257) })), "model"),
        ("log", own(json!({ "level": "fatal", "message": "x" })), "level"),
        ("log", own(json!({ "level": "info" })), "message"),
        ("log", own(json!({ "level": "info", "message": ["x"] })), "message"),
        ("log", own(json!({ "level": "info", "message": "x", "metadata": [] })), "metadata"),
        ("log", own(json!({ "level": "info", "message": "x", "timestamp": {} })), "timestamp"),
        ("log", own(json!({ "level": "info", "message": "x".repeat(65 * 1024) })), "body"),
        ("span", own(json!({ "name": 1 })), "name"),
        ("span", own(json!({ "name": "s", "durationMs": -1 })), "durationMs"),
        ("span", own(json!({ "name": "s", "error": 1 })), "error"),
        ("span", own(json!({ "name": "s", "attributes": "x" })), "attributes"),
        ("progress", own(json!({ "percentage": 101 })), "percentage"),
        ("progress", own(json!({ "percentage": -1 })), "percentage"),
        ("progress", own(json!({ "message": "x" })), "percentage"),
        ("progress", json!([1]), "body"),
    ] {
        let error = bed.report(&token, kind, body.clone()).await.expect_error(400, "invalid_request");
        assert_eq!(error["details"]["field"], field, "{kind} {body}");
    }
    assert_eq!(bed.recorded().await, Reports::default());
    // The most that can be claimed, and an early end: neither costs nor stops anything.
    let most = model(json!({ "inputTokens": 100_000_000, "outputTokens": 100_000_000, "cost": 10_000 }));
    bed.report(&token, "model", most).await.expect(204);
    bed.report(&token, "complete", own(json!({ "output": "done" }))).await.expect(204);
    // A short secret many times over makes a text that no row can hold when it is masked.
    let long = SHORT.repeat(9000);
    bed.report(&token, "complete", own(json!({ "output": long }))).await.expect(204);
    assert!(bed.recorded().await.result.unwrap().output.unwrap().contains("too large"));
    let status = bed.client().get(&format!("/v1/agents/{}/status", bed.agent)).await.expect(200);
    assert_eq!((&status["status"], &status["cost"]["amount"]), (&json!("ready"), &json!(0)));
    assert_eq!(bed.client().run(&bed.agent, "bash", "echo still here").await, "still here\n");
    bed.client().terminate(&bed.session).await;
}

#[tokio::test]
async fn an_agents_token_in_a_path_is_in_no_log_at_the_finest_level_and_in_no_answer() {
    let bed = Bed::make("logged token", json!({})).await;
    let token = bed.steal().await;
    let log = CapturedLog::default();
    let good = bed.own(json!({ "level": "info", "message": "x", "percentage": 1 })).to_string();
    let unknown = token.replace("th_agent_", "th_agent_x");
    let mut statuses = Vec::new();
    for (path, body) in [
        (format!("/a/{token}/v1/sandbox/log"), good.clone()),
        (format!("/a/{token}/v1/sandbox/log"), "{".to_owned()),
        (format!("/a/{token}/v1/sandbox/progress"), "{\"agentId\": 5}".to_owned()),
        (format!("/a/{token}/v1/sandbox/nothing"), good.clone()),
        (format!("/a/{token}/v1/whoami"), good.clone()),
        (format!("/a/{unknown}/v1/sandbox/log"), good),
    ] {
        let incoming = incoming_bytes("POST", &path, body.into());
        let subscriber = log.subscriber(LogFormat::Json, "trace");
        let (response, _) = serve(&own_deployment(), ROUTES, incoming).with_subscriber(subscriber).await;
        statuses.push(response.status().as_u16());
        let answer = String::from_utf8_lossy(&response.into_body().collect().await).into_owned();
        assert!(!answer.contains(&token[12..40]), "{answer}");
    }
    assert_eq!(statuses, [204, 400, 400, 404, 404, 401]);
    let log = log.text();
    assert!(log.contains("sandbox-log") && log.contains("answered"), "the log was captured");
    assert!(!log.contains(&token[12..40]), "the token is in the log");
    bed.client().terminate(&bed.session).await;
}
