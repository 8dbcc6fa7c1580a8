//! What the command asks of the table and of the key service.

use crate::role::operators_role;
use axum::Router;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, Response};
use serde_json::Value;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

/// The actions that were asked for, as IAM names them.
#[derive(Clone, Default)]
pub struct Asked(Arc<Mutex<BTreeSet<String>>>);

impl Asked {
    /// An address in front of a service, which passes everything on and notes what it is.
    pub async fn in_front_of(&self, behind: String) -> String {
        let (asked, http) = (self.clone(), reqwest::Client::new());
        let pass = move |headers: HeaderMap, body: Bytes| {
            let (asked, behind, http) = (asked.clone(), behind.clone(), http.clone());
            async move {
                asked.note(headers["x-amz-target"].to_str().unwrap(), &serde_json::from_slice(&body).unwrap());
                pass_on(&http, &behind, &headers, body).await
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, Router::new().fallback(pass)).await });
        url
    }

    /// Of a transaction each part is asked about, and of a change of keys both ways.
    fn note(&self, target: &str, body: &Value) {
        let (service, operation) = target.split_once('.').unwrap();
        let dynamodb = |action: &str| format!("dynamodb:{action}");
        let kms = |action: &str| format!("kms:{action}");
        let actions = match (service, operation) {
            ("DynamoDB_20120810", "TransactGetItems" | "TransactWriteItems") => {
                let parts = body["TransactItems"].as_array().unwrap().iter();
                let kinds = parts.map(|part| part.as_object().unwrap().keys().next().unwrap());
                let action = |kind: &String| match kind.as_str() {
                    "ConditionCheck" => dynamodb("ConditionCheckItem"),
                    kind => dynamodb(&format!("{kind}Item")),
                };
                kinds.map(action).collect()
            }
            ("DynamoDB_20120810", operation) => vec![dynamodb(operation)],
            ("TrentService", "ReEncrypt") => vec![kms("ReEncryptFrom"), kms("ReEncryptTo")],
            ("TrentService", operation) => vec![kms(operation)],
            _ => panic!("{target} is of no service that is known here"),
        };
        self.0.lock().unwrap().extend(actions);
    }

    /// Fails if something was asked for that the operator's role does not allow.
    pub fn assert_the_role_suffices(&self) {
        let allowed = operators_role();
        let asked = self.0.lock().unwrap();
        let beyond: Vec<_> = asked.difference(&allowed).collect();
        assert!(beyond.is_empty(), "the operator's role does not allow {beyond:?}");
    }

    /// What was asked for until now.
    pub fn actions(&self) -> BTreeSet<String> {
        self.0.lock().unwrap().clone()
    }
}

/// What a service says to a request that came here in its place.
pub async fn pass_on(http: &reqwest::Client, behind: &str, headers: &HeaderMap, body: Bytes) -> Response<Body> {
    let mut request = http.post(behind).body(body);
    for name in ["content-type", "x-amz-target", "x-amz-date", "authorization"] {
        request = request.header(name, headers[name].to_str().unwrap());
    }
    let answer = request.send().await.unwrap();
    let mut passed = Response::builder().status(answer.status().as_u16());
    for name in ["content-type", "date"] {
        if let Some(value) = answer.headers().get(name) {
            passed = passed.header(name, value);
        }
    }
    passed.body(Body::from(answer.bytes().await.unwrap())).unwrap()
}
