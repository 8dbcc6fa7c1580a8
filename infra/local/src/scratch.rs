//! A stack of its own in a throw-away folder, for whoever shows or measures something: its agents run on this machine's
//! Docker engine, or in an account at an emulator.

use crate::terminal::{TerminalProgress, say};
use crate::{Stack, StackConfig};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use theazo_functions::agents::Sandboxes;
use theazo_functions::deployment::{Capability, DockerEngine};
use theazo_providers::AgentRef;
use theazo_providers::e2b::E2bEndpoints;
use theazo_providers::fly::FlyEndpoints;
use theazo_setup::{SetupError, ensure_agent_image, ensure_engine, ensure_firewall, machine_programs};
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where agents run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum On {
    /// This machine's Docker engine.
    Docker,
    /// An emulator of E2B.
    E2b,
    /// An emulator of Fly.
    Fly,
}

/// What a stack needs, before there is one. Nothing runs yet that must be taken down in an orderly way.
pub(crate) struct Prepared {
    folder: Throwaway,
    docker: Option<DockerEngine>,
    account: Option<Account>,
}

/// A stack that runs.
pub(crate) struct Scratch {
    pub(crate) stack: Stack,
    /// The engine that its agents run on, if they do.
    pub(crate) docker: Option<DockerEngine>,
    /// The account that its agents run in, if they do.
    pub(crate) account: Option<Account>,
    _folder: Throwaway,
}

impl Prepared {
    /// Sets up the machine's engine, or starts the emulator.
    pub(crate) async fn make(on: On) -> Result<Self, Failure> {
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
        Ok(Self { folder, docker, account })
    }

    /// Starts the stack.
    pub(crate) async fn start(self) -> Result<Scratch, Failure> {
        let Self { folder, docker, account } = self;
        let url_of = |provider: &str| {
            account.as_ref().filter(|account| account.provider == provider).map(|account| account.url.clone())
        };
        let e2b = url_of("e2b").map(|url| E2bEndpoints { api: url.clone(), sandbox: url });
        let stack = Stack::start(StackConfig {
            docker: docker.clone(),
            e2b: e2b.unwrap_or_default(),
            fly: url_of("fly").map_or_else(FlyEndpoints::default, FlyEndpoints::emulator),
            ..StackConfig::on_loopback(folder.path().join("stack"))
        })
        .await?;
        Ok(Scratch { stack, docker, account, _folder: folder })
    }
}

impl Scratch {
    /// Takes everything down. Whatever has happened, nothing of the stack stays on the engine.
    pub(crate) async fn stop(self) {
        let provider = Sandboxes::of(self.stack.deployment()).own();
        if let (Ok(left), Some(provider)) = (left_on_engine(&self.stack).await, provider) {
            for agent in &left {
                let _ = provider.destroy(&AgentRef { agent: agent.clone() }).await;
            }
        }
        self.stack.stop().await;
        if let Some(account) = self.account {
            account.stop().await;
        }
    }
}

async fn docker_engine() -> Result<DockerEngine, Failure> {
    let endpoint = ensure_engine(&TerminalProgress).await?;
    let image = ensure_agent_image(&endpoint, &TerminalProgress).await?;
    say(&format!("    a Docker engine answers, and has the agent image {image}"));
    match ensure_firewall(&endpoint, &image, &TerminalProgress).await {
        Ok(_) => say("    a firewall keeps agents from this machine, private networks and the metadata address"),
        // Nobody's code but our own is run.
        Err(error @ SetupError::Unprotected { .. }) => say(&format!("    unprotected: {error}")),
        Err(error) => return Err(error.into()),
    }
    Ok(DockerEngine { endpoint, image })
}

/// An account at an emulator.
pub(crate) struct Account {
    /// The provider's name.
    pub(crate) provider: &'static str,
    /// The same for people.
    pub(crate) name: &'static str,
    /// Where the emulator listens.
    pub(crate) url: String,
    /// The name of the platform secret that holds its key, and the only key that the emulator accepts.
    pub(crate) secret: &'static str,
    pub(crate) key: String,
    /// How a platform configures it.
    pub(crate) config: Value,
    pub(crate) emulator: Box<dyn Emulated>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

/// What an emulator tells of itself.
pub(crate) trait Emulated: Send + Sync {
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

/// What the engine itself still lists as a stack's, whatever the table says.
pub(crate) async fn left_on_engine(stack: &Stack) -> Result<Vec<String>, Failure> {
    let mut left = Vec::new();
    if let Some(provider) = Sandboxes::of(stack.deployment()).own() {
        left.extend(provider.list_mine().await?.into_iter().map(|sandbox| sandbox.agent));
    }
    Ok(left)
}

/// A folder that goes when this does.
pub struct Throwaway(PathBuf);

impl Throwaway {
    /// One with a name of its own; nobody has made it yet.
    pub fn make() -> Self {
        let name = format!("theazo-{}", hex::encode(theazo_tenancy::make_random_bytes::<6>()));
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
