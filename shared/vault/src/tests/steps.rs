//! The order in which a record is refused, and the encoding of a context.

use proptest::prelude::*;
use secrecy::{ExposeSecret, SecretBox};

use crate::{
    Context, Flags, MAX_VALUE_LEN, PlatformKey, Purpose, Scope, SecretValue, VaultError,
    context::{MAGIC, encode_fields},
    hazmat::gcm_seal,
    open,
    record::{Refusal, open_steps, seal_with},
};

const SALT: [u8; 32] = [0x51; 32];
const NONCE: [u8; 12] = [0x0e; 12];
const COMMITMENT_AT: usize = 54;
const TEXT_AT: usize = 86;

/// A key by its bytes, so that a test can keep them and change only what the key says of itself.
fn key(byte: u8, platform: &str, root_version: u32, key_version: u32) -> PlatformKey {
    let key = SecretBox::init_with_mut(|key: &mut [u8; 32]| key.fill(byte));
    PlatformKey { platform: platform.into(), root_version, key_version, of_token: false, key }
}

fn context() -> Context<'static> {
    Context {
        deployment: "prod",
        platform: "plt_1",
        mode: "live",
        scope: Scope::Session("ses_1"),
        purpose: Purpose::AgentSecret,
        name: "TOKEN",
        version: 7,
        expires_at_ms: Some(1_900_000_000_000),
        flags: Flags { mask: true, inherit: true },
    }
}

fn record(key: &PlatformKey) -> Vec<u8> {
    seal_with(key, &context(), &SecretValue::from_text("value".to_owned()), &SALT, &NONCE).unwrap()
}

/// A record whose commitment is that of `claimed` and whose text is what `sealer` makes of `text`.
fn forge(claimed: &PlatformKey, sealer: &PlatformKey, text: &[u8]) -> Vec<u8> {
    let encoded = context().encode(sealer.root_version, sealer.key_version).unwrap();
    let keys = sealer.derive_record_keys(Purpose::AgentSecret, &SALT, &encoded);
    let mut text = text.to_vec();
    let tag = gcm_seal(keys.key.expose_secret(), &NONCE, &encoded, &mut text).unwrap();
    [&record(claimed)[..TEXT_AT], &text, &tag].concat()
}

#[test]
fn the_commitment_is_checked_before_anything_is_decrypted() {
    let key = key(1, "plt_1", 1, 1);
    let mut altered = record(&key);
    *altered.last_mut().unwrap() ^= 1;
    assert_eq!(open_steps(&key, &context(), &altered).err(), Some(Refusal::Tag));
    altered[COMMITMENT_AT] ^= 1;
    assert_eq!(open_steps(&key, &context(), &altered).err(), Some(Refusal::Commitment));
    let mut altered = record(&key);
    altered[COMMITMENT_AT + 31] ^= 0x80;
    assert_eq!(open_steps(&key, &context(), &altered).err(), Some(Refusal::Commitment), "although the tag is right");
}

#[test]
fn a_commitment_and_a_text_of_two_keys_open_under_neither() {
    let (one, two) = (key(1, "plt_1", 1, 1), key(2, "plt_1", 1, 1));
    let mut text = [0; 64];
    text[0] = 0x80;
    let mixed = forge(&one, &two, &text);
    assert_eq!(open_steps(&one, &context(), &mixed).err(), Some(Refusal::Tag));
    assert_eq!(
        open_steps(&two, &context(), &mixed).err(),
        Some(Refusal::Commitment),
        "its tag is right under this key"
    );
    let whole = forge(&two, &two, &text);
    assert!(open(&two, &context(), &whole).unwrap().is_empty(), "the forger does make valid records");
}

#[test]
fn a_record_that_claims_the_key_version_asked_for_still_does_not_open() {
    // The same key bytes throughout: only the context in the derivations and the associated data can tell.
    let sealed = record(&key(1, "plt_1", 1, 1));
    for (at, root_version, key_version) in [(5, 2, 1), (9, 1, 2)] {
        let other = key(1, "plt_1", root_version, key_version);
        assert_eq!(open(&other, &context(), &sealed).err(), Some(VaultError::WrongKeyVersion));
        let mut claiming = sealed.clone();
        claiming[at] = 2;
        assert_eq!(open_steps(&other, &context(), &claiming).err(), Some(Refusal::Commitment));
    }
}

#[test]
fn the_platform_is_bound_even_when_two_platforms_share_key_bytes() {
    let moved = Context { platform: "plt_2", ..context() };
    let sealed = record(&key(1, "plt_1", 1, 1));
    assert_eq!(open_steps(&key(1, "plt_2", 1, 1), &moved, &sealed).err(), Some(Refusal::Commitment));
}

#[test]
fn only_the_one_right_padding_opens() {
    let key = key(1, "plt_1", 1, 1);
    let opens = |text: &[u8]| match open_steps(&key, &context(), &forge(&key, &key, text)) {
        Ok(value) => Some(value.len()),
        Err(refusal) => {
            assert_eq!(refusal, Refusal::Padding);
            None
        }
    };
    let with = |len: usize, marks: &[(usize, u8)]| {
        let mut text = vec![0; len];
        marks.iter().for_each(|(at, byte)| text[*at] = *byte);
        text
    };
    assert_eq!(opens(&with(64, &[(0, 0x80)])), Some(0));
    assert_eq!(opens(&with(64, &[(63, 0x80)])), Some(63));
    assert_eq!(opens(&with(128, &[(64, 0x80)])), Some(64));
    assert_eq!(opens(&with(64, &[])), None, "no mark at all");
    assert_eq!(opens(&with(64, &[(5, 0x80), (6, 1)])), None, "something after the mark");
    assert_eq!(opens(&with(64, &[(63, 0x81)])), None, "another mark");
    assert_eq!(opens(&with(128, &[(63, 0x80)])), None, "a block too many");
    let longest = MAX_VALUE_LEN + 64;
    assert_eq!(opens(&with(longest, &[(MAX_VALUE_LEN, 0x80)])), Some(MAX_VALUE_LEN));
    assert_eq!(opens(&with(longest, &[(MAX_VALUE_LEN + 1, 0x80)])), None, "a value over 32 KiB");
}

/// The value in a padded text by the letter of `FORMAT.md`, byte by byte and without the crate's own arithmetic.
fn unpad_naively(text: &[u8]) -> Option<&[u8]> {
    let at = (0..text.len()).rev().find(|at| text[*at] != 0)?;
    let in_the_last_block = text.len() - at <= 64;
    (text[at] == 0x80 && in_the_last_block).then(|| &text[..at])
}

/// The inverse of [`encode_fields`]; that it exists is what makes the encoding injective.
fn decode_fields(bytes: &[u8]) -> Option<(u8, Vec<Vec<u8>>)> {
    let (purpose, rest) = bytes.strip_prefix(MAGIC.as_slice())?.strip_prefix(&[1, 1])?.split_first()?;
    let (count, mut rest) = rest.split_first_chunk()?;
    let mut fields = Vec::new();
    for _ in 0..u32::from_be_bytes(*count) {
        let (len, after) = rest.split_first_chunk()?;
        let (field, after) = after.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
        fields.push(field.to_vec());
        rest = after;
    }
    rest.is_empty().then_some((*purpose, fields))
}

/// Contexts from so few and so similar texts that an ambiguous encoding would collide at once.
fn similar_context() -> impl Strategy<Value = (Context<'static>, (u32, u32))> {
    let text = || prop::sample::select(vec!["A", "AA", "AAA", "live", "A\0", "\0\0\0\u{1}A"]);
    let scope = prop_oneof![Just(Scope::Platform), text().prop_map(Scope::Session)];
    let purpose = prop::sample::select(vec![Purpose::AgentSecret, Purpose::ProviderCredential]);
    let copy = text().prop_map(|id| (Scope::Agent(id), Purpose::AgentCopy));
    let owner = prop_oneof![2 => (scope, purpose), 1 => copy];
    let texts = (text(), text(), prop::sample::select(vec!["live", "test"]), prop::sample::select(vec!["A", "AA"]));
    let numbers = (0..2_u64, prop::option::of(-1..2_i64), any::<(bool, bool)>(), (0..2_u32, 0..2_u32));
    (texts, owner, numbers).prop_map(
        |(
            (deployment, platform, mode, name),
            (scope, purpose),
            (version, expires_at_ms, (mask, inherit), versions),
        )| {
            let flags = Flags { mask, inherit };
            let context = Context { deployment, platform, mode, scope, purpose, name, version, expires_at_ms, flags };
            (context, versions)
        },
    )
}

/// Two contexts that have most in common: the second is the first with a few fields of another.
fn neighbours() -> impl Strategy<Value = [(Context<'static>, (u32, u32)); 2]> {
    let taken = prop::collection::vec(prop::bool::weighted(0.15), 11);
    (similar_context(), similar_context(), taken).prop_map(|(one, other, taken)| {
        let mut two = one;
        let mut take = taken.into_iter();
        let mut merge = |copy: &mut dyn FnMut()| {
            if take.next() == Some(true) {
                copy()
            }
        };
        merge(&mut || two.0.deployment = other.0.deployment);
        merge(&mut || two.0.platform = other.0.platform);
        merge(&mut || two.0.mode = other.0.mode);
        merge(&mut || two.0.name = other.0.name);
        merge(&mut || two.0.version = other.0.version);
        merge(&mut || two.0.expires_at_ms = other.0.expires_at_ms);
        merge(&mut || two.0.flags.mask = other.0.flags.mask);
        merge(&mut || two.0.flags.inherit = other.0.flags.inherit);
        merge(&mut || two.1 = other.1);
        merge(&mut || two.0.scope = other.0.scope);
        merge(&mut || two.0.purpose = other.0.purpose);
        // An agent's scope goes with its purpose or not at all.
        if matches!(two.0.scope, Scope::Agent(_)) != (two.0.purpose == Purpose::AgentCopy) {
            (two.0.scope, two.0.purpose) = (other.0.scope, other.0.purpose);
        }
        [one, two]
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn an_encoding_can_be_taken_apart_again(purpose: u8, fields: Vec<Vec<u8>>) {
        let borrowed: Vec<&[u8]> = fields.iter().map(Vec::as_slice).collect();
        prop_assert_eq!(decode_fields(&encode_fields(purpose, &borrowed)), Some((purpose, fields)));
    }

    #[test]
    fn the_same_bytes_cut_elsewhere_encode_differently(bytes in prop::collection::vec(0..3_u8, 2..40), one: usize, two: usize) {
        let (one, two) = (one % bytes.len(), two % bytes.len());
        let cut = |at: usize| encode_fields(1, &[&bytes[..at], &bytes[at..]]);
        prop_assert_eq!(cut(one) == cut(two), one == two);
    }

    /// Texts mostly of zeros and marks, so that many are padded rightly and many almost.
    #[test]
    fn any_sealed_text_opens_to_what_the_page_says(
        text in (1..5_usize).prop_flat_map(|blocks| {
            let byte = prop_oneof![40 => Just(0_u8), 2 => Just(0x80), 1 => any::<u8>()];
            prop::collection::vec(byte, blocks * 64)
        }),
    ) {
        let key = key(1, "plt_1", 1, 1);
        let opened = open_steps(&key, &context(), &forge(&key, &key, &text));
        match unpad_naively(&text) {
            Some(value) => prop_assert!(opened.is_ok_and(|opened| opened.expose() == value)),
            None => prop_assert_eq!(opened.err(), Some(Refusal::Padding)),
        }
    }

}

proptest! {
    // Enough that every field is often the only one to differ.
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn different_contexts_encode_differently([one, two] in neighbours()) {
        let encode = |(context, (root, key)): &(Context<'_>, (u32, u32))| context.encode(*root, *key).unwrap();
        prop_assert_eq!(encode(&one) == encode(&two), one == two);
    }
}
