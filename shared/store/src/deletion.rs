//! Deleting a whole platform: what is refused from the first moment on, what goes at once, what waits until its agents
//! have ended, and what stays.
//!
//! One transaction marks the platform, notes it in the ledger and puts it on the work list. From then on no key of it can
//! be made and nothing can be sealed under its vault key: the mark takes the salt away from where every such write
//! expects it. Everything after that is idempotent and may be interrupted anywhere; the work list finishes it. In the
//! end there is the audit trail, until it expires, and a tombstone.

use crate::api_keys::REVOKED_KEPT_MS;
use crate::audit::Deed;
use crate::credentials::revocation;
use crate::logs::LogPlace;
use crate::page::{RowFilter, Span};
use crate::platforms::{DELETED_AT, RETIRED_SALT};
use crate::secrets::{ScopeNames, copies_of};
use crate::sessions::session_key;
use crate::table::{Item, from_item, number};
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{
    Agent, ApiKey, AuditAction, Deleted, Page, PageRequest, Session, SessionStatus, Sessions, StoreError, Table, now_ms,
};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::try_join_all;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use theazo_metering::Day;
use theazo_tenancy::{AgentId, Mode, Operator, Partition, PlatformId, SessionScope, TableKey, TenantScope, UserId};

/// How long the last rows of a deleted platform stay, milliseconds. Longer than any request that was authenticated
/// before its keys were revoked: Lambda ends a function after 15 minutes
/// (<https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html>). Then nobody writes for it any more.
const QUIET_MS: i64 = 20 * 60 * 1000;
const ATTEMPTS: u32 = 20;
/// Sessions or keys worked on at a time.
const AT_ONCE: usize = 16;
/// Rows read at a time.
const STRETCH: usize = 100;

/// Deleting platforms. For the operator's command line, and for the scheduled clean-up that finishes it.
pub struct PlatformDeletion {
    table: Table,
    operator: Operator,
    sessions: Sessions,
}

/// How far a deletion is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionState {
    /// Its keys are refused, its sessions over, its agents' secrets gone. The rest follows when no agent is left, and not
    /// before a moment.
    UnderWay {
        /// Agents that may still have something at their provider.
        agents: usize,
        /// The moment, Unix milliseconds.
        until_ms: i64,
    },
    /// Only the tombstone and the audit trail are left.
    Gone,
}

/// What was done of a deletion since this was told last: so many sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionStretch {
    /// They have ended, and have no secrets any more.
    Ended(usize),
    /// They are removed, with all that they had.
    Removed(usize),
}

/// What a deletion needs of the platform's row, and all that stays of it.
#[derive(Serialize, Deserialize)]
struct Tombstone {
    id: PlatformId,
    created_at_ms: i64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    deleted_at_ms: Option<i64>,
    /// When nothing else was left.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    gone_at_ms: Option<i64>,
}

impl PlatformDeletion {
    /// Over that table.
    pub fn new(table: Table, operator: Operator) -> Self {
        Self { sessions: Sessions::new(table.clone()), table, operator }
    }

    pub(crate) fn operator(&self) -> &Operator {
        &self.operator
    }

    /// Marks a platform as deleted, for good. The names of its own secrets are on record, those of live and of test keys
    /// in the trail of each; those of its sessions are when these end. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such platform; [`StoreError::Contended`].
    pub async fn begin(&self, platform: &PlatformId) -> Result<(), StoreError> {
        for attempt in 0..ATTEMPTS {
            match self.try_begin(platform).await? {
                // A secret of its own was set or deleted since its names were read.
                Committed::Refused { write: 5 | 7, .. } => back_off(attempt).await,
                Committed::Yes | Committed::Refused { write: 0, row: Some(_) } => return Ok(()),
                Committed::Refused { .. } => return Err(StoreError::NotFound),
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    async fn try_begin(&self, platform: &PlatformId) -> Result<Committed, StoreError> {
        let scope = self.operator.tenant(platform, Mode::Live);
        let now = now_ms();
        // The salt leaves the attribute under which writes of sealed values expect it, and stays in the row until the
        // last agent has ended: a provider's credential may be needed for that.
        let change = format!("SET {DELETED_AT} = :now, {RETIRED_SALT} = vault_salt REMOVE vault_salt, cursor_key");
        let mark = Expression::new(&change).value(":now", number(now));
        let show = Expression::new("SET deletedAtMs = :now").value(":now", number(now));
        let unmarked = format!("attribute_exists(pk) AND attribute_not_exists({DELETED_AT})");
        let mut transaction = Transaction::default()
            .update(&self.table, &self.operator.platform_key(platform), mark, &unmarked)
            .update(&self.table, &self.directory_key(platform), show, "attribute_exists(pk)")
            .put(&self.table, &self.work_key(platform), &BTreeMap::<String, String>::new(), Expression::default())?
            .note_deletion(&self.table, &scope, Deleted::Platform)?;
        for scope in [Mode::Live, Mode::Test].map(|mode| self.operator.tenant(platform, mode)) {
            let names_key = scope.secret_names_key()?;
            let names = self.table.get::<ScopeNames>(&names_key).await?.unwrap_or_default();
            let removed = Deed::done(AuditAction::PlatformDelete).names(names.entries().map(|(name, _)| name));
            transaction =
                transaction.audit(&self.table, &scope, removed)?.check(&self.table, &names_key, names.unchanged());
        }
        transaction.commit(&self.table).await
    }

    /// Takes a deletion that was begun as far as it goes now. Idempotent, and safe to be interrupted. It ends no agent:
    /// that is done by whoever reaches sandboxes, through the sessions that this puts on the work list.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when it was not begun; [`StoreError::Table`] when the table does not answer.
    pub async fn advance(&self, platform: &PlatformId, now_ms: i64) -> Result<DeletionState, StoreError> {
        self.advance_telling(platform, now_ms, |_| ()).await
    }

    /// The same, telling somebody who waits what was done, a stretch of at most 100 sessions at a time.
    ///
    /// # Errors
    /// As [`PlatformDeletion::advance`].
    pub async fn advance_telling(
        &self,
        platform: &PlatformId,
        now_ms: i64,
        mut tell: impl FnMut(DeletionStretch) + Send,
    ) -> Result<DeletionState, StoreError> {
        let Some(row) = self.table.get::<Tombstone>(&self.operator.platform_key(platform)).await? else {
            self.table.delete(&self.work_key(platform)).await?;
            return Ok(DeletionState::Gone);
        };
        let deleted_at_ms = row.deleted_at_ms.ok_or(StoreError::Conflict("the platform is not being deleted"))?;
        if row.gone_at_ms.is_some() {
            return Ok(DeletionState::Gone);
        }
        let scopes = [Mode::Live, Mode::Test].map(|mode| self.operator.tenant(platform, mode));
        self.revoke_keys(&scopes[0], deleted_at_ms).await?;
        let mut agents = 0;
        for scope in &scopes {
            self.end_sessions(scope, &mut tell).await?;
            self.remove_secrets_of_agents(scope).await?;
            agents += self.table.query_all(&scope.platform_wide()?.live_agents()).await?.len();
        }
        let until_ms = deleted_at_ms.saturating_add(QUIET_MS);
        if agents > 0 || now_ms < until_ms {
            return Ok(DeletionState::UnderWay { agents, until_ms });
        }
        for scope in &scopes {
            self.remove_rest(scope, &mut tell).await?;
            self.remove_usage(scope, row.created_at_ms, now_ms).await?;
        }
        self.bury(&scopes[0], Tombstone { gone_at_ms: Some(now_ms), ..row }).await?;
        Ok(DeletionState::Gone)
    }

    async fn revoke_keys(&self, scope: &TenantScope, at_ms: i64) -> Result<(), StoreError> {
        let keys = self.table.query_all(&scope.platform_wide()?.api_keys()).await?.into_iter().map(from_item);
        let keys: Vec<ApiKey> = keys.collect::<Result<_, _>>()?;
        let good: Vec<_> = keys.iter().filter(|key| key.revoked_at_ms.is_none_or(|revoked| revoked > at_ms)).collect();
        for some in good.chunks(AT_ONCE) {
            try_join_all(some.iter().map(|key| self.table.revoke_key(scope, key, at_ms))).await?;
        }
        Ok(())
    }

    /// Terminates what is not terminated yet. Each session is on the work list from that moment on.
    async fn end_sessions(
        &self,
        scope: &TenantScope,
        tell: &mut (impl FnMut(DeletionStretch) + Send),
    ) -> Result<(), StoreError> {
        let mut request = PageRequest { limit: STRETCH, after: None };
        loop {
            let over = AttributeValue::S(SessionStatus::Terminated.as_str().into());
            let terms = RowFilter::default().compare("status", "<>", over);
            let page: Page<Session> = self.table.page(&scope.platform_wide()?.sessions(), &request, terms).await?;
            for some in page.rows.chunks(AT_ONCE) {
                try_join_all(some.iter().map(|session| async move {
                    self.sessions.terminate(scope, &session.id).await?;
                    let own = scope.session(&session.id).ok_or(StoreError::NotFound)?;
                    self.table.remove_secrets_of(&own).await.map(|_| ())
                }))
                .await?;
            }
            if !page.rows.is_empty() {
                tell(DeletionStretch::Ended(page.rows.len()));
            }
            match page.next {
                Some(next) => request.after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Removes the platform's own values but for providers' credentials.
    async fn remove_secrets_of_agents(&self, scope: &TenantScope) -> Result<(), StoreError> {
        let values = scope.secret_values()?;
        let rows = self.table.query_all(&values).await?;
        let is_credential = |row: &Item| row.get("provider").and_then(|flag| flag.as_bool().ok()) == Some(&true);
        let ours = rows.iter().filter(|row| !is_credential(row)).filter_map(sort_key);
        self.table.delete_all(ours.map(|name| values.row(name))).await
    }

    /// Removes everything of one mode but the audit trail. Of a session its row goes last, for it leads to the others.
    async fn remove_rest(
        &self,
        scope: &TenantScope,
        tell: &mut (impl FnMut(DeletionStretch) + Send),
    ) -> Result<(), StoreError> {
        let wide = scope.platform_wide()?;
        loop {
            let sessions = self.table.stretch(&wide.sessions()).await?;
            if sessions.is_empty() {
                break;
            }
            let removed = sessions.len();
            for row in sessions {
                self.remove_session(scope, &from_item(row)?).await?;
            }
            tell(DeletionStretch::Removed(removed));
        }
        for config in crate::provider_configs::list(&self.table, scope).await? {
            // In one write: whoever repeats this must find less to do each time.
            let none = Expression::default;
            let removal = Transaction::default()
                .delete(&self.table, &scope.provider_work_key(&config.provider), none())
                .delete(&self.table, &scope.providers()?.row(&config.provider), none());
            if let Committed::Refused { .. } = removal.commit(&self.table).await? {
                return Err(StoreError::Contended(1));
            }
        }
        let partitions =
            [wide.agents(), scope.secret_values()?, scope.providers()?, scope.provider_counters()?, wide.replays()];
        for partition in partitions {
            self.table.remove_partition(&partition).await?;
        }
        self.table.remove_logs(&LogPlace::Platform(wide)).await?;
        self.table.remove_row(&scope.secret_names_key()?).await.map(|_| ())
    }

    /// Removes the sums of every month that the platform lived in.
    async fn remove_usage(&self, scope: &TenantScope, created_at_ms: i64, now_ms: i64) -> Result<(), StoreError> {
        let wide = scope.platform_wide()?;
        let (mut month, last) = (Day::of(created_at_ms).month(), Day::of(now_ms).month());
        while month <= last {
            let partitions: Vec<_> = wide.all_usage(&month.to_string()).collect();
            try_join_all(partitions.iter().map(|partition| self.table.remove_partition(partition))).await?;
            month = month.plus(1);
        }
        Ok(())
    }

    async fn remove_session(&self, scope: &TenantScope, session: &Session) -> Result<(), StoreError> {
        let own = scope.session(&session.id).ok_or(StoreError::NotFound)?;
        self.table.remove_secrets_of(&own).await?;
        self.table.remove_logs(&LogPlace::Session(own.clone())).await?;
        loop {
            let agents = self.table.stretch(&own.agents()).await?.into_iter().map(from_item);
            let agents: Vec<Agent> = agents.collect::<Result<_, _>>()?;
            if agents.is_empty() {
                break;
            }
            let rows: Vec<_> = agents.iter().map(|agent| rows_of(scope, &own, agent)).collect::<Result<_, _>>()?;
            self.table.delete_all(rows.into_iter().flatten()).await?;
            self.table.delete_all(agents.iter().map(|agent| own.agents().row(agent.id.as_str()))).await?;
        }
        let mut transaction = Transaction::default()
            .delete(&self.table, &own.counters_key(), Expression::default())
            .delete(&self.table, &scope.session_work_key(&session.id), Expression::default())
            .delete(&self.table, &session_key(scope, &session.id)?, Expression::default());
        if let Some(user) = session.user_id.as_deref().and_then(UserId::parse)
            && self.sessions.find_by_user(scope, &user).await?.as_ref() == Some(&session.id)
        {
            transaction =
                transaction.delete(&self.table, &scope.platform_wide()?.user_key(&user), Expression::default());
        }
        // It has no conditions.
        let (Committed::Yes | Committed::Refused { .. }) = transaction.commit(&self.table).await?;
        Ok(())
    }

    /// Removes the keys, and with the last transaction the salt and the platform's place in the directory.
    async fn bury(&self, scope: &TenantScope, tombstone: Tombstone) -> Result<(), StoreError> {
        let shown = scope.platform_wide()?.api_keys();
        let keys = self.table.query_all(&shown).await?.into_iter().map(from_item);
        let keys: Vec<ApiKey> = keys.collect::<Result<_, _>>()?;
        let rows = |key: &ApiKey| [scope.credential_key_of(&key.hash), shown.row(key.id.as_str())];
        self.table.delete_all(keys.iter().flat_map(rows)).await?;
        let platform = &tombstone.id;
        let transaction = Transaction::default()
            .put(&self.table, &self.operator.platform_key(platform), &tombstone, Expression::default())?
            .delete(&self.table, &self.directory_key(platform), Expression::default())
            .delete(&self.table, &self.operator.standing_key(platform), Expression::default())
            .delete(&self.table, &self.work_key(platform), Expression::default());
        let (Committed::Yes | Committed::Refused { .. }) = transaction.commit(&self.table).await?;
        Ok(())
    }

    fn directory_key(&self, platform: &PlatformId) -> TableKey {
        self.operator.directory().row(platform.as_str())
    }

    fn work_key(&self, platform: &PlatformId) -> TableKey {
        self.operator.platform_work_key(platform)
    }
}

/// All rows of an agent but the one among its session's agents.
fn rows_of(scope: &TenantScope, own: &SessionScope, agent: &Agent) -> Result<Vec<TableKey>, StoreError> {
    let id: &AgentId = &agent.id;
    let mut keys = copies_of(scope, agent)?;
    keys.extend(agent.token_key(scope));
    keys.extend(crate::agent_reports::keys(scope, id)?);
    keys.extend([own.agent_key_of_platform(id), scope.work_key(id)]);
    Ok(keys)
}

fn sort_key(row: &Item) -> Option<&str> {
    row.get("sk")?.as_s().ok().map(String::as_str)
}

impl Table {
    /// Revokes a key as of that moment, unless it was revoked by then. Whether it was not. On record like any revocation.
    /// What is shown of a key is not sealed: a credential that is another's, by its own account, is left alone.
    pub(crate) async fn revoke_key(&self, scope: &TenantScope, key: &ApiKey, at_ms: i64) -> Result<bool, StoreError> {
        let end = revocation(at_ms, REVOKED_KEPT_MS);
        let good = "id = :id AND platform = :platform AND (attribute_not_exists(revoked_at_ms) OR revoked_at_ms > :at)";
        let of_it = end
            .clone()
            .value(":id", AttributeValue::S(key.id.to_string()))
            .value(":platform", AttributeValue::S(scope.platform().to_string()));
        let transaction = Transaction::default()
            .update(self, &scope.credential_key_of(&key.hash), of_it, good)
            .update(self, &scope.platform_wide()?.api_keys().row(key.id.as_str()), end, "attribute_exists(pk)")
            .audit(self, scope, Deed::done(AuditAction::KeyRevoke).names([key.id.as_str()]))?;
        match transaction.commit(self).await? {
            Committed::Yes => Ok(true),
            Committed::Refused { .. } => Ok(false),
        }
    }

    /// Removes all secrets of a session that takes none any more. Whether there were any.
    pub(crate) async fn remove_secrets_of(&self, own: &SessionScope) -> Result<bool, StoreError> {
        let values = self.remove_partition(&own.secret_values()).await?;
        let names = self.remove_row(&own.secret_names_key()).await?;
        Ok(values || names)
    }

    /// Removes a row. Whether it was there.
    async fn remove_row(&self, key: &TableKey) -> Result<bool, StoreError> {
        let is_there = self.get_raw(key).await?.is_some();
        if is_there {
            self.delete(key).await?;
        }
        Ok(is_there)
    }

    /// Some rows of a partition; none when it is empty.
    async fn stretch(&self, partition: &Partition) -> Result<Vec<Item>, StoreError> {
        Ok(self.query_back(partition, Span::default(), STRETCH, &RowFilter::default()).await?.rows)
    }

    /// Removes the log entries of a platform or session that writes none any more.
    async fn remove_logs(&self, place: &LogPlace) -> Result<(), StoreError> {
        for partition in place.kept_partitions(self.log_retention_ms, now_ms()) {
            self.remove_partition(&partition).await?;
        }
        Ok(())
    }

    /// Removes every row of a partition to which nobody adds. Whether there were any.
    async fn remove_partition(&self, partition: &Partition) -> Result<bool, StoreError> {
        let mut any = false;
        loop {
            let rows = self.stretch(partition).await?;
            if rows.is_empty() {
                return Ok(any);
            }
            any = true;
            self.delete_all(rows.iter().filter_map(sort_key).map(|sk| partition.row(sk))).await?;
        }
    }
}
