//! Docker hosts of platforms: whether agents on them are kept from what they must not reach, and taking them out of use.

use crate::error::AdminError;
use crate::key::{self, Environment};
use crate::output::{Output, Show, note};
use crate::target::Target;
use crate::vault::{VaultArgs, operator};
use clap::{Args, Subcommand};
use serde::Serialize;
use std::net::{Ipv4Addr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;
use theazo_functions::deployment::Deployment;
use theazo_providers::docker::{DockerHosts, HostSettings};
use theazo_providers::{
    AgentRef, Environment as Variables, ExecRequest, Language, Provider, ProviderError, ProviderKind, SandboxSpec,
};
use theazo_store::{ProviderAccess, ProviderConfigs, StoreError};
use theazo_tenancy::{PlatformId, TenantScope};

const DOCKER: &str = "docker";
/// The deployment that probes belong to, so that nothing else takes them for agents of its own.
const PROBES: &str = "theazo-host-probe";
/// How long one may live that was left.
const PROBE_LIFE: Duration = Duration::from_secs(120);
/// The port that the second probe listens on, for the first one to try.
const SIBLING_PORT: u16 = 8099;
/// Where hosts usually listen themselves, beside the port of the engine.
const HOST_PORTS: [u16; 3] = [22, 2375, 2376];

#[derive(Args)]
pub(crate) struct Host {
    #[command(flatten)]
    vault: VaultArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Puts two agents on each host and has one try what it must not reach; exits with 1 when it reaches anything, or when
    /// that cannot be found out.
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

/// What `probe` answers.
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
            Verb::Probe { platform, host, environment } => {
                let scope = operator().tenant(platform, (*environment).into());
                let probed = probe_all(&deployment, &scope, host.as_deref()).await?;
                output.show(&probed)?;
                match probed.0.iter().filter(|line| !line.closed).count() {
                    0 => Ok(()),
                    open => Err(AdminError::HostsOpen(open)),
                }
            }
            Verb::Drain { platform, host, undo, environment } => {
                let scope = operator().tenant(platform, (*environment).into());
                Ok(output.show(&drain(&deployment, &scope, host, !undo).await?)?)
            }
        }
    }
}

/// The platform's hosts as its configuration has them, with `deployment` owning what is made there.
async fn open(deployment: &Deployment, scope: &TenantScope, owner: &str) -> Result<DockerHosts, AdminError> {
    let access = ProviderAccess::new(deployment.table().clone(), deployment.keys().clone());
    let unconfigured = || AdminError::NotConfigured { platform: scope.platform().clone(), provider: DOCKER };
    let (config, credential) = access.open(scope, DOCKER).await?.ok_or_else(unconfigured)?;
    let settings = HostSettings {
        deployment: owner.to_owned(),
        image: config.image.ok_or_else(unconfigured)?,
        ranges: deployment.config().docker_ranges.clone(),
    };
    DockerHosts::new(&credential, &settings).map_err(|fault| AdminError::HostCredential(fault.to_string()))
}

async fn drain(
    deployment: &Deployment,
    scope: &TenantScope,
    host: &str,
    draining: bool,
) -> Result<Drained, AdminError> {
    let hosts = open(deployment, scope, &deployment.config().name).await?;
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

async fn probe_all(deployment: &Deployment, scope: &TenantScope, only: Option<&str>) -> Result<Probed, AdminError> {
    let hosts = open(deployment, scope, PROBES).await?;
    let mut lines = Vec::new();
    for (host, provider) in hosts.each().filter(|(host, _)| only.is_none_or(|only| only == *host)) {
        note(&format!("Probing {host}."));
        let (closed, message) = match probe(host, &provider).await {
            Ok(reached) if reached.is_empty() => (true, "an agent reaches nothing that it must not".to_owned()),
            Ok(reached) => (false, format!("an agent reached {reached}")),
            // What is not known to be closed is open.
            Err(error) => (false, format!("it could not be found out: {error}")),
        };
        lines.push(Line { host: host.to_owned(), closed, message });
    }
    match only {
        Some(host) if lines.is_empty() => Err(AdminError::NoSuchHost(host.to_owned())),
        _ => Ok(Probed(lines)),
    }
}

/// What an agent on the host reaches that it must not.
async fn probe(host: &str, provider: &Arc<dyn Provider>) -> Result<String, ProviderError> {
    remove_probes(provider).await?;
    let tried = try_from_agent(host, provider).await;
    remove_probes(provider).await?;
    tried
}

async fn remove_probes(provider: &Arc<dyn Provider>) -> Result<(), ProviderError> {
    for probe in provider.list_mine().await? {
        provider.destroy(&AgentRef { agent: probe.agent }).await?;
    }
    Ok(())
}

async fn try_from_agent(host: &str, provider: &Arc<dyn Provider>) -> Result<String, ProviderError> {
    let (near, sibling) = (make(provider, "a").await?, make(provider, "b").await?);
    let listening = format!("{LISTEN}listen({SIBLING_PORT})\n{ADDRESSES}");
    let addresses = run(provider, &sibling, &listening).await?;
    let own = run(provider, &near, ADDRESSES).await?;
    let parse = |text: &str| text.split_whitespace().map(str::parse).collect::<Result<Vec<Ipv4Addr>, _>>().ok();
    let (Some([_, gateway]), Some([there, other_gateway])) = (
        parse(&own).and_then(|found| <[Ipv4Addr; 2]>::try_from(found).ok()),
        parse(&addresses).and_then(|found| <[Ipv4Addr; 2]>::try_from(found).ok()),
    ) else {
        return Err(unclear("the probes have no addresses"));
    };
    // The sibling can be reached from itself; otherwise that nobody else reaches it would say nothing.
    let itself = format!("targets = '{there}:{SIBLING_PORT}'\n{CONNECT}");
    if run(provider, &sibling, &itself).await?.trim().is_empty() {
        return Err(unclear("what should be kept from reaching a probe is not there"));
    }
    let mut targets = vec![format!("{there}:{SIBLING_PORT}"), "169.254.169.254:80".to_owned()];
    // The engine listens at its port for certain. Its host has that port on every address, agents' gateways among them.
    let port = host.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).unwrap_or(2376);
    let named = host.to_socket_addrs().into_iter().flatten().map(|address| address.ip().to_string());
    let addresses: Vec<String> = [gateway.to_string(), other_gateway.to_string()].into_iter().chain(named).collect();
    for address in addresses.iter().filter(|address| !address.contains(':')) {
        targets.extend(HOST_PORTS.into_iter().chain([port]).map(|port| format!("{address}:{port}")));
    }
    targets.sort_unstable();
    targets.dedup();
    let reached = run(provider, &near, &format!("targets = '{}'\n{CONNECT}", targets.join(" "))).await?;
    Ok(reached.split_whitespace().collect::<Vec<_>>().join(", "))
}

async fn make(provider: &Arc<dyn Provider>, which: &str) -> Result<AgentRef, ProviderError> {
    let agent = AgentRef { agent: format!("agt_probe_{which}") };
    let spec = SandboxSpec {
        agent: agent.agent.clone(),
        session: "ses_probe".into(),
        platform: "plt_probe".into(),
        lifetime: PROBE_LIFE,
        internet: true,
        region: None,
    };
    provider.create(&spec, &Variables::default()).await?;
    Ok(agent)
}

/// Prints the own address and the default gateway.
const ADDRESSES: &str = "import socket, struct
routes = [line.split() for line in open('/proc/net/route')][1:]
gateway = [socket.inet_ntoa(struct.pack('<L', int(r[2], 16))) for r in routes if r[1] == '00000000'][0]
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.connect((gateway, 9))
print(probe.getsockname()[0], gateway)";

/// Has a process listen that stays.
const LISTEN: &str = "import socket, subprocess, sys, time
def listen(port):
    code = 'import socket; s = socket.create_server((\"0.0.0.0\", %d))\\nwhile True: s.accept()[0].close()' % port
    subprocess.Popen([sys.executable, '-c', code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                     stderr=subprocess.DEVNULL, start_new_session=True)
    time.sleep(1)
";

/// Prints which of the targets take a connection.
const CONNECT: &str = "import socket, threading
def reach(target):
    host, port = target.split(':')
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        print(target, end=' ', flush=True)
    except OSError:
        pass
threads = [threading.Thread(target=reach, args=(t,)) for t in targets.split()]
for thread in threads: thread.start()
for thread in threads: thread.join()";

async fn run(provider: &Arc<dyn Provider>, agent: &AgentRef, code: &str) -> Result<String, ProviderError> {
    let request = ExecRequest {
        language: Language::Python,
        code: code.into(),
        timeout: Duration::from_secs(20),
        stdin: bytes::Bytes::new(),
        output_cap: 4096,
    };
    let ran = provider.exec(agent, request).await?;
    match ran.exit_code {
        0 => Ok(String::from_utf8_lossy(&ran.stdout).into_owned()),
        _ => Err(unclear("a program of the probe failed")),
    }
}

fn unclear(reason: &str) -> ProviderError {
    let (provider, reason) = (ProviderKind::Docker, reason.to_owned());
    ProviderError::Failed { provider, operation: "probe", status: None, retryable: true, reason }
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
