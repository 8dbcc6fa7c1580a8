//! `cargo dev quickstart`: the main job, step by step, through plain HTTP. It succeeds only if each step held.

mod client;
mod story;

use crate::lambda::watch::Watch;
use crate::terminal::{TerminalProgress, interrupted, say};
use crate::{Stack, StackConfig};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use theazo_functions::deployment::DockerEngine;
use theazo_providers::e2b::E2bEndpoints;
use theazo_providers::fly::FlyEndpoints;
use theazo_setup::{SetupError, ensure_agent_image, ensure_engine, ensure_firewall, machine_programs};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where the story's agents run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum On {
    /// This machine's Docker engine.
    Docker,
    /// An emulator of E2B.
    E2b,
    /// An emulator of Fly.
    Fly,
}

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
    let folder = Throwaway::make();
    let docker = match on {
        On::Docker => Some(docker_engine().await?),
        On::E2b | On::Fly => None,
    };
    let account = match on {
        On::Docker => None,
        On::E2b => Some(Account::at_e2b(folder.path()).await?),
        On::Fly => Some(Account::at_fly(folder.path()).await?),
    };
    let url_of = |provider: &str| {
        account.as_ref().filter(|account| account.provider == provider).map(|account| account.url.clone())
    };
    // From here on there is something to take down, so Ctrl-C ends the story and not the process.
    let stopping = Arc::new(AtomicBool::new(false));
    tokio::spawn({
        let stopping = stopping.clone();
        async move {
            interrupted().await;
            stopping.store(true, Ordering::Relaxed);
        }
    });
    let stack = Stack::start(StackConfig {
        docker,
        e2b: url_of("e2b").map_or_else(E2bEndpoints::default, |url| E2bEndpoints { api: url.clone(), sandbox: url }),
        fly: url_of("fly").map_or_else(FlyEndpoints::default, |api| FlyEndpoints { api }),
        ..StackConfig::on_loopback(folder.path().join("stack"))
    })
    .await?;
    say(&format!("    the API listens on {}/v1, its state is thrown away at the end", stack.base_url()));
    let told = match through {
        Through::Server => story::tell(&stack, stack.base_url(), stopping, account.as_ref()).await,
        Through::LambdaWatch => match Watch::start(&stack).await {
            Ok(watch) => {
                let told = story::tell(&stack, watch.base_url(), stopping, account.as_ref()).await;
                watch.stop().await;
                told
            }
            Err(error) => Err(error),
        },
    };
    // Whatever held or did not, nothing of a quickstart stays on the engine.
    story::clean_up(&stack).await;
    stack.stop().await;
    if let Some(account) = account {
        account.stop().await;
    }
    told
}

async fn docker_engine() -> Result<DockerEngine, Failure> {
    let endpoint = ensure_engine(&TerminalProgress).await?;
    let image = ensure_agent_image(&endpoint, &TerminalProgress).await?;
    say(&format!("    a Docker engine answers, and has the agent image {image}"));
    match ensure_firewall(&endpoint, &image, &TerminalProgress).await {
        Ok(_) => say("    a firewall keeps agents from this machine, private networks and the metadata address"),
        // The story runs nobody's code but its own.
        Err(error @ SetupError::Unprotected { .. }) => say(&format!("    unprotected: {error}")),
        Err(error) => return Err(error.into()),
    }
    Ok(DockerEngine { endpoint, image })
}

/// An account at an emulator, for the time of the story.
struct Account {
    provider: &'static str,
    /// The provider's name for people.
    name: &'static str,
    url: String,
    /// The name of the platform secret that holds its key, and the only key that the emulator accepts.
    secret: &'static str,
    key: String,
    config: Value,
    emulator: Box<dyn Emulated>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

/// What an emulator tells of itself.
trait Emulated: Send + Sync {
    /// What there is of anybody's.
    fn left(&self) -> Vec<String>;
    /// What the real service could have seen, as one text.
    fn records(&self) -> serde_json::Result<String>;
}

impl Emulated for theazo_e2b_emulator::Controls {
    fn left(&self) -> Vec<String> {
        self.left()
    }

    fn records(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.records())
    }
}

impl Emulated for theazo_fly_emulator::Controls {
    fn left(&self) -> Vec<String> {
        self.left()
    }

    fn records(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.records())
    }
}

impl Account {
    async fn at_e2b(folder: &Path) -> Result<Self, Failure> {
        let folder = folder.join("e2b");
        std::fs::create_dir_all(&folder)?;
        let key = format!("e2b_{}", hex::encode(theazo_tenancy::make_random_bytes::<20>()));
        let emulator = theazo_e2b_emulator::Emulator::new(&folder, Some(&key));
        let controls = Box::new(emulator.controls());
        let (listener, url) = listen("E2B").await?;
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            if let Err(error) = emulator.serve(listener, async { drop(stopped.await) }).await {
                tracing::error!(%error, "the E2B emulator stopped");
            }
        });
        let (provider, name, secret, config) = ("e2b", "E2B", "E2B_API_KEY", json!({ "template": "base" }));
        Ok(Self { provider, name, url, secret, key, config, emulator: controls, stop, serving })
    }

    async fn at_fly(folder: &Path) -> Result<Self, Failure> {
        let programs = machine_programs(&TerminalProgress).await?;
        let folder = folder.join("fly");
        std::fs::create_dir_all(&folder)?;
        let key = format!("fm2_{}", hex::encode(theazo_tenancy::make_random_bytes::<20>()));
        let emulator = theazo_fly_emulator::Emulator::new(&folder, Some(&key), programs);
        let controls = Box::new(emulator.controls());
        let (listener, url) = listen("Fly").await?;
        let (stop, stopped) = oneshot::channel();
        let serving = tokio::spawn(async move {
            if let Err(error) = emulator.serve(listener, async { drop(stopped.await) }).await {
                tracing::error!(%error, "the Fly emulator stopped");
            }
        });
        let config = json!({ "organization": "agents", "image": "registry.fly.io/agents:1", "region": "iad" });
        let (provider, name, secret) = ("fly", "Fly", "FLY_API_TOKEN");
        Ok(Self { provider, name, url, secret, key, config, emulator: controls, stop, serving })
    }

    async fn stop(self) {
        let _ = self.stop.send(());
        let _ = self.serving.await;
    }
}

async fn listen(name: &str) -> Result<(TcpListener, String), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let url = format!("http://{}", listener.local_addr()?);
    say(&format!("    an emulator of {name} listens on {url}, with processes of this machine behind it"));
    Ok((listener, url))
}

/// A folder that goes when this does.
pub struct Throwaway(PathBuf);

impl Throwaway {
    /// One with a name of its own; nobody has made it yet.
    pub fn make() -> Self {
        let name = format!("theazo-quickstart-{}", hex::encode(theazo_tenancy::make_random_bytes::<6>()));
        Self(std::env::temp_dir().join(name))
    }

    /// Where it is, once somebody has made it.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Throwaway {
    fn drop(&mut self) {
        let folder: &Path = &self.0;
        let _ = std::fs::remove_dir_all(folder);
    }
}
