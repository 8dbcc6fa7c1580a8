//! Ports of machines: a service of the machine for HTTP, whose TLS Fly's proxy ends with the certificate of the app's name,
//! and behind it the forwarder of `theazo-machine`. That one hands on what carries the token of an open port, and opens one
//! when it is told the digest of its token, over the [channel](super::channel).
//!
//! The token is derived ([`PortKey`](crate::port_key::PortKey)) for the key that the machine made at this boot, and sent to
//! that key's owner alone: what is open ends with the boot, and another boot would not know the token either.

use super::parts::app_name;
use super::reach::Handle;
use super::{FlyEndpoints, FlyProvider, KIND};
use crate::error::TAKEN;
use crate::frame::{Frame, unexpected};
use crate::intake::Intake;
use crate::port_key::Run;
use crate::{AgentRef, OpenPort, ProviderError};
use sha2::{Digest, Sha256};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use theazo_guest_protocol::forwarder::PORT_TOKEN_HEADER;
use theazo_guest_protocol::machine::{INGRESS_PORT, MACHINE_PORT};
use theazo_guest_protocol::{Request, Response};
use zeroize::Zeroizing;

const OPEN: &str = "open port";
const OPEN_LIMIT: Duration = Duration::from_secs(15);

impl FlyProvider {
    /// Has a port of a running machine open to those who have its token.
    pub(super) async fn open_way(&self, agent: &AgentRef, port: u16) -> Result<OpenPort, ProviderError> {
        // As the machine would refuse them.
        if [MACHINE_PORT, INGRESS_PORT].contains(&port) {
            return Err(ProviderError::PortUnusable(TAKEN));
        }
        let agent = agent.agent.as_str();
        let frame = |handle: &Handle| {
            if handle.lacks_ingress {
                return Err(ProviderError::NoPorts);
            }
            let digest = hex::encode(Sha256::digest(self.port_token(agent, handle, port).as_bytes()));
            Frame::new(KIND, &Request::OpenPort { port, digest }, &[]).map(Arc::new)
        };
        match self.ask(agent, OPEN, OPEN_LIMIT, Intake::default(), frame).await? {
            ((Response::Done, _), handle) => {
                let url = url(&self.service().endpoints, &app_name(agent)?, handle.address.ip());
                let token = self.port_token(agent, &handle, port);
                Ok(OpenPort { url, headers: vec![(PORT_TOKEN_HEADER, token)] })
            }
            ((other, _), _) => Err(unexpected(KIND, OPEN, other)),
        }
    }

    fn port_token(&self, agent: &str, handle: &Handle, port: u16) -> Zeroizing<String> {
        let boot = hex::encode(handle.fingerprint);
        self.account.port_key.token(&Run { deployment: self.deployment(), agent, boot: &boot, port })
    }
}

/// Where an app's service for HTTP answers.
fn url(endpoints: &FlyEndpoints, app: &str, address: IpAddr) -> String {
    format!("{}/", endpoints.app.replace("{app}", app).replace("{address}", &address.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::Ipv4Addr;

    #[test]
    fn an_app_answers_at_its_name_and_at_the_emulator_at_its_address() {
        let address = IpAddr::from(Ipv4Addr::new(137, 66, 1, 2));
        assert_eq!(url(&FlyEndpoints::default(), "agt-1", address), "https://agt-1.fly.dev/");
        let emulated = FlyEndpoints::emulator("http://127.0.0.1:9");
        assert_eq!(url(&emulated, "agt-1", address), "http://137.66.1.2:443/");
    }
}
