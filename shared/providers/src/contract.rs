//! The contract itself: what the control plane may ask of a provider, and the words both sides use.

use crate::ProviderError;
use async_trait::async_trait;
use bytes::Bytes;
use std::collections::BTreeMap;
use std::time::Duration;
use theazo_guest_protocol::{FileEntry, Language, WriteAt};
use theazo_vault::SecretValue;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use zeroize::Zeroizing;

/// A compute provider's name, as in the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProviderKind {
    /// Docker hosts.
    Docker,
    /// E2B sandboxes.
    E2b,
    /// Fly machines.
    Fly,
    /// The provider behind test keys; nothing leaves the service.
    Simulated,
}

impl ProviderKind {
    /// The name on the wire and in the table.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Docker => "docker",
            Self::E2b => "e2b",
            Self::Fly => "fly",
            Self::Simulated => "simulated",
        }
    }

    /// The provider of that name.
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Docker, Self::E2b, Self::Fly, Self::Simulated].into_iter().find(|kind| kind.as_str() == name)
    }
}

/// What an agent's processes find in their environment: names already uppercased and checked, values as opened.
#[derive(Default)]
pub struct Environment(Vec<(String, SecretValue)>);

impl Environment {
    /// Adds a variable. A later one of the same name wins.
    pub fn set(&mut self, name: impl Into<String>, value: SecretValue) {
        let name = name.into();
        self.0.retain(|(existing, _)| *existing != name);
        self.0.push((name, value));
    }

    /// The names, in the order they were set.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Names and values, for the one place in an adapter that delivers them.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &SecretValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }
}

/// What a sandbox is to be. Nothing in it is secret: providers may show all of it.
#[derive(Clone, Debug)]
pub struct SandboxSpec {
    /// The agent's id, `agt_…`; creating twice with one id gives one sandbox.
    pub agent: String,
    /// The owning session's id, for the provider's labels.
    pub session: String,
    /// The owning platform's id, for the provider's labels.
    pub platform: String,
    /// After this long the sandbox ends by itself, whatever the control plane does.
    pub lifetime: Duration,
    /// Whether the agent may open connections to the outside.
    pub internet: bool,
    /// Where it is to run, in the provider's own words; otherwise where the provider puts it.
    pub region: Option<String>,
}

/// A sandbox that exists.
#[derive(Clone, Debug)]
pub struct Sandbox {
    /// Where it runs, if the provider has such a notion.
    pub region: Option<String>,
    /// What an operator may know of it: which isolation it got, which host.
    pub details: BTreeMap<String, String>,
}

/// What a stopped sandbox has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// Bytes in its files, where they could be counted.
    pub bytes: Option<u64>,
}

/// Which agent's sandbox is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentRef {
    /// The agent's id, `agt_…`.
    pub agent: String,
}

/// Code to run.
pub struct ExecRequest {
    /// What runs it.
    pub language: Language,
    /// The program text.
    pub code: String,
    /// After this long the whole process tree is killed.
    pub timeout: Duration,
    /// Standard input.
    pub stdin: Bytes,
    /// Bytes kept of each output stream.
    pub output_cap: usize,
    /// Who is told of the output while the code runs.
    pub watch: Option<OutputWatch>,
}

/// One of a program's output streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OutputStream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// What was written to a stream since the piece before. It has no `Debug`: agents print secrets.
pub struct OutputPiece {
    /// Which stream.
    pub stream: OutputStream,
    /// What; never nothing.
    pub bytes: Bytes,
}

/// Takes the output of one exec piece by piece: of each stream all that [`ExecOutput`] has in the end, in order. It waits
/// for nobody: what is not taken at once is kept, which is never more than both streams' caps.
#[derive(Clone)]
pub struct OutputWatch(UnboundedSender<OutputPiece>);

impl OutputWatch {
    /// A watch, and the pieces, which end when the exec has.
    pub fn new() -> (Self, UnboundedReceiver<OutputPiece>) {
        let (sender, receiver) = unbounded_channel();
        (Self(sender), receiver)
    }

    /// Passes a piece on. That nobody takes it is no error: code runs on when its caller has gone.
    pub fn tell(&self, stream: OutputStream, bytes: &[u8]) {
        if !bytes.is_empty() {
            let _ = self.0.send(OutputPiece { stream, bytes: Bytes::copy_from_slice(bytes) });
        }
    }
}

/// What running code gave. A non-zero exit code is a result, not an error.
pub struct ExecOutput {
    /// Standard output, at most the cap.
    pub stdout: Bytes,
    /// Standard error, at most the cap.
    pub stderr: Bytes,
    /// 128 + signal number for a process ended by a signal.
    pub exit_code: i32,
    /// Whether the time limit ended it; no process of the tree is left.
    pub timed_out: bool,
    /// Whether standard output was cut.
    pub stdout_truncated: bool,
    /// Whether standard error was cut.
    pub stderr_truncated: bool,
}

/// A piece of a file.
pub struct FilePiece {
    /// The bytes.
    pub data: Bytes,
    /// Size of the whole file in bytes.
    pub size: u64,
}

/// The way to a port inside a sandbox, for whoever has the headers. It has no `Debug`: one of them is a token.
pub struct OpenPort {
    /// Where HTTP requests for that port go. Nothing secret is in it.
    pub url: String,
    /// What every request must carry, names and values.
    pub headers: Vec<(&'static str, Zeroizing<String>)>,
}

/// A sandbox, or what is left of one, that this deployment made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OwnedSandbox {
    /// The agent it was made for.
    pub agent: String,
    /// How much of it there is.
    pub presence: Presence,
}

/// How much of a sandbox there is at its provider.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Presence {
    /// What a pause or a checkpoint keeps, and no more.
    #[default]
    Kept,
    /// Also what only one that runs needs, though it does not run: what a boot that was given up has made since, say.
    Remains,
    /// It runs, or may be coming up.
    Running,
}

impl Presence {
    /// By whether it runs, where nothing is left of one that does not but what is kept.
    pub(crate) fn by_running(running: bool) -> Self {
        if running { Self::Running } else { Self::Kept }
    }
}

/// Room for agents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// How many more can be made.
    pub free: u64,
    /// How many there can be in all.
    pub places: u64,
}

/// Whether a provider can be used now.
#[derive(Clone, Debug)]
pub struct Health {
    /// Whether it answered in time.
    pub healthy: bool,
    /// One line for people: a version, or what is wrong. Never a credential or a raw answer.
    pub message: String,
}

/// One compute provider.
#[async_trait]
pub trait Provider: Send + Sync {
    /// Which provider this is.
    fn kind(&self) -> ProviderKind;

    /// Makes the agent's sandbox and delivers its environment. Idempotent by agent id: a sandbox that already
    /// exists under that id is adopted. On an error, whatever was made may still be there; call [`Provider::destroy`].
    async fn create(&self, spec: &SandboxSpec, environment: &Environment) -> Result<Sandbox, ProviderError>;

    /// Stops the sandbox: the delivered environment is taken away, every process ends, and the files beneath `/data` are
    /// all that is kept. Idempotent: stopping what is stopped is no error. [`ProviderError::SandboxGone`] means that the
    /// files are not there.
    async fn stop(&self, agent: &AgentRef) -> Result<Kept, ProviderError>;

    /// Makes the sandbox of a stopped agent again, on its files and with this environment and no other. What an
    /// interrupted call left is replaced. On an error, call [`Provider::stop`]; [`ProviderError::SandboxGone`] means that
    /// the files are not there.
    async fn resume(&self, spec: &SandboxSpec, environment: &Environment) -> Result<Sandbox, ProviderError>;

    /// Runs code and answers when it has ended. What it left in the background runs on, except after a timeout, when
    /// its whole process tree is gone. A [`watch`](ExecRequest::watch) is told of its output while it runs, and of nothing any
    /// more once this has answered.
    async fn exec(&self, agent: &AgentRef, request: ExecRequest) -> Result<ExecOutput, ProviderError>;

    /// Writes a file beneath `/data` or `/tmp`; `None` replaces it.
    async fn write_file(
        &self,
        agent: &AgentRef,
        path: &str,
        at: Option<WriteAt>,
        data: Bytes,
    ) -> Result<(), ProviderError>;

    /// Reads a piece of a regular file beneath `/data` or `/tmp`.
    async fn read_file(
        &self,
        agent: &AgentRef,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<FilePiece, ProviderError>;

    /// Lists a directory beneath `/data` or `/tmp`.
    async fn list_files(&self, agent: &AgentRef, dir: &str) -> Result<Vec<FileEntry>, ProviderError>;

    /// The way to a port inside the sandbox, for HTTP and what it is upgraded to, and for those alone who have the token that
    /// comes with it. Asked again of the same run it gives the same. It ends with the run, or earlier with
    /// [`Provider::stop`] and whatever else ends the sandbox.
    async fn open_port(&self, _agent: &AgentRef, _port: u16) -> Result<OpenPort, ProviderError> {
        Err(ProviderError::NoPorts)
    }

    /// Removes the sandbox and everything that belongs to it, checkpoints included. Idempotent; succeeding means nothing is
    /// left.
    async fn destroy(&self, agent: &AgentRef) -> Result<(), ProviderError>;

    /// Ends the sandbox, whose files are not wanted any more: nothing of it runs, and what was delivered is gone. Its
    /// checkpoints stay; what else may stay goes with [`Provider::restore`] or [`Provider::destroy`]. Idempotent.
    async fn discard(&self, agent: &AgentRef) -> Result<(), ProviderError> {
        self.destroy(agent).await
    }

    /// Keeps the files beneath `/data` as they are at one moment, beside the sandbox, which runs on: never its memory, nor
    /// what was delivered to it. `checkpoint` is an id, `ckpt_…`; what an interrupted call left under it is replaced. On an
    /// error, call [`Provider::remove_checkpoint`]. [`ProviderError::CannotCheckpoint`] means that nothing was kept.
    async fn checkpoint(&self, _agent: &AgentRef, _checkpoint: &str) -> Result<Kept, ProviderError> {
        Err(ProviderError::CannotCheckpoint)
    }

    /// Removes a checkpoint, also one that was not finished. Idempotent.
    async fn remove_checkpoint(&self, _agent: &AgentRef, _checkpoint: &str) -> Result<(), ProviderError> {
        Ok(())
    }

    /// Makes the agent's sandbox on the files of a checkpoint, which stays, with this environment and no other. Whatever the
    /// agent has there besides its checkpoints is removed first. On an error, call [`Provider::discard`];
    /// [`ProviderError::SandboxGone`] means that the checkpoint is not there.
    async fn restore(
        &self,
        _spec: &SandboxSpec,
        _environment: &Environment,
        _checkpoint: &str,
    ) -> Result<Sandbox, ProviderError> {
        Err(ProviderError::CannotCheckpoint)
    }

    /// Every sandbox of this deployment that the provider still has any part of.
    async fn list_mine(&self) -> Result<Vec<OwnedSandbox>, ProviderError>;

    /// How much room there is for agents. Nothing where the provider does not say so, as no service does: it refuses what
    /// is too much ([`ProviderError::NoCapacity`]).
    async fn capacity(&self) -> Result<Option<Capacity>, ProviderError> {
        Ok(None)
    }

    /// Whether the provider answers. Never an error: being unreachable is the answer.
    async fn health(&self) -> Health;
}
