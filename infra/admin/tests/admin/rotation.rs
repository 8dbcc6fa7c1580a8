//! Rotating the root key and a platform's key by the command.

use crate::local::{Local, stderr, text};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::ops::Deref;
use std::process::Stdio;

/// A stack with a platform and three values of it.
struct Filled {
    local: Local,
    platform: Value,
}

impl Deref for Filled {
    type Target = Local;

    fn deref(&self) -> &Local {
        &self.local
    }
}

impl Filled {
    async fn start() -> Self {
        let local = Local::start().await;
        let platform = local.json(&["platform", "create", "acme"]).await;
        let filled = Self { local, platform };
        filled.set("liveKey", "/secrets", json!({ "SHARED": "shared value" })).await;
        filled.set("testKey", "/secrets", json!({ "TEST": "test value" })).await;
        let session = filled.set("liveKey", "/sessions", json!({})).await;
        filled.set("liveKey", &format!("/sessions/{}/secrets", text(&session["id"])), json!({ "OWN": "own" })).await;
        filled
    }

    async fn set(&self, key: &str, path: &str, body: Value) -> Value {
        self.done(&self.platform[key], "POST", path, Some(body)).await
    }

    async fn status(&self) -> Value {
        let output = self.with_folder(&["root-key", "status", "--json"]).await;
        assert!(output.status.success(), "{}", stderr(&output));
        serde_json::from_slice(&output.stdout).unwrap()
    }

    async fn stop(self) {
        self.local.stop().await;
    }
}

/// Version, state and number of values of each version.
fn versions(status: &Value) -> Vec<(u64, &str, u64)> {
    let list = status["versions"].as_array().unwrap();
    let number = |value: &Value| value.as_u64().unwrap();
    list.iter().map(|one| (number(&one["version"]), text(&one["state"]), number(&one["values"]))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_shows_what_it_does_and_ends_with_every_value_under_the_new_version() {
    let local = Filled::start().await;
    let status = local.status().await;
    assert_eq!((versions(&status), text(&status["rotation"]["phase"])), (vec![(1, "active", 3)], "idle"));

    let output = local.with_folder(&["root-key", "rotate", "--cache-seconds", "1", "--json"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).expect("JSON alone on standard output");
    assert_eq!(versions(&answer), [(1, "replaced", 0), (2, "active", 3)]);
    assert_eq!(text(&answer["rotation"]["phase"]), "idle");
    let told = stderr(&output);
    for line in ["Waiting 0 min 01 s until every instance", "until nobody seals under an older", "3 values were sealed"]
    {
        assert!(told.contains(line), "{line}: {told}");
    }

    let output = local.with_folder(&["root-key", "status"]).await;
    let shown = std::str::from_utf8(&output.stdout).unwrap();
    assert!(shown.starts_with("VERSION") && shown.lines().count() == 3, "{shown}");

    // Everything opens still: a platform's rotation opens each of its values.
    let id = text(&local.platform["id"]).to_owned();
    let output = local.with_folder(&["platform", "rotate-key", &id, "--json"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(answer, json!({ "id": id, "keyVersion": 2, "resealed": 3 }));
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_was_killed_goes_on_where_it_was() {
    let local = Filled::start().await;
    let folder = local.folder.to_str().unwrap().to_owned();
    let mut command = local.command(&["root-key", "rotate", "--data-dir", &folder]);
    tokio::task::spawn_blocking(move || {
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
        let lines = BufReader::new(child.stderr.take().unwrap()).lines();
        // Ten minutes, as the functions of this stack keep keys; nobody said otherwise.
        let waits = lines.map_while(Result::ok).find(|line| line.starts_with("Waiting"));
        assert!(waits.unwrap().starts_with("Waiting 10 min 00 s"));
        child.kill().unwrap();
        child.wait().unwrap();
    })
    .await
    .unwrap();
    let status = local.status().await;
    assert_eq!(versions(&status), [(1, "active", 3), (2, "published", 0)]);
    assert_eq!(text(&status["rotation"]["phase"]), "published");
    let output = local.with_folder(&["root-key", "retire", "1", "--yes"]).await;
    assert!(stderr(&output).contains("values are sealed with it now"), "{}", stderr(&output));
    let output = local.with_folder(&["root-key", "retire", "2", "--yes"]).await;
    assert!(stderr(&output).contains("a rotation is under way"), "{}", stderr(&output));

    let output = local.with_folder(&["root-key", "rotate", "--cache-seconds", "1"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(stderr(&output).contains("going on with it"));
    assert_eq!(versions(&local.status().await), [(1, "replaced", 0), (2, "active", 3)]);
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retiring_says_why_it_is_refused_and_what_it_costs() {
    let local = Filled::start().await;
    let output = local.with_folder(&["root-key", "rotate", "--cache-seconds", "1"]).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let refusals: [(&[&str], &str); 3] = [
        (&["1"], "backups from when it was in use may be kept until"),
        (&["2"], "values are sealed with it now"),
        (&["3"], "there is no such version"),
    ];
    for (args, why) in refusals {
        let output = local.with_folder(&[&["root-key", "retire", "--yes"], args].concat()).await;
        assert_eq!(output.status.code(), Some(1));
        assert!(output.stdout.is_empty() && stderr(&output).contains(why), "{args:?}: {}", stderr(&output));
    }
    let unconfirmed = local.with_folder(&["root-key", "retire", "1", "--backup-days", "0"]).await;
    assert!(unconfirmed.status.code() == Some(1) && stderr(&unconfirmed).contains("say --yes if that is meant"));
    // Writers are given their time, two cache lives, whatever is said of backups.
    let output = local.with_folder(&["root-key", "retire", "1", "--backup-days", "0", "--yes"]).await;
    assert_eq!(output.status.code(), Some(1));
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    let args = ["root-key", "retire", "1", "--backup-days", "0", "--cache-seconds", "1", "--yes", "--json"];
    let output = local.with_folder(&args).await;
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(serde_json::from_slice::<Value>(&output.stdout).unwrap(), json!({ "version": 1, "status": "retired" }));
    let told = stderr(&output);
    assert!(
        told.contains("Nothing in the table is under it") && told.contains("A backup from when it was in use holds it")
    );
    assert_eq!(versions(&local.status().await), [(2, "active", 3)]);
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_service_that_is_not_known_or_the_wrong_deployment_is_a_clear_failure() {
    let local = Filled::start().await;
    let output = local.admin(&["root-key", "status"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("--kms-endpoint is needed: .theazo says nothing"), "{}", stderr(&output));
    // The folder of a stack with another table is not believed.
    let folder = local.folder.to_str().unwrap();
    let output = local.admin(&["root-key", "status", "--data-dir", folder, "--table", "other"]).await;
    assert!(stderr(&output).contains("--kms-endpoint is needed"), "{}", stderr(&output));

    let output = local.with_folder(&["root-key", "rotate", "--deployment", "another"]).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("does not vouch for a root key's row"), "{}", stderr(&output));
    assert_eq!(versions(&local.status().await), [(1, "active", 3)]);

    // Everything said, nothing is looked up.
    let deployment = local.stack().deployment().config();
    let kms = local.kms_endpoint();
    let said = ["--kms-endpoint", kms, "--kms-key", &deployment.kms_key_arn, "--deployment", &deployment.name];
    let output = local.admin(&[&["root-key", "status"][..], &said].concat()).await;
    assert!(output.status.success(), "{}", stderr(&output));
    let absent = format!("plt_{}", "0".repeat(26));
    let output = local.with_folder(&["platform", "rotate-key", &absent]).await;
    assert!(stderr(&output).contains(&format!("there is no platform {absent}")), "{}", stderr(&output));
    let output = local.admin(&["root-key", "status", "--aws", "--kms-endpoint", kms]).await;
    assert_eq!(output.status.code(), Some(2));
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_deployments_root_key_is_made_once_and_never_in_place_of_one_that_is_missing() {
    let local = Filled::start().await;
    let key = json!([{ "AttributeName": "pk", "KeyType": "HASH" }, { "AttributeName": "sk", "KeyType": "RANGE" }]);
    let of_type = json!([
        { "AttributeName": "pk", "AttributeType": "S" },
        { "AttributeName": "sk", "AttributeType": "S" }
    ]);
    let table = json!({
        "TableName": "fresh", "KeySchema": key, "AttributeDefinitions": of_type, "BillingMode": "PAY_PER_REQUEST"
    });
    local.dynamodb("CreateTable", table).await;
    let (kms, arn) = (local.kms_endpoint(), local.stack().deployment().config().kms_key_arn.clone());
    let said = ["--table", "fresh", "--kms-endpoint", kms, "--deployment", "new"];
    let init = [&["root-key", "init"][..], &said].concat();

    let output =
        local.admin(&[&init[..], &["--kms-key", "arn:aws:kms:us-east-1:111122223333:alias/theazo"]].concat()).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("must look like arn:aws:kms:REGION:ACCOUNT:key/ID"), "{}", stderr(&output));

    let init = [&init[..], &["--kms-key", &arn, "--json"]].concat();
    for (told, is_new) in [("The root key was made", true), ("There is a root key; nothing was changed", false)] {
        let before = local.rows("fresh").await;
        let output = local.admin(&init).await;
        assert!(output.status.success() && stderr(&output).contains(told), "{}", stderr(&output));
        let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(versions(&answer), [(1, "active", 0)]);
        assert_eq!(local.rows("fresh").await == before, !is_new);
    }
    // Another deployment's name: KMS does not vouch for the row.
    let output = local.admin(&[&init[..], &["--deployment", "another"]].concat()).await;
    assert_eq!(output.status.code(), Some(2), "an option said twice");
    let another: Vec<_> = init.iter().map(|arg| if *arg == "new" { "another" } else { arg }).collect();
    let output = local.admin(&another).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("does not vouch for a root key's row"), "{}", stderr(&output));

    // Values whose root key is gone are not to be buried under a new one.
    for row in local.rows("fresh").await {
        let key = json!({ "pk": row["pk"], "sk": row["sk"] });
        local.dynamodb("DeleteItem", json!({ "TableName": "fresh", "Key": key })).await;
    }
    let sealed = local.rows("theazo").await.into_iter().find(|row| row.get("blob").is_some()).unwrap();
    local.dynamodb("PutItem", json!({ "TableName": "fresh", "Item": sealed })).await;
    let output = local.admin(&init).await;
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("their root key is missing"), "{}", stderr(&output));
    assert_eq!(local.rows("fresh").await, [sealed]);
    local.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platforms_rotation_that_is_under_way_is_shown_with_what_is_in_its_way() {
    let local = Filled::start().await;
    let id = text(&local.platform["id"]).to_owned();
    assert_eq!(local.status().await["platforms"], json!([]));
    let mut stray = local.rows("theazo").await.into_iter().find(|row| row["sk"]["S"] == "SHARED").unwrap();
    stray["sk"] = json!({ "S": "STRAY" });
    local.dynamodb("PutItem", json!({ "TableName": "theazo", "Item": stray })).await;
    let output = local.with_folder(&["platform", "rotate-key", &id]).await;
    assert_eq!(output.status.code(), Some(1), "{}", stderr(&output));

    let status = local.status().await;
    let shown = &status["platforms"][0];
    for (field, value) in [
        ("platformId", json!(id)),
        ("keyVersion", json!(2)),
        ("resealed", json!(3)),
        ("unopened", json!(1)),
        ("stuck", json!(true)),
        ("unopenedPlaces", json!([format!("{} STRAY", text(&stray["pk"]["S"]))])),
    ] {
        assert_eq!(shown[field], value, "{field}: {status}");
    }
    assert!(text(&shown["workedAt"]).ends_with('Z') && text(&shown["walkedAt"]).ends_with('Z'), "{status}");
    let output = local.with_folder(&["root-key", "status"]).await;
    let told = stderr(&output);
    assert!(told.contains(&format!("The key of {id} is being rotated to version 2: 3 values sealed anew")), "{told}");
    assert!(told.contains("only they are in the way of its end") && told.contains("STRAY"), "{told}");
    local.stop().await;
}
