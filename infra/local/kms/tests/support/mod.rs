//! A directory of its own per test, the emulator in this process or as a process, and AWS clients for both.

use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_sdk_kms::Client;
use aws_sdk_kms::config::retry::RetryConfig;
use aws_sdk_kms::config::{BehaviorVersion, Credentials, Region};
use aws_sdk_kms::error::{ProvideErrorMetadata, SdkError};
use theazo_kms_emulator::Emulator;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::net::TcpListener;
use tokio::process::{Child, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A directory that goes when the test ends.
pub struct TestDir(PathBuf);

impl TestDir {
    pub fn make() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("kms-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn file(&self) -> PathBuf {
        self.0.join("kms.json")
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An emulator served by this process.
pub struct Served {
    pub address: SocketAddr,
    pub client: Client,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    pub async fn start(file: &Path) -> Self {
        let emulator = Emulator::open(file).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            emulator.serve(listener, async { drop(stopped.await) }).await.unwrap();
        });
        Self { address, client: client(address), stop, task }
    }

    pub async fn stop(self) {
        drop(self.client);
        self.stop.send(()).unwrap();
        within("the emulator's end", self.task).await.unwrap();
    }
}

/// The emulator's own program, killed when dropped.
pub struct Process {
    pub client: Client,
    child: Child,
}

impl Process {
    pub async fn start(file: &Path) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_theazo-kms-emulator"))
            .args(["--listen", "127.0.0.1:0", "--file"])
            .arg(file)
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        within("the emulator's first line", output.read_line(&mut line)).await.unwrap();
        let address = line.trim().strip_prefix("listening on ").expect("the address line").parse().unwrap();
        Self { client: client(address), child }
    }

    /// SIGKILL, and the end of the process.
    pub async fn kill(mut self) {
        within("the emulator's death", self.child.kill()).await.unwrap();
    }
}

/// The real SDK over plain HTTP, without retries: each refusal is seen as it was answered.
pub fn client(address: SocketAddr) -> Client {
    let config = aws_sdk_kms::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new("eu-central-1"))
        .endpoint_url(format!("http://{address}"))
        .credentials_provider(Credentials::new("test", "test", None, None, "test"))
        .retry_config(RetryConfig::disabled())
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    Client::from_conf(config)
}

/// A new symmetric key's ARN.
pub async fn make_key(kms: &Client) -> String {
    kms.create_key().send().await.unwrap().key_metadata.unwrap().arn.unwrap()
}

/// The exception's name; panics when the call was answered or failed in any other way.
pub fn refusal<T, E: ProvideErrorMetadata, R>(outcome: Result<T, SdkError<E, R>>) -> String {
    let error = match outcome {
        Ok(_) => panic!("the call was answered"),
        Err(error) => error,
    };
    error.code().expect("an answer with an exception's name").to_owned()
}

/// Waits for at most 30 seconds.
pub async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.unwrap_or_else(|_| panic!("{what} did not come"))
}
