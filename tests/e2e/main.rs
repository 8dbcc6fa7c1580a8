//! End to end, over HTTP, on the real engines, in parallel: each test makes a platform of its own.
//!
//! Most tests share one local stack in this process ([`harness::stack`]); those that kill it, or look at what it
//! prints, run the real `theazo-dev` binary ([`harness::Process`]).

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::string_slice,
    reason = "tests are named as sentences and may panic"
)]

mod harness;

// Tests begin in the order of their names, and one here takes longest by far.
mod allowed;
mod audit;
mod bench_vault;
mod bodies;
mod bootstraps;
mod breach_table;
mod breaches;
mod breaches_host;
mod breaches_hostile;
mod breaches_paths;
mod breaches_table;
mod checkpoints;
mod cold_start;
mod concurrency;
mod crash;
mod crash_accounts;
mod crash_checkpoints;
mod crash_moving;
mod crash_pausing;
mod dead_hosts;
mod description;
mod dev_commands;
mod e2b;
mod enforcement;
mod engine_faults;
mod exec;
mod exec_streams;
mod fairness;
mod files;
mod fly;
mod forged;
mod hosts;
mod idempotency;
mod instances;
mod interference;
mod isolation;
mod keys;
mod lambda;
mod leak;
mod limits;
mod lists;
mod log_events;
mod log_filters;
mod log_lines;
mod log_streams;
mod logs;
mod main_job;
mod masking;
mod matrix;
mod metrics;
mod moving;
mod pausing;
mod ports;
mod process;
mod providers;
mod queries;
mod refusals;
mod reports;
mod retained;
mod rotation;
mod round_trips;
mod secrets;
mod sessions;
mod suspension;
mod test_keys;
mod upkeep;
mod usage_export;
mod usage_month;
mod wire;
