//! Running the machine's own programs, with errors that say what they said.

use crate::SetupError;
use std::process::Stdio;
use tokio::process::Command;

/// Bytes of a failed program's words that go into an error.
const WORDS: usize = 2000;

/// A program that says nothing, asks nothing and dies with us.
pub fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).kill_on_drop(true).env("LC_ALL", "C.UTF-8");
    command
}

/// Runs a program to its end and returns its standard output.
pub async fn output(command: &mut Command) -> Result<Vec<u8>, SetupError> {
    let name = command.as_std().get_program().to_string_lossy().into_owned();
    let failed = |reason: String| SetupError::Command { command: name.clone(), reason };
    let ran = command.output().await.map_err(|error| failed(error.to_string()))?;
    if ran.status.success() {
        return Ok(ran.stdout);
    }
    let said = if ran.stderr.is_empty() { &ran.stdout } else { &ran.stderr };
    Err(failed(format!("{}: {}", ran.status, last_words(said))))
}

/// The end of what a program said.
pub fn last_words(said: &[u8]) -> String {
    let end = said.get(said.len().saturating_sub(WORDS)..).unwrap_or(said);
    String::from_utf8_lossy(end).trim().to_owned()
}

/// Whether this process is root; the owner of its own `/proc` entry is its user.
pub fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Whether this machine has Debian's package tools.
pub fn is_debian() -> bool {
    ["/usr/bin/apt-get", "/usr/bin/dpkg-deb"].iter().all(|path| std::path::Path::new(path).exists())
}

/// Whether a program is on the path.
pub fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let usual = ["/usr/bin".into(), "/usr/sbin".into(), "/sbin".into()];
    std::env::split_paths(&path).chain(usual).any(|dir| dir.join(program).is_file())
}
