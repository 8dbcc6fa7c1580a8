//! The emulator against the official E2B SDK for Python, unmodified.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking; clippy does not see helpers as tests")]

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use theazo_e2b_emulator::{Controls, Emulator};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const KEY: &str = "e2b_0123456789abcdef";

/// An emulator of a test's own, with a directory that goes with it.
struct Served {
    url: String,
    controls: Controls,
    dir: PathBuf,
    stop: oneshot::Sender<()>,
    task: JoinHandle<()>,
}

impl Served {
    async fn start(name: &str) -> Self {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("e2b-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let emulator = Emulator::new(&dir, Some(KEY));
        let controls = emulator.controls();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            emulator.serve(listener, async { drop(stopped.await) }).await.unwrap();
        });
        Self { url, controls, dir, stop, task }
    }

    async fn stop(self) {
        self.stop.send(()).unwrap();
        self.task.await.unwrap();
        std::fs::remove_dir_all(&self.dir).unwrap();
    }

    /// Runs Python (`THEAZO_PYTHON`, else `python3`) with the SDK pointed here; `None` when there is no such program.
    async fn python(&self, arguments: &[&str]) -> Option<Output> {
        let program = std::env::var_os("THEAZO_PYTHON").unwrap_or_else(|| "python3".into());
        let child = Command::new(program)
            .args(arguments)
            .envs([("E2B_API_KEY", KEY), ("E2B_API_URL", &self.url), ("E2B_SANDBOX_URL", &self.url)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        Some(tokio::time::timeout(Duration::from_secs(120), child.wait_with_output()).await.unwrap().unwrap())
    }

    /// Whether the SDK is there. Without it a test of it cannot run: said, unless that must not happen.
    async fn has_sdk(&self) -> bool {
        let found = self.python(&["-c", "import e2b"]).await.is_some_and(|output| output.status.success());
        if !found {
            assert_ne!(
                std::env::var("THEAZO_CI").as_deref(),
                Ok("1"),
                "the e2b SDK is missing, and here it is required"
            );
            let _ = writeln!(std::io::stderr(), "skipped: no python with e2b (set THEAZO_PYTHON)");
        }
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_official_sdk_does_its_work_and_leaves_nothing() {
    let served = Served::start("sdk").await;
    if served.has_sdk().await {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2b_client.py");
        let output = served.python(&[script]).await.unwrap();
        let (printed, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{printed}\n{complaint}");
        assert_eq!(printed.trim(), "all checks passed");
        assert_eq!(served.controls.left(), [""; 0]);
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_real_service_would_log_is_recorded_and_what_it_would_not_is_not() {
    let served = Served::start("records").await;
    if served.has_sdk().await {
        let script = "
from e2b import Sandbox
sandbox = Sandbox.create(envs={'A': 'canary-of-create'})
sandbox.commands.run('true', envs={'B': 'canary-of-envs'})
sandbox.commands.run('echo canary-of-arguments > /dev/null')
process = sandbox.commands.run('cat > /dev/null', background=True, stdin=True)
sandbox.commands.send_stdin(process.pid, 'canary-of-input')
sandbox.commands.stream_input(process.pid, ['hidden-in-a-stream'])
sandbox.files.write('x', 'hidden-in-a-file')
print(sandbox.commands.run('echo hidden-in-out''put | tr a-z A-Z').stdout)
sandbox.pause()
sandbox.kill()
";
        let output = served.python(&["-c", script]).await.unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let records = serde_json::to_string(&served.controls.records()).unwrap();
        let input = "Y2FuYXJ5LW9mLWlucHV0";
        for logged in ["canary-of-create", "canary-of-envs", "canary-of-arguments", input] {
            assert!(records.contains(logged), "{logged} is not recorded");
        }
        for hidden in ["hidden-in-a-stream", "aGlkZGVuLWluLWEtc3RyZWFt", "hidden-in-a-file", "HIDDEN-IN-OUTPUT"] {
            assert!(!records.contains(hidden), "{hidden} is recorded");
        }
        let snapshots = served.controls.records().into_iter().filter(|record| record.kind == "snapshot");
        assert!(snapshots.into_iter().any(|record| record.content.to_string().contains("canary-of-create")));
    }
    served.stop().await;
}

/// Writes a request on a connection and reads until its answer contains `last`.
async fn ask(connection: &mut TcpStream, pieces: &[&[u8]], last: &str) -> String {
    for (index, piece) in pieces.iter().enumerate() {
        if index > 0 {
            // Long enough that a server that does not wait for the rest has answered by then.
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        connection.write_all(piece).await.unwrap();
    }
    let mut answer = Vec::new();
    let read = async {
        while !String::from_utf8_lossy(&answer).contains(last) {
            let count = connection.read_buf(&mut answer).await.unwrap();
            assert_ne!(count, 0, "the connection was closed: {}", String::from_utf8_lossy(&answer));
        }
    };
    tokio::time::timeout(Duration::from_secs(60), read).await.unwrap();
    String::from_utf8(answer).unwrap()
}

/// A client that streams its request ends it a moment after the one message of a start. Were the start answered before
/// that, the server could not use the connection again, and would close it under the client's next request.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_serves_the_next_request_when_a_start_ends_late() {
    let served = Served::start("late").await;
    let mut connection = TcpStream::connect(served.url.trim_start_matches("http://")).await.unwrap();
    let content = r#"{"templateID":"base"}"#;
    let create = format!(
        "POST /v2/sandboxes HTTP/1.1\r\nhost: x\r\nx-api-key: {KEY}\r\ncontent-length: {}\r\n\r\n{content}",
        content.len()
    );
    let created = ask(&mut connection, &[create.as_bytes()], "}").await;
    let (_, created) = created.split_once("\r\n\r\n").unwrap();
    let created: serde_json::Value = serde_json::from_str(created).unwrap();
    let head = format!(
        "POST /process.Process/Start HTTP/1.1\r\nhost: x\r\ne2b-sandbox-id: {}\r\nx-access-token: {}\r\n\
         authorization: Basic dXNlcjo=\r\ncontent-type: application/connect+json\r\ntransfer-encoding: chunked\r\n\r\n",
        created["sandboxID"].as_str().unwrap(),
        created["envdAccessToken"].as_str().unwrap(),
    );
    let start = r#"{"process":{"cmd":"true"}}"#;
    let mut message = format!("{head}{:x}\r\n", start.len() + 5).into_bytes();
    message.push(0);
    message.extend_from_slice(&u32::try_from(start.len()).unwrap().to_be_bytes());
    message.extend_from_slice(format!("{start}\r\n").as_bytes());
    for _ in 0..2 {
        let answer = ask(&mut connection, &[&message, b"0\r\n\r\n"], "\r\n0\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        assert!(answer.contains("exited"), "{answer}");
    }
    served.stop().await;
}
