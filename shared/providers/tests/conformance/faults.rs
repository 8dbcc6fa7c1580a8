//! What networks and a busy service do to calls.

use crate::bed::{Bed, agent, environment, request, spec};
use crate::secrets::{assert_not_kept, assert_not_on_record, canary};
use std::time::{Duration, Instant};
use theazo_e2b_emulator::{Fault, FaultKind};
use theazo_providers::{Environment, ExecRequest, Language, Presence, Provider, ProviderError};

fn fault(bed: &Bed, method: &str, path: &str, times: u32, kind: FaultKind) {
    bed.emulator().controls.fault(Fault { method: method.into(), path: path.into(), times, kind });
}

fn refuse(status: u16, code: Option<&str>, headers: &[(&str, &str)]) -> FaultKind {
    let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    FaultKind::Refuse { status, code: code.map(str::to_owned), headers }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_goes_through_storms_lost_answers_and_repetitions_and_makes_one_sandbox() {
    let bed = Bed::e2b("storms").await;
    let (value, looks) = canary();
    let faults = [
        refuse(429, None, &[("retry-after", "0")]),
        refuse(503, None, &[]),
        refuse(500, None, &[("should-retry", "true")]),
        FaultKind::LoseAnswer,
        FaultKind::Reset,
        FaultKind::Twice,
    ];
    for kind in faults {
        fault(&bed, "POST", "/v2/sandboxes", 2, kind.clone());
        let spec = spec();
        bed.provider
            .create(&spec, &environment(&[("A", &value)]))
            .await
            .unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert_eq!(bed.bash(&agent(&spec), "printf $A").await, value, "{kind:?}");
        assert_eq!(bed.emulator().controls.left().len(), 1, "{kind:?}");
        bed.destroy(&agent(&spec)).await;
        // The second time may be left.
        let _ = bed.provider.create(&spec, &Environment::default()).await;
        bed.destroy(&agent(&spec)).await;
        assert_eq!(bed.emulator().controls.left(), [""; 0], "{kind:?}");
    }
    // However often it was sent, and whatever became of the answer.
    assert_not_on_record(&bed, &looks).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_goes_on_refusing_is_given_up_on_and_what_is_wrong_is_told_apart() {
    let bed = Bed::e2b("refusing").await;
    let create = || async { bed.provider.create(&spec(), &Environment::default()).await.unwrap_err() };
    fault(&bed, "POST", "/v2/sandboxes", 4, refuse(429, None, &[("retry-after", "0")]));
    assert!(matches!(create().await, ProviderError::NoCapacity));
    fault(
        &bed,
        "POST",
        "/v2/sandboxes",
        1,
        refuse(503, Some("sandbox_capacity_unavailable"), &[("should-retry", "false")]),
    );
    assert!(matches!(create().await, ProviderError::NoCapacity));
    fault(&bed, "POST", "/v2/sandboxes", 1, refuse(500, Some("internal_server_error"), &[]));
    assert!(matches!(create().await, ProviderError::Failed { status: Some(500), retryable: true, .. }));
    fault(&bed, "POST", "/v2/sandboxes", 4, FaultKind::Reset);
    assert!(matches!(create().await, ProviderError::Failed { status: None, retryable: true, .. }));
    assert_eq!(bed.emulator().controls.left(), [""; 0]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_about_after_its_create_was_given_up_is_found_and_removed() {
    let bed = Bed::e2b("given-up").await;
    let spec = spec();
    fault(&bed, "POST", "/v2/sandboxes", 1, FaultKind::Late { millis: 10_000 });
    let environment = Environment::default();
    let create = bed.provider.create(&spec, &environment);
    assert!(tokio::time::timeout(Duration::from_secs(2), create).await.is_err(), "it was waited for");
    bed.destroy(&agent(&spec)).await;
    assert_eq!(bed.emulator().controls.left(), [""; 0], "it has not come about yet");
    let until = Instant::now() + Duration::from_secs(30);
    while bed.provider.list_mine().await.unwrap().is_empty() {
        assert!(Instant::now() < until, "it never shows");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    bed.destroy(&agent(&spec)).await;
    assert_eq!(bed.emulator().controls.left(), [""; 0]);
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_created_sandbox_is_adopted_by_the_next_create_and_found_by_the_next_look() {
    let bed = Bed::e2b("half").await;
    let spec = spec();
    // The daemon does not come up for the first call, nor for its repetitions.
    fault(&bed, "POST", "/files", 1, refuse(401, None, &[]));
    bed.provider.create(&spec, &Environment::default()).await.unwrap_err();
    assert_eq!(bed.listed(&agent(&spec)).await, Some(Presence::Running));
    bed.provider.create(&spec, &environment(&[("A", "b")])).await.unwrap();
    assert_eq!(bed.bash(&agent(&spec), "printf $A").await, "b");
    assert_eq!(bed.emulator().controls.left().len(), 1);
    bed.destroy(&agent(&spec)).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pauses_resumes_and_removals_survive_lost_answers_and_repetitions() {
    let bed = Bed::e2b("life-faults").await;
    let (value, looks) = canary();
    let (spec, agent) = bed.create(&[("A", &value)]).await;
    bed.write(&agent, "/data/kept", b"found\n").await.unwrap();
    for kind in [FaultKind::LoseAnswer, FaultKind::Twice, refuse(503, None, &[]), FaultKind::Reset] {
        fault(&bed, "POST", "/pause", 1, kind.clone());
        bed.provider.stop(&agent).await.unwrap_or_else(|error| panic!("pause, {kind:?}: {error}"));
        assert_not_kept(&bed, &agent.agent, &looks).await;
        fault(&bed, "POST", "/connect", 1, kind.clone());
        fault(&bed, "POST", "/files", 1, refuse(502, None, &[]));
        bed.provider
            .resume(&spec, &environment(&[("A", &value)]))
            .await
            .unwrap_or_else(|error| panic!("{kind:?}: {error}"));
        assert_eq!(bed.bash(&agent, "printf $A; cat /data/kept").await, format!("{value}found\n"), "{kind:?}");
    }
    fault(&bed, "DELETE", "/sandboxes/", 1, FaultKind::LoseAnswer);
    fault(&bed, "GET", "/v2/sandboxes", 1, FaultKind::Reset);
    bed.destroy(&agent).await;
    assert_eq!(bed.emulator().controls.left(), [""; 0]);
    assert_not_on_record(&bed, &looks).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_and_boots_from_them_survive_lost_answers_and_repetitions() {
    let bed = Bed::e2b("checkpoint-faults").await;
    let (value, looks) = canary();
    let (spec, agent) = bed.create(&[("A", "b")]).await;
    for kind in [FaultKind::LoseAnswer, FaultKind::Twice, refuse(503, None, &[]), FaultKind::Reset] {
        let checkpoint = theazo_tenancy::CheckpointId::make().to_string();
        bed.write(&agent, "/data/kept", b"found\n").await.unwrap();
        fault(&bed, "POST", "/snapshots", 1, kind.clone());
        let made = bed.provider.checkpoint(&agent, &checkpoint).await;
        made.unwrap_or_else(|error| panic!("checkpoint, {kind:?}: {error}"));
        bed.write(&agent, "/data/kept", b"changed\n").await.unwrap();
        fault(&bed, "POST", "/v2/sandboxes", 1, kind.clone());
        fault(&bed, "DELETE", "/sandboxes/", 1, kind.clone());
        let restored = bed.provider.restore(&spec, &environment(&[("A", &value)]), &checkpoint).await;
        restored.unwrap_or_else(|error| panic!("restore, {kind:?}: {error}"));
        assert_eq!(bed.bash(&agent, "printf $A; cat /data/kept").await, format!("{value}found\n"), "{kind:?}");
        // Its sandbox and the checkpoint, once each.
        assert_eq!(bed.emulator().controls.left().len(), 2, "{kind:?}");
        assert_not_kept(&bed, &checkpoint, &looks).await;
        fault(&bed, "DELETE", "/templates/", 1, kind.clone());
        let removed = bed.provider.remove_checkpoint(&agent, &checkpoint).await;
        removed.unwrap_or_else(|error| panic!("removal, {kind:?}: {error}"));
        assert_eq!(bed.emulator().controls.left().len(), 1, "{kind:?}");
    }
    bed.destroy(&agent).await;
    assert_eq!(bed.emulator().controls.left(), [""; 0]);
    assert_not_on_record(&bed, &looks).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn code_whose_answer_breaks_off_is_not_run_again_and_does_not_run_on() {
    let bed = Bed::e2b("broken-exec").await;
    let (_, agent) = bed.create(&[]).await;
    fault(&bed, "POST", "/process.Process/Start", 1, FaultKind::LoseAnswer);
    let error = bed.provider.exec(&agent, request(Language::Bash, "echo x >> /data/runs")).await.err().unwrap();
    assert!(matches!(error, ProviderError::Failed { retryable: true, .. }), "{error}");
    assert_eq!(bed.bash(&agent, "cat /data/runs").await, "x\n");

    // One whose caller's patience is over: asked to end, with all that it has started.
    let slow = ExecRequest { timeout: Duration::ZERO, ..request(Language::Bash, "sleep 500.25 & sleep 500.25") };
    let begun = Instant::now();
    assert!(bed.provider.exec(&agent, slow).await.unwrap().timed_out);
    assert!(begun.elapsed() < Duration::from_secs(15));
    let left = "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -c '500[.]25' || true";
    assert_eq!(bed.bash(&agent, left).await, "0\n");
    bed.destroy(&agent).await;
    bed.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sandbox_that_ends_during_a_call_is_gone_and_not_a_failure() {
    let bed = Bed::e2b("ends").await;
    let (_, agent) = bed.create(&[]).await;
    let other = bed.emulator().provider(&bed.emulator().deployment);
    let (ran, ()) = tokio::join!(bed.provider.exec(&agent, request(Language::Bash, "sleep 300")), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        other.destroy(&agent).await.unwrap();
    });
    let error = ran.err().expect("its sandbox has ended");
    assert!(matches!(error, ProviderError::SandboxGone), "{error}");
    bed.end().await;
}
