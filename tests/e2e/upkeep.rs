//! What the schedule runs: upkeep of rotations, and reconciling.

use crate::harness::{Client, OwnStack, Platform, built, dynamodb, make_canary, own_deployment, stack};
use axum::Router;
use axum::extract::Path;
use axum::http::{HeaderMap, HeaderName, StatusCode};
use axum::routing::{get, post};
use serde_json::{Value, json};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use theazo_functions::schedule::{RECONCILE, SCHEDULED, UPKEEP};
use theazo_store::{PlatformRotation, RootRotation, now_ms};
use theazo_tenancy::{Operator, PlatformId};
use tokio::net::TcpListener;
use tokio::sync::mpsc;

const TABLE: &str = "theazo";

async fn row(pk: &str, sk: &str) -> Value {
    let key = json!({ "pk": { "S": pk }, "sk": { "S": sk } });
    let request = json!({ "TableName": TABLE, "Key": key, "ConsistentRead": true });
    dynamodb(&stack().dynamodb_url(), "GetItem", request).await["Item"].clone()
}

async fn put(item: &Value) {
    dynamodb(&stack().dynamodb_url(), "PutItem", json!({ "TableName": TABLE, "Item": item })).await;
}

/// Runs upkeep until the platform's rotation is over; what the last run told.
async fn keep_up_until_over(platform: &str) -> Value {
    for _ in 0..20 {
        let told = (UPKEEP.run)(&own_deployment()).await.unwrap();
        if row(platform, "platform").await["vault_previous"].is_null() {
            return told;
        }
    }
    panic!("the rotation is not finished");
}

/// Whether a run told of a failure of that.
fn failed(told: &Value, what: &str) -> bool {
    let failures = told["failures"].as_array().unwrap();
    assert!(told["failed"].as_u64().unwrap() >= failures.len() as u64);
    failures.iter().any(|failure| failure.as_str().unwrap().starts_with(what))
}

async fn with_secret(name: &str) -> (Platform, Client, String, String) {
    let platform = Platform::make(name).await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let (session, canary) = (client.session("u").await, make_canary("upkeep"));
    client.set_secrets(&session, json!({ "TOKEN": canary })).await;
    (platform, client, session, canary)
}

/// An agent of that session gets the value.
async fn assert_delivered(client: &Client, session: &str, value: &str) {
    let agent = client.boot(session, json!({})).await;
    let printed = client.run(&agent, "bash", &format!("# theazo:stdout {value}")).await;
    assert_eq!(printed, "[secret:TOKEN]\n");
    client.terminate(session).await;
}

/// A process that ends with its test.
struct Ends(Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a scheduled function as the binary that it is in production. This plays the Lambda service, which hands out one
/// event and takes what came of it (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>): `response` or
/// `error`, and the body.
async fn invoke(name: &'static str, event: &Value, more: &[(&str, &str)]) -> (String, Value) {
    let (stack, folder) = tokio::task::spawn_blocking(|| (stack(), built())).await.unwrap();
    let (send, mut received) = mpsc::unbounded_channel();
    let event = Arc::new(Mutex::new(Some(event.to_string())));
    let next = move || {
        let event = event.lock().unwrap().take();
        async move {
            let Some(event) = event else { return std::future::pending().await };
            let deadline = (theazo_store::now_ms() + 60_000).to_string();
            let headers = [
                ("lambda-runtime-aws-request-id", "8476a536-e9f4-11e8-9739-2dfe598c3fcd"),
                ("lambda-runtime-deadline-ms", &deadline),
                ("lambda-runtime-invoked-function-arn", "arn:aws:lambda:us-east-1:111122223333:function:scheduled"),
                ("content-type", "application/json"),
            ];
            let headers = headers.map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            (HeaderMap::from_iter(headers), event)
        }
    };
    let outcome = move |Path((_, kind)): Path<(String, String)>, body: String| async move {
        send.send((kind, body)).unwrap();
        StatusCode::ACCEPTED
    };
    let router = Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/{kind}", post(outcome));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(axum::serve(listener, router).into_future());
    let environment = stack.data_dir().read("lambda.env").unwrap().expect("the functions' environment");
    let function = Command::new(folder.join(name))
        .env_clear()
        .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
        .env("AWS_LAMBDA_FUNCTION_NAME", name)
        .env("AWS_LAMBDA_FUNCTION_VERSION", "1")
        .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
        .envs(environment.lines().map(|line| line.split_once('=').expect("NAME=value")))
        .envs(more.iter().copied())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let _ends = Ends(function);
    let (kind, body) =
        tokio::time::timeout(Duration::from_secs(120), received.recv()).await.expect("it answers").unwrap();
    serving.abort();
    (kind, serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn the_binaries_of_the_schedule_take_an_event_and_answer_with_what_they_did() {
    // As EventBridge sends it (<https://docs.aws.amazon.com/eventbridge/latest/ref/events-structure.html>).
    let event = json!({
        "version": "0", "id": "53dc4d37-cffa-4f76-80c9-8b7d4a4d2eaa", "detail-type": "Scheduled Event",
        "source": "aws.events", "account": "111122223333", "time": "2030-01-01T00:00:00Z", "region": "us-east-1",
        "resources": ["arn:aws:events:us-east-1:111122223333:rule/upkeep"], "detail": {},
    });
    let (kind, told) = invoke("upkeep", &event, &[]).await;
    assert!(kind == "response" && told["platformPieces"].is_u64() && told["failures"].is_array(), "{kind}: {told}");
    let (kind, told) = invoke("reconcile", &event, &[]).await;
    assert!(kind == "response" && told["postponed"].is_u64(), "{kind}: {told}");
    // A run that fails says that it did, and leaves the reason to its log.
    let (kind, told) = invoke("upkeep", &event, &[("THEAZO_TABLE", "absent")]).await;
    assert_eq!((kind.as_str(), &told["errorMessage"]), ("error", &json!("upkeep failed; its log says why")), "{told}");
}

#[tokio::test]
async fn a_rotation_that_was_abandoned_is_finished_and_what_cannot_go_on_is_in_no_others_way() {
    let (platform, client, session, canary) = with_secret("upkeep").await;
    let (broken, broken_client, broken_session, broken_canary) = with_secret("upkeep: broken").await;
    let deployment = &own_deployment();
    #[expect(clippy::disallowed_methods, reason = "a test takes every part")]
    let rotation = PlatformRotation::new(deployment.table().clone(), deployment.keys().clone(), Operator::assume());
    let (id, broken_id) = (platform.id.to_string(), broken.id.to_string());

    // Two rows that nobody of ours writes: one of a platform, one among the root keys.
    rotation.begin(&broken.id).await.unwrap();
    let good = row(&broken_id, "platform").await;
    let mut bad = good.clone();
    bad["vault_salt"] = json!({ "S": "no salt" });
    put(&bad).await;
    // The stack's own upkeep may have been at it in between; the note says that there is something to do.
    let note = json!({
        "pk": { "S": "root" }, "sk": { "S": format!("platform#{broken_id}") }, "platform": { "S": broken_id },
        "unopened": { "N": "0" }, "places": { "L": [] },
    });
    put(&note).await;
    let forged = json!({ "pk": { "S": "root" }, "sk": { "S": "version#forged" } });
    put(&forged).await;

    rotation.begin(&platform.id).await.unwrap();
    let told = keep_up_until_over(&id).await;
    assert!(failed(&told, "root key: ") && failed(&told, &format!("{broken_id}: ")), "{told}");
    assert!(!failed(&told, &id), "{told}");
    let values = format!("{id}#test#{session}#values");
    let query = json!({
        "TableName": TABLE, "ConsistentRead": true, "KeyConditionExpression": "pk = :pk",
        "ExpressionAttributeValues": { ":pk": { "S": values } },
    });
    let rows = dynamodb(&stack().dynamodb_url(), "Query", query).await;
    assert_eq!(rows["Count"], 1);
    assert_delivered(&client, &session, &canary).await;

    dynamodb(&stack().dynamodb_url(), "DeleteItem", json!({ "TableName": TABLE, "Key": forged })).await;
    put(&good).await;
    let told = keep_up_until_over(&broken_id).await;
    assert!(!failed(&told, "root key: ") && !failed(&told, &broken_id), "{told}");
    assert_delivered(&broken_client, &broken_session, &broken_canary).await;
}

#[tokio::test]
async fn a_run_tells_how_far_rotations_are_and_of_values_that_hold_one_up() {
    // A stack of its own: others' upkeep would take the steps before these runs do.
    let (own, client) = OwnStack::start_with(None, |config| config.key_cache = Some(Duration::ZERO)).await;
    let deployment = own.stack.deployment();
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "KEPT": "a", "DAMAGED": "b" })).await;
    let platform = client.get("/v1/whoami").await.expect(200)["platformId"].as_str().unwrap().to_owned();
    let platform = PlatformId::parse(&platform).unwrap();

    #[expect(clippy::disallowed_methods, reason = "a test takes every part")]
    let operator = || Operator::assume();
    let (table, keys) = (deployment.table().clone(), deployment.keys().clone());
    RootRotation::new(table.clone(), keys.clone(), operator(), keys.cache_ttl()).begin(now_ms()).await.unwrap();
    let mut phases = Vec::new();
    for _ in 0..20 {
        let told = (UPKEEP.run)(deployment).await.unwrap();
        phases.extend(told["rootPhase"].as_str().map(str::to_owned));
        if told["rootFinished"] == true {
            assert_eq!((&told["rootResealed"], &told["rootUnopened"]), (&json!(2), &json!(0)), "{told}");
            break;
        }
    }
    assert_eq!(phases.last().map(String::as_str), Some("finished"), "{phases:?}");

    let key = json!({ "pk": { "S": format!("{platform}#live#{session}#values") }, "sk": { "S": "DAMAGED" } });
    let url = own.stack.dynamodb_url();
    let mut damaged = dynamodb(&url, "GetItem", json!({ "TableName": TABLE, "Key": key })).await["Item"].clone();
    damaged["version"] = json!({ "N": "7" });
    dynamodb(&url, "PutItem", json!({ "TableName": TABLE, "Item": damaged })).await;
    PlatformRotation::new(table, keys, operator()).begin(&platform).await.unwrap();
    let mut resealed = 0;
    for _ in 0..20 {
        let told = (UPKEEP.run)(deployment).await.unwrap();
        resealed += told["platformsResealed"].as_u64().unwrap();
        if told["platformsStuck"] == 1 {
            break;
        }
        assert_eq!(told["platformsFinished"], 0, "{told}");
    }
    assert_eq!(resealed, 1, "the other value is under the new key");
    own.stop().await;
}

#[tokio::test]
async fn a_scheduled_run_tells_in_json_what_it_did() {
    assert_eq!(SCHEDULED.iter().map(|function| function.name).collect::<Vec<_>>(), ["reconcile", "upkeep"]);
    let told = (RECONCILE.run)(&own_deployment()).await.unwrap();
    for field in ["failedBoots", "expired", "lost", "settled", "sessions", "platforms", "orphans", "postponed"] {
        assert!(told[field].is_u64(), "{field}: {told}");
    }
    let told = (UPKEEP.run)(&own_deployment()).await.unwrap();
    for field in ["rootPieces", "rootResealed", "platformPieces", "platformsFinished", "platformsStuck", "failed"] {
        assert!(told[field].is_u64(), "{field}: {told}");
    }
    assert!(told["rootFinished"].is_boolean() && told["failures"].is_array(), "{told}");
}
