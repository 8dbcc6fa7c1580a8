//! One reading of the stream, followed by itself where it differs from the literal one.

use crate::Redactor;
use crate::cover::Cover;
use crate::decode::{self, Reading, Token};
use crate::index::{Index, State};
use crate::matcher::{Matcher, Recent, Step, Tail};

/// One reading of the input, and what has begun in it.
pub(crate) struct Lane {
    pub reading: Reading,
    /// Whether it differs from the literal reading at present. If not, that one's state is also its own, and the
    /// lane is only a place for the numbers of [`Reading::Armour`].
    pub apart: bool,
    pub state: State,
    /// Position of the next token.
    pub next: usize,
    /// Bytes read since the lane last read anything but the plain byte.
    pub plain: usize,
    /// Bytes of line break and indentation since the last character ([`Reading::Armour`]).
    pub broken: usize,
    /// Base64 or hex characters in a row, up to the last byte ([`Reading::Armour`]).
    pub run: usize,
    pub recent: Recent,
    pub matchers: Vec<Matcher>,
    pub tails: Vec<Tail>,
}

impl Lane {
    pub fn new(reading: Reading, start: State) -> Self {
        Self {
            reading,
            apart: reading == Reading::Literal,
            state: start,
            next: 0,
            plain: 0,
            broken: 0,
            run: 0,
            recent: Recent::default(),
            matchers: Vec::new(),
            tails: Vec::new(),
        }
    }

    /// Whether nothing but the automaton's state is to be kept up.
    pub fn is_idle(&self) -> bool {
        self.matchers.is_empty() && self.tails.is_empty()
    }

    /// The position before which nothing can belong to an occurrence that has begun here.
    pub fn begun(&self, otherwise: usize) -> usize {
        let begun = self.matchers.iter().map(Matcher::hold).chain(self.tails.iter().map(|tail| tail.hit.start));
        begun.fold(otherwise, usize::min)
    }

    pub fn hold(&self, index: &Index, leads: &[bool; 256]) -> usize {
        let progress = index.progress(self.state);
        let depth = usize::from(progress.depth);
        let mut hold = self.recent.back(depth).map_or(self.next, |first| first.at);
        if self.reading == Reading::Armour && (progress.lead || depth == 0) {
            let lead = self.recent.back(depth + 1).filter(|lead| leads[usize::from(lead.byte)]);
            hold = lead.map_or(hold, |lead| lead.at);
        }
        self.begun(hold)
    }
}

/// Whether a byte is a character of base64 or hex.
pub(crate) fn is_armour(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'-' | b'_')
}

/// Takes up what a matcher found; tells whether it goes on.
pub(crate) fn settle(step: Step, cover: &mut Cover, tails: &mut Vec<Tail>) -> bool {
    match step.found {
        Some(tail) if tail.is_open() => tails.push(tail),
        Some(tail) => cover.add(tail.hit),
        None => {}
    }
    step.goes_on
}

/// The input in one reading, for matchers to look back into.
pub(crate) struct Text<'s> {
    pub redactor: &'s Redactor,
    pub input: &'s [u8],
    /// Position of the first byte of `input`.
    pub base: usize,
    pub reading: Reading,
}

impl Text<'_> {
    /// The token at a position. The input is there at least to the end of a token that was read before.
    pub fn token(&self, at: usize, after_break: bool) -> Option<Token> {
        let input = self.input.get(at.checked_sub(self.base)?..)?;
        decode::read(self.reading, input, true, after_break)
    }
}
