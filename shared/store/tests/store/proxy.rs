//! A proxy before a service that speaks AWS JSON: counts operations, and answers some of them itself.

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::response::Response;
use std::sync::{Arc, Mutex};
use tokio::net::TcpListener;

/// What happens to the next calls of an operation.
#[derive(Clone)]
pub struct Fault {
    /// For example `TransactWriteItems`.
    pub operation: &'static str,
    /// How many calls.
    pub times: usize,
    /// Whether the service gets the call all the same, so that only its answer is lost.
    pub forward: bool,
    /// The answer's status.
    pub status: u16,
    /// The answer's body.
    pub body: String,
}

pub struct Proxy {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    calls: Mutex<Vec<(String, Bytes)>>,
    fault: Mutex<Option<Fault>>,
}

impl Proxy {
    pub async fn start(upstream: &str) -> Self {
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            http: reqwest::Client::new(),
            calls: Mutex::default(),
            fault: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer).layer(DefaultBodyLimit::disable());
        tokio::spawn(axum::serve(listener, router.with_state(shared.clone())).into_future());
        Self { url, shared }
    }

    pub fn inject(&self, fault: Fault) {
        *self.shared.fault.lock().unwrap() = Some(fault);
    }

    /// The bodies of an operation's calls, in the order they came.
    pub fn calls(&self, operation: &str) -> Vec<serde_json::Value> {
        let calls = self.shared.calls.lock().unwrap();
        let of_it = calls.iter().filter(|(name, _)| name == operation);
        of_it.map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
    }

    /// How often any operation was called.
    pub fn count(&self) -> usize {
        self.shared.calls.lock().unwrap().len()
    }
}

impl Shared {
    fn fault_of(&self, operation: &str) -> Option<Fault> {
        let mut fault = self.fault.lock().unwrap();
        let fault = fault.as_mut().filter(|fault| fault.operation == operation && fault.times > 0)?;
        fault.times -= 1;
        Some(fault.clone())
    }

    async fn forward(&self, headers: HeaderMap, body: Bytes) -> Response {
        let mut request = self.http.post(&self.upstream).body(body);
        for (name, value) in &headers {
            if name != "host" && name != "content-length" {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await.unwrap();
        respond(answer.status().as_u16(), answer.bytes().await.unwrap())
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers["x-amz-target"].to_str().unwrap();
    let operation = target.rsplit('.').next().unwrap().to_owned();
    shared.calls.lock().unwrap().push((operation.clone(), body.clone()));
    match shared.fault_of(&operation) {
        None => shared.forward(headers, body).await,
        Some(fault) => {
            if fault.forward {
                let _ = shared.forward(headers, body).await;
            }
            respond(fault.status, fault.body.into())
        }
    }
}

fn respond(status: u16, body: Bytes) -> Response {
    let answer = Response::builder().status(status).header("content-type", "application/x-amz-json-1.0");
    answer.body(Body::from(body)).unwrap()
}
