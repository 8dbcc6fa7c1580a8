//! Occurrences of values that repeat themselves, against a plain search.

use super::*;
use crate::needle::PREFIX;

/// A piece of input, and the bytes that it stands for.
type Token = (String, Vec<u8>);

/// Every letter by itself.
fn plain(bytes: &[u8]) -> Vec<Token> {
    bytes.iter().map(|byte| (char::from(*byte).to_string(), vec![*byte])).collect()
}

/// JSON with each pair `\xc3\xa9` as the one character that it is, and every other byte escaped by itself.
fn json(bytes: &[u8]) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = bytes;
    while let Some(first) = rest.first() {
        let (text, len) = match rest {
            [0xc3, 0xa9, ..] => ("\\u00e9".to_owned(), 2),
            _ => (format!("\\x{first:02x}"), 1),
        };
        tokens.push((text, rest[..len].to_vec()));
        rest = &rest[len..];
    }
    tokens
}

/// The tokens with all that hold a byte of the value masked, as one where they have a token in common.
fn masked(value: &[u8], tokens: &[Token]) -> String {
    let bytes: Vec<(u8, usize)> =
        tokens.iter().enumerate().flat_map(|(at, (_, bytes))| bytes.iter().map(move |byte| (*byte, at))).collect();
    let mut stretches: Vec<(usize, usize)> = Vec::new();
    for window in bytes.windows(value.len()).filter(|window| window.iter().map(|(byte, _)| byte).eq(value)) {
        let (start, end) = (window[0].1, window[value.len() - 1].1 + 1);
        match stretches.last_mut() {
            Some(last) if start < last.1 => last.1 = end,
            _ => stretches.push((start, end)),
        }
    }
    let (mut out, mut from) = (String::new(), 0);
    for (start, end) in stretches.into_iter().chain([(tokens.len(), tokens.len())]) {
        tokens[from..start].iter().for_each(|(text, _)| out += text);
        if end > start {
            out += "[secret:A]";
        }
        from = end;
    }
    out
}

/// Texts in which a value begins falsely, overlaps itself and follows itself.
fn texts(value: &[u8]) -> Vec<Vec<u8>> {
    let parts = (0..=value.len()).flat_map(|at| {
        let (left, right) = value.split_at(at);
        [
            [left, value].concat(),
            [value, right].concat(),
            [left, left, right].concat(),
            [value, &value[..1], right].concat(),
        ]
    });
    let pairs = [&b"a"[..], b"b", b"c", b"ab"].map(|between| [value, between, value].concat());
    let repeats = (2..6).map(|times| value.repeat(times));
    parts.chain(pairs).chain(repeats).collect()
}

fn assert_found_as_by_a_plain_search(value: &[u8], tokens: impl Fn(&[u8]) -> Vec<Token>, written: impl Fn(u8) -> u8) {
    let written = |bytes: &[u8]| bytes.iter().map(|byte| written(*byte)).collect::<Vec<u8>>();
    let redactor = redactor(&[&written(value)]);
    for text in texts(value) {
        // What goes on to the very end would be masked without being complete.
        let tokens = [tokens(&written(&text)), plain(b".")].concat();
        let text: String = tokens.iter().map(|(text, _)| text.as_str()).collect();
        assert_eq!(shown(&redactor, text.as_bytes()), masked(&written(value), &tokens), "{text}");
    }
}

#[test]
fn values_that_repeat_themselves_are_found_as_by_a_plain_search() {
    const BLOCKS: [&[u8]; 3] = [b"aabaabaaba", b"a", b"b"];
    let mut values = vec![Vec::new()];
    for _ in 0..3 {
        let longer = |value: &Vec<u8>| BLOCKS.map(|block| [value, block].concat());
        values = [values.clone(), values.iter().flat_map(longer).collect()].concat();
    }
    values.sort_unstable();
    values.dedup();
    // The end begins the value again, and so do parts of the middle.
    values.push([&b"aabaabaaba"[..]; 5].join(&b"ccab"[..]));
    values.push(b"0123456789a0123456789b0123456789c0123456789a0123456789".to_vec());
    values.push(b"abc".repeat(5));
    for value in values.iter().filter(|value| value.len() > PREFIX) {
        assert_found_as_by_a_plain_search(value, plain, |byte| byte);
        // As bytes of which two may be one character, so that it begins and ends within characters.
        for (a, b) in [(0xc3, 0xa9), (0xa9, 0xc3)] {
            assert_found_as_by_a_plain_search(value, json, |byte| match byte {
                b'a' => a,
                b'b' => b,
                other => other,
            });
        }
    }
}

/// A value whose end begins it again, in parts that are whole groups of base64.
fn repeating() -> Vec<u8> {
    let again = b"begin-23.";
    [&again[..], b"aaa", again, b"bbb", again, b"ccc", again, b"aaa", again].concat()
}

#[test]
fn of_two_occurrences_the_characters_between_them_are_kept() {
    let value = repeating();
    let redactor = redactor(&[&value]);
    let twice = [&value[..], b"bbb", &value].concat();
    assert_eq!(shown(&redactor, &[&twice[..], b"."].concat()), "[secret:A]bbb[secret:A].");
    assert_eq!(shown(&redactor, format!("{}.", hex::encode(&twice)).as_bytes()), "[secret:A]626262[secret:A].");
    for (before, between) in [("", "YmJi"), ("!", "JiY"), ("!!", "iYm")] {
        let text = STANDARD.encode([before.as_bytes(), &twice, b"..."].concat());
        let masked = shown(&redactor, text.as_bytes());
        let parts: Vec<&str> = masked.split("[secret:A]").collect();
        assert_eq!(parts.len(), 3, "{masked}");
        assert_eq!(parts[1], between, "{masked}");
    }
}

#[test]
fn an_occurrence_that_went_on_within_a_character_begins_where_it_does() {
    let again = b"\xa9begin-234";
    let between = [&b"a\xc3"[..], b"b\xc3", b"c\xc3", b"a\xc3"].map(|between| [between, again].concat());
    let value = [&again[..], &between.concat()].concat();
    // The first time the beginnings within it are halves of characters, the second time it is written byte by byte.
    let tokens = [json(&value), json(b"b\xc3"), json(&value), plain(b".")].concat();
    let text: String = tokens.iter().map(|(text, _)| text.as_str()).collect();
    assert_eq!(masked(&value, &tokens), r"[secret:A]\x62\xc3[secret:A].");
    assert_eq!(shown(&redactor(&[&value]), text.as_bytes()), masked(&value, &tokens));
}

#[test]
fn a_line_break_before_an_occurrence_is_kept() {
    let value = repeating();
    let redactor = redactor(&[&value]);
    let text = format!("{}626262\n  {}.", hex::encode(&value), hex::encode(&value));
    assert_eq!(shown(&redactor, text.as_bytes()), "[secret:A]626262\n  [secret:A].");
}

#[test]
fn no_more_padding_is_taken_than_belongs_to_a_value() {
    for (value, padding) in [(&b"sixsix"[..], 0), (b"seven-7", 2), (b"eight-88", 1)] {
        let text = STANDARD_NO_PAD.encode(value);
        for signs in 0..6usize {
            let masked = format!("[secret:A]{}.", "=".repeat(signs.saturating_sub(padding)));
            assert_eq!(shown(&redactor(&[value]), format!("{text}{}.", "=".repeat(signs)).as_bytes()), masked);
        }
    }
}
