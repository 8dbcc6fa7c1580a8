//! What each function may call, as recorded from what it does.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A service that functions call under their own role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Service {
    /// The data table.
    Data,
    /// The ledger of deletions.
    Ledger,
    /// The key that wraps root keys.
    Kms,
}

/// One call as IAM sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Call {
    /// Of which service.
    pub service: Service,
    /// The action's name without the service's prefix: `GetItem`, `Decrypt`.
    pub action: String,
    /// The pattern of the partition keys it names; nothing for KMS.
    pub keys: Option<String>,
}

/// Actions and the partition keys that they may name. IAM is asked about all keys of a request together, so reading and
/// writing are told apart, and not each action from its neighbour in one transaction.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Names of actions.
    pub actions: BTreeSet<String>,
    /// Patterns of partition keys; empty where there are none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keys: BTreeSet<String>,
}

/// How a call uses its service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Use {
    /// It goes through a whole table, and names no key that a condition could ask for.
    Scans,
    /// It changes nothing.
    Reads,
    /// It changes something, or is a condition of a change.
    Writes,
}

/// Of every function, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions(BTreeMap<String, BTreeMap<Service, BTreeMap<Use, Access>>>);

/// The record cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PermissionsError {
    /// It is not there.
    #[error("{path}: {source}")]
    File {
        /// Where it should be.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// It is not what this crate writes.
    #[error("the recorded permissions cannot be read: {0}")]
    Format(#[from] serde_json::Error),
}

fn use_of(action: &str) -> Use {
    match action {
        "Scan" => Use::Scans,
        "GetItem" | "BatchGetItem" | "Query" | "Decrypt" => Use::Reads,
        _ => Use::Writes,
    }
}

impl Permissions {
    /// Reads the record.
    ///
    /// # Errors
    /// [`PermissionsError`].
    pub fn read(path: &Path) -> Result<Self, PermissionsError> {
        let text = std::fs::read_to_string(path);
        let text = text.map_err(|source| PermissionsError::File { path: path.to_owned(), source })?;
        Ok(serde_json::from_str(&text)?)
    }

    /// The record as it is kept.
    ///
    /// # Errors
    /// [`PermissionsError::Format`], which does not happen.
    pub fn to_text(&self) -> Result<String, PermissionsError> {
        Ok(serde_json::to_string_pretty(self)? + "\n")
    }

    /// Notes a function that calls nothing, or nothing yet.
    pub fn add_function(&mut self, function: &str) {
        self.0.entry(function.to_owned()).or_default();
    }

    /// Notes a call of a function.
    pub fn add(&mut self, function: &str, call: Call) {
        let services = self.0.entry(function.to_owned()).or_default();
        let access = services.entry(call.service).or_default().entry(use_of(&call.action)).or_default();
        access.actions.insert(call.action);
        access.keys.extend(call.keys);
    }

    /// All that a function may do, a line each: service, use, and an action or a pattern of keys.
    pub fn grants(&self, function: &str) -> BTreeSet<String> {
        let mut grants = BTreeSet::new();
        for service in [Service::Data, Service::Ledger, Service::Kms] {
            for (kind, access) in self.of(function, service) {
                let each = access.actions.iter().chain(&access.keys);
                grants.extend(each.map(|grant| format!("{service:?} {kind:?} {grant}")));
            }
        }
        grants
    }

    /// The functions.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What a function may do with a service, reading and writing apart.
    pub fn of(&self, function: &str, service: Service) -> impl Iterator<Item = (Use, &Access)> {
        let uses = self.0.get(function).and_then(|services| services.get(&service));
        uses.into_iter().flatten().map(|(kind, access)| (*kind, access))
    }
}

/// The pattern, as IAM's `StringLike` reads it, of all partition keys that are of one kind with this one.
///
/// A platform's own rows begin with its id; what follows are its mode, ids, one word for the kind of partition, and after
/// it perhaps a day or a shard. Only the word, and that something follows it, are kept.
pub fn key_pattern(pk: &str) -> String {
    let mut parts = pk.split('#');
    let first = parts.next().unwrap_or_default();
    if !is_id(first) {
        return match (first, parts.next()) {
            ("work", Some(shard)) => format!("work#{}", "?".repeat(shard.len())),
            (word, Some(_)) => format!("{word}#*"),
            (word, None) => word.to_owned(),
        };
    }
    let mut words = parts.skip_while(|part| is_id(part) || ["live", "test"].contains(part));
    match (words.next(), words.next()) {
        // Exactly an id: a star would stand for everything else of the platform's as well.
        (None, _) => format!("plt_{}", "?".repeat(ID_CHARACTERS)),
        (Some(word), None) => format!("*#{word}"),
        (Some(word), Some(_)) => format!("*#{word}#*"),
    }
}

/// Characters of an id after its prefix.
const ID_CHARACTERS: usize = 26;

fn is_id(part: &str) -> bool {
    let known = ["plt_", "ses_", "agt_"];
    known.iter().any(|prefix| part.strip_prefix(prefix).is_some_and(|rest| rest.len() == ID_CHARACTERS))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_one_kind_have_one_pattern_and_values_never_share_it_with_names() {
        let (platform, session) = (format!("plt_{}", "0".repeat(26)), format!("ses_{}", "1".repeat(26)));
        for (pk, pattern) in [
            (format!("{platform}#live#names"), "*#names"),
            (format!("{platform}#test#{session}#names"), "*#names"),
            (format!("{platform}#test#{session}#values"), "*#values"),
            (format!("{platform}#live#audit#2026-11"), "*#audit#*"),
            (format!("{platform}#keys"), "*#keys"),
            (platform.clone(), "plt_??????????????????????????"),
            ("credential#00ff".into(), "credential#*"),
            ("work#a".into(), "work#?"),
            ("root".into(), "root"),
        ] {
            assert_eq!(key_pattern(&pk), pattern, "{pk}");
        }
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let mut permissions = Permissions::default();
        permissions.add_function("health");
        let call = |service, action: &str, keys: Option<&str>| Call {
            service,
            action: action.into(),
            keys: keys.map(str::to_owned),
        };
        permissions.add("secrets-list", call(Service::Data, "GetItem", Some("*#names")));
        permissions.add("secrets-list", call(Service::Data, "UpdateItem", Some("credential#*")));
        permissions.add("secrets-set", call(Service::Kms, "Decrypt", None));
        let back: Permissions = serde_json::from_str(&permissions.to_text().unwrap()).unwrap();
        assert_eq!(back, permissions);
        assert_eq!(back.of("secrets-list", Service::Data).count(), 2);
        assert_eq!(back.functions().collect::<Vec<_>>(), ["health", "secrets-list", "secrets-set"]);
    }
}
