//! The end of a stream, whole and cut.

use super::*;

fn long_value(len: usize) -> Vec<u8> {
    let mut state = 7u32;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        b" !#/+%\"\\abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[(state >> 24) as usize % 70]
    };
    (0..len).map(|_| next()).collect()
}

#[test]
fn a_value_cut_off_anywhere_is_masked_as_far_as_it_goes() {
    let value = String::from_utf8(long_value(90)).unwrap();
    let redactor = redactor(&[value.as_bytes()]);
    for (what, text) in encodings(&value).into_iter().chain([("base64", STANDARD.encode(&value))]) {
        let text = text.as_bytes();
        for cut in 0..text.len() {
            let cut_text = [b"<", &text[..cut]].concat();
            let masked = redactor.redact_truncated(&cut_text);
            let least = if what.contains("all") || what == "\\x" { 6 * 6 + 6 } else { 3 * 6 };
            if cut >= least {
                assert_eq!(masked, b"<[secret:A]", "{what} {}", String::from_utf8_lossy(&cut_text));
            }
            let masked = redactor.redact(&cut_text);
            if cut > 33 * 6 {
                assert_eq!(masked, b"<[secret:A]", "{what} {}", String::from_utf8_lossy(&cut_text));
            }
        }
    }
}

#[test]
fn six_characters_are_masked_at_a_cut_and_five_are_not() {
    let redactor = redactor(&[b"abcdefghijklmnopqrstuvwxyz", b"123456"]);
    assert_eq!(redactor.redact_truncated(b"x abcdef"), b"x [secret:A]");
    assert_eq!(redactor.redact_truncated(b"x abcde"), b"x abcde");
    assert_eq!(redactor.redact_truncated(b"x abcdef%6"), b"x [secret:A]");
    assert_eq!(redactor.redact_truncated(b"x abcdef."), b"x abcdef.");
    assert_eq!(redactor.redact_truncated(b"x 12345"), b"x 12345");
    assert_eq!(redactor.redact_truncated(b"x 123456"), b"x [secret:B]");
    assert_eq!(redactor.redact_truncated(b"abcdef"), b"[secret:A]");
    // Case is not told apart in what does not go on; what is there to its end is another text.
    assert_eq!(redactor.redact_truncated(b"x ABCDEFGHIJ"), b"x [secret:A]");
    assert_eq!(super::redactor(&[b"sesame"]).redact_truncated(b"x SESAME"), b"x SESAME");
}

#[test]
fn thirty_two_bytes_are_masked_at_any_end_and_fewer_are_not() {
    let value = long_value(100);
    let redactor = redactor(&[&value]);
    assert_eq!(redactor.redact(&value[..32]), b"[secret:A]");
    assert_eq!(redactor.redact(&value[..31]), &value[..31]);
    assert_eq!(redactor.redact(&[&value[..99], b"\n"].concat()), [&value[..99], b"\n"].concat());
    let text = hex::encode(&value[..32]);
    assert_eq!(shown(&redactor, text.as_bytes()), "[secret:A]");
    assert_eq!(redactor.redact(&text.as_bytes()[..63]), &text.as_bytes()[..63]);
}

#[test]
fn an_escape_that_ends_the_stream_is_kept() {
    let redactor = redactor(&[b"secret-value"]);
    for text in ["%", "%4", "\\", "\\u", "\\u00", "\\ud83d", "\\ud83d\\", "\\ud83d\\u", "\\ud83d\\ude0", "\\x4", "a+"] {
        assert_eq!(shown(&redactor, text.as_bytes()), text);
        assert_eq!(redactor.redact_truncated(text.as_bytes()), text.as_bytes());
    }
}

#[test]
fn a_large_value_is_masked_in_every_encoding_and_chunking() {
    let value = long_value(32 << 10);
    let redactor = redactor(&[&value]);
    let value = String::from_utf8(value).unwrap();
    let armour = armoured(b"user:", value.as_bytes(), b"");
    let armour = armour.into_iter().map(|text| ("base64", text, "dXNlcj[secret:A]"));
    for (what, text, masked) in
        encodings(&value).into_iter().map(|(what, text)| (what, text, "[secret:A]")).chain(armour)
    {
        assert_eq!(shown(&redactor, text.as_bytes()), masked, "{what}");
        let cuts: Vec<usize> = (0..text.len()).step_by(997).collect();
        assert_eq!(in_chunks(&redactor, text.as_bytes(), &cuts), masked.as_bytes(), "{what}");
        let cut = &text.as_bytes()[..text.len() - 4];
        // What is cut may be an escape of padding.
        assert!(shown(&redactor, cut).trim_end_matches("\\u").trim_end_matches("%3").eq(masked), "{what}");
    }
    let mut other = value.clone().into_bytes();
    *other.last_mut().unwrap() ^= 1;
    other.push(b'.');
    assert_eq!(redactor.redact(&other), other);
}
