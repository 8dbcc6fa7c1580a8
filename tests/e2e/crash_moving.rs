//! `kill -9` of the whole control plane in the middle of moves from one Docker host to another: no agent is lost, and of its
//! files one copy is left. `THEAZO_CRASH_TRIALS` says how often; 4 times unless it does.

use crate::harness::{Kills, Process, docker_engine, dynamodb, sha256};
use crate::hosts::CREDENTIAL;
use crate::moving::{act, left_on};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;
use theazo_docker_hosts::{Host, credential};
use theazo_providers::docker::{DockerHosts, HostRanges, HostSettings};
use theazo_vault::SecretValue;

/// The files below a folder that have those bytes in them.
fn files_with(folder: &Path, bytes: &[u8]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        match entry.file_type().unwrap() {
            kind if kind.is_dir() => found.extend(files_with(&path, bytes)),
            kind if kind.is_file() => {
                let content = std::fs::read(&path).unwrap();
                found.extend(memchr::memmem::find(&content, bytes).map(|_| path));
            }
            _ => {}
        }
    }
    found
}

/// A platform's two hosts as a process of its own uses them.
struct Killed {
    process: Process,
    hosts: [Host; 2],
}

impl Killed {
    async fn start() -> Self {
        let engine = tokio::task::spawn_blocking(docker_engine).await.unwrap();
        let (one, two, process) = tokio::join!(
            Host::start(&engine.image, &engine.endpoint),
            Host::start(&engine.image, &engine.endpoint),
            Process::start("info"),
        );
        let killed = Self { process, hosts: [one, two] };
        let credential = killed.credential();
        let client = killed.process.client();
        client.post("/v1/secrets", json!({ CREDENTIAL: credential })).await.expect(204);
        killed.drain(0).await;
        killed.enroll().await;
        killed
    }

    fn credential(&self) -> String {
        let [one, two] = &self.hosts;
        credential(&[(one, 3), (two, 3)])
    }

    async fn drain(&self, host: usize) {
        let config = json!({ "image": docker_engine().image, "draining": [self.hosts[host].name()] });
        let body = json!({ "credentialRef": CREDENTIAL, "config": config });
        self.process.client().call("PUT", "/v1/providers/docker", Some(&body)).await.expect(200);
    }

    /// Says of both hosts what the operator does who has found them closed, in the table of that process.
    async fn enroll(&self) {
        let printed = self.process.output();
        let table = printed.lines().find(|line| line.contains("any DynamoDB tool")).unwrap();
        let url = table.split_whitespace().find(|word| word.starts_with("http://")).unwrap();
        let rows = dynamodb(url, "Scan", json!({ "TableName": "theazo", "ConsistentRead": true })).await;
        let rows = rows["Items"].as_array().unwrap();
        let own = |row: &&Value| row["provider"]["S"] == "docker" && row["credential"]["S"] == CREDENTIAL;
        let row = rows.iter().find(own).expect("the configuration");
        let settings = HostSettings {
            deployment: "any".into(),
            image: docker_engine().image.clone(),
            ranges: HostRanges::private(),
        };
        let hosts = DockerHosts::new(&SecretValue::from_text(self.credential()), &settings).unwrap();
        let identities = hosts.identities().into_iter().map(|(name, identity)| (name, json!({ "S": identity })));
        let identities: serde_json::Map<String, Value> = identities.collect();
        let change = json!({
            "TableName": "theazo", "Key": { "pk": row["pk"], "sk": row["sk"] },
            "UpdateExpression": "SET enrolled = :enrolled",
            "ExpressionAttributeValues": { ":enrolled": { "M": identities } },
        });
        dynamodb(url, "UpdateItem", change).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_in_the_middle_of_a_move_loses_no_agent_and_leaves_one_copy_of_its_files() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let mut killed = Killed::start().await;
    let client = killed.process.client();
    let session = client.session("u").await;
    client.set_secrets(&session, json!({ "KEY": "value" })).await;
    let agent = client.boot(&session, json!({ "provider": "docker", "timeout": "24h" })).await;
    // The first drains.
    assert_eq!(left_on(&killed.hosts[1], &agent).await, (1, 1));
    let make = "head -c 20000000 /dev/urandom > /data/large; sha256sum < /data/large";
    let digest = client.run(&agent, "bash", make).await;
    let mut lives_on = 1;
    let mut kills = Kills::new(4);
    act(&client, &agent, "pause").await.expect(200);
    killed.drain(lives_on).await;
    let began = Instant::now();
    act(&client, &agent, "resume").await.expect(200);
    kills.took("move", began.elapsed());
    lives_on = 1 - lives_on;
    assert_eq!(left_on(&killed.hosts[lives_on], &agent).await, (1, 1));
    for _ in 0..kills.trials() {
        let client = killed.process.client();
        act(&client, &agent, "pause").await.expect(200);
        killed.drain(lives_on).await;
        let resuming = tokio::spawn({
            let (client, path) = (client.clone(), format!("/v1/agents/{agent}/resume"));
            async move { client.try_call("POST", &path, None).await }
        });
        let delay = kills.delay("move");
        tokio::time::sleep(delay).await;
        killed.process.kill();
        let answer = resuming.await.unwrap().ok().map(|answer| answer.status);
        killed.process = killed.process.restart("info").await;

        let client = killed.process.client();
        let status = client.get(&format!("/v1/agents/{agent}")).await.expect(200)["status"].clone();
        let context = format!("killed after {delay:?}: {status}, {answer:?}: {}", killed.process.output());
        assert!(status == "ready" || (status == "paused" && answer.is_none()), "{context}");
        let runs = usize::from(status == "ready");
        let there = [left_on(&killed.hosts[0], &agent).await, left_on(&killed.hosts[1], &agent).await];
        let now = usize::from(there[1].1 > 0);
        assert_eq!((there[now], there[1 - now]), ((runs, 1), (0, 0)), "{context}");
        assert!(now == lives_on || runs == 1, "{context}");
        let moved = now != lives_on;
        lives_on = now;
        if runs == 0 {
            act(&client, &agent, "resume").await.expect(200);
            let moved = left_on(&killed.hosts[1 - lives_on], &agent).await.1 > 0;
            lives_on = if moved { 1 - lives_on } else { lives_on };
        }
        assert_eq!(client.run(&agent, "bash", "sha256sum < /data/large").await, digest, "{context}");
        assert_eq!(client.environment(&agent).await["KEY"].1, sha256("value"), "{context}");
        let usage = client.get(&format!("/v1/sessions/{session}/usage")).await.expect(200);
        assert_eq!(usage["activeAgents"], 1, "{context}");
        let what = if moved { "resume that moved it" } else { "resume that did not move it" };
        kills.note(what, answer.is_some());
        // Forgets where it was, as it does some minutes later by itself.
        killed.process = killed.process.restart("info").await;
    }
    kills.tell(&["resume that did not move it"]);
    killed.process.client().terminate(&session).await;
    // What it had of the hosts' credential it had in memory.
    for host in &killed.hosts {
        let entry = host.entry(3);
        let key: Vec<&str> = entry["key"].as_str().unwrap().lines().collect();
        let (folder, line) = (killed.process.folder().to_owned(), key[key.len() / 2].to_owned());
        assert!(line.len() > 40, "a line of a key");
        assert!(
            files_with(&folder, line.as_bytes()).is_empty(),
            "a key is in {:?}",
            files_with(&folder, line.as_bytes())
        );
        assert!(!files_with(&folder, b"theazo").is_empty(), "the files were read");
    }
    for host in &killed.hosts {
        assert_eq!(left_on(host, &agent).await, (0, 0));
        host.kill().await;
    }
}
