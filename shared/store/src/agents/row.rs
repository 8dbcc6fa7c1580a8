//! An agent's row: what is kept of it, what follows from that at a moment, and what a new status changes in it.

use super::checkpoints::{Checkpoint, LastCheckpoint};
use super::moves::LeftOn;
use super::silence::Silence;
use super::state::{AgentStatus, Intent, PausedBy};
use super::stops::Stopping;
use super::{BOOT_GRACE_MS, RETENTION_MS};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use theazo_metering::{Changes, Meter};
use theazo_tenancy::{AgentId, CheckpointId, KeyId, SessionId, SnapshotId};

/// Whose secret an agent booted with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SecretOrigin {
    /// The platform's.
    Platform,
    /// The session's own.
    Session,
}

/// Name and version of a secret that an agent booted with. Never a value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootedSecret {
    /// Canonical name.
    pub name: String,
    /// Version.
    pub version: u64,
    /// Whose it is.
    pub origin: SecretOrigin,
    /// Whether a copy is kept beside the agent to mask its output with.
    pub masked: bool,
    /// When the secret was first set, Unix milliseconds.
    #[serde(default)]
    pub created_at_ms: i64,
    /// When this version was set, Unix milliseconds.
    #[serde(default)]
    pub updated_at_ms: i64,
}

/// What a pause keeps of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Its id.
    pub id: SnapshotId,
    /// Bytes in the agent's files, where they could be counted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub bytes: Option<u64>,
}

/// An agent to be made.
#[derive(Clone, Debug)]
pub struct NewAgent {
    /// Provider's name.
    pub provider: String,
    /// Language runtime.
    pub compute: String,
    /// Where to run, if asked for.
    pub region: Option<String>,
    /// On which of its platform's own hosts, where its provider has several.
    pub host: Option<String>,
    /// Model of managed runs, kept and shown.
    pub model: Option<String>,
    /// Instructions of managed runs, kept.
    pub instructions: Option<String>,
    /// Tools of managed runs as JSON text, kept.
    pub tools: Option<String>,
    /// The platform's own notes.
    pub metadata: BTreeMap<String, String>,
    /// Whether it may open connections to the outside.
    pub internet: bool,
    /// Running time after which it is stopped, milliseconds.
    pub timeout_ms: i64,
    /// After how long without a call it is paused, milliseconds.
    pub auto_pause_ms: Option<i64>,
    /// The names that it gets of the secrets there are, if not all.
    pub selection: Option<Vec<String>>,
    /// What it may cost in all, cents.
    pub cost_cap: Option<u32>,
    /// How many agents may run at its provider at a time.
    pub max_concurrent: Option<u32>,
    /// What it boots with.
    pub secrets: Vec<BootedSecret>,
}

/// An agent's row.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Agent {
    /// Its id.
    pub id: AgentId,
    /// Its session.
    pub session: SessionId,
    /// That it is that session's, and that platform's: a tag of [`theazo_tenancy::CredentialKey::seal_agent`], hexadecimal.
    #[serde(default)]
    pub(super) tag: String,
    /// Its session's user.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub user_id: Option<String>,
    /// Where it stands.
    pub status: AgentStatus,
    /// Provider's name.
    pub provider: String,
    /// Language runtime.
    pub compute: String,
    /// Where it runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub region: Option<String>,
    /// Which of its platform's own hosts it is on, `host:port`, where its provider has several. Written before that host is
    /// asked for anything.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub host: Option<String>,
    /// What isolates it, since its last boot: a runtime of its host, or a machine of its own.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub isolation: Option<String>,
    /// Which other one its present boot moves it to. Written before that host is asked for anything.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub moving_to: Option<String>,
    /// Which others may still have something of it.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub left_on: Vec<LeftOn>,
    /// Model of managed runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub model: Option<String>,
    /// Instructions of managed runs.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub instructions: Option<String>,
    /// Tools of managed runs as JSON text.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub tools: Option<String>,
    /// The platform's own notes.
    pub metadata: BTreeMap<String, String>,
    /// Whether it may open connections to the outside.
    pub internet: bool,
    /// Running time after which it is stopped, milliseconds.
    pub timeout_ms: i64,
    /// After how long without a call it is paused, milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub auto_pause_ms: Option<i64>,
    /// Until when its last call may be under way, Unix milliseconds, to half a minute. Kept only of those that are paused
    /// without calls.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub busy_until_ms: Option<i64>,
    /// The names that it gets at each boot of the secrets there are, if not all.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub selection: Option<Vec<String>>,
    /// What it may cost in all, cents.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cost_cap: Option<u32>,
    /// How long its present run may take before its sandbox ends by itself, milliseconds, where limits that were in
    /// force when it began say so.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub allowed_ms: Option<i64>,
    /// What it has run and cost.
    #[serde(default)]
    pub meter: Meter,
    /// What it booted with.
    pub secrets: Vec<BootedSecret>,
    /// What is being done to it beyond what its status says.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub intent: Option<Intent>,
    /// Whether it has a place of those that there are at its provider.
    #[serde(default)]
    pub has_place: bool,
    /// How often a boot was begun. A boot that has stalled finds out by it that another one has followed.
    #[serde(default)]
    pub boots: u64,
    /// Who paused it, from the beginning of the pause until it runs again.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub paused_by: Option<PausedBy>,
    /// Who is stopping its sandbox, while somebody is.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(super) stopping: Option<Stopping>,
    /// What its last pause kept.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub snapshot: Option<Snapshot>,
    /// Up to when what its files take in the present pause is booked, Unix milliseconds; from its beginning if absent.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub stored_to_ms: Option<i64>,
    /// What is kept of its files beside them, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub checkpoints: Vec<Checkpoint>,
    /// What its last checkpoint said.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub last_checkpoint: Option<LastCheckpoint>,
    /// The checkpoint whose files its next boot, or the present one, puts in place of its own. Once chosen it stays so until
    /// the agent has run, for nobody knows how far an interrupted boot came.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub restores: Option<CheckpointId>,
    /// Whether it was ended for good, and cannot be retried.
    #[serde(skip_serializing_if = "is_false", default)]
    pub terminated: bool,
    /// Whether of an agent that is over the provider is known to hold what it keeps, its checkpoints and any files of
    /// its own, and nothing else. Rows of before say `only_checkpoints`.
    #[serde(skip_serializing_if = "is_false", default, alias = "only_checkpoints")]
    pub only_kept: bool,
    /// Whether an agent that is over keeps its own files too: its host has failed, or has lost what ran there. They stay with
    /// it until it has booted again.
    #[serde(skip_serializing_if = "is_false", default)]
    pub own_files: bool,
    /// Since when its host cannot be asked about it, if it cannot; of one that has failed for that, until it is retried.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub silence: Option<Silence>,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// Since when it stands where it stands, Unix milliseconds.
    #[serde(default)]
    pub since_ms: i64,
    /// When the present run began, Unix milliseconds: the moment its sandbox was ready. Nothing while it does not run.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub run_started_ms: Option<i64>,
    /// How long all its finished runs took together, milliseconds. A run ends with a pause, a restart or the agent.
    #[serde(default)]
    pub ran_before_ms: i64,
    /// When it was completed or failed, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_at_ms: Option<i64>,
    /// The token that its sandbox reports with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub token: Option<KeyId>,
    /// SHA-256 of that token, hexadecimal, by which its own row is found.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub token_hash: Option<String>,
    /// Until when the boot in which it was ended may still be writing beside it, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub boot_writes_until_ms: Option<i64>,
    /// Whether the provider is known to hold nothing of it any more.
    pub sandbox_gone: bool,
    /// Changes with every write, for optimistic locking.
    pub revision: u64,
}

impl Agent {
    /// Milliseconds of compute up to now: its finished runs and the present one.
    pub fn compute_ms(&self, now_ms: i64) -> i64 {
        self.meter.ran_ms(self.metered_to_ms(now_ms))
    }

    /// What is left of its running time when its present run begins, or the next one, milliseconds.
    pub fn time_left_ms(&self) -> i64 {
        (self.timeout_ms - self.ran_before_ms).max(0)
    }

    /// When its running time is over if it goes on running, Unix milliseconds. Only running counts.
    pub fn deadline_ms(&self) -> i64 {
        self.run_started_ms.unwrap_or(self.since_ms).saturating_add(self.time_left_ms())
    }

    /// Whether its sandbox takes calls.
    pub fn takes_calls(&self) -> bool {
        self.status.takes_calls() && self.intent.is_none()
    }

    /// Whether it boots for the first time: nothing was ever asked of its provider.
    pub fn is_new(&self) -> bool {
        self.status == AgentStatus::Booting && self.boots == 1
    }

    /// Whether it has had nothing to do for as long as its creator said.
    pub fn is_idle(&self, now_ms: i64) -> bool {
        let Some((allowed, started)) = self.auto_pause_ms.zip(self.run_started_ms) else { return false };
        let last = self.busy_until_ms.map_or(started, |busy| busy.max(started));
        self.intent.is_none() && last.saturating_add(allowed) <= now_ms
    }

    /// Puts it into another status, and begins or ends its run with that. Only one that takes calls runs. Gives what
    /// that changes in counters.
    pub(super) fn enter(&mut self, status: AgentStatus, now_ms: i64) -> Changes {
        // What is paused was stopped by its host just now: it has answered.
        self.silence = self.silence.filter(|_| status != AgentStatus::Paused);
        let metered_to_ms = self.metered_to_ms(now_ms);
        let runs = matches!(status, AgentStatus::Ready | AgentStatus::Running);
        match (runs, self.run_started_ms) {
            (true, None) => self.run_started_ms = Some(now_ms),
            (false, Some(_)) => {
                self.ran_before_ms = self.compute_ms(now_ms);
                self.run_started_ms = None;
            }
            _ => {}
        }
        if status.is_over() {
            self.ended_at_ms = Some(now_ms);
        }
        if (self.status, status) == (AgentStatus::Booting, AgentStatus::Completed) {
            self.boot_writes_until_ms = Some(self.since_ms.saturating_add(BOOT_GRACE_MS));
        }
        if runs {
            (self.paused_by, self.restores, self.own_files) = (None, None, false);
        }
        // Whatever else it enters, its host has answered, or is not waited for any more. A boot may still find it silent.
        if status != AgentStatus::Booting {
            self.silence = None;
        }
        self.end_move(status, now_ms);
        self.has_place &= status.takes_place();
        (self.status, self.since_ms, self.stored_to_ms, self.intent) = (status, now_ms, None, None);
        self.turn_meter(status, metered_to_ms)
    }

    pub(super) fn without_texts(&self) -> Self {
        let mut short = Self { instructions: None, tools: None, metadata: BTreeMap::new(), ..self.clone() };
        for checkpoint in &mut short.checkpoints {
            (checkpoint.phase, checkpoint.metadata) = (None, BTreeMap::new());
        }
        short
    }

    /// Whether it is not over, or not for so long that its time to be readable is over too.
    pub fn is_readable(&self, now_ms: i64) -> bool {
        self.ended_at_ms.is_none_or(|ended| ended.saturating_add(RETENTION_MS) > now_ms)
    }

    /// Whether its time to be readable is over and nothing is left of it. The table drops such rows when it gets to it.
    pub(super) fn is_expired(&self, now_ms: i64) -> bool {
        self.sandbox_gone && !self.is_readable(now_ms)
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}
