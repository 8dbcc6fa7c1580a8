//! A sandbox's processes, as its daemon keeps them: started, listened to, fed, signalled, and remembered for a while.
//!
//! Like the real daemon: output that nobody is attached to is dropped, the end is remembered for 30 s, and a process whose
//! output is still held open by another has not ended yet.

use crate::error::RpcError;
use crate::room::{Room, User, child_of, inner_pid, send};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::mpsc;

/// What is read of a pipe at once, as in the real daemon.
const CHUNK: usize = 32 * 1024;
const END_KEPT: Duration = Duration::from_secs(30);
/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What to start.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Config {
    pub(crate) cmd: String,
    pub(crate) args: Vec<String>,
    pub(crate) envs: BTreeMap<String, String>,
    pub(crate) cwd: Option<String>,
}

/// A request to start a process.
#[derive(Debug, Deserialize)]
pub(crate) struct Start {
    pub(crate) process: Config,
    pub(crate) tag: Option<String>,
    /// Whether its input stays open; it does unless told otherwise.
    pub(crate) stdin: Option<bool>,
}

/// How a request names a process.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct Selector {
    pub(crate) pid: Option<u32>,
    pub(crate) tag: Option<String>,
}

struct Process {
    config: Config,
    tag: Option<String>,
    /// By this machine's count.
    outer: i32,
    stdin: Arc<tokio::sync::Mutex<Option<ChildStdin>>>,
    listeners: Vec<mpsc::Sender<Value>>,
    ended: Option<(Instant, Value)>,
}

/// The processes of one run of a sandbox.
#[derive(Clone, Default)]
pub(crate) struct Processes(Arc<Mutex<HashMap<u32, Process>>>);

impl Processes {
    fn with<T>(&self, look: impl FnOnce(&mut HashMap<u32, Process>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Starts a process and attaches to it. `shared` are the sandbox's own variables.
    pub(crate) fn start(
        &self,
        room: &Room,
        user: User,
        shared: &BTreeMap<String, String>,
        request: Start,
    ) -> Result<(u32, mpsc::Receiver<Value>), RpcError> {
        let Start { process: config, tag, stdin } = request;
        let cwd = config.cwd.clone().filter(|cwd| !cwd.is_empty()).unwrap_or_else(|| user.home().to_owned());
        let mut command = tokio::process::Command::from(room.enter(user, &cwd));
        command.arg(&config.cmd).args(&config.args);
        command.env("PATH", PATH).env("HOME", user.home()).env("USER", user.name()).env("LOGNAME", user.name());
        command.envs(shared).envs(&config.envs);
        let open = stdin.unwrap_or(true);
        command.stdin(if open { Stdio::piped() } else { Stdio::null() }).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.kill_on_drop(false);
        let mut child = command.spawn().map_err(|error| RpcError::from_io(&error))?;
        let outer = child.id().and_then(child_of);
        let (listener, events) = mpsc::channel(64);
        // A process may have ended before it was looked at; it still gets a number.
        let outer = outer.unwrap_or(0);
        let pid = inner_pid(outer).unwrap_or_else(|| self.unused());
        let process = Process {
            config,
            tag,
            outer,
            stdin: Arc::new(tokio::sync::Mutex::new(child.stdin.take())),
            listeners: vec![listener],
            ended: None,
        };
        self.with(|all| all.insert(pid, process));
        let outputs = [("stdout", boxed(child.stdout.take())), ("stderr", boxed(child.stderr.take()))];
        let all = self.clone();
        tokio::spawn(async move {
            let [one, other] = outputs.map(|(name, pipe)| all.clone().relay(pid, name, pipe));
            tokio::join!(one, other);
            let end = end_of(child.wait().await.ok());
            for listener in all
                .with(|all| {
                    let process = all.get_mut(&pid)?;
                    process.ended = Some((Instant::now(), end.clone()));
                    Some(std::mem::take(&mut process.listeners))
                })
                .into_iter()
                .flatten()
            {
                let _ = listener.send(end.clone()).await;
            }
        });
        Ok((pid, events))
    }

    fn unused(&self) -> u32 {
        self.with(|all| (1_000_000..).find(|pid| !all.contains_key(pid)).unwrap_or(0))
    }

    /// Hands a pipe's bytes to whoever listens. A slow listener holds the process up; one that is gone is forgotten.
    async fn relay(self, pid: u32, name: &'static str, pipe: Option<Pipe>) {
        let Some(mut pipe) = pipe else { return };
        let mut chunk = vec![0; CHUNK];
        loop {
            let Ok(count @ 1..) = pipe.read(&mut chunk).await else { return };
            let data = STANDARD.encode(chunk.get(..count).unwrap_or_default());
            let event = json!({ "event": { "data": { name: data } } });
            let listeners = self.with(|all| all.get(&pid).map(|process| process.listeners.clone()));
            for listener in listeners.into_iter().flatten() {
                if listener.send(event.clone()).await.is_err() {
                    self.with(|all| {
                        let process = all.get_mut(&pid)?;
                        process.listeners.retain(|known| !known.same_channel(&listener));
                        Some(())
                    });
                }
            }
        }
    }

    fn find<T>(&self, selector: &Selector, look: impl FnOnce(u32, &mut Process) -> T) -> Result<T, RpcError> {
        self.with(|all| {
            all.retain(|_, process| process.ended.as_ref().is_none_or(|(at, _)| at.elapsed() < END_KEPT));
            let named = |process: &Process| selector.tag.is_some() && process.tag == selector.tag;
            let pid = match selector.pid {
                Some(pid) => Some(pid),
                None => all.iter().find(|(_, process)| named(process)).map(|(pid, _)| *pid),
            };
            let (pid, process) = pid.and_then(|pid| Some((pid, all.get_mut(&pid)?))).ok_or_else(no_process)?;
            Ok(look(pid, process))
        })
    }

    /// Attaches to a process that runs, or has just ended.
    pub(crate) fn attach(&self, selector: &Selector) -> Result<(u32, mpsc::Receiver<Value>), RpcError> {
        self.find(selector, |pid, process| {
            let (listener, events) = mpsc::channel(64);
            match &process.ended {
                Some((_, end)) => drop(listener.try_send(end.clone())),
                None => process.listeners.push(listener),
            }
            (pid, events)
        })
    }

    pub(crate) fn list(&self) -> Value {
        self.with(|all| {
            let running = all.iter().filter(|(_, process)| process.ended.is_none());
            let shown = running.map(|(pid, Process { config, tag, .. })| {
                json!({ "pid": pid, "tag": tag, "config": {
                    "cmd": config.cmd, "args": config.args, "envs": config.envs, "cwd": config.cwd } })
            });
            json!({ "processes": shown.map(without_nulls).collect::<Vec<_>>() })
        })
    }

    /// Sends a signal to the process alone, as the real daemon does.
    pub(crate) fn signal(&self, selector: &Selector, signal: Signal) -> Result<(), RpcError> {
        let outer = self.find(selector, |_, process| process.ended.is_none().then_some(process.outer))?;
        send(outer.ok_or_else(no_process)?, signal);
        Ok(())
    }

    /// Whether there is such a process that has not ended.
    pub(crate) fn expect(&self, selector: &Selector) -> Result<(), RpcError> {
        let runs = self.find(selector, |_, process| process.ended.is_none())?;
        if runs { Ok(()) } else { Err(no_process()) }
    }

    pub(crate) async fn feed(&self, selector: &Selector, bytes: &[u8]) -> Result<(), RpcError> {
        let stdin = self.find(selector, |_, process| process.stdin.clone())?;
        let mut stdin = stdin.lock().await;
        let pipe = stdin.as_mut().ok_or_else(|| RpcError::new("failed_precondition", "stdin is not open"))?;
        pipe.write_all(bytes).await.map_err(|error| RpcError::new("internal", error.to_string()))
    }

    pub(crate) async fn close_stdin(&self, selector: &Selector) -> Result<(), RpcError> {
        let stdin = self.find(selector, |_, process| process.stdin.clone())?;
        stdin.lock().await.take();
        Ok(())
    }
}

type Pipe = Box<dyn AsyncRead + Send + Unpin>;

fn boxed(pipe: Option<impl AsyncRead + Send + Unpin + 'static>) -> Option<Pipe> {
    pipe.map(|pipe| Box::new(pipe) as Pipe)
}

fn no_process() -> RpcError {
    RpcError::new("not_found", "process not found")
}

fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(map) => map
            .into_iter()
            .filter(|(_, value)| !value.is_null())
            .map(|(name, value)| (name, without_nulls(value)))
            .collect(),
        other => other,
    }
}

/// The last event of a process. Zero values are left out, as in the protocol's JSON.
fn end_of(status: Option<ExitStatus>) -> Value {
    let end = match status.map(|status| (status.code(), status.signal())) {
        Some((Some(0), _)) => json!({ "exited": true, "status": "exit status 0" }),
        Some((Some(code), _)) => {
            let text = format!("exit status {code}");
            json!({ "exitCode": code, "exited": true, "status": text, "error": text })
        }
        Some((None, Some(9))) => json!({ "exitCode": -1, "status": "signal: killed", "error": "signal: killed" }),
        Some((None, Some(15))) => {
            json!({ "exitCode": -1, "status": "signal: terminated", "error": "signal: terminated" })
        }
        _ => json!({ "exitCode": -1, "status": "signal: unknown", "error": "signal: unknown" }),
    };
    json!({ "event": { "end": end } })
}
