//! The store over the real AWS SDK: an embedded DynamoDB-compatible engine and the KMS emulator, each test its own.
//!
//! - `support` starts both and makes tenants; `proxy` stands between the SDK and a service, to count and to disturb.
//! - `root_keys`, `secrets`, `sealed_rows`, `sessions`, `agents`, `pages`: a module per promise of the store.
//! - `conflicts` disturbs what the embedded engine never does by itself.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking; clippy does not see helpers as tests")]

mod agents;
mod conflicts;
mod pages;
mod proxy;
mod root_keys;
mod sealed_rows;
mod secrets;
mod sessions;
mod support;
