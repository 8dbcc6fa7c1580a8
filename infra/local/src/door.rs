//! Where agents on the machine's engine reach the API: one port, on which nothing is served but what agents report to.
//!
//! The firewall keeps agents from every other port of the machine. The listener is on every address, because the only one
//! that an agent without internet can reach is the machine's on the agent's own network, which comes and goes with the
//! agent; who is not an agent gets no answer there.

use crate::data_dir::{DataDir, DataDirError};
use crate::server::{self, Audience};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use theazo_functions::deployment::Deployment;
use theazo_functions::routes::{ROUTES, Route};
use theazo_providers::docker::{HOST_NAME, SubnetPool};
use theazo_setup::Firewall;
use tokio::net::TcpListener;

/// Kept, because agents outlive a stack and know the port.
const PORT_FILE: &str = "agents-port";
/// How often the firewall's rules are looked after: other programs take them away, and name servers change.
const REFRESH_EVERY: Duration = Duration::from_secs(60);

/// A listener for agents, open in the firewall.
pub(crate) struct Door {
    listener: TcpListener,
    port: u16,
    firewall: Firewall,
}

impl Door {
    /// Listens where this stack did before, if that is free, and lets agents in.
    ///
    /// # Errors
    /// [`DataDirError`] when the port cannot be noted; otherwise agents are left without an address to report to.
    pub(crate) async fn open(data_dir: &DataDir) -> Result<Option<Self>, DataDirError> {
        let before = data_dir.read(PORT_FILE)?.and_then(|port| port.parse::<u16>().ok()).unwrap_or(0);
        let listen = |port| TcpListener::bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)));
        let listener = match listen(before).await {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(port = before, %error, "agents that run already cannot report any more");
                match listen(0).await {
                    Ok(listener) => listener,
                    Err(error) => {
                        tracing::error!(%error, "agents have nothing to report to");
                        return Ok(None);
                    }
                }
            }
        };
        let Ok(port) = listener.local_addr().map(|address| address.port()) else { return Ok(None) };
        data_dir.write(PORT_FILE, &port.to_string())?;
        let firewall = Firewall::here();
        match firewall.open(port).await {
            Ok(true) => {}
            Ok(false) => tracing::warn!(port, "agents reach this port only if the machine's firewall lets them"),
            Err(error) => tracing::warn!(port, %error, "the firewall could not be opened for what agents report"),
        }
        Ok(Some(Self { listener, port, firewall }))
    }

    /// How an agent writes this address.
    pub(crate) fn endpoint(&self) -> String {
        format!("http://{HOST_NAME}:{}", self.port)
    }

    /// Serves agents until `shutdown`, and closes behind itself.
    pub(crate) async fn serve(self, deployment: Arc<Deployment>, shutdown: impl Future<Output = ()> + Send + 'static) {
        let Self { listener, port, firewall } = self;
        let serving = server::run(listener, deployment, Audience { routes: reports(), admits: is_agent }, shutdown);
        tokio::pin!(serving);
        loop {
            tokio::select! {
                served = &mut serving => {
                    if let Err(error) = served {
                        tracing::error!(%error, "agents have nothing to report to any more");
                    }
                    break;
                }
                () = tokio::time::sleep(REFRESH_EVERY) => {
                    if let Err(error) = firewall.refresh().await {
                        tracing::error!(%error, "the firewall's rules could not be put in place again");
                    }
                }
            }
        }
        if let Err(error) = firewall.close(port).await {
            tracing::warn!(port, %error, "the firewall could not be closed again");
        }
    }
}

/// The routes that agents report to: those that are authenticated by their own address.
fn reports() -> Vec<&'static Route> {
    ROUTES.iter().copied().filter(|route| route.info.has_credential_in_path()).collect()
}

/// Whether an address can be an agent's. No other machine can have a connection from one of these.
fn is_agent(peer: IpAddr) -> bool {
    matches!(peer.to_canonical(), IpAddr::V4(peer) if SubnetPool::default().contains(peer))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agents_reach_what_they_report_to_and_nothing_else() {
        let names: Vec<&str> = reports().iter().map(|route| route.info.name).collect();
        assert_eq!(names, ["sandbox-log", "sandbox-model", "sandbox-span", "sandbox-progress", "sandbox-complete"]);
    }

    #[test]
    fn only_an_address_of_an_agents_network_is_admitted() {
        for (address, admitted) in [
            ("10.213.0.2", true),
            ("10.213.255.250", true),
            ("::ffff:10.213.7.2", true),
            ("10.214.0.2", false),
            ("127.0.0.1", false),
            ("192.168.1.5", false),
            ("::1", false),
        ] {
            assert_eq!(is_agent(address.parse().unwrap()), admitted, "{address}");
        }
    }
}
