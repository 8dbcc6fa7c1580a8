//! What speed comes of, counted: how little of a text is read a byte at a time, and how much there is to prepare. How fast
//! that is on a machine, `cargo dev bench vault` measures.

use super::scale::letters;
use super::*;
use crate::steps::{Work, done};

/// A hundred values of the size that keys have.
fn ordinary() -> Redactor {
    let values: Vec<Vec<u8>> = (0..100).map(|seed| letters(seed, 40, 40)).collect();
    redactor(&values.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

/// What programs print: the lines of a log, each with an id of its own.
fn log() -> Vec<u8> {
    let line = |number: usize| {
        let id = hex::encode(letters(number, 8, 8));
        let (millis, worker) = (number % 1000, number % 8);
        format!("2026-03-14T09:26:53.{millis:03}Z INFO worker-{worker} request {id} took {number} us\n")
    };
    (0..3000).flat_map(|number| line(number).into_bytes()).collect()
}

/// Much of a text without one byte that is special.
fn long_line() -> Vec<u8> {
    (0..3000).flat_map(|number| format!("item {number} is of kind {}, ", number % 7).into_bytes()).collect()
}

/// How much is done for a text that comes in pieces: of each kind of work, and steps of the stream.
fn count(redactor: &Redactor, text: &[u8], piece: usize) -> [u64; 4] {
    let kinds = [Work::Walked, Work::Looked, Work::Begun];
    let before = kinds.map(done);
    let (mut out, mut stream) = (Vec::new(), redactor.stream());
    text.chunks(piece).for_each(|piece| stream.push(piece, &mut out));
    let steps = stream.steps.count();
    stream.finish(&mut out);
    assert_eq!(out, text, "there is nothing to mask in it");
    let after = kinds.map(done);
    [after[0] - before[0], after[1] - before[1], after[2] - before[2], steps]
}

/// Fails if more is done for ten thousand bytes than was measured, and two per cent. Less than half would be a count
/// that does not count.
fn assert_counts(text: &[u8], piece: usize, measured: [u64; 4]) {
    let counted = count(&ordinary(), text, piece);
    for (counted, measured) in counted.into_iter().zip(measured) {
        let expected = measured * text.len() as u64;
        let place = format!("{counted} of {} and not {measured} of 10000, in pieces of {piece}", text.len());
        assert!(counted * 10_000 * 100 <= expected * 102 && counted * 10_000 * 2 >= expected, "{place}");
    }
}

#[test]
fn of_a_log_in_large_pieces_a_third_is_read_byte_by_byte_while_a_hundred_values_are_masked() {
    assert_counts(&log(), 4096, [3505, 16248, 1669, 10130]);
    assert_counts(&log(), 256, [3956, 15329, 1728, 10186]);
}

#[test]
fn of_a_long_line_next_to_nothing_is_read_byte_by_byte() {
    assert_counts(&long_line(), 4096, [168, 11172, 1463, 10003]);
    assert_counts(&long_line(), 256, [693, 10242, 1601, 10042]);
}

#[test]
fn of_a_text_in_pieces_too_small_to_jump_over_no_byte_is_read_twice() {
    for text in [log(), long_line()] {
        let [walked, looked, ..] = count(&ordinary(), &text, 16);
        let all = text.len() as u64;
        assert!((all / 2..=all).contains(&walked) && (all / 2..=all).contains(&looked), "{walked} {looked} of {all}");
    }
}

#[test]
fn to_prepare_values_of_the_largest_size_takes_little_more_than_to_read_them() {
    const LEN: usize = 32 * 1024;
    // Measured, and two per cent. By lines, they are read once whole and once in lines.
    for (line, measured) in [(LEN, 3_453_439), (64, 7_340_680)] {
        let values: Vec<Vec<u8>> = (0..100).map(|seed| letters(seed, LEN, line)).collect();
        let refs: Vec<&[u8]> = values.iter().map(Vec::as_slice).collect();
        let before = done(Work::Prepared);
        let redactor = redactor(&refs);
        let prepared = done(Work::Prepared) - before;
        assert!(!redactor.is_empty());
        assert!((100 * LEN as u64..measured * 102 / 100).contains(&prepared), "{prepared} for lines of {line}");
    }
}
