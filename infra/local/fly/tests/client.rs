//! The emulator against clients that we did not write, and what the real service is known to do.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking; clippy does not see helpers as tests")]

use serde_json::{Value, json};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;
use theazo_fly_emulator::{Controls, Emulator};
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const TOKEN: &str = "fm2_0123456789abcdef";

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
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("fly-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let emulator = Emulator::new(&dir, Some(TOKEN), Vec::new());
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

    /// Calls again until the rate is kept.
    async fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        for _ in 0..20 {
            let (status, answer) = self.once(method, path, body.clone(), None).await;
            if status != 429 {
                return (status, answer);
            }
            tokio::time::sleep(Duration::from_millis(400)).await;
        }
        panic!("{method} {path} is never taken");
    }

    async fn once(&self, method: &str, path: &str, body: Value, nonce: Option<&str>) -> (u16, Value) {
        let call = reqwest::Client::new().request(method.parse().unwrap(), format!("{}/v1{path}", self.url));
        let call = call.bearer_auth(TOKEN).header("fly-machine-lease-nonce", nonce.unwrap_or_default());
        let call = if body.is_null() { call } else { call.json(&body) };
        let answer = call.send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str(&answer.text().await.unwrap()).unwrap_or_default())
    }

    async fn ok(&self, method: &str, path: &str, body: Value) -> Value {
        let (status, answer) = self.call(method, path, body).await;
        assert!(status < 300, "{method} {path}: {status} {answer}");
        answer
    }

    /// Runs Python (`THEAZO_FLY_PYTHON`, else `python3`); `None` when there is no such program.
    async fn python(&self, arguments: &[&str]) -> Option<Output> {
        let program = std::env::var_os("THEAZO_FLY_PYTHON").unwrap_or_else(|| "python3".into());
        let child = Command::new(program)
            .args(arguments)
            .envs([("FLY_API_TOKEN", TOKEN), ("FLY_URL", &self.url)])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .ok()?;
        Some(tokio::time::timeout(Duration::from_secs(60), child.wait_with_output()).await.unwrap().unwrap())
    }
}

/// Whether machines can be had here: only root gives them their users. Said, unless that must not happen.
fn has_machines() -> bool {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        assert_ne!(std::env::var("THEAZO_CI").as_deref(), Ok("1"), "this needs root, and here it is required");
        let _ = writeln!(std::io::stderr(), "skipped: the Fly emulator must run as root");
    }
    is_root
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_client_does_its_work_and_leaves_nothing() {
    if !has_machines() {
        return;
    }
    let served = Served::start("client").await;
    let found = served.python(&["-c", "import fly_python_sdk"]).await.is_some_and(|output| output.status.success());
    if found {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fly_client.py");
        let output = served.python(&[script]).await.unwrap();
        let (printed, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{printed}\n{complaint}");
        assert!(printed.trim().ends_with("all checks passed"), "{printed}");
        assert_eq!(served.controls.left(), [""; 0]);
        assert_eq!(served.controls.violations(), [""; 0]);
    } else {
        assert_ne!(
            std::env::var("THEAZO_CI").as_deref(),
            Ok("1"),
            "fly-python-sdk is missing, and here it is required"
        );
        let _ = writeln!(std::io::stderr(), "skipped: no python with fly-python-sdk (set THEAZO_FLY_PYTHON)");
    }
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_goes_through_its_states_as_fly_describes_them() {
    if !has_machines() {
        return;
    }
    let served = Served::start("states").await;
    served.ok("POST", "/apps", json!({ "name": "app", "org_slug": "personal", "network": "app" })).await;
    let volume = json!({ "name": "data", "region": "iad", "size_gb": 1 });
    let volume = served.ok("POST", "/apps/app/volumes", volume).await["id"].as_str().unwrap().to_owned();
    let config = json!({
        "image": "i", "mounts": [{ "volume": volume, "path": "/data" }],
        "init": { "exec": ["sleep", "600"] }, "restart": { "policy": "no" },
    });
    let body = json!({ "name": "one", "region": "iad", "config": config });
    let machine = served.ok("POST", "/apps/app/machines", body.clone()).await;
    let (id, version) =
        (machine["id"].as_str().unwrap().to_owned(), machine["instance_id"].as_str().unwrap().to_owned());
    let path = format!("/apps/app/machines/{id}");
    assert_eq!(served.call("POST", "/apps/app/machines", body.clone()).await.0, 409, "the name is taken");
    let second = json!({ "name": "two", "region": "iad", "config": config });
    assert_eq!(served.call("POST", "/apps/app/machines", second).await.0, 412, "the volume is claimed");
    served.ok("GET", &format!("{path}/wait?state=started&timeout=10"), Value::Null).await;
    assert_eq!(served.call("GET", &format!("{path}/wait?timeout=61"), Value::Null).await.0, 400);
    assert_eq!(served.call("GET", &format!("{path}/wait?state=stopped&timeout=1"), Value::Null).await.0, 400);
    let stopped = format!("{path}/wait?state=stopped&timeout=1&version={version}");
    let (status, late) = served.call("GET", &stopped, Value::Null).await;
    assert_eq!(status, 408, "{late}");
    assert_eq!(served.call("POST", &format!("{path}/start"), Value::Null).await.0, 412);

    let exec = |command: &str| json!({ "command": ["sh", "-c", command], "timeout": 5 });
    let ran =
        served.ok("POST", &format!("{path}/exec"), exec("echo out; echo x > /data/kept; echo x > /lost; exit 3")).await;
    assert_eq!(ran, json!({ "stdout": "out\n", "exit_code": 3 }));
    let long = json!({ "command": ["true"], "timeout": 61 });
    assert_eq!(served.call("POST", &format!("{path}/exec"), long).await.0, 400);
    let large = served.ok("POST", &format!("{path}/exec"), exec(&"#".repeat(20_000))).await;
    assert!(large["stdout"].as_str().unwrap().contains("PayloadTooLarge"));

    served.ok("POST", &format!("{path}/stop"), json!({ "signal": "SIGTERM", "timeout": "5s" })).await;
    served.ok("GET", &stopped, Value::Null).await;
    assert_eq!(served.call("POST", &format!("{path}/exec"), exec("true")).await.0, 412);
    served.ok("POST", &format!("{path}/start"), Value::Null).await;
    served.ok("GET", &format!("{path}/wait?state=started&timeout=10"), Value::Null).await;
    let kept = served.ok("POST", &format!("{path}/exec"), exec("ls /data; ls /lost 2>/dev/null")).await;
    assert_eq!(kept["stdout"], "kept\n", "the volume is kept, the rest is the image's again");

    assert_eq!(served.call("DELETE", &path, Value::Null).await.0, 412, "it runs");
    served.ok("DELETE", &format!("{path}?force=true"), Value::Null).await;
    served.ok("DELETE", &format!("/apps/app/volumes/{volume}"), Value::Null).await;
    served.ok("DELETE", "/apps/app?force=true", Value::Null).await;
    assert_eq!(served.controls.left(), [""; 0]);
    assert_eq!(served.controls.violations(), [""; 0]);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leases_a_machine_alone_changes_it_until_the_lease_is_over_and_whoever_calls_too_often_waits() {
    if !has_machines() {
        return;
    }
    let served = Served::start("leases").await;
    served.ok("POST", "/apps", json!({ "name": "app", "org_slug": "personal", "network": "app" })).await;
    let config = json!({ "image": "i", "init": { "exec": ["sleep", "600"] } });
    let body = json!({ "config": config, "skip_launch": true, "lease_ttl": 5 });
    let made = served.ok("POST", "/apps/app/machines", body).await;
    let path = format!("/apps/app/machines/{}", made["id"].as_str().unwrap());
    let (lease, start, stop) = (format!("{path}/lease"), format!("{path}/start"), format!("{path}/stop"));
    let first = made["nonce"].as_str().unwrap();
    assert_eq!(served.once("POST", &start, Value::Null, None).await.0, 409);
    assert_eq!(served.once("POST", &lease, json!({ "ttl": 60 }), None).await.0, 409, "it is somebody else's");
    let longer = served.once("POST", &lease, json!({ "ttl": 5 }), Some(first)).await;
    assert_eq!((longer.0, &longer.1["nonce"]), (201, &json!(first)));
    assert_eq!(served.ok("GET", &lease, Value::Null).await["nonce"], first);
    assert_eq!(served.once("POST", &start, Value::Null, Some(first)).await.0, 200);
    // It ends by itself.
    tokio::time::sleep(Duration::from_millis(5_100)).await;
    assert_eq!(served.call("GET", &lease, Value::Null).await.0, 404);
    served.ok("POST", &stop, json!({})).await;
    let second =
        served.ok("POST", &lease, json!({ "description": "mine" })).await["nonce"].as_str().unwrap().to_owned();
    assert_eq!(served.once("DELETE", &lease, Value::Null, Some(first)).await.0, 409);
    assert_eq!(served.once("DELETE", &format!("{path}?force=true"), Value::Null, None).await.0, 409);
    assert_eq!(served.once("DELETE", &lease, Value::Null, Some(&second)).await.0, 200);

    // Looks at the machine may come more often than anything else; who comes too often is told nothing but that.
    tokio::time::sleep(Duration::from_millis(3_000)).await;
    for (path, most) in [(path.clone(), 10), (format!("{path}/events"), 3)] {
        let mut taken = 0;
        let begun = std::time::Instant::now();
        while taken < 40 && served.once("GET", &path, Value::Null, None).await.0 == 200 {
            taken += 1;
        }
        let since = usize::try_from(begun.elapsed().as_millis()).unwrap() * most / 2000;
        assert!((most..=most + since + 1).contains(&taken), "{taken} of {path}");
    }
    served.ok("DELETE", &format!("{path}?force=true"), Value::Null).await;
    served.ok("DELETE", "/apps/app?force=true", Value::Null).await;
    assert_eq!(served.controls.violations(), [""; 0]);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_of_the_whole_organization_lags_behind() {
    if !has_machines() {
        return;
    }
    let served = Served::start("lag").await;
    served.ok("POST", "/apps", json!({ "name": "app", "org_slug": "personal", "network": "app" })).await;
    let config = json!({ "image": "i", "init": { "exec": ["sleep", "600"] } });
    let made = served.ok("POST", "/apps/app/machines", json!({ "config": config })).await;
    let path = format!("/apps/app/machines/{}", made["id"].as_str().unwrap());
    let listed = async || {
        let all = served.ok("GET", "/orgs/personal/machines", Value::Null).await;
        all["machines"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| row["state"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(listed().await, [""; 0]);
    served.ok("GET", &format!("{path}/wait?state=started&timeout=10"), Value::Null).await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(listed().await, ["started"]);
    served.ok("POST", &format!("{path}/stop"), json!({ "signal": "SIGKILL" })).await;
    assert_eq!(listed().await, ["started"], "what it was");
    let version = made["instance_id"].as_str().unwrap();
    served.ok("GET", &format!("{path}/wait?state=stopped&timeout=10&version={version}"), Value::Null).await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    assert_eq!(listed().await, ["stopped"]);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn machines_of_two_apps_have_networks_of_their_own_and_the_proxy_hands_on_what_it_gets() {
    if !has_machines() {
        return;
    }
    let served = Served::start("networks").await;
    let mut addresses = Vec::new();
    for app in ["one", "two"] {
        served.ok("POST", "/apps", json!({ "name": app, "org_slug": "personal", "network": app })).await;
        let ip = served.ok("POST", &format!("/apps/{app}/ip_assignments"), json!({ "type": "v4" })).await;
        addresses.push(ip["ip"].as_str().unwrap().to_owned());
        let server = format!(
            "import socket\ns = socket.create_server(('127.0.0.1', 7000))\nwhile True:\n c, _ = s.accept()\n c.sendall(b'{app} ' + c.recv(9))\n c.close()"
        );
        let config = json!({
            "image": "i", "init": { "exec": ["python3", "-c", server] },
            "services": [{ "protocol": "tcp", "internal_port": 7000, "ports": [{ "port": 7100, "handlers": [] }] }],
        });
        let machine = served.ok("POST", &format!("/apps/{app}/machines"), json!({ "config": config })).await;
        let id = machine["id"].as_str().unwrap();
        served.ok("GET", &format!("/apps/{app}/machines/{id}/wait?timeout=10"), Value::Null).await;
    }
    for (app, address) in ["one", "two"].iter().zip(&addresses) {
        let mut said = String::new();
        for _ in 0..200 {
            use tokio::io::{AsyncReadExt, AsyncWriteExt};
            if let Ok(mut stream) = tokio::net::TcpStream::connect((address.as_str(), 7100)).await {
                let _ = stream.write_all(b"hello").await;
                let _ = stream.read_to_string(&mut said).await;
            }
            if !said.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        assert_eq!(said, format!("{app} hello"));
    }
    let recorded = || serde_json::to_string(&served.controls.records()).unwrap().contains("two hello");
    for _ in 0..200 {
        // A connection is recorded once both sides have ended it.
        if recorded() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert!(recorded(), "what passes the proxy is recorded");
    assert_eq!(served.controls.violations(), [""; 0]);
    served.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_for_http_takes_requests_in_plain_http_and_does_not_follow_replays() {
    if !has_machines() {
        return;
    }
    let served = Served::start("http").await;
    served.ok("POST", "/apps", json!({ "name": "app", "org_slug": "personal", "network": "app" })).await;
    let ip = served.ok("POST", "/apps/app/ip_assignments", json!({ "type": "v4" })).await["ip"].clone();
    let server = "
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        if self.path == '/header': self.send_header('Fly-Replay', 'app=other')
        if self.path == '/body': self.send_header('Content-Type', 'application/vnd.fly.replay+json')
        self.end_headers()
        self.wfile.write(str(self.headers).encode())
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(('127.0.0.1', 8000), Handler).serve_forever()";
    let service =
        json!({ "protocol": "tcp", "internal_port": 8000, "ports": [{ "port": 443, "handlers": ["tls", "http"] }] });
    let config = json!({ "image": "i", "init": { "exec": ["python3", "-c", server] }, "services": [service] });
    let machine = served.ok("POST", "/apps/app/machines", json!({ "config": config })).await;
    let path = format!("/apps/app/machines/{}", machine["id"].as_str().unwrap());
    served.ok("GET", &format!("{path}/wait?timeout=10"), Value::Null).await;
    let ask = async |path: &str| {
        let answer = reqwest::get(format!("http://{}:443{path}", ip.as_str().unwrap())).await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.unwrap().to_lowercase()))
    };
    for _ in 0..200 {
        if ask("/").await.is_some_and(|(status, _)| status == 200) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let (status, told) = ask("/").await.unwrap();
    assert!(status == 200 && told.contains("x-forwarded-proto: https"), "{status} {told}");
    assert_eq!(ask("/header").await.unwrap().0, 502);
    assert_eq!(ask("/body").await.unwrap().0, 502);
    served.ok("POST", &format!("{path}/stop"), json!({ "signal": "SIGKILL" })).await;
    for _ in 0..200 {
        if ask("/").await.is_some_and(|(status, _)| status == 502) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    assert_eq!(ask("/").await.unwrap().0, 502, "nothing runs");
    served.ok("DELETE", "/apps/app?force=true", Value::Null).await;
    assert_eq!(ask("/").await, None);
    assert_eq!(served.controls.violations(), [""; 0]);
    served.stop().await;
}
