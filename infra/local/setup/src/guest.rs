//! Building the guest: a static binary for this machine's architecture, out of this workspace.
//!
//! It has a target directory of its own, so that it neither waits for an outer cargo nor throws away what that
//! one built with other flags.

use crate::command::{output, quiet};
use crate::{Progress, SetupError};
use std::path::{Path, PathBuf};

/// The guest's bytes, built if the sources are newer.
pub async fn build(progress: &dyn Progress) -> Result<Vec<u8>, SetupError> {
    let workspace = workspace()?;
    let triple = host_triple().await?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
    let target = target.join("guest");
    let binary = target.join(&triple).join("release/theazo-guest");
    if !binary.exists() {
        progress.step("Building the guest");
    }
    let mut cargo = quiet(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo.current_dir(&workspace).args(["build", "--quiet", "--release", "--package", "theazo-guest"]);
    cargo.args(["--target", &triple, "--target-dir"]).arg(&target);
    // Without an explicit target these flags would also reach build scripts and procedural macros, and
    // those cannot be static.
    cargo.env("RUSTFLAGS", "-C target-feature=+crt-static");
    // What an outer cargo or its user set must not change what is built: the image is named after it.
    for name in ["CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
        cargo.env_remove(name);
    }
    for (name, value) in
        [("OPT_LEVEL", "z"), ("LTO", "true"), ("CODEGEN_UNITS", "1"), ("PANIC", "abort"), ("STRIP", "symbols")]
    {
        cargo.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    output(&mut cargo).await?;
    tokio::fs::read(&binary).await.map_err(SetupError::file(&binary))
}

/// Where the workspace was when this was compiled, or where `THEAZO_WORKSPACE` says it is.
fn workspace() -> Result<PathBuf, SetupError> {
    let built_at = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../..");
    let workspace = std::env::var_os("THEAZO_WORKSPACE").map_or(built_at, PathBuf::from);
    match workspace.canonicalize() {
        Ok(path) if path.join("infra/agent-image/guest/Cargo.toml").is_file() => Ok(path),
        _ => Err(SetupError::NoWorkspace(workspace)),
    }
}

async fn host_triple() -> Result<String, SetupError> {
    let said = output(quiet("rustc").arg("-vV")).await?;
    let said = String::from_utf8_lossy(&said);
    let host = said.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned)
        .ok_or_else(|| SetupError::Command { command: "rustc -vV".into(), reason: "it names no host".into() })
}
