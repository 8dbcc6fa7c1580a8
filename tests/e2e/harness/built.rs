//! Binaries of other packages, which the tests run as what they are.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// What [`built`] has: three endpoints and the scheduled functions as Lambda functions, and the operator's command line.
const NAMES: [&str; 6] = ["secrets-list", "secrets-set", "sessions-by-user", "reconcile", "upkeep", "theazo-admin"];

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
        command.arg(folder.parent().unwrap()).args(NAMES.iter().flat_map(|name| ["--bin", name]));
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
