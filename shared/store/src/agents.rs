//! Agents: their rows and the counters they move. An agent has a row for the platform and one for its session, and as
//! long as it has not settled a short one beside each; all of them change in one transaction.

mod beside;
mod changes;
mod checkpoints;
mod metering;
mod moves;
mod owned;
mod pause;
mod places;
mod reasons;
mod row;
mod silence;
mod state;
mod stops;

pub use checkpoints::{
    CHECKPOINT_GRACE_MS, Checkpoint, CheckpointState, LastCheckpoint, MAX_CHECKPOINTS, NewCheckpoint,
};
pub use moves::LeftOn;
pub use owned::Unsettled;
pub use pause::NextBoot;
pub use reasons::PauseReason;
pub use row::{Agent, BootedSecret, NewAgent, SecretOrigin, Snapshot};
pub use silence::{DEAD_HOST_AFTER, Silence, Unreachable};
pub use state::{AgentStatus, Intent, PausedBy};
pub use stops::StopAttempt;

use crate::counters::CountersUpdate;
use crate::page::RowFilter;
use crate::sessions::unchanged_and_active;
use crate::transaction::{Committed, Transaction};
use crate::{AuditAction, AuditOutcome, Counters, Page, PageRequest, Session, StoreError, Table};
use aws_sdk_dynamodb::types::AttributeValue;
use std::collections::BTreeMap;
use theazo_metering::{Meter, Prices};
use theazo_tenancy::{AgentId, ReadScope, SessionScope, TenantScope};

/// How long an ended agent stays readable, milliseconds.
const RETENTION_MS: i64 = 30 * 24 * 60 * 60 * 1000;
/// How long a boot may be under way before its process counts as dead, milliseconds. Its request gives up earlier.
pub const BOOT_GRACE_MS: i64 = 60_000;

/// Reading and changing agents' rows. No way to a secret, and none to a sandbox.
#[derive(Clone)]
pub struct Agents(pub(crate) Table, Prices);

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
        let is_there = |agent: &Agent| agent.id == *id && !agent.is_expired(self.0.now_ms());
        let is_seen = |agent: &Agent| scope.confined_to().is_none_or(|own| *own == agent.session);
        let is_owned = |agent: &Agent| self.is_owned(scope.platform(), scope.mode(), agent);
        Ok(agent.filter(|agent| is_there(agent) && is_seen(agent) && is_owned(agent)))
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
        let all = scope.platform_wide()?;
        let page = self.0.page(&all.agents(), page, filter.terms()).await?;
        Ok(self.readable(page, |agent| self.is_owned(all.platform(), all.mode(), agent)))
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
        let page = self.0.page(&scope.agents(), page, filter.terms()).await?;
        Ok(self.readable(page, |agent| self.is_owned_by(scope, agent)))
    }

    fn readable(&self, mut page: Page<Agent>, is_owned: impl Fn(&Agent) -> bool) -> Page<Agent> {
        page.rows.retain(|agent| !agent.is_expired(self.0.now_ms()) && is_owned(agent));
        page
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
        let id = AgentId::make();
        let tag = owned::seal(&self.0, &own, &id)?;
        let mut agent = Agent {
            id,
            session: session.id.clone(),
            tag,
            user_id: session.user_id.clone(),
            status: AgentStatus::Booting,
            provider: new.provider,
            compute: new.compute,
            region: new.region,
            host: new.host,
            isolation: None,
            moving_to: None,
            left_on: Vec::new(),
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
            stopping: None,
            snapshot: None,
            stored_to_ms: None,
            checkpoints: Vec::new(),
            last_checkpoint: None,
            restores: None,
            terminated: false,
            only_kept: false,
            own_files: false,
            silence: None,
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
        let counters = self.counters_within(scope, &own, session, None).await?;
        let mut allowance = metering::allowance(session, counters.as_ref(), &[], rate, now, false)?;
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
                .log(&self.0, scope, [changes::status_log(&agent, None, None)])?
                .measure_created(&self.0, &own, &agent);
            let place = transaction.len();
            let transaction = self.take_place(transaction, scope, &agent, new.max_concurrent)?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(agent),
                Committed::Refused { write: 0, .. } => return Err(StoreError::Conflict("the session has changed")),
                // Others have claimed meanwhile: there is less to claim, or a limit is reached.
                Committed::Refused { write: 1, row } => {
                    let counters = Counters::read(row.unwrap_or_default())?;
                    allowance = metering::allowance(session, Some(&counters), &[], rate, now, true)?;
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
