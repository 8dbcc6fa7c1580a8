//! What running costs, and how much of it falls on which day. No I/O, and no clock: callers say what time it is.
//!
//! Money is whole micro-cents (a millionth of a cent). What a run has cost is `floor(rate x elapsed milliseconds)` since
//! the run began, never a sum of rounded pieces; the cost of any part of it is the difference of two such figures. So
//! the parts add up to the whole wherever they are cut: at a charge, at midnight, at the end of a month, or where a
//! process died.

mod cost;
mod day;
mod meter;
mod prices;
#[cfg(test)]
mod properties;

pub use cost::{MICROCENTS_PER_CENT, Part, affordable_ms, cost_of, parts, to_cents, to_gb_hours};
pub use day::{DAY_MS, Day, Month};
pub use meter::{Changes, Meter};
pub use prices::{PriceError, Prices};
