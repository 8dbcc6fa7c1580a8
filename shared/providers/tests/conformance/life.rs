//! The promises about a sandbox's life.

use crate::bed::{Bed, agent, environment, request, spec};
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use theazo_providers::{AgentRef, Environment, Language, Presence, ProviderError, SandboxSpec};

crate::promises! { "life":
    Nothing creating_twice_with_one_id_gives_one_sandbox_with_its_files;
    Nothing creating_twice_at_the_same_moment_gives_one_sandbox;
    Nothing a_pause_keeps_files_beneath_data_and_nothing_else;
    Nothing pausing_is_idempotent_and_without_files_there_is_no_resume;
    Processes no_process_survives_a_pause;
    Nothing destroying_is_idempotent_and_leaves_nothing_running_or_paused;
    Processes all_of_many_are_listed_running_and_paused;
    Nothing a_sandbox_that_is_paused_or_gone_takes_no_calls;
    Nothing a_sandbox_ends_by_itself_when_its_time_is_over;
    Nothing two_agents_do_not_see_each_others_files;
    Nothing a_destroyed_agents_id_can_be_used_again;
    Nothing what_room_there_is_is_told_by_engines_and_by_nobody_else;
}

async fn creating_twice_with_one_id_gives_one_sandbox_with_its_files(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[]).await;
    bed.write(&agent, "/data/kept", b"kept").await.unwrap();
    bed.provider.create(&spec, &Environment::default()).await.unwrap();
    assert_eq!(bed.read(&agent, "/data/kept").await.unwrap(), b"kept");
    bed.destroy(&agent).await;
}

async fn creating_twice_at_the_same_moment_gives_one_sandbox(bed: Arc<Bed>) {
    let spec = spec();
    let nothing = Environment::default();
    let (one, other) = tokio::join!(bed.provider.create(&spec, &nothing), bed.provider.create(&spec, &nothing));
    assert!(one.is_ok() || other.is_ok(), "{one:?} {other:?}");
    let agent = agent(&spec);
    bed.write(&agent, "/data/file", b"x").await.unwrap();
    let (_, made_once) = bed.create(&[]).await;
    assert_eq!(bed.parts(&agent).await, bed.parts(&made_once).await, "{one:?} {other:?}");
    bed.destroy(&made_once).await;
    bed.destroy(&agent).await;
    assert_eq!(bed.parts(&agent).await.unwrap_or(0), 0);
    if bed.name != "simulated" {
        assert_eq!(bed.listed(&agent).await, None);
    }
}

async fn a_pause_keeps_files_beneath_data_and_nothing_else(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[]).await;
    bed.write(&agent, "/data/dir/kept", b"kept \0 bytes").await.unwrap();
    bed.write(&agent, "/tmp/lost", b"lost").await.unwrap();
    let kept = bed.provider.stop(&agent).await.unwrap();
    assert!(kept.bytes.is_some_and(|bytes| bytes >= 12), "{kept:?}");
    bed.provider.resume(&spec, &environment(&[])).await.unwrap();
    assert_eq!(bed.read(&agent, "/data/dir/kept").await.unwrap(), b"kept \0 bytes");
    assert!(matches!(bed.read(&agent, "/tmp/lost").await, Err(ProviderError::FileNotFound)));
    bed.destroy(&agent).await;
}

async fn pausing_is_idempotent_and_without_files_there_is_no_resume(bed: Arc<Bed>) {
    let (_, paused) = bed.create(&[]).await;
    bed.provider.stop(&paused).await.unwrap();
    bed.provider.stop(&paused).await.unwrap();
    bed.destroy(&paused).await;
    let nobody = spec();
    assert!(matches!(bed.provider.stop(&agent(&nobody)).await, Err(ProviderError::SandboxGone)));
    let resumed = bed.provider.resume(&nobody, &Environment::default()).await;
    assert!(matches!(resumed, Err(ProviderError::SandboxGone)));
}

async fn no_process_survives_a_pause(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[]).await;
    bed.bash(&agent, "(sleep 400.25 &); (setsid sleep 400.25 &)").await;
    bed.provider.stop(&agent).await.unwrap();
    bed.provider.resume(&spec, &Environment::default()).await.unwrap();
    let left = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '400[.]25' || true";
    assert_eq!(bed.bash(&agent, left).await, "0\n");
    bed.destroy(&agent).await;
}

async fn destroying_is_idempotent_and_leaves_nothing_running_or_paused(bed: Arc<Bed>) {
    let ((_, running), (_, paused)) = tokio::join!(bed.create(&[]), bed.create(&[]));
    bed.provider.stop(&paused).await.unwrap();
    if bed.name != "simulated" {
        assert_eq!(
            (bed.listed(&running).await, bed.listed(&paused).await),
            (Some(Presence::Running), Some(Presence::Kept))
        );
    }
    for agent in [&running, &paused] {
        bed.destroy(agent).await;
        bed.destroy(agent).await;
        if bed.name != "simulated" {
            assert_eq!(bed.listed(agent).await, None);
        }
    }
}

async fn all_of_many_are_listed_running_and_paused(bed: Arc<Bed>) {
    // More than two pages of a service's list have.
    let made = join_all((0..5).map(|_| bed.create(&[]))).await;
    let agents: Vec<_> = made.into_iter().map(|(_, agent)| agent).collect();
    let (running, paused) = agents.split_at(2);
    for agent in paused {
        bed.provider.stop(agent).await.unwrap();
    }
    bed.listed(&agents[0]).await;
    let all = bed.provider.list_mine().await.unwrap();
    let presence = |agent: &AgentRef| {
        let shown: Vec<_> = all.iter().filter(|sandbox| sandbox.agent == agent.agent).collect();
        shown.iter().map(|sandbox| sandbox.presence).collect::<Vec<_>>()
    };
    for (agents, expected) in [(running, Presence::Running), (paused, Presence::Kept)] {
        for agent in agents {
            assert_eq!(presence(agent), [expected], "{}", agent.agent);
        }
    }
    join_all(agents.iter().map(|agent| bed.destroy(agent))).await;
}

async fn a_sandbox_that_is_paused_or_gone_takes_no_calls(bed: Arc<Bed>) {
    let (_, agent) = bed.create(&[]).await;
    bed.provider.stop(&agent).await.unwrap();
    for _ in 0..2 {
        let ran = bed.provider.exec(&agent, request(Language::Bash, "true")).await;
        assert!(matches!(ran, Err(ProviderError::SandboxGone)));
        assert!(matches!(bed.read(&agent, "/data/x").await, Err(ProviderError::SandboxGone)));
        assert!(matches!(bed.write(&agent, "/data/x", b"x").await, Err(ProviderError::SandboxGone)));
        bed.destroy(&agent).await;
    }
}

async fn a_sandbox_ends_by_itself_when_its_time_is_over(bed: Arc<Bed>) {
    let spec = SandboxSpec { lifetime: Duration::from_secs(4), ..spec() };
    bed.provider.create(&spec, &Environment::default()).await.unwrap();
    let agent = agent(&spec);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(matches!(bed.read(&agent, "/data/x").await, Err(ProviderError::SandboxGone)));
    bed.destroy(&agent).await;
}

async fn two_agents_do_not_see_each_others_files(bed: Arc<Bed>) {
    let ((_, one), (_, other)) = tokio::join!(bed.create(&[]), bed.create(&[]));
    bed.write(&one, "/data/mine", b"x").await.unwrap();
    bed.write(&one, "/tmp/mine", b"x").await.unwrap();
    for path in ["/data/mine", "/tmp/mine"] {
        assert!(matches!(bed.read(&other, path).await, Err(ProviderError::FileNotFound)), "{path}");
    }
    bed.destroy(&one).await;
    bed.destroy(&other).await;
}

async fn a_destroyed_agents_id_can_be_used_again(bed: Arc<Bed>) {
    let (spec, agent) = bed.create(&[]).await;
    bed.write(&agent, "/data/old", b"x").await.unwrap();
    bed.destroy(&agent).await;
    bed.provider.create(&spec, &Environment::default()).await.unwrap();
    assert!(matches!(bed.read(&agent, "/data/old").await, Err(ProviderError::FileNotFound)));
    bed.destroy(&agent).await;
}

async fn what_room_there_is_is_told_by_engines_and_by_nobody_else(bed: Arc<Bed>) {
    let room = async || bed.provider.capacity().await.unwrap();
    let without = room().await;
    assert_eq!(without.is_some(), bed.engine.is_some(), "{without:?}");
    let (_, agent) = bed.create(&[]).await;
    let with = room().await;
    bed.destroy(&agent).await;
    // What else is tried at this moment takes places as well, and gives them back.
    if let (Some(without), Some(with)) = (without, with) {
        assert!(with.free < with.places && without.places == with.places, "{without:?} {with:?}");
    }
}
