//! `cargo dev` commands that come to an end: the quickstart, emulators by themselves, measuring agents.

use crate::harness::{DevCommand, provider_of, temporary, wait_until};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::Duration;
use theazo_functions::routes::ROUTES;
use theazo_providers::Provider;
use theazo_providers::docker::DockerProvider;

fn folder(label: &str) -> PathBuf {
    let folder = temporary(label);
    std::fs::create_dir(&folder).unwrap();
    folder
}

/// Fails unless the story came to its end, a step after the other.
fn assert_all_held((code, told): (Option<i32>, String)) {
    assert_eq!(code, Some(0), "{told}");
    let steps = told.lines().filter(|line| line.starts_with(' ') && !line.starts_with("  "));
    let mut numbers: Vec<&str> = steps.filter_map(|step| step.split_whitespace().next()).collect();
    // An emulator is a part of setting up.
    numbers.dedup();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"], "{told}");
    assert!(told.contains("All of it held."), "{told}");
}

#[tokio::test]
async fn the_quickstart_tells_its_nine_steps_and_leaves_nothing() {
    let temp = folder("quickstart");
    let mut running = DevCommand::start(&["quickstart"], &temp);
    let provider = quickstart_provider(&mut running, &temp).await;
    assert_all_held(running.end().await);
    assert_nothing_left(&temp, &provider).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quickstart_on_e2b_and_on_fly_tells_the_same_steps_and_leaves_nothing() {
    for provider in ["e2b", "fly"] {
        let temp = folder(provider);
        assert_all_held(DevCommand::start(&["quickstart", "--provider", provider], &temp).end().await);
        assert_empty(&temp);
    }
}

/// What it printed first after that word, once it has.
async fn said(running: &DevCommand, word: &str) -> String {
    wait_until(word, async || running.output().contains(word)).await;
    let output = running.output();
    let (_, rest) = output.split_once(word).unwrap();
    rest.split_whitespace().next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_emulator_by_itself_serves_whoever_calls_it_until_it_is_interrupted() {
    let http = reqwest::Client::new();
    for (provider, says, path, key) in [
        ("e2b", "E2B_API_URL=", "/v2/sandboxes", ("x-api-key", "e2b_anything")),
        ("fly", "THEAZO_FLY_API_URL=", "/v1/apps?org_slug=anybodys", ("authorization", "Bearer anything")),
    ] {
        let temp = folder(provider);
        let running = DevCommand::start(&["emulator", provider, "--listen", "127.0.0.1:0"], &temp);
        let url = said(&running, says).await;
        let call = |path: &str| http.get(format!("{url}{path}")).header(key.0, key.1).send();
        assert_eq!(call(path).await.unwrap().status(), 200, "{provider}");
        let records = call("/_emulator/records").await.unwrap().text().await.unwrap();
        assert!(records.contains(path.split('?').next().unwrap().trim_start_matches("/v1")), "{records}");
        running.interrupt();
        let (code, told) = running.end().await;
        assert_eq!(code, Some(0), "{told}");
        assert!(call(path).await.is_err(), "{provider} has ended");
        assert_empty(&temp);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn agents_are_measured_at_every_provider_beside_what_it_takes_by_itself() {
    for provider in ["docker", "e2b", "fly"] {
        let temp = folder(provider);
        let file = temp.join("figures.json");
        let args = ["bench", "agents", "--provider", provider, "--agents", "1", "--json", file.to_str().unwrap()];
        let (code, printed) = DevCommand::start(&args, &temp).end().await;
        assert_eq!(code, Some(0), "{printed}");
        let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(report["bench"], "agents", "{report}");
        for row in report["rows"].as_array().unwrap() {
            let name = row["name"].as_str().unwrap();
            assert!(printed.contains(name) && row["ours"]["n"].as_u64() > Some(0), "{name}: {printed}");
        }
        assert!(printed.contains("p50") && printed.contains("p99"), "{printed}");
        std::fs::remove_file(&file).unwrap();
        assert_empty(&temp);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_and_every_report_of_a_month_is_measured_as_it_is_typed() {
    for (bench, args) in
        [("api", ["--rows", "20", "--samples", "1"].as_slice()), ("month", &["--runs", "200", "--samples", "1"])]
    {
        let temp = folder(bench);
        let file = temp.join("figures.json");
        let args = [&["bench", bench], args, &["--json", file.to_str().unwrap()]].concat();
        let (code, printed) = DevCommand::start(&args, &temp).end().await;
        assert_eq!(code, Some(0), "{printed}");
        let report: Value = serde_json::from_slice(&std::fs::read(&file).unwrap()).unwrap();
        assert_eq!(report["bench"], bench, "{report}");
        let rows = report["rows"].as_array().unwrap();
        assert!(rows.len() > 20, "{report}");
        for row in rows {
            let name = row["name"].as_str().unwrap();
            assert!(printed.contains(name) && row["ours"]["p99"].as_f64() > Some(0.0), "{name}: {printed}");
        }
        let has = |name: String| rows.iter().any(|row| row["name"] == name.as_str());
        for route in ROUTES.iter().filter(|_| bench == "api").map(|route| route.info.name) {
            // Alone, by sixteen at once, and with more rows.
            assert!(
                has(route.into()) && has(format!("{route}@16")) && has(format!("{route}@20")),
                "{route}: {printed}"
            );
        }
        for header in ["p50", "p95", "p99", "trips"] {
            assert!(printed.contains(header), "{printed}");
        }
        std::fs::remove_file(&file).unwrap();
        assert_empty(&temp);
    }
}

#[tokio::test]
async fn an_interrupted_quickstart_says_so_and_leaves_nothing() {
    let temp = folder("interrupted");
    let mut running = DevCommand::start(&["quickstart"], &temp);
    let provider = quickstart_provider(&mut running, &temp).await;
    // The worst moment: its first agent is on the engine and not ready yet.
    wait_until("an agent is on the engine", async || !provider.list_mine().await.unwrap().is_empty()).await;
    running.interrupt();
    let (code, told) = running.end().await;
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("error: interrupted") && !told.contains("All of it held."), "{told}");
    assert_nothing_left(&temp, &provider).await;
}

/// Fails unless nothing is in that folder, which goes.
fn assert_empty(temp: &Path) {
    let left: Vec<_> = std::fs::read_dir(temp).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(left.is_empty(), "{left:?}");
    std::fs::remove_dir(temp).unwrap();
}

async fn assert_nothing_left(temp: &Path, provider: &DockerProvider) {
    assert_empty(temp);
    let left = provider.list_mine().await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}

/// The engine as a quickstart's deployment sees it. Its folder is gone afterwards, so its name is read while it runs.
async fn quickstart_provider(running: &mut DevCommand, temp: &Path) -> DockerProvider {
    while !running.has_ended() {
        if let Some(deployment) = deployment_in(temp) {
            return tokio::task::spawn_blocking(move || provider_of(&deployment)).await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the quickstart ended before its state could be looked at");
}

fn deployment_in(temp: &Path) -> Option<String> {
    let folder = std::fs::read_dir(temp).ok()?.flatten().map(|entry| entry.path()).next()?;
    let name = folder.file_name()?.to_str()?;
    assert!(name.starts_with("theazo-"), "{name}");
    let text = std::fs::read_to_string(folder.join("stack/deployment")).ok()?;
    Some(text.trim().to_owned()).filter(|text| !text.is_empty())
}
