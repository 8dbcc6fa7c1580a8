//! What a body may say: each field that the description names is read by its route, within the bounds that it names. (That
//! what a route takes is described, the tests' client checks of every call.)

use crate::harness::{Answer, Client, Platform};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use theazo_openapi::conform::violations;
use theazo_tenancy::KeyId;

/// What may be any JSON at all.
const ANYTHING: [&str; 3] = ["agents-create tools", "sandbox-complete artifacts", "sandbox-complete output"];

/// A text that may be too long for the body that it is in, bytes.
const LONG: usize = 64 * 1024;

/// A field that is described: where it is in the body, its schema, and a body around it that is in order.
struct Field {
    path: Vec<String>,
    schema: Value,
    around: Value,
}

struct Description(Value);

impl Description {
    /// What a schema says with what it refers to, and the one of several that is not about `null`.
    fn resolve(&self, schema: &Value) -> Value {
        if let Some(target) = schema["$ref"].as_str() {
            return self.resolve(&self.0.pointer(target.trim_start_matches('#')).unwrap().clone());
        }
        let ways = ["anyOf", "oneOf"].iter().filter_map(|way| schema[*way].as_array()).flatten();
        let mut ways: Vec<_> = ways.filter(|way| way["type"] != "null").collect();
        match ways.len() {
            0 => schema.clone(),
            1 => self.resolve(ways.remove(0)),
            // An object among them has the fields.
            _ => ways.iter().find(|way| way["properties"].is_object()).map_or(schema.clone(), |way| self.resolve(way)),
        }
    }

    /// Something that a schema takes.
    fn valid(&self, schema: &Value) -> Value {
        let schema = self.resolve(schema);
        if let Some(first) = schema["enum"].get(0).or_else(|| schema["examples"].get(0)) {
            return first.clone();
        }
        let kinds = &schema["type"];
        match kinds.as_str().or_else(|| kinds[0].as_str()) {
            Some("object") => {
                let needed = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
                let needed = needed.map(|name| (name.to_owned(), self.valid(&schema["properties"][name])));
                needed.collect::<Map<_, _>>().into()
            }
            Some("string") => "A".into(),
            Some("integer" | "number") => schema["minimum"].as_i64().unwrap_or(1).into(),
            other => panic!("nothing is known that is a {other:?}"),
        }
    }

    /// Every field beneath a schema, itself a field unless it is the body.
    fn fields(&self, schema: &Value, path: &[String], around: &Value, found: &mut Vec<Field>) {
        if !path.is_empty() {
            found.push(Field { path: path.to_vec(), schema: schema.clone(), around: around.clone() });
        }
        let resolved = self.resolve(schema);
        for (name, schema) in resolved["properties"].as_object().into_iter().flatten() {
            let path: Vec<String> = path.iter().chain([name]).cloned().collect();
            let mut around = around.clone();
            for depth in 1..path.len() {
                let parent = at(&mut around, &path[..depth]);
                if !parent.is_object() {
                    *parent = self.valid(&resolved);
                }
            }
            self.fields(schema, &path, &around, found);
        }
    }

    /// Values that a schema refuses: of another type, and of the right one beyond each bound that it names.
    fn refused(&self, schema: &Value) -> Vec<Value> {
        let resolved = self.resolve(schema);
        let beyond = |bound: &str, by: i64| resolved[bound].as_i64().map(|bound| json!(bound + by));
        let longer = resolved["maxLength"].as_u64().map(|most| "x".repeat(usize::try_from(most).unwrap() + 1));
        let many = resolved["maxItems"].as_u64().map(|most| {
            let item = self.resolve(&resolved["items"])["enum"].get(0).cloned().unwrap_or(json!("A"));
            json!(vec![item; usize::try_from(most).unwrap() + 1])
        });
        let few = resolved["minItems"].as_u64().map(|_| json!([]));
        let of_type = [json!(true), json!({ "!": [] }), json!(5.5)].into_iter().take(2);
        let candidates =
            of_type.chain([json!("!"), json!("")]).chain(beyond("maximum", 1)).chain(beyond("minimum", -1));
        let candidates = candidates.chain(longer.map(Value::from)).chain(many).chain(few);
        candidates.filter(|value| !violations(&self.0, schema, value).is_empty()).collect()
    }
}

fn at<'a>(value: &'a mut Value, path: &[String]) -> &'a mut Value {
    path.iter().fold(value, |value, name| &mut value[name.as_str()])
}

/// The provider that takes a field of a configuration, and a configuration of it that is in order.
fn configured(name: &str) -> (&'static str, Value) {
    match name {
        "config.image" | "config.draining" => ("docker", json!({ "image": "a" })),
        "config.organization" | "config.region" => ("fly", json!({ "image": "a", "organization": "o" })),
        _ => ("e2b", json!({})),
    }
}

/// An agent may report so much a second.
async fn patiently(client: &Client, method: &str, path: &str, body: &Value) -> Answer {
    for _ in 0..20 {
        let answer = client.call(method, path, Some(body)).await;
        if answer.status != 429 {
            return answer;
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    panic!("{path} is refused for its rate all the time");
}

#[tokio::test]
async fn every_field_that_is_described_is_read_by_its_route_and_refused_by_its_name_when_it_is_wrong() {
    let platform = Platform::make("bodies").await;
    let client = &platform.client;
    let session = client.session("u").await;
    let agent = client.boot(&session, json!({})).await;
    let token = client.steal_token(&agent).await;
    let description = Description(Client::new(client.base(), None).get("/v1/openapi.json").await.expect(200));
    let (mut tried, mut anything) = (0, BTreeSet::new());
    for (pattern, operations) in description.0["paths"].as_object().unwrap() {
        let id = match pattern.split('/').nth(2) {
            Some("sessions") => session.clone(),
            Some("agents") => agent.clone(),
            _ => KeyId::make().to_string(),
        };
        let path = pattern.replace("{id}", &id).replace("{userId}", "u").replace("{token}", &token);
        for (method, operation) in operations.as_object().unwrap() {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            if schema.is_null() {
                continue;
            }
            let example = description.resolve(schema)["examples"][0].clone();
            let mut fields = Vec::new();
            description.fields(schema, &[], &example, &mut fields);
            for Field { path: place, schema, around } in fields {
                let name = place.join(".");
                let refused = description.refused(&schema);
                if refused.is_empty() {
                    anything.insert(format!("{} {name}", operation["operationId"].as_str().unwrap()));
                }
                let (provider, config) = configured(&name);
                let path = path.replace("{provider}", provider);
                for value in refused {
                    let mut body = around.clone();
                    for (field, own) in [("sessionId", &session), ("agentId", &agent)] {
                        if body[field].is_string() {
                            body[field] = json!(own);
                        }
                    }
                    if place.len() > 1 && place[0] == "config" {
                        body["config"] = config.clone();
                    }
                    *at(&mut body, &place) = value.clone();
                    let answer = patiently(client, &method.to_uppercase(), &path, &body).await;
                    let named = answer.expect_error(400, "invalid_request")["details"]["field"].clone();
                    let named = named.as_str().unwrap();
                    // Of an object it may be a part that is wrong, and of the longest texts the body.
                    let is_part = named.starts_with(&format!("{name}.")) && value.is_object();
                    let is_whole = named == "body" && value.as_str().is_some_and(|text| text.len() > LONG);
                    assert!(named == name || is_part || is_whole, "{method} {pattern} {name}: {named}");
                    tried += 1;
                }
            }
        }
    }
    assert_eq!(anything, BTreeSet::from(ANYTHING.map(str::to_owned)));
    assert!(tried > 300, "{tried}");
    client.terminate(&session).await;
}
