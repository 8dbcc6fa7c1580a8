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
