//! `cargo dev lambda`: the main job through the very Lambda binaries, under `cargo lambda watch`, whose router is made of
//! the route table.

use crate::Stack;
use crate::terminal::say;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// How long `cargo lambda watch` may take to listen. It builds nothing before the first call.
const LISTEN_LIMIT: Duration = Duration::from_secs(60);

/// A running `cargo lambda watch`. It and the functions that it started are ended by [`Watch::stop`].
pub struct Watch {
    child: Child,
    address: SocketAddr,
}

impl Watch {
    /// Starts it over that stack's table and keys, on a free port.
    ///
    /// # Errors
    /// When `cargo-lambda` is not installed, or does not listen.
    pub async fn start(stack: &Stack) -> Result<Self, Failure> {
        let address = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let port = address.port().to_string();
        let mut command = Command::new("cargo-lambda");
        command
            .args(["lambda", "watch", "--wait", "--ignore-changes", "-A", "127.0.0.1", "-P", &port, "--env-file"])
            .arg(stack.data_dir().file("lambda.env"))
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../.."))
            // It ends what it has started when it is interrupted, and Ctrl-C is this program's to pass on.
            .process_group(0)
            .stdin(Stdio::null());
        let child = command.spawn().map_err(|error| {
            format!("cargo-lambda cannot be started ({error}): `pip install cargo-lambda` brings it, in an environment on the PATH")
        })?;
        let mut watch = Self { child, address };
        let until = tokio::time::Instant::now() + LISTEN_LIMIT;
        while TcpStream::connect(address).await.is_err() {
            if let Some(status) = watch.child.try_wait()? {
                return Err(format!("cargo lambda watch ended with {status}").into());
            }
            if tokio::time::Instant::now() >= until {
                watch.stop().await;
                return Err("cargo lambda watch does not listen".into());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        say(&format!("    cargo lambda watch listens on {}; the first call of a function builds it", watch.base_url()));
        Ok(watch)
    }

    /// `http://address:port`, without `/v1`.
    pub fn base_url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends it and its functions.
    pub async fn stop(mut self) {
        if let Some(id) = self.child.id() {
            // The whole group: `cargo run` stands between it and each function.
            let group = format!("-{id}");
            let _ = Command::new("kill").args(["-INT", "--", &group]).stderr(Stdio::null()).status().await;
            if tokio::time::timeout(Duration::from_secs(10), self.child.wait()).await.is_err() {
                let _ = Command::new("kill").args(["-KILL", "--", &group]).stderr(Stdio::null()).status().await;
                let _ = self.child.wait().await;
            }
        }
    }
}
