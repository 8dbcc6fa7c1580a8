//! Agents that move from one of their platform's Docker hosts to another when they are resumed, because the one that has
//! their files drains or is full; and what becomes of a move that does not come to its end.

use crate::harness::{Answer, Client, docker_engine, make_canary, sha256};
use crate::hosts::World;
use bollard::query_parameters::{ListContainersOptionsBuilder, ListVolumesOptionsBuilder};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::time::{Duration, Instant};
use theazo_docker_hosts::{Host, credential};
use theazo_functions::agents::{Sandboxes, lifecycle};
use theazo_functions::deployment::Capability;
use theazo_functions::reconcile::{Boots, Outcome, reconcile};
use theazo_providers::docker::{Carried, DockerHosts, HostRanges, HostSettings};
use theazo_providers::{Environment, SandboxSpec};
use theazo_store::{Agent, AgentStatus, Agents, Intent, NextBoot, Sessions};
use theazo_tenancy::AgentId;
use theazo_vault::SecretValue;

pub async fn act(client: &Client, agent: &str, what: &str) -> Answer {
    client.call("POST", &format!("/v1/agents/{agent}/{what}"), None).await
}

async fn write(client: &Client, agent: &str, path: &str, data: &str) {
    client.post(&format!("/v1/agents/{agent}/files"), json!({ "path": path, "data": data })).await.expect(204);
}

async fn read(client: &Client, agent: &str, path: &str) -> Value {
    client.get(&format!("/v1/agents/{agent}/files{path}")).await.expect(200)["data"].clone()
}

/// How many containers and volumes a host has of an agent's, whatever the table says.
pub async fn left_on(host: &Host, agent: &str) -> (usize, usize) {
    let filter = HashMap::from([("label", vec![format!("theazo.agent={agent}")])]);
    let containers = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
    let volumes = ListVolumesOptionsBuilder::default().filters(&filter).build();
    let engine = host.engine();
    let containers = engine.list_containers(Some(containers)).await.unwrap();
    (containers.len(), engine.list_volumes(Some(volumes)).await.unwrap().volumes.unwrap_or_default().len())
}

impl World {
    /// Its hosts configured with one place each, in a session with a secret.
    async fn with_one_place_each() -> (Self, String) {
        let world = Box::pin(Self::start()).await;
        world.set_credential(&credential(&[(&world.one, 1), (&world.two, 1)])).await;
        world.drain(&[]).await;
        world.enroll().await;
        let session = world.client.session("moving").await;
        (world, session)
    }

    pub async fn drain(&self, hosts: &[&Host]) {
        let names: Vec<String> = hosts.iter().map(|host| host.name()).collect();
        self.configure(json!({ "image": docker_engine().image, "draining": names })).await;
    }

    /// An agent on that host.
    pub async fn boot_on(&self, host: &Host, session: &str) -> String {
        let other = if host.name() == self.one.name() { &self.two } else { &self.one };
        self.drain(&[other]).await;
        let agent = self.client.boot(session, json!({ "provider": "docker", "timeout": "24h" })).await;
        self.drain(&[]).await;
        assert_eq!(left_on(host, &agent).await, (1, 1));
        agent
    }

    pub fn agents(&self) -> Agents {
        Agents::new(self.own.stack.deployment().table().clone())
    }

    pub async fn row(&self, agent: &str) -> Agent {
        self.agents().get(&self.scope, &AgentId::parse(agent).unwrap()).await.unwrap().unwrap()
    }

    /// The hosts that an agent's row names: where it lives, and where something may be left.
    pub async fn hosts_of(&self, agent: &str) -> (String, Vec<String>) {
        let row = self.row(agent).await;
        assert_eq!(row.moving_to, None);
        (row.host.unwrap(), row.left_on.into_iter().map(|left| left.host).collect())
    }

    /// What the scheduled work does when nobody else is at work.
    pub async fn reconcile(&self) -> Outcome {
        Box::pin(reconcile(self.own.stack.deployment(), Boots::Impossible)).await.unwrap()
    }

    pub async fn end(self) {
        self.one.kill().await;
        self.two.kill().await;
        self.own.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_host_drains_or_is_full_is_resumed_on_another_with_its_files_and_the_secrets_of_now() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let (world, session) = World::with_one_place_each().await;
    let (client, one, two) = (&world.client, &world.one, &world.two);
    let values = [make_canary("before"), make_canary("after")];
    client.set_secrets(&session, json!({ "CHANGES": values[0], "GOES": "goes" })).await;
    let agent = world.boot_on(one, &session).await;
    write(client, &agent, "/data/dir/kept", "first").await;
    let checkpoint = client.post(&format!("/v1/agents/{agent}/checkpoints"), json!({})).await.expect(201)["id"].clone();
    write(client, &agent, "/data/dir/kept", "second").await;
    client.run(&agent, "bash", "ln -s ../etc/passwd /data/out; chmod 0700 /data/dir; echo x > /tmp/lost").await;

    // One that takes boots keeps it, though the other is emptier.
    act(client, &agent, "pause").await.expect(200);
    act(client, &agent, "resume").await.expect(200);
    assert_eq!(world.hosts_of(&agent).await, (one.name(), vec![]));

    // It drains. Running ones stay, also through a restart.
    world.drain(&[one]).await;
    act(client, &agent, "restart").await.expect(200);
    assert_eq!(world.hosts_of(&agent).await.0, one.name());
    act(client, &agent, "pause").await.expect(200);
    client.set_secrets(&session, json!({ "CHANGES": values[1], "NEW": "new" })).await;
    client.delete(&format!("/v1/sessions/{session}/secrets/GOES")).await.expect(204);
    let begun = Instant::now();
    let resumed = act(client, &agent, "resume").await.expect(200);
    println!("moved within {:?}", begun.elapsed());
    assert!(!resumed.to_string().contains(&two.name()), "{resumed}");
    assert_eq!(world.hosts_of(&agent).await, (two.name(), vec![one.name()]));
    assert_eq!((left_on(one, &agent).await, left_on(two, &agent).await), ((0, 0), (1, 2)));
    let seen = client.environment(&agent).await;
    assert_eq!((seen["CHANGES"].1.clone(), seen["NEW"].1.clone()), (sha256(&values[1]), sha256("new")));
    assert!(!seen.contains_key("GOES"));
    assert_eq!(read(client, &agent, "/data/dir/kept").await, "second");
    let look = "readlink /data/out; stat -c %a:%U /data/dir; ls -d /tmp/lost; grep -rl canary- /data | wc -l";
    assert_eq!(client.run(&agent, "bash", look).await, "../etc/passwd\n700:agent\n0\n");
    let logs = client.get(&format!("/v1/logs?agentId={agent}&limit=100")).await;
    assert!(logs.text.contains("agent.moved") && !logs.text.contains(&one.name()), "{}", logs.text);
    assert_eq!(logs.text.matches("agent.moved").count(), 1);

    // Until it is known that nobody works at the old one any more, nothing moves there.
    world.drain(&[two]).await;
    act(client, &agent, "pause").await.expect(200);
    act(client, &agent, "resume").await.expect(200);
    assert_eq!(world.hosts_of(&agent).await, (two.name(), vec![one.name()]));
    let outcome = world.own.reconcile().await;
    assert_eq!((outcome.orphans, outcome.lost, outcome.cleared_hosts), (0, 0, 0), "{outcome:?}");
    assert_eq!(world.hosts_of(&agent).await.1, [one.name()]);
    world.reconcile().await;
    assert_eq!(world.hosts_of(&agent).await, (two.name(), vec![]));

    // Somebody else takes its place while it is paused.
    act(client, &agent, "pause").await.expect(200);
    let other = world.boot_on(two, &session).await;
    act(client, &agent, "resume").await.expect(200);
    assert_eq!(world.hosts_of(&agent).await, (one.name(), vec![two.name()]));
    assert_eq!((left_on(one, &agent).await, left_on(two, &agent).await), ((1, 2), (0, 0)));
    assert_eq!(read(client, &agent, "/data/dir/kept").await, "second");

    // No host has room: the answer is the full one's.
    act(client, &agent, "pause").await.expect(200);
    let third = world.boot_on(one, &session).await;
    act(client, &agent, "resume").await.expect_error(503, "no_providers_available");
    assert_eq!((world.status(&agent).await, world.hosts_of(&agent).await.0), (json!("paused"), one.name()));
    for agent in [&other, &third] {
        act(client, agent, "terminate").await.expect(200);
    }
    world.reconcile().await;

    // A checkpoint's files go along, and can be booted from there.
    world.drain(&[one]).await;
    let body = json!({ "checkpoint": checkpoint });
    client.post(&format!("/v1/agents/{agent}/resume"), body).await.expect(200);
    assert_eq!(world.hosts_of(&agent).await, (two.name(), vec![one.name()]));
    assert_eq!((left_on(one, &agent).await, left_on(two, &agent).await), ((0, 0), (1, 2)));
    assert_eq!(read(client, &agent, "/data/dir/kept").await, "first");
    assert_eq!(client.environment(&agent).await["CHANGES"].1, sha256(&values[1]));

    // One that is over is retried elsewhere too.
    world.reconcile().await;
    world.drain(&[two]).await;
    let sandboxes = Sandboxes::of(world.own.stack.deployment());
    let row = world.row(&agent).await;
    lifecycle::end(&world.scope, &row, AgentStatus::Failed, &world.agents(), &sandboxes).await.unwrap();
    assert_eq!((world.status(&agent).await, left_on(two, &agent).await), (json!("failed"), (0, 1)));
    act(client, &agent, "retry").await.expect(200);
    assert_eq!(world.hosts_of(&agent).await, (one.name(), vec![two.name()]));
    assert_eq!((left_on(one, &agent).await, left_on(two, &agent).await), ((1, 2), (0, 0)));
    assert_eq!(read(client, &agent, "/data/dir/kept").await, "first");
    act(client, &agent, "terminate").await.expect(200);
    assert_eq!((left_on(one, &agent).await, left_on(two, &agent).await), ((0, 0), (0, 0)));
    client.terminate(&session).await;
    client.delete("/v1/providers/docker").await.expect(204);
    world.end().await;
}

/// Waits until a host has begun to receive an agent.
async fn receiving(host: &Host, agent: &str) {
    let copier = format!("{}-copy", agent.replace('_', "-"));
    let until = Instant::now() + Duration::from_secs(20);
    loop {
        let found = host.engine().inspect_container(&copier, None).await.ok();
        if found.and_then(|found| found.state?.running).unwrap_or(false) {
            return;
        }
        assert!(Instant::now() < until, "nothing is carried");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A file that takes a while to carry.
const LARGE: &str = "head -c 150000000 /dev/urandom > /data/large; sha256sum < /data/large";

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_dies_while_an_agent_moves_to_it_leaves_the_agent_where_it_was() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let (world, session) = World::with_one_place_each().await;
    let (client, one, two) = (&world.client, &world.one, &world.two);
    let agent = world.boot_on(one, &session).await;
    let digest = client.run(&agent, "bash", LARGE).await;
    act(client, &agent, "pause").await.expect(200);
    world.drain(&[one]).await;

    // Somebody ends the session's other agents meanwhile, and this one is in the middle.
    let ended = world.boot_ended_in_the_middle(&session).await;
    assert_eq!((left_on(one, &ended).await, left_on(two, &ended).await), ((0, 0), (0, 0)));

    let moving = tokio::spawn({
        let (client, agent) = (client.clone(), agent.clone());
        async move { act(&client, &agent, "resume").await }
    });
    receiving(two, &agent).await;
    two.kill().await;
    moving.await.unwrap().expect_error(502, "provider_error");
    assert_eq!((world.status(&agent).await, left_on(one, &agent).await), (json!("paused"), (0, 1)));
    assert_eq!(world.hosts_of(&agent).await, (one.name(), vec![two.name()]));
    // Nothing is moved to it again, and no other host has room.
    act(client, &agent, "resume").await.expect(200);
    assert_eq!(client.run(&agent, "bash", "sha256sum < /data/large").await, digest);
    let outcome = world.reconcile().await;
    assert!(outcome.lost == 0 && outcome.cleared_hosts == 0, "{outcome:?}");
    assert_eq!(world.hosts_of(&agent).await, (one.name(), vec![two.name()]));

    // What may be on the dead one keeps nobody from ending the agent, and is looked after until the platform gives it up.
    act(client, &agent, "terminate").await.expect(200);
    assert_eq!(left_on(one, &agent).await, (0, 0));
    assert!(!world.row(&agent).await.sandbox_gone);
    world.set_credential(&credential(&[(one, 1)])).await;
    world.reconcile().await;
    assert!(world.row(&agent).await.sandbox_gone);
    client.terminate(&session).await;
    world.one.kill().await;
    world.own.stop().await;
}

impl World {
    /// An agent that is ended while it moves from the first host.
    async fn boot_ended_in_the_middle(&self, session: &str) -> String {
        let client = &self.client;
        let agent = self.boot_on(&self.one, session).await;
        client.run(&agent, "bash", LARGE).await;
        act(client, &agent, "pause").await.expect(200);
        self.drain(&[&self.one]).await;
        let moving = tokio::spawn({
            let (client, agent) = (client.clone(), agent.clone());
            async move { act(&client, &agent, "resume").await }
        });
        receiving(&self.two, &agent).await;
        act(client, &agent, "terminate").await.expect(200);
        moving.await.unwrap().expect_error(409, "conflict");
        assert_eq!(self.status(&agent).await, "completed");
        self.reconcile().await;
        assert!(self.row(&agent).await.sandbox_gone);
        agent
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_that_its_control_plane_does_not_finish_leaves_one_copy_wherever_it_broke_off() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let (world, session) = World::with_one_place_each().await;
    let (client, one, two) = (&world.client, &world.one, &world.two);
    let agent = world.boot_on(one, &session).await;
    write(client, &agent, "/data/kept", "kept").await;
    let checkpoint = client.post(&format!("/v1/agents/{agent}/checkpoints"), json!({})).await.expect(201)["id"].clone();
    act(client, &agent, "pause").await.expect(200);
    let (agents, scope) = (world.agents(), &world.scope);
    let spec = SandboxSpec {
        agent: agent.clone(),
        session: session.clone(),
        platform: scope.platform().to_string(),
        lifetime: Duration::from_secs(300),
        internet: false,
        region: None,
    };
    let what = Carried { files: true, checkpoints: vec![checkpoint.as_str().unwrap().to_owned()] };
    // After the row; after the files; after the boot.
    for done in 0..3 {
        let row = world.row(&agent).await;
        let sessions = Sessions::new(world.own.stack.deployment().table().clone());
        let own = sessions.get(scope, &row.session).await.unwrap().unwrap();
        let next = NextBoot { moving_to: Some(two.name()), ..NextBoot::default() };
        let begun = agents.begin_again(scope, &own, &row, Intent::Resuming, next).await.unwrap();
        assert_eq!((begun.status, begun.moving_to.clone()), (AgentStatus::Booting, Some(two.name())));
        if done > 0 {
            Box::pin(world.hosts().carry(&spec, &one.name(), &two.name(), &what)).await.unwrap();
            assert_eq!((left_on(one, &agent).await, left_on(two, &agent).await), ((0, 2), (0, 2)));
        }
        if done > 1 {
            world.hosts().on(&two.name()).unwrap().resume(&spec, &Environment::default()).await.unwrap();
        }
        let outcome = world.reconcile().await;
        assert_eq!((outcome.failed_boots, outcome.orphans, outcome.postponed), (1, 0, 0), "{done}: {outcome:?}");
        assert_eq!((world.status(&agent).await, left_on(one, &agent).await), (json!("paused"), (0, 2)), "{done}");
        assert_eq!(left_on(two, &agent).await, (0, 0), "{done}");
        assert_eq!(world.hosts_of(&agent).await, (one.name(), vec![two.name()]), "{done}");
        world.reconcile().await;
        assert_eq!(world.hosts_of(&agent).await, (one.name(), vec![]), "{done}");
    }

    // It was ready, and nobody has removed what it left.
    world.drain(&[one]).await;
    act(client, &agent, "resume").await.expect(200);
    assert_eq!(world.hosts_of(&agent).await, (two.name(), vec![one.name()]));
    let stale = world.hosts().on(&one.name()).unwrap();
    stale.create(&spec, &Environment::default()).await.unwrap();
    let outcome = world.reconcile().await;
    assert_eq!((outcome.cleared_hosts, outcome.orphans, outcome.lost), (1, 0, 0), "{outcome:?}");
    assert_eq!((left_on(one, &agent).await, left_on(two, &agent).await), ((0, 0), (1, 2)));
    world.reconcile().await;
    assert_eq!(world.hosts_of(&agent).await, (two.name(), vec![]));

    // Nor does the row know of it, as when its host was away for long.
    stale.create(&spec, &Environment::default()).await.unwrap();
    let outcome = world.reconcile().await;
    assert_eq!((outcome.cleared_hosts, outcome.orphans, outcome.lost), (1, 0, 0), "{outcome:?}");
    assert_eq!((left_on(one, &agent).await, left_on(two, &agent).await), ((0, 0), (1, 2)));
    assert_eq!(read(client, &agent, "/data/kept").await, "kept");

    // One host by two names is not taken for two.
    let alias = one_by_another_name(&world, two).await;
    world.reconcile().await;
    assert_eq!((world.status(&agent).await, left_on(two, &agent).await), (json!("ready"), (1, 2)));
    act(client, &agent, "pause").await.expect(200);
    world.drain(&[two]).await;
    act(client, &agent, "resume").await.expect(200);
    assert_eq!(world.hosts_of(&agent).await.0, two.name(), "not to {alias}");
    assert_eq!(read(client, &agent, "/data/kept").await, "kept");
    client.terminate(&session).await;
    world.end().await;
}

/// Has the platform name one of its hosts twice, and no other.
async fn one_by_another_name(world: &World, host: &Host) -> String {
    let mut alias = host.entry(5);
    let redirect = ["-t", "nat", "-A", "PREROUTING", "-p", "tcp", "--dport", "2377", "-j", "REDIRECT"];
    host.run("iptables", &[&redirect[..], &["--to-ports", "2376"]].concat()).await;
    alias["url"] = host.url().replace(":2376", ":2377").into();
    let credential = json!({ "hosts": [host.entry(5), alias] }).to_string();
    world.set_credential(&credential).await;
    let settings = HostSettings {
        deployment: world.own.stack.deployment().config().name.clone(),
        image: docker_engine().image.clone(),
        ranges: HostRanges::private(),
    };
    let hosts = DockerHosts::new(&SecretValue::from_text(credential), &settings).unwrap();
    let configs = theazo_store::ProviderConfigs::new(world.own.stack.deployment().table().clone());
    for (name, identity) in hosts.identities() {
        configs.enroll(&world.scope, "docker", &name, Some(&identity)).await.unwrap();
    }
    hosts.identities().into_keys().find(|name| *name != host.name()).unwrap()
}
