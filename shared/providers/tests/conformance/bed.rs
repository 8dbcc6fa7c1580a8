//! A subject to try promises on, with a deployment of its own, and short ways to ask for things.

use crate::Needs;
use crate::engine::Engine;
use crate::memory::Memory;
use bytes::Bytes;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use theazo_docker_hosts::Host;
use theazo_e2b_emulator::{Controls, Emulator};
use theazo_providers::docker::{
    DockerConfig, DockerHosts, DockerProvider, Endpoint, HostRanges, HostSettings, PortKey, connect,
};
use theazo_providers::e2b::{E2bEndpoints, E2bProvider, E2bService};
use theazo_providers::fly::{FlyEndpoints, FlyProvider, FlyService, FlySettings};
use theazo_providers::simulated::SimulatedProvider;
use theazo_providers::{
    AgentRef, Environment, ExecOutput, ExecRequest, Language, Presence, Provider, ProviderError, SandboxSpec,
};
use theazo_tenancy::{AgentId, PlatformId, SessionId};
use theazo_vault::SecretValue;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

pub const CAP: usize = 1024 * 1024;
pub const E2B_KEY: &str = "e2b_0123456789abcdef0123";
/// Entries of a page of a service's lists, so that few fill several.
const PAGE: usize = 2;
pub const FLY_TOKEN: &str = "FlyV1 fm2_0123456789abcdef0123";

pub struct Bed {
    pub name: &'static str,
    pub provider: Arc<dyn Provider>,
    /// The emulator behind it, where there is one.
    pub e2b: Option<Served>,
    pub fly: Option<Served<theazo_fly_emulator::Controls>>,
    /// The Docker engine that it is, where it is one.
    pub engine: Option<Engine>,
    /// The Docker host that it is, where it is one.
    pub host: Option<Host>,
    /// Whether rules of its machine keep agents from it.
    is_shielded: bool,
}

/// An emulator that serves until it is told to stop.
pub struct Served<C = Controls> {
    pub url: String,
    pub controls: C,
    pub dir: PathBuf,
    pub deployment: String,
    stop: Mutex<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
}

/// This machine's engine, and the agent image on it.
pub async fn engine_and_image() -> (Endpoint, String) {
    let endpoint = theazo_setup::ensure_engine(&()).await.unwrap();
    let image = theazo_setup::ensure_agent_image(&endpoint, &()).await.unwrap();
    (endpoint, image)
}

/// A platform's hosts, as a deployment of their own has them.
pub fn hosts(hosts: &[(&Host, u32)], image: &str) -> DockerHosts {
    let credential = SecretValue::from_text(theazo_docker_hosts::credential(hosts));
    DockerHosts::new(&credential, &host_settings(image)).unwrap()
}

pub fn host_settings(image: &str) -> HostSettings {
    HostSettings { deployment: deployment(), image: image.into(), ranges: HostRanges::private() }
}

fn deployment() -> String {
    format!("test-{}", PlatformId::make())
}

impl Bed {
    fn of(name: &'static str, provider: Arc<dyn Provider>) -> Self {
        Self { name, provider, e2b: None, fly: None, engine: None, host: None, is_shielded: false }
    }

    pub async fn docker() -> Self {
        let (endpoint, image) = engine_and_image().await;
        let shielded = theazo_setup::ensure_firewall(&endpoint, &image, &()).await;
        if let Err(error) = &shielded {
            assert!(std::env::var_os("THEAZO_CI").is_none(), "{error}");
            let _ = writeln!(std::io::stderr(), "skipped: {error}");
        }
        let engine = Engine::new(connect(&endpoint).unwrap(), &image);
        let mut config = DockerConfig::new(endpoint, image, deployment());
        config.port_key = Some(PortKey::derive(config.deployment.as_bytes()).into());
        let provider = DockerProvider::new(config).unwrap();
        let is_shielded = shielded.is_ok();
        Self { engine: Some(engine), is_shielded, ..Self::of("docker", Arc::new(provider)) }
    }

    /// An engine on another machine, as far as it can be told, with the firewall that enrolling a host puts there.
    pub async fn docker_host() -> Self {
        let (engine, image) = engine_and_image().await;
        let host = Host::start(&image, &engine).await;
        theazo_host_guard::put_firewall(&host.engine(), &image).await.unwrap();
        let provider = hosts(&[(&host, 100)], &image).on(&host.name()).unwrap();
        let engine = Engine::new(host.engine(), &image);
        Self { engine: Some(engine), host: Some(host), is_shielded: true, ..Self::of("docker host", provider) }
    }

    pub async fn e2b(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("e2b-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let emulator = Emulator::new(&dir, Some(E2B_KEY));
        let controls = emulator.controls();
        controls.cap_pages(PAGE);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            emulator.serve(listener, async { drop(stopped.await) }).await.unwrap();
        });
        let (stop, deployment) = (Mutex::new(Some((stop, task))), deployment());
        let served = Served { url, controls, dir, deployment, stop };
        let provider = served.provider(&served.deployment);
        Self { e2b: Some(served), ..Self::of("e2b", Arc::new(provider)) }
    }

    pub async fn fly(name: &str) -> Self {
        let programs = theazo_setup::machine_programs(&()).await.unwrap();
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fly-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let emulator = theazo_fly_emulator::Emulator::new(&dir, FLY_TOKEN.strip_prefix("FlyV1 "), programs);
        let controls = emulator.controls();
        controls.cap_pages(PAGE);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            emulator.serve(listener, async { drop(stopped.await) }).await.unwrap();
        });
        let (stop, deployment) = (Mutex::new(Some((stop, task))), deployment());
        let served = Served { url, controls, dir, deployment, stop };
        let provider = served.provider(&served.deployment, FLY_TOKEN);
        Self { fly: Some(served), ..Self::of("fly", Arc::new(provider)) }
    }

    pub fn simulated() -> Self {
        Self::of("simulated", Arc::new(SimulatedProvider::new(Memory::default())))
    }

    pub fn has(&self, needs: Needs) -> bool {
        match needs {
            Needs::Nothing => true,
            Needs::Ports | Needs::Processes => self.name != "simulated",
            Needs::Insight => self.engine.is_some() || self.is_service(),
            Needs::Network => self.engine.is_some(),
            Needs::Shield => self.is_shielded,
            Needs::Service => self.is_service(),
        }
    }

    fn is_service(&self) -> bool {
        self.e2b.is_some() || self.fly.is_some()
    }

    pub fn emulator(&self) -> &Served {
        self.e2b.as_ref().unwrap()
    }

    pub fn fly_emulator(&self) -> &Served<theazo_fly_emulator::Controls> {
        self.fly.as_ref().unwrap()
    }

    /// Everything that the real service would have logged, shown or stored, or that an engine tells of what has happened
    /// on it, as one text.
    pub async fn records(&self) -> String {
        match (&self.engine, &self.fly) {
            (Some(engine), _) => engine.events().await,
            (None, Some(served)) => serde_json::to_string(&served.controls.records()).unwrap(),
            (None, None) => self.emulator().records(),
        }
    }

    /// What is shown of an agent that runs, where that is not on record.
    pub async fn shown(&self, agent: &AgentRef) -> Vec<u8> {
        match &self.engine {
            Some(engine) => engine.shown(agent).await,
            None => Vec::new(),
        }
    }

    /// What is kept of an agent that does not run, or as a checkpoint: of all of them, by an emulator.
    pub async fn kept(&self, id: &str) -> Vec<u8> {
        if let Some(engine) = &self.engine {
            return engine.volume(id).await;
        }
        let mut kept = Vec::new();
        gather(self.fly.as_ref().map_or_else(|| &self.emulator().dir, |served| &served.dir), &mut kept);
        kept
    }

    /// What is left at the provider.
    pub async fn left(&self) -> Vec<String> {
        match (&self.e2b, &self.fly) {
            (Some(served), _) => served.controls.left(),
            (_, Some(served)) => {
                assert_eq!(served.controls.violations(), [""; 0], "calls that are not as Fly describes them");
                served.controls.left()
            }
            _ if self.name.starts_with("docker") => {
                let mut left = Vec::new();
                for sandbox in self.provider.list_mine().await.unwrap() {
                    self.provider.destroy(&AgentRef { agent: sandbox.agent.clone() }).await.unwrap();
                    left.push(sandbox.agent);
                }
                left
            }
            _ => Vec::new(),
        }
    }

    /// How many things there are of an agent's at the provider: sandboxes, containers, machines and what goes with them.
    /// Nothing where nothing is kept but files.
    pub async fn parts(&self, agent: &AgentRef) -> Option<usize> {
        match (&self.engine, &self.e2b, &self.fly) {
            (Some(engine), ..) => Some(engine.parts(agent).await),
            (_, Some(served), _) => Some(served.controls.labelled("theazo.agent", &agent.agent).len()),
            (.., Some(served)) => Some(served.controls.parts_of(&agent.agent.replace('_', "-")).len()),
            _ => None,
        }
    }

    pub async fn end(&self) {
        if let Some(served) = &self.e2b {
            served.end().await;
        }
        if let Some(served) = &self.fly {
            served.end().await;
        }
        if let Some(host) = &self.host {
            host.kill().await;
        }
    }

    /// A sandbox with these variables.
    pub async fn create(&self, entries: &[(&str, &str)]) -> (SandboxSpec, AgentRef) {
        let spec = spec();
        self.provider.create(&spec, &environment(entries)).await.unwrap();
        let agent = agent(&spec);
        (spec, agent)
    }

    pub async fn run(&self, agent: &AgentRef, language: Language, code: &str) -> ExecOutput {
        self.provider.exec(agent, request(language, code)).await.unwrap()
    }

    /// Standard output of a program in Bash that must succeed.
    pub async fn bash(&self, agent: &AgentRef, code: &str) -> String {
        let output = self.run(agent, Language::Bash, code).await;
        assert_eq!(output.exit_code, 0, "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout.to_vec()).unwrap()
    }

    pub async fn write(&self, agent: &AgentRef, path: &str, data: &[u8]) -> Result<(), ProviderError> {
        self.provider.write_file(agent, path, None, Bytes::copy_from_slice(data)).await
    }

    pub async fn read(&self, agent: &AgentRef, path: &str) -> Result<Vec<u8>, ProviderError> {
        Ok(self.provider.read_file(agent, path, 0, u64::MAX).await?.data.to_vec())
    }

    pub async fn destroy(&self, agent: &AgentRef) {
        self.provider.destroy(agent).await.unwrap();
    }

    /// Whether the provider runs the agent's sandbox; nothing when it has no part of it.
    pub async fn listed(&self, agent: &AgentRef) -> Option<Presence> {
        if self.fly.is_some() {
            // Fly's lists lag behind: until then they may name what was stopped a moment ago as running.
            tokio::time::sleep(Duration::from_millis(2_200)).await;
        }
        let all = self.provider.list_mine().await.unwrap();
        all.into_iter().find(|sandbox| sandbox.agent == agent.agent).map(|sandbox| sandbox.presence)
    }
}

impl<C> Served<C> {
    async fn end(&self) {
        let stop = self.stop.lock().unwrap().take();
        if let Some((stop, task)) = stop {
            stop.send(()).unwrap();
            task.await.unwrap();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl Served<theazo_fly_emulator::Controls> {
    /// An adapter of that deployment, as another process of it would have, with that token.
    pub fn provider(&self, deployment: &str, token: &str) -> FlyProvider {
        let service = FlyService::new(FlyEndpoints::emulator(&self.url), deployment).unwrap();
        let settings = FlySettings {
            organization: "agents".into(),
            image: "registry.fly.io/agents@sha256:00".into(),
            region: Some("iad".into()),
        };
        FlyProvider::new(service.into(), &SecretValue::from_text(token.to_owned()), settings).unwrap()
    }
}

impl Served {
    /// An adapter of that deployment, as another process of it would have.
    pub fn provider(&self, deployment: &str) -> E2bProvider {
        let endpoints = E2bEndpoints { api: self.url.clone(), sandbox: self.url.clone() };
        let service = Arc::new(E2bService::new(endpoints, deployment).unwrap());
        E2bProvider::new(service, &SecretValue::from_text(E2B_KEY.to_owned()), None).unwrap()
    }

    /// Everything that the real service would have logged or stored, as one text.
    pub fn records(&self) -> String {
        serde_json::to_string(&self.controls.records()).unwrap()
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

/// The bytes of all ordinary files beneath a directory.
fn gather(dir: &Path, into: &mut Vec<u8>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => gather(&entry.path(), into),
            Ok(kind) if kind.is_file() => into.extend(std::fs::read(entry.path()).unwrap_or_default()),
            _ => {}
        }
    }
}
