//! Breach drills of who holds the table: what it shows, and what writing to it does. See `breaches` for the others.

use crate::breaches::Victim;
use crate::harness::{Client, Platform, dynamodb, make_canary, scan_everything, sha256, stack};
use crate::logs::token;
use serde_json::{Value, json};
use theazo_tenancy::{AgentId, Mode, PlatformId, make_api_key};

const TABLE: &str = "theazo";

/// A row as it is in the table.
pub async fn row(key: &Value) -> Value {
    let request = json!({ "TableName": TABLE, "Key": key, "ConsistentRead": true });
    dynamodb(&stack().dynamodb_url(), "GetItem", request).await["Item"].clone()
}

async fn put(item: &Value) {
    dynamodb(&stack().dynamodb_url(), "PutItem", json!({ "TableName": TABLE, "Item": item })).await;
}
#[tokio::test]
async fn a_dump_of_the_whole_table_holds_no_value_and_nothing_that_authenticates() {
    let victim = Victim::make("dump").await;
    let token = victim.client().post(&format!("/v1/sessions/{}/tokens", victim.session), json!({})).await.expect(201);
    let token = token["token"].as_str().unwrap();
    // Rows from which requests are answered again: of one that sets the value, of one that makes a key, of a failed exec.
    let (secrets, keys) = (format!("/v1/sessions/{}/secrets", victim.session), "/v1/api-keys");
    victim.client().post_once(&secrets, json!({ "TOKEN": victim.canary.value() }), "set").await.expect(204);
    let new = json!({ "name": "spare", "environment": "live" });
    let spare = victim.client().post_once(keys, new.clone(), "make").await.expect(201);
    let spare = spare["key"].as_str().unwrap();
    let test = victim.client().with_key(Some(&victim.platform.test_key));
    let session = test.session("user").await;
    test.set_secrets(&session, json!({ "TOKEN": victim.canary.value() })).await;
    let told = make_canary("what an agent is told");
    let agent = test.boot(&session, json!({ "instructions": told })).await;
    let late = json!({ "language": "bash", "code": format!("# {}\n# theazo:timeout", victim.canary.value()) });
    test.post(&format!("/v1/agents/{agent}/exec"), late).await.expect_error(504, "timeout");
    let dump = scan_everything(&stack().dynamodb_url()).await;
    let dumped = String::from_utf8_lossy(&dump.decoded);
    victim.canary.is_not_in("the dump", &dump.decoded);
    // What is no secret of the vault is there to be read.
    assert!(dumped.contains("TOKEN") && dumped.contains(&told), "names and instructions are in the dump");
    for mode in ["live", "test"] {
        let replays = format!("{}#{mode}#replays", victim.platform.id);
        assert!(dump.partitions.contains(&replays), "answers to be given again are in the dump");
    }
    for credential in [victim.platform.live_key.as_str(), victim.platform.test_key.as_str(), token, spare] {
        assert!(!dumped.contains(credential), "a credential is in the dump");
        let (_, random) = credential.split_at(12);
        assert!(!dumped.contains(&random[..20]), "a part of a credential is in the dump");
    }
    // The hashes are all that is left of credentials, and are none themselves.
    let hashes = dumped.split('\0').filter_map(|text| text.strip_prefix("hash"));
    let hashes: Vec<&str> = hashes.filter(|hash| hash.len() == 64).collect();
    assert!(hashes.len() > 2);
    for hash in hashes.iter().take(5) {
        let refused = victim.client().with_key(Some(hash)).get("/v1/whoami").await;
        refused.expect_error(401, "unauthorized");
    }
}

#[tokio::test]
async fn write_access_to_the_table_moves_edits_and_swaps_no_value_into_an_agent() {
    let (victim, thief) = (Victim::make("moved").await, Victim::make("thief").await);
    let original = row(&victim.value_key()).await;
    let own = row(&thief.value_key()).await;

    // Moved to another platform, under that platform's own key and columns.
    let mut moved = own.clone();
    moved["blob"] = original["blob"].clone();
    put(&moved).await;
    assert_eq!(thief.try_boot().await, 500, "a moved value");
    put(&own).await;

    // Edited where it lies.
    for (column, edited) in [
        ("mask", json!({ "BOOL": false })),
        ("inherit", json!({ "BOOL": false })),
        ("provider", json!({ "BOOL": true })),
        ("version", json!({ "N": "2" })),
        ("expires_at_ms", json!({ "N": "4102444800000" })),
    ] {
        let mut item = original.clone();
        assert_ne!(item[column], edited, "{column}");
        item[column] = edited;
        put(&item).await;
        assert_eq!(victim.try_boot().await, 500, "{column}");
    }

    // An earlier version under the present one's number.
    put(&original).await;
    victim.client().set_secrets(&victim.session, json!({ "TOKEN": "another value" })).await;
    let mut swapped = row(&victim.value_key()).await;
    let present = swapped.clone();
    swapped["blob"] = original["blob"].clone();
    put(&swapped).await;
    assert_eq!(victim.try_boot().await, 500, "an earlier version");

    put(&present).await;
    let agent = victim.client().boot(&victim.session, json!({})).await;
    let printed = victim.client().run(&agent, "bash", "printf %s \"$TOKEN\" | wc -c").await;
    assert_eq!(printed.trim(), "another value".len().to_string());
    victim.client().terminate(&victim.session).await;
}

#[tokio::test]
async fn write_access_to_the_table_uncovers_no_value_of_a_running_agent() {
    let victim = Victim::make("uncovered").await;
    let client = victim.client().with_key(Some(&victim.platform.test_key));
    let session = client.session("user").await;
    let value = make_canary("uncovered");
    let secrets = json!({ "TOKEN": value, "OPEN": { "value": "shown as it is", "mask": false } });
    client.set_secrets(&session, secrets).await;
    let agent = client.boot(&session, json!({})).await;
    let bare = client.boot(&session, json!({ "secrets": [] })).await;
    let of_mode = |kind: &str| format!("{}#test#{kind}", victim.platform.id);
    let key = |pk: String, sk: &str| json!({ "pk": { "S": pk }, "sk": { "S": sk } });
    let copies = async |agent: &str| {
        let pk = of_mode(&format!("{agent}#copies"));
        let query = json!({
            "TableName": TABLE, "ConsistentRead": true, "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": { ":pk": { "S": pk } },
        });
        dynamodb(&stack().dynamodb_url(), "Query", query).await["Items"].as_array().unwrap().clone()
    };
    let print = async || {
        let code = format!("# theazo:stdout a {value} b");
        let body = json!({ "language": "bash", "code": code });
        let answer = client.post(&format!("/v1/agents/{agent}/exec"), body).await;
        assert!(!answer.text.contains(&value), "the value is uncovered");
        answer
    };
    assert_eq!(print().await.expect(200)["stdout"], "a [secret:TOKEN] b\n");

    // What the agent's row lists.
    let row_key = key(of_mode("agents"), &agent);
    let good = row(&row_key).await;
    let listed = good["secrets"]["L"].as_array().unwrap();
    let token = listed.iter().position(|secret| secret["M"]["name"]["S"] == "TOKEN").unwrap();
    type Edit<'a> = &'a dyn Fn(&mut Vec<Value>);
    let edits: [(&str, Edit<'_>); 5] = [
        ("not masked", &|list| list[token]["M"]["masked"] = json!({ "BOOL": false })),
        ("not listed", &|list| drop(list.remove(token))),
        ("nothing listed", &|list| list.clear()),
        ("another version", &|list| list[token]["M"]["version"] = json!({ "N": "7" })),
        ("another name", &|list| list[token]["M"]["name"] = json!({ "S": "OTHER" })),
    ];
    for (what, edit) in edits {
        let mut edited = good.clone();
        edit(edited["secrets"]["L"].as_array_mut().unwrap());
        assert_ne!(edited, good, "{what}");
        put(&edited).await;
        print().await.expect_error(500, "internal_error");
    }

    // The same with what vouches for the list taken away, and with that of another agent, of which nothing is masked.
    let beside = copies(&agent).await;
    assert_eq!(beside.len(), 4, "copies of the value, the endpoint and its token, and what vouches for the list");
    let mut edited = good.clone();
    edited["secrets"]["L"] = json!([]);
    put(&edited).await;
    for item in &beside {
        let key = json!({ "TableName": TABLE, "Key": { "pk": item["pk"], "sk": item["sk"] } });
        dynamodb(&stack().dynamodb_url(), "DeleteItem", key).await;
    }
    print().await.expect_error(500, "internal_error");
    let mut foreign = copies(&bare).await.remove(0);
    foreign["pk"] = beside[0]["pk"].clone();
    put(&foreign).await;
    print().await.expect_error(500, "internal_error");

    put(&good).await;
    for item in &beside {
        put(item).await;
    }
    assert_eq!(print().await.expect(200)["stdout"], "a [secret:TOKEN] b\n");
    for agent in [&agent, &bare] {
        client.call("POST", &format!("/v1/agents/{agent}/terminate"), None).await.expect(200);
    }
    assert!(copies(&bare).await.is_empty(), "they go with their agent");
    client.terminate(&session).await;
    victim.client().terminate(&victim.session).await;
}

#[tokio::test]
async fn write_access_to_the_table_gives_nobody_somebody_elses_agent() {
    let (victim, thief) = (Victim::make("agent moved").await, Victim::make("agent thief").await);
    let agent = victim.client().boot(&victim.session, json!({})).await;
    let files = format!("/v1/agents/{agent}/files");
    victim.client().post(&files, json!({ "path": "/data/kept", "data": "the victim's" })).await.expect(204);
    let beside = victim.client().session("another user").await;
    let besides_token = token(victim.client(), &beside).await;
    let at = |platform: &PlatformId, mode: &str| json!({ "S": format!("{platform}#{mode}#agents") });
    // Where a session's token looks.
    let in_session = json!({ "S": format!("{}#live#{beside}#agents", victim.platform.id) });
    let key = json!({ "pk": at(&victim.platform.id, "live"), "sk": { "S": &agent } });
    let good = row(&key).await;
    let absent = AgentId::make().to_string();
    let asks = [
        ("GET", "", Value::Null),
        ("GET", "/status", Value::Null),
        ("GET", "/files/data/kept", Value::Null),
        ("GET", "/files?dir=/data", Value::Null),
        ("POST", "/files", json!({ "path": "/data/planted", "data": "runs later" })),
        ("POST", "/exec", json!({ "language": "bash", "code": "cat /data/kept" })),
        ("POST", "/ports", json!({ "port": 3000 })),
        ("POST", "/checkpoints", json!({})),
        ("POST", "/pause", Value::Null),
        ("POST", "/restart", Value::Null),
        ("POST", "/terminate", Value::Null),
    ];
    let refused = async |client: &Client, what: &str| {
        for (method, path, body) in &asks {
            let ask = async |id: &str| {
                let body = (!body.is_null()).then_some(body);
                client.call(method, &format!("/v1/agents/{id}{path}"), body).await
            };
            let (moved, absent) = (ask(&agent).await, ask(&absent).await);
            assert_eq!(moved.status, 404, "{what}: {method} {path} {moved:?}");
            assert_eq!(moved.without_request_id(), absent.without_request_id(), "{what}: {method} {path}");
        }
    };
    // To another platform, as it is and made out to a session there; to the other mode; to another session.
    let with_test_key = victim.client().with_key(Some(&victim.platform.test_key));
    for (client, place, session) in [
        (thief.client(), at(&thief.platform.id, "live"), &victim.session),
        (thief.client(), at(&thief.platform.id, "live"), &thief.session),
        (&with_test_key, at(&victim.platform.id, "test"), &victim.session),
        (&besides_token, in_session.clone(), &beside),
        (&besides_token, in_session, &victim.session),
    ] {
        let mut moved = good.clone();
        (moved["pk"], moved["session"]) = (place, json!({ "S": session }));
        put(&moved).await;
        refused(client, &moved["pk"].to_string()).await;
        let place = json!({ "pk": moved["pk"], "sk": moved["sk"] });
        dynamodb(&stack().dynamodb_url(), "DeleteItem", json!({ "TableName": TABLE, "Key": place })).await;
    }
    // In place of the thief's own, under that one's name.
    let own = thief.client().boot(&thief.session, json!({})).await;
    let own_key = json!({ "pk": at(&thief.platform.id, "live"), "sk": { "S": &own } });
    let before = row(&own_key).await;
    let mut swapped = before.clone();
    swapped["id"] = json!({ "S": &agent });
    put(&swapped).await;
    let read = thief.client().get(&format!("/v1/agents/{own}/files/data/kept")).await;
    assert_eq!(read.status, 404, "{read:?}");
    put(&before).await;

    // Among those that a session's end goes through.
    let live = json!({ "S": format!("{}#live#{}#live-agents", thief.platform.id, thief.session) });
    let mut planted = good.clone();
    (planted["pk"], planted["session"]) = (live, json!({ "S": thief.session }));
    put(&planted).await;
    for lists in [format!("/v1/sessions/{}/agents", thief.session), "/v1/agents".to_owned()] {
        let listed = thief.client().get(&lists).await.expect(200).to_string();
        assert!(listed.contains(&own) && !listed.contains(&agent), "{lists}: {listed}");
    }
    thief.client().terminate(&thief.session).await;
    let gone = json!({ "pk": planted["pk"], "sk": planted["sk"] });
    dynamodb(&stack().dynamodb_url(), "DeleteItem", json!({ "TableName": TABLE, "Key": gone })).await;

    put(&good).await;
    let read = victim.client().get(&format!("/v1/agents/{agent}/files/data/kept")).await.expect(200);
    assert_eq!(read["data"], "the victim's");
    let listed = victim.client().get(&format!("{files}?dir=/data")).await.expect(200);
    assert_eq!(listed.as_array().map(Vec::len).or(listed["data"].as_array().map(Vec::len)), Some(1), "{listed}");
    victim.client().terminate(&victim.session).await;
}

#[tokio::test]
async fn write_access_to_the_table_inserts_revives_widens_and_moves_no_credential() {
    let (victim, other) = (Victim::make("forged rows").await, Platform::make("row thief").await);
    let credential = |key: &str| {
        let hash = sha256(key);
        json!({ "pk": { "S": format!("credential#{hash}") }, "sk": { "S": "credential" } })
    };
    let refused = async |key: &str, what: &str| {
        let answer = victim.client().with_key(Some(key)).get("/v1/whoami").await;
        assert_eq!(answer.status, 401, "{what}: {answer:?}");
    };
    let good = row(&credential(&victim.platform.live_key)).await;

    // Inserted: a key of the thief's own making, with all that a good row has.
    let made = make_api_key(&victim.platform.id, Mode::Live);
    let mut inserted = good.clone();
    inserted["pk"] = credential(&made.text)["pk"].clone();
    put(&inserted).await;
    refused(&made.text, "another's row").await;
    inserted["hash"] = json!({ "S": sha256(&made.text) });
    put(&inserted).await;
    refused(&made.text, "a row with its own hash").await;

    // Moved: the thief's own good key, made out to the victim's platform or the other mode.
    let own = row(&credential(&other.test_key)).await;
    for (column, value) in [("platform", victim.platform.id.as_str()), ("mode", "live")] {
        let mut moved = own.clone();
        moved[column] = json!({ "S": value });
        put(&moved).await;
        refused(&other.test_key, column).await;
    }
    put(&own).await;

    // Revived: a revoked key, an expired one.
    let new = json!({ "name": "spare", "environment": "live", "expiresAt": "2100-01-01T00:00:00.000Z" });
    let spare = victim.client().post("/v1/api-keys", new).await.expect(201);
    let (id, spare) = (spare["id"].as_str().unwrap(), spare["key"].as_str().unwrap());
    let mut prolonged = row(&credential(spare)).await;
    prolonged["expires_at_ms"] = json!({ "N": "5102444800000" });
    let before = row(&credential(spare)).await;
    put(&prolonged).await;
    refused(spare, "prolonged").await;
    put(&before).await;
    victim.client().delete(&format!("/v1/api-keys/{id}")).await.expect(204);
    let mut revived = row(&credential(spare)).await;
    revived.as_object_mut().unwrap().remove("revoked_at_ms");
    put(&revived).await;
    refused(spare, "revived").await;
    // The whole earlier row is what no seal can tell from a present one; the README says so.
    put(&before).await;
    victim.client().with_key(Some(spare)).get("/v1/whoami").await.expect(200);

    // Widened: a token that may only read.
    let path = format!("/v1/sessions/{}/tokens", victim.session);
    let token = victim.client().post(&path, json!({ "permissions": ["read"] })).await.expect(201);
    let token = token["token"].as_str().unwrap();
    let mut widened = row(&credential(token)).await;
    widened["may_exec"] = json!({ "BOOL": true });
    put(&widened).await;
    refused(token, "widened").await;

    // The owners go on as before.
    victim.client().get("/v1/whoami").await.expect(200);
    other.client.with_key(Some(&other.test_key)).get("/v1/whoami").await.expect(200);
}
