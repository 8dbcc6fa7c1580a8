//! Making, describing, listing, enabling and disabling keys.

use crate::check;
use crate::clock::wire_seconds;
use crate::error::EmulatorError;
use crate::ids::{ACCOUNT, KeyId};
use crate::operations::page::page;
use crate::state::{Key, KeySpec, KeyState};
use crate::store::Store;
use crate::wire::{answers, requests};

/// Key specs of AWS that are not emulated.
const OTHER_SPECS: [&str; 15] = [
    "RSA_2048",
    "RSA_3072",
    "RSA_4096",
    "ECC_NIST_P256",
    "ECC_NIST_P384",
    "ECC_NIST_P521",
    "ECC_SECG_P256K1",
    "ECC_NIST_EDWARDS25519",
    "HMAC_224",
    "HMAC_384",
    "HMAC_512",
    "SM2",
    "ML_DSA_44",
    "ML_DSA_65",
    "ML_DSA_87",
];

pub(crate) fn create_key(
    store: &Store,
    request: requests::CreateKey,
) -> Result<answers::KeyDescription, EmulatorError> {
    let spec = spec(&request)?;
    usage(&request, spec)?;
    match request.origin.as_deref() {
        None | Some("AWS_KMS") => {}
        Some(origin @ ("EXTERNAL" | "AWS_CLOUDHSM" | "EXTERNAL_KEY_STORE")) => {
            return Err(check::unsupported(format!("Origin {origin} is not emulated.")));
        }
        Some(other) => return Err(check::not_in_set(other, "origin", &["AWS_KMS", "EXTERNAL"])),
    }
    let description = request.description.unwrap_or_default();
    check::text(&description, "description", 0..=8192)?;
    let (id, key) = (KeyId::make()?, Key::make(spec, description)?);
    let answer = describe(id, &key);
    store.change(|state| {
        state.keys.insert(id, key);
        Ok(answer)
    })
}

fn spec(request: &requests::CreateKey) -> Result<KeySpec, EmulatorError> {
    let (name, member) = match (&request.key_spec, &request.customer_master_key_spec) {
        (Some(_), Some(_)) => {
            return Err(check::invalid(
                "You cannot specify KeySpec and CustomerMasterKeySpec in the same request. \
                 CustomerMasterKeySpec is deprecated.",
            ));
        }
        (Some(name), None) => (name.as_str(), "keySpec"),
        (None, Some(name)) => (name.as_str(), "customerMasterKeySpec"),
        (None, None) => return Ok(KeySpec::Symmetric),
    };
    let known = [KeySpec::Symmetric, KeySpec::Hmac256];
    if let Some(spec) = known.into_iter().find(|spec| spec.name() == name) {
        return Ok(spec);
    }
    if OTHER_SPECS.contains(&name) {
        return Err(check::unsupported(format!("KeySpec {name} is not emulated.")));
    }
    let names: Vec<_> = known.iter().map(|spec| spec.name()).chain(OTHER_SPECS).collect();
    Err(check::not_in_set(name, member, &names))
}

/// Like AWS: the usage may be left out for symmetric keys only.
fn usage(request: &requests::CreateKey, spec: KeySpec) -> Result<(), EmulatorError> {
    const KNOWN: [&str; 4] = ["ENCRYPT_DECRYPT", "GENERATE_VERIFY_MAC", "SIGN_VERIFY", "KEY_AGREEMENT"];
    let name = request.key_usage.as_deref().unwrap_or("ENCRYPT_DECRYPT");
    if !KNOWN.contains(&name) {
        return Err(check::not_in_set(name, "keyUsage", &KNOWN));
    }
    if name == spec.usage() {
        return Ok(());
    }
    Err(check::invalid(format!("KeyUsage {name} is not compatible with KeySpec {}", spec.name())))
}

pub(crate) fn describe_key(store: &Store, request: requests::OneKey) -> Result<answers::KeyDescription, EmulatorError> {
    let text = check::key_text(&request.key_id, "keyId")?;
    store.read(|state| state.resolve(text).map(|(id, key)| describe(id, key)))
}

fn describe(id: KeyId, key: &Key) -> answers::KeyDescription {
    let due = match key.state {
        KeyState::PendingDeletion { due_ms } => Some(due_ms),
        KeyState::Enabled | KeyState::Disabled => None,
    };
    let symmetric = key.spec == KeySpec::Symmetric;
    answers::KeyDescription {
        key_metadata: answers::KeyMetadata {
            account: ACCOUNT,
            key_id: id.to_string(),
            arn: id.arn(),
            creation_date: wire_seconds(key.created_ms),
            enabled: key.state == KeyState::Enabled,
            description: key.description.clone(),
            key_usage: key.spec.usage(),
            key_state: key.state.name(),
            deletion_date: due.map(wire_seconds),
            origin: "AWS_KMS",
            key_manager: "CUSTOMER",
            customer_master_key_spec: key.spec.name(),
            key_spec: key.spec.name(),
            encryption_algorithms: symmetric.then_some([check::SYMMETRIC_ALGORITHM]),
            mac_algorithms: (!symmetric).then_some([check::MAC_ALGORITHM]),
            multi_region: false,
        },
    }
}

pub(crate) fn list_keys(store: &Store, request: requests::ListKeys) -> Result<answers::ListKeys, EmulatorError> {
    store.read(|state| {
        let entries = state.keys.keys().map(|id| {
            let entry = answers::KeyEntry { key_id: id.to_string(), key_arn: id.arn() };
            (id.to_string(), entry)
        });
        let page = page(entries, request.limit, 100, request.marker.as_deref())?;
        Ok(answers::ListKeys { truncated: page.next_marker.is_some(), keys: page.items, next_marker: page.next_marker })
    })
}

pub(crate) fn enable_key(store: &Store, request: requests::OneKey) -> Result<answers::Nothing, EmulatorError> {
    switch(store, request, KeyState::Enabled)
}

pub(crate) fn disable_key(store: &Store, request: requests::OneKey) -> Result<answers::Nothing, EmulatorError> {
    switch(store, request, KeyState::Disabled)
}

fn switch(store: &Store, request: requests::OneKey, to: KeyState) -> Result<answers::Nothing, EmulatorError> {
    let text = check::key_text(&request.key_id, "keyId")?;
    store.change(|state| {
        let id = state.resolve_without_alias(text)?;
        let key = state.key_mut(id)?;
        key.must_not_be_pending_deletion(id)?;
        key.state = to;
        Ok(answers::Nothing {})
    })
}
