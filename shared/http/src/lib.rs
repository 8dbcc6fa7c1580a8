//! Request in, answer out.
//!
//! This crate owns everything that endpoints share about HTTP: how a raw request is matched and taken apart, how a
//! caller is authenticated while the data is already being read, what errors look like outside, cursors, and the
//! logging of the process. It knows no endpoint.

mod answer;
mod body;
mod call;
mod cursor;
mod error;
mod logging;
mod pattern;
mod request;
mod stream;
#[cfg(test)]
mod support;
mod times;

pub use answer::{Answer, MAX_ANSWER_BYTES, MAX_PAYLOAD_BYTES, payload_len};
pub use body::{Fields, MAX_CENTS};
pub use call::{Call, Caller, Repeats, RouteInfo};
pub use cursor::{PageQuery, list_answer};
pub use error::{ApiError, ErrorCode};
pub use logging::{FIGURES, LogFormat, LoggingError, init_logging, make_subscriber};
pub use pattern::{Params, Pattern};
pub use request::{MAX_BODY_BYTES, QueryParams, Request};
pub use stream::{
    Body, LateOutcome, SSE_BEGIN, SSE_DONE, StreamLimits, sse_event, sse_heartbeat, sse_position, sse_reconnect,
};
pub use times::{format_duration, format_time, parse_duration_ms, parse_time_ms};
