//! What opens agents' ports: a token for each, derived, so that it need not be kept anywhere to be told again.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

/// What separates this use of a secret from others.
const LABEL: &[u8] = b"theazo: tokens of agents' ports, 1";

/// What the tokens of agents' ports are derived from. Whoever has it has them all.
pub struct PortKey(Zeroizing<[u8; 32]>);

/// Which port of which run a token is for.
pub(crate) struct Run<'a> {
    pub(crate) deployment: &'a str,
    pub(crate) agent: &'a str,
    /// What the provider tells this boot of the agent from all others by.
    pub(crate) boot: &'a str,
    pub(crate) port: u16,
}

impl PortKey {
    /// The key of a secret that is random and not told to anybody.
    pub fn derive(secret: &[u8]) -> Self {
        Self(mac(secret, &[LABEL]))
    }

    /// The token of a port, 64 hexadecimal digits. It is good for that one, and until the agent boots again.
    pub(crate) fn token(&self, run: &Run<'_>) -> Zeroizing<String> {
        let Run { deployment, agent, boot, port } = run;
        let parts = [deployment.as_bytes(), agent.as_bytes(), boot.as_bytes(), &port.to_be_bytes()];
        Zeroizing::new(hex::encode(mac(self.0.as_slice(), &parts).as_slice()))
    }
}

/// HMAC-SHA-256 of these parts, each with its length before it.
fn mac(key: &[u8], parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for part in parts {
        mac.update(&(part.len() as u64).to_be_bytes());
        mac.update(part);
    }
    Zeroizing::new(mac.finalize().into_bytes().into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_port_of_every_run_has_a_token_of_its_own_and_the_same_again() {
        let key = PortKey::derive(b"secret");
        let run = Run { deployment: "d", agent: "agt_1", boot: "c", port: 80 };
        let token = key.token(&run);
        assert_eq!((token.len(), &token), (64, &key.token(&run)));
        let others = [
            PortKey::derive(b"another").token(&run),
            key.token(&Run { deployment: "e", ..run }),
            key.token(&Run { agent: "agt_2", ..run }),
            key.token(&Run { boot: "b", ..run }),
            key.token(&Run { port: 81, ..run }),
            key.token(&Run { agent: "agt_1c", boot: "", ..run }),
            token,
        ];
        assert_eq!(others.iter().map(|token| token.as_str()).collect::<BTreeSet<_>>().len(), others.len());
    }
}
