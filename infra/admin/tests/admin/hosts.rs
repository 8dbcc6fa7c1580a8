//! Docker hosts of platforms, by the command.

use crate::local::{Local, stderr, stdout, text};
use serde_json::{Value, json};
use theazo_docker_hosts::{Host, credential};

const FIREWALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../local/setup/firewall.sh");

/// The lines of a command that may fail after it has answered.
async fn lines(local: &Local, args: &[&str]) -> (bool, Vec<Value>) {
    let output = local.with_folder(&[args, &["--json"]].concat()).await;
    let lines = serde_json::from_str(stdout(&output)).unwrap_or_else(|_| panic!("{args:?}: {}", stderr(&output)));
    (output.status.success(), lines)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_is_open_until_its_firewall_keeps_an_agent_from_it_and_drains_when_it_is_told_to() {
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

    let (closed, found) = lines(&local, &["host", "probe", id]).await;
    let message = text(&found[0]["message"]);
    assert!(!closed && found[0]["closed"] == false && message.contains(&name), "{found:?}");
    host.run("sh", &[FIREWALL, "install"]).await;
    let (closed, found) = lines(&local, &["host", "probe", id, &name]).await;
    assert!(closed && found.len() == 1 && found[0]["closed"] == true, "{found:?}");
    let elsewhere = local.with_folder(&["host", "probe", id, "198.51.100.1:2376"]).await;
    assert!(!elsewhere.status.success() && stderr(&elsewhere).contains("has no host"), "{}", stderr(&elsewhere));

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
