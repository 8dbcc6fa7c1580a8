//! What Fly's service does to calls: lists that lag, answers that are lost or come twice, storms, and what comes about after
//! everybody has stopped waiting. One agent has one of each thing, and what is over has none.

use crate::bed::{Bed, agent, environment, spec};
use crate::fly::{alter, app, fault, machine, manage, refuse};
use crate::secrets::{assert_not_kept, assert_not_on_record, canary};
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use theazo_fly_emulator::FaultKind;
use theazo_providers::{Environment, Presence, ProviderError, SandboxSpec};

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
