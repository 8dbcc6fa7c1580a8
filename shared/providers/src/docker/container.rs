//! An agent's container and its volume: the hardening, creation by name, adoption, start.

use super::failure::{failed, from_engine, status, timed};
use super::network::AgentNetwork;
use super::{CALL_LIMIT, DockerProvider, HOST_NAME, names};
use crate::{ProviderError, SandboxSpec};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, HostConfigCgroupnsModeEnum, HostConfigLogConfig, Mount,
    MountType, MountVolumeOptions, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum, VolumeCreateRequest,
};
use bollard::query_parameters::{CreateContainerOptionsBuilder, InspectContainerOptions, StartContainerOptions};
use std::collections::HashMap;
use std::time::Duration;
use theazo_guest_protocol::{AGENT_UID, GUEST_PATH, RUN_DIR, SUPERVISOR_UID};

/// Open files per process. Enough for any interpreter; the default of the engine may be a million.
const OPEN_FILES: i64 = 4096;
/// How often to look again for a container whose name is taken but which cannot be seen.
const ATTEMPTS: usize = 20;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(150);
/// Creating and starting wait for the engine's other work; 20 at once took 5 s on two cores.
const START_LIMIT: Duration = Duration::from_secs(60);

/// gVisor's name among an engine's runtimes: a kernel of the container's own.
const GVISOR: &str = "runsc";

/// A lifetime in whole seconds, never shorter than asked.
fn whole_seconds(lifetime: Duration) -> u64 {
    lifetime.as_secs() + u64::from(lifetime.subsec_nanos() > 0)
}

impl DockerProvider {
    /// Makes the volume for `/data`, or adopts it.
    pub(super) async fn ensure_volume(&self, spec: &SandboxSpec, name: &str) -> Result<(), ProviderError> {
        let request = VolumeCreateRequest {
            name: Some(name.into()),
            driver: Some("local".into()),
            labels: Some(names::labels(&self.config.deployment, spec)),
            ..VolumeCreateRequest::default()
        };
        // An existing volume of that name is answered as if it had just been made, with the labels it has.
        let volume = timed(CALL_LIMIT, self.docker.create_volume(request)).await;
        let volume = volume.map_err(|error| from_engine("create volume", error))?;
        if names::is_ours(Some(&volume.labels), &self.config.deployment, &spec.agent) {
            Ok(())
        } else {
            Err(failed("adopt volume", false, "a volume of that name belongs to somebody else"))
        }
    }

    /// Makes the container, or adopts the one of that name if it is ours. Does not start it.
    pub(super) async fn ensure_container(
        &self,
        spec: &SandboxSpec,
        name: &str,
        network: &AgentNetwork,
    ) -> Result<(), ProviderError> {
        for _ in 0..ATTEMPTS {
            let options = CreateContainerOptionsBuilder::default().name(name).build();
            let body = self.container_body(spec, name, network).await?;
            match timed(START_LIMIT, self.docker.create_container(Some(options), body)).await {
                Ok(_) => return Ok(()),
                Err(error) if status(&error) == Some(404) => {
                    return Err(failed("create container", false, "the agent image is not on this engine"));
                }
                Err(error) if status(&error) != Some(409) => return Err(from_engine("create container", error)),
                Err(_) => {}
            }
            // The name is taken: by an earlier or simultaneous create of ours, or by one being removed.
            match self.inspect(name).await? {
                Some(found) if self.is_agents_container(&found, &spec.agent) => return Ok(()),
                Some(_) => {
                    return Err(failed("adopt container", false, "a container of that name belongs to somebody else"));
                }
                None => tokio::time::sleep(ATTEMPT_PAUSE).await,
            }
        }
        Err(failed("create container", true, "the container's name stays taken"))
    }

    /// Starts the container; one that runs already is left alone.
    pub(super) async fn start(&self, name: &str) -> Result<(), ProviderError> {
        let started = timed(START_LIMIT, self.docker.start_container(name, None::<StartContainerOptions>)).await;
        started.map_err(|error| from_engine("start container", error))
    }

    /// The container of that name, whosever it is; `None` if there is none.
    pub(super) async fn inspect(&self, name: &str) -> Result<Option<ContainerInspectResponse>, ProviderError> {
        match timed(CALL_LIMIT, self.docker.inspect_container(name, None::<InspectContainerOptions>)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(from_engine("inspect container", error)),
        }
    }

    pub(super) fn is_agents_container(&self, found: &ContainerInspectResponse, agent: &str) -> bool {
        let labels = found.config.as_ref().and_then(|config| config.labels.as_ref());
        names::is_ours(labels, &self.config.deployment, agent)
    }

    /// The container without any environment: whatever is in here is shown by inspect, commit and save.
    async fn container_body(
        &self,
        spec: &SandboxSpec,
        name: &str,
        network: &AgentNetwork,
    ) -> Result<ContainerCreateBody, ProviderError> {
        let runtime = self.runtime().await?;
        Ok(ContainerCreateBody {
            image: Some(self.config.image.clone()),
            hostname: Some("agent".into()),
            user: Some(format!("{SUPERVISOR_UID}:{SUPERVISOR_UID}")),
            entrypoint: Some(vec![GUEST_PATH.into()]),
            cmd: Some(vec!["init".into(), "--lifetime".into(), whole_seconds(spec.lifetime).to_string()]),
            labels: Some(names::labels(&self.config.deployment, spec)),
            host_config: Some(HostConfig { runtime, ..self.host_config(spec, name, network) }),
            ..ContainerCreateBody::default()
        })
    }

    /// The runtime that isolates best of those that the engine has, if that is not the usual one. Asked once.
    async fn runtime(&self) -> Result<Option<String>, ProviderError> {
        if !self.config.prefer_gvisor {
            return Ok(None);
        }
        let asked = self.gvisor.get_or_try_init(|| async {
            let info = timed(CALL_LIMIT, self.docker.info()).await.map_err(|error| from_engine("info", error))?;
            Ok::<_, ProviderError>(info.runtimes.is_some_and(|runtimes| runtimes.contains_key(GVISOR)))
        });
        Ok(asked.await?.then(|| GVISOR.to_owned()))
    }

    /// The hardening; each part was measured to hold on Docker 20.10. No binds, devices, published ports, capabilities
    /// or swap.
    fn host_config(&self, spec: &SandboxSpec, name: &str, network: &AgentNetwork) -> HostConfig {
        let limit =
            |name: &str, value| ResourcesUlimits { name: Some(name.into()), soft: Some(value), hard: Some(value) };
        HostConfig {
            network_mode: Some(network.id.clone()),
            // A name for what is another address in every agent; whether anything answers there is the host's to decide.
            extra_hosts: Some(vec![format!("{HOST_NAME}:{}", network.gateway)]),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            readonly_rootfs: Some(true),
            privileged: Some(false),
            tmpfs: Some(HashMap::from([
                // A tmpfs is noexec unless told otherwise, and programs unpack and run things here.
                ("/tmp".into(), "rw,exec,nosuid,nodev,size=256m,mode=1777".into()),
                // The delivered environment: written by root without capabilities, read by the agent's group.
                // Replacing it holds two copies for a moment. The image has the directory with the same mode,
                // because old runc versions take the directory's mode at a restart.
                (RUN_DIR.into(), format!("rw,noexec,nosuid,nodev,size=4m,uid=0,gid={AGENT_UID},mode=0750")),
            ])),
            mounts: Some(vec![Mount {
                target: Some("/data".into()),
                source: Some(name.into()),
                typ: Some(MountType::VOLUME),
                volume_options: Some(MountVolumeOptions {
                    // If a destroy took the volume away meanwhile, the engine makes it again, and only with
                    // labels is it found by the next destroy.
                    labels: Some(names::labels(&self.config.deployment, spec)),
                    ..MountVolumeOptions::default()
                }),
                ..Mount::default()
            }]),
            memory: Some(self.config.memory_bytes),
            // The sum of memory and swap, so: no swap, and the environment's tmpfs never reaches a disk.
            memory_swap: Some(self.config.memory_bytes),
            nano_cpus: Some(self.config.nano_cpus),
            pids_limit: Some(self.config.pids),
            // No core files: they would hold the environment.
            ulimits: Some(vec![limit("nofile", OPEN_FILES), limit("core", 0)]),
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".into()),
                config: Some(HashMap::from([("max-size".into(), "1m".into()), ("max-file".into(), "2".into())])),
            }),
            // A restarted container has lost its environment; only the control plane may start one again.
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            ipc_mode: Some("private".into()),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            ..HostConfig::default()
        }
    }
}
