//! A stream of log entries that follows until its reader has to come back, or until there is nothing more to come.
//!
//! Nothing is sent that the reader's connection does not ask for, so a slow reader costs no memory and is in nobody's
//! way; when it takes too long, it is told to come back. What it was sent last it names in `Last-Event-ID`, and the next
//! stream goes on from there. Heartbeats and the call to come back have an id as well, so that what was gone through without
//! finding anything is not gone through again.

use super::show;
use bytes::Bytes;
use futures_util::stream;
use std::collections::VecDeque;
use std::future::Future;
use std::time::Duration;
use theazo_http::{
    Answer, ApiError, Call, ErrorCode, SSE_BEGIN, SSE_DONE, StreamLimits, sse_event, sse_heartbeat, sse_position,
    sse_reconnect,
};
use theazo_store::{Agents, LogTail, StoreError, Tailed, now_ms};
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
/// How much later than an agent's end its last entry can have been made, milliseconds: an exec under way ends with the
/// sandbox, and that may take its provider a while.
const LAST_WORDS_MS: i64 = 60_000;
/// And how much later than its sandbox is gone: what failed with it is still to be written.
const AFTERMATH_MS: i64 = 2_000;

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
    over: Option<Over>,
}

/// That it has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Over {
    /// When, Unix milliseconds.
    ended_ms: i64,
    /// By when all was said of it at the latest, Unix milliseconds.
    by_ms: i64,
}

impl Subject {
    pub(crate) fn new(agents: Agents, scope: TenantScope, agent: AgentId) -> Self {
        Self { agents, scope, agent, over: None }
    }

    /// Finds out whether it is over. An agent that is no longer there is; one that is retried is not any more.
    async fn look(&mut self) -> Result<(), StoreError> {
        let agent = self.agents.get(&self.scope, &self.agent).await?;
        let ending = match &agent {
            None => Ending::Gone,
            Some(agent) if !agent.status.is_over() => Ending::No,
            Some(agent) => Ending::At {
                ended_ms: agent.ended_at_ms.unwrap_or(agent.since_ms),
                has_sandbox: !agent.sandbox_gone && !agent.only_kept,
            },
        };
        self.over = over(ending, self.over, now_ms());
        Ok(())
    }
}

/// Where the end of an agent stands.
#[derive(Clone, Copy)]
enum Ending {
    /// It goes on.
    No,
    /// It is not there any more.
    Gone,
    /// It has ended; its provider may still have to let go of its sandbox.
    At { ended_ms: i64, has_sandbox: bool },
}

/// Whether it is over, with what was found before. Of one that was retried since and has ended again, that says nothing.
fn over(ending: Ending, found: Option<Over>, now_ms: i64) -> Option<Over> {
    let (ended_ms, by_ms) = match ending {
        Ending::No => return None,
        Ending::Gone => (found.map_or(now_ms, |found| found.ended_ms), now_ms),
        Ending::At { ended_ms, has_sandbox } => {
            let latest = ended_ms.saturating_add(LAST_WORDS_MS);
            (ended_ms, if has_sandbox { latest } else { now_ms.saturating_add(AFTERMATH_MS).min(latest) })
        }
    };
    let before = found.filter(|found| found.ended_ms == ended_ms);
    Some(Over { ended_ms, by_ms: before.map_or(by_ms, |before| before.by_ms.min(by_ms)) })
}

/// What a stream gives.
pub(crate) trait Feed: Send + 'static {
    /// What has come since the step before.
    fn step(&mut self) -> impl Future<Output = Result<Tailed, StoreError>> + Send;

    /// Where a reader goes on that was given all steps and comes back.
    fn position(&self) -> String;

    /// Whether there is nothing more to come.
    fn is_over(&self) -> bool;

    /// Why its reader may not have any more of it, if that is so.
    fn refusal(&self) -> impl Future<Output = Option<&'static str>> + Send;
}

/// Entries as they are written, for a caller.
pub(crate) struct Followed {
    call: Call,
    tail: LogTail,
    subject: Option<Subject>,
}

impl Feed for Followed {
    async fn step(&mut self) -> Result<Tailed, StoreError> {
        // First whether it is over, then what was said: everything said by then is read.
        if let Some(subject) = &mut self.subject {
            subject.look().await?;
        }
        self.tail.step(now_ms()).await
    }

    fn position(&self) -> String {
        self.tail.position().to_string()
    }

    fn is_over(&self) -> bool {
        let over = self.subject.as_ref().and_then(|subject| subject.over);
        over.is_some_and(|over| self.tail.reached_ms() > over.by_ms)
    }

    /// A credential that was revoked or has expired ends its streams as well.
    async fn refusal(&self) -> Option<&'static str> {
        match self.call.authenticate().await.map_err(|refusal| refusal.code()) {
            // Whether it is still good is found out the next time.
            Ok(_) | Err(ErrorCode::RateLimited) => None,
            Err(ErrorCode::Internal) => Some("unavailable"),
            Err(_) => Some("credential"),
        }
    }
}

/// A stream under way.
pub(crate) struct Live<F> {
    feed: F,
    limits: StreamLimits,
    pieces: VecDeque<Bytes>,
    began: Instant,
    /// How much the reader was given of entries.
    bytes: u64,
    /// When the reader was given a piece last.
    given: Instant,
    checked: Instant,
    pause: Duration,
    failures: u32,
    events: u64,
    is_over: bool,
}

impl Live<Followed> {
    pub(crate) fn new(call: Call, tail: LogTail, subject: Option<Subject>) -> Self {
        let limits = call.streams();
        Self::of(Followed { call, tail, subject }, limits)
    }
}

impl<F: Feed> Live<F> {
    fn of(feed: F, limits: StreamLimits) -> Self {
        let now = Instant::now();
        Self {
            feed,
            limits,
            pieces: VecDeque::from([Bytes::from_static(SSE_BEGIN.as_bytes())]),
            began: now,
            bytes: 0,
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
            // Also while there is something to give: a reader that is slow takes long for what one step found.
            if self.began.elapsed() >= self.limits.lifetime {
                return self.end("time_limit");
            }
            if self.bytes >= self.limits.bytes {
                return self.end("size_limit");
            }
            if self.checked.elapsed() >= self.limits.recheck {
                self.checked = Instant::now();
                if let Some(why) = self.feed.refusal().await {
                    return self.end(why);
                }
            }
            if let Some(piece) = self.pieces.pop_front() {
                self.given = Instant::now();
                self.bytes += piece.len() as u64;
                return Some(piece);
            }
            let is_behind = match self.feed.step().await {
                Ok(tailed) => {
                    self.failures = 0;
                    self.queue(&tailed);
                    tailed.is_behind
                }
                Err(error) => {
                    self.failures += 1;
                    tracing::warn!(%error, failures = self.failures, "a stream could not read on");
                    if self.failures >= MAX_FAILURES {
                        return self.end("unavailable");
                    }
                    false
                }
            };
            if !self.pieces.is_empty() {
                self.pause = FIRST_PAUSE;
                continue;
            }
            if !is_behind && self.feed.is_over() {
                return self.finish(SSE_DONE.into(), "done");
            }
            // Also on the way through entries of which the filter leaves none.
            if asked.elapsed() >= self.limits.heartbeat {
                // Not queued: a stream that ends with something queued does not say how far it got.
                self.given = Instant::now();
                return Some(sse_heartbeat(Some(&self.feed.position())).into());
            }
            if !is_behind {
                tokio::time::sleep(self.pause.min(self.limits.heartbeat)).await;
                self.pause = (self.pause * 2).min(LONGEST_PAUSE);
            }
        }
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
        // But who was given it, and comes back, is not to be given it once more in its place.
        if !tailed.late.is_empty() {
            piece.push_str(&sse_position(&self.feed.position()));
        }
        if !piece.is_empty() {
            self.pieces.push_back(piece.into());
        }
    }

    /// Has the reader come back: where it got to, or, with pieces that it was not given, after the last entry that it was.
    fn end(&mut self, why: &'static str) -> Option<Bytes> {
        let position = self.pieces.is_empty().then(|| self.feed.position());
        self.finish(sse_reconnect(why, position.as_deref()), why)
    }

    fn finish(&mut self, last: String, why: &'static str) -> Option<Bytes> {
        self.is_over = true;
        let ms = u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        tracing::info!(why, ms, events = self.events, "a stream ended");
        Some(last.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_store::{LogEntry, LogLevel, LogSource};
    use theazo_tenancy::SessionId;

    /// Gives so many entries in each step, and is behind for ever.
    struct Endless {
        entries: usize,
        step_ms: u64,
        steps: i64,
        /// Whether each step finds something late as well.
        has_late: bool,
        refusal: Option<&'static str>,
    }

    impl Endless {
        fn of(entries: usize) -> Self {
            Self { entries, step_ms: 1, steps: 0, has_late: false, refusal: None }
        }

        fn entry(&self) -> LogEntry {
            LogEntry {
                id: LogId::make_at(self.steps),
                at_ms: self.steps,
                level: LogLevel::Info,
                source: LogSource::Agent,
                session: SessionId::make_at(0),
                agent: None,
                user_id: None,
                provider: None,
                message: "x".repeat(PIECE_BYTES),
                metadata: None,
                trace: None,
            }
        }
    }

    impl Feed for Endless {
        async fn step(&mut self) -> Result<Tailed, StoreError> {
            tokio::time::sleep(Duration::from_millis(self.step_ms)).await;
            self.steps += 1;
            let entries = (0..self.entries).map(|_| self.entry()).collect();
            let late = if self.has_late { vec![self.entry()] } else { Vec::new() };
            Ok(Tailed { entries, late, is_behind: true })
        }

        fn position(&self) -> String {
            LogId::first_at(self.steps).to_string()
        }

        fn is_over(&self) -> bool {
            false
        }

        async fn refusal(&self) -> Option<&'static str> {
            self.refusal
        }
    }

    fn limits(heartbeat_ms: u64, lifetime_ms: u64) -> StreamLimits {
        StreamLimits {
            heartbeat: Duration::from_millis(heartbeat_ms),
            recheck: Duration::from_millis(heartbeat_ms),
            lifetime: Duration::from_millis(lifetime_ms),
            ..StreamLimits::default()
        }
    }

    #[test]
    fn an_agent_is_over_when_its_sandbox_is_gone_and_what_failed_with_it_is_written() {
        let at = |ended_ms, has_sandbox| Ending::At { ended_ms, has_sandbox };
        let by = |ended_ms, by_ms| Some(Over { ended_ms, by_ms });
        assert_eq!(over(Ending::No, None, 1_000_000), None);
        // While its provider is at it, no longer than that may take.
        let found = over(at(1_000_000, true), None, 1_000_100);
        assert_eq!(found, by(1_000_000, 1_000_000 + LAST_WORDS_MS));
        let found = over(at(1_000_000, false), found, 1_005_000);
        assert_eq!(found, by(1_000_000, 1_005_000 + AFTERMATH_MS));
        // From then on it does not move, unless the agent is retried.
        assert_eq!(over(at(1_000_000, false), found, 1_006_000), found);
        assert_eq!(over(Ending::Gone, found, 1_006_000), by(1_000_000, 1_006_000));
        assert_eq!(over(Ending::Gone, found, 2_000_000), found);
        assert_eq!(over(Ending::No, found, 1_006_000), None);
        // Also when it has ended once more before anybody looked.
        let again = over(at(1_030_000, true), found, 1_030_100);
        assert_eq!(again, by(1_030_000, 1_030_000 + LAST_WORDS_MS));
        // Nobody waits for one that ended long ago.
        assert_eq!(over(at(1_000_000, false), None, 9_000_000), by(1_000_000, 1_000_000 + LAST_WORDS_MS));
    }

    #[tokio::test]
    async fn a_stream_that_finds_nothing_on_a_long_way_has_heartbeats_and_says_how_far_it_got() {
        let mut live = Live::of(Endless::of(0), limits(20, 2000));
        let mut pieces = Vec::new();
        while let Some(piece) = live.next().await {
            pieces.push(String::from_utf8(piece.into()).unwrap());
        }
        assert_eq!(pieces[0], SSE_BEGIN);
        let id = |piece: &str| piece.lines().find_map(|line| line.strip_prefix("id: ").map(str::to_owned));
        let [_, heartbeats @ .., last] = pieces.as_slice() else { panic!("{pieces:?}") };
        assert!(heartbeats.len() >= 2, "{pieces:?}");
        assert!(
            heartbeats.iter().all(|piece| piece.starts_with(": alive\n") && !piece.contains("data:")),
            "{pieces:?}"
        );
        assert!(last.starts_with("event: reconnect\n") && last.contains("time_limit"), "{last}");
        let ids: Vec<LogId> = pieces[1..].iter().map(|piece| LogId::parse(&id(piece).unwrap()).unwrap()).collect();
        assert!(ids[0].at_ms() > 0 && ids.is_sorted() && ids.first() < ids.last(), "{ids:?}");
    }

    #[tokio::test]
    async fn a_stream_whose_time_is_over_with_its_heartbeat_says_how_far_it_got_all_the_same() {
        let mut live = Live::of(Endless { step_ms: 600, ..Endless::of(0) }, limits(1, 500));
        assert_eq!(live.next().await.unwrap(), SSE_BEGIN);
        let heartbeat = live.next().await.unwrap();
        assert!(heartbeat.starts_with(b": alive\n"), "{heartbeat:?}");
        let position = live.feed.position();
        assert_eq!(live.next().await.unwrap(), sse_reconnect("time_limit", Some(&position)));
        assert_eq!(live.next().await, None);
    }

    #[tokio::test]
    async fn who_was_given_something_late_comes_back_behind_it() {
        for entries in [0, 1] {
            let feed = Endless { has_late: true, ..Endless::of(entries) };
            let mut live = Live::of(feed, limits(60_000, 60_000));
            assert_eq!(live.next().await.unwrap(), SSE_BEGIN);
            let mut last = String::new();
            for _ in 0..=entries + 1 {
                last = String::from_utf8(live.next().await.unwrap().into()).unwrap();
            }
            assert_eq!(last, sse_position(&live.feed.position()), "{entries}");
        }
    }

    #[tokio::test]
    async fn with_no_time_between_its_looks_a_stream_gives_nothing_more_once_its_credential_is_refused() {
        let mut live = Live::of(Endless::of(100), StreamLimits { recheck: Duration::ZERO, ..limits(60_000, 60_000) });
        assert_eq!(live.next().await.unwrap(), SSE_BEGIN);
        assert!(live.next().await.unwrap().starts_with(b"event: log"));
        // What the same step found is still to be given.
        assert!(!live.pieces.is_empty());
        live.feed.refusal = Some("credential");
        assert_eq!(live.next().await.unwrap(), sse_reconnect("credential", None));
        assert_eq!(live.next().await, None);
    }

    #[tokio::test]
    async fn a_stream_ends_before_lambda_would_cut_it_for_its_size_and_goes_on_where_it_was() {
        let whole = Live::of(Endless::of(100), limits(60_000, 60_000)).next().await.unwrap().len() as u64;
        let mut live = Live::of(Endless::of(100), StreamLimits { bytes: whole + 1, ..limits(60_000, 60_000) });
        assert_eq!(live.next().await.unwrap(), SSE_BEGIN);
        assert!(live.next().await.unwrap().starts_with(b"event: log"));
        assert_eq!(live.next().await.unwrap(), sse_reconnect("size_limit", None));
        assert_eq!(live.next().await, None);
        // A piece has an entry's text and a little more.
        let piece = (PIECE_BYTES + theazo_store::MAX_MESSAGE_BYTES + theazo_store::MAX_METADATA_BYTES) as u64;
        assert!(StreamLimits::default().bytes + 10 * piece < 200_000_000);
    }

    #[tokio::test]
    async fn a_reader_that_is_slow_with_what_one_step_found_is_ended_in_time_and_with_its_credential() {
        let revoked = Endless { refusal: Some("credential"), ..Endless::of(100) };
        let limit_ms = 500;
        for (feed, limits, why) in [
            (Endless::of(100), limits(60_000, limit_ms), "time_limit"),
            (revoked, limits(limit_ms, 60_000), "credential"),
        ] {
            let mut live = Live::of(feed, limits);
            assert_eq!(live.next().await.unwrap(), SSE_BEGIN);
            assert!(live.next().await.unwrap().starts_with(b"event: log"));
            tokio::time::sleep(Duration::from_millis(limit_ms)).await;
            // What it was not given is given when it comes back.
            assert_eq!(live.next().await.unwrap(), sse_reconnect(why, None));
            assert_eq!(live.next().await, None);
        }
    }
}
