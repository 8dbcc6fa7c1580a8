//! The real `theazo-dev` binary as a process of its own, to be killed and looked at.

use super::{Client, docker_engine, stack};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use theazo_providers::docker::{DockerConfig, DockerProvider};
use theazo_providers::{AgentRef, Provider};

/// A running `cargo dev` with a folder of its own. Killed, and everything of it removed, when dropped.
pub struct Process {
    child: Child,
    folder: PathBuf,
    owns_folder: bool,
    base: String,
    output: Arc<Mutex<String>>,
}

impl Process {
    /// Starts it on a new folder.
    pub async fn start(log_level: &str) -> Self {
        let name = format!("theazo-e2e-process-{}", hex::encode(theazo_tenancy::make_random_bytes::<6>()));
        Self::start_on(std::env::temp_dir().join(name), log_level).await
    }

    /// Starts it on that folder, which goes when this is dropped.
    pub async fn start_on(folder: PathBuf, log_level: &str) -> Self {
        Self::start_with(folder, &[("RUST_LOG", log_level)]).await
    }

    /// The same with those variables.
    pub async fn start_with(folder: PathBuf, variables: &[(&str, &str)]) -> Self {
        // The shared stack removes what dead processes left as it starts, and this one is to be killed now and then.
        tokio::task::spawn_blocking(stack).await.unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_theazo-dev"))
            .args(["--listen", "127.0.0.1:0", "--dynamodb-listen", "127.0.0.1:0", "--data-dir"])
            .arg(&folder)
            .envs(variables.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("theazo-dev starts");
        let output = Arc::new(Mutex::new(String::new()));
        collect(child.stdout.take().unwrap(), output.clone());
        collect(child.stderr.take().unwrap(), output.clone());
        let mut process = Self { child, folder, owns_folder: true, base: String::new(), output };
        process.base = process.wait_for_address().await;
        process
    }

    async fn wait_for_address(&mut self) -> String {
        for _ in 0..600 {
            let text = self.output();
            if let Some(line) = text.lines().find(|line| line.trim_start().starts_with("curl ")) {
                let (_, rest) = line.split_once("http://").expect("the first call has an address");
                return format!("http://{}", rest.split("/v1").next().unwrap());
            }
            if let Some(status) = self.child.try_wait().unwrap() {
                panic!("theazo-dev ended with {status}: {text}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("theazo-dev did not start: {}", self.output());
    }

    /// Everything it has printed and logged so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// `http://host:port`.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Where its table is, as it says when it starts.
    pub fn table_url(&self) -> String {
        let output = self.output();
        let line = output.lines().rfind(|line| line.trim_start().starts_with("table ")).expect("it says so");
        line.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Calls with the key it wrote.
    pub fn client(&self) -> Client {
        let key = std::fs::read_to_string(self.folder.join("api-key")).unwrap();
        Client::new(&self.base, Some(key.trim()))
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Asks it to end, as Ctrl-C does, and gives its exit status.
    pub async fn interrupt(&mut self) -> std::process::ExitStatus {
        interrupt(&self.child);
        for _ in 0..200 {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("theazo-dev did not stop: {}", self.output());
    }

    /// Kills it if it still runs, and starts it again on the same folder.
    pub async fn restart(self, log_level: &str) -> Self {
        self.restart_with(&[("RUST_LOG", log_level)]).await
    }

    /// The same with those variables.
    pub async fn restart_with(mut self, variables: &[(&str, &str)]) -> Self {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.owns_folder = false;
        let before = self.output();
        let next = Self::start_with(self.folder.clone(), variables).await;
        next.output.lock().unwrap().insert_str(0, &before);
        next
    }

    /// The provider as this process sees the engine.
    pub fn provider(&self) -> DockerProvider {
        provider_of(std::fs::read_to_string(self.folder.join("deployment")).unwrap().trim())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !self.owns_folder || !self.folder.join("deployment").exists() {
            return;
        }
        let provider = self.provider();
        // A test's runtime may be going down; this needs one of its own.
        let cleaning = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                for sandbox in provider.list_mine().await.unwrap_or_default() {
                    let _ = provider.destroy(&AgentRef { agent: sandbox.agent }).await;
                }
            });
        });
        let _ = cleaning.join();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// A `theazo-dev` that is expected to end by itself. Killed when dropped.
pub struct DevCommand {
    child: Child,
    output: Arc<Mutex<String>>,
    readers: Vec<JoinHandle<()>>,
}

impl DevCommand {
    /// Starts it with those arguments. `temp` is where it puts its temporary files.
    pub fn start(arguments: &[&str], temp: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_theazo-dev"))
            .args(arguments)
            .env("TMPDIR", temp)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("theazo-dev starts");
        let output = Arc::new(Mutex::new(String::new()));
        let readers = vec![
            collect(child.stdout.take().unwrap(), output.clone()),
            collect(child.stderr.take().unwrap(), output.clone()),
        ];
        Self { child, output, readers }
    }

    /// All that it has printed so far.
    pub fn output(&self) -> String {
        self.output.lock().unwrap().clone()
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        interrupt(&self.child);
    }

    /// Whether it has ended.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().unwrap().is_some()
    }

    /// Its exit code and all that it has printed, when it has ended. Measuring takes minutes beside other tests.
    pub async fn end(mut self) -> (Option<i32>, String) {
        for _ in 0..6000 {
            if let Some(status) = self.child.try_wait().unwrap() {
                for reader in self.readers.drain(..) {
                    reader.join().unwrap();
                }
                return (status.code(), self.output.lock().unwrap().clone());
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("theazo-dev did not end: {}", self.output.lock().unwrap());
    }
}

impl Drop for DevCommand {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn interrupt(child: &Child) {
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
}

/// A provider that sees what a deployment of that name has on the machine's engine.
pub fn provider_of(deployment: &str) -> DockerProvider {
    let engine = docker_engine();
    DockerProvider::new(DockerConfig::new(engine.endpoint.clone(), &engine.image, deployment)).unwrap()
}

/// Gathers what a process prints.
pub fn collect(mut from: impl std::io::Read + Send + 'static, into: Arc<Mutex<String>>) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 8192];
        while let Ok(read @ 1..) = from.read(&mut buffer) {
            into.lock().unwrap().push_str(&String::from_utf8_lossy(&buffer[..read]));
        }
    })
}

/// A name of a folder that is not there. Not one of the harness's own names: those are looked through by other test
/// processes.
pub fn temporary(label: &str) -> PathBuf {
    let random = hex::encode(theazo_tenancy::make_random_bytes::<6>());
    std::env::temp_dir().join(format!("theazo-test-{label}-{random}"))
}

/// Waits for a minute at most, then fails.
pub async fn wait_until(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..6000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("{what}: not in time");
}
