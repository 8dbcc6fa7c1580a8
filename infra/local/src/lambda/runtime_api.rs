//! One function's process, and the Runtime API that it polls for events
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html>), as an extension inside of it may too
//! (<https://docs.aws.amazon.com/lambda/latest/dg/runtimes-extensions-api.html>).

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::Response;
use axum::routing::{get, post};
use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

/// How long a function may take to its first poll. Lambda gives ten seconds.
const INIT_LIMIT: Duration = Duration::from_secs(10);
const FUNCTION_ARN: &str = "arn:aws:lambda:us-east-1:000000000000:function:local";
const TRACE: &str = "Root=1-00000000-000000000000000000000000;Sampled=0";
const EXTENSION_ID: &str = "00000000-0000-4000-8000-000000000001";

/// A function that did not do what Lambda expects.
#[derive(Debug, thiserror::Error)]
pub enum LambdaError {
    /// Its process or the API for it cannot be started.
    #[error("{what} cannot be started: {source}")]
    Start {
        /// What.
        what: String,
        /// Why.
        source: std::io::Error,
    },
    /// It has not polled in time.
    #[error("{0} did not ask for its first event within {INIT_LIMIT:?}, or has ended")]
    Init(String),
    /// It ended, or did not answer before the deadline.
    #[error("{0} did not answer before the deadline, or has ended")]
    NoAnswer(String),
}

/// What came of an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// An answer.
    Answered {
        /// The whole body.
        body: Bytes,
        /// Whether it was sent as a stream: a head in JSON, eight zero bytes, and the answer's own body.
        streamed: bool,
        /// In how many pieces it came.
        pieces: usize,
    },
    /// The function said that it failed.
    Failed(Bytes),
}

/// An event under way.
struct Invocation {
    id: String,
    event: Bytes,
    deadline_ms: u128,
    waiting: Waiting,
}

/// Whoever sent an event and waits for what comes of it.
struct Waiting {
    outcome: oneshot::Sender<Outcome>,
    /// Pieces of the answer's body, as they arrive.
    pieces: mpsc::UnboundedSender<Bytes>,
}

/// What the API's handlers share.
struct Shared {
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<Invocation>>,
    /// The event that the function works on. A process works on one at a time.
    now: Mutex<Option<(String, Waiting)>>,
    /// When it asked for an event first.
    polled: watch::Sender<Option<Instant>>,
    /// Whether it waits for an event, so that Lambda would freeze it.
    waits: watch::Sender<bool>,
    extension: Extension,
}

/// The extension inside the function, where it has one. Lambda tells it of every event, and counts on it to ask for the next.
struct Extension {
    registered: AtomicBool,
    events: mpsc::UnboundedSender<Value>,
    queue: tokio::sync::Mutex<mpsc::UnboundedReceiver<Value>>,
    waits: watch::Sender<bool>,
}

/// A running function. Its process is killed when this is dropped.
pub struct Bootstrap {
    name: String,
    child: Child,
    events: mpsc::UnboundedSender<Invocation>,
    init: Duration,
    limit: Duration,
    serving: JoinHandle<()>,
    shared: Arc<Shared>,
    made: AtomicU64,
}

impl Bootstrap {
    /// Starts a function's binary with those variables and no others, and waits until it asks for its first event. An
    /// event may take it as long as `limit`.
    ///
    /// # Errors
    /// [`LambdaError::Start`]; [`LambdaError::Init`].
    pub async fn start(
        binary: PathBuf,
        environment: &[(String, String)],
        limit: Duration,
    ) -> Result<Self, LambdaError> {
        let name = binary.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let fail = |source| LambdaError::Start { what: binary.display().to_string(), source };
        let listener = TcpListener::bind("127.0.0.1:0").await.map_err(fail)?;
        let address = listener.local_addr().map_err(fail)?;
        let (events, queue) = mpsc::unbounded_channel();
        let (polled, mut has_polled) = watch::channel(None);
        let (to_extension, extension_queue) = mpsc::unbounded_channel();
        let extension = Extension {
            registered: AtomicBool::new(false),
            events: to_extension,
            queue: tokio::sync::Mutex::new(extension_queue),
            waits: watch::Sender::new(false),
        };
        let shared = Arc::new(Shared {
            events: tokio::sync::Mutex::new(queue),
            now: Mutex::default(),
            polled,
            waits: watch::Sender::new(false),
            extension,
        });
        let router = router(shared.clone());
        let serving = tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "the Runtime API stopped");
            }
        });
        let mut command = Command::new(&binary);
        command
            .env_clear()
            .env("AWS_LAMBDA_RUNTIME_API", address.to_string())
            .env("AWS_LAMBDA_FUNCTION_NAME", &name)
            .env("AWS_LAMBDA_FUNCTION_VERSION", "$LATEST")
            .env("AWS_LAMBDA_FUNCTION_MEMORY_SIZE", "256")
            .env("AWS_LAMBDA_LOG_GROUP_NAME", format!("/theazo/local/{name}"))
            .env("AWS_LAMBDA_LOG_STREAM_NAME", "local")
            .envs(environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .kill_on_drop(true);
        let started = Instant::now();
        let child = command.spawn().map_err(fail)?;
        let first = tokio::time::timeout(INIT_LIMIT, has_polled.wait_for(Option::is_some)).await;
        let Ok(Ok(first)) = first.map(|waited| waited.map(|first| *first)) else {
            serving.abort();
            return Err(LambdaError::Init(name));
        };
        let init = first.unwrap_or_else(Instant::now).duration_since(started);
        Ok(Self { name, child, events, init, limit, serving, shared, made: 0.into() })
    }

    /// From the start of the process to its first poll.
    pub fn init(&self) -> Duration {
        self.init
    }

    /// Memory of the process that is in use now, bytes, as Linux counts it.
    pub fn resident_bytes(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()?)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? * 1024)
    }

    /// Sends an event, and waits for what comes of it, to the deadline that the function is told.
    ///
    /// # Errors
    /// [`LambdaError::NoAnswer`].
    pub async fn invoke(&self, event: &Value) -> Result<Outcome, LambdaError> {
        let (outcome, _) = self.send(event)?;
        let answered = tokio::time::timeout(self.limit, outcome).await;
        let gone = || LambdaError::NoAnswer(self.name.clone());
        answered.map_err(|_| gone())?.map_err(|_| gone())
    }

    /// Sends an event, and gives the pieces of its answer's body as they arrive, without waiting for the last.
    ///
    /// # Errors
    /// [`LambdaError::NoAnswer`] when the function takes no more events.
    pub fn stream(&self, event: &Value) -> Result<mpsc::UnboundedReceiver<Bytes>, LambdaError> {
        let (_, pieces) = self.send(event)?;
        Ok(pieces)
    }

    fn send(&self, event: &Value) -> Result<(oneshot::Receiver<Outcome>, mpsc::UnboundedReceiver<Bytes>), LambdaError> {
        let (outcome, wait) = oneshot::channel();
        let (pieces, arriving) = mpsc::unbounded_channel();
        let number = self.made.fetch_add(1, Ordering::Relaxed);
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let deadline_ms = (now + self.limit).as_millis();
        let id = format!("00000000-0000-4000-8000-{number:012}");
        let waiting = Waiting { outcome, pieces };
        let invocation = Invocation { id, event: event.to_string().into(), deadline_ms, waiting };
        self.events.send(invocation).map_err(|_| LambdaError::NoAnswer(self.name.clone()))?;
        Ok((wait, arriving))
    }

    /// Waits until Lambda would freeze the function: it and its extension wait for the next event.
    ///
    /// # Errors
    /// [`LambdaError::NoAnswer`] when it has not come to that in the time that an event may take.
    pub async fn frozen(&self) -> Result<(), LambdaError> {
        let frozen = async {
            let _ = self.shared.waits.subscribe().wait_for(|waits| *waits).await;
            if self.shared.extension.registered.load(Ordering::Acquire) {
                let _ = self.shared.extension.waits.subscribe().wait_for(|waits| *waits).await;
            }
        };
        tokio::time::timeout(self.limit, frozen).await.map_err(|_| LambdaError::NoAnswer(self.name.clone()))
    }
}

impl Drop for Bootstrap {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

fn router(shared: Arc<Shared>) -> Router {
    let failed = |State(shared): State<Arc<Shared>>, body: Bytes| async move {
        shared.settle(None, Outcome::Failed(body));
        StatusCode::ACCEPTED
    };
    Router::new()
        .route("/2018-06-01/runtime/invocation/next", get(next))
        .route("/2018-06-01/runtime/invocation/{id}/response", post(answered))
        .route("/2018-06-01/runtime/invocation/{id}/error", post(failed))
        .route("/2018-06-01/runtime/init/error", post(failed))
        .route("/2020-01-01/extension/register", post(register))
        .route("/2020-01-01/extension/event/next", get(next_of_extension))
        .with_state(shared)
}

impl Shared {
    /// Tells whoever waits for the event that the function works on, if it is that one.
    fn settle(&self, id: Option<&str>, outcome: Outcome) {
        let Ok(mut now) = self.now.lock() else { return };
        if let Some((_, waiting)) = now.take_if(|(now, _)| id.is_none_or(|id| id == now)) {
            let _ = waiting.outcome.send(outcome);
        }
    }

    /// Where pieces of the answer to that event go, if the function works on it.
    fn pieces_of(&self, id: &str) -> Option<mpsc::UnboundedSender<Bytes>> {
        let now = self.now.lock().ok()?;
        now.as_ref().filter(|(now, _)| now == id).map(|(_, waiting)| waiting.pieces.clone())
    }
}

async fn next(State(shared): State<Arc<Shared>>) -> Response {
    shared.polled.send_if_modified(|polled| {
        let is_first = polled.is_none();
        polled.get_or_insert_with(Instant::now);
        is_first
    });
    shared.waits.send_replace(true);
    let Some(invocation) = shared.events.lock().await.recv().await else {
        return Response::new(Body::empty());
    };
    let Invocation { id, event, deadline_ms, waiting } = invocation;
    if shared.extension.registered.load(Ordering::Acquire) {
        // No event before the extension, too, asks for one.
        let _ = shared.extension.waits.subscribe().wait_for(|waits| *waits).await;
        shared.extension.waits.send_replace(false);
        let _ = shared.extension.events.send(json!({
            "eventType": "INVOKE",
            "deadlineMs": u64::try_from(deadline_ms).unwrap_or(u64::MAX),
            "requestId": id,
            "invokedFunctionArn": FUNCTION_ARN,
            "tracing": { "type": "X-Amzn-Trace-Id", "value": TRACE },
        }));
    }
    shared.waits.send_replace(false);
    let response = Response::builder()
        .header("content-type", "application/json")
        .header("lambda-runtime-aws-request-id", &id)
        .header("lambda-runtime-deadline-ms", deadline_ms.to_string())
        .header("lambda-runtime-invoked-function-arn", FUNCTION_ARN)
        .header("lambda-runtime-trace-id", TRACE)
        .body(Body::from(event));
    if let Ok(mut now) = shared.now.lock() {
        *now = Some((id, waiting));
    }
    response.unwrap_or_default()
}

async fn register(State(shared): State<Arc<Shared>>) -> Response {
    // Once a function asks for events, Lambda takes no extensions any more.
    if shared.polled.borrow().is_some() {
        let mut refused = Response::new(Body::from(r#"{"errorType":"Extension.RegistrationClosed"}"#));
        *refused.status_mut() = StatusCode::FORBIDDEN;
        return refused;
    }
    shared.extension.registered.store(true, Ordering::Release);
    let told = json!({ "functionName": "local", "functionVersion": "$LATEST", "handler": "bootstrap" });
    let response = Response::builder().header("lambda-extension-identifier", EXTENSION_ID);
    response.header("content-type", "application/json").body(Body::from(told.to_string())).unwrap_or_default()
}

async fn next_of_extension(State(shared): State<Arc<Shared>>) -> Response {
    shared.extension.waits.send_replace(true);
    let event = shared.extension.queue.lock().await.recv().await;
    Response::new(event.map_or_else(Body::empty, |event| Body::from(event.to_string())))
}

async fn answered(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    headers: HeaderMap,
    mut body: Body,
) -> StatusCode {
    let mode = headers.get("lambda-runtime-function-response-mode");
    let streamed = mode.is_some_and(|mode| mode == "streaming");
    let (mut whole, mut pieces, arriving) = (Vec::new(), 0, shared.pieces_of(&id));
    while let Some(frame) = body.frame().await {
        // A stream that breaks off is no answer.
        let Ok(frame) = frame else {
            shared.settle(Some(&id), Outcome::Failed("the answer broke off".into()));
            return StatusCode::BAD_REQUEST;
        };
        if let Ok(data) = frame.into_data() {
            whole.extend_from_slice(&data);
            pieces += 1;
            if let Some(arriving) = &arriving {
                let _ = arriving.send(data);
            }
        }
    }
    shared.settle(Some(&id), Outcome::Answered { body: whole.into(), streamed, pieces });
    StatusCode::ACCEPTED
}
