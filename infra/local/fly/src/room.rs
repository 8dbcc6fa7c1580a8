//! A running machine's room: its file system view, its network and process 1, in namespaces of their own.
//!
//! This keeps machines from seeing each other's files, processes and ports and takes everything of one down at once. It is
//! no security boundary: the emulator is for code that its user trusts.

use crate::error::EmulatorError;
use rustix::process::{Pid, Signal, kill_process};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader};
use std::net::{Ipv4Addr, TcpStream};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

const SCRIPT: &str = include_str!("room.sh");
/// How long a room may take to stand, and to be gone.
const WITHIN: Duration = Duration::from_secs(10);
/// Where programs are looked for.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A room that stands; it is taken down when dropped.
pub(crate) struct Room {
    unshare: Mutex<Child>,
    /// Process 1 of the room, by this machine's process id.
    init: i32,
    /// Its standard input. It ends when this is closed, as it is when the emulator dies.
    _stdin: Option<ChildStdin>,
    /// The `nsenter` of the main process, by this machine's process id; 0 before there is one. It stops itself when its
    /// child is stopped, and only then continues and reaps it when it is continued itself.
    door: AtomicI32,
}

/// Sends a signal to everything in a process namespace but its process 1, unless that is the namespace outside.
const SIGNAL_ALL: &str = "[ \"$(readlink /proc/self/ns/pid)\" != \"$2\" ] && kill \"$1\" -1";

impl Room {
    /// Opens a room over an empty directory. Blocks until it stands.
    pub(crate) fn open(root: &Path, mount: Option<(&Path, &str)>, programs: &[PathBuf]) -> Result<Self, EmulatorError> {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--pid", "--net", "--fork", "--kill-child", "/bin/bash", "-c", SCRIPT, "room"]);
        let (volume, place) = mount.unwrap_or((Path::new(""), ""));
        command.arg(root).arg(volume).arg(place).args(programs);
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
        Ok(Self { unshare: Mutex::new(unshare), init, _stdin: stdin, door: AtomicI32::new(0) })
    }

    /// The command that runs a program inside as root, with little in its environment yet.
    pub(crate) fn enter(&self) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--target={}", self.init));
        command.args(["--mount", "--pid", "--net", "--root", "--wd", "--"]);
        command.env_clear().env("PATH", PATH).env("HOME", "/root");
        command
    }

    /// Connects to a port inside. Blocks; to be called on a thread that does nothing else afterwards.
    pub(crate) fn connect(&self, port: u16) -> io::Result<TcpStream> {
        let network = File::open(format!("/proc/{}/ns/net", self.init))?;
        move_into_link_name_space(network.as_fd(), Some(LinkNameSpaceType::Network))?;
        TcpStream::connect((Ipv4Addr::LOCALHOST, port))
    }

    /// Says which `nsenter` the main process came through.
    pub(crate) fn came_through(&self, door: u32) {
        self.door.store(i32::try_from(door).unwrap_or(0), Ordering::SeqCst);
    }

    /// Stops or continues everything inside but process 1. Blocks until it is so.
    pub(crate) fn freeze(&self, frozen: bool) {
        let mut kill = self.enter();
        let signal = if frozen { "-STOP" } else { "-CONT" };
        // Of a room that is gone the number may be another process's by now, and this would stop all of the machine.
        let Ok(outside) = fs::read_link("/proc/self/ns/pid") else { return };
        let _ = kill.args(["/bin/bash", "-c", SIGNAL_ALL, "kill", signal]).arg(outside).stderr(Stdio::null()).status();
        let until = Instant::now() + WITHIN;
        while self.door_stands_still().is_some_and(|still| still != frozen) && Instant::now() < until {
            if !frozen {
                self.continue_door();
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Whether the door is stopped; nothing when there is none any more.
    fn door_stands_still(&self) -> Option<bool> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.door.load(Ordering::SeqCst))).ok()?;
        // The state comes after the program's name in parentheses.
        let (_, after) = stat.rsplit_once(") ")?;
        Some(after.starts_with('T'))
    }

    fn continue_door(&self) {
        send(self.door.load(Ordering::SeqCst), Signal::CONT);
    }

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
                Ok(None) => {
                    // The kernel waits for every process of the room to be reaped.
                    self.continue_door();
                    std::thread::sleep(Duration::from_millis(2));
                }
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

/// Sends a signal to one process of this machine.
pub(crate) fn send(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process(pid, signal);
    }
}
