//! What a Docker engine shows and keeps of agents: everything that may be asked of it short of exec and top, which equal
//! root on the host and are the one exception that the README names.

use bollard::Docker;
use bollard::models::{ContainerConfig, ContainerCreateBody, HostConfig, Mount, MountType};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
    EventsOptionsBuilder, InspectContainerOptions, InspectNetworkOptions, ListContainersOptionsBuilder,
    ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, LogsOptionsBuilder, RemoveImageOptions,
};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use serde::Serialize;
use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::pin::pin;
use std::time::{SystemTime, UNIX_EPOCH};
use theazo_providers::AgentRef;

pub struct Engine {
    pub docker: Docker,
    image: String,
    since: u64,
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

fn text(shown: &impl Serialize) -> String {
    serde_json::to_string(shown).unwrap()
}

/// What an agent's container, network and volume are called, and a checkpoint's volume.
pub fn name(id: &str) -> String {
    id.replace('_', "-")
}

/// All of an archive, a piece at a time: a file system's hundreds of megabytes take half a minute a byte at a time.
async fn gather(pieces: impl Stream<Item = Result<Bytes, bollard::errors::Error>>) -> Vec<u8> {
    let mut pieces = pin!(pieces);
    let mut gathered = Vec::new();
    while let Some(piece) = pieces.next().await {
        gathered.extend_from_slice(&piece.unwrap());
    }
    gathered
}

/// All of an archive of a file system.
async fn whole(pieces: impl Stream<Item = Result<Bytes, bollard::errors::Error>>) -> Vec<u8> {
    let whole = gather(pieces).await;
    assert!(whole.len() > 1024 * 1024, "{} bytes are no file system", whole.len());
    whole
}

impl Engine {
    pub fn new(docker: Docker, image: &str) -> Self {
        Self { docker, image: image.into(), since: now() - 1 }
    }

    /// Its address on its network.
    pub async fn address(&self, agent: &AgentRef) -> String {
        let shown = self.docker.inspect_container(&name(&agent.agent), None::<InspectContainerOptions>).await.unwrap();
        let networks = shown.network_settings.unwrap().networks.unwrap();
        networks.values().next().unwrap().ip_address.clone().unwrap()
    }

    /// Its host's address on its network.
    pub async fn gateway(&self, agent: &AgentRef) -> String {
        let shown = self.docker.inspect_network(&name(&agent.agent), None::<InspectNetworkOptions>).await.unwrap();
        let config = shown.ipam.unwrap().config.unwrap().remove(0);
        // An engine that chose it by itself does not always say so; it is then the first of the network's addresses.
        config.gateway.unwrap_or_else(|| {
            let subnet: Ipv4Addr = config.subnet.unwrap().split('/').next().unwrap().parse().unwrap();
            Ipv4Addr::from(u32::from(subnet) + 1).to_string()
        })
    }

    /// How many containers, networks and volumes of an agent's there are.
    pub async fn parts(&self, agent: &AgentRef) -> usize {
        let filter = HashMap::from([("label", vec![format!("theazo.agent={}", agent.agent)])]);
        let containers = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
        let networks = ListNetworksOptionsBuilder::default().filters(&filter).build();
        let volumes = ListVolumesOptionsBuilder::default().filters(&filter).build();
        self.docker.list_containers(Some(containers)).await.unwrap().len()
            + self.docker.list_networks(Some(networks)).await.unwrap().len()
            + self.docker.list_volumes(Some(volumes)).await.unwrap().volumes.unwrap_or_default().len()
    }

    /// What is shown of an agent that runs, and its whole file system as an export has it.
    pub async fn shown(&self, agent: &AgentRef) -> Vec<u8> {
        let name = name(&agent.agent);
        let container = self.docker.inspect_container(&name, None::<InspectContainerOptions>).await.unwrap();
        let image = self.docker.inspect_image(&self.image).await.unwrap();
        let of = |config: Option<Option<Vec<String>>>| config.flatten().unwrap_or_default();
        let of_image = of(image.config.map(|config| config.env));
        assert_eq!(of(container.config.clone().map(|config| config.env)), of_image, "nothing of ours");
        let mut shown = text(&container);
        for exec in container.exec_ids.iter().flatten() {
            // It may end between the two.
            if let Ok(exec) = self.docker.inspect_exec(exec).await {
                shown += &text(&exec);
            }
        }
        shown += &text(&self.docker.inspect_network(&name, None::<InspectNetworkOptions>).await.unwrap());
        shown += &text(&self.docker.inspect_volume(&name).await.unwrap());
        shown += &text(&self.docker.container_changes(&name).await.unwrap());
        let mut shown = shown.into_bytes();
        let logs = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        let logs: Vec<_> = self.docker.logs(&name, Some(logs)).collect().await;
        shown.extend(logs.into_iter().flat_map(|line| line.unwrap().into_bytes()));
        shown.extend_from_slice(&whole(self.docker.export_container(&name)).await);
        shown.extend_from_slice(&self.committed(&name).await);
        shown
    }

    /// An image that is made of a container: what is shown of it, and all its layers.
    async fn committed(&self, container: &str) -> Vec<u8> {
        const REPOSITORY: &str = "theazo-test-commit";
        let options = CommitContainerOptionsBuilder::default().container(container).repo(REPOSITORY).tag(container);
        self.docker.commit_container(options.build(), ContainerConfig::default()).await.unwrap();
        let image = format!("{REPOSITORY}:{container}");
        let mut shown = text(&self.docker.inspect_image(&image).await.unwrap());
        shown += &text(&self.docker.image_history(&image).await.unwrap());
        let saved = whole(self.docker.export_image(&image)).await;
        self.docker.remove_image(&image, None::<RemoveImageOptions>, None).await.unwrap();
        [shown.into_bytes(), saved].concat()
    }

    /// Has something listen on those ports of the host itself, at all of its addresses, for as long as the engine runs.
    pub async fn listen_on_host(&self, ports: &[u16]) {
        let code = format!(
            "import socket, time
kept = [socket.create_server(('', port)) for port in {ports:?}]
print('listening', flush=True)
time.sleep(3600)"
        );
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            entrypoint: Some(vec!["python3".into(), "-c".into(), code]),
            user: Some("0:0".into()),
            host_config: Some(HostConfig { network_mode: Some("host".into()), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name("listener").build();
        let id = self.docker.create_container(Some(options), body).await.unwrap().id;
        self.docker.start_container(&id, None).await.unwrap();
        let logs = LogsOptionsBuilder::default().stdout(true).stderr(true).follow(true).build();
        let said = Box::pin(self.docker.logs(&id, Some(logs))).next().await.unwrap().unwrap().to_string();
        assert!(said.starts_with("listening"), "{said}");
    }

    /// All that has happened on it since the test began.
    pub async fn events(&self) -> String {
        let (since, until) = (self.since.to_string(), (now() + 1).to_string());
        let window = EventsOptionsBuilder::default().since(&since).until(&until).build();
        let events: Vec<_> = self.docker.events(Some(window)).collect().await;
        events.into_iter().map(|event| text(&event.unwrap())).collect()
    }

    /// A volume with everything in it.
    pub async fn volume(&self, id: &str) -> Vec<u8> {
        let volume = name(id);
        let reader = format!("{volume}-reader");
        let mounts = vec![Mount {
            target: Some("/kept".into()),
            source: Some(volume.clone()),
            typ: Some(MountType::VOLUME),
            ..Mount::default()
        }];
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            host_config: Some(HostConfig { mounts: Some(mounts), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(&reader).build();
        self.docker.create_container(Some(options), body).await.unwrap();
        let path = DownloadFromContainerOptionsBuilder::default().path("/kept").build();
        let archive = gather(self.docker.download_from_container(&reader, Some(path))).await;
        self.docker.remove_container(&reader, None).await.unwrap();
        let mut kept = text(&self.docker.inspect_volume(&volume).await.unwrap()).into_bytes();
        kept.extend_from_slice(&archive);
        kept
    }
}
