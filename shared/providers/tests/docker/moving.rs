//! Carrying a stopped agent's files from one engine to another: two hosts behind mutual TLS.

use crate::support::{agent, engine, environment, name, request, spec};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, VolumeCreateRequest};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListVolumesOptionsBuilder, StartContainerOptions,
};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Instant;
use theazo_docker_hosts::{Host, credential};
use theazo_providers::docker::{Carried, DockerHosts, HostRanges, HostSettings};
use theazo_providers::{AgentRef, ExecOutput, Language, Provider, ProviderError, SandboxSpec};
use theazo_tenancy::{CheckpointId, PlatformId};
use theazo_vault::SecretValue;

/// Files of every kind that an agent can have. What others own is made by root beforehand, in `/data/open`.
const MAKE: &str = r#"
import os, socket
os.chdir(b"/data")
names = [b"plain", b" space at both ends ", b"line\nbreak", b"'quoted' \"twice\" \\back", b"-rf", b"*?[x]", b"\xff\xfe not text",
         "größe 大".encode(), b"n" * 255, b"Total bytes written: 7", b"tab\tbell\x07", b".hidden"]
os.mkdir(b"odd names\n")
for name in names:
    with open(b"odd names\n/" + name, "wb") as file: file.write(name * 3)
deep = b"/data"
for _ in range(20):
    deep += b"/" + b"d" * 90
    os.mkdir(deep)
open(deep + b"/bottom", "w").write("deep")
os.mkdir("links"); os.chdir("links")
for name, to in [("absolute", "/etc/passwd"), ("out", "../../etc/passwd"), ("far", "../../../../../../tmp"), ("beside", "../plain"),
                 ("nowhere", "not there\n"), ("itself", "itself"), ("directory", ".."), ("long", "x/" * 1500)]:
    os.symlink(to, name)
open("one", "w").write("linked")
os.link("one", "two"); os.link("one", "../linked elsewhere")
os.chdir("/data")
os.mkdir("modes")
for mode in (0o000, 0o400, 0o644, 0o755, 0o777, 0o4755, 0o2755, 0o6711, 0o1644):
    path = f"modes/{mode:o}"
    open(path, "w").write(path); os.chmod(path, mode)
for mode in (0o1777, 0o2770, 0o700, 0o555, 0o000):
    path = f"modes/directory {mode:o}"
    os.mkdir(path)
    if mode: open(path + "/inside", "w").write(path)
    os.chmod(path, mode)
os.mkdir("empty"); open("nothing", "w").close()
os.mkfifo("fifo", 0o640)
listening = socket.socket(socket.AF_UNIX); listening.bind("socket")
with open("holes", "wb") as file:
    file.truncate(3 << 30); file.seek(1 << 30); file.write(b"in the middle")
with open("large", "wb") as file:
    for _ in range(48): file.write(os.urandom(1 << 20))
try:
    os.setxattr("nothing", "user.note", b"an attribute\x00of bytes")
except OSError: pass
os.utime("nothing", ns=(1_000_000_000_123_456_789, 1_111_111_111_987_654_321))
os.utime("empty", ns=(0, -1_000_000_000))
os.chmod("/data", 0o751)
"#;

/// Prints what there is, a line each: everything that is to be the same afterwards.
const DESCRIBE: &str = r#"
import hashlib, os, stat
first = {}
def describe(path):
    at = os.lstat(path)
    kind = stat.S_IFMT(at.st_mode)
    said = [oct(at.st_mode), at.st_uid, at.st_gid, at.st_mtime_ns]
    if kind == stat.S_IFLNK: said.append(os.readlink(path))
    elif kind == stat.S_IFREG:
        said += [at.st_size, at.st_nlink, first.setdefault(at.st_ino, path)]
        own = at.st_uid == os.getuid()
        if own: os.chmod(path, 0o600)
        try: file = open(path, "rb")
        except PermissionError: file = None
        if own: os.chmod(path, stat.S_IMODE(at.st_mode))
        if at.st_size > 1 << 30:
            file.seek(1 << 30); said += [file.read(13), at.st_blocks < 1000]
        elif file: said.append(hashlib.file_digest(file, "sha256").hexdigest())
        said.append([(name, os.getxattr(path, name)) for name in sorted(os.listxattr(path)) if name.startswith("user.")])
    print(ascii(path), said)
    if kind == stat.S_IFDIR:
        own = at.st_uid == os.getuid() and path != b"/data"
        if own: os.chmod(path, 0o700)
        inside = sorted(os.listdir(path))
        for name in inside: describe(path + b"/" + name)
        if own: os.chmod(path, stat.S_IMODE(at.st_mode))
describe(b"/data")
"#;

/// Two hosts as one platform's.
struct Pair {
    one: Host,
    two: Host,
    hosts: DockerHosts,
    image: String,
    deployment: String,
}

impl Pair {
    async fn start() -> Self {
        let (endpoint, image) = engine().await;
        let (one, two) = tokio::join!(Host::start(image, endpoint), Host::start(image, endpoint));
        let deployment = format!("test-{}", PlatformId::make());
        let settings =
            HostSettings { deployment: deployment.clone(), image: image.clone(), ranges: HostRanges::private() };
        let credential = SecretValue::from_text(credential(&[(&one, 10), (&two, 10)]));
        let hosts = DockerHosts::new(&credential, &settings).unwrap();
        Self { one, two, hosts, image: image.clone(), deployment }
    }

    fn on(&self, host: &Host) -> Arc<dyn Provider> {
        self.hosts.on(&host.name()).unwrap()
    }

    async fn carry(&self, spec: &SandboxSpec, what: &Carried) -> Result<(), ProviderError> {
        self.hosts.carry(spec, &self.one.name(), &self.two.name(), what).await
    }

    async fn run(&self, host: &Host, agent: &AgentRef, language: Language, code: &str) -> String {
        let ran: ExecOutput = self.on(host).exec(agent, request(language, code)).await.unwrap();
        assert_eq!(ran.exit_code, 0, "{}", String::from_utf8_lossy(&ran.stderr));
        String::from_utf8(ran.stdout.to_vec()).unwrap()
    }

    async fn end(self) {
        self.one.kill().await;
        self.two.kill().await;
    }
}

/// The names of an engine's containers and the labels of its volumes, those that are an agent's.
async fn left(engine: &Docker, agent: &AgentRef) -> (Vec<String>, BTreeMap<String, HashMap<String, String>>) {
    let filter = HashMap::from([("label", vec![format!("theazo.agent={}", agent.agent)])]);
    let containers = ListContainersOptionsBuilder::default().all(true).filters(&filter).build();
    let volumes = ListVolumesOptionsBuilder::default().filters(&filter).build();
    let containers = engine.list_containers(Some(containers)).await.unwrap();
    let volumes = engine.list_volumes(Some(volumes)).await.unwrap().volumes.unwrap_or_default();
    (
        containers.into_iter().flat_map(|container| container.names.unwrap_or_default()).collect(),
        volumes.into_iter().map(|volume| (volume.name, volume.labels)).collect(),
    )
}

/// What root makes in an agent's container, which has no rights beyond what the agent has opened to all.
async fn as_root(host: &Host, agent: &AgentRef, code: &str) {
    let options = bollard::exec::CreateExecOptions {
        user: Some("0:0".to_owned()),
        cmd: Some(["bash", "-c", code].map(str::to_owned).to_vec()),
        ..Default::default()
    };
    let engine = host.engine();
    let id = engine.create_exec(&name(agent), options).await.unwrap().id;
    engine.start_exec(&id, Some(bollard::exec::StartExecOptions { detach: true, ..Default::default() })).await.unwrap();
    for _ in 0..100 {
        let told = engine.inspect_exec(&id).await.unwrap();
        if told.running == Some(false) {
            assert_eq!(told.exit_code, Some(0), "{code}");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("{code} does not end");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_every_kind_arrive_on_another_host_as_they_were_and_nothing_secret_comes_along() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let pair = Pair::start().await;
    let (spec, canary) = (spec(), "canary-of-the-environment-0123456789");
    let moved = agent(&spec);
    pair.on(&pair.one).create(&spec, &environment(&[("SECRET", canary)])).await.unwrap();
    let prepare = "mkdir -m 0777 /data/open && echo \"$SECRET\" > /tmp/noted && echo early > /data/plain";
    pair.run(&pair.one, &moved, Language::Bash, prepare).await;
    as_root(&pair.one, &moved, "cd /data/open && echo root > root && mkdir of-root && chmod 0750 root").await;
    let checkpoint = CheckpointId::make().to_string();
    pair.on(&pair.one).checkpoint(&moved, &checkpoint).await.unwrap();
    pair.run(&pair.one, &moved, Language::Python, MAKE).await;
    let before = pair.run(&pair.one, &moved, Language::Python, DESCRIBE).await;
    assert!(before.lines().count() > 60 && before.contains("in the middle"), "{before}");
    assert!(matches!(
        pair.carry(
            &SandboxSpec { agent: "agt_other".into(), ..spec.clone() },
            &Carried { files: true, ..Carried::default() }
        )
        .await,
        Err(ProviderError::SandboxGone)
    ));
    pair.on(&pair.one).stop(&moved).await.unwrap();

    let what = Carried { files: true, checkpoints: vec![checkpoint.clone(), CheckpointId::make().to_string()] };
    let begun = Instant::now();
    pair.carry(&spec, &what).await.unwrap();
    println!("carried within {:?}", begun.elapsed());
    let (one, two) = (pair.one.engine(), pair.two.engine());
    let (there, here) = (left(&one, &moved).await, left(&two, &moved).await);
    assert_eq!(here, there, "the same volumes with the same labels, and no container");
    assert_eq!((here.0.len(), here.1.len()), (0, 2));

    pair.on(&pair.two).resume(&spec, &environment(&[("SECRET", "another")])).await.unwrap();
    let after = pair.run(&pair.two, &moved, Language::Python, DESCRIBE).await;
    let gone = "'/data/socket'";
    let kept = |described: &str| -> Vec<String> {
        described.lines().filter(|line| !line.contains(gone)).map(str::to_owned).collect()
    };
    assert!(before.contains(gone) && !after.contains(gone), "a socket is nobody's without its process");
    for (was, is) in kept(&before).into_iter().zip(kept(&after)) {
        assert_eq!(was, is);
    }
    assert_eq!(kept(&before).len(), kept(&after).len());
    // What is run lies in /tmp itself.
    let search = format!("grep -rIl -D skip -- '{canary}' /data 2>/dev/null; ls -d /tmp/noted; printf %s \"$SECRET\"");
    assert_eq!(pair.run(&pair.two, &moved, Language::Bash, &search).await, "another");

    // A checkpoint is what it was, and what was carried from is still there.
    pair.on(&pair.two).restore(&spec, &environment(&[]), &checkpoint).await.unwrap();
    let look = "cat /data/plain; ls /data; stat -c %u:%a /data/open/root";
    assert_eq!(pair.run(&pair.two, &moved, Language::Bash, look).await, "early\nopen\nplain\n0:750\n");
    pair.on(&pair.two).destroy(&moved).await.unwrap();
    assert_eq!(left(&two, &moved).await, (vec![], BTreeMap::new()));
    pair.on(&pair.one).resume(&spec, &environment(&[])).await.unwrap();
    assert_eq!(pair.run(&pair.one, &moved, Language::Python, DESCRIBE).await, before);
    pair.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_interrupted_move_has_left_on_either_host_is_replaced() {
    if !theazo_docker_hosts::can_run() {
        return;
    }
    let pair = Pair::start().await;
    let spec = spec();
    let moved = agent(&spec);
    pair.on(&pair.one).create(&spec, &environment(&[])).await.unwrap();
    pair.run(&pair.one, &moved, Language::Bash, "echo whole > /data/whole").await;
    pair.on(&pair.one).stop(&moved).await.unwrap();
    // A copier on both, at work, and half of the files with something else.
    let labels = HashMap::from([
        ("theazo.deployment".to_owned(), pair.deployment.clone()),
        ("theazo.agent".to_owned(), moved.agent.clone()),
    ]);
    let volume = VolumeCreateRequest {
        name: Some(name(&moved)),
        labels: Some(labels.clone()),
        ..VolumeCreateRequest::default()
    };
    pair.two.engine().create_volume(volume).await.unwrap();
    for host in [&pair.one, &pair.two] {
        let body = ContainerCreateBody {
            image: Some(pair.image.clone()),
            user: Some("0:0".into()),
            entrypoint: Some(vec!["/bin/bash".into()]),
            cmd: Some(vec!["-c".into(), "echo other > /data/other; sleep 300".into()]),
            labels: Some(labels.clone()),
            host_config: Some(bollard::models::HostConfig {
                binds: Some(vec![format!(
                    "{}:/data",
                    if std::ptr::eq(host, &pair.two) { name(&moved) } else { "beside".into() }
                )]),
                ..Default::default()
            }),
            ..ContainerCreateBody::default()
        };
        let copier = format!("{}-copy", name(&moved));
        let options = CreateContainerOptionsBuilder::default().name(&copier).build();
        host.engine().create_container(Some(options), body).await.unwrap();
        host.engine().start_container(&copier, None::<StartContainerOptions>).await.unwrap();
    }
    let what = Carried { files: true, ..Carried::default() };
    pair.carry(&spec, &what).await.unwrap();
    // Once more, as when nobody has heard that it was done.
    pair.carry(&spec, &what).await.unwrap();
    for host in [&pair.one, &pair.two] {
        let (containers, volumes) = left(&host.engine(), &moved).await;
        assert_eq!((containers, volumes.into_keys().collect::<Vec<_>>()), (vec![], vec![name(&moved)]));
    }
    pair.on(&pair.two).resume(&spec, &environment(&[])).await.unwrap();
    assert_eq!(pair.run(&pair.two, &moved, Language::Bash, "ls /data; cat /data/whole").await, "whole\nwhole\n");
    // One who has an agent's name and no label of ours is neither replaced nor written over.
    pair.on(&pair.two).destroy(&moved).await.unwrap();
    let strangers = VolumeCreateRequest { name: Some(name(&moved)), ..VolumeCreateRequest::default() };
    pair.two.engine().create_volume(strangers).await.unwrap();
    let refused = pair.carry(&spec, &what).await.unwrap_err().to_string();
    assert!(refused.contains("somebody else"), "{refused}");
    pair.end().await;
}
