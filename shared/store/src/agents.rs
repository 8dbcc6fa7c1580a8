//! Agents: their rows and the counters they move. An agent has a row for the platform and one for its session, and as
//! long as it has not settled a short one beside each; all of them change in one transaction.

mod state;

pub use state::AgentStatus;

use crate::audit::Deed;
use crate::page::RowFilter;
use crate::secrets::copies_of;
use crate::sessions::unchanged_and_active;
use crate::table::{TTL, from_item, number, to_item, ttl_seconds};
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{AuditAction, AuditOutcome, Counters, Page, PageRequest, Session, StoreError, Table, now_ms};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use theazo_tenancy::{AgentId, KeyId, ReadScope, SessionId, SessionScope, TenantScope};

const ATTEMPTS: u32 = 30;
/// How long an ended agent stays readable, milliseconds.
const RETENTION_MS: i64 = 30 * 24 * 60 * 60 * 1000;

/// Reading and changing agents' rows. No way to a secret, and none to a sandbox.
#[derive(Clone)]
pub struct Agents(pub(crate) Table);

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
    /// What it booted with.
    pub secrets: Vec<BootedSecret>,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// When its sandbox was ready, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ready_at_ms: Option<i64>,
    /// When it was completed or failed, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub ended_at_ms: Option<i64>,
    /// The token that its sandbox reports with.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub token: Option<KeyId>,
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
    /// Milliseconds of compute up to now, or up to its end.
    pub fn compute_ms(&self, now_ms: i64) -> i64 {
        match self.ready_at_ms {
            Some(ready) => (self.ended_at_ms.unwrap_or(now_ms) - ready).max(0),
            None => 0,
        }
    }

    /// When its running time is over, Unix milliseconds.
    pub fn deadline_ms(&self) -> i64 {
        self.ready_at_ms.unwrap_or(self.created_at_ms).saturating_add(self.timeout_ms)
    }

    fn without_texts(&self) -> Self {
        Self { instructions: None, tools: None, metadata: BTreeMap::new(), ..self.clone() }
    }

    /// Whether its time to be readable is over. The table drops such rows when it gets to it.
    fn is_expired(&self, now_ms: i64) -> bool {
        self.sandbox_gone && self.ended_at_ms.is_some_and(|ended| ended.saturating_add(RETENTION_MS) <= now_ms)
    }
}

fn deed(agent: &Agent, action: AuditAction) -> Deed<'_> {
    let names = agent.secrets.iter().map(|secret| secret.name.as_str());
    Deed::done(action).names(names).session(&agent.session).agent(&agent.id)
}

/// What the trail says of an agent's new status. `booted` is whether it was booting until now.
fn outcome(agent: &Agent, booted: bool) -> Option<Deed<'_>> {
    let (action, outcome) = match agent.status {
        AgentStatus::Ready if booted => (AuditAction::AgentBoot, AuditOutcome::Succeeded),
        AgentStatus::Failed if booted => (AuditAction::AgentBoot, AuditOutcome::Failed),
        AgentStatus::Completed => (AuditAction::AgentEnd, AuditOutcome::Succeeded),
        AgentStatus::Failed => (AuditAction::AgentEnd, AuditOutcome::Failed),
        _ => return None,
    };
    Some(deed(agent, action).with(outcome))
}

fn without_expired(mut page: Page<Agent>) -> Page<Agent> {
    let now = now_ms();
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
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// An agent, if it is this scope's.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn get(&self, scope: &ReadScope, id: &AgentId) -> Result<Option<Agent>, StoreError> {
        let agent: Option<Agent> = self.0.get(&scope.agents().row(id.as_str())).await?;
        Ok(agent.filter(|agent| scope.sees(&agent.session) && !agent.is_expired(now_ms())))
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
        Ok(without_expired(self.0.page(&scope.agents(), page, filter.terms()).await?))
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
        Ok(without_expired(self.0.page(&scope.agents(), page, filter.terms()).await?))
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
        self.0.query_all(&scope.live_agents()).await?.into_iter().map(from_item).collect()
    }

    /// Records an agent as `booting`, before any provider is asked, in the transaction that counts it against the
    /// session's limit and notes it in the operator's work list.
    ///
    /// # Errors
    /// [`StoreError::LimitExceeded`]; [`StoreError::Conflict`] when the session is not active or has changed since it
    /// was read (the caller reads it again).
    pub async fn begin_boot(&self, scope: &TenantScope, session: &Session, new: NewAgent) -> Result<Agent, StoreError> {
        let own = scope.session(&session.id).ok_or(StoreError::NotFound)?;
        let agent = Agent {
            id: AgentId::make(),
            session: session.id.clone(),
            user_id: session.user_id.clone(),
            status: AgentStatus::Booting,
            provider: new.provider,
            compute: new.compute,
            region: new.region,
            model: new.model,
            instructions: new.instructions,
            tools: new.tools,
            metadata: new.metadata,
            internet: new.internet,
            timeout_ms: new.timeout_ms,
            secrets: new.secrets,
            created_at_ms: now_ms(),
            ready_at_ms: None,
            ended_at_ms: None,
            token: None,
            sandbox_gone: false,
            revision: 1,
        };
        let count = Expression::new("ADD active_agents :one, total_agents :one").value(":one", number(1));
        let (count, under_limit) = match session.limits.max_agents {
            Some(max) => (count.value(":max", number(max)), "active_agents < :max"),
            None => (count, "attribute_exists(pk)"),
        };
        let transaction = Transaction::default()
            .check(&self.0, &scope.sessions().row(session.id.as_str()), unchanged_and_active(session))
            .update(&self.0, &own.counters_key(), count, under_limit)
            .put_new(&self.0, &scope.agents().row(agent.id.as_str()), &agent)?
            .put_new(&self.0, &own.agents().row(agent.id.as_str()), &agent)?
            .put_new(&self.0, &scope.live_agents().row(agent.id.as_str()), &agent.without_texts())?
            .put_new(&self.0, &own.live_agents().row(agent.id.as_str()), &agent.without_texts())?
            .put_new(&self.0, &scope.work_key(&agent.id), &BTreeMap::<String, String>::new())?
            .audit(&self.0, scope, deed(&agent, AuditAction::AgentBoot).with(AuditOutcome::Started))?;
        match transaction.commit(&self.0).await? {
            Committed::Yes => Ok(agent),
            Committed::Refused { write: 0, .. } => Err(StoreError::Conflict("the session has changed")),
            Committed::Refused { write: 1, row } => {
                let counters: Counters = row.map(from_item).transpose()?.unwrap_or_default();
                Err(StoreError::LimitExceeded {
                    limit: "maxAgents",
                    used: u64::try_from(counters.active_agents).unwrap_or(0),
                    max: session.limits.max_agents.unwrap_or(0).into(),
                })
            }
            Committed::Refused { .. } => Err(StoreError::Conflict("an id was made twice")),
        }
    }

    /// Moves an agent to another status, with whatever else `change` sets, and gives it as it then is. Ending an agent
    /// gives its place back and books its compute, in the same transaction. An agent that is already there stays as
    /// it is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] when its state does not allow it; [`StoreError::Contended`].
    pub async fn transition(
        &self,
        scope: &TenantScope,
        id: &AgentId,
        to: AgentStatus,
        change: impl Fn(&mut Agent),
    ) -> Result<Agent, StoreError> {
        for attempt in 0..ATTEMPTS {
            let mut agent = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
            if agent.status == to {
                return Ok(agent);
            }
            if !agent.status.can_become(to) {
                return Err(StoreError::Conflict("the agent's state does not allow it"));
            }
            let booted = agent.status == AgentStatus::Booting;
            agent.status = to;
            if to.is_over() {
                agent.ended_at_ms = Some(now_ms());
            }
            change(&mut agent);
            let mut transaction = self.rewrite(scope, &mut agent)?;
            if to.is_over() {
                let own = scope.session(&agent.session).ok_or(StoreError::NotFound)?;
                let release = Expression::new("ADD active_agents :less, compute_ms :spent")
                    .value(":less", number(-1))
                    .value(":spent", number(agent.compute_ms(now_ms())));
                transaction = transaction.update(&self.0, &own.counters_key(), release, "");
            }
            if let Some(deed) = outcome(&agent, booted) {
                transaction = transaction.audit(&self.0, scope, deed)?;
            }
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(agent),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Notes that the provider holds nothing of an ended agent any more.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for an agent that has not ended; [`StoreError::Contended`].
    pub async fn settle(&self, scope: &TenantScope, id: &AgentId) -> Result<Agent, StoreError> {
        for attempt in 0..ATTEMPTS {
            let mut agent = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
            self.remove_copies(scope, &agent).await?;
            if agent.sandbox_gone {
                return Ok(agent);
            }
            if !agent.status.is_over() {
                return Err(StoreError::Conflict("the agent has not ended"));
            }
            agent.sandbox_gone = true;
            let transaction =
                self.rewrite(scope, &mut agent)?.delete(&self.0, &scope.work_key(id), Expression::default());
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(agent),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Removes the copies of what an agent booted with.
    async fn remove_copies(&self, scope: &TenantScope, agent: &Agent) -> Result<(), StoreError> {
        self.0.delete_all(copies_of(scope, agent).into_iter()).await
    }

    /// All of an agent's rows, on condition that nobody else has written them.
    fn rewrite(&self, scope: &TenantScope, agent: &mut Agent) -> Result<Transaction, StoreError> {
        let own = scope.session(&agent.session).ok_or(StoreError::NotFound)?;
        let read = agent.revision;
        agent.revision += 1;
        let mut transaction = Transaction::default();
        for partition in [scope.agents(), own.agents()] {
            let mut item = to_item(&partition.row(agent.id.as_str()), agent)?;
            if let Some(ended) = agent.ended_at_ms.filter(|_| agent.sandbox_gone) {
                item.insert(TTL.into(), number(ttl_seconds(ended + RETENTION_MS)));
            }
            let unchanged = Expression::new("revision = :read").value(":read", number(read));
            transaction = transaction.put_item(&self.0, item, unchanged);
        }
        for partition in [scope.live_agents(), own.live_agents()] {
            let key = partition.row(agent.id.as_str());
            transaction = match agent.sandbox_gone {
                true => transaction.delete(&self.0, &key, Expression::default()),
                false => transaction.put(&self.0, &key, &agent.without_texts(), Expression::default())?,
            };
        }
        Ok(transaction)
    }
}
