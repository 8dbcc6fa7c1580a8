//! The API's own description, against which every call of the tests' client is held: an answer must be as described, its
//! status among those of its route, and what was taken must be described as what may be given, in the query and in the body.

use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::sync::OnceLock;
use theazo_functions::routes::{ROUTES, Route};
use theazo_http::Pattern;

/// The one name that tests ask for to see that what no route takes is ignored.
pub const UNHEARD_OF: &str = "unknown";

struct Contract {
    document: Value,
    /// The schema of any text.
    text: Value,
}

/// A call as the client made it.
pub struct Exchange<'a> {
    pub method: &'a str,
    /// With the query, as it was sent.
    pub path: &'a str,
    pub body: Option<&'a [u8]>,
    pub status: u16,
    pub content_type: Option<&'a str>,
    pub answer: &'a str,
}

/// Panics, with what is wrong, unless the call went as described, and no function has called what its role does not grant.
pub fn check(exchange: &Exchange) {
    super::assert_roles_suffice();
    let contract = contract();
    let Exchange { method, path, status, content_type, answer, .. } = exchange;
    let Some(route) = route_of(method, path) else {
        assert_eq!(*status, 404, "{method} {path} is no route: {answer}");
        return;
    };
    let name = route.info.name;
    contract.check_query(route, path, *status, answer);
    let described = &contract.operation(route)["responses"][status.to_string()];
    assert!(!described.is_null(), "{name} answers {status}, which is not described: {answer}");
    let described = contract.resolve(described);
    match content_type {
        None => assert!(described["content"].is_null() && answer.is_empty(), "{name} {status}: {answer}"),
        Some(content_type) => {
            let content_type = content_type.split(';').next().unwrap_or_default();
            let known = &described["content"][content_type];
            assert!(!known.is_null(), "{name} answers {status} as {content_type}, which is not described");
            if content_type == "application/json" {
                let value = serde_json::from_str(answer).unwrap_or_else(|_| panic!("{name} {status}: {answer}"));
                contract.expect(&known["schema"], &value, &format!("{name} answers {status}"));
            }
        }
    }
    let taken = &contract.operation(route)["requestBody"]["content"]["application/json"]["schema"];
    // Where no body is described, one is ignored.
    if *status < 300
        && !taken.is_null()
        && let Some(body) = exchange.body.filter(|body| !body.is_empty())
        && let Ok(value) = serde_json::from_slice(body)
    {
        let wrong = theazo_openapi::conform::violations_or_unnamed(&contract.document, taken, &value);
        assert!(wrong.is_empty(), "{name} took what is not described: {wrong:#?}\n{value}");
    }
}

/// Panics unless the operation describes all that the query asks of it, for calls that are made in another way. Of an
/// answer that nobody has read yet nothing is known but its status.
pub fn check_query(method: &str, path: &str, status: u16, answer: &str) {
    super::assert_roles_suffice();
    if let Some(route) = route_of(method, path) {
        contract().check_query(route, path, status, answer);
    }
}

fn contract() -> &'static Contract {
    static CONTRACT: OnceLock<Contract> = OnceLock::new();
    CONTRACT.get_or_init(|| Contract { document: theazo_openapi::document(), text: json!({ "type": "string" }) })
}

fn route_of(method: &str, path: &str) -> Option<&'static Route> {
    let candidates: Vec<&'static Route> = ROUTES.iter().copied().filter(|route| route.info.method == method).collect();
    let raw_path = path.split('?').next().unwrap_or_default();
    Pattern::best(&candidates, |route| route.info.pattern, raw_path).map(|(route, _)| *route)
}

impl Contract {
    /// A parameter that is not described is a mistake of the description, or of the test: the API would ignore it. Unless
    /// what was answered refuses just that one, or whoever asked, to whom nothing is said of what they asked.
    fn check_query(&self, route: &Route, path: &str, status: u16, answer: &str) {
        let name = route.info.name;
        if status == 401 {
            return;
        }
        let raw = path.split_once('?').map_or("", |(_, query)| query);
        let refused = serde_json::from_str::<Value>(answer).unwrap_or_default();
        let refused = refused["error"]["details"]["field"].as_str().filter(|_| status == 400).map(str::to_owned);
        for pair in raw.split('&').filter(|pair| !pair.is_empty()) {
            let (given, value) = pair.split_once('=').unwrap_or((pair, ""));
            let decode = |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8().map(String::from);
            let (Ok(given), Ok(value)) = (decode(given), decode(value)) else {
                assert_eq!(refused.as_deref(), Some("query"), "{name}: {pair}");
                continue;
            };
            let Some(schema) = self.parameter(route, &given) else {
                let is_refused = refused.as_deref().is_some_and(|field| field == given || field == "query");
                assert!(
                    is_refused || given == UNHEARD_OF,
                    "{name} was asked for {given}, which is not described: {status}"
                );
                continue;
            };
            if status < 300 {
                let value = typed(self.resolve(schema), value);
                self.expect(schema, &value, &format!("{name} took, as {given},"));
            }
        }
    }

    /// The schema of a parameter of an operation's query, a credential among them where one may be there.
    fn parameter(&self, route: &Route, name: &str) -> Option<&Value> {
        let operation = self.operation(route);
        let described = operation["parameters"].as_array().into_iter().flatten().map(|one| self.resolve(one));
        let mut described = described.filter(|one| one["in"] == "query" && one["name"] == name);
        let ways = operation["security"].as_array().into_iter().flatten().filter_map(Value::as_object);
        let mut schemes =
            ways.flat_map(|way| way.keys()).map(|way| &self.document["components"]["securitySchemes"][way]);
        let mut is_credential = || schemes.any(|scheme| scheme["in"] == "query" && scheme["name"] == name);
        described.next().map(|one| &one["schema"]).or_else(|| is_credential().then_some(&self.text))
    }

    fn expect(&self, schema: &Value, value: &Value, what: &str) {
        let wrong = theazo_openapi::conform::violations(&self.document, schema, value);
        assert!(wrong.is_empty(), "{what} what is not described: {wrong:#?}\n{value}");
    }

    fn operation(&self, route: &Route) -> &Value {
        let path = route.info.pattern.0.replace("*}", "}");
        &self.document["paths"][path][route.info.method.to_lowercase()]
    }

    /// What a reference to a part of the document refers to.
    fn resolve<'a>(&'a self, value: &'a Value) -> &'a Value {
        match value["$ref"].as_str() {
            Some(target) => self.document.pointer(target.trim_start_matches('#')).unwrap(),
            None => value,
        }
    }
}

/// A query's text as the JSON that its schema speaks of; text where it is of another kind.
fn typed(schema: &Value, text: String) -> Value {
    match schema["type"].as_str() {
        Some("integer" | "number" | "boolean") => serde_json::from_str(&text).unwrap_or(Value::String(text)),
        _ => Value::String(text),
    }
}
