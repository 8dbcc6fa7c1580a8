//! The automaton that finds where a needle may begin.

use crate::needle::{Form, Needle, PREFIX, Unit};
use crate::steps::{Work, note};
use aho_corasick::automaton::{Automaton, StateID};
use aho_corasick::nfa::contiguous::NFA;
use aho_corasick::{Anchored, MatchKind};
use std::collections::HashMap;
use zeroize::Zeroizing;

/// Prefix characters in all up to which the automaton is laid out as a table of every transition, at about 200 bytes
/// a character: 13 MiB at most. With more it is read as it is: some ten bytes a character, several times slower.
const MOST_IN_TABLE: usize = 1 << 16;

/// A state of the automaton.
pub(crate) type State = u32;

/// What a state of the automaton means.
#[derive(Clone, Copy, Default)]
pub(crate) struct Progress {
    /// Characters at the end of the input that begin a needle, the most that do.
    pub depth: u8,
    /// Whether the character before them may belong to the occurrence too.
    pub lead: bool,
    /// A needle they begin.
    pub needle: u32,
}

/// The automaton over the first [`PREFIX`] characters of every needle, each character [`fold`]ed. Pattern `n` is
/// needle `n`.
pub(crate) struct Index {
    automaton: NFA,
    table: Option<Table>,
    start: State,
    /// By state of the automaton, ascending; states at which nothing has begun are not in it.
    progress: Vec<(StateID, Progress)>,
}

/// Every transition of the automaton. A state is the place of its row, and [`MATCH`] if some prefix ends there.
struct Table {
    next: Zeroizing<Vec<State>>,
    /// By byte, the column.
    columns: [u8; 256],
    /// By byte, the column, or for a special byte the one in which every entry has [`MATCH`].
    stopping: [u8; 256],
    width: usize,
    /// By row.
    states: Vec<(StateID, Progress)>,
    grams: Option<Grams>,
}

/// The [`GRAM`] characters in a row that the first characters of any prefix have, each [`fold`]ed, as a set that holds some
/// others too. Text has one of them at hardly any place, so that most of it need not be read: of a prefix that begins
/// within `stride` bytes, such characters stand at the last of them.
struct Grams {
    /// A bit by hash.
    set: Zeroizing<Vec<u64>>,
    stride: usize,
}

const GRAM: usize = 4;
/// The set has two to the power of this bits: 32 KiB.
const GRAM_BITS: u32 = 18;
/// Bytes that are looked through for special ones at first, and at most at a time: a caller that comes often, for a few bytes
/// each time, must not have the same ones looked through again and again.
const LOOKED_THROUGH: (usize, usize) = (64, 1024);

/// After so many bytes as were looked through, how many next.
fn next_look(last: usize) -> usize {
    LOOKED_THROUGH.1.min(2 * last)
}

/// Whether so many clear bytes take longer to read than to jump over.
fn is_worth_a_jump(clear: usize) -> bool {
    clear > 2 * PREFIX
}

pub(crate) const MATCH: State = 1 << 31;

/// Joins characters that stand for the same in one form or another. What is found is compared exactly afterwards.
const fn fold(byte: u8) -> u8 {
    match byte {
        b'-' => b'+',
        b'_' => b'/',
        _ => byte.to_ascii_lowercase(),
    }
}

/// The same by byte.
const FOLDED: [u8; 256] = {
    let mut folded = [0; 256];
    let mut byte = 0;
    while byte < folded.len() {
        folded[byte] = fold(byte as u8);
        byte += 1;
    }
    folded
};

impl Index {
    /// Builds the automaton. `special` bytes end what [`Index::skim`] reads.
    pub fn new(units: &[Unit], needles: &[Needle], special: &[bool; 256]) -> Self {
        let patterns: Vec<Zeroizing<Vec<u8>>> = needles
            .iter()
            .map(|needle| {
                let mut prefix = Zeroizing::new(Vec::with_capacity(PREFIX));
                prefix.extend((0..needle.prefix_len()).map(|at| fold(needle.character(&units[needle.unit], at))));
                prefix
            })
            .collect();
        let automaton = NFA::builder()
            .match_kind(MatchKind::Standard)
            .prefilter(false)
            .build(patterns.iter().map(|pattern| pattern.as_slice()))
            .expect("prefixes of values of some hundred KiB stay far below 2^31 states");
        let start = automaton.start_state(Anchored::No).expect("the automaton is built for unanchored search");
        let progress = progress(&automaton, start, &patterns, needles);
        let mut index = Self { automaton, table: None, start: start.as_u32(), progress };
        if patterns.iter().map(|pattern| pattern.len()).sum::<usize>() <= MOST_IN_TABLE {
            index.table = Some(Table::new(&index, start, &patterns, special));
            index.start = 0;
        }
        index
    }

    /// The state in which nothing has begun.
    pub fn start(&self) -> State {
        self.start
    }

    #[cfg(test)]
    pub fn has_table(&self) -> bool {
        self.table.is_some()
    }

    /// How many bytes of a text need not be read, and how many are passed over at a time.
    #[cfg(test)]
    pub fn clear(&self, text: &[u8], special: &[bool; 256]) -> Option<(usize, usize)> {
        let grams = self.table.as_ref()?.grams.as_ref()?;
        Some((grams.clear(text, special), grams.stride))
    }

    /// Bytes of memory that it takes.
    #[cfg(test)]
    pub fn allocated(&self) -> usize {
        let table = self.table.as_ref().map_or(0, |table| {
            let grams = table.grams.as_ref().map_or(0, |grams| grams.set.capacity() * size_of::<u64>());
            table.next.capacity() * size_of::<State>()
                + table.states.capacity() * size_of::<(StateID, Progress)>()
                + grams
        });
        self.automaton.memory_usage() + self.progress.capacity() * size_of::<(StateID, Progress)>() + table
    }

    pub fn next(&self, state: State, byte: u8) -> State {
        match &self.table {
            Some(table) => table.next[(state & !MATCH) as usize + usize::from(table.columns[usize::from(byte)])],
            None => self.automaton.next_state(Anchored::No, id(state), fold(byte)).as_u32(),
        }
    }

    /// Whether some needle's prefix ends in a state.
    pub fn is_match(&self, state: State) -> bool {
        match &self.table {
            Some(_) => state & MATCH != 0,
            None => self.automaton.is_match(id(state)),
        }
    }

    /// The needles whose prefixes end in a state in which some do.
    pub fn matches(&self, state: State) -> impl Iterator<Item = usize> {
        let state = match &self.table {
            Some(table) => table.row(state).0,
            None => id(state),
        };
        (0..self.automaton.match_len(state)).map(move |number| self.automaton.match_pattern(state, number).as_usize())
    }

    pub fn progress(&self, state: State) -> Progress {
        if state == self.start {
            return Progress::default();
        }
        match &self.table {
            Some(table) => table.row(state).1,
            None => self.automaton_progress(id(state)),
        }
    }

    fn automaton_progress(&self, state: StateID) -> Progress {
        let found = self.progress.binary_search_by_key(&state, |(state, _)| *state);
        found.ok().and_then(|at| self.progress.get(at)).map(|(_, progress)| *progress).unwrap_or_default()
    }

    /// Reads up to a byte that is special or completes a prefix; returns how many were read, and the state.
    pub fn skim(&self, mut state: State, input: &[u8], special: &[bool; 256]) -> (usize, State) {
        let Some(table) = &self.table else {
            for (at, byte) in input.iter().enumerate() {
                let to = self.next(state, *byte);
                if special[usize::from(*byte)] || self.is_match(to) {
                    note(Work::Walked, at);
                    return (at, state);
                }
                state = to;
            }
            note(Work::Walked, input.len());
            return (input.len(), state);
        };
        state &= !MATCH;
        let mut read = 0;
        while let Some(rest) = input.get(read..).filter(|rest| !rest.is_empty()) {
            // Without grams, all of it is read a byte at a time.
            let grams = table.grams.as_ref().map(|grams| (grams.clear(rest, special), grams.reach()));
            let (clear, reach) = grams.unwrap_or((0, rest.len()));
            let mut slow = clear + reach;
            if is_worth_a_jump(clear) {
                // What had begun before goes on for less than a prefix.
                if state != self.start {
                    let (more, to) = table.walk(state, rest.get(..PREFIX).unwrap_or(rest));
                    if more < PREFIX {
                        return (read + more, to);
                    }
                }
                // What seems to begin in them ends within the characters that were looked up last, and those are read.
                state = self.start;
                read += clear;
                slow = reach;
            }
            let rest = input.get(read..).unwrap_or_default();
            let rest = rest.get(..slow).unwrap_or(rest);
            let (more, to) = table.walk(state, rest);
            read += more;
            state = to;
            if more < rest.len() {
                break;
            }
        }
        (read, state)
    }
}

fn id(state: State) -> StateID {
    StateID::new(state as usize).unwrap_or(StateID::ZERO)
}

impl Table {
    fn new(index: &Index, start: StateID, patterns: &[Zeroizing<Vec<u8>>], special: &[bool; 256]) -> Self {
        let mut used = [false; 256];
        patterns.iter().flat_map(|pattern| pattern.iter()).for_each(|byte| used[usize::from(*byte)] = true);
        // Column 0 is for the bytes in no pattern, of which byte 255 stands for all unless it is in one itself.
        let others = (0..=255u8).rev().find(|byte| !used[usize::from(fold(*byte))]).unwrap_or(u8::MAX);
        let mut columns = [0u8; 256];
        let mut bytes = vec![others];
        for byte in (0..=255u8).filter(|byte| used[usize::from(*byte)]) {
            columns[usize::from(byte)] = bytes.len() as u8;
            bytes.push(byte);
        }
        let columns: [u8; 256] = std::array::from_fn(|byte| columns[usize::from(fold(byte as u8))]);
        let width = bytes.len() + 1;
        let stopping = std::array::from_fn(|byte| if special[byte] { bytes.len() as u8 } else { columns[byte] });

        let mut rows: HashMap<StateID, State> = HashMap::from([(start, 0)]);
        let mut states = vec![(start, Progress::default())];
        let mut next = Zeroizing::new(Vec::new());
        let mut row = 0;
        while let Some((from, _)) = states.get(row).copied() {
            for byte in &bytes {
                let to = index.automaton.next_state(Anchored::No, from, *byte);
                note(Work::Prepared, 1);
                next.push(*rows.entry(to).or_insert_with(|| {
                    states.push((to, index.automaton_progress(to)));
                    let flag = if index.automaton.is_match(to) { MATCH } else { 0 };
                    ((states.len() - 1) * width) as State | flag
                }));
            }
            next.push(MATCH);
            row += 1;
        }
        let grams = Grams::new(patterns);
        Self { next, columns, stopping, width, states, grams }
    }

    /// Reads a byte at a time, up to one that is special or completes a prefix; returns how many were read, and the state.
    fn walk(&self, mut state: State, input: &[u8]) -> (usize, State) {
        let next = self.next.as_slice();
        note(Work::Begun, 1);
        for (at, byte) in input.iter().enumerate() {
            let to = next[state as usize + usize::from(self.stopping[usize::from(*byte)])];
            if to & MATCH != 0 {
                note(Work::Walked, at);
                return (at, state);
            }
            state = to;
        }
        note(Work::Walked, input.len());
        (input.len(), state)
    }

    fn row(&self, state: State) -> (StateID, Progress) {
        self.states[(state & !MATCH) as usize / self.width]
    }
}

impl Grams {
    /// None where a prefix is too short.
    fn new(patterns: &[Zeroizing<Vec<u8>>]) -> Option<Self> {
        let shortest = patterns.iter().map(|pattern| pattern.len()).min()?;
        let stride = shortest.checked_sub(GRAM - 1).filter(|stride| *stride > 0)?;
        let mut set = Zeroizing::new(vec![0; 1 << (GRAM_BITS - u64::BITS.ilog2())]);
        for gram in patterns.iter().flat_map(|pattern| pattern.windows(GRAM).take(stride)) {
            let (word, bit) = place(gram);
            set[word] |= bit;
        }
        Some(Self { set, stride })
    }

    /// How many bytes are read behind those that are clear before it is looked for clear ones again.
    fn reach(&self) -> usize {
        PREFIX + self.stride
    }

    /// How many bytes at the beginning of a text are not special, nor the first of a prefix.
    fn clear(&self, text: &[u8], special: &[bool; 256]) -> usize {
        let (mut clear, mut plain, mut most) = (0, 0, LOOKED_THROUGH.0);
        loop {
            let ahead = text.get(plain..).unwrap_or_default();
            let ahead = ahead.get(..most).unwrap_or(ahead);
            let found = ahead.iter().position(|byte| special[usize::from(*byte)]);
            plain += found.unwrap_or(ahead.len());
            note(Work::Looked, found.unwrap_or(ahead.len()));
            note(Work::Begun, 1);
            while let Some(gram) =
                text.get(..plain).and_then(|text| text.get(clear + self.stride - 1..)?.first_chunk::<GRAM>())
            {
                note(Work::Begun, 1);
                let (word, bit) = place(gram);
                if self.set[word] & bit != 0 {
                    return clear;
                }
                clear += self.stride;
            }
            if found.is_some() || plain == text.len() {
                return clear;
            }
            most = next_look(most);
        }
    }
}

/// The word and the bit of some characters in the set, whatever their case.
fn place(gram: &[u8]) -> (usize, u64) {
    let folded = gram.iter().fold(0, |all: u32, byte| all << 8 | u32::from(FOLDED[usize::from(*byte)]));
    // The golden ratio's multiplicative hash (Knuth, The Art of Computer Programming 3, 6.4).
    let hash = folded.wrapping_mul(0x9E37_79B1) >> (u32::BITS - GRAM_BITS);
    ((hash / u64::BITS) as usize, 1 << (hash % u64::BITS))
}

/// Walks every pattern: the state after `n` characters of one is the state of that prefix.
fn progress(
    automaton: &NFA,
    start: StateID,
    patterns: &[Zeroizing<Vec<u8>>],
    needles: &[Needle],
) -> Vec<(StateID, Progress)> {
    let mut all: Vec<(StateID, Progress)> = Vec::new();
    for (needle, pattern) in patterns.iter().enumerate() {
        let lead = needles.get(needle).map(|needle| needle.form).is_some_and(Form::has_lead);
        let mut state = start;
        for (byte, depth) in pattern.iter().zip(1..) {
            state = automaton.next_state(Anchored::No, state, *byte);
            all.push((state, Progress { depth, lead, needle: needle as u32 }));
        }
    }
    all.sort_unstable_by_key(|(state, progress)| (*state, progress.needle));
    all.dedup_by(|later, first| {
        let same = later.0 == first.0;
        first.1.lead |= same && later.1.lead;
        same
    });
    all
}
