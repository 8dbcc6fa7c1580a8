//! What the real service logs, stores or shows to who operates it, kept so that a test can search it for secrets.
//!
//! By the service's published source: bodies of management calls; of the daemon, the whole request that starts a process
//! with its environment and arguments, and request and answer of every unary call, input that is sent to a process among
//! them. Not logged: contents of files, streamed input, output of processes.

use serde::Serialize;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};

/// The oldest are dropped beyond this.
const MOST: usize = 50_000;

/// Something that was logged.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// `api` for a management call, `log` for a line of a sandbox's log, `snapshot` for what a memory snapshot holds.
    pub kind: &'static str,
    /// The sandbox, where there is one.
    pub sandbox: Option<String>,
    /// Method and path, or the procedure's name.
    pub subject: String,
    /// What was logged.
    pub content: Value,
}

#[derive(Default)]
pub(crate) struct Records(Mutex<Vec<Record>>);

impl Records {
    pub(crate) fn add(&self, kind: &'static str, sandbox: Option<&str>, subject: &str, content: Value) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.drain(..MOST / 10);
        }
        all.push(Record { kind, sandbox: sandbox.map(str::to_owned), subject: subject.to_owned(), content });
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
