//! Docker hosts of platforms: setting them up, whether agents on them are kept from what they must not reach, and taking them
//! out of use.

use crate::error::AdminError;
use crate::key::{self, Environment};
use crate::output::{Output, Show, note};
use crate::target::Target;
use crate::vault::{VaultArgs, operator};
use bollard::Docker;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::net::ToSocketAddrs;
use theazo_functions::deployment::Deployment;
use theazo_host_guard::{GuardError, Lasting, Probe, load_image, put_firewall, remove_probes};
use theazo_providers::docker::{DockerHosts, Endpoint, HostSettings, connect};
use theazo_providers::{Provider, ProviderError};
use theazo_store::{ProviderAccess, ProviderConfigs, StoreError};
use theazo_tenancy::{PlatformId, TenantScope};

const DOCKER: &str = "docker";
/// The deployment that probes belong to, so that nothing else takes them for agents of its own.
const PROBES: &str = "theazo-host-probe";
/// The port that the second probe listens on, for the first one to try.
const SIBLING_PORT: u16 = 8099;
/// Where hosts usually listen themselves, beside the port of the engine.
const HOST_PORTS: [u16; 3] = [22, 2375, 2376];
const METADATA: &str = "169.254.169.254:80";

#[derive(Args)]
pub(crate) struct Host {
    #[command(flatten)]
    vault: VaultArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Sets hosts up, and only then has them take agents: gives each the agent image, puts its firewall in place, and probes
    /// it. Exits with 1 when one of them is not closed, or when that cannot be found out.
    Enroll {
        /// The platform's id
        #[arg(value_parser = key::platform_id)]
        platform: PlatformId,
        /// Only this host, as HOST:PORT
        host: Option<String>,
        /// The engine that has the agent image, for hosts that do not
        #[arg(long, default_value = "unix:///var/run/docker.sock")]
        image_from: String,
        /// Which of its two configurations
        #[arg(long, default_value = "live")]
        environment: Environment,
    },
    /// Puts two agents on each host and has one try what it must not reach; exits with 1 when it reaches anything, or when
    /// that cannot be found out. A host on which it does takes no new agents until it is enrolled again.
    Probe {
        /// The platform's id
        #[arg(value_parser = key::platform_id)]
        platform: PlatformId,
        /// Only this host, as HOST:PORT
        host: Option<String>,
        /// Which of its two configurations
        #[arg(long, default_value = "live")]
        environment: Environment,
    },
    /// Has a host take no new agents. Those that are on it stay.
    Drain {
        /// The platform's id
        #[arg(value_parser = key::platform_id)]
        platform: PlatformId,
        /// The host, as HOST:PORT
        host: String,
        /// Has it take agents again
        #[arg(long)]
        undo: bool,
        /// Which of its two configurations
        #[arg(long, default_value = "live")]
        environment: Environment,
    },
}

/// What `enroll` and `probe` answer.
#[derive(Serialize)]
#[serde(transparent)]
struct Probed(Vec<Line>);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    host: String,
    closed: bool,
    message: String,
}

/// What `drain` answers.
#[derive(Serialize)]
struct Drained {
    platform: String,
    host: String,
    status: &'static str,
}

impl Host {
    pub(crate) async fn run(&self, target: &Target, output: &Output) -> Result<(), AdminError> {
        let deployment = self.vault.deployment(target).await?;
        match &self.verb {
            Verb::Enroll { platform, host, image_from, environment } => {
                let scope = operator().tenant(platform, (*environment).into());
                let enrolling = Hosts::open(&deployment, &scope, host.as_deref()).await?;
                judge(enrolling.enroll(image_from).await?, output)
            }
            Verb::Probe { platform, host, environment } => {
                let scope = operator().tenant(platform, (*environment).into());
                judge(Hosts::open(&deployment, &scope, host.as_deref()).await?.probe().await?, output)
            }
            Verb::Drain { platform, host, undo, environment } => {
                let scope = operator().tenant(platform, (*environment).into());
                Ok(output.show(&drain(&deployment, &scope, host, !undo).await?)?)
            }
        }
    }
}

/// The platform's hosts and agent image as its configuration has them, with `owner` owning what is made there.
async fn open(deployment: &Deployment, scope: &TenantScope, owner: &str) -> Result<(DockerHosts, String), AdminError> {
    let access = ProviderAccess::new(deployment.table().clone(), deployment.keys().clone());
    let unconfigured = || AdminError::NotConfigured { platform: scope.platform().clone(), provider: DOCKER };
    let (config, credential) = access.open(scope, DOCKER).await?.ok_or_else(unconfigured)?;
    let image = config.image.ok_or_else(unconfigured)?;
    let ranges = deployment.config().docker_ranges.clone();
    let settings = HostSettings { deployment: owner.to_owned(), image: image.clone(), ranges };
    let hosts = DockerHosts::new(&credential, &settings);
    Ok((hosts.map_err(|fault| AdminError::HostCredential(fault.to_string()))?, image))
}

async fn drain(
    deployment: &Deployment,
    scope: &TenantScope,
    host: &str,
    draining: bool,
) -> Result<Drained, AdminError> {
    let (hosts, _) = open(deployment, scope, &deployment.config().name).await?;
    // One that is not there any more can still be taken off the list.
    if draining && hosts.on(host).is_none() {
        return Err(AdminError::NoSuchHost(host.to_owned()));
    }
    let configs = ProviderConfigs::new(deployment.table().clone());
    configs.drain(scope, DOCKER, host, draining).await.map_err(|error| match error {
        StoreError::NotFound => AdminError::NotConfigured { platform: scope.platform().clone(), provider: DOCKER },
        other => other.into(),
    })?;
    let status = if draining { "draining" } else { "open" };
    Ok(Drained { platform: scope.platform().to_string(), host: host.to_owned(), status })
}

/// Answers, and fails unless all hosts are closed.
fn judge(probed: Probed, output: &Output) -> Result<(), AdminError> {
    output.show(&probed)?;
    match probed.0.iter().filter(|line| !line.closed).count() {
        0 => Ok(()),
        open => Err(AdminError::HostsOpen(open)),
    }
}

/// The hosts of a platform that a command is about. What is made there belongs to probes.
struct Hosts<'a> {
    configs: ProviderConfigs,
    scope: &'a TenantScope,
    hosts: DockerHosts,
    image: String,
    only: Option<&'a str>,
}

impl<'a> Hosts<'a> {
    async fn open(deployment: &Deployment, scope: &'a TenantScope, only: Option<&'a str>) -> Result<Self, AdminError> {
        let (hosts, image) = open(deployment, scope, PROBES).await?;
        if let Some(host) = only
            && hosts.on(host).is_none()
        {
            return Err(AdminError::NoSuchHost(host.to_owned()));
        }
        Ok(Self { configs: ProviderConfigs::new(deployment.table().clone()), scope, hosts, image, only })
    }

    fn each(&self) -> impl Iterator<Item = (String, String)> {
        let all = self.hosts.identities().into_iter();
        all.filter(|(host, _)| self.only.is_none_or(|only| only == host))
    }

    async fn enroll(&self, image_from: &str) -> Result<Probed, AdminError> {
        let from = connect(&Endpoint::parse(image_from)?)?;
        let mut lines = Vec::new();
        for (host, identity) in self.each() {
            let line = match self.set_up(&host, &from).await {
                Ok(lasting) => self.look(&host).await?.with(lasting),
                Err(error) => Line { host: host.clone(), closed: false, message: error.to_string() },
            };
            // One that was enrolled before and is not known to be closed now is not any more.
            let identity = line.closed.then_some(identity.as_str());
            self.configs.enroll(self.scope, DOCKER, &host, identity).await?;
            lines.push(line);
        }
        Ok(Probed(lines))
    }

    async fn set_up(&self, host: &str, from: &Docker) -> Result<Lasting, GuardError> {
        let no_engine = || GuardError::Firewall("there is no engine".into());
        let engine = self.hosts.engine(host).ok_or_else(no_engine)?;
        note(&format!("Giving {host} the image {}.", self.image));
        load_image(from, &engine, &self.image).await?;
        note(&format!("Putting the firewall of {host} in place."));
        put_firewall(&engine, &self.image).await
    }

    async fn probe(&self) -> Result<Probed, AdminError> {
        let mut lines = Vec::new();
        for (host, _) in self.each() {
            lines.push(self.look(&host).await?);
        }
        Ok(Probed(lines))
    }

    /// Probes one. Where an agent reached something, no other is put until it is enrolled again.
    async fn look(&self, host: &str) -> Result<Line, AdminError> {
        note(&format!("Probing {host}."));
        let provider = self.hosts.on(host).ok_or_else(|| AdminError::NoSuchHost(host.to_owned()))?;
        let (closed, message) = match probe(host, &*provider).await {
            Ok(reached) if reached.is_empty() => (true, "an agent reaches nothing that it must not".to_owned()),
            Ok(reached) => {
                self.configs.enroll(self.scope, DOCKER, host, None).await?;
                (false, format!("an agent reached {}", reached.join(", ")))
            }
            // What is not known to be closed is open.
            Err(error) => (false, format!("it could not be found out: {error}")),
        };
        Ok(Line { host: host.to_owned(), closed, message })
    }
}

impl Line {
    /// Says how long the firewall stays.
    fn with(mut self, lasting: Lasting) -> Self {
        if lasting == Lasting::UntilRestart {
            self.message
                .push_str("; the firewall is gone when the host restarts, for want of systemd that starts the engine: enroll it again then");
        }
        self
    }
}

/// What an agent on the host reaches that it must not.
async fn probe(host: &str, provider: &dyn Provider) -> Result<Vec<String>, ProviderError> {
    remove_probes(provider).await?;
    let tried = try_from_agent(host, provider).await;
    remove_probes(provider).await?;
    tried
}

async fn try_from_agent(host: &str, provider: &dyn Provider) -> Result<Vec<String>, ProviderError> {
    let (near, sibling) = (Probe::start(provider, "a").await?, Probe::start(provider, "b").await?);
    sibling.listen(SIBLING_PORT).await?;
    let (_, gateway) = near.addresses().await?;
    let (there, other_gateway) = sibling.addresses().await?;
    let mut targets = vec![format!("{there}:{SIBLING_PORT}"), METADATA.to_owned()];
    // The engine listens at its port for certain. Its host has that port on every address, agents' gateways among them.
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(2376);
    let named = host.to_socket_addrs().into_iter().flatten().map(|address| address.ip().to_string());
    let addresses: Vec<String> = [gateway.to_string(), other_gateway.to_string()].into_iter().chain(named).collect();
    for address in addresses.iter().filter(|address| !address.contains(':')) {
        targets.extend(HOST_PORTS.into_iter().chain([port]).map(|port| format!("{address}:{port}")));
    }
    targets.sort_unstable();
    targets.dedup();
    near.reaches(&targets).await
}

impl Show for Probed {
    const HEADER: &'static [&'static str] = &["HOST", "STATUS", "MESSAGE"];

    fn rows(&self) -> Vec<Vec<&str>> {
        let status = |line: &Line| if line.closed { "closed" } else { "open" };
        self.0.iter().map(|line| vec![line.host.as_str(), status(line), &line.message]).collect()
    }
}

impl Show for Drained {
    const HEADER: &'static [&'static str] = &["PLATFORM", "HOST", "STATUS"];

    fn rows(&self) -> Vec<Vec<&str>> {
        vec![vec![&self.platform, &self.host, self.status]]
    }
}
