//! Building what is ours in the agent image: static binaries for this machine's architecture, out of this workspace.
//!
//! They have a target directory of their own, so that they neither wait for an outer cargo nor throw away what that
//! one built with other flags.

use crate::cache::{Cache, IMAGE_LOCK};
use crate::command::{output, quiet};
use crate::{Progress, SetupError};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::time::Duration;

/// The programs, where cargo has put them.
pub struct Programs {
    guest: PathBuf,
    forwarder: PathBuf,
    machine: PathBuf,
}

/// What the agent image has of ours.
pub struct OfImage {
    pub guest: Vec<u8>,
    pub forwarder: Vec<u8>,
}

impl Programs {
    /// Those of this workspace, built if the sources are newer. All at once, so that whoever needs one later finds it built.
    /// The caller holds the lock on the image.
    pub async fn build(progress: &dyn Progress) -> Result<Self, SetupError> {
        let [guest, forwarder, machine] =
            compile(["theazo-guest", "theazo-forwarder", "theazo-machine"], progress).await?;
        Ok(Self { guest, forwarder, machine })
    }

    /// The bytes of those that are in the agent image.
    pub async fn of_image(&self) -> Result<OfImage, SetupError> {
        let read = async |path: &PathBuf| tokio::fs::read(path).await.map_err(SetupError::file(path));
        Ok(OfImage { guest: read(&self.guest).await?, forwarder: read(&self.forwarder).await? })
    }
}

/// The programs that the agent image for virtual machines has of ours: the guest, and the main process that hands requests
/// to it. [`ensure_agent_image`](crate::ensure_agent_image) has built them as well; otherwise they are built now.
///
/// # Errors
/// [`SetupError`], whose `Display` says what to do.
pub async fn machine_programs(progress: &dyn Progress) -> Result<Vec<PathBuf>, SetupError> {
    let cache = Cache::open()?;
    let _turn = cache.lock(IMAGE_LOCK, progress).await?;
    let Programs { guest, machine, .. } = Programs::build(progress).await?;
    Ok(vec![guest, machine])
}

/// How long a build may take without a word.
const SAID_AFTER: Duration = Duration::from_secs(2);

/// Builds the packages' programs, in one go: that nothing is to be done is what cargo is asked at every start.
async fn compile<const N: usize>(packages: [&str; N], progress: &dyn Progress) -> Result<[PathBuf; N], SetupError> {
    let workspace = workspace()?;
    let triple = host_triple().await?;
    let target =
        std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| workspace.join("target"), |dir| workspace.join(dir));
    let target = target.join("guest");
    let binaries = packages.map(|package| target.join(&triple).join("release").join(package));
    let mut cargo = quiet(&std::env::var("CARGO").unwrap_or_else(|_| "cargo".into()));
    cargo.current_dir(&workspace).args(["build", "--quiet", "--release"]);
    cargo.args(packages.iter().flat_map(|package| ["--package", package]));
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
    let mut building = pin!(output(&mut cargo));
    // That there is nothing to be done is known at once.
    let built = match tokio::time::timeout(SAID_AFTER, &mut building).await {
        Ok(built) => built,
        Err(_) => {
            progress.step(
                "Building what runs in sandboxes: the guest, the forwarder of ports, the main process of machines",
            );
            building.await
        }
    };
    built?;
    Ok(binaries)
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
