//! A proxy before a service that speaks AWS JSON: counts operations, and answers some of them itself.

use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, State};
use axum::http::HeaderMap;
use axum::response::Response;
use std::sync::{Arc, Mutex};
use std::time::Duration;
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

/// Changes the body of an operation's call before the service gets it.
pub type Edit = fn(operation: &str, body: &mut serde_json::Value);

pub struct Proxy {
    pub url: String,
    shared: Arc<Shared>,
}

struct Shared {
    upstream: String,
    http: reqwest::Client,
    calls: Mutex<Vec<(String, Bytes)>>,
    answers: Mutex<Vec<(String, Bytes)>>,
    fault: Mutex<Option<Fault>>,
    /// Calls of the fault's operation that go through before.
    spared: Mutex<usize>,
    /// Writes that are let through from now on, if they are bounded.
    writes_left: Mutex<Option<usize>>,
    edit: Mutex<Option<Edit>>,
    delay: Mutex<Duration>,
}

impl Proxy {
    pub async fn start(upstream: &str) -> Self {
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            http: reqwest::Client::new(),
            calls: Mutex::default(),
            answers: Mutex::default(),
            fault: Mutex::default(),
            spared: Mutex::default(),
            writes_left: Mutex::default(),
            edit: Mutex::default(),
            delay: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let router = axum::Router::new().fallback(answer).layer(DefaultBodyLimit::disable());
        tokio::spawn(axum::serve(listener, router.with_state(shared.clone())).into_future());
        Self { url, shared }
    }

    pub fn inject(&self, fault: Fault) {
        self.inject_after(0, fault);
    }

    /// The same, when so many calls of the operation have gone through.
    pub fn inject_after(&self, spared: usize, fault: Fault) {
        *self.shared.spared.lock().unwrap() = spared;
        *self.shared.fault.lock().unwrap() = Some(fault);
    }

    /// Lets everything through from now on.
    pub fn mend(&self) {
        *self.shared.fault.lock().unwrap() = None;
        self.delay(Duration::ZERO);
    }

    /// Edits every call from now on, or none.
    pub fn edit(&self, edit: Option<Edit>) {
        *self.shared.edit.lock().unwrap() = edit;
    }

    /// Keeps every call waiting that long from now on.
    pub fn delay(&self, delay: Duration) {
        *self.shared.delay.lock().unwrap() = delay;
    }

    /// The bodies of an operation's calls as they came, in their order.
    pub fn calls(&self, operation: &str) -> Vec<serde_json::Value> {
        bodies(&self.shared.calls, operation)
    }

    /// The bodies of the service's own answers to an operation.
    pub fn answers(&self, operation: &str) -> Vec<serde_json::Value> {
        bodies(&self.shared.answers, operation)
    }

    /// Lets so many writes through, whatever their kind, and refuses all that follow.
    pub fn allow_writes(&self, writes: usize) {
        *self.shared.writes_left.lock().unwrap() = Some(writes);
    }

    /// How often any operation was called.
    pub fn count(&self) -> usize {
        self.shared.calls.lock().unwrap().len()
    }
}

fn bodies(of: &Mutex<Vec<(String, Bytes)>>, operation: &str) -> Vec<serde_json::Value> {
    let all = of.lock().unwrap();
    let of_it = all.iter().filter(|(name, _)| name == operation);
    of_it.map(|(_, body)| serde_json::from_slice(body).unwrap()).collect()
}

impl Shared {
    fn is_cut(&self, operation: &str) -> bool {
        const WRITES: [&str; 5] = ["TransactWriteItems", "BatchWriteItem", "PutItem", "UpdateItem", "DeleteItem"];
        let is_write = WRITES.contains(&operation);
        match &mut *self.writes_left.lock().unwrap() {
            Some(0) => is_write,
            Some(left) => {
                *left -= usize::from(is_write);
                false
            }
            None => false,
        }
    }

    fn fault_of(&self, operation: &str) -> Option<Fault> {
        let mut fault = self.fault.lock().unwrap();
        let fault = fault.as_mut().filter(|fault| fault.operation == operation && fault.times > 0)?;
        let mut spared = self.spared.lock().unwrap();
        if *spared > 0 {
            *spared -= 1;
            return None;
        }
        fault.times -= 1;
        Some(fault.clone())
    }

    async fn forward(&self, operation: &str, headers: HeaderMap, body: Bytes) -> Response {
        let edit = *self.edit.lock().unwrap();
        let body = match edit {
            None => body,
            Some(edit) => {
                let mut value = serde_json::from_slice(&body).unwrap();
                edit(operation, &mut value);
                value.to_string().into()
            }
        };
        let mut request = self.http.post(&self.upstream).body(body);
        for (name, value) in &headers {
            if name != "host" && name != "content-length" {
                request = request.header(name, value);
            }
        }
        let answer = request.send().await.unwrap();
        let (status, body) = (answer.status().as_u16(), answer.bytes().await.unwrap());
        self.answers.lock().unwrap().push((operation.to_owned(), body.clone()));
        respond(status, body)
    }
}

async fn answer(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: Bytes) -> Response {
    let target = headers["x-amz-target"].to_str().unwrap();
    let operation = target.rsplit('.').next().unwrap().to_owned();
    shared.calls.lock().unwrap().push((operation.clone(), body.clone()));
    let delay = *shared.delay.lock().unwrap();
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    if shared.is_cut(&operation) {
        return respond(400, r#"{"__type":"com.amazonaws.dynamodb.v20120810#AccessDeniedException"}"#.into());
    }
    match shared.fault_of(&operation) {
        None => shared.forward(&operation, headers, body).await,
        Some(fault) => {
            if fault.forward {
                let _ = shared.forward(&operation, headers, body).await;
            }
            respond(fault.status, fault.body.into())
        }
    }
}

fn respond(status: u16, body: Bytes) -> Response {
    let answer = Response::builder().status(status).header("content-type", "application/x-amz-json-1.0");
    answer.body(Body::from(body)).unwrap()
}
