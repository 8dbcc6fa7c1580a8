//! Random values, random bytes, and real records mutated at random: what opens is what was sealed, and nothing panics.

use std::sync::LazyLock;

use proptest::prelude::*;
use theazo_vault::{Context, Purpose, RecordHeader, Scope, SecretValue, VaultError, open, seal};

use crate::{BASE, COPY, OVERHEAD, base_key};

/// Real records of several lengths, each with where it opens.
static RECORDS: LazyLock<Vec<(Context<'static>, Vec<u8>)>> = LazyLock::new(|| {
    let credential = Context { scope: Scope::Platform, purpose: Purpose::ProviderCredential, ..BASE };
    let places = [BASE, COPY, credential];
    let seal_one = |(context, len): (Context<'static>, usize)| {
        let value = SecretValue::from_bytes((0..=255).cycle().take(len).collect());
        (context, seal(&base_key(), &context, &value).unwrap())
    };
    places.into_iter().flat_map(|place| [0, 20, 64, 700].map(|len| (place, len))).map(seal_one).collect()
});

/// One way of damaging a record. Positions are taken modulo its length.
#[derive(Clone, Debug)]
enum Mutation {
    Set(usize, u8),
    Flip(usize),
    Cut(usize),
    DropFront(usize),
    Insert(usize, Vec<u8>),
    Remove(usize, usize),
    Swap(usize, usize),
    /// From here on, as in another of the records.
    Splice(usize, usize),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    // Half of the positions are in the header and at the parts' borders, where a parser goes wrong.
    let at = || prop_oneof![any::<usize>(), 0..12_usize, prop::sample::select(vec![41, 42, 53, 54, 85, 86, 149, 150])];
    let bytes = prop_oneof![prop::collection::vec(any::<u8>(), 1..5), Just(vec![0; 64])];
    prop_oneof![
        (at(), any::<u8>()).prop_map(|(at, byte)| Mutation::Set(at, byte)),
        any::<usize>().prop_map(Mutation::Flip),
        at().prop_map(Mutation::Cut),
        (0..100_usize).prop_map(Mutation::DropFront),
        (at(), bytes).prop_map(|(at, bytes)| Mutation::Insert(at, bytes)),
        (at(), prop_oneof![1..5_usize, Just(64)]).prop_map(|(at, len)| Mutation::Remove(at, len)),
        (at(), at()).prop_map(|(one, other)| Mutation::Swap(one, other)),
        (at(), any::<usize>()).prop_map(|(at, other)| Mutation::Splice(at, other)),
    ]
}

impl Mutation {
    fn apply(&self, record: &mut Vec<u8>) {
        if record.is_empty() {
            return;
        }
        let len = record.len();
        match self {
            Self::Set(at, byte) => record[at % len] = *byte,
            Self::Flip(bit) => record[bit / 8 % len] ^= 1 << (bit % 8),
            Self::Cut(at) => record.truncate(at % len),
            Self::DropFront(count) => drop(record.drain(..count % len)),
            Self::Insert(at, bytes) => drop(record.splice(at % len..at % len, bytes.iter().copied())),
            Self::Remove(at, count) => drop(record.drain(at % len..(at % len + count).min(len))),
            Self::Swap(one, other) => record.swap(one % len, other % len),
            Self::Splice(at, other) => {
                let other = &RECORDS[other % RECORDS.len()].1;
                record.truncate(at % len);
                record.extend_from_slice(other.get(at % len..).unwrap_or_default());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_was_sealed_opens(bytes in prop::collection::vec(any::<u8>(), 0..600), version: u64, expires_at_ms: Option<i64>, copy: bool) {
        let (key, context) = (base_key(), Context { version, expires_at_ms, ..if copy { COPY } else { BASE } });
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

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn a_mutated_record_opens_only_if_it_is_a_real_one_again(
        pick in any::<prop::sample::Index>(),
        mutations in prop::collection::vec(mutation(), 1..4),
    ) {
        let (context, sealed) = pick.get(&RECORDS);
        let mut record = sealed.clone();
        mutations.iter().for_each(|mutation| mutation.apply(&mut record));
        // A splice may give another whole record, which opens where it belongs.
        let real = RECORDS.iter().any(|(place, sealed)| place == context && *sealed == record);
        let parsed = RecordHeader::parse(&record);
        let opened = open(&base_key(), context, &record);
        prop_assert_eq!(opened.is_ok(), real);
        prop_assert!(parsed.is_ok() || opened.is_err());
        prop_assert!(!matches!(opened.err(), Some(VaultError::WrongPlatform | VaultError::InvalidContext(_))));
    }
}
