//! Deleting a platform and replaying deletions after a restore, by the command itself, against a local stack without
//! Docker.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking; clippy does not see helpers as tests")]

use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use theazo_local::{Stack, StackConfig};
use theazo_store::RateLimits;

/// A local stack of a test's own.
struct Local {
    stack: Option<Stack>,
    folder: PathBuf,
    http: reqwest::Client,
}

impl Local {
    async fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("admin-deletion-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        let config = StackConfig {
            data_dir: folder.clone(),
            listen: loopback,
            dynamodb_listen: loopback,
            docker: None,
            e2b: Default::default(),
            fly: Default::default(),
            key_cache: None,
            rate_limits: RateLimits::default(),
        };
        Self { stack: Some(Stack::start(config).await.unwrap()), folder, http: reqwest::Client::new() }
    }

    fn stack(&self) -> &Stack {
        self.stack.as_ref().unwrap()
    }

    /// Runs the command against this stack, with nothing of this process's environment.
    async fn admin(&self, args: &[&str]) -> Output {
        self.admin_with(args, &[]).await
    }

    /// The same, with those variables.
    async fn admin_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_theazo-admin"));
        command.args(["--endpoint", &self.stack().dynamodb_url()]).args(args).env_clear();
        command
            .env("THEAZO_CREDENTIAL_KEY", std::fs::read_to_string(self.folder.join("credential-key")).unwrap().trim())
            .envs(environment.iter().copied());
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
    }

    /// The JSON that a command answers; it must succeed.
    async fn json(&self, args: &[&str]) -> Value {
        let output = self.admin(&[args, &["--json"]].concat()).await;
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A call of the API: its status and answer.
    async fn call(&self, key: &Value, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
        let url = format!("{}/v1{path}", self.stack().base_url());
        let request = self.http.request(method.parse().unwrap(), url).bearer_auth(text(key));
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap_or_default())
    }

    /// The same, which must succeed.
    async fn done(&self, key: &Value, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(key, method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// What any DynamoDB tool would do with the tables.
    async fn dynamodb(&self, operation: &str, body: Value) -> Value {
        let credential = "Credential=local/20300101/us-east-1/dynamodb/aws4_request";
        let request = self
            .http
            .post(self.stack().dynamodb_url())
            .header("content-type", "application/x-amz-json-1.0")
            .header("x-amz-target", format!("DynamoDB_20120810.{operation}"))
            .header("x-amz-date", "20300101T000000Z")
            .header("authorization", format!("AWS4-HMAC-SHA256 {credential}, SignedHeaders=host, Signature=0"))
            .body(body.to_string());
        let answer = request.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert!(status.is_success(), "{operation}: {text}");
        serde_json::from_str(&text).unwrap()
    }

    async fn make_table(&self, name: &str) {
        let key = json!([{ "AttributeName": "pk", "KeyType": "HASH" }, { "AttributeName": "sk", "KeyType": "RANGE" }]);
        let attributes =
            json!([{ "AttributeName": "pk", "AttributeType": "S" }, { "AttributeName": "sk", "AttributeType": "S" }]);
        let table = json!({
            "TableName": name, "KeySchema": key, "AttributeDefinitions": attributes, "BillingMode": "PAY_PER_REQUEST",
        });
        self.dynamodb("CreateTable", table).await;
    }

    async fn rows(&self, table: &str) -> Vec<Value> {
        let mut request = json!({ "TableName": table, "ConsistentRead": true });
        let mut rows = Vec::new();
        loop {
            let page = self.dynamodb("Scan", request.clone()).await;
            rows.extend(page["Items"].as_array().unwrap().iter().cloned());
            match &page["LastEvaluatedKey"] {
                Value::Null => return rows,
                next => request["ExclusiveStartKey"] = next.clone(),
            }
        }
    }

    /// A platform with a session and secrets of both.
    async fn platform(&self) -> Platform {
        let made = self.json(&["platform", "create", "acme"]).await;
        let (id, key, test_key) = (made["id"].clone(), made["liveKey"].clone(), made["testKey"].clone());
        self.done(&key, "POST", "/secrets", Some(json!({ "SHARED": "s", "OLD": "o" }))).await;
        let mut sessions = Vec::new();
        for _ in 0..2 {
            let session = self.done(&key, "POST", "/sessions", Some(json!({}))).await["id"].clone();
            let path = format!("/sessions/{}/secrets", text(&session));
            self.done(&key, "POST", &path, Some(json!({ "A": "a", "B": "b" }))).await;
            sessions.push(text(&session).to_owned());
        }
        Platform { id: text(&id).to_owned(), key, test_key, sessions }
    }

    async fn stop(mut self) {
        self.stack.take().unwrap().stop().await;
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

struct Platform {
    id: String,
    key: Value,
    test_key: Value,
    sessions: Vec<String>,
}

fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// How many sealed values lie under partitions that begin so.
fn sealed(rows: &[Value], prefix: &str) -> usize {
    rows.iter().filter(|row| text(&row["pk"]["S"]).starts_with(prefix) && row.get("blob").is_some()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platform_is_deleted_only_when_that_is_said_twice_and_then_at_once() {
    let local = Local::start().await;
    let (gone, other) = (local.platform().await, local.platform().await);
    let before = local.rows("theazo").await;
    let output = local.admin(&["platform", "delete", &gone.id]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--yes") && stderr(&output).contains(&gone.id), "{}", stderr(&output));
    assert_eq!(local.rows("theazo").await.len(), before.len());
    let absent = format!("plt_{}", "0".repeat(26));
    let output = local.admin(&["platform", "delete", &absent, "--yes"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("there is no platform"), "{}", stderr(&output));

    let output = local.admin(&["platform", "delete", &gone.id, "--yes"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stdout(&output).contains("deleting") && stderr(&output).contains("scheduled clean-up"));
    for key in [&gone.key, &gone.test_key] {
        assert_eq!(local.call(key, "GET", "/whoami", None).await.0, 401);
    }
    for key in [&other.key, &other.test_key] {
        assert_eq!(local.call(key, "GET", "/whoami", None).await.0, 200);
    }
    let after = local.rows("theazo").await;
    assert_eq!(sealed(&after, &gone.id), 0);
    assert_eq!(sealed(&after, &other.id), sealed(&before, &other.id));

    // Until it is finished, the list says so; so does repeating the command.
    let listed = local.json(&["platform", "list"]).await;
    let line = |id: &str| listed.as_array().unwrap().iter().find(|platform| platform["id"] == id).unwrap().clone();
    assert!(text(&line(&gone.id)["deletedAt"]).ends_with('Z'));
    assert!(line(&other.id).get("deletedAt").is_none());
    let again = local.json(&["platform", "delete", &gone.id, "--yes"]).await;
    assert_eq!((&again["status"], &again["agents"]), (&json!("deleting"), &json!(0)));
    let output = local.admin(&["platform", "list"]).await;
    let lines: Vec<_> = stdout(&output).lines().filter(|line| line.contains("deleting")).collect();
    assert!(lines.len() == 1 && lines[0].starts_with(&gone.id), "{}", stdout(&output));
    let output = local.admin(&["key", "create", &gone.id, "--environment", "live"]).await;
    assert_eq!(output.status.code(), Some(1));

    // The scheduled clean-up goes on with it, and with its sessions.
    let reconcile = theazo_functions::reconcile::reconcile;
    let outcome = reconcile(local.stack().deployment(), theazo_functions::reconcile::Boots::UnderWay).await.unwrap();
    assert_eq!(outcome.postponed, 0, "{outcome:?}");
    let work = local.rows("theazo").await.into_iter().filter(|row| text(&row["pk"]["S"]).starts_with("work#"));
    let work: Vec<_> = work.map(|row| text(&row["sk"]["S"]).to_owned()).collect();
    assert_eq!(work, [format!("platform#{}", gone.id)]);
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn deletions_are_replayed_on_a_restored_table() {
    let local = Local::start().await;
    let (kept, gone) = (local.platform().await, local.platform().await);
    let (live, over) = (&kept.sessions[0], &kept.sessions[1]);

    let backup = local.rows("theazo").await;
    local.done(&kept.key, "DELETE", "/secrets/OLD", None).await;
    local.done(&kept.key, "DELETE", &format!("/sessions/{live}/secrets/A"), None).await;
    local.done(&kept.key, "POST", &format!("/sessions/{over}/terminate"), None).await;
    local.json(&["platform", "delete", &gone.id, "--yes"]).await;
    local.make_table("restored").await;
    for row in &backup {
        local.dynamodb("PutItem", json!({ "TableName": "restored", "Item": row })).await;
    }

    let replay = ["restore", "replay-deletions", "--table", "restored"];
    let output = local.admin(&replay).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--ledger"), "{}", stderr(&output));
    let replay = [&replay[..], &["--ledger", "theazo-ledger"]].concat();
    let counted = local.json(&[&replay[..], &["--dry-run"]].concat()).await;
    assert_eq!(local.rows("restored").await.len(), backup.len());
    let output = local.admin(&[&replay[..], &["--json"]].concat()).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("Point the functions at the restored table"), "{}", stderr(&output));
    let done: Value = serde_json::from_slice(&output.stdout).unwrap();
    for (report, dry_run) in [(&counted, true), (&done, false)] {
        assert_eq!(report["dryRun"], dry_run);
        assert_eq!(report["secrets"], json!({ "noted": 2, "deleted": 2 }));
        assert_eq!(report["platforms"], json!({ "noted": 1, "deleted": 1 }));
        assert_eq!(report["failures"], json!([]));
    }
    // Three sessions are over: the one that was terminated, and the deleted platform's two.
    assert_eq!(counted["sessions"], json!({ "noted": 3, "deleted": 3 }));

    let rows = local.rows("restored").await;
    assert_eq!(sealed(&rows, &gone.id), 0);
    assert_eq!(sealed(&rows, &format!("{}#live#{over}", kept.id)), 0);
    let mut left: Vec<_> = rows
        .iter()
        .filter(|row| text(&row["pk"]["S"]).starts_with(&kept.id) && row.get("blob").is_some())
        .map(|row| text(&row["sk"]["S"]))
        .collect();
    left.sort_unstable();
    assert_eq!(left, ["B", "SHARED"]);
    let keys = rows.iter().filter(|row| text(&row["pk"]["S"]).starts_with("credential#"));
    for row in keys {
        let is_gone = row["platform"]["S"] == gone.id.as_str();
        assert_eq!(row.get("revoked_at_ms").is_some(), is_gone, "{row}");
    }
    let again = local.json(&replay).await;
    for kind in ["secrets", "sessions", "tokens", "keys", "platforms"] {
        assert_eq!(again[kind]["deleted"], 0, "{kind}");
    }
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_is_noted_in_the_ledger_that_is_named_whatever_the_table_is_called() {
    let local = Local::start().await;
    // On AWS they are `<deployment>-data` and `<deployment>-ledger`.
    local.make_table("prod-ledger").await;
    let before = local.rows("theazo-ledger").await.len();
    for (by_option, by_variable) in
        [(&["--ledger", "prod-ledger"][..], &[][..]), (&[], &[("THEAZO_LEDGER", "prod-ledger")])]
    {
        let platform = local.json(&["platform", "create", "acme"]).await["id"].clone();
        let noted = local.rows("prod-ledger").await.len();
        let delete = ["platform", "delete", text(&platform), "--yes"];
        let output = local.admin_with(&[&delete[..], by_option].concat(), by_variable).await;
        assert!(output.status.success(), "{}", stderr(&output));
        assert!(local.rows("prod-ledger").await.len() > noted, "{by_option:?} {by_variable:?}");
    }
    assert_eq!(local.rows("theazo-ledger").await.len(), before);
    local.stop().await;
}
