//! `theazo-dev` as somebody at a terminal meets it: what it writes and prints, how it ends, and how it refuses.

use crate::harness::{DevCommand, Process, temporary, wait_until};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

const KEYS: [&str; 2] = ["api-key", "test-api-key"];

fn keys(folder: &Path) -> [String; 2] {
    KEYS.map(|name| std::fs::read_to_string(folder.join(name)).unwrap())
}

async fn shell(line: String) -> Output {
    tokio::task::spawn_blocking(move || Command::new("sh").args(["-c", &line]).output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_first_start_writes_private_keys_and_prints_a_call_that_works_when_pasted() {
    // A folder as people have them: the printed line must survive a shell.
    let process = Process::start_on(temporary("it's a first $HOME"), "info").await;
    let printed = process.output();
    for (name, key) in KEYS.into_iter().zip(keys(process.folder())) {
        let metadata = std::fs::metadata(process.folder().join(name)).unwrap();
        assert_eq!(metadata.permissions().mode() & 0o777, 0o600, "{name}");
        assert!(!printed.contains(key.trim()), "{name} is on the screen");
    }
    let [live, test] = keys(process.folder());
    assert!(live.starts_with("th_live_") && test.starts_with("th_test_"));
    assert_eq!(std::fs::metadata(process.folder()).unwrap().permissions().mode() & 0o777, 0o700);

    let line = printed.lines().find(|line| line.trim_start().starts_with("curl ")).expect("a first call");
    assert!(line.contains(process.base()), "{line}");
    let ran = shell(line.to_owned()).await;
    assert!(ran.status.success(), "{line}: {ran:?}");
    let who: Value = serde_json::from_slice(&ran.stdout).unwrap_or_else(|_| panic!("{line}: {ran:?}"));
    assert_eq!((&who["kind"], &who["environment"]), (&json!("platform"), &json!("live")), "{who}");
    let as_test = process.client().with_key(Some(test.trim())).get("/v1/whoami").await.expect(200);
    assert_eq!((&as_test["platformId"], &as_test["environment"]), (&who["platformId"], &json!("test")));
}

#[tokio::test]
async fn ctrl_c_ends_it_well_and_starting_again_goes_on_with_the_same_data_and_keys() {
    let mut process = Process::start("info").await;
    let before = keys(process.folder());
    let session = process.client().session("u").await;
    process.client().set_secrets(&session, json!({ "KEPT": "value" })).await;
    assert_eq!(process.interrupt().await.code(), Some(0), "{}", process.output());

    let process = process.restart("info").await;
    assert_eq!(keys(process.folder()), before);
    let client = process.client();
    assert_eq!(client.session("u").await, session);
    assert_eq!(client.get(&format!("/v1/sessions/{session}/secrets")).await.expect(200), json!(["KEPT"]));
}

#[tokio::test]
async fn ctrl_c_lets_running_requests_finish() {
    let mut process = Process::start("info").await;
    let client = process.client();
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let running = tokio::spawn({
        let (client, agent) = (client.clone(), agent.clone());
        async move { client.run(&agent, "bash", "touch /data/begun; sleep 2; echo whole").await }
    });
    wait_until("the program has begun", async || {
        let listing = client.get(&format!("/v1/agents/{agent}/files?dir=/data")).await.expect(200);
        listing.as_array().unwrap().iter().any(|file| file["name"] == "begun")
    })
    .await;
    // A boot writes to the table at its end, so the table must outlive it.
    let booting = tokio::spawn({
        let (client, session) = (client.clone(), session.clone());
        async move { client.boot(&session, json!({})).await }
    });
    let agents = format!("/v1/sessions/{session}/agents");
    wait_until("the boot has begun", async || {
        let listed = client.get(&agents).await.expect(200);
        listed["data"].as_array().unwrap().iter().any(|agent| agent["status"] == "booting")
    })
    .await;
    assert_eq!(process.interrupt().await.code(), Some(0), "{}", process.output());
    assert_eq!(running.await.unwrap(), "whole\n");
    let second = booting.await.unwrap();

    let process = process.restart("info").await;
    for agent in [agent, second] {
        let shown = process.client().get(&format!("/v1/agents/{agent}")).await.expect(200);
        assert_eq!(shown["status"], "ready", "{shown}");
    }
}

#[tokio::test]
async fn a_second_stack_on_the_same_folder_is_refused_and_the_first_goes_on() {
    let process = Process::start("info").await;
    let folder = process.folder().to_str().unwrap();
    let any = "127.0.0.1:0";
    let arguments = ["--without-docker", "--listen", any, "--dynamodb-listen", any, "--data-dir", folder];
    let (code, said) = DevCommand::start(&arguments, &std::env::temp_dir()).end().await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains(&format!("error: {folder} is in use by another local stack")), "{said}");
    assert!(!said.contains("Theazo runs"), "{said}");
    process.client().get("/v1/whoami").await.expect(200);
}

#[tokio::test]
async fn a_busy_port_is_an_error_that_names_the_address() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let busy = taken.local_addr().unwrap().to_string();
    let folder = temporary("busy");
    for (api, table) in [(busy.as_str(), "127.0.0.1:0"), ("127.0.0.1:0", busy.as_str())] {
        let data = folder.to_str().unwrap();
        let arguments = ["--without-docker", "--listen", api, "--dynamodb-listen", table, "--data-dir", data];
        let (code, said) = DevCommand::start(&arguments, &std::env::temp_dir()).end().await;
        assert_eq!(code, Some(1), "{said}");
        assert!(said.contains(&format!("error: cannot listen on {busy}: ")), "{said}");
        assert!(!said.contains("Theazo runs"), "{said}");
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

#[tokio::test]
async fn the_printed_table_address_answers_dynamodb_tools() {
    let process = Process::start("info").await;
    let printed = process.output();
    let line = printed.lines().find(|line| line.trim_start().starts_with("table ")).expect("the table's address");
    let address = line.split_whitespace().find(|word| word.starts_with("http://")).expect("an address").to_owned();
    let listed = dynamodb(&address, "ListTables", json!({})).await;
    assert_eq!(listed["TableNames"], json!(["theazo", "theazo-ledger"]));
    let described = dynamodb(&address, "DescribeTable", json!({ "TableName": "theazo" })).await;
    assert_eq!(described["Table"]["TableStatus"], "ACTIVE", "{described}");

    let session = process.client().session("a user to be found").await;
    process.client().set_secrets(&session, json!({ "NAME": "a value not to be found" })).await;
    let rows = dynamodb(&address, "Scan", json!({ "TableName": "theazo" })).await.to_string();
    assert!(rows.contains("a user to be found") && !rows.contains("a value not to be found"));
}

/// A call as the SDKs' wire protocol has it; the signature is only looked for there, not verified.
async fn dynamodb(address: &str, operation: &str, input: Value) -> Value {
    let scope = "local/20260101/us-east-1/dynamodb/aws4_request";
    let signature = format!("AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders=host, Signature=0");
    let request = reqwest::Client::new()
        .post(address)
        .timeout(Duration::from_secs(60))
        .header("content-type", "application/x-amz-json-1.0")
        .header("x-amz-target", format!("DynamoDB_20120810.{operation}"))
        .header("x-amz-date", "20260101T000000Z")
        .header("authorization", signature)
        .body(input.to_string());
    let answer = request.send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{operation}: {text}");
    serde_json::from_str(&text).unwrap()
}
