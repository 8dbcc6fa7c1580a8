//! The namespaces of one host, and the process that they and everything in them end with.

use rustix::process::{Pid, Signal, kill_process};
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

const FOLDER: &str = "theazo-hosts-";
/// Where a host's folder says which network it has, and how much less its way there counts than the link.
const ROUTE: &str = "route";
const METRIC: &str = "4242";
const CGROUPS: &str = "/sys/fs/cgroup";
/// How long processes may take to end that were killed.
const ENDS_WITHIN: Duration = Duration::from_secs(10);
const PAUSE: Duration = Duration::from_millis(20);

/// The host's first process. The shell stays, because whatever loses its parent is its to wait for. What containers and
/// images take is in memory, and what is kept at fixed places, or written to its settings, is the host's own.
const INIT: &str = r#"
set -e
dir=$1 port=$2 parent=$3 runtime=$4
ip link set lo up
mkdir -p "$dir/data" "$dir/exec"
mount -t tmpfs -o mode=0755,size=3g tmpfs /run
mount -t tmpfs -o mode=0711,size=3g tmpfs "$dir/data"
mount -t tmpfs -o mode=0711,size=256m tmpfs "$dir/exec"
mkdir "$dir/exec/etc" "$dir/exec/etc-work"
mount -t overlay -o "lowerdir=/etc,upperdir=$dir/exec/etc,workdir=$dir/exec/etc-work" overlay /etc
dockerd --data-root "$dir/data" --exec-root "$dir/exec" --pidfile "$dir/exec/pid" \
  --host "unix://$dir/docker.sock" --host "tcp://0.0.0.0:$port" \
  --tlsverify --tlscacert "$dir/ca.pem" --tlscert "$dir/cert.pem" --tlskey "$dir/key.pem" \
  --cgroup-parent "$parent" --userland-proxy=false ${runtime:+--add-runtime "$runtime=$(command -v runc)"} &
wait
"#;

pub(crate) struct Namespace {
    dir: PathBuf,
    cgroup: String,
    /// Outside of everything: whoever waits for the first process, and takes it along when it ends.
    outer: Pid,
    /// The first process, as it is seen from outside.
    first: u32,
    ended: Arc<AtomicBool>,
}

impl Namespace {
    /// Starts the engine in namespaces of its own, which have one address, reached from the other. It offers runc by the name
    /// of that runtime too, unless it is empty.
    pub(crate) async fn start(
        id: &str,
        files: &[(&str, &str)],
        (near, address, port): (Ipv4Addr, Ipv4Addr, u16),
        runtime: &str,
    ) -> Self {
        remove_leftovers();
        let name = format!("{FOLDER}{}-{id}", std::process::id());
        let (dir, cgroup) = (std::env::temp_dir().join(&name), name);
        std::fs::create_dir_all(&dir).expect("a folder for a host");
        for (name, content) in files {
            std::fs::write(dir.join(name), content).expect("a file of a host");
        }
        // When the host is gone, its address is nobody's: what is sent there goes nowhere and not to the next router.
        let network = format!("{}/30", Ipv4Addr::from(u32::from(near) - 1));
        std::fs::write(dir.join(ROUTE), &network).expect("a file of a host");
        run("ip", &["route", "add", "unreachable", &network, "metric", METRIC]).await;
        let ended = Arc::new(AtomicBool::new(false));
        let outer = spawn(&dir, [&port.to_string(), &format!("/{cgroup}"), runtime], ended.clone());
        let first = first_process(outer, &ended).await;
        let namespace = Self { dir, cgroup, outer, first, ended };
        let (link, pid) = (format!("tz{id}"), first.to_string());
        run("ip", &["link", "add", &link, "type", "veth", "peer", "name", "eth0", "netns", &pid]).await;
        run("ip", &["address", "add", &format!("{near}/30"), "dev", &link]).await;
        run("ip", &["link", "set", &link, "up"]).await;
        namespace.run("ip", &["address", "add", &format!("{address}/30"), "dev", "eth0"]).await;
        namespace.run("ip", &["link", "set", "eth0", "up"]).await;
        namespace
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.join("docker.sock")
    }

    pub(crate) async fn run(&self, program: &str, arguments: &[&str]) {
        let pid = self.first.to_string();
        let all: Vec<&str> = ["-t", &pid, "-m", "-n", program].into_iter().chain(arguments.iter().copied()).collect();
        run("nsenter", &all).await;
    }

    /// Sends the engine, and nothing else of the host's, a signal.
    pub(crate) async fn signal_engine(&self, signal: &str) {
        let pid = self.first.to_string();
        let file = self.dir.join("exec/pid");
        let file = file.to_str().expect("a folder with a plain name");
        let script = "kill -s \"$0\" \"$(cat \"$1\")\"";
        run("nsenter", &["-t", &pid, "-m", "-n", "-p", "sh", "-c", script, signal, file]).await;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }

    pub(crate) fn last_words(&self) -> String {
        let said = std::fs::read_to_string(self.dir.join("log")).unwrap_or_default();
        said.lines().rev().take(5).collect::<Vec<_>>().join(" | ")
    }

    pub(crate) async fn kill(&self) {
        self.strike();
        let until = Instant::now() + ENDS_WITHIN;
        while !self.has_ended() || is_process(&self.first.to_string()) {
            assert!(Instant::now() < until, "a host does not end");
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn strike(&self) {
        // It may have been waited for already, and its id be another's.
        if !self.has_ended() {
            let _ = kill_process(self.outer, Signal::KILL);
        }
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        self.strike();
        let until = Instant::now() + ENDS_WITHIN;
        while is_process(&self.first.to_string()) && Instant::now() < until {
            std::thread::sleep(PAUSE);
        }
        remove_folder(&self.dir, &self.cgroup);
    }
}

/// Starts the first process from a thread that lives as long as it does: the signal that ends it with this process is
/// really sent at the end of the thread.
fn spawn(dir: &Path, arguments: [&str; 3], ended: Arc<AtomicBool>) -> Pid {
    let log = std::fs::File::create(dir.join("log")).expect("a log of a host");
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "unshare", "--net", "--mount", "--pid", "--fork", "--kill-child=KILL"])
        .args(["--mount-proc", "sh", "-c", INIT, "host"])
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(log.try_clone().expect("a log of a host"))
        .stderr(log);
    let (send, started) = mpsc::channel();
    std::thread::spawn(move || {
        let mut child = command.spawn().expect("a host's first process");
        let _ = send.send(child.id());
        let _ = child.wait();
        ended.store(true, Ordering::Release);
    });
    let id = started.recv().expect("a host's first process");
    Pid::from_raw(i32::try_from(id).expect("a process id")).expect("a process id")
}

/// The only child of the process that has made the namespaces.
async fn first_process(outer: Pid, ended: &AtomicBool) -> u32 {
    let id = outer.as_raw_nonzero();
    let children = PathBuf::from(format!("/proc/{id}/task/{id}/children"));
    let until = Instant::now() + ENDS_WITHIN;
    loop {
        let found = std::fs::read_to_string(&children).ok();
        let found = found.and_then(|found| found.split_whitespace().next()?.parse().ok());
        if let Some(first) = found {
            return first;
        }
        assert!(!ended.load(Ordering::Acquire) && Instant::now() < until, "no namespaces for a host");
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_process(id: &str) -> bool {
    Path::new("/proc").join(id).exists()
}

async fn run(program: &str, arguments: &[&str]) {
    let output = tokio::process::Command::new(program).args(arguments).kill_on_drop(true).output();
    let output = output.await.unwrap_or_else(|error| panic!("{program}: {error}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
}

/// What processes have left that were killed: a folder with small files, and empty groups of processes.
fn remove_leftovers() {
    for entry in std::fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(pid) = name.strip_prefix(FOLDER).and_then(|rest| rest.split('-').next()) else { continue };
        if !is_process(pid) {
            remove_folder(&entry.path(), &name);
        }
    }
}

fn remove_folder(dir: &Path, cgroup: &str) {
    if let Ok(network) = std::fs::read_to_string(dir.join(ROUTE)) {
        let mut ip = Command::new("ip");
        ip.args(["route", "del", "unreachable", network.trim(), "metric", METRIC]);
        let _ = ip.stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
    let _ = std::fs::remove_dir_all(dir);
    let hierarchies = std::fs::read_dir(CGROUPS).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([CGROUPS.into()]) {
        remove_groups(&hierarchy.join(cgroup));
    }
}

/// Groups are removed one by one, the inner ones first; what is in them is the kernel's.
fn remove_groups(group: &Path) {
    for inner in std::fs::read_dir(group).into_iter().flatten().flatten() {
        if inner.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_groups(&inner.path());
        }
    }
    let _ = std::fs::remove_dir(group);
}
