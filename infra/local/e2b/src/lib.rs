//! An emulator of the E2B service, for the local stack and for tests, with real processes behind it.
//!
//! It speaks what the official SDKs speak (checked with the unmodified Python SDK): the management API with its
//! idempotent create, and the daemon in a sandbox, processes by the Connect protocol in JSON and files by HTTP. Everything
//! comes to one address; a sandbox and a port in it are named by the headers `E2b-Sandbox-Id` and `E2b-Sandbox-Port`, as the
//! SDKs do when they are told an address, or by a host `<port>-<sandbox>.<any domain>`.
//! It keeps what the real service would log or store ([`Record`]), so that a test can look for secrets in it, and does to
//! calls what networks do ([`Fault`]).
//!
//! A sandbox is a directory and processes of this machine, in a mount and a process-id namespace of its own, with programs
//! of this machine (`bash`, `python3`, `node`). That keeps sandboxes apart and takes them down whole; it is no security
//! boundary, the network is this machine's, and there are no limits on memory and processors. For code that is trusted.
//!
//! Not emulated: terminals, watching directories, signed URLs, metrics, volumes, E2B's own secrets, building
//! templates (`base` and `code-interpreter-v1` are there), and the passing of a memory snapshot to another sandbox: one
//! that is paused with memory is stopped and continued, one made from a snapshot starts from its files.

mod api;
mod envd;
mod error;
mod faults;
mod files;
mod multipart;
mod ports;
mod processes;
mod records;
mod room;
mod sandboxes;
mod server;

pub use error::EmulatorError;
pub use faults::{Fault, FaultKind};
pub use records::Record;

use faults::Faults;
use records::Records;
use sandboxes::Sandboxes;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;

/// How often it is looked whose time is over.
const TICK: Duration = Duration::from_millis(200);

/// The service with its sandboxes. They end when it does.
pub struct Emulator {
    controls: Controls,
}

/// A hand on a running emulator.
#[derive(Clone)]
pub struct Controls {
    sandboxes: Arc<Sandboxes>,
    records: Arc<Records>,
    faults: Arc<Faults>,
    api_key: Option<Arc<str>>,
}

impl Emulator {
    /// An emulator that keeps its sandboxes' files beneath `dir`, which must exist, and takes that API key, or any.
    pub fn new(dir: &Path, api_key: Option<&str>) -> Self {
        let records = Arc::new(Records::default());
        let sandboxes = Arc::new(Sandboxes::new(dir, records.clone()));
        Self { controls: Controls { sandboxes, records, faults: Arc::default(), api_key: api_key.map(Arc::from) } }
    }

    /// A hand on it, for while it serves.
    pub fn controls(&self) -> Controls {
        self.controls.clone()
    }

    /// Serves on `listener` until `shutdown` completes, and then ends every sandbox. Bind to a loopback address: whoever
    /// knows the key, or anyone, runs programs on this machine.
    ///
    /// # Errors
    /// [`EmulatorError::Serve`] when the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), EmulatorError> {
        let sandboxes = self.controls.sandboxes.clone();
        let ticking = tokio::spawn(async move {
            loop {
                tokio::time::sleep(TICK).await;
                let sandboxes = sandboxes.clone();
                let _ = tokio::task::spawn_blocking(move || sandboxes.expire()).await;
            }
        });
        let served = server::serve(self.controls.clone(), listener, shutdown).await;
        ticking.abort();
        let sandboxes = self.controls.sandboxes.clone();
        let _ = tokio::task::spawn_blocking(move || sandboxes.close()).await;
        served
    }
}

impl Controls {
    /// What the real service would have logged or stored so far.
    pub fn records(&self) -> Vec<Record> {
        self.records.all()
    }

    /// Does something to coming calls.
    pub fn fault(&self, fault: Fault) {
        self.faults.add(fault);
    }

    /// Whether pauses without memory are refused from now on, as for teams that do not have them.
    pub fn refuse_files_only(&self, refuses: bool) {
        self.sandboxes.refuse_files_only(refuses);
    }

    /// From now on no page of a list has more than so many entries, whatever is asked for.
    pub fn cap_pages(&self, most: usize) {
        self.sandboxes.cap_pages(most);
    }

    /// Ids of all sandboxes and snapshots that there are.
    pub fn left(&self) -> Vec<String> {
        let sandboxes = self.sandboxes.list(&["running", "paused"], &[]);
        let snapshots = self.sandboxes.snapshots(None, None);
        let id = |shown: &serde_json::Value, name: &str| shown[name].as_str().unwrap_or_default().to_owned();
        let sandboxes = sandboxes.iter().map(|shown| id(shown, "sandboxID"));
        sandboxes.chain(snapshots.iter().map(|shown| id(shown, "snapshotID"))).collect()
    }

    /// Ids of the sandboxes with that label.
    pub fn labelled(&self, label: &str, value: &str) -> Vec<String> {
        let found = self.sandboxes.list(&["running", "paused"], &[(label.to_owned(), value.to_owned())]);
        found.iter().filter_map(|shown| shown["sandboxID"].as_str()).map(str::to_owned).collect()
    }

    fn accepts(&self, key: &str) -> bool {
        self.api_key.as_deref().is_none_or(|expected| expected == key)
    }
}
