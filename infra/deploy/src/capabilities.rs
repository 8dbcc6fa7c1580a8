//! What the capabilities of the route table stand for at the table and the key service.
//!
//! A role is made of what its function was recorded to call; that it was recorded does not make it right. Here stands what a
//! function may call for the sake of what it is handed, and the record goes nowhere beyond.

use crate::permissions::{CREDENTIALS, Call, Permissions, Service};
use crate::repository;
use std::collections::BTreeSet;
use theazo_functions::deployment::CapabilityName;
use theazo_functions::routes::{ROUTES, Route};

/// Service, kind of partition, and actions. The key service knows no partitions.
type Grant = (&'static str, &'static str, &'static [&'static str]);

/// The attributes of a credential's row in which requests are counted, and those that the count depends on.
const COUNTING: [&str; 5] = ["hits", "pk", "revoked_at_ms", "sk", "window"];
const COUNTED: &str = "Data UpdateItem credential#*";

/// What is done for a capability, by whichever function has it.
fn stands_for(capability: CapabilityName) -> &'static [Grant] {
    match capability {
        CapabilityName::Sessions => &[
            ("Data", "*#audit#*", &["PutItem"]),
            ("Data", "*#counters", &["GetItem", "PutItem", "UpdateItem"]),
            ("Data", "*#logs#*", &["PutItem"]),
            ("Data", "*#sessions", &["ConditionCheckItem", "GetItem", "PutItem", "Query"]),
            ("Data", "*#users", &["DeleteItem", "GetItem", "PutItem"]),
        ],
        CapabilityName::Agents => &[
            ("Data", "*#agents", &["GetItem", "PutItem", "Query", "UpdateItem"]),
            ("Data", "*#audit#*", &["PutItem"]),
            ("Data", "*#copies", &["BatchWriteItem", "Query"]),
            ("Data", "*#counters", &["UpdateItem"]),
            ("Data", "*#live-agents", &["DeleteItem", "PutItem", "Query"]),
            ("Data", "*#logs#*", &["PutItem"]),
            ("Data", "*#token-copies", &["BatchWriteItem", "Query"]),
            ("Data", "*#usage#*", &["UpdateItem"]),
            ("Data", "credential#*", &["DeleteItem"]),
            ("Data", "work#?", &["DeleteItem", "PutItem"]),
        ],
        CapabilityName::SecretNames => &[("Data", "*#names", &["GetItem"])],
        CapabilityName::SecretSealer => &[
            ("Data", "*#audit#*", &["PutItem"]),
            ("Data", "*#names", &["ConditionCheckItem", "DeleteItem", "GetItem", "PutItem"]),
            ("Data", "*#providers", &["Query"]),
            ("Data", "*#values", &["DeleteItem", "PutItem", "Query"]),
            ("Data", "plt_??????????????????????????", &["ConditionCheckItem", "GetItem"]),
            ("Data", "root", &["GetItem"]),
            ("Kms", "", &["Decrypt"]),
            ("Ledger", "*#deleted", &["PutItem"]),
        ],
        CapabilityName::SecretOpener => &[
            ("Data", "*#names", &["GetItem"]),
            ("Data", "*#values", &["GetItem", "Query"]),
            ("Data", "plt_??????????????????????????", &["GetItem"]),
            ("Data", "root", &["GetItem"]),
            ("Kms", "", &["Decrypt"]),
        ],
        CapabilityName::AgentCopies => &[
            ("Data", "*#copies", &["BatchWriteItem", "Query"]),
            ("Data", "plt_??????????????????????????", &["GetItem"]),
            ("Data", "root", &["GetItem"]),
            ("Kms", "", &["Decrypt"]),
        ],
        CapabilityName::AgentTokens => {
            &[("Data", "*#token-copies", &["BatchWriteItem"]), ("Data", "credential#*", &["PutItem"])]
        }
        CapabilityName::TokenCopies => &[("Data", "*#token-copies", &["Query"])],
        CapabilityName::AgentReports => {
            &[("Data", "*#reports", &["UpdateItem"]), ("Data", "*#usage#*", &["UpdateItem"])]
        }
        CapabilityName::ApiKeys => &[
            ("Data", "*#audit#*", &["PutItem"]),
            ("Data", "*#keys", &["ConditionCheckItem", "GetItem", "PutItem", "Query"]),
            ("Data", "credential#*", &["BatchGetItem", "GetItem", "PutItem", "UpdateItem"]),
            ("Data", "plt_??????????????????????????", &["ConditionCheckItem"]),
            ("Ledger", "*#deleted", &["PutItem"]),
        ],
        CapabilityName::SessionTokens => &[
            ("Data", "*#audit#*", &["PutItem"]),
            ("Data", "*#sessions", &["GetItem", "UpdateItem"]),
            ("Data", "credential#*", &["PutItem"]),
            ("Ledger", "*#deleted", &["PutItem"]),
        ],
        CapabilityName::ProviderConfigs => {
            &[("Data", "*#audit#*", &["PutItem"]), ("Data", "*#providers", &["DeleteItem", "PutItem", "Query"])]
        }
        CapabilityName::ProviderCredentials => &[
            ("Data", "*#audit#*", &["PutItem"]),
            ("Data", "*#names", &["GetItem", "PutItem"]),
            ("Data", "*#providers", &["PutItem"]),
            ("Data", "*#values", &["GetItem", "PutItem"]),
            ("Data", "plt_??????????????????????????", &["ConditionCheckItem", "GetItem"]),
            ("Data", "root", &["GetItem"]),
            ("Data", "work#?", &["PutItem"]),
            ("Kms", "", &["Decrypt"]),
        ],
        // Configuration, and no call.
        CapabilityName::HostRanges => &[],
        CapabilityName::Replays => &[("Data", "*#replays", &["BatchGetItem", "DeleteItem", "GetItem", "PutItem"])],
        CapabilityName::AuditLog => &[("Data", "*#audit#*", &["Query"])],
        CapabilityName::LogWriter => &[("Data", "*#logs#*", &["BatchWriteItem"])],
        CapabilityName::Logs => &[("Data", "*#agents", &["GetItem"]), ("Data", "*#logs#*", &["Query"])],
        CapabilityName::Usage => &[("Data", "*#usage#*", &["BatchGetItem", "Query"])],
        CapabilityName::Measurements => &[("Data", "*#usage#*", &["UpdateItem"])],
        CapabilityName::Metrics => &[("Data", "*#usage#*", &["Query"])],
        CapabilityName::Sandboxes => &[
            ("Data", "*#disk", &["BatchGetItem", "BatchWriteItem", "DeleteItem", "GetItem", "PutItem", "Query"]),
            ("Data", "*#providers", &["GetItem", "Query"]),
            ("Data", "*#values", &["GetItem"]),
            ("Data", "plt_??????????????????????????", &["GetItem"]),
            ("Data", "root", &["GetItem"]),
            ("Kms", "", &["Decrypt"]),
        ],
    }
}

/// What it takes to know who calls: that their platform is not suspended, and for a token, that its session and its agent
/// stand behind it. That also goes for tokens of a kind that the route does not take: whoever sends a good one is told that
/// it may not (`403`), and whoever sends another is told nothing (`401`). The request is counted in the credential's row
/// beside that.
const KNOWING: [Grant; 3] =
    [("Data", "*#agents", &["GetItem"]), ("Data", "*#sessions", &["GetItem"]), ("Data", "*#standing", &["GetItem"])];

fn texts(grants: &[Grant]) -> impl Iterator<Item = String> {
    grants.iter().flat_map(|(service, keys, actions)| {
        actions.iter().map(move |action| format!("{service} {action} {keys}").trim_end().to_owned())
    })
}

/// All that a function may call on account of the route table.
fn allowed(route: &Route) -> BTreeSet<String> {
    let knowing = if route.info.authenticates() { &KNOWING[..] } else { &[] };
    texts(knowing).chain(route.capabilities.iter().flat_map(|capability| texts(stands_for(*capability)))).collect()
}

/// What functions of the route table were recorded to call that no capability of theirs stands for, a line each. Scheduled
/// functions act for everybody, and are not in the table.
fn beyond(permissions: &Permissions) -> Vec<String> {
    let mut found = Vec::new();
    for route in ROUTES {
        let allowed = allowed(route);
        for grant in permissions.grants(route.info.name) {
            let attribute = grant.strip_prefix(COUNTED).and_then(|rest| rest.strip_prefix(' '));
            let is_allowed = match attribute {
                Some(name) if COUNTING.contains(&name) => route.info.authenticates(),
                Some(_) => allowed.contains(COUNTED),
                None => allowed.contains(&grant),
            };
            if !is_allowed {
                found.push(format!("{}: {grant}", route.info.name));
            }
        }
    }
    found
}

fn recorded() -> Permissions {
    Permissions::read(&repository().join("infra/permissions.json")).unwrap()
}

#[test]
fn no_function_calls_what_its_capabilities_do_not_stand_for() {
    assert_eq!(beyond(&recorded()), Vec::<String>::new());
}

#[test]
fn what_a_capability_stands_for_is_called_by_some_function_that_has_it() {
    let recorded = recorded();
    let mut capabilities: Vec<CapabilityName> = Vec::new();
    for capability in ROUTES.iter().flat_map(|route| route.capabilities) {
        if !capabilities.contains(capability) {
            capabilities.push(*capability);
        }
    }
    let mut spare = Vec::new();
    for capability in capabilities {
        let having = || ROUTES.iter().filter(|route| route.capabilities.contains(&capability));
        for grant in texts(stands_for(capability)) {
            let calls = |route: &&&Route| {
                recorded.grants(route.info.name).iter().any(|call| call.split(' ').take(3).eq(grant.split(' ')))
            };
            if !having().any(|route| calls(&route)) {
                spare.push(format!("{capability:?}: {grant}"));
            }
        }
    }
    assert_eq!(spare, Vec::<String>::new());
}

#[test]
fn only_what_makes_credentials_or_takes_one_back_may_change_what_they_say() {
    let recorded = recorded();
    let mut changing: Vec<&str> = Vec::new();
    for route in ROUTES {
        let writes = |grant: &String| {
            let counts = |name: &&str| grant.ends_with(&format!(" {name}"));
            grant.contains(CREDENTIALS)
                && ["Put", "Update", "BatchWrite"].iter().any(|action| grant.starts_with(&format!("Data {action}")))
                && !(grant.starts_with(COUNTED) && COUNTING.iter().any(counts))
        };
        if recorded.grants(route.info.name).iter().any(writes) {
            changing.push(route.info.name);
        }
    }
    let expected: &[&str] = &[
        "api-keys-create",
        "api-keys-rotate",
        "api-keys-delete",
        "sessions-tokens-create",
        "sessions-resume",
        "agents-create",
        "agents-resume",
        "agents-restart",
        "agents-retry",
    ];
    assert_eq!(changing, expected);
}

#[test]
fn a_call_beyond_is_named_with_its_function() {
    let mut permissions = recorded();
    let call = |action: &str, keys: &str, attribute: &str| Call {
        service: Service::Data,
        action: action.into(),
        keys: Some(keys.into()),
        attributes: BTreeSet::from([attribute.to_owned()]),
    };
    permissions.add("secrets-list", call("Query", "*#values", "pk"));
    permissions.add("sandbox-log", call("UpdateItem", CREDENTIALS, "mac"));
    permissions.add("health", call("UpdateItem", CREDENTIALS, "hits"));
    let mut found = beyond(&permissions);
    found.sort_unstable();
    let expected = [
        "health: Data UpdateItem credential#* hits",
        "sandbox-log: Data UpdateItem credential#* mac",
        "secrets-list: Data Query *#values",
    ];
    assert_eq!(found, expected);
}
