//! The guest as a process of its own, outside a sandbox: every test has a directory, and speaks the protocol.
#![allow(clippy::unwrap_used, reason = "these are tests")]

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use theazo_guest_protocol::{
    Language, Refusal, Request, Response, WriteAt, decode_response, read_header, write_message,
};

const GUEST: &str = env!("CARGO_BIN_EXE_theazo-guest");

struct Sandbox(PathBuf);

struct Ran {
    exit_code: i32,
    timed_out: bool,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    truncated: (bool, bool),
}

impl Sandbox {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("theazo-guest-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let root = std::env::temp_dir().join(name);
        for dir in ["data", "tmp", "run"] {
            std::fs::create_dir_all(root.join(dir)).unwrap();
        }
        Self(root)
    }

    fn start(&self, request: &Request, payload: &[u8]) -> Child {
        let mut guest = Command::new(GUEST)
            .args(["serve-one".as_ref(), "--root".as_ref(), self.0.as_os_str()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        // Standard input stays open, as it does through an engine: the guest must not wait for its end.
        write_message(guest.stdin.as_mut().unwrap(), request, &[payload]).unwrap();
        guest
    }

    fn ask(&self, request: &Request, payload: &[u8]) -> (Response, Vec<u8>) {
        finish(self.start(request, payload))
    }

    fn deliver(&self, entries: &[u8]) -> Response {
        self.ask(&Request::Deliver { payload: entries.len() }, entries).0
    }

    fn run(&self, language: Language, code: &str) -> Ran {
        self.run_with(language, code, b"", 20_000, 1 << 20)
    }

    fn run_with(&self, language: Language, code: &str, input: &[u8], timeout_ms: u64, output_cap: usize) -> Ran {
        let (response, payload) = self.ask(&exec(language, code, input, timeout_ms, output_cap), input);
        let Response::Exec { exit_code, timed_out, stdout, stdout_truncated, stderr_truncated, .. } = response else {
            panic!("{response:?}")
        };
        let (out, err) = payload.split_at(stdout);
        let truncated = (stdout_truncated, stderr_truncated);
        Ran { exit_code, timed_out, stdout: out.to_vec(), stderr: err.to_vec(), truncated }
    }

    fn pid_in(&self, file: &str) -> i32 {
        let path = self.0.join("data").join(file);
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            match std::fs::read_to_string(&path).ok().and_then(|text| text.trim().parse().ok()) {
                Some(pid) => return pid,
                None => assert!(Instant::now() < until, "{file} never came"),
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn exec(language: Language, code: &str, input: &[u8], timeout_ms: u64, output_cap: usize) -> Request {
    Request::Exec { language, code: code.into(), timeout_ms, output_cap, stream: false, payload: input.len() }
}

/// A program whose output is told while it runs.
fn streamed(language: Language, code: &str, timeout_ms: u64, output_cap: usize) -> Request {
    Request::Exec { language, code: code.into(), timeout_ms, output_cap, stream: true, payload: 0 }
}

/// The next message of a guest.
fn message(output: &mut impl Read) -> (Response, Vec<u8>) {
    let response: Response = read_header(output).unwrap();
    let mut payload = vec![0; response.payload_len()];
    output.read_exact(&mut payload).unwrap();
    (response, payload)
}

/// All messages of a guest: what they told of each stream, how many there were, and the answer without its own rest.
fn gather(output: &mut impl Read) -> (Vec<u8>, Vec<u8>, usize, Response) {
    let (mut out, mut err, mut count) = (Vec::new(), Vec::new(), 0);
    loop {
        let (response, payload) = message(output);
        count += 1;
        let (Response::Output { stdout, .. } | Response::Exec { stdout, .. }) = response else {
            panic!("{response:?}")
        };
        let (of_out, of_err) = payload.split_at(stdout);
        out.extend_from_slice(of_out);
        err.extend_from_slice(of_err);
        if !matches!(response, Response::Output { .. }) {
            return (out, err, count, response);
        }
    }
}

fn finish(mut guest: Child) -> (Response, Vec<u8>) {
    let mut wire = Vec::new();
    guest.stdout.take().unwrap().read_to_end(&mut wire).unwrap();
    assert!(guest.wait().unwrap().success());
    let (response, payload) = decode_response(&wire).unwrap();
    (response, payload.to_vec())
}

fn runs(pid: i32) -> bool {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z')
}

fn wait_until_gone(pid: i32) {
    let until = Instant::now() + Duration::from_secs(10);
    while runs(pid) {
        assert!(Instant::now() < until, "{pid} still runs");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn code_runs_with_the_delivered_environment_and_nothing_of_the_guests() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.deliver(b"TOKEN=a=b\nc\0EMPTY=\0"), Response::Done);
    let mode = std::fs::metadata(sandbox.0.join("run/env")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o640);
    let code = "import os, json; print(json.dumps(dict(os.environ))); print(os.getcwd(), os.getsid(0) == os.getpid())";
    let ran = sandbox.run(Language::Python, code);
    let text = String::from_utf8(ran.stdout).unwrap();
    let data = sandbox.0.join("data");
    for expected in [
        "\"TOKEN\": \"a=b\\nc\"",
        "\"EMPTY\": \"\"",
        "\"LANG\": \"C.UTF-8\"",
        "\"PATH\": ",
        &format!("\"HOME\": \"{}\"", data.display()),
        &format!("{} True", data.display()),
    ] {
        assert!(text.contains(expected), "{expected} in {text}");
    }
    assert!(!text.contains("CARGO"), "{text}");
    assert_eq!(sandbox.deliver(b""), Response::Done);
    assert_eq!(sandbox.run(Language::Bash, "echo [$TOKEN]").stdout, b"[]\n");
    assert_eq!(std::fs::read_dir(sandbox.0.join("run")).unwrap().count(), 1);
}

#[test]
fn a_delivery_that_is_cut_short_changes_nothing() {
    let sandbox = Sandbox::new();
    assert_eq!(sandbox.deliver(b"A=old\0"), Response::Done);
    let mut guest = sandbox.start(&Request::Deliver { payload: 100 }, b"A=new\0");
    drop(guest.stdin.take());
    assert_eq!(finish(guest).0, Response::Refused { reason: Refusal::BadRequest });
    assert_eq!(sandbox.deliver(b"A=new"), Response::Refused { reason: Refusal::BadRequest });
    assert_eq!(sandbox.run(Language::Bash, "echo $A").stdout, b"old\n");
}

#[test]
fn output_of_any_bytes_exit_codes_and_signals_come_back() {
    let sandbox = Sandbox::new();
    let code =
        "import sys; d=sys.stdin.buffer.read(); sys.stdout.buffer.write(d[::-1]); sys.stderr.write('e'); sys.exit(7)";
    let input: Vec<u8> = (0..=255).cycle().take(300_000).collect();
    let ran = sandbox.run_with(Language::Python, code, &input, 20_000, 1 << 20);
    assert_eq!((ran.exit_code, ran.timed_out, ran.truncated), (7, false, (false, false)));
    assert!(ran.stdout.iter().eq(input.iter().rev()));
    assert_eq!(ran.stderr, b"e");
    assert_eq!(sandbox.run(Language::Bash, "kill -SEGV $$").exit_code, 128 + 11);
    let ran = sandbox.run(Language::Bash, "exit 124");
    assert_eq!((ran.exit_code, ran.timed_out), (124, false));
    assert_eq!(std::fs::read_dir(sandbox.0.join("tmp")).unwrap().count(), 0, "the code file is gone");
}

#[test]
fn output_is_kept_up_to_the_cap_and_the_rest_is_dropped() {
    let sandbox = Sandbox::new();
    let ran = sandbox.run_with(Language::Bash, "head -c 3000000 /dev/zero; echo ok >&2", b"", 20_000, 1000);
    assert_eq!((ran.exit_code, ran.stdout.len(), ran.truncated), (0, 1000, (true, false)));
    assert_eq!(ran.stderr, b"ok\n");
    let ran = sandbox.run_with(Language::Bash, "printf 12345; yes >&2", b"", 500, 5);
    assert_eq!((ran.stdout.as_slice(), ran.stderr.len(), ran.truncated), (b"12345".as_slice(), 5, (false, true)));
    assert!(ran.timed_out);
}

#[test]
fn a_program_need_not_read_its_input() {
    let sandbox = Sandbox::new();
    let input = vec![7; 5 << 20];
    let ran = sandbox.run_with(Language::Bash, "exec <&-; sleep 0.2; echo done", &input, 20_000, 100);
    assert_eq!((ran.exit_code, ran.stdout.as_slice()), (0, b"done\n".as_slice()));
}

const LEAVE_CHILDREN: &str = r#"
import os, subprocess, sys, time
subprocess.Popen(["sleep", "30"])
subprocess.Popen(["setsid", "sh", "-c", "echo $$ > session; sleep 30 & wait"])
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        open("double", "w").write(str(os.getpid()))
        while True: time.sleep(1)
    os._exit(0)
while not (os.path.exists("double") and os.path.exists("session") and os.path.getsize("session")): time.sleep(0.01)
print("ready", flush=True)
"#;

#[test]
fn a_timeout_leaves_no_process_behind_whatever_session_it_moved_to() {
    let sandbox = Sandbox::new();
    let code = format!("{LEAVE_CHILDREN}\ntime.sleep(500)");
    let started = Instant::now();
    let ran = sandbox.run_with(Language::Python, &code, b"", 2_000, 1000);
    assert_eq!((ran.exit_code, ran.timed_out, ran.stdout.as_slice()), (124, true, b"ready\n".as_slice()));
    assert!(started.elapsed() < Duration::from_secs(8));
    assert!(!runs(sandbox.pid_in("double")));
    assert!(!runs(sandbox.pid_in("session")));
}

#[test]
fn a_background_child_that_holds_the_output_open_does_not_delay_the_answer_and_runs_on() {
    let sandbox = Sandbox::new();
    let started = Instant::now();
    let ran = sandbox.run(Language::Python, LEAVE_CHILDREN);
    assert_eq!((ran.exit_code, ran.stdout.as_slice()), (0, b"ready\n".as_slice()));
    assert!(started.elapsed() < Duration::from_secs(8));
    for name in ["double", "session"] {
        let pid = sandbox.pid_in(name);
        assert!(runs(pid), "{name}");
        let pid = rustix::process::Pid::from_raw(pid).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
    }
}

#[test]
fn the_program_dies_with_the_guest() {
    let sandbox = Sandbox::new();
    let mut guest =
        sandbox.start(&exec(Language::Bash, "echo $$ > pid; while :; do sleep 0.1; done", b"", 60_000, 10), b"");
    let pid = sandbox.pid_in("pid");
    assert!(runs(pid));
    guest.kill().unwrap();
    guest.wait().unwrap();
    wait_until_gone(pid);
}

#[test]
fn a_guest_that_is_told_to_end_ends_the_tree_and_answers() {
    let sandbox = Sandbox::new();
    let code = "(setsid sleep 500 & echo $! > inner); echo $$ > pid; sleep 500";
    let guest = sandbox.start(&exec(Language::Bash, code, b"", 60_000, 10), b"");
    let (inner, pid) = (sandbox.pid_in("inner"), sandbox.pid_in("pid"));
    rustix::process::kill_process(rustix::process::Pid::from_child(&guest), rustix::process::Signal::TERM).unwrap();
    let (response, _) = finish(guest);
    assert!(matches!(response, Response::Exec { exit_code: 143, timed_out: false, .. }), "{response:?}");
    assert!(!runs(pid) && !runs(inner));
}

#[test]
fn files_go_through_the_same_door() {
    let sandbox = Sandbox::new();
    let write = |at, bytes: &[u8]| {
        sandbox.ask(&Request::WriteFile { path: "/data/d/f".into(), at, payload: bytes.len() }, bytes).0
    };
    assert_eq!(write(None, b"abc"), Response::Done);
    assert_eq!(write(Some(WriteAt::End), b"d"), Response::Done);
    let read = Request::ReadFile { path: "/data/d/f".into(), offset: 1, length: 100 };
    assert_eq!(sandbox.ask(&read, b""), (Response::File { size: 4, payload: 3 }, b"bcd".to_vec()));
    let (Response::Listing { entries }, _) = sandbox.ask(&Request::ListFiles { dir: "/data".into() }, b"") else {
        panic!("no listing")
    };
    assert!(entries.len() == 1 && entries[0].directory && entries[0].name == "d");
    let outside = Request::ReadFile { path: "/run/agent/env".into(), offset: 0, length: 1 };
    assert_eq!(sandbox.ask(&outside, b"").0, Response::Refused { reason: Refusal::OutsideRoots });
}

#[test]
fn nonsense_is_answered_not_obeyed() {
    let sandbox = Sandbox::new();
    // As anyone but root this would end whoever runs the tests.
    if rustix::process::getuid().is_root() {
        let refused = Response::Refused { reason: Refusal::PermissionDenied };
        assert_eq!(sandbox.ask(&Request::KillAll, b"").0, refused);
    }
    let guest = sandbox.start(&Request::Deliver { payload: usize::MAX }, b"");
    assert_eq!(finish(guest).0, Response::Refused { reason: Refusal::BadRequest });
    assert_eq!(Command::new(GUEST).arg("dance").stderr(Stdio::null()).status().unwrap().code(), Some(2));
}

/// Needs root, to be a user that owns nothing else on this machine.
#[test]
fn kill_all_ends_everything_of_its_user_and_nothing_else() {
    if !rustix::process::getuid().is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let uid = 1_700_000_000 + std::process::id() % 1_000_000;
    // The build directory may be closed to that user, so it runs a copy. Another process copies: a descriptor
    // open for writing, inherited by what another test starts meanwhile, would make the copy "busy".
    let guest = sandbox.0.join("guest");
    assert!(Command::new("cp").arg(GUEST).arg(&guest).status().unwrap().success());
    let mut victims: Vec<Child> = (0..3)
        .map(|_| Command::new("/bin/sleep").arg("500").current_dir("/").uid(uid).process_group(0).spawn().unwrap())
        .collect();
    let mut other = Command::new("/bin/sleep").arg("500").uid(uid + 1_000_000).spawn().unwrap();
    let mut killer =
        Command::new(&guest).uid(uid).current_dir("/").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    write_message(killer.stdin.as_mut().unwrap(), &Request::KillAll, &[]).unwrap();
    // The victims are this test's children and count as running until it has waited for them.
    for victim in &mut victims {
        assert_eq!(victim.wait().unwrap().signal(), Some(9));
    }
    assert_eq!(finish(killer).0, Response::Done);
    assert!(other.try_wait().unwrap().is_none());
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn init_sleeps_until_its_lifetime_is_over_or_it_is_told_to_end() {
    let started = Instant::now();
    assert!(Command::new(GUEST).args(["init", "--lifetime", "1"]).status().unwrap().success());
    assert!((1..10).contains(&started.elapsed().as_secs()));

    let mut init = Command::new(GUEST).arg("init").spawn().unwrap();
    let pid = i32::try_from(init.id()).unwrap();
    std::thread::sleep(Duration::from_millis(700));
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    let ticks: u32 = fields[11].parse::<u32>().unwrap() + fields[12].parse::<u32>().unwrap();
    assert!(ticks < 20, "{ticks} hundredths of a second of processor time in 0.7 s");
    rustix::process::kill_process(rustix::process::Pid::from_child(&init), rustix::process::Signal::TERM).unwrap();
    assert_eq!(init.wait().unwrap().code(), Some(0));
}

#[test]
fn output_is_told_while_the_program_runs() {
    let sandbox = Sandbox::new();
    let code = "echo first; echo bad >&2; while [ ! -e go ]; do sleep 0.01; done; echo last";
    let mut guest = sandbox.start(&streamed(Language::Bash, code, 20_000, 1 << 20), b"");
    let mut output = guest.stdout.take().unwrap();
    let mut told = (Vec::new(), Vec::new());
    while told != (b"first\n".to_vec(), b"bad\n".to_vec()) {
        let (Response::Output { stdout, .. }, payload) = message(&mut output) else { panic!("an early end") };
        told.0.extend_from_slice(&payload[..stdout]);
        told.1.extend_from_slice(&payload[stdout..]);
    }
    std::fs::write(sandbox.0.join("data/go"), "").unwrap();
    let (out, err, _, end) = gather(&mut output);
    assert_eq!((out.as_slice(), err.as_slice()), (&b"last\n"[..], &b""[..]));
    assert!(matches!(end, Response::Exec { exit_code: 0, timed_out: false, .. }), "{end:?}");
    assert!(guest.wait().unwrap().success());
}

#[test]
fn output_that_comes_in_crumbs_is_gathered_and_all_of_it_told_once() {
    let sandbox = Sandbox::new();
    let code = "import os\nfor n in range(20000): os.write(1 + n % 2, b'%05d' % n)";
    let mut guest = sandbox.start(&streamed(Language::Python, code, 20_000, 1 << 20), b"");
    let (out, err, messages, _) = gather(guest.stdout.as_mut().unwrap());
    assert!(guest.wait().unwrap().success());
    let every = |first| (first..20_000).step_by(2).flat_map(|n| format!("{n:05}").into_bytes()).collect::<Vec<u8>>();
    assert_eq!((out, err), (every(0), every(1)));
    assert!(messages < 500, "{messages}");
}

#[test]
fn output_that_is_told_ends_at_the_cap_as_well() {
    let sandbox = Sandbox::new();
    let code = "import sys; sys.stdout.write('x' * 300000); sys.stderr.write('yz')";
    let mut guest = sandbox.start(&streamed(Language::Python, code, 20_000, 100_000), b"");
    let (out, err, _, end) = gather(guest.stdout.as_mut().unwrap());
    assert!(guest.wait().unwrap().success());
    assert_eq!((out.len(), err.as_slice()), (100_000, &b"yz"[..]));
    assert!(matches!(end, Response::Exec { stdout_truncated: true, stderr_truncated: false, .. }), "{end:?}");
}

#[test]
fn a_listener_who_takes_nothing_holds_neither_the_program_nor_its_time_limit() {
    let sandbox = Sandbox::new();
    let code = "import sys, time; sys.stdout.write('x' * 900000); sys.stdout.flush(); open('wrote', 'w').write('1'); time.sleep(60)";
    let began = Instant::now();
    let mut guest = sandbox.start(&streamed(Language::Python, code, 1500, 1 << 20), b"");
    // More than the pipe holds.
    sandbox.pid_in("wrote");
    while began.elapsed() < Duration::from_secs(3) {
        std::thread::sleep(Duration::from_millis(20));
    }
    let (out, _, _, end) = gather(guest.stdout.as_mut().unwrap());
    assert_eq!(out.len(), 900_000);
    assert!(matches!(end, Response::Exec { exit_code: 124, timed_out: true, .. }), "{end:?}");
    assert!(guest.wait().unwrap().success());
}

#[test]
fn a_listener_who_leaves_does_not_end_the_program() {
    let sandbox = Sandbox::new();
    let code = "for n in 1 2 3 4 5 6; do echo $n; sleep 0.1; done; echo 7 > done";
    let mut guest = sandbox.start(&streamed(Language::Bash, code, 20_000, 1000), b"");
    drop(guest.stdout.take());
    assert_eq!(sandbox.pid_in("done"), 7);
    assert!(!guest.wait().unwrap().success(), "nobody took the answer");
}
