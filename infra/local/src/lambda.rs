//! Lambda on this machine: functions' binaries run as in production, by the API that AWS publishes for custom runtimes.
//!
//! [`Bootstrap`] is one function's process with the Runtime API that it polls; [`gateway`] makes the events that API
//! Gateway sends and reads what functions answer. `cargo lambda watch` ([`watch`]) serves by hand; what it does not show
//! (REST events, streams of the REST API, deadlines, what a start takes) is shown with these.

pub mod gateway;
mod runtime_api;
pub mod watch;

pub use runtime_api::{Bootstrap, LambdaError, Outcome};
