//! End to end, over HTTP, on the real engines, in parallel: each test makes a platform of its own.
//!
//! Most tests share one local stack in this process ([`harness::stack`]); those that kill it, or look at what it
//! prints, run the real `theazo-dev` binary ([`harness::Process`]).

mod harness;

mod main_job;
