//! After a restore: what the ledger knows to be deleted is deleted again.
//!
//! A data table that was put back to an earlier moment holds again what was deleted since. Before anyone is served from
//! it, every row of the ledger is carried out once more. A row speaks of one thing up to one version or moment, so that
//! the order does not matter, what was set again later stays, and repeating it changes nothing. The ledger keeps its rows:
//! the next restore may need them.

use crate::audit::Deed;
use crate::credentials::AS_READ;
use crate::ledger::Noted;
use crate::secrets::ScopeNames;
use crate::sessions::session_key;
use crate::table::{Item, number};
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{
    ApiKey, AuditAction, Deleted, PlatformDeletion, ProviderConfig, SessionStatus, Sessions, StoreError, Table,
    api_keys, now_ms, provider_configs,
};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::{try_join, try_join3};
use futures_util::stream::{self, StreamExt};
use theazo_tenancy::{CredentialRecord, KeyId, Operator, PlatformId, SessionId, TableKey, TenantScope};

const ATTEMPTS: u32 = 60;
/// Rows of the ledger carried out at a time.
const AT_ONCE: usize = 8;

/// Replaying the ledger. For the operator's command line.
pub struct Restore {
    table: Table,
    sessions: Sessions,
    platforms: PlatformDeletion,
}

/// What a replay does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplayMode {
    /// Deletes again.
    Apply,
    /// Only counts what it would delete.
    DryRun,
}

/// Rows of one kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// In the ledger.
    pub noted: usize,
    /// Of these, what was there again.
    pub deleted: usize,
}

/// What a replay did, or would do.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    /// Secrets.
    pub secrets: Tally,
    /// Terminated sessions, with their secrets.
    pub sessions: Tally,
    /// Sessions whose tokens were revoked.
    pub tokens: Tally,
    /// API keys that were revoked or given a successor.
    pub keys: Tally,
    /// Platforms.
    pub platforms: Tally,
    /// Configurations of providers that named a deleted secret: a platform and its provider's name.
    pub providers: Vec<(PlatformId, String)>,
    /// What could not be done, and why.
    pub failures: Vec<String>,
}

/// What came of one row.
#[derive(Default)]
struct Outcome {
    deleted: bool,
    providers: Vec<String>,
}

impl From<bool> for Outcome {
    fn from(deleted: bool) -> Self {
        Self { deleted, providers: Vec::new() }
    }
}

/// What is there of a secret that was deleted up to a version.
struct Left {
    names: ScopeNames,
    value: bool,
    entry: bool,
    /// Whether its scope can be given secrets, and so needs a floor under their versions.
    alive: bool,
}

impl Restore {
    /// Over that table and its ledger.
    pub fn new(table: Table, operator: Operator) -> Self {
        let sessions = Sessions::new(table.clone());
        Self { sessions, platforms: PlatformDeletion::new(table.clone(), operator), table }
    }

    /// Carries out the whole ledger, and tells after each page how many of its rows are behind it. Safe to be interrupted
    /// and to be repeated.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table or the ledger does not answer. Anything else that stands in the way of one
    /// row is among the failures, and the others are carried out.
    pub async fn replay(&self, mode: ReplayMode, tell: impl Fn(usize)) -> Result<Replay, StoreError> {
        let mut replay = Replay::default();
        let (mut start, mut behind) = (None, 0);
        loop {
            let page = self.table.ledger_page(self.platforms.operator(), start).await?;
            behind += page.rows.len() + page.unreadable.len();
            replay.failures.extend(page.unreadable.into_iter().map(|key| format!("{key}: the row cannot be read")));
            let mut outcomes = stream::iter(page.rows)
                .map(|noted| async move {
                    let outcome = self.carry_out(&noted, mode).await;
                    (noted, outcome)
                })
                .buffer_unordered(AT_ONCE);
            while let Some((noted, outcome)) = outcomes.next().await {
                replay.count(&noted, outcome)?;
            }
            tell(behind);
            start = page.next;
            if start.is_none() {
                return Ok(replay);
            }
        }
    }

    async fn carry_out(&self, noted: &Noted, mode: ReplayMode) -> Result<Outcome, StoreError> {
        let scope = self.platforms.operator().tenant(&noted.platform, noted.mode);
        match &noted.row.deleted {
            Deleted::Secret { session, name, version } => {
                self.secret(&scope, session.as_ref(), name, *version, mode).await
            }
            Deleted::Session { session } => self.session(&scope, session, mode).await.map(Outcome::from),
            Deleted::Tokens { session, epoch } => self.tokens(&scope, session, *epoch, mode).await.map(Outcome::from),
            Deleted::Key { key } => self.key(&scope, key, noted.row.at_ms, mode).await.map(Outcome::from),
            Deleted::Rotated { key, ends_at_ms } => {
                self.rotated(&scope, key, *ends_at_ms, mode).await.map(Outcome::from)
            }
            Deleted::Platform => self.platform(&scope, mode).await.map(Outcome::from),
        }
    }

    async fn secret(
        &self,
        scope: &TenantScope,
        session: Option<&SessionId>,
        name: &str,
        version: u64,
        mode: ReplayMode,
    ) -> Result<Outcome, StoreError> {
        let place = Place::of(scope, session)?;
        let value_key = place.value(name);
        for attempt in 0..ATTEMPTS {
            let Left { mut names, value, entry, alive } = self.left(scope, &place, name, version).await?;
            let deleted = value || entry;
            if !deleted && (!alive || names.floor >= version) {
                return Ok(Outcome::default());
            }
            // It could be deleted only because no provider's configuration named it: one that does is of before.
            let configs = if deleted && session.is_none() { self.configs_with(scope, name).await? } else { Vec::new() };
            let providers = configs.iter().map(|config| config.provider.clone()).collect();
            let outcome = Outcome { deleted, providers };
            if mode == ReplayMode::DryRun {
                return Ok(outcome);
            }
            let mut transaction = Transaction::default();
            if alive {
                transaction = place.check_alive(transaction, &self.table, scope)?;
            }
            if alive || names.revision > 0 {
                let unchanged = match names.revision {
                    0 => Expression::new("attribute_not_exists(pk)"),
                    read => Expression::new("revision = :read").value(":read", number(read)),
                };
                names.entries.retain(|known, known_entry| known != name || known_entry.version > version);
                names.floor = names.floor.max(version);
                names.revision += 1;
                transaction = transaction.put(&self.table, &place.names, &names, unchanged)?;
            }
            if value {
                let old = Expression::new("attribute_not_exists(pk) OR #v <= :noted")
                    .name("#v", "version")
                    .value(":noted", number(version));
                transaction = transaction.delete(&self.table, &value_key, old);
            }
            for config in &configs {
                let same = Expression::new("attribute_not_exists(pk) OR #c = :name")
                    .name("#c", "credential")
                    .value(":name", AttributeValue::S(name.to_owned()));
                let deed = Deed::done(AuditAction::ProviderDelete).names([config.provider.as_str()]);
                transaction = transaction.delete(&self.table, &scope.providers()?.row(&config.provider), same).audit(
                    &self.table,
                    scope,
                    deed,
                )?;
            }
            if deleted {
                let deed = Deed::done(AuditAction::SecretsDelete).names([name]);
                let deed = match session {
                    Some(session) => deed.session(session),
                    None => deed,
                };
                transaction = transaction.audit(&self.table, scope, deed)?;
            }
            match transaction.commit(&self.table).await? {
                Committed::Yes => return Ok(outcome),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    async fn left(&self, scope: &TenantScope, place: &Place, name: &str, version: u64) -> Result<Left, StoreError> {
        let value_key = place.value(name);
        let (names, value, alive) = try_join3(
            self.table.get::<ScopeNames>(&place.names),
            self.table.get_raw(&value_key),
            self.is_alive(scope, place),
        )
        .await?;
        let names = names.unwrap_or_default();
        let value = match value {
            Some(row) => version_of(&row)? <= version,
            None => false,
        };
        let entry = names.entries.get(name).is_some_and(|entry| entry.version <= version);
        Ok(Left { names, value, entry, alive })
    }

    async fn is_alive(&self, scope: &TenantScope, place: &Place) -> Result<bool, StoreError> {
        let platform = async {
            match self.table.platform_row(scope).await {
                Ok(_) => Ok(true),
                Err(StoreError::NotFound) => Ok(false),
                Err(error) => Err(error),
            }
        };
        let session = async {
            match &place.session {
                Some(id) => {
                    let session = self.sessions.get(scope, id).await?;
                    Ok(session.is_some_and(|session| session.status != SessionStatus::Terminated))
                }
                None => Ok(true),
            }
        };
        let (platform, session) = try_join(platform, session).await?;
        Ok(platform && session)
    }

    async fn configs_with(&self, scope: &TenantScope, credential: &str) -> Result<Vec<ProviderConfig>, StoreError> {
        let mut configs = provider_configs::list(&self.table, scope).await?;
        configs.retain(|config| config.credential == credential);
        Ok(configs)
    }

    /// Its agents are ended by the work list, on which terminating puts it.
    async fn session(&self, scope: &TenantScope, id: &SessionId, mode: ReplayMode) -> Result<bool, StoreError> {
        let own = scope.session(id).ok_or(StoreError::NotFound)?;
        let session = self.sessions.get(scope, id).await?;
        let is_live = session.is_some_and(|session| session.status != SessionStatus::Terminated);
        if mode == ReplayMode::DryRun {
            let names = self.table.get_raw(&own.secret_names_key()).await?;
            return Ok(is_live || names.is_some() || !self.table.query_all(&own.secret_values()).await?.is_empty());
        }
        if is_live {
            self.sessions.terminate(scope, id).await?;
        }
        let had_secrets = self.table.remove_secrets_of(&own).await?;
        Ok(is_live || had_secrets)
    }

    /// Raises a session's epoch to what it was raised to. Tokens of that epoch are of after the backup, and not there.
    async fn tokens(
        &self,
        scope: &TenantScope,
        id: &SessionId,
        epoch: u64,
        mode: ReplayMode,
    ) -> Result<bool, StoreError> {
        let session = self.sessions.get(scope, id).await?;
        let are_back = session.is_some_and(|session| session.token_epoch < epoch);
        if !are_back || mode == ReplayMode::DryRun {
            return Ok(are_back);
        }
        let raise = Expression::new("SET token_epoch = :epoch, revision = revision + :one")
            .value(":epoch", number(epoch))
            .value(":one", number(1));
        let lower = "attribute_exists(pk) AND (attribute_not_exists(token_epoch) OR token_epoch < :epoch)";
        let transaction = Transaction::default().update(&self.table, &session_key(scope, id)?, raise, lower).audit(
            &self.table,
            scope,
            Deed::done(AuditAction::TokenRevoke).session(id),
        )?;
        match transaction.commit(&self.table).await? {
            Committed::Yes => Ok(true),
            Committed::Refused { .. } => Ok(false),
        }
    }

    /// Lets a key end when its rotation said that it does. Its successor is of after the backup, and gone.
    async fn rotated(
        &self,
        scope: &TenantScope,
        id: &KeyId,
        ends_at_ms: i64,
        mode: ReplayMode,
    ) -> Result<bool, StoreError> {
        let shown_key = scope.platform_wide()?.api_keys().row(id.as_str());
        let Some(key) = self.table.get::<ApiKey>(&shown_key).await? else { return Ok(false) };
        let credential_key = scope.credential_key_of(&key.hash);
        let credential = self.table.credential(&credential_key).await?;
        let outlives = |credential: &CredentialRecord| credential.expires_at_ms.is_none_or(|at| at > ends_at_ms);
        let Some(credential) = credential.filter(outlives) else { return Ok(false) };
        if mode == ReplayMode::DryRun {
            return Ok(true);
        }
        let end = Expression::new("SET expires_at_ms = :at").value(":at", number(ends_at_ms));
        let transaction = Transaction::default()
            .update(&self.table, &credential_key, self.table.ending(&credential, ends_at_ms)?, AS_READ)
            .update(&self.table, &shown_key, end, "attribute_exists(pk)")
            .audit(&self.table, scope, Deed::done(AuditAction::KeyRotate).names([id.as_str()]))?;
        match transaction.commit(&self.table).await? {
            Committed::Yes => Ok(true),
            Committed::Refused { .. } => Ok(false),
        }
    }

    async fn key(&self, scope: &TenantScope, id: &KeyId, at_ms: i64, mode: ReplayMode) -> Result<bool, StoreError> {
        let Some(key) = self.table.get::<ApiKey>(&scope.platform_wide()?.api_keys().row(id.as_str())).await? else {
            return Ok(false);
        };
        let credential = self.table.get_raw(&scope.credential_key_of(&key.hash)).await?;
        let is_good = credential.is_some_and(|row| number_of(&row, "revoked_at_ms").is_none_or(|at| at > at_ms));
        Ok(is_good && (mode == ReplayMode::DryRun || self.table.revoke_key(scope, &key, at_ms).await?))
    }

    /// The rest of it is finished by the work list.
    async fn platform(&self, scope: &TenantScope, mode: ReplayMode) -> Result<bool, StoreError> {
        let is_back = match self.table.platform_row(scope).await {
            Ok(_) => true,
            Err(StoreError::NotFound) => false,
            Err(error) => return Err(error),
        };
        if mode == ReplayMode::Apply {
            if is_back {
                self.platforms.begin(scope.platform()).await?;
            }
            self.platforms.advance(scope.platform(), now_ms()).await?;
        }
        Ok(is_back)
    }
}

/// Where the secrets of a scope lie.
struct Place {
    session: Option<SessionId>,
    names: TableKey,
    values: theazo_tenancy::Partition,
}

impl Place {
    fn of(scope: &TenantScope, session: Option<&SessionId>) -> Result<Self, StoreError> {
        Ok(match session {
            None => Self { session: None, names: scope.secret_names_key()?, values: scope.secret_values()? },
            Some(id) => {
                let own = scope.session(id).ok_or(StoreError::NotFound)?;
                Self { session: Some(id.clone()), names: own.secret_names_key(), values: own.secret_values() }
            }
        })
    }

    fn value(&self, name: &str) -> TableKey {
        self.values.row(name)
    }

    /// Nothing is added to a scope that is being taken down by another row of the ledger.
    fn check_alive(
        &self,
        transaction: Transaction,
        table: &Table,
        scope: &TenantScope,
    ) -> Result<Transaction, StoreError> {
        let transaction = transaction.check(table, &scope.platform_key(), api_keys::platform_lives());
        Ok(match &self.session {
            None => transaction,
            Some(id) => {
                let over = AttributeValue::S(SessionStatus::Terminated.as_str().into());
                let alive = Expression::new("attribute_exists(pk) AND #s <> :over").name("#s", "status");
                transaction.check(table, &session_key(scope, id)?, alive.value(":over", over))
            }
        })
    }
}

impl Replay {
    fn count(&mut self, noted: &Noted, outcome: Result<Outcome, StoreError>) -> Result<(), StoreError> {
        let tally = match &noted.row.deleted {
            Deleted::Secret { .. } => &mut self.secrets,
            Deleted::Session { .. } => &mut self.sessions,
            Deleted::Tokens { .. } => &mut self.tokens,
            Deleted::Key { .. } | Deleted::Rotated { .. } => &mut self.keys,
            Deleted::Platform => &mut self.platforms,
        };
        tally.noted += 1;
        match outcome {
            Ok(Outcome { deleted, providers }) => {
                tally.deleted += usize::from(deleted);
                self.providers.extend(providers.into_iter().map(|provider| (noted.platform.clone(), provider)));
            }
            // The next row would fare no better.
            Err(error @ StoreError::Table { .. }) => return Err(error),
            Err(error) => self.failures.push(format!("{noted}: {error}")),
        }
        Ok(())
    }
}

fn number_of(row: &Item, attribute: &str) -> Option<i64> {
    row.get(attribute)?.as_n().ok()?.parse().ok()
}

fn version_of(row: &Item) -> Result<u64, StoreError> {
    let version = number_of(row, "version").and_then(|version| u64::try_from(version).ok());
    version.ok_or(StoreError::Corrupt("a sealed value's row"))
}
