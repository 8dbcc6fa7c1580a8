//! The vault's core as its callers see it: what opens, and all that must not.
//!
//! - This file: lengths, altered records, keys, contexts that are refused.
//! - `places`: a record opens where it was sealed for and nowhere else.
//! - `fuzz`: random values, random bytes, and real records mutated at random.

#![allow(clippy::unwrap_used, reason = "a test may")]

mod fuzz;
mod places;
mod tokens;

use std::collections::HashSet;

use theazo_vault::{
    Context, Flags, MAX_FIELD_LEN, MAX_RECORD_LEN, MAX_VALUE_LEN, MIN_RECORD_LEN, PlatformKey, Purpose, RecordHeader,
    RootKey, Scope, SecretValue, VaultError, make_salt, open, seal,
};
use zeroize::Zeroizing;

/// Bytes around the ciphertext: header, salt, nonce, commitment, tag.
const OVERHEAD: usize = 86 + 16;

const BASE: Context<'static> = Context {
    deployment: "prod",
    platform: "plt_1",
    mode: "live",
    scope: Scope::Session("ses_1"),
    purpose: Purpose::AgentSecret,
    name: "DATABASE_URL",
    version: 1,
    expires_at_ms: None,
    flags: Flags { mask: true, inherit: true },
};

/// Where the copy of a value lies that an agent booted with. Its id is that of [`BASE`]'s session, so that only the kind
/// of the scope tells the two apart.
const COPY: Context<'static> = Context {
    scope: Scope::Agent("ses_1"),
    purpose: Purpose::AgentCopy,
    flags: Flags { mask: true, inherit: false },
    ..BASE
};

fn key_of(platform: &str, root_version: u32, key_version: u32) -> PlatformKey {
    let root = RootKey::from_bytes(root_version, Zeroizing::new([7; 32]));
    root.derive_platform_key(platform, &[9; 32], key_version)
}

fn base_key() -> PlatformKey {
    key_of(BASE.platform, 1, 1)
}

fn value(len: usize) -> SecretValue {
    SecretValue::from_bytes(vec![b'v'; len])
}

/// Which error altering the byte at this offset of a record must give.
fn refusal_at(offset: usize, altered: u8) -> VaultError {
    match offset {
        0 => VaultError::UnknownFormat(altered),
        1 => VaultError::UnknownSuite(altered),
        2..10 => VaultError::WrongKeyVersion,
        _ => VaultError::NotAuthentic,
    }
}

#[test]
fn what_was_sealed_opens_at_every_interesting_length() {
    let key = base_key();
    for len in [0, 1, 62, 63, 64, 65, 127, 128, 4096, MAX_VALUE_LEN - 1, MAX_VALUE_LEN] {
        let record = seal(&key, &BASE, &value(len)).unwrap();
        assert_eq!(record.len(), (len / 64 + 1) * 64 + OVERHEAD);
        assert!((MIN_RECORD_LEN..=MAX_RECORD_LEN).contains(&record.len()));
        let opened = open(&key, &BASE, &record).unwrap();
        assert!(opened.expose() == vec![b'v'; len], "{len}");
        assert_eq!((opened.len(), opened.is_empty()), (len, len == 0));
    }
    assert_eq!(seal(&key, &BASE, &value(0)).unwrap().len(), MIN_RECORD_LEN);
    assert_eq!(seal(&key, &BASE, &value(MAX_VALUE_LEN)).unwrap().len(), MAX_RECORD_LEN);
}

#[test]
fn a_value_over_32_kib_is_refused() {
    assert_eq!(MAX_VALUE_LEN, 32768);
    assert_eq!(seal(&base_key(), &BASE, &value(MAX_VALUE_LEN + 1)).err(), Some(VaultError::TooLarge));
}

#[test]
fn a_record_does_not_contain_its_value_and_hides_its_exact_length() {
    let key = base_key();
    let record = seal(&key, &BASE, &SecretValue::from_text("canary-canary".to_owned())).unwrap();
    assert!(!record.windows(6).any(|window| window == b"canary"));
    let lengths: HashSet<usize> = (0..64).map(|len| seal(&key, &BASE, &value(len)).unwrap().len()).collect();
    assert_eq!(lengths.len(), 1);
}

#[test]
fn the_header_names_the_key_versions() {
    let record = seal(&key_of("plt_1", 0x0102_0304, 0x0506_0708), &BASE, &value(1)).unwrap();
    assert_eq!(record[..10], [1, 1, 1, 2, 3, 4, 5, 6, 7, 8]);
    let header = RecordHeader { root_version: 0x0102_0304, platform_key_version: 0x0506_0708 };
    assert_eq!(RecordHeader::parse(&record), Ok(header));
    let key = key_of("plt_1", 3, 4);
    assert_eq!((key.root_version(), key.key_version()), (3, 4));
    assert_eq!(RootKey::from_bytes(3, Zeroizing::new([0; 32])).version(), 3);
}

#[test]
fn a_record_with_any_one_bit_flipped_does_not_open() {
    let key = base_key();
    let record = seal(&key, &BASE, &value(20)).unwrap();
    for bit in 0..record.len() * 8 {
        let mut altered = record.clone();
        altered[bit / 8] ^= 1 << (bit % 8);
        let expected = refusal_at(bit / 8, altered[bit / 8]);
        assert_eq!(open(&key, &BASE, &altered).err(), Some(expected), "bit {bit}");
    }
}

#[test]
fn a_record_cut_at_any_length_does_not_open() {
    let key = base_key();
    let record = seal(&key, &BASE, &value(150)).unwrap();
    for len in 0..record.len() {
        // A cut by whole blocks has a length that records have, and must fail later.
        let whole = len >= MIN_RECORD_LEN && (len - OVERHEAD).is_multiple_of(64);
        let expected = if whole { VaultError::NotAuthentic } else { VaultError::Malformed };
        assert_eq!(open(&key, &BASE, &record[..len]).err(), Some(expected), "cut to {len}");
        assert_eq!(RecordHeader::parse(&record[..len]).is_ok(), whole, "cut to {len}");
    }
}

#[test]
fn a_record_with_something_appended_does_not_open() {
    let key = base_key();
    let record = seal(&key, &BASE, &value(20)).unwrap();
    for extra in 1..=128 {
        let longer = [record.as_slice(), &vec![0; extra]].concat();
        let expected = if extra % 64 == 0 { VaultError::NotAuthentic } else { VaultError::Malformed };
        assert_eq!(open(&key, &BASE, &longer).err(), Some(expected), "{extra}");
    }
    let longest = seal(&key, &BASE, &value(MAX_VALUE_LEN)).unwrap();
    assert_eq!(open(&key, &BASE, &[longest.as_slice(), &[0; 64]].concat()).err(), Some(VaultError::Malformed));
}

#[test]
fn an_empty_record_is_malformed() {
    assert_eq!(open(&base_key(), &BASE, &[]).err(), Some(VaultError::Malformed));
    assert_eq!(RecordHeader::parse(&[]), Err(VaultError::Malformed));
}

#[test]
fn every_input_of_a_platform_key_counts() {
    let derive = |root: u8, version, platform, salt: u8, key_version| {
        RootKey::from_bytes(version, Zeroizing::new([root; 32])).derive_platform_key(platform, &[salt; 32], key_version)
    };
    let record = seal(&derive(1, 1, "plt_1", 1, 1), &BASE, &value(5)).unwrap();
    assert!(open(&derive(1, 1, "plt_1", 1, 1), &BASE, &record).is_ok(), "it is deterministic");
    assert_eq!(open(&derive(2, 1, "plt_1", 1, 1), &BASE, &record).err(), Some(VaultError::NotAuthentic));
    assert_eq!(open(&derive(1, 1, "plt_1", 2, 1), &BASE, &record).err(), Some(VaultError::NotAuthentic));
    assert_eq!(open(&derive(1, 2, "plt_1", 1, 1), &BASE, &record).err(), Some(VaultError::WrongKeyVersion));
    assert_eq!(open(&derive(1, 1, "plt_1", 1, 2), &BASE, &record).err(), Some(VaultError::WrongKeyVersion));
}

#[test]
fn a_key_of_another_platform_neither_seals_nor_opens() {
    let key = base_key();
    let record = seal(&key, &BASE, &value(5)).unwrap();
    let other = Context { platform: "plt_2", ..BASE };
    assert_eq!(seal(&key, &other, &value(5)).err(), Some(VaultError::WrongPlatform));
    assert_eq!(open(&key, &other, &record).err(), Some(VaultError::WrongPlatform));
    assert_eq!(open(&key_of("plt_2", 1, 1), &BASE, &record).err(), Some(VaultError::WrongPlatform));
}

#[test]
fn a_context_that_is_not_canonical_is_refused() {
    let long = "A".repeat(MAX_FIELD_LEN + 1);
    let most = "A".repeat(MAX_FIELD_LEN);
    let key = base_key();
    let refused = [
        ("name", Context { name: "database_url", ..BASE }),
        ("name", Context { name: "A-B", ..BASE }),
        ("name", Context { name: "\u{c4}", ..BASE }),
        ("name", Context { name: "", ..BASE }),
        ("name", Context { name: &long, ..BASE }),
        ("mode", Context { mode: "prod", ..BASE }),
        ("mode", Context { mode: "", ..BASE }),
        ("deployment", Context { deployment: "", ..BASE }),
        ("deployment", Context { deployment: &long, ..BASE }),
        ("session", Context { scope: Scope::Session(""), ..BASE }),
        ("session", Context { scope: Scope::Session(&long), ..BASE }),
        ("agent", Context { scope: Scope::Agent(""), ..COPY }),
        ("agent", Context { scope: Scope::Agent(&long), ..COPY }),
    ];
    let record = seal(&key, &BASE, &value(5)).unwrap();
    for (field, context) in refused {
        assert_eq!(seal(&key, &context, &value(5)).err(), Some(VaultError::InvalidContext(field)));
        assert_eq!(open(&key, &context, &record).err(), Some(VaultError::InvalidContext(field)));
    }
    for platform in ["", &long] {
        let context = Context { platform, ..BASE };
        let result = seal(&key_of(platform, 1, 1), &context, &value(5));
        assert_eq!(result.err(), Some(VaultError::InvalidContext("platform")));
    }
    assert!(seal(&key, &Context { name: &most, scope: Scope::Session(&most), ..BASE }, &value(5)).is_ok());
    assert!(seal(&key, &Context { name: &most, scope: Scope::Agent(&most), ..COPY }, &value(5)).is_ok());
}

#[test]
fn a_copy_belongs_to_an_agent_and_nothing_else_does() {
    let key = base_key();
    let record = seal(&key, &COPY, &value(5)).unwrap();
    for scope in [Scope::Platform, Scope::Session("ses_1"), Scope::Agent("ses_1")] {
        for purpose in [Purpose::AgentSecret, Purpose::ProviderCredential, Purpose::AgentCopy] {
            let context = Context { scope, purpose, ..COPY };
            let fits = matches!(scope, Scope::Agent(_)) == (purpose == Purpose::AgentCopy);
            let sealed = seal(&key, &context, &value(5)).err();
            let opened = open(&key, &context, &record).err();
            match fits {
                true => assert_eq!(sealed, None, "{scope:?} {purpose:?}"),
                false => {
                    assert_eq!(sealed, Some(VaultError::InvalidContext("purpose")), "{scope:?} {purpose:?}");
                    assert_eq!(opened, sealed, "{scope:?} {purpose:?}");
                }
            }
        }
    }
}

#[test]
fn salts_and_nonces_never_repeat() {
    let salts: HashSet<[u8; 32]> = (0..200).map(|_| make_salt().unwrap()).collect();
    assert_eq!(salts.len(), 200);
    let key = base_key();
    let records: Vec<Vec<u8>> = (0..200).map(|_| seal(&key, &BASE, &value(5)).unwrap()).collect();
    for part in [10..42, 42..54, 54..86, 86..150, 150..166] {
        let seen: HashSet<&[u8]> = records.iter().map(|record| &record[part.clone()]).collect();
        assert_eq!(seen.len(), 200, "{part:?}");
    }
    // Every byte is random, not just enough of them: 200 draws of one value each have odds of 256^-199.
    for at in 10..54 {
        assert!(records.iter().any(|record| record[at] != records[0][at]), "byte {at} of a record");
    }
    let first = make_salt().unwrap();
    for at in 0..first.len() {
        assert!(salts.iter().any(|salt| salt[at] != first[at]), "byte {at} of a salt");
    }
}
