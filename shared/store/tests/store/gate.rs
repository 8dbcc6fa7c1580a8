//! A process that dies between two writes.

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::response::Response;
use std::sync::{Arc, Mutex};

/// A proxy before the table, behind which a process dies after a number of writes.
#[derive(Clone)]
pub struct Gate(Arc<GateState>);

struct GateState {
    upstream: String,
    http: reqwest::Client,
    crash: Mutex<Option<Crash>>,
}

/// Where a process dies.
#[derive(Clone, Copy, Debug)]
pub struct Crash {
    /// After that many writes.
    pub after: u32,
    /// Whether the last write still reaches the table, and only its answer is lost.
    pub reaches: bool,
}

impl Gate {
    pub async fn start(upstream: &str) -> (Self, String) {
        let state = GateState { upstream: upstream.into(), http: reqwest::Client::new(), crash: Mutex::default() };
        let gate = Self(Arc::new(state));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(pass).layer(DefaultBodyLimit::disable()).with_state(gate.clone());
        tokio::spawn(axum::serve(listener, router).into_future());
        (gate, url)
    }

    pub fn set(&self, crash: Option<Crash>) {
        *self.0.crash.lock().unwrap() = crash;
    }

    /// Whether a call reaches the table, and whether its answer comes back.
    fn admit(&self, is_write: bool) -> (bool, bool) {
        match &mut *self.0.crash.lock().unwrap() {
            None => (true, true),
            // Dead: nothing goes through any more.
            Some(Crash { after: 0, reaches }) => (is_write && std::mem::take(reaches), false),
            Some(crash) => {
                crash.after -= u32::from(is_write);
                (true, true)
            }
        }
    }
}

async fn pass(State(gate): State<Gate>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers["x-amz-target"].to_str().unwrap();
    let is_write = !["GetItem", "Query", "Scan"].iter().any(|read| target.ends_with(read));
    let (reaches, answers) = gate.admit(is_write);
    let mut answer = None;
    if reaches {
        let mut request = gate.0.http.post(&gate.0.upstream).body(body);
        for (name, value) in &headers {
            if name != "host" && name != "content-length" {
                request = request.header(name, value);
            }
        }
        let got = request.send().await.unwrap();
        answer = Some((got.status().as_u16(), got.bytes().await.unwrap()));
    }
    let dead = r#"{"__type":"com.amazonaws.dynamodb.v20120810#AccessDeniedException","message":"dead"}"#;
    let (status, body) = answer.filter(|_| answers).unwrap_or((400, dead.into()));
    let answer = Response::builder().status(status).header("content-type", "application/x-amz-json-1.0");
    answer.body(body.into()).unwrap()
}
