//! What only Fly has: machines that others may stop or suspend, tokens that change, networks, regions, and a service that
//! answers before it has done what it answers.

use crate::bed::{Bed, FLY_TOKEN, agent, environment, request, spec};
use crate::secrets::{assert_not_kept, assert_not_on_record, canary};
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

fn refuse(status: u16, code: Option<&str>) -> FaultKind {
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

/// That one agent is there, with one machine, one volume and one address.
fn assert_one_of_each(bed: &Bed, after: &str) {
    let left = bed.fly_emulator().controls.left();
    let count = |of: fn(&str) -> bool| left.iter().filter(|id| of(id)).count();
    let machines = count(|id| id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let volumes = count(|id| id.starts_with("vol_"));
    let addresses = count(|id| id.starts_with("127."));
    assert_eq!((machines, volumes, addresses, left.len()), (1, 1, 1, 4), "{after}: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_just_made_is_not_made_again_because_no_list_shows_it_yet() {
    let bed = Bed::fly("lag").await;
    for times in [2, 4] {
        let spec = spec();
        fault(&bed, "GET", "/volumes", times, alter("", json!([])));
        fault(&bed, "GET", "/ip_assignments", times, alter("/ips", json!([])));
        // Before and after it is made; then it is asked for by its id.
        fault(&bed, "GET", "/machines", 2, alter("", json!([])));
        bed.provider.create(&spec, &environment(&[("A", "b")])).await.unwrap();
        assert_eq!(bed.bash(&agent(&spec), "printf $A").await, "b");
        assert_one_of_each(&bed, &format!("{times} lists"));
        bed.fly_emulator().controls.forgive();
        bed.destroy(&agent(&spec)).await;
    }
    // Go writes an empty list as nothing.
    for (path, place) in [("/volumes", ""), ("/machines", ""), ("/ip_assignments", "/ips"), ("/network_policies", "")] {
        fault(&bed, "GET", path, 1, alter(place, Value::Null));
    }
    let (spec, agent) = bed.create(&[]).await;
    assert_one_of_each(&bed, "null");
    for (path, place) in [("/v1/apps", "/apps"), ("/orgs/", "/machines"), ("/orgs/", "/error_regions")] {
        fault(&bed, "GET", path, 1, alter(place, Value::Null));
        bed.provider.list_mine().await.unwrap_or_else(|error| panic!("{path} {place}: {error}"));
    }
    bed.provider.create(&spec, &Environment::default()).await.unwrap();
    assert_one_of_each(&bed, "a create of what is there");
    bed.destroy(&agent).await;
    assert_eq!(bed.left().await, [""; 0]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_the_pages_of_one_list_have_passed_over_is_not_taken_for_gone() {
    let bed = Bed::fly("passed-over").await;
    let mut agents = Vec::new();
    for _ in 0..3 {
        agents.push(bed.create(&[]).await.1);
    }
    fault(&bed, "GET", "/v1/apps", 1, alter("/apps", json!([])));
    let listed = bed.provider.list_mine().await.unwrap();
    let listed: Vec<_> = listed.iter().map(|sandbox| (sandbox.agent.as_str(), sandbox.presence)).collect();
    for agent in &agents {
        assert!(listed.contains(&(agent.agent.as_str(), Presence::Running)), "{listed:?}");
        bed.destroy(agent).await;
    }
    assert_eq!((listed.len(), bed.left().await), (3, Vec::new()));
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lost_answer_made_is_looked_for_until_it_shows() {
    let bed = Bed::fly("late").await;
    let spec = spec();
    fault(&bed, "POST", "/v1/apps", 1, FaultKind::LoseAnswer);
    fault(&bed, "GET", "/v1/apps/", 3, refuse(404, None));
    // The last attempt of a create is the one that makes the machine.
    fault(&bed, "POST", "/machines", 4, refuse(500, None));
    fault(&bed, "POST", "/machines", 1, FaultKind::LoseAnswer);
    bed.provider.create(&spec, &environment(&[("A", "b")])).await.unwrap();
    assert_eq!(bed.bash(&agent(&spec), "printf $A").await, "b");
    assert_one_of_each(&bed, "lost answers");
    bed.destroy(&agent(&spec)).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_is_told_to_stop_is_told_until_it_has_and_one_that_failed_need_not_be() {
    let bed = Bed::fly("halting").await;
    let (spec, agent) = bed.create(&[]).await;
    for state in ["created", "starting", "started"] {
        fault(&bed, "GET", "/machines", 1, alter("/0/state", state.into()));
        // It is taken, and nothing comes of it.
        fault(&bed, "POST", "/stop", 1, refuse(200, None));
        fault(&bed, "GET", "/wait", 2, refuse(408, None));
        bed.provider.stop(&agent).await.unwrap_or_else(|error| panic!("{state}: {error}"));
        bed.fly_emulator().controls.forgive();
        assert_eq!(machine(&bed, &agent).await["state"], "stopped", "{state}");
        bed.provider.resume(&spec, &Environment::default()).await.unwrap();
    }
    for state in ["failed", "launch_failed"] {
        fault(&bed, "GET", "/machines", 1, alter("/0/state", state.into()));
        let begun = Instant::now();
        bed.provider.stop(&agent).await.unwrap_or_else(|error| panic!("{state}: {error}"));
        assert!(begun.elapsed() < Duration::from_secs(3), "{state}: nothing runs that could be waited for");
    }
    bed.destroy(&agent).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_goes_through_storms_lost_answers_and_repetitions_and_makes_one_of_each() {
    let bed = Bed::fly("storms").await;
    let (value, looks) = canary();
    let paths = ["/v1/apps", "/volumes", "/ip_assignments", "/network_policies", "/machines", "/exec"];
    let late = FaultKind::Delay { millis: 1500 };
    let faults =
        [refuse(429, None), FaultKind::LoseAnswer, FaultKind::Reset, FaultKind::Twice, refuse(503, None), late];
    for kind in faults {
        let spec = spec();
        for path in paths {
            fault(&bed, "POST", path, 1, kind.clone());
        }
        let made = bed.provider.create(&spec, &environment(&[("A", &value)])).await;
        made.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert_eq!(bed.bash(&agent(&spec), "printf $A").await, value, "{kind:?}");
        assert_one_of_each(&bed, &format!("{kind:?}"));
        bed.destroy(&agent(&spec)).await;
        assert_eq!(bed.fly_emulator().controls.left(), [""; 0], "{kind:?}");
    }
    // However often it was sent, and whatever became of the answer.
    assert_not_on_record(&bed, &looks).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_about_after_its_create_was_given_up_is_found_and_removed() {
    let bed = Bed::fly("given-up").await;
    for path in ["/v1/apps", "/volumes", "/machines"] {
        let spec = spec();
        fault(&bed, "POST", path, 1, FaultKind::Delay { millis: 5000 });
        let environment = Environment::default();
        let create = bed.provider.create(&spec, &environment);
        let given_up = tokio::time::timeout(Duration::from_secs(3), create).await;
        assert!(given_up.is_err(), "{path} was not waited for");
        bed.destroy(&agent(&spec)).await;
        // Until it has come about, and shows in lists.
        tokio::time::sleep(Duration::from_secs(8)).await;
        for owned in bed.provider.list_mine().await.unwrap() {
            assert_eq!(owned.agent, spec.agent, "{path}");
            bed.destroy(&agent(&spec)).await;
        }
        assert_eq!(bed.fly_emulator().controls.left(), [""; 0], "{path}");
    }
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_room_or_with_a_foreign_app_of_that_name_is_told_apart() {
    let bed = Bed::fly("refusing").await;
    let create = |spec: SandboxSpec| {
        let bed = &bed;
        async move { bed.provider.create(&spec, &Environment::default()).await.unwrap_err() }
    };
    for code in ["insufficient_capacity", "volume_placement_capacity"] {
        fault(&bed, "POST", "/machines", 1, refuse(409, Some(code)));
        assert!(matches!(create(spec()).await, ProviderError::NoCapacity), "{code}");
    }
    // What a 500 has made is looked for; here it goes on making nothing.
    fault(&bed, "POST", "/volumes", 5, refuse(500, Some("unknown")));
    let failed = create(spec()).await;
    assert!(matches!(failed, ProviderError::Failed { status: Some(500), .. }), "{failed}");
    let taken = crate::bed::spec();
    let body = json!({ "name": app(&agent(&taken)), "org_slug": "agents", "network": "somebody-elses" });
    manage(&bed, reqwest::Method::POST, "/apps", body).await;
    let refused = create(taken.clone()).await;
    assert!(matches!(refused, ProviderError::Failed { status: Some(422), .. }), "{refused}");
    bed.provider.destroy(&agent(&taken)).await.unwrap();
    assert!(bed.fly_emulator().controls.left().contains(&app(&agent(&taken))), "it is not ours to remove");
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_and_a_boot_from_it_survive_lost_answers_and_repetitions_and_leave_nothing_beside() {
    let bed = Bed::fly("fork-faults").await;
    let (spec, agent) = bed.create(&[]).await;
    bed.write(&agent, "/data/kept", b"then\n").await.unwrap();
    for kind in [FaultKind::Twice, FaultKind::LoseAnswer, refuse(503, None), FaultKind::Reset] {
        let checkpoint = theazo_tenancy::CheckpointId::make().to_string();
        fault(&bed, "POST", "/volumes", 1, kind.clone());
        bed.provider.checkpoint(&agent, &checkpoint).await.unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        bed.write(&agent, "/data/kept", b"now\n").await.unwrap();
        for path in ["/volumes", "/machines"] {
            fault(&bed, "POST", path, 1, kind.clone());
        }
        let restored = bed.provider.restore(&spec, &environment(&[]), &checkpoint).await;
        restored.unwrap_or_else(|error| panic!("restore, {kind:?}: {error}"));
        assert_eq!(bed.bash(&agent, "cat /data/kept").await.trim(), "then", "{kind:?}");
        bed.provider.remove_checkpoint(&agent, &checkpoint).await.unwrap();
        assert_one_of_each(&bed, &format!("{kind:?}"));
        bed.fly_emulator().controls.forgive();
    }
    bed.destroy(&agent).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_resumes_and_removals_survive_lost_answers_and_repetitions() {
    let bed = Bed::fly("life-faults").await;
    let (value, looks) = canary();
    let (spec, agent) = bed.create(&[("A", &value)]).await;
    bed.write(&agent, "/data/kept", b"found\n").await.unwrap();
    for kind in [FaultKind::LoseAnswer, FaultKind::Twice, refuse(503, None), FaultKind::Reset] {
        fault(&bed, "POST", "/stop", 1, kind.clone());
        fault(&bed, "GET", "/wait", 1, refuse(408, None));
        bed.provider.stop(&agent).await.unwrap_or_else(|error| panic!("pause, {kind:?}: {error}"));
        assert_not_kept(&bed, &agent.agent, &looks).await;
        fault(&bed, "POST", "/start", 1, kind.clone());
        fault(&bed, "POST", "/exec", 1, refuse(412, None));
        bed.provider
            .resume(&spec, &environment(&[("A", &value)]))
            .await
            .unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert_eq!(bed.bash(&agent, "printf $A; cat /data/kept").await, format!("{value}found\n"), "{kind:?}");
    }
    fault(&bed, "DELETE", "/apps/", 1, FaultKind::LoseAnswer);
    fault(&bed, "GET", "/apps/", 1, FaultKind::Reset);
    bed.destroy(&agent).await;
    assert_eq!(bed.left().await, [""; 0]);
    assert_not_on_record(&bed, &looks).await;
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
