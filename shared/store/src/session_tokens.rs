//! Tokens of sessions: minted by a platform for one end user, for a while.
//!
//! A token is good while its session lives and the session's token epoch is the one it was minted in. Raising the epoch
//! ends all of a session's tokens in one write, however many there are.

use crate::audit::Deed;
use crate::sessions::{SessionStatus, session_key};
use crate::table::{TTL, number, ttl_seconds};
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{AuditAction, Deleted, Session, StoreError, Table};
use aws_sdk_dynamodb::types::AttributeValue;
use theazo_tenancy::{
    CredentialKind, CredentialRecord, IssuedKey, KeyId, Permissions, Principal, SessionId, TenantScope,
    make_session_token,
};

const ATTEMPTS: u32 = 20;

/// Minting and revoking sessions' tokens.
#[derive(Clone)]
pub struct SessionTokens(Table);

impl SessionTokens {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// Mints a token. `session` is the session as it was read a moment ago; if it has changed, it is read again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for a terminated session; [`StoreError::Contended`].
    pub async fn mint(
        &self,
        caller: &Principal,
        session: &Session,
        expires_at_ms: i64,
        permissions: Permissions,
    ) -> Result<IssuedKey, StoreError> {
        let scope = caller.scope();
        let mut session = session.clone();
        for attempt in 0..ATTEMPTS {
            if session.status == SessionStatus::Terminated {
                return Err(StoreError::Conflict("the session is terminated"));
            }
            let issued = make_session_token(scope.platform(), scope.mode(), &session.id);
            let id = KeyId::make();
            let record = CredentialRecord {
                hash: issued.hash,
                id: id.clone(),
                kind: CredentialKind::Session(session.id.clone()),
                platform: scope.platform().clone(),
                mode: scope.mode(),
                expires_at_ms: Some(expires_at_ms),
                cursor_key: *caller.cursor_key(),
                permissions,
                epoch: session.token_epoch,
            };
            let mut item = self.0.credential_item(&scope.new_credential_key(&issued), &record)?;
            item.insert(TTL.into(), number(ttl_seconds(expires_at_ms)));
            let transaction = Transaction::default()
                .check(&self.0, &session_key(&scope, &session.id)?, in_epoch(&session))
                .put_item(&self.0, item, Expression::new("attribute_not_exists(pk)"))
                .audit(
                    &self.0,
                    &scope,
                    Deed::done(AuditAction::TokenCreate).names([id.as_str()]).session(&session.id),
                )?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(issued),
                Committed::Refused { .. } => back_off(attempt).await,
            }
            session = self.0.get(&session_key(&scope, &session.id)?).await?.ok_or(StoreError::NotFound)?;
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Ends all tokens of a session, at once and everywhere.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn revoke_all(&self, scope: &TenantScope, id: &SessionId) -> Result<(), StoreError> {
        let key = session_key(scope, id)?;
        for attempt in 0..ATTEMPTS {
            let session: Session = self.0.get(&key).await?.ok_or(StoreError::NotFound)?;
            // Read before it is raised: the ledger must say which epoch is the first good one.
            let epoch = session.token_epoch + 1;
            let raise = Expression::new("SET token_epoch = :next, revision = revision + :one")
                .value(":next", number(epoch))
                .value(":one", number(1))
                .value(":epoch", number(session.token_epoch));
            let unchanged = format!("attribute_exists(pk) AND {}", same_epoch(&session));
            let transaction = Transaction::default()
                .update(&self.0, &key, raise, &unchanged)
                .note_deletion(&self.0, scope, Deleted::Tokens { session: id.clone(), epoch })?
                .audit(&self.0, scope, Deed::done(AuditAction::TokenRevoke).session(id))?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(()),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }
}

/// The condition that a session's epoch is `:epoch`, which is the one that was read.
fn same_epoch(session: &Session) -> &'static str {
    match session.token_epoch {
        0 => "(attribute_not_exists(token_epoch) OR token_epoch = :epoch)",
        _ => "token_epoch = :epoch",
    }
}

/// Holds while a session lives and none of its tokens was revoked since it was read.
fn in_epoch(session: &Session) -> Expression {
    Expression::new(&format!("#s <> :over AND {}", same_epoch(session)))
        .name("#s", "status")
        .value(":over", AttributeValue::S("terminated".into()))
        .value(":epoch", number(session.token_epoch))
}
