//! What each function calls of the table and the key service, recorded on the wire: each call is made as a function makes
//! it that has just started, with one route and no key in memory.
//!
//! The record is `infra/permissions.json`, of which the template's roles are made; it must hold what is recorded here and
//! nothing else. All end-to-end tests whose functions run in this process are held to it: what a function calls that is not
//! in it is refused, as by its role (`harness/roles.rs`). After a change of what a function does,
//! `THEAZO_RECORD_PERMISSIONS=1` has this test write it anew, and the template with it.

mod mishaps;
mod scenario;
pub(crate) mod wire;

use crate::harness::{Break, Client, OwnStack, Tap, check_query, docker_engine, dynamodb, incoming_once};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;
use theazo_deploy::{Permissions, repository};
use theazo_functions::deployment::{Deployment, DeploymentConfig};
use theazo_functions::routes::{ROUTES, Route};
use theazo_functions::schedule::{SCHEDULED, Scheduled};
use theazo_functions::serve;
use theazo_http::{Repeats, StreamLimits};
use theazo_metering::Prices;
use theazo_store::{Aws, AwsEndpoints, RateLimits};

const DATA: &str = "theazo";
/// A cent lasts some 36 milliseconds.
const DEAR: &str = r#"{"simulated": {"standard": 100000000000}, "docker": {"standard": 100000000000}}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_recorded_permissions_are_what_every_function_calls_and_nothing_else() {
    let engine = tokio::task::spawn_blocking(docker_engine).await.unwrap();
    // What schedules do is done here by the functions that are recorded, and by nothing else before them.
    let (own, client) = OwnStack::start_still(Some(engine.clone()), |_| {}).await;
    let mut recorder = Recorder::new(&own, client);
    scenario::of_every_function(&mut recorder).await;
    let Recorder { found: recorded, surprises, .. } = recorder;
    own.stop().await;
    if !surprises.is_empty() {
        let told = std::env::temp_dir().join("theazo-permissions-incomplete.json");
        std::fs::write(&told, recorded.to_text().unwrap()).unwrap();
        panic!("not as the scenario has it (recorded: {}):\n{}", told.display(), surprises.join("\n"));
    }

    let path = repository().join("infra/permissions.json");
    if std::env::var_os("THEAZO_RECORD_PERMISSIONS").is_some() {
        std::fs::write(&path, recorded.to_text().unwrap()).unwrap();
        theazo_deploy::update().unwrap();
    }
    let kept = Permissions::read(&path).unwrap();
    let mut differences = Vec::new();
    for function in names() {
        for (called, what) in [(true, "calls, and is not recorded to"), (false, "is recorded to call, and does not")] {
            let (has, lacks) = if called { (&recorded, &kept) } else { (&kept, &recorded) };
            let lacking = lacks.grants(function);
            differences.extend(
                has.grants(function)
                    .into_iter()
                    .filter(|grant| !lacking.contains(grant))
                    .map(|grant| format!("{function} {what}: {grant}")),
            );
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(kept.functions().eq(recorded.functions()), "functions differ");
}

fn names() -> impl Iterator<Item = &'static str> {
    ROUTES.iter().map(|route| route.info.name).chain(SCHEDULED.iter().map(|function| function.name))
}

/// Makes calls, and keeps what each function asked of the services.
struct Recorder {
    found: Permissions,
    config: DeploymentConfig,
    dynamodb: SocketAddr,
    kms: SocketAddr,
    /// Calls without taps, for what is not of interest.
    client: Client,
    live_key: String,
    test_key: String,
    /// The credential that calls are made with.
    key: String,
    calls: u32,
    /// Which of a call's transactions are refused: after so many, so many, and how.
    refusing: Option<(usize, usize, Break)>,
    /// Answers that the scenario did not expect.
    surprises: Vec<String>,
}

impl Recorder {
    fn new(own: &OwnStack, client: Client) -> Self {
        let address = |url: String| url.trim_start_matches("http://").parse().unwrap();
        let read = |file| std::fs::read_to_string(own.folder().join(file)).unwrap().trim().to_owned();
        // Streams end soon here, after they have looked once more.
        let streams = StreamLimits { lifetime: Duration::from_millis(1500), ..StreamLimits::default() };
        let mut found = Permissions::default();
        names().for_each(|name| found.add_function(name));
        Self {
            found,
            config: DeploymentConfig {
                streams,
                prices: Prices::parse(DEAR).unwrap(),
                orphan_grace: Duration::from_millis(500),
                rate_limits: RateLimits { key: 10_000, token: 10_000, agent: 10_000 },
                ..own.stack.deployment().config().clone()
            },
            dynamodb: address(own.stack.dynamodb_url()),
            kms: address(own.stack.kms_url()),
            client,
            live_key: read("api-key"),
            test_key: read("test-api-key"),
            key: String::new(),
            calls: 0,
            refusing: None,
            surprises: Vec::new(),
        }
    }

    /// Has a deployment do that as this function, and records what it calls.
    async fn record<T>(&mut self, function: &str, work: impl AsyncFnOnce(&Deployment) -> T) -> T {
        let (table, kms) = (Tap::tcp(self.dynamodb).await, Tap::tcp(self.kms).await);
        if let Some((spared, failing, how)) = &self.refusing {
            table.fail_some("TransactWriteItems", *spared, *failing, how.clone());
        }
        let aws = Aws::local(&AwsEndpoints { dynamodb: table.url(), kms: Some(kms.url()) });
        let deployment = Deployment::new(&aws, self.config.clone());
        let outcome = work(&deployment).await;
        deployment.log_queue().flushed().await;
        let wires = table.wires().into_iter().chain(kms.wires());
        for (target, body) in wires.flat_map(|wire| wire::requests(&wire.sent)) {
            for call in wire::calls(&target, &body, Some(&self.config.name)) {
                self.found.add(function, call);
            }
        }
        outcome
    }

    /// Calls a route as its function does; what is to be done once is asked for twice.
    async fn call(&mut self, name: &str, params: &[&str], query: &str, body: Value) -> (u16, Value) {
        let route: &'static Route = ROUTES.iter().find(|route| route.info.name == name).unwrap();
        let mut path = route.info.pattern.0.to_owned();
        for param in params {
            let (before, rest) = path.split_once('{').unwrap();
            path = format!("{before}{param}{}", rest.split_once('}').unwrap().1);
        }
        assert!(!path.contains('{'), "{name} has more parameters: {path}");
        self.calls += 1;
        let once = (route.info.repeats == Repeats::Once).then(|| format!("call-{}", self.calls));
        let mut answer = (0, Value::Null);
        for _ in 0..if once.is_some() { 2 } else { 1 } {
            let whole = format!("{path}?{query}");
            let incoming = incoming_once(route.info.method, &whole, Some(&self.key), once.as_deref(), &body);
            // On the heap: the scenario is one long future, and must not be as large as all of its calls.
            let again = Box::pin(self.record(name, async |deployment| {
                let (response, _) = serve(deployment, &[route], incoming).await;
                let status = response.status().as_u16();
                let body = response.into_body().collect().await;
                check_query(route.info.method, &whole, status, &String::from_utf8_lossy(&body));
                (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
            }));
            let again = again.await;
            if answer.0 == 0 {
                answer = again;
            }
        }
        answer
    }

    /// The same, which must succeed. An engine on a machine under load does not always make it in time.
    async fn ok(&mut self, name: &str, params: &[&str], body: Value) -> Value {
        let (mut status, mut answer) = (0, Value::Null);
        for _ in 0..4 {
            (status, answer) = self.call(name, params, "", body.clone()).await;
            if ![502, 504].contains(&status) {
                break;
            }
        }
        self.expect(status < 300, || format!("{name} {params:?}: {status} {answer}"));
        answer
    }

    /// The same, which must be refused.
    async fn refused(&mut self, name: &str, params: &[&str], body: Value) {
        let (status, answer) = self.call(name, params, "", body).await;
        let is_refused = (400..500).contains(&status) && status != 401;
        self.expect(is_refused, || format!("{name} {params:?} should be refused: {status} {answer}"));
    }

    /// Notes when a function was not seen to make a call that it can make: its role would not allow it.
    fn expect_recorded(&mut self, function: &str, grant: &str) {
        let has = self.found.grants(function).contains(grant);
        self.expect(has, || format!("{function} was not brought to: {grant}"));
    }

    /// Notes what is not so, and goes on: a record takes long, and one run shows all there is to put right.
    fn expect(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.surprises.push(otherwise());
        }
    }

    /// Has a scheduled function run.
    async fn run(&mut self, function: &'static Scheduled) -> Value {
        Box::pin(self.record(function.name, async |deployment| (function.run)(deployment).await.unwrap())).await
    }

    /// Asks the table itself.
    async fn table(&self, operation: &str, request: Value) -> Value {
        dynamodb(&format!("http://{}", self.dynamodb), operation, request).await
    }

    /// Changes a row behind everybody's back.
    async fn edit(&self, pk: &str, sk: &str, expression: &str, values: Value) {
        let names: BTreeMap<_, _> =
            [("#status", "status")].into_iter().filter(|(n, _)| expression.contains(n)).collect();
        let mut request = json!({
            "TableName": DATA,
            "Key": { "pk": { "S": pk }, "sk": { "S": sk } },
            "UpdateExpression": expression,
            "ConditionExpression": "attribute_exists(pk)",
            "ExpressionAttributeValues": values,
        });
        if !names.is_empty() {
            request["ExpressionAttributeNames"] = json!(names);
        }
        self.table("UpdateItem", request).await;
    }
}
