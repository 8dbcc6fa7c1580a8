//! What an agent's container, network and volume are called, and how they are known to be ours.

use super::failure::failed;
use crate::{ProviderError, SandboxSpec};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// Which deployment of this service made a thing. Nothing without it is ever touched.
pub(super) const DEPLOYMENT_LABEL: &str = "theazo.deployment";
/// Which agent a thing was made for.
pub(super) const AGENT_LABEL: &str = "theazo.agent";
/// Which of its agent's ports a forwarder leads to.
pub(super) const PORT_LABEL: &str = "theazo.port";
const SESSION_LABEL: &str = "theazo.session";
const PLATFORM_LABEL: &str = "theazo.platform";

/// The name of an agent's container, network and volume: its id with `-` for `_`.
///
/// The engine's paths hold names unescaped, so one that is not `[a-z0-9][a-z0-9_.-]{1,62}` is refused here: it
/// would reach another endpoint.
pub(super) fn resource_name(agent: &str) -> Result<String, ProviderError> {
    let name = agent.replace('_', "-");
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let fits = (2..=63).contains(&name.len())
        && name.bytes().next().is_some_and(alphanumeric)
        && name.bytes().all(|byte| alphanumeric(byte) || matches!(byte, b'.' | b'-'));
    if fits { Ok(name) } else { Err(failed("name", false, "an agent id that cannot name a container")) }
}

/// The name of the forwarder to a port of the agent whose things have that name.
pub(super) fn forwarder_name(name: &str, port: u16) -> String {
    format!("{name}-port-{port}")
}

/// A number that spreads the agents of all deployments evenly, and is the same at every call.
fn spread(deployment: &str, agent: &str) -> [u8; 8] {
    let digest = Sha256::new().chain_update(deployment).chain_update([0]).chain_update(agent).finalize();
    let mut first = [0; 8];
    first.iter_mut().zip(digest.iter()).for_each(|(to, from)| *to = *from);
    first
}

/// The host's name of an agent's bridge: `ag-` and 8 hex digits (interface names have at most 15 characters).
///
/// Host firewall rules match the prefix, and since one host has one interface of a name, an agent cannot get a
/// second network even when two calls race.
pub(super) fn bridge_name(deployment: &str, agent: &str) -> String {
    let [a, b, c, d, ..] = spread(deployment, agent);
    format!("ag-{a:02x}{b:02x}{c:02x}{d:02x}")
}

/// Where in the subnet pool an agent's search for a free subnet starts.
pub(super) fn subnet_start(deployment: &str, agent: &str) -> u64 {
    u64::from_be_bytes(spread(deployment, agent))
}

/// The labels of everything made for an agent.
pub(super) fn labels(deployment: &str, spec: &SandboxSpec) -> HashMap<String, String> {
    HashMap::from([
        (DEPLOYMENT_LABEL.into(), deployment.into()),
        (AGENT_LABEL.into(), spec.agent.clone()),
        (SESSION_LABEL.into(), spec.session.clone()),
        (PLATFORM_LABEL.into(), spec.platform.clone()),
    ])
}

/// Whether something with these labels was made by `deployment` for `agent`.
pub(super) fn is_ours(labels: Option<&HashMap<String, String>>, deployment: &str, agent: &str) -> bool {
    let label = |name| labels.and_then(|labels| labels.get(name)).map(String::as_str);
    label(DEPLOYMENT_LABEL) == Some(deployment) && label(AGENT_LABEL) == Some(agent)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_id_names_its_things_with_a_dash() {
        assert_eq!(resource_name("agt_01h0000000000000000000000a").unwrap(), "agt-01h0000000000000000000000a");
    }

    #[test]
    fn ids_that_could_leave_their_path_segment_name_nothing() {
        for bad in ["", "a", "../images", "agt_1/x", "agt_1?x", "AGT_1", "agt_1%2e", "_x", ".x", "agt 1", "agt_é"] {
            assert!(resource_name(bad).is_err(), "{bad}");
        }
        assert!(resource_name(&"a".repeat(64)).is_err());
        assert!(resource_name(&"a".repeat(63)).is_ok());
    }

    #[test]
    fn bridges_fit_an_interface_name_and_differ_by_deployment_and_agent() {
        let bridge = bridge_name("d", "agt_1");
        assert_eq!(bridge.len(), 11);
        assert!(bridge.starts_with("ag-"));
        assert_eq!(bridge, bridge_name("d", "agt_1"));
        assert_ne!(bridge, bridge_name("d", "agt_2"));
        assert_ne!(bridge, bridge_name("e", "agt_1"));
        assert_ne!(bridge_name("ab", "c"), bridge_name("a", "bc"));
    }

    #[test]
    fn only_labels_of_this_deployment_and_agent_are_ours() {
        let spec = SandboxSpec {
            agent: "agt_1".into(),
            session: "ses_1".into(),
            platform: "plt_1".into(),
            lifetime: std::time::Duration::from_secs(1),
            internet: false,
            region: None,
        };
        let labels = labels("d", &spec);
        assert!(is_ours(Some(&labels), "d", "agt_1"));
        assert!(!is_ours(Some(&labels), "e", "agt_1"));
        assert!(!is_ours(Some(&labels), "d", "agt_2"));
        assert!(!is_ours(None, "d", "agt_1"));
        assert!(!is_ours(Some(&HashMap::new()), "d", "agt_1"));
    }
}
