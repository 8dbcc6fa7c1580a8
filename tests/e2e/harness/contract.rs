//! The API's own description, against which every call of the tests' client is held: an answer must be as described, its
//! status among those of its route, and what was taken must be described as what may be given.

use serde_json::Value;
use std::sync::OnceLock;
use theazo_functions::routes::{ROUTES, Route};
use theazo_http::Pattern;

struct Contract {
    document: Value,
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

/// Panics, with what is wrong, unless the call went as described.
pub fn check(exchange: &Exchange) {
    static CONTRACT: OnceLock<Contract> = OnceLock::new();
    let contract = CONTRACT.get_or_init(|| Contract { document: theazo_openapi::document() });
    let Exchange { method, path, status, content_type, answer, .. } = exchange;
    let candidates: Vec<&'static Route> = ROUTES.iter().copied().filter(|route| route.info.method == *method).collect();
    let raw_path = path.split('?').next().unwrap_or_default();
    let Some((route, _)) = Pattern::best(&candidates, |route| route.info.pattern, raw_path) else {
        assert_eq!(*status, 404, "{method} {path} is no route: {answer}");
        return;
    };
    let name = route.info.name;
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
        contract.expect(taken, &value, &format!("{name} took"));
    }
}

impl Contract {
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
