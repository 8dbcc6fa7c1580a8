//! Makes a machine ready to run agents: a Docker engine that answers, the agent image on it, and a firewall between agents
//! and the machine.
//!
//! All calls may be made by several processes at once; they take turns through lock files in the cache
//! directory (`$XDG_CACHE_HOME/theazo`, else `~/.cache/theazo`), and whoever comes second finds the work
//! done. Nothing is downloaded or built twice.

mod cache;
mod command;
mod engine;
mod firewall;
mod guest;
mod image;
mod packages;

pub use engine::ensure_engine;
pub use firewall::{Firewall, ensure_firewall};
pub use guest::machine_programs;
pub use image::ensure_agent_image;

use std::path::PathBuf;

/// Where long work says what it is doing.
pub trait Progress: Send + Sync {
    /// A new step begins; shown to everyone.
    fn step(&self, text: &str);
    /// Something within a step; shown to those who want to know.
    fn detail(&self, text: &str);
}

/// Says nothing.
impl Progress for () {
    fn step(&self, _: &str) {}
    fn detail(&self, _: &str) {}
}

/// Why a machine could not be made ready. `Display` says what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// `DOCKER_HOST` is something this cannot talk to.
    #[error("DOCKER_HOST is {0:?}; only unix:///path/to.sock is understood. Unset it to use /var/run/docker.sock")]
    EngineAddress(String),
    /// No engine answers, and it cannot be started from here.
    #[error("no Docker engine answers at {socket}: {reason}. {advice}")]
    NoEngine {
        /// Where it was looked for.
        socket: PathBuf,
        /// What happened there.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The engine was started and did not come to answer.
    #[error("dockerd was started and does not answer: {reason}. Its log is {log}", log = .log.display())]
    EngineStart {
        /// What is known.
        reason: String,
        /// Everything it said.
        log: PathBuf,
    },
    /// The engine refused or failed a call.
    #[error("the Docker engine failed at {doing}: {source}")]
    Engine {
        /// In our words.
        doing: &'static str,
        /// What the engine said.
        source: Box<bollard::errors::Error>,
    },
    /// The client for the engine could not be made.
    #[error(transparent)]
    Provider(#[from] theazo_providers::ProviderError),
    /// A command could not be run or failed.
    #[error("{command} failed: {reason}")]
    Command {
        /// The program and what it was for.
        command: String,
        /// The end of what it said.
        reason: String,
    },
    /// A file or directory could not be used.
    #[error("cannot use {path}: {source}", path = .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The sources of the guest are not where they were when this was built.
    #[error("the workspace is not at {path}; set THEAZO_WORKSPACE to the directory of its Cargo.toml", path = .0.display())]
    NoWorkspace(PathBuf),
    /// Nothing keeps agents from the machine.
    #[error(
        "agents could reach this machine's own ports, private networks or the cloud's metadata address: {reason}. {advice}"
    )]
    Unprotected {
        /// What was found.
        reason: String,
        /// What to do.
        advice: String,
    },
    /// The image cannot be built here.
    #[error("the agent image cannot be built here: {0}")]
    Unbuildable(String),
}

impl SetupError {
    fn engine(doing: &'static str) -> impl FnOnce(bollard::errors::Error) -> Self {
        move |source| Self::Engine { doing, source: Box::new(source) }
    }

    fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
