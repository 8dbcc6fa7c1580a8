//! Finding and removing what belongs to agents: containers, networks and volumes with our labels.

use super::failure::{from_engine, status, timed};
use super::lists::{AgentNetwork, Container, Labelled, Volume as ListedVolume};
use super::{CALL_LIMIT, DockerProvider, names};
use crate::{OwnedSandbox, ProviderError};
use bollard::models::{NetworkInspect, Volume};
use bollard::query_parameters::{InspectNetworkOptions, RemoveContainerOptionsBuilder, RemoveVolumeOptions};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long a removal that the engine is busy with is waited for.
const REMOVE_WITHIN: Duration = Duration::from_secs(60);
/// One forced removal; the engine itself waits up to 10 s for the kill.
const REMOVE_LIMIT: Duration = Duration::from_secs(30);
const REMOVE_PAUSE: Duration = Duration::from_millis(200);

/// What becomes of an agent's files when the rest of it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// They are removed too.
    Go,
    /// Its volume is kept, and its checkpoints.
    Stay,
    /// Its volume is removed, and its checkpoints are kept.
    CheckpointsStay,
}

/// What is left of an agent: the engine's ids, and volume names.
#[derive(Default, Debug)]
struct Parts {
    forwarders: Vec<String>,
    containers: Vec<String>,
    networks: Vec<String>,
    volumes: Vec<String>,
}

impl Parts {
    fn is_empty(&self) -> bool {
        self.forwarders.is_empty() && self.containers.is_empty() && self.networks.is_empty() && self.volumes.is_empty()
    }
}

impl DockerProvider {
    /// Removes everything of an agent, or everything but its files, until a look finds nothing of it any more.
    pub(super) async fn remove_all(&self, agent: &str, files: Files) -> Result<(), ProviderError> {
        let name = names::resource_name(agent)?;
        let until = Instant::now() + REMOVE_WITHIN;
        loop {
            let mut parts = self.find(agent, &name).await?;
            match files {
                Files::Go => {}
                Files::Stay => parts.volumes.clear(),
                Files::CheckpointsStay => parts.volumes.retain(|volume| *volume == name),
            }
            if parts.is_empty() {
                return Ok(());
            }
            let conflict = self.remove(&parts).await?;
            if Instant::now() >= until {
                return Err(conflict.unwrap_or(ProviderError::TimedOut));
            }
            if conflict.is_some() {
                tokio::time::sleep(REMOVE_PAUSE).await;
            }
        }
    }

    /// One pass over the parts. A conflict is answered as a value: the engine is still busy with a removal or a
    /// creation, or a container still holds the network or the volume.
    async fn remove(&self, parts: &Parts) -> Result<Option<ProviderError>, ProviderError> {
        let mut conflict = None;
        let remove = async |id: &String| {
            let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
            timed(REMOVE_LIMIT, self.docker.remove_container(id, Some(options))).await
        };
        for removed in join_all(parts.forwarders.iter().map(&remove)).await {
            note("remove container", removed, &mut conflict)?;
        }
        for id in &parts.containers {
            note("remove container", remove(id).await, &mut conflict)?;
        }
        // The network holds what leads to the agent, and its addresses are another agent's next.
        if conflict.is_some() {
            return Ok(conflict);
        }
        for id in &parts.networks {
            note("remove network", timed(REMOVE_LIMIT, self.docker.remove_network(id)).await, &mut conflict)?;
        }
        for volume in &parts.volumes {
            let removed = timed(REMOVE_LIMIT, self.docker.remove_volume(volume, None::<RemoveVolumeOptions>)).await;
            note("remove volume", removed, &mut conflict)?;
        }
        Ok(conflict)
    }

    /// By label, and by name in case a listing leaves something out that is just being made or removed.
    async fn find(&self, agent: &str, name: &str) -> Result<Parts, ProviderError> {
        let deployment = &self.config.deployment;
        let (containers, networks, volumes) = self.list(Some(agent)).await?;
        let (forwarders, containers): (Vec<_>, Vec<_>) = containers.into_iter().partition(Container::is_forwarder);
        let ids = |listed: Vec<Container>| listed.iter().map(|container| container.id().to_owned()).collect();
        let mut parts = Parts {
            forwarders: ids(forwarders),
            containers: ids(containers),
            networks: networks.iter().map(|network| network.id().to_owned()).collect(),
            volumes: volumes.iter().map(|volume| volume.id().to_owned()).collect(),
        };
        if parts.containers.is_empty()
            && let Some(found) = self.inspect(name).await?
            && self.is_agents_container(&found, agent)
        {
            parts.containers.extend(found.id);
        }
        if parts.networks.is_empty()
            && let Some(found) = self.inspect_network(name).await?
            && names::is_ours(found.labels.as_ref(), deployment, agent)
        {
            parts.networks.extend(found.id);
        }
        if !parts.volumes.iter().any(|volume| volume == name)
            && let Some(found) = self.inspect_volume(name).await?
            && names::is_ours(Some(&found.labels), deployment, agent)
        {
            parts.volumes.push(found.name);
        }
        Ok(parts)
    }

    async fn inspect_network(&self, name: &str) -> Result<Option<NetworkInspect>, ProviderError> {
        match timed(CALL_LIMIT, self.docker.inspect_network(name, None::<InspectNetworkOptions>)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(from_engine("inspect network", error)),
        }
    }

    pub(super) async fn inspect_volume(&self, name: &str) -> Result<Option<Volume>, ProviderError> {
        match timed(CALL_LIMIT, self.docker.inspect_volume(name)).await {
            Ok(found) => Ok(Some(found)),
            Err(error) if status(&error) == Some(404) => Ok(None),
            Err(error) => Err(from_engine("inspect volume", error)),
        }
    }

    /// Every agent of this deployment of which the engine has a container, a network or a volume.
    pub(super) async fn list_owned(&self) -> Result<Vec<OwnedSandbox>, ProviderError> {
        let (containers, networks, volumes) = self.list(None).await?;
        let mut agents: BTreeMap<String, bool> = BTreeMap::new();
        let deployment = &self.config.deployment;
        // Labels are what whoever runs the engine says; what could be no agent's is nobody's.
        let plausible = |agent: &&str| names::resource_name(agent).is_ok();
        let networks = networks.iter().filter_map(|network| network.agent_of(deployment));
        let volumes = volumes.iter().filter_map(|volume| volume.agent_of(deployment));
        for agent in networks.chain(volumes).filter(plausible) {
            agents.entry(agent.to_owned()).or_default();
        }
        for container in &containers {
            // What leads to an agent is none.
            let runs = container.is_running() && !container.is_forwarder();
            if let Some(agent) = container.agent_of(deployment).filter(plausible) {
                *agents.entry(agent.to_owned()).or_default() |= runs;
            }
        }
        Ok(agents.into_iter().map(|(agent, running)| OwnedSandbox { agent, running }).collect())
    }

    /// How many ports of an agent are open, or about to be.
    pub(super) async fn count_ports(&self, agent: &str) -> Result<usize, ProviderError> {
        let (containers, ..) = self.list(Some(agent)).await?;
        Ok(containers.iter().filter(|container| container.is_forwarder() && !container.has_ended()).count())
    }

    /// Containers, networks and volumes with our labels.
    async fn list(
        &self,
        agent: Option<&str>,
    ) -> Result<(Vec<Container>, Vec<AgentNetwork>, Vec<ListedVolume>), ProviderError> {
        let deployment = &self.config.deployment;
        let (containers, networks, volumes) = tokio::join!(
            timed(CALL_LIMIT, self.lists.containers(deployment, agent)),
            timed(CALL_LIMIT, self.lists.networks(deployment, agent)),
            timed(CALL_LIMIT, self.lists.volumes(deployment, agent)),
        );
        let mut containers = containers.map_err(|error| from_engine("list containers", error))?;
        let mut networks = networks.map_err(|error| from_engine("list networks", error))?;
        let mut volumes = volumes.map_err(|error| from_engine("list volumes", error))?;
        // The filter is the engine's promise; what is about to be removed is looked at once more.
        let is_asked_for = |owner: Option<&str>| owner.is_some_and(|owner| agent.is_none_or(|agent| agent == owner));
        containers.retain(|container| !container.id().is_empty() && is_asked_for(container.agent_of(deployment)));
        networks.retain(|network| !network.id().is_empty() && is_asked_for(network.agent_of(deployment)));
        volumes.retain(|volume| is_asked_for(volume.agent_of(deployment)));
        Ok((containers, networks, volumes))
    }
}

/// Sorts a removal's result: done or gone already, in conflict with something that passes, or failed.
fn note(
    operation: &'static str,
    result: Result<(), bollard::errors::Error>,
    conflict: &mut Option<ProviderError>,
) -> Result<(), ProviderError> {
    match result {
        Ok(()) => Ok(()),
        Err(error) => match status(&error) {
            Some(404) => Ok(()),
            // 403 is a network with active endpoints, 409 a removal in progress or a volume in use.
            Some(403 | 409) => {
                *conflict = Some(from_engine(operation, error));
                Ok(())
            }
            _ => Err(from_engine(operation, error)),
        },
    }
}
