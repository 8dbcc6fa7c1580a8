//! A deployment per test, and short ways to ask for things.

use bollard::Docker;
use bollard::models::{ContainerInspectResponse, NetworkInspect};
use bollard::query_parameters::{InspectContainerOptions, InspectNetworkOptions, ListNetworksOptions};
use bytes::Bytes;
use std::future::Future;
use std::io::Write;
use std::sync::Arc;
use std::time::Duration;
use theazo_providers::docker::{DockerConfig, DockerProvider, Endpoint, PortKey, connect};
use theazo_providers::{AgentRef, Environment, ExecOutput, ExecRequest, Language, Provider, SandboxSpec};
use theazo_setup::Firewall;
use theazo_tenancy::{AgentId, PlatformId, SessionId};
use theazo_vault::SecretValue;
use tokio::sync::OnceCell;

pub const CAP: usize = 1024 * 1024;

/// The engine and the agent image on it, made ready once per test run.
pub async fn engine() -> &'static (Endpoint, String) {
    static ENGINE: OnceCell<(Endpoint, String)> = OnceCell::const_new();
    ENGINE
        .get_or_init(|| async {
            let endpoint = theazo_setup::ensure_engine(&()).await.unwrap();
            let image = theazo_setup::ensure_agent_image(&endpoint, &()).await.unwrap();
            (endpoint, image)
        })
        .await
}

/// The firewall between agents and this machine. Where nobody may change it, tests of it cannot run: said, unless that
/// must not happen.
pub async fn firewall() -> Option<Firewall> {
    static FIREWALL: OnceCell<Option<Firewall>> = OnceCell::const_new();
    let ensured = FIREWALL.get_or_init(|| async {
        let (endpoint, image) = engine().await;
        match theazo_setup::ensure_firewall(endpoint, image, &()).await {
            Ok(firewall) => Some(firewall),
            Err(error) => {
                assert!(std::env::var_os("THEAZO_CI").is_none(), "{error}");
                let _ = writeln!(std::io::stderr(), "skipped: {error}");
                None
            }
        }
    });
    *ensured.await
}

/// One test's deployment on the engine.
pub struct Bed {
    pub provider: DockerProvider,
    pub docker: Docker,
    pub config: DockerConfig,
}

/// Runs a test with a deployment of its own, and removes all that is left of it.
pub async fn in_own_deployment<Fut>(body: impl FnOnce(Arc<Bed>) -> Fut)
where
    Fut: Future<Output = ()> + Send + 'static,
{
    let deployment = format!("test-{}", PlatformId::make());
    let (endpoint, image) = engine().await.clone();
    let docker = connect(&endpoint).unwrap();
    let mut config = DockerConfig::new(endpoint, image, deployment);
    config.port_key = Some(PortKey::derive(config.deployment.as_bytes()).into());
    let bed = Arc::new(Bed { provider: DockerProvider::new(config.clone()).unwrap(), docker, config });
    let ended = tokio::spawn(body(Arc::clone(&bed))).await;
    for left in bed.provider.list_mine().await.unwrap() {
        bed.provider.destroy(&AgentRef { agent: left.agent }).await.unwrap();
    }
    if let Err(failure) = ended {
        std::panic::resume_unwind(failure.into_panic());
    }
}

pub fn spec() -> SandboxSpec {
    SandboxSpec {
        agent: AgentId::make().to_string(),
        session: SessionId::make().to_string(),
        platform: PlatformId::make().to_string(),
        lifetime: Duration::from_secs(300),
        internet: false,
        region: None,
    }
}

pub fn environment(entries: &[(&str, &str)]) -> Environment {
    let mut environment = Environment::default();
    for (name, value) in entries {
        environment.set(*name, SecretValue::from_text((*value).to_owned()));
    }
    environment
}

pub fn agent(spec: &SandboxSpec) -> AgentRef {
    AgentRef { agent: spec.agent.clone() }
}

/// The name of an agent's container, network and volume.
pub fn name(agent: &AgentRef) -> String {
    agent.agent.replace('_', "-")
}

pub fn request(language: Language, code: &str) -> ExecRequest {
    ExecRequest {
        language,
        code: code.into(),
        timeout: Duration::from_secs(60),
        stdin: Bytes::new(),
        output_cap: CAP,
        watch: None,
    }
}

impl Bed {
    /// A sandbox with nothing in its environment.
    pub async fn create(&self) -> AgentRef {
        let spec = spec();
        self.provider.create(&spec, &Environment::default()).await.unwrap();
        agent(&spec)
    }

    pub async fn run(&self, agent: &AgentRef, language: Language, code: &str) -> ExecOutput {
        self.provider.exec(agent, request(language, code)).await.unwrap()
    }

    /// Standard output of a program that must succeed.
    pub async fn output(&self, agent: &AgentRef, language: Language, code: &str) -> String {
        let output = self.run(agent, language, code).await;
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.exit_code, 0, "{stderr}");
        String::from_utf8(output.stdout.to_vec()).unwrap()
    }

    pub async fn container(&self, agent: &AgentRef) -> ContainerInspectResponse {
        self.docker.inspect_container(&name(agent), None::<InspectContainerOptions>).await.unwrap()
    }

    pub async fn network(&self, agent: &AgentRef) -> NetworkInspect {
        self.docker.inspect_network(&name(agent), None::<InspectNetworkOptions>).await.unwrap()
    }

    /// How many containers, networks and volumes of that agent's name the engine has.
    pub async fn count(&self, agent: &AgentRef) -> (usize, usize, usize) {
        let name = name(agent);
        let container = self.docker.inspect_container(&name, None::<InspectContainerOptions>).await;
        let networks = self.docker.list_networks(None::<ListNetworksOptions>).await.unwrap();
        let networks = networks.iter().filter(|network| network.name.as_deref() == Some(name.as_str())).count();
        let volume = self.docker.inspect_volume(&name).await;
        (usize::from(container.is_ok()), networks, usize::from(volume.is_ok()))
    }
}
