//! Finding or starting the machine's Docker engine.
//!
//! Owns the order: what `DOCKER_HOST` names, then the usual socket; and only when nothing answers there, and
//! `DOCKER_HOST` names nothing, and this is Debian or Ubuntu, and we are root, an engine installed and started from
//! here. What is started stays: it belongs to the machine afterwards.

use crate::cache::Cache;
use crate::command::{exists, is_debian, is_root, last_words, output, quiet};
use crate::{Progress, SetupError};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use theazo_providers::docker::{Endpoint, connect};

const SOCKET: &str = "/var/run/docker.sock";
/// Where the engine and its containerd note their process numbers, and what those processes are called.
const NOTED: [(&str, &str); 2] =
    [("/var/run/docker.pid", "dockerd"), ("/var/run/docker/containerd/containerd.pid", "containerd")];
/// An engine that works answers a ping in milliseconds; one that is busy starting may take longer.
const ANSWERS_WITHIN: Duration = Duration::from_secs(5);
/// A first start prepares directories, networks and containerd.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// An engine that answers. Safe to call from several processes at once.
///
/// # Errors
/// [`SetupError`], whose `Display` says what to do.
pub async fn ensure_engine(progress: &dyn Progress) -> Result<Endpoint, SetupError> {
    let named = match std::env::var_os("DOCKER_HOST").filter(|host| !host.is_empty()) {
        Some(host) => match named(&host.to_string_lossy()).await {
            Ok(endpoint) => return Ok(endpoint),
            Err(error) => Some(error),
        },
        None => None,
    };
    let endpoint = Endpoint::Unix(SOCKET.into());
    let Err(reason) = answers(&endpoint).await else {
        if let Some(error) = named {
            progress.step(&format!("{error}; going on with {SOCKET}"));
        }
        return Ok(endpoint);
    };
    if let Some(error) = named {
        // Somebody chose an engine; installing another one is not ours to decide.
        return Err(error);
    }
    if let Some(advice) = advice(is_root(), is_debian(), exists("dockerd")) {
        return Err(SetupError::NoEngine { socket: SOCKET.into(), reason, advice: advice.into() });
    }
    let cache = Cache::open()?;
    let _turn = cache.lock("engine", progress).await?;
    if answers(&endpoint).await.is_ok() {
        return Ok(endpoint);
    }
    if !exists("dockerd") {
        install(progress).await?;
    }
    // Installing starts it where systemd runs.
    if answers(&endpoint).await.is_err() {
        start(&endpoint, &cache, progress).await?;
    }
    Ok(endpoint)
}

async fn named(host: &str) -> Result<Endpoint, SetupError> {
    let endpoint = Endpoint::parse(host).map_err(|_| SetupError::EngineAddress(host.into()))?;
    answers(&endpoint).await.map(|()| endpoint).map_err(|reason| SetupError::NoEngine {
        socket: host.strip_prefix("unix://").unwrap_or(host).into(),
        reason,
        advice: "DOCKER_HOST names it; start that engine, or unset DOCKER_HOST to use /var/run/docker.sock".into(),
    })
}

/// What to tell someone for whom no engine can be started from here; `None` when one can.
fn advice(root: bool, debian: bool, installed: bool) -> Option<&'static str> {
    match (root, debian, installed) {
        (true, _, true) | (true, true, false) => None,
        (true, false, false) => Some("Install Docker Engine with this system's package manager, and start it"),
        (false, true, false) => {
            Some("Run `apt-get install docker.io` as root, then `usermod -aG docker YOU` and log in again")
        }
        (false, _, true) => Some(
            "Start it (`systemctl start docker` as root). If it runs, this user may not use it: \
             `usermod -aG docker YOU` as root, then log in again",
        ),
        (false, false, false) => Some("Install Docker Engine or Docker Desktop and start it, or set DOCKER_HOST"),
    }
}

async fn answers(endpoint: &Endpoint) -> Result<(), String> {
    let docker = connect(endpoint).map_err(|error| error.to_string())?;
    match tokio::time::timeout(ANSWERS_WITHIN, docker.ping()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(innermost(&error)),
        Err(_) => Err("no answer within 5 seconds".into()),
    }
}

/// "No such file" or "permission denied" is at the end of the chain.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut inner = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    inner.to_string()
}

async fn install(progress: &dyn Progress) -> Result<(), SetupError> {
    progress.step("Installing the Docker engine");
    let apt = || {
        let mut command = quiet("apt-get");
        command.args(["-qq", "-y", "install", "docker.io"]).env("DEBIAN_FRONTEND", "noninteractive");
        command
    };
    if output(&mut apt()).await.is_ok() {
        return Ok(());
    }
    progress.detail("apt-get update");
    // One unreachable source of several makes this fail without mattering.
    let _ = output(quiet("apt-get").args(["-qq", "update"])).await;
    output(&mut apt()).await.map(|_| ())
}

async fn start(endpoint: &Endpoint, cache: &Cache, progress: &dyn Progress) -> Result<(), SetupError> {
    progress.step("Starting the Docker engine");
    if Path::new("/run/systemd/system").is_dir() {
        output(quiet("systemctl").args(["start", "docker"])).await?;
        let log = PathBuf::from("journalctl -u docker");
        return wait(endpoint, None, &log).await;
    }
    for (note, name) in NOTED {
        forget_dead(Path::new(note), name);
    }
    let log = cache.dir.join("dockerd.log");
    let said = std::fs::File::create(&log).map_err(SetupError::file(&log))?;
    let errors = said.try_clone().map_err(SetupError::file(&log))?;
    // A group of its own: the interrupt that ends the caller must not end the engine.
    let dockerd = Command::new("dockerd").stdin(Stdio::null()).stdout(said).stderr(errors).process_group(0).spawn();
    let dockerd =
        dockerd.map_err(|error| SetupError::Command { command: "dockerd".into(), reason: error.to_string() })?;
    wait(endpoint, Some(dockerd), &log).await
}

/// Removes a note of a process number unless a process of that name has it.
///
/// A machine that went down without ending its engine, and keeps `/run` on disk, comes up with the old notes. The engine
/// refuses to start while any process at all has the number that was its own.
fn forget_dead(note: &Path, name: &str) {
    let Ok(noted) = std::fs::read_to_string(note) else { return };
    let running =
        noted.trim().parse::<u32>().ok().and_then(|id| std::fs::read_to_string(format!("/proc/{id}/comm")).ok());
    if running.is_none_or(|comm| comm.trim() != name) {
        // What cannot be removed shows in the engine's own last words.
        let _ = std::fs::remove_file(note);
    }
}

async fn wait(endpoint: &Endpoint, mut dockerd: Option<Child>, log: &Path) -> Result<(), SetupError> {
    let until = Instant::now() + STARTS_WITHIN;
    loop {
        let Err(reason) = answers(endpoint).await else { return Ok(()) };
        let failed = |reason: String| SetupError::EngineStart { reason, log: log.to_owned() };
        if let Some(Ok(Some(status))) = dockerd.as_mut().map(Child::try_wait) {
            let words = std::fs::read(log).map(|said| last_words(&said)).unwrap_or_default();
            return Err(failed(format!("it ended with {status}: {words}")));
        }
        if Instant::now() >= until {
            return Err(failed(reason));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn someone_without_an_engine_is_told_what_to_do_unless_it_can_be_done_for_them() {
        assert!(advice(true, true, false).is_none() && advice(true, false, true).is_none());
        assert!(advice(false, true, false).unwrap().contains("apt-get install docker.io"));
        assert!(advice(false, true, true).unwrap().contains("usermod -aG docker"));
    }

    #[tokio::test]
    async fn an_engine_named_and_silent_is_an_error_that_names_it() {
        let error = named("unix:///nonexistent/docker.sock").await.unwrap_err().to_string();
        assert!(error.contains("/nonexistent/docker.sock") && error.contains("DOCKER_HOST"), "{error}");
        assert!(error.contains("No such file"), "{error}");
        let error = named("tcp://198.51.100.1:2376").await.unwrap_err();
        assert!(matches!(error, SetupError::EngineAddress(_)), "{error}");
    }

    #[test]
    fn the_number_of_an_engine_that_died_is_forgotten_though_another_process_has_it_by_now() {
        let note = std::env::temp_dir().join(format!("theazo-engine-note-{}", std::process::id()));
        let mut sleeping = Command::new("sleep").arg("60").spawn().unwrap();
        let kept = |number: &str, name: &str| {
            std::fs::write(&note, number).unwrap();
            forget_dead(&note, name);
            let kept = note.exists();
            let _ = std::fs::remove_file(&note);
            kept
        };
        let number = sleeping.id().to_string();
        // Until it has become `sleep`, it is still called like this test.
        let comm = format!("/proc/{number}/comm");
        while std::fs::read_to_string(&comm).unwrap().trim() != "sleep" {
            std::thread::yield_now();
        }
        let (alive, other) = (kept(&number, "sleep"), kept(&number, "dockerd"));
        let unreadable = kept("", "sleep");
        sleeping.kill().unwrap();
        sleeping.wait().unwrap();
        assert!(alive && !other && !unreadable);
        assert!(!kept(&number, "sleep"), "a process that is gone is taken for a running one");
    }

    #[tokio::test]
    async fn an_engine_that_dies_at_once_is_reported_with_its_last_words() {
        let dir = std::env::temp_dir().join(format!("theazo-engine-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let log = dir.join("log");
        std::fs::write(&log, "failed to mount cgroup").unwrap();
        let dead = Command::new("false").spawn().unwrap();
        let started = Instant::now();
        let error = wait(&Endpoint::Unix(dir.join("none.sock")), Some(dead), &log).await.unwrap_err().to_string();
        assert!(error.contains("failed to mount cgroup"), "{error}");
        assert!(started.elapsed() < STARTS_WITHIN / 2);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
