//! Booting an agent that has run before, on the files that it has.

use super::boot::{Boot, booted_with};
use super::not_usable;
use super::sandboxes::PlaceAgain;
use futures_util::future::try_join;
use theazo_http::{ApiError, ErrorCode};
use theazo_store::{
    Agent, AgentStatus, Intent, NextBoot, PausedBy, SecretName, SecretOpener, SecretSelection, Session, SessionStatus,
    Sessions, StoreError, now_ms,
};
use theazo_tenancy::{CheckpointId, CredentialKind, Principal, TenantScope};

/// How often a session or an agent that changes under our hands is read again.
const ATTEMPTS: u32 = 20;

/// Boots the agent again and gives it as it then is: ready. `allowed` says whether its state and its caller permit it,
/// and is asked again whenever the agent has changed.
///
/// # Errors
/// What `allowed` says; `conflict` for a session that is not active; `session_limit_exceeded`; then as
/// [`Boot::finish`].
pub(crate) async fn boot_again(
    scope: &TenantScope,
    agent: Agent,
    intent: Intent,
    sessions: &Sessions,
    opener: &SecretOpener,
    boot: &Boot,
    allowed: impl Fn(&Agent) -> Result<(), ApiError>,
) -> Result<Agent, ApiError> {
    let on_its_files = |agent: &Agent| allowed(agent).map(|()| None);
    boot_from(scope, agent, intent, sessions, opener, boot, on_its_files).await
}

/// The same on the files of the checkpoint that `chosen` gives of the agent, if it gives one.
///
/// # Errors
/// As [`boot_again`].
pub(super) async fn boot_from(
    scope: &TenantScope,
    mut agent: Agent,
    intent: Intent,
    sessions: &Sessions,
    opener: &SecretOpener,
    boot: &Boot,
    chosen: impl Fn(&Agent) -> Result<Option<CheckpointId>, ApiError>,
) -> Result<Agent, ApiError> {
    for _ in 0..ATTEMPTS {
        let checkpoint = chosen(&agent)?;
        let PlaceAgain { moving_to, max_concurrent } = boot.place_again(scope, &agent, intent).await?;
        let session = sessions.get(scope, &agent.session);
        let (session, sealed) = try_join(session, opener.load(scope, &agent.session)).await?;
        let session = session.ok_or_else(ApiError::not_found)?;
        expect_active(&session)?;
        // A retry has all of it anew.
        if agent.time_left_ms() == 0 && intent != Intent::Retrying {
            return Err(ApiError::new(ErrorCode::Conflict, "the agent's running time is used up"));
        }
        let opened = opener.open(scope, &sealed, &selection(&agent)?, now_ms()).await?;
        let next = NextBoot { secrets: booted_with(&opened), max_concurrent, checkpoint, moving_to };
        match boot.agents().begin_again(scope, &session, &agent, intent, next).await {
            Ok(agent) => return boot.finish(scope, agent, opener, &sealed, opened).await,
            Err(StoreError::Conflict(_)) => {
                agent = boot.agents().get(scope, &agent.id).await?.ok_or_else(ApiError::not_found)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Err(StoreError::Contended(ATTEMPTS).into())
}

/// Whether the caller may resume the agent: it is paused, and not by someone whom the caller cannot overrule.
pub(super) fn may_resume(principal: &Principal, agent: &Agent) -> Result<(), ApiError> {
    if agent.status != AgentStatus::Paused || agent.intent.is_some() {
        return Err(not_usable(agent));
    }
    may_undo_pause(principal, agent)
}

/// Whether the caller may have an agent run that was paused last by whom it was, also where it has ended since.
pub(super) fn may_undo_pause(principal: &Principal, agent: &Agent) -> Result<(), ApiError> {
    let is_platform = matches!(principal.kind(), CredentialKind::ApiKey);
    if !is_platform && agent.paused_by.is_some_and(PausedBy::binds_session) {
        return Err(ApiError::new(ErrorCode::Forbidden, "the platform paused the agent, and only it may resume it"));
    }
    Ok(())
}

/// Whether the agent can be restarted: it runs.
pub(super) fn may_restart(agent: &Agent) -> Result<(), ApiError> {
    match (agent.status, agent.intent) {
        (AgentStatus::Ready | AgentStatus::Running, None) => Ok(()),
        _ => Err(not_usable(agent)),
    }
}

/// Only in an active session does anything boot.
pub(super) fn expect_active(session: &Session) -> Result<(), ApiError> {
    if session.status == SessionStatus::Active {
        return Ok(());
    }
    Err(ApiError::new(ErrorCode::Conflict, format!("the session is {}", session.status.as_str())))
}

/// What it was made with, of what there is now.
fn selection(agent: &Agent) -> Result<SecretSelection, ApiError> {
    let Some(names) = &agent.selection else { return Ok(SecretSelection::All) };
    let names = names.iter().map(|name| SecretName::parse(name).map_err(|_| ApiError::internal()));
    Ok(SecretSelection::Among(names.collect::<Result<_, _>>()?))
}
