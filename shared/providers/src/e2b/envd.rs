//! The daemon inside a sandbox: processes by the Connect protocol in JSON, files by HTTP.
//!
//! What is a secret only ever travels in the body of an upload. Everything else may be logged by E2B: the request that
//! starts a process, whole, and every unary call (read from the daemon's source).

use super::account::Handle;
use super::failure::{failed, from_answer, not_understood};
use super::{E2bService, KIND};
use crate::ProviderError;
use crate::http::{Call, NetworkFault};
use crate::intake::Intake;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use theazo_guest_protocol::FrameError;
use tokio::time::Instant;

/// The port that the daemon listens on.
const PORT: &str = "49983";
const UPLOAD_LIMIT: Duration = Duration::from_secs(60);
const SIGNAL_LIMIT: Duration = Duration::from_secs(5);
/// How long a daemon that does not answer yet is waited for: a sandbox is there before it.
const UP_WITHIN: Duration = Duration::from_secs(10);
const UP_PAUSE: Duration = Duration::from_millis(100);
/// How often a stream says that it is alive, in seconds, and how long without a word it is taken for lost.
const KEEPALIVE_SECONDS: &str = "20";
const SILENCE: Duration = Duration::from_secs(50);
/// Longest message of a stream, in bytes.
const LONGEST_MESSAGE: usize = 1024 * 1024;
/// The flag of a stream's last message.
const END: u8 = 2;

/// Whom something inside is done as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum User {
    Root,
    /// The ordinary user of every template.
    Agent,
}

impl User {
    fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Agent => "user",
        }
    }
}

/// The daemon of one sandbox.
pub(super) struct Envd<'a> {
    pub(super) service: &'a E2bService,
    pub(super) handle: &'a Handle,
}

/// A process that ended.
pub(super) struct Ended {
    pub(super) stdout: Intake,
    pub(super) exit_code: i32,
}

/// Why a process's end is not known.
pub(super) struct Lost {
    pub(super) error: ProviderError,
    /// The process, if it had started: it may still run.
    pub(super) pid: Option<u32>,
}

impl From<ProviderError> for Lost {
    fn from(error: ProviderError) -> Self {
        Self { error, pid: None }
    }
}

#[derive(Deserialize)]
struct Message {
    event: Option<Event>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Event {
    start: Option<Started>,
    data: Option<Data>,
    end: Option<End>,
}

#[derive(Deserialize)]
struct Started {
    pid: u32,
}

#[derive(Deserialize)]
struct Data {
    stdout: Option<String>,
}

/// Zero values are left out of the protocol's JSON.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct End {
    #[serde(default)]
    exit_code: i32,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Last {
    error: Option<RpcError>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct RpcError {
    code: String,
}

/// The error of an answer that is not the daemon's success. Proxies in between answer for a sandbox that is not there.
fn refused(operation: &'static str, status: u16, body: &[u8]) -> ProviderError {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Told {
        message: String,
    }
    let told: Told = serde_json::from_slice(body).unwrap_or_default();
    match status {
        502 if told.message.contains("not found") => ProviderError::SandboxGone,
        502 | 503 => failed(operation, Some(status), true, NOT_UP),
        507 => ProviderError::NoSpace,
        _ => from_answer(operation, status, body),
    }
}

/// Of an error that passes when a sandbox has just begun to run.
const NOT_UP: &str = "the sandbox's daemon does not answer yet";

impl Envd<'_> {
    fn call(&self, operation: &'static str, path: &str, user: User) -> Result<Call, ProviderError> {
        let endpoints = &self.service.endpoints;
        let base = match &self.handle.domain {
            Some(domain) if endpoints.is_usual() => format!("https://{PORT}-{}.{domain}", self.handle.id),
            _ => endpoints.sandbox.clone(),
        };
        let wrong = |_| failed(operation, None, false, "an address that is none");
        let uri: Uri = format!("{base}{path}").parse().map_err(wrong)?;
        let mut headers = HeaderMap::new();
        let text = |text: &str| HeaderValue::from_str(text).map_err(|_| not_understood(operation));
        let mut token = text(&self.handle.token)?;
        token.set_sensitive(true);
        headers.insert(HeaderName::from_static("x-access-token"), token);
        headers.insert(HeaderName::from_static("e2b-sandbox-id"), text(&self.handle.id)?);
        headers.insert(HeaderName::from_static("e2b-sandbox-port"), HeaderValue::from_static(PORT));
        headers.insert(header::USER_AGENT, super::USER_AGENT);
        headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
        let basic = format!("Basic {}", STANDARD.encode(format!("{}:", user.name())));
        headers.insert(header::AUTHORIZATION, text(&basic)?);
        Ok(Call { method: Method::POST, uri, headers, body: Bytes::new() })
    }

    /// Writes files, one after the other. They belong to `user`; everybody inside can read them where the directory lets
    /// them. Waits for a daemon that is just coming up.
    pub(super) async fn upload(
        &self,
        operation: &'static str,
        user: User,
        path: &str,
        content: Bytes,
    ) -> Result<(), ProviderError> {
        let query = format!("/files?path={}&username={}", super::account::encode(path), user.name());
        let mut call = self.call(operation, &query, user)?;
        call.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        call.body = content;
        let until = Instant::now() + UP_WITHIN;
        loop {
            let outcome = match self.service.http.send(call.clone(), UPLOAD_LIMIT).await {
                Ok(answer) if answer.status == 200 => return Ok(()),
                Ok(answer) => refused(operation, answer.status, &answer.body),
                Err(fault) => fault.to_error(KIND, operation),
            };
            // A file is replaced whole, so writing it again is harmless.
            let passes = matches!(outcome, ProviderError::Failed { retryable: true, .. });
            if !passes || Instant::now() >= until {
                return Err(outcome);
            }
            tokio::time::sleep(UP_PAUSE).await;
        }
    }

    /// Runs a program to its end and takes its standard output.
    pub(super) async fn run(
        &self,
        operation: &'static str,
        user: User,
        arguments: &[&str],
        limit: Duration,
        intake: Intake,
    ) -> Result<Ended, Lost> {
        let [program, arguments @ ..] = arguments else { return Err(not_understood(operation).into()) };
        let request = json!({ "process": { "cmd": program, "args": arguments, "cwd": "/" }, "stdin": false });
        let mut call = self.call(operation, "/process.Process/Start", user)?;
        call.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/connect+json"));
        call.headers
            .insert(HeaderName::from_static("keepalive-ping-interval"), HeaderValue::from_static(KEEPALIVE_SECONDS));
        call.headers.insert(HeaderName::from_static("connect-protocol-version"), HeaderValue::from_static("1"));
        call.body = message(&request);
        let mut pid = None;
        let attended = tokio::time::timeout(limit, self.attend(operation, call, &mut pid, intake)).await;
        attended.unwrap_or(Err(ProviderError::TimedOut)).map_err(|error| Lost { error, pid })
    }

    async fn attend(
        &self,
        operation: &'static str,
        call: Call,
        pid: &mut Option<u32>,
        mut stdout: Intake,
    ) -> Result<Ended, ProviderError> {
        let begun = self.service.http.begin(call).await.map_err(|fault| fault.to_error(KIND, operation))?;
        let status = begun.status().as_u16();
        if status != 200 {
            let body = http_body_util::Limited::new(begun.into_body(), LONGEST_MESSAGE).collect().await;
            return Err(refused(operation, status, &body.map(|body| body.to_bytes()).unwrap_or_default()));
        }
        let mut messages = Messages { body: begun.into_body(), buffer: BytesMut::new() };
        let mut exit_code = None;
        loop {
            let next = tokio::time::timeout(SILENCE, messages.next()).await;
            let next = next.unwrap_or(Err(NetworkFault::Broken)).map_err(|fault| fault.to_error(KIND, operation))?;
            let (flags, content) = next;
            if flags & END != 0 {
                let last: Last = serde_json::from_slice(&content).unwrap_or_default();
                return match (last.error, exit_code) {
                    (None, Some(exit_code)) => Ok(Ended { stdout, exit_code }),
                    (None, None) => Err(failed(operation, None, true, "a process without an end")),
                    (Some(error), _) => Err(from_rpc(operation, &error.code)),
                };
            }
            let content: Message = serde_json::from_slice(&content).map_err(|_| not_understood(operation))?;
            let event = content.event.unwrap_or_default();
            if let Some(started) = event.start {
                *pid = Some(started.pid);
            }
            if let Some(text) = event.data.and_then(|data| data.stdout) {
                let bytes = STANDARD.decode(text).map_err(|_| not_understood(operation))?;
                stdout.take(&bytes).map_err(|fault| match fault {
                    FrameError::TooLong(_) => failed(operation, None, false, "the guest's answer is too long"),
                    _ => not_understood(operation),
                })?;
            }
            if let Some(end) = event.end {
                exit_code = Some(end.exit_code);
            }
        }
    }

    /// Asks a process to end. Whether it could be asked.
    pub(super) async fn terminate(&self, user: User, pid: u32) -> bool {
        const SIGNAL: &str = "end process";
        let Ok(mut call) = self.call(SIGNAL, "/process.Process/SendSignal", user) else { return false };
        call.headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        call.headers.insert(HeaderName::from_static("connect-protocol-version"), HeaderValue::from_static("1"));
        call.body = json!({ "process": { "pid": pid }, "signal": "SIGNAL_SIGTERM" }).to_string().into();
        let answer = self.service.http.send(call, SIGNAL_LIMIT).await;
        answer.is_ok_and(|answer| matches!(answer.status, 200 | 404))
    }
}

fn from_rpc(operation: &'static str, code: &str) -> ProviderError {
    match code {
        "unavailable" => failed(operation, Some(503), true, NOT_UP),
        "resource_exhausted" => failed(operation, Some(429), true, "the sandbox has no room for another process"),
        "canceled" | "deadline_exceeded" => ProviderError::TimedOut,
        _ => failed(operation, None, false, "the sandbox's daemon refused"),
    }
}

fn message(content: &Value) -> Bytes {
    let json = content.to_string();
    let length = u32::try_from(json.len()).unwrap_or(u32::MAX);
    let mut out = Vec::with_capacity(5 + json.len());
    out.push(0);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(json.as_bytes());
    out.into()
}

/// A stream's messages: a byte of flags, four bytes of length, JSON. One that ends without its last message broke.
struct Messages<B = Incoming> {
    body: B,
    buffer: BytesMut,
}

impl<B: http_body::Body<Data = Bytes> + Unpin> Messages<B> {
    async fn next(&mut self) -> Result<(u8, Bytes), NetworkFault> {
        loop {
            if let Some(head) = self.buffer.first_chunk::<5>() {
                let [flags, length @ ..] = *head;
                let length = u32::from_be_bytes(length) as usize;
                if length > LONGEST_MESSAGE {
                    return Err(NetworkFault::TooLong);
                }
                if self.buffer.len() >= 5 + length {
                    self.buffer.advance(5);
                    return Ok((flags, self.buffer.split_to(length).freeze()));
                }
            }
            match self.body.frame().await {
                Some(Ok(frame)) => {
                    if let Ok(data) = frame.into_data() {
                        self.buffer.extend_from_slice(&data);
                    }
                }
                Some(Err(_)) | None => return Err(NetworkFault::Broken),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    fn pieces(bytes: &[u8], size: usize) -> impl http_body::Body<Data = Bytes> + Unpin {
        let pieces: Vec<_> = bytes
            .chunks(size)
            .map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(Bytes::copy_from_slice(piece))))
            .collect();
        StreamBody::new(futures_util::stream::iter(pieces))
    }

    #[tokio::test]
    async fn messages_are_put_together_however_the_network_cuts_them() {
        let mut wire = message(&json!({ "a": "ü" })).to_vec();
        wire.extend_from_slice(&[END, 0, 0, 0, 2, b'{', b'}']);
        for size in 1..wire.len() {
            let mut messages = Messages { body: pieces(&wire, size), buffer: BytesMut::new() };
            assert_eq!(messages.next().await.unwrap(), (0, Bytes::from("{\"a\":\"ü\"}")));
            assert_eq!(messages.next().await.unwrap(), (END, Bytes::from("{}")));
            assert_eq!(messages.next().await, Err(NetworkFault::Broken));
        }
    }

    #[tokio::test]
    async fn a_message_of_absurd_length_is_not_waited_for() {
        let mut messages = Messages { body: pieces(&[0, 0xff, 0xff, 0xff, 0xff, 1], 6), buffer: BytesMut::new() };
        assert_eq!(messages.next().await, Err(NetworkFault::TooLong));
    }

    #[test]
    fn proxies_that_speak_for_a_sandbox_are_understood() {
        let gone = br#"{"sandboxId":"i1","message":"The sandbox was not found","code":502}"#;
        assert!(matches!(refused("x", 502, gone), ProviderError::SandboxGone));
        let closed = br#"{"message":"The sandbox is running but port is not open","port":49983}"#;
        assert!(matches!(refused("x", 502, closed), ProviderError::Failed { retryable: true, .. }));
        assert!(matches!(refused("x", 507, b""), ProviderError::NoSpace));
    }
}
