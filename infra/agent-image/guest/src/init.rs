//! Process 1 of a sandbox. Owns nothing but its lifetime: it reaps what is orphaned and ends on SIGTERM,
//! SIGINT or when the lifetime is over, which takes every process of the sandbox with it.
//!
//! It runs as another user than the agent, so that the agent cannot end it. The lifetime counts on the
//! monotonic clock, which goes on while a container is paused.

use crate::signals::Signals;
use crate::tree;
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// Runs until told to end, or for `lifetime`; `None` has no end of its own.
pub fn run(lifetime: Option<Duration>) -> ExitCode {
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    let until = lifetime.and_then(|lifetime| Instant::now().checked_add(lifetime));
    let Ok(signals) = Signals::install() else { return ExitCode::from(1) };
    loop {
        while tree::reap().is_some() {}
        if signals.told_to_end() || until.is_some_and(|until| Instant::now() >= until) {
            return ExitCode::SUCCESS;
        }
        signals.wait(until);
    }
}
