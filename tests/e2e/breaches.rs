//! Breach drills: an attacker holds something, and learns what the README's table says and no more. One test each,
//! named for what is held: here a key service or a credential. `breaches_table` is about the table, `breaches_paths`
//! about cursors and paths, `breaches_host` about the host that agents run on, `breaches_hostile` about agents and end
//! users that mean harm.

use crate::breaches_table::row;
use crate::harness::{Canary, Client, Platform, stack};
use serde_json::{Value, json};
use theazo_tenancy::{Mode, PlatformId, make_api_key};

/// A platform with a secret in its vault.
pub struct Victim {
    pub platform: Platform,
    pub canary: Canary,
    pub session: String,
}

impl Victim {
    pub async fn make(name: &str) -> Self {
        let platform = Platform::make(name).await;
        let canary = Canary::make();
        let session = platform.client.session("user").await;
        platform.client.set_secrets(&session, json!({ "TOKEN": canary.value() })).await;
        Self { platform, canary, session }
    }

    pub fn client(&self) -> &Client {
        &self.platform.client
    }

    /// The row of the sealed value.
    pub fn value_key(&self) -> Value {
        let pk = format!("{}#live#{}#values", self.platform.id, self.session);
        json!({ "pk": { "S": pk }, "sk": { "S": "TOKEN" } })
    }

    /// Boots an agent, which needs the value.
    pub async fn try_boot(&self) -> u16 {
        let path = format!("/v1/sessions/{}/agents", self.session);
        self.client().post(&path, json!({})).await.status
    }
}

#[tokio::test]
async fn a_grant_to_decrypt_with_the_kms_key_opens_nothing_without_the_table() {
    let stack = tokio::task::spawn_blocking(stack).await.unwrap();
    let key = &stack.deployment().config().kms_key_arn;
    let ask = |operation: &'static str, body: Value| async move {
        let request = reqwest::Client::new()
            .post(stack.kms_url())
            .header("content-type", "application/x-amz-json-1.1")
            .header("x-amz-target", format!("TrentService.{operation}"))
            .body(body.to_string());
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    // All that the key alone gives is other keys.
    let (status, _) = ask("GenerateDataKey", json!({ "KeyId": key, "NumberOfBytes": 32 })).await;
    assert_eq!(status, 200);
    // Even the wrapped root key opens only under the whole context, which names deployment, row and version.
    let wrapped = row(&json!({ "pk": { "S": "root" }, "sk": { "S": "active" } })).await;
    let blob = wrapped["ciphertext"]["B"].as_str().unwrap();
    let text = |column: &str, kind: &str| wrapped[column][kind].as_str().unwrap().to_owned();
    let whole = [
        ("purpose", "root-key".to_owned()),
        ("deployment", stack.deployment().config().name.clone()),
        ("row", "active".to_owned()),
        ("version", text("version", "N")),
        ("created-at-ms", text("created_at_ms", "N")),
        ("kms-key-arn", text("kms_key_arn", "S")),
    ];
    let context = |parts: &[(&str, String)]| {
        let parts = parts.iter().map(|(name, value)| (format!("theazo:{name}"), json!(value)));
        Value::Object(parts.collect())
    };
    let decrypt = async |context: Option<Value>| {
        let mut body = json!({ "KeyId": key, "CiphertextBlob": blob });
        context.into_iter().for_each(|context| body["EncryptionContext"] = context);
        ask("Decrypt", body).await
    };
    let (status, answer) = decrypt(Some(context(&whole))).await;
    assert!(status == 200 && answer["Plaintext"].is_string(), "with all of the row, it opens: {answer}");
    let mut others = vec![None, Some(json!({}))];
    for part in 0..whole.len() {
        let mut lacking = whole.to_vec();
        lacking.remove(part);
        let mut wrong = whole.to_vec();
        wrong[part].1.push('1');
        others.extend([lacking, wrong].map(|parts| Some(context(&parts))));
    }
    for other in others {
        let (status, answer) = decrypt(other.clone()).await;
        assert_eq!(status, 400, "{other:?}: {answer}");
        assert!(answer["Plaintext"].is_null());
    }
}

#[tokio::test]
async fn a_stolen_session_token_reaches_that_session_and_no_value() {
    let victim = Victim::make("stolen token").await;
    let other = victim.client().session("another user").await;
    let path = format!("/v1/sessions/{}/tokens", victim.session);
    let token = victim.client().post(&path, json!({ "permissions": ["read"] })).await.expect(201);
    let thief = victim.client().with_key(token["token"].as_str());

    let names = thief.get(&format!("/v1/sessions/{}/secrets?details=true", victim.session)).await;
    victim.canary.is_not_in("the names", &names.text);
    assert_eq!(names.expect(200)[0]["name"], "TOKEN");
    thief.get(&format!("/v1/sessions/{other}")).await.expect_error(404, "not_found");
    thief.get(&format!("/v1/sessions/{other}/secrets")).await.expect_error(404, "not_found");
    for path in ["/v1/sessions", "/v1/agents", "/v1/secrets", "/v1/api-keys", "/v1/providers", "/v1/audit"] {
        thief.get(path).await.expect_error(403, "forbidden");
    }
    thief.post(&path, json!({})).await.expect_error(403, "forbidden");
    let agents = format!("/v1/sessions/{}/agents", victim.session);
    thief.post(&agents, Value::Null).await.expect_error(403, "forbidden");

    victim.client().delete(&path).await.expect(204);
    thief.get(&format!("/v1/sessions/{}", victim.session)).await.expect_error(401, "unauthorized");
}

#[tokio::test]
async fn a_stolen_session_token_with_exec_uses_what_that_sessions_agents_hold_and_reaches_no_other() {
    let victim = Victim::make("stolen exec token").await;
    let client = victim.client().with_key(Some(&victim.platform.test_key));
    let (session, other) = (client.session("user").await, client.session("another user").await);
    client.set_secrets(&session, json!({ "TOKEN": victim.canary.value() })).await;
    client.set_secrets(&other, json!({ "TOKEN": "the other user's" })).await;
    let (agent, others) = (client.boot(&session, json!({})).await, client.boot(&other, json!({})).await);
    let token = client.post(&format!("/v1/sessions/{session}/tokens"), json!({})).await.expect(201);
    let thief = client.with_key(token["token"].as_str());

    // What the README says plainly: whoever may exec can use what an agent holds. Masking guards accidents.
    let print = json!({ "language": "bash", "code": "# theazo:env TOKEN" });
    let ran = thief.post(&format!("/v1/agents/{agent}/exec"), print.clone()).await;
    victim.canary.is_not_in("the output as it is", &ran.text);
    assert_eq!(ran.expect(200)["stdout"], "[secret:TOKEN]\n");
    let own = thief.boot(&session, json!({})).await;
    thief.post(&format!("/v1/agents/{own}/terminate"), Value::Null).await.expect(200);

    for path in [format!("/v1/agents/{others}/exec"), format!("/v1/sessions/{other}/agents")] {
        thief.post(&path, print.clone()).await.expect_error(404, "not_found");
    }
    thief.get(&format!("/v1/agents/{others}/files?dir=/data")).await.expect_error(404, "not_found");
    let secrets = format!("/v1/sessions/{session}/secrets");
    thief.post(&secrets, json!({ "TOKEN": "the thief's" })).await.expect_error(403, "forbidden");
    thief.delete(&format!("{secrets}/TOKEN")).await.expect_error(403, "forbidden");
    thief.post(&format!("/v1/sessions/{session}/terminate"), Value::Null).await.expect_error(403, "forbidden");
    let limits = json!({ "maxAgents": 1000 });
    let raised = thief.call("PATCH", &format!("/v1/sessions/{session}/limits"), Some(&limits)).await;
    raised.expect_error(403, "forbidden");
    // It ends with the session.
    client.terminate(&session).await;
    thief.get("/v1/whoami").await.expect_error(401, "unauthorized");
    client.terminate(&other).await;
}

#[tokio::test]
async fn a_revoked_key_and_a_forged_one_learn_nothing_not_even_that_the_platform_exists() {
    let victim = Victim::make("revoked").await;
    let new = json!({ "name": "spare", "environment": "live" });
    let spare = victim.client().post("/v1/api-keys", new).await.expect(201);
    let holder = victim.client().with_key(spare["key"].as_str());
    holder.get("/v1/whoami").await.expect(200);
    victim.client().delete(&format!("/v1/api-keys/{}", spare["id"].as_str().unwrap())).await.expect(204);

    let forged = make_api_key(&victim.platform.id, Mode::Live);
    let nowhere = make_api_key(&PlatformId::make(), Mode::Live);
    let session = format!("/v1/sessions/{}", victim.session);
    let mut answers = Vec::new();
    for key in [spare["key"].as_str().unwrap(), &forged.text, &nowhere.text] {
        for path in [session.as_str(), "/v1/sessions/ses_00000000000000000000000000", "/v1/sessions?limit=x"] {
            let answer = holder.with_key(Some(key)).get(path).await;
            assert_eq!(answer.status, 401);
            answers.push(answer.without_request_id());
        }
    }
    answers.dedup();
    assert_eq!(answers.len(), 1, "{answers:?}");
}

#[tokio::test]
async fn a_test_key_is_no_way_to_live_data_or_live_keys() {
    let victim = Victim::make("test key").await;
    let test = victim.client().with_key(Some(&victim.platform.test_key));
    test.get(&format!("/v1/sessions/{}", victim.session)).await.expect_error(404, "not_found");
    assert_eq!(test.get("/v1/sessions").await.expect(200)["data"], json!([]));
    let live = json!({ "name": "mine", "environment": "live" });
    test.post("/v1/api-keys", live).await.expect_error(403, "forbidden");
    let keys = victim.client().get("/v1/api-keys").await.expect(200);
    let keys = keys["data"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 2);
    let live = keys.iter().find(|key| key["environment"] == "live").unwrap();
    let path = format!("/v1/api-keys/{}", live["id"].as_str().unwrap());
    test.delete(&format!("{path}?force=true")).await.expect_error(404, "not_found");
    test.post(&format!("{path}/rotate"), json!({})).await.expect_error(404, "not_found");
    let shown = test.get("/v1/api-keys").await.expect(200);
    assert!(shown["data"].as_array().unwrap().iter().all(|key| key["environment"] == "test"), "{shown}");
}
