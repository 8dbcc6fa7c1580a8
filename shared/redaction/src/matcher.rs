//! Following one needle in one reading, from the end of its prefix on.

use crate::cover::Hit;
use crate::lane::Text;
use crate::needle::{Needle, PREFIX, Unit};
use crate::steps::Steps;

/// A byte as a reading shows it, and where it stands in the input.
#[derive(Clone, Copy, Default)]
pub(crate) struct Seen {
    /// Position of its token.
    pub at: usize,
    /// Which byte of its token it is.
    part: usize,
    pub byte: u8,
}

const KEPT: usize = 16;
const _: () = assert!(KEPT > PREFIX);

/// The last bytes of a reading.
#[derive(Default)]
pub(crate) struct Recent {
    ring: [Seen; KEPT],
    count: usize,
}

impl Recent {
    pub fn clear(&mut self) {
        self.count = 0;
    }

    pub fn push(&mut self, at: usize, part: usize, byte: u8) {
        self.ring[self.count % KEPT] = Seen { at, part, byte };
        self.count += 1;
    }

    /// The byte so many back; 1 is the last one.
    pub fn back(&self, back: usize) -> Option<Seen> {
        let known = (1..=self.count.min(KEPT)).contains(&back);
        known.then(|| self.ring[(self.count - back) % KEPT])
    }
}

/// An occurrence that has begun.
pub(crate) struct Matcher {
    pub needle: usize,
    /// Characters that agree, at least as many as the automaton finds.
    pub matched: usize,
    first: Seen,
    /// The character before, if it can hold the first bits of the unit.
    lead: Option<usize>,
    pub steps: Steps,
}

/// What came of one more byte.
pub(crate) struct Step {
    /// A complete occurrence.
    pub found: Option<Tail>,
    pub goes_on: bool,
}

fn parts<'t>(text: &Text<'t>, needle: usize) -> (&'t Needle, &'t Unit) {
    let needle = &text.redactor.needles[needle];
    (needle, &text.redactor.units[needle.unit])
}

impl Matcher {
    /// Takes up an occurrence whose prefix was just read, if it is one indeed.
    pub fn begin(text: &Text<'_>, number: usize, recent: &Recent) -> Option<Self> {
        let (needle, unit) = parts(text, number);
        let matched = needle.prefix_len();
        for at in 0..matched {
            let seen = recent.back(matched - at)?;
            if needle.form.normalise(seen.byte) != needle.character(unit, at) {
                return None;
            }
        }
        let lead = recent.back(matched + 1).filter(|lead| needle.led_by(unit, lead.byte)).map(|lead| lead.at);
        Some(Self { needle: number, matched, first: recent.back(matched)?, lead, steps: Steps::default() })
    }

    /// The position at which the occurrence begins.
    pub fn hold(&self) -> usize {
        self.lead.unwrap_or(self.first.at)
    }

    /// Compares one more byte, whose token ends at `end`.
    pub fn step(&mut self, text: &Text<'_>, byte: u8, end: usize) -> Step {
        let (needle, unit) = parts(text, self.needle);
        let character = needle.form.normalise(byte);
        let mut matched = self.matched;
        while needle.character(unit, matched) != character {
            self.steps.add(1);
            matched = needle.border(unit, matched);
            // The automaton takes up what is shorter than a prefix.
            if matched < needle.prefix_len() {
                return Step { found: None, goes_on: false };
            }
        }
        self.steps.add(1);
        self.advance(text, self.matched - matched);
        self.matched = matched + 1;
        self.settle_if_complete(text, end)
    }

    /// Hands out the occurrence if it is complete, and goes on with one that overlaps it.
    pub fn settle_if_complete(&mut self, text: &Text<'_>, end: usize) -> Step {
        let (needle, unit) = parts(text, self.needle);
        if self.matched < needle.len {
            return Step { found: None, goes_on: true };
        }
        let hit = Hit { start: self.hold(), end, unit: needle.unit };
        let found = Tail { hit, needle: self.needle, trail: needle.has_trail(unit), padding: needle.padding(unit) };
        let border = needle.border(unit, self.matched);
        let goes_on = border >= needle.prefix_len();
        if goes_on {
            self.advance(text, self.matched - border);
            self.matched = border;
        }
        Step { found: Some(found), goes_on }
    }

    /// Moves the beginning forward by so many bytes of the reading, and past a line break there. All moves of a matcher
    /// together read each input byte twice at most.
    fn advance(&mut self, text: &Text<'_>, mut bytes: usize) {
        if bytes == 0 {
            return;
        }
        let mut after_break = false;
        loop {
            self.steps.add(1);
            let Some(token) = text.token(self.first.at, after_break) else { return };
            let left = token.bytes().len().saturating_sub(self.first.part);
            after_break = token.bytes().is_empty();
            if bytes < left {
                self.first.part += bytes;
                return;
            }
            if let Some(last) = token.bytes().last() {
                let (needle, unit) = parts(text, self.needle);
                self.lead = needle.led_by(unit, *last).then_some(self.first.at);
            }
            bytes -= left;
            self.first.at += token.len;
            self.first.part = 0;
        }
    }
}

/// A complete occurrence, which a character that holds its last bits, and padding, may follow.
pub(crate) struct Tail {
    pub hit: Hit,
    needle: usize,
    trail: bool,
    padding: usize,
}

impl Tail {
    /// Whether more may follow.
    pub fn is_open(&self) -> bool {
        self.trail || self.padding > 0
    }

    /// Takes one more byte in, whose token ends at `end`, or tells that nothing more follows.
    pub fn step(&mut self, text: &Text<'_>, byte: u8, end: usize) -> bool {
        let (needle, unit) = parts(text, self.needle);
        if self.trail {
            if !needle.trailed_by(unit, byte) {
                return false;
            }
            self.trail = false;
        } else if byte == b'=' {
            self.padding -= 1;
        } else {
            return false;
        }
        self.hit.end = end;
        self.is_open()
    }
}
