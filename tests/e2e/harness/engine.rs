//! The engine and the host as somebody with access to them sees them.

use super::{Canary, docker_engine};
use bollard::Docker;
use bollard::exec::{StartExecOptions, StartExecResults};
use bollard::models::{ContainerConfig, ExecConfig};
use bollard::query_parameters::{
    CommitContainerOptionsBuilder, EventsOptionsBuilder, LogsOptionsBuilder, RemoveImageOptions,
};
use futures_util::StreamExt;
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::task::JoinHandle;

/// A client of the machine's engine that is not the stack's.
pub async fn docker() -> Docker {
    let engine = tokio::task::spawn_blocking(docker_engine).await.unwrap();
    theazo_providers::docker::connect(&engine.endpoint).unwrap()
}

/// The name of an agent's container, network and volume.
pub fn container_name(agent: &str) -> String {
    agent.replace('_', "-")
}

/// Takes down every event of the engine as it happens: an engine remembers only the last few hundred.
pub struct Events {
    taken: Arc<Mutex<Vec<u8>>>,
    task: JoinHandle<()>,
}

impl Events {
    /// Starts to listen.
    pub fn start(docker: &Docker) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let window = EventsOptionsBuilder::default().since(&now.to_string()).build();
        let (docker, taken) = (docker.clone(), Arc::new(Mutex::new(Vec::new())));
        let into = Arc::clone(&taken);
        let task = tokio::spawn(async move {
            let mut events = std::pin::pin!(docker.events(Some(window)));
            while let Some(event) = events.next().await {
                into.lock().unwrap().append(&mut serde_json::to_vec(&event.unwrap()).unwrap());
            }
        });
        Self { taken, task }
    }

    /// All events so far, once there is one with each of these parts in this order.
    pub async fn until(&self, parts: &[&str]) -> Vec<u8> {
        for _ in 0..300 {
            let taken = self.taken.lock().unwrap().clone();
            let mut rest = Some(taken.as_slice());
            for part in parts {
                let found = |rest: &[u8]| memchr::memmem::find(rest, part.as_bytes());
                rest = rest.and_then(|rest| rest.get(found(rest)?..));
            }
            if rest.is_some() {
                return taken;
            }
            assert!(!self.task.is_finished(), "the engine's events ended");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("no events {parts:?}");
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the engine shows of a container, its network and its volume, and its logs.
pub async fn engine_records(docker: &Docker, name: &str) -> Vec<(&'static str, Vec<u8>)> {
    let container = docker.inspect_container(name, None).await.unwrap();
    let mut records = vec![("container", serde_json::to_vec(&container).unwrap())];
    if let Ok(network) = docker.inspect_network(name, None).await {
        records.push(("network", serde_json::to_vec(&network).unwrap()));
    }
    if let Ok(volume) = docker.inspect_volume(name).await {
        records.push(("volume", serde_json::to_vec(&volume).unwrap()));
    }
    let changes = docker.container_changes(name).await.unwrap();
    records.push(("changes", serde_json::to_vec(&changes).unwrap()));
    let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
    let logs: Vec<_> = docker.logs(name, Some(options)).collect().await;
    records.push(("logs", logs.into_iter().flat_map(|line| line.unwrap().into_bytes()).collect()));
    records
}

/// Commits a container and gives what the engine tells of the image, and what a search of the saved image found.
pub async fn commit_and_search(canary: &Canary, docker: &Docker, name: &str) -> (String, Option<&'static str>, usize) {
    let options = CommitContainerOptionsBuilder::default().container(name).repo("theazo-e2e-commit").tag(name).build();
    docker.commit_container(options, ContainerConfig::default()).await.unwrap();
    let image = format!("theazo-e2e-commit:{name}");
    let shown = docker.inspect_image(&image).await.unwrap();
    let history = docker.image_history(&image).await.unwrap();
    let (found, size) = canary.find_in_stream(docker.export_image(&image)).await;
    docker.remove_image(&image, None::<RemoveImageOptions>, None).await.unwrap();
    (format!("{} {}", serde_json::to_string(&shown).unwrap(), serde_json::to_string(&history).unwrap()), found, size)
}

/// Looks at the command line of every process of the host, again and again.
pub struct CommandLines {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<HashSet<Vec<u8>>>,
}

impl CommandLines {
    /// Starts to look.
    pub fn start() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut seen = HashSet::new();
            while !stopped.load(Ordering::Relaxed) {
                for entry in std::fs::read_dir("/proc").unwrap().flatten() {
                    // Processes end while they are looked at.
                    seen.extend(std::fs::read(entry.path().join("cmdline")));
                }
                std::thread::sleep(Duration::from_millis(5));
            }
            seen
        });
        Self { stop, thread }
    }

    /// Stops, and gives all it saw.
    pub fn end(self) -> HashSet<Vec<u8>> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap()
    }
}

/// Runs a shell line in a container as root, with the container's rights or with all, and gives what it prints.
pub async fn run_as_root(docker: &Docker, name: &str, privileged: bool, line: &str) -> String {
    let config = ExecConfig {
        user: Some("0".into()),
        privileged: Some(privileged),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        cmd: Some(vec!["/bin/bash".into(), "-c".into(), line.into()]),
        ..ExecConfig::default()
    };
    let exec = docker.create_exec(name, config).await.unwrap();
    match docker.start_exec(&exec.id, None::<StartExecOptions>).await.unwrap() {
        StartExecResults::Attached { output, .. } => {
            let pieces: Vec<_> = output.map(|piece| piece.unwrap().into_bytes()).collect().await;
            String::from_utf8_lossy(&pieces.concat()).into_owned()
        }
        StartExecResults::Detached => panic!("what was attached is detached"),
    }
}
