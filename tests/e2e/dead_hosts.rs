//! What becomes of agents whose platform's Docker host does not answer any more, or is taken out of the credential; and of
//! what such a host still runs when it comes back.

use crate::harness::{dynamodb, own_machine_is_no_host};
use crate::hosts::World;
use crate::moving::{act, left_on};
use bollard::query_parameters::{KillContainerOptions, RemoveContainerOptionsBuilder, RemoveVolumeOptions};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_docker_hosts::{Host, credential};
use theazo_functions::reconcile::{Boots, Outcome, reconcile};
use theazo_store::{AgentStatus, Intent, NextBoot, PausedBy, PlatformDeletion, Sessions, Silence, now_ms};
use theazo_tenancy::Operator;

/// How long hosts may be silent here. A run of reconciling takes a moment.
const DEAD_AFTER: Duration = Duration::from_secs(3);

impl World {
    async fn with_hosts_that_die_soon() -> (Self, String) {
        let world = Box::pin(Self::start_with(|config| config.dead_host_after = Some(DEAD_AFTER))).await;
        world.set_credential(&credential(&[(&world.one, 9), (&world.two, 9)])).await;
        world.drain(&[]).await;
        world.enroll().await;
        let session = world.client.session("dead hosts").await;
        (world, session)
    }

    /// As the schedule does it.
    async fn run(&self) -> Outcome {
        let begun = Instant::now();
        let outcome = self.own.reconcile().await;
        assert!(begun.elapsed() < Duration::from_secs(25), "others wait for a host: {:?}", begun.elapsed());
        outcome
    }

    /// Reconciles until a host has been silent for long enough that `count` agents have failed. Gives how often that took.
    async fn until_dead(&self, count: usize, boots: Boots) -> usize {
        let (begun, mut runs, mut failed) = (Instant::now(), 0, 0);
        while failed < count {
            assert!(begun.elapsed() < 20 * DEAD_AFTER, "{failed} of {count} have failed");
            let outcome = Box::pin(reconcile(self.own.stack.deployment(), boots)).await.unwrap();
            (runs, failed) = (runs + 1, failed + outcome.unreachable);
            assert_eq!((outcome.lost, outcome.skipped), (0, 0), "{outcome:?}");
            assert!(failed == 0 || begun.elapsed() >= DEAD_AFTER, "after {:?}", begun.elapsed());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        assert_eq!(failed, count);
        runs
    }

    async fn silence_of(&self, agent: &str) -> Option<Silence> {
        self.row(agent).await.silence
    }

    /// Changes an agent's row past everybody.
    async fn set(&self, agent: &str, update: &str, value: Value) {
        let pk = format!("{}#live#agents", self.scope.platform());
        let names = if update.contains('#') { json!({ "#status": "status" }) } else { Value::Null };
        let mut body = json!({
            "TableName": "theazo", "Key": { "pk": { "S": pk }, "sk": { "S": agent } },
            "UpdateExpression": update, "ExpressionAttributeValues": { ":it": value },
        });
        if !names.is_null() {
            body["ExpressionAttributeNames"] = names;
        }
        dynamodb(&self.own.stack.dynamodb_url(), "UpdateItem", body).await;
    }

    fn beside(&self, agent: &str) -> Value {
        json!({ "S": format!("{}#live#{agent}#copies", self.scope.platform()) })
    }

    /// How many sealed copies there are beside an agent.
    async fn copies(&self, agent: &str) -> usize {
        let query = json!({
            "TableName": "theazo", "ConsistentRead": true, "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": { ":pk": self.beside(agent) },
        });
        dynamodb(&self.own.stack.dynamodb_url(), "Query", query).await["Items"].as_array().unwrap().len()
    }

    async fn add_copy(&self, agent: &str) {
        let copy = json!({ "pk": self.beside(agent), "sk": { "S": "LATE" } });
        let put = json!({ "TableName": "theazo", "Item": copy });
        dynamodb(&self.own.stack.dynamodb_url(), "PutItem", put).await;
    }

    async fn shown(&self, agent: &str) -> Value {
        self.client.get(&format!("/v1/agents/{agent}")).await.expect(200)
    }

    async fn keep(&self, agent: &str, text: &str) {
        let file = json!({ "path": "/data/kept", "data": text });
        self.client.post(&format!("/v1/agents/{agent}/files"), file).await.expect(204);
    }

    async fn kept(&self, agent: &str) -> Value {
        self.client.get(&format!("/v1/agents/{agent}/files/data/kept")).await.expect(200)["data"].clone()
    }

    /// As when its host restarts, too soon to count as dead: containers end with it and do not begin again.
    async fn keeps_its_files_when_its_container_has_ended(&self, agent: &str) {
        let (client, host) = (&self.client, &self.one);
        // What its container and its volume are called.
        let name = agent.replace('_', "-");
        let call = json!({ "language": "bash", "code": "true" });
        for first_seen_by_its_user in [false, true] {
            self.keep(agent, "kept").await;
            host.engine().kill_container(&name, None::<KillContainerOptions>).await.unwrap();
            if first_seen_by_its_user {
                client
                    .post(&format!("/v1/agents/{agent}/exec"), call.clone())
                    .await
                    .expect_error(502, "provider_error");
            } else {
                assert_eq!(self.run().await.lost, 1);
            }
            assert_eq!((self.status(agent).await, left_on(host, agent).await), (json!("failed"), (0, 1)));
            act(client, agent, "retry").await.expect(200);
            assert_eq!((self.kept(agent).await, left_on(host, agent).await), (json!("kept"), (1, 1)));
        }
        // Whoever removes its volume as well leaves it nothing.
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        host.engine().remove_container(&name, Some(force)).await.unwrap();
        host.engine().remove_volume(&name, None::<RemoveVolumeOptions>).await.unwrap();
        let outcome = self.run().await;
        assert_eq!((outcome.lost, left_on(host, agent).await), (1, (0, 0)), "{outcome:?}");
        let row = self.row(agent).await;
        assert_eq!((row.status, row.sandbox_gone, row.own_files), (AgentStatus::Failed, true, false));
        act(client, agent, "retry").await.expect_error(409, "conflict");
    }

    /// Reconciles until nothing is left to be done, which is when nobody may be at work any more.
    async fn tidy(&self, host: &Host, agents: &[&str]) {
        let outcome = self.reconcile().await;
        assert_eq!((outcome.postponed, outcome.orphans, outcome.lost), (0, 0, 0), "{outcome:?}");
        for agent in agents {
            // Its container is gone, and with it what it ran with; its volume is there.
            assert_eq!(left_on(host, agent).await, (0, 1), "{agent}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_agent_whose_host_is_silent_for_too_long_has_failed_and_is_retried_on_its_files_when_it_is_back() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let (world, session) = World::with_hosts_that_die_soon().await;
    let (client, one) = (&world.client, &world.one);
    client.call("PATCH", &format!("/v1/sessions/{session}/limits"), Some(&json!({ "maxAgents": 1 }))).await.expect(200);
    client.set_secrets(&session, json!({ "CHANGES": "the value of before" })).await;
    let agent = world.boot_on(one, &session).await;
    world.keep(&agent, "before").await;
    assert_eq!(world.shown(&agent).await["failure"], Value::Null);

    // An engine that stands still for one look, however long that is, has lost nobody anything.
    one.freeze().await;
    assert_eq!(world.run().await.unreachable, 0);
    one.thaw().await;
    assert_eq!(world.silence_of(&agent).await.map(|silence| silence.looks), Some(1));
    let metered = world.row(&agent).await.compute_ms(now_ms());
    tokio::time::sleep(DEAD_AFTER).await;
    assert_eq!(world.row(&agent).await.compute_ms(now_ms()), metered, "nobody knows whether it runs");
    world.run().await;
    let heard = world.row(&agent).await;
    assert_eq!((heard.status, heard.silence), (AgentStatus::Ready, None));
    assert!(heard.compute_ms(now_ms()) >= metered + 3000, "it ran all the while");
    assert_eq!(world.kept(&agent).await, "before");

    // At three looks in a row it has.
    one.go_silent().await;
    let silent_since = now_ms();
    assert!(world.until_dead(1, Boots::UnderWay).await >= 3);
    let shown = world.shown(&agent).await;
    assert_eq!((&shown["status"], &shown["failure"]["reason"]), (&json!("failed"), &json!("host_silent")));
    assert!(shown["failure"]["message"].as_str().unwrap().contains("has not answered"), "{shown}");
    let logs = client.get(&format!("/v1/logs?agentId={agent}&limit=100")).await;
    assert!(logs.text.contains("agent.unreachable") && !logs.text.contains(&one.name()), "{}", logs.text);
    let audit = client.get("/v1/audit?limit=100").await.expect(200);
    let ends = |entry: &Value| entry["action"] == "agent.end" && entry["agentId"] == json!(agent);
    assert!(audit["data"].as_array().unwrap().iter().any(ends), "{audit}");
    let row = world.row(&agent).await;
    let began = row.silence.unwrap().since_ms;
    assert!((silent_since - 1000..silent_since + 3000).contains(&began), "{began} {silent_since}");
    let ran = row.ran_before_ms;
    assert!(ran <= began - heard.run_started_ms.unwrap() && row.compute_ms(now_ms()) == ran, "{row:?}");

    // Its place is free, and nothing waits for its host, where it still runs.
    let next = client.boot(&session, json!({ "provider": "docker" })).await;
    assert_eq!((left_on(one, &agent).await, left_on(&world.two, &next).await), ((1, 1), (1, 1)));
    let begun = Instant::now();
    let outcome = world.run().await;
    assert!(outcome.postponed >= 2 && outcome.settled == 0 && begun.elapsed() < Duration::from_secs(5), "{outcome:?}");
    act(client, &next, "terminate").await.expect(200);
    let refused = act(client, &agent, "retry").await.expect_error(409, "conflict");
    assert!(refused["message"].as_str().unwrap().contains("as soon as its host answers"), "{refused}");

    // It comes back.
    one.answer_again().await;
    world.tidy(one, &[&agent]).await;
    assert_eq!(world.row(&agent).await.ran_before_ms, ran, "nothing is metered twice");
    // It goes once more: a retry loses nothing.
    one.go_silent().await;
    act(client, &agent, "retry").await.expect_error(502, "provider_error");
    assert_eq!(world.status(&agent).await, "failed");
    one.answer_again().await;
    client.set_secrets(&session, json!({ "CHANGES": "the value of now" })).await;
    let retried = act(client, &agent, "retry").await.expect(200);
    assert_eq!((&retried["status"], &retried["failure"]), (&json!("ready"), &Value::Null));
    assert_eq!((world.kept(&agent).await, left_on(one, &agent).await), (json!("before"), (1, 1)));
    assert_eq!(client.environment(&agent).await["CHANGES"].1, crate::harness::sha256("the value of now"));
    world.run().await;
    assert_eq!(world.status(&agent).await, "ready");
    world.keeps_its_files_when_its_container_has_ended(&agent).await;
    client.terminate(&session).await;
    assert_eq!(left_on(one, &agent).await, (0, 0));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_paused_or_booted_when_its_host_dies_ends_as_failed_with_its_files_and_what_is_paused_stays_so() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let (world, session) = World::with_hosts_that_die_soon().await;
    let (client, one, agents, scope) = (&world.client, &world.one, world.agents(), &world.scope);
    let mut all = Vec::new();
    let leaving = client.session("leaving").await;
    let left = world.boot_on(one, &leaving).await;
    client.set_secrets(&session, json!({ "BESIDE": "sealed for the agent alone" })).await;
    for name in ["pausing", "resuming", "paused", "ended", "expired", "booting"] {
        let agent = world.boot_on(one, &session).await;
        world.keep(&agent, name).await;
        all.push(agent);
    }
    let [pausing, resuming, paused, ended, expired, booting] = [0, 1, 2, 3, 4, 5].map(|index| all[index].as_str());
    act(client, resuming, "pause").await.expect(200);
    act(client, paused, "pause").await.expect(200);
    // The control plane dies after it has noted what it is about to do, and the host with it.
    agents.begin_pause(scope, &world.row(pausing).await.id, PausedBy::Session).await.unwrap();
    let row = world.row(resuming).await;
    let own = Sessions::new(world.own.stack.deployment().table().clone()).get(scope, &row.session).await.unwrap();
    agents.begin_again(scope, &own.unwrap(), &row, Intent::Resuming, NextBoot::default()).await.unwrap();
    world.set(expired, "SET timeout_ms = :it", json!({ "N": "1" })).await;
    world.set(booting, "SET #status = :it REMOVE run_started_ms", json!({ "S": "booting" })).await;
    for agent in [pausing, ended, expired, booting] {
        assert!(world.copies(agent).await > 0, "{agent}");
    }
    one.go_silent().await;
    // Its session's end is noted, and its host asked that once.
    client.post(&format!("/v1/sessions/{leaving}/terminate"), json!({})).await.expect_error(502, "provider_error");
    assert_eq!(world.row(&left).await.status, AgentStatus::Completed);
    world.until_dead(3, Boots::Impossible).await;
    for agent in [pausing, resuming, ended] {
        let shown = world.shown(agent).await;
        assert_eq!((&shown["status"], &shown["failure"]["reason"]), (&json!("failed"), &json!("host_silent")));
    }
    assert_eq!(
        [world.status(paused).await, world.status(expired).await, world.status(booting).await],
        ["paused", "completed", "failed"]
    );
    // Whatever may have been beside them is gone, also if it has come late.
    for agent in [pausing, expired] {
        assert_eq!(world.copies(agent).await, 0, "{agent}");
        world.add_copy(agent).await;
    }
    let outcome = world.reconcile().await;
    assert!(outcome.postponed > 0 && outcome.skipped == 0, "{outcome:?}");
    for agent in [pausing, ended, expired, booting, &left] {
        assert_eq!(world.copies(agent).await, 0, "{agent}");
    }
    let logs = client.get(&format!("/v1/logs?agentId={left}&limit=100")).await;
    assert_eq!(logs.text.matches("provider.removal_failed").count(), 1, "{}", logs.text);
    // What ends at its owner's wish keeps nothing, and is removed when its host lets go of it.
    act(client, ended, "terminate").await.expect_error(502, "provider_error");

    one.answer_again().await;
    world.tidy(one, &[pausing, resuming, paused]).await;
    for agent in [ended, expired, booting, &left] {
        assert_eq!((left_on(one, agent).await, world.row(agent).await.sandbox_gone), ((0, 0), true), "{agent}");
    }
    act(client, paused, "resume").await.expect(200);
    // Where its host takes no boots of it, it moves with its files.
    act(client, pausing, "retry").await.expect(200);
    world.drain(&[one]).await;
    act(client, resuming, "retry").await.expect(200);
    assert_eq!(world.hosts_of(resuming).await.0, world.two.name());
    for (agent, name) in [(pausing, "pausing"), (resuming, "resuming"), (paused, "paused")] {
        assert_eq!(world.kept(agent).await, name);
    }

    // It goes for good, and so does the platform: nothing is waited for without end.
    one.kill().await;
    #[expect(clippy::disallowed_methods, reason = "a test deletes its platform as the operator does")]
    let deletion = PlatformDeletion::new(world.own.stack.deployment().table().clone(), Operator::assume());
    deletion.begin(scope.platform()).await.unwrap();
    let begun = Instant::now();
    while !agents.unsettled_of_platform(scope).await.unwrap().is_empty() {
        assert!(begun.elapsed() < 20 * DEAD_AFTER, "{:?}", agents.unsettled_of_platform(scope).await.unwrap());
        world.run().await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(left_on(&world.two, resuming).await, (0, 0));
    world.two.kill().await;
    world.own.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_whose_host_is_taken_out_of_the_credential_has_failed_after_the_same_time_and_keeps_its_files_there() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let (world, session) = World::with_hosts_that_die_soon().await;
    let (client, one, two) = (&world.client, &world.one, &world.two);
    let agent = world.boot_on(one, &session).await;
    let other = world.boot_on(two, &session).await;
    let ended = world.boot_on(one, &session).await;
    world.keep(&agent, "there").await;
    // For one look, as by mistake.
    world.set_credential(&credential(&[(two, 5)])).await;
    assert_eq!(world.run().await.unreachable, 0);
    world.set_credential(&credential(&[(one, 5), (two, 5)])).await;
    world.run().await;
    assert_eq!((world.status(&agent).await, world.silence_of(&agent).await), (json!("ready"), None));
    // The operator has taken the hosts' addresses out of what is allowed: they are named as before.
    let narrowed = own_machine_is_no_host(&world.own.stack);
    let outcome = Box::pin(reconcile(&narrowed, Boots::UnderWay)).await.unwrap();
    assert_eq!((outcome.unreachable, world.silence_of(&agent).await), (0, None), "{outcome:?}");

    world.set_credential(&credential(&[(two, 5)])).await;
    world.until_dead(2, Boots::UnderWay).await;
    let shown = world.shown(&agent).await;
    assert_eq!((&shown["status"], &shown["failure"]["reason"]), (&json!("failed"), &json!("host_removed")));
    assert_eq!(world.status(&other).await, "ready");
    // It waits for its host, and costs nobody a warning; one that is terminated waits for nothing.
    act(client, &ended, "terminate").await.expect(200);
    assert!(world.row(&ended).await.sandbox_gone);
    act(client, &agent, "retry").await.expect_error(409, "conflict");
    let outcome = world.run().await;
    assert_eq!((outcome.postponed, outcome.settled, outcome.unreachable), (0, 0, 0), "{outcome:?}");
    assert_eq!(left_on(one, &agent).await, (1, 1));

    world.set_credential(&credential(&[(one, 5), (two, 5)])).await;
    // Whoever has found it dead may still be at what it has there; what nobody owns is nobody's to be at.
    let outcome = world.run().await;
    assert_eq!((outcome.orphans, outcome.settled), (1, 0), "{outcome:?}");
    assert_eq!(left_on(one, &agent).await, (1, 1));
    assert_eq!(world.reconcile().await.settled, 1);
    assert_eq!((left_on(one, &agent).await, left_on(one, &ended).await), ((0, 1), (0, 0)));
    act(client, &agent, "retry").await.expect(200);
    assert_eq!(world.kept(&agent).await, "there");

    // It dies for good, disk and all; it is the credential's again when nothing of the agent is there any more.
    one.kill().await;
    world.until_dead(1, Boots::UnderWay).await;
    assert_eq!((world.status(&agent).await, world.status(&other).await), (json!("failed"), json!("ready")));
    world.set_credential(&credential(&[(two, 5)])).await;
    client.terminate(&session).await;
    assert!(world.row(&agent).await.sandbox_gone);
    client.delete("/v1/providers/docker").await.expect(204);
    world.two.kill().await;
    world.own.stop().await;
}
