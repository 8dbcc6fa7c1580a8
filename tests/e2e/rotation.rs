//! Keys are rotated by the operator's own command while callers go on: no call fails, no write is lost, and in the end
//! nothing is left under an old key.

use crate::harness::{Client, OwnStack, built, docker_engine, dynamodb, make_canary, sha256};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// How long the stack keeps keys in memory. A rotation waits that long twice; a quarter of it is what a request may
/// take from reading its key to writing, so less would make a busy machine fail.
const KEY_CACHE: Duration = Duration::from_secs(4);
/// Calls of each kind that must have been made while the keys were rotated, or the test shows nothing.
const LEAST_CALLS: usize = 20;

/// What a caller set last, by name.
type Expected = BTreeMap<String, String>;

/// Callers that go on until they are told to stop. One that sees a call fail panics.
struct Load {
    stop: Arc<AtomicBool>,
    changing: Vec<(String, JoinHandle<(Expected, usize)>)>,
    booting: JoinHandle<usize>,
}

impl Load {
    /// Those who set, delete and list at each of the paths, and one who boots simulated agents.
    fn start(live: &Client, paths: &[(&str, String)], test: &Client, session: &str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let changing = paths.iter().map(|(prefix, path)| {
            let task = change(live.clone(), (*prefix).to_owned(), path.clone(), stop.clone());
            (path.clone(), tokio::spawn(task))
        });
        let changing = changing.collect();
        let booting = tokio::spawn(boot(test.clone(), session.to_owned(), stop.clone()));
        Self { stop, changing, booting }
    }

    /// Stops them; what must be set now, by path. Fails if any of them has.
    async fn stop(self) -> BTreeMap<String, Expected> {
        self.stop.store(true, Ordering::Relaxed);
        let mut expected = BTreeMap::new();
        for (path, task) in self.changing {
            let (set, calls) = task.await.expect("no call failed");
            assert!(calls >= LEAST_CALLS, "only {calls} calls to {path}");
            expected.insert(path, set);
        }
        let calls = self.booting.await.expect("no call failed");
        assert!(calls >= LEAST_CALLS, "only {calls} calls of agents");
        expected
    }
}

/// Sets, replaces and deletes names, and finds in every listing exactly what is there.
async fn change(client: Client, prefix: String, path: String, stop: Arc<AtomicBool>) -> (Expected, usize) {
    let (mut expected, mut calls) = (Expected::new(), 0);
    for round in 0_u32.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let name = format!("{prefix}_{}", round % 7);
        if round % 5 == 4 && expected.remove(&name).is_some() {
            client.delete(&format!("{path}/{name}")).await.expect(204);
        } else {
            let value = make_canary("rotation");
            client.post(&path, json!({ &name: value })).await.expect(204);
            expected.insert(name, value);
        }
        let listed = client.get(&path).await.expect(200);
        assert_eq!(listed, json!(expected.keys().collect::<Vec<_>>()));
        calls += 2;
    }
    (expected, calls)
}

/// Boots agents, has each print a secret, and ends two in three of them.
async fn boot(client: Client, session: String, stop: Arc<AtomicBool>) -> usize {
    let mut calls = 0;
    for round in 0_usize.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let agent = client.boot(&session, json!({})).await;
        assert_eq!(client.run(&agent, "bash", "# theazo:env BOOTED").await, "[secret:BOOTED]\n");
        if round % 3 > 0 {
            client.post(&format!("/v1/agents/{agent}/terminate"), json!({})).await.expect(200);
        }
        calls += 2;
    }
    calls
}

/// Runs the operator's command on that stack to its end.
async fn admin(own: &OwnStack, args: &[&str]) -> Result<Value, String> {
    let mut command = Command::new(built().join("theazo-admin"));
    command.env_clear().args(["--json", "--endpoint", &own.stack.dynamodb_url()]).args(args);
    command.arg("--data-dir").arg(own.folder());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() { Ok(serde_json::from_slice(&output.stdout).unwrap()) } else { Err(told) }
}

/// Root version and platform key version in the header of every sealed value that the table holds.
async fn headers(own: &OwnStack) -> Vec<(u32, u32)> {
    let url = own.stack.dynamodb_url();
    let mut request = json!({ "TableName": "theazo", "ConsistentRead": true });
    let mut headers = Vec::new();
    loop {
        let page = dynamodb(&url, "Scan", request.clone()).await;
        for blob in page["Items"].as_array().unwrap().iter().filter_map(|item| item["blob"]["B"].as_str()) {
            let record = STANDARD.decode(blob).unwrap();
            let number = |at: usize| u32::from_be_bytes(record[at..at + 4].try_into().unwrap());
            headers.push((number(2), number(6)));
        }
        match &page["LastEvaluatedKey"] {
            Value::Null => return headers,
            next => request["ExclusiveStartKey"] = next.clone(),
        }
    }
}

/// A version can be retired when nobody can still be writing with it, two cache lives after it was replaced.
async fn retire_in_time(own: &OwnStack, version: &str) {
    let mut refusal = String::new();
    for _ in 0..20 {
        match admin(own, &["root-key", "retire", version, "--backup-days", "0", "--yes"]).await {
            Ok(_) => return,
            Err(told) => refusal = told,
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    panic!("version {version} is not retired: {refusal}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn rotating_root_and_platform_keys_under_load_fails_no_call_and_loses_no_write() {
    let engine = tokio::task::spawn_blocking(|| (docker_engine().clone(), built()).0).await.unwrap();
    let (own, live) = OwnStack::start_with(Some(engine), |config| config.key_cache = Some(KEY_CACHE)).await;
    let test = own.client("test-api-key");
    let platform = live.get("/v1/whoami").await.expect(200)["platformId"].as_str().unwrap().to_owned();

    let session = live.session("before").await;
    let kept = make_canary("kept");
    live.set_secrets(&session, json!({ "KEPT": kept })).await;
    let before = live.boot(&session, json!({})).await;
    let shows = || live.run(&before, "bash", "echo \"$KEPT\"; printf %s \"$KEPT\" | sha256sum | head -c 64");
    let shown = format!("[secret:KEPT]\n{}", sha256(&kept));
    assert_eq!(shows().await, shown);
    let simulated = test.session("u").await;
    test.set_secrets(&simulated, json!({ "BOOTED": make_canary("booted") })).await;
    assert!(headers(&own).await.iter().all(|header| *header == (1, 1)));

    let changed = live.session("changed").await;
    let own_path = format!("/v1/sessions/{changed}/secrets");
    let paths = [("OWN", own_path.clone()), ("SHARED", "/v1/secrets".to_owned())];
    let load = Load::start(&live, &paths, &test, &simulated);
    let rotated = admin(&own, &["root-key", "rotate"]).await.unwrap();
    assert_eq!((&rotated["rotation"]["phase"], &rotated["unopened"]), (&json!("idle"), &json!(0)), "{rotated}");
    assert_eq!(shows().await, shown);
    let rotated = admin(&own, &["platform", "rotate-key", &platform]).await.unwrap();
    assert_eq!(rotated["keyVersion"], 2, "{rotated}");
    let expected = load.stop().await;

    let headers = headers(&own).await;
    assert!(headers.len() > 5 && headers.iter().all(|header| *header == (2, 2)), "{headers:?}");
    retire_in_time(&own, "1").await;
    assert_eq!(shows().await, shown);

    // Every last write is what an agent gets, and nothing that was deleted.
    let after = live.boot(&changed, json!({})).await;
    let environment = live.environment(&after).await;
    for set in expected.values() {
        assert!(set.len() > 1, "{} names", set.len());
        for (name, value) in set {
            assert_eq!(environment[name].1, sha256(value), "{name}");
        }
    }
    let booted = environment.keys().filter(|name| name.starts_with("OWN_") || name.starts_with("SHARED_")).count();
    assert_eq!(booted, expected.values().map(BTreeMap::len).sum::<usize>());
    live.terminate(&changed).await;
    live.terminate(&session).await;
    own.stop().await;
}
