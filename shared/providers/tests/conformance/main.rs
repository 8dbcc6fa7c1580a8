//! One suite of promises for every adapter: about secrets, about behaviour, about a sandbox's life. Each subject is one
//! test that tries all of them, prints a table of how it went, and fails when one is broken.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking; clippy does not see helpers as tests")]

mod bed;
mod behaviour;
mod checkpoints;
mod e2b;
mod engine;
mod faults;
mod fly;
mod fly_faults;
mod fly_ports;
mod hosts;
mod isolation;
mod life;
mod memory;
mod ports;
mod secrets;

use bed::Bed;
use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What a promise needs of a subject.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Needs {
    Nothing,
    /// Code that really runs.
    Processes,
    /// Ports that can be reached from outside.
    Ports,
    /// A look at what the provider logs, shows and keeps.
    Insight,
    /// Networks as they are.
    Network,
    /// And rules of this machine between it and its agents.
    Shield,
    /// That it is somebody's service, which is asked for things.
    Service,
}

/// A promise: what it is about, what it says, what it needs, and how it is tried.
struct Promise {
    about: &'static str,
    says: &'static str,
    needs: Needs,
    tried: fn(Arc<Bed>) -> BoxFuture<'static, ()>,
}

/// Lists promises whose trials are functions of the same module.
#[macro_export]
macro_rules! promises {
    ($about:literal: $($needs:ident $trial:ident;)+) => {
        pub(crate) fn promises() -> Vec<$crate::Promise> {
            vec![$($crate::Promise {
                about: $about,
                says: stringify!($trial),
                needs: $crate::Needs::$needs,
                tried: |bed| Box::pin($trial(bed)),
            }),+]
        }
    };
}

/// How many promises are tried at once.
const AT_ONCE: usize = 6;
/// How long one may take; those that wait for a time limit take seconds, and the one that reads whole file systems takes most.
const WITHIN: Duration = Duration::from_secs(180);

/// Tries all promises of which the subject has what they need. Panics with the broken ones.
async fn keeps_every_promise(bed: Arc<Bed>) {
    let all = [
        secrets::promises(),
        isolation::promises(),
        behaviour::promises(),
        life::promises(),
        checkpoints::promises(),
        ports::promises(),
    ];
    let outcomes: Vec<(Promise, Option<Result<Duration, String>>)> =
        futures_util::stream::iter(all.into_iter().flatten())
            .map(|promise| {
                let bed = bed.clone();
                async move {
                    if !bed.has(promise.needs) {
                        return (promise, None);
                    }
                    let begun = Instant::now();
                    let trial = tokio::spawn(tokio::time::timeout(WITHIN, (promise.tried)(bed)));
                    let outcome = match trial.await {
                        Ok(Ok(())) => Ok(begun.elapsed()),
                        Ok(Err(_)) => Err("it took too long".to_owned()),
                        Err(failure) => Err(said(failure)),
                    };
                    (promise, Some(outcome))
                }
            })
            .buffered(AT_ONCE)
            .collect()
            .await;
    let mut table = format!("\n{:<10} {:<92} {}\n", bed.name, "promise", "outcome");
    let mut broken = Vec::new();
    for (promise, outcome) in &outcomes {
        let says = promise.says.replace('_', " ");
        let shown = match outcome {
            Some(Ok(took)) => format!("kept, {:.1} s", took.as_secs_f32()),
            Some(Err(reason)) => {
                broken.push(format!("{says}: {reason}"));
                "BROKEN".to_owned()
            }
            None => "does not apply".to_owned(),
        };
        table.push_str(&format!("{:<10} {says:<92} {shown}\n", promise.about));
    }
    // Past the test harness, which would swallow what a passing test prints.
    let _ = std::io::stderr().write_all(table.as_bytes());
    let left = bed.left().await;
    bed.end().await;
    assert!(broken.is_empty(), "broken by {}:\n{}", bed.name, broken.join("\n"));
    assert_eq!(left, [""; 0], "left behind");
}

fn said(failure: tokio::task::JoinError) -> String {
    let panic = failure.into_panic();
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_on_a_local_engine_keeps_every_promise() {
    keeps_every_promise(Arc::new(Bed::docker().await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn docker_on_a_host_behind_mutual_tls_keeps_every_promise() {
    if theazo_docker_hosts::can_run() {
        keeps_every_promise(Arc::new(Bed::docker_host().await)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn e2b_by_its_emulator_keeps_every_promise() {
    keeps_every_promise(Arc::new(Bed::e2b("promises").await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fly_by_its_emulator_keeps_every_promise() {
    keeps_every_promise(Arc::new(Bed::fly("promises").await)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_simulated_provider_keeps_every_promise_that_needs_no_processes() {
    keeps_every_promise(Arc::new(Bed::simulated())).await;
}
