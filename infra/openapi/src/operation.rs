//! What is said of one route beyond what the route table says.

use crate::shape::{between, component, example, text};
use serde_json::{Value, json};
use theazo_http::ErrorCode;

/// A route's description.
pub struct Operation {
    pub(crate) tag: &'static str,
    pub(crate) summary: &'static str,
    pub(crate) description: &'static str,
    pub(crate) query: Vec<Value>,
    pub(crate) headers: Vec<Value>,
    pub(crate) body: Option<(Value, bool)>,
    pub(crate) answers: Vec<(u16, Given)>,
    pub(crate) errors: Vec<ErrorCode>,
}

/// Server-Sent Events. As is the custom before OpenAPI 3.2, their schema is that of each event.
const EVENTS: &str = "text/event-stream";

/// What an answer holds.
pub(crate) enum Given {
    Nothing,
    Json(Value),
    /// JSON, or something of another type.
    Either(Value, &'static str, Value),
    Events,
    Page,
}

impl Operation {
    pub(crate) fn new(tag: &'static str, summary: &'static str) -> Self {
        let (query, headers, answers, errors) = Default::default();
        Self { tag, summary, description: "", query, headers, body: None, answers, errors }
    }

    /// Says more.
    pub(crate) fn more(self, description: &'static str) -> Self {
        Self { description, ..self }
    }

    /// Takes a parameter in its query.
    pub(crate) fn query(mut self, name: &str, schema: Value, about: &str) -> Self {
        self.query.push(json!({ "name": name, "in": "query", "description": about, "schema": schema }));
        self
    }

    /// Takes a parameter in its query that must be there.
    pub(crate) fn required_query(mut self, name: &str, schema: Value, about: &str) -> Self {
        self.query
            .push(json!({ "name": name, "in": "query", "description": about, "required": true, "schema": schema }));
        self
    }

    /// Takes the query's parameters of a list.
    pub(crate) fn paged(self) -> Self {
        self.query("limit", between(1, 100), "How many a page holds at most.").query(
            "cursor",
            text(),
            "The last page's `cursor`, under the same filters.",
        )
    }

    /// Takes a header.
    pub(crate) fn header(mut self, name: &str, schema: Value, about: &str) -> Self {
        self.headers.push(json!({ "name": name, "in": "header", "description": about, "schema": schema }));
        self
    }

    /// Takes a body.
    pub(crate) fn body(self, schema: Value) -> Self {
        Self { body: Some((schema, true)), ..self }
    }

    /// Takes a body that may be absent.
    pub(crate) fn body_if_any(self, schema: Value) -> Self {
        Self { body: Some((schema, false)), ..self }
    }

    /// Answers with JSON.
    pub(crate) fn gives(mut self, status: u16, schema: Value) -> Self {
        self.answers.push((status, Given::Json(schema)));
        self
    }

    /// Answers with JSON or with text of another type, of which an example is given.
    pub(crate) fn gives_or(self, schema: Value, content_type: &'static str, shown: &'static str) -> Self {
        self.gives_either(schema, content_type, example(text(), json!(shown)))
    }

    /// Answers with JSON or with Server-Sent Events.
    pub(crate) fn gives_or_events(self, schema: Value, event: Value) -> Self {
        self.gives_either(schema, EVENTS, event)
    }

    fn gives_either(mut self, schema: Value, other: &'static str, of_other: Value) -> Self {
        self.answers.push((200, Given::Either(schema, other, of_other)));
        self
    }

    /// Answers with 204.
    pub(crate) fn gives_nothing(mut self) -> Self {
        self.answers.push((204, Given::Nothing));
        self
    }

    /// Answers with Server-Sent Events.
    pub(crate) fn gives_events(mut self) -> Self {
        self.answers.push((200, Given::Events));
        self
    }

    /// Answers with a page for a browser.
    pub(crate) fn gives_page(mut self) -> Self {
        self.answers.push((200, Given::Page));
        self
    }

    /// Refuses in these ways, beyond those of every route.
    pub(crate) fn refuses(mut self, codes: &[ErrorCode]) -> Self {
        self.errors.extend_from_slice(codes);
        self
    }
}

impl Given {
    pub(crate) fn content(&self) -> Option<Value> {
        match self {
            Self::Nothing => None,
            Self::Json(schema) => Some(json!({ "application/json": { "schema": schema } })),
            Self::Either(schema, other, of_other) => Some(json!({
                "application/json": { "schema": schema },
                *other: { "schema": of_other },
            })),
            Self::Events => Some(json!({ EVENTS: { "schema": component("LogEvent") } })),
            Self::Page => Some(json!({ "text/html": { "schema": example(text(), json!("<!doctype html>...")) } })),
        }
    }
}
