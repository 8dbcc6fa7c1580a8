//! The store over the real AWS SDK: an embedded DynamoDB-compatible engine and the KMS emulator, each test its own.
//!
//! - `support` starts both and makes tenants; `proxy` stands between the SDK and a service, to count and to disturb; `logs`
//!   keeps what is logged.
//! - `root_keys`, `secrets`, `sealed_rows`, `sessions`, `agents`, `pausing`, `moves`, `owned`, `silence`, `checkpoints`, `places`, `pages`: a module per
//!   promise of the store.
//! - `credentials`, `rate_limits`, `replays`: who is let in, how often, and what they are told twice.
//! - `metering`, `metering_totals`, `metrics`: what agents cost, and how they do, at a clock of the test's own.
//! - `suspension`: what the operator says of a platform; `ahead`: what is read for callers who have proven nothing.
//! - `log_entries`, `state_log`: who reads what of the log, and what is in it of each change.
//! - `reader` reads the rows in another language.
//! - `audit`: the trail that every change leaves.
//! - `conflicts` disturbs what the embedded engine never does by itself; `key_faults` and `rotation_faults` do it to the key
//!   service, and `gate` ends a process between two writes.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking; clippy does not see helpers as tests")]

mod agent_tokens;
mod agents;
mod ahead;
mod audit;
mod checkpoints;
mod conflicts;
mod copies;
mod credentials;
mod deletion;
mod gate;
mod key_cache;
mod key_faults;
mod log_entries;
mod logs;
mod metering;
mod metering_totals;
mod metrics;
mod moves;
mod owned;
mod pages;
mod pause_reasons;
mod pausing;
mod places;
mod provider_configs;
mod proxy;
mod rate_limits;
mod reader;
mod replays;
mod restore;
mod roles;
mod root_keys;
mod rotation;
mod rotation_faults;
mod rotation_load;
mod rotation_model;
mod rotation_platform;
mod sealed_rows;
mod secrets;
mod sessions;
mod silence;
mod simulated_disk;
mod state_log;
mod support;
mod suspension;
