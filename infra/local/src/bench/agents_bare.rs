//! What a provider takes by itself, for `cargo dev bench agents`.

use super::Failure;
use super::agents::{CODE, FILE_BYTES, expect};
use crate::scratch::{Account, Scratch};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::StartExecResults;
use bollard::models::{
    ContainerCreateBody, ExecConfig, HostConfig, Mount, MountType, NetworkCreateRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions, StartContainerOptions,
};
use bytes::Bytes;
use futures_util::StreamExt;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;
use theazo_functions::deployment::DockerEngine;
use theazo_providers::e2b::{E2bEndpoints, E2bProvider, E2bService};
use theazo_providers::fly::{FlyEndpoints, FlyProvider, FlyService, FlySettings};
use theazo_providers::{AgentRef, Environment, ExecRequest, Language, Provider, SandboxSpec};
use theazo_tenancy::AgentId;
use theazo_vault::SecretValue;
use tokio::io::AsyncWriteExt;

const LIFETIME: Duration = Duration::from_secs(3600);

/// A provider without Theazo around it.
pub(super) enum Bare {
    /// The engine's own calls.
    Engine(Engine),
    /// The adapter, which makes a provider's calls.
    Adapter(Arc<dyn Provider>),
}

impl Bare {
    /// Where the agents of a stack run.
    pub(super) fn of(scratch: &Scratch) -> Result<Self, Failure> {
        if let Some(DockerEngine { endpoint, image }) = &scratch.docker {
            let docker = theazo_providers::docker::connect(endpoint)?;
            return Ok(Self::Engine(Engine { docker, image: image.clone() }));
        }
        let account = scratch.account.as_ref().ok_or("agents run nowhere")?;
        Ok(Self::Adapter(adapter(account)?))
    }

    /// A name for a sandbox.
    pub(super) fn make_name() -> String {
        AgentId::make().to_string()
    }

    pub(super) async fn create(&self, name: &str) -> Result<(), Failure> {
        match self {
            Self::Engine(engine) => engine.create(name).await,
            Self::Adapter(provider) => Ok(provider.create(&spec(name), &environment()).await.map(drop)?),
        }
    }

    pub(super) async fn exec(&self, name: &str) -> Result<(), Failure> {
        let printed = match self {
            Self::Engine(engine) => engine.exec(name, &["python3", "-c", CODE], None).await?,
            Self::Adapter(provider) => {
                let request = ExecRequest {
                    language: Language::Python,
                    code: CODE.into(),
                    timeout: Duration::from_secs(60),
                    stdin: Bytes::new(),
                    output_cap: 1 << 20,
                    watch: None,
                };
                provider.exec(&agent(name), request).await?.stdout.to_vec()
            }
        };
        expect(printed == b"1\n", "the program printed something else")
    }

    pub(super) async fn write(&self, name: &str) -> Result<(), Failure> {
        let data = vec![b'x'; FILE_BYTES];
        match self {
            Self::Engine(engine) => engine.exec(name, &["sh", "-c", "cat > /data/file"], Some(&data)).await.map(drop),
            Self::Adapter(provider) => Ok(provider.write_file(&agent(name), "/data/file", None, data.into()).await?),
        }
    }

    pub(super) async fn read(&self, name: &str) -> Result<(), Failure> {
        let length = match self {
            Self::Engine(engine) => engine.exec(name, &["cat", "/data/file"], None).await?.len(),
            Self::Adapter(provider) => provider.read_file(&agent(name), "/data/file", 0, 1 << 20).await?.data.len(),
        };
        expect(length == FILE_BYTES, "the file has another size")
    }

    pub(super) async fn pause(&self, name: &str) -> Result<(), Failure> {
        match self {
            Self::Engine(engine) => engine.stop(name).await,
            Self::Adapter(provider) => Ok(provider.stop(&agent(name)).await.map(drop)?),
        }
    }

    pub(super) async fn resume(&self, name: &str) -> Result<(), Failure> {
        match self {
            Self::Engine(engine) => engine.start(name).await,
            Self::Adapter(provider) => Ok(provider.resume(&spec(name), &environment()).await.map(drop)?),
        }
    }

    pub(super) async fn destroy(&self, name: &str) -> Result<(), Failure> {
        match self {
            Self::Engine(engine) => engine.destroy(name).await,
            Self::Adapter(provider) => Ok(provider.destroy(&agent(name)).await?),
        }
    }
}

fn agent(name: &str) -> AgentRef {
    AgentRef { agent: name.to_owned() }
}

fn spec(name: &str) -> SandboxSpec {
    SandboxSpec {
        agent: name.to_owned(),
        session: "ses_bench".into(),
        platform: "plt_bench".into(),
        lifetime: LIFETIME,
        internet: true,
        region: None,
    }
}

fn environment() -> Environment {
    let mut environment = Environment::default();
    environment.set("TOKEN", SecretValue::from_text("a value of the benchmark".to_owned()));
    environment
}

/// The adapter as a platform's configuration makes it.
fn adapter(account: &Account) -> Result<Arc<dyn Provider>, Failure> {
    const DEPLOYMENT: &str = "bench";
    let credential = SecretValue::from_text(account.key.clone());
    let configured = |name: &str| account.config[name].as_str().map(str::to_owned);
    if account.provider == "e2b" {
        let endpoints = E2bEndpoints { api: account.url.clone(), sandbox: account.url.clone() };
        let service = Arc::new(E2bService::new(endpoints, DEPLOYMENT)?);
        return Ok(Arc::new(E2bProvider::new(service, &credential, account.config["template"].as_str())?));
    }
    let service = Arc::new(FlyService::new(FlyEndpoints::emulator(&account.url), DEPLOYMENT)?);
    let settings = FlySettings {
        organization: configured("organization").ok_or("no organization")?,
        image: configured("image").ok_or("no image")?,
        region: account.config.get("region").and_then(Value::as_str).map(str::to_owned),
    };
    Ok(Arc::new(FlyProvider::new(service, &credential, settings)?))
}

/// A Docker engine, asked for nothing but what a sandbox with a network and a volume of its own takes.
pub(super) struct Engine {
    docker: Docker,
    image: String,
}

impl Engine {
    async fn create(&self, name: &str) -> Result<(), Failure> {
        let volume = VolumeCreateRequest { name: Some(name.into()), ..VolumeCreateRequest::default() };
        self.docker.create_volume(volume).await?;
        self.start(name).await
    }

    async fn start(&self, name: &str) -> Result<(), Failure> {
        let network = NetworkCreateRequest { name: name.into(), ..NetworkCreateRequest::default() };
        self.docker.create_network(network).await?;
        let mount = Mount {
            target: Some("/data".into()),
            source: Some(name.into()),
            typ: Some(MountType::VOLUME),
            ..Mount::default()
        };
        let host = HostConfig { network_mode: Some(name.into()), mounts: Some(vec![mount]), ..HostConfig::default() };
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            entrypoint: Some(vec!["sleep".into()]),
            cmd: Some(vec![LIFETIME.as_secs().to_string()]),
            user: Some("0".into()),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        self.docker.create_container(Some(options), body).await?;
        Ok(self.docker.start_container(name, None::<StartContainerOptions>).await?)
    }

    /// What a program writes to its standard output, and that it succeeds.
    async fn exec(&self, name: &str, command: &[&str], stdin: Option<&[u8]>) -> Result<Vec<u8>, Failure> {
        let config = ExecConfig {
            cmd: Some(command.iter().map(|word| (*word).to_owned()).collect()),
            attach_stdin: Some(stdin.is_some()),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            ..ExecConfig::default()
        };
        let id = self.docker.create_exec(name, config).await?.id;
        let started = self.docker.start_exec(&id, None).await?;
        let StartExecResults::Attached { mut output, mut input } = started else {
            return Err("the exec is not attached".into());
        };
        if let Some(bytes) = stdin {
            input.write_all(bytes).await?;
            input.shutdown().await?;
        }
        let mut printed = Vec::new();
        while let Some(piece) = output.next().await {
            if let LogOutput::StdOut { message } = piece? {
                printed.extend_from_slice(&message);
            }
        }
        let code = self.docker.inspect_exec(&id).await?.exit_code;
        expect(code == Some(0), "the program failed")?;
        Ok(printed)
    }

    async fn stop(&self, name: &str) -> Result<(), Failure> {
        let options = RemoveContainerOptionsBuilder::default().force(true).build();
        self.docker.remove_container(name, Some(options)).await?;
        Ok(self.docker.remove_network(name).await?)
    }

    async fn destroy(&self, name: &str) -> Result<(), Failure> {
        self.stop(name).await?;
        Ok(self.docker.remove_volume(name, None::<RemoveVolumeOptions>).await?)
    }
}
