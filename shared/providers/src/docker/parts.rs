//! Finding and removing what belongs to agents: containers, networks and volumes with our labels.

use super::failure::{from_engine, status, timed};
use super::lists::{Container, Few, Labelled, Network, NotListed, Volume as ListedVolume};
use super::{CALL_LIMIT, DockerProvider, names};
use crate::{OwnedSandbox, Presence, ProviderError};
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
/// Agents of one host that are told of, those that do not run among them. Of those, what is beyond is told of when others are
/// gone.
const MOST_AGENTS: usize = 32 * 1024;

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
        let mut is_first = true;
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
            // It is usually all gone after the first.
            if conflict.is_some() || !is_first {
                tokio::time::sleep(REMOVE_PAUSE).await;
            }
            is_first = false;
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
        let (containers, networks, volumes) = self.list(agent).await?;
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
        let [mut containers, mut networks, mut volumes] = [(); 3].map(|()| Agents::default());
        let deployment = &self.config.deployment;
        // What leads to an agent is none.
        let of_container = |container: Container| {
            let runs = container.is_running() && !container.is_forwarder();
            let presence = if runs { Presence::Running } else { Presence::Remains };
            containers.add(container.agent_of(deployment), presence)
        };
        let of_network = |network: Network| {
            networks.add_rest(network.agent_of(deployment), Presence::Remains);
            Ok(())
        };
        let of_volume = |volume: ListedVolume| {
            volumes.add_rest(volume.agent_of(deployment), Presence::Kept);
            Ok(())
        };
        let (of_containers, of_networks, of_volumes) = tokio::join!(
            timed(CALL_LIMIT, self.lists.of(deployment, None, of_container)),
            timed(CALL_LIMIT, self.lists.of(deployment, None, of_network)),
            timed(CALL_LIMIT, self.lists.of(deployment, None, of_volume)),
        );
        of_containers.map_err(|error| from_engine("list containers", error))?;
        of_networks.map_err(|error| from_engine("list networks", error))?;
        of_volumes.map_err(|error| from_engine("list volumes", error))?;
        for (agent, presence) in networks.0.iter().chain(&volumes.0) {
            containers.add_rest(Some(agent), *presence);
        }
        Ok(containers.0.into_iter().map(|(agent, presence)| OwnedSandbox { agent, presence }).collect())
    }

    /// How many ports of an agent are open, or about to be.
    pub(super) async fn count_ports(&self, agent: &str) -> Result<usize, ProviderError> {
        let (containers, ..) = self.list(agent).await?;
        Ok(containers.iter().filter(|container| container.is_forwarder() && !container.has_ended()).count())
    }

    /// An agent's containers, networks and volumes.
    async fn list(&self, agent: &str) -> Result<(Vec<Container>, Vec<Network>, Vec<ListedVolume>), ProviderError> {
        let deployment = &self.config.deployment;
        let (mut containers, mut networks, mut volumes) = (Few::default(), Few::default(), Few::default());
        let (of_containers, of_networks, of_volumes) = tokio::join!(
            timed(CALL_LIMIT, self.lists.of(deployment, Some(agent), |container: Container| containers.add(container))),
            timed(CALL_LIMIT, self.lists.of(deployment, Some(agent), |network: Network| networks.add(network))),
            timed(CALL_LIMIT, self.lists.of(deployment, Some(agent), |volume: ListedVolume| volumes.add(volume))),
        );
        of_containers.map_err(|error| from_engine("list containers", error))?;
        of_networks.map_err(|error| from_engine("list networks", error))?;
        of_volumes.map_err(|error| from_engine("list volumes", error))?;
        let (Few(mut containers), Few(mut networks), Few(mut volumes)) = (containers, networks, volumes);
        // The filter is the engine's promise; what is about to be removed is looked at once more.
        containers.retain(|container| !container.id().is_empty() && container.is_of(deployment, agent));
        networks.retain(|network| !network.id().is_empty() && network.is_of(deployment, agent));
        volumes.retain(|volume| !volume.id().is_empty() && volume.is_of(deployment, agent));
        Ok((containers, networks, volumes))
    }
}

/// Agents that a list names, and whether they run.
#[derive(Default)]
struct Agents(BTreeMap<String, Presence>);

impl Agents {
    /// # Errors
    /// When there are more than a host can have.
    fn add(&mut self, agent: Option<&str>, presence: Presence) -> Result<(), NotListed> {
        // Labels are what whoever runs the engine says; what could be no agent's is nobody's.
        let Some(agent) = agent.filter(|agent| names::resource_name(agent).is_ok()) else { return Ok(()) };
        if let Some(known) = self.0.get_mut(agent) {
            *known = presence.max(*known);
        } else if self.0.len() < MOST_AGENTS {
            self.0.insert(agent.to_owned(), presence);
        } else {
            return Err(NotListed("more agents than a host can have"));
        }
        Ok(())
    }

    /// One of which there is something that does not run. A host has a volume of each agent that is paused, and of each
    /// checkpoint, which may be any number: those that are too many are told of when others are gone.
    fn add_rest(&mut self, agent: Option<&str>, presence: Presence) {
        let _ = self.add(agent, presence);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_are_told_once_however_much_a_host_has_of_them_and_never_more_than_it_can_have() {
        let mut agents = Agents::default();
        for _ in 0..11 {
            agents.add(Some("agt_1"), Presence::Kept).unwrap();
        }
        agents.add(Some("agt_1"), Presence::Running).unwrap();
        agents.add(Some("agt_1"), Presence::Kept).unwrap();
        for nobody in [None, Some(""), Some("../images"), Some("AGT")] {
            agents.add(nobody, Presence::Running).unwrap();
        }
        assert_eq!(agents.0, BTreeMap::from([("agt_1".to_owned(), Presence::Running)]));
        for n in 2..=MOST_AGENTS {
            agents.add(Some(&format!("agt_{n}")), Presence::Kept).unwrap();
        }
        assert!(agents.add(Some("agt_more"), Presence::Kept).is_err());
        agents.add(Some("agt_2"), Presence::Running).unwrap();
        assert_eq!((agents.0.len(), agents.0["agt_2"]), (MOST_AGENTS, Presence::Running));
    }
}
