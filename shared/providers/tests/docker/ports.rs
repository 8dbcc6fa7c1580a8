//! Forwarders to agents' ports: what they may, and what is left of them.

use crate::support::{Bed, agent, in_own_deployment, name, spec};
use bollard::models::{ContainerInspectResponse, ContainerStateStatusEnum};
use bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptions, ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use theazo_providers::{AgentRef, Environment, Language, OpenPort, Provider, ProviderError, SandboxSpec};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const PORT: u16 = 3000;
const START: &str = "cd /tmp && echo served > page && python3 -m http.server 3000 > /dev/null 2>&1 &
for i in $(seq 200); do curl -so /dev/null http://127.0.0.1:3000/ && exit 0; sleep 0.05; done; exit 1";

async fn open(bed: &Bed, agent: &AgentRef, port: u16) -> OpenPort {
    bed.provider.open_port(agent, port).await.unwrap_or_else(|error| panic!("{error}"))
}

fn token(way: &OpenPort) -> String {
    assert_eq!((way.headers.len(), way.headers[0].0), (1, "theazo-port-token"));
    way.headers[0].1.to_string()
}

fn place(way: &OpenPort) -> &str {
    way.url.strip_prefix("http://").and_then(|rest| rest.strip_suffix('/')).unwrap()
}

/// What that is answered; nothing when no connection is taken.
async fn said(way: &OpenPort, text: &str) -> String {
    let Ok(mut stream) = TcpStream::connect(place(way)).await else { return String::new() };
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

async fn asked(way: &OpenPort, token: &str) -> String {
    said(way, &format!("GET /page HTTP/1.1\r\nHost: a\r\nConnection: close\r\ntheazo-port-token: {token}\r\n\r\n"))
        .await
}

async fn forwarder(bed: &Bed, agent: &AgentRef, port: u16) -> Option<ContainerInspectResponse> {
    let name = format!("{}-port-{port}", name(agent));
    bed.docker.inspect_container(&name, None::<InspectContainerOptions>).await.ok()
}

/// All containers that have the agent's label.
async fn containers(bed: &Bed, agent: &AgentRef) -> usize {
    let filters = HashMap::from([("label".to_owned(), vec![format!("theazo.agent={}", agent.agent)])]);
    let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
    bed.docker.list_containers(Some(options)).await.unwrap().len()
}

async fn eventually_gone(bed: &Bed, agent: &AgentRef, port: u16) {
    for _ in 0..200 {
        if forwarder(bed, agent, port).await.is_none() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("it stays");
}

#[tokio::test]
async fn a_forwarder_has_no_right_but_the_hosts_network_and_shows_no_token() {
    in_own_deployment(|bed| async move {
        let one = bed.create().await;
        let way = open(&bed, &one, PORT).await;
        assert!(way.url.starts_with("http://127.0.0.1:"), "an engine on a socket is this machine's: {}", way.url);
        let made = forwarder(&bed, &one, PORT).await.unwrap();
        let shown = format!("{made:?}");
        assert!(!shown.contains(&token(&way)));
        let config = made.config.unwrap();
        assert_eq!(config.user.as_deref(), Some("10002:10002"));
        let host = made.host_config.unwrap();
        assert_eq!((host.network_mode.as_deref(), host.privileged), (Some("host"), Some(false)));
        assert_eq!((host.cap_drop, host.cap_add), (Some(vec!["ALL".to_owned()]), None));
        assert_eq!((host.readonly_rootfs, host.security_opt), (Some(true), Some(vec!["no-new-privileges".to_owned()])));
        assert!(host.port_bindings.unwrap_or_default().is_empty() && host.binds.unwrap_or_default().is_empty());
        assert!(host.memory.unwrap() > 0 && host.pids_limit.unwrap() > 0 && host.mounts.unwrap_or_default().is_empty());
        assert!(
            host.ulimits.unwrap().iter().any(|limit| limit.name.as_deref() == Some("core") && limit.hard == Some(0))
        );
        // Only this machine can connect.
        let address = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        address.connect("203.0.113.1:9").unwrap();
        let own = address.local_addr().unwrap().ip();
        let port = place(&way).rsplit_once(':').unwrap().1;
        assert!(own.is_loopback() || TcpStream::connect(format!("{own}:{port}")).await.is_err());
        // Nor can the agent, by whatever address of the machine.
        let gateway = bed.network(&one).await.ipam.unwrap().config.unwrap().remove(0).gateway.unwrap();
        let connect = format!(
            "import socket
for host in ('{gateway}', '{own}', '127.0.0.1'):
    try:
        socket.create_connection((host, {port}), timeout=2).close()
        print(host, end=' ')
    except OSError:
        pass"
        );
        assert_eq!(bed.output(&one, Language::Python, &connect).await, "");
    })
    .await;
}

#[tokio::test]
async fn every_port_and_every_run_has_a_token_of_its_own() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        bed.provider.create(&spec, &Environment::default()).await.unwrap();
        let one = agent(&spec);
        bed.output(&one, Language::Bash, START).await;
        let (way, beside) = (open(&bed, &one, PORT).await, open(&bed, &one, PORT + 1).await);
        assert!(asked(&way, &token(&way)).await.ends_with("served\n"));
        assert!(asked(&way, &token(&beside)).await.starts_with("HTTP/1.1 401"));
        assert!(asked(&beside, &token(&way)).await.starts_with("HTTP/1.1 401"));
        assert!(asked(&beside, &token(&beside)).await.starts_with("HTTP/1.1 502"));
        // What follows on a connection needs the token as well.
        let good = format!("GET /page HTTP/1.1\r\nHost: a\r\ntheazo-port-token: {}\r\n\r\n", token(&way));
        let answers = said(&way, &format!("{good}GET /page HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert!(answers.starts_with("HTTP/1.1 200") && answers.contains("HTTP/1.1 401"), "{answers}");
        assert_eq!(answers.matches("served").count(), 1);

        bed.provider.stop(&one).await.unwrap();
        assert_eq!(containers(&bed, &one).await, 0, "forwarders go with the run");
        bed.provider.resume(&spec, &Environment::default()).await.unwrap();
        bed.output(&one, Language::Bash, START).await;
        let next = open(&bed, &one, PORT).await;
        assert!(asked(&next, &token(&next)).await.ends_with("served\n"));
        assert!(asked(&next, &token(&way)).await.starts_with("HTTP/1.1 401"), "an earlier run's");
        bed.provider.destroy(&one).await.unwrap();
        assert_eq!((containers(&bed, &one).await, bed.count(&one).await), (0, (0, 0, 0)));
    })
    .await;
}

#[tokio::test]
async fn an_agent_has_at_most_eight_open_ports() {
    in_own_deployment(|bed| async move {
        let one = bed.create().await;
        let mut tokens = BTreeSet::new();
        for port in PORT..PORT + 8 {
            tokens.insert(token(&open(&bed, &one, port).await));
        }
        assert_eq!(tokens.len(), 8);
        let refused = bed.provider.open_port(&one, PORT + 8).await.err().unwrap();
        assert!(matches!(refused, ProviderError::TooManyPorts { most: 8 }), "{refused}");
        assert_eq!(containers(&bed, &one).await, 9, "nothing is left of the ninth");
        assert!(tokens.contains(&token(&open(&bed, &one, PORT + 3).await)), "one that is open is none more");
        bed.provider.discard(&one).await.unwrap();
        assert_eq!(containers(&bed, &one).await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_forwarder_that_has_ended_is_made_again() {
    in_own_deployment(|bed| async move {
        let one = bed.create().await;
        bed.output(&one, Language::Bash, START).await;
        let way = open(&bed, &one, PORT).await;
        let id = forwarder(&bed, &one, PORT).await.unwrap().id.unwrap();
        bed.docker.kill_container(&id, None::<KillContainerOptions>).await.unwrap();
        let next = open(&bed, &one, PORT).await;
        assert_eq!(token(&next), token(&way));
        assert!(asked(&next, &token(&next)).await.ends_with("served\n"));
        let now = forwarder(&bed, &one, PORT).await.unwrap();
        assert_eq!(now.state.unwrap().status, Some(ContainerStateStatusEnum::RUNNING));
        assert_ne!(now.id.unwrap(), id);
    })
    .await;
}

#[tokio::test]
async fn a_forwarder_ends_with_the_time_of_its_agent() {
    in_own_deployment(|bed| async move {
        let spec = SandboxSpec { lifetime: Duration::from_secs(8), ..spec() };
        bed.provider.create(&spec, &Environment::default()).await.unwrap();
        let one = agent(&spec);
        open(&bed, &one, PORT).await;
        assert!(forwarder(&bed, &one, PORT).await.is_some());
        eventually_gone(&bed, &one, PORT).await;
        assert_eq!(bed.container(&one).await.state.unwrap().running, Some(false));
        assert!(matches!(bed.provider.open_port(&one, PORT).await.err().unwrap(), ProviderError::SandboxGone));
    })
    .await;
}

#[tokio::test]
async fn a_forwarder_that_was_forgotten_ends_with_the_agents_network_and_is_no_agent_that_runs() {
    in_own_deployment(|bed| async move {
        let one = bed.create().await;
        let way = open(&bed, &one, PORT).await;
        // As after a crash in the middle of things.
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        bed.docker.remove_container(&name(&one), Some(force)).await.unwrap();
        let listed = bed.provider.list_mine().await.unwrap();
        assert_eq!(
            (listed.len(), &listed[0].agent, listed[0].presence),
            (1, &one.agent, theazo_providers::Presence::Remains)
        );
        let gone = bed.provider.open_port(&one, PORT).await.err().unwrap();
        assert!(matches!(gone, ProviderError::SandboxGone), "{gone}");
        assert!(asked(&way, &token(&way)).await.starts_with("HTTP/1.1 502"));
        bed.docker.remove_network(&name(&one)).await.unwrap();
        eventually_gone(&bed, &one, PORT).await;
        bed.provider.destroy(&one).await.unwrap();
        assert_eq!(bed.provider.list_mine().await.unwrap(), []);
    })
    .await;
}
