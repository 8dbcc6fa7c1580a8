//! Work and memory at the limits.

use super::*;

/// Steps for a text in small chunks, per byte of it: bytes compared, states changed, bytes and positions moved, and bytes
/// that are looked at in every reading.
fn steps_per_byte(redactor: &Redactor, text: &[u8]) -> u64 {
    steps(redactor, text) / text.len() as u64
}

fn steps(redactor: &Redactor, text: &[u8]) -> u64 {
    let mut out = Vec::new();
    let mut stream = redactor.stream();
    for chunk in text.chunks(64) {
        stream.push(chunk, &mut out);
    }
    stream.steps.count()
}

#[test]
fn ordinary_text_is_read_once() {
    let redactor = redactor(&[b"sk-abcdefghijklmnop", b"another value"]);
    let text = "2026-01-02T03:04:05Z INFO request done path=/v1/agents status=200\n".repeat(1000);
    assert!(steps_per_byte(&redactor, text.as_bytes()) <= 1);
    assert!(redactor.index.as_ref().unwrap().has_table());
    let text = r#"{"level":"info","text":"\"done\" in 5%, see https:\/\/host\/a%20path?q=1+2"}"#.repeat(1000);
    let steps = steps(&redactor, text.as_bytes()) * 100 / text.len() as u64;
    // Every reading is followed by itself only while it differs.
    assert!(steps <= 147, "{steps} steps for 100 bytes");
}

#[test]
fn a_value_that_overlaps_itself_costs_a_bounded_number_of_steps_a_byte() {
    let value = vec![b'a'; 32 << 10];
    let mut ends_otherwise = value.clone();
    ends_otherwise.push(b'b');
    let redactor = redactor(&[&value, &ends_otherwise]);
    for text in [vec![b'a'; 1 << 18], [&vec![b'a'; (32 << 10) - 1][..], b"."].concat().repeat(8)] {
        let steps = steps_per_byte(&redactor, &text);
        assert!(steps <= 40, "{steps} steps a byte");
    }
    let text = "%61".repeat(1 << 17);
    let steps = steps_per_byte(&redactor, text.as_bytes());
    assert!(steps <= 40, "{steps} steps a byte");
}

#[test]
fn prefixes_of_many_alike_values_cost_steps_in_proportion_to_the_values_only() {
    let values: Vec<Vec<u8>> =
        (0..50).map(|n| [&b"ab".repeat(1 << 10)[..], format!("{n:02}").as_bytes()].concat()).collect();
    let redactor = redactor(&values.iter().map(Vec::as_slice).collect::<Vec<_>>());
    for repeats in [20, 200] {
        let text = [&b"ab".repeat((1 << 10) - 1)[..], b"."].concat().repeat(repeats);
        let steps = steps_per_byte(&redactor, &text);
        assert!(steps <= 50 * 20, "{steps} steps a byte");
    }
}

#[test]
fn what_is_held_is_bounded_by_the_longest_encoding_of_a_value() {
    let value = vec![b'a'; 1000];
    let redactor = redactor(&[&value]);
    let mut stream = redactor.stream();
    let mut out = Vec::new();
    for _ in 0..200 {
        stream.push(&[b'a'; 1000], &mut out);
        assert!(stream.held() <= 4 * 6 * 1000, "{}", stream.held());
    }
    stream.finish(&mut out);
    assert_eq!(out, b"[secret:A]");
}

#[test]
fn many_lines_are_masked_from_the_compact_table() {
    let lines: Vec<String> = (0..9000u64).map(|n| format!("{:016x}", n.wrapping_mul(0x9e37_79b9_7f4a_7c15))).collect();
    let value = lines.join("\n");
    let redactor = redactor(&[value.as_bytes()]);
    assert!(!redactor.index.as_ref().unwrap().has_table());
    for line in [0, 4000, 8999] {
        let line = &lines[line];
        let text = format!("{line} and {}", percent(line.as_bytes(), true, |_| false));
        assert_eq!(shown(&redactor, text.as_bytes()), "[secret:A] and [secret:A]");
        assert_eq!(in_chunks(&redactor, text.as_bytes(), &[5, 30]), b"[secret:A] and [secret:A]");
    }
    assert_eq!(shown(&redactor, STANDARD.encode(&lines[8000]).as_bytes()), "[secret:A]");
    assert_eq!(shown(&redactor, value.as_bytes()), "[secret:A]");
}

/// As many random letters, with a line break after each `line`; the same at every run.
pub(super) fn letters(seed: usize, len: usize, line: usize) -> Vec<u8> {
    let mut state = seed as u64 + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        STANDARD.encode([(state >> 40) as u8, (state >> 48) as u8, (state >> 56) as u8]).as_bytes()
            [(state >> 33) as usize % 4]
    };
    (1..=len).map(|at| if at % (line + 1) == 0 { b'\n' } else { next() }).collect()
}

#[test]
fn a_hundred_values_of_32_kib_take_little_more_than_themselves_before_and_after_all_are_masked() {
    const LEN: usize = 32 * 1024;
    for line in [LEN, 64] {
        let values: Vec<Vec<u8>> = (0..100).map(|seed| letters(seed, LEN, line)).collect();
        let refs: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let redactor = redactor(&refs);
        // The values themselves are 3.2 MB, and with their lines twice that.
        let built = redactor.allocated();
        let most = if line == LEN { 8 } else { 48 } * 1_000_000;
        assert!((3_200_000..most).contains(&built), "{built} bytes for lines of {line}");
        for (number, value) in values.iter().enumerate() {
            let place = format!("[secret:{}]", name(number));
            // Each in one form, and each form of some: every one of them is looked at to its end.
            let text = match number % 5 {
                0 => value.clone(),
                1 => hex::encode(value).into_bytes(),
                alignment => {
                    let before = &b"??"[..alignment - 2];
                    [&b"| "[..], STANDARD.encode([before, value].concat()).as_bytes(), b" |"].concat()
                }
            };
            let masked = shown(&redactor, &text);
            assert!(masked.len() < 40 && masked.contains(&place), "{number}: {} bytes", masked.len());
        }
        let after = redactor.allocated();
        assert!(after - built < 1_000_000, "{built} bytes have become {after}");
    }
}

#[test]
fn as_many_short_lines_as_an_agent_can_have_take_some_tens_of_megabytes() {
    // 256 KiB of its session and as many of its platform, in lines of 6 letters.
    let values: Vec<Vec<u8>> = (0..16).map(|seed| letters(seed, 32 * 1024, 6)).collect();
    let refs: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
    let redactor = redactor(&refs);
    let built = redactor.allocated();
    assert!((2_000_000..40_000_000).contains(&built), "{built} bytes");
    let line = String::from_utf8(values[15][7 * 4000..][..6].to_vec()).unwrap();
    assert!(!shown(&redactor, format!("a {line} b").as_bytes()).contains(&line));
}

#[test]
fn the_most_that_borders_can_take_is_a_few_times_the_value() {
    // Every length of it has another period.
    let value = [&[b'a'; 10][..], b"b", &[b'a'; 32 * 1024 - 11]].concat();
    let redactor = redactor(&[&value]);
    let built = redactor.allocated();
    assert_eq!(shown(&redactor, &[&value[..30_000], b"b", &value].concat()).matches("[secret:A]").count(), 1);
    assert!(redactor.allocated() - built < 16 * value.len(), "{built} bytes have become {}", redactor.allocated());
}
