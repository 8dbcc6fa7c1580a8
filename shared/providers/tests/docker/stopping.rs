//! Stopping sandboxes and making them again: what stays, what goes, and that it can be interrupted anywhere.

use crate::support::{agent, environment, in_own_deployment, name, spec};
use bollard::models::VolumeCreateRequest;
use bollard::query_parameters::{KillContainerOptions, RemoveContainerOptionsBuilder, RemoveVolumeOptions};
use std::time::Duration;
use theazo_providers::{Environment, Language, OwnedSandbox, Presence, Provider, ProviderError, SandboxSpec};

/// What was kept, what lies in `/tmp` but for the look's own script, and the variables.
const LOOK: &str = "cat /data/kept; ls -A /tmp | grep -v '^theazo-'; printf '%s|%s|%s' \"$OLD\" \"$BOTH\" \"$NEW\"";

#[tokio::test]
async fn a_stopped_sandbox_keeps_its_files_and_runs_again_on_them_with_another_environment() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        let agent = agent(&spec);
        bed.provider.create(&spec, &environment(&[("OLD", "old"), ("BOTH", "before")])).await.unwrap();
        let write = "echo kept > /data/kept; chmod 600 /data/kept; ln -s kept /data/link; mkdir -p /data/a/b; \
                     head -c 5000000 /dev/zero > /data/a/b/big; echo lost > /tmp/lost; (sleep 300 &)";
        bed.output(&agent, Language::Bash, write).await;

        let kept = bed.provider.stop(&agent).await.unwrap();
        assert!(kept.bytes.is_some_and(|bytes| (5_000_000..5_100_000).contains(&bytes)), "{kept:?}");
        assert_eq!(bed.count(&agent).await, (0, 0, 1), "the volume is all there is");
        let listed = bed.provider.list_mine().await.unwrap();
        assert_eq!(listed, [OwnedSandbox { agent: spec.agent.clone(), presence: Presence::Kept }]);
        let refused = bed.provider.exec(&agent, crate::support::request(Language::Bash, ":")).await;
        assert!(matches!(refused, Err(ProviderError::SandboxGone)));
        bed.provider.stop(&agent).await.unwrap();

        let later = SandboxSpec { lifetime: Duration::from_secs(77), ..spec };
        bed.provider.resume(&later, &environment(&[("BOTH", "after"), ("NEW", "new")])).await.unwrap();
        assert_eq!(bed.count(&agent).await, (1, 1, 1));
        assert_eq!(bed.output(&agent, Language::Bash, LOOK).await, "kept\n|after|new");
        let modes = "stat -c '%a %U' /data/kept 2>/dev/null || python3 -c \"import os; s = os.stat('/data/kept'); \
                     print(oct(s.st_mode & 0o777)[2:], s.st_uid)\"; readlink /data/link; wc -c < /data/a/b/big";
        let modes = bed.output(&agent, Language::Bash, modes).await;
        assert!(modes.starts_with("600 ") && modes.ends_with("kept\n5000000\n"), "{modes}");
        let container = bed.container(&agent).await.config.unwrap();
        assert_eq!(container.cmd.unwrap(), ["init", "--lifetime", "77"], "the time that is left, not that of then");
        let host = bed.container(&agent).await.host_config.unwrap();
        assert_eq!((host.readonly_rootfs, host.cap_drop), (Some(true), Some(vec!["ALL".to_owned()])));
        bed.provider.destroy(&agent).await.unwrap();
        assert_eq!(bed.count(&agent).await, (0, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn without_its_files_nothing_is_stopped_and_nothing_made_again() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        let agent = agent(&spec);
        let none = Environment::default();
        for _ in 0..2 {
            assert!(matches!(bed.provider.stop(&agent).await, Err(ProviderError::SandboxGone)));
            assert!(matches!(bed.provider.resume(&spec, &none).await, Err(ProviderError::SandboxGone)));
            assert_eq!(bed.count(&agent).await, (0, 0, 0));
            // Nor with a volume of that name that is somebody else's.
            let foreign = VolumeCreateRequest { name: Some(name(&agent)), ..VolumeCreateRequest::default() };
            let _ = bed.docker.create_volume(foreign).await.unwrap();
            assert!(matches!(bed.provider.stop(&agent).await, Err(ProviderError::SandboxGone)));
            assert!(matches!(bed.provider.resume(&spec, &none).await, Err(ProviderError::SandboxGone)));
            bed.docker.remove_volume(&name(&agent), None::<RemoveVolumeOptions>).await.unwrap();
        }
    })
    .await;
}

#[tokio::test]
async fn a_stop_or_a_resume_that_was_interrupted_is_finished_by_the_next() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        let agent = agent(&spec);
        bed.provider.create(&spec, &environment(&[("OLD", "old")])).await.unwrap();
        bed.output(&agent, Language::Bash, "echo kept > /data/kept").await;
        // Stopped by somebody else before the environment could be taken away.
        bed.docker.kill_container(&name(&agent), None::<KillContainerOptions>).await.unwrap();
        assert_eq!(bed.provider.stop(&agent).await.unwrap().bytes, None);
        assert_eq!(bed.count(&agent).await, (0, 0, 1));
        // Only the container is gone.
        bed.provider.resume(&spec, &Environment::default()).await.unwrap();
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        bed.docker.remove_container(&name(&agent), Some(force)).await.unwrap();
        bed.provider.stop(&agent).await.unwrap();
        assert_eq!(bed.count(&agent).await, (0, 0, 1));
        // A resume that had come to its end without anybody knowing, and another after it.
        bed.provider.resume(&spec, &environment(&[("OLD", "old"), ("BOTH", "x")])).await.unwrap();
        bed.provider.resume(&spec, &environment(&[("NEW", "new")])).await.unwrap();
        assert_eq!(bed.output(&agent, Language::Bash, LOOK).await, "kept\n||new");
        assert_eq!(bed.count(&agent).await, (1, 1, 1));
    })
    .await;
}
