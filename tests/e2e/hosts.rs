//! Agents on a platform's own Docker hosts, two engines behind mutual TLS: the main job and what is around it, through the
//! API. And what becomes of it when one of them dies.

use crate::harness::{Client, OwnStack, docker_engine, make_canary, sha256};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use theazo_docker_hosts::{Host, credential};
use theazo_functions::reconcile::{Boots, reconcile};
use theazo_local::StackConfig;
use theazo_providers::docker::{DockerHosts, HostRanges, HostSettings};
use theazo_providers::{Environment, SandboxSpec};
use theazo_store::{Agents, ProviderConfigs};
use theazo_tenancy::{AgentId, Mode, Operator, PlatformId, TenantScope};
use theazo_vault::SecretValue;

pub const CREDENTIAL: &str = "DOCKER_HOSTS";

/// A stack with an engine of its own, and two hosts that its platform may configure.
pub struct World {
    pub own: OwnStack,
    pub client: Client,
    pub scope: TenantScope,
    pub one: Host,
    pub two: Host,
}

impl World {
    pub async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    /// The same, with other things set otherwise than by default.
    pub async fn start_with(change: impl FnOnce(&mut StackConfig)) -> Self {
        let engine = tokio::task::spawn_blocking(docker_engine).await.unwrap();
        let (one, two, (own, client)) = tokio::join!(
            Host::start(&engine.image, &engine.endpoint),
            Host::start(&engine.image, &engine.endpoint),
            OwnStack::start_still(Some(engine.clone()), change),
        );
        let whoami = client.get("/v1/whoami").await.expect(200);
        let platform = PlatformId::parse(whoami["platformId"].as_str().unwrap()).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test looks at its platform's rows as the operator does")]
        let scope = Operator::assume().tenant(&platform, Mode::Live);
        Self { own, client, scope, one, two }
    }

    pub async fn set_credential(&self, credential: &str) {
        self.client.post("/v1/secrets", json!({ CREDENTIAL: credential })).await.expect(204);
    }

    pub async fn configure(&self, config: Value) -> Value {
        let body = json!({ "credentialRef": CREDENTIAL, "config": config });
        self.client.call("PUT", "/v1/providers/docker", Some(&body)).await.expect(200)
    }

    /// Says of both hosts what `cargo admin host enroll` does when it has found them closed.
    pub async fn enroll(&self) {
        let configs = ProviderConfigs::new(self.own.stack.deployment().table().clone());
        for (host, identity) in self.hosts().identities() {
            configs.enroll(&self.scope, "docker", &host, Some(&identity)).await.unwrap();
        }
    }

    /// The hosts as the deployment uses them.
    pub fn hosts(&self) -> DockerHosts {
        let settings = HostSettings {
            deployment: self.own.stack.deployment().config().name.clone(),
            image: docker_engine().image.clone(),
            ranges: HostRanges::private(),
        };
        let credential = credential(&[(&self.one, 2), (&self.two, 2)]);
        DockerHosts::new(&SecretValue::from_text(credential), &settings).unwrap()
    }

    /// Which agents are on a host, whatever the table says.
    pub async fn on(&self, host: &Host) -> Vec<String> {
        let listed = self.hosts().on(&host.name()).unwrap().list_mine().await.unwrap();
        listed.into_iter().map(|sandbox| sandbox.agent).collect()
    }

    pub async fn status(&self, agent: &str) -> Value {
        self.client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"].clone()
    }

    async fn exec(&self, agent: &str) -> crate::harness::Answer {
        // Each is another call: one that failed is answered the same again for a while.
        let code = format!("printf %s \"$HUBSPOT_API_KEY\" | wc -c # {}", AgentId::make());
        let body = json!({ "language": "bash", "code": code });
        self.client.post(&format!("/v1/agents/{agent}/exec"), body).await
    }

    /// What the list of providers says of the platform's own hosts.
    async fn health(&self) -> (bool, String) {
        let listed = self.client.get("/v1/providers").await.expect(200);
        let all = listed["data"].as_array().unwrap().clone();
        let own = all.iter().find(|entry| entry["provider"] == "docker" && entry["source"] == "platform").unwrap();
        (own["health"]["healthy"].as_bool().unwrap(), own["health"]["message"].as_str().unwrap().to_owned())
    }
}

async fn refuses_what_is_no_credential(world: &World) {
    let put = async |config: Value| {
        let body = json!({ "credentialRef": CREDENTIAL, "config": config });
        world.client.call("PUT", "/v1/providers/docker", Some(&body)).await
    };
    let canary = make_canary("key");
    let mut entry = world.one.entry(2);
    entry["key"] = canary.as_str().into();
    let mut metadata = world.one.entry(2);
    metadata["url"] = "tcp://169.254.169.254:2376".into();
    for (credential, told) in [
        (canary.clone(), "must be JSON"),
        (json!({ "hosts": [entry] }).to_string(), "hosts[0].key must be a private key in PEM"),
        (json!({ "hosts": [metadata] }).to_string(), "hosts[0].url has an address that hosts may not have"),
    ] {
        world.set_credential(&credential).await;
        let refused = put(json!({ "image": "i" })).await;
        assert!(!refused.text.contains(&canary), "{}", refused.text);
        let error = refused.expect_error(400, "invalid_request");
        let message = error["message"].as_str().unwrap();
        assert!(error["details"]["field"] == "credentialRef" && message.contains(told), "{message}");
    }
    // What was refused has become no credential.
    world.client.delete(&format!("/v1/secrets/{CREDENTIAL}")).await.expect(204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_platforms_own_docker_hosts_run_its_agents_and_one_that_dies_takes_only_its_own_along() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let world = World::start().await;
    let (client, image) = (&world.client, docker_engine().image.as_str());
    refuses_what_is_no_credential(&world).await;
    let session = client.session("user_123").await;
    let hubspot = make_canary("hubspot");
    client.set_secrets(&session, json!({ "hubspot_api_key": hubspot })).await;
    let before = client.boot(&session, json!({})).await;

    world.set_credential(&credential(&[(&world.one, 2), (&world.two, 2)])).await;
    let shown = world.configure(json!({ "image": image })).await;
    assert_eq!((&shown["source"], &shown["config"]["image"]), (&json!("platform"), &json!(image)));
    let listed = client.get("/v1/providers").await;
    assert!(!listed.text.contains("BEGIN"), "{}", listed.text);
    // Not before agents were found to be kept from it.
    let refused = client.post(&format!("/v1/sessions/{session}/agents"), json!({ "provider": "docker" })).await;
    let refused = refused.expect_error(503, "no_providers_available");
    assert!(refused["message"].as_str().unwrap().contains("enrolled"), "{refused}");
    let (healthy, message) = world.health().await;
    assert!(!healthy && message.matches("(not enrolled)").count() == 2, "{message}");
    world.enroll().await;
    assert!(world.health().await.0, "{:?}", world.health().await);
    // What was opened for one request the next ones use.
    let opened = connections_to(&world.one);
    for _ in 0..5 {
        world.health().await;
    }
    let now = connections_to(&world.one);
    assert!(!now.is_empty() && now.is_subset(&opened), "{opened:?}, then {now:?}");

    // The main job, four times, which is what there is room for; the engine of the deployment is not asked for a fifth.
    let mut agents = BTreeMap::new();
    for _ in 0..4 {
        let agent = client.boot(&session, json!({ "provider": "docker" })).await;
        let seen = client.environment(&agent).await;
        assert_eq!(seen["HUBSPOT_API_KEY"], (hubspot.len(), sha256(&hubspot)));
        assert!(!seen.contains_key(CREDENTIAL));
        let on_one = world.on(&world.one).await.contains(&agent);
        assert_ne!(on_one, world.on(&world.two).await.contains(&agent), "it is on one of the hosts");
        agents.insert(agent, on_one);
    }
    assert_eq!(agents.values().filter(|on_one| **on_one).count(), 2, "{agents:?}");
    let full = client.post(&format!("/v1/sessions/{session}/agents"), json!({})).await;
    full.expect_error(503, "no_providers_available");
    client.delete("/v1/providers/docker").await.expect_error(409, "conflict");
    let alive = agents.iter().find(|(_, on_one)| **on_one).unwrap().0.as_str();
    let mut doomed = agents.iter().filter(|(_, on_one)| !**on_one).map(|(agent, _)| agent.as_str());
    let (doomed, paused) = (doomed.next().unwrap(), doomed.next().unwrap());
    for agent in [alive, paused] {
        client.post(&format!("/v1/agents/{agent}/pause"), json!({})).await.expect(200);
        client.post(&format!("/v1/agents/{agent}/resume"), json!({})).await.expect(200);
    }

    // A port is on the host that the agent is on.
    let serve = "cd /tmp && echo served > page && (python3 -m http.server 3000 > /dev/null 2>&1 &)
        for i in $(seq 200); do curl -so /dev/null http://127.0.0.1:3000/ && exit 0; sleep 0.05; done; exit 1";
    client.run(alive, "bash", serve).await;
    let way = client.post(&format!("/v1/agents/{alive}/ports"), json!({ "port": 3000 })).await.expect(200);
    let url = way["url"].as_str().unwrap();
    let (host, _) = world.one.name().rsplit_once(':').map(|(host, port)| (host.to_owned(), port.to_owned())).unwrap();
    assert!(url.starts_with(&format!("http://{host}:")), "{url}");
    let ask = reqwest::Client::new().get(format!("{url}page"));
    assert_eq!(ask.try_clone().unwrap().send().await.unwrap().status(), 401);
    let answer = ask.header("theazo-port-token", way["headers"]["theazo-port-token"].as_str().unwrap()).send().await;
    assert_eq!(answer.unwrap().text().await.unwrap(), "served\n");

    // Reconciling finds all of them where they are, removes what is nobody's, and takes an interrupted boot back.
    let orphan = SandboxSpec {
        agent: AgentId::make().to_string(),
        session: "ses_x".into(),
        platform: "plt_x".into(),
        lifetime: std::time::Duration::from_secs(300),
        internet: false,
        region: None,
    };
    client.post(&format!("/v1/agents/{paused}/pause"), json!({})).await.expect(200);
    let two = world.hosts().on(&world.two.name()).unwrap();
    two.create(&orphan, &Environment::default()).await.unwrap();
    world.own.reconcile().await;
    assert!(!world.on(&world.two).await.contains(&orphan.agent));
    for agent in [before.as_str(), alive, doomed] {
        assert_eq!(world.status(agent).await, "ready");
    }
    client.post(&format!("/v1/agents/{paused}/resume"), json!({})).await.expect(200);
    interrupted_boot_is_taken_back(&world, alive).await;

    // On one that was found to be open, those that are there do not boot again either.
    client.post(&format!("/v1/agents/{alive}/pause"), json!({})).await.expect(200);
    let configs = ProviderConfigs::new(world.own.stack.deployment().table().clone());
    configs.enroll(&world.scope, "docker", &world.one.name(), None).await.unwrap();
    let refused = client.post(&format!("/v1/agents/{alive}/resume"), json!({})).await;
    let refused = refused.expect_error(503, "no_providers_available");
    assert!(refused["message"].as_str().unwrap().contains("not enrolled"), "{refused}");
    assert_eq!(world.status(alive).await, "paused");
    assert_eq!(world.exec(doomed).await.expect(200)["exitCode"], 0, "the other host is enrolled");
    world.enroll().await;
    client.post(&format!("/v1/agents/{alive}/resume"), json!({})).await.expect(200);

    // A host that drains gets no new agents, though it has room, and says so until it is told otherwise.
    client.post(&format!("/v1/agents/{alive}/pause"), json!({})).await.expect(200);
    configs.drain(&world.scope, "docker", &world.one.name(), true).await.unwrap();
    let shown = world.configure(json!({ "image": image })).await;
    assert_eq!(shown["config"]["draining"], json!([world.one.name()]));
    let refused = client.post(&format!("/v1/sessions/{session}/agents"), json!({})).await;
    refused.expect_error(503, "no_providers_available");
    world.configure(json!({ "image": image, "draining": [] })).await;
    client.post(&format!("/v1/agents/{alive}/resume"), json!({})).await.expect(200);

    // One of them dies.
    world.two.kill().await;
    world.exec(doomed).await.expect_error(502, "provider_error");
    assert_eq!(world.exec(alive).await.expect(200)["stdout"].as_str().unwrap().trim(), hubspot.len().to_string());
    assert_eq!(world.exec(&before).await.expect(200)["exitCode"], 0);
    let outcome = world.own.reconcile().await;
    assert!(outcome.lost == 0 && outcome.postponed > 0, "{outcome:?}");
    assert_eq!((world.status(doomed).await, world.status(alive).await), (json!("ready"), json!("ready")));
    let (healthy, message) = world.health().await;
    assert!(healthy && message.contains(&format!("{}: ", world.two.name())), "{message}");
    client.post(&format!("/v1/agents/{alive}/terminate"), json!({})).await.expect(200);
    let next = client.boot(&session, json!({})).await;
    assert!(world.on(&world.one).await.contains(&next));

    // The platform takes it out of its credential: what was on it cannot be called, and can be ended.
    world.set_credential(&credential(&[(&world.one, 2)])).await;
    let gone = world.exec(doomed).await.expect_error(502, "provider_error");
    assert!(gone["message"].as_str().unwrap().contains("not among the platform's Docker hosts any more"), "{gone}");
    assert_eq!(world.status(doomed).await, "ready");
    client.terminate(&session).await;
    assert_eq!(world.on(&world.one).await, [""; 0]);
    client.delete("/v1/providers/docker").await.expect(204);
    world.one.kill().await;
    world.own.stop().await;
}

/// The ports of this machine's connections to a host's engine, those that were closed a moment ago among them.
fn connections_to(host: &Host) -> BTreeSet<String> {
    let name = host.name();
    let (address, port) = name.rsplit_once(':').unwrap();
    let octets = address.parse::<std::net::Ipv4Addr>().unwrap().octets();
    let remote = format!("{:08X}:{:04X}", u32::from_le_bytes(octets), port.parse::<u16>().unwrap());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.filter(|row| row.get(2) == Some(&remote.as_str())).map(|row| row[1].to_owned()).collect()
}

/// The control plane dies after an agent's row says where it goes, and after the host has made it.
async fn interrupted_boot_is_taken_back(world: &World, like: &str) {
    let World { own, scope, client, .. } = world;
    let agents = Agents::new(own.stack.deployment().table().clone());
    let like = agents.get(scope, &AgentId::parse(like).unwrap()).await.unwrap().unwrap();
    let there = like.host.clone().unwrap();
    assert_eq!(there, world.one.name());
    // Makes room where it goes.
    client.post(&format!("/v1/agents/{}/pause", like.id), json!({})).await.expect(200);
    let session = theazo_store::Sessions::new(own.stack.deployment().table().clone());
    let session = session.get(scope, &like.session).await.unwrap().unwrap();
    let new = theazo_store::NewAgent {
        provider: "docker".into(),
        compute: "python".into(),
        region: None,
        host: Some(there.clone()),
        model: None,
        instructions: None,
        tools: None,
        metadata: BTreeMap::new(),
        internet: false,
        timeout_ms: 60_000,
        auto_pause_ms: None,
        selection: None,
        cost_cap: None,
        max_concurrent: None,
        secrets: Vec::new(),
    };
    let interrupted = agents.begin_boot(scope, &session, new).await.unwrap();
    let spec = SandboxSpec {
        agent: interrupted.id.to_string(),
        session: session.id.to_string(),
        platform: scope.platform().to_string(),
        lifetime: std::time::Duration::from_secs(60),
        internet: false,
        region: None,
    };
    world.hosts().on(&there).unwrap().create(&spec, &Environment::default()).await.unwrap();
    let outcome = reconcile(own.stack.deployment(), Boots::Impossible).await.unwrap();
    assert_eq!((outcome.failed_boots, outcome.orphans), (1, 0), "{outcome:?}");
    assert!(!world.on(&world.one).await.contains(&spec.agent));
    assert_eq!(world.status(&spec.agent).await, "failed");
    client.post(&format!("/v1/agents/{}/resume", like.id), json!({})).await.expect(200);
}
