//! The parts that the rest stands on, by themselves: how one token is read, and how stretches that overlap are written.

use crate::cover::{Cover, Hit};
use crate::decode::Reading::{Armour, Form, Json, Literal, Percent};
use crate::decode::{Reading, is_special_in, read};

/// Input bytes read and what they stand for.
fn token(reading: Reading, input: &[u8], last: bool, after_break: bool) -> Option<(usize, Vec<u8>)> {
    read(reading, input, last, after_break).map(|token| (token.len, token.bytes().to_vec()))
}

fn some(len: usize, bytes: &[u8]) -> Option<(usize, Vec<u8>)> {
    Some((len, bytes.to_vec()))
}

#[test]
fn each_reading_undoes_its_own_escapes_and_nothing_else() {
    for reading in [Literal, Percent, Json, Armour, Form] {
        assert_eq!(token(reading, b"", true, false), None);
        assert_eq!(token(reading, b"a%", false, false), some(1, b"a"));
        // Blanks are left out only after a line break, and only in armour.
        for blank in [b' ', b'\t'] {
            assert_eq!(token(reading, &[blank], false, false), some(1, &[blank]));
            let after_break = if reading == Armour { some(1, b"") } else { some(1, &[blank]) };
            assert_eq!(token(reading, &[blank], false, true), after_break);
        }
        assert_eq!(token(reading, b"\xff", false, true), some(1, b"\xff"));
    }
    assert_eq!(token(Literal, b"%41", false, false), some(1, b"%"));
    assert_eq!(token(Literal, b"\\n", false, false), some(1, b"\\"));
    assert_eq!(token(Percent, b"+", false, false), some(1, b"+"));
    assert_eq!(token(Form, b"+", false, false), some(1, b" "));
    assert_eq!(token(Json, b"%41", false, false), some(1, b"%"));
    for reading in [Percent, Form] {
        assert_eq!(token(reading, b"%4a!", false, false), some(3, b"J"));
        assert_eq!(token(reading, b"%fF", false, false), some(3, b"\xff"));
        assert_eq!(token(reading, b"\\n", false, false), some(1, b"\\"));
        for cut in [&b"%"[..], b"%4"] {
            assert_eq!(token(reading, cut, false, false), None, "more may come");
            assert_eq!(token(reading, cut, true, false), some(1, b"%"), "nothing more comes");
        }
        for other in [&b"%g1"[..], b"%1g", b"%%"] {
            assert_eq!(token(reading, other, false, false), some(1, b"%"));
        }
    }
}

#[test]
fn json_escapes_are_read_whole_or_as_they_stand() {
    for (escape, meant) in [
        (&b"\\n"[..], &b"\n"[..]),
        (b"\\r", b"\r"),
        (b"\\t", b"\t"),
        (b"\\b", b"\x08"),
        (b"\\f", b"\x0c"),
        (b"\\\"", b"\""),
        (b"\\\\", b"\\"),
        (b"\\/", b"/"),
        (b"\\'", b"'"),
        (b"\\x4A", b"J"),
        (b"\\xff", b"\xff"),
        (b"\\u004a", b"J"),
        (b"\\u00e9", "\u{e9}".as_bytes()),
        (b"\\u20AC", "\u{20ac}".as_bytes()),
        (b"\\ud7ff", "\u{d7ff}".as_bytes()),
        (b"\\ue000", "\u{e000}".as_bytes()),
        (b"\\ud800\\udc00", "\u{10000}".as_bytes()),
        (b"\\ud83d\\ude00", "\u{1f600}".as_bytes()),
        (b"\\udbff\\udfff", "\u{10ffff}".as_bytes()),
    ] {
        assert_eq!(token(Json, escape, false, false), some(escape.len(), meant), "{}", escape.escape_ascii());
        let followed = [escape, b"0"].concat();
        assert_eq!(token(Json, &followed, false, false), some(escape.len(), meant), "{}", escape.escape_ascii());
        for cut in 1..escape.len() {
            let cut = &escape[..cut];
            // Of two bytes the first alone is open; of hexadecimal digits, any but all.
            assert_eq!(token(Json, cut, false, false), None, "{}", cut.escape_ascii());
            assert_eq!(token(Json, cut, true, false), some(1, b"\\"), "{}", cut.escape_ascii());
        }
    }
    for none in [
        &b"\\a"[..],
        b"\\0",
        b"\\xg0",
        b"\\x0g",
        b"\\u000g",
        // Halves of pairs that do not go together.
        b"\\udc00",
        b"\\udfff",
        b"\\ud800!",
        b"\\ud800\\n",
        b"\\ud800\\udbff",
        b"\\ud800\\ue000",
        b"\\ud800\\u000g",
    ] {
        for last in [false, true] {
            assert_eq!(token(Json, none, last, false), some(1, b"\\"), "{}", none.escape_ascii());
        }
    }
}

#[test]
fn armour_leaves_out_breaks_and_knows_the_escapes_of_its_own_characters() {
    for (input, expected) in [
        (&b"\n"[..], some(1, b"")),
        (b"\r", some(1, b"")),
        (b"\\n", some(2, b"")),
        (b"\\r", some(2, b"")),
        (b"%0a", some(3, b"")),
        (b"%0D", some(3, b"")),
        (b"%2B", some(3, b"+")),
        (b"%2f", some(3, b"/")),
        (b"%3D", some(3, b"=")),
        (b"%2d", some(3, b"-")),
        (b"%5F", some(3, b"_")),
        (b"\\/", some(2, b"/")),
        (b"\\u003d", some(6, b"=")),
        // Others stand for themselves, so that hex may follow; a backslash alone may end a line.
        (b"%41", some(1, b"%")),
        (b"\\u0041", some(1, b"")),
        (b"\\x", None),
        (b"\\a", some(1, b"")),
        (b"\\t", some(1, b"")),
    ] {
        assert_eq!(token(Armour, input, false, false), expected, "{}", input.escape_ascii());
    }
    assert_eq!(token(Armour, b"\\", true, false), some(1, b""));
    assert_eq!(token(Armour, b"%", true, false), some(1, b"%"));
}

#[test]
fn whatever_is_read_otherwise_than_as_itself_is_special() {
    for reading in [Literal, Percent, Json, Armour, Form] {
        for byte in 0..=u8::MAX {
            // Followed by what makes an escape of it, if anything does.
            let changed = [&b"n"[..], b"41", b""].iter().any(|rest| {
                let input = [&[byte], *rest].concat();
                token(reading, &input, true, false) != some(1, &[byte])
            });
            assert!(!changed || is_special_in(reading, byte), "{byte}");
        }
    }
}

/// What is written of `abcdefghij` with those hits, each shown by its unit, in one piece and by single positions.
fn written(hits: &[(usize, usize, usize)]) -> String {
    let text = b"abcdefghij";
    let marker = |hit: &Hit, out: &mut Vec<u8>| out.extend_from_slice(format!("[{}]", hit.unit).as_bytes());
    let cover = || {
        let mut cover = Cover::default();
        hits.iter().for_each(|(start, end, unit)| cover.add(Hit { start: *start, end: *end, unit: *unit }));
        cover
    };
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    cover().write(text, 0, text.len(), &mut whole, marker);
    let mut cover = cover();
    for safe in 0..=text.len() {
        let from = safe.saturating_sub(1);
        cover.write(&text[from..], from, safe, &mut pieces, marker);
    }
    assert_eq!(whole, pieces, "{hits:?}");
    String::from_utf8(whole).unwrap()
}

#[test]
fn stretches_that_overlap_are_one_and_those_that_touch_are_two() {
    assert_eq!(written(&[]), "abcdefghij");
    assert_eq!(written(&[(2, 5, 1)]), "ab[1]fghij");
    assert_eq!(written(&[(0, 10, 1)]), "[1]");
    // Side by side, in either order.
    assert_eq!(written(&[(2, 5, 1), (5, 7, 2)]), "ab[1][2]hij");
    assert_eq!(written(&[(5, 7, 2), (2, 5, 1)]), "ab[1][2]hij");
    assert_eq!(written(&[(7, 9, 3), (1, 3, 1), (4, 6, 2)]), "a[1]d[2]g[3]j");
    // One byte in common is enough, from either side, and from both at once.
    assert_eq!(written(&[(2, 5, 1), (4, 9, 2)]), "ab[2]j");
    assert_eq!(written(&[(4, 9, 2), (2, 5, 1)]), "ab[2]j");
    assert_eq!(written(&[(1, 3, 1), (5, 7, 2), (2, 6, 3)]), "a[3]hij");
    assert_eq!(written(&[(1, 3, 1), (3, 5, 2), (5, 7, 3), (2, 6, 4)]), "a[4]hij");
    assert_eq!(written(&[(2, 8, 1), (4, 5, 2)]), "ab[1]ij");
    assert_eq!(written(&[(4, 5, 2), (2, 8, 1)]), "ab[1]ij");
}

#[test]
fn of_those_that_overlap_the_longest_gives_the_name_then_the_first_then_the_one_given_first() {
    assert_eq!(written(&[(2, 5, 1), (3, 7, 2)]), "ab[2]hij");
    assert_eq!(written(&[(2, 5, 2), (3, 6, 1)]), "ab[2]ghij");
    assert_eq!(written(&[(3, 6, 1), (2, 5, 2)]), "ab[2]ghij");
    assert_eq!(written(&[(2, 5, 2), (2, 5, 1)]), "ab[1]fghij");
    assert_eq!(written(&[(2, 5, 1), (2, 5, 2)]), "ab[1]fghij");
}
