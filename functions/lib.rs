//! The product's endpoints: a folder per noun, a file per endpoint, and the one route table.
//!
//! An endpoint's file has one `handle` function. Its arguments after the call are all that it may touch; the route
//! table names the same capabilities, and the compiler holds the two against each other.

pub mod account;
mod afterwards;
pub mod agents;
pub mod audit;
pub mod deployment;
pub mod emf;
mod idempotency;
pub mod keys;
pub mod lambda;
mod limits;
pub mod logs;
mod metered;
pub mod metrics;
pub mod providers;
pub mod reconcile;
pub mod routes;
pub mod sandbox;
pub mod schedule;
pub mod secrets;
mod serve;
pub mod sessions;
pub mod upkeep;
pub mod usage;

pub use serve::{Incoming, serve};
