//! Random values, surroundings, encodings and chunks.

use super::*;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Surroundings that no encoding of a value can grow into.
const SURROUNDINGS: &str = "[.,;:<>() ]{0,20}";

fn value() -> impl Strategy<Value = String> {
    prop_oneof!["[ -~]{6,40}", "[a-c+/ %\\\\]{6,20}", "\\PC{6,12}", "[a-z]{3,9}\n[ -~]{3,30}", "[ab]{6,30}"]
}

fn encoded(value: &str, choice: Index) -> String {
    let mut all: Vec<String> = encodings(value).into_iter().map(|(_, text)| text).collect();
    all.extend(armoured(b"", value.as_bytes(), b""));
    choice.get(&all).clone()
}

fn cuts(indices: &[Index], len: usize) -> Vec<usize> {
    let mut cuts: Vec<usize> = indices.iter().map(|index| index.index(len + 1)).collect();
    cuts.sort_unstable();
    cuts
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 600, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_encoding_is_masked_and_nothing_beside_it(
        value in value().prop_filter("begins and ends apart from the surroundings",
            |value| value.len() >= 6
                && value.starts_with(|c: char| c.is_alphanumeric()) && value.ends_with(|c: char| c.is_alphanumeric())),
        parts in vec((any::<Index>(), SURROUNDINGS), 1..4),
        chunks in vec(any::<Index>(), 0..6),
    ) {
        let redactor = redactor(&[value.as_bytes()]);
        let (mut text, mut masked) = (String::from("<"), String::from("<"));
        for (choice, after) in &parts {
            text += &encoded(&value, *choice);
            masked += "[secret:A]";
            text += &format!(">{after}<");
            masked += &format!(">{after}<");
        }
        prop_assert_eq!(shown(&redactor, text.as_bytes()), masked.clone(), "{}", &text);
        let cuts = cuts(&chunks, text.len());
        prop_assert_eq!(in_chunks(&redactor, text.as_bytes(), &cuts), masked.into_bytes());
    }

    #[test]
    fn base64_between_any_bytes_leaves_no_six_bytes_of_the_value(
        value in vec(any::<u8>(), 6..40),
        before in vec(any::<u8>(), 0..9),
        after in vec(any::<u8>(), 0..9),
        chunks in vec(any::<Index>(), 0..6),
    ) {
        let redactor = redactor(&[&value]);
        for text in armoured(&before, &value, &after) {
            let masked = redactor.redact(text.as_bytes());
            let shown = String::from_utf8_lossy(&masked);
            prop_assert!(shown.contains("[secret:A]"), "{}", text);
            let rest: usize = shown.split("[secret:A]").map(str::len).sum();
            prop_assert!(rest <= 6 * (before.len() + after.len()) * 2 + 24);
            let cuts = cuts(&chunks, text.len());
            prop_assert_eq!(in_chunks(&redactor, text.as_bytes(), &cuts), masked);
        }
    }

    #[test]
    fn chunks_never_matter_and_no_value_remains(
        values in vec(vec(prop::sample::select(&b"ab%\\n6+ 1u\n"[..]), 1..12), 0..5),
        text in vec(prop::sample::select(&b"aaabbb%%\\\\n6+ 112u0=YWF\n"[..]), 0..200),
        chunks in vec(any::<Index>(), 0..12),
    ) {
        let values: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let redactor = redactor(&values);
        let masked = redactor.redact(&text);
        prop_assert_eq!(in_chunks(&redactor, &text, &cuts(&chunks, text.len())), masked.clone());
        for value in values.iter().filter(|value| value.len() >= 6) {
            prop_assert!(!masked.windows(value.len()).any(|window| window == *value));
        }
        // What is left is the input without some stretches: the pieces between markers follow in it in their order.
        let masked = String::from_utf8(masked).unwrap();
        let (mut rest, mut kept) = (std::str::from_utf8(&text).unwrap(), 0);
        for piece in masked.split("[secret:").map(|piece| piece.split_once(']').map_or(piece, |(_, after)| after)) {
            let found = rest.find(piece).map(|at| rest.split_at(at + piece.len()));
            prop_assert!(found.is_some());
            rest = found.unwrap().1;
            kept += piece.len();
        }
        prop_assert!(masked.contains("[secret:") || kept == text.len());
    }

    #[test]
    fn any_bytes_are_taken(
        values in vec(vec(any::<u8>(), 0..40), 0..5),
        text in vec(any::<u8>(), 0..400),
        chunks in vec(any::<Index>(), 0..12),
    ) {
        let redactor = redactor(&values.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let masked = redactor.redact(&text);
        prop_assert_eq!(in_chunks(&redactor, &text, &cuts(&chunks, text.len())), masked);
        redactor.redact_truncated(&text);
        redactor.redact_text(&String::from_utf8_lossy(&text));
    }
}
