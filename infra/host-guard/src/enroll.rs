//! Setting a host up by nothing but its engine: the agent image, and the firewall. Who has an engine is root on its host;
//! here that is used.

use crate::{FIREWALL, GuardError};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::errors::Error as EngineError;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ImportImageOptionsBuilder, LogsOptionsBuilder, RemoveContainerOptionsBuilder,
    StartContainerOptions, WaitContainerOptions,
};
use futures_util::{StreamExt, TryStreamExt};
use std::time::Duration;

/// Runs on the host, as root.
const ENROLL: &str = include_str!("../enroll.sh");
/// There is one at a time on a host.
const CONTAINER: &str = "theazo-enrollment";
/// What `enroll.sh` says of rules that come back by themselves.
const LASTING: &str = "lasting";
/// How long an image may take to come over: hundreds of megabytes over a slow line.
const LOADED_WITHIN: Duration = Duration::from_secs(30 * 60);
const FIREWALL_WITHIN: Duration = Duration::from_secs(60);
/// How much of what failed is shown.
const LAST_LINES: &str = "5";

/// How long the firewall stays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lasting {
    /// It comes back whenever the engine starts.
    Always,
    /// Until the host starts again: it has no systemd that would see to it.
    UntilRestart,
}

/// Gives a host the image that another engine has, unless it has it already. `true` if it had to.
///
/// # Errors
/// [`GuardError`]; a host that has the image needs no other engine.
pub async fn load_image(from: &Docker, host: &Docker, image: &str) -> Result<bool, GuardError> {
    if has_image(host, image, "looking for the image on the host").await? {
        return Ok(false);
    }
    if !has_image(from, image, "looking for the image").await? {
        return Err(GuardError::NoImage(image.to_owned()));
    }
    const LOAD: &str = "loading the image on the host";
    // The engine answers when it has all of it.
    let host = host.clone().with_timeout(LOADED_WITHIN);
    let from = from.clone().with_timeout(LOADED_WITHIN);
    let pieces = from.export_image(image);
    let options = ImportImageOptionsBuilder::new().quiet(true).build();
    let loading = host.import_image_stream(options, pieces, None).try_for_each(|_| async { Ok(()) });
    within(LOADED_WITHIN, LOAD, loading).await?;
    if has_image(&host, image, LOAD).await? { Ok(true) } else { Err(GuardError::NoImage(image.to_owned())) }
}

/// Puts the firewall in place on a host, now and whenever its engine starts, by a container of the agent image that has the
/// host's files and network.
///
/// # Errors
/// [`GuardError::Firewall`] with what its program said; others when the engine fails.
pub async fn put_firewall(host: &Docker, image: &str) -> Result<Lasting, GuardError> {
    // What an enrollment has left that was interrupted.
    remove(host).await?;
    let ran = run(host, image).await;
    remove(host).await?;
    ran
}

async fn run(host: &Docker, image: &str) -> Result<Lasting, GuardError> {
    const DOING: &str = "putting the firewall in place";
    let body = ContainerCreateBody {
        image: Some(image.to_owned()),
        entrypoint: Some(["/usr/sbin/chroot", "/host", "/bin/sh", "-c", ENROLL, "enroll.sh"].map(Into::into).into()),
        cmd: Some(vec![FIREWALL.to_owned()]),
        user: Some("0:0".into()),
        host_config: Some(HostConfig {
            cap_add: Some(vec!["NET_ADMIN".into(), "NET_RAW".into()]),
            security_opt: Some(vec!["label=disable".into(), "apparmor=unconfined".into()]),
            network_mode: Some("host".into()),
            userns_mode: Some("host".into()),
            binds: Some(vec!["/:/host".into()]),
            readonly_rootfs: Some(true),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    };
    let options = CreateContainerOptionsBuilder::new().name(CONTAINER).build();
    within(FIREWALL_WITHIN, DOING, host.create_container(Some(options), body)).await?;
    within(FIREWALL_WITHIN, DOING, host.start_container(CONTAINER, None::<StartContainerOptions>)).await?;
    let mut ended = std::pin::pin!(host.wait_container(CONTAINER, None::<WaitContainerOptions>));
    let ended = tokio::time::timeout(FIREWALL_WITHIN, ended.next()).await;
    let status = match ended.map_err(|_| GuardError::TimedOut { doing: DOING, within: FIREWALL_WITHIN })? {
        Some(Ok(ended)) => ended.status_code,
        Some(Err(EngineError::DockerContainerWaitError { code, .. })) => code,
        Some(Err(source)) => return Err(engine(DOING, source)),
        None => -1,
    };
    let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail(LAST_LINES).build();
    let said =
        within(FIREWALL_WITHIN, DOING, host.logs(CONTAINER, Some(options)).try_collect::<Vec<LogOutput>>()).await?;
    let said: String = said.iter().map(ToString::to_string).collect();
    match (status, said.lines().last().map(str::trim)) {
        (0, Some(LASTING)) => Ok(Lasting::Always),
        (0, _) => Ok(Lasting::UntilRestart),
        _ => Err(GuardError::Firewall(plain(said.trim()))),
    }
}

/// A host's own words, without what a terminal would take for a command.
fn plain(said: &str) -> String {
    said.chars().map(|character| if character.is_control() { ' ' } else { character }).collect()
}

async fn remove(host: &Docker) -> Result<(), GuardError> {
    const DOING: &str = "removing the container of an enrollment";
    let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    match within(FIREWALL_WITHIN, DOING, host.remove_container(CONTAINER, Some(force))).await {
        Err(GuardError::Engine { source, .. }) if is_absent(&source) => Ok(()),
        other => other,
    }
}

async fn has_image(at: &Docker, image: &str, doing: &'static str) -> Result<bool, GuardError> {
    match within(FIREWALL_WITHIN, doing, at.inspect_image(image)).await {
        Ok(_) => Ok(true),
        Err(GuardError::Engine { source, .. }) if is_absent(&source) => Ok(false),
        Err(error) => Err(error),
    }
}

fn is_absent(error: &EngineError) -> bool {
    matches!(error, EngineError::DockerResponseServerError { status_code: 404, .. })
}

async fn within<T>(
    limit: Duration,
    doing: &'static str,
    call: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, GuardError> {
    let outcome = tokio::time::timeout(limit, call).await;
    outcome.map_err(|_| GuardError::TimedOut { doing, within: limit })?.map_err(|source| engine(doing, source))
}

fn engine(doing: &'static str, source: EngineError) -> GuardError {
    GuardError::Engine { doing, source: Box::new(source) }
}
