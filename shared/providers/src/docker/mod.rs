//! The Docker adapter: a container, a network and a volume per agent on one Docker engine; and of several engines on other
//! machines, which one an agent is put on (`hosts`),
//! and how its files get from one to another (`moving`).
//!
//! Everything is named after the agent and carries our labels, and only what carries them is adopted or removed.
//! The environment is nowhere in a container's configuration: it is delivered through the standard input of a
//! guest process into a memory file system. It lives as long as
//! the container runs without a restart.
//!
//! Calls to an engine that ran into a limit may still take effect. `create` adopts by name, and `destroy` looks
//! until nothing is left; a creation that the engine finishes even later is found by `list_mine`.
//!
//! bollard logs request and answer bodies at debug level. Bodies hold no values of the environment, but answers
//! hold what agents print: cap the `bollard` and `hyper` log targets at info.

mod checkpoints;
mod container;
mod copier;
mod credential;
mod elements;
mod failure;
mod guest;
mod hosts;
mod lists;
mod moving;
mod names;
mod network;
mod parts;
mod ports;
mod ranges;
mod stopping;
mod subnets;
mod tls;
mod transport;

pub use crate::port_key::PortKey;
pub use credential::CredentialFault;
pub use hosts::{DockerHosts, HostSettings, Standing};
pub use moving::Carried;
pub use ranges::HostRanges;
pub use subnets::SubnetPool;
pub use tls::TlsEndpoint;
pub use transport::{Endpoint, connect};

use crate::frame::Frame;
use crate::guest_calls::{Call, exec_output, listing, piece, written};
use crate::intake::Answered;
use crate::{
    AgentRef, Capacity, Environment, ExecOutput, ExecRequest, FilePiece, Health, Kept, OpenPort, OwnedSandbox,
    Provider, ProviderError, ProviderKind, Sandbox, SandboxSpec,
};
use async_trait::async_trait;
use bollard::Docker;
use bytes::Bytes;
use guest::{As, Unanswered, unexpected};
use lists::Lists;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use theazo_guest_protocol::{FileEntry, Request, Response, WriteAt};
use tokio::sync::OnceCell;
use transport::connect_with_lists;

const KIND: ProviderKind = ProviderKind::Docker;
/// The name under which an agent finds the host of its engine, on its own network.
pub const HOST_NAME: &str = "host.theazo.internal";
/// How long an ordinary engine call may take; measured ones take milliseconds, but engines are busy in bursts.
const CALL_LIMIT: Duration = Duration::from_secs(30);
/// How long the fallback that kills everything of the agent's user may take.
const KILL_LIMIT: Duration = Duration::from_secs(10);
/// How long a health check waits.
const HEALTH_LIMIT: Duration = Duration::from_secs(3);

/// How one engine is used.
#[derive(Clone)]
pub struct DockerConfig {
    /// Where the engine listens.
    pub endpoint: Endpoint,
    /// The agent image, by name or id. It must be on the engine already.
    pub image: String,
    /// Which deployment of this service owns what is made: the value of the label `theazo.deployment`. Two
    /// deployments may share an engine.
    pub deployment: String,
    /// Memory of a sandbox in bytes, its memory file systems included.
    pub memory_bytes: i64,
    /// Processor time of a sandbox, in billionths of a core.
    pub nano_cpus: i64,
    /// Processes and threads of a sandbox.
    pub pids: i64,
    /// Where the agents' subnets come from. Must not be in use otherwise on the engine's host.
    pub subnet_pool: SubnetPool,
    /// Whether gVisor isolates agents where the engine has it.
    pub prefer_gvisor: bool,
    /// What the tokens of agents' ports are derived from. Without one no port is opened.
    pub port_key: Option<Arc<PortKey>>,
}

impl DockerConfig {
    /// The usual sandbox: 1 GiB of memory, one core, 256 processes, subnets from `10.213.0.0/16`.
    pub fn new(endpoint: Endpoint, image: impl Into<String>, deployment: impl Into<String>) -> Self {
        Self {
            endpoint,
            image: image.into(),
            deployment: deployment.into(),
            memory_bytes: 1024 * 1024 * 1024,
            nano_cpus: 1_000_000_000,
            pids: 256,
            subnet_pool: SubnetPool::default(),
            prefer_gvisor: false,
            port_key: None,
        }
    }
}

/// Agents on one Docker engine.
pub struct DockerProvider {
    docker: Docker,
    lists: Lists,
    config: DockerConfig,
    gvisor: OnceCell<bool>,
}

impl DockerProvider {
    /// An adapter for the engine that the configuration names. Nothing is sent yet.
    ///
    /// # Errors
    /// [`ProviderError::Failed`] if no client can be made.
    pub fn new(config: DockerConfig) -> Result<Self, ProviderError> {
        let (docker, lists) = connect_with_lists(&config.endpoint)?;
        Ok(Self { docker, lists, config, gvisor: OnceCell::new() })
    }

    async fn deliver(&self, agent: &str, frame: Frame) -> Result<(), ProviderError> {
        match self.ask(agent, As::Deliverer, frame, CALL_LIMIT).await? {
            (Response::Done, _) => Ok(()),
            (answer, _) => Err(unexpected("deliver environment", answer)),
        }
    }

    async fn inside(&self, agent: &AgentRef, call: Call) -> Result<Answered, ProviderError> {
        Ok(self.ask(&agent.agent, As::Agent, call.frame, call.limit).await?)
    }
}

#[async_trait]
impl Provider for DockerProvider {
    fn kind(&self) -> ProviderKind {
        KIND
    }

    async fn create(&self, spec: &SandboxSpec, environment: &Environment) -> Result<Sandbox, ProviderError> {
        let name = names::resource_name(&spec.agent)?;
        // First, so that an environment that cannot be delivered leaves nothing behind.
        let frame = Frame::deliver(KIND, environment)?;
        if spec.region.is_some() {
            return Err(ProviderError::UnknownRegion);
        }
        let (network, volume) = tokio::join!(self.ensure_network(spec, &name), self.ensure_volume(spec, &name));
        volume?;
        self.ensure_container(spec, &name, &network?).await?;
        self.start(&name).await?;
        self.deliver(&spec.agent, frame).await?;
        let found = self.inspect(&name).await?.ok_or(ProviderError::SandboxGone)?;
        let runtime = found.host_config.and_then(|host| host.runtime);
        Ok(Sandbox {
            region: None,
            details: runtime.map(|runtime| ("isolation".to_owned(), runtime)).into_iter().collect::<BTreeMap<_, _>>(),
        })
    }

    async fn stop(&self, agent: &AgentRef) -> Result<Kept, ProviderError> {
        self.stop_sandbox(agent).await
    }

    async fn resume(&self, spec: &SandboxSpec, environment: &Environment) -> Result<Sandbox, ProviderError> {
        self.resume_sandbox(spec, environment).await
    }

    async fn exec(&self, agent: &AgentRef, request: ExecRequest) -> Result<ExecOutput, ProviderError> {
        let Call { frame, limit, intake, .. } = Call::exec(KIND, request)?;
        let answer = self.ask_into(&agent.agent, As::Agent, frame, limit, intake).await;
        if matches!(answer, Err(Unanswered { guest_lost: true, .. })) {
            // Nothing else ends what the guest had started. Other calls of the same agent end with it.
            let kill = Frame::new(KIND, &Request::KillAll, &[])?;
            if self.ask(&agent.agent, As::Agent, kill, KILL_LIMIT).await.is_err() {
                tracing::warn!(agent = agent.agent, "processes may be left after an exec without an answer");
            }
        }
        exec_output(KIND, answer?)
    }

    async fn write_file(
        &self,
        agent: &AgentRef,
        path: &str,
        at: Option<WriteAt>,
        data: Bytes,
    ) -> Result<(), ProviderError> {
        written(KIND, self.inside(agent, Call::write_file(KIND, path, at, &data)?).await?)
    }

    async fn read_file(
        &self,
        agent: &AgentRef,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<FilePiece, ProviderError> {
        piece(KIND, self.inside(agent, Call::read_file(KIND, path, offset, length)?).await?)
    }

    async fn list_files(&self, agent: &AgentRef, dir: &str) -> Result<Vec<FileEntry>, ProviderError> {
        listing(KIND, self.inside(agent, Call::list_files(KIND, dir)?).await?)
    }

    async fn open_port(&self, agent: &AgentRef, port: u16) -> Result<OpenPort, ProviderError> {
        self.open_forwarder(agent, port).await
    }

    async fn destroy(&self, agent: &AgentRef) -> Result<(), ProviderError> {
        self.remove_all(&agent.agent, parts::Files::Go).await
    }

    async fn discard(&self, agent: &AgentRef) -> Result<(), ProviderError> {
        self.remove_all(&agent.agent, parts::Files::CheckpointsStay).await
    }

    async fn checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<Kept, ProviderError> {
        self.make_checkpoint(agent, checkpoint).await
    }

    async fn remove_checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<(), ProviderError> {
        self.drop_checkpoint(agent, checkpoint).await
    }

    async fn restore(
        &self,
        spec: &SandboxSpec,
        environment: &Environment,
        checkpoint: &str,
    ) -> Result<Sandbox, ProviderError> {
        self.restore_sandbox(spec, environment, checkpoint).await
    }

    async fn list_mine(&self) -> Result<Vec<OwnedSandbox>, ProviderError> {
        self.list_owned().await
    }

    async fn capacity(&self) -> Result<Option<Capacity>, ProviderError> {
        self.room(CALL_LIMIT).await.map(Some)
    }

    async fn health(&self) -> Health {
        let asked = failure::timed(HEALTH_LIMIT, self.docker.version()).await;
        match asked.map_err(|error| failure::from_engine("version", error)).and_then(|told| transport::usable(&told)) {
            Ok(message) => Health { healthy: true, message },
            Err(error) => Health { healthy: false, message: error.to_string() },
        }
    }
}
