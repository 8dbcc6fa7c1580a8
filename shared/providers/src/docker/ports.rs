//! Ports of agents that can be reached from outside: for each a forwarder, a container of the agent image on the network of
//! the host. Engines keep an agent's bridge closed to every other container, and ours has its own rules besides; what
//! the host itself begins is answered.
//!
//! Nothing is published: the forwarder listens on a port that the host's kernel picks, and forwards what carries the
//! token of that agent, run and port. It has no right in its container, connects through the agent's bridge alone, and
//! ends by itself when that bridge goes or the agent's time is over. The token is derived
//! ([`PortKey`](super::PortKey)); the forwarder's arguments have its digest.

use super::failure::{failed, from_engine, says, status, timed};
use super::transport::Endpoint;
use super::{CALL_LIMIT, DockerProvider, names};
use crate::port_key::Run;
use crate::{AgentRef, OpenPort, ProviderError};
use bollard::container::LogOutput;
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerStateStatusEnum, HostConfig, HostConfigCgroupnsModeEnum,
    HostConfigLogConfig, ResourcesUlimits, RestartPolicy, RestartPolicyNameEnum,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions,
};
use futures_util::StreamExt;
use sha2::{Digest, Sha256};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;
use theazo_guest_protocol::forwarder::{EVERYWHERE, FORWARDER_PATH, FORWARDER_UID, LOOPBACK, PORT_TOKEN_HEADER};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

const OPEN: &str = "open port";
/// Most open ports of one agent.
const MOST: usize = 8;
/// What a forwarder may take: bytes, billionths of a core, processes and threads, open files.
const MEMORY: i64 = 128 * 1024 * 1024;
const NANO_CPUS: i64 = 500_000_000;
const PIDS: i64 = 8;
const OPEN_FILES: i64 = 1024;
/// How long a forwarder may take until it says where it listens.
const UP_WITHIN: Duration = Duration::from_secs(10);
/// Longest that it says.
const LONGEST_LINE: usize = 16;
/// How often to try for a name that is taken by what is just going.
const ATTEMPTS: usize = 60;
const ATTEMPT_PAUSE: Duration = Duration::from_millis(150);

/// The run of an agent that is to be reached, as its container tells.
struct Reached {
    container: String,
    address: Ipv4Addr,
    /// When its time is over by the host's clock, in seconds since 1970.
    until: u64,
    labels: HashMap<String, String>,
}

impl DockerProvider {
    /// Makes the forwarder to a port of a running agent, or finds the one that is there.
    pub(super) async fn open_forwarder(&self, agent: &AgentRef, port: u16) -> Result<OpenPort, ProviderError> {
        let agent = agent.agent.as_str();
        let name = names::resource_name(agent)?;
        let key = self.config.port_key.as_ref().ok_or(ProviderError::NoPorts)?;
        let reached = self.reached(&name, agent).await?;
        let run = Run { deployment: &self.config.deployment, agent, boot: &reached.container, port };
        let token = key.token(&run);
        let (listen, host) = match &self.config.endpoint {
            Endpoint::Unix(_) => (LOOPBACK, "127.0.0.1"),
            Endpoint::Tls(there) => (EVERYWHERE, there.host()),
        };
        let arguments = vec![
            listen.to_owned(),
            format!("{}:{port}", reached.address),
            names::bridge_name(&self.config.deployment, agent),
            hex::encode(Sha256::digest(token.as_bytes())),
            reached.until.to_string(),
        ];
        let forwarder = names::forwarder_name(&name, port);
        let listens = match self.ensure_forwarder(agent, &forwarder, port, &arguments, &reached.labels).await {
            Ok(()) => self.where_it_listens(&forwarder).await,
            Err(error) => Err(error),
        };
        // Whoever ended the agent meanwhile may have looked for forwarders before there was this one.
        let still = self.reached(&name, agent).await.and_then(|now| match now.container == reached.container {
            true => Ok(()),
            false => Err(ProviderError::SandboxGone),
        });
        match still.and(listens) {
            Ok(listens) => {
                let url = format!("http://{host}:{listens}/");
                Ok(OpenPort { url, headers: vec![(PORT_TOKEN_HEADER, token)] })
            }
            // That it could not be asked says nothing of it, and others may use it.
            Err(error @ (ProviderError::SandboxGone | ProviderError::TooManyPorts { .. })) => {
                // Not one that another call has made for another run.
                self.remove_forwarder(agent, &forwarder, |found| arguments_of(found) == Some(arguments.as_slice()))
                    .await?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// The agent's container, if it runs.
    async fn reached(&self, name: &str, agent: &str) -> Result<Reached, ProviderError> {
        let found = self.inspect(name).await?.ok_or(ProviderError::SandboxGone)?;
        let state = found.state.as_ref();
        if !state.and_then(|state| state.running).unwrap_or(false) || !self.is_agents_container(&found, agent) {
            return Err(ProviderError::SandboxGone);
        }
        let started = state.and_then(|state| state.started_at.as_deref());
        let started = started.and_then(|started| OffsetDateTime::parse(started, &Rfc3339).ok());
        let networks = found.network_settings.as_ref().and_then(|settings| settings.networks.as_ref());
        let mut addresses = networks.into_iter().flat_map(|networks| networks.values());
        let address = addresses.next().and_then(|network| network.ip_address.as_ref()?.parse().ok());
        let config = found.config.as_ref();
        let lifetime = config.and_then(|config| lifetime(config.cmd.as_deref()?));
        let until = started.zip(lifetime).and_then(|(started, lifetime)| {
            u64::try_from(started.unix_timestamp()).ok().map(|started| started + 1 + lifetime)
        });
        let odd = || failed(OPEN, false, "the agent's container is not as it was made");
        Ok(Reached {
            container: found.id.clone().ok_or_else(odd)?,
            address: address.ok_or_else(odd)?,
            until: until.ok_or_else(odd)?,
            labels: config.and_then(|config| config.labels.clone()).unwrap_or_default(),
        })
    }

    /// Has the forwarder run with these arguments. One that has others, or has ended, is replaced.
    async fn ensure_forwarder(
        &self,
        agent: &str,
        forwarder: &str,
        port: u16,
        arguments: &[String],
        labels: &HashMap<String, String>,
    ) -> Result<(), ProviderError> {
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                // An engine that is busy takes its time to let go of a container that has ended.
                tokio::time::sleep(ATTEMPT_PAUSE).await;
            }
            match self.inspect(forwarder).await? {
                Some(found) if !self.is_agents_container(&found, agent) => {
                    return Err(failed(OPEN, false, "a container of that name belongs to somebody else"));
                }
                Some(found) => match standing(&found, arguments) {
                    Standing::Runs => return Ok(()),
                    Standing::Made => {}
                    Standing::Useless => {
                        self.remove_forwarder(agent, forwarder, |_| true).await?;
                        continue;
                    }
                },
                None => {
                    let options = CreateContainerOptionsBuilder::default().name(forwarder).build();
                    let body = self.forwarder_body(port, arguments, labels);
                    match timed(CALL_LIMIT, self.docker.create_container(Some(options), body)).await {
                        Ok(_) => {}
                        Err(error) if status(&error) == Some(404) => {
                            return Err(failed(OPEN, false, "the agent image is not on this engine"));
                        }
                        // Made by another call at the same moment, or just going.
                        Err(error) if status(&error) == Some(409) => continue,
                        Err(error) => return Err(from_engine(OPEN, error)),
                    }
                }
            }
            // Counted with this one, whoever made it, so that of several at once none is too many.
            if self.count_ports(agent).await? > MOST {
                return Err(ProviderError::TooManyPorts { most: MOST });
            }
            if self.start_forwarder(forwarder).await? {
                return Ok(());
            }
        }
        Err(failed(OPEN, true, "the forwarder's name stays taken"))
    }

    /// Whether there was still one to start.
    async fn start_forwarder(&self, forwarder: &str) -> Result<bool, ProviderError> {
        match timed(CALL_LIMIT, self.docker.start_container(forwarder, None::<StartContainerOptions>)).await {
            Ok(()) => Ok(true),
            Err(error) if says(&error, FORWARDER_PATH) => {
                Err(failed(OPEN, false, "the agent image on this engine is too old to have a forwarder"))
            }
            Err(error) if status(&error) == Some(404) => Ok(false),
            Err(error) => Err(from_engine(OPEN, error)),
        }
    }

    /// The port that a forwarder says it listens on.
    async fn where_it_listens(&self, forwarder: &str) -> Result<u16, ProviderError> {
        let said = tokio::time::timeout(UP_WITHIN, async {
            let options = LogsOptionsBuilder::new().stdout(true).follow(true).build();
            let mut output = self.docker.logs(forwarder, Some(options));
            let mut said = Vec::new();
            while let Some(piece) = output.next().await {
                if let LogOutput::StdOut { message } = piece.map_err(|error| from_engine(OPEN, error))? {
                    said.extend_from_slice(&message);
                }
                if said.contains(&b'\n') || said.len() > LONGEST_LINE {
                    break;
                }
            }
            Ok(said)
        });
        let said = said.await.unwrap_or(Err(ProviderError::TimedOut))?;
        let port = std::str::from_utf8(&said).ok().and_then(|said| said.strip_suffix('\n')?.parse().ok());
        port.filter(|port| *port != 0).ok_or_else(|| failed(OPEN, true, "the forwarder has ended"))
    }

    /// Removes the forwarder of that name, if it is one that is meant.
    async fn remove_forwarder(
        &self,
        agent: &str,
        forwarder: &str,
        is_meant: impl Fn(&ContainerInspectResponse) -> bool + Send,
    ) -> Result<(), ProviderError> {
        let Some(found) = self.inspect(forwarder).await? else { return Ok(()) };
        let is_it = self.is_agents_container(&found, agent) && is_meant(&found);
        let Some(id) = found.id.filter(|_| is_it) else { return Ok(()) };
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        match timed(CALL_LIMIT, self.docker.remove_container(&id, Some(options))).await {
            Ok(()) => Ok(()),
            // Gone, or just going.
            Err(error) if matches!(status(&error), Some(404 | 409)) => Ok(()),
            Err(error) => Err(from_engine(OPEN, error)),
        }
    }

    /// The forwarder's container: on the host's network, and without any other right.
    fn forwarder_body(&self, port: u16, arguments: &[String], labels: &HashMap<String, String>) -> ContainerCreateBody {
        let limit =
            |name: &str, value| ResourcesUlimits { name: Some(name.into()), soft: Some(value), hard: Some(value) };
        let mut labels = labels.clone();
        labels.insert(names::PORT_LABEL.into(), port.to_string());
        let host_config = HostConfig {
            network_mode: Some("host".into()),
            // Where an engine maps users, the host's network is given only to containers without that; in this one the
            // user is nobody on the host either.
            userns_mode: Some("host".into()),
            // What has ended by itself leaves nothing.
            auto_remove: Some(true),
            cap_drop: Some(vec!["ALL".into()]),
            security_opt: Some(vec!["no-new-privileges".into()]),
            readonly_rootfs: Some(true),
            privileged: Some(false),
            memory: Some(MEMORY),
            memory_swap: Some(MEMORY),
            nano_cpus: Some(NANO_CPUS),
            pids_limit: Some(PIDS),
            // No core files: they would hold tokens of requests.
            ulimits: Some(vec![limit("nofile", OPEN_FILES), limit("core", 0)]),
            // The number of its port is read from there.
            log_config: Some(HostConfigLogConfig {
                typ: Some("json-file".into()),
                config: Some(HashMap::from([("max-size".into(), "16k".into()), ("max-file".into(), "1".into())])),
            }),
            restart_policy: Some(RestartPolicy { name: Some(RestartPolicyNameEnum::NO), maximum_retry_count: None }),
            ipc_mode: Some("private".into()),
            cgroupns_mode: Some(HostConfigCgroupnsModeEnum::PRIVATE),
            ..HostConfig::default()
        };
        ContainerCreateBody {
            image: Some(self.config.image.clone()),
            user: Some(format!("{FORWARDER_UID}:{FORWARDER_UID}")),
            entrypoint: Some(vec![FORWARDER_PATH.into()]),
            cmd: Some(arguments.to_vec()),
            working_dir: Some("/".into()),
            labels: Some(labels),
            host_config: Some(host_config),
            ..ContainerCreateBody::default()
        }
    }
}

/// What is to be done about a forwarder that is there.
enum Standing {
    Runs,
    /// It is to be started.
    Made,
    /// It is another run's, or has ended.
    Useless,
}

fn standing(found: &ContainerInspectResponse, arguments: &[String]) -> Standing {
    let state = found.state.as_ref().and_then(|state| state.status);
    match state.filter(|_| arguments_of(found) == Some(arguments)) {
        Some(ContainerStateStatusEnum::RUNNING) => Standing::Runs,
        Some(ContainerStateStatusEnum::CREATED) => Standing::Made,
        _ => Standing::Useless,
    }
}

fn arguments_of(found: &ContainerInspectResponse) -> Option<&[String]> {
    found.config.as_ref()?.cmd.as_deref()
}

/// The lifetime among the arguments of a guest, in seconds.
fn lifetime(arguments: &[String]) -> Option<u64> {
    let mut arguments = arguments.iter().skip_while(|argument| *argument != "--lifetime");
    arguments.nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lifetime_is_found_among_a_guests_arguments() {
        let found = |arguments: &[&str]| lifetime(&arguments.iter().map(|one| (*one).to_owned()).collect::<Vec<_>>());
        assert_eq!(found(&["init", "--lifetime", "300"]), Some(300));
        for bad in [&[][..], &["init"], &["--lifetime"], &["init", "--lifetime", "soon"], &["300"]] {
            assert_eq!(found(bad), None, "{bad:?}");
        }
    }
}
