//! `cargo dev quickstart`: the main job, step by step, through plain HTTP. It succeeds only if each step held.

mod client;
mod story;

use crate::lambda::watch::Watch;
use crate::scratch::{Failure, On, Prepared};
use crate::terminal::{interrupted, say};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What the calls of the story go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Through {
    /// The local server.
    Server,
    /// `cargo lambda watch`, and so each endpoint's own Lambda binary.
    LambdaWatch,
}

/// Sets everything up, runs the story against a stack of its own with a throw-away folder, and takes it down again.
///
/// # Errors
/// The first step that did not hold, or that it was interrupted.
pub async fn run(on: On, through: Through) -> Result<(), Failure> {
    say("Theazo quickstart: from an API key to an agent that sees its secrets\n");
    say(" 0  Setting up");
    let prepared = Prepared::make(on).await?;
    // From here on there is something to take down, so Ctrl-C ends the story and not the process.
    let stopping = Arc::new(AtomicBool::new(false));
    tokio::spawn({
        let stopping = stopping.clone();
        async move {
            interrupted().await;
            stopping.store(true, Ordering::Relaxed);
        }
    });
    let scratch = prepared.start().await?;
    let (stack, account) = (&scratch.stack, scratch.account.as_ref());
    say(&format!("    the API listens on {}/v1, its state is thrown away at the end", stack.base_url()));
    let told = match through {
        Through::Server => story::tell(stack, stack.base_url(), stopping, account).await,
        Through::LambdaWatch => match Watch::start(stack).await {
            Ok(watch) => {
                let told = story::tell(stack, watch.base_url(), stopping, account).await;
                watch.stop().await;
                told
            }
            Err(error) => Err(error),
        },
    };
    scratch.stop().await;
    told
}
