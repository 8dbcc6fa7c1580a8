//! Masking: what an agent prints of the secrets it booted with is shown as `[secret:NAME]`.

use crate::harness::{Client, Platform, dynamodb, stack};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::future::{join, join_all};
use serde_json::{Value, json};

const VALUE: &str = "sk-live/4f9a+c2 \"quoted\" 7e1b";

async fn exec(client: &Client, agent: &str, body: Value) -> Value {
    client.post(&format!("/v1/agents/{agent}/exec"), body).await.expect(200)
}

async fn bash(client: &Client, agent: &str, code: &str) -> String {
    exec(client, agent, json!({ "language": "bash", "code": code })).await["stdout"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn an_agent_that_prints_a_secret_shows_its_name_in_every_encoding_and_stream() {
    let platform = Platform::make("masking").await;
    let client = &platform.client;
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "token": VALUE })).await;
    client.post("/v1/secrets", json!({ "INHERITED": "of-the-platform" })).await.expect(204);
    let agent = client.boot(&session, json!({})).await;

    assert_eq!(
        bash(client, &agent, "echo \"a $TOKEN b $INHERITED c\"").await,
        "a [secret:TOKEN] b [secret:INHERITED] c\n"
    );
    let ran = exec(client, &agent, json!({ "language": "bash", "code": "echo \"$TOKEN\" >&2; exit 3" })).await;
    assert_eq!((&ran["stderr"], &ran["exitCode"]), (&json!("[secret:TOKEN]\n"), &json!(3)));
    let encodings = "import os, base64, json, urllib.parse as u\n\
        v = os.environ['TOKEN'].encode()\n\
        print(base64.b64encode(v).decode()); print(base64.b64encode(b'x' + v + b'y').decode())\n\
        print(base64.urlsafe_b64encode(b'ab' + v).decode().rstrip('=')); print(v.hex()); print(v.hex().upper())\n\
        print(u.quote(v, safe='')); print(u.quote_plus(v)); print(json.dumps(v.decode()))\n\
        print(''.join('\\\\u%04x' % c for c in v))";
    let ran = exec(client, &agent, json!({ "language": "python", "code": encodings })).await;
    let lines: Vec<&str> = ran["stdout"].as_str().unwrap().lines().collect();
    assert_eq!(lines.len(), 9, "{ran}");
    assert!(lines.iter().all(|line| line.contains("[secret:TOKEN]") && line.len() < 30), "{lines:?}");

    // Masked before it is encoded for the answer.
    let code = json!({ "language": "bash", "code": "printf %s \"$TOKEN\"", "encoding": "base64" });
    assert_eq!(exec(client, &agent, code).await["stdout"], STANDARD.encode("[secret:TOKEN]"));
    // A file's bytes are the agent's own.
    bash(client, &agent, "printf %s \"$TOKEN\" > /data/file").await;
    let file = client.get(&format!("/v1/agents/{agent}/files/data/file")).await.expect(200);
    assert_eq!(file["size"], VALUE.len());
    client.terminate(&session).await;
}

#[tokio::test]
async fn what_an_agent_booted_with_stays_masked_after_it_was_replaced_or_deleted() {
    let platform = Platform::make("masking later").await;
    let client = &platform.client;
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "REPLACED": "first-value", "DELETED": "second-value" })).await;
    client.post("/v1/secrets", json!({ "FORMER": "of-the-platform", "LASTING": "of-the-platform" })).await.expect(204);
    let before = client.get(&format!("/v1/sessions/{session}/secrets?details=true&inherited=true")).await.expect(200);
    let agent = client.boot(&session, json!({})).await;
    client.set_secrets(&session, json!({ "REPLACED": "third-value" })).await;
    client.delete(&format!("/v1/sessions/{session}/secrets/DELETED")).await.expect(204);
    client.delete("/v1/secrets/FORMER").await.expect(204);
    let printed = bash(client, &agent, "echo $REPLACED $DELETED third-value").await;
    assert_eq!(printed, "[secret:REPLACED] [secret:DELETED] third-value\n");
    let details = client.get(&format!("/v1/sessions/{session}/secrets?details=true")).await.expect(200);
    // A deleted value that somebody holds is listed among the others as what it was, delivered no more.
    let names = |list: &Value| -> Vec<String> {
        list.as_array().unwrap().iter().map(|entry| entry["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(&details), ["DELETED", "REPLACED"]);
    let as_it_was = |name: &str| {
        let mut entry = before.as_array().unwrap().iter().find(|entry| entry["name"] == name).unwrap().clone();
        (entry["expired"], entry["retainedBy"]) = (json!(true), json!([agent]));
        entry
    };
    assert_eq!(details[0], as_it_was("DELETED"));
    let all = client.get(&format!("/v1/sessions/{session}/secrets?details=true&inherited=true")).await.expect(200);
    assert_eq!(names(&all), ["DELETED", "FORMER", "LASTING", "REPLACED"]);
    let platforms = client.get("/v1/secrets?details=true").await.expect(200);
    assert_eq!(names(&platforms), ["FORMER", "LASTING"]);
    for listed in [&all[1], &platforms[0]] {
        assert_eq!(*listed, as_it_was("FORMER"));
    }
    assert_eq!(client.get(&format!("/v1/sessions/{session}/secrets")).await.expect(200), json!(["REPLACED"]));
    client.post(&format!("/v1/agents/{agent}/terminate"), json!({})).await.expect(200);
    let details = client.get(&format!("/v1/sessions/{session}/secrets?details=true")).await.expect(200);
    assert_eq!(details.as_array().unwrap().len(), 1, "nobody holds the deleted value any more: {details}");
    client.terminate(&session).await;
}

#[tokio::test]
async fn an_exempt_value_and_a_short_one_are_shown_and_a_cut_one_is_not() {
    let platform = Platform::make("masking not").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let long = "0123456789abcdefghij".repeat(100);
    let secrets = json!({
        "OPEN": { "value": "shown-as-it-is", "mask": false },
        "SHORT": "12345",
        "SIX": { "value": "123456", "mask": true },
        "LONG": long,
    });
    client.set_secrets(&session, secrets).await;
    let agent = client.boot(&session, json!({})).await;
    assert_eq!(bash(client, &agent, "echo $OPEN $SHORT $SIX").await, "shown-as-it-is 12345 [secret:SIX]\n");
    // 1 MiB is kept of a stream; the secret lies across the cut.
    let code = "head -c $((1024 * 1024 - 1000)) /dev/zero | tr '\\0' '.'; printf %s \"$LONG\"";
    let ran = exec(client, &agent, json!({ "language": "bash", "code": code })).await;
    assert_eq!(ran["truncated"], json!(["stdout"]));
    let kept = ran["stdout"].as_str().unwrap();
    assert!(!kept.contains("0123456789"), "{}", &kept[kept.len() - 100..]);
    client.terminate(&session).await;
}

#[tokio::test]
async fn an_agent_that_boots_or_is_over_refuses_code_also_with_a_secret_to_be_masked() {
    let platform = Platform::make("masking over").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "TOKEN": VALUE })).await;
    let agent = client.boot(&session, json!({})).await;
    let path = format!("/v1/agents/{agent}/exec");
    let code = || json!({ "language": "bash", "code": "x" });

    // As a boot leaves it before its copies are written.
    let url = stack().dynamodb_url();
    let of_agent = |kind: &str| format!("{}#test#{kind}", platform.id);
    let row = json!({ "pk": { "S": of_agent("agents") }, "sk": { "S": agent } });
    let copy = json!({ "pk": { "S": of_agent(&format!("{agent}#copies")) }, "sk": { "S": "TOKEN" } });
    let get = |key: &Value| json!({ "TableName": "theazo", "Key": key, "ConsistentRead": true });
    let kept = dynamodb(&url, "GetItem", get(&copy)).await["Item"].clone();
    assert!(kept["blob"]["B"].is_string(), "{kept}");
    let ready = dynamodb(&url, "GetItem", get(&row)).await["Item"].clone();
    let mut booting = ready.clone();
    booting["status"] = json!({ "S": "booting" });
    dynamodb(&url, "PutItem", json!({ "TableName": "theazo", "Item": booting })).await;
    dynamodb(&url, "DeleteItem", json!({ "TableName": "theazo", "Key": copy })).await;
    let refused = client.post(&path, code()).await.expect_error(409, "conflict");
    assert_eq!(refused["details"]["status"], "booting");

    // One that takes calls runs nothing unmasked.
    dynamodb(&url, "PutItem", json!({ "TableName": "theazo", "Item": ready })).await;
    client.post(&path, code()).await.expect_error(500, "internal_error");
    dynamodb(&url, "PutItem", json!({ "TableName": "theazo", "Item": kept })).await;

    client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await.expect(200);
    let refused = client.post(&path, code()).await.expect_error(409, "conflict");
    assert_eq!(refused["details"]["status"], "completed");
    client.terminate(&session).await;
}

#[tokio::test]
async fn an_agent_that_ends_while_code_is_sent_to_it_answers_with_a_conflict_or_the_result() {
    let platform = Platform::make("masking race").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "TOKEN": VALUE })).await;
    for round in 0..10 {
        let agent = client.boot(&session, json!({})).await;
        let (exec, end) = (format!("/v1/agents/{agent}/exec"), format!("/v1/agents/{agent}/terminate"));
        let calls = (0..4).map(|n| client.post(&exec, json!({ "language": "bash", "code": format!("x{n}") })));
        let (ran, ended) = join(join_all(calls), client.call("POST", &end, None)).await;
        ended.expect(200);
        for answer in ran {
            assert!([200, 409].contains(&answer.status), "round {round}: {answer:?}");
        }
    }
    client.terminate(&session).await;
}
