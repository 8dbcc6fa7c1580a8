//! Making, adopting, listing and removing.

use crate::support::{agent, environment, in_own_deployment, name, request, spec};
use bollard::models::RestartPolicyNameEnum;
use bollard::query_parameters::{ListContainersOptionsBuilder, RemoveContainerOptionsBuilder};
use futures_util::future::join_all;
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use theazo_providers::docker::{DockerConfig, DockerProvider, Endpoint};
use theazo_providers::{Environment, Language, OwnedSandbox, Presence, Provider, ProviderError, SandboxSpec};

#[tokio::test]
async fn creating_one_agent_many_times_at_once_gives_one_sandbox() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        let none = Environment::default();
        let made = join_all((0..4).map(|_| bed.provider.create(&spec, &none)));
        for sandbox in made.await {
            assert_eq!(sandbox.unwrap().details.get("isolation").map(String::as_str), Some("runc"));
        }
        assert_eq!(bed.count(&agent(&spec)).await, (1, 1, 1));
        let label = format!("theazo.agent={}", spec.agent);
        let filter = HashMap::from([("label", vec![label.as_str()])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
        assert_eq!(bed.docker.list_containers(Some(options)).await.unwrap().len(), 1);
        let listed = bed.provider.list_mine().await.unwrap();
        assert_eq!(listed, [OwnedSandbox { agent: spec.agent.clone(), presence: Presence::Running }]);
        assert_eq!(bed.output(&agent(&spec), Language::Bash, "echo -n works").await, "works");
    })
    .await;
}

#[tokio::test]
async fn the_container_is_hardened_and_labelled() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        bed.provider.create(&spec, &environment(&[("A", "b")])).await.unwrap();
        let container = bed.container(&agent(&spec)).await;
        let host = container.host_config.unwrap();
        assert_eq!(host.cap_drop.unwrap(), ["ALL"]);
        assert_eq!(host.security_opt.unwrap(), ["no-new-privileges"]);
        assert_eq!((host.readonly_rootfs, host.privileged), (Some(true), Some(false)));
        assert_eq!((host.memory, host.memory_swap), (Some(1 << 30), Some(1 << 30)));
        assert_eq!((host.nano_cpus, host.pids_limit), (Some(1_000_000_000), Some(256)));
        assert!(host.binds.is_none_or(|binds| binds.is_empty()));
        assert!(host.port_bindings.is_none_or(|ports| ports.is_empty()));
        let ulimits = host.ulimits.unwrap();
        let limits: Vec<_> = ulimits.iter().map(|limit| (limit.name.as_deref(), limit.soft, limit.hard)).collect();
        assert!(limits.contains(&(Some("core"), Some(0), Some(0))), "{limits:?}");
        assert!(limits.iter().any(|(name, ..)| *name == Some("nofile")), "{limits:?}");
        assert_eq!(host.restart_policy.unwrap().name, Some(RestartPolicyNameEnum::NO));
        let tmpfs = host.tmpfs.unwrap();
        assert_eq!(tmpfs.keys().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(["/run/agent", "/tmp"]));
        for options in tmpfs.values() {
            assert!(["nosuid", "nodev", "size="].iter().all(|option| options.contains(option)), "{options}");
        }
        assert!(tmpfs["/run/agent"].contains("noexec"));
        let config = container.config.unwrap();
        assert_eq!(config.user.as_deref(), Some("10000:10000"));
        let labels = config.labels.unwrap();
        for (label, value) in [
            ("theazo.deployment", &bed.config.deployment),
            ("theazo.agent", &spec.agent),
            ("theazo.session", &spec.session),
            ("theazo.platform", &spec.platform),
        ] {
            assert_eq!(labels.get(label), Some(value));
        }
        let status = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status 2>/dev/null || \
                      python3 -c \"print(*[l.strip() for l in open('/proc/self/status') \
                      if l.split(':')[0] in ('CapEff','NoNewPrivs','Seccomp')], sep='\\n')\"";
        let status = bed.output(&agent(&spec), Language::Bash, status).await;
        let status: Vec<&str> = status.split_whitespace().collect();
        assert_eq!(status, ["CapEff:", "0000000000000000", "NoNewPrivs:", "1", "Seccomp:", "2"]);
        let write = bed.run(&agent(&spec), Language::Bash, "echo > /usr/local/x").await;
        assert_ne!(write.exit_code, 0, "the root file system can be written");
    })
    .await;
}

#[tokio::test]
async fn only_a_sandbox_with_internet_gets_a_network_that_leads_outside() {
    in_own_deployment(|bed| async move {
        let closed = spec();
        let open = SandboxSpec { internet: true, ..spec() };
        for (spec, internal) in [(&closed, true), (&open, false)] {
            bed.provider.create(spec, &Environment::default()).await.unwrap();
            let network = bed.network(&agent(spec)).await;
            assert_eq!(network.internal, Some(internal));
            let options = network.options.unwrap();
            assert_eq!(options.get("com.docker.network.bridge.enable_icc").unwrap(), "false");
            let bridge = options.get("com.docker.network.bridge.name").unwrap();
            assert!(bridge.starts_with("ag-") && bridge.len() == 11, "{bridge}");
            let subnet = network.ipam.unwrap().config.unwrap()[0].subnet.clone().unwrap();
            assert!(subnet.starts_with("10.213.") && subnet.ends_with("/29"), "{subnet}");
        }
        let opened = SandboxSpec { internet: true, ..closed };
        let adopted = bed.provider.create(&opened, &Environment::default()).await;
        assert!(matches!(adopted, Err(ProviderError::Failed { .. })), "an agent cannot gain internet by a retry");
    })
    .await;
}

#[tokio::test]
async fn destroying_leaves_nothing_and_can_be_repeated() {
    in_own_deployment(|bed| async move {
        let agent = bed.create().await;
        assert_eq!(bed.count(&agent).await, (1, 1, 1));
        let both = tokio::join!(bed.provider.destroy(&agent), bed.provider.destroy(&agent));
        both.0.unwrap();
        both.1.unwrap();
        assert_eq!(bed.count(&agent).await, (0, 0, 0));
        bed.provider.destroy(&agent).await.unwrap();
        assert_eq!(bed.provider.list_mine().await.unwrap(), []);

        let half = bed.create().await;
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        bed.docker.remove_container(&name(&half), Some(force)).await.unwrap();
        let left = bed.provider.list_mine().await.unwrap();
        assert_eq!(left, [OwnedSandbox { agent: half.agent.clone(), presence: Presence::Remains }]);
        bed.provider.destroy(&half).await.unwrap();
        assert_eq!(bed.count(&half).await, (0, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn what_another_deployment_made_is_neither_adopted_nor_listed_nor_removed() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        bed.provider.create(&spec, &Environment::default()).await.unwrap();
        let config = DockerConfig { deployment: format!("{}-other", bed.config.deployment), ..bed.config.clone() };
        let other = DockerProvider::new(config).unwrap();
        other.destroy(&agent(&spec)).await.unwrap();
        assert_eq!(other.list_mine().await.unwrap(), []);
        let adopted = other.create(&spec, &environment(&[("A", "b")])).await;
        assert!(matches!(adopted, Err(ProviderError::Failed { .. })));
        other.destroy(&agent(&spec)).await.unwrap();
        assert_eq!(bed.output(&agent(&spec), Language::Bash, "echo -n \"${A-untouched}\"").await, "untouched");
    })
    .await;
}

#[tokio::test]
async fn a_sandbox_ends_by_itself_when_its_lifetime_is_over() {
    in_own_deployment(|bed| async move {
        let spec = SandboxSpec { lifetime: Duration::from_secs(3), ..spec() };
        bed.provider.create(&spec, &Environment::default()).await.unwrap();
        let mut running = true;
        for _ in 0..100 {
            running = bed.provider.list_mine().await.unwrap()[0].presence == Presence::Running;
            if !running {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert!(!running);
        let exec = bed.provider.exec(&agent(&spec), request(Language::Bash, "true")).await;
        assert!(matches!(exec, Err(ProviderError::SandboxGone)));
    })
    .await;
}

#[tokio::test]
async fn an_image_that_is_not_on_the_engine_is_said_to_be_missing_and_the_rest_removed() {
    in_own_deployment(|bed| async move {
        let config = DockerConfig { image: "theazo-no-such-image:none".into(), ..bed.config.clone() };
        let provider = DockerProvider::new(config).unwrap();
        let spec = spec();
        let made = provider.create(&spec, &Environment::default()).await;
        let Err(error) = made else { panic!("made from no image") };
        assert!(error.to_string().contains("image"), "{error}");
        provider.destroy(&agent(&spec)).await.unwrap();
        assert_eq!(bed.count(&agent(&spec)).await, (0, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn an_engine_that_does_not_answer_is_unhealthy_and_not_an_error() {
    in_own_deployment(|bed| async move {
        let health = bed.provider.health().await;
        assert!(health.healthy && health.message.starts_with("Docker Engine "), "{}", health.message);
        let nowhere = Endpoint::parse("unix:///nonexistent/docker.sock").unwrap();
        let provider = DockerProvider::new(DockerConfig::new(nowhere, "none", "d")).unwrap();
        let health = provider.health().await;
        assert!(!health.healthy);
        assert!(health.message.contains("cannot be reached"), "{}", health.message);
    })
    .await;
}
