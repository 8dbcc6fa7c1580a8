//! An agent's own network: a bridge with a name and a subnet of its own, found again by name and labels.
//!
//! Network names are not unique at an engine (<https://github.com/moby/moby/issues/33037>), so after creation only ids
//! are used.

use super::failure::{failed, from_engine, says, timed};
use super::lists::{Labelled, Network};
use super::subnets::Subnet;
use super::{CALL_LIMIT, DockerProvider, names};
use crate::{Capacity, ProviderError, SandboxSpec};
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

/// How often a subnet or a race for the name may be lost before giving up.
const ATTEMPTS: usize = 16;
/// How long the winner of a race needs to become visible.
const RACE_PAUSE: Duration = Duration::from_millis(100);

/// An agent's network at the engine.
pub(super) struct AgentNetwork {
    /// The engine's id of it.
    pub id: String,
    /// The host's address on it.
    pub gateway: Ipv4Addr,
}

impl DockerProvider {
    /// The agent's network, which is made if it is not there.
    pub(super) async fn ensure_network(&self, spec: &SandboxSpec, name: &str) -> Result<AgentNetwork, ProviderError> {
        let mut refused: Vec<Subnet> = Vec::new();
        for _ in 0..ATTEMPTS {
            let networks = self.networks(CALL_LIMIT).await?;
            if let Some(network) = networks.iter().find(|network| self.is_agents_network(network, spec, name)) {
                return adopt(network, spec);
            }
            let mut used: Vec<Subnet> = networks.iter().flat_map(subnets_of).collect();
            used.extend(&refused);
            let start = names::subnet_start(&self.config.deployment, &spec.agent);
            let subnet = self.config.subnet_pool.pick(start, &used).ok_or(ProviderError::NoCapacity)?;
            let request = self.network_request(spec, name, subnet);
            match timed(CALL_LIMIT, self.docker.create_network(request)).await {
                Ok(created) => return Ok(AgentNetwork { id: created.id, gateway: subnet.gateway() }),
                Err(error) if says(&error, "overlaps") => refused.push(subnet),
                // Another call for this agent was quicker.
                Err(error) if says(&error, "bridge name") || says(&error, "already exists") => {
                    tokio::time::sleep(RACE_PAUSE).await;
                }
                Err(error) => return Err(from_engine("create network", error)),
            }
        }
        Err(failed("create network", true, "lost the race for a subnet too often"))
    }

    /// All of the engine's.
    async fn networks(&self, limit: Duration) -> Result<Vec<Network>, ProviderError> {
        let listed = timed(limit, self.lists.all_networks()).await;
        listed.map_err(|error| from_engine("list networks", error))
    }

    /// How many agents have room beside those that are there, and how many have in all.
    pub(super) async fn room(&self, limit: Duration) -> Result<Capacity, ProviderError> {
        let networks = self.networks(limit).await?;
        let used: Vec<Subnet> = networks.iter().flat_map(subnets_of).collect();
        let pool = &self.config.subnet_pool;
        Ok(Capacity { free: pool.free(&used), places: pool.places() })
    }

    /// Which engine this is: the id of a network that each has made for itself. The engine's own id is a file's that may have
    /// come with its machine's image, and so many have; this network is made anew when an engine starts.
    pub(super) async fn engine_id(&self, limit: Duration) -> Result<String, ProviderError> {
        let networks = self.networks(limit).await?;
        let named = |name: &str| Some(networks.iter().find(|network| network.name() == name)?.id().to_owned());
        let id = named("bridge").or_else(|| named("none")).filter(|id| !id.is_empty());
        id.ok_or_else(|| failed("list networks", false, "the engine has no network of its own"))
    }

    fn is_agents_network(&self, network: &Network, spec: &SandboxSpec, name: &str) -> bool {
        network.name() == name && network.is_of(&self.config.deployment, &spec.agent)
    }

    fn network_request(&self, spec: &SandboxSpec, name: &str, subnet: Subnet) -> NetworkCreateRequest {
        NetworkCreateRequest {
            name: name.into(),
            driver: Some("bridge".into()),
            internal: Some(!spec.internet),
            attachable: Some(false),
            enable_ipv6: Some(false),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some(subnet.to_string()),
                    gateway: Some(subnet.gateway().to_string()),
                    ..IpamConfig::default()
                }]),
                ..Ipam::default()
            }),
            options: Some(HashMap::from([
                ("com.docker.network.bridge.name".into(), names::bridge_name(&self.config.deployment, &spec.agent)),
                ("com.docker.network.bridge.enable_icc".into(), "false".into()),
            ])),
            labels: Some(names::labels(&self.config.deployment, spec)),
            ..NetworkCreateRequest::default()
        }
    }
}

/// An agent without internet must never be put on a network that has it.
fn adopt(network: &Network, spec: &SandboxSpec) -> Result<AgentNetwork, ProviderError> {
    if network.internal == spec.internet {
        return Err(failed("adopt network", false, "the agent's network exists with the other internet setting"));
    }
    let id = Some(network.id().to_owned()).filter(|id| !id.is_empty());
    let found = id.zip(subnets_of(network).next()).map(|(id, subnet)| AgentNetwork { id, gateway: subnet.gateway() });
    found.ok_or_else(|| failed("adopt network", false, "a network without an id or a subnet"))
}

fn subnets_of(network: &Network) -> impl Iterator<Item = Subnet> {
    network.subnets().filter_map(Subnet::parse)
}
