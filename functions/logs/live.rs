//! A stream of log entries that follows until its reader has to come back, or until there is nothing more to come.
//!
//! Nothing is sent that the reader's connection does not ask for, so a slow reader costs no memory and is in nobody's
//! way; when it takes too long, it is told to come back. What it was sent last it names in `Last-Event-ID`, and the next
//! stream goes on from there.

use super::show;
use bytes::Bytes;
use futures_util::stream;
use std::collections::VecDeque;
use std::time::Duration;
use theazo_http::{
    Answer, ApiError, Call, ErrorCode, SSE_BEGIN, SSE_DONE, SSE_HEARTBEAT, StreamLimits, sse_event, sse_reconnect,
};
use theazo_store::{AgentStatus, Agents, LogTail, StoreError, Tailed, now_ms};
use theazo_tenancy::{AgentId, LogId, TenantScope};
use tokio::time::Instant;
use tracing::Instrument;

/// How long a stream waits for more when there was something a moment ago, and at most.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Failures of the table in a row that a stream outlives.
const MAX_FAILURES: u32 = 3;
/// Events that are sent in one piece, bytes.
const PIECE_BYTES: usize = 32 * 1024;
/// How much later than an agent's end its last entry can have been made, milliseconds.
const LAST_WORDS_MS: i64 = 60_000;

/// The entry that a reader was sent last, if it says so.
///
/// # Errors
/// `invalid_request` for anything that is no entry's id.
pub(crate) fn last_event_id(call: &Call) -> Result<Option<LogId>, ApiError> {
    let Some(value) = call.request().headers.get("last-event-id") else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    // What a browser sends that has not been given any.
    if text.is_empty() {
        return Ok(None);
    }
    LogId::parse(text).map(Some).map_err(|_| ApiError::invalid("last-event-id", "is not an entry's id"))
}

/// What a stream is about and ends with: an agent.
pub(crate) struct Subject {
    agents: Agents,
    scope: TenantScope,
    agent: AgentId,
    /// When it was over, at the latest, Unix milliseconds.
    over_by_ms: Option<i64>,
}

impl Subject {
    pub(crate) fn new(agents: Agents, scope: TenantScope, agent: AgentId) -> Self {
        Self { agents, scope, agent, over_by_ms: None }
    }

    /// Finds out whether it is over. An agent that is no longer there is.
    async fn look(&mut self) -> Result<(), StoreError> {
        if self.over_by_ms.is_none() {
            let agent = self.agents.get(&self.scope, &self.agent).await?;
            let status = agent.as_ref().map_or(AgentStatus::Completed, |agent| agent.status);
            let ended_ms = agent.and_then(|agent| agent.ended_at_ms);
            let latest = ended_ms.map_or(i64::MAX, |ended| ended.saturating_add(LAST_WORDS_MS));
            self.over_by_ms = status.is_over().then(|| now_ms().min(latest));
        }
        Ok(())
    }
}

/// A stream under way.
pub(crate) struct Live {
    call: Call,
    limits: StreamLimits,
    tail: LogTail,
    subject: Option<Subject>,
    pieces: VecDeque<Bytes>,
    began: Instant,
    /// When the reader was given a piece last.
    given: Instant,
    checked: Instant,
    pause: Duration,
    failures: u32,
    events: u64,
    is_over: bool,
}

impl Live {
    pub(crate) fn new(call: Call, tail: LogTail, subject: Option<Subject>) -> Self {
        let now = Instant::now();
        Self {
            limits: call.streams(),
            call,
            tail,
            subject,
            pieces: VecDeque::from([Bytes::from_static(SSE_BEGIN.as_bytes())]),
            began: now,
            given: now,
            checked: now,
            pause: FIRST_PAUSE,
            failures: 0,
            events: 0,
            is_over: false,
        }
    }

    /// The answer whose body it is.
    pub(crate) fn answer(self) -> Answer {
        let span = tracing::Span::current();
        Answer::events(stream::unfold(self, move |mut live| {
            async move { Some((live.next().await?, live)) }.instrument(span.clone())
        }))
    }

    /// The next piece, when the reader is ready for it.
    async fn next(&mut self) -> Option<Bytes> {
        if self.is_over {
            return None;
        }
        // The first piece waits for nothing but its reader.
        if self.given.elapsed() > self.limits.slow_reader && self.given != self.began {
            return self.end("slow_reader");
        }
        let asked = Instant::now();
        loop {
            if let Some(piece) = self.pieces.pop_front() {
                self.given = Instant::now();
                return Some(piece);
            }
            if self.began.elapsed() >= self.limits.lifetime {
                return self.end("time_limit");
            }
            // A credential that was revoked or has expired ends its streams as well.
            if self.checked.elapsed() >= self.limits.heartbeat {
                self.checked = Instant::now();
                match self.call.authenticate().await.map_err(|refusal| refusal.code()) {
                    // Whether it is still good is found out at the next heartbeat.
                    Ok(_) | Err(ErrorCode::RateLimited) => {}
                    Err(ErrorCode::Internal) => return self.end("unavailable"),
                    Err(_) => return self.end("credential"),
                }
            }
            match self.read().await {
                Ok(tailed) => {
                    self.failures = 0;
                    let is_news = !tailed.entries.is_empty() || !tailed.late.is_empty();
                    self.queue(&tailed);
                    if is_news {
                        self.pause = FIRST_PAUSE;
                    }
                    if tailed.is_behind || is_news {
                        continue;
                    }
                }
                Err(error) => {
                    self.failures += 1;
                    tracing::warn!(%error, failures = self.failures, "a stream could not read on");
                    if self.failures >= MAX_FAILURES {
                        return self.end("unavailable");
                    }
                }
            }
            if self.has_said_everything() {
                return self.finish(SSE_DONE.into(), "done");
            }
            if asked.elapsed() >= self.limits.heartbeat {
                self.pieces.push_back(Bytes::from_static(SSE_HEARTBEAT.as_bytes()));
                continue;
            }
            tokio::time::sleep(self.pause.min(self.limits.heartbeat)).await;
            self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        }
    }

    async fn read(&mut self) -> Result<Tailed, StoreError> {
        // First whether it is over, then what was said: everything said by then is read.
        if let Some(subject) = &mut self.subject {
            subject.look().await?;
        }
        self.tail.step(now_ms()).await
    }

    fn has_said_everything(&self) -> bool {
        let over_by_ms = self.subject.as_ref().and_then(|subject| subject.over_by_ms);
        over_by_ms.is_some_and(|over_by_ms| self.tail.reached_ms() > over_by_ms)
    }

    fn queue(&mut self, tailed: &Tailed) {
        let mut piece = String::new();
        let in_order = tailed.entries.iter().map(|entry| (Some(entry.id.as_str()), entry));
        // What is late has no place in the order, so it is no place to come back to.
        let late = tailed.late.iter().map(|entry| (None, entry));
        for (id, entry) in in_order.chain(late) {
            piece.push_str(&sse_event("log", id, &show(entry)));
            self.events += 1;
            if piece.len() >= PIECE_BYTES {
                self.pieces.push_back(std::mem::take(&mut piece).into());
            }
        }
        if !piece.is_empty() {
            self.pieces.push_back(piece.into());
        }
    }

    fn end(&mut self, why: &'static str) -> Option<Bytes> {
        self.finish(sse_reconnect(why), why)
    }

    fn finish(&mut self, last: String, why: &'static str) -> Option<Bytes> {
        self.is_over = true;
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(why, ms, events = self.events, "a stream ended");
        Some(last.into())
    }
}
