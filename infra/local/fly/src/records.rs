//! What whoever operates the real service could see, kept so that a test can search it for secrets: calls and answers with
//! their bodies, machine configurations and commands of `exec` among them, and the bytes that pass the proxy.

use serde::Serialize;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};

/// The oldest are dropped beyond this.
const MOST: usize = 50_000;

/// Something that could be seen.
#[derive(Clone, Debug, Serialize)]
pub struct Record {
    /// `api` for a call, `proxy` for a connection through the proxy.
    pub kind: &'static str,
    /// Method, path and query, or the app and port.
    pub subject: String,
    /// What was seen.
    pub content: Value,
}

#[derive(Default)]
pub(crate) struct Records(Mutex<Vec<Record>>);

impl Records {
    pub(crate) fn add(&self, kind: &'static str, subject: &str, content: Value) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= MOST {
            all.drain(..MOST / 10);
        }
        all.push(Record { kind, subject: subject.to_owned(), content });
    }

    pub(crate) fn all(&self) -> Vec<Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
