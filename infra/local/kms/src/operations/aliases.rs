//! Aliases, and the start-up helper that makes sure of a key by its alias.

use crate::check;
use crate::clock::{self, wire_seconds};
use crate::error::{EmulatorError, code};
use crate::ids::{KeyId, alias_arn};
use crate::operations::page::page;
use crate::state::{Alias, Key, KeySpec};
use crate::store::Store;
use crate::wire::{answers, requests};

/// See [`crate::Emulator::ensure_key`].
pub(crate) fn ensure_key(store: &Store, alias: &str) -> Result<String, EmulatorError> {
    valid_name(alias)?;
    let known = store.read(|state| Ok(state.aliases.get(alias).map(|alias| alias.target)))?;
    if let Some(id) = known {
        return Ok(id.arn());
    }
    store.change(|state| {
        // Asked again under the lock of the change: two callers may have seen the alias missing.
        if let Some(existing) = state.aliases.get(alias) {
            return Ok(existing.target.arn());
        }
        let id = KeyId::make()?;
        state.keys.insert(id, Key::make(KeySpec::Symmetric, String::new())?);
        state.aliases.insert(alias.to_owned(), Alias { target: id, created_ms: clock::now_ms() });
        Ok(id.arn())
    })
}

pub(crate) fn create_alias(store: &Store, request: requests::CreateAlias) -> Result<answers::Nothing, EmulatorError> {
    let name = check::required(&request.alias_name, "aliasName")?;
    valid_name(name)?;
    let target = check::key_text(&request.target_key_id, "targetKeyId")?;
    store.change(|state| {
        let id = state.resolve_without_alias(target)?;
        state.key(id)?.must_not_be_pending_deletion(id)?;
        if state.aliases.contains_key(name) {
            let message = format!("An alias with the name {} already exists", alias_arn(name));
            return Err(EmulatorError::refused(code::ALREADY_EXISTS, message));
        }
        state.aliases.insert(name.clone(), Alias { target: id, created_ms: clock::now_ms() });
        Ok(answers::Nothing {})
    })
}

/// `alias/` and at least one character of `A-Z a-z 0-9 / _ -`, 256 in all; `alias/aws/` belongs to AWS.
fn valid_name(name: &str) -> Result<(), EmulatorError> {
    check::text(name, "aliasName", 1..=256)?;
    let own = name.strip_prefix("alias/").unwrap_or_default();
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '/' | '_' | '-');
    if own.is_empty() || own.starts_with("aws/") || !own.chars().all(allowed) {
        return Err(EmulatorError::refused(code::INVALID_ALIAS_NAME, format!("Invalid alias name {name:?}")));
    }
    Ok(())
}

pub(crate) fn list_aliases(store: &Store, request: requests::ListOfKey) -> Result<answers::ListAliases, EmulatorError> {
    store.read(|state| {
        let only = match &request.key_id {
            Some(_) => Some(state.resolve_without_alias(check::key_text(&request.key_id, "keyId")?)?),
            None => None,
        };
        let chosen = state.aliases.iter().filter(|(_, alias)| only.is_none_or(|id| id == alias.target));
        let entries = chosen.map(|(name, alias)| {
            let created = wire_seconds(alias.created_ms);
            let entry = answers::AliasEntry {
                alias_name: name.clone(),
                alias_arn: alias_arn(name),
                target_key_id: alias.target.to_string(),
                creation_date: created,
                last_updated_date: created,
            };
            (name.clone(), entry)
        });
        let page = page(entries, request.limit, 50, request.marker.as_deref())?;
        Ok(answers::ListAliases {
            truncated: page.next_marker.is_some(),
            aliases: page.items,
            next_marker: page.next_marker,
        })
    })
}
