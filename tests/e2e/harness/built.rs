//! Binaries of other packages, which the tests run as what they are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The functions that [`built`] has in any case: those of the main job, one that streams, and the scheduled ones.
pub const FUNCTIONS: [&str; 9] = [
    "sessions-by-user",
    "secrets-set",
    "secrets-list",
    "agents-create",
    "agents-exec",
    "sessions-terminate",
    "logs-stream",
    "reconcile",
    "upkeep",
];

/// Whether all functions are to be built and run, which takes long.
pub fn takes_all_functions() -> bool {
    std::env::var_os("THEAZO_ALL_FUNCTIONS").is_some()
}

/// The folder with release binaries to run in place of what [`built`] builds, as `cargo lambda build` leaves them; seen
/// from the workspace's.
fn given() -> Option<PathBuf> {
    std::env::var_os("THEAZO_BOOTSTRAPS").map(|folder| workspace().join(folder))
}

/// Whether what is run are release binaries that were given.
pub fn is_release() -> bool {
    given().is_some()
}

/// Whether a function is among those to run: of those that are given, or of those that [`built`] has.
pub fn has_bootstrap(name: &str) -> bool {
    match given() {
        Some(folder) => folder.join(name).join("bootstrap").is_file(),
        None => takes_all_functions() || FUNCTIONS.contains(&name),
    }
}

/// A function's binary.
pub fn bootstrap(name: &str) -> PathBuf {
    let Some(folder) = given() else { return built().join(name) };
    let binary = folder.join(name).join("bootstrap");
    assert!(binary.is_file(), "{} is not there: `cargo lambda build --release --bin {name}`", binary.display());
    binary
}

/// The workspace's folder.
pub fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// The folder with the binaries, built once for this process from what `cargo test --workspace` has built.
///
/// Cargo unifies features over what it is asked to build. The whole workspace with its development dependencies is
/// what the tests were built with; `--examples` counts the latter in. Anything narrower compiles the AWS SDK again.
pub fn built() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let folder = Path::new(env!("CARGO_BIN_EXE_theazo-dev")).parent().unwrap();
        let profile = match folder.file_name().unwrap().to_str().unwrap() {
            "debug" => "dev",
            other => other,
        };
        let mut command = Command::new("cargo");
        command.args(["build", "--workspace", "--examples", "--profile", profile, "--target-dir"]);
        command.arg(folder.parent().unwrap());
        if takes_all_functions() {
            command.arg("--bins");
        } else {
            let names = FUNCTIONS.iter().chain(&["theazo-admin", "empty-function"]);
            command.args(names.flat_map(|name| ["--bin", name]));
        }
        // `cargo test` describes the package under test in variables that build scripts watch; they would run again.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_"].iter().any(|prefix| text.starts_with(prefix)) {
                command.env_remove(&name);
            }
        }
        let output = command.current_dir(workspace()).output().expect("cargo runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "the binaries do not build: {said}");
        folder.to_owned()
    })
}
