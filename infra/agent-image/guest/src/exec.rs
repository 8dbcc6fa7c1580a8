//! Running an agent's code. Owns one program from its file to its last descendant: what it is started with,
//! what is kept of its output, and when it ends.
//!
//! One thread and one poll loop: a thread that waits on a pipe would outlive the program when something else
//! still holds the other end, and the parent-death signal follows the thread that started the child.

use crate::deliver;
use crate::files::refusal;
use crate::place::Place;
use crate::relay::Relay;
use crate::signals::{Signals, timespec};
use crate::tree;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, WaitStatus, getpid, set_child_subreaper};
use std::fs::File;
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use theazo_guest_protocol::{Language, Refusal};

/// Where programs are looked for, by the guest and by default by the agent's code.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";
/// The exit code of a program that the time limit ended, as `timeout` has it.
const TIMED_OUT: i32 = 124;
/// Longest time limit that is kept to; longer ones are shortened to this.
const LONGEST: Duration = Duration::from_secs(7 * 24 * 3600);
/// Bytes moved at once; also what a full pipe holds.
const PIECE: usize = 64 * 1024;

/// What to run.
pub struct Job<'a> {
    /// What runs the code.
    pub language: Language,
    /// The program text.
    pub code: &'a str,
    /// When the whole tree is killed.
    pub timeout: Duration,
    /// Bytes kept of each output stream.
    pub output_cap: usize,
    /// Whether output is told while the program runs.
    pub stream: bool,
    /// Standard input.
    pub input: &'a [u8],
}

/// How it went.
pub struct Outcome {
    /// 128 + signal number for a program ended by a signal.
    pub exit_code: i32,
    /// Whether the time limit ended it.
    pub timed_out: bool,
    /// Standard output, without what was told before.
    pub stdout: Captured,
    /// Standard error, without what was told before.
    pub stderr: Captured,
}

/// The beginning of an output stream.
#[derive(Default)]
pub struct Captured {
    /// The first bytes.
    pub kept: Vec<u8>,
    /// Whether there were more.
    pub truncated: bool,
}

impl Captured {
    fn without(mut self, told: usize) -> Self {
        self.kept.drain(..told.min(self.kept.len()));
        self
    }
}

/// Runs a program and answers when it has ended. What it left in the background runs on, as a server that a later
/// call talks to must; after the time limit, or when the guest is told to end, everything it started is ended.
pub fn run(place: &Place, signals: &Signals, job: &Job<'_>) -> Result<Outcome, Refusal> {
    let os = |error: std::io::Error| refusal(&error);
    let program = runtime(job.language).ok_or(Refusal::NoRuntime)?;
    let delivered = deliver::read(place)?;
    let deadline = Instant::now() + job.timeout.min(LONGEST);
    let code = CodeFile::write(&place.tmp, job.language, job.code).map_err(os)?;
    set_child_subreaper(Some(getpid())).map_err(|error| refusal(&error.into()))?;

    let mut command = Command::new(std::env::current_exe().map_err(os)?);
    command.arg("stage").arg(getpid().as_raw_pid().to_string()).arg(program).arg(&code.file);
    command.env_clear().env("PATH", PATH).env("HOME", &place.data).env("LANG", "C.UTF-8").env("TMPDIR", &place.tmp);
    command.envs(delivered).current_dir(&place.data);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().map_err(os)?;
    // The environment in here is a copy of the secrets; nothing needs it any more.
    drop(command);

    let mut stdin = Feed { pipe: child.stdin.take().map(calm).transpose()?, left: job.input };
    let mut stdout = Tap::new(child.stdout.take().map(calm).transpose()?, job.output_cap);
    let mut stderr = Tap::new(child.stderr.take().map(calm).transpose()?, job.output_cap);
    let mut relay = job.stream.then(Relay::begin).transpose()?;
    let main = Pid::from_child(&child);
    let (mut exit_code, mut timed_out, mut cut_short) = (None, false, false);
    loop {
        while let Some((pid, status)) = tree::reap() {
            if pid == main {
                exit_code = Some(code_of(status));
            }
        }
        if exit_code.is_some() {
            break;
        }
        if signals.told_to_end() {
            exit_code = Some(128 + signal_hook::consts::SIGTERM);
            cut_short = true;
            break;
        }
        if Instant::now() >= deadline {
            (timed_out, cut_short) = (true, true);
            break;
        }
        let due = relay.as_ref().and_then(|relay| relay.due([&stdout.captured.kept, &stderr.captured.kept]));
        let until = due.map_or(deadline, |due| deadline.min(Instant::now() + due));
        let takers = [stdin.pipe.as_ref().map(File::as_fd), relay.as_ref().and_then(Relay::waits_for)];
        wait_for_any(signals, takers, [stdout.pipe.as_ref(), stderr.pipe.as_ref()], until);
        stdin.pump();
        stdout.pump();
        stderr.pump();
        if let Some(relay) = &mut relay {
            relay.pump([&stdout.captured.kept, &stderr.captured.kept]);
        }
    }
    if cut_short {
        tree::end_descendants();
    }
    let [told_out, told_err] = relay.map(Relay::finish).transpose()?.unwrap_or_default();
    Ok(Outcome {
        exit_code: if timed_out { TIMED_OUT } else { exit_code.unwrap_or(TIMED_OUT) },
        timed_out,
        stdout: stdout.finish().without(told_out),
        stderr: stderr.finish().without(told_err),
    })
}

/// Our end of a pipe, made not to block; the program's end is not touched.
fn calm(pipe: impl Into<OwnedFd>) -> Result<File, Refusal> {
    let pipe = pipe.into();
    rustix::io::ioctl_fionbio(&pipe, true).map_err(|error| refusal(&error.into()))?;
    Ok(File::from(pipe))
}

/// Sleeps until a signal comes, one of the takers takes something, the program gives output, or the time is over.
fn wait_for_any(signals: &Signals, takers: [Option<BorrowedFd<'_>>; 2], outputs: [Option<&File>; 2], until: Instant) {
    let mut watched = vec![PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
    watched.extend(takers.into_iter().flatten().map(|taker| PollFd::from_borrowed_fd(taker, PollFlags::OUT)));
    watched.extend(outputs.into_iter().flatten().map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    let left = timespec(until.saturating_duration_since(Instant::now()));
    let _ = poll(&mut watched, Some(&left));
    signals.acknowledge();
}

fn code_of(status: WaitStatus) -> i32 {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        (None, None) => 1,
    }
}

/// The language's program, from fixed directories: a delivered `PATH` must not change what runs the code.
fn runtime(language: Language) -> Option<PathBuf> {
    let name = match language {
        Language::Python => "python3",
        Language::Node => "node",
        Language::Bash => "bash",
    };
    PATH.split(':').map(|dir| Path::new(dir).join(name)).find(|path| path.is_file())
}

/// The program's standard input; closed when there is nothing left to give.
struct Feed<'a> {
    pipe: Option<File>,
    left: &'a [u8],
}

impl Feed<'_> {
    /// Gives the program what it takes now. That it takes nothing any more is no error: a program need not
    /// read its input.
    fn pump(&mut self) {
        let Some(pipe) = &mut self.pipe else { return };
        while !self.left.is_empty() {
            match pipe.write(self.left.get(..PIECE).unwrap_or(self.left)) {
                Ok(count) => self.left = self.left.get(count..).unwrap_or_default(),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => break,
            }
        }
        self.pipe = None;
    }
}

/// One of the program's output streams; closed at its end.
struct Tap {
    pipe: Option<File>,
    cap: usize,
    captured: Captured,
}

impl Tap {
    fn new(pipe: Option<File>, cap: usize) -> Self {
        Self { pipe, cap, captured: Captured::default() }
    }

    /// Reads once, so that a program that never stops writing cannot keep the loop from its clock.
    /// True when there may be more at once.
    fn pump(&mut self) -> bool {
        let Some(pipe) = &mut self.pipe else { return false };
        let mut piece = [0; PIECE];
        match pipe.read(&mut piece) {
            Ok(0) => {}
            Ok(count) => {
                let piece = piece.get(..count).unwrap_or_default();
                let room = self.cap.saturating_sub(self.captured.kept.len());
                self.captured.kept.extend_from_slice(piece.get(..room).unwrap_or(piece));
                self.captured.truncated |= count > room;
                return true;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => return true,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(_) => {}
        }
        self.pipe = None;
        false
    }

    /// Takes what is still in the pipe. Bounded: someone outside the tree may have been handed the other end.
    fn finish(mut self) -> Captured {
        let most = (self.cap / PIECE).saturating_add(64);
        for _ in 0..most {
            if !self.pump() {
                break;
            }
        }
        self.captured
    }
}

/// The program text, in a directory of its own that only the agent can enter; gone when dropped.
struct CodeFile {
    dir: PathBuf,
    file: PathBuf,
}

impl CodeFile {
    fn write(tmp: &Path, language: Language, code: &str) -> std::io::Result<Self> {
        let name = match language {
            Language::Python => "main.py",
            Language::Node => "main.js",
            Language::Bash => "main.sh",
        };
        // A name may be taken by what a killed guest of the same process id left behind.
        let mut attempt = 0;
        let dir = loop {
            let dir = tmp.join(format!("theazo-{}-{attempt}", std::process::id()));
            match std::fs::DirBuilder::new().mode(0o700).create(&dir) {
                Err(error) if error.kind() == ErrorKind::AlreadyExists && attempt < 10_000 => attempt += 1,
                other => break other.map(|()| dir)?,
            }
        };
        let code_file = Self { file: dir.join(name), dir };
        deliver::create_private(&code_file.file)?.write_all(code.as_bytes())?;
        Ok(code_file)
    }
}

impl Drop for CodeFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
