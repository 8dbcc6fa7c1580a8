use super::*;
use std::collections::BTreeSet;

/// Every schema of the document that has an example, as a document of its own, with its examples.
fn examples(document: &Value) -> Vec<(String, Value, Vec<Value>)> {
    let schemas = document["components"]["schemas"].as_object().unwrap();
    let of = |(name, schema): (&String, &Value)| {
        let examples = schema["examples"].as_array().cloned().unwrap_or_default();
        (name.clone(), shape::component(name), examples)
    };
    schemas.iter().map(of).collect()
}

#[test]
fn what_the_gateway_itself_refuses_is_described_of_every_route() {
    let document = document();
    let template =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/src/frame/api.yaml")).unwrap();
    let statuses = template.lines().filter_map(|line| line.trim().strip_prefix("StatusCode: '")?.strip_suffix('\''));
    // What is no route, and too large a body, cannot happen to every route.
    let statuses: BTreeSet<&str> = statuses.filter(|status| !["400", "404"].contains(status)).collect();
    assert_eq!(statuses, BTreeSet::from(["429", "500", "504"]));
    for (path, operations) in document["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            for status in &statuses {
                assert!(operation["responses"][*status].is_object(), "{method} {path}: {status}");
            }
        }
    }
}

#[test]
fn every_route_is_described_and_nothing_else_is() {
    for route in ROUTES {
        let said = operations::describe(route.info.name);
        let said = said.unwrap_or_else(|| panic!("{} is not described", route.info.name));
        assert!(!said.summary.is_empty() && said.answers.len() == 1, "{}", route.info.name);
        assert!(operations::TAGS.iter().any(|(tag, _)| *tag == said.tag), "{}", said.tag);
        assert!(said.body.is_none() || route.info.method != "GET", "{}", route.info.name);
    }
    let operations: usize =
        document()["paths"].as_object().unwrap().values().map(|path| path.as_object().unwrap().len()).sum();
    assert_eq!(operations, ROUTES.len());
}

#[test]
fn what_is_referred_to_is_there_and_what_is_there_is_referred_to() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(entries) => {
                for (name, value) in entries {
                    if let ("$ref", Some(target)) = (name.as_str(), value.as_str()) {
                        found.insert(target.to_owned());
                    }
                    references(value, found);
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let document = document();
    let mut referred = BTreeSet::new();
    references(&document, &mut referred);
    let mut there = BTreeSet::new();
    for kind in ["schemas", "responses", "parameters", "headers"] {
        let names = document["components"][kind].as_object().unwrap().keys();
        there.extend(names.map(|name| format!("#/components/{kind}/{name}")));
    }
    assert_eq!(referred, there);
}

#[test]
fn every_named_schema_that_is_taken_or_given_has_an_example_that_fits_it() {
    let document = document();
    for (name, schema, examples) in examples(&document) {
        assert!(name == "Error" || !examples.is_empty(), "{name} has no example");
        for example in examples {
            assert_eq!(conform::violations(&document, &schema, &example), [""; 0], "{name}");
        }
    }
}

/// Where a reference leads; what is no reference is there already.
fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    match value["$ref"].as_str() {
        Some(target) => document.pointer(target.trim_start_matches('#')).unwrap(),
        None => value,
    }
}

/// What is wrong with the examples of a content, a parameter or a header: there is none, or one is not as described.
fn wrong_examples(document: &Value, described: &Value) -> Vec<String> {
    let schema = &described["schema"];
    let own = described.get("example").into_iter();
    let shown: Vec<&Value> =
        own.chain(resolve(document, schema)["examples"].as_array().into_iter().flatten()).collect();
    if shown.is_empty() {
        return vec!["there is no example".to_owned()];
    }
    shown.into_iter().flat_map(|example| conform::violations(document, schema, example)).collect()
}

#[test]
fn every_content_and_every_parameter_of_every_route_has_an_example_that_fits_it() {
    let document = document();
    let (mut contents, mut parameters) = (0, 0);
    for route in ROUTES {
        let (path, _) = openapi_path(route);
        let operation = &document["paths"][path][route.info.method.to_lowercase()];
        let answers = operation["responses"].as_object().unwrap().values().map(|answer| resolve(&document, answer));
        for holder in answers.chain(operation.get("requestBody")) {
            for (kind, content) in holder["content"].as_object().into_iter().flatten() {
                let wrong = wrong_examples(&document, content);
                assert!(wrong.is_empty(), "{} {kind}: {wrong:?}", route.info.name);
                contents += 1;
            }
        }
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let parameter = resolve(&document, parameter);
            let wrong = wrong_examples(&document, parameter);
            assert!(wrong.is_empty(), "{} {}: {wrong:?}", route.info.name, parameter["name"]);
            parameters += 1;
        }
    }
    // Each route refuses in some ways, and most take something.
    assert!(contents > 4 * ROUTES.len() && parameters > ROUTES.len(), "{contents} {parameters}");
}

#[test]
fn an_example_that_is_missing_or_does_not_fit_is_found() {
    let document = document();
    for (described, wrong) in [
        (json!({ "schema": shape::text() }), true),
        (json!({ "schema": shape::text(), "example": 5 }), true),
        (json!({ "schema": shape::text(), "example": "x" }), false),
        (json!({ "schema": shape::examples(shape::text(), &["x".into(), 5.into()]) }), true),
        (json!({ "schema": shape::component("Session") }), false),
        (json!({ "schema": shape::component("Error") }), true),
        (json!({ "schema": shape::component("Error"), "example": {} }), true),
    ] {
        assert_eq!(!wrong_examples(&document, &described).is_empty(), wrong, "{described}");
    }
}

#[test]
fn every_route_can_be_called_by_whom_it_is_for_in_every_way_that_is_described_and_no_other() {
    let document = document();
    let schemes = document["components"]["securitySchemes"].as_object().unwrap();
    let mut used = BTreeSet::new();
    for route in ROUTES {
        let (path, _) = openapi_path(route);
        let operation = &document["paths"][path][route.info.method.to_lowercase()];
        let ways = operation["security"].as_array().unwrap().iter().map(|way| way.as_object().unwrap());
        let ways: BTreeSet<&str> = ways.flat_map(|way| way.keys()).map(String::as_str).collect();
        used.extend(ways.iter().copied());
        let has = |caller: Caller| route.info.callers.contains(&caller);
        let is_stream = route.info.name.ends_with("logs-stream");
        for (scheme, is_way) in [
            ("platformKey", has(Caller::Platform)),
            ("sessionToken", has(Caller::Session)),
            ("sessionTokenInQuery", is_stream && has(Caller::Session)),
        ] {
            assert_eq!(ways.contains(scheme), is_way, "{} {scheme}", route.info.name);
        }
    }
    assert_eq!(used, schemes.keys().map(String::as_str).collect());
}

#[test]
fn what_is_not_as_described_is_found() {
    let document = document();
    let schema = shape::component("Session");
    let session = document["components"]["schemas"]["Session"]["examples"][0].clone();
    for (field, wrong) in [
        ("id", json!("agt_01jd9s6q0f3v8x2n4m5k7h9tbc")),
        ("status", json!("gone")),
        ("userId", json!(5)),
        ("limits", json!({ "maxAgents": -1 })),
        ("limits", json!({ "maxAgents": 1.5 })),
        ("limits", json!({ "maxCost": { "amount": 5 } })),
        ("metadata", json!({ "a": 1 })),
        ("more", json!("than is described")),
    ] {
        let mut given = session.clone();
        given[field] = wrong;
        assert_eq!(conform::violations(&document, &schema, &given).len(), 1, "{given}");
    }
    let mut given = session;
    given.as_object_mut().unwrap().remove("userId");
    assert_eq!(conform::violations(&document, &schema, &given).len(), 1, "{given}");
}

#[test]
fn streams_list_what_they_heed_and_say_how_they_end() {
    let document = document();
    let of = |path: &str| document["paths"][path]["get"].clone();
    let (all, agents) = (of("/v1/logs/stream"), of("/v1/agents/{id}/logs/stream"));
    let parameters = |operation: &Value| -> BTreeSet<String> {
        let listed = operation["parameters"].as_array().unwrap().iter();
        listed.filter_map(|parameter| parameter["name"].as_str().map(str::to_owned)).collect()
    };
    for name in ["sessionId", "agentId"] {
        assert!(parameters(&all).contains(name) && !parameters(&agents).contains(name), "{name}");
    }
    for operation in [all, agents] {
        for name in ["level", "search", "since", "Last-Event-ID"] {
            assert!(parameters(&operation).contains(name), "{name}");
        }
        let said = operation["description"].as_str().unwrap();
        for told in [
            "time_limit",
            "size_limit",
            "slow_reader",
            "credential",
            "unavailable",
            "2 s",
            "13 s",
            "15 s",
            "without an `id`",
        ] {
            assert!(said.contains(told), "{told}: {said}");
        }
    }
}

/// What routes take of a query only to refuse it by its name; nobody is to be told to send it.
const REFUSED_BY_NAME: [(&str, &str); 2] = [("logs-stream", "until"), ("agents-logs-stream", "until")];

#[test]
fn what_is_described_of_each_routes_query_is_what_its_handler_is_given_of_it() {
    let document = document();
    let mut with_a_query = 0;
    for route in ROUTES {
        let (path, _) = openapi_path(route);
        let listed = document["paths"][path][route.info.method.to_lowercase()]["parameters"].as_array().cloned();
        let listed = listed.unwrap_or_default();
        let described: Vec<&str> = listed
            .iter()
            .filter(|parameter| parameter["in"] == "query")
            .map(|parameter| parameter["name"].as_str().unwrap())
            .collect();
        let refused = |name: &&str| REFUSED_BY_NAME.contains(&(route.info.name, *name));
        let given: Vec<&str> = route.info.query.iter().copied().filter(|name| !refused(name)).collect();
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        assert_eq!(set(&described), set(&given), "{}", route.info.name);
        assert_eq!((described.len(), given.len()), (set(&described).len(), set(&given).len()), "{}", route.info.name);
        with_a_query += usize::from(!described.is_empty());
    }
    assert_eq!(with_a_query, 19);
    for (name, parameter) in REFUSED_BY_NAME {
        let route = ROUTES.iter().find(|route| route.info.name == name).unwrap();
        assert!(route.info.query.contains(&parameter), "{name} {parameter}");
    }
}

#[test]
fn the_checked_in_document_is_that_of_this_code() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../openapi.json");
    let checked_in = std::fs::read_to_string(path).unwrap();
    assert!(checked_in == document_text(), "run `cargo dev openapi` and check infra/openapi.json in");
}
