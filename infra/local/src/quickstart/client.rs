//! A plain HTTP client that shows what it does, as any backend's would look.

use crate::scratch::Failure;
use crate::terminal::say;
use serde_json::Value;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Calls the API with a key.
pub(super) struct Client {
    http: reqwest::Client,
    base: String,
    key: String,
    stopping: Arc<AtomicBool>,
}

impl Client {
    pub(super) fn new(base: String, key: String, stopping: Arc<AtomicBool>) -> Self {
        Self { http: reqwest::Client::new(), base, key, stopping }
    }

    /// Makes a call, shows it, and gives its answer if it has the expected status. `shown` stands for the body, whose
    /// values are not for the screen.
    pub(super) async fn call(
        &self,
        method: reqwest::Method,
        path: &str,
        body: Option<&Value>,
        shown: &str,
        expected: u16,
    ) -> Result<Value, Failure> {
        // Between calls and never in one: what a call had begun would outlive the clean-up.
        if self.stopping.load(Ordering::Relaxed) {
            return Err("interrupted; everything is taken down again".into());
        }
        let mut request = self.http.request(method.clone(), format!("{}{path}", self.base)).bearer_auth(&self.key);
        if let Some(body) = body {
            request = request.json(body);
        }
        let answer = request.send().await?;
        let status = answer.status().as_u16();
        say(&format!("    {method} {path}{}{shown}   -> {status}", if shown.is_empty() { "" } else { " " }));
        let text = answer.text().await?;
        if status != expected {
            return Err(format!("expected {expected}, got {status}: {text}").into());
        }
        Ok(if text.is_empty() { Value::Null } else { serde_json::from_str(&text)? })
    }
}
