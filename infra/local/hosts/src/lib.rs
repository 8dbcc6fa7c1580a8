//! Docker hosts of a test's own: the machine's `dockerd` once more, in namespaces of network, processes and mounts, behind
//! mutual TLS at an address that only this machine has.
//!
//! A host's data is in memory, and all of it, its containers among them, ends with one process: when the test says so, when
//! it drops the host, and when it is killed itself.

mod authority;
mod namespace;

pub use authority::{Authority, Pair};

use bollard::Docker;
use namespace::Namespace;
use serde_json::{Value, json};
use std::io::Write;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};
use theazo_providers::docker::{Endpoint, connect};
use tokio::process::Command;

/// Where engines over TLS usually listen.
const PORT: u16 = 2376;
/// How long an engine may take to answer at first. Alone it takes a second.
const UP_WITHIN: Duration = Duration::from_secs(60);
const UP_PAUSE: Duration = Duration::from_millis(100);
/// The programs that a host is made of.
const PROGRAMS: [&str; 7] = ["curl", "dockerd", "ip", "iptables", "nsenter", "setpriv", "unshare"];

/// Has one engine load an image that another one saves.
const LOAD: &str = "curl -sSf --unix-socket \"$1\" \"http://docker/images/$3/get\" |
  curl -sSf --unix-socket \"$2\" -H Expect: -X POST -T - -o /dev/null \"http://docker/images/load?quiet=1\"";

/// A Docker host.
pub struct Host {
    /// Its own authority, which certifies its server and whoever may use it.
    pub authority: Authority,
    client: Pair,
    address: Ipv4Addr,
    namespace: Namespace,
}

/// Whether this machine can run hosts: as root, with what they are made of. Said where it cannot, unless that must not
/// happen.
///
/// # Panics
/// Where it must not.
pub fn can_run() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut places: Vec<_> = std::env::split_paths(&path).collect();
    places.extend(["/usr/sbin".into(), "/sbin".into()]);
    let is_there = |program: &&str| places.iter().any(|place| place.join(program).is_file());
    let missing: Vec<_> = PROGRAMS.iter().filter(|program| !is_there(program)).collect();
    let can = missing.is_empty() && rustix::process::geteuid().is_root();
    assert!(can || std::env::var_os("THEAZO_CI").is_none(), "no Docker hosts: not root, or without {missing:?}");
    if !can {
        let _ = writeln!(std::io::stderr(), "skipped: Docker hosts need root and {PROGRAMS:?}");
    }
    can
}

impl Host {
    /// Starts one with that image, which it is given by the engine that has it.
    ///
    /// # Panics
    /// Where it does not come up.
    pub async fn start(image: &str, from: &Endpoint) -> Self {
        Self::start_with_runtime(image, from, "").await
    }

    /// Starts one that also has a runtime of that name, which is the usual one in truth: who chooses it can be tested without
    /// it.
    ///
    /// # Panics
    /// Where it does not come up.
    pub async fn start_with_runtime(image: &str, from: &Endpoint, runtime: &str) -> Self {
        let random = getrandom::u32().expect("randomness").to_be_bytes();
        let [high, low, ..] = random;
        // A network of four addresses in the range for tests of devices (RFC 2544), of which there are 32 thousand.
        let base = Ipv4Addr::new(198, 18 | (high & 1), high, low & !3);
        let near = Ipv4Addr::from(u32::from(base) + 1);
        let address = Ipv4Addr::from(u32::from(base) + 2);
        let authority = Authority::make("docker host");
        let client = authority.client();
        let server = authority.server(&address.to_string());
        let files = [("ca.pem", authority.cert()), ("cert.pem", &server.cert), ("key.pem", &server.key)];
        let namespace = Namespace::start(&hex::encode(random), &files, (near, address, PORT), runtime).await;
        let host = Self { authority, client, address, namespace };
        host.come_up().await;
        host.load(image, from).await;
        host
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("tcp://{}:{PORT}", self.address)
    }

    /// What agents' rows call it.
    pub fn name(&self) -> String {
        format!("{}:{PORT}", self.address)
    }

    /// What a credential says of it.
    pub fn entry(&self, max_agents: u32) -> Value {
        json!({
            "url": self.url(),
            "ca": self.authority.cert(),
            "cert": self.client.cert,
            "key": self.client.key,
            "maxAgents": max_agents,
        })
    }

    /// Its engine, past TLS.
    pub fn engine(&self) -> Docker {
        connect(&Endpoint::Unix(self.namespace.socket())).expect("a client")
    }

    /// Runs a program where the host's own programs run.
    ///
    /// # Panics
    /// Where it fails.
    pub async fn run(&self, program: &str, arguments: &[&str]) {
        self.namespace.run(program, arguments).await;
    }

    /// Has its engine stand still: it takes connections, and says nothing on them.
    ///
    /// # Panics
    /// Where it cannot be told.
    pub async fn freeze(&self) {
        self.namespace.signal_engine("STOP").await;
    }

    /// Has its engine go on.
    ///
    /// # Panics
    /// Where it cannot be told.
    pub async fn thaw(&self) {
        self.namespace.signal_engine("CONT").await;
    }

    /// Has it refuse whoever comes to its engine over the network, also on connections that there are. All that runs on it
    /// runs on.
    ///
    /// # Panics
    /// Where it cannot be told.
    pub async fn go_silent(&self) {
        self.refuse("-I").await;
    }

    /// Has it answer again.
    ///
    /// # Panics
    /// Where it cannot be told.
    pub async fn answer_again(&self) {
        self.refuse("-D").await;
    }

    async fn refuse(&self, how: &str) {
        let port = PORT.to_string();
        let rule = ["INPUT", "-p", "tcp", "--dport", &port, "-j", "REJECT", "--reject-with", "tcp-reset"];
        self.run("iptables", &[&["-w", how][..], &rule].concat()).await;
    }

    /// Ends it at once, with all that runs on it, as when its power fails.
    pub async fn kill(&self) {
        self.namespace.kill().await;
    }

    async fn come_up(&self) {
        let (engine, until) = (self.engine(), Instant::now() + UP_WITHIN);
        while engine.ping().await.is_err() {
            assert!(Instant::now() < until && !self.namespace.has_ended(), "a host: {}", self.namespace.last_words());
            tokio::time::sleep(UP_PAUSE).await;
        }
    }

    /// From socket to socket, by a program that is good at it: the image has hundreds of megabytes.
    async fn load(&self, image: &str, from: &Endpoint) {
        let Endpoint::Unix(source) = from else { panic!("the engine with the image is on another machine") };
        let pipe = Command::new("bash")
            .args(["-o", "pipefail", "-c", LOAD, "load"])
            .args([source.as_path(), self.namespace.socket().as_path()])
            .arg(image)
            .kill_on_drop(true)
            .output();
        let output = pipe.await.expect("bash");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the image is not loaded: {said}");
        self.engine().inspect_image(image).await.expect("the image is loaded");
    }
}

/// A platform's credential for these hosts, each with so many agents.
pub fn credential(hosts: &[(&Host, u32)]) -> String {
    let entries: Vec<Value> = hosts.iter().map(|(host, max_agents)| host.entry(*max_agents)).collect();
    json!({ "hosts": entries }).to_string()
}
