//! A local stack of a test's own, and the command that works on it.

use crate::asked::Asked;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use theazo_local::{Stack, StackConfig};

/// The stack, without Docker.
pub struct Local {
    stack: Option<Stack>,
    /// Where the command reaches the table and the key service, and what it asks for there.
    endpoint: String,
    kms_endpoint: String,
    pub asked: Asked,
    pub folder: PathBuf,
    http: reqwest::Client,
}

impl Local {
    pub async fn start() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("admin-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let config = StackConfig::on_loopback(folder.clone());
        let stack = Stack::start(config).await.unwrap();
        let asked = Asked::default();
        let endpoint = asked.in_front_of(stack.dynamodb_url()).await;
        let kms_endpoint = asked.in_front_of(stack.kms_url()).await;
        // The folder's word is taken for the table that is meant.
        let file = folder.join("lambda.env");
        let told = std::fs::read_to_string(&file).unwrap();
        let told = told.replace(&stack.dynamodb_url(), &endpoint).replace(&stack.kms_url(), &kms_endpoint);
        std::fs::write(&file, told).unwrap();
        Self { stack: Some(stack), endpoint, kms_endpoint, asked, folder, http: reqwest::Client::new() }
    }

    /// Where the command finds the table.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Where it finds the key service.
    pub fn kms_endpoint(&self) -> &str {
        &self.kms_endpoint
    }

    pub fn stack(&self) -> &Stack {
        self.stack.as_ref().unwrap()
    }

    /// The folder as an argument.
    pub fn data_dir(&self) -> &str {
        self.folder.to_str().unwrap()
    }

    /// The command as somebody types it who has nothing at hand but the key of this stack's credentials.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = command(&[&["--endpoint", &self.endpoint], args].concat());
        command.env("THEAZO_CREDENTIAL_KEY", self.credential_key());
        command
    }

    /// The key that the stack's credentials are sealed with.
    pub fn credential_key(&self) -> String {
        std::fs::read_to_string(self.folder.join("credential-key")).unwrap().trim().to_owned()
    }

    /// Runs the command against this stack.
    pub async fn admin(&self, args: &[&str]) -> Output {
        self.admin_with(args, &[]).await
    }

    /// The same, with those variables.
    pub async fn admin_with(&self, args: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = self.command(args);
        command.envs(environment.iter().copied());
        output(command).await
    }

    /// The same, with the stack's data folder at hand.
    pub async fn with_folder(&self, args: &[&str]) -> Output {
        self.admin(&[args, &["--data-dir", self.data_dir()]].concat()).await
    }

    /// The JSON that a command answers; it must succeed.
    pub async fn json(&self, args: &[&str]) -> Value {
        let output = self.admin(&[args, &["--json"]].concat()).await;
        assert!(output.status.success(), "{args:?}: {}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    /// A call of the API: its status and answer.
    pub async fn call(&self, key: &Value, method: &str, path: &str, body: Option<Value>) -> (u16, Value) {
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
    pub async fn done(&self, key: &Value, method: &str, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(key, method, path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// What any DynamoDB tool would do with the tables.
    pub async fn dynamodb(&self, operation: &str, body: Value) -> Value {
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

    /// Every row of a table.
    pub async fn rows(&self, table: &str) -> Vec<Value> {
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

    pub async fn stop(mut self) {
        self.stack.take().unwrap().stop().await;
        self.asked.assert_the_role_suffices();
    }
}

impl Drop for Local {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The command with nothing of this process's environment that the AWS SDK would listen to.
pub fn command(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_theazo-admin"));
    command.args(args).env_clear().env("AWS_EC2_METADATA_DISABLED", "true");
    command
}

/// What a command says when it is done.
pub async fn output(mut command: Command) -> Output {
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

pub fn stdout(output: &Output) -> &str {
    std::str::from_utf8(&output.stdout).unwrap()
}

pub fn stderr(output: &Output) -> &str {
    std::str::from_utf8(&output.stderr).unwrap()
}

pub fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}
