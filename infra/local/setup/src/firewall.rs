//! The machine's firewall between agents and the machine itself.
//!
//! Owns when the rules are put in place, and when they are tried: no engine is called closed before an agent's own network
//! was found to be.

use crate::cache::Cache;
use crate::command::{exists, is_root, output, quiet};
use crate::{Progress, SetupError};
use sha2::{Digest, Sha256};
use std::net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket};
use theazo_host_guard::{FIREWALL, Probe, remove_probes};
use theazo_providers::Provider;
use theazo_providers::docker::{DockerConfig, DockerProvider, Endpoint};

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
    let state = format!("{} {engine:?} {}", boot_id(), hex::encode(Sha256::digest(FIREWALL)));
    if firewall.root {
        let changed = firewall.install().await.map_err(|error| unprotected(&cache, error.to_string()))?;
        if !changed && std::fs::read_to_string(&marker).is_ok_and(|probed| probed == state) {
            return Ok(firewall);
        }
    }
    progress.detail("trying what an agent can reach of this machine");
    let reached = probe(engine, image).await?;
    if !reached.is_empty() {
        return Err(unprotected(&cache, format!("an agent reached {}", reached.join(", "))));
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
        let said = script(["install".to_owned()]).await?;
        Ok(!said.trim().is_empty())
    }
}

async fn script(arguments: impl IntoIterator<Item = String>) -> Result<String, SetupError> {
    let said = output(quiet("sh").args(["-c", FIREWALL, "firewall.sh"]).args(arguments)).await?;
    Ok(String::from_utf8_lossy(&said).into_owned())
}

/// What to do, for someone whose machine is open to agents.
fn unprotected(cache: &Cache, reason: String) -> SetupError {
    let path = cache.dir.join("firewall.sh");
    let advice = match std::fs::write(&path, FIREWALL) {
        Ok(()) => format!("As root, `sh {} install` puts the rules in place", path.display()),
        Err(_) => "The rules are in infra/host-guard/firewall.sh".to_owned(),
    };
    SetupError::Unprotected { reason, advice: format!("{advice}; they last until the machine restarts") }
}

/// Changes whenever the machine starts, and with it all rules are gone.
fn boot_id() -> String {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// What an agent can reach of this machine that it must not.
async fn probe(engine: &Endpoint, image: &str) -> Result<Vec<String>, SetupError> {
    let provider = DockerProvider::new(DockerConfig::new(engine.clone(), image, PROBES))?;
    remove_probes(&provider).await?;
    let tried = try_from_agent(&provider).await;
    remove_probes(&provider).await?;
    tried
}

async fn try_from_agent(provider: &dyn Provider) -> Result<Vec<String>, SetupError> {
    let probe = Probe::start(provider, &std::process::id().to_string()).await?;
    let (_, gateway) = probe.addresses().await?;
    // If the gateway is no address of this machine, its firewall is not the one between agents and the engine's host.
    if TcpListener::bind((gateway, 0)).is_err() {
        return Ok(vec!["a machine that is not this one: the engine runs elsewhere".into()]);
    }
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).map_err(SetupError::file("a port to probe"))?;
    let port = listener.local_addr().map_err(SetupError::file("a port to probe"))?.port();
    let mut targets = vec![format!("{gateway}:{port}"), format!("{METADATA}:80")];
    targets.extend(own_address().map(|own| format!("{own}:{port}")));
    Ok(probe.reaches(&targets).await?)
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
