//! What only Fly has: machines that others may stop or suspend, tokens that change, networks, regions, and a service that
//! answers before it has done what it answers.

use crate::bed::{Bed, FLY_TOKEN, agent, environment, request, spec};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_fly_emulator::{Fault, FaultKind};
use theazo_providers::{AgentRef, Environment, ExecRequest, Language, Presence, Provider, ProviderError, SandboxSpec};

pub(crate) fn alter(place: &str, value: Value) -> FaultKind {
    FaultKind::Alter { place: place.into(), value }
}

/// A call as somebody with the account's token makes it.
pub(crate) async fn manage(bed: &Bed, method: reqwest::Method, path: &str, body: Value) -> Value {
    let url = format!("{}/v1{path}", bed.fly_emulator().url);
    for _ in 0..40 {
        let call = reqwest::Client::new().request(method.clone(), &url).header("authorization", FLY_TOKEN).json(&body);
        let answer = call.send().await.unwrap();
        if answer.status() != 429 {
            return serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default();
        }
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    panic!("{method} {path} is never taken")
}

pub(crate) fn app(agent: &AgentRef) -> String {
    agent.agent.replace('_', "-")
}

pub(crate) async fn machine(bed: &Bed, agent: &AgentRef) -> Value {
    manage(bed, reqwest::Method::GET, &format!("/apps/{}/machines", app(agent)), json!({})).await[0].clone()
}

pub(crate) fn fault(bed: &Bed, method: &str, path: &str, times: u32, kind: FaultKind) {
    bed.fly_emulator().controls.fault(Fault { method: method.into(), path: path.into(), times, kind });
}

pub(crate) fn refuse(status: u16, code: Option<&str>) -> FaultKind {
    FaultKind::Refuse { status, code: code.map(str::to_owned), headers: vec![("retry-after".into(), "0".into())] }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fly_can_show_of_a_machine_has_a_network_of_its_own_and_nothing_secret() {
    let bed = Bed::fly("shape").await;
    let (_, agent) = bed.create(&[("API_TOKEN", "v")]).await;
    let records = bed.fly_emulator().controls.records();
    let sent = |start: &str| {
        let found = records.iter().find(|record| record.subject.starts_with(start));
        found.unwrap_or_else(|| panic!("{start}")).content["request"].clone()
    };
    let made = sent("POST /apps?");
    assert_eq!(made["name"], app(&agent).as_str());
    let network = made["network"].as_str().unwrap();
    assert!(network.starts_with("theazo-") && network.ends_with(&app(&agent)), "{network}");
    let at = |start: &str| records.iter().position(|record| record.subject.starts_with(start)).unwrap();
    let path = format!("POST /apps/{}", app(&agent));
    assert!(at(&format!("{path}/network_policies")) < at(&format!("{path}/machines?")), "the policy is there first");
    let config = sent(&format!("{path}/machines?"))["config"].clone();
    assert!(config.get("env").is_none() && config.get("files").is_none(), "{config}");
    assert_eq!(config["restart"]["policy"], "no");
    let services = config["services"].as_array().unwrap().iter().map(|service| {
        (service["autostart"].clone(), service["ports"][0]["port"].clone(), service["ports"][0]["handlers"].clone())
    });
    let (own, ingress) = (json!([]), json!(["tls", "http"]));
    assert_eq!(services.collect::<Vec<_>>(), [(json!(false), json!(7443), own), (json!(false), json!(443), ingress)]);
    // The agent cannot reach what Fly's init offers inside, nor the directory of the machine's main process.
    let looks = "ls /.fly /run/theazo-machine; cat /run/theazo-machine/admitted; id -u; cat /run/agent/env | wc -c";
    let output = bed.run(&agent, Language::Bash, looks).await;
    let (said, refused) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(said.lines().next(), Some("10001"), "{said}");
    assert_eq!(refused.matches("Permission denied").count(), 3, "{refused}");
    assert!(
        !bed.run(&agent, Language::Bash, "kill -9 $(pgrep -x theazo-machine || pidof theazo-machine)").await.timed_out
    );
    assert_eq!(bed.bash(&agent, "printf $API_TOKEN").await, "v", "the main process is not the agent's to end");
    bed.destroy(&agent).await;
    assert_eq!(bed.left().await, [""; 0]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_region_is_honoured_and_shown_and_one_that_is_none_makes_nothing() {
    let bed = Bed::fly("regions").await;
    let asked = SandboxSpec { region: Some("ams".into()), ..spec() };
    let made = bed.provider.create(&asked, &Environment::default()).await.unwrap();
    assert_eq!(made.region.as_deref(), Some("ams"));
    assert_eq!(machine(&bed, &agent(&asked)).await["region"], "ams");
    bed.provider.stop(&agent(&asked)).await.unwrap();
    assert_eq!(bed.provider.resume(&asked, &Environment::default()).await.unwrap().region.as_deref(), Some("ams"));
    bed.destroy(&agent(&asked)).await;
    let usual = bed.provider.create(&spec(), &Environment::default()).await.unwrap();
    assert_eq!(usual.region.as_deref(), Some("iad"), "the account's own");
    let nowhere = SandboxSpec { region: Some("mars".into()), ..spec() };
    let refused = bed.provider.create(&nowhere, &Environment::default()).await.unwrap_err();
    assert!(matches!(refused, ProviderError::UnknownRegion), "{refused}");
    assert_eq!(bed.listed(&agent(&nowhere)).await, None);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn another_process_and_another_token_of_the_account_find_the_machine_and_a_stranger_is_refused() {
    let bed = Bed::fly("tokens").await;
    let (_, agent) = bed.create(&[("A", "b")]).await;
    let served = bed.fly_emulator();
    let run = |provider: theazo_providers::fly::FlyProvider| {
        let agent = agent.clone();
        async move { provider.exec(&agent, request(Language::Bash, "printf $A")).await.map(|output| output.stdout) }
    };
    assert_eq!(run(served.provider(&served.deployment, FLY_TOKEN)).await.unwrap(), "b");
    // As after a change of the credential: tokens of machines are derived from it.
    let other = served.provider(&served.deployment, "Bearer fm2_0123456789abcdef0123");
    assert_eq!(run(other).await.unwrap(), "b", "the same token in another scheme");
    let digest = "00".repeat(32);
    let path = format!("/apps/{}/machines/{}/exec", app(&agent), machine(&bed, &agent).await["id"].as_str().unwrap());
    let command = json!({ "command": ["/usr/local/bin/theazo-machine", "admit", digest] });
    manage(&bed, reqwest::Method::POST, &path, command).await;
    assert_eq!(bed.bash(&agent, "printf $A").await, "b", "whom the machine does not admit any more is admitted anew");
    // Of another deployment in the same account nothing is listed, read or removed.
    let stranger = served.provider("another", FLY_TOKEN);
    assert_eq!(stranger.list_mine().await.unwrap(), []);
    stranger.destroy(&agent).await.unwrap();
    assert_eq!(bed.bash(&agent, "printf $A").await, "b");
    let wrong = served.provider(&served.deployment, "fm2_wrong");
    let health = wrong.health().await;
    assert!(!health.healthy && !health.message.contains("fm2_wrong"), "{}", health.message);
    let refused = wrong.create(&spec(), &Environment::default()).await.unwrap_err();
    assert!(matches!(refused, ProviderError::Failed { status: Some(401), retryable: false, .. }), "{refused}");
    assert!(bed.provider.health().await.healthy);
    bed.destroy(&agent).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_restarted_behind_our_back_runs_nothing_without_its_variables() {
    let bed = Bed::fly("pinned").await;
    let (spec, agent) = bed.create(&[("A", "b")]).await;
    assert_eq!(bed.bash(&agent, "printf $A").await, "b");
    bed.write(&agent, "/data/kept", b"kept").await.unwrap();
    // The machine restarts behind our back, and so has another key.
    bed.fly_emulator().controls.crash(&app(&agent));
    let path = format!("/apps/{}/machines/{}", app(&agent), machine(&bed, &agent).await["id"].as_str().unwrap());
    let until = Instant::now() + Duration::from_secs(10);
    while machine(&bed, &agent).await["state"] != "stopped" {
        assert!(Instant::now() < until);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let ran = bed.provider.exec(&agent, request(Language::Bash, "true")).await;
    assert!(matches!(ran, Err(ProviderError::SandboxGone)));
    manage(&bed, reqwest::Method::POST, &format!("{path}/start"), json!({})).await;
    manage(&bed, reqwest::Method::GET, &format!("{path}/wait?state=started&timeout=10"), json!({})).await;
    // It runs, with nothing delivered, and so is not the sandbox that was made, as little as a container that was started
    // again. Its files are there.
    for _ in 0..2 {
        let ran = bed.provider.exec(&agent, request(Language::Bash, "echo ran > /data/ran")).await;
        assert!(matches!(ran, Err(ProviderError::SandboxGone)));
        assert!(matches!(bed.read(&agent, "/data/kept").await, Err(ProviderError::SandboxGone)));
    }
    bed.provider.stop(&agent).await.unwrap();
    bed.provider.resume(&spec, &environment(&[("A", "c")])).await.unwrap();
    assert_eq!(bed.bash(&agent, "printf $A; cat /data/kept; ls /data/ran 2>/dev/null || true").await, "ckept");
    // Nothing to deliver is a delivery as well.
    bed.provider.stop(&agent).await.unwrap();
    bed.provider.resume(&spec, &Environment::default()).await.unwrap();
    let served = bed.fly_emulator();
    let other = served.provider(&served.deployment, FLY_TOKEN);
    assert_eq!(other.exec(&agent, request(Language::Bash, "printf ${A-none}")).await.unwrap().stdout, "none");
    bed.destroy(&agent).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_the_service_does_not_find_for_a_moment_is_not_taken_for_gone() {
    let bed = Bed::fly("flaps").await;
    let (spec, agent) = bed.create(&[("A", "b")]).await;
    let served = bed.fly_emulator();
    // A process that has not spoken to the machine yet asks for it first.
    let run = || async {
        let ran =
            served.provider(&served.deployment, FLY_TOKEN).exec(&agent, request(Language::Bash, "printf $A")).await;
        ran.map(|output| output.stdout)
    };
    for (method, path) in [("POST", "/exec"), ("GET", "/machines"), ("GET", "/ip_assignments")] {
        fault(&bed, method, path, 1, refuse(404, None));
        assert_eq!(run().await.unwrap_or_else(|error| panic!("{method} {path}: {error}")), "b");
    }
    // Also while it looks whether the machine that refused is still there.
    fault(&bed, "POST", "/exec", 1, refuse(404, None));
    fault(&bed, "GET", "/machines", 2, refuse(404, None));
    assert_eq!(run().await.unwrap(), "b");
    fault(&bed, "POST", "/exec", 1, refuse(412, None));
    fault(&bed, "GET", "/machines", 1, alter("", json!([])));
    assert_eq!(run().await.unwrap(), "b");
    // One that is under way is neither there nor gone.
    for state in ["restarting", "updating", "replacing", "created", "starting", "stopping"] {
        fault(&bed, "GET", "/machines", 1, alter("/0/state", state.into()));
        assert_eq!(run().await.unwrap_or_else(|error| panic!("{state}: {error}")), "b");
    }
    fault(&bed, "GET", "/machines", 1000, alter("/0/state", "restarting".into()));
    let refused = run().await.unwrap_err();
    assert!(matches!(refused, ProviderError::Failed { retryable: true, .. }), "{refused}");
    served.controls.forgive();
    // A service that finds the app and goes on not finding what is in it has lost sight, and not we the machine.
    fault(&bed, "GET", "/machines", 1000, refuse(404, None));
    let refused = run().await.unwrap_err();
    assert!(matches!(refused, ProviderError::Failed { retryable: true, .. }), "{refused}");
    let refused = bed.provider.list_mine().await.map(|all| all.len());
    assert!(!matches!(refused, Ok(0)), "no agent may be taken for lost: {refused:?}");
    served.controls.forgive();
    // A list in which a region is missing may be without agents that run there.
    fault(&bed, "GET", "/orgs/", 1, alter("/error_regions", json!(["iad"])));
    let refused = bed.provider.list_mine().await.unwrap_err();
    assert!(matches!(refused, ProviderError::Failed { retryable: true, .. }), "{refused}");
    assert_eq!(bed.listed(&agent).await, Some(Presence::Running));
    for (method, path) in [("GET", "/machines"), ("POST", "/stop"), ("GET", "/wait"), ("GET", "/machines/")] {
        fault(&bed, method, path, 1, refuse(404, None));
        bed.provider.stop(&agent).await.unwrap_or_else(|error| panic!("stop, {method} {path}: {error}"));
        bed.provider.resume(&spec, &environment(&[("A", "b")])).await.unwrap();
    }
    for (method, path) in [("GET", "/machines"), ("POST", "/start"), ("GET", "/wait"), ("GET", "/machines/")] {
        bed.provider.stop(&agent).await.unwrap();
        fault(&bed, method, path, 1, refuse(404, None));
        let resumed = bed.provider.resume(&spec, &environment(&[("A", "b")])).await;
        resumed.unwrap_or_else(|error| panic!("resume, {method} {path}: {error}"));
    }
    fault(&bed, "GET", &format!("/apps/{}/machines", app(&agent)), 1, refuse(404, None));
    fault(&bed, "GET", "/orgs/", 1, alter("/machines", json!([])));
    assert_eq!(bed.listed(&agent).await, Some(Presence::Running));
    fault(&bed, "GET", &format!("/apps/{}/machines", app(&agent)), 1, alter("/0/state", "restarting".into()));
    fault(&bed, "GET", "/orgs/", 1, alter("/machines", json!([])));
    assert_eq!(bed.listed(&agent).await, Some(Presence::Running), "what comes up again is not lost");
    fault(&bed, "GET", "/v1/apps/", 1, refuse(404, None));
    bed.destroy(&agent).await;
    assert_eq!(served.controls.left(), [""; 0], "an app is not removed because it was not seen");
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_somebody_suspended_loses_its_memory_before_it_runs_again() {
    let bed = Bed::fly("suspended").await;
    let (spec, agent) = bed.create(&[("A", "old")]).await;
    bed.write(&agent, "/data/kept", b"kept").await.unwrap();
    bed.bash(&agent, "(sleep 400.25 &)").await;
    let path = format!("/apps/{}/machines/{}", app(&agent), machine(&bed, &agent).await["id"].as_str().unwrap());
    manage(&bed, reqwest::Method::POST, &format!("{path}/suspend"), json!({})).await;
    bed.provider.resume(&spec, &Environment::default()).await.unwrap();
    let left =
        "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '400[.]25'; printf ${A-none}; cat /data/kept";
    assert_eq!(String::from_utf8_lossy(&bed.run(&agent, Language::Bash, left).await.stdout), "0\nnonekept");
    manage(&bed, reqwest::Method::POST, &format!("{path}/suspend"), json!({})).await;
    bed.provider.stop(&agent).await.unwrap();
    assert_eq!(machine(&bed, &agent).await["state"], "stopped");
    bed.destroy(&agent).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn code_whose_caller_goes_away_does_not_run_on() {
    let bed = Bed::fly("gone-caller").await;
    let (_, agent) = bed.create(&[]).await;
    let slow = ExecRequest {
        timeout: Duration::from_secs(300),
        ..request(Language::Bash, "(setsid sleep 500.25 &); sleep 500.25")
    };
    let given_up = tokio::time::timeout(Duration::from_secs(1), bed.provider.exec(&agent, slow)).await;
    assert!(given_up.is_err());
    let left = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '500[.]25' || true";
    let until = Instant::now() + Duration::from_secs(15);
    while bed.bash(&agent, left).await != "0\n" {
        assert!(Instant::now() < until, "it runs on");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    bed.destroy(&agent).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_ends_during_a_call_is_gone_and_not_a_failure() {
    let bed = Bed::fly("ends").await;
    let (_, agent) = bed.create(&[]).await;
    let (ran, ()) = tokio::join!(bed.provider.exec(&agent, request(Language::Bash, "sleep 300.25")), async {
        let begun = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c 'sleep 300[.]25' || true";
        let until = Instant::now() + Duration::from_secs(15);
        while bed.bash(&agent, begun).await == "0\n" {
            assert!(Instant::now() < until, "it does not begin");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Whoever was connected knows before the service does.
        fault(&bed, "GET", "/machines", 3, alter("/0/state", "started".into()));
        bed.fly_emulator().controls.crash(&app(&agent));
    });
    let failure = ran.err().map(|error| format!("{error:?}"));
    assert_eq!(failure, Some(format!("{:?}", ProviderError::SandboxGone)));
    assert_eq!(bed.listed(&agent).await, Some(Presence::Kept));
    bed.destroy(&agent).await;
    bed.end().await;
}
