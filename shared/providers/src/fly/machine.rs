//! The machine that an agent runs in, and what it goes through.

use super::FlyProvider;
use super::account::Twice;
use super::failure::{failed, from_answer, not_understood};
use super::parts::{ATTEMPTS, Made, SETTLE_PAUSE, SETTLE_WITHIN, made, settle};
use crate::{ProviderError, SandboxSpec};
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;
use theazo_guest_protocol::machine::{INGRESS_PORT, MACHINE_PATH, MACHINE_PORT};
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

/// Connections that the proxy hands on at once to each service: more than the machine itself takes.
const CONNECTIONS: u32 = 512;

/// A machine.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Machine {
    pub(super) id: String,
    pub(super) state: String,
    pub(super) region: String,
    /// Of its configuration.
    instance_id: String,
    #[serde(default)]
    config: Value,
}

impl Machine {
    pub(super) fn runs(&self) -> bool {
        self.state == "started"
    }

    /// The volume that it mounts.
    pub(super) fn volume(&self) -> Option<&str> {
        self.config["mounts"][0]["volume"].as_str()
    }

    /// Whether it was made without a service for the agent's ports, as machines once were. One whose host does not
    /// answer does not say.
    pub(super) fn lacks_ingress(&self) -> bool {
        let services = self.config["services"].as_array();
        services.is_some_and(|services| services.iter().all(|service| service["internal_port"] != INGRESS_PORT))
    }

    /// Whether it does not run, and will not without being told to.
    pub(super) fn has_ended(&self) -> bool {
        self.is_down() || self.state == "suspended"
    }

    /// Whether nothing of its last run is left.
    fn is_down(&self) -> bool {
        matches!(self.state.as_str(), "stopped" | "failed" | "launch_failed")
    }

    /// Ids become parts of paths.
    fn has_plain_id(&self) -> bool {
        self.id.bytes().all(|byte| byte.is_ascii_alphanumeric())
    }

    pub(super) fn is_going(&self) -> bool {
        matches!(self.state.as_str(), "destroying" | "destroyed")
    }
}

impl FlyProvider {
    /// The agent's machines, the one that counts first: of several that creates at the same moment made, all who look choose
    /// the same. [`ProviderError::SandboxGone`] where there is no app.
    pub(super) async fn machines(&self, app: &str) -> Result<Vec<Machine>, ProviderError> {
        const LIST: &str = "list machines";
        let found: Option<Option<Vec<Machine>>> = self.account.get(LIST, &format!("/apps/{app}/machines")).await?;
        let mut found = found.ok_or(ProviderError::SandboxGone)?.unwrap_or_default();
        found.retain(|machine| !machine.is_going());
        if !found.iter().all(Machine::has_plain_id) {
            return Err(not_understood(LIST));
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
        let path = format!("/apps/{app}/machines");
        let until = Instant::now() + SETTLE_WITHIN;
        let (mut attempt, mut refusal) = (0, None);
        loop {
            if let Some(machine) = self.the_only_machine(app).await? {
                return Ok(machine);
            }
            if attempt >= ATTEMPTS {
                return Err(refusal.unwrap_or_else(|| failed(CREATE, None, true, "the machine does not show")));
            }
            settle(attempt).await;
            match self.account.call(CREATE, Method::POST, &path, Some(&body), Twice::Makes).await {
                // An app that does not show everywhere yet; or a volume that another create, quicker with its machine,
                // removed.
                Ok(answer) if answer.status == 404 && Instant::now() < until => {
                    tokio::time::sleep(SETTLE_PAUSE).await;
                    continue;
                }
                outcome => match made(CREATE, outcome)? {
                    Made::Surely(answer) => {
                        let made: Machine = serde_json::from_slice(&answer).map_err(|_| not_understood(CREATE))?;
                        // The list decides between several, once it shows any.
                        let first = self.the_only_machine(app).await?;
                        let unlisted = Some(made).filter(Machine::has_plain_id).ok_or_else(|| not_understood(CREATE));
                        return first.map_or(unlisted, Ok);
                    }
                    Made::Perhaps(error) => refusal = Some(error),
                },
            }
            attempt += 1;
        }
    }

    /// The machine that counts, after the others were removed.
    async fn the_only_machine(&self, app: &str) -> Result<Option<Machine>, ProviderError> {
        let found = match self.machines(app).await {
            // An app that was just made.
            Err(ProviderError::SandboxGone) => Vec::new(),
            other => other?,
        };
        for second in found.iter().skip(1) {
            self.destroy_machine(app, &second.id).await?;
        }
        Ok(found.into_iter().next())
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
            "services": services(),
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

    pub(super) async fn destroy_machine(&self, app: &str, id: &str) -> Result<(), ProviderError> {
        self.delete("destroy machine", &format!("/apps/{app}/machines/{id}?force=true")).await
    }
}

/// What the proxy takes connections for, which it must not start again what was stopped for. They cannot be changed without
/// a boot, so the second is there before any port is open.
fn services() -> Value {
    let service = |internal: u16, external: u16, handlers: &[&str]| {
        json!({
            "protocol": "tcp", "internal_port": internal, "autostart": false, "autostop": "off",
            // Said, because the proxy's own limit is some twenty. The machine has its own, and tells strangers from callers.
            "concurrency": { "type": "connections", "soft_limit": CONNECTIONS, "hard_limit": CONNECTIONS },
            "ports": [{ "port": external, "handlers": handlers }],
        })
    };
    // Without handlers the proxy hands on bytes. With these it has the certificate of the app's name, and reads HTTP.
    json!([service(MACHINE_PORT, MACHINE_PORT, &[]), service(INGRESS_PORT, 443, &["tls", "http"])])
}

/// The size that every agent has: one shared processor and 1 GB.
pub(super) fn guest() -> Value {
    json!({ "cpu_kind": "shared", "cpus": 1, "memory_mb": 1024 })
}
