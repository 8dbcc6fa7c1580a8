//! What is looked for: each value, and each line of a value, as text, as hex, and as base64 in its three alignments.

use crate::decode::Reading;
use crate::steps::{Work, note};
use std::sync::OnceLock;
use zeroize::Zeroizing;

/// A value or a line of one, and whose it is.
pub(crate) struct Unit {
    pub name: usize,
    pub bytes: Zeroizing<Vec<u8>>,
}

/// How a unit is written.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Text,
    Hex,
    /// Base64 in which the unit begins this many bytes (0, 1 or 2) into a group of three.
    Base64(u8),
}

/// One form of one unit: a string of characters, worked out from the unit as they are asked for.
///
/// Of base64 these are the characters that depend on the unit alone. The one before them and the one after them may
/// depend on the unit in part: see [`Needle::led_by`] and [`Needle::trailed_by`].
pub(crate) struct Needle {
    pub unit: usize,
    pub form: Form,
    /// Characters.
    pub len: usize,
    /// Worked out when an occurrence is first complete, or ends halfway.
    borders: OnceLock<Box<[Run]>>,
}

/// Lengths `from..to` of a needle's beginning that all have the period `period`: the longest proper prefix of each that
/// is also its suffix (its border, of Knuth, Morris and Pratt) is shorter by that much.
///
/// Only borders as long as what the automaton finds are kept. A random value has none, a value that repeats itself has
/// one run; were every length written down, values of 32 KiB would take a megabyte each.
struct Run {
    from: u32,
    to: u32,
    period: u32,
}

/// Characters of each needle that the automaton looks for; the rest is compared when they are found.
pub(crate) const PREFIX: usize = 10;

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

impl Form {
    /// Bits of the unit in the character before the first one that depends on the unit alone.
    fn lead_bits(self) -> usize {
        match self {
            Self::Base64(1) => 4,
            Self::Base64(2) => 2,
            _ => 0,
        }
    }

    /// Whether an occurrence may be preceded by a character that depends on the unit in part.
    pub fn has_lead(self) -> bool {
        self.lead_bits() > 0
    }

    fn len(self, bytes: usize) -> usize {
        match self {
            Self::Text => bytes,
            Self::Hex => 2 * bytes,
            Self::Base64(_) => (8 * bytes - self.lead_bits()) / 6,
        }
    }

    /// Bytes of a unit that so many characters give away, rounded down.
    pub fn bytes_in(self, characters: usize) -> usize {
        match self {
            Self::Text => characters,
            Self::Hex => characters / 2,
            Self::Base64(_) => (6 * characters + self.lead_bits()) / 8,
        }
    }

    /// Whether a reading of the input can show the form.
    pub fn is_read_in(self, reading: Reading) -> bool {
        (self == Self::Text) != (reading == Reading::Armour)
    }

    /// Makes one of the characters that may stand for the same: lower-case hex, standard base64.
    pub fn normalise(self, byte: u8) -> u8 {
        match (self, byte) {
            (Self::Hex, _) => byte.to_ascii_lowercase(),
            (Self::Base64(_), b'-') => b'+',
            (Self::Base64(_), b'_') => b'/',
            _ => byte,
        }
    }

    /// The character at an index, in the normal form. Zero past the end, which ends no comparison early: a
    /// comparison stops at [`Needle::len`].
    fn character(self, bytes: &[u8], index: usize) -> u8 {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
        match self {
            Self::Text => byte(index),
            Self::Hex => {
                let nibble = if index.is_multiple_of(2) { byte(index / 2) >> 4 } else { byte(index / 2) & 15 };
                b"0123456789abcdef"[usize::from(nibble)]
            }
            Self::Base64(_) => ALPHABET[usize::from(six_bits(bytes, self.lead_bits() + 6 * index))],
        }
    }
}

/// Six bits from a bit on, the highest first; zeros past the end.
fn six_bits(bytes: &[u8], bit: usize) -> u8 {
    let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
    let pair = u16::from_be_bytes([byte(bit / 8), byte(bit / 8 + 1)]);
    (pair >> (10 - bit % 8)) as u8 & 63
}

/// The six bits of a base64 character of either alphabet.
fn sextet(character: u8) -> Option<u8> {
    Some(match character {
        b'A'..=b'Z' => character - b'A',
        b'a'..=b'z' => character - b'a' + 26,
        b'0'..=b'9' => character - b'0' + 52,
        b'+' | b'-' => 62,
        b'/' | b'_' => 63,
        _ => return None,
    })
}

/// The first bits of a unit, at the end of a base64 character that also holds what stands before it.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Lead {
    bits: usize,
    first: u8,
}

impl Lead {
    /// Whether a character holds them.
    pub fn is_in(self, character: u8) -> bool {
        sextet(character).is_some_and(|six| six & ((1 << self.bits) - 1) == self.first)
    }
}

impl Needle {
    pub fn new(unit: usize, form: Form, bytes: &[u8]) -> Self {
        Self { unit, form, len: form.len(bytes.len()), borders: OnceLock::new() }
    }

    /// Characters that the automaton looks for.
    pub fn prefix_len(&self) -> usize {
        self.len.min(PREFIX)
    }

    pub fn character(&self, unit: &Unit, index: usize) -> u8 {
        note(Work::Prepared, 1);
        self.form.character(&unit.bytes, index)
    }

    /// The longest proper prefix that is also a suffix of the first `matched` characters, or 0 if it is shorter than
    /// [`Needle::prefix_len`].
    pub fn border(&self, unit: &Unit, matched: usize) -> usize {
        let runs = self.borders.get_or_init(|| self.runs(unit));
        let after = runs.partition_point(|run| run.from as usize <= matched);
        let run = after.checked_sub(1).and_then(|at| runs.get(at)).filter(|run| matched < run.to as usize);
        run.map_or(0, |run| matched - run.period as usize)
    }

    fn runs(&self, unit: &Unit) -> Box<[Run]> {
        let mut runs: Vec<Run> = Vec::new();
        // By length less one; forgotten when the runs are known.
        let mut borders = vec![0u32; self.len];
        let mut border = 0usize;
        for at in 1..self.len {
            let character = self.character(unit, at);
            while border > 0 && self.character(unit, border) != character {
                border = borders[border - 1] as usize;
            }
            if self.character(unit, border) == character {
                border += 1;
            }
            borders[at] = border as u32;
            if border < self.prefix_len() {
                continue;
            }
            let (length, period) = (at as u32 + 1, (at + 1 - border) as u32);
            match runs.last_mut() {
                Some(run) if run.to == length && run.period == period => run.to += 1,
                _ => runs.push(Run { from: length, to: length + 1, period }),
            }
        }
        runs.into_boxed_slice()
    }

    /// Bytes of memory beside the needle itself.
    #[cfg(test)]
    pub fn allocated(&self) -> usize {
        self.borders.get().map_or(0, |runs| std::mem::size_of_val::<[Run]>(runs))
    }

    /// How many bits of a unit the character before an occurrence may hold, and which.
    pub fn lead(&self, unit: &Unit) -> Option<Lead> {
        let bits = self.form.lead_bits();
        (bits > 0).then(|| Lead { bits, first: six_bits(&unit.bytes, 0) >> (6 - bits) })
    }

    /// Whether a character can stand before an occurrence and hold the first bits of the unit.
    pub fn led_by(&self, unit: &Unit, character: u8) -> bool {
        self.lead(unit).is_some_and(|lead| lead.is_in(character))
    }

    fn trail_bits(&self, unit: &Unit) -> usize {
        match self.form {
            Form::Base64(_) => (8 * unit.bytes.len() - self.form.lead_bits()) % 6,
            _ => 0,
        }
    }

    /// Whether an occurrence may be followed by a character that holds the last bits of the unit.
    pub fn has_trail(&self, unit: &Unit) -> bool {
        self.trail_bits(unit) > 0
    }

    /// Whether a character can stand after an occurrence and hold the last bits of the unit.
    pub fn trailed_by(&self, unit: &Unit, character: u8) -> bool {
        let bits = self.trail_bits(unit);
        let last = six_bits(&unit.bytes, 8 * unit.bytes.len() - bits) >> (6 - bits);
        bits > 0 && sextet(character).is_some_and(|six| six >> (6 - bits) == last)
    }

    /// Padding characters that follow if the encoded data end with the unit.
    pub fn padding(&self, unit: &Unit) -> usize {
        match self.trail_bits(unit) {
            2 => 2,
            4 => 1,
            _ => 0,
        }
    }
}
