//! Which running agents hold a value that is not the vault's of now: whom `retainedBy` names, and whom it does not. With
//! test keys, whose agents boot and end as others do.

use crate::harness::{Client, Platform};
use serde_json::{Value, json};

/// A platform's client with its test key, and a session of its own.
async fn begin(name: &str) -> (Client, String) {
    let platform = Platform::make(name).await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    (client, session)
}

async fn act(client: &Client, agent: &str, what: &str) {
    client.call("POST", &format!("/v1/agents/{agent}/{what}"), None).await.expect(200);
}

/// The entry of a name and scope in a list with details: its version, and who holds another value, sorted.
async fn holders(client: &Client, list: &str, name: &str, scope: &str) -> Option<(u64, Vec<String>)> {
    let listed = client.get(list).await.expect(200);
    let mut found = listed.as_array().unwrap().iter().filter(|entry| entry["name"] == name && entry["scope"] == scope);
    let entry = found.next()?;
    assert!(found.next().is_none(), "{name} of the {scope} is listed twice: {listed}");
    let ids = entry["retainedBy"].as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned());
    let mut ids: Vec<String> = ids.collect();
    ids.sort();
    Some((entry["version"].as_u64().unwrap(), ids))
}

fn held(version: u64, by: &[&String]) -> Option<(u64, Vec<String>)> {
    let mut ids: Vec<String> = by.iter().map(|id| (*id).clone()).collect();
    ids.sort();
    Some((version, ids))
}

#[tokio::test]
async fn whoever_booted_with_an_older_value_is_named_until_it_boots_again_and_nobody_who_has_the_newest() {
    let (client, session) = begin("retained").await;
    let list = format!("/v1/sessions/{session}/secrets?details=true");
    let token = async || holders(&client, &list, "TOKEN", "session").await;
    let set = async |value: &str| client.set_secrets(&session, json!({ "TOKEN": value })).await;
    let boot = async |body: Value| client.boot(&session, body).await;

    set("one").await;
    let first = boot(json!({})).await;
    assert_eq!(token().await, held(1, &[]), "it has the value of now");
    set("two").await;
    let (second, without) = (boot(json!({})).await, boot(json!({ "secrets": [] })).await);
    assert_eq!(token().await, held(2, &[&first]));
    set("three").await;
    let newest = boot(json!({})).await;
    assert_eq!(token().await, held(3, &[&first, &second]), "not {newest}, nor {without}, which never had any");

    act(&client, &first, "restart").await;
    assert_eq!(token().await, held(3, &[&second]));
    act(&client, &second, "pause").await;
    assert_eq!(token().await, held(3, &[]), "what is paused holds nothing");
    act(&client, &second, "resume").await;
    assert_eq!(token().await, held(3, &[]), "a resume brings the value of now");

    // Deleted, it is old to each that has it; set again, likewise, though they had the newest before.
    client.delete(&format!("/v1/sessions/{session}/secrets/token")).await.expect(204);
    assert_eq!(token().await, held(3, &[&first, &second, &newest]));
    set("four").await;
    assert_eq!(token().await, held(4, &[&first, &second, &newest]));
    act(&client, &newest, "terminate").await;
    act(&client, &first, "restart").await;
    assert_eq!(token().await, held(4, &[&second]));
    client.delete(&format!("/v1/sessions/{session}/secrets/token")).await.expect(204);
    for agent in [&first, &second] {
        act(&client, agent, "restart").await;
    }
    assert_eq!(token().await, None, "nobody has anything of it any more");
    client.terminate(&session).await;
}

#[tokio::test]
async fn a_value_of_the_platform_and_one_of_the_session_under_the_same_name_are_held_apart() {
    let (client, session) = begin("retained origins").await;
    let other = client.session("other").await;
    let own = format!("/v1/sessions/{session}/secrets?details=true");
    let with_inherited = format!("{own}&inherited=true");
    let of_session = async || holders(&client, &own, "SAME", "session").await;
    let of_platform = async || holders(&client, "/v1/secrets?details=true", "SAME", "platform").await;
    let set_for_all = async || client.post("/v1/secrets", json!({ "SAME": "platform's" })).await.expect(204);
    let set_own = async || client.set_secrets(&session, json!({ "SAME": "session's" })).await;

    set_for_all().await;
    let (inheriting, elsewhere) = (client.boot(&session, json!({})).await, client.boot(&other, json!({})).await);
    set_own().await;
    set_own().await;
    let overriding = client.boot(&session, json!({})).await;
    assert_eq!((of_platform().await, of_session().await), (held(1, &[]), held(2, &[])));

    // Versions are counted per scope: that one is 3 here and 2 there makes nobody's value old.
    set_for_all().await;
    set_for_all().await;
    assert_eq!(of_platform().await, held(3, &[&inheriting, &elsewhere]));
    assert_eq!(of_session().await, held(2, &[]));
    set_own().await;
    assert_eq!(of_platform().await, held(3, &[&inheriting, &elsewhere]));
    assert_eq!(of_session().await, held(3, &[&overriding]));

    // What is inherited again shows the holders of this session alone.
    client.delete(&format!("/v1/sessions/{session}/secrets/same")).await.expect(204);
    assert_eq!(holders(&client, &with_inherited, "SAME", "session").await, held(2, &[&overriding]));
    assert_eq!(holders(&client, &with_inherited, "SAME", "platform").await, held(3, &[&inheriting]));
    client.delete("/v1/secrets/same").await.expect(204);
    assert_eq!(of_platform().await, held(1, &[&inheriting, &elsewhere]));
    assert_eq!(holders(&client, &with_inherited, "SAME", "platform").await, held(1, &[&inheriting]));
    act(&client, &inheriting, "restart").await;
    assert_eq!(of_platform().await, held(1, &[&elsewhere]));
    assert_eq!(holders(&client, &with_inherited, "SAME", "platform").await, None);
    for session in [&session, &other] {
        client.terminate(session).await;
    }
}
