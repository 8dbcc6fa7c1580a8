//! The machine's firewall between agents and the machine itself.
//!
//! Owns the rules (`firewall.sh`, which root can also run by hand), when they are put in place, and the probe: no engine is
//! called closed before an agent's own network was found to be. A network per agent alone leaves open what the machine
//! offers on any of its addresses, private networks and the cloud's metadata address.

use crate::cache::Cache;
use crate::command::{exists, is_root, output, quiet};
use crate::{Progress, SetupError};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use std::time::Duration;
use theazo_providers::docker::{DockerConfig, DockerProvider, Endpoint};
use theazo_providers::{AgentRef, Environment, ExecRequest, Language, Provider, SandboxSpec};

const SCRIPT: &str = include_str!("../firewall.sh");
/// The deployment that probes belong to. Only whoever holds the lock has one, so that others are left over.
const PROBES: &str = "theazo-firewall-probe";
const METADATA: Ipv4Addr = Ipv4Addr::new(169, 254, 169, 254);

/// Rules that are in place, and were found to hold.
#[derive(Clone, Copy, Debug)]
pub struct Firewall {
    /// Whether this process may change them.
    root: bool,
}

/// Puts the rules in place where that is needed and possible, and tries them from an agent's network unless that has
/// been done since the machine started. Safe to call from several processes at once.
///
/// # Errors
/// [`SetupError::Unprotected`] when agents can reach what they must not, or when that cannot be found out; its `Display`
/// says what to do. Others when the engine or a file fails.
pub async fn ensure_firewall(engine: &Endpoint, image: &str, progress: &dyn Progress) -> Result<Firewall, SetupError> {
    let cache = Cache::open()?;
    let _turn = cache.lock("firewall", progress).await?;
    let firewall = Firewall::here();
    let marker = cache.dir.join("firewall-probed");
    let state = format!("{} {engine:?} {}", boot_id(), hex::encode(Sha256::digest(SCRIPT)));
    if firewall.root {
        let changed = firewall.install().await.map_err(|error| unprotected(&cache, error.to_string()))?;
        if !changed && std::fs::read_to_string(&marker).is_ok_and(|probed| probed == state) {
            return Ok(firewall);
        }
    }
    progress.detail("trying what an agent can reach of this machine");
    if let Some(reached) = probe(engine, image).await? {
        return Err(unprotected(&cache, reached));
    }
    if firewall.root {
        std::fs::write(&marker, state).map_err(SetupError::file(&marker))?;
    }
    Ok(firewall)
}

impl Firewall {
    /// This machine's, whatever its rules are.
    pub fn here() -> Self {
        Self { root: is_root() }
    }

    /// Puts the rules in place again, should another program have taken them away or the machine's name servers have
    /// changed. Does nothing for who is not root.
    ///
    /// # Errors
    /// [`SetupError::Command`].
    pub async fn refresh(&self) -> Result<(), SetupError> {
        if self.root {
            let _turn = Cache::open()?.lock("firewall", &()).await?;
            self.install().await?;
        }
        Ok(())
    }

    /// Lets agents reach one TCP port of this machine, on which the caller listens already. Ports that nobody listens on
    /// any more are closed again: whoever opened them was killed. `false` for who is not root.
    ///
    /// # Errors
    /// [`SetupError::Command`]; [`SetupError::File`] for the lock.
    pub async fn open(&self, port: u16) -> Result<bool, SetupError> {
        if !self.root {
            return Ok(false);
        }
        let _turn = Cache::open()?.lock("firewall", &()).await?;
        let open = script(["ports".to_owned()]).await?;
        for other in open.lines().filter_map(|line| line.parse::<u16>().ok()).filter(|other| *other != port) {
            if TcpListener::bind((Ipv4Addr::UNSPECIFIED, other)).is_ok() {
                script(["close".to_owned(), other.to_string()]).await?;
            }
        }
        script(["open".to_owned(), port.to_string()]).await?;
        Ok(true)
    }

    /// Closes a port that [`Firewall::open`] has opened.
    ///
    /// # Errors
    /// As [`Firewall::open`].
    pub async fn close(&self, port: u16) -> Result<(), SetupError> {
        if self.root {
            let _turn = Cache::open()?.lock("firewall", &()).await?;
            script(["close".to_owned(), port.to_string()]).await?;
        }
        Ok(())
    }

    /// Whether anything had to be changed.
    async fn install(&self) -> Result<bool, SetupError> {
        if !exists("iptables") {
            return Err(SetupError::Command { command: "iptables".into(), reason: "it is not installed".into() });
        }
        let said = script(std::iter::once("install".to_owned()).chain(resolvers())).await?;
        Ok(!said.trim().is_empty())
    }
}

async fn script(arguments: impl IntoIterator<Item = String>) -> Result<String, SetupError> {
    let said = output(quiet("sh").args(["-c", SCRIPT, "firewall.sh"]).args(arguments)).await?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// What to do, for someone whose machine is open to agents.
fn unprotected(cache: &Cache, reason: String) -> SetupError {
    let path = cache.dir.join("firewall.sh");
    let install = std::iter::once("install".to_owned()).chain(resolvers()).collect::<Vec<_>>().join(" ");
    let advice = match std::fs::write(&path, SCRIPT) {
        Ok(()) => format!("As root, `sh {} {install}` puts the rules in place", path.display()),
        Err(_) => "The rules are in infra/local/setup/firewall.sh".to_owned(),
    };
    SetupError::Unprotected { reason, advice: format!("{advice}; they last until the machine restarts") }
}

/// The machine's name servers, as the engine passes them on to containers: those of `/etc/resolv.conf`, or behind the
/// local one of systemd-resolved.
fn resolvers() -> Vec<String> {
    let read = |path: &str| std::fs::read_to_string(path).map(|text| name_servers(&text)).unwrap_or_default();
    let mut found = read("/etc/resolv.conf");
    if found.is_empty() {
        found = read("/run/systemd/resolve/resolv.conf");
    }
    found
}

/// The IPv4 name servers in a `resolv.conf` that a container can use: not those of the loopback interface.
fn name_servers(resolv_conf: &str) -> Vec<String> {
    let servers = resolv_conf.lines().filter_map(|line| line.trim().strip_prefix("nameserver"));
    let servers = servers.filter_map(|server| server.trim().parse::<Ipv4Addr>().ok());
    servers.filter(|server| !server.is_loopback()).map(|server| server.to_string()).collect()
}

/// Changes whenever the machine starts, and with it all rules are gone.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What an agent can reach of this machine that it must not, in words; `None` if nothing.
async fn probe(engine: &Endpoint, image: &str) -> Result<Option<String>, SetupError> {
    let provider = DockerProvider::new(DockerConfig::new(engine.clone(), image, PROBES))?;
    remove_probes(&provider).await?;
    let tried = try_from_agent(&provider).await;
    remove_probes(&provider).await?;
    tried
}

async fn remove_probes(provider: &DockerProvider) -> Result<(), SetupError> {
    for probe in provider.list_mine().await? {
        provider.destroy(&AgentRef { agent: probe.agent }).await?;
    }
    Ok(())
}

async fn try_from_agent(provider: &DockerProvider) -> Result<Option<String>, SetupError> {
    let agent = AgentRef { agent: format!("agt_probe_{}", std::process::id()) };
    let spec = SandboxSpec {
        agent: agent.agent.clone(),
        session: "ses_probe".into(),
        platform: "plt_probe".into(),
        lifetime: Duration::from_secs(60),
        internet: true,
        region: None,
    };
    provider.create(&spec, &Environment::default()).await?;
    let Ok(gateway) = run(provider, &agent, GATEWAY).await?.trim().parse::<Ipv4Addr>() else {
        return Ok(Some("the probe has no gateway, so nothing can be found out".into()));
    };
    // If the gateway is no address of this machine, its firewall is not the one between agents and the engine's host.
    if TcpListener::bind((gateway, 0)).is_err() {
        return Ok(Some("the engine runs elsewhere: agents' networks do not begin on this machine".into()));
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(SetupError::file("a port to probe"))?;
    let port = listener.local_addr().map_err(SetupError::file("a port to probe"))?.port();
    let mut targets = vec![format!("{gateway}:{port}"), format!("{METADATA}:80")];
    targets.extend(own_address().map(|own| format!("{own}:{port}")));
    let code = format!("targets = {:?}\n{CONNECT}", targets.join(" "));
    let reached = run(provider, &agent, &code).await?;
    Ok(match reached.trim() {
        "" => None,
        reached => Some(format!("an agent reached {reached}")),
    })
}

/// Prints the default gateway.
const GATEWAY: &str = "import socket, struct
routes = [line.split() for line in open('/proc/net/route')][1:]
print([socket.inet_ntoa(struct.pack('<L', int(r[2], 16))) for r in routes if r[1] == '00000000'][0])";

/// Prints which of the targets take a connection.
const CONNECT: &str = "import socket, threading
def reach(target):
    host, port = target.split(':')
    try:
        socket.create_connection((host, int(port)), timeout=1.5).close()
        print(target, end=' ', flush=True)
    except OSError:
        pass
threads = [threading.Thread(target=reach, args=(t,)) for t in targets.split()]
for thread in threads: thread.start()
for thread in threads: thread.join()";

async fn run(provider: &DockerProvider, agent: &AgentRef, code: &str) -> Result<String, SetupError> {
    let request = ExecRequest {
        language: Language::Python,
        code: code.into(),
        timeout: Duration::from_secs(20),
        stdin: bytes::Bytes::new(),
        output_cap: 4096,
    };
    let ran = provider.exec(agent, request).await?;
    if ran.exit_code != 0 {
        let reason = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
        return Err(SetupError::Command { command: "the probe".into(), reason });
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

/// The address that this machine would use towards the outside; nothing is sent.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(own) if !own.is_loopback() && !own.is_unspecified() => Some(own),
        _ => None,
    }
}

/// Where the script is, for tests that call it by hand.
#[cfg(test)]
fn script_path() -> &'static std::path::Path {
    std::path::Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/firewall.sh"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_name_servers_that_a_container_can_use_are_let_through() {
        let text = "# nameserver 10.0.0.1\nsearch x\nnameserver 127.0.0.53\n nameserver\t10.0.0.2 \nnameserver fd00::1\n\
                    nameserver 8.8.8.8; rm -rf /\nnameserver 9.9.9.9\n";
        assert_eq!(name_servers(text), ["10.0.0.2", "9.9.9.9"]);
        assert!(name_servers("nameserver 127.0.0.53\n").is_empty());
    }

    #[tokio::test]
    async fn the_script_explains_itself_and_takes_no_port_that_is_none() {
        let path = script_path().display().to_string();
        let explained = quiet("sh").arg(&path).output().await.unwrap();
        assert_eq!(explained.status.code(), Some(2));
        assert!(String::from_utf8_lossy(&explained.stdout).contains("firewall.sh install"));
        for bad in ["", "80x", "-j", "1:65535", "$(id)"] {
            let refused = quiet("sh").args([path.as_str(), "open", bad]).output().await.unwrap();
            assert_eq!(refused.status.code(), Some(2), "{bad}");
        }
    }
}
