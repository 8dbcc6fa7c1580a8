//! Every encoding, at every alignment, cut at every place.

use super::*;

const VALUES: [&str; 10] = [
    "secret",
    "p@ss w/rd",
    "s3cr3t!",
    "a+b/c=d&e",
    "quo\"te\\back",
    "two\nlines",
    "żółw🐢",
    "~~~???>>>",
    "%41%42%43",
    "abcabcabcabcabcabd",
];

fn assert_masked_however_cut(redactor: &Redactor, text: &str, masked: &str, what: &str) {
    assert_eq!(shown(redactor, text.as_bytes()), masked, "{what}: {text}");
    for cut in 0..=text.len() {
        assert_eq!(in_chunks(redactor, text.as_bytes(), &[cut]), masked.as_bytes(), "{what}: {text} cut at {cut}");
    }
    let all: Vec<usize> = (0..text.len()).collect();
    assert_eq!(in_chunks(redactor, text.as_bytes(), &all), masked.as_bytes(), "{what}: {text} cut everywhere");
}

#[test]
fn every_encoding_is_masked_however_it_is_cut() {
    for value in VALUES {
        let redactor = redactor(&[value.as_bytes()]);
        for (what, text) in encodings(value) {
            assert_masked_however_cut(&redactor, &format!("<{text}>"), "<[secret:A]>", what);
            assert_masked_however_cut(&redactor, &format!("%{text}{text}\\"), "%[secret:A][secret:A]\\", what);
        }
    }
}

#[test]
fn percent_escapes_of_any_bytes_are_masked() {
    let value = "p@ss w/rd";
    let redactor = redactor(&[value.as_bytes()]);
    for escaped in 0..1u32 << value.len() {
        let mut index = 0;
        let text: String = value.bytes().fold(String::new(), |text, byte| {
            index += 1;
            let literal = escaped & (1 << (index - 1)) == 0;
            text + &percent(&[byte], index % 2 == 0, |_| literal)
        });
        assert_eq!(shown(&redactor, format!("={text}&").as_bytes()), "=[secret:A]&", "{text}");
    }
}

#[test]
fn json_escapes_of_any_characters_are_masked() {
    let value = "pa/ż🐢\nx";
    let redactor = redactor(&[value.as_bytes()]);
    let count = value.chars().count();
    for escaped in 0..1u32 << count {
        let text: String = value
            .chars()
            .enumerate()
            .map(|(index, character)| {
                unicode_escaped(&character.to_string(), index % 2 == 0, |_| escaped & (1 << index) == 0)
            })
            .collect();
        assert_eq!(shown(&redactor, format!("\"{text}\"").as_bytes()), "\"[secret:A]\"", "{text}");
    }
}

#[test]
fn base64_is_masked_at_every_alignment_however_it_is_cut() {
    for value in VALUES {
        let redactor = redactor(&[value.as_bytes()]);
        for before in ["", "u", "u:", "us:"] {
            for after in ["", "!", "!?", "!?.+"] {
                for text in armoured(before.as_bytes(), value.as_bytes(), after.as_bytes()) {
                    let masked = shown(&redactor, text.as_bytes());
                    assert_eq!(masked.matches("[secret:A]").count(), 1, "{value}: {text}: {masked}");
                    assert_no_bits_remain(&masked, before.len(), after.len());
                    for cut in 0..=text.len() {
                        let cut_masked = in_chunks(&redactor, text.as_bytes(), &[cut]);
                        assert_eq!(cut_masked, masked.as_bytes(), "{value}: {text} cut at {cut}");
                    }
                    let all: Vec<usize> = (0..text.len()).collect();
                    assert_eq!(in_chunks(&redactor, text.as_bytes(), &all), masked.as_bytes(), "{text}");
                }
            }
        }
    }
}

/// Of the characters around a marker only those that depend on no bit of the value are left.
fn assert_no_bits_remain(masked: &str, before: usize, after: usize) {
    let escapes = [("%2B", "+"), ("%2F", "/"), ("%3D", "="), ("%2D", "-"), ("%5F", "_")];
    let more = [("\\u002B", "+"), ("\\u003d", "="), ("\\n", "\n"), ("\\/", "/")];
    let plain = escapes.iter().chain(&more).fold(masked.to_owned(), |text, (from, to)| text.replace(from, to));
    let count = |text: &str| text.chars().filter(|c| !c.is_whitespace() && *c != '=').count();
    let (left, right) = plain.split_once("[secret:A]").unwrap();
    assert_eq!(count(left), before * 8 / 6, "{masked}");
    // After the value: whole characters of what follows, and those in which it ends.
    assert!(count(right) <= (after * 8).div_ceil(6), "{masked}");
    assert!(after > 0 || right.is_empty(), "{masked}");
}

#[test]
fn what_begins_no_value_is_given_out_at_once() {
    let redactor = redactor(&[b"secret-value", b"p@ss word"]);
    let given = |text: &[u8]| {
        let mut out = Vec::new();
        let mut stream = redactor.stream();
        stream.push(text, &mut out);
        String::from_utf8(out).unwrap()
    };
    for text in [
        "done.\n",
        "login: ",
        "$ ",
        "a b\r\n",
        "50%!",
        "ready\n",
        "see\r\n",
        "\\d ",
        "path\\q:",
        "secret-valux.",
        "sesesec.",
        "0A%4g,",
    ] {
        assert_eq!(given(text.as_bytes()), text);
    }
    for (text, out) in [
        ("see secre", "see "),
        ("see.secret-valu", "see."),
        // As base64 the letter before could hold the first bits of the value, but what follows is no base64 of it.
        ("nsecre", "n"),
        ("see p%40s", "see "),
        ("<p%4", "<"),
        ("<%", "<"),
        ("<\\u00", "<"),
        ("secret-value.", "[secret:A]."),
        ("secret-value", "[secret:A]"),
        (".c2VjcmV0LX", "."),
    ] {
        assert_eq!(given(text.as_bytes()), out, "{text}");
    }
}

#[test]
fn a_line_is_given_out_to_its_end_though_its_last_letters_may_begin_encoded_text() {
    let values: Vec<Vec<u8>> =
        (0..100u64).map(|n| format!("{:x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15)).into_bytes()).collect();
    let redactor = redactor(&values.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let mut stream = redactor.stream();
    for line in ["ready\n", "id 550e8400-e29b-41d4-a716-446655440000\n", "0123456789abcdef0123456789abcdef01234567\r\n"]
    {
        let mut out = Vec::new();
        stream.push(line.as_bytes(), &mut out);
        assert_eq!(out, line.as_bytes());
    }
}

#[test]
fn base64_and_hex_are_masked_wherever_a_line_is_broken_and_however_they_are_cut() {
    let value = b"a?b~c>d\xff\xfe\xfd";
    let redactor = redactor(&[value]);
    for before in 0..70 {
        let data = [&vec![b'.'; before][..], value, b"...."].concat();
        let texts = [
            wrap(&STANDARD.encode(&data), 64, "\n"),
            wrap(&URL_SAFE.encode(&data), 76, "\r\n"),
            wrap(&STANDARD.encode(&data), 62, "\n"),
            wrap(&STANDARD.encode(&data), 44, "\n \t"),
            wrap(&STANDARD_NO_PAD.encode(&data), 60, "\\r\\n"),
            wrap(&STANDARD.encode(&data), 64, "\\\n"),
            wrap(&hex::encode(&data), 60, "\n"),
            wrap(&hex::encode_upper(&data), 64, "\r\n"),
        ];
        for text in texts {
            let masked = shown(&redactor, text.as_bytes());
            let (left, right) = masked.split_once("[secret:A]").expect(&text);
            let count = |text: &str| text.replace("\\r\\n", "").chars().filter(|c| is_encoded(*c)).count();
            let hex = text.starts_with("2e") || text.starts_with("2E") || text.starts_with("613f");
            assert_eq!(
                count(left),
                if hex || text.starts_with("613F") { before * 2 } else { before * 8 / 6 },
                "{masked}"
            );
            assert!(count(right) <= if hex || text.starts_with("613F") { 8 } else { 6 }, "{masked}");
            for cut in (before.saturating_sub(3)..text.len()).step_by(3) {
                assert_eq!(in_chunks(&redactor, text.as_bytes(), &[cut]), masked.as_bytes(), "{text} cut at {cut}");
            }
        }
    }
}

fn is_encoded(character: char) -> bool {
    character.is_ascii_alphanumeric() || "+/-_".contains(character)
}

#[test]
fn lines_of_any_width_are_joined_where_a_value_has_begun() {
    let value = b"hunter2hunter2hunter2";
    let redactor = redactor(&[value]);
    for width in 4..30 {
        for text in [STANDARD.encode(value), hex::encode(value)] {
            assert_eq!(shown(&redactor, wrap(&text, width, "\n").as_bytes()), "[secret:A]", "{width}");
        }
    }
}

#[test]
fn lines_of_prose_are_not_joined_however_long_they_are() {
    let value = b"hunter2hunter2";
    let redactor = redactor(&[value]);
    let hex = hex::encode(value);
    let (left, right) = hex.split_at(3);
    let line = "words of a line, and more of them, up to the end of it: ";
    assert!(line.len() > 44);
    for text in [format!("{line}{left}\n{right}."), format!("{line}%41 {left}\n{right}.")] {
        assert_eq!(shown(&redactor, text.as_bytes()), text);
    }
}

#[test]
fn lines_of_forty_four_characters_are_joined_however_these_are_read() {
    let value = b"hunter2hunter2";
    let redactor = redactor(&[value, b"has a space"]);
    let hex = hex::encode(value);
    let (left, right) = hex.split_at(3);
    // As they stand; as one of them that are a space in forms; escaped, each as one.
    for line in ["Z", "+", "%2B", "\\/"] {
        for (count, is_joined) in [(41, true), (40, false)] {
            let text = format!("{}{left}\n{right}.", line.repeat(count));
            let masked = if is_joined { format!("{}[secret:A].", line.repeat(count)) } else { text.clone() };
            assert_eq!(shown(&redactor, text.as_bytes()), masked);
        }
    }
}

#[test]
fn what_a_long_break_ended_is_found_when_it_begins_again() {
    let value = b"hunter2hunter2hunter2";
    let redactor = redactor(&[value]);
    let text = STANDARD.encode(value);
    let (left, right) = text.split_at(20);
    for (blanks, is_joined) in [(63, true), (64, false)] {
        let broken = format!("{left}\n{}{right}", " ".repeat(blanks));
        let masked = if is_joined { "[secret:A]" } else { &broken };
        assert_eq!(shown(&redactor, format!("{broken}, {text}.").as_bytes()), format!("{masked}, [secret:A]."));
    }
}
