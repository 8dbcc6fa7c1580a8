//! What is looked for, against encoders, and borders against the way they are defined.

use super::*;
use crate::decode::{READINGS, Reading};
use crate::needle::{Form, Needle, PREFIX, Unit};
use zeroize::Zeroizing;

const FORMS: [Form; 5] = [Form::Text, Form::Hex, Form::Base64(0), Form::Base64(1), Form::Base64(2)];

fn needle(form: Form, bytes: &[u8]) -> (Needle, Unit) {
    (Needle::new(0, form, bytes), Unit { name: 0, bytes: Zeroizing::new(bytes.to_vec()) })
}

/// Values of every length up to 12, in which every byte is somewhere.
fn values() -> Vec<Vec<u8>> {
    let all = |len: usize| (0..256usize.div_ceil(len)).map(move |n| (0..len).map(|at| (n * len + at) as u8).collect());
    (1..=12).flat_map(all).collect()
}

/// Characters of either alphabet.
fn in_both(standard: u8) -> Vec<u8> {
    match standard {
        b'+' => b"+-".to_vec(),
        b'/' => b"/_".to_vec(),
        other => vec![other],
    }
}

#[test]
fn the_characters_of_a_form_are_what_an_encoder_writes() {
    for value in values() {
        for form in FORMS {
            let written = match form {
                Form::Text => value.clone(),
                Form::Hex => hex::encode(&value).into_bytes(),
                Form::Base64(before) => {
                    let text = STANDARD_NO_PAD.encode([&vec![0; usize::from(before)][..], &value].concat());
                    // Of the first characters and the last, those that depend on nothing but the value.
                    let from = (usize::from(before) * 8).div_ceil(6);
                    text.as_bytes()[from..(usize::from(before) + value.len()) * 8 / 6].to_vec()
                }
            };
            let (needle, unit) = needle(form, &value);
            assert_eq!(needle.len, written.len());
            assert_eq!(needle.prefix_len(), written.len().min(PREFIX));
            let characters: Vec<u8> = (0..needle.len).map(|at| needle.character(&unit, at)).collect();
            assert_eq!(characters, written);
        }
    }
}

#[test]
fn the_characters_beside_a_value_are_all_those_that_can_hold_its_bits() {
    for value in values() {
        for (form, before) in [(Form::Base64(0), 0), (Form::Base64(1), 1), (Form::Base64(2), 2)] {
            let (needle, unit) = needle(form, &value);
            let (mut leads, mut trails) = ([false; 256], [false; 256]);
            for other in 0..=u8::MAX {
                let text = STANDARD.encode([&vec![other; before][..], &value, &[other; 3]].concat());
                let (first, last) = (before * 8 / 6, (before + value.len()) * 8 / 6);
                if before > 0 {
                    in_both(text.as_bytes()[first]).into_iter().for_each(|lead| leads[usize::from(lead)] = true);
                }
                if (before + value.len()) % 3 > 0 {
                    in_both(text.as_bytes()[last]).into_iter().for_each(|trail| trails[usize::from(trail)] = true);
                }
            }
            let padded = STANDARD.encode([&vec![0; before][..], &value].concat());
            assert_eq!(needle.padding(&unit), padded.len() - padded.trim_end_matches('=').len());
            assert_eq!(needle.has_trail(&unit), (before + value.len()) % 3 > 0);
            assert_eq!(form.has_lead(), before > 0);
            for character in 0..=u8::MAX {
                assert_eq!(needle.led_by(&unit, character), leads[usize::from(character)]);
                assert_eq!(needle.trailed_by(&unit, character), trails[usize::from(character)]);
            }
        }
    }
    for form in [Form::Text, Form::Hex] {
        let (needle, unit) = needle(form, b"value");
        assert!(!form.has_lead() && !needle.has_trail(&unit) && needle.padding(&unit) == 0);
        assert!((0..=u8::MAX).all(|byte| !needle.led_by(&unit, byte) && !needle.trailed_by(&unit, byte)));
    }
}

#[test]
fn a_form_gives_away_whole_bytes_and_is_read_in_its_own_readings() {
    for (form, bytes) in [
        (Form::Text, [0, 1, 2, 3, 4, 5, 6, 7, 8]),
        (Form::Hex, [0, 0, 1, 1, 2, 2, 3, 3, 4]),
        (Form::Base64(0), [0, 0, 1, 2, 3, 3, 4, 5, 6]),
        (Form::Base64(1), [0, 1, 2, 2, 3, 4, 5, 5, 6]),
        (Form::Base64(2), [0, 1, 1, 2, 3, 4, 4, 5, 6]),
    ] {
        assert_eq!(std::array::from_fn(|characters| form.bytes_in(characters)), bytes);
        for reading in READINGS {
            assert_eq!(form.is_read_in(reading), (form == Form::Text) == (reading != Reading::Armour));
        }
        for byte in 0..=u8::MAX {
            let normal = match form {
                Form::Text => byte,
                Form::Hex => byte.to_ascii_lowercase(),
                Form::Base64(_) if byte == b'-' => b'+',
                Form::Base64(_) if byte == b'_' => b'/',
                Form::Base64(_) => byte,
            };
            assert_eq!(form.normalise(byte), normal);
        }
    }
}

/// The longest proper prefix of a text that is also its suffix.
fn longest_border(text: &[u8]) -> usize {
    (0..text.len()).rev().find(|len| text.ends_with(&text[..*len])).unwrap_or(0)
}

#[test]
fn a_border_is_the_longest_prefix_that_is_a_suffix_unless_the_automaton_finds_it() {
    const BLOCKS: [&[u8]; 4] = [b"a", b"b", b"aaaaaaaaaa", b"abaababaab"];
    let mut values = vec![Vec::new()];
    for _ in 0..4 {
        let longer = |value: &Vec<u8>| BLOCKS.map(|block| [value, block].concat());
        values = [values.clone(), values.iter().flat_map(longer).collect()].concat();
    }
    values.push(b"aaaaaaaaaaaab".repeat(3));
    values.push([&[b'a'; 12][..], b"b", &[b'a'; 30]].concat());
    for value in values.iter().filter(|value| value.len() > 1) {
        let (needle, unit) = needle(Form::Text, value);
        for matched in needle.prefix_len()..=value.len() {
            let border = longest_border(&value[..matched]);
            let kept = if border < needle.prefix_len() { 0 } else { border };
            assert_eq!(needle.border(&unit, matched), kept, "{matched} of {}", value.escape_ascii());
        }
    }
}

#[test]
fn borders_take_memory_by_the_run_and_only_when_they_are_asked_for() {
    let allocated = |value: &[u8]| {
        let (needle, unit) = needle(Form::Text, value);
        assert_eq!(needle.allocated(), 0);
        needle.border(&unit, value.len());
        needle.allocated()
    };
    let one = allocated(&b"ab".repeat(100));
    assert!(one > 0);
    assert_eq!(allocated(b"0123456789abcdefghijklmnopqrstuvwxyz"), 0);
    assert_eq!(allocated(&b"abc".repeat(1000)), one);
    // The beginning, the end up to its twelfth letter, and each that follows it, repeat at distances of their own.
    assert_eq!(allocated(&[&[b'a'; 12][..], b"b", &[b'a'; 13]].concat()), 3 * one);
}
