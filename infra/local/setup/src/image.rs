//! The agent image on an engine: named after what it is made of, so that a name that exists is a finished image.
//!
//! Two ways to the same image. Where the engine reaches a registry, the Dockerfile. Elsewhere the packages are
//! unpacked here, imported as one layer, and `finish.sh` runs in a container of it; the result is committed.
//! The name is given last in both.

use crate::cache::{Cache, IMAGE_LOCK, Scratch};
use crate::command::{output, quiet};
use crate::guest::{OfImage, Programs};
use crate::{Progress, SetupError, packages};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::models::{ContainerConfig, ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    BuildImageOptionsBuilder, CommitContainerOptionsBuilder, CreateContainerOptionsBuilder, CreateImageOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptions, StartContainerOptions, WaitContainerOptions,
};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use sha2::{Digest, Sha256};
use std::process::Stdio;
use std::time::Duration;
use theazo_guest_protocol::forwarder::FORWARDER_PATH;
use theazo_guest_protocol::{GUEST_PATH, SUPERVISOR_UID};
use theazo_providers::docker::{Endpoint, connect};
use tokio::io::AsyncReadExt;

const REPOSITORY: &str = "theazo-agent";
const DOCKERFILE: &str = include_str!("../../../agent-image/Dockerfile");
const FINISH: &str = include_str!("../../../agent-image/finish.sh");
const BASE: &str = "debian:bookworm-slim";
/// How long the engine may take to say that a registry knows the base image.
const PROBE: Duration = Duration::from_secs(5);
/// Longest single call: an import, a commit or a step of a build on a slow disk.
const LONGEST_CALL: Duration = Duration::from_secs(15 * 60);

/// The agent image's reference, `theazo-agent:<12 hex digits>`, after making sure that the engine has it. With
/// the image there, this takes as long as cargo needs to see that the programs are up to date: the guest, and what
/// [`machine_programs`](crate::machine_programs) gives.
///
/// # Errors
/// [`SetupError`], whose `Display` says what to do.
pub async fn ensure_agent_image(endpoint: &Endpoint, progress: &dyn Progress) -> Result<String, SetupError> {
    let docker = connect(endpoint)?.with_timeout(LONGEST_CALL);
    let cache = Cache::open()?;
    let _turn = cache.lock(IMAGE_LOCK, progress).await?;
    let programs = Programs::build(progress).await?.of_image().await?;
    let tag = fingerprint(&programs);
    let reference = format!("{REPOSITORY}:{tag}");
    if docker.inspect_image(&reference).await.is_ok() {
        return Ok(reference);
    }
    progress.step(&format!("Building the agent image {reference}"));
    let scratch = cache.scratch()?;
    if registry_answers(&docker).await {
        match from_dockerfile(&docker, &scratch, &programs, &reference, progress).await {
            Ok(()) => return Ok(reference),
            Err(error) => progress.detail(&format!("the Dockerfile could not be built ({error}); trying packages")),
        }
    } else {
        progress.detail("the engine reaches no image registry; building from packages");
    }
    let import = Import { docker: &docker, tag: &tag, progress };
    import.run(&cache, &scratch, &programs).await?;
    Ok(reference)
}

fn fingerprint(programs: &OfImage) -> String {
    let mut hash = Sha256::new();
    let OfImage { guest, forwarder } = programs;
    for part in [DOCKERFILE.as_bytes(), FINISH.as_bytes(), packages::LIST.as_bytes(), guest, forwarder] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    let mut hex = hex::encode(hash.finalize());
    hex.truncate(12);
    hex
}

async fn registry_answers(docker: &Docker) -> bool {
    let asked = tokio::time::timeout(PROBE, docker.inspect_registry_image(BASE, None)).await;
    matches!(asked, Ok(Ok(_))) || docker.inspect_image(BASE).await.is_ok()
}

async fn from_dockerfile(
    docker: &Docker,
    scratch: &Scratch,
    programs: &OfImage,
    reference: &str,
    progress: &dyn Progress,
) -> Result<(), SetupError> {
    let files = [
        ("Dockerfile", DOCKERFILE.as_bytes()),
        ("finish.sh", FINISH.as_bytes()),
        ("packages.txt", packages::LIST.as_bytes()),
        ("theazo-guest", &programs.guest),
        ("theazo-forwarder", &programs.forwarder),
    ];
    let mut tar = quiet("tar");
    tar.args(["-c", "--mode=0755", "--owner=0", "--group=0", "--numeric-owner", "-C"]).arg(scratch.path());
    for (name, content) in files {
        scratch.write(name, content)?;
        tar.arg(name);
    }
    let context = bollard::body_full(output(&mut tar).await?.into());
    let options = BuildImageOptionsBuilder::new().dockerfile("Dockerfile").t(reference).rm(true).forcerm(true).build();
    let mut lines = std::pin::pin!(docker.build_image(options, None, Some(context)));
    while let Some(line) = lines.next().await {
        let line = line.map_err(SetupError::engine("building the image"))?;
        if let Some(reason) = line.error_detail.and_then(|error| error.message) {
            return Err(SetupError::Command { command: "docker build".into(), reason });
        }
        if let Some(text) = line.stream.as_deref().map(str::trim).filter(|text| !text.is_empty()) {
            progress.detail(text);
        }
    }
    docker.inspect_image(reference).await.map_err(SetupError::engine("building the image")).map(|_| ())
}

/// What the Dockerfile says about the image besides its files.
fn configuration() -> Vec<String> {
    vec![
        "ENV PATH=/usr/local/bin:/usr/bin:/bin LANG=C.UTF-8".into(),
        format!("USER {SUPERVISOR_UID}:{SUPERVISOR_UID}"),
        "WORKDIR /data".into(),
        format!("ENTRYPOINT [\"{GUEST_PATH}\"]"),
        "CMD [\"init\"]".into(),
        "LABEL org.opencontainers.image.title=theazo-agent theazo.image=agent".into(),
    ]
}

struct Import<'a> {
    docker: &'a Docker,
    tag: &'a str,
    progress: &'a dyn Progress,
}

impl Import<'_> {
    async fn run(&self, cache: &Cache, scratch: &Scratch, programs: &OfImage) -> Result<(), SetupError> {
        let root = packages::unpack(cache, scratch, self.progress).await?;
        let files: [(&str, &[u8]); 3] = [
            (GUEST_PATH, &programs.guest),
            (FORWARDER_PATH, &programs.forwarder),
            ("/build/finish.sh", FINISH.as_bytes()),
        ];
        for (path, content) in files {
            let path = root.join(path.trim_start_matches('/'));
            let dir = path.parent().unwrap_or(&root);
            std::fs::create_dir_all(dir).map_err(SetupError::file(dir))?;
            std::fs::write(&path, content).map_err(SetupError::file(&path))?;
        }
        // Left by a process that was killed; the lock says that nobody uses them.
        self.clean().await;
        let made = self.import_and_finish(&root).await;
        self.clean().await;
        made
    }

    async fn import_and_finish(&self, root: &std::path::Path) -> Result<(), SetupError> {
        self.progress.detail("importing");
        self.import(root).await?;
        self.progress.detail("finishing: users, certificates, compiled Python modules");
        self.finish().await?;
        let options = CommitContainerOptionsBuilder::new()
            .container(&self.container())
            .repo(REPOSITORY)
            .tag(self.tag)
            .changes(&configuration().join("\n"))
            .build();
        let committed = self.docker.commit_container(options, ContainerConfig::default()).await;
        committed.map(|_| ()).map_err(SetupError::engine("committing the image"))
    }

    /// Streams the tree into the engine. Everything becomes root's, and nothing keeps a setuid bit.
    async fn import(&self, root: &std::path::Path) -> Result<(), SetupError> {
        let failed = |reason: String| SetupError::Command { command: "tar".into(), reason };
        let mut tar = quiet("tar");
        tar.args(["-c", "--numeric-owner", "--owner=0", "--group=0", "--mode=ug-s", "-C"]).arg(root).arg(".");
        let mut tar = tar.stdout(Stdio::piped()).spawn().map_err(|error| failed(error.to_string()))?;
        let out = tar.stdout.take().ok_or_else(|| failed("it has no output".into()))?;
        let pieces = stream::try_unfold(out, |mut out| async move {
            let mut piece = Vec::with_capacity(256 * 1024);
            let count = out.read_buf(&mut piece).await?;
            Ok((count > 0).then(|| (Bytes::from(piece), out)))
        });
        let options = CreateImageOptionsBuilder::new().from_src("-").repo(REPOSITORY).tag(&self.unfinished()).build();
        let body = bollard::body_try_stream(pieces);
        let answers = self.docker.create_image(Some(options), Some(body), None);
        answers.try_for_each(|_| async { Ok(()) }).await.map_err(SetupError::engine("importing the image"))?;
        let status = tar.wait().await.map_err(|error| failed(error.to_string()))?;
        if status.success() { Ok(()) } else { Err(failed(status.to_string())) }
    }

    async fn finish(&self) -> Result<(), SetupError> {
        let name = self.container();
        let body = ContainerCreateBody {
            image: Some(format!("{REPOSITORY}:{}", self.unfinished())),
            cmd: Some(vec!["/bin/sh".into(), "/build/finish.sh".into()]),
            user: Some("0:0".into()),
            env: Some(vec!["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".into()]),
            host_config: Some(HostConfig { network_mode: Some("none".into()), ..HostConfig::default() }),
            ..ContainerCreateBody::default()
        };
        let doing = "running finish.sh";
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        self.docker.create_container(Some(options), body).await.map_err(SetupError::engine(doing))?;
        self.docker.start_container(&name, None::<StartContainerOptions>).await.map_err(SetupError::engine(doing))?;
        let mut ended = std::pin::pin!(self.docker.wait_container(&name, None::<WaitContainerOptions>));
        let status = match ended.next().await {
            Some(Ok(ended)) => ended.status_code,
            Some(Err(bollard::errors::Error::DockerContainerWaitError { code, .. })) => code,
            Some(Err(error)) => return Err(SetupError::engine(doing)(error)),
            None => -1,
        };
        if status == 0 {
            return Ok(());
        }
        let options = LogsOptionsBuilder::new().stdout(true).stderr(true).tail("20").build();
        let said: Vec<LogOutput> =
            self.docker.logs(&name, Some(options)).filter_map(|line| async { line.ok() }).collect().await;
        let said: String = said.iter().map(ToString::to_string).collect();
        Err(SetupError::Command { command: "finish.sh".into(), reason: format!("exit code {status}: {}", said.trim()) })
    }

    async fn clean(&self) {
        let force = RemoveContainerOptionsBuilder::new().force(true).build();
        let _ = self.docker.remove_container(&self.container(), Some(force)).await;
        let unfinished = format!("{REPOSITORY}:{}", self.unfinished());
        let _ = self.docker.remove_image(&unfinished, None::<RemoveImageOptions>, None).await;
    }

    fn container(&self) -> String {
        format!("theazo-setup-{}", self.tag)
    }

    fn unfinished(&self) -> String {
        format!("{}-unfinished", self.tag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_changes_with_a_program_and_only_with_what_the_image_is_made_of() {
        let name_of = |guest: &[u8], forwarder: &[u8]| {
            fingerprint(&OfImage { guest: guest.to_owned(), forwarder: forwarder.to_owned() })
        };
        let name = name_of(b"guest", b"forwarder");
        assert_eq!(name, name_of(b"guest", b"forwarder"));
        assert_ne!(name, name_of(b"guest2", b"forwarder"));
        assert_ne!(name, name_of(b"guest", b"forwarder2"));
        assert_ne!(name, name_of(b"guestf", b"orwarder"));
        assert!(name.len() == 12 && name.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }

    #[test]
    fn the_imported_image_is_configured_as_the_dockerfile_says() {
        let dockerfile = DOCKERFILE.replace('"', "");
        for line in configuration() {
            assert!(dockerfile.contains(&line.replace('"', "")), "{line}");
        }
        assert!(!DOCKERFILE.lines().any(|line| line.starts_with("VOLUME")));
    }
}
