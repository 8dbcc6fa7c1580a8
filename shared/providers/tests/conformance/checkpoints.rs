//! The promises about checkpoints.

use crate::bed::{Bed, environment, request};
use crate::secrets::{assert_not_kept, canary};
use std::sync::Arc;
use theazo_providers::{AgentRef, Environment, Language, Presence, ProviderError};
use theazo_tenancy::CheckpointId;

crate::promises! { "checkpoints":
    Nothing a_checkpoint_has_the_files_of_its_moment_and_the_agent_runs_on;
    Nothing a_checkpoint_outlives_its_sandbox_and_is_booted_from_as_often_as_asked;
    Nothing a_checkpoint_that_was_removed_is_gone_and_others_stay;
    Nothing without_a_sandbox_there_is_no_checkpoint_and_without_a_checkpoint_no_boot;
    Nothing a_pause_and_a_resume_leave_checkpoints_alone;
    Processes what_runs_goes_on_through_a_checkpoint_and_links_and_modes_are_kept;
    Processes a_boot_from_a_checkpoint_delivers_the_values_of_now;
    Insight nothing_that_a_checkpoint_keeps_has_a_value_in_it;
}

fn id() -> String {
    CheckpointId::make().to_string()
}

async fn a_checkpoint_has_the_files_of_its_moment_and_the_agent_runs_on(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[("A", "b")]).await;
    let all: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    bed.write(&agent, "/data/dir/a name \u{fc}", &all).await.unwrap();
    bed.write(&agent, "/tmp/lost", b"lost").await.unwrap();
    let (first, second) = (id(), id());
    bed.provider.checkpoint(&agent, &first).await.unwrap();
    bed.write(&agent, "/data/dir/a name \u{fc}", b"changed").await.unwrap();
    bed.write(&agent, "/data/later", b"later").await.unwrap();
    bed.provider.checkpoint(&agent, &second).await.unwrap();
    // Again under the same id: what it has now.
    bed.write(&agent, "/data/latest", b"latest").await.unwrap();
    bed.provider.checkpoint(&agent, &second).await.unwrap();
    bed.provider.stop(&agent).await.unwrap();
    bed.provider.restore(&spec, &Environment::default(), &first).await.unwrap();
    assert_eq!(bed.read(&agent, "/data/dir/a name \u{fc}").await.unwrap(), all);
    for gone in ["/data/later", "/data/latest", "/tmp/lost"] {
        assert!(matches!(bed.read(&agent, gone).await, Err(ProviderError::FileNotFound)), "{gone}");
    }
    // Also of one that runs.
    bed.provider.restore(&spec, &Environment::default(), &second).await.unwrap();
    assert_eq!(bed.read(&agent, "/data/dir/a name \u{fc}").await.unwrap(), b"changed");
    assert_eq!(bed.read(&agent, "/data/latest").await.unwrap(), b"latest");
    bed.destroy(&agent).await;
    assert_left_nothing(&bed, &agent).await;
}

async fn assert_left_nothing(bed: &Bed, agent: &AgentRef) {
    if bed.name != "simulated" {
        assert_eq!(bed.listed(agent).await, None);
    }
}

async fn a_checkpoint_outlives_its_sandbox_and_is_booted_from_as_often_as_asked(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[]).await;
    bed.write(&agent, "/data/file", b"kept").await.unwrap();
    let kept = id();
    bed.provider.checkpoint(&agent, &kept).await.unwrap();
    for _ in 0..2 {
        bed.write(&agent, "/data/file", b"lost").await.unwrap();
        bed.provider.discard(&agent).await.unwrap();
        bed.provider.discard(&agent).await.unwrap();
        assert!(matches!(bed.read(&agent, "/data/file").await, Err(ProviderError::SandboxGone)));
        if bed.name != "simulated" {
            assert_eq!(bed.listed(&agent).await, Some(Presence::Kept), "its checkpoint is found");
        }
        bed.provider.restore(&spec, &Environment::default(), &kept).await.unwrap();
        assert_eq!(bed.read(&agent, "/data/file").await.unwrap(), b"kept");
    }
    bed.provider.discard(&agent).await.unwrap();
    bed.destroy(&agent).await;
    assert_left_nothing(&bed, &agent).await;
    assert!(bed.provider.restore(&spec, &Environment::default(), &kept).await.is_err());
}

async fn a_checkpoint_that_was_removed_is_gone_and_others_stay(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[]).await;
    let (first, second) = (id(), id());
    for (checkpoint, content) in [(&first, b"1"), (&second, b"2")] {
        bed.write(&agent, "/data/file", content).await.unwrap();
        bed.provider.checkpoint(&agent, checkpoint).await.unwrap();
    }
    for _ in 0..2 {
        bed.provider.remove_checkpoint(&agent, &second).await.unwrap();
    }
    let gone = bed.provider.restore(&spec, &Environment::default(), &second).await;
    assert!(matches!(gone, Err(ProviderError::SandboxGone)), "{gone:?}");
    assert_eq!(bed.read(&agent, "/data/file").await.unwrap(), b"2", "it was looked for first");
    bed.provider.restore(&spec, &Environment::default(), &first).await.unwrap();
    assert_eq!(bed.read(&agent, "/data/file").await.unwrap(), b"1");
    bed.destroy(&agent).await;
}

async fn without_a_sandbox_there_is_no_checkpoint_and_without_a_checkpoint_no_boot(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[]).await;
    let unknown = bed.provider.restore(&spec, &Environment::default(), &id()).await;
    assert!(matches!(unknown, Err(ProviderError::SandboxGone)), "{unknown:?}");
    bed.provider.remove_checkpoint(&agent, &id()).await.unwrap();
    bed.provider.stop(&agent).await.unwrap();
    for _ in 0..2 {
        let refused = bed.provider.checkpoint(&agent, &id()).await;
        assert!(matches!(refused, Err(ProviderError::SandboxGone)), "{refused:?}");
        bed.destroy(&agent).await;
    }
    assert_left_nothing(&bed, &agent).await;
}

async fn a_pause_and_a_resume_leave_checkpoints_alone(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[]).await;
    bed.write(&agent, "/data/file", b"1").await.unwrap();
    let kept = id();
    bed.provider.checkpoint(&agent, &kept).await.unwrap();
    bed.write(&agent, "/data/file", b"2").await.unwrap();
    bed.provider.stop(&agent).await.unwrap();
    bed.provider.resume(&spec, &Environment::default()).await.unwrap();
    assert_eq!(bed.read(&agent, "/data/file").await.unwrap(), b"2");
    bed.provider.restore(&spec, &Environment::default(), &kept).await.unwrap();
    assert_eq!(bed.read(&agent, "/data/file").await.unwrap(), b"1");
    bed.destroy(&agent).await;
}

async fn what_runs_goes_on_through_a_checkpoint_and_links_and_modes_are_kept(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[("A", "still here")]).await;
    let make = "mkdir -p /data/d; echo x > /data/d/secret; chmod 000 /data/d/secret; chmod 700 /data/d; ln -s d /data/l; \
                ln /data/d/secret /data/h; mkfifo /data/p; \
                (while sleep 0.05; do date +%s%N > /data/beat.new && mv /data/beat.new /data/beat; done > /dev/null 2>&1 &)";
    bed.bash(&agent, make).await;
    let kept = id();
    // Calls that come meanwhile are answered.
    let (made, ran) = tokio::join!(bed.provider.checkpoint(&agent, &kept), async {
        let mut said = Vec::new();
        for _ in 0..5 {
            said.push(bed.provider.exec(&agent, request(Language::Bash, "printf %s \"$A\"")).await);
        }
        said
    });
    made.unwrap();
    for output in ran {
        assert_eq!(output.unwrap().stdout, "still here");
    }
    let beats = "a=$(cat /data/beat); sleep 1; b=$(cat /data/beat); [ \"$a\" != \"$b\" ] && echo beats";
    assert_eq!(bed.bash(&agent, beats).await, "beats\n", "what ran goes on");
    bed.provider.restore(&spec, &Environment::default(), &kept).await.unwrap();
    let look = "stat -c '%a %h' /data/d/secret; stat -c %a /data/d; readlink /data/l; [ -p /data/p ] && echo pipe; \
                chmod 600 /data/h && cat /data/d/secret; wc -c < /data/beat";
    assert_eq!(bed.bash(&agent, look).await, "0 2\n700\nd\npipe\nx\n20\n");
    bed.destroy(&agent).await;
}

async fn a_boot_from_a_checkpoint_delivers_the_values_of_now(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[("OLD", "old"), ("BOTH", "before")]).await;
    let kept = id();
    bed.provider.checkpoint(&agent, &kept).await.unwrap();
    let now = environment(&[("BOTH", "after"), ("NEW", "new")]);
    bed.provider.restore(&spec, &now, &kept).await.unwrap();
    let look = "printf '%s|%s|%s' \"${OLD-none}\" \"$BOTH\" \"$NEW\"";
    assert_eq!(bed.bash(&agent, look).await, "none|after|new");
    bed.destroy(&agent).await;
}

async fn nothing_that_a_checkpoint_keeps_has_a_value_in_it(bed: Arc<Bed>) {
    let (value, looks) = canary();
    let (_, agent) = bed.create(&[("API_TOKEN", &value)]).await;
    bed.bash(&agent, "echo found > /data/file; (sleep 300 &)").await;
    let checkpoint = id();
    bed.provider.checkpoint(&agent, &checkpoint).await.unwrap();
    bed.provider.discard(&agent).await.unwrap();
    assert_not_kept(&bed, &checkpoint, &looks).await;
    if let Some(e2b) = &bed.e2b {
        assert!(!e2b.controls.records().iter().any(|record| record.kind == "snapshot"), "memory was kept");
    }
    bed.destroy(&agent).await;
}
