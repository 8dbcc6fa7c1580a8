//! Work and memory at the limits.

use super::*;

/// Steps for a text, in bytes compared, states changed and positions moved, per byte of text.
fn steps_per_byte(redactor: &Redactor, text: &[u8]) -> u64 {
    let mut out = Vec::new();
    let mut stream = redactor.stream();
    for chunk in text.chunks(4096) {
        stream.push(chunk, &mut out);
    }
    stream.steps / text.len() as u64
}

#[test]
fn ordinary_text_is_read_once() {
    let redactor = redactor(&[b"sk-abcdefghijklmnop", b"another value"]);
    let text = "2026-01-02T03:04:05Z INFO request done path=/v1/agents status=200\n".repeat(1000);
    assert!(steps_per_byte(&redactor, text.as_bytes()) <= 1);
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
