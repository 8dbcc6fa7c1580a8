//! Commands in machines, within Fly's sixty seconds and fifteen kilobytes.

use crate::apps::{World, parse};
use crate::error::Refusal;
use crate::machines::LONGEST;
use serde::Deserialize;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// Longest body of an exec that is run, and longest output, in bytes.
const LONGEST_EXEC: usize = 16 * 1024;
const LONGEST_OUTPUT: u64 = 4 * 1024 * 1024;

#[derive(Deserialize)]
struct ExecRequest {
    command: Option<Vec<String>>,
    cmd: Option<String>,
    #[serde(default)]
    stdin: String,
    timeout: Option<u64>,
}

impl World {
    pub(crate) fn exec(&self, app: &str, id: &str, body: &[u8]) -> Result<Value, Refusal> {
        let asked: ExecRequest = parse(body)?;
        let seconds = asked.timeout.unwrap_or(10);
        if seconds > LONGEST {
            return Err(Refusal::new(400, "timeout must not exceed 60 seconds"));
        }
        let split = |line: String| line.split_whitespace().map(str::to_owned).collect();
        let command: Vec<String> = asked.command.or(asked.cmd.map(split)).unwrap_or_default();
        if command.is_empty() {
            return Err(Refusal::invalid("command is required"));
        }
        let run = self.machine(app, id, |machine| match (machine.state, &machine.run) {
            ("started", Some(run)) => Ok(run.clone()),
            _ => Err(Refusal::unmet("machine not running")),
        })?;
        if body.len() > LONGEST_EXEC {
            // Not run, and still no error, as seen of the real one.
            return Ok(json!({ "stdout": "Rejection([PayloadTooLarge])" }));
        }
        let mut process = run.room.enter();
        process.args(&command).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut process = process.spawn().map_err(crate::EmulatorError::Room)?;
        if let Some(mut input) = process.stdin.take() {
            let _ = input.write_all(asked.stdin.as_bytes());
        }
        let take = |pipe: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                let _ = pipe.map(|pipe| pipe.take(LONGEST_OUTPUT).read_to_end(&mut text));
                String::from_utf8_lossy(&text).into_owned()
            })
        };
        let stdout = take(process.stdout.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
        let stderr = take(process.stderr.take().map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
        let until = Instant::now() + Duration::from_secs(seconds);
        let status = loop {
            match process.try_wait() {
                Ok(None) if Instant::now() < until => std::thread::sleep(Duration::from_millis(2)),
                Ok(Some(status)) => break status,
                _ => {
                    // What runs inside goes on, as with Fly.
                    let _ = process.kill();
                    return Err(Refusal::new(408, "deadline_exceeded: Client.Timeout exceeded while awaiting headers"));
                }
            }
        };
        if self.machine(app, id, |machine| Ok(machine.run.is_none()))? {
            return Err(Refusal::unmet("exec request failed: EOF"));
        }
        let mut shown = json!({});
        for (name, text) in [("stdout", stdout.join()), ("stderr", stderr.join())] {
            let text = text.unwrap_or_default();
            if !text.is_empty() {
                shown[name] = text.into();
            }
        }
        match (status.code(), status.signal()) {
            (Some(0), _) => {}
            (Some(code), _) => shown["exit_code"] = code.into(),
            (None, signal) => shown["exit_signal"] = signal.unwrap_or(-1).into(),
        }
        Ok(shown)
    }
}
