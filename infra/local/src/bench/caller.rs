//! A caller of a deployment that no socket lies before: a request as the gateway hands it over, and all of its answer.

use super::Failure;
use bytes::Bytes;
use futures_util::StreamExt;
use http::StatusCode;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Instant;
use theazo_functions::deployment::Deployment;
use theazo_functions::routes::ROUTES;
use theazo_functions::{Incoming, serve};
use theazo_store::NewAgent;

const HOUR_MS: i64 = 3_600_000;

/// A call that was made: its answer, the milliseconds that it took, and its sequential round trips.
pub(super) struct Asked {
    what: String,
    pub(super) status: StatusCode,
    body: Vec<u8>,
    pub(super) ms: f64,
    pub(super) trips: usize,
}

impl Asked {
    pub(super) fn expect_success(&self) -> Result<(), Failure> {
        match self.status.is_success() {
            true => Ok(()),
            false => Err(format!("{}: {} {}", self.what, self.status, String::from_utf8_lossy(&self.body)).into()),
        }
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Calls by that key; `path` has the query.
pub(super) async fn ask(
    deployment: &Deployment,
    key: &str,
    method: &str,
    path: &str,
    body: String,
) -> Result<Asked, Failure> {
    let (raw_path, raw_query) = path.split_once('?').unwrap_or((path, ""));
    let mut headers = http::HeaderMap::new();
    headers.insert(http::header::AUTHORIZATION, format!("Bearer {key}").parse()?);
    let incoming = Incoming {
        method: method.parse()?,
        source_ip: None,
        raw_path: raw_path.to_owned(),
        raw_query: raw_query.to_owned(),
        headers,
        body: Bytes::from(body),
    };
    let started = Instant::now();
    let (answer, trips) = serve(deployment, ROUTES, incoming).await;
    let status = answer.status();
    let mut pieces = answer.into_body().into_pieces();
    let mut body = Vec::new();
    while let Some(piece) = pieces.next().await {
        body.extend_from_slice(&piece);
        // A stream goes on until somebody has enough of it.
        if piece.starts_with(b"event: log") {
            break;
        }
    }
    let ms = started.elapsed().as_secs_f64() * 1000.0;
    Ok(Asked { what: format!("{method} {path}"), status, body, ms, trips: trips.sequential })
}

/// An agent that nobody asks for anything.
pub(super) fn idle_agent() -> NewAgent {
    NewAgent {
        provider: "simulated".into(),
        compute: "python".into(),
        region: None,
        host: None,
        model: None,
        instructions: None,
        tools: None,
        metadata: BTreeMap::new(),
        internet: true,
        timeout_ms: HOUR_MS,
        auto_pause_ms: None,
        selection: None,
        cost_cap: None,
        max_concurrent: None,
        secrets: Vec::new(),
    }
}
