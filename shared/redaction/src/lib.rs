//! Masking of secret values in what an agent prints, stores or answers.
//!
//! Every value of 6 bytes or more is shown as `[secret:NAME]`, as it stands and
//!
//! * in base64: standard and URL alphabet, padded or not, the value at any place of the encoded data. The characters
//!   beside an occurrence which hold a few bits of the value (2 or 4) go with it, and so does padding;
//! * in hex of either case;
//! * in base64 and hex broken into lines (plain or indented) of 44 characters or more, or of fewer where the value
//!   begins at least 4 characters before the end of its first line;
//! * with percent escapes, of any of its bytes and in either case; `+` may stand for a space;
//! * with JSON string escapes, of any of its characters, and with the `\xNN` and `\'` of other languages;
//! * a base64 or hex text of the value may itself have percent or JSON escapes (`%2B`, `\/`, `\n`, `\u003d`).
//!
//! Bytes are masked before they are decoded: nothing is assumed to be UTF-8.
//!
//! A value of several lines is also masked line by line: each line of 6 bytes or more, without the blanks around it,
//! in the same encodings. The lines that frame a PEM block (`-----BEGIN ...-----`) are public text and are masked as
//! part of the whole value only. Of an agent's lines, the first 8192 are looked for in hex and base64; all are as text.
//!
//! Occurrences that overlap are masked as one, under the name of the longest of them; of equal values the first
//! name given stands.
//!
//! Not found: other encodings (base32, gzip, HTML entities, octal or `\u{...}` escapes), hex with separators, encodings
//! of encodings but for the ones above, a part of a line, and case changes.

mod cover;
mod decode;
mod index;
mod lane;
mod matcher;
mod needle;
mod steps;
mod stream;
#[cfg(test)]
mod tests;

use decode::{READINGS, Reading};
use index::Index;
use needle::{Form, Lead, Needle, Unit};
use std::collections::HashSet;
use steps::{Work, note};
use theazo_vault::SecretValue;
use zeroize::Zeroizing;

pub use stream::Stream;

/// Values and lines shorter than this many bytes are left alone.
pub const LEAST_MASKED: usize = 6;

/// Lines that are looked for in hex and base64 too.
const MOST_ENCODED_LINES: usize = 8192;

/// A value to be masked, and the name that stands in its place.
pub struct Masked<'a> {
    /// Shown as `[secret:NAME]`. Shown as it is: an environment variable's name.
    pub name: &'a str,
    /// Masked where it appears; values under 6 bytes are left alone.
    pub value: &'a SecretValue,
}

/// Masks a set of values.
///
/// It holds secret material, so it has no `Debug`, `Clone` or `Serialize`. Its own copies of the values are wiped
/// when it is dropped. The automaton, in which the first 10 characters of each value and encoding can be
/// traced, belongs to a crate that does not wipe it: it is freed as it is.
///
/// ```compile_fail
/// println!("{:?}", theazo_redaction::Redactor::new([]));
/// ```
/// ```compile_fail
/// let copy = theazo_redaction::Redactor::new([]).clone();
/// ```
pub struct Redactor {
    names: Vec<String>,
    units: Vec<Unit>,
    needles: Vec<Needle>,
    /// None if there is nothing to mask.
    index: Option<Index>,
    /// All, or all but the one in which `+` is a space, where no value has one.
    readings: &'static [Reading],
    /// By byte, whether some reading takes it for more than itself.
    special: [bool; 256],
    /// By byte, whether as base64 it can hold the first bits of some unit.
    leads: [bool; 256],
}

impl Redactor {
    /// Prepares masking those values.
    pub fn new<'a>(values: impl IntoIterator<Item = Masked<'a>>) -> Self {
        let values: Vec<Masked<'a>> = values.into_iter().collect();
        let mut known: HashSet<&[u8]> = HashSet::new();
        let mut units = Vec::new();
        let mut needles = Vec::new();
        let wholes = values.iter().enumerate().map(|(name, masked)| (name, masked.value.expose()));
        for (name, bytes) in wholes.clone().chain(wholes.clone().flat_map(|(name, value)| lines(name, value))) {
            note(Work::Prepared, bytes.len());
            if bytes.len() < LEAST_MASKED || !known.insert(bytes) {
                continue;
            }
            let encoded = units.len() < values.len() + MOST_ENCODED_LINES;
            let forms = [Form::Text, Form::Hex, Form::Base64(0), Form::Base64(1), Form::Base64(2)];
            let forms = if encoded { &forms[..] } else { &forms[..1] };
            needles.extend(forms.iter().map(|form| Needle::new(units.len(), *form, bytes)));
            units.push(Unit { name, bytes: Zeroizing::new(bytes.to_vec()) });
        }
        let form = units.iter().any(|unit| unit.bytes.contains(&b' '));
        let readings = if form { &READINGS[..] } else { &READINGS[..READINGS.len() - 1] };
        let bytes: [u8; 256] = std::array::from_fn(|byte| byte as u8);
        let special = bytes.map(|byte| readings.iter().any(|reading| decode::is_special_in(*reading, byte)));
        // There are twenty at most, however many needles.
        let leading: HashSet<Lead> = needles.iter().filter_map(|needle| needle.lead(&units[needle.unit])).collect();
        let leads = |byte| leading.iter().any(|lead| lead.is_in(byte));
        Self {
            index: (!needles.is_empty()).then(|| Index::new(&units, &needles, &special)),
            readings,
            special,
            leads: bytes.map(leads),
            names: values.iter().map(|masked| masked.name.to_owned()).collect(),
            units,
            needles,
        }
    }

    /// Whether there is nothing to mask.
    pub fn is_empty(&self) -> bool {
        self.index.is_none()
    }

    /// Begins a stream.
    pub fn stream(&self) -> Stream<'_> {
        Stream::new(self)
    }

    /// Masks a whole output. The end is treated as by [`Stream::finish`].
    pub fn redact(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        let mut stream = self.stream();
        stream.push(bytes, &mut out);
        stream.finish(&mut out);
        out
    }

    /// Masks an output that was cut. The end is treated as by [`Stream::finish_truncated`].
    pub fn redact_truncated(&self, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::with_capacity(bytes.len());
        let mut stream = self.stream();
        stream.push(bytes, &mut out);
        stream.finish_truncated(&mut out);
        out
    }

    /// Masks a text: an error message, a log line. A value that is not UTF-8 may take a part of a character with it,
    /// the rest of which is then shown as U+FFFD.
    pub fn redact_text(&self, text: &str) -> String {
        String::from_utf8(self.redact(text.as_bytes()))
            .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
    }

    /// Bytes of memory that it takes, but for what its allocator adds.
    #[cfg(test)]
    fn allocated(&self) -> usize {
        let names = self.names.iter().map(String::capacity).sum::<usize>();
        let units = self.units.iter().map(|unit| unit.bytes.capacity()).sum::<usize>();
        let needles = self.needles.iter().map(Needle::allocated).sum::<usize>();
        let rows = self.names.capacity() * size_of::<String>()
            + self.units.capacity() * size_of::<Unit>()
            + self.needles.capacity() * size_of::<Needle>();
        names + units + needles + rows + self.index.as_ref().map_or(0, Index::allocated)
    }

    fn write_marker(&self, unit: usize, out: &mut Vec<u8>) {
        let name = self.units.get(unit).and_then(|unit| self.names.get(unit.name));
        out.extend_from_slice(b"[secret:");
        out.extend_from_slice(name.map(String::as_bytes).unwrap_or_default());
        out.push(b']');
    }
}

/// The lines of a value of several lines that are masked by themselves.
fn lines(name: usize, value: &[u8]) -> impl Iterator<Item = (usize, &[u8])> {
    let several = value.iter().any(|byte| is_break(*byte));
    let parts = several.then(|| value.split(|byte| is_break(*byte))).into_iter().flatten();
    parts.map(|line| line.trim_ascii()).filter(|line| !frames_pem(line)).map(move |line| (name, line))
}

fn is_break(byte: u8) -> bool {
    matches!(byte, b'\n' | b'\r')
}

fn frames_pem(line: &[u8]) -> bool {
    (line.starts_with(b"-----BEGIN ") || line.starts_with(b"-----END ")) && line.ends_with(b"-----")
}
