//! The last step before an agent's program: a new session, a tie to the life of the guest, no core files.
//!
//! It is a process of its own because these calls must happen between fork and exec, and doing that
//! inside the guest would take unsafe code. The environment is already the program's.

use rustix::process::{Pid, Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit, setsid};
use std::ffi::OsString;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};

/// Becomes the program `command[0]`; comes back only when that fails.
pub fn run(parent: i32, command: &[OsString]) -> ExitCode {
    let [program, arguments @ ..] = command else { return ExitCode::from(2) };
    let _ = setsid();
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    // The guest may have died before the line above; then nobody would ever end this process.
    if getppid().map(Pid::as_raw_pid) != Some(parent) {
        return ExitCode::from(137);
    }
    // A core file would hold the environment.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let error = Command::new(program).args(arguments).exec();
    complain(&format!("theazo-guest: cannot start {}: {error}", program.to_string_lossy()));
    ExitCode::from(126)
}

/// Says something on standard error, where the sandbox's owner sees it.
pub fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
