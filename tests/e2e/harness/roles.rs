//! Roles: what the template gives each function, held against every call that any of them makes in these tests.

use crate::allowed::wire;
use std::collections::BTreeSet;
use std::sync::{LazyLock, Mutex};
use theazo_deploy::{Permissions, Service, repository};

static RECORD: LazyLock<Permissions> =
    LazyLock::new(|| Permissions::read(&repository().join("infra/permissions.json")).unwrap());

/// What was refused.
static REFUSED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// Has every local stack of this process refuse what a function's role does not grant it. Not while the record is made anew.
pub fn enforce_roles() {
    if std::env::var_os("THEAZO_RECORD_PERMISSIONS").is_none() {
        theazo_store::enforce_roles(may_call);
    }
}

/// Fails if a role did not grant what a function called, whichever test it was: not all calls fail with what they write.
pub fn assert_roles_suffice() {
    let refused = REFUSED.lock().unwrap().clone();
    assert!(refused.is_empty(), "not in infra/permissions.json: {refused:#?}");
}

/// Whether a function's role lets it call DynamoDB at all, and KMS.
pub fn may_call_services(function: &str) -> (bool, bool) {
    let any = |service| RECORD.of(function, service).next().is_some();
    (any(Service::Data) || any(Service::Ledger), any(Service::Kms))
}

fn may_call(function: &str, target: &str, body: &[u8]) -> bool {
    let body = serde_json::from_slice(body).unwrap();
    let mut called = Permissions::default();
    wire::calls(target, &body, None).into_iter().for_each(|call| called.add(function, call));
    let granted = RECORD.grants(function);
    let refused: Vec<_> = called.grants(function).into_iter().filter(|grant| !granted.contains(grant)).collect();
    let may = refused.is_empty();
    REFUSED.lock().unwrap().extend(refused.into_iter().map(|grant| format!("{function}: {grant}")));
    may
}
