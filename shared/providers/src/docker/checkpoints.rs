//! Checkpoints on an engine: a volume each beside the agent's, with a copy of its files.
//!
//! What copies is a container of the agent image that runs `cp`: without a network, with both volumes, as root with the few
//! capabilities that reading and owning any file takes. Memory file systems, and with them the environment, are in neither
//! volume.
//!
//! The agent runs on meanwhile, so the copy is of no single moment: a file that is written just then may be caught half
//! way. Having the engine stand the agent's container still is no way out: on Docker 20.10 an exec that begins at that
//! moment never ends, and nobody gets the container moving again (seen here; its freezer holds a half-made process).

use super::failure::{failed, from_engine, status, timed};
use super::parts::Files;
use super::{CALL_LIMIT, DockerProvider, names};
use crate::{AgentRef, Environment, Kept, Provider, ProviderError, Sandbox, SandboxSpec};
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions, RestartPolicy,
    RestartPolicyNameEnum, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions, StartContainerOptions,
    WaitContainerOptions,
};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Which checkpoint a volume is, or a container makes.
const CHECKPOINT_LABEL: &str = "theazo.checkpoint";
/// How long a copy may take.
const COPY_LIMIT: Duration = Duration::from_secs(15);
/// How long a container or volume that the engine is busy with is waited for.
const REMOVE_WITHIN: Duration = Duration::from_secs(15);
const REMOVE_PAUSE: Duration = Duration::from_millis(200);
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
/// What that may take, in bytes and processes.
const COPY_MEMORY: i64 = 256 * 1024 * 1024;
const COPY_PIDS: i64 = 16;

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
        let copier = self.make_copier(&agent.agent, &name, checkpoint, (&name, &volume)).await?;
        self.copy(&copier).await?;
        Ok(Kept { bytes: None })
    }

    /// Removes a checkpoint's volume, and what an interrupted call has left of its making.
    pub(super) async fn drop_checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<(), ProviderError> {
        let (name, volume) = (names::resource_name(&agent.agent)?, names::resource_name(checkpoint)?);
        let copier = self.inspect(&copier_name(&name)).await?;
        let copies = copier.as_ref().and_then(|found| found.config.as_ref()?.labels.as_ref()?.get(CHECKPOINT_LABEL));
        // It may be making another one.
        let is_its = copies.is_none_or(|copied| copied == checkpoint);
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
        let copier = self.make_copier(&spec.agent, &name, checkpoint, (&volume, &name)).await?;
        self.copy(&copier).await?;
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

    /// Has it copy, waits until everything is, and removes it.
    async fn copy(&self, copier: &str) -> Result<(), ProviderError> {
        let copied = tokio::time::timeout(COPY_LIMIT, self.run_copier(copier)).await;
        self.remove_copier(copier).await?;
        copied.unwrap_or(Err(ProviderError::TimedOut))
    }

    async fn run_copier(&self, copier: &str) -> Result<(), ProviderError> {
        let started = timed(CALL_LIMIT, self.docker.start_container(copier, None::<StartContainerOptions>)).await;
        started.map_err(|error| from_engine("start container", error))?;
        match self.docker.wait_container(copier, None::<WaitContainerOptions>).next().await {
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
