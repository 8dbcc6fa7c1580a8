//! Text that is not read byte by byte, against the same text read so.

use super::*;
use crate::index::{Index, MATCH, State};
use proptest::prelude::*;

const VALUES: [&[u8]; 4] =
    [b"Hubspot-Key_0123456789", b"abcabcabcabd", b"sixsix", b"line one\nline two\nthe third line"];

fn byte_by_byte(index: &Index, mut state: State, text: &[u8], special: &[bool; 256]) -> (usize, State) {
    state &= !MATCH;
    for (at, byte) in text.iter().enumerate() {
        let to = index.next(state, *byte);
        if special[usize::from(*byte)] || index.is_match(to) {
            return (at, state);
        }
        state = to;
    }
    (text.len(), state)
}

/// The whole text, with what stops it read by itself, as a stream does. How far each piece went, and the state after it.
fn pieces(
    index: &Index,
    text: &[u8],
    special: &[bool; 256],
    skim: impl Fn(State, &[u8]) -> (usize, State),
) -> Vec<(usize, State)> {
    let (mut at, mut state, mut pieces) = (0, index.start(), Vec::new());
    while at < text.len() {
        let (read, to) = skim(state, &text[at..]);
        pieces.push((read, to));
        at += read;
        state = to;
        if let Some(byte) = text.get(at) {
            assert!(special[usize::from(*byte)] || index.is_match(index.next(state, *byte)), "it stops for nothing");
            state = index.next(state, *byte);
            at += 1;
        }
    }
    pieces
}

fn part() -> impl Strategy<Value = Vec<u8>> {
    let value = prop::sample::select(VALUES.to_vec());
    let encoded = value.clone().prop_flat_map(|value| {
        prop::sample::select(vec![
            value.to_vec(),
            value.to_ascii_uppercase(),
            hex::encode(value).into_bytes(),
            STANDARD.encode(value).into_bytes(),
            URL_SAFE_NO_PAD.encode([b"x", value].concat()).into_bytes(),
        ])
    });
    prop_oneof![
        4 => "[a-zA-Z0-9 _.+/-]{0,90}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => "[\n\r%\\\\+ ]{1,2}".prop_map(String::into_bytes),
        1 => (1usize..400).prop_map(|count| vec![b'.'; count]),
        3 => (encoded, 0usize..12, 1usize..14).prop_map(|(text, from, count)| {
            text.into_iter().skip(from).take(count).collect()
        }),
        1 => value.prop_map(<[u8]>::to_vec),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn what_is_passed_over_is_what_would_have_been_read(
        parts in prop::collection::vec(part(), 0..30),
        values in prop::sample::subsequence(VALUES.to_vec(), 1..=VALUES.len()),
    ) {
        let (redactor, text) = (redactor(&values), parts.concat());
        let index = redactor.index.as_ref().unwrap();
        prop_assert!(index.has_table());
        let special = &redactor.special;
        let skimmed = pieces(index, &text, special, |state, text| index.skim(state, text, special));
        let read = pieces(index, &text, special, |state, text| byte_by_byte(index, state, text, special));
        prop_assert_eq!(skimmed, read);
    }
}

#[test]
fn text_is_passed_over_up_to_what_begins_a_value_in_any_form_or_is_special() {
    let redactor = redactor(&VALUES);
    let clear = |text: &[u8]| redactor.index.as_ref().unwrap().clear(text, &redactor.special).unwrap();
    let (all, stride) = clear(&[b'.'; 5000]);
    assert!(stride == 3 && all <= 5000 && all + stride + 4 > 5000, "{all} of 5000, {stride} at a time");
    for value in VALUES {
        let value = value.strip_suffix(b"\n").unwrap_or(value);
        for begun in [
            value.to_vec(),
            value.to_ascii_uppercase(),
            hex::encode_upper(value).into_bytes(),
            STANDARD.encode(value).into_bytes(),
            URL_SAFE.encode(value).into_bytes(),
        ] {
            for at in 0..70 {
                let text = [&vec![b'.'; at][..], &begun].concat();
                let (clear, _) = clear(&text);
                assert!(clear <= at && clear + stride > at, "{clear} of {}", String::from_utf8_lossy(&text));
            }
        }
    }
    for at in 0..200 {
        let (clear, _) = clear(&[&vec![b'.'; at][..], b"%", &[b'.'; 50]].concat());
        assert!(clear <= at && clear + stride + 4 > at, "{clear} of {at}");
    }
    // Too few values to fill the set with what other text has as well.
    let other = b"A quick brown fox jumps over a lazy dog. ".repeat(20);
    assert!(clear(&other).0 + stride + 4 > other.len(), "{}", clear(&other).0);
}

#[test]
fn characters_that_stand_for_the_same_in_any_form_are_looked_for_as_one() {
    // All of these have `+` and `/` in base64.
    let value: &[u8] = b"\xfb\xef\xbe\xfb\xef\xff\xff\xff\xfb\xef";
    let redactor = redactor(&[value]);
    let index = redactor.index.as_ref().unwrap();
    for text in [STANDARD.encode(value), URL_SAFE.encode(value)] {
        let text = [&[b'.'; 40][..], text.as_bytes()].concat();
        let (clear, stride) = index.clear(&text, &redactor.special).unwrap();
        assert!(clear <= 40 && clear + stride > 40, "{clear}");
    }
}
