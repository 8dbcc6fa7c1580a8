//! Stopping a sandbox and making it again on the files that it kept.
//!
//! What is kept is the agent's volume, `/data`, and nothing else. The container is removed and not just stopped: its
//! memory file systems, and the environment in one of them, go with it, nothing that can be committed or exported is
//! left, and the next container is made by the same code as the first, with the limits of that time.

use super::guest::As;
use super::parts::Files;
use super::{DockerProvider, names};
use crate::frame::Frame;
use crate::guest_calls;
use crate::{AgentRef, Environment, Kept, Provider, ProviderError, ProviderKind, Sandbox, SandboxSpec};
use std::time::Duration;

/// How long taking the environment away may take, and as long again the measuring. A container that does not answer by
/// then is removed all the same, and its memory with it.
const FAREWELL_LIMIT: Duration = Duration::from_secs(4);

impl DockerProvider {
    /// Takes the environment away, then the container and the network; the volume stays.
    pub(super) async fn stop_sandbox(&self, agent: &AgentRef) -> Result<Kept, ProviderError> {
        let name = names::resource_name(&agent.agent)?;
        self.expect_files(&agent.agent, &name).await?;
        let mut bytes = None;
        if self.is_running(&name).await? {
            // Programs that still run keep what they started with, until the container's end in a moment.
            if let Err(error) = self.withdraw(&agent.agent).await {
                tracing::warn!(agent = agent.agent, %error, "the environment goes with the container's memory");
            }
            bytes = guest_calls::farewell(self, agent, FAREWELL_LIMIT).await;
        }
        self.remove_all(&agent.agent, Files::Stay).await?;
        Ok(Kept { bytes })
    }

    /// Makes the sandbox anew on the volume that is there.
    pub(super) async fn resume_sandbox(
        &self,
        spec: &SandboxSpec,
        environment: &Environment,
    ) -> Result<Sandbox, ProviderError> {
        let name = names::resource_name(&spec.agent)?;
        self.expect_files(&spec.agent, &name).await?;
        // One that an interrupted resume left has another lifetime.
        self.remove_all(&spec.agent, Files::Stay).await?;
        self.create(spec, environment).await
    }

    /// A volume that is made anew would be an agent that has silently lost its files.
    pub(super) async fn expect_files(&self, agent: &str, name: &str) -> Result<(), ProviderError> {
        let volume = self.inspect_volume(name).await?;
        let ours = volume.is_some_and(|volume| names::is_ours(Some(&volume.labels), &self.config.deployment, agent));
        if ours { Ok(()) } else { Err(ProviderError::SandboxGone) }
    }

    /// An empty environment takes the place of the delivered one.
    async fn withdraw(&self, agent: &str) -> Result<(), ProviderError> {
        let nothing = Frame::deliver(ProviderKind::Docker, &Environment::default())?;
        let withdrawn = self.ask(agent, As::Deliverer, nothing, FAREWELL_LIMIT).await?;
        match withdrawn.0 {
            theazo_guest_protocol::Response::Done => Ok(()),
            other => Err(super::guest::unexpected("take the environment away", other)),
        }
    }
}
