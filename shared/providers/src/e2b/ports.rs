//! Ports of sandboxes: every port that is listened on has an address at E2B, and our sandboxes were made so that it is open
//! only to those who have the sandbox's traffic token. That one is for all ports of the sandbox, and the same for as long as
//! the sandbox exists, its pauses included: E2B has no other.

use super::account::Handle;
use super::failure::failed;
use super::{E2bEndpoints, E2bProvider};
use crate::error::TAKEN;
use crate::{OpenPort, ProviderError};
use std::sync::Arc;
use zeroize::Zeroizing;

const OPEN: &str = "open port";
const TRAFFIC_TOKEN: &str = "e2b-traffic-access-token";
/// Ports of the daemon inside, which the token does not guard, and of E2B's own gateway.
const OWN: [u16; 2] = [49983, 50005];
/// For how long at least a sandbox stays, in seconds, whose token is asked for: that never takes any of its time away, and
/// hardly adds any.
const CONNECT_SECONDS: u64 = 15;

impl E2bProvider {
    /// Tells where a port of a running sandbox is, and the token.
    pub(super) async fn tell_port(&self, agent: &str, port: u16) -> Result<OpenPort, ProviderError> {
        if OWN.contains(&port) {
            return Err(ProviderError::PortUnusable(TAKEN));
        }
        let handle = self.with_traffic(agent).await?;
        let open = || failed(OPEN, None, false, "the sandbox's ports are open to everybody");
        let token = handle.traffic.clone().ok_or_else(open)?;
        let (url, mut headers) = way(&self.service().endpoints, &handle, port);
        headers.push((TRAFFIC_TOKEN, token));
        Ok(OpenPort { url, headers })
    }

    /// A sandbox that runs, with its traffic token.
    async fn with_traffic(&self, agent: &str) -> Result<Arc<Handle>, ProviderError> {
        if let Some(handle) = self.service().known.get(self.fingerprint, agent)
            && handle.traffic.is_some()
        {
            match self.account.open(&handle.id).await {
                Ok((_, detail)) if detail.state == "running" => return Ok(handle),
                Ok(_) | Err(ProviderError::SandboxGone) => self.service().known.forget(self.fingerprint, agent),
                Err(error) => return Err(error),
            }
        }
        let id = self.running(agent).await?.id;
        // A look does not tell the token; connecting does.
        let (handle, booted) = self.account.connect(&id, CONNECT_SECONDS).await?;
        if booted {
            // It was paused at this very moment, and is to be.
            self.account.pause(&id).await?;
            return Err(ProviderError::SandboxGone);
        }
        Ok(self.service().known.keep(self.fingerprint, agent, handle))
    }
}

/// Where a port is: at a host of its own or, where sandboxes are reached at one address, by headers that tell them apart.
fn way(endpoints: &E2bEndpoints, handle: &Handle, port: u16) -> (String, Vec<(&'static str, Zeroizing<String>)>) {
    let domain = handle.domain.as_deref().filter(|_| endpoints.is_usual());
    match domain.or_else(|| endpoints.sandbox.strip_prefix("https://sandbox.")) {
        Some(domain) => (format!("https://{port}-{}.{domain}/", handle.id), Vec::new()),
        None => {
            let headers = [("e2b-sandbox-id", handle.id.clone()), ("e2b-sandbox-port", port.to_string())];
            let headers = headers.into_iter().map(|(name, value)| (name, Zeroizing::new(value)));
            (format!("{}/", endpoints.sandbox), headers.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_a_host_of_its_own_where_sandboxes_have() {
        let handle = |domain: Option<&str>| Handle {
            id: "iabc".into(),
            token: Zeroizing::default(),
            traffic: None,
            domain: domain.map(str::to_owned),
        };
        let usual = E2bEndpoints::default();
        assert_eq!(way(&usual, &handle(None), 3000).0, "https://3000-iabc.e2b.app/");
        assert_eq!(way(&usual, &handle(Some("own.example")), 3000).0, "https://3000-iabc.own.example/");
        let own = E2bEndpoints { sandbox: "https://sandbox.e2b.example".into(), ..usual.clone() };
        assert_eq!(way(&own, &handle(None), 80).0, "https://80-iabc.e2b.example/");
        let one = E2bEndpoints { sandbox: "http://127.0.0.1:9".into(), ..usual };
        let (url, headers) = way(&one, &handle(None), 80);
        assert_eq!((url.as_str(), headers.len(), headers[1].1.as_str()), ("http://127.0.0.1:9/", 2, "80"));
    }
}
