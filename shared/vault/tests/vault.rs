//! The vault's core as its callers see it: what opens, and all that must not.

#![allow(clippy::unwrap_used, reason = "a test may")]

use std::collections::HashSet;

use proptest::prelude::*;
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
        assert!(open(&key, &BASE, &record).unwrap().expose() == vec![b'v'; len], "{len}");
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

/// One way in which a record's place can differ.
type Change = fn(&mut Place);

/// Where a record is sealed or opened.
#[derive(Clone, Copy)]
struct Place {
    context: Context<'static>,
    root_version: u32,
    key_version: u32,
}

impl Place {
    fn key(&self) -> PlatformKey {
        key_of(self.context.platform, self.root_version, self.key_version)
    }
}

const CHANGES: [(&str, Change); 13] = [
    ("deployment", |place| place.context.deployment = "staging"),
    ("platform", |place| place.context.platform = "plt_2"),
    ("mode", |place| place.context.mode = "test"),
    ("session", |place| place.context.scope = Scope::Session("ses_2")),
    ("scope", |place| place.context.scope = Scope::Platform),
    ("purpose", |place| place.context.purpose = Purpose::ProviderCredential),
    ("name", |place| place.context.name = "DATABASE_URL_2"),
    ("version", |place| place.context.version = 2),
    ("expiry", |place| place.context.expires_at_ms = Some(0)),
    ("mask", |place| place.context.flags.mask = false),
    ("inherit", |place| place.context.flags.inherit = false),
    ("root version", |place| place.root_version = 2),
    ("platform key version", |place| place.key_version = 2),
];

#[test]
fn a_record_opens_only_in_the_place_it_was_sealed_for() {
    let base = Place { context: BASE, root_version: 1, key_version: 1 };
    let mut places = vec![("as it is".to_owned(), base)];
    for (i, (one, change)) in CHANGES.iter().enumerate() {
        let mut place = base;
        change(&mut place);
        places.push(((*one).to_owned(), place));
        for (other, further) in &CHANGES[i + 1..] {
            let mut place = place;
            further(&mut place);
            places.push((format!("{one} and {other}"), place));
        }
    }
    // Another session and then no session is no session: that one place is in the list twice.
    places.retain(|(name, _)| name != "session and scope");
    let count = CHANGES.len();
    assert_eq!(places.len(), 1 + count + count * (count - 1) / 2 - 1);

    let keys: Vec<PlatformKey> = places.iter().map(|(_, place)| place.key()).collect();
    for (i, (sealed, place)) in places.iter().enumerate() {
        let record = seal(&keys[i], &place.context, &value(5)).unwrap();
        for (j, (opened, other)) in places.iter().enumerate() {
            let result = open(&keys[j], &other.context, &record);
            assert_eq!(result.is_ok(), i == j, "sealed with another {sealed}, opened with another {opened}");
        }
    }
}

#[test]
fn a_record_moved_to_another_session_does_not_open() {
    let key = base_key();
    let record = seal(&key, &BASE, &value(5)).unwrap();
    for scope in [Scope::Platform, Scope::Session("ses_2"), Scope::Session("ses_"), Scope::Session("ses_10")] {
        assert_eq!(open(&key, &Context { scope, ..BASE }, &record).err(), Some(VaultError::NotAuthentic), "{scope:?}");
    }
}

#[test]
fn a_provider_credential_never_opens_as_an_agents_secret() {
    let key = base_key();
    let credential = Context { scope: Scope::Platform, purpose: Purpose::ProviderCredential, ..BASE };
    let secret = Context { purpose: Purpose::AgentSecret, ..credential };
    let record = seal(&key, &credential, &value(5)).unwrap();
    assert_eq!(open(&key, &secret, &record).err(), Some(VaultError::NotAuthentic));
    let record = seal(&key, &secret, &value(5)).unwrap();
    assert_eq!(open(&key, &credential, &record).err(), Some(VaultError::NotAuthentic));
}

#[test]
fn an_earlier_record_put_under_a_later_version_does_not_open() {
    let key = base_key();
    let earlier = seal(&key, &BASE, &value(5)).unwrap();
    assert_eq!(open(&key, &Context { version: 2, ..BASE }, &earlier).err(), Some(VaultError::NotAuthentic));
}

#[test]
fn an_edited_expiry_does_not_open() {
    let key = base_key();
    let at = |expires_at_ms| Context { expires_at_ms, ..BASE };
    let times = [None, Some(0), Some(1), Some(-1), Some(i64::MAX), Some(i64::MIN)];
    for sealed in times {
        let record = seal(&key, &at(sealed), &value(5)).unwrap();
        for opened in times {
            assert_eq!(open(&key, &at(opened), &record).is_ok(), sealed == opened, "{sealed:?} {opened:?}");
        }
    }
}

#[test]
fn texts_that_trade_bytes_with_their_neighbours_are_told_apart() {
    let key = key_of("AB", 1, 1);
    let with = |deployment, scope, name| Context { deployment, platform: "AB", scope, name, ..BASE };
    let contexts = [
        with("X", Scope::Session("SN"), "N"),
        with("X", Scope::Session("S"), "NN"),
        with("N", Scope::Session("S"), "X"),
        with("X", Scope::Session("\0"), "N"),
        with("X", Scope::Platform, "N"),
    ];
    for (i, sealed) in contexts.iter().enumerate() {
        let record = seal(&key, sealed, &value(5)).unwrap();
        for (j, opened) in contexts.iter().enumerate() {
            assert_eq!(open(&key, opened, &record).is_ok(), i == j, "{sealed:?} {opened:?}");
        }
    }
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_sealed_opens(bytes in prop::collection::vec(any::<u8>(), 0..600), version: u64, expires_at_ms: Option<i64>) {
        let (key, context) = (base_key(), Context { version, expires_at_ms, ..BASE });
        let record = seal(&key, &context, &SecretValue::from_bytes(bytes.clone())).unwrap();
        prop_assert!(open(&key, &context, &record).unwrap().expose() == bytes);
        let again = seal(&key, &context, &SecretValue::from_bytes(bytes)).unwrap();
        prop_assert!(record != again);
    }

    #[test]
    fn arbitrary_bytes_never_open_and_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let _ = RecordHeader::parse(&bytes);
        prop_assert!(open(&base_key(), &BASE, &bytes).is_err());
    }

    /// As above, but with the header and a length that pass the first checks.
    #[test]
    fn arbitrary_bytes_in_the_shape_of_a_record_never_open(blocks in 1..6_usize, filler in prop::collection::vec(any::<u8>(), 500)) {
        let mut record = vec![1, 1, 0, 0, 0, 1, 0, 0, 0, 1];
        record.extend_from_slice(&filler[..blocks * 64 + OVERHEAD - 10]);
        prop_assert!(RecordHeader::parse(&record).is_ok());
        prop_assert_eq!(open(&base_key(), &BASE, &record).err(), Some(VaultError::NotAuthentic));
    }
}
