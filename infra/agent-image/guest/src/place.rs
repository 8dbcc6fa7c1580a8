//! Where things are. Owns every path the guest touches, so that a test can put them elsewhere.

use std::path::{Path, PathBuf};
use theazo_guest_protocol::{ENV_FILE, RUN_DIR};

/// The directories of a sandbox. Requests always name `/data` and `/tmp`; this says what they are.
pub struct Place {
    /// What requests call `/data`: home and working directory of the agent's programs.
    pub data: PathBuf,
    /// What requests call `/tmp`.
    pub tmp: PathBuf,
    /// The memory file system that the environment is delivered to.
    pub run: PathBuf,
    /// The delivered environment.
    pub env_file: PathBuf,
}

impl Place {
    /// The real places inside a sandbox.
    pub fn sandbox() -> Self {
        Self { data: "/data".into(), tmp: "/tmp".into(), run: RUN_DIR.into(), env_file: ENV_FILE.into() }
    }

    /// The same tree somewhere else; the directories must exist.
    pub fn beneath(root: &Path) -> Self {
        Self {
            data: root.join("data"),
            tmp: root.join("tmp"),
            run: root.join("run"),
            env_file: root.join("run").join("env"),
        }
    }
}
