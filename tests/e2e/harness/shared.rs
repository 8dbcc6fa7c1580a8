//! One stack for most tests, in this process, on a runtime of its own.

use super::Client;
use std::fs::Permissions;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;
use theazo_e2b_emulator::{Controls, Emulator};
use theazo_functions::agents::Sandboxes;
use theazo_functions::deployment::{Capability, DockerEngine};
use theazo_local::data_dir::DataDir;
use theazo_local::{Stack, StackConfig};
use theazo_providers::docker::{DockerConfig, DockerProvider};
use theazo_providers::e2b::E2bEndpoints;
use theazo_providers::fly::FlyEndpoints;
use theazo_providers::{AgentRef, Provider};
use theazo_setup::{ensure_agent_image, ensure_engine, ensure_firewall, machine_programs};
use theazo_store::Platforms;
use theazo_tenancy::{Operator, PlatformId};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;

/// The machine's engine with the agent image, made ready as `cargo dev` does it.
pub fn docker_engine() -> &'static DockerEngine {
    static ENGINE: OnceLock<DockerEngine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        on_own_runtime(async {
            let endpoint = ensure_engine(&()).await.expect("a Docker engine");
            let image = ensure_agent_image(&endpoint, &()).await.expect("the agent image");
            DockerEngine { endpoint, image }
        })
    })
}

/// Whether the firewall keeps agents from this machine, as `cargo dev` puts it in place. Where nobody may change it, tests
/// of it cannot run: said, unless that must not happen.
pub fn has_firewall() -> bool {
    static FIREWALL: OnceLock<bool> = OnceLock::new();
    *FIREWALL.get_or_init(|| {
        let engine = docker_engine();
        on_own_runtime(async move {
            match ensure_firewall(&engine.endpoint, &engine.image, &()).await {
                Ok(_) => true,
                Err(error) => {
                    assert!(std::env::var_os("THEAZO_CI").is_none(), "{error}");
                    let _ = writeln!(std::io::stderr(), "without a firewall: {error}");
                    false
                }
            }
        })
    })
}

/// The E2B emulator that most tests share.
pub struct E2bEmulator {
    pub endpoints: E2bEndpoints,
    pub controls: Controls,
}

/// The only API key that the shared emulator accepts.
pub const E2B_KEY: &str = "e2b_7d0c4be19fa25836c1e8904db7f35a622e90bd8c";

/// An emulator of E2B for as long as this process lives. Its sandboxes end with it.
pub fn e2b_emulator() -> &'static E2bEmulator {
    static EMULATOR: OnceLock<E2bEmulator> = OnceLock::new();
    EMULATOR.get_or_init(|| on_own_runtime(start_e2b_emulator("e2b")))
}

/// Another one, in a folder of that name, for what would disturb others. It lives as long as the test's runtime.
pub async fn start_e2b_emulator(name: &str) -> E2bEmulator {
    let folder = emulator_folder(name);
    let emulator = Emulator::new(&folder, Some(E2B_KEY));
    let controls = emulator.controls();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address for the E2B emulator");
    let url = format!("http://{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(emulator.serve(listener, std::future::pending()));
    E2bEmulator { endpoints: E2bEndpoints { api: url.clone(), sandbox: url }, controls }
}

/// The Fly emulator that most tests share.
pub struct FlyEmulator {
    pub endpoints: FlyEndpoints,
    pub controls: theazo_fly_emulator::Controls,
}

/// The only token that the shared emulator accepts, and the organization that tests use.
pub const FLY_TOKEN: &str = "fm2_lJPEBq7d0c4be19fa25836c1e8904db7f35a622e90bd8c";
pub const FLY_ORGANIZATION: &str = "agents";

/// An emulator of Fly for as long as this process lives. Its machines end with it.
pub fn fly_emulator() -> &'static FlyEmulator {
    static EMULATOR: OnceLock<FlyEmulator> = OnceLock::new();
    EMULATOR.get_or_init(|| on_own_runtime(start_fly_emulator("fly")))
}

/// Another one, in a folder of that name. It lives as long as the test's runtime.
pub async fn start_fly_emulator(name: &str) -> FlyEmulator {
    let programs = machine_programs(&()).await.expect("the programs of machines");
    let folder = emulator_folder(name);
    let emulator = theazo_fly_emulator::Emulator::new(&folder, Some(FLY_TOKEN), programs);
    let controls = emulator.controls();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("an address for the Fly emulator");
    let api = format!("http://{}", listener.local_addr().expect("it is bound"));
    tokio::spawn(emulator.serve(listener, std::future::pending()));
    FlyEmulator { endpoints: FlyEndpoints::emulator(api), controls }
}

/// The stack that most tests share.
pub fn stack() -> &'static Stack {
    static STACK: OnceLock<Stack> = OnceLock::new();
    STACK.get_or_init(|| {
        let engine = docker_engine().clone();
        super::enforce_roles();
        has_firewall();
        e2b_emulator();
        fly_emulator();
        on_own_runtime(async {
            remove_leftovers(&engine).await;
            let config = StackConfig {
                docker: Some(engine),
                e2b: e2b_emulator().endpoints.clone(),
                fly: fly_emulator().endpoints.clone(),
                orphan_grace: Duration::ZERO,
                // Longer than any process of tests lives: a call that finds a key's life over takes two round trips
                // more, and they are counted.
                key_cache: Some(Duration::from_secs(24 * 3_600)),
                ..StackConfig::on_loopback(folder(std::process::id()))
            };
            Stack::start(config).await.expect("the local stack starts")
        })
    })
}

/// Runs on a runtime that lives as long as the process: tests' own runtimes end with their tests.
fn on_own_runtime<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let runtime = RUNTIME.get_or_init(|| tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap());
    let (send, receive) = std::sync::mpsc::channel();
    runtime.spawn(async move {
        let _ = send.send(work.await);
    });
    receive.recv().expect("the shared runtime did its work")
}

const FOLDER: &str = "theazo-e2e-";

fn folder(id: u32) -> PathBuf {
    std::env::temp_dir().join(format!("{FOLDER}{id}"))
}

/// Where an emulator of this process keeps its files. Locked, or a stack that starts would take it for a leftover.
fn emulator_folder(name: &str) -> PathBuf {
    static ALL: OnceLock<DataDir> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let path = std::env::temp_dir().join(format!("{FOLDER}emulators-{}", std::process::id()));
        let all = DataDir::open(&path).expect("a folder for emulators");
        // Their users differ, and what they run is not to be kept out.
        std::fs::set_permissions(&path, Permissions::from_mode(0o755)).expect("the folder is this process's");
        all
    });
    let folder = all.file(name);
    // What a process of the same id has left.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir(&folder).expect("a folder for an emulator");
    folder
}

/// A test process cannot clean up behind itself when it is killed; the next one does, for those that are dead.
async fn remove_leftovers(engine: &DockerEngine) {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else { return };
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        if name.starts_with(FOLDER) {
            remove_leftover(&path, engine).await;
        }
    }
}

async fn remove_leftover(path: &Path, engine: &DockerEngine) {
    // The lock tells whether its process still lives.
    let Ok(dir) = DataDir::open(path) else { return };
    if let Ok(Some(deployment)) = dir.read("deployment") {
        let config = DockerConfig::new(engine.endpoint.clone(), &engine.image, deployment);
        let Ok(provider) = DockerProvider::new(config) else { return };
        for sandbox in provider.list_mine().await.unwrap_or_default() {
            let _ = provider.destroy(&AgentRef { agent: sandbox.agent }).await;
        }
    }
    let _ = std::fs::remove_dir_all(path);
}

/// The agents of which the engine itself still has anything, whatever the table says.
pub async fn left_on_engine(stack: &Stack) -> Vec<String> {
    let mut left = Vec::new();
    if let Some(provider) = Sandboxes::of(stack.deployment()).own() {
        left.extend(provider.list_mine().await.unwrap().into_iter().map(|sandbox| sandbox.agent));
    }
    left
}

/// A platform of a test's own on the shared stack.
pub struct Platform {
    pub id: PlatformId,
    pub live_key: String,
    pub test_key: String,
    /// Calls with the live key.
    pub client: Client,
}

impl Platform {
    /// Makes one on the shared stack.
    pub async fn make(name: &str) -> Self {
        Self::make_on(tokio::task::spawn_blocking(stack).await.unwrap(), name).await
    }

    /// Makes one on that stack.
    #[expect(clippy::disallowed_methods, reason = "a test makes its platform as the operator does")]
    pub async fn make_on(stack: &Stack, name: &str) -> Self {
        let platforms = Platforms::new(stack.deployment().table().clone(), Operator::assume());
        let made = platforms.create(name).await.unwrap();
        let client = Client::new(stack.base_url(), Some(&made.live.text));
        Self {
            id: made.platform.id,
            live_key: made.live.text.to_string(),
            test_key: made.test.text.to_string(),
            client,
        }
    }
}
