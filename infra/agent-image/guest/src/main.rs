//! The guest: the one small static binary inside an agent's sandbox.
//!
//! `init [--lifetime SECONDS]` is process 1: it reaps and ends. Without arguments, or as `serve-one`,
//! it reads one request from standard input, answers on standard output and exits 0; the messages are
//! owned by `theazo-guest-protocol`. `stage` is internal: the last step before an agent's program.
//! `serve-one --root DIR` keeps to `DIR/data`, `DIR/tmp` and `DIR/run`, which is how it is tested outside
//! a sandbox; whoever chooses the arguments already has the rights the guest would use.
//!
//! Nothing here prints, logs or puts into an argument a byte of a delivered environment.

mod deliver;
mod exec;
mod files;
mod init;
mod place;
mod relay;
mod serve;
mod signals;
mod stage;
mod tree;

use place::Place;
use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let words: Vec<Option<&str>> = arguments.iter().map(|argument| argument.to_str()).collect();
    match words.as_slice() {
        [] | [Some("serve-one")] => serve::one(&Place::sandbox()),
        [Some("serve-one"), Some("--root"), Some(root)] => serve::one(&Place::beneath(Path::new(root))),
        [Some("init")] => init::run(None),
        [Some("init"), Some("--lifetime"), Some(seconds)] => match seconds.parse() {
            Ok(seconds) => init::run(Some(Duration::from_secs(seconds))),
            Err(_) => usage(),
        },
        [Some("stage"), Some(parent), _, ..] => match parent.parse() {
            Ok(parent) => stage::run(parent, arguments.get(2..).unwrap_or_default()),
            Err(_) => usage(),
        },
        _ => usage(),
    }
}

/// The exit code of a call that the guest does not know.
fn usage() -> ExitCode {
    stage::complain("usage: theazo-guest [serve-one] | init [--lifetime SECONDS]");
    ExitCode::from(2)
}
