//! An agent and the machine that its engine runs on: what the firewall of `theazo-setup` closes, and what it leaves.

use crate::support::{Bed, agent, firewall, in_own_deployment, name, spec};
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::NetworkCreateRequest;
use futures_util::StreamExt;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;
use theazo_providers::{AgentRef, Environment, Language, Provider, SandboxSpec};

/// Prints which of the `targets` (`host port`, a line each) take a connection.
const CONNECT: &str = "import socket, sys, threading
def reach(host, port):
    try:
        socket.create_connection((host, int(port)), timeout=2).close()
        print(host, port, flush=True)
    except OSError:
        pass
threads = [threading.Thread(target=reach, args=t.split()) for t in targets.splitlines()]
for thread in threads: thread.start()
for thread in threads: thread.join()";

fn connecting(targets: &[(String, u16)]) -> String {
    let lines: Vec<String> = targets.iter().map(|(host, port)| format!("{host} {port}")).collect();
    format!("targets = {:?}\n{CONNECT}", lines.join("\n"))
}

/// The same program as root in the agent's container, started by somebody who may use the engine.
async fn output_as_root(bed: &Bed, agent: &AgentRef, code: &str) -> String {
    let options = CreateExecOptions {
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        user: Some("0:0".to_owned()),
        cmd: Some(vec!["python3".to_owned(), "-c".to_owned(), code.to_owned()]),
        ..CreateExecOptions::default()
    };
    let id = bed.docker.create_exec(&name(agent), options).await.unwrap().id;
    let StartExecResults::Attached { mut output, .. } = bed.docker.start_exec(&id, None).await.unwrap() else {
        panic!("detached");
    };
    let mut said = String::new();
    while let Some(piece) = output.next().await {
        match piece.unwrap() {
            LogOutput::StdErr { message } => panic!("{}", String::from_utf8_lossy(&message)),
            other => said.push_str(&String::from_utf8_lossy(&other.into_bytes())),
        }
    }
    said
}

async fn boot(bed: &Bed, internet: bool) -> AgentRef {
    let spec = SandboxSpec { internet, ..spec() };
    bed.provider.create(&spec, &Environment::default()).await.unwrap();
    agent(&spec)
}

/// The host's address on the agent's network.
async fn gateway(bed: &Bed, agent: &AgentRef) -> String {
    let config = bed.network(agent).await.ipam.unwrap().config.unwrap().remove(0);
    // An engine that chose it by itself does not always say so; it is then the first of the network's addresses.
    config.gateway.unwrap_or_else(|| {
        let subnet: Ipv4Addr = config.subnet.unwrap().split('/').next().unwrap().parse().unwrap();
        Ipv4Addr::from(u32::from(subnet) + 1).to_string()
    })
}

/// The link-local IPv6 address of the agent's bridge, which the host has by itself.
async fn bridge_ipv6(bed: &Bed, agent: &AgentRef) -> Option<String> {
    let bridge = bed.network(agent).await.options.unwrap().remove("com.docker.network.bridge.name").unwrap();
    let addresses = std::fs::read_to_string("/proc/net/if_inet6").ok()?;
    let line = addresses.lines().find(|line| line.ends_with(&bridge))?;
    let digits = line.get(..32)?;
    let groups: Vec<&str> = (0..8).filter_map(|group| digits.get(group * 4..group * 4 + 4)).collect();
    Some(format!("{}%eth0", groups.join(":")))
}

/// A cloud's metadata address on this machine for as long as this lives, if we may have one.
struct Metadata {
    ours: bool,
    _turn: std::fs::File,
}

const METADATA: &str = "169.254.169.254";

impl Metadata {
    /// Tests of several processes take turns.
    fn take() -> Self {
        let path = std::env::temp_dir().join("theazo-test-metadata.lock");
        let turn = std::fs::File::options().create(true).truncate(false).write(true).open(path).unwrap();
        turn.lock().unwrap();
        Self { ours: Self::ip("add"), _turn: turn }
    }

    fn ip(verb: &str) -> bool {
        let address = format!("{METADATA}/32");
        let ran = Command::new("ip").args(["address", verb, &address, "dev", "lo"]).output();
        ran.is_ok_and(|ran| ran.status.success())
    }
}

impl Drop for Metadata {
    fn drop(&mut self) {
        if self.ours {
            Self::ip("del");
        }
    }
}

#[tokio::test]
async fn neither_an_agent_nor_root_in_its_container_reaches_the_host_its_engine_or_the_metadata_address() {
    if firewall().await.is_none() {
        return;
    }
    in_own_deployment(|bed| async move {
        let metadata = tokio::task::spawn_blocking(Metadata::take).await.unwrap();
        assert!(metadata.ours || std::env::var_os("THEAZO_CI").is_none(), "a metadata address for this machine");
        let service = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
        let service6 = TcpListener::bind("[::]:0").unwrap();
        let port = service.local_addr().unwrap().port();
        // Where engines listen when they listen on TCP. Somebody else's listener is as good.
        let _engine = (TcpListener::bind("0.0.0.0:2375"), TcpListener::bind("0.0.0.0:2376"));
        let (one, other) = tokio::join!(boot(&bed, true), boot(&bed, false));
        let bridges = [gateway(&bed, &one).await, gateway(&bed, &other).await];
        let own = own_address();
        for agent in [&one, &other] {
            let mut targets: Vec<(String, u16)> = Vec::new();
            for address in bridges.iter().map(String::as_str).chain(["172.17.0.1", METADATA]).chain(own.as_deref()) {
                targets.extend([port, 2375, 2376].map(|port| (address.to_owned(), port)));
            }
            let v6 = bridge_ipv6(&bed, agent).await;
            targets.extend(v6.map(|address| (address, service6.local_addr().unwrap().port())));
            let code = connecting(&targets);
            assert_eq!(bed.output(agent, Language::Python, &code).await, "", "as the agent");
            assert_eq!(output_as_root(&bed, agent, &code).await, "", "as root in the container");
            let socket =
                bed.output(agent, Language::Bash, "ls /var/run/docker.sock /run/docker.sock 2>&1 || true").await;
            assert_eq!(socket.matches("No such file").count(), 2, "{socket}");
        }
        // The services were there to be reached: the host itself does.
        for address in bridges.iter().map(String::as_str).chain(metadata.ours.then_some(METADATA)) {
            TcpStream::connect_timeout(&format!("{address}:{port}").parse().unwrap(), Duration::from_secs(2)).unwrap();
        }
    })
    .await;
}

/// The host's address towards the outside.
fn own_address() -> Option<String> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0").ok()?;
    socket.connect("203.0.113.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

#[tokio::test]
async fn agents_with_and_without_internet_reach_a_port_that_is_opened_to_them_and_only_while_it_is() {
    let Some(firewall) = firewall().await else { return };
    in_own_deployment(move |bed| async move {
        let listeners = [0, 0].map(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
        let [opened, closed] = listeners.each_ref().map(|listener| listener.local_addr().unwrap().port());
        if !firewall.open(opened).await.unwrap() {
            return;
        }
        let (one, other) = tokio::join!(boot(&bed, true), boot(&bed, false));
        for agent in [&one, &other] {
            let gateway = gateway(&bed, agent).await;
            let code = connecting(&[(gateway.clone(), opened), (gateway.clone(), closed)]);
            assert_eq!(bed.output(agent, Language::Python, &code).await, format!("{gateway} {opened}\n"));
        }
        firewall.close(opened).await.unwrap();
        let code = connecting(&[(gateway(&bed, &one).await, opened)]);
        assert_eq!(bed.output(&one, Language::Python, &code).await, "");
    })
    .await;
}

#[tokio::test]
async fn the_rules_leave_the_internet_to_agents_that_may_have_it_and_nothing_to_others() {
    let Some(firewall) = firewall().await else { return };
    in_own_deployment(move |bed| async move {
        let (one, other) = tokio::join!(boot(&bed, true), boot(&bed, false));
        // Nobody answers at these addresses, which are for documentation; what counts is where packets went.
        let (with, without) = (passed(&bed, &one, "203.0.113.77").await, passed(&bed, &other, "203.0.113.77").await);
        assert!(with >= 5, "{with} packets of an agent with internet went on to the engine's rules");
        assert_eq!(without, 0, "an agent without internet sends nothing out");
        firewall.refresh().await.unwrap();
    })
    .await;
}

/// What is nobody's on the internet, and what clouds put at addresses that are: an address of each range.
const CLOSED: [&str; 12] = [
    "10.20.30.40",
    "100.64.9.9",
    "100.127.255.254",
    "168.63.129.16",
    METADATA,
    "169.254.170.2",
    "172.16.255.1",
    "172.31.255.254",
    "192.0.0.192",
    "192.168.77.77",
    "198.19.255.1",
    "240.0.0.9",
];

#[tokio::test]
async fn an_agent_with_internet_sends_nothing_to_private_networks_or_to_what_a_cloud_keeps_at_its_own_addresses() {
    if firewall().await.is_none() {
        return;
    }
    in_own_deployment(|bed| async move {
        let agent = boot(&bed, true).await;
        assert!(passed(&bed, &agent, "203.0.113.78").await >= 5, "packets that pass are counted");
        for address in CLOSED {
            assert_eq!(passed(&bed, &agent, address).await, 0, "{address}");
        }
        assert!(passed(&bed, &agent, "203.0.113.78").await >= 5, "packets that pass are still counted");
    })
    .await;
}

#[tokio::test]
async fn nothing_passes_in_the_moments_in_which_the_engine_puts_its_own_rules_in_order() {
    if firewall().await.is_none() {
        return;
    }
    in_own_deployment(|bed| async move {
        let agent = boot(&bed, true).await;
        // Nobody answers there: it is for measuring networks (RFC 2544), and closed to agents.
        let code = "import socket, time
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
end = time.monotonic() + 25
while time.monotonic() < end:
    try: s.sendto(b'x', ('198.18.0.77', 4444))
    except OSError: pass";
        let mut sending = std::pin::pin!(bed.output(&agent, Language::Python, code));
        // An engine that gets or loses a network takes the jump to its chain for others' rules away for a moment.
        const CHANGES: usize = 8;
        let changing = async {
            for _ in 0..CHANGES {
                let name = format!("{}-other", name(&agent));
                let other = NetworkCreateRequest { name: name.clone(), ..NetworkCreateRequest::default() };
                bed.docker.create_network(other).await.unwrap();
                bed.docker.remove_network(&name).await.unwrap();
            }
        };
        tokio::select! {
            _ = &mut sending => panic!("no longer sent than the networks changed"),
            () = changing => {}
        }
        assert_eq!(forwarded(&bed, &agent).await, 0, "packets to a closed address went on to the engine's rules");
    })
    .await;
}

/// How many of five packets of the agent's to an address go on to the engine's rules.
async fn passed(bed: &Bed, agent: &AgentRef, address: &str) -> u64 {
    let before = forwarded(bed, agent).await;
    let code = format!(
        "import socket
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(5):
    try: s.sendto(b'x', ('{address}', 4444))
    except OSError: pass"
    );
    bed.output(agent, Language::Python, &code).await;
    forwarded(bed, agent).await - before
}

/// Packets from the agent's bridge that the engine's last rule for it has let out.
async fn forwarded(bed: &Bed, agent: &AgentRef) -> u64 {
    let bridge = bed.network(agent).await.options.unwrap().remove("com.docker.network.bridge.name").unwrap();
    // Engines differ in the chain that they put it into.
    let shown = Command::new("iptables").args(["-w", "10", "-v", "-x", "-n", "-L"]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let rule = shown.lines().map(|line| line.split_whitespace().collect::<Vec<_>>()).find(|rule| {
        rule.get(2) == Some(&"ACCEPT") && rule.get(5) == Some(&bridge.as_str()) && rule.get(6) != Some(&bridge.as_str())
    });
    rule.map_or(0, |rule| rule[0].parse().unwrap())
}
