//! Copiers: containers of the agent image that copy files of volumes. Without a network, as root with the few capabilities
//! that reading and owning any file takes; memory file systems, and with them the environment, are in no volume.

use super::failure::{failed, from_engine, status, timed};
use super::{CALL_LIMIT, DockerProvider};
use crate::ProviderError;
use bollard::errors::Error as EngineError;
use bollard::models::{
    ContainerCreateBody, HostConfig, HostConfigLogConfig, Mount, MountType, MountVolumeOptions, RestartPolicy,
    RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long a container or volume that the engine is busy with is waited for.
const REMOVE_WITHIN: Duration = Duration::from_secs(15);
const REMOVE_PAUSE: Duration = Duration::from_millis(200);
/// What copying may take, in bytes and processes.
const MEMORY: i64 = 256 * 1024 * 1024;
const PIDS: i64 = 16;

/// The name of the copier of the agent whose things have that name.
pub(super) fn copier_name(name: &str) -> String {
    format!("{name}-copy")
}

/// What a copier is to be.
pub(super) struct Copier {
    pub(super) labels: HashMap<String, String>,
    pub(super) mounts: Vec<Mount>,
    /// The program with its arguments.
    pub(super) command: Vec<String>,
    /// Whether something is sent to its standard input, once.
    pub(super) takes_input: bool,
}

/// A volume as a copier sees it.
pub(super) fn mount(volume: &str, target: &str, read_only: bool, labels: HashMap<String, String>) -> Mount {
    Mount {
        target: Some(target.into()),
        source: Some(volume.into()),
        typ: Some(MountType::VOLUME),
        read_only: Some(read_only),
        // Nothing of the image's gets into it. If somebody took it away meanwhile, the engine makes it again, and only
        // with labels is it found by the next removal.
        volume_options: Some(MountVolumeOptions {
            no_copy: Some(true),
            labels: Some(labels),
            ..MountVolumeOptions::default()
        }),
        ..Mount::default()
    }
}

impl DockerProvider {
    /// The copier of an agent, by name. One that an interrupted call left goes.
    pub(super) async fn make_copier(&self, agent: &str, name: &str, copier: Copier) -> Result<String, ProviderError> {
        let Copier { labels, mounts, command, takes_input } = copier;
        let copier = copier_name(name);
        if let Some(found) = self.inspect(&copier).await? {
            if !self.is_agents_container(&found, agent) {
                return Err(failed("create container", false, "a container of that name belongs to somebody else"));
            }
            self.remove_copier(&copier).await?;
        }
        let host_config = HostConfig {
            network_mode: Some("none".into()),
            cap_drop: Some(vec!["ALL".into()]),
            // Files that their owner cannot read, of any owner, with their set-id bits.
            cap_add: Some(["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"].map(String::from).to_vec()),
            security_opt: Some(vec!["no-new-privileges".into()]),
            readonly_rootfs: Some(true),
            privileged: Some(false),
            mounts: Some(mounts),
            memory: Some(MEMORY),
            memory_swap: Some(MEMORY),
            pids_limit: Some(PIDS),
            log_config: Some(HostConfigLogConfig { typ: Some("none".into()), config: None }),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            ..HostConfig::default()
        };
        let (program, arguments) =
            command.split_first().map(|(program, rest)| (program.clone(), rest.to_vec())).unzip();
        let body = ContainerCreateBody {
            image: Some(self.config.image.clone()),
            user: Some("0:0".into()),
            entrypoint: program.map(|program| vec![program]),
            cmd: arguments,
            attach_stdin: Some(takes_input),
            open_stdin: Some(takes_input),
            // It ends with whoever sends it.
            stdin_once: Some(takes_input),
            labels: Some(labels),
            host_config: Some(host_config),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&copier).build();
        let made = timed(CALL_LIMIT, self.docker.create_container(Some(options), body)).await;
        made.map_err(|error| from_engine("create container", error))?;
        Ok(copier)
    }

    pub(super) async fn start_copier(&self, copier: &str) -> Result<(), ProviderError> {
        let started = timed(CALL_LIMIT, self.docker.start_container(copier, None::<StartContainerOptions>)).await;
        started.map_err(|error| from_engine("start container", error))
    }

    /// Waits until a copier that was started has copied everything.
    pub(super) async fn await_copier(&self, copier: &str) -> Result<(), ProviderError> {
        match self.docker.wait_container(copier, None::<WaitContainerOptions>).next().await {
            Some(Ok(ended)) if ended.status_code == 0 => Ok(()),
            // The one for an exit code that is not zero is bollard's own.
            Some(Ok(_) | Err(EngineError::DockerContainerWaitError { .. })) => {
                Err(failed("copy files", false, "not all files could be copied"))
            }
            Some(Err(error)) => Err(from_engine("wait for container", error)),
            None => Err(failed("copy files", true, "the engine did not tell how the copy went")),
        }
    }

    pub(super) async fn remove_copier(&self, copier: &str) -> Result<(), ProviderError> {
        let remove = || async {
            // Its volumes have names, and stay.
            let options = RemoveContainerOptionsBuilder::default().force(true).build();
            timed(CALL_LIMIT, self.docker.remove_container(copier, Some(options))).await
        };
        until_removed("remove container", remove).await
    }
}

/// Removes something, again as long as the engine is busy with it. What is not there is removed.
pub(super) async fn until_removed<F>(operation: &'static str, remove: impl Fn() -> F) -> Result<(), ProviderError>
where
    F: Future<Output = Result<(), EngineError>>,
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
