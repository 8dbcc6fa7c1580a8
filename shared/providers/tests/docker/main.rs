//! The Docker adapter against a real engine. Every test has its own deployment label and agent ids, and removes
//! what it made even when it fails.

mod exec;
mod files;
mod isolation;
mod lifecycle;
mod secrets;
mod support;
