//! `cargo dev quickstart`: the main job, step by step, through plain HTTP. It succeeds only if each step held.

mod client;
mod story;

use crate::terminal::{TerminalProgress, interrupted, say};
use crate::{Stack, StackConfig};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use theazo_functions::deployment::DockerEngine;
use theazo_setup::{SetupError, ensure_agent_image, ensure_engine, ensure_firewall};
use theazo_store::RateLimits;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Sets everything up, runs the story against a stack of its own with a throw-away folder, and takes it down again.
///
/// # Errors
/// The first step that did not hold, or that it was interrupted.
pub async fn run() -> Result<(), Failure> {
    say("Theazo quickstart: from an API key to an agent that sees its secrets\n");
    say(" 0  Setting up");
    let endpoint = ensure_engine(&TerminalProgress).await?;
    let image = ensure_agent_image(&endpoint, &TerminalProgress).await?;
    say(&format!("    a Docker engine answers, and has the agent image {image}"));
    match ensure_firewall(&endpoint, &image, &TerminalProgress).await {
        Ok(_) => say("    a firewall keeps agents from this machine, private networks and the metadata address"),
        // The story runs nobody's code but its own.
        Err(error @ SetupError::Unprotected { .. }) => say(&format!("    unprotected: {error}")),
        Err(error) => return Err(error.into()),
    }
    let folder = Throwaway::make();
    // From here on there is something to take down, so Ctrl-C ends the story and not the process.
    let stopping = Arc::new(AtomicBool::new(false));
    tokio::spawn({
        let stopping = stopping.clone();
        async move {
            interrupted().await;
            stopping.store(true, Ordering::Relaxed);
        }
    });
    let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
    let stack = Stack::start(StackConfig {
        data_dir: folder.0.clone(),
        listen: loopback,
        dynamodb_listen: loopback,
        docker: Some(DockerEngine { endpoint, image }),
        key_cache: None,
        rate_limits: RateLimits::default(),
    })
    .await?;
    say(&format!("    the API listens on {}/v1, its state is thrown away at the end", stack.base_url()));
    let told = story::tell(&stack, stopping).await;
    // Whatever held or did not, nothing of a quickstart stays on the engine.
    story::clean_up(&stack).await;
    stack.stop().await;
    told
}

/// A folder that goes when this does.
pub(crate) struct Throwaway(PathBuf);

impl Throwaway {
    pub(crate) fn make() -> Self {
        let name = format!("theazo-quickstart-{}", hex::encode(theazo_tenancy::make_random_bytes::<6>()));
        Self(std::env::temp_dir().join(name))
    }

    /// Where it is, once somebody has made it.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let folder: &Path = &self.0;
        let _ = std::fs::remove_dir_all(folder);
    }
}
