//! The service's state: apps with their addresses and network policies. What machines and volumes do is beside.

use crate::error::{EmulatorError, Refusal};
use crate::machines::Machine;
use crate::records::Records;
use crate::volumes::Volume;
use serde::Deserialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::runtime::Handle;
use tokio::task::AbortHandle;

/// An app.
pub(crate) struct App {
    pub(crate) id: String,
    pub(crate) network: String,
    pub(crate) organization: String,
    pub(crate) policies: BTreeMap<String, Value>,
    pub(crate) addresses: Vec<Address>,
    pub(crate) machines: BTreeMap<String, Machine>,
    pub(crate) volumes: BTreeMap<String, Volume>,
}

/// An address of an app, and what listens there.
pub(crate) struct Address {
    pub(crate) ip: Ipv4Addr,
    pub(crate) created: OffsetDateTime,
    pub(crate) relays: BTreeMap<u16, AbortHandle>,
}

impl Drop for Address {
    fn drop(&mut self) {
        self.relays.values().for_each(AbortHandle::abort);
    }
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) apps: BTreeMap<String, App>,
    /// Entries of a page at most, whatever is asked for.
    pub(crate) page_cap: Option<usize>,
}

impl State {
    pub(crate) fn app(&mut self, name: &str) -> Result<&mut App, Refusal> {
        self.apps.get_mut(name).ok_or_else(Refusal::no_app)
    }
}

pub(crate) struct World {
    pub(crate) dir: PathBuf,
    pub(crate) programs: Vec<PathBuf>,
    pub(crate) records: Arc<Records>,
    runtime: OnceLock<Handle>,
    state: Mutex<State>,
}

/// The body that creates an app. Fly's description says `name`, its guides `app_name`, and both are taken.
#[derive(Deserialize)]
struct NewApp {
    #[serde(alias = "app_name")]
    name: String,
    org_slug: String,
    network: Option<String>,
}

#[derive(Deserialize)]
struct NewPolicy {
    id: Option<String>,
}

fn random(bytes: &mut [u8]) {
    // Without randomness ids repeat, and creating a directory a second time fails loudly.
    let _ = getrandom::fill(bytes);
}

/// A random id of that many characters from those of hexadecimal numbers.
pub(crate) fn make_id(prefix: &str, length: usize) -> String {
    let mut bytes = [0; 16];
    random(&mut bytes);
    let mut id = format!("{prefix}{}", hex::encode(bytes));
    id.truncate(prefix.len() + length);
    id
}

pub(crate) fn show_time(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

pub(crate) fn parse<T: for<'de> Deserialize<'de>>(body: &[u8]) -> Result<T, Refusal> {
    let body = if body.is_empty() { b"{}" } else { body };
    serde_json::from_slice(body).map_err(|error| Refusal::invalid(format!("unable to parse body: {error}")))
}

/// Fly's names become labels of DNS.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(plain) && !name.starts_with('-') && !name.ends_with('-')
}

impl World {
    pub(crate) fn new(dir: &Path, programs: Vec<PathBuf>, records: Arc<Records>) -> Arc<Self> {
        let (runtime, state) = (OnceLock::new(), Mutex::default());
        Arc::new(Self { dir: dir.to_owned(), programs, records, runtime, state })
    }

    /// Where connections through the proxy are served.
    pub(crate) fn relay_on(&self, runtime: Handle) {
        let _ = self.runtime.set(runtime);
    }

    pub(crate) fn runtime(&self) -> Option<&Handle> {
        self.runtime.get()
    }

    pub(crate) fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks at one app.
    pub(crate) fn in_app<T>(
        &self,
        name: &str,
        look: impl FnOnce(&mut App) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.with(|state| look(state.app(name)?))
    }

    /// Looks again and again until there is something, or the time is over.
    pub(crate) fn until<T>(within: Duration, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let until = Instant::now() + within;
        loop {
            match look() {
                None if Instant::now() < until => std::thread::sleep(Duration::from_millis(10)),
                outcome => return outcome,
            }
        }
    }

    pub(crate) fn create_app(&self, body: &[u8]) -> Result<Value, Refusal> {
        let NewApp { name, org_slug: organization, network } = parse(body)?;
        if !is_name(&name) {
            return Err(Refusal::new(
                422,
                "Validation failed: Name may only contain numbers, lowercase letters and dashes",
            ));
        }
        let network = network.unwrap_or_else(|| "default".into());
        let made = OffsetDateTime::now_utc();
        self.with(|state| {
            if state.apps.contains_key(&name) {
                return Err(Refusal::coded(422, "name_taken", "Validation failed: Name has already been taken"));
            }
            let id = make_id("", 16);
            let app = App {
                id: id.clone(),
                network,
                organization,
                policies: BTreeMap::new(),
                addresses: Vec::new(),
                machines: BTreeMap::new(),
                volumes: BTreeMap::new(),
            };
            state.apps.insert(name, app);
            Ok(json!({ "id": id, "created_at": made.unix_timestamp() * 1000 }))
        })
    }

    /// Removes an app with all that belongs to it.
    pub(crate) fn delete_app(&self, name: &str) -> Result<(), Refusal> {
        let app = self.with(|state| state.apps.remove(name)).ok_or_else(Refusal::no_app)?;
        app.end();
        Ok(())
    }

    pub(crate) fn add_policy(&self, app: &str, body: &[u8]) -> Result<Value, Refusal> {
        let mut policy: Value = parse(body)?;
        let NewPolicy { id } = parse(body)?;
        let id = id.unwrap_or_else(|| make_id("", 16));
        policy["id"] = id.clone().into();
        self.in_app(app, |app| {
            app.policies.insert(id, policy.clone());
            Ok(policy)
        })
    }

    /// Gives an app an address: one of this machine's own.
    pub(crate) fn assign_address(&self, app: &str, body: &[u8]) -> Result<Value, Refusal> {
        let asked: Value = parse(body)?;
        // All kinds are loopback addresses of the same family here.
        match asked["type"].as_str() {
            Some("v4" | "v6" | "shared_v4") => {}
            _ => return Err(Refusal::invalid("type must be one of v4, v6, shared_v4")),
        }
        let mut bytes = [0; 3];
        random(&mut bytes);
        let [second, third, last] = bytes;
        let ip = Ipv4Addr::new(127, second.clamp(16, 250), third, last.clamp(1, 254));
        self.in_app(app, |app| {
            let address = Address { ip, created: OffsetDateTime::now_utc(), relays: BTreeMap::new() };
            let shown = address.show();
            app.addresses.push(address);
            Ok(shown)
        })
    }

    pub(crate) fn release_address(&self, app: &str, ip: &str) -> Result<(), Refusal> {
        self.in_app(app, |app| {
            let before = app.addresses.len();
            app.addresses.retain(|address| address.ip.to_string() != ip);
            if app.addresses.len() < before { Ok(()) } else { Err(Refusal::new(404, "ip address not found")) }
        })
    }

    pub(crate) fn left(&self) -> Vec<String> {
        self.with(|state| state.apps.iter().flat_map(|(name, app)| app.parts(name)).collect())
    }

    /// The same of one app.
    pub(crate) fn parts_of(&self, name: &str) -> Vec<String> {
        self.with(|state| state.apps.get(name).map(|app| app.parts(name)).unwrap_or_default())
    }

    /// Ends everything.
    pub(crate) fn close(&self) {
        let apps = self.with(|state| std::mem::take(&mut state.apps));
        apps.into_values().for_each(App::end);
    }

    pub(crate) fn make_dir(&self, name: &str) -> Result<PathBuf, EmulatorError> {
        let path = self.dir.join(name);
        std::fs::create_dir(&path).map_err(|source| EmulatorError::File { path: path.clone(), source })?;
        Ok(path)
    }
}

impl App {
    /// The app itself, and what is in it.
    fn parts(&self, name: &str) -> Vec<String> {
        let inside = self.machines.keys().chain(self.volumes.keys()).cloned();
        let addresses = self.addresses.iter().map(|address| address.ip.to_string());
        std::iter::once(name.to_owned()).chain(inside).chain(addresses).collect()
    }

    fn end(self) {
        let Self { machines, volumes, .. } = self;
        machines.into_values().for_each(Machine::end);
        volumes.into_values().for_each(Volume::end);
    }
}
