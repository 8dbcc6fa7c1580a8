//! The promises about delivered values: who sees them, how long, and where they are not.

use crate::support::{Bed, agent, environment, in_own_deployment, name, spec};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use bollard::models::{ContainerConfig, ContainerCreateBody, HostConfig, Mount, MountType};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, DownloadFromContainerOptionsBuilder,
    EventsOptionsBuilder, LogsOptionsBuilder, RemoveImageOptions, RestartContainerOptions,
};
use futures_util::{Stream, StreamExt};
use std::time::{SystemTime, UNIX_EPOCH};
use theazo_providers::{AgentRef, Language, Provider, ProviderError};
use theazo_tenancy::CheckpointId;

const PYTHON: &str = "import os; print(os.environ.get('API_TOKEN'), end='')";
const NODE: &str = "process.stdout.write(String(process.env.API_TOKEN))";
const BASH: &str = "printf %s \"$API_TOKEN\"";

#[tokio::test]
async fn python_node_and_bash_and_their_children_see_the_delivered_values() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        let value = "line one\nline \"two\" = ü 🦀 $HOME";
        bed.provider.create(&spec, &environment(&[("API_TOKEN", value), ("EMPTY", "")])).await.unwrap();
        let agent = agent(&spec);
        assert_eq!(bed.output(&agent, Language::Python, PYTHON).await, value);
        assert_eq!(bed.output(&agent, Language::Node, NODE).await, value);
        assert_eq!(bed.output(&agent, Language::Bash, BASH).await, value);
        let child = "bash -c 'printf %s \"$API_TOKEN\"'";
        assert_eq!(bed.output(&agent, Language::Bash, child).await, value);
        assert_eq!(bed.output(&agent, Language::Bash, "printf %s \"${EMPTY-unset}\"").await, "");
    })
    .await;
}

#[tokio::test]
async fn values_stay_until_the_sandbox_stops_and_are_gone_after_a_restart() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        bed.provider.create(&spec, &environment(&[("API_TOKEN", "kept-until-stop")])).await.unwrap();
        let agent = agent(&spec);
        for _ in 0..3 {
            assert_eq!(bed.output(&agent, Language::Bash, BASH).await, "kept-until-stop");
        }
        bed.docker.restart_container(&name(&agent), None::<RestartContainerOptions>).await.unwrap();
        assert_eq!(bed.output(&agent, Language::Python, PYTHON).await, "None");
        // The mode survives the restart, so that the next delivery is as private as the first.
        let mode = "import os; s = os.stat('/run/agent'); print(oct(s.st_mode & 0o7777), s.st_uid, s.st_gid, end='')";
        assert_eq!(bed.output(&agent, Language::Python, mode).await, "0o750 0 10001");
    })
    .await;
}

#[tokio::test]
async fn creating_again_delivers_the_current_values_and_drops_the_others() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        let first = environment(&[("API_TOKEN", "old"), ("DROPPED", "x")]);
        bed.provider.create(&spec, &first).await.unwrap();
        bed.provider.create(&spec, &environment(&[("API_TOKEN", "new")])).await.unwrap();
        let both = "printf '%s %s' \"$API_TOKEN\" \"${DROPPED-none}\"";
        assert_eq!(bed.output(&agent(&spec), Language::Bash, both).await, "new none");
    })
    .await;
}

#[tokio::test]
async fn a_variable_that_cannot_be_delivered_leaves_nothing_behind() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        let refused = bed.provider.create(&spec, &environment(&[("A", "nul\0inside")])).await;
        assert!(matches!(refused, Err(ProviderError::Failed { retryable: false, .. })));
        assert_eq!(bed.count(&agent(&spec)).await, (0, 0, 0));
    })
    .await;
}

#[tokio::test]
async fn agent_code_can_neither_change_nor_remove_the_delivered_values() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        bed.provider.create(&spec, &environment(&[("API_TOKEN", "fixed")])).await.unwrap();
        let attack = "cd /run/agent; (echo API_TOKEN=x > env) 2>/dev/null; (echo > other) 2>/dev/null; \
                      python3 -c \"import os; os.unlink('/run/agent/env')\" 2>/dev/null; ls -A /run/agent";
        assert_eq!(bed.output(&agent(&spec), Language::Bash, attack).await, "env\n");
        assert_eq!(bed.output(&agent(&spec), Language::Bash, BASH).await, "fixed");
    })
    .await;
}

/// A value and what it looks like in the usual encodings. The value is surrounded by other bytes where it is
/// found, so the base64 forms are those of its middle, for each of the three alignments.
struct Canary(Vec<Vec<u8>>);

impl Canary {
    fn of(value: &str) -> Self {
        let bytes = value.as_bytes();
        let mut looks = vec![bytes.to_vec(), hex::encode(bytes).into_bytes(), hex::encode_upper(bytes).into_bytes()];
        for skip in 0..3 {
            let whole_groups = &bytes[skip..];
            let whole_groups = &whole_groups[..whole_groups.len() / 3 * 3];
            looks.push(STANDARD_NO_PAD.encode(whole_groups).into_bytes());
            looks.push(URL_SAFE_NO_PAD.encode(whole_groups).into_bytes());
        }
        Self(looks)
    }

    fn is_in(&self, haystack: &[u8]) -> bool {
        self.0.iter().any(|look| haystack.windows(look.len()).any(|window| window == look.as_slice()))
    }

    /// Searches a stream piece by piece, and across the borders of the pieces.
    async fn is_in_stream<E: std::fmt::Debug>(
        &self,
        mut pieces: impl Stream<Item = Result<bytes::Bytes, E>> + Unpin,
    ) -> (bool, usize) {
        let longest = self.0.iter().map(Vec::len).max().unwrap();
        let (mut window, mut total) = (Vec::new(), 0);
        while let Some(piece) = pieces.next().await {
            let piece = piece.unwrap();
            total += piece.len();
            window.extend_from_slice(&piece);
            if self.0.iter().any(|look| memchr::memmem::find(&window, look).is_some()) {
                return (true, total);
            }
            window.drain(..window.len().saturating_sub(longest));
        }
        (false, total)
    }
}

#[tokio::test]
async fn nothing_that_the_engine_shows_keeps_or_exports_has_a_value_in_it() {
    in_own_deployment(|bed| async move {
        let value = format!("canary-{}-value", theazo_tenancy::AgentId::make());
        let canary = Canary::of(&value);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 1;
        let spec = spec();
        bed.provider.create(&spec, &environment(&[("API_TOKEN", &value)])).await.unwrap();
        let agent = agent(&spec);
        assert_eq!(bed.output(&agent, Language::Python, PYTHON).await, value);
        assert_eq!(bed.output(&agent, Language::Node, NODE).await, value);

        // The search itself must be able to find something.
        assert!(canary.is_in(format!("x{value}y").as_bytes()));
        for padding in ["", "=", "a="] {
            assert!(canary.is_in(STANDARD_NO_PAD.encode(format!("{padding}{value}")).as_bytes()));
        }
        in_the_answers(&bed, &agent, &canary, since).await;
        in_the_images(&bed, &agent, &canary).await;
    })
    .await;
}

async fn in_the_answers(bed: &Bed, agent: &AgentRef, canary: &Canary, since: u64) {
    let name = name(agent);
    let container = bed.container(agent).await;
    let image = bed.docker.inspect_image(&bed.config.image).await.unwrap();
    let of_image = image.config.and_then(|config| config.env).unwrap_or_default();
    assert_eq!(container.config.as_ref().unwrap().env.clone().unwrap_or_default(), of_image, "nothing of ours");
    assert!(!canary.is_in(&serde_json::to_vec(&container).unwrap()));
    for exec in container.exec_ids.iter().flatten() {
        let exec = bed.docker.inspect_exec(exec).await.unwrap();
        assert!(!canary.is_in(&serde_json::to_vec(&exec).unwrap()));
    }
    assert!(!canary.is_in(&serde_json::to_vec(&bed.network(agent).await).unwrap()));
    assert!(!canary.is_in(&serde_json::to_vec(&bed.docker.inspect_volume(&name).await.unwrap()).unwrap()));
    let changes = bed.docker.container_changes(&name).await.unwrap();
    assert!(!canary.is_in(&serde_json::to_vec(&changes).unwrap()));

    let logs = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    let logs: Vec<_> = bed.docker.logs(&name, Some(logs)).collect().await;
    let logs: Vec<u8> = logs.into_iter().flat_map(|line| line.unwrap().into_bytes()).collect();
    assert!(!canary.is_in(&logs));

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let window = EventsOptionsBuilder::default().since(&since.to_string()).until(&(now + 1).to_string()).build();
    let events: Vec<_> = bed.docker.events(Some(window)).collect().await;
    let events: Vec<u8> = events.into_iter().flat_map(|event| serde_json::to_vec(&event.unwrap()).unwrap()).collect();
    let text = String::from_utf8_lossy(&events);
    assert!(text.contains(&name) && text.contains("exec_create"), "the events must include this container's execs");
    assert!(!canary.is_in(&events));
}

async fn in_the_images(bed: &Bed, agent: &AgentRef, canary: &Canary) {
    let name = name(agent);
    let (found, bytes) = canary.is_in_stream(Box::pin(bed.docker.export_container(&name))).await;
    assert!(bytes > 1024 * 1024, "an export of {bytes} bytes is no file system");
    assert!(!found, "the export has a value");

    let options =
        CommitContainerOptionsBuilder::default().container(&name).repo("theazo-test-commit").tag(&name).build();
    bed.docker.commit_container(options, ContainerConfig::default()).await.unwrap();
    let committed = format!("theazo-test-commit:{name}");
    let shown = bed.docker.inspect_image(&committed).await.unwrap();
    let history = bed.docker.image_history(&committed).await.unwrap();
    let saved = canary.is_in_stream(Box::pin(bed.docker.export_image(&committed))).await;
    bed.docker.remove_image(&committed, None::<RemoveImageOptions>, None).await.unwrap();
    assert!(!canary.is_in(&serde_json::to_vec(&shown).unwrap()));
    assert!(!canary.is_in(&serde_json::to_vec(&history).unwrap()));
    assert!(saved.1 > 1024 * 1024 && !saved.0, "the committed image has a value");
}

/// The whole of a volume, as the engine exports it.
async fn archive_of(bed: &Bed, volume: &str) -> Vec<u8> {
    let reader = format!("{volume}-reader");
    let mounts = vec![Mount {
        target: Some("/kept".into()),
        source: Some(volume.into()),
        typ: Some(MountType::VOLUME),
        ..Mount::default()
    }];
    let body = ContainerCreateBody {
        image: Some(bed.config.image.clone()),
        host_config: Some(HostConfig { mounts: Some(mounts), ..HostConfig::default() }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::default().name(&reader).build();
    bed.docker.create_container(Some(options), body).await.unwrap();
    let path = DownloadFromContainerOptionsBuilder::default().path("/kept").build();
    let archive: Vec<_> = bed.docker.download_from_container(&reader, Some(path)).collect().await;
    bed.docker.remove_container(&reader, None).await.unwrap();
    archive.into_iter().flat_map(|piece| piece.unwrap()).collect()
}

#[tokio::test]
async fn what_a_stopped_sandbox_leaves_has_no_value_in_it_and_what_was_deleted_does_not_come_back() {
    in_own_deployment(|bed| async move {
        let value = format!("canary-{}-value", theazo_tenancy::AgentId::make());
        let canary = Canary::of(&value);
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs() - 1;
        let spec = spec();
        bed.provider.create(&spec, &environment(&[("API_TOKEN", &value)])).await.unwrap();
        let agent = agent(&spec);
        assert_eq!(bed.output(&agent, Language::Python, PYTHON).await, value);
        bed.output(&agent, Language::Bash, "echo found > /data/file; (sleep 300 &)").await;
        let checkpoint = CheckpointId::make().to_string();
        bed.provider.checkpoint(&agent, &checkpoint).await.unwrap();
        bed.provider.stop(&agent).await.unwrap();

        for volume in [name(&agent), name(&AgentRef { agent: checkpoint })] {
            let archive = archive_of(&bed, &volume).await;
            assert!(archive.windows(5).any(|window| window == b"found"), "the archive has the files");
            assert!(!canary.is_in(&archive));
            let shown = bed.docker.inspect_volume(&volume).await.unwrap();
            assert!(!canary.is_in(&serde_json::to_vec(&shown).unwrap()));
        }

        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let window = EventsOptionsBuilder::default().since(&since.to_string()).until(&(now + 1).to_string()).build();
        let events: Vec<_> = bed.docker.events(Some(window)).collect().await;
        let events: Vec<u8> =
            events.into_iter().flat_map(|event| serde_json::to_vec(&event.unwrap()).unwrap()).collect();
        assert!(String::from_utf8_lossy(&events).contains(&name(&agent)) && !canary.is_in(&events));

        bed.provider.resume(&spec, &environment(&[])).await.unwrap();
        assert_eq!(bed.output(&agent, Language::Python, PYTHON).await, "None");
        // The script itself lies in `/tmp` while it runs, and does not match its own pattern.
        let searched = "grep -rl '[c]anary-' /run/agent /data /tmp /proc/*/environ 2>/dev/null; true";
        assert_eq!(bed.output(&agent, Language::Bash, searched).await, "");
    })
    .await;
}

/// The environment is taken away while the container still runs, so that no moment lies between in which it is stopped
/// and an image of it could be made with the memory still there.
#[tokio::test]
async fn an_empty_delivery_takes_the_values_away_from_what_starts_after_it() {
    in_own_deployment(|bed| async move {
        let spec = spec();
        bed.provider.create(&spec, &environment(&[("API_TOKEN", "taken away")])).await.unwrap();
        bed.provider.create(&spec, &environment(&[])).await.unwrap();
        let agent = agent(&spec);
        let left = "printf '%s' \"${API_TOKEN-none}\"; wc -c < /run/agent/env; ls -A /run/agent";
        assert_eq!(bed.output(&agent, Language::Bash, left).await, "none0\nenv\n");
    })
    .await;
}
