//! What only E2B has: pauses that it may refuse, snapshots, an account that others use too.

use crate::bed::{Bed, agent, environment, request, spec};
use std::sync::Arc;
use theazo_e2b_emulator::{Fault, FaultKind};
use theazo_providers::{AgentRef, Environment, Language, Presence, Provider, ProviderError};
use theazo_vault::SecretValue;

/// A management call as somebody with the account's key makes it.
async fn manage(bed: &Bed, method: reqwest::Method, path: &str, body: serde_json::Value) -> serde_json::Value {
    let url = format!("{}{path}", bed.emulator().url);
    let call = reqwest::Client::new().request(method, url).header("x-api-key", crate::bed::E2B_KEY).json(&body);
    call.send().await.unwrap().json().await.unwrap()
}

async fn sandbox_id(bed: &Bed, agent: &AgentRef) -> String {
    let all = manage(bed, reqwest::Method::GET, "/v2/sandboxes", serde_json::json!(null)).await;
    let all = all.as_array().unwrap().clone();
    let own = all.iter().find(|shown| shown["metadata"]["theazo.agent"] == agent.agent.as_str()).unwrap();
    own["sandboxID"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_keeps_no_files_without_memory_is_told_apart_and_the_sandbox_runs_on_as_it_was() {
    let bed = Arc::new(Bed::e2b("refused").await);
    let (_, agent) = bed.create(&[("API_TOKEN", "still here")]).await;
    bed.emulator().controls.refuse_files_only(true);
    assert!(matches!(bed.provider.stop(&agent).await, Err(ProviderError::CannotPause)));
    let checkpoint = theazo_tenancy::CheckpointId::make().to_string();
    let refused = bed.provider.checkpoint(&agent, &checkpoint).await;
    assert!(matches!(refused, Err(ProviderError::CannotCheckpoint)), "{refused:?}");
    // A node that cannot says so in another way.
    bed.emulator().controls.refuse_files_only(false);
    for path in ["/snapshots", "/pause"] {
        let code = Some("snapshot_filesystem_only_unsupported_node".into());
        let kind = FaultKind::Refuse { status: 409, code, headers: Vec::new() };
        bed.emulator().controls.fault(Fault { method: "POST".into(), path: path.into(), times: 1, kind });
    }
    let refused = bed.provider.checkpoint(&agent, &checkpoint).await;
    assert!(matches!(refused, Err(ProviderError::CannotCheckpoint)), "{refused:?}");
    assert!(matches!(bed.provider.stop(&agent).await, Err(ProviderError::CannotPause)));
    bed.emulator().controls.refuse_files_only(true);
    assert_eq!(bed.bash(&agent, "printf %s \"$API_TOKEN\"").await, "still here");
    assert!(!bed.emulator().controls.records().iter().any(|record| record.kind == "snapshot"));
    bed.emulator().controls.refuse_files_only(false);
    bed.provider.stop(&agent).await.unwrap();
    bed.destroy(&agent).await;
    bed.end().await;
}

/// The next list of sandboxes is this one.
fn lists_once(bed: &Bed, content: serde_json::Value) {
    answers_once(bed, "/v2/sandboxes", content);
}

fn answers_once(bed: &Bed, path: &str, content: serde_json::Value) {
    let kind = FaultKind::Instead { content };
    bed.emulator().controls.fault(Fault { method: "GET".into(), path: path.into(), times: 1, kind });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_lags_loses_no_sandbox_and_leaves_none_behind() {
    let bed = Bed::e2b("lag").await;
    let (spec, agent) = bed.create(&[("A", "b")]).await;
    bed.write(&agent, "/data/kept", b"kept").await.unwrap();
    let lags = || lists_once(&bed, serde_json::json!([]));
    lags();
    assert_eq!(bed.listed(&agent).await, Some(Presence::Running));
    // Another process, which knows nothing of where it runs.
    let other = bed.emulator().provider(&bed.emulator().deployment);
    lags();
    let shown = other.exec(&agent, request(Language::Bash, "printf $A")).await.unwrap();
    assert_eq!(shown.stdout, "b");
    lags();
    bed.provider.stop(&agent).await.unwrap();
    lags();
    bed.provider.resume(&spec, &environment(&[("A", "c")])).await.unwrap();
    assert_eq!(bed.bash(&agent, "printf $A; cat /data/kept").await, "ckept");
    let checkpoint = theazo_tenancy::CheckpointId::make().to_string();
    lags();
    bed.provider.checkpoint(&agent, &checkpoint).await.unwrap();
    lags();
    answers_once(&bed, "/snapshots", serde_json::json!([]));
    bed.provider.restore(&spec, &environment(&[("A", "d")]), &checkpoint).await.unwrap();
    assert_eq!(
        bed.emulator().controls.left().len(),
        2,
        "the checkpoint and what was made of it, and no sandbox of before"
    );
    lags();
    bed.destroy(&agent).await;
    assert_eq!(bed.emulator().controls.left(), [""; 0]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_knew_a_sandbox_finds_the_one_that_another_process_has_made_of_a_checkpoint_since() {
    let bed = Bed::e2b("replaced").await;
    let (spec, agent) = bed.create(&[("A", "b")]).await;
    let other = bed.emulator().provider(&bed.emulator().deployment);
    let checkpoint = theazo_tenancy::CheckpointId::make().to_string();
    bed.provider.checkpoint(&agent, &checkpoint).await.unwrap();
    let shown = async |code: &str| other.exec(&agent, request(Language::Bash, code)).await.map(|output| output.stdout);
    assert_eq!(shown("printf $A").await.unwrap(), "b");
    for value in ["c", "d"] {
        bed.provider.restore(&spec, &environment(&[("A", value)]), &checkpoint).await.unwrap();
        assert_eq!(shown("printf $A").await.unwrap(), value);
        bed.provider.restore(&spec, &environment(&[("A", value)]), &checkpoint).await.unwrap();
        other.list_files(&agent, "/data").await.unwrap();
    }
    bed.destroy(&agent).await;
    assert!(matches!(shown("true").await, Err(ProviderError::SandboxGone)));
    assert_eq!(bed.emulator().controls.left(), [""; 0]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_names_what_is_gone_or_in_another_state_neither_loses_an_agent_nor_lets_it_run_on() {
    let bed = Bed::e2b("stale").await;
    let (spec, agent) = bed.create(&[("A", "b")]).await;
    bed.write(&agent, "/data/kept", b"kept").await.unwrap();
    let listed = async || manage(&bed, reqwest::Method::GET, "/v2/sandboxes", serde_json::json!(null)).await;
    // Before the one that is there comes one that is not any more, and what runs is told to be paused, or the other way.
    let stale = async |state: &str| {
        let mut rows = listed().await.as_array().unwrap().clone();
        rows[0]["state"] = state.into();
        let mut dead = rows[0].clone();
        (dead["sandboxID"], dead["state"]) = ("a0000000000000000000".into(), "running".into());
        rows.insert(0, dead);
        lists_once(&bed, rows.into());
    };
    let state = async || listed().await[0]["state"].clone();
    for told in ["running", "paused"] {
        stale(told).await;
        let other = bed.emulator().provider(&bed.emulator().deployment);
        assert_eq!(other.exec(&agent, request(Language::Bash, "printf $A")).await.unwrap().stdout, "b", "{told}");
        let checkpoint = theazo_tenancy::CheckpointId::make().to_string();
        stale(told).await;
        bed.provider.checkpoint(&agent, &checkpoint).await.unwrap();
        stale(told).await;
        let other = bed.emulator().provider(&bed.emulator().deployment);
        other.open_port(&agent, 8080).await.unwrap();
    }
    stale("paused").await;
    bed.provider.stop(&agent).await.unwrap();
    assert_eq!(state().await, "paused");
    stale("running").await;
    bed.provider.stop(&agent).await.unwrap();
    assert_eq!(state().await, "paused");
    stale("paused").await;
    bed.provider.resume(&spec, &environment(&[("A", "c")])).await.unwrap();
    assert_eq!(bed.bash(&agent, "printf $A; cat /data/kept").await, "ckept");
    bed.destroy(&agent).await;
    assert_eq!(bed.emulator().controls.left(), [""; 0]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_somebody_paused_with_its_memory_is_removed_and_not_kept() {
    let bed = Arc::new(Bed::e2b("memory").await);
    let (_, agent) = bed.create(&[]).await;
    let id = sandbox_id(&bed, &agent).await;
    let path = format!("{}/sandboxes/{id}/pause", bed.emulator().url);
    let paused = reqwest::Client::new().post(path).header("x-api-key", crate::bed::E2B_KEY).send().await.unwrap();
    assert_eq!(paused.status(), 204);
    assert!(matches!(bed.provider.stop(&agent).await, Err(ProviderError::SandboxGone)));
    assert_eq!(bed.emulator().controls.left(), [""; 0]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_of_an_agent_go_with_it_and_orphans_of_ours_are_found_and_strangers_are_left() {
    let bed = Arc::new(Bed::e2b("snapshots").await);
    let (_, owner) = bed.create(&[]).await;
    let id = sandbox_id(&bed, &owner).await;
    let path = format!("/sandboxes/{id}/snapshots");
    let snapshot = |name: Option<String>| {
        let (bed, path) = (bed.clone(), path.clone());
        async move { manage(&bed, reqwest::Method::POST, &path, serde_json::json!({ "name": name, "memory": false })).await }
    };
    snapshot(None).await;
    // As one would be called that was made of an agent that is no more.
    let lost = agent(&spec());
    let short: String =
        hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&bed.emulator().deployment)).chars().take(12).collect();
    let (_, foreign) = bed.create(&[]).await;
    let other = sandbox_id(&bed, &foreign).await;
    let path = format!("/sandboxes/{other}/snapshots");
    let name = format!("theazo-{short}-{}", lost.agent.replace('_', "-"));
    manage(&bed, reqwest::Method::POST, &path, serde_json::json!({ "name": name, "memory": false })).await;
    assert_eq!(bed.listed(&lost).await, Some(Presence::Kept), "an orphan is found by its name");
    bed.destroy(&owner).await;
    bed.destroy(&lost).await;
    assert_eq!(bed.listed(&lost).await, None);
    assert_eq!(bed.emulator().controls.left(), [other]);
    bed.destroy(&foreign).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_looked_up_by_its_name_however_many_there_are_of_others() {
    let bed = Bed::e2b("by-name").await;
    let (spec, agent) = bed.create(&[]).await;
    let [kept, other] = [(); 2].map(|()| theazo_tenancy::CheckpointId::make().to_string());
    bed.bash(&agent, "echo then > /data/file").await;
    for checkpoint in [&kept, &other] {
        bed.provider.checkpoint(&agent, checkpoint).await.unwrap();
        bed.bash(&agent, "echo now > /data/file").await;
    }
    bed.provider.restore(&spec, &environment(&[]), &kept).await.unwrap();
    assert_eq!(bed.bash(&agent, "cat /data/file").await, "then\n");
    bed.provider.remove_checkpoint(&agent, &kept).await.unwrap();
    let lists =
        bed.emulator().controls.records().into_iter().filter(|record| record.subject.starts_with("GET /snapshots?"));
    let bare = |id: &str| id.rsplit('_').next().unwrap().to_owned();
    let of_all: Vec<_> = lists.map(|list| list.subject).filter(|list| !list.contains("sandboxID=")).collect();
    assert!(!of_all.is_empty());
    assert!(of_all.iter().all(|list| list.contains("name=theazo-") && list.contains(&bare(&kept))), "{of_all:?}");
    // The other is still there.
    bed.provider.restore(&spec, &environment(&[]), &other).await.unwrap();
    assert_eq!(bed.bash(&agent, "cat /data/file").await, "now\n");
    bed.destroy(&agent).await;
    assert_eq!(bed.emulator().controls.left(), [""; 0]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_deployment_and_another_key_see_and_touch_nothing_of_it() {
    let bed = Arc::new(Bed::e2b("others").await);
    let (_, agent) = bed.create(&[]).await;
    let other = bed.emulator().provider("another");
    assert!(other.list_mine().await.unwrap().is_empty());
    other.destroy(&agent).await.unwrap();
    let ran = other.exec(&agent, request(Language::Bash, "true")).await;
    assert!(matches!(ran, Err(ProviderError::SandboxGone)));
    assert_eq!(bed.bash(&agent, "echo here").await, "here\n");
    assert!(bed.provider.health().await.healthy);

    let endpoints =
        theazo_providers::e2b::E2bEndpoints { api: bed.emulator().url.clone(), sandbox: bed.emulator().url.clone() };
    let service = Arc::new(theazo_providers::e2b::E2bService::new(endpoints, &bed.emulator().deployment).unwrap());
    let key = SecretValue::from_text("e2b_wrong".to_owned());
    let wrong = theazo_providers::e2b::E2bProvider::new(service, &key, None).unwrap();
    let health = wrong.health().await;
    assert!(!health.healthy && !health.message.contains("e2b_wrong"), "{}", health.message);
    let refused = wrong.create(&spec(), &Environment::default()).await.unwrap_err();
    assert!(matches!(refused, ProviderError::Failed { status: Some(401), retryable: false, .. }), "{refused}");
    bed.destroy(&agent).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_asks_for_no_variables_no_open_port_and_no_more_network_than_allowed() {
    let bed = Arc::new(Bed::e2b("body").await);
    let (_, agent) = bed.create(&[("API_TOKEN", "v")]).await;
    let records = bed.emulator().controls.records();
    let create = records.iter().find(|record| record.subject.starts_with("POST /v2/sandboxes")).unwrap();
    let body = &create.content["request"];
    assert_eq!(body["allow_internet_access"], false);
    assert_eq!(body["network"]["allowPublicTraffic"], false);
    assert!(body.get("envVars").is_none());
    let starts = records.iter().filter(|record| record.subject == "process.Process/Start");
    for start in starts {
        assert!(start.content["process"].get("envs").is_none(), "{start:?}");
        assert_eq!(start.content["stdin"], false);
    }
    bed.destroy(&agent).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_template_and_too_long_a_life_are_dealt_with() {
    let bed = Arc::new(Bed::e2b("plan").await);
    // The emulator's plan allows 24 h.
    let long = theazo_providers::SandboxSpec { lifetime: std::time::Duration::from_secs(25 * 3600), ..spec() };
    bed.provider.create(&long, &environment(&[("A", "b")])).await.unwrap();
    assert_eq!(bed.bash(&agent(&long), "printf $A").await, "b");
    bed.destroy(&agent(&long)).await;
    let endpoints =
        theazo_providers::e2b::E2bEndpoints { api: bed.emulator().url.clone(), sandbox: bed.emulator().url.clone() };
    let service = Arc::new(theazo_providers::e2b::E2bService::new(endpoints, "d").unwrap());
    let key = SecretValue::from_text(crate::bed::E2B_KEY.to_owned());
    let provider = theazo_providers::e2b::E2bProvider::new(service, &key, Some("nobody-has-this")).unwrap();
    let refused = provider.create(&spec(), &Environment::default()).await.unwrap_err();
    assert!(matches!(refused, ProviderError::Failed { status: Some(404), retryable: false, .. }), "{refused}");
    bed.end().await;
}
