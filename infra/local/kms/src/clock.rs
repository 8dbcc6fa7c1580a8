//! Time as the emulator stores it (whole milliseconds since 1970) and as the protocol carries it (seconds).

use std::time::{SystemTime, UNIX_EPOCH};

/// One day in milliseconds.
pub(crate) const DAY_MS: u64 = 24 * 60 * 60 * 1000;

/// Milliseconds since 1970; 0 for a system clock set before that.
pub(crate) fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// The JSON 1.1 form of a time: seconds since 1970 with a fraction.
pub(crate) fn wire_seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}
