//! Tests, with encoders that share nothing with the crate.

mod ends;
mod exhaustive;
mod needles;
mod parts;
mod properties;
mod scale;
mod search;
mod skim;
mod speed;

use crate::{Masked, Redactor};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE, URL_SAFE_NO_PAD};
use theazo_vault::SecretValue;

/// A redactor of values named `A`, `B` and so on.
fn redactor(values: &[&[u8]]) -> Redactor {
    let values: Vec<SecretValue> = values.iter().map(|value| SecretValue::from_bytes(value.to_vec())).collect();
    let names: Vec<String> = (0..values.len()).map(name).collect();
    Redactor::new(values.iter().zip(&names).map(|(value, name)| Masked { name, value }))
}

fn name(index: usize) -> String {
    let letter = char::from(b'A' + (index % 26) as u8);
    if index < 26 { letter.to_string() } else { format!("{letter}_{}", index / 26) }
}

fn shown(redactor: &Redactor, text: &[u8]) -> String {
    String::from_utf8_lossy(&redactor.redact(text)).into_owned()
}

/// The masked stream with the input cut at those positions.
fn in_chunks(redactor: &Redactor, text: &[u8], cuts: &[usize]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut stream = redactor.stream();
    let mut from = 0;
    for cut in cuts.iter().copied().filter(|cut| *cut <= text.len()) {
        stream.push(&text[from..cut.max(from)], &mut out);
        from = cut.max(from);
    }
    stream.push(&text[from..], &mut out);
    stream.finish(&mut out);
    out
}

fn wrap(text: &str, width: usize, with: &str) -> String {
    let lines: Vec<&str> =
        text.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect::<Vec<_>>();
    lines.join(with)
}

fn percent(bytes: &[u8], upper: bool, literal: impl Fn(u8) -> bool) -> String {
    let escape = |byte: &u8| match (literal(*byte), upper) {
        (true, _) => char::from(*byte).to_string(),
        (false, true) => format!("%{byte:02X}"),
        (false, false) => format!("%{byte:02x}"),
    };
    bytes.iter().map(escape).collect()
}

/// JSON with everything beyond ASCII, or with everything, as `\uXXXX`.
fn unicode_escaped(text: &str, upper: bool, literal: impl Fn(char) -> bool) -> String {
    let mut out = String::new();
    for character in text.chars() {
        if literal(character) && !matches!(character, '"' | '\\') && character >= ' ' {
            out.push(character);
            continue;
        }
        for unit in character.encode_utf16(&mut [0; 2]) {
            out.push_str(&if upper { format!("\\u{unit:04X}") } else { format!("\\u{unit:04x}") });
        }
    }
    out
}

/// Every encoding of a text by itself: what it is called and how it looks.
fn encodings(value: &str) -> Vec<(&'static str, String)> {
    let bytes = value.as_bytes();
    let unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let component = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte);
    let quoted = |byte: u8| unreserved(byte) || byte == b'/';
    let json = serde_json::to_string(value).unwrap();
    let json = json.strip_prefix('"').and_then(|json| json.strip_suffix('"')).unwrap().to_owned();
    let crate_percent = percent_encoding::utf8_percent_encode(value, percent_encoding::NON_ALPHANUMERIC).to_string();
    vec![
        ("plain", value.to_owned()),
        ("hex", hex::encode(bytes)),
        ("HEX", hex::encode_upper(bytes)),
        ("xxd -p", wrap(&hex::encode(bytes), 7, "\n")),
        ("encodeURIComponent", percent(bytes, true, component)),
        ("quote", percent(bytes, true, quoted)),
        ("quote_plus", percent(bytes, true, |byte| unreserved(byte) || byte == b' ').replace(' ', "+")),
        ("quote_plus, lower", percent(bytes, false, |byte| unreserved(byte) || byte == b' ').replace(' ', "+")),
        ("percent-encoding", crate_percent),
        ("all percent", percent(bytes, true, |_| false)),
        ("all percent, lower", percent(bytes, false, |_| false)),
        ("serde_json", json.clone()),
        ("PHP json_encode", json.replace('/', "\\/")),
        ("ensure_ascii", unicode_escaped(value, false, |character| character.is_ascii())),
        ("ensure_ascii, upper", unicode_escaped(value, true, |character| character.is_ascii())),
        ("all \\u", unicode_escaped(value, false, |_| false)),
        ("\\x", bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect()),
    ]
}

/// Base64 of the value between other bytes, in every alphabet, padding and wrapping.
fn armoured(before: &[u8], value: &[u8], after: &[u8]) -> Vec<String> {
    let data = [before, value, after].concat();
    let mut all = Vec::new();
    for engine in [&STANDARD, &STANDARD_NO_PAD, &URL_SAFE, &URL_SAFE_NO_PAD] {
        let text = engine.encode(&data);
        all.push(wrap(&text, 64, "\n"));
        all.push(wrap(&text, 76, "\r\n"));
        all.push(wrap(&text, 48, "\n    "));
        all.push(wrap(&text, 60, "\\n"));
        all.push(text.replace('/', "\\/"));
        all.push(text.replace('=', "\\u003d").replace('+', "\\u002B"));
        all.push(percent(text.as_bytes(), true, |byte| byte.is_ascii_alphanumeric()));
        all.push(text);
    }
    all
}

#[test]
fn no_values_make_a_pass_through() {
    for redactor in [redactor(&[]), redactor(&[b"", b"12345"])] {
        assert!(redactor.is_empty());
        let mut out = Vec::new();
        let mut stream = redactor.stream();
        stream.push(b"12345 %3", &mut out);
        assert_eq!(out, b"12345 %3");
        stream.finish(&mut out);
        assert_eq!(out, b"12345 %3");
    }
}

#[test]
fn five_bytes_are_left_alone_and_six_are_masked() {
    let redactor = redactor(&[b"abcde", b"123456"]);
    assert!(!redactor.is_empty());
    assert_eq!(shown(&redactor, b"abcde 12345 123456"), "abcde 12345 [secret:B]");
}

#[test]
fn of_equal_values_the_first_name_stands() {
    assert_eq!(shown(&redactor(&[b"other-one", b"the-value", b"the-value"]), b"<the-value>"), "<[secret:B]>");
}

#[test]
fn overlapping_occurrences_are_masked_as_one_under_the_longest() {
    let redactor = redactor(&[b"abcdef", b"defghijk", b"xxabcdefyy"]);
    assert_eq!(shown(&redactor, b".abcdefghijk."), ".[secret:B].");
    assert_eq!(shown(&redactor, b".xxabcdefyy."), ".[secret:C].");
    assert_eq!(shown(&redactor, b".xxabcdefy."), ".xx[secret:A]y.");
    assert_eq!(shown(&redactor, b"abcdefabcdef"), "[secret:A][secret:A]");
}

#[test]
fn the_longest_names_what_overlaps_also_if_it_comes_first() {
    assert_eq!(shown(&redactor(&[b"ghijkl", b"abcdefghij"]), b".abcdefghijkl."), ".[secret:B].");
}

#[test]
fn a_false_beginning_that_overlaps_an_occurrence_does_not_hide_it() {
    let plain = "abcabcabcabcabcabcd";
    assert_eq!(shown(&redactor(&[plain.as_bytes()]), b"<abcabcabcabcabcabcabcabcd>"), "<abcabc[secret:A]>");
    let (twelve, thirteen) = ("a".repeat(12), "a".repeat(13));
    let value = format!("{twelve}b{thirteen}bz");
    let text = format!("<{twelve}b{thirteen}b{thirteen}bz>");
    assert_eq!(shown(&redactor(&[value.as_bytes()]), text.as_bytes()), format!("<{twelve}ba[secret:A]>"));
}

#[test]
fn an_escape_that_ends_in_the_character_it_stands_for_belongs_to_the_value() {
    assert_eq!(shown(&redactor(&[b"31abcdefgh"]), b"<3%31abcdefgh>"), "<[secret:A]>");
}

#[test]
fn an_escape_of_one_kind_may_stand_before_what_would_be_one_of_another() {
    let redactor = redactor(&[br"A\x41bcdefgh", b"B%41bcdefgh"]);
    assert_eq!(shown(&redactor, br"<%41\x41bcdefgh>"), "<[secret:A]>");
    assert_eq!(shown(&redactor, br"<\u0042%41bcdefgh>"), "<[secret:B]>");
}

#[test]
fn the_end_of_an_escape_begins_no_other() {
    let redactor = redactor(&[b"\tabcdef"]);
    assert_eq!(shown(&redactor, br"<\tabcdef>"), "<[secret:A]>");
    assert_eq!(shown(&redactor, br"<\\tabcdef>"), r"<\\tabcdef>");
}

#[test]
fn the_end_of_an_escaped_line_break_belongs_to_no_base64_after_it() {
    let value = b"zebra-value-123";
    let redactor = redactor(&[value]);
    let text = STANDARD.encode([b"?", &value[..]].concat());
    // The character before has the first bits of the value, as the letter `n` has.
    let (lead, rest) = text.split_at(2);
    assert_eq!(shown(&redactor, format!("?{lead}{rest}").as_bytes()), "?P[secret:A]");
    assert_eq!(shown(&redactor, format!("n{rest}").as_bytes()), "[secret:A]");
    let text = format!("the end of a line\\n{rest}");
    for cut in 0..text.len() {
        assert_eq!(in_chunks(&redactor, text.as_bytes(), &[cut]), br"the end of a line\n[secret:A]", "cut at {cut}");
    }
}

#[test]
fn an_escaped_apostrophe_is_masked_and_half_a_surrogate_pair_is_kept() {
    let redactor = redactor(&[b"it's-me"]);
    assert_eq!(shown(&redactor, br"'it\'s-me'"), "'[secret:A]'");
    assert_eq!(shown(&redactor, br"\ud83d\u0041\udc00"), r"\ud83d\u0041\udc00");
}

#[test]
fn a_value_that_overlaps_itself_leaves_nothing() {
    let redactor = redactor(&[b"abcabcabcabcabc"]);
    let text = format!("<{}>", "abc".repeat(9));
    assert_eq!(shown(&redactor, text.as_bytes()), "<[secret:A]>");
    let text = format!("<{}a>", "abc".repeat(9));
    assert_eq!(shown(&redactor, text.as_bytes()), "<[secret:A]a>");
    let text = format!("<ab{}>", percent("abc".repeat(7).as_bytes(), true, |byte| byte == b'b'));
    assert_eq!(shown(&redactor, text.as_bytes()), "<ab[secret:A]>");
}

#[test]
fn a_value_of_blanks_is_masked() {
    assert_eq!(shown(&redactor(&[b"      "]), b"<++%20+++><     >"), "<[secret:A]><     >");
    assert_eq!(shown(&redactor(&[b"\n\n\n\n\n\n"]), br"<\n\n\n\n\n\n>"), "<[secret:A]>");
}

#[test]
fn a_plus_is_a_space_or_itself() {
    let redactor = redactor(&[b"a+b c+d e"]);
    assert_eq!(shown(&redactor, b"a+b%20c+d%20e a%2Bb+c%2bd+e a+b c+d e"), "[secret:A] [secret:A] [secret:A]");
}

#[test]
fn case_matters_in_values_and_in_base64() {
    let redactor = redactor(&[b"PassWord-1234567"]);
    let text = b"password-1234567 PassWord_1234567 PASSWORD-1234567";
    assert_eq!(redactor.redact(text), text);
    let upper = STANDARD.encode("PassWord-1234567").to_uppercase();
    assert_eq!(redactor.redact(upper.as_bytes()), upper.as_bytes());
}

#[test]
fn a_key_is_masked_whole_and_line_by_line() {
    let key =
        "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAQEFAASCBKcwggSjAgEA\n-----END PRIVATE KEY-----\n";
    let redactor = redactor(&[key.as_bytes()]);
    assert_eq!(shown(&redactor, key.as_bytes()), "[secret:A]");
    assert_eq!(shown(&redactor, format!("{key:?}").as_bytes()), "\"[secret:A]\"");
    assert_eq!(shown(&redactor, STANDARD.encode(key).as_bytes()), "[secret:A]");
    let quoted = key.lines().map(|line| format!("> {line}\r\n")).collect::<String>();
    let masked = "> -----BEGIN PRIVATE KEY-----\r\n> [secret:A]\r\n> [secret:A]\r\n> -----END PRIVATE KEY-----\r\n";
    assert_eq!(shown(&redactor, quoted.as_bytes()), masked);
    assert_eq!(shown(&redactor, STANDARD.encode("AQEFAASCBKcwggSjAgEA").as_bytes()), "[secret:A]");
}

#[test]
fn a_line_that_only_looks_like_a_keys_frame_at_one_end_is_masked() {
    let redactor = redactor(&[b"-----BEGIN with this\nand this-----\n-----END with that"]);
    let text = b"-----BEGIN with this, and this-----, -----END with that";
    assert_eq!(shown(&redactor, text), "[secret:A], [secret:A], [secret:A]");
}

#[test]
fn blanks_around_a_line_do_not_matter_and_short_lines_are_left_alone() {
    let redactor = redactor(&[b"  first: line\r\n\tab\r\n\tlast-line"]);
    assert_eq!(shown(&redactor, b"first: line ab last-line"), "[secret:A] ab [secret:A]");
}

#[test]
fn a_value_of_one_line_is_not_masked_in_part() {
    assert_eq!(shown(&redactor(&[b" one line "]), b"one line"), "one line");
}

#[test]
fn base64_beside_a_value_keeps_what_does_not_depend_on_it() {
    let redactor = redactor(&[b"hunter2hunter2"]);
    // "user:" ends within a group: dXNlcjpodW50ZXIyaHVudGVyMiE=, where "o" holds bits of ":" and of "h".
    assert_eq!(shown(&redactor, STANDARD.encode("user:hunter2hunter2").as_bytes()), "dXNlcj[secret:A]");
    assert_eq!(shown(&redactor, STANDARD.encode("abcdhunter2hunter2!?").as_bytes()), "YWJjZ[secret:A]IT8=");
}

#[test]
fn base64_broken_by_more_than_indentation_is_not_joined() {
    let redactor = redactor(&[b"hunter2hunter2"]);
    let text = STANDARD.encode("hunter2hunter2");
    let (left, right) = text.split_at(9);
    let apart = format!("{left}\n{}{right}", " ".repeat(70));
    assert_eq!(shown(&redactor, apart.as_bytes()), apart);
    for (left, right) in [(left, right), text.split_at(13)] {
        let apart = format!("{left} {right}");
        assert_eq!(shown(&redactor, apart.as_bytes()), apart, "a blank alone is no line break");
    }
    let near = format!("{left}\n{}{right}", " ".repeat(60));
    assert_eq!(shown(&redactor, near.as_bytes()), "[secret:A]");
}

#[test]
fn bytes_that_are_not_text_are_kept_and_masked() {
    let redactor = redactor(&[b"\xff\xfe\x00\x80\xc3(", b"plain-value"]);
    let text = b"\x80\xff\xfe\x00\x80\xc3(\xff\xc3plain-value\xf0\x9f";
    assert_eq!(redactor.redact(text), b"\x80[secret:A]\xff\xc3[secret:B]\xf0\x9f");
    assert_eq!(shown(&redactor, br"\xff\xfe\x00\x80\xc3("), "[secret:A]");
}

#[test]
fn a_text_stays_text() {
    let redactor = redactor(&["zażółć-gęślą".as_bytes()]);
    assert_eq!(redactor.redact_text("żyje: zażółć-gęślą ☃"), "żyje: [secret:A] ☃");
}
