//! Checks on request members, refused in the words of AWS's own validation. Limits are those of the KMS service model.

use std::ops::RangeInclusive;

use crate::error::{EmulatorError, code};
use crate::wire::Blob;
use crate::wire::requests::NotEmulated;

/// Largest plaintext, and largest message of a MAC, in bytes.
pub(crate) const MAX_PLAINTEXT: usize = 4096;

/// Largest ciphertext blob or MAC, in bytes.
pub(crate) const MAX_CIPHERTEXT: usize = 6144;

/// Most bytes of a data key or of one random answer.
pub(crate) const MAX_RANDOM: i64 = 1024;

/// Longest text that names a key, in characters.
const MAX_KEY_ID: usize = 2048;

/// The one algorithm of symmetric keys.
pub(crate) const SYMMETRIC_ALGORITHM: &str = "SYMMETRIC_DEFAULT";

/// The one algorithm of `HMAC_256` keys.
pub(crate) const MAC_ALGORITHM: &str = "HMAC_SHA_256";

/// A `ValidationException`.
pub(crate) fn invalid(message: impl Into<String>) -> EmulatorError {
    EmulatorError::refused(code::VALIDATION, message)
}

/// An `UnsupportedOperationException`.
pub(crate) fn unsupported(message: impl Into<String>) -> EmulatorError {
    EmulatorError::refused(code::UNSUPPORTED, message)
}

/// The standard text for one broken constraint. `value` is only ever something that is no secret.
fn constraint(value: Option<&str>, member: &str, rule: &str) -> EmulatorError {
    let value = value.map(|value| format!(" {value}")).unwrap_or_default();
    invalid(format!(
        "1 validation error detected: Value{value} at '{member}' failed to satisfy constraint: Member must {rule}"
    ))
}

/// A member that must be there.
pub(crate) fn required<'a, T>(value: &'a Option<T>, member: &str) -> Result<&'a T, EmulatorError> {
    value.as_ref().ok_or_else(|| constraint(Some("null"), member, "not be null"))
}

/// A text that names a key.
pub(crate) fn key_text<'a>(value: &'a Option<String>, member: &str) -> Result<&'a str, EmulatorError> {
    text(required(value, member)?, member, 1..=MAX_KEY_ID)
}

/// A text with a length, in characters, within `lengths`.
pub(crate) fn text<'a>(value: &'a str, member: &str, lengths: RangeInclusive<usize>) -> Result<&'a str, EmulatorError> {
    length(value.chars().count(), member, &lengths)?;
    Ok(value)
}

/// Bytes that must be there: at least one, at most `max`.
pub(crate) fn blob<'a>(value: &'a Option<Blob>, member: &str, max: usize) -> Result<&'a [u8], EmulatorError> {
    let bytes = required(value, member)?.bytes();
    length(bytes.len(), member, &(1..=max))?;
    Ok(bytes)
}

fn length(length: usize, member: &str, allowed: &RangeInclusive<usize>) -> Result<(), EmulatorError> {
    if length < *allowed.start() {
        return Err(constraint(None, member, &format!("have length greater than or equal to {}", allowed.start())));
    }
    if length > *allowed.end() {
        return Err(constraint(None, member, &format!("have length less than or equal to {}", allowed.end())));
    }
    Ok(())
}

/// A whole number within `allowed`, whose bounds must fit a `u32`.
pub(crate) fn number(value: i64, member: &str, allowed: RangeInclusive<i64>) -> Result<u32, EmulatorError> {
    let shown = format!("'{value}'");
    if value < *allowed.start() {
        let rule = format!("have value greater than or equal to {}", allowed.start());
        return Err(constraint(Some(&shown), member, &rule));
    }
    if value > *allowed.end() {
        let rule = format!("have value less than or equal to {}", allowed.end());
        return Err(constraint(Some(&shown), member, &rule));
    }
    u32::try_from(value).map_err(|_| EmulatorError::Internal("a range beyond 32 bits"))
}

/// The refusal of a text that is none of the values of its enumeration.
pub(crate) fn not_in_set(value: &str, member: &str, known: &[&str]) -> EmulatorError {
    let rule = format!("satisfy enum value set: [{}]", known.join(", "));
    constraint(Some(&format!("'{value}'")), member, &rule)
}

/// The encryption algorithm, which can be left out.
pub(crate) fn encryption_algorithm(value: &Option<String>, member: &str) -> Result<(), EmulatorError> {
    const KNOWN: [&str; 4] = [SYMMETRIC_ALGORITHM, "RSAES_OAEP_SHA_1", "RSAES_OAEP_SHA_256", "SM2PKE"];
    match value.as_deref() {
        None => Ok(()),
        Some(name) => algorithm(name, member, &KNOWN, "SYMMETRIC_DEFAULT"),
    }
}

/// The MAC algorithm, which must be given.
pub(crate) fn mac_algorithm(value: &Option<String>) -> Result<(), EmulatorError> {
    const KNOWN: [&str; 4] = [MAC_ALGORITHM, "HMAC_SHA_224", "HMAC_SHA_384", "HMAC_SHA_512"];
    algorithm(required(value, "macAlgorithm")?, "macAlgorithm", &KNOWN, "HMAC_256")
}

/// Accepts the first of the `known` names only.
fn algorithm(name: &str, member: &str, known: &[&str], spec: &str) -> Result<(), EmulatorError> {
    if !known.contains(&name) {
        return Err(not_in_set(name, member, known));
    }
    if known.first() == Some(&name) {
        return Ok(());
    }
    let message = format!("Algorithm {name} is incompatible with key spec {spec}.");
    Err(EmulatorError::refused(code::INVALID_KEY_USAGE, message))
}

/// Refuses members that would change the outcome and are not emulated.
pub(crate) fn emulated(request: &NotEmulated) -> Result<(), EmulatorError> {
    let members = [
        ("DryRun", request.dry_run == Some(true)),
        ("MultiRegion", request.multi_region == Some(true)),
        ("Recipient", request.recipient.is_some()),
        ("CustomKeyStoreId", request.custom_key_store_id.is_some()),
        ("XksKeyId", request.xks_key_id.is_some()),
    ];
    match members.iter().find(|(_, present)| *present) {
        Some((name, _)) => Err(unsupported(format!("{name} is not emulated."))),
        None => Ok(()),
    }
}
