//! The promises about agents that share a provider, whoever they are of. Networks are those of real engines: rooms of an
//! emulator have their machine's, so that of a service it is looked at what it was asked for.

use crate::bed::{Bed, agent, environment, spec};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;
use theazo_providers::{AgentRef, Environment, ProviderError, SandboxSpec};

crate::promises! { "isolation":
    Processes no_agent_sees_files_or_processes_of_another_of_its_session_its_platform_or_a_foreign_one;
    Network no_agent_reaches_a_port_of_another_of_its_session_its_platform_or_a_foreign_one;
    Shield no_agent_reaches_its_host_the_engine_or_the_metadata_address;
    Service a_service_is_asked_for_a_network_that_nobody_else_reaches;
}

/// An agent, and one each of the same session, of another one of the same platform, and of another platform.
async fn neighbours(bed: &Bed, internet: bool) -> Vec<AgentRef> {
    let own = SandboxSpec { internet, ..spec() };
    let same_session = SandboxSpec { session: own.session.clone(), platform: own.platform.clone(), internet, ..spec() };
    let same_platform = SandboxSpec { platform: own.platform.clone(), internet, ..spec() };
    let foreign = SandboxSpec { internet, ..spec() };
    let mut agents = Vec::new();
    for spec in [own, same_session, same_platform, foreign] {
        bed.provider.create(&spec, &environment(&[("OWN", &spec.agent)])).await.unwrap();
        agents.push(agent(&spec));
    }
    agents
}

async fn end(bed: &Bed, agents: &[AgentRef]) {
    for agent in agents {
        bed.destroy(agent).await;
    }
}

async fn no_agent_sees_files_or_processes_of_another_of_its_session_its_platform_or_a_foreign_one(bed: Arc<Bed>) {
    let agents = neighbours(&bed, false).await;
    let (own, others) = agents.split_first().unwrap();
    for path in ["/data/mine", "/tmp/mine"] {
        bed.write(own, path, b"own").await.unwrap();
    }
    bed.bash(own, "(exec sleep 377.25 > /dev/null 2>&1 &)").await;
    let look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '377[.]25'; ls -A /data /tmp | grep mine; \
                cat /proc/[0-9]*/environ 2>/dev/null | tr '\\0' '\\n' | grep ^OWN= | sort -u";
    let seen = bed.bash(own, look).await;
    assert_eq!(seen.lines().collect::<Vec<_>>(), ["1", "mine", "mine", &format!("OWN={}", own.agent)]);
    for other in others {
        for path in ["/data/mine", "/tmp/mine"] {
            let read = bed.read(other, path).await;
            assert!(matches!(read, Err(ProviderError::FileNotFound)), "{path}: {read:?}");
        }
        let seen = bed.bash(other, look).await;
        assert_eq!(seen.lines().collect::<Vec<_>>(), ["0", &format!("OWN={}", other.agent)]);
    }
    end(&bed, &agents).await;
}

/// Prints each of those addresses that answers within two seconds.
fn connecting(targets: &[(String, u16)]) -> String {
    let tries = targets.iter().map(|(host, port)| {
        format!("(timeout 2 bash -c 'exec 3<>/dev/tcp/{host}/{port}' 2>/dev/null && echo {host}:{port}) &\n")
    });
    format!("{}wait", tries.collect::<String>())
}

async fn no_agent_reaches_a_port_of_another_of_its_session_its_platform_or_a_foreign_one(bed: Arc<Bed>) {
    let engine = bed.engine.as_ref().unwrap();
    for internet in [false, true] {
        let agents = neighbours(&bed, internet).await;
        let (own, others) = agents.split_first().unwrap();
        let address = engine.address(own).await;
        let port = crate::ports::serve(&bed, own, "own").await;
        let code = connecting(&[(address.clone(), port)]);
        assert_eq!(bed.bash(own, &code).await, format!("{address}:{port}\n"), "it serves");
        for other in others {
            assert_eq!(bed.bash(other, &code).await, "", "internet: {internet}");
        }
        end(&bed, &agents).await;
    }
}

/// Where a cloud tells machines about themselves.
const METADATA: &str = "169.254.169.254";

async fn no_agent_reaches_its_host_the_engine_or_the_metadata_address(bed: Arc<Bed>) {
    let engine = bed.engine.as_ref().unwrap();
    let service = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
    let port = service.local_addr().unwrap().port();
    if let Some(host) = &bed.host {
        host.run("ip", &["address", "add", &format!("{METADATA}/32"), "dev", "lo"]).await;
        // Its engine listens on the last itself.
        engine.listen_on_host(&[port, 22, 80, 2375]).await;
    }
    for internet in [false, true] {
        let spec = SandboxSpec { internet, ..spec() };
        bed.provider.create(&spec, &Environment::default()).await.unwrap();
        let agent = agent(&spec);
        let gateway = engine.gateway(&agent).await;
        // What is tried is there: the host itself reaches it.
        match &bed.host {
            Some(host) => {
                for (address, port) in
                    [gateway.as_str(), METADATA].into_iter().flat_map(|at| [port, 22, 80].map(|port| (at, port)))
                {
                    let connect = format!("timeout 2 bash -c 'exec 3<>/dev/tcp/{address}/{port}'");
                    host.run("bash", &["-c", &connect]).await;
                }
            }
            None => {
                let reachable = format!("{gateway}:{port}").parse().unwrap();
                TcpStream::connect_timeout(&reachable, Duration::from_secs(2))
                    .unwrap_or_else(|error| panic!("it serves: {error}"));
            }
        }
        let mut targets = Vec::new();
        for host in [gateway.as_str(), METADATA, "172.17.0.1"] {
            targets.extend([port, 22, 80, 2375, 2376].map(|port| (host.to_owned(), port)));
        }
        assert_eq!(bed.bash(&agent, &connecting(&targets)).await, "", "internet: {internet}");
        let sockets = "ls /var/run/docker.sock /run/docker.sock 2>/dev/null; true";
        assert_eq!(bed.bash(&agent, sockets).await, "");
        bed.destroy(&agent).await;
    }
}

async fn a_service_is_asked_for_a_network_that_nobody_else_reaches(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    if let Some(fly) = &bed.fly {
        let records = fly.controls.records();
        let app = crate::fly::app(&agent);
        let sent = |subject: &str| {
            let found = records.iter().position(|record| record.subject.starts_with(subject));
            let place = found.unwrap_or_else(|| panic!("{subject}"));
            (place, records[place].content["request"].clone())
        };
        let is_its = |record: &&theazo_fly_emulator::Record| {
            record.subject.starts_with("POST /apps?") && record.content["request"]["name"] == app.as_str()
        };
        let network = records.iter().find(is_its).unwrap().content["request"]["network"].as_str().unwrap();
        assert!(network.ends_with(&app), "a network of its own: {network}");
        let (policy_at, policy) = sent(&format!("POST /apps/{app}/network_policies"));
        let (machine_at, _) = sent(&format!("POST /apps/{app}/machines?"));
        assert!(policy_at < machine_at && policy.to_string().contains("egress"), "before there is a machine: {policy}");
    } else {
        let records = bed.emulator().controls.records();
        let create = records.iter().find(|record| {
            record.subject.starts_with("POST /v2/sandboxes")
                && record.content["request"]["metadata"]["theazo.agent"] == agent.agent.as_str()
        });
        let asked = &create.unwrap().content["request"];
        assert_eq!(asked["allow_internet_access"], false);
        assert_eq!(asked["network"]["allowPublicTraffic"], false);
    }
    bed.destroy(&agent).await;
}
