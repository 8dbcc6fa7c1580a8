//! An emulator of the Fly Machines API, for the local stack and for tests, with real processes behind it.
//!
//! Apps with their networks, addresses and network policies, volumes and forks of them, and machines with what they go
//! through: `wait` and its 408, starts that come later than their answer, stops by signal, `exec` with its 60 seconds
//! and 15 KB, leases, capacity errors on demand. Calls have the rates that Fly documents, and lists of a whole organization
//! lag two seconds behind. A machine has one address for each of its app's, a loopback address of this
//! machine, and what connects to a service's port there is handed on as it is, as Fly's proxy does it without handlers.
//! With the handler `http` requests are, one by one; with `tls` beside it they come in plain HTTP here, as there are no
//! certificates.
//!
//! It keeps what whoever operates the service could see ([`Record`]): every call and its answer, and every byte that
//! passed the proxy, of requests their heads. It holds both against Fly's own description of the API
//! ([`Controls::violations`]), and does to calls what networks do ([`Fault`]).
//!
//! A machine is a directory and processes of this machine, in mount, process-id and network namespaces of their own, with
//! programs of this machine (`bash`, `python3`, `node`) in the place of an image's. Its network has nothing but itself,
//! whatever the policies say. That keeps machines apart and takes them down whole; it is no security boundary, and there
//! are no limits on memory and processors. For code that is trusted. It must run as root.
//!
//! Not emulated: images, checks, metadata, secrets, certificates, snapshots of volumes, several processes or containers in
//! a machine, replays by the proxy, restart policies and schedules, and logs.

mod api;
mod apps;
mod described;
mod error;
mod exec;
mod faults;
mod leases;
mod machines;
mod pace;
mod proxy;
mod records;
mod room;
mod server;
mod show;
mod volumes;

pub use error::EmulatorError;
pub use faults::{Fault, FaultKind};
pub use records::Record;

use apps::World;
use described::Described;
use faults::Faults;
use pace::Pace;
use records::Records;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::TcpListener;

/// Regions that the emulator has.
pub const REGIONS: [&str; 3] = ["ams", "iad", "syd"];

/// The service with its machines. They end when it does.
pub struct Emulator {
    controls: Controls,
}

/// A hand on a running emulator.
#[derive(Clone)]
pub struct Controls {
    world: Arc<World>,
    records: Arc<Records>,
    faults: Arc<Faults>,
    described: Arc<Described>,
    pace: Arc<Pace>,
    token: Option<Arc<str>>,
}

impl Emulator {
    /// An emulator that keeps its machines' files beneath `dir`, which must exist, and takes that token, or any. Every
    /// machine finds `programs` in its `/usr/local/bin`, as if its image had them.
    pub fn new(dir: &Path, token: Option<&str>, programs: Vec<PathBuf>) -> Self {
        let records = Arc::new(Records::default());
        let world = World::new(dir, programs, records.clone());
        let (faults, described, pace) = (Arc::default(), Arc::new(Described::load()), Arc::default());
        Self { controls: Controls { world, records, faults, described, pace, token: token.map(Arc::from) } }
    }

    /// A hand on it, for while it serves.
    pub fn controls(&self) -> Controls {
        self.controls.clone()
    }

    /// Serves on `listener` until `shutdown` completes, and then ends every machine. Bind to a loopback address: whoever
    /// knows the token, or anyone, runs programs on this machine.
    ///
    /// # Errors
    /// [`EmulatorError::NotRoot`]; [`EmulatorError::Serve`] when the listener fails.
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), EmulatorError> {
        if !rustix::process::geteuid().is_root() {
            return Err(EmulatorError::NotRoot);
        }
        self.controls.world.relay_on(tokio::runtime::Handle::current());
        let served = server::serve(self.controls.clone(), listener, shutdown).await;
        let world = self.controls.world.clone();
        let _ = tokio::task::spawn_blocking(move || world.close()).await;
        served
    }
}

impl Controls {
    /// What whoever operates the real service could have seen so far.
    pub fn records(&self) -> Vec<Record> {
        self.records.all()
    }

    /// Does something to coming calls.
    pub fn fault(&self, fault: Fault) {
        self.faults.add(fault);
    }

    /// Does nothing more to coming calls.
    pub fn forgive(&self) {
        self.faults.clear();
    }

    /// Calls and answers so far that are not as Fly describes its API.
    pub fn violations(&self) -> Vec<String> {
        self.described.violations()
    }

    /// What there is: names of apps, ids of machines and volumes, addresses.
    pub fn left(&self) -> Vec<String> {
        self.world.left()
    }

    /// The app of that name, and what is in it.
    pub fn parts_of(&self, app: &str) -> Vec<String> {
        self.world.parts_of(app)
    }

    /// Does to a machine what Fly does to one whose host fails: it stops at once, without anybody asking.
    pub fn crash(&self, app: &str) {
        self.world.crash(app);
    }

    /// From now on no page of a list has more than so many entries, whatever is asked for.
    pub fn cap_pages(&self, most: usize) {
        self.world.with(|state| state.page_cap = Some(most));
    }

    fn accepts(&self, token: &str) -> bool {
        self.token.as_deref().is_none_or(|expected| expected == token)
    }
}
