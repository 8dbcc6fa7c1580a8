//! API keys, as a platform manages its own: made, listed, rotated with an overlap, revoked.
//!
//! A key has two rows: the credential, found by its hash and sealed, and what may be shown of it, which nothing proves.
//! Both change together; what the second says decides nothing that the first could. A test key
//! manages test keys only, so that it is no way to the platform's live data; a live key manages both.

use crate::audit::Deed;
use crate::credentials::{AS_READ, hex_bytes};
use crate::page::RowFilter;
use crate::table::{TTL, number, to_item, ttl_seconds};
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{AuditAction, Deleted, Page, PageRequest, StoreError, Table, now_ms};
use aws_sdk_dynamodb::types::AttributeValue;
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use theazo_tenancy::{
    CredentialKind, CredentialRecord, IssuedKey, KeyId, Mode, Permissions, Principal, ReadScope, TenantScope,
    make_api_key,
};

/// How long a key must be good yet to be what a platform is left with, milliseconds.
const LASTS_MS: i64 = 3_600_000;
const ATTEMPTS: u32 = 20;
const UNKNOWN_MODE: StoreError = StoreError::Corrupt("an API key of unknown mode");
/// How long a revoked key's rows are kept, milliseconds: 90 days.
pub(crate) const REVOKED_KEPT_MS: i64 = 90 * 24 * 60 * 60 * 1000;

/// Managing a platform's API keys.
#[derive(Clone)]
pub struct ApiKeys(Table);

/// What may be shown of a key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id.
    pub id: KeyId,
    /// Its name, for people.
    pub name: String,
    /// Its first characters.
    pub prefix: String,
    /// `live` or `test`.
    pub mode: String,
    /// Unix milliseconds.
    pub created_at_ms: i64,
    /// When it ends by itself, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires_at_ms: Option<i64>,
    /// When it was revoked, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub revoked_at_ms: Option<i64>,
    /// The key that takes its place, once it was rotated.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub successor: Option<KeyId>,
    #[serde(with = "hex_bytes")]
    pub(crate) hash: [u8; 32],
}

impl ApiKey {
    /// Whether it is accepted now.
    pub fn is_good(&self, now_ms: i64) -> bool {
        let over = |at: Option<i64>| at.is_some_and(|at| at <= now_ms);
        !over(self.expires_at_ms) && !over(self.revoked_at_ms)
    }
}

/// Which key to make.
#[derive(Clone, Debug)]
pub struct NewApiKey {
    /// Its name, for people.
    pub name: String,
    /// Live or test.
    pub mode: Mode,
    /// When it ends by itself, Unix milliseconds.
    pub expires_at_ms: Option<i64>,
}

/// Holds while a platform exists and is not being deleted.
pub(crate) fn platform_lives() -> Expression {
    Expression::new("attribute_exists(pk) AND attribute_not_exists(deleted_at_ms)")
}

/// The two rows of a new key.
pub(crate) fn put_key(
    transaction: Transaction,
    table: &Table,
    scope: &TenantScope,
    cursor_key: [u8; 32],
    issued: &IssuedKey,
    shown: &ApiKey,
) -> Result<Transaction, StoreError> {
    let record = CredentialRecord {
        hash: issued.hash,
        id: shown.id.clone(),
        kind: CredentialKind::ApiKey,
        platform: scope.platform().clone(),
        mode: Mode::parse(&shown.mode).ok_or(UNKNOWN_MODE)?,
        expires_at_ms: shown.expires_at_ms,
        cursor_key,
        permissions: Permissions { exec: true },
        epoch: 0,
    };
    let credential = table.credential_item(&scope.new_credential_key(issued), &record)?;
    transaction.put_item(table, credential, Expression::new("attribute_not_exists(pk)")).put_new(
        table,
        &scope.platform_wide()?.api_keys().row(shown.id.as_str()),
        shown,
    )
}

/// What may be shown of a key that was just made.
pub(crate) fn shown(new: &NewApiKey, issued: &IssuedKey) -> ApiKey {
    ApiKey {
        id: KeyId::make(),
        name: new.name.clone(),
        prefix: issued.prefix.clone(),
        mode: new.mode.as_str().into(),
        created_at_ms: now_ms(),
        expires_at_ms: new.expires_at_ms,
        revoked_at_ms: None,
        successor: None,
        hash: issued.hash,
    }
}

impl ApiKeys {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// Makes a key for the caller's platform.
    ///
    /// # Errors
    /// [`StoreError::Conflict`] while the platform is being deleted.
    pub async fn create(&self, caller: &Principal, new: &NewApiKey) -> Result<(ApiKey, IssuedKey), StoreError> {
        let scope = caller.scope();
        let issued = make_api_key(scope.platform(), new.mode);
        let key = shown(new, &issued);
        let alive = Transaction::default().check(&self.0, &scope.platform_key(), platform_lives());
        let transaction = put_key(alive, &self.0, &scope, *caller.cursor_key(), &issued, &key)?.audit(
            &self.0,
            &scope,
            Deed::done(AuditAction::KeyCreate).names([key.id.as_str()]),
        )?;
        match transaction.commit(&self.0).await? {
            Committed::Yes => Ok((key, issued)),
            Committed::Refused { .. } => Err(StoreError::Conflict("the platform is being deleted")),
        }
    }

    /// A page of the keys that the scope may manage, newest first, without those that are over.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn list(&self, scope: &ReadScope, page: &PageRequest) -> Result<Page<ApiKey>, StoreError> {
        let mut terms = RowFilter::default();
        if scope.mode() == Mode::Test {
            terms = terms.compare("mode", "=", AttributeValue::S(Mode::Test.as_str().into()));
        }
        let mut page: Page<ApiKey> = self.0.page(&scope.platform_wide()?.api_keys(), page, terms).await?;
        let now = now_ms();
        page.rows.retain(|key| key.is_good(now));
        Ok(page)
    }

    /// When each of these keys was used last, Unix milliseconds, to the second. Keys that were never used are missing.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn last_used(&self, scope: &TenantScope, keys: &[ApiKey]) -> Result<HashMap<KeyId, i64>, StoreError> {
        let rows = self.0.get_many(keys.iter().map(|key| scope.credential_key_of(&key.hash))).await?;
        let used = rows.iter().filter_map(|row| {
            let id = KeyId::parse(row.get("id")?.as_s().ok()?).ok()?;
            let window: i64 = row.get("window")?.as_n().ok()?.parse().ok()?;
            Some((id, window.saturating_mul(1000)))
        });
        Ok(used.collect())
    }

    /// Makes a key that takes another's place. The old one ends after `overlap_ms`, unless it ends earlier anyway. The
    /// new one is given the life that the old one was given.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] when it was rotated before or the platform is being deleted;
    /// [`StoreError::Contended`].
    pub async fn rotate(
        &self,
        caller: &Principal,
        id: &KeyId,
        overlap_ms: i64,
    ) -> Result<(ApiKey, IssuedKey), StoreError> {
        let scope = caller.scope();
        for attempt in 0..ATTEMPTS {
            let mut old = self.find(&scope, id).await?;
            if !old.is_good(now_ms()) {
                return Err(StoreError::NotFound);
            }
            let place = scope.credential_key_of(&old.hash);
            // Only a credential of ours is sealed anew. The other row is not sealed, and may point to somebody else's.
            let credential = self.0.credential(&place).await?;
            let credential = credential.filter(|found| is_key(found, &scope, &old)).ok_or(StoreError::NotFound)?;
            if old.successor.is_some() {
                return Err(StoreError::Conflict("the key was rotated before"));
            }
            let now = now_ms();
            let mode = credential.mode;
            let life = credential.expires_at_ms.map(|at| at - old.created_at_ms);
            let new = NewApiKey { name: old.name.clone(), mode, expires_at_ms: life.map(|life| now + life) };
            let issued = make_api_key(scope.platform(), mode);
            let key = shown(&new, &issued);
            let ends = now.saturating_add(overlap_ms);
            let ends = credential.expires_at_ms.map_or(ends, |at| at.min(ends));
            let as_read = unchanged(&old);
            (old.successor, old.expires_at_ms) = (Some(key.id.clone()), Some(ends));
            let end = self.0.ending(&credential, ends)?;
            let transaction = Transaction::default()
                .check(&self.0, &scope.platform_key(), platform_lives())
                .put(&self.0, &scope.platform_wide()?.api_keys().row(id.as_str()), &old, as_read)?
                .update(&self.0, &place, end, AS_READ)
                .note_deletion(&self.0, &scope, Deleted::Rotated { key: id.clone(), ends_at_ms: ends })?;
            let transaction = put_key(transaction, &self.0, &scope, *caller.cursor_key(), &issued, &key)?.audit(
                &self.0,
                &scope,
                Deed::done(AuditAction::KeyRotate).names([id.as_str(), key.id.as_str()]),
            )?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok((key, issued)),
                Committed::Refused { write: 0, .. } => {
                    return Err(StoreError::Conflict("the platform is being deleted"));
                }
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Revokes a key, at once and everywhere. The last live key that is good for another hour stays, unless that is
    /// asked for: whoever revokes it locks themselves out.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for the last live key; [`StoreError::Corrupt`] where what is shown
    /// of it leads to another credential; [`StoreError::Contended`].
    pub async fn revoke(&self, scope: &TenantScope, id: &KeyId, force: bool) -> Result<(), StoreError> {
        let mut was_astray = false;
        for attempt in 0..ATTEMPTS {
            let mut key = self.find(scope, id).await?;
            let now = now_ms();
            let place = scope.credential_key_of(&key.hash);
            let Some(credential) = self.0.credential(&place).await?.filter(|found| is_key(found, scope, &key)) else {
                if !key.is_good(now) {
                    return Err(StoreError::NotFound);
                }
                // Unless both have changed since the first was read, somebody else has written one of them.
                if was_astray {
                    return Err(StoreError::Corrupt("what is shown of an API key leads to another credential"));
                }
                was_astray = true;
                back_off(attempt).await;
                continue;
            };
            was_astray = false;
            if credential.expires_at_ms.is_some_and(|at| at <= now) {
                return Err(StoreError::NotFound);
            }
            let mut transaction = Transaction::default();
            if key.mode == Mode::Live.as_str() && !force {
                // Another good key, held in place by this very transaction: two callers who revoke the last two keys at
                // one moment cannot both succeed.
                let lasts_to = now + LASTS_MS;
                let left = self.another_that_is_good(scope, id, lasts_to).await?;
                let left =
                    left.ok_or(StoreError::Conflict("it is the platform's last live key (force=true revokes it)"))?;
                transaction = transaction.check(
                    &self.0,
                    &scope.platform_wide()?.api_keys().row(left.as_str()),
                    good_at(lasts_to),
                );
            }
            let as_read = unchanged(&key);
            key.revoked_at_ms = Some(now);
            // Gone altogether is refused just as well.
            let forgotten = number(ttl_seconds(now.saturating_add(REVOKED_KEPT_MS)));
            let mut item = to_item(&scope.platform_wide()?.api_keys().row(id.as_str()), &key)?;
            item.insert(TTL.into(), forgotten);
            let end = self.0.revoking(&credential, now, REVOKED_KEPT_MS)?;
            let transaction = transaction
                .put_item(&self.0, item, as_read)
                .update(&self.0, &place, end, AS_READ)
                .note_deletion(&self.0, scope, Deleted::Key { key: id.clone() })?
                .audit(&self.0, scope, Deed::done(AuditAction::KeyRevoke).names([id.as_str()]))?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(()),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// A key that the scope may manage and that was not revoked.
    async fn find(&self, scope: &ReadScope, id: &KeyId) -> Result<ApiKey, StoreError> {
        let key: ApiKey =
            self.0.get(&scope.platform_wide()?.api_keys().row(id.as_str())).await?.ok_or(StoreError::NotFound)?;
        let may = scope.mode() == Mode::Live || key.mode == Mode::Test.as_str();
        if may && key.revoked_at_ms.is_none() { Ok(key) } else { Err(StoreError::NotFound) }
    }

    /// Another live key than that, which is good until then, Unix milliseconds, if there is one.
    async fn another_that_is_good(
        &self,
        scope: &ReadScope,
        id: &KeyId,
        lasts_to: i64,
    ) -> Result<Option<KeyId>, StoreError> {
        let live = AttributeValue::S(Mode::Live.as_str().into());
        let mut request = PageRequest { limit: 100, after: None };
        loop {
            let terms = RowFilter::default().compare("mode", "=", live.clone());
            let page: Page<ApiKey> = self.0.page(&scope.platform_wide()?.api_keys(), &request, terms).await?;
            if let Some(key) =
                page.rows.into_iter().find(|key| key.id != *id && key.successor.is_none() && key.is_good(lasts_to))
            {
                return Ok(Some(key.id));
            }
            match page.next {
                Some(next) => request.after = Some(next),
                None => return Ok(None),
            }
        }
    }
}

/// Holds for a key that is good at that moment: neither revoked nor over, nor rotated and about to be.
fn good_at(now_ms: i64) -> Expression {
    let good = "attribute_exists(pk) AND attribute_not_exists(revoked_at_ms) AND attribute_not_exists(successor) \
                AND (attribute_not_exists(expires_at_ms) OR expires_at_ms > :now)";
    Expression::new(good).value(":now", number(now_ms))
}

/// Whether a credential is the very key that its other row says it is.
fn is_key(credential: &CredentialRecord, scope: &TenantScope, shown: &ApiKey) -> bool {
    credential.kind == CredentialKind::ApiKey
        && credential.id == shown.id
        && credential.hash == shown.hash
        && credential.platform == *scope.platform()
        && credential.mode.as_str() == shown.mode
}

/// Holds while a key is what was read: neither revoked nor rotated since.
fn unchanged(key: &ApiKey) -> Expression {
    let (mut terms, mut values) = (vec!["attribute_exists(pk)", "attribute_not_exists(revoked_at_ms)"], Vec::new());
    match key.expires_at_ms {
        Some(at) => {
            terms.push("expires_at_ms = :ends");
            values.push((":ends", number(at)));
        }
        None => terms.push("attribute_not_exists(expires_at_ms)"),
    }
    match &key.successor {
        Some(successor) => {
            terms.push("successor = :next");
            values.push((":next", AttributeValue::S(successor.to_string())));
        }
        None => terms.push("attribute_not_exists(successor)"),
    }
    let condition = Expression::new(&terms.join(" AND "));
    values.into_iter().fold(condition, |condition, (name, value)| condition.value(name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_tenancy::{Claim, PlatformId, SessionId};

    /// A good key of a platform, as its two rows say, and the scope of who holds it.
    fn key() -> (CredentialRecord, ApiKey, TenantScope) {
        let platform = PlatformId::make();
        let issued = make_api_key(&platform, Mode::Live);
        let shown = shown(&NewApiKey { name: "a key".into(), mode: Mode::Live, expires_at_ms: None }, &issued);
        let record = CredentialRecord {
            hash: issued.hash,
            id: shown.id.clone(),
            kind: CredentialKind::ApiKey,
            platform,
            mode: Mode::Live,
            expires_at_ms: None,
            cursor_key: [0; 32],
            permissions: Permissions { exec: true },
            epoch: 0,
        };
        let principal = Claim::parse(&issued.text).unwrap().prove(Some(&record), 0).unwrap();
        (record, shown, principal.scope())
    }

    #[test]
    fn a_credential_is_a_key_if_all_is_as_the_other_row_says() {
        let (record, shown, scope) = key();
        assert!(is_key(&record, &scope, &shown));
        for other in [
            CredentialRecord { kind: CredentialKind::Session(SessionId::make()), ..record.clone() },
            CredentialRecord { id: KeyId::make(), ..record.clone() },
            CredentialRecord { hash: [0; 32], ..record.clone() },
            CredentialRecord { platform: PlatformId::make(), ..record.clone() },
            CredentialRecord { mode: Mode::Test, ..record },
        ] {
            assert!(!is_key(&other, &scope, &shown));
        }
    }

    #[test]
    fn a_key_is_good_until_it_ends_or_is_revoked() {
        let (_, key, _) = key();
        assert!(key.is_good(i64::MAX));
        for (expires_at_ms, revoked_at_ms) in
            [(Some(10), None), (None, Some(10)), (Some(10), Some(20)), (Some(20), Some(10))]
        {
            let key = ApiKey { expires_at_ms, revoked_at_ms, ..key.clone() };
            assert!(key.is_good(9) && !key.is_good(10) && !key.is_good(11));
        }
    }

    #[test]
    fn a_revoked_keys_rows_are_kept_for_ninety_days() {
        assert_eq!(REVOKED_KEPT_MS, 7_776_000_000);
    }
}
