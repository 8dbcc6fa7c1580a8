//! Docker hosts of platforms, by the command.

use crate::local::{Local, stderr, stdout, text};
use bollard::query_parameters::{ListContainersOptions, ListContainersOptionsBuilder, RemoveImageOptions};
use serde_json::{Value, json};
use std::path::Path;
use theazo_docker_hosts::{Host, credential};
use theazo_providers::docker::Endpoint;

/// Sends what agents send to the host on to the firewall's own rules.
const RULE: [&str; 5] = ["INPUT", "-i", "ag-+", "-j", "THEAZO-INPUT"];

/// Where this machine's systemd would start an engine from: its hosts have the same files.
const ENGINE_UNITS: [&str; 2] = ["/usr/lib/systemd/system/docker.service", "/lib/systemd/system/docker.service"];

/// Runs what systemd runs before it starts the engine.
const STARTED: &str = "set -e
    unit=/etc/systemd/system/docker.service.requires/theazo-firewall.service
    exec $(sed -n 's/^ExecStart=//p' \"$unit\")";

fn all_containers() -> ListContainersOptions {
    ListContainersOptionsBuilder::new().all(true).build()
}

/// The lines of a command that may fail after it has answered.
async fn lines(local: &Local, args: &[&str]) -> (bool, Vec<Value>) {
    let output = local.with_folder(&[args, &["--json"]].concat()).await;
    let lines = serde_json::from_str(stdout(&output)).unwrap_or_else(|_| panic!("{args:?}: {}", stderr(&output)));
    (output.status.success(), lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_takes_agents_once_its_firewall_keeps_one_from_it_and_until_it_is_open_or_drains() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let engine = theazo_setup::ensure_engine(&()).await.unwrap();
    let image = theazo_setup::ensure_agent_image(&engine, &()).await.unwrap();
    let (local, host) = tokio::join!(Local::start(), Host::start(&image, &engine));
    let platform = local.json(&["platform", "create", "hosts"]).await;
    let (id, key, name) = (text(&platform["id"]), &platform["liveKey"], host.name());
    let unconfigured = local.with_folder(&["host", "probe", id]).await;
    assert!(stderr(&unconfigured).contains("has not configured docker"), "{}", stderr(&unconfigured));
    local.done(key, "POST", "/secrets", Some(json!({ "HOSTS": credential(&[(&host, 3)]) }))).await;
    let body = json!({ "credentialRef": "HOSTS", "config": { "image": image } });
    local.done(key, "PUT", "/providers/docker", Some(body)).await;

    let health = async || local.done(key, "GET", "/providers", None).await["data"][0]["health"].clone();

    let (closed, found) = lines(&local, &["host", "probe", id]).await;
    let message = text(&found[0]["message"]);
    assert!(!closed && found[0]["closed"] == false && message.contains(&name), "{found:?}");
    let said = health().await;
    assert!(said["healthy"] == false && text(&said["message"]).contains("not enrolled"), "{said}");
    for verb in ["enroll", "probe"] {
        let elsewhere = local.with_folder(&["host", verb, id, "198.51.100.1:2376"]).await;
        assert!(!elsewhere.status.success() && stderr(&elsewhere).contains("has no host"), "{}", stderr(&elsewhere));
    }

    // Neither the image is there nor a firewall.
    host.engine().remove_image(&image, None::<RemoveImageOptions>, None).await.unwrap();
    let nowhere = ["host", "enroll", id, "--image-from", "unix:///nowhere.sock"];
    let (enrolled, found) = lines(&local, &nowhere).await;
    assert!(!enrolled && found[0]["closed"] == false && health().await["healthy"] == false, "{found:?}");
    let Endpoint::Unix(socket) = &engine else { panic!("the image is on another machine") };
    let source = format!("unix://{}", socket.display());
    let enroll = ["host", "enroll", id, &name, "--image-from", &source];
    let (enrolled, found) = lines(&local, &enroll).await;
    assert!(enrolled && found.len() == 1 && text(&found[0]["message"]).contains("for want of systemd"), "{found:?}");
    assert_eq!(health().await["healthy"], true, "{}", health().await);
    assert!(host.engine().list_containers(Some(all_containers())).await.unwrap().is_empty());

    // Configuring anew changes nothing of it. A host that is found to be open is out of use from then on.
    let body = json!({ "credentialRef": "HOSTS", "config": { "image": image } });
    local.done(key, "PUT", "/providers/docker", Some(body)).await;
    assert_eq!(health().await["healthy"], true, "{}", health().await);
    host.run("iptables", &[&["-D"], &RULE[..]].concat()).await;
    let (closed, found) = lines(&local, &["host", "probe", id]).await;
    assert!(!closed && text(&found[0]["message"]).contains(&name), "{found:?}");
    assert_eq!(health().await["healthy"], false, "{}", health().await);
    // Nor is one that was enrolled, and cannot be set up again.
    host.run("iptables", &[&["-A"], &RULE[..]].concat()).await;
    let (enrolled, _) = lines(&local, &enroll).await;
    assert!(enrolled && health().await["healthy"] == true, "{}", health().await);
    host.run("mount", &["-o", "remount,ro", "/etc"]).await;
    let (enrolled, found) = lines(&local, &enroll).await;
    assert!(!enrolled && found[0]["closed"] == false && health().await["healthy"] == false, "{found:?}");
    host.run("mount", &["-o", "remount,rw", "/etc"]).await;
    host.run("mkdir", &["-p", "/run/systemd/system"]).await;
    // A systemd that does not start the engine does not see to the firewall either.
    if !ENGINE_UNITS.iter().any(|unit| Path::new(unit).exists()) {
        let (enrolled, found) = lines(&local, &enroll).await;
        assert!(enrolled && text(&found[0]["message"]).contains("for want of systemd"), "{found:?}");
    }
    host.run("mkdir", &["-p", "/etc/systemd/system"]).await;
    host.run("touch", &["/etc/systemd/system/docker.service"]).await;
    let (enrolled, found) = lines(&local, &enroll).await;
    assert!(enrolled && !text(&found[0]["message"]).contains("systemd"), "{found:?}");
    assert_eq!(health().await["healthy"], true, "{}", health().await);
    host.run("iptables", &[&["-C"], &RULE[..]].concat()).await;
    // What systemd is told to do at each start of the engine, when there is nothing of the engine's yet.
    host.run("iptables", &[&["-D"], &RULE[..]].concat()).await;
    host.run("sh", &["-c", &format!("iptables -E DOCKER-USER ELSEWHERE\n{STARTED}")]).await;
    host.run("iptables", &["-E", "ELSEWHERE", "DOCKER-USER"]).await;
    let (closed, found) = lines(&local, &["host", "probe", id, &name]).await;
    assert!(closed && found.len() == 1 && found[0]["closed"] == true, "{found:?}");

    // Another image has to be there, and to have been tried, before agents are.
    let other = json!({ "credentialRef": "HOSTS", "config": { "image": "another:1" } });
    local.done(key, "PUT", "/providers/docker", Some(other)).await;
    assert!(text(&health().await["message"]).contains("not enrolled"), "{}", health().await);
    let same = json!({ "credentialRef": "HOSTS", "config": { "image": image } });
    local.done(key, "PUT", "/providers/docker", Some(same)).await;
    assert_eq!(health().await["healthy"], true, "{}", health().await);

    let drained = local.with_folder(&["host", "drain", id, &name]).await;
    assert!(drained.status.success(), "{}", stderr(&drained));
    let shown = local.done(key, "GET", "/providers", None).await;
    assert_eq!(shown["data"][0]["config"]["draining"], json!([name]));
    assert_eq!(shown["data"][0]["health"]["healthy"], false, "{shown}");
    let open = local.with_folder(&["host", "drain", id, &name, "--undo"]).await;
    assert!(open.status.success(), "{}", stderr(&open));
    let shown = local.done(key, "GET", "/providers", None).await;
    assert_eq!(shown["data"][0]["config"]["draining"], json!([]));
    assert_eq!(shown["data"][0]["health"]["healthy"], true, "{shown}");
    // What cannot be asked is not taken for closed.
    host.kill().await;
    let (closed, found) = lines(&local, &["host", "probe", id]).await;
    assert!(!closed && text(&found[0]["message"]).contains("could not be found out"), "{found:?}");
    local.stop().await;
}
