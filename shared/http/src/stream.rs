//! Answers that are not whole when they begin: Server-Sent Events, and slow work whose connection is kept alive.

use crate::{Answer, ApiError};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use futures_util::{FutureExt, Stream, StreamExt, stream};
use std::convert::Infallible;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use theazo_store::{RoundTrips, carried, count_round_trips};
use theazo_tenancy::RequestId;
use tokio::time::Instant;
use tracing::Instrument;

/// How long streams last and how large they get, and what keeps them alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamLimits {
    /// When a stream of events is ended for its reader to come back: before the 15 minutes after which Lambda and the
    /// gateway end it without a word.
    pub lifetime: Duration,
    /// Bytes after which a stream of log entries is ended likewise: Lambda ends a streamed answer at 200 MB without a word
    /// (<https://docs.aws.amazon.com/lambda/latest/dg/configuration-response-streaming.html>).
    pub bytes: u64,
    /// The longest silence of a stream. The contract says 15 s at most.
    pub heartbeat: Duration,
    /// How long a stream goes on before its credential is looked up again. Zero is before each piece.
    pub recheck: Duration,
    /// How long a reader may take to take what is sent, before it is cut off.
    pub slow_reader: Duration,
    /// How long a log entry has to be there before a stream gives it, so that none that is written meanwhile by another
    /// clock is passed over.
    pub settle: Duration,
    /// How long an answer in one piece may take before white space keeps its connection alive.
    pub silence: Duration,
}

impl Default for StreamLimits {
    fn default() -> Self {
        Self {
            lifetime: Duration::from_secs(14 * 60),
            bytes: 150_000_000,
            heartbeat: Duration::from_secs(10),
            recheck: Duration::from_secs(10),
            slow_reader: Duration::from_secs(10),
            settle: Duration::from_secs(2),
            silence: Duration::from_secs(240),
        }
    }
}

/// Who wants to know how work ended whose answer had begun before.
#[derive(Clone)]
pub struct LateOutcome(Arc<dyn Fn(u16, RoundTrips) + Send + Sync>);

impl Default for LateOutcome {
    /// Nobody.
    fn default() -> Self {
        Self::to(|_, _| {})
    }
}

impl LateOutcome {
    /// Tells the HTTP status that the answer would have had, and the round trips that the work made since it had begun.
    pub fn to(told: impl Fn(u16, RoundTrips) + Send + Sync + 'static) -> Self {
        Self(Arc::new(told))
    }

    pub(crate) fn tell(&self, status: u16, trips: RoundTrips) {
        (self.0)(status, trips);
    }
}

/// A stream of events, and of white space: what the connection sends, piece by piece.
pub(crate) struct Streamed {
    pub(crate) content_type: &'static str,
    pub(crate) pieces: BoxStream<'static, Bytes>,
}

impl fmt::Debug for Streamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streamed").field("content_type", &self.content_type).finish_non_exhaustive()
    }
}

/// An answer's body.
pub enum Body {
    /// All of it.
    Whole(Bytes),
    /// Piece by piece.
    Stream(BoxStream<'static, Bytes>),
}

impl Body {
    /// The body, unless it is a stream.
    pub const fn whole(&self) -> Option<&Bytes> {
        match self {
            Self::Whole(bytes) => Some(bytes),
            Self::Stream(_) => None,
        }
    }

    /// All of it, once it has ended.
    pub async fn collect(self) -> Bytes {
        match self {
            Self::Whole(bytes) => bytes,
            Self::Stream(pieces) => pieces.concat_bytes().await,
        }
    }

    /// The pieces.
    pub fn into_pieces(self) -> BoxStream<'static, Bytes> {
        match self {
            Self::Whole(bytes) => stream::iter((!bytes.is_empty()).then_some(bytes)).boxed(),
            Self::Stream(pieces) => pieces,
        }
    }
}

/// Gathering pieces.
trait ConcatBytes {
    async fn concat_bytes(self) -> Bytes;
}

impl ConcatBytes for BoxStream<'static, Bytes> {
    async fn concat_bytes(self) -> Bytes {
        let all = self.fold(Vec::new(), |mut all, piece| async move {
            all.extend_from_slice(&piece);
            all
        });
        all.await.into()
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<http_body::Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(http_body::Frame::data(std::mem::take(bytes))))),
            Self::Stream(pieces) => {
                pieces.as_mut().poll_next(context).map(|piece| piece.map(http_body::Frame::data).map(Ok))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> http_body::SizeHint {
        match self {
            Self::Whole(bytes) => http_body::SizeHint::with_exact(u64::try_from(bytes.len()).unwrap_or(u64::MAX)),
            Self::Stream(_) => http_body::SizeHint::default(),
        }
    }
}

impl Answer {
    /// Server-Sent Events (<https://html.spec.whatwg.org/multipage/server-sent-events.html>), each piece one or more whole
    /// events or comments.
    pub fn events(pieces: impl Stream<Item = Bytes> + Send + 'static) -> Self {
        Self::streamed(200, "text/event-stream", pieces)
    }

    /// The answer of `work`. If that takes longer than the limit, an answer of status 200 begins, white space keeps its
    /// connection alive, and the body follows when it is there: that of the error, if there is one, because the status is
    /// gone. `told` is then told which it would have been. Work that was begun goes on when the caller hangs up. Must be
    /// called on a Tokio runtime.
    ///
    /// # Errors
    /// Whatever `work` fails with within the limit.
    pub async fn kept_alive(
        limits: StreamLimits,
        request: RequestId,
        told: LateOutcome,
        work: impl Future<Output = Result<Self, ApiError>> + Send + 'static,
    ) -> Result<Self, ApiError> {
        let mut work = Box::pin(work);
        if let Ok(outcome) = tokio::time::timeout(limits.silence, &mut work).await {
            return outcome;
        }
        let work = told_of(told, work, Self::status);
        let waiting = Some((tokio::spawn(carried(work).in_current_span()), Duration::ZERO));
        let pieces = stream::unfold((waiting, request), move |(waiting, request)| async move {
            let (mut work, pause) = waiting?;
            match tokio::time::timeout(pause, &mut work).await {
                Err(_) => Some((Bytes::from_static(b" "), (Some((work, limits.heartbeat)), request))),
                Ok(ended) => {
                    let outcome = ended.unwrap_or_else(|_| Err(ApiError::internal()));
                    let body = outcome.unwrap_or_else(|error| error.into_answer(&request)).body().clone();
                    Some((body, (None, request)))
                }
            }
        });
        Ok(Self::streamed(200, "application/json", pieces))
    }

    /// The events of work under way, then what it ends with: the event that it gives, or an `error` with what the answer
    /// would have been. `events` end when, or before, the work does. The stream has heartbeats, and ends with
    /// [`SSE_DONE`]; of a reader who is too slow, with being told so. `told` is told of the status as with [`Answer::kept_alive`]; likewise, work goes on when the caller hangs
    /// up. Must be called on a Tokio runtime.
    pub fn events_of(
        limits: StreamLimits,
        request: RequestId,
        told: LateOutcome,
        events: impl Stream<Item = Bytes> + Send + 'static,
        work: impl Future<Output = Result<String, ApiError>> + Send + 'static,
    ) -> Self {
        let work = tokio::spawn(carried(told_of(told, work, |_| 200)).in_current_span());
        // First a piece at once: headers may go out no earlier.
        let state = Some((events.fuse().boxed(), work, None::<Instant>, request));
        Self::events(stream::unfold(state, move |state| async move {
            let (mut events, mut work, given, request) = state?;
            if given.is_some_and(|given| given.elapsed() > limits.slow_reader) {
                return Some((sse_reconnect("slow_reader", None).into(), None));
            }
            let pause = given.map_or(Duration::ZERO, |_| limits.heartbeat);
            let next = async {
                match events.next().await {
                    Some(events) => Ok(events),
                    None => Err((&mut work).await.unwrap_or_else(|_| Err(ApiError::internal()))),
                }
            };
            let (piece, is_over) = match tokio::time::timeout(pause, next).await {
                Err(_) => (sse_heartbeat(None).into(), false),
                Ok(Ok(events)) => (events, false),
                Ok(Err(Ok(last))) => ((last + SSE_DONE).into(), true),
                Ok(Err(Err(error))) => ((error_event(error, &request) + SSE_DONE).into(), true),
            };
            Some((piece, (!is_over).then(|| (events, work, Some(Instant::now()), request))))
        }))
    }
}

/// Work whose answer has begun, with somebody who wants to know of its end.
async fn told_of<T>(
    told: LateOutcome,
    work: impl Future<Output = Result<T, ApiError>>,
    status: impl FnOnce(&T) -> u16,
) -> Result<T, ApiError> {
    let (outcome, trips) = count_round_trips(AssertUnwindSafe(work).catch_unwind()).await;
    let outcome = outcome.unwrap_or_else(|_| Err(ApiError::internal()));
    told.tell(outcome.as_ref().map_or_else(|error| error.code().status(), status), trips);
    outcome
}

fn error_event(error: ApiError, request: &RequestId) -> String {
    let answer = error.into_answer(request);
    // Its body is JSON of ours.
    sse_event("error", None, &serde_json::from_slice(answer.body()).unwrap_or_default())
}

/// An event of a stream. `id` is what a reader that comes back names as the last it was given.
pub fn sse_event(name: &str, id: Option<&str>, data: &serde_json::Value) -> String {
    // JSON text has no line breaks outside its strings, and inside them they are escaped.
    format!("event: {name}\n{}data: {data}\n\n", id_line(id))
}

fn id_line(id: Option<&str>) -> String {
    id.map(|id| format!("id: {id}\n")).unwrap_or_default()
}

/// What a stream begins with: when a reader that was cut off comes back, milliseconds.
pub const SSE_BEGIN: &str = "retry: 1000\n\n";

/// What keeps a silent stream alive: a comment, and the id from which a reader that comes back goes on. An id without data
/// is no event, and is remembered all the same.
pub fn sse_heartbeat(id: Option<&str>) -> String {
    format!(": alive\n{}\n", id_line(id))
}

/// The id alone from which a reader that comes back goes on.
pub fn sse_position(id: &str) -> String {
    format!("{}\n", id_line(Some(id)))
}

/// The end of a stream whose subject has ended.
pub const SSE_DONE: &str = "data: [DONE]\n\n";

/// The end of a stream whose reader is to come back, with why, and the id from which it then goes on.
pub fn sse_reconnect(why: &str, id: Option<&str>) -> String {
    sse_event("reconnect", id, &serde_json::json!({ "reason": why }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorCode;
    use serde_json::{Value, json};

    /// Answers after so many milliseconds, of which the first so many are silent.
    async fn after(ms: u64, silence_ms: u64, outcome: Result<Answer, ApiError>) -> Result<Answer, ApiError> {
        let work = async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            outcome
        };
        let (heartbeat, silence) = (Duration::from_millis(20), Duration::from_millis(silence_ms));
        let limits = StreamLimits { heartbeat, silence, ..StreamLimits::default() };
        Answer::kept_alive(limits, RequestId::make(), LateOutcome::default(), work).await
    }

    #[test]
    fn a_position_is_an_id_without_an_event() {
        assert_eq!(sse_position("log_1"), "id: log_1\n\n");
    }

    #[tokio::test]
    async fn work_that_ends_in_time_answers_as_it_is() {
        let answer = after(5, 60_000, Answer::json(201, &json!({ "a": 1 }))).await.unwrap();
        assert_eq!((answer.status(), answer.body().as_ref()), (201, br#"{"a":1}"#.as_slice()));
        let error = ApiError::new(ErrorCode::Timeout, "too long");
        assert_eq!(after(5, 60_000, Err(error.clone())).await.err(), Some(error));
    }

    #[tokio::test]
    async fn work_that_takes_longer_is_kept_alive_by_white_space_and_ends_in_its_body_or_its_error() {
        for (outcome, field) in
            [(Answer::json(200, &json!({ "exitCode": 0 })), "exitCode"), (Err(ApiError::internal()), "error")]
        {
            let answer = after(200, 20, outcome).await.unwrap();
            assert_eq!(answer.status(), 200);
            let text = answer.into_response("req_x").into_body().collect().await;
            let blanks = text.iter().take_while(|byte| **byte == b' ').count();
            assert!(blanks > 1, "{text:?}");
            let value: Value = serde_json::from_slice(&text).unwrap();
            assert!(value.get(field).is_some(), "{value}");
        }
    }

    #[tokio::test]
    async fn work_goes_on_when_its_caller_hangs_up() {
        let (done, ended) = tokio::sync::oneshot::channel();
        let work = async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = done.send(());
            Ok(Answer::no_content())
        };
        let limits = StreamLimits { silence: Duration::from_millis(1), ..StreamLimits::default() };
        drop(Answer::kept_alive(limits, RequestId::make(), LateOutcome::default(), work).await.unwrap());
        assert_eq!(ended.await, Ok(()));
    }

    #[tokio::test]
    async fn how_late_work_ends_is_told_once_also_when_it_panics_or_nobody_waits_for_it() {
        for (silence_ms, is_read, outcome, expected) in [
            (1, true, Some(Answer::json(201, &json!({}))), vec![201]),
            (1, true, Some(Err(ApiError::new(ErrorCode::Timeout, "too long"))), vec![504]),
            (1, false, Some(Err(ApiError::new(ErrorCode::Provider, "broken"))), vec![502]),
            (1, true, None, vec![500]),
            // What is in time has its status in its answer.
            (60_000, true, Some(Err(ApiError::internal())), vec![]),
        ] {
            let (sent, mut told) = tokio::sync::mpsc::unbounded_channel();
            let late = LateOutcome::to(move |status, _| {
                let _ = sent.send(status);
            });
            let work = async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                outcome.expect("an outcome, or this panics")
            };
            let silence = Duration::from_millis(silence_ms);
            let limits = StreamLimits { silence, ..StreamLimits::default() };
            let answer = Answer::kept_alive(limits, RequestId::make(), late, work).await;
            if let (true, Ok(answer)) = (is_read, answer) {
                answer.into_response("req_x").into_body().collect().await;
            }
            let mut all = Vec::new();
            while let Some(status) = told.recv().await {
                all.push(status);
            }
            assert_eq!(all, expected);
        }
    }

    /// What a reader is given of work that takes so many milliseconds, with one event while it does.
    async fn events_of_work(ms: u64, outcome: Option<Result<String, ApiError>>) -> (String, Vec<u16>) {
        let (sent, mut told) = tokio::sync::mpsc::unbounded_channel();
        let late = LateOutcome::to(move |status, _| {
            let _ = sent.send(status);
        });
        let work = async move {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            outcome.expect("an outcome, or this panics")
        };
        let limits = StreamLimits { heartbeat: Duration::from_millis(20), ..StreamLimits::default() };
        let events = stream::once(async { Bytes::from("event: output\n\n") });
        let answer = Answer::events_of(limits, RequestId::make(), late, events, work);
        assert_eq!(answer.status(), 200);
        let response = answer.into_response("req_x");
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        let text = response.into_body().collect().await;
        let mut all = Vec::new();
        while let Some(status) = told.recv().await {
            all.push(status);
        }
        (String::from_utf8(text.to_vec()).unwrap(), all)
    }

    #[tokio::test]
    async fn events_of_work_end_with_what_it_gives_or_with_its_error_and_it_is_told_which() {
        let last = "event: result\n\n".to_owned();
        let (text, told) = events_of_work(0, Some(Ok(last.clone()))).await;
        assert_eq!((text.as_str(), told), ("event: output\n\nevent: result\n\ndata: [DONE]\n\n", vec![200]));
        for (outcome, status, code) in
            [(Some(Err(ApiError::new(ErrorCode::Timeout, "too long"))), 504, "timeout"), (None, 500, "internal_error")]
        {
            let (text, told) = events_of_work(5, outcome).await;
            assert_eq!(told, [status]);
            let error = text.split_once("event: error\ndata: ").unwrap().1;
            let (error, done) = error.split_once("\n\n").unwrap();
            let error: Value = serde_json::from_str(error).unwrap();
            assert_eq!((&error["error"]["code"], done), (&json!(code), "data: [DONE]\n\n"));
        }
        let (text, _) = events_of_work(200, Some(Ok(last))).await;
        assert!(text.starts_with("event: output\n\n: alive\n\n: alive\n\n") && text.ends_with(SSE_DONE), "{text:?}");
    }

    #[tokio::test]
    async fn a_reader_of_works_events_who_is_too_slow_is_told_so_and_is_given_no_more() {
        let limits = StreamLimits { slow_reader: Duration::from_millis(50), ..StreamLimits::default() };
        let events = stream::repeat(Bytes::from("event: output\n\n"));
        let work = std::future::pending();
        let answer = Answer::events_of(limits, RequestId::make(), LateOutcome::default(), events, work);
        let mut pieces = answer.into_response("req_x").into_body().into_pieces();
        assert_eq!(pieces.next().await.unwrap(), "event: output\n\n");
        assert_eq!(pieces.next().await.unwrap(), "event: output\n\n");
        tokio::time::sleep(Duration::from_millis(100)).await;
        let last = pieces.next().await.unwrap();
        assert_eq!(last, "event: reconnect\ndata: {\"reason\":\"slow_reader\"}\n\n");
        assert_eq!(pieces.next().await, None);
    }

    #[tokio::test]
    async fn work_with_events_goes_on_when_its_caller_hangs_up() {
        let (done, ended) = tokio::sync::oneshot::channel();
        let work = async move {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let _ = done.send(());
            Ok(String::new())
        };
        let (limits, late) = (StreamLimits::default(), LateOutcome::default());
        drop(Answer::events_of(limits, RequestId::make(), late, stream::pending(), work));
        assert_eq!(ended.await, Ok(()));
    }

    #[test]
    fn heartbeats_and_the_end_say_where_to_go_on_and_a_heartbeat_is_no_event() {
        assert_eq!(sse_heartbeat(None), ": alive\n\n");
        assert_eq!(sse_heartbeat(Some("log_1")), ": alive\nid: log_1\n\n");
        let end = "event: reconnect\nid: log_1\ndata: {\"reason\":\"time_limit\"}\n\n";
        assert_eq!(sse_reconnect("time_limit", Some("log_1")), end);
    }

    #[test]
    fn an_event_is_one_line_of_data_whatever_the_text_is() {
        let event = sse_event("log", Some("log_1"), &json!({ "message": "a\nb\r\ndata: [DONE]\n\n\u{2028}" }));
        let lines: Vec<_> = event.split('\n').collect();
        assert_eq!(lines.len(), 5, "{event:?}");
        assert_eq!(lines[..2], ["event: log", "id: log_1"]);
        assert!(lines[2].starts_with("data: {") && !lines[2].contains('\r'));
        assert_eq!(lines[3..], ["", ""]);
    }
}
