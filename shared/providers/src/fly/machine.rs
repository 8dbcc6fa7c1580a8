//! The machine that an agent runs in, and what it goes through.

use super::FlyProvider;
use super::account::Twice;
use super::failure::{failed, from_answer, not_understood};
use super::parts::{ATTEMPTS, SETTLE_PAUSE, made, settle};
use crate::{ProviderError, SandboxSpec};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use theazo_guest_protocol::machine::{MACHINE_PATH, MACHINE_PORT};
use tokio::time::Instant;

/// Longest that one call waits for a machine, in seconds; the service allows 60.
const WAIT_SECONDS: u64 = 30;
/// How long a machine may take to start, which pulls its image, and to stop.
const START_WITHIN: Duration = Duration::from_secs(150);
const STOP_WITHIN: Duration = Duration::from_secs(40);
/// Longest that a machine which is to stop is waited for at a time, in seconds: until it is up, as one that is told before
/// may start after all; and until it is down, before it is told again.
const UP_SECONDS: u64 = 5;
const DOWN_SECONDS: u64 = 8;

/// A machine.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Machine {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) region: String,
    /// Of its configuration.
    instance_id: String,
}

impl Machine {
    pub(super) fn runs(&self) -> bool {
        self.state == "started"
    }

    /// Whether it does not run, and will not without being told to.
    pub(super) fn has_ended(&self) -> bool {
        self.is_down() || self.state == "suspended"
    }

    /// Whether nothing of its last run is left.
    fn is_down(&self) -> bool {
        matches!(self.state.as_str(), "stopped" | "failed" | "launch_failed")
    }

    pub(super) fn is_going(&self) -> bool {
        matches!(self.state.as_str(), "destroying" | "destroyed")
    }
}

impl FlyProvider {
    /// The agent's machines, the one that counts first: of several that creates at the same moment made, all who look choose
    /// the same. [`ProviderError::SandboxGone`] where there is no app.
    pub(super) async fn machines(&self, app: &str) -> Result<Vec<Machine>, ProviderError> {
        let found: Option<Vec<Machine>> = self.account.get("list machines", &format!("/apps/{app}/machines")).await?;
        let mut found = found.ok_or(ProviderError::SandboxGone)?;
        found.retain(|machine| !machine.is_going());
        // They become parts of paths.
        if found.iter().any(|machine| !machine.id.bytes().all(|byte| byte.is_ascii_alphanumeric())) {
            return Err(not_understood("list machines"));
        }
        found.sort_by(|a, b| a.id.cmp(&b.id));
        Ok(found)
    }

    /// Makes the machine, or finds the one that is there, and leaves no second.
    pub(super) async fn ensure_machine(
        &self,
        app: &str,
        (volume, region): (String, String),
        spec: &SandboxSpec,
    ) -> Result<Machine, ProviderError> {
        const CREATE: &str = "create machine";
        let body = json!({ "name": "agent", "region": region, "config": self.config(spec, &volume) });
        let mut refusal = None;
        for attempt in 0..ATTEMPTS {
            let mut found = match self.machines(app).await {
                // An app that was just made.
                Err(ProviderError::SandboxGone) => Vec::new(),
                other => other?,
            }
            .into_iter();
            if let Some(machine) = found.next() {
                for second in found {
                    self.destroy_machine(app, &second.id).await?;
                }
                return Ok(machine);
            }
            settle(attempt).await;
            let path = format!("/apps/{app}/machines");
            refusal = made(CREATE, self.make(CREATE, &path, &body, Twice::Makes).await)?;
        }
        Err(refusal.unwrap_or_else(|| failed(CREATE, None, true, "the machine does not show")))
    }

    /// What the machine is to be. All of it can be read with any token of the app's.
    fn config(&self, spec: &SandboxSpec, volume: &str) -> Value {
        json!({
            "image": self.settings.image,
            "guest": guest(),
            "init": { "exec": [MACHINE_PATH, "serve"] },
            "restart": { "policy": "no" },
            "auto_destroy": false,
            "stop_config": { "signal": "SIGTERM", "timeout": "5s" },
            "mounts": [{ "volume": volume, "path": "/data" }],
            "dns": { "skip_registration": true },
            // Without handlers the proxy hands on bytes. It must not start what was stopped.
            "services": [{
                "protocol": "tcp", "internal_port": MACHINE_PORT, "autostart": false, "autostop": "off",
                "ports": [{ "port": MACHINE_PORT, "handlers": [] }],
            }],
            // For people who look; an agent that became root could change it.
            "metadata": {
                "theazo_deployment": self.deployment(), "theazo_agent": spec.agent, "theazo_session": spec.session,
                "theazo_platform": spec.platform,
            },
        })
    }

    /// Waits until a machine is in that state. Gives it as it then is.
    async fn until(
        &self,
        app: &str,
        machine: &Machine,
        state: &str,
        within: Duration,
    ) -> Result<Machine, ProviderError> {
        const WAIT: &str = "wait for machine";
        let until = Instant::now() + within;
        loop {
            let seconds = until.saturating_duration_since(Instant::now()).as_secs().clamp(1, WAIT_SECONDS);
            let version = &machine.instance_id;
            let path =
                format!("/apps/{app}/machines/{}/wait?state={state}&timeout={seconds}&version={version}", machine.id);
            let answer = self.account.call(WAIT, Method::GET, &path, None, Twice::Harmless).await?;
            let now = self.machine(app, &machine.id).await?;
            match answer.status {
                200 if now.state == state => return Ok(now),
                200 | 408 if Instant::now() < until => {}
                // It was there a moment later.
                404 if Instant::now() < until => tokio::time::sleep(SETTLE_PAUSE).await,
                200 | 404 | 408 => return Err(ProviderError::TimedOut),
                status => return Err(from_answer(WAIT, status, &answer.body)),
            }
            if matches!(now.state.as_str(), "failed" | "launch_failed") {
                return Err(failed(WAIT, None, false, "the machine does not start"));
            }
            // One that ended as soon as it began never gets there.
            if state == "started" && matches!(now.state.as_str(), "stopped" | "suspended") {
                return Err(failed(WAIT, None, true, "the machine does not stay up"));
            }
        }
    }

    /// Makes a machine run that is stopped or just made.
    pub(super) async fn run(&self, app: &str, machine: Machine) -> Result<Machine, ProviderError> {
        const START: &str = "start machine";
        let until = Instant::now() + START_WITHIN;
        let mut machine = machine;
        loop {
            match machine.state.as_str() {
                "started" => return Ok(machine),
                "created" | "creating" | "starting" | "updating" | "replacing" | "restarting" => {
                    return self.until(app, &machine, "started", until.saturating_duration_since(Instant::now())).await;
                }
                // What its memory holds is another environment's.
                "suspending" | "suspended" | "stopping" => machine = self.halt(app, machine).await?,
                _ => {
                    let path = format!("/apps/{app}/machines/{}/start", machine.id);
                    let answer = self.account.call(START, Method::POST, &path, None, Twice::Harmless).await?;
                    match answer.status {
                        200..=299 => {
                            return self
                                .until(app, &machine, "started", until.saturating_duration_since(Instant::now()))
                                .await;
                        }
                        // It settles, or was started by a call whose answer was lost, or is out of sight.
                        404 | 412 if Instant::now() < until => {
                            tokio::time::sleep(SETTLE_PAUSE).await;
                            machine = self.machine(app, &machine.id).await?;
                        }
                        status => return Err(from_answer(START, status, &answer.body)),
                    }
                }
            }
            if Instant::now() >= until {
                return Err(ProviderError::TimedOut);
            }
        }
    }

    /// Stops a machine, whatever it does. What its memory held is gone then.
    pub(super) async fn halt(&self, app: &str, machine: Machine) -> Result<Machine, ProviderError> {
        const STOP: &str = "stop machine";
        let until = Instant::now() + STOP_WITHIN;
        let mut machine = machine;
        while !machine.is_down() {
            if Instant::now() >= until {
                return Err(ProviderError::TimedOut);
            }
            let path = format!("/apps/{app}/machines/{}", machine.id);
            if matches!(machine.state.as_str(), "created" | "creating" | "starting") {
                let wait = format!("{path}/wait?state=started&timeout={UP_SECONDS}");
                self.account.call(STOP, Method::GET, &wait, None, Twice::Harmless).await?;
            }
            let body = json!({ "signal": "SIGTERM", "timeout": "5s" });
            let stop = format!("{path}/stop");
            let answer = self.account.call(STOP, Method::POST, &stop, Some(&body), Twice::Harmless).await?;
            match answer.status {
                // Told while it is on its way somewhere, it may go on there: it is told again.
                200..=299 | 404 | 409 | 412 => {}
                status => return Err(from_answer(STOP, status, &answer.body)),
            }
            let wait = format!("{path}/wait?state=stopped&timeout={DOWN_SECONDS}&version={}", machine.instance_id);
            let waited = self.account.call(STOP, Method::GET, &wait, None, Twice::Harmless).await?;
            if waited.status != 200 {
                tokio::time::sleep(SETTLE_PAUSE).await;
            }
            machine = self.machine(app, &machine.id).await?;
        }
        Ok(machine)
    }

    async fn destroy_machine(&self, app: &str, id: &str) -> Result<(), ProviderError> {
        self.delete("destroy machine", &format!("/apps/{app}/machines/{id}?force=true")).await
    }
}

/// The size that every agent has: one shared processor and 1 GB.
pub(super) fn guest() -> Value {
    json!({ "cpu_kind": "shared", "cpus": 1, "memory_mb": 1024 })
}
