//! Agents: their rows and the counters they move. An agent has a row for the platform and one for its session, and as
//! long as it has not settled a short one beside each; all of them change in one transaction.

mod beside;
mod changes;
mod checkpoints;
mod metering;
mod pause;
mod places;
mod state;

pub use checkpoints::{
    CHECKPOINT_GRACE_MS, Checkpoint, CheckpointState, LastCheckpoint, MAX_CHECKPOINTS, NewCheckpoint,
};
pub use pause::{NextBoot, PauseReason};
pub use state::{AgentStatus, Intent, PausedBy};

use crate::counters::CountersUpdate;
use crate::page::RowFilter;
use crate::sessions::unchanged_and_active;
use crate::table::from_item;
use crate::transaction::{Committed, Transaction};
use crate::{AuditAction, AuditOutcome, Counters, Page, PageRequest, Session, StoreError, Table};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use theazo_metering::{Changes, Meter, Prices};
use theazo_tenancy::{AgentId, CheckpointId, KeyId, ReadScope, SessionId, SessionScope, SnapshotId, TenantScope};

/// How long an ended agent stays readable, milliseconds.
const RETENTION_MS: i64 = 30 * 24 * 60 * 60 * 1000;
/// How long a boot may be under way before its process counts as dead, milliseconds. Its request gives up earlier.
pub const BOOT_GRACE_MS: i64 = 60_000;

/// Reading and changing agents' rows. No way to a secret, and none to a sandbox.
#[derive(Clone)]
pub struct Agents(pub(crate) Table, Prices);

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
    /// Whether of an agent that is over the provider is known to hold its checkpoints and nothing else.
    #[serde(skip_serializing_if = "is_false", default)]
    pub only_checkpoints: bool,
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

/// Which agents to list.
#[derive(Clone, Debug, Default)]
pub struct AgentFilter {
    /// Only in this status.
    pub status: Option<AgentStatus>,
    /// Only at this provider.
    pub provider: Option<String>,
    /// Only with this runtime.
    pub compute: Option<String>,
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

    /// Whether it has had nothing to do for as long as its creator said.
    pub fn is_idle(&self, now_ms: i64) -> bool {
        let Some((allowed, started)) = self.auto_pause_ms.zip(self.run_started_ms) else { return false };
        let last = self.busy_until_ms.map_or(started, |busy| busy.max(started));
        self.intent.is_none() && last.saturating_add(allowed) <= now_ms
    }

    /// Puts it into another status, and begins or ends its run with that. Only one that takes calls runs. Gives what
    /// that changes in counters.
    fn enter(&mut self, status: AgentStatus, now_ms: i64) -> Changes {
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
            (self.paused_by, self.restores) = (None, None);
        }
        self.has_place &= status.takes_place();
        (self.status, self.since_ms, self.stored_to_ms, self.intent) = (status, now_ms, None, None);
        self.turn_meter(status, metered_to_ms)
    }

    fn without_texts(&self) -> Self {
        let mut short = Self { instructions: None, tools: None, metadata: BTreeMap::new(), ..self.clone() };
        for checkpoint in &mut short.checkpoints {
            (checkpoint.phase, checkpoint.metadata) = (None, BTreeMap::new());
        }
        short
    }

    /// Whether its time to be readable is over. The table drops such rows when it gets to it.
    fn is_expired(&self, now_ms: i64) -> bool {
        self.sandbox_gone && self.ended_at_ms.is_some_and(|ended| ended.saturating_add(RETENTION_MS) <= now_ms)
    }
}

fn is_false(flag: &bool) -> bool {
    !flag
}

fn without_expired(mut page: Page<Agent>, now: i64) -> Page<Agent> {
    page.rows.retain(|agent| !agent.is_expired(now));
    page
}

impl AgentFilter {
    fn terms(&self) -> RowFilter {
        let wanted = [
            ("status", self.status.map(AgentStatus::as_str)),
            ("provider", self.provider.as_deref()),
            ("compute", self.compute.as_deref()),
        ];
        wanted
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .fold(RowFilter::default(), |terms, (name, value)| {
                terms.compare(name, "=", AttributeValue::S(value.into()))
            })
    }
}

impl Agents {
    /// Over that table, at the usual prices.
    pub fn new(table: Table) -> Self {
        Self(table, Prices::default())
    }

    /// The same at other prices.
    #[must_use]
    pub fn with_prices(self, prices: Prices) -> Self {
        Self(self.0, prices)
    }

    /// An agent, if it is this scope's.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn get(&self, scope: &ReadScope, id: &AgentId) -> Result<Option<Agent>, StoreError> {
        let Ok(key) = scope.agent_key(id) else { return Ok(None) };
        let agent: Option<Agent> = self.0.get(&key).await?;
        Ok(agent.filter(|agent| !agent.is_expired(self.0.now_ms())))
    }

    /// A page of the platform's agents, newest first.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn list(
        &self,
        scope: &ReadScope,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<Agent>, StoreError> {
        let all = scope.platform_wide()?.agents();
        Ok(without_expired(self.0.page(&all, page, filter.terms()).await?, self.0.now_ms()))
    }

    /// A page of a session's agents, newest first.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn list_of_session(
        &self,
        scope: &SessionScope,
        filter: &AgentFilter,
        page: &PageRequest,
    ) -> Result<Page<Agent>, StoreError> {
        Ok(without_expired(self.0.page(&scope.agents(), page, filter.terms()).await?, self.0.now_ms()))
    }

    /// A session's agents that still have something at their provider, or may. Without instructions, tools and
    /// metadata, so that it stays one read.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn unsettled_of_session(&self, scope: &SessionScope) -> Result<Vec<Agent>, StoreError> {
        self.0.query_all(&scope.live_agents()).await?.into_iter().map(from_item).collect()
    }

    /// The platform's agents that still have something at their provider, or may, likewise.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn unsettled_of_platform(&self, scope: &ReadScope) -> Result<Vec<Agent>, StoreError> {
        self.0.query_all(&scope.platform_wide()?.live_agents()).await?.into_iter().map(from_item).collect()
    }

    /// Records an agent as `booting`, before any provider is asked, in the transaction that counts it against the
    /// session's limits and its provider's and notes it in the operator's work list. What its running costs an hour is fixed
    /// with that.
    ///
    /// # Errors
    /// [`StoreError::LimitExceeded`]; [`StoreError::ProviderFull`]; [`StoreError::Conflict`] when the session is not active or has changed since it
    /// was read (the caller reads it again).
    pub async fn begin_boot(&self, scope: &TenantScope, session: &Session, new: NewAgent) -> Result<Agent, StoreError> {
        let own = scope.session(&session.id).ok_or(StoreError::NotFound)?;
        let now = self.0.now_ms();
        let mut agent = Agent {
            id: AgentId::make(),
            session: session.id.clone(),
            user_id: session.user_id.clone(),
            status: AgentStatus::Booting,
            provider: new.provider,
            compute: new.compute,
            region: new.region,
            host: new.host,
            model: new.model,
            instructions: new.instructions,
            tools: new.tools,
            metadata: new.metadata,
            internet: new.internet,
            timeout_ms: new.timeout_ms,
            auto_pause_ms: new.auto_pause_ms,
            busy_until_ms: None,
            selection: new.selection,
            cost_cap: new.cost_cap,
            allowed_ms: None,
            meter: Meter::default(),
            secrets: new.secrets,
            intent: None,
            has_place: new.max_concurrent.is_some(),
            boots: 1,
            paused_by: None,
            snapshot: None,
            stored_to_ms: None,
            checkpoints: Vec::new(),
            last_checkpoint: None,
            restores: None,
            terminated: false,
            only_checkpoints: false,
            created_at_ms: now,
            since_ms: now,
            run_started_ms: None,
            ran_before_ms: 0,
            ended_at_ms: None,
            boot_writes_until_ms: None,
            token: None,
            token_hash: None,
            sandbox_gone: false,
            revision: 1,
        };
        let rate = self.1.rate(&agent.provider);
        // Without limits that others use up meanwhile there is nothing to read.
        let counters = match session.limits.meter_use() {
            true => self.0.get_raw(&own.counters_key()).await?.map(Counters::read).transpose()?,
            false => None,
        };
        let mut allowance = metering::allowance(session, counters.as_ref(), rate, now, false)?;
        for _ in 0..metering::CLAIMS {
            agent.allow(allowance.ms, rate, now);
            let claimed = agent.meter.claim(rate, now, allowance.claim_ms);
            let update = CountersUpdate::of(&claimed, now).add("active_agents", 1).add("total_agents", 1);
            let (update, condition) = update.within(&session.limits).expression();
            let transaction = Transaction::default()
                .check(&self.0, &own.key(), unchanged_and_active(session))
                .update(&self.0, &own.counters_key(), update, &condition)
                .put_new(&self.0, &own.agent_key_of_platform(&agent.id), &agent)?
                .put_new(&self.0, &own.agents().row(agent.id.as_str()), &agent)?
                .put_new(&self.0, &own.live_agent_key_of_platform(&agent.id), &agent.without_texts())?
                .put_new(&self.0, &own.live_agents().row(agent.id.as_str()), &agent.without_texts())?
                .put_new(&self.0, &scope.work_key(&agent.id), &BTreeMap::<String, String>::new())?
                .audit(&self.0, scope, changes::deed(&agent, AuditAction::AgentBoot).with(AuditOutcome::Started))?
                .log(&self.0, scope, [changes::status_log(&agent, None)])?
                .measure_created(&self.0, &own, &agent);
            let place = transaction.len();
            let transaction = self.take_place(transaction, scope, &agent, new.max_concurrent)?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(agent),
                Committed::Refused { write: 0, .. } => return Err(StoreError::Conflict("the session has changed")),
                // Others have claimed meanwhile: there is less to claim, or a limit is reached.
                Committed::Refused { write: 1, row } => {
                    let counters = Counters::read(row.unwrap_or_default())?;
                    allowance = metering::allowance(session, Some(&counters), rate, now, true)?;
                    agent.meter = Meter::default();
                }
                Committed::Refused { write, .. } if write == place => {
                    return Err(places::full(&agent, new.max_concurrent));
                }
                Committed::Refused { .. } => return Err(StoreError::Conflict("an id was made twice")),
            }
        }
        Err(StoreError::Contended(metering::CLAIMS))
    }
}
