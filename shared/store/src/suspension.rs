//! Suspending a platform: none of its credentials is served and its agents are paused, until the operator resumes it.
//! Nothing of it is lost or deleted.
//!
//! A row of its own says so, which is read side by side with every credential's and so holds at once on every instance.
//! Reconciling pauses the agents.

use crate::api_keys::platform_lives;
use crate::audit::Deed;
use crate::table::number;
use crate::transaction::{Committed, Expression, Transaction};
use crate::{AuditAction, StoreError, Table};
use serde::{Deserialize, Serialize};
use theazo_tenancy::{Mode, Operator, PlatformId, TableKey};

/// What a suspended platform's row says.
#[derive(Serialize, Deserialize)]
pub(crate) struct Standing {
    suspended_at_ms: i64,
}

/// Suspending platforms. For the operator's command line, and for reconciling, which acts by it.
pub struct PlatformSuspension {
    table: Table,
    operator: Operator,
}

impl PlatformSuspension {
    /// Over that table.
    pub fn new(table: Table, operator: Operator) -> Self {
        Self { table, operator }
    }

    /// Suspends a platform: from then on every request of it is refused, whoever makes it. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such platform, or it is being deleted.
    pub async fn suspend(&self, platform: &PlatformId) -> Result<(), StoreError> {
        let now = self.table.now_ms();
        let standing = Standing { suspended_at_ms: now };
        let show = Expression::new("SET suspendedAtMs = :now").value(":now", number(now));
        let transaction = Transaction::default()
            .put_new(&self.table, &self.operator.standing_key(platform), &standing)?
            .check(&self.table, &self.operator.platform_key(platform), platform_lives())
            .update(&self.table, &self.directory_key(platform), show, "attribute_exists(pk)");
        self.commit(transaction, platform, AuditAction::PlatformSuspend).await
    }

    /// Serves a suspended platform again. Its agents stay paused until it resumes them. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::NotFound`] when there is no such platform, or it is being deleted.
    pub async fn resume(&self, platform: &PlatformId) -> Result<(), StoreError> {
        let is_there = Expression::new("attribute_exists(pk)");
        let show = Expression::new("REMOVE suspendedAtMs");
        let transaction = Transaction::default()
            .delete(&self.table, &self.operator.standing_key(platform), is_there)
            .check(&self.table, &self.operator.platform_key(platform), platform_lives())
            .update(&self.table, &self.directory_key(platform), show, "attribute_exists(pk)");
        self.commit(transaction, platform, AuditAction::PlatformResume).await
    }

    /// Whether a platform is suspended.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn is_suspended(&self, platform: &PlatformId) -> Result<bool, StoreError> {
        Ok(self.table.get::<Standing>(&self.operator.standing_key(platform)).await?.is_some())
    }

    /// Commits a change of standing, on record in the trails of live and of test keys. What stands so already is left.
    async fn commit(
        &self,
        mut transaction: Transaction,
        platform: &PlatformId,
        action: AuditAction,
    ) -> Result<(), StoreError> {
        for mode in [Mode::Live, Mode::Test] {
            let scope = self.operator.tenant(platform, mode);
            transaction = transaction.audit(&self.table, &scope, Deed::done(action))?;
        }
        match transaction.commit(&self.table).await? {
            Committed::Yes => Ok(()),
            Committed::Refused { .. } => {
                let is_known = self.table.get_raw(&self.operator.platform_key(platform)).await?;
                let lives = is_known.is_some_and(|row| !row.contains_key(crate::platforms::DELETED_AT));
                let stands = self.is_suspended(platform).await? == (action == AuditAction::PlatformSuspend);
                match (lives, stands) {
                    (true, true) => Ok(()),
                    (true, false) => Err(StoreError::Conflict("it was changed at the same time")),
                    (false, _) => Err(StoreError::NotFound),
                }
            }
        }
    }

    fn directory_key(&self, platform: &PlatformId) -> TableKey {
        self.operator.directory().row(platform.as_str())
    }
}
