//! Work done, which tests count and nothing else does.

/// Bytes compared, states changed and positions moved.
#[derive(Default)]
pub(crate) struct Steps(#[cfg(test)] u64);

#[cfg(test)]
impl Steps {
    pub fn add(&mut self, more: usize) {
        self.0 += more as u64;
    }

    /// Takes over what another has counted.
    pub fn collect(&mut self, other: &mut Self) {
        self.0 += std::mem::take(&mut other.0);
    }

    pub fn count(&self) -> u64 {
        self.0
    }
}

#[cfg(not(test))]
impl Steps {
    pub fn add(&mut self, _: usize) {}

    pub fn collect(&mut self, _: &mut Self) {}
}

/// What is done beside a stream, or in one many bytes at a time.
#[derive(Clone, Copy)]
pub(crate) enum Work {
    /// Bytes that each take a transition of the automaton, of those that are the same in every reading.
    Walked,
    /// Bytes that are looked through for special ones.
    Looked,
    /// Stretches of bytes that are looked through or walked, and characters in a row that are looked up.
    Begun,
    /// To prepare: bytes of values that are read or kept, characters worked out of them, transitions written.
    Prepared,
}

#[cfg(test)]
thread_local! {
    static DONE: [std::cell::Cell<u64>; 4] = Default::default();
}

/// Counts so much of a kind of work of this thread.
#[cfg(test)]
pub(crate) fn note(work: Work, more: usize) {
    DONE.with(|done| done[work as usize].set(done[work as usize].get() + more as u64));
}

#[cfg(not(test))]
pub(crate) fn note(_: Work, _: usize) {}

/// How much of a kind of work this thread has done.
#[cfg(test)]
pub(crate) fn done(work: Work) -> u64 {
    DONE.with(|done| done[work as usize].get())
}
