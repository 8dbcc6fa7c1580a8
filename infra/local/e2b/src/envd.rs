//! The daemon inside a sandbox, as a client sees it: processes by the Connect protocol in JSON, and files.

use crate::error::RpcError;
use crate::files;
use crate::processes::{Selector, Start};
use crate::records::Records;
use crate::room::User;
use crate::sandboxes::Running;
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};
use futures_util::{Stream, StreamExt};
use rustix::process::Signal;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;

/// The flag of a stream's last message.
const END: u8 = 2;
/// Longest message of a stream, in bytes.
const LONGEST: usize = 64 * 1024 * 1024;
const KEEPALIVE: Duration = Duration::from_secs(90);

/// A call of a procedure.
pub(crate) struct Rpc<'a> {
    pub(crate) sandbox: &'a str,
    pub(crate) running: Running,
    pub(crate) user: User,
    pub(crate) headers: &'a HeaderMap,
    pub(crate) records: &'a Records,
}

#[derive(Deserialize)]
struct Selected {
    process: Selector,
    signal: Option<String>,
    input: Option<Input>,
}

#[derive(Deserialize)]
struct Input {
    stdin: Option<String>,
    pty: Option<String>,
}

/// A message of streamed input.
#[derive(Deserialize)]
struct Piece {
    start: Option<Named>,
    data: Option<Fed>,
}

#[derive(Deserialize)]
struct Named {
    process: Selector,
}

#[derive(Deserialize)]
struct Fed {
    input: Input,
}

impl Input {
    fn bytes(&self) -> Result<Vec<u8>, RpcError> {
        let text = self.stdin.as_ref().or(self.pty.as_ref()).map_or("", String::as_str);
        STANDARD.decode(text).map_err(|_| RpcError::new("invalid_argument", "input is not base64"))
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    serde_json::from_slice(bytes).map_err(|error| RpcError::new("invalid_argument", error.to_string()))
}

impl Rpc<'_> {
    /// Answers a procedure's call.
    pub(crate) async fn call(self, procedure: &str, body: Body) -> Response {
        match procedure {
            "process.Process/Start" | "process.Process/Connect" => self.listen(procedure, body).await,
            "process.Process/StreamInput" => self.take_input(body).await,
            _ => match axum::body::to_bytes(body, LONGEST).await {
                Ok(bytes) => unary(self.answer(procedure, &bytes).await),
                Err(_) => unary(Err(RpcError::new("canceled", "the request broke off"))),
            },
        }
    }

    /// A unary call, logged whole, as the real daemon does.
    async fn answer(&self, procedure: &str, bytes: &Bytes) -> Result<Value, RpcError> {
        let request: Value = parse(bytes)?;
        let outcome = self.unary(procedure, bytes).await;
        let answer = match &outcome {
            Ok(answer) => answer.clone(),
            Err(error) => json!({ "code": error.code }),
        };
        self.records.add("log", Some(self.sandbox), procedure, json!({ "request": request, "answer": answer }));
        outcome
    }

    async fn unary(&self, procedure: &str, bytes: &Bytes) -> Result<Value, RpcError> {
        let processes = &self.running.processes;
        match procedure {
            "process.Process/List" => Ok(processes.list()),
            "process.Process/SendSignal" => {
                let selected: Selected = parse(bytes)?;
                let signal = match selected.signal.as_deref() {
                    Some("SIGNAL_SIGTERM") => Signal::TERM,
                    Some("SIGNAL_SIGKILL") => Signal::KILL,
                    _ => return Err(RpcError::new("unimplemented", "invalid signal")),
                };
                processes.signal(&selected.process, signal).map(|()| json!({}))
            }
            "process.Process/SendInput" => {
                let selected: Selected = parse(bytes)?;
                let input = selected.input.map_or(Ok(Vec::new()), |input| input.bytes())?;
                processes.feed(&selected.process, &input).await.map(|()| json!({}))
            }
            "process.Process/CloseStdin" => {
                let selected: Selected = parse(bytes)?;
                processes.close_stdin(&selected.process).await.map(|()| json!({}))
            }
            _ => match procedure.strip_prefix("filesystem.Filesystem/") {
                Some(method) => {
                    let (root, user, method) = (self.running.room.root(), self.user, method.to_owned());
                    let request: Value = parse(bytes)?;
                    let done = tokio::task::spawn_blocking(move || files::procedure(&root, user, &method, &request));
                    done.await.unwrap_or_else(|_| Err(RpcError::new("internal", "the emulator failed")))
                }
                None => Err(RpcError::new("unimplemented", format!("{procedure} is not emulated"))),
            },
        }
    }

    /// Starts a process, or attaches to one, and streams what it does.
    async fn listen(self, procedure: &str, body: Body) -> Response {
        match self.begin_listening(procedure, body).await {
            Ok((pid, events)) => {
                let limit = self.limit();
                // The limit of a start is the process's own; that of an attachment ends the attachment only.
                let kills = procedure == "process.Process/Start";
                self.stream(pid, events, limit, kills)
            }
            Err(error) => streaming(futures_util::stream::iter([Ok(end(Some(&error)))])),
        }
    }

    async fn begin_listening(&self, procedure: &str, body: Body) -> Result<(u32, mpsc::Receiver<Value>), RpcError> {
        let mut messages = Messages::of(body);
        let first = messages.next().await?.ok_or_else(|| RpcError::new("invalid_argument", "no message"))?;
        // To its end: a server that answers before a request has ended closes the connection after the answer, and a
        // client that uses it again meets that.
        if messages.next().await?.is_some() {
            return Err(RpcError::new("invalid_argument", "more than one message"));
        }
        self.records.add("log", Some(self.sandbox), procedure, parse(&first)?);
        if procedure == "process.Process/Connect" {
            let named: Named = parse(&first)?;
            return self.running.processes.attach(&named.process);
        }
        let start: Start = parse(&first)?;
        if let Some(cwd) = start.process.cwd.as_ref().filter(|cwd| !cwd.is_empty())
            && !files::is_dir(&self.running.room.root(), cwd)
        {
            return Err(RpcError::new("invalid_argument", format!("cwd '{cwd}' does not exist")));
        }
        let (running, user) = (self.running.clone(), self.user);
        let handle = tokio::runtime::Handle::current();
        let started = tokio::task::spawn_blocking(move || {
            let _inside = handle.enter();
            running.processes.start(&running.room, user, &running.envs, start)
        });
        started.await.unwrap_or_else(|_| Err(RpcError::new("internal", "the emulator failed")))
    }

    fn limit(&self) -> Option<Duration> {
        let millis: u64 = self.headers.get("connect-timeout-ms")?.to_str().ok()?.parse().ok()?;
        (millis > 0).then(|| Duration::from_millis(millis))
    }

    fn stream(self, pid: u32, events: mpsc::Receiver<Value>, limit: Option<Duration>, kills: bool) -> Response {
        let asked = self.headers.get("keepalive-ping-interval").and_then(|value| value.to_str().ok()?.parse().ok());
        let keepalive = asked.map_or(KEEPALIVE, Duration::from_secs);
        let until = limit.map(|limit| Instant::now() + limit);
        let started = message(0, &json!({ "event": { "start": { "pid": pid } } }));
        let rest = futures_util::stream::unfold(
            (self.running, events, false),
            move |(mut running, mut events, over)| async move {
                if over {
                    return None;
                }
                let out_of_time = async {
                    match until {
                        Some(until) => tokio::time::sleep_until(until).await,
                        None => std::future::pending().await,
                    }
                };
                let ended = running.over.clone();
                let stopped = async move {
                    let mut ended = ended;
                    let _ = ended.wait_for(|over| *over).await;
                };
                let (piece, over) = tokio::select! {
                    biased;
                    event = events.recv() => match event {
                        Some(event) => (message(0, &event), false),
                        None => (end(None), true),
                    },
                    () = stopped => (end(Some(&Running::gone())), true),
                    () = out_of_time => {
                        if kills {
                            let selector = Selector { pid: Some(pid), tag: None };
                            let _ = running.processes.signal(&selector, Signal::KILL);
                        }
                        (end(Some(&RpcError::new("deadline_exceeded", "context deadline exceeded"))), true)
                    }
                    () = tokio::time::sleep(keepalive) => (message(0, &json!({ "event": { "keepalive": {} } })), false),
                };
                running.over.mark_unchanged();
                Some((Ok(piece), (running, events, over)))
            },
        );
        streaming(futures_util::stream::iter([Ok(started)]).chain(rest))
    }

    /// Input as a stream of messages. What it carries is not logged.
    async fn take_input(self, body: Body) -> Response {
        let outcome = async {
            let mut messages = Messages::of(body);
            let mut target = None;
            while let Some(bytes) = messages.next().await? {
                let piece: Piece = parse(&bytes)?;
                if let Some(start) = piece.start {
                    self.running.processes.expect(&start.process)?;
                    target = Some(start.process);
                }
                if let (Some(data), Some(target)) = (piece.data, &target) {
                    self.running.processes.feed(target, &data.input.bytes()?).await?;
                }
            }
            Ok(())
        };
        let pieces = match outcome.await {
            Ok(()) => vec![Ok(message(0, &json!({}))), Ok(end(None))],
            Err(error) => vec![Ok(end(Some(&error)))],
        };
        streaming(futures_util::stream::iter(pieces))
    }
}

/// A stream's messages: a byte of flags, four bytes of length, JSON.
struct Messages {
    body: axum::body::BodyDataStream,
    buffer: BytesMut,
}

impl Messages {
    fn of(body: Body) -> Self {
        Self { body: body.into_data_stream(), buffer: BytesMut::new() }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, RpcError> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<5>() {
                let [flags, length @ ..] = *head;
                let length = u32::from_be_bytes(length) as usize;
                if length > LONGEST || flags & 1 != 0 {
                    return Err(RpcError::new("invalid_argument", "a message that cannot be read"));
                }
                if self.buffer.len() >= 5 + length {
                    self.buffer.advance(5);
                    return Ok(Some(self.buffer.split_to(length).freeze()));
                }
            }
            match self.body.next().await {
                Some(Ok(piece)) => self.buffer.extend_from_slice(&piece),
                Some(Err(_)) => return Err(RpcError::new("canceled", "the request broke off")),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(RpcError::new("invalid_argument", "a message was cut short")),
            }
        }
    }
}

fn message(flags: u8, content: &Value) -> Bytes {
    let json = content.to_string();
    let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(5 + json.len());
    out.push(flags);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(json.as_bytes());
    out.into()
}

fn end(error: Option<&RpcError>) -> Bytes {
    let content = match error {
        Some(error) => json!({ "error": { "code": error.code, "message": error.message } }),
        None => json!({}),
    };
    message(END, &content)
}

fn streaming(pieces: impl Stream<Item = Result<Bytes, std::io::Error>> + Send + 'static) -> Response {
    ([(header::CONTENT_TYPE, "application/connect+json")], Body::from_stream(pieces)).into_response()
}

fn unary(outcome: Result<Value, RpcError>) -> Response {
    let (status, content) = match outcome {
        Ok(answer) => (200, answer),
        Err(error) => (error.status(), json!({ "code": error.code, "message": error.message })),
    };
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, [(header::CONTENT_TYPE, "application/json")], content.to_string()).into_response()
}
