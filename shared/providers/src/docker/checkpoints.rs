//! Checkpoints on an engine: a volume each beside the agent's, with a copy of its files.
//!
//! What copies is a copier (`copier`) with both volumes that runs `cp`.
//!
//! The agent runs on meanwhile, so the copy is of no single moment: a file that is written just then may be caught half
//! way. Having the engine stand the agent's container still is no way out: on Docker 20.10 an exec that begins at that
//! moment never ends, and nobody gets the container moving again (seen here; its freezer holds a half-made process).

use super::copier::{Copier, copier_name, mount, until_removed};
use super::failure::{failed, from_engine, timed};
use super::parts::Files;
use super::{CALL_LIMIT, DockerProvider, names};
use crate::{AgentRef, Environment, Kept, Provider, ProviderError, Sandbox, SandboxSpec};
use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::RemoveVolumeOptions;
use std::collections::HashMap;
use std::time::Duration;

/// Which checkpoint a volume is, or a container makes.
const CHECKPOINT_LABEL: &str = "theazo.checkpoint";
/// How long a copy may take.
const COPY_LIMIT: Duration = Duration::from_secs(15);
/// Copies all that there is, links, modes and owners included. What moved away under its hands has it begin again; in the end
/// what is gone is gone, but a file that was replaced meanwhile must not be missing.
const COPY: &str = r#"
gone=': No such file or directory$'
for try in 1 2 3 4 5 6 7 8; do
    find /to -mindepth 1 -delete
    said=$(cp -a -- /from/. /to/ 2>&1) && exit 0
    printf '%s\n' "$said" | grep -qvE "$gone|, as it was replaced while being copied$" && exit 1
    sleep 0.0$try
done
! printf '%s\n' "$said" | grep -qv -- "$gone"
"#;

impl DockerProvider {
    /// Copies the files of a running agent to a volume of the checkpoint's.
    pub(super) async fn make_checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<Kept, ProviderError> {
        let (name, volume) = (names::resource_name(&agent.agent)?, names::resource_name(checkpoint)?);
        let found = self.inspect(&name).await?.ok_or(ProviderError::SandboxGone)?;
        let runs = found.state.as_ref().and_then(|state| state.running).unwrap_or(false);
        if !runs || !self.is_agents_container(&found, &agent.agent) {
            return Err(ProviderError::SandboxGone);
        }
        self.remove_checkpoint_volume(&agent.agent, checkpoint, &volume).await?;
        self.make_checkpoint_volume(&agent.agent, checkpoint, &volume).await?;
        let copier = self.make_volume_copier(&agent.agent, &name, checkpoint, (&name, &volume)).await?;
        self.copy(&copier).await?;
        Ok(Kept { bytes: None })
    }

    /// Removes a checkpoint's volume, and what an interrupted call has left of its making.
    pub(super) async fn drop_checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<(), ProviderError> {
        let (name, volume) = (names::resource_name(&agent.agent)?, names::resource_name(checkpoint)?);
        let copier = self.inspect(&copier_name(&name)).await?;
        let copies = copier.as_ref().and_then(|found| found.config.as_ref()?.labels.as_ref()?.get(CHECKPOINT_LABEL));
        // It may be making another one, or moving them all.
        let is_its = copies.is_some_and(|copied| copied == checkpoint);
        if is_its && copier.is_some_and(|found| self.is_agents_container(&found, &agent.agent)) {
            self.remove_copier(&copier_name(&name)).await?;
        }
        self.remove_checkpoint_volume(&agent.agent, checkpoint, &volume).await
    }

    /// Makes the sandbox on a copy of a checkpoint's files.
    pub(super) async fn restore_sandbox(
        &self,
        spec: &SandboxSpec,
        environment: &Environment,
        checkpoint: &str,
    ) -> Result<Sandbox, ProviderError> {
        let (name, volume) = (names::resource_name(&spec.agent)?, names::resource_name(checkpoint)?);
        let kept = self.inspect_volume(&volume).await?;
        if !kept.is_some_and(|kept| names::is_ours(Some(&kept.labels), &self.config.deployment, &spec.agent)) {
            return Err(ProviderError::SandboxGone);
        }
        self.remove_all(&spec.agent, Files::CheckpointsStay).await?;
        self.ensure_volume(spec, &name).await?;
        let copier = self.make_volume_copier(&spec.agent, &name, checkpoint, (&volume, &name)).await?;
        self.copy(&copier).await?;
        self.create(spec, environment).await
    }

    pub(super) async fn make_checkpoint_volume(
        &self,
        agent: &str,
        checkpoint: &str,
        volume: &str,
    ) -> Result<(), ProviderError> {
        let request = VolumeCreateRequest {
            name: Some(volume.into()),
            driver: Some("local".into()),
            labels: Some(self.checkpoint_labels(agent, checkpoint)),
            ..VolumeCreateRequest::default()
        };
        let made = timed(CALL_LIMIT, self.docker.create_volume(request)).await;
        let made = made.map_err(|error| from_engine("create volume", error))?;
        if names::is_ours(Some(&made.labels), &self.config.deployment, agent) {
            Ok(())
        } else {
            Err(failed("create volume", false, "a volume of that name belongs to somebody else"))
        }
    }

    pub(super) fn checkpoint_labels(&self, agent: &str, checkpoint: &str) -> HashMap<String, String> {
        HashMap::from([
            (names::DEPLOYMENT_LABEL.into(), self.config.deployment.clone()),
            (names::AGENT_LABEL.into(), agent.to_owned()),
            (CHECKPOINT_LABEL.into(), checkpoint.to_owned()),
        ])
    }

    /// The container that is to copy one volume to another, by name. One that an interrupted call left goes.
    async fn make_volume_copier(
        &self,
        agent: &str,
        name: &str,
        checkpoint: &str,
        (from, to): (&str, &str),
    ) -> Result<String, ProviderError> {
        let labels = self.checkpoint_labels(agent, checkpoint);
        let mounts = vec![mount(from, "/from", true, labels.clone()), mount(to, "/to", false, labels.clone())];
        let command = ["/bin/bash", "-c", COPY].map(String::from).to_vec();
        self.make_copier(agent, name, Copier { labels, mounts, command, takes_input: false }).await
    }

    /// Has it copy, waits until everything is, and removes it.
    async fn copy(&self, copier: &str) -> Result<(), ProviderError> {
        let copied = tokio::time::timeout(COPY_LIMIT, self.run_copier(copier)).await;
        self.remove_copier(copier).await?;
        copied.unwrap_or(Err(ProviderError::TimedOut))
    }

    async fn run_copier(&self, copier: &str) -> Result<(), ProviderError> {
        self.start_copier(copier).await?;
        self.await_copier(copier).await
    }

    async fn remove_checkpoint_volume(&self, agent: &str, checkpoint: &str, volume: &str) -> Result<(), ProviderError> {
        let Some(found) = self.inspect_volume(volume).await? else { return Ok(()) };
        let is_it = found.labels.get(CHECKPOINT_LABEL).map(String::as_str) == Some(checkpoint);
        if !is_it || !names::is_ours(Some(&found.labels), &self.config.deployment, agent) {
            return Err(failed("remove volume", false, "a volume of that name belongs to somebody else"));
        }
        let remove =
            || async { timed(CALL_LIMIT, self.docker.remove_volume(volume, None::<RemoveVolumeOptions>)).await };
        until_removed("remove volume", remove).await
    }
}
