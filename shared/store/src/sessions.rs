//! Sessions: a platform's end users.

mod row;

pub use row::{NewSession, Session, SessionChanges, SessionEnvironment, SessionFilter, SessionStatus};
pub(crate) use row::{has_limits, is_paused, unchanged_and_active};

use crate::audit::Deed;
use crate::counters::Counters;
use crate::page::RowFilter;
use crate::secrets::ScopeNames;
use crate::table::number;
use crate::transaction::{Committed, Expression, Transaction, back_off};
use crate::{AuditAction, Deleted, LogLevel, LogSource, NewLog, Page, PageRequest, StoreError, Table, now_ms};
use aws_sdk_dynamodb::types::AttributeValue;
use futures_util::future::try_join;
use row::unchanged;
use serde::{Deserialize, Serialize};
use serde_json::json;
use theazo_tenancy::{ReadScope, SessionId, SessionScope, TableKey, TenantScope, UserId};

const ATTEMPTS: u32 = 30;

/// Reading and changing sessions. No way to a value.
#[derive(Clone)]
pub struct Sessions(pub(crate) Table);

/// The pointer from a user to their live session.
#[derive(Serialize, Deserialize)]
struct UserRow {
    session: SessionId,
}

pub(crate) fn session_key(scope: &ReadScope, id: &SessionId) -> Result<TableKey, StoreError> {
    Ok(scope.session(id).ok_or(StoreError::NotFound)?.key())
}

/// What the log says of a change to a session.
fn session_log(session: &Session, message: &str) -> NewLog {
    NewLog::of_session(session, LogLevel::Info, LogSource::System, message)
        .metadata(&json!({ "event": "session.status", "status": session.status, "limits": session.limits }))
}

impl Sessions {
    /// Over that table.
    pub fn new(table: Table) -> Self {
        Self(table)
    }

    /// A session, if it is this scope's.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn get(&self, scope: &ReadScope, id: &SessionId) -> Result<Option<Session>, StoreError> {
        match scope.session(id) {
            Some(own) => self.0.get(&own.key()).await,
            None => Ok(None),
        }
    }

    /// What a session has used.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn counters(&self, scope: &SessionScope) -> Result<Counters, StoreError> {
        Ok(self.0.get_raw(&scope.counters_key()).await?.map(Counters::read).transpose()?.unwrap_or_default())
    }

    /// A page of sessions, newest first.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn list(
        &self,
        scope: &ReadScope,
        filter: &SessionFilter,
        page: &PageRequest,
    ) -> Result<Page<Session>, StoreError> {
        let mut terms = RowFilter::default();
        if let Some(status) = filter.status {
            terms = terms.compare("status", "=", AttributeValue::S(status.as_str().into()));
        }
        if let Some(user) = &filter.user {
            terms = terms.compare("user_id", "=", AttributeValue::S(user.as_str().into()));
        }
        if let Some(after) = filter.created_after_ms {
            terms = terms.compare("created_at_ms", ">", number(after));
        }
        self.0.page(&scope.platform_wide()?.sessions(), page, terms).await
    }

    /// Makes a session. For a user who has no live session yet, [`Sessions::by_user`] will find it.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn create(&self, scope: &TenantScope, new: &NewSession) -> Result<Session, StoreError> {
        if let Some(session) = self.try_create(scope, new, true).await? {
            return Ok(session);
        }
        // The user has a live session; this one stands beside it.
        self.try_create(scope, new, false).await?.ok_or(StoreError::Conflict("an id was made twice"))
    }

    /// The live session that a user's pointer names.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn find_by_user(&self, scope: &ReadScope, user: &UserId) -> Result<Option<SessionId>, StoreError> {
        Ok(self.0.get::<UserRow>(&scope.platform_wide()?.user_key(user)).await?.map(|row| row.session))
    }

    /// The user's live session, with the changes applied, or a new one. Any number of concurrent calls yield one.
    /// `found` is what [`Sessions::find_by_user`] gave a moment ago.
    ///
    /// # Errors
    /// [`StoreError::Contended`] when others kept changing the same session.
    pub async fn by_user(
        &self,
        scope: &TenantScope,
        user: &UserId,
        changes: &SessionChanges,
        mut found: Option<SessionId>,
    ) -> Result<Session, StoreError> {
        for attempt in 0..ATTEMPTS {
            if let Some(id) = &found {
                match self.change(scope, id, changes).await {
                    Ok(session) if session.status != SessionStatus::Terminated => return Ok(session),
                    // Terminating also removes the pointer; what was found is out of date.
                    Ok(_) | Err(StoreError::NotFound | StoreError::Conflict(_)) => {}
                    Err(error) => return Err(error),
                }
            } else {
                let new = NewSession {
                    user: Some(user.clone()),
                    environment: SessionEnvironment::default(),
                    metadata: changes.metadata.clone().unwrap_or_default(),
                    limits: changes.limits.clone().unwrap_or_default(),
                };
                if let Some(session) = self.try_create(scope, &new, true).await? {
                    return Ok(session);
                }
            }
            back_off(attempt).await;
            found = self.find_by_user(scope, user).await?;
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Applies changes to a session and gives it as it then is.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for a terminated session; [`StoreError::Contended`].
    pub async fn change(
        &self,
        scope: &TenantScope,
        id: &SessionId,
        changes: &SessionChanges,
    ) -> Result<Session, StoreError> {
        let read = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
        self.change_read(scope, read, changes).await
    }

    /// The same for a session that was read a moment ago, which saves reading it again.
    ///
    /// # Errors
    /// As [`Sessions::change`].
    pub async fn change_read(
        &self,
        scope: &TenantScope,
        read: Session,
        changes: &SessionChanges,
    ) -> Result<Session, StoreError> {
        let id = read.id.clone();
        let mut known = Some(read);
        for attempt in 0..ATTEMPTS {
            let mut session = match known.take() {
                Some(session) => session,
                None => self.get(scope, &id).await?.ok_or(StoreError::NotFound)?,
            };
            if changes.is_empty() {
                return Ok(session);
            }
            if session.status == SessionStatus::Terminated {
                return Err(StoreError::Conflict("the session is terminated"));
            }
            let read = session.revision;
            if let Some(limits) = &changes.limits {
                session.limits = limits.clone();
            }
            changes.single_limits.apply(&mut session.limits);
            if let Some(metadata) = &changes.metadata {
                session.metadata = metadata.clone();
            }
            session.revision += 1;
            let unchanged = unchanged(read);
            let transaction = Transaction::default()
                .put(&self.0, &session_key(scope, &id)?, &session, unchanged)?
                .audit(&self.0, scope, Deed::done(AuditAction::SessionUpdate).session(&id))?
                .log(&self.0, scope, [session_log(&session, "session changed")])?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(session),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Ends a session for good: no agent and no secret can be added from then on. Its agents and secrets are removed
    /// by the caller, and [`Sessions::settle_terminated`] notes that this is done. The names of the secrets that go with
    /// it are on record. Idempotent.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Contended`].
    pub async fn terminate(&self, scope: &TenantScope, id: &SessionId) -> Result<Session, StoreError> {
        for attempt in 0..ATTEMPTS {
            let names_key = scope.session(id).ok_or(StoreError::NotFound)?.secret_names_key();
            let (session, names) = try_join(self.get(scope, id), self.0.get::<ScopeNames>(&names_key)).await?;
            let (mut session, names) = (session.ok_or(StoreError::NotFound)?, names.unwrap_or_default());
            if session.status == SessionStatus::Terminated {
                return Ok(session);
            }
            let read = session.revision;
            let removed = names.entries().map(|(name, _)| name);
            session.status = SessionStatus::Terminated;
            session.terminated_at_ms = Some(self.0.now_ms());
            session.revision += 1;
            let unchanged = unchanged(read);
            let mut transaction = Transaction::default()
                .put(&self.0, &session_key(scope, id)?, &session, unchanged)?
                .put(&self.0, &scope.session_work_key(id), &UserRow { session: id.clone() }, Expression::default())?
                .note_deletion(&self.0, scope, Deleted::Session { session: id.clone() })?
                .check(&self.0, &names_key, names.unchanged())
                .audit(&self.0, scope, Deed::done(AuditAction::SessionTerminate).names(removed).session(id))?;
            let user = session.user_id.as_deref().and_then(UserId::parse);
            if let Some(user) = &user
                && self.find_by_user(scope, user).await?.as_ref() == Some(id)
            {
                let ours =
                    Expression::new("#p = :id").name("#p", "session").value(":id", AttributeValue::S(id.to_string()));
                transaction = transaction.delete(&self.0, &scope.platform_wide()?.user_key(user), ours);
            }
            transaction = transaction.log(&self.0, scope, [session_log(&session, "session terminated")])?;
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(session),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Pauses a session: no agent can be made or boot in it from then on. Those that run are paused by the caller, and
    /// [`Sessions::settle_paused`] notes that this is done. Idempotent, also in that the note is there again.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]; [`StoreError::Conflict`] for a terminated session; [`StoreError::Contended`].
    pub async fn pause(&self, scope: &TenantScope, id: &SessionId) -> Result<Session, StoreError> {
        self.switch(scope, id, SessionStatus::Paused).await
    }

    /// Makes a paused session active again. Its agents are resumed by the caller. Idempotent.
    ///
    /// # Errors
    /// As [`Sessions::pause`].
    pub async fn resume(&self, scope: &TenantScope, id: &SessionId) -> Result<Session, StoreError> {
        self.switch(scope, id, SessionStatus::Active).await
    }

    async fn switch(&self, scope: &TenantScope, id: &SessionId, to: SessionStatus) -> Result<Session, StoreError> {
        for attempt in 0..ATTEMPTS {
            let mut session = self.get(scope, id).await?.ok_or(StoreError::NotFound)?;
            if session.status == SessionStatus::Terminated {
                return Err(StoreError::Conflict("the session is terminated"));
            }
            let pauses = to == SessionStatus::Paused;
            if session.status == to && !pauses {
                return Ok(session);
            }
            let read = session.revision;
            let changes = session.status != to;
            if changes {
                session.status = to;
                session.paused_at_ms = pauses.then(now_ms);
                session.revision += 1;
            }
            let unchanged = unchanged(read);
            let mut transaction = Transaction::default().put(&self.0, &session_key(scope, id)?, &session, unchanged)?;
            if pauses {
                let note = UserRow { session: id.clone() };
                transaction = transaction.put(&self.0, &scope.session_work_key(id), &note, Expression::default())?;
            }
            if changes {
                let action = if pauses { AuditAction::SessionPause } else { AuditAction::SessionResume };
                let message = if pauses { "session paused" } else { "session resumed" };
                transaction = transaction.audit(&self.0, scope, Deed::done(action).session(id))?.log(
                    &self.0,
                    scope,
                    [session_log(&session, message)],
                )?;
            }
            match transaction.commit(&self.0).await? {
                Committed::Yes => return Ok(session),
                Committed::Refused { .. } => back_off(attempt).await,
            }
        }
        Err(StoreError::Contended(ATTEMPTS))
    }

    /// Notes that all agents of a paused session are paused, or that it is paused no more; unless the session has changed
    /// since it was read.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn settle_paused(&self, scope: &TenantScope, session: &Session) -> Result<(), StoreError> {
        let unchanged = unchanged(session.revision);
        let settled = Transaction::default().check(&self.0, &session_key(scope, &session.id)?, unchanged).delete(
            &self.0,
            &scope.session_work_key(&session.id),
            Expression::default(),
        );
        // If it has changed, whoever changed it left a note or not, and that is as it should be.
        settled.commit(&self.0).await.map(|_| ())
    }

    /// Notes that nothing of a terminated session is left to remove.
    ///
    /// # Errors
    /// [`StoreError::Table`] when the table does not answer.
    pub async fn settle_terminated(&self, scope: &TenantScope, id: &SessionId) -> Result<(), StoreError> {
        self.0.delete(&scope.session_work_key(id)).await
    }

    /// One try; nothing when the user already has a live session.
    async fn try_create(
        &self,
        scope: &TenantScope,
        new: &NewSession,
        point: bool,
    ) -> Result<Option<Session>, StoreError> {
        let session = Session {
            id: SessionId::make(),
            user_id: new.user.as_ref().map(ToString::to_string),
            status: SessionStatus::Active,
            environment: new.environment,
            metadata: new.metadata.clone(),
            limits: new.limits.clone(),
            created_at_ms: self.0.now_ms(),
            paused_at_ms: None,
            terminated_at_ms: None,
            token_epoch: 0,
            revision: 1,
        };
        let counters = scope.session(&session.id).ok_or(StoreError::NotFound)?.counters_key();
        let mut transaction = Transaction::default()
            .put_new(&self.0, &session_key(scope, &session.id)?, &session)?
            .put_new(&self.0, &counters, &Counters::default())?;
        if let (Some(user), true) = (&new.user, point) {
            let row = UserRow { session: session.id.clone() };
            transaction = transaction.put_new(&self.0, &scope.platform_wide()?.user_key(user), &row)?;
        }
        transaction = transaction
            .audit(&self.0, scope, Deed::done(AuditAction::SessionCreate).session(&session.id))?
            .log(&self.0, scope, [session_log(&session, "session created")])?;
        match transaction.commit(&self.0).await? {
            Committed::Yes => Ok(Some(session)),
            Committed::Refused { write: 2, .. } if point => Ok(None),
            Committed::Refused { .. } => Err(StoreError::Conflict("an id was made twice")),
        }
    }
}
