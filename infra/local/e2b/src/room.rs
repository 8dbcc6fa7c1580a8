//! A running sandbox's room: its file system view and process 1, in namespaces of their own.
//!
//! This keeps sandboxes from seeing each other's files and processes and takes everything of one down at once. It is no
//! security boundary: the emulator is for code that its user trusts.

use crate::error::EmulatorError;
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The ordinary user of every template.
pub(crate) const USER_UID: u32 = 1000;
const SCRIPT: &str = include_str!("room.sh");
/// How long a room may take to stand, and to be gone.
const WITHIN: Duration = Duration::from_secs(10);

/// A room that stands; it is taken down when dropped.
pub(crate) struct Room {
    unshare: Mutex<Child>,
    /// Process 1 of the room, by this machine's process id.
    init: i32,
    /// Its standard input. It ends when this is closed, as it is when the emulator dies.
    _stdin: Option<ChildStdin>,
}

/// Whether this process may use several users in a room.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Makes a sandbox's directory.
pub(crate) fn lay_out(dir: &Path) -> Result<(), EmulatorError> {
    let fail = |source| EmulatorError::File { path: dir.to_owned(), source };
    let home = dir.join("root/home/user");
    fs::create_dir_all(&home).map_err(fail)?;
    fs::create_dir_all(dir.join("root/tmp")).map_err(fail)?;
    set_mode(&dir.join("root/tmp"), 0o1777).map_err(fail)?;
    // First, so that the number has this name and no other.
    let mut users = String::from("user:x:1000:1000::/home/user:/bin/bash\n");
    users.push_str(&fs::read_to_string("/etc/passwd").unwrap_or_default());
    fs::write(dir.join("passwd"), users).map_err(fail)?;
    if is_root() {
        chown(&home, Some(USER_UID), Some(USER_UID)).map_err(fail)?;
    }
    Ok(())
}

fn set_mode(path: &Path, mode: u32) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Sends a signal to everything in a process namespace but its process 1, unless that is the namespace outside.
const SIGNAL_ALL: &str = "[ \"$(readlink /proc/self/ns/pid)\" != \"$2\" ] && kill \"$1\" -1";

impl Room {
    /// Opens the room over a sandbox's directory. Blocks until it stands.
    pub(crate) fn open(dir: &Path) -> Result<Self, EmulatorError> {
        let mut command = Command::new("unshare");
        if !is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        command.args(["--mount", "--pid", "--fork", "--kill-child", "/bin/bash", "-c", SCRIPT, "room"]).arg(dir);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut unshare = command.spawn().map_err(EmulatorError::Room)?;
        let stdin = unshare.stdin.take();
        let mut line = String::new();
        if let Some(stdout) = unshare.stdout.take() {
            BufReader::new(stdout).read_line(&mut line).map_err(EmulatorError::Room)?;
        }
        let init = child_of(unshare.id());
        let (Some(init), "ready\n") = (init, line.as_str()) else {
            let _ = unshare.kill();
            let complaint = unshare.wait_with_output().map_err(EmulatorError::Room)?;
            return Err(EmulatorError::NoRoom(String::from_utf8_lossy(&complaint.stderr).trim().to_owned()));
        };
        Ok(Self { unshare: Mutex::new(unshare), init, _stdin: stdin })
    }

    /// Where the sandbox's root directory can be opened from outside.
    pub(crate) fn root(&self) -> PathBuf {
        format!("/proc/{}/root", self.init).into()
    }

    /// The command that runs a program inside, with nothing in its environment yet.
    pub(crate) fn enter(&self, user: User, cwd: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init));
        if !is_root() {
            command.args(["--user", "--preserve-credentials"]);
        }
        command.args(["--mount", "--pid", "--root", "--wd"]);
        if is_root() {
            let id = user.uid();
            command.arg(format!("--setuid={id}")).arg(format!("--setgid={id}"));
        }
        // A session of its own, as the real daemon gives each process.
        command.args(["--", "/bin/sh", "-c", "cd -- \"$1\" && shift && exec setsid -- \"$@\"", "sh", cwd]);
        command.env_clear();
        command
    }

    /// Stops or continues everything inside but process 1.
    pub(crate) fn freeze(&self, frozen: bool) {
        let mut kill = self.enter(User::Root, "/");
        let signal = if frozen { "-STOP" } else { "-CONT" };
        // Of a room that is gone the number may be another process's by now, and this would stop all of the machine.
        let Ok(outside) = fs::read_link("/proc/self/ns/pid") else { return };
        kill.args(["/bin/bash", "-c", SIGNAL_ALL, "kill", signal]).arg(outside);
        let _ = kill.stderr(Stdio::null()).status();
    }
}

impl Room {
    /// Takes the room down. The kernel ends every process of it with its process 1.
    pub(crate) fn close(&self) {
        let mut unshare = self.unshare.lock().unwrap_or_else(PoisonError::into_inner);
        if !matches!(unshare.try_wait(), Ok(None)) {
            return;
        }
        send(self.init, Signal::KILL);
        let until = Instant::now() + WITHIN;
        while Instant::now() < until {
            match unshare.try_wait() {
                Ok(None) => std::thread::sleep(Duration::from_millis(2)),
                _ => return,
            }
        }
        let _ = unshare.kill();
        let _ = unshare.wait();
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.close();
    }
}

/// Whom a process runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum User {
    Root,
    Ordinary,
}

impl User {
    pub(crate) fn parse(name: &str) -> Option<Self> {
        match name {
            "" | "user" => Some(Self::Ordinary),
            "root" => Some(Self::Root),
            _ => None,
        }
    }

    pub(crate) fn uid(self) -> u32 {
        match self {
            Self::Root => 0,
            Self::Ordinary => USER_UID,
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Root => "root",
            Self::Ordinary => "user",
        }
    }

    pub(crate) fn home(self) -> &'static str {
        match self {
            Self::Root => "/root",
            Self::Ordinary => "/home/user",
        }
    }
}

/// The first child of a process, once it has one.
pub(crate) fn child_of(parent: u32) -> Option<i32> {
    let until = Instant::now() + WITHIN;
    while Instant::now() < until {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).ok()?;
        if let Some(child) = children.split_whitespace().next().and_then(|child| child.parse().ok()) {
            return Some(child);
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    None
}

/// A process's id inside its innermost namespace.
pub(crate) fn inner_pid(outer: i32) -> Option<u32> {
    let status = fs::read_to_string(format!("/proc/{outer}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("NSpid:"))?.split_whitespace().last()?.parse().ok()
}

/// Sends a signal to one process of this machine.
pub(crate) fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
