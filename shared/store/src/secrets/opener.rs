//! Opening secrets, for the one purpose of delivering them to a sandbox.

use super::names::{self, ScopeNames};
use super::{OUT_OF_DATE_ATTEMPTS, SHORTEST_MASKED, SecretName, SecretTarget, ValueRow};
use crate::agents::{BootedSecret, SecretOrigin};
use crate::platforms::PlatformRow;
use crate::root_keys::is_out_of_date;
use crate::transaction::back_off;
use crate::{KeyRing, StoreError, Table, now_ms};
use futures_util::future::{try_join, try_join3};
use std::collections::BTreeMap;
use theazo_tenancy::{ReadScope, SessionId, TenantScope};
use theazo_vault::{RecordHeader, SecretValue};

const ATTEMPTS: u32 = 20;

/// Reading values. Only the functions that boot, restart or resume an agent hold it.
#[derive(Clone)]
pub struct SecretOpener {
    table: Table,
    keys: KeyRing,
}

/// Everything a session's agents may get, still sealed.
pub struct SealedSecrets {
    session: SessionId,
    pub(super) platform: PlatformRow,
    own: Sealed,
    inherited: Sealed,
}

struct Sealed {
    names: ScopeNames,
    rows: BTreeMap<String, ValueRow>,
}

/// Which secrets an agent gets.
#[derive(Clone, Debug)]
pub enum SecretSelection {
    /// All of the session's and all inherited ones.
    All,
    /// Exactly these.
    Only(Vec<SecretName>),
    /// Those of these that there are: what an agent gets at a later boot that was made with [`SecretSelection::Only`].
    Among(Vec<SecretName>),
}

/// A secret that was opened for delivery.
pub struct OpenedSecret {
    /// Name, version and origin, for the agent's row.
    pub booted: BootedSecret,
    /// The value.
    pub value: SecretValue,
}

impl SecretOpener {
    /// Over that table, with those keys.
    pub fn new(table: Table, keys: KeyRing) -> Self {
        Self { table, keys }
    }

    /// Reads a session's and its platform's sealed values. Nothing is opened.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] for a session that the scope does not reach; [`StoreError::Corrupt`] when names and
    /// values disagree for good, as after someone removed a row behind our back.
    pub async fn load(&self, scope: &ReadScope, session: &SessionId) -> Result<SealedSecrets, StoreError> {
        let (platform, own, inherited) = try_join3(
            self.table.platform_row(scope),
            self.load_scope(scope, SecretTarget::Session(session.clone())),
            self.load_scope(scope, SecretTarget::Platform),
        )
        .await?;
        Ok(SealedSecrets { session: session.clone(), platform, own, inherited })
    }

    /// Opens the selected secrets as of now: expired ones are left out, and a provider's credential is never among
    /// them. What a rotation has sealed anew since it was read is read again.
    ///
    /// # Errors
    /// [`StoreError::UnknownSecret`] for a selected name that is not to be had; [`StoreError::Vault`] when a record
    /// does not belong where it lies; [`StoreError::Kms`].
    pub async fn open(
        &self,
        scope: &TenantScope,
        sealed: &SealedSecrets,
        selection: &SecretSelection,
        now_ms: i64,
    ) -> Result<Vec<OpenedSecret>, StoreError> {
        let mut outcome = self.open_once(scope, sealed, selection, now_ms).await;
        for attempt in 0..OUT_OF_DATE_ATTEMPTS {
            if !outcome.as_ref().is_err_and(is_out_of_date) {
                break;
            }
            if attempt > 0 {
                back_off(attempt).await;
            }
            let again = self.load(scope, &sealed.session).await?;
            outcome = self.open_once(scope, &again, selection, now_ms).await;
        }
        outcome
    }

    /// Looks again, once an agent's row says what it boots with: whoever removes a secret from then on sees that row, and
    /// whoever did so before is seen here. A value that was only replaced since is delivered as to an agent that booted
    /// a moment earlier.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] when one of them was deleted meanwhile, or became a provider's credential, or is not
    /// inherited any more; [`StoreError::Table`] when the table does not answer.
    pub async fn confirm<'a>(
        &self,
        scope: &ReadScope,
        session: &SessionId,
        booted: impl IntoIterator<Item = &'a BootedSecret>,
    ) -> Result<(), StoreError> {
        let (of_session, of_platform) = (SecretTarget::Session(session.clone()), SecretTarget::Platform);
        let own = names::load(&self.table, scope, &of_session);
        let (own, inherited) = try_join(own, names::load(&self.table, scope, &of_platform)).await?;
        let stands = |secret: &BootedSecret| match secret.origin {
            SecretOrigin::Session => own.get(&secret.name).is_some_and(|entry| entry.version >= secret.version),
            SecretOrigin::Platform => inherited
                .get(&secret.name)
                .is_some_and(|entry| entry.version >= secret.version && entry.inherit && !entry.provider),
        };
        match booted.into_iter().all(stands) {
            true => Ok(()),
            false => Err(StoreError::Conflict(
                "a secret was removed while the agent booted: boot it again (one that was restarted is paused now)",
            )),
        }
    }

    async fn open_once(
        &self,
        scope: &TenantScope,
        sealed: &SealedSecrets,
        selection: &SecretSelection,
        now_ms: i64,
    ) -> Result<Vec<OpenedSecret>, StoreError> {
        let available = sealed.available(now_ms);
        let chosen: Vec<_> = match selection {
            SecretSelection::All => available.into_values().collect(),
            SecretSelection::Only(names) => names
                .iter()
                .map(|name| {
                    let found = available.get(name.canonical()).copied();
                    found.ok_or_else(|| StoreError::UnknownSecret(name.display().to_owned()))
                })
                .collect::<Result<_, _>>()?,
            SecretSelection::Among(names) => {
                names.iter().filter_map(|name| available.get(name.canonical()).copied()).collect()
            }
        };
        let mut opened = Vec::with_capacity(chosen.len());
        for (origin, row) in chosen {
            let target = match origin {
                SecretOrigin::Session => SecretTarget::Session(sealed.session.clone()),
                SecretOrigin::Platform => SecretTarget::Platform,
            };
            let key = self.keys.opening_key(&sealed.platform, RecordHeader::parse(&row.blob)?).await?;
            let context = row.context(self.keys.deployment(), scope, &target);
            let value = theazo_vault::open(&key, &context, &row.blob)?;
            let masked = row.flags.mask && value.len() >= SHORTEST_MASKED;
            let names = match origin {
                SecretOrigin::Session => &sealed.own.names,
                SecretOrigin::Platform => &sealed.inherited.names,
            };
            let (created_at_ms, updated_at_ms) =
                names.get(&row.name).map_or((0, 0), |entry| (entry.created_at_ms, entry.updated_at_ms));
            let (name, version) = (row.name.clone(), row.version);
            let booted = BootedSecret { name, version, origin, masked, created_at_ms, updated_at_ms };
            opened.push(OpenedSecret { booted, value });
        }
        Ok(opened)
    }

    /// Names and values of one scope that belong together: a set of several secrets is seen whole or not at all.
    async fn load_scope(&self, scope: &ReadScope, target: SecretTarget) -> Result<Sealed, StoreError> {
        let partition = target.values(scope)?;
        for attempt in 0..ATTEMPTS {
            let (names, rows) =
                try_join(names::load(&self.table, scope, &target), self.table.query_all(&partition)).await?;
            let rows = rows.into_iter().map(ValueRow::parse);
            let rows = rows.map(|row| row.map(|row| (row.name.clone(), row))).collect::<Result<_, _>>()?;
            let sealed = Sealed { names, rows };
            if sealed.is_consistent(now_ms()) {
                return Ok(sealed);
            }
            back_off(attempt).await;
        }
        Err(StoreError::Corrupt("names and values of a scope disagree"))
    }
}

impl Sealed {
    /// Whether names and values are of one moment. What decides about delivery (expiry, inheritance, use by a provider)
    /// must agree as well: a value that was edited to be left out is an error, never a silent omission.
    fn is_consistent(&self, now_ms: i64) -> bool {
        let named = self.names.entries().all(|(name, entry)| match self.rows.get(name) {
            Some(row) => {
                row.version == entry.version
                    && row.provider == entry.provider
                    && row.expires_at_ms == entry.expires_at_ms
                    && row.flags.inherit == entry.inherit
            }
            // The table drops an expired value by itself; its name stays until it is deleted.
            None => entry.expires_at_ms.is_some_and(|at| at <= now_ms),
        });
        // An expired name makes room for others before the table gets to dropping its value.
        let is_known =
            |row: &ValueRow| self.names.get(&row.name).is_some() || row.expires_at_ms.is_some_and(|at| at <= now_ms);
        named && self.rows.values().all(is_known)
    }

    fn deliverable(&self, now_ms: i64) -> impl Iterator<Item = &ValueRow> {
        self.rows.values().filter(move |row| !row.provider && row.expires_at_ms.is_none_or(|at| now_ms < at))
    }
}

impl SealedSecrets {
    /// What can be had, by canonical name; a session's own wins over an inherited one.
    fn available(&self, now_ms: i64) -> BTreeMap<&str, (SecretOrigin, &ValueRow)> {
        let inherited = self.inherited.deliverable(now_ms).filter(|row| row.flags.inherit);
        let inherited = inherited.map(|row| (row.name.as_str(), (SecretOrigin::Platform, row)));
        let own = self.own.deliverable(now_ms).map(|row| (row.name.as_str(), (SecretOrigin::Session, row)));
        inherited.chain(own).collect()
    }
}
