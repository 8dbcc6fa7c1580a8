//! Checkpoints on an engine: a volume each beside the agent's, with a copy of its files.
//!
//! What copies is a container of the agent image that waits for a signal and runs `cp`: without a network, with both volumes, as
//! root with the few capabilities that reading and owning any file takes. The agent's container stands still meanwhile, so
//! that the copy is of one moment; calls that come then wait ([`super::guest`]). Memory file systems, and with them the
//! environment, are in neither volume.

use super::failure::{failed, from_engine, says, status, timed};
use super::parts::Files;
use super::{CALL_LIMIT, DockerProvider, names};
use crate::{AgentRef, Environment, Kept, Provider, ProviderError, Sandbox, SandboxSpec};
use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions, RestartPolicy,
    RestartPolicyNameEnum, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, KillContainerOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
    StartContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Which checkpoint a volume is, or a container makes.
const CHECKPOINT_LABEL: &str = "theazo.checkpoint";
/// How long an agent may stand still for a copy. What takes longer is given up: its calls wait for it.
const FREEZE_LIMIT: Duration = Duration::from_secs(9);
/// How long a copy to boot from may take.
const COPY_LIMIT: Duration = Duration::from_secs(15);
/// How long a container or volume that the engine is busy with is waited for.
const REMOVE_WITHIN: Duration = Duration::from_secs(15);
const REMOVE_PAUSE: Duration = Duration::from_millis(200);
/// Waits for a signal and copies all that there is, links, modes and owners included.
const COPY: &str = "trap go=1 USR1; until [ \"$go\" ]; do sleep 0.02; done; exec cp -a -- /from/. /to/";
/// After what time it is told again.
const SIGNAL_PAUSE: Duration = Duration::from_millis(200);
/// What that may take, in bytes and processes.
const COPY_MEMORY: i64 = 256 * 1024 * 1024;
const COPY_PIDS: i64 = 16;

/// A container that stands still. Whatever becomes of the call, it goes on.
struct Frozen {
    docker: Docker,
    name: Option<String>,
}

impl Frozen {
    async fn thaw(mut self) -> Result<(), ProviderError> {
        let Some(name) = self.name.clone() else { return Ok(()) };
        let thawed = thaw(&self.docker, &name).await;
        if thawed.is_ok() {
            self.name = None;
        }
        thawed
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let (Some(name), Ok(runtime)) = (self.name.take(), tokio::runtime::Handle::try_current()) else { return };
        let docker = self.docker.clone();
        runtime.spawn(async move {
            if let Err(error) = thaw(&docker, &name).await {
                tracing::warn!(name, %error, "a container stands still until its checkpoint is cleaned up");
            }
        });
    }
}

/// Has a container go on. One that is gone, or does not stand still, is left alone.
async fn thaw(docker: &Docker, name: &str) -> Result<(), ProviderError> {
    match timed(CALL_LIMIT, docker.unpause_container(name)).await {
        Ok(()) => Ok(()),
        Err(error) if status(&error) == Some(404) || says(&error, "not paused") || says(&error, "not running") => {
            Ok(())
        }
        Err(error) => Err(from_engine("unpause container", error)),
    }
}

fn copier_name(name: &str) -> String {
    format!("{name}-copy")
}

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
        let request = VolumeCreateRequest {
            name: Some(volume.clone()),
            driver: Some("local".into()),
            labels: Some(self.checkpoint_labels(&agent.agent, checkpoint)),
            ..VolumeCreateRequest::default()
        };
        let made = timed(CALL_LIMIT, self.docker.create_volume(request)).await;
        let made = made.map_err(|error| from_engine("create volume", error))?;
        if !names::is_ours(Some(&made.labels), &self.config.deployment, &agent.agent) {
            return Err(failed("create volume", false, "a volume of that name belongs to somebody else"));
        }
        // Ready before the agent stands still, so that it does so for the copy alone.
        let copier = self.make_copier(&agent.agent, &name, checkpoint, (&name, &volume)).await?;
        self.start_copier(&copier).await?;
        let frozen = Frozen { docker: self.docker.clone(), name: Some(name.clone()) };
        let copied = async {
            match timed(CALL_LIMIT, self.docker.pause_container(&name)).await {
                Ok(()) => {}
                Err(error) if matches!(status(&error), Some(404)) || says(&error, "not running") => {
                    return Err(ProviderError::SandboxGone);
                }
                Err(error) => return Err(from_engine("pause container", error)),
            }
            self.copy(&copier).await
        };
        let copied = tokio::time::timeout(FREEZE_LIMIT, copied).await.unwrap_or(Err(ProviderError::TimedOut));
        let thawed = frozen.thaw().await;
        self.remove_copier(&copier).await?;
        thawed?;
        copied.map(|()| Kept { bytes: None })
    }

    /// Removes a checkpoint's volume, and what an interrupted call has left of its making.
    pub(super) async fn drop_checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<(), ProviderError> {
        let (name, volume) = (names::resource_name(&agent.agent)?, names::resource_name(checkpoint)?);
        let copier = self.inspect(&copier_name(&name)).await?;
        let copies = copier.as_ref().and_then(|found| found.config.as_ref()?.labels.as_ref()?.get(CHECKPOINT_LABEL));
        // While another checkpoint is made, the agent stands still for that one.
        if copies.is_none_or(|copied| copied == checkpoint) {
            if copier.is_some_and(|found| self.is_agents_container(&found, &agent.agent)) {
                self.remove_copier(&copier_name(&name)).await?;
            }
            let paused = self.inspect(&name).await?.filter(|found| self.is_agents_container(found, &agent.agent));
            if paused.and_then(|found| found.state?.paused).unwrap_or(false) {
                thaw(&self.docker, &name).await?;
            }
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
        let copier = self.make_copier(&spec.agent, &name, checkpoint, (&volume, &name)).await?;
        let copied = async {
            self.start_copier(&copier).await?;
            self.copy(&copier).await
        };
        let copied = tokio::time::timeout(COPY_LIMIT, copied).await;
        self.remove_copier(&copier).await?;
        copied.unwrap_or(Err(ProviderError::TimedOut))?;
        self.create(spec, environment).await
    }

    fn checkpoint_labels(&self, agent: &str, checkpoint: &str) -> HashMap<String, String> {
        HashMap::from([
            (names::DEPLOYMENT_LABEL.into(), self.config.deployment.clone()),
            (names::AGENT_LABEL.into(), agent.to_owned()),
            (CHECKPOINT_LABEL.into(), checkpoint.to_owned()),
        ])
    }

    /// The container that is to copy one volume to another, by name. One that an interrupted call left goes.
    async fn make_copier(
        &self,
        agent: &str,
        name: &str,
        checkpoint: &str,
        (from, to): (&str, &str),
    ) -> Result<String, ProviderError> {
        let copier = copier_name(name);
        if let Some(found) = self.inspect(&copier).await? {
            if !self.is_agents_container(&found, agent) {
                return Err(failed("create container", false, "a container of that name belongs to somebody else"));
            }
            self.remove_copier(&copier).await?;
        }
        let mount = |source: &str, target: &str, read_only| Mount {
            target: Some(target.into()),
            source: Some(source.into()),
            typ: Some(MountType::VOLUME),
            read_only: Some(read_only),
            // Nothing of the image's gets into it. If somebody took it away meanwhile, the engine makes it again, and only
            // with labels is it found by the next removal.
            volume_options: Some(MountVolumeOptions {
                no_copy: Some(true),
                labels: Some(self.checkpoint_labels(agent, checkpoint)),
                ..MountVolumeOptions::default()
            }),
            ..Mount::default()
        };
        let host_config = HostConfig {
            network_mode: Some("none".into()),
            cap_drop: Some(vec!["ALL".into()]),
            // Files that their owner cannot read, of any owner, with their set-id bits.
            cap_add: Some(["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"].map(String::from).to_vec()),
            security_opt: Some(vec!["no-new-privileges".into()]),
            readonly_rootfs: Some(true),
            privileged: Some(false),
            mounts: Some(vec![mount(from, "/from", true), mount(to, "/to", false)]),
            memory: Some(COPY_MEMORY),
            memory_swap: Some(COPY_MEMORY),
            pids_limit: Some(COPY_PIDS),
            log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            ..HostConfig::default()
        };
        let body = ContainerCreateBody {
            image: Some(self.config.image.clone()),
            user: Some("0:0".into()),
            entrypoint: Some(vec!["/bin/bash".into()]),
            cmd: Some(["-c", COPY].map(String::from).to_vec()),
            labels: Some(self.checkpoint_labels(agent, checkpoint)),
            host_config: Some(host_config),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&copier).build();
        let made = timed(CALL_LIMIT, self.docker.create_container(Some(options), body)).await;
        made.map_err(|error| from_engine("create container", error))?;
        Ok(copier)
    }

    async fn start_copier(&self, copier: &str) -> Result<(), ProviderError> {
        let started = timed(CALL_LIMIT, self.docker.start_container(copier, None::<StartContainerOptions>)).await;
        started.map_err(|error| from_engine("start container", error))
    }

    /// Tells it to copy, and waits until everything is.
    async fn copy(&self, copier: &str) -> Result<(), ProviderError> {
        let mut ends = self.docker.wait_container(copier, None::<WaitContainerOptions>);
        let mut ended = std::pin::pin!(ends.next());
        let ended = loop {
            // The first may come before it listens; later ones mean nothing to it.
            let signal = KillContainerOptionsBuilder::default().signal("SIGUSR1").build();
            match timed(CALL_LIMIT, self.docker.kill_container(copier, Some(signal))).await {
                Ok(()) => {}
                Err(error) if status(&error) == Some(409) => {}
                Err(error) => return Err(from_engine("signal container", error)),
            }
            if let Ok(ended) = tokio::time::timeout(SIGNAL_PAUSE, &mut ended).await {
                break ended;
            }
        };
        match ended {
            Some(Ok(ended)) if ended.status_code == 0 => Ok(()),
            // The one for an exit code that is not zero is bollard's own.
            Some(Ok(_) | Err(bollard::errors::Error::DockerContainerWaitError { .. })) => {
                Err(failed("copy files", false, "not all files could be copied"))
            }
            Some(Err(error)) => Err(from_engine("wait for container", error)),
            None => Err(failed("copy files", true, "the engine did not tell how the copy went")),
        }
    }

    async fn remove_copier(&self, copier: &str) -> Result<(), ProviderError> {
        let remove = || async {
            // Its volumes have names, and stay.
            let options = RemoveContainerOptionsBuilder::default().force(true).build();
            timed(CALL_LIMIT, self.docker.remove_container(copier, Some(options))).await
        };
        until_removed("remove container", remove).await
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

/// Removes something, again as long as the engine is busy with it. What is not there is removed.
async fn until_removed<F>(operation: &'static str, remove: impl Fn() -> F) -> Result<(), ProviderError>
where
    F: Future<Output = Result<(), bollard::errors::Error>>,
{
    let until = Instant::now() + REMOVE_WITHIN;
    loop {
        match remove().await {
            Ok(()) => return Ok(()),
            Err(error) => match status(&error) {
                Some(404) => return Ok(()),
                Some(409) if Instant::now() < until => tokio::time::sleep(REMOVE_PAUSE).await,
                _ => return Err(from_engine(operation, error)),
            },
        }
    }
}
