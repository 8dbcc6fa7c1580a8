//! A machine made ready, and the image tried on its engine the way an agent's container is run: read-only,
//! without capabilities, process 1 as one user and code as another. Needs a Docker engine, or the right to start one.
#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "these are tests")]

use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, StartContainerOptions, StopContainerOptionsBuilder,
};
use futures_util::StreamExt;
use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use theazo_guest_protocol::{
    GUEST_PATH, Language, RUN_DIR, Refusal, Request, Response, decode_response, encode_header,
};
use theazo_providers::docker::connect;
use theazo_setup::{Progress, ensure_agent_image, ensure_engine};
use tokio::io::AsyncWriteExt;

#[derive(Default)]
struct Log(Mutex<Vec<String>>);

impl Progress for Log {
    fn step(&self, text: &str) {
        eprintln!("{text}");
        self.0.lock().unwrap().push(text.into());
    }
    fn detail(&self, text: &str) {
        eprintln!("  {text}");
    }
}

/// Removed in every case, also when a test fails.
struct Container {
    docker: Docker,
    name: String,
}

impl Container {
    async fn start(docker: Docker, image: &str, what: &str) -> Self {
        let name = format!("theazo-setup-test-{what}-{}", std::process::id());
        let tmpfs = [
            (RUN_DIR.to_owned(), "rw,noexec,nosuid,nodev,size=1m,mode=0750,uid=0,gid=10001".to_owned()),
            ("/tmp".to_owned(), "rw,nosuid,nodev,size=64m,mode=1777".to_owned()),
            ("/data".to_owned(), "rw,exec,nosuid,nodev,size=64m,mode=0755,uid=10001,gid=10001".to_owned()),
        ];
        let body = ContainerCreateBody {
            image: Some(image.into()),
            cmd: Some(vec!["init".into(), "--lifetime".into(), "120".into()]),
            user: Some("10000:10000".into()),
            host_config: Some(HostConfig {
                readonly_rootfs: Some(true),
                cap_drop: Some(vec!["ALL".into()]),
                security_opt: Some(vec!["no-new-privileges".into()]),
                network_mode: Some("none".into()),
                pids_limit: Some(128),
                memory: Some(512 << 20),
                tmpfs: Some(HashMap::from(tmpfs)),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let options = CreateContainerOptionsBuilder::new().name(&name).build();
        docker.create_container(Some(options), body).await.unwrap();
        let container = Self { docker, name };
        container.docker.start_container(&container.name, None::<StartContainerOptions>).await.unwrap();
        container
    }

    async fn ask(&self, user: &str, request: &Request, payload: &[u8]) -> (Response, Vec<u8>) {
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some(user.to_owned()),
            cmd: Some(vec![GUEST_PATH.to_owned()]),
            ..CreateExecOptions::default()
        };
        let id = self.docker.create_exec(&self.name, options).await.unwrap().id;
        let started = self.docker.start_exec(&id, None).await.unwrap();
        let StartExecResults::Attached { mut output, mut input } = started else { panic!("detached") };
        input.write_all(&encode_header(request).unwrap()).await.unwrap();
        input.write_all(payload).await.unwrap();
        input.flush().await.unwrap();
        let (mut wire, mut errors) = (Vec::new(), Vec::new());
        let read = async {
            while let Some(piece) = output.next().await {
                match piece.unwrap() {
                    LogOutput::StdOut { message } => wire.extend_from_slice(&message),
                    other => errors.extend_from_slice(&other.into_bytes()),
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read).await.expect("the guest answers");
        assert!(errors.is_empty(), "{}", String::from_utf8_lossy(&errors));
        let (response, payload) = decode_response(&wire).unwrap();
        (response, payload.to_vec())
    }

    async fn run(&self, language: Language, code: &str, input: &[u8], timeout_ms: u64) -> (i32, String, String) {
        let code = code.to_owned();
        let request =
            Request::Exec { language, code, timeout_ms, output_cap: 1 << 20, stream: false, payload: input.len() };
        let (response, payload) = self.ask("10001:10001", &request, input).await;
        let Response::Exec { exit_code, stdout, .. } = response else { panic!("{response:?}") };
        let (out, err) = payload.split_at(stdout);
        (exit_code, String::from_utf8_lossy(out).into(), String::from_utf8_lossy(err).into())
    }

    async fn remove(&self) {
        let force = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        self.docker.remove_container(&self.name, Some(force)).await.unwrap();
    }
}

const PYTHON: &str = r#"
import asyncio, bz2, ctypes, curses, decimal, hashlib, json, lzma, os, readline, sqlite3, ssl, sys, uuid, venv, zoneinfo, zlib
assert len(ssl.create_default_context().get_ca_certs()) > 50
assert sqlite3.connect("/data/x.db").execute("select 6*7").fetchone() == (42,)
assert zoneinfo.ZoneInfo("Europe/Berlin")
assert json.__cached__ and os.path.exists(json.__cached__), "compiled"
assert ctypes.CDLL(None).getpid() == os.getpid()
async def main(): return await (await asyncio.create_subprocess_exec("true")).wait()
assert asyncio.run(main()) == 0
print(os.environ["TOKEN"], sys.stdin.read(), os.getcwd(), os.environ["HOME"], os.getuid(), os.getgid())
"#;

const BASH: &str = r#"
set -e
for tool in curl git grep sed awk find tar gzip ps xz unzip openssl which hostname; do command -v $tool > /dev/null; done
[ "$(find / -xdev -perm /6000 -type f 2> /dev/null | wc -l)" = 0 ]
stat -c '%a %u:%g' /run/agent /tmp /data
stat -c '%a %u:%g' /usr/local/bin/theazo-guest /usr/local/bin/theazo-forwarder
id -un; awk 'BEGIN { print 1 + 1 }'; date +%Z; locale -a | grep -i 'c.utf'
[ ! -e /home ] && [ ! -e /build ]
! touch /usr/x 2> /dev/null
! echo x 2> /dev/null > /run/agent/env
! cat /proc/1/environ 2> /dev/null
! kill -9 1 2> /dev/null
git init -q /data/repo && echo "$TOKEN"
"#;

async fn check(container: &Container) {
    let entries = b"TOKEN=first=\n2nd\0";
    let (response, _) = container.ask("0:10001", &Request::Deliver { payload: entries.len() }, entries).await;
    assert_eq!(response, Response::Done);
    let (refused, _) = container.ask("10001:10001", &Request::Deliver { payload: entries.len() }, entries).await;
    assert_eq!(refused, Response::Refused { reason: Refusal::PermissionDenied }, "the agent cannot deliver");

    let ran = container.run(Language::Python, PYTHON, b"input", 30_000).await;
    assert_eq!(ran, (0, "first=\n2nd input /data /data 10001 10001\n".into(), String::new()));
    let code = "const https = require('https'), fs = require('fs'), crypto = require('crypto');\
                console.log(process.env.TOKEN.length, fs.readFileSync(0).length, process.cwd(), typeof fetch);\
                setTimeout(() => process.exit(3), 10)";
    let ran = container.run(Language::Node, code, b"1234", 30_000).await;
    assert_eq!(ran, (3, "10 4 /data function\n".into(), String::new()));
    let (code, out, err) = container.run(Language::Bash, BASH, b"", 30_000).await;
    let expected = "750 0:10001\n1777 0:0\n755 10001:10001\n755 0:0\n755 0:0\nagent\n2\nUTC\nC.utf8\nfirst=\n2nd\n";
    assert_eq!((code, out.as_str(), err.as_str()), (0, expected, ""));

    let bomb = "import os, time\nwhile True:\n    try: os.fork()\n    except OSError: time.sleep(0.05)";
    let (code, _, _) = container.run(Language::Python, bomb, b"", 1_500).await;
    assert_eq!(code, 124);
    let (_, alive, _) = container.run(Language::Bash, "ps -eo user= | grep -c agent", b"", 30_000).await;
    // bash itself, ps, grep and the guest.
    assert!(alive.trim().parse::<u32>().unwrap() <= 4, "{alive} processes of the agent");

    let read = Request::ReadFile { path: "/data/../run/agent/env".into(), offset: 0, length: 10 };
    let refused = Response::Refused { reason: Refusal::OutsideRoots };
    assert_eq!(container.ask("10001:10001", &read, b"").await.0, refused);
    let list = Request::ListFiles { dir: "/data".into() };
    let (Response::Listing { entries }, _) = container.ask("10001:10001", &list, b"").await else { panic!("listing") };
    assert_eq!(entries.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>(), ["repo", "x.db"]);

    let stop = StopContainerOptionsBuilder::new().t(20).build();
    let started = Instant::now();
    container.docker.stop_container(&container.name, Some(stop)).await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(10), "process 1 ends when it is told to");
}

#[tokio::test]
async fn a_machine_is_made_ready_once_and_its_image_runs_python_node_and_bash() {
    let log = Log::default();
    let endpoint = ensure_engine(&log).await.unwrap();
    // At the same time from two places, as two commands would.
    let (first, second) = tokio::join!(ensure_agent_image(&endpoint, &log), ensure_agent_image(&endpoint, &log));
    let image = first.unwrap();
    assert_eq!(image, second.unwrap());
    assert!(log.0.lock().unwrap().iter().filter(|step| step.contains(&image)).count() <= 1, "built at most once");
    let again = Log::default();
    assert_eq!(ensure_agent_image(&endpoint, &again).await.unwrap(), image);
    assert!(again.0.lock().unwrap().is_empty());

    let docker = connect(&endpoint).unwrap();
    let config = docker.inspect_image(&image).await.unwrap().config.unwrap();
    assert!(config.volumes.unwrap_or_default().is_empty());
    assert_eq!(config.user.as_deref(), Some("10000:10000"));
    assert_eq!(config.working_dir.as_deref(), Some("/data"));
    assert_eq!(config.entrypoint.unwrap(), [GUEST_PATH]);
    let container = Container::start(docker.clone(), &image, "run").await;
    let checked = tokio::spawn(async move {
        check(&container).await;
        container
    })
    .await;
    match checked {
        Ok(container) => container.remove().await,
        Err(failed) => {
            let name = format!("theazo-setup-test-run-{}", std::process::id());
            Container { docker, name }.remove().await;
            std::panic::resume_unwind(failed.into_panic());
        }
    }
}
