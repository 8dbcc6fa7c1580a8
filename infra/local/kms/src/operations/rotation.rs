//! Rotation of a symmetric key's material. Old generations stay and keep decrypting.

use crate::check;
use crate::clock::wire_seconds;
use crate::error::{EmulatorError, code};
use crate::ids::KeyId;
use crate::operations::page::page;
use crate::state::{Generation, Key, KeySpec, KeyState, MAX_ROTATIONS};
use crate::store::Store;
use crate::wire::{answers, requests};

/// The rotation period, in days, when the request names none.
const DEFAULT_PERIOD_DAYS: u32 = 365;

pub(crate) fn enable_key_rotation(
    store: &Store,
    request: requests::EnableKeyRotation,
) -> Result<answers::Nothing, EmulatorError> {
    let days = match request.rotation_period_in_days {
        Some(days) => check::number(days, "rotationPeriodInDays", 90..=2560)?,
        None => DEFAULT_PERIOD_DAYS,
    };
    change_enabled(store, &request.key_id, |_, key| {
        key.rotation_period_days = Some(days);
        Ok(answers::Nothing {})
    })
}

pub(crate) fn disable_key_rotation(
    store: &Store,
    request: requests::OneKey,
) -> Result<answers::Nothing, EmulatorError> {
    change_enabled(store, &request.key_id, |_, key| {
        key.rotation_period_days = None;
        Ok(answers::Nothing {})
    })
}

pub(crate) fn rotate_key_on_demand(store: &Store, request: requests::OneKey) -> Result<answers::OneKey, EmulatorError> {
    change_enabled(store, &request.key_id, |id, key| {
        if key.generations.len() > MAX_ROTATIONS {
            let message = format!("{} has been rotated on demand {MAX_ROTATIONS} times.", id.arn());
            return Err(EmulatorError::refused(code::LIMIT_EXCEEDED, message));
        }
        key.generations.push(Generation::make()?);
        Ok(answers::OneKey { key_id: id.to_string() })
    })
}

/// While deletion is pending rotation reads as off; cancelling the deletion brings the setting back.
pub(crate) fn get_key_rotation_status(
    store: &Store,
    request: requests::OneKey,
) -> Result<answers::GetKeyRotationStatus, EmulatorError> {
    let text = check::key_text(&request.key_id, "keyId")?;
    store.read(|state| {
        let id = state.resolve_without_alias(text)?;
        let key = state.key(id)?;
        must_be_symmetric(id, key)?;
        let pending = matches!(key.state, KeyState::PendingDeletion { .. });
        let period = key.rotation_period_days.filter(|_| !pending);
        Ok(answers::GetKeyRotationStatus {
            key_id: id.to_string(),
            key_rotation_enabled: period.is_some(),
            rotation_period_in_days: period,
        })
    })
}

pub(crate) fn list_key_rotations(
    store: &Store,
    request: requests::ListOfKey,
) -> Result<answers::ListKeyRotations, EmulatorError> {
    let text = check::key_text(&request.key_id, "keyId")?;
    store.read(|state| {
        let id = state.resolve_without_alias(text)?;
        let key = state.key(id)?;
        must_be_symmetric(id, key)?;
        // The first generation came with the key and is no rotation.
        let entries = key.generations.iter().enumerate().skip(1).map(|(number, generation)| {
            let entry = answers::RotationEntry {
                key_id: id.to_string(),
                rotation_date: wire_seconds(generation.created_ms),
                rotation_type: "ON_DEMAND",
            };
            (number.to_string(), entry)
        });
        let page = page(entries, request.limit, 100, request.marker.as_deref())?;
        Ok(answers::ListKeyRotations {
            truncated: page.next_marker.is_some(),
            rotations: page.items,
            next_marker: page.next_marker,
        })
    })
}

fn change_enabled<T>(
    store: &Store,
    key_id: &Option<String>,
    edit: impl FnOnce(KeyId, &mut Key) -> Result<T, EmulatorError>,
) -> Result<T, EmulatorError> {
    let text = check::key_text(key_id, "keyId")?;
    store.change(|state| {
        let id = state.resolve_without_alias(text)?;
        let key = state.key_mut(id)?;
        must_be_symmetric(id, key)?;
        key.must_be_enabled(id)?;
        edit(id, key)
    })
}

fn must_be_symmetric(id: KeyId, key: &Key) -> Result<(), EmulatorError> {
    match key.spec {
        KeySpec::Symmetric => Ok(()),
        KeySpec::Hmac256 => {
            Err(check::unsupported(format!("{} is an HMAC key, whose material does not rotate.", id.arn())))
        }
    }
}
