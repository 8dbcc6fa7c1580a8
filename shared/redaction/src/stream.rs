//! Masking of a stream: the readings of the input run side by side over one automaton, and as one while they agree.

use crate::Redactor;
use crate::cover::{Cover, Hit};
use crate::decode::{self, ARMOUR, READINGS, Reading, Token};
use crate::index::Index;
use crate::lane::{Lane, Text, is_armour, settle};
use crate::matcher::Matcher;
use crate::needle::PREFIX;
use crate::steps::Steps;
use zeroize::Zeroizing;

/// Input is taken in blocks of this many bytes, so that a large chunk is not copied whole.
const BLOCK: usize = 1 << 16;

/// Line break and indentation characters in a row that base64 or hex may have; more end it.
const MOST_BREAK: usize = 64;

/// Base64 and hex go on after a line break if the line has as many such characters right before it: encoders break
/// lines at 60 to 76 characters. Were the break of every line left out, the last letter of a line such as `ready`
/// would be held back, since encoded text may begin with it. A UUID has 36 characters and a Git hash 40.
const LEAST_LINE: usize = 44;

/// They also go on, however short the line, if as many characters before the break begin an occurrence.
const LEAST_BEGUN: usize = 4;

/// Bytes of a value at the end of a stream that are masked although the value does not go on.
const LEAST_AT_END: usize = 32;

/// The same where the stream is known to be cut; as many characters of any form are enough.
const LEAST_AT_CUT: usize = 6;

/// Masks a stream that comes in chunks; made by [`Redactor::stream`].
///
/// What is written does not depend on where the chunks are cut. Held back is only what may still turn out to belong
/// to a value: a suffix that begins one in some encoding, an unfinished escape (at most 11 bytes), or one base64
/// character which can hold the first bits of a value. A dropped stream wipes its buffer; pieces that were left behind
/// when the buffer grew are not wiped.
pub struct Stream<'r> {
    redactor: &'r Redactor,
    /// Input from position `base` on: all that is not written, and some that is.
    input: Zeroizing<Vec<u8>>,
    base: usize,
    /// Everything before this position is written or dropped.
    written: usize,
    /// Everything before this position is read.
    at: usize,
    /// The literal reading first.
    lanes: Vec<Lane>,
    /// By needle, a bit for each lane in which a matcher follows it.
    followed: Vec<u8>,
    cover: Cover,
    pub(crate) steps: Steps,
}

impl<'r> Stream<'r> {
    pub(crate) fn new(redactor: &'r Redactor) -> Self {
        let start = redactor.index.as_ref().map(Index::start).unwrap_or_default();
        Self {
            redactor,
            input: Zeroizing::default(),
            base: 0,
            written: 0,
            at: 0,
            lanes: redactor.readings.iter().map(|reading| Lane::new(*reading, start)).collect(),
            followed: vec![0; redactor.needles.len()],
            cover: Cover::default(),
            steps: Steps::default(),
        }
    }

    /// Takes the next bytes and appends to `out` what can be told of the masked text.
    pub fn push(&mut self, chunk: &[u8], out: &mut Vec<u8>) {
        let Some(index) = &self.redactor.index else {
            out.extend_from_slice(chunk);
            return;
        };
        for block in chunk.chunks(BLOCK) {
            self.input.extend_from_slice(block);
            self.run(index, false);
            let hold = self.hold(index);
            self.write(hold, out);
        }
    }

    /// Ends the stream and appends the rest.
    ///
    /// A program may have been stopped in the midst of a value: a value that goes to the very end of the stream
    /// without being complete is masked if at least 32 bytes of it are there.
    pub fn finish(self, out: &mut Vec<u8>) {
        self.end(LEAST_AT_END, out);
    }

    /// As [`Stream::finish`] for a stream that is known to be cut: an incomplete value at the end is masked if at
    /// least 6 characters of it are there, in whichever encoding. Case and the base64 alphabet are not told apart in
    /// its first 10 characters, so that a little more than the value may be masked.
    pub fn finish_truncated(self, out: &mut Vec<u8>) {
        self.end(LEAST_AT_CUT, out);
    }

    fn end(mut self, least: usize, out: &mut Vec<u8>) {
        let Some(index) = &self.redactor.index else { return };
        let end = self.base + self.input.len();
        // An escape that is cut off would end the occurrences it belongs to: they count as far as they go.
        for lane in 0..self.lanes.len() {
            self.cover_unfinished(index, lane, least, end);
        }
        self.run(index, true);
        for lane in 0..self.lanes.len() {
            for tail in std::mem::take(&mut self.lanes[lane].tails) {
                self.cover.add(tail.hit);
            }
            self.cover_unfinished(index, lane, least, end);
        }
        self.write(end, out);
    }

    /// Masks what has begun in a lane, to the end of the input.
    fn cover_unfinished(&mut self, index: &Index, lane: usize, least: usize, end: usize) {
        let lane = &self.lanes[lane];
        if !lane.apart {
            return;
        }
        for matcher in &lane.matchers {
            let needle = &self.redactor.needles[matcher.needle];
            if needle.form.bytes_in(matcher.matched) >= least {
                self.cover.add(Hit { start: matcher.hold(), end, unit: needle.unit });
            }
        }
        let progress = index.progress(lane.state);
        let (depth, needle) = (usize::from(progress.depth), &self.redactor.needles[progress.needle as usize]);
        if depth >= least && depth < needle.len {
            let first = lane.recent.back(depth).map(|first| first.at);
            let start = if lane.reading == Reading::Literal { Some(self.at - depth) } else { first };
            self.cover.add(Hit { start: start.unwrap_or(end), end, unit: needle.unit });
        }
    }

    /// The position before which nothing can belong to an occurrence that is not known yet.
    fn hold(&self, index: &Index) -> usize {
        let leads = &self.redactor.leads;
        let progress = index.progress(self.lanes[0].state);
        let mut hold = self.at - usize::from(progress.depth);
        if !self.lanes[ARMOUR].apart && (progress.lead || progress.depth == 0) {
            let lead = hold.checked_sub(self.base + 1).and_then(|before| self.input.get(before));
            hold -= usize::from(lead.is_some_and(|lead| leads[usize::from(*lead)]));
        }
        let apart = self.lanes.iter().skip(1).filter(|lane| lane.apart);
        apart.map(|lane| lane.hold(index, leads)).fold(self.lanes[0].begun(hold), usize::min)
    }

    fn write(&mut self, safe: usize, out: &mut Vec<u8>) {
        let input = self.input.get(self.written - self.base..).unwrap_or_default();
        self.cover.write(input, self.written, safe, out, |hit, out| self.redactor.write_marker(hit.unit, out));
        self.written = safe;
        // Moving the rest to the front is put off until it is the smaller part.
        let gone = self.written - self.base;
        if gone > self.input.len() / 2 {
            self.input.drain(..gone);
            self.steps.add(self.input.len());
            self.base += gone;
        }
    }

    #[cfg(test)]
    pub(crate) fn held(&self) -> usize {
        self.input.capacity()
    }

    fn run(&mut self, index: &Index, last: bool) {
        loop {
            if self.lanes.iter().skip(1).all(|lane| !lane.apart) && self.lanes[0].is_idle() {
                self.run_as_one(index);
            }
            if !self.step(index, last) {
                return;
            }
        }
    }

    /// Reads bytes that are the same in every reading, up to one that is not or completes a prefix.
    fn run_as_one(&mut self, index: &Index) {
        let rest = self.input.get(self.at - self.base..).unwrap_or_default();
        let mut state = self.lanes[0].state;
        let mut run = self.lanes[ARMOUR].run;
        let mut read = 0;
        loop {
            let (more, to) = index.skim(state, rest.get(read..).unwrap_or_default(), &self.redactor.special);
            let line = rest.get(read..read + more).unwrap_or_default();
            let armour = line.iter().rev().take(LEAST_LINE).take_while(|byte| is_armour(**byte)).count();
            run = if armour == more { run + armour } else { armour };
            read += more;
            state = to;
            // A line break that ends all that has begun is the same in every reading.
            let ends_all = rest.get(read).is_some_and(|byte| {
                matches!(byte, b'\n' | b'\r')
                    && run < LEAST_LINE
                    && usize::from(index.progress(state).depth) < LEAST_BEGUN
                    && index.next(state, *byte) == index.start()
            });
            if !ends_all {
                break;
            }
            state = index.start();
            run = 0;
            read += 1;
        }
        self.lanes[0].state = state;
        self.lanes[ARMOUR].run = run;
        self.at += read;
        self.steps.add(read);
    }

    /// Gives a lane that read the same as the literal one its own state.
    fn part(&mut self, index: &Index, lane: usize) {
        let state = self.lanes[0].state;
        let depth = usize::from(index.progress(state).depth);
        self.recall(lane, depth + 1);
        let lane = &mut self.lanes[lane];
        lane.apart = true;
        lane.state = state;
        lane.next = self.at;
        lane.plain = depth;
        lane.broken = 0;
    }

    /// Lets a lane know the last bytes as they stand, as far as they are there.
    fn recall(&mut self, lane: usize, count: usize) {
        let to = self.at - self.base;
        let from = to.saturating_sub(count);
        let recent = &mut self.lanes[lane].recent;
        recent.clear();
        for (byte, at) in self.input.get(from..to).unwrap_or_default().iter().zip(self.base + from..) {
            recent.push(at, 0, *byte);
        }
    }

    /// Whether all that has begun in a lane are plain bytes, of which the literal one knows as well, and may know more.
    fn may_join(&self, index: &Index, lane: usize) -> bool {
        let lane = &self.lanes[lane];
        if lane.next != self.at || !lane.is_idle() {
            return false;
        }
        let depth = usize::from(index.progress(lane.state).depth);
        if lane.reading != Reading::Armour || depth < lane.plain {
            return depth <= lane.plain;
        }
        // The character before what has begun counts too: there must be none in either lane.
        let before = self.input.get((self.at - self.base).wrapping_sub(1));
        let none = before.is_none_or(|before| !self.redactor.leads[usize::from(*before)]);
        depth == 0 && none && lane.recent.back(1).is_none()
    }

    /// Reads one byte in every lane that is not past it. False if the input ends, or its end is not yet enough.
    fn step(&mut self, index: &Index, last: bool) -> bool {
        let Some(&byte) = self.input.get(self.at - self.base) else { return false };
        self.steps.add(1);
        let begins = index.is_match(index.next(self.lanes[0].state, byte));
        for lane in 1..self.lanes.len() {
            let (apart, reading) = (self.lanes[lane].apart, self.lanes[lane].reading);
            if !apart && (begins || decode::is_special_in(reading, byte)) {
                self.part(index, lane);
            }
        }
        let rest = self.input.get(self.at - self.base..).unwrap_or_default();
        let mut tokens: [Option<Token>; READINGS.len()] = [None; READINGS.len()];
        for (lane, token) in self.lanes.iter().zip(&mut tokens).skip(1) {
            if lane.apart && lane.next == self.at {
                *token = decode::read(lane.reading, rest, last, lane.broken > 0);
                if token.is_none() {
                    return false;
                }
            }
        }
        tokens[0] = decode::read(Reading::Literal, rest, last, false);
        if begins {
            self.recall(0, PREFIX);
        }
        for (lane, token) in tokens.iter().enumerate().take(self.lanes.len()) {
            if let Some(token) = token {
                self.feed(index, lane, token);
            }
            let lane = &mut self.lanes[lane];
            let plain = token.is_some_and(|token| token.len == 1 && token.bytes() == [byte]);
            lane.plain = if plain { lane.plain + 1 } else { 0 };
        }
        self.at += 1;
        for lane in 1..self.lanes.len() {
            if self.lanes[lane].apart {
                self.lanes[lane].apart = !self.may_join(index, lane);
            } else if lane == ARMOUR {
                self.lanes[lane].run = if is_armour(byte) { self.lanes[lane].run + 1 } else { 0 };
            }
        }
        true
    }

    fn feed(&mut self, index: &Index, lane_number: usize, token: &Token) {
        let lane = &mut self.lanes[lane_number];
        let (at, end) = (self.at, self.at + token.len);
        lane.next = end;
        if token.bytes().is_empty() {
            let begun = !lane.matchers.is_empty() || !lane.tails.is_empty();
            let goes_on = lane.broken > 0
                || lane.run >= LEAST_LINE
                || begun
                || usize::from(index.progress(lane.state).depth) >= LEAST_BEGUN;
            lane.broken += token.len;
            lane.run = 0;
            if !goes_on || lane.broken > MOST_BREAK {
                self.reset(index, lane_number);
            }
            return;
        }
        lane.broken = 0;
        for (part, byte) in token.bytes().iter().enumerate() {
            let byte = *byte;
            let text = Text { redactor: self.redactor, input: &self.input, base: self.base, reading: lane.reading };
            if !lane.tails.is_empty() {
                lane.tails.retain_mut(|tail| {
                    let more = tail.step(&text, byte, end);
                    if !more {
                        self.cover.add(tail.hit);
                    }
                    more
                });
            }
            lane.recent.push(at, part, byte);
            lane.run = if is_armour(byte) { lane.run + 1 } else { 0 };
            let bit = 1 << lane_number;
            lane.matchers.retain_mut(|matcher| {
                let step = matcher.step(&text, byte, end);
                self.steps.collect(&mut matcher.steps);
                let kept = settle(step, &mut self.cover, &mut lane.tails);
                if !kept {
                    self.followed[matcher.needle] &= !bit;
                }
                kept
            });
            lane.state = index.next(lane.state, byte);
            self.steps.add(1);
            if !index.is_match(lane.state) {
                continue;
            }
            for needle in index.matches(lane.state) {
                self.steps.add(1);
                if self.followed[needle] & bit != 0 || !self.redactor.needles[needle].form.is_read_in(lane.reading) {
                    continue;
                }
                let Some(mut matcher) = Matcher::begin(&text, needle, &lane.recent) else { continue };
                let step = matcher.settle_if_complete(&text, end);
                if settle(step, &mut self.cover, &mut lane.tails) {
                    self.followed[needle] |= bit;
                    lane.matchers.push(matcher);
                }
            }
        }
    }

    /// Ends what has begun in a lane.
    fn reset(&mut self, index: &Index, lane_number: usize) {
        let lane = &mut self.lanes[lane_number];
        lane.state = index.start();
        lane.broken = 0;
        lane.recent.clear();
        for matcher in lane.matchers.drain(..) {
            self.followed[matcher.needle] &= !(1 << lane_number);
        }
        for tail in lane.tails.drain(..) {
            self.cover.add(tail.hit);
        }
    }
}
