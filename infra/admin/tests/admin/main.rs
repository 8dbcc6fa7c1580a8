//! The operator's command line as its own process, against local stacks without Docker of their own.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking; clippy does not see helpers as tests")]

mod asked;
mod commands;
mod deletion;
mod doctor;
mod doctor_aws;
mod hosts;
mod local;
mod role;
mod rotation;
