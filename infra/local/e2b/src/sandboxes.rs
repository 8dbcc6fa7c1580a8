//! The service's state: sandboxes, their directories and rooms, snapshots, and answers to repeated creates.

use crate::error::{EmulatorError, Refusal, RpcError};
use crate::processes::Processes;
use crate::records::Records;
use crate::room::{self, Room};
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use time::format_description::well_known::Rfc3339;
use time::{Duration, OffsetDateTime};

/// The daemon's version that the emulator speaks like.
const ENVD_VERSION: &str = "0.6.13";
/// Longest time to live, in seconds, as the larger plans have it.
const LONGEST: i64 = 24 * 3600;
const TEMPLATES: [&str; 2] = ["base", "code-interpreter-v1"];

/// The body of a create.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct NewSandbox {
    #[serde(rename = "templateID")]
    pub(crate) template: String,
    pub(crate) timeout: Option<i64>,
    #[serde(default)]
    auto_pause: bool,
    auto_pause_memory: Option<bool>,
    #[serde(rename = "allow_internet_access")]
    allow_internet_access: Option<bool>,
    network: Option<Value>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
    #[serde(default)]
    env_vars: BTreeMap<String, String>,
}

impl NewSandbox {
    fn is_private(&self) -> bool {
        self.network.as_ref().is_some_and(|network| network["allowPublicTraffic"] == false)
    }
}

/// What a pause has kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kept {
    Memory,
    Files,
}

/// A running sandbox's inside.
#[derive(Clone)]
pub(crate) struct Running {
    pub(crate) room: Arc<Room>,
    pub(crate) processes: Processes,
    pub(crate) envs: BTreeMap<String, String>,
    /// Ends when the run does.
    pub(crate) over: tokio::sync::watch::Receiver<bool>,
}

struct Sandbox {
    new: NewSandbox,
    dir: PathBuf,
    started: OffsetDateTime,
    ends: OffsetDateTime,
    /// Absent while it is paused without memory.
    run: Option<Running>,
    end_run: Option<tokio::sync::watch::Sender<bool>>,
    paused: Option<Kept>,
}

struct Snapshot {
    names: Vec<String>,
    sandbox: String,
    dir: PathBuf,
}

#[derive(Default)]
struct State {
    sandboxes: HashMap<String, Sandbox>,
    snapshots: BTreeMap<String, Snapshot>,
    /// By key: the digest of the body, the sandbox, and whether it is made.
    creates: HashMap<String, ([u8; 32], String, bool)>,
    refuses_files_only: bool,
    page_cap: Option<usize>,
}

/// How often a copy is tried again.
const COPIES: u32 = 20;

pub(crate) struct Sandboxes {
    dir: PathBuf,
    seed: [u8; 32],
    records: Arc<Records>,
    state: Mutex<State>,
}

fn random(bytes: &mut [u8]) {
    // Without randomness ids repeat, and creating a directory a second time fails loudly.
    let _ = getrandom::fill(bytes);
}

fn make_id(prefix: &str) -> String {
    let mut bytes = [0; 10];
    random(&mut bytes);
    format!("{prefix}{}", hex::encode(bytes))
}

fn time(at: OffsetDateTime) -> String {
    at.format(&Rfc3339).unwrap_or_default()
}

impl Sandboxes {
    pub(crate) fn new(dir: &Path, records: Arc<Records>) -> Self {
        let mut seed = [0; 32];
        random(&mut seed);
        Self { dir: dir.to_owned(), seed, records, state: Mutex::default() }
    }

    fn with<T>(&self, look: impl FnOnce(&mut State) -> T) -> T {
        look(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn refuse_files_only(&self, refuses: bool) {
        self.with(|state| state.refuses_files_only = refuses);
    }

    pub(crate) fn cap_pages(&self, most: usize) {
        self.with(|state| state.page_cap = Some(most));
    }

    pub(crate) fn page_cap(&self) -> usize {
        self.with(|state| state.page_cap).unwrap_or(usize::MAX)
    }

    /// The same for ever for one sandbox, as in the real service.
    fn token(&self, of: &str) -> String {
        let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(&self.seed) else { return String::new() };
        mac.update(of.as_bytes());
        hex::encode(mac.finalize().into_bytes())
    }

    pub(crate) fn envd_token(&self, id: &str) -> String {
        self.token(id)
    }

    /// What opens a sandbox's ports; nothing where they are open to everybody.
    pub(crate) fn traffic_token(&self, id: &str) -> Option<String> {
        let is_private = self.with(|state| state.sandboxes.get(id).is_some_and(|sandbox| sandbox.new.is_private()));
        is_private.then(|| self.token(&format!("sandbox-traffic-{id}")))
    }

    fn show_new(&self, id: &str, new: &NewSandbox) -> Value {
        let private = new.is_private();
        json!({
            "templateID": new.template, "sandboxID": id, "clientID": "6532622b", "envdVersion": ENVD_VERSION,
            "envdAccessToken": self.envd_token(id),
            "trafficAccessToken": private.then(|| self.token(&format!("sandbox-traffic-{id}"))),
            "domain": null,
        })
    }

    /// Creates a sandbox, or answers a repeated create again.
    pub(crate) fn create(&self, new: NewSandbox, key: Option<&str>, body: &[u8]) -> Result<Value, Refusal> {
        let timeout = new.timeout.unwrap_or(300);
        if timeout <= 0 {
            return Err(Refusal::new(400, "Timeout must be greater than 0"));
        }
        if timeout > LONGEST {
            return Err(Refusal::new(400, format!("Timeout cannot be greater than {} hours", LONGEST / 3600)));
        }
        if new.auto_pause_memory.is_some_and(|memory| !memory) && !new.auto_pause {
            return Err(Refusal::new(400, "autoPauseMemory requires autoPause"));
        }
        let digest: [u8; 32] = Sha256::digest(body).into();
        let id = make_id("i");
        let (source, repeated) = self.with(|state| {
            if let Some((known, id, made)) = key.and_then(|key| state.creates.get(key)) {
                return match (*known == digest, made) {
                    (false, _) => Err(Refusal::coded(422, "idempotency_request_mismatch", "another body had this key")),
                    (true, false) => Err(Refusal::coded(409, "idempotency_in_progress", "it is being created")),
                    (true, true) => Ok((None, Some(id.clone()))),
                };
            }
            let snapshot = state.snapshots.get(&new.template).map(|snapshot| snapshot.dir.clone());
            if snapshot.is_none() && !TEMPLATES.contains(&new.template.as_str()) {
                return Err(Refusal::new(404, format!("template '{}' not found", new.template)));
            }
            if let Some(key) = key {
                state.creates.insert(key.to_owned(), (digest, id.clone(), false));
            }
            Ok((snapshot, None))
        })?;
        if let Some(id) = repeated {
            return Ok(self.show_new(&id, &new));
        }
        let dir = self.dir.join(&id);
        let made = match &source {
            Some(source) => copy(source, &dir),
            None => Ok(()),
        };
        let opened = made.and_then(|()| room::lay_out(&dir)).and_then(|()| open(&dir, new.env_vars.clone()));
        let (run, end_run) =
            opened.inspect_err(|_| self.with(|state| drop(key.map(|key| state.creates.remove(key)))))?;
        let shown = self.show_new(&id, &new);
        let started = OffsetDateTime::now_utc();
        let ends = started + Duration::seconds(timeout);
        let sandbox = Sandbox { new, dir, started, ends, run: Some(run), end_run: Some(end_run), paused: None };
        self.with(|state| {
            if let Some((_, _, made)) = key.and_then(|key| state.creates.get_mut(key)) {
                *made = true;
            }
            state.sandboxes.insert(id, sandbox);
        });
        Ok(shown)
    }

    fn find<T>(&self, id: &str, look: impl FnOnce(&mut Sandbox) -> Result<T, Refusal>) -> Result<T, Refusal> {
        self.with(|state| look(state.sandboxes.get_mut(id).ok_or_else(|| Refusal::no_sandbox(id))?))
    }

    fn show(id: &str, sandbox: &Sandbox) -> Value {
        json!({
            "templateID": sandbox.new.template, "sandboxID": id, "clientID": "6532622b",
            "startedAt": time(sandbox.started), "endAt": time(sandbox.ends), "envdVersion": ENVD_VERSION,
            "cpuCount": 2, "memoryMB": 512, "diskSizeMB": 1024, "metadata": sandbox.new.metadata,
            "state": if sandbox.paused.is_some() { "paused" } else { "running" },
        })
    }

    pub(crate) fn get(&self, id: &str) -> Result<Value, Refusal> {
        let token = self.envd_token(id);
        self.find(id, |sandbox| {
            let mut shown = Self::show(id, sandbox);
            shown["envdAccessToken"] = token.into();
            shown["network"] = sandbox.new.network.clone().unwrap_or_else(|| json!({}));
            shown["allowInternetAccess"] = sandbox.new.allow_internet_access.into();
            shown["lifecycle"] =
                json!({ "onTimeout": if sandbox.new.auto_pause { "pause" } else { "kill" }, "autoResume": false });
            match sandbox.paused {
                Some(Kept::Memory) => shown["pauseMode"] = "full".into(),
                Some(Kept::Files) => shown["pauseMode"] = "filesystem".into(),
                None => {}
            }
            Ok(shown)
        })
    }

    /// All that fit, oldest first.
    pub(crate) fn list(&self, states: &[&str], metadata: &[(String, String)]) -> Vec<Value> {
        self.with(|state| {
            let mut fitting: Vec<_> = state
                .sandboxes
                .iter()
                .filter(|(_, sandbox)| {
                    let state = if sandbox.paused.is_some() { "paused" } else { "running" };
                    let has = |(name, value): &(String, String)| sandbox.new.metadata.get(name) == Some(value);
                    states.contains(&state) && metadata.iter().all(has)
                })
                .collect();
            fitting.sort_by_key(|(id, sandbox)| (sandbox.started, (*id).clone()));
            fitting.into_iter().map(|(id, sandbox)| Self::show(id, sandbox)).collect()
        })
    }

    /// Ends a sandbox, running or paused, and everything of it but named snapshots.
    pub(crate) fn kill(&self, id: &str) -> Result<(), Refusal> {
        let sandbox = self.with(|state| state.sandboxes.remove(id)).ok_or_else(|| Refusal::no_sandbox(id))?;
        sandbox.close();
        Ok(())
    }

    pub(crate) fn set_timeout(&self, id: &str, seconds: i64) -> Result<(), Refusal> {
        self.find(id, |sandbox| {
            if sandbox.paused.is_some() {
                return Err(Refusal::new(409, format!("Sandbox \"{id}\" is not running")));
            }
            if seconds > LONGEST {
                return Err(Refusal::new(400, "Max instance length exceeded"));
            }
            sandbox.ends = OffsetDateTime::now_utc() + Duration::seconds(seconds);
            Ok(())
        })
    }

    pub(crate) fn pause(&self, id: &str, memory: bool) -> Result<(), Refusal> {
        let refuses = self.with(|state| state.refuses_files_only);
        if !memory && refuses {
            let message = "filesystem-only snapshots are not available for your team";
            return Err(Refusal::coded(400, "snapshot_filesystem_only_disabled", message));
        }
        let (run, end_run) = self.find(id, |sandbox| {
            if sandbox.paused.is_some() {
                return Err(Refusal::new(409, format!("Sandbox \"{id}\" is already paused")));
            }
            sandbox.paused = Some(if memory { Kept::Memory } else { Kept::Files });
            match memory {
                true => Ok((sandbox.run.clone(), None)),
                false => Ok((sandbox.run.take(), sandbox.end_run.take())),
            }
        })?;
        if let (true, Some(run)) = (memory, &run) {
            run.room.freeze(true);
            // Whoever holds the snapshot holds this.
            self.records.add("snapshot", Some(id), "memory", json!({ "envVars": run.envs }));
        }
        if let Some(end) = end_run {
            let _ = end.send(true);
            if let Some(run) = run {
                run.room.close();
            }
        }
        Ok(())
    }

    /// The sandbox, running, and whether it had to be resumed for that.
    pub(crate) fn connect(&self, id: &str, timeout: i64, memory: bool) -> Result<(Value, bool), Refusal> {
        if timeout > LONGEST {
            return Err(Refusal::new(400, format!("Timeout cannot be greater than {} hours", LONGEST / 3600)));
        }
        let ends = OffsetDateTime::now_utc() + Duration::seconds(timeout);
        let resumed = self.find(id, |sandbox| {
            let paused = sandbox.paused.take();
            match paused {
                None => sandbox.ends = sandbox.ends.max(ends),
                Some(kept) => {
                    sandbox.started = OffsetDateTime::now_utc();
                    sandbox.ends = ends;
                    if kept == Kept::Memory && !memory {
                        sandbox.end_run.take().map(|end| end.send(true));
                        if let Some(run) = sandbox.run.take() {
                            run.room.close();
                        }
                    }
                    match &sandbox.run {
                        Some(run) => run.room.freeze(false),
                        None => {
                            // The variables of the create are not given again.
                            let (run, end_run) =
                                open(&sandbox.dir, BTreeMap::new()).inspect_err(|_| sandbox.paused = paused)?;
                            (sandbox.run, sandbox.end_run) = (Some(run), Some(end_run));
                        }
                    }
                }
            }
            Ok(paused.is_some())
        })?;
        let new = self.find(id, |sandbox| Ok(sandbox.new.clone()))?;
        Ok((self.show_new(id, &new), resumed))
    }

    /// What runs in a sandbox, if it runs.
    pub(crate) fn running(&self, id: &str) -> Option<Running> {
        self.with(|state| state.sandboxes.get(id).filter(|sandbox| sandbox.paused.is_none())?.run.clone())
    }

    pub(crate) fn snapshot(&self, id: &str, name: Option<&str>, memory: bool) -> Result<Value, Refusal> {
        if !memory && self.with(|state| state.refuses_files_only) {
            let message = "filesystem-only snapshots are not available for your team";
            return Err(Refusal::coded(400, "snapshot_filesystem_only_disabled", message));
        }
        let (dir, run) = self.find(id, |sandbox| Ok((sandbox.dir.clone(), sandbox.run.clone())))?;
        let snapshot = format!("{}:default", make_id("s"));
        let names: Vec<String> = name.map(|name| format!("team/{name}:default")).into_iter().collect();
        let shown = names.first().cloned().unwrap_or(snapshot);
        let target = self.dir.join(make_id("snapshot-"));
        // The sandbox runs on, and may remove what is being copied.
        let mut copied = copy(&dir, &target);
        for _ in 0..COPIES {
            if copied.is_ok() {
                break;
            }
            let _ = std::fs::remove_dir_all(&target);
            copied = copy(&dir, &target);
        }
        copied?;
        if let (true, Some(run)) = (memory, run) {
            self.records.add("snapshot", Some(id), "memory", json!({ "envVars": run.envs }));
        }
        let kept = Snapshot { names: names.clone(), sandbox: id.to_owned(), dir: target };
        let before = self.with(|state| state.snapshots.insert(shown.clone(), kept));
        if let Some(before) = before {
            let _ = std::fs::remove_dir_all(before.dir);
        }
        Ok(json!({ "snapshotID": shown, "names": names }))
    }

    /// Those of a sandbox, if one is given, that have that name or id, if one is given: with the team before it and the tag
    /// after it or without.
    pub(crate) fn snapshots(&self, sandbox: Option<&str>, name: Option<&str>) -> Vec<Value> {
        let is_called = |shown: &str, asked: &str| {
            let untagged = shown.split(':').next().unwrap_or_default();
            [shown, untagged]
                .into_iter()
                .any(|form| asked == form || form.split_once('/').is_some_and(|it| asked == it.1))
        };
        self.with(|state| {
            let fitting = state.snapshots.iter().filter(|(id, kept)| {
                let mut names = kept.names.iter().chain([*id]);
                sandbox.is_none_or(|id| kept.sandbox == id)
                    && name.is_none_or(|asked| names.any(|it| is_called(it, asked)))
            });
            fitting.map(|(id, kept)| json!({ "snapshotID": id, "names": kept.names })).collect()
        })
    }

    pub(crate) fn delete_snapshot(&self, id: &str) -> Result<(), Refusal> {
        let removed = self.with(|state| state.snapshots.remove(id));
        let removed = removed.ok_or_else(|| Refusal::new(404, format!("template '{id}' not found")))?;
        let _ = std::fs::remove_dir_all(&removed.dir);
        Ok(())
    }

    /// Does what time does: sandboxes whose time is over are ended, or paused where they asked for it.
    pub(crate) fn expire(&self) {
        let now = OffsetDateTime::now_utc();
        let over: Vec<(String, bool, bool)> = self.with(|state| {
            let over = state.sandboxes.iter().filter(|(_, sandbox)| sandbox.paused.is_none() && sandbox.ends <= now);
            over.map(|(id, sandbox)| (id.clone(), sandbox.new.auto_pause, sandbox.new.auto_pause_memory != Some(false)))
                .collect()
        });
        for (id, pauses, memory) in over {
            let _ = if pauses { self.pause(&id, memory) } else { self.kill(&id) };
        }
    }

    /// Ends everything.
    pub(crate) fn close(&self) {
        let sandboxes = self.with(|state| std::mem::take(&mut state.sandboxes));
        sandboxes.into_values().for_each(Sandbox::close);
    }
}

impl Sandbox {
    fn close(self) {
        let Self { run, end_run, dir, .. } = self;
        end_run.map(|end| end.send(true));
        if let Some(run) = run {
            run.room.close();
        }
        let _ = std::fs::remove_dir_all(&dir);
    }
}

impl Running {
    /// The refusal of a call that the end of the run interrupted.
    pub(crate) fn gone() -> RpcError {
        RpcError::new("unavailable", "the connection to sandbox ended before the stream completed")
    }
}

fn open(
    dir: &Path,
    envs: BTreeMap<String, String>,
) -> Result<(Running, tokio::sync::watch::Sender<bool>), EmulatorError> {
    let room = Arc::new(Room::open(dir)?);
    let (end, over) = tokio::sync::watch::channel(false);
    Ok((Running { room, processes: Processes::default(), envs, over }, end))
}

/// Copies a sandbox's files. What is mounted in its room is not among them.
fn copy(from: &Path, to: &Path) -> Result<(), EmulatorError> {
    let copied = Command::new("cp").args(["-a", "--reflink=auto", "--"]).arg(from).arg(to).output();
    match copied {
        Ok(output) if output.status.success() => Ok(()),
        Ok(output) => Err(EmulatorError::NoRoom(String::from_utf8_lossy(&output.stderr).into_owned())),
        Err(source) => Err(EmulatorError::File { path: from.to_owned(), source }),
    }
}
