//! What a query may ask for: what the description names, and what a handler looks at, are the same.

use crate::harness::{Client, Platform};
use serde_json::json;
use std::collections::BTreeSet;
use theazo_tenancy::KeyId;

/// What no such parameter can be. Most have a form; of those that take any text, one that is too long.
fn wrong(parameter: &str) -> String {
    match parameter {
        "search" => "x".repeat(257),
        "userId" => "x".repeat(513),
        "dir" => "/a%00b".to_owned(),
        _ => "!".to_owned(),
    }
}

#[tokio::test]
async fn every_parameter_that_is_described_is_read_by_its_route_and_refused_by_its_name_when_it_is_wrong() {
    let platform = Platform::make("queries").await;
    let client = platform.client.with_key(Some(&platform.test_key));
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let document = Client::new(client.base(), None).get("/v1/openapi.json").await.expect(200);
    let mut tried = BTreeSet::new();
    for (pattern, operations) in document["paths"].as_object().unwrap() {
        let id = match pattern.split('/').nth(2) {
            Some("sessions") => session.clone(),
            Some("agents") => agent.clone(),
            _ => KeyId::make().to_string(),
        };
        let path = pattern.replace("{id}", &id).replace("{userId}", "u").replace("{path}", "data/x");
        for (method, operation) in operations.as_object().unwrap() {
            let parameters = operation["parameters"].as_array().into_iter().flatten();
            let parameters: Vec<_> = parameters.filter(|one| one["in"] == "query").collect();
            for parameter in &parameters {
                let name = parameter["name"].as_str().unwrap();
                // What has to be there beside it is there, and in order.
                let others = parameters.iter().filter(|other| other["required"] == true && other["name"] != name);
                let others = others.map(|other| {
                    let first = other["schema"]["enum"][0].as_str().unwrap();
                    format!("{}={first}&", other["name"].as_str().unwrap())
                });
                let query = format!("{}{name}={}", others.collect::<String>(), wrong(name));
                let answer = client.call(&method.to_uppercase(), &format!("{path}?{query}"), None).await;
                let error = answer.expect_error(400, "invalid_request");
                assert_eq!(error["details"]["field"], name, "{method} {path}?{query}: {error}");
                tried.insert((operation["operationId"].clone().to_string(), name.to_owned()));
            }
        }
    }
    assert!(tried.len() > 50, "{tried:?}");
    client.terminate(&session).await;
}
