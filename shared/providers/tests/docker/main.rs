//! The Docker adapter against a real engine. Every test has its own deployment label and agent ids, and removes
//! what it made even when it fails.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking; clippy does not see helpers as tests")]

mod exec;
mod files;
mod host;
mod lifecycle;
mod moving;
mod ports;
mod secrets;
mod stopping;
mod support;
