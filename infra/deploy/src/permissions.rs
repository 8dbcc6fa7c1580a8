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
    /// The attributes that it names, its key's among them. They count for an update of [`CREDENTIALS`] only.
    pub attributes: BTreeSet<String>,
}

/// The partitions of credentials' rows. Every request counts in one of them, so almost every function may change them: in
/// the counters alone, or it could make a credential.
pub const CREDENTIALS: &str = "credential#*";

/// What an action may be done to. Keys are kept for each action by itself: who may delete one kind of row and read another
/// may not delete the other. In a transaction, IAM is asked about each of its parts under the part's own action.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Patterns of partition keys; empty where there are none.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub keys: BTreeSet<String>,
    /// Patterns of partition keys with the only attributes that may be named there.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub attributes: BTreeMap<String, BTreeSet<String>>,
}

/// Of every function, by name: of each service, each action with what it may be done to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Permissions(BTreeMap<String, BTreeMap<Service, BTreeMap<String, Access>>>);

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
        let is_narrow = call.action == "UpdateItem" && call.keys.as_deref() == Some(CREDENTIALS);
        let access = services.entry(call.service).or_default().entry(call.action).or_default();
        match call.keys {
            Some(keys) if is_narrow => access.attributes.entry(keys).or_default().extend(call.attributes),
            keys => access.keys.extend(keys),
        }
    }

    /// All that a function may do, a line each: service, action, and a pattern of keys if it names any, with an attribute
    /// where it may not name all.
    pub fn grants(&self, function: &str) -> BTreeSet<String> {
        let mut grants = BTreeSet::new();
        for service in [Service::Data, Service::Ledger, Service::Kms] {
            for (action, access) in self.of(function, service) {
                if access.keys.is_empty() && access.attributes.is_empty() {
                    grants.insert(format!("{service:?} {action}"));
                }
                grants.extend(access.keys.iter().map(|keys| format!("{service:?} {action} {keys}")));
                for (keys, attributes) in &access.attributes {
                    grants.extend(attributes.iter().map(|name| format!("{service:?} {action} {keys} {name}")));
                }
            }
        }
        grants
    }

    /// The functions.
    pub fn functions(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What a function may do with a service: actions, each with what it may be done to.
    pub fn of(&self, function: &str, service: Service) -> impl Iterator<Item = (&str, &Access)> {
        let actions = self.0.get(function).and_then(|services| services.get(&service));
        actions.into_iter().flatten().map(|(action, access)| (action.as_str(), access))
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

    fn call(service: Service, action: &str, keys: Option<&str>, attributes: &[&str]) -> Call {
        let attributes = attributes.iter().map(|name| (*name).to_owned()).collect();
        Call { service, action: action.into(), keys: keys.map(str::to_owned), attributes }
    }

    #[test]
    fn a_record_is_read_back_as_it_was_written() {
        let mut permissions = Permissions::default();
        permissions.add_function("health");
        permissions.add("secrets-list", call(Service::Data, "GetItem", Some("*#names"), &["pk", "sk"]));
        permissions.add("secrets-list", call(Service::Data, "UpdateItem", Some(CREDENTIALS), &["pk", "hits"]));
        permissions.add("secrets-set", call(Service::Kms, "Decrypt", None, &[]));
        let back: Permissions = serde_json::from_str(&permissions.to_text().unwrap()).unwrap();
        assert_eq!(back, permissions);
        assert_eq!(back.of("secrets-list", Service::Data).count(), 2);
        assert_eq!(back.functions().collect::<Vec<_>>(), ["health", "secrets-list", "secrets-set"]);
    }

    #[test]
    fn what_is_granted_is_pairs_of_action_and_keys_and_of_a_credential_single_attributes() {
        let mut permissions = Permissions::default();
        for (action, keys, attributes) in [
            ("GetItem", "*#names", &["pk"][..]),
            ("DeleteItem", "*#values", &[]),
            ("UpdateItem", "*#sessions", &["status"]),
            ("UpdateItem", CREDENTIALS, &["hits", "window"]),
            ("PutItem", CREDENTIALS, &["mac"]),
        ] {
            permissions.add("f", call(Service::Data, action, Some(keys), attributes));
        }
        permissions.add("f", call(Service::Kms, "Decrypt", None, &[]));
        let grants: Vec<_> = permissions.grants("f").into_iter().collect();
        let expected = [
            "Data DeleteItem *#values",
            "Data GetItem *#names",
            "Data PutItem credential#*",
            "Data UpdateItem *#sessions",
            "Data UpdateItem credential#* hits",
            "Data UpdateItem credential#* window",
            "Kms Decrypt",
        ];
        assert_eq!(grants, expected);
    }
}
