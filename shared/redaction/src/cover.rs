//! Which stretches of the input are masked, and the writing of the rest.

use std::cmp::{Reverse, min_by_key};
use std::collections::VecDeque;

/// A stretch of input `[start, end)` in which a unit was found. Positions count from the beginning of the stream.
#[derive(Clone, Copy)]
pub(crate) struct Hit {
    pub start: usize,
    pub end: usize,
    pub unit: usize,
}

impl Hit {
    /// Longer first, then the earlier, then the unit given first.
    fn rank(&self) -> (Reverse<usize>, usize, usize) {
        (Reverse(self.end - self.start), self.start, self.unit)
    }
}

/// Hits that overlap, as one. It is named after the best of them.
struct Covered {
    start: usize,
    end: usize,
    best: Hit,
}

/// The masked stretches that are not written yet: apart from each other, ascending.
#[derive(Default)]
pub(crate) struct Cover(VecDeque<Covered>);

impl Cover {
    pub fn add(&mut self, hit: Hit) {
        let mut joined = Covered { start: hit.start, end: hit.end, best: hit };
        // Hits come nearly in the order of their ends, so the place is at or near the back.
        let mut from = self.0.len();
        while from > 0 && self.0[from - 1].end > joined.start {
            from -= 1;
        }
        let mut to = from;
        while to < self.0.len() && self.0[to].start < joined.end {
            let other = &self.0[to];
            joined.start = joined.start.min(other.start);
            joined.end = joined.end.max(other.end);
            joined.best = min_by_key(joined.best, other.best, Hit::rank);
            to += 1;
        }
        if to == from + 1 {
            self.0[from] = joined;
        } else {
            self.0.drain(from..to);
            self.0.insert(from, joined);
        }
    }

    /// Writes input from position `from` to `safe`, before which no further hit can begin. `input` begins at `from`.
    /// `marker` writes what stands for a hit.
    pub fn write(
        &mut self,
        input: &[u8],
        from: usize,
        safe: usize,
        out: &mut Vec<u8>,
        marker: impl Fn(&Hit, &mut Vec<u8>),
    ) {
        let mut at = from;
        let part = |start: usize, end: usize| input.get(start - from..end - from).unwrap_or_default();
        while at < safe {
            let Some(first) = self.0.front() else {
                out.extend_from_slice(part(at, safe));
                return;
            };
            if first.start > at {
                let to = first.start.min(safe);
                out.extend_from_slice(part(at, to));
                at = to;
            } else if first.end <= safe {
                marker(&first.best, out);
                at = first.end;
                self.0.pop_front();
            } else {
                // Bytes inside are dropped; the marker is written when nothing more can join it.
                return;
            }
        }
    }
}
