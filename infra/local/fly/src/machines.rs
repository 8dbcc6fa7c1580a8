//! Machines, and what they go through. A call answers as soon as it is decided; what it began shows later, as with Fly.

use crate::apps::{World, make_id, parse};
use crate::error::Refusal;
use crate::leases::Lease;
use crate::room::{Room, child_of, send};
use crate::volumes::region;
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::{Value, json};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;
use time::OffsetDateTime;

/// How long a machine has that is told to stop, unless it is said.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How long lists of the whole organization lag behind.
const LAG: time::Duration = time::Duration::seconds(2);
/// Longest waits and commands, in seconds.
pub(crate) const LONGEST: u64 = 60;

pub(crate) struct Machine {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) state: &'static str,
    /// Of its configuration; another one after each update.
    pub(crate) version: String,
    pub(crate) config: Value,
    pub(crate) created: OffsetDateTime,
    pub(crate) updated: OffsetDateTime,
    pub(crate) events: Vec<Value>,
    pub(crate) dir: PathBuf,
    pub(crate) run: Option<Run>,
    pub(crate) lease: Option<Lease>,
    /// What lists of the whole organization still say it is, and until when: they lag behind.
    pub(crate) seen: (&'static str, OffsetDateTime),
}

/// What runs while a machine does.
#[derive(Clone)]
pub(crate) struct Run {
    pub(crate) room: Arc<Room>,
    /// Its main process, by this machine's process id.
    main: i32,
}

#[derive(Deserialize)]
struct NewMachine {
    name: Option<String>,
    region: Option<String>,
    config: Value,
    #[serde(default)]
    skip_launch: bool,
    current_version: Option<String>,
    lease_ttl: Option<i64>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct StopRequest {
    signal: Option<String>,
    timeout: Option<String>,
}

fn check(config: &Value) -> Result<(), Refusal> {
    if config["image"].as_str().is_none_or(str::is_empty) {
        return Err(Refusal::invalid("config.image is required"));
    }
    Ok(())
}

fn mount_of(config: &Value) -> Option<(&str, &str)> {
    Some((config["mounts"][0]["volume"].as_str()?, config["mounts"][0]["path"].as_str()?))
}

/// The machine's state as Fly names it once nothing is under way.
fn settled(state: &str) -> bool {
    !matches!(state, "created" | "creating" | "starting" | "stopping" | "suspending" | "destroying" | "updating")
}

impl Machine {
    /// Is in another state; lists do not say so yet.
    fn becomes(&mut self, state: &'static str) {
        let now = OffsetDateTime::now_utc();
        if self.seen.1 <= now {
            self.seen = (self.state, now + LAG);
        }
        self.state = state;
    }

    /// The state that lists of the whole organization have; nothing while they do not have the machine yet.
    pub(crate) fn listed_state(&self) -> Option<&'static str> {
        let (seen, until) = self.seen;
        let state = if until > OffsetDateTime::now_utc() { seen } else { self.state };
        Some(state).filter(|state| !state.is_empty())
    }

    fn happened(&mut self, kind: &str, source: &str, request: Option<Value>) {
        self.updated = OffsetDateTime::now_utc();
        let mut event = json!({
            "id": make_id("", 26), "type": kind, "status": self.state, "source": source,
            "timestamp": i64::try_from(self.updated.unix_timestamp_nanos() / 1_000_000).unwrap_or(0),
        });
        if let Some(request) = request {
            event["request"] = request;
        }
        self.events.insert(0, event);
    }

    fn enter(&mut self, state: &'static str, source: &str) {
        self.becomes(state);
        let kind = match state {
            "starting" | "started" => "start",
            "stopping" | "stopped" => "stop",
            "suspended" => "suspend",
            other => other,
        };
        self.happened(kind, source, None);
    }

    pub(crate) fn end(self) {
        if let Some(run) = self.run {
            run.room.close();
        }
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

impl World {
    pub(crate) fn machine<T>(
        &self,
        app: &str,
        id: &str,
        look: impl FnOnce(&mut Machine) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        self.in_app(app, |app| look(app.machines.get_mut(id).ok_or_else(Refusal::no_machine)?))
    }

    pub(crate) fn create_machine(self: &Arc<Self>, app: &str, body: &[u8]) -> Result<Value, Refusal> {
        let new: NewMachine = parse(body)?;
        check(&new.config)?;
        let (id, region) = (make_id("", 14), region(new.region)?);
        let now = OffsetDateTime::now_utc();
        let name = new.name.unwrap_or_else(|| make_id("machine-", 6));
        let shown = self.in_app(app, |app| {
            if app.machines.values().any(|machine| machine.name == name) {
                return Err(Refusal::new(
                    409,
                    format!("already_exists: unique machine name violation, machine {name}"),
                ));
            }
            if let Some((volume, _)) = mount_of(&new.config) {
                let volume = app.volumes.get_mut(volume).ok_or_else(|| Refusal::new(404, "volume not found"))?;
                if let Some(holder) = &volume.claimed {
                    return Err(Refusal::unmet(format!("volume already claimed by machine {holder}")));
                }
                if volume.region != region {
                    return Err(Refusal::invalid("the volume is in another region"));
                }
                volume.claimed = Some(id.clone());
            }
            let mut machine = Machine {
                id: id.clone(),
                name,
                region,
                state: "created",
                version: make_id("", 26),
                config: new.config,
                created: now,
                updated: now,
                events: Vec::new(),
                dir: self.dir.join(&id),
                run: None,
                lease: None,
                seen: ("", now + LAG),
            };
            machine.happened("launch", "user", None);
            let nonce = new.lease_ttl.map(|ttl| machine.lease_for(ttl)).transpose()?;
            let mut shown = machine.show();
            if let Some(nonce) = nonce {
                shown["nonce"] = nonce.into();
            }
            app.machines.insert(id.clone(), machine);
            Ok(shown)
        })?;
        if !new.skip_launch {
            self.boot(app, &id);
        }
        Ok(shown)
    }

    /// Replaces a machine's configuration, and boots it with that.
    pub(crate) fn update_machine(self: &Arc<Self>, app: &str, id: &str, body: &[u8]) -> Result<Value, Refusal> {
        let new: NewMachine = parse(body)?;
        check(&new.config)?;
        let (run, shown) = self.machine(app, id, |machine| {
            if new.current_version.is_some_and(|version| version != machine.version) {
                return Err(Refusal::new(409, "aborted: current_version does not match"));
            }
            if mount_of(&new.config).map(|(volume, _)| volume) != mount_of(&machine.config).map(|(volume, _)| volume) {
                return Err(Refusal::invalid("the volume of a mount cannot be changed"));
            }
            machine.config = new.config;
            machine.version = make_id("", 26);
            machine.enter("stopped", "user");
            Ok((machine.run.take(), machine.show()))
        })?;
        if let Some(run) = run {
            run.room.close();
        }
        if !new.skip_launch {
            self.boot(app, id);
        }
        Ok(shown)
    }

    /// Boots a machine, later than now.
    fn boot(self: &Arc<Self>, app: &str, id: &str) {
        let (world, app, id) = (self.clone(), app.to_owned(), id.to_owned());
        let _ = self.machine(&app, &id, |machine| {
            machine.enter("starting", "flyd");
            Ok(())
        });
        std::thread::spawn(move || match world.launch(&app, &id) {
            Ok((run, main)) => world.attend(&app, &id, &run, main),
            Err(error) => {
                tracing::warn!(app, id, error = error.message, "a machine did not start");
                let _ = world.machine(&app, &id, |machine| {
                    machine.enter("failed", "flyd");
                    Ok(())
                });
            }
        });
    }

    fn launch(self: &Arc<Self>, app: &str, id: &str) -> Result<(Run, Child), Refusal> {
        let (config, dir, region, volume) = self.in_app(app, |app| {
            let machine = app.machines.get(id).ok_or_else(Refusal::no_machine)?;
            let mount = mount_of(&machine.config);
            let volume = mount.and_then(|(id, place)| Some((app.volumes.get(id)?.dir.clone(), place.to_owned())));
            Ok((machine.config.clone(), machine.dir.clone(), machine.region.clone(), volume))
        })?;
        // The file system of an image, as it was before the machine's last run.
        let _ = std::fs::remove_dir_all(&dir);
        self.make_dir(id)?;
        let mount = volume.as_ref().map(|(dir, place)| (dir.as_path(), place.as_str()));
        let room = Arc::new(Room::open(&dir, mount, &self.programs)?);
        let words = |value: &Value| -> Vec<String> {
            let words = value.as_array().into_iter().flatten();
            words.filter_map(|word| word.as_str().map(str::to_owned)).collect()
        };
        let mut command = words(&config["init"]["exec"]);
        if command.is_empty() {
            command = ["sleep", "infinity"].map(str::to_owned).to_vec();
        }
        let mut main = room.enter();
        main.args(&command).env("FLY_APP_NAME", app).env("FLY_MACHINE_ID", id).env("FLY_REGION", region);
        for (name, value) in config["env"].as_object().into_iter().flatten() {
            main.env(name, value.as_str().unwrap_or_default());
        }
        let main = main.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit()).spawn();
        let mut main = main.map_err(crate::EmulatorError::Room)?;
        room.came_through(main.id());
        let run = Run { room, main: child_of(main.id()).unwrap_or(0) };
        let started = self.in_app(app, |app| {
            let machine = app.machines.get_mut(id).ok_or_else(Refusal::no_machine)?;
            machine.run = Some(run.clone());
            machine.enter("started", "flyd");
            Ok(())
        });
        if let Err(gone) = started {
            run.room.close();
            let _ = main.wait();
            return Err(gone);
        }
        self.relay(app);
        Ok((run, main))
    }

    /// Waits for a machine's main process, and stops the machine with it.
    fn attend(&self, app: &str, id: &str, run: &Run, mut main: Child) {
        let status = main.wait().ok();
        run.room.close();
        let _ = self.machine(app, id, |machine| {
            if machine.run.as_ref().is_some_and(|current| Arc::ptr_eq(&current.room, &run.room)) {
                let asked = machine.state == "stopping";
                machine.run = None;
                machine.becomes("stopped");
                let ended = json!({
                    "exit_code": status.and_then(|status: ExitStatus| status.code()).unwrap_or(-1),
                    "signal": status.and_then(|status| status.signal()).unwrap_or(-1), "oom_killed": false,
                    "requested_stop": asked, "restarting": false, "exited_at": crate::apps::show_time(OffsetDateTime::now_utc()),
                });
                machine.happened("exit", "flyd", Some(json!({ "exit_event": ended, "restart_count": 0 })));
            }
            Ok(())
        });
    }

    pub(crate) fn start_machine(self: &Arc<Self>, app: &str, id: &str) -> Result<Value, Refusal> {
        let (before, frozen) = self.machine(app, id, |machine| match (machine.state, &machine.run) {
            ("suspended", Some(run)) => {
                let run = run.clone();
                machine.enter("started", "user");
                Ok(("suspended", Some(run)))
            }
            ("stopped" | "created" | "failed", None) => Ok((machine.state, None)),
            (state, _) => Err(Refusal::unmet(format!("unable to start machine from current state: '{state}'"))),
        })?;
        match frozen {
            Some(run) => run.room.freeze(false),
            None => self.boot(app, id),
        }
        Ok(json!({ "previous_state": before, "migrated": false, "new_host": "" }))
    }

    pub(crate) fn stop_machine(self: &Arc<Self>, app: &str, id: &str, body: &[u8]) -> Result<Value, Refusal> {
        let asked: StopRequest = parse(body)?;
        let stopping = self.machine(app, id, |machine| {
            let signal = asked.signal.as_deref().or(machine.config["stop_config"]["signal"].as_str());
            let signal = match signal.unwrap_or("SIGINT") {
                "SIGTERM" => Signal::TERM,
                "SIGKILL" => Signal::KILL,
                "SIGINT" => Signal::INT,
                other => return Err(Refusal::invalid(format!("invalid signal {other}"))),
            };
            let limit = asked.timeout.as_deref().or(machine.config["stop_config"]["timeout"].as_str());
            let limit = match limit.map(|limit| limit.strip_suffix('s').and_then(|seconds| seconds.parse().ok())) {
                Some(seconds) => Duration::from_secs(seconds.ok_or_else(|| Refusal::invalid("invalid timeout"))?),
                None => STOP_WITHIN,
            };
            let Some(run) = machine.run.clone() else {
                if machine.state == "created" {
                    machine.enter("stopped", "user");
                }
                return Ok(None);
            };
            let discarded = machine.state == "suspended";
            machine.enter("stopping", "user");
            Ok(Some((run, signal, if discarded { Duration::ZERO } else { limit })))
        })?;
        if let Some((run, signal, limit)) = stopping {
            std::thread::spawn(move || {
                send(run.main, signal);
                std::thread::sleep(Duration::from_millis(2));
                let gone = || (!Path::new(&format!("/proc/{}", run.main)).exists()).then_some(());
                if Self::until(limit, gone).is_none() {
                    run.room.close();
                }
            });
        }
        Ok(json!({ "ok": true }))
    }

    pub(crate) fn suspend_machine(&self, app: &str, id: &str) -> Result<Value, Refusal> {
        let run = self.machine(app, id, |machine| match (machine.state, &machine.run) {
            ("started", Some(run)) => {
                let run = run.clone();
                machine.enter("suspended", "user");
                Ok(run)
            }
            _ => Err(Refusal::unmet("machine not running")),
        })?;
        run.room.freeze(true);
        Ok(json!({ "ok": true }))
    }

    pub(crate) fn destroy_machine(&self, app: &str, id: &str, force: bool) -> Result<Value, Refusal> {
        let machine = self.in_app(app, |app| {
            let machine = app.machines.get(id).ok_or_else(Refusal::no_machine)?;
            if !force && machine.run.is_some() {
                return Err(Refusal::unmet(format!(
                    "unable to destroy machine, not currently stopped: {}",
                    machine.state
                )));
            }
            let claimed = app.volumes.values_mut().filter(|volume| volume.claimed.as_deref() == Some(id));
            claimed.for_each(|volume| volume.claimed = None);
            app.machines.remove(id).ok_or_else(Refusal::no_machine)
        })?;
        machine.end();
        Ok(json!({ "ok": true }))
    }

    pub(crate) fn crash(&self, app: &str) {
        let runs: Vec<Run> = self.with(|state| {
            let app = state.apps.get(app);
            app.into_iter().flat_map(|app| app.machines.values().filter_map(|machine| machine.run.clone())).collect()
        });
        runs.iter().for_each(|run| run.room.close());
    }

    pub(crate) fn wait_for(&self, app: &str, id: &str, query: &[(String, String)]) -> Result<Value, Refusal> {
        let parameter = |name: &str| query.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let seconds: u64 = parameter("timeout").map_or(Ok(LONGEST), str::parse).map_err(Refusal::invalid)?;
        if !(1..=LONGEST).contains(&seconds) {
            return Err(Refusal::invalid("timeout must be between 1s and 1m0s"));
        }
        let asked: Vec<String> =
            query.iter().filter(|(name, _)| name == "state").map(|(_, value)| value.clone()).collect();
        let asked = if asked.is_empty() { "started".to_owned() } else { asked.join(",") };
        let version = parameter("version").or_else(|| parameter("instance_id"));
        if asked.split(',').any(|state| state == "stopped") && version.is_none() {
            return Err(Refusal::invalid("instance_id required when waiting for stopped machine"));
        }
        let look = || {
            let seen = self.machine(app, id, |machine| Ok((machine.state, machine.version.clone())));
            match seen {
                Ok((state, current)) => {
                    let same = version.is_none_or(|version| version == current);
                    let fits = |wanted: &str| wanted == state || (wanted == "settled" && settled(state));
                    (same && asked.split(',').any(fits))
                        .then(|| Ok(json!({ "ok": true, "state": state, "version": current })))
                }
                Err(_) if asked.split(',').any(|state| state == "destroyed") => {
                    Some(Ok(json!({ "ok": true, "state": "destroyed" })))
                }
                Err(refusal) => Some(Err(refusal)),
            }
        };
        Self::until(Duration::from_secs(seconds), look).unwrap_or_else(|| {
            let state = self.machine(app, id, |machine| Ok(machine.state))?;
            let message = format!("machine failed to reach desired state, {asked}, currently {state}");
            Err(Refusal::new(408, format!("deadline_exceeded: {message}")))
        })
    }
}
