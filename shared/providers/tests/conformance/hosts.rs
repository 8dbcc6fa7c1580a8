//! What only Docker hosts have: several of them, certificates on both sides, hosts that fall silent, full ones, and such as
//! cannot be trusted.

use crate::bed::{agent, engine_and_image, environment, host_settings, hosts, request, spec};
use futures_util::future::join_all;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use theazo_docker_hosts::{Authority, Host};
use theazo_providers::docker::{DockerHosts, HostRanges, Standing};
use theazo_providers::{AgentRef, Health, Language, ProviderError};
use theazo_vault::SecretValue;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// How long an answer on a host that is silent may take: connecting to it is given up after three seconds.
const SILENT_WITHIN: Duration = Duration::from_secs(8);

/// Puts a new agent on one of the hosts, as the control plane does: another is looked for when one was full after all.
/// All of them take agents.
fn open(enrolled: &BTreeMap<String, String>) -> Standing<'_> {
    Standing { draining: &[], enrolled }
}

async fn health(hosts: &DockerHosts) -> Health {
    hosts.health(open(&hosts.identities())).await
}

async fn put(hosts: &DockerHosts) -> Result<(String, AgentRef), ProviderError> {
    for _ in 0..4 {
        let (host, spec) = (hosts.place(open(&hosts.identities())).await?, spec());
        match hosts.on(&host).unwrap().create(&spec, &environment(&[("KEY", "v")])).await {
            Ok(_) => return Ok((host, agent(&spec))),
            Err(ProviderError::NoCapacity) => hosts.on(&host).unwrap().destroy(&agent(&spec)).await.unwrap(),
            Err(error) => return Err(error),
        }
    }
    Err(ProviderError::NoCapacity)
}

async fn says(hosts: &DockerHosts, host: &str, agent: &AgentRef) -> Result<String, ProviderError> {
    let ran = hosts.on(host).unwrap().exec(agent, request(Language::Bash, "printf %s \"$KEY\"")).await?;
    Ok(String::from_utf8(ran.stdout.to_vec()).unwrap())
}

fn with(host: &Host, changes: &[(&str, &str)]) -> DockerHosts {
    let mut entry = host.entry(10);
    for (field, value) in changes {
        entry[*field] = (*value).into();
    }
    let credential = SecretValue::from_text(serde_json::json!({ "hosts": [entry] }).to_string());
    DockerHosts::new(&credential, &host_settings("any")).unwrap()
}

/// What a host answers somebody who trusts it and shows nothing.
async fn ping_without_certificate(host: &Host) -> std::io::Result<String> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(host.authority.cert().as_bytes()).unwrap()).unwrap();
    let config = rustls::ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (address, _) =
        host.name().rsplit_once(':').map(|(address, port)| (address.to_owned(), port.to_owned())).unwrap();
    let tcp = TcpStream::connect(host.name()).await?;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(ServerName::try_from(address).unwrap(), tcp).await?;
    stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: docker\r\nConnection: close\r\n\r\n").await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Both sides show a certificate of the host's own authority, and nobody else's will do.
async fn knows_only_its_own(host: &Host) {
    assert!(health(&with(host, &[])).await.healthy);
    let other = Authority::make("another");
    let foreign = health(&with(host, &[("ca", other.cert())])).await;
    assert!(!foreign.healthy && foreign.message.contains("not one of the given authority"), "{}", foreign.message);
    let client = other.client();
    // With TLS 1.3 a server refuses a client's certificate after the handshake, and closes. Where the client was still
    // sending, the reset that this causes may take the alert away which says why.
    let mut refused = health(&with(host, &[("cert", &client.cert), ("key", &client.key)])).await;
    for _ in 0..5 {
        if !refused.message.contains("connection to the engine broke") {
            break;
        }
        assert!(!refused.healthy);
        refused = health(&with(host, &[("cert", &client.cert), ("key", &client.key)])).await;
    }
    assert!(!refused.healthy && refused.message.contains("does not take the given certificate"), "{}", refused.message);
    let server = host.authority.server("198.51.100.1");
    let misused = health(&with(host, &[("cert", &server.cert), ("key", &server.key)])).await;
    assert!(!misused.healthy, "a server's certificate is none of a client's: {}", misused.message);
    // Without any.
    let bare = ping_without_certificate(host).await;
    assert!(!bare.as_ref().is_ok_and(|answer| answer.contains("200")), "{bare:?}");
    // An address that the deployment does not allow is not spoken to, however it is written.
    let entry = serde_json::json!({ "hosts": [host.entry(1)] }).to_string();
    let settings = theazo_providers::docker::HostSettings { ranges: HostRanges::default(), ..host_settings("any") };
    let fault = DockerHosts::new(&SecretValue::from_text(entry), &settings).err().unwrap().to_string();
    assert!(fault.contains("hosts[0].url has an address that hosts may not have"), "{fault}");
    let mut named = host.entry(1);
    named["url"] = "tcp://localhost:2376".into();
    let named = SecretValue::from_text(serde_json::json!({ "hosts": [named] }).to_string());
    let named = health(&DockerHosts::new(&named, &settings).unwrap()).await;
    assert!(!named.healthy && named.message.contains("none that hosts may have"), "{}", named.message);
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_go_where_there_is_room_and_a_host_that_dies_takes_only_its_own_along() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let (engine, image) = engine_and_image().await;
    let (one, two) = tokio::join!(Host::start(&image, &engine), Host::start(&image, &engine));
    tokio::join!(knows_only_its_own(&one), knows_only_its_own(&two));
    let (small, large) = (one.name(), two.name());
    let all = hosts(&[(&one, 2), (&two, 4)], &image);
    let enrolled = all.identities();
    let nobody = BTreeMap::new();
    assert!(matches!(all.place(open(&nobody)).await, Err(ProviderError::NoCapacity)));
    let health = all.health(open(&nobody)).await;
    assert!(!health.healthy && health.message.matches("(not enrolled)").count() == 2, "{}", health.message);
    let others = hosts(&[(&two, 4), (&one, 2)], &image).identities();
    assert_eq!(others, enrolled, "what tells hosts apart is not their order");
    let open = open(&enrolled);
    let drains = Standing { draining: std::slice::from_ref(&small), ..open };

    // Where several have room, the one goes that has the larger part of its places free, whichever is drawn first.
    for (fuller, emptier) in [(&small, &large), (&large, &small)] {
        let there = spec();
        all.on(fuller).unwrap().create(&there, &environment(&[])).await.unwrap();
        for _ in 0..10 {
            assert_eq!(&all.place(open).await.unwrap(), emptier);
        }
        all.on(fuller).unwrap().destroy(&agent(&there)).await.unwrap();
    }

    // Nine at once for six places.
    let made = join_all((0..9).map(|_| put(&all))).await;
    let (made, refused): (Vec<_>, Vec<_>) = made.into_iter().partition(Result::is_ok);
    let full = refused.iter().all(|refusal| matches!(refusal, Err(ProviderError::NoCapacity)));
    assert!(full && made.len() == 6, "{refused:?}");
    let made: Vec<(AgentRef, String)> = made.into_iter().map(Result::unwrap).map(|(host, of)| (of, host)).collect();
    let mut per_host: BTreeMap<&str, usize> = BTreeMap::new();
    made.iter().for_each(|(_, host)| *per_host.entry(host).or_default() += 1);
    assert_eq!(per_host, BTreeMap::from([(small.as_str(), 2), (large.as_str(), 4)]));
    assert!(matches!(all.place(open).await, Err(ProviderError::NoCapacity)));
    let health = all.health(open).await;
    assert!(health.healthy && health.message.contains("room for 0 of 4 agents"), "{}", health.message);

    // What is stopped takes no place, but one that is resumed must find one, on the host that has its files.
    let stopped = made.iter().find(|(_, host)| *host == small).unwrap().0.clone();
    all.on(&small).unwrap().stop(&stopped).await.unwrap();
    assert_eq!(all.place(open).await.unwrap(), small);
    assert!(matches!(all.place(drains).await, Err(ProviderError::NoCapacity)), "it drains");
    assert_eq!(all.place_again(&small, open, &[]).await.unwrap(), None, "it stays where it finds one");
    assert_eq!(all.place_again(&small, drains, &[]).await.unwrap(), None, "or where no other has one");
    assert_eq!(all.place_again(&large, open, &[]).await.unwrap(), Some(small.clone()), "of a full one it goes");
    assert_eq!(all.place_again(&large, open, &[&small]).await.unwrap(), None);
    assert_eq!(all.are_one(&small, &large).await, Some(false));
    assert_eq!(all.are_one(&small, &small).await, Some(true));
    let again = theazo_providers::SandboxSpec { agent: stopped.agent.clone(), ..spec() };
    let elsewhere = all.on(&large).unwrap().resume(&again, &environment(&[])).await;
    assert!(matches!(elsewhere, Err(ProviderError::SandboxGone)));
    all.on(&small).unwrap().resume(&again, &environment(&[("KEY", "v")])).await.unwrap();
    for (agent, host) in &made {
        assert_eq!(says(&all, host, agent).await.unwrap(), "v");
    }

    // One dies in the middle of things.
    let victim = &made.iter().find(|(_, host)| *host == large).unwrap().0;
    let sleeps = {
        let (provider, victim) = (all.on(&large).unwrap(), victim.clone());
        tokio::spawn(async move { provider.exec(&victim, request(Language::Bash, "sleep 50")).await })
    };
    tokio::time::sleep(Duration::from_millis(300)).await;
    two.kill().await;
    let begun = Instant::now();
    let (cut, asked) = tokio::join!(sleeps, says(&all, &large, victim));
    for error in [cut.unwrap().err().unwrap(), asked.err().unwrap()] {
        let clear = matches!(error, ProviderError::Failed { retryable: true, .. } | ProviderError::TimedOut);
        assert!(clear, "nothing says that it is gone: {error}");
    }
    let listed = all.on(&large).unwrap().list_mine().await;
    assert!(listed.is_err() && begun.elapsed() < 2 * SILENT_WITHIN, "{:?}", begun.elapsed());
    let survivors: Vec<_> = made.iter().filter(|(_, host)| *host == small).collect();
    for (agent, host) in &survivors {
        assert_eq!(says(&all, host, agent).await.unwrap(), "v");
    }
    assert!(matches!(all.place(open).await, Err(ProviderError::NoCapacity)), "one is full, the other dead");
    assert!(all.place_again(&large, open, &[]).await.is_err(), "what is on the dead one is not to be had");
    assert_eq!(all.place_again(&small, drains, &[]).await.unwrap(), None);
    assert_eq!(all.are_one(&small, &large).await, None);
    all.on(&small).unwrap().destroy(&survivors[0].0).await.unwrap();
    let begun = Instant::now();
    for _ in 0..3 {
        assert_eq!(all.place(open).await.unwrap(), small);
    }
    assert!(begun.elapsed() < SILENT_WITHIN, "{:?}", begun.elapsed());
    let health = all.health(open).await;
    assert!(health.healthy && health.message.contains(&format!("{large}: ")), "{}", health.message);
    assert!(!all.health(drains).await.healthy, "the only one that answers drains");
    all.on(&small).unwrap().destroy(&survivors[1].0).await.unwrap();
    assert!(all.on(&small).unwrap().list_mine().await.unwrap().is_empty());
    one.kill().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_never_ends_its_answer_is_given_up_before_it_fills_the_memory() {
    let authority = Authority::make("hostile");
    let (server, client) = (authority.server("127.0.0.1"), authority.client());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let sent = Arc::new(AtomicUsize::new(0));
    let task = tokio::spawn(flood(listener, server, sent.clone()));
    let entry = serde_json::json!({
        "url": format!("tcp://127.0.0.1:{port}"), "ca": authority.cert(), "cert": client.cert, "key": client.key,
        "maxAgents": 1
    });
    let credential = SecretValue::from_text(serde_json::json!({ "hosts": [entry] }).to_string());
    let hosts = DockerHosts::new(&credential, &host_settings("any")).unwrap();
    let host = format!("127.0.0.1:{port}");
    let listed = tokio::time::timeout(Duration::from_secs(25), hosts.on(&host).unwrap().list_mine()).await;
    listed.expect("it is given up").expect_err("it is no answer");
    // Three lists at once, and what lies in the buffers of both sides.
    let lists = sent.load(Ordering::Relaxed);
    assert!(lists < 3 * 16 * 1024 * 1024, "{lists} bytes were taken");
    // What tells of one thing is shorter by far.
    let checkpoint = theazo_tenancy::CheckpointId::make().to_string();
    let (hostile, nobody) = (hosts.on(&host).unwrap(), agent(&spec()));
    let asked = hostile.remove_checkpoint(&nobody, &checkpoint);
    tokio::time::timeout(Duration::from_secs(25), asked).await.expect("it is given up").expect_err("it is no answer");
    let accounts = sent.load(Ordering::Relaxed) - lists;
    assert!(accounts < 10 * 1024 * 1024, "{accounts} bytes were taken");
    task.abort();
}

/// An engine that tells its version and answers everything else without end.
async fn flood(listener: TcpListener, server: theazo_docker_hosts::Pair, sent: Arc<AtomicUsize>) {
    let cert = CertificateDer::from_pem_slice(server.cert.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(server.key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![cert], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, sent) = (acceptor.clone(), sent.clone());
        tokio::spawn(async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let mut request = vec![0; 4096];
            let read = stream.read(&mut request).await.unwrap();
            if request[..read].windows(12).any(|part| part == b"GET /version") {
                let body = r#"{"ApiVersion":"1.41","MinAPIVersion":"1.12"}"#;
                let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
                stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
                let _ = stream.shutdown().await;
                return;
            }
            stream.write_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n").await.unwrap();
            let piece = vec![b' '; 64 * 1024];
            while stream.write_all(&piece).await.is_ok() {
                sent.fetch_add(piece.len(), Ordering::Relaxed);
            }
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_offers_gvisor_runs_agents_on_it_and_one_that_stands_still_is_passed_over_until_it_goes_on() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let (engine, image) = engine_and_image().await;
    let offers = Host::start_with_runtime(&image, &engine, "runsc");
    let (frozen, other) = tokio::join!(offers, Host::start(&image, &engine));
    let all = hosts(&[(&frozen, 4), (&other, 4)], &image);
    let enrolled = all.identities();
    let open = open(&enrolled);
    let mut agents = BTreeMap::new();
    for (host, isolation) in [(frozen.name(), "runsc"), (other.name(), "runc")] {
        let spec = spec();
        let made = all.on(&host).unwrap().create(&spec, &environment(&[("KEY", "v")])).await.unwrap();
        assert_eq!(made.details["isolation"], isolation);
        assert_eq!(says(&all, &host, &agent(&spec)).await.unwrap(), "v");
        agents.insert(host, agent(&spec));
    }

    frozen.freeze().await;
    let begun = Instant::now();
    for _ in 0..3 {
        assert_eq!(all.place(open).await.unwrap(), other.name());
    }
    let health = all.health(open).await;
    assert!(health.healthy && health.message.contains(&frozen.name()), "{}", health.message);
    assert!(begun.elapsed() < 3 * SILENT_WITHIN, "{:?}", begun.elapsed());
    assert_eq!(says(&all, &other.name(), &agents[&other.name()]).await.unwrap(), "v");
    frozen.thaw().await;
    assert_eq!(says(&all, &frozen.name(), &agents[&frozen.name()]).await.unwrap(), "v");
    for (host, agent) in &agents {
        all.on(host).unwrap().destroy(agent).await.unwrap();
        assert!(all.on(host).unwrap().list_mine().await.unwrap().is_empty());
    }
}
