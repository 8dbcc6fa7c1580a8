//! Two agents on one engine.

use crate::support::{Bed, agent, in_own_deployment, request, spec};
use bytes::Bytes;
use std::time::Duration;
use theazo_providers::{Environment, ExecRequest, Language, Provider, ProviderError, SandboxSpec};

#[tokio::test]
async fn an_agent_sees_nothing_of_another_agents_files() {
    in_own_deployment(|bed| async move {
        let (one, other) = tokio::join!(bed.create(), bed.create());
        for path in ["/data/mine", "/tmp/mine"] {
            bed.provider.write_file(&one, path, None, Bytes::from_static(b"of one")).await.unwrap();
            let read = bed.provider.read_file(&other, path, 0, 10).await;
            assert!(matches!(read, Err(ProviderError::FileNotFound)));
        }
        let seen = bed.output(&other, Language::Bash, "ls -A /data; ls -A /tmp").await;
        assert!(!seen.contains("mine"), "{seen}");
    })
    .await;
}

#[tokio::test]
async fn a_listener_in_one_agent_cannot_be_reached_from_another() {
    in_own_deployment(|bed| async move { try_to_reach(&bed, false).await }).await;
}

#[tokio::test]
async fn agents_with_internet_cannot_reach_each_other_either() {
    in_own_deployment(|bed| async move { try_to_reach(&bed, true).await }).await;
}

async fn try_to_reach(bed: &Bed, internet: bool) {
    let specs = [SandboxSpec { internet, ..spec() }, SandboxSpec { internet, ..spec() }];
    let none = Environment::default();
    let (one, other) = tokio::join!(bed.provider.create(&specs[0], &none), bed.provider.create(&specs[1], &none));
    one.unwrap();
    other.unwrap();
    let [one, other] = specs.each_ref().map(agent);
    let address = bed.address(&one).await;
    let listen = "import socket
s = socket.create_server(('0.0.0.0', 7777))
open('/data/ready', 'w').close()
while True: s.accept()[0].close()";
    let connect = format!(
        "import socket
try:
    socket.create_connection(('{address}', 7777), timeout=3).close()
    print('reached', end='')
except OSError:
    print('blocked', end='')"
    );
    let request = ExecRequest { timeout: Duration::from_secs(30), ..request(Language::Python, listen) };
    let listener = bed.provider.exec(&one, request);
    let attempts = async {
        for _ in 0..100 {
            if bed.provider.read_file(&one, "/data/ready", 0, 0).await.is_ok() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let own = bed.output(&one, Language::Python, &connect).await;
        (own, bed.output(&other, Language::Python, &connect).await)
    };
    tokio::select! {
        (own, others) = attempts => {
            assert_eq!(own, "reached", "the listener itself works");
            assert_eq!(others, "blocked");
        }
        _ = listener => panic!("the listener ended too early"),
    }
}
