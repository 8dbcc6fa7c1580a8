//! Scheduled deletion. The key itself goes when its waiting period ends (see `Store`).

use crate::check;
use crate::clock::{self, DAY_MS, wire_seconds};
use crate::error::{EmulatorError, code};
use crate::state::KeyState;
use crate::store::Store;
use crate::wire::{answers, requests};

/// The waiting period, in days, when the request names none.
const DEFAULT_WINDOW_DAYS: u32 = 30;

pub(crate) fn schedule_key_deletion(
    store: &Store,
    request: requests::ScheduleKeyDeletion,
) -> Result<answers::ScheduleKeyDeletion, EmulatorError> {
    let text = check::key_text(&request.key_id, "keyId")?;
    let days = match request.pending_window_in_days {
        Some(days) => check::number(days, "pendingWindowInDays", 7..=30)?,
        None => DEFAULT_WINDOW_DAYS,
    };
    store.change(|state| {
        let id = state.resolve_without_alias(text)?;
        let key = state.key_mut(id)?;
        key.must_not_be_pending_deletion(id)?;
        let due_ms = clock::now_ms().saturating_add(u64::from(days) * DAY_MS);
        key.state = KeyState::PendingDeletion { due_ms };
        Ok(answers::ScheduleKeyDeletion {
            key_id: id.arn(),
            deletion_date: wire_seconds(due_ms),
            key_state: key.state.name(),
            pending_window_in_days: days,
        })
    })
}

/// The key comes back disabled, as in AWS.
pub(crate) fn cancel_key_deletion(store: &Store, request: requests::OneKey) -> Result<answers::OneKey, EmulatorError> {
    let text = check::key_text(&request.key_id, "keyId")?;
    store.change(|state| {
        let id = state.resolve_without_alias(text)?;
        let key = state.key_mut(id)?;
        match key.state {
            KeyState::PendingDeletion { .. } => key.state = KeyState::Disabled,
            KeyState::Enabled | KeyState::Disabled => {
                let message = format!("{} is not pending deletion.", id.arn());
                return Err(EmulatorError::refused(code::INVALID_STATE, message));
            }
        }
        Ok(answers::OneKey { key_id: id.arn() })
    })
}
