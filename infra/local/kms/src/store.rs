//! The one owner of the state: reads see what is on disk, and a change is on disk before anyone sees it.

use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::clock;
use crate::disk::StateFile;
use crate::error::EmulatorError;
use crate::state::State;

/// State and file under one lock. Calls block, for a disk sync when they change something.
pub(crate) struct Store {
    file: StateFile,
    state: Mutex<State>,
}

impl Store {
    /// Opens the file (see [`StateFile::open`]).
    pub(crate) fn open(path: &Path) -> Result<Self, EmulatorError> {
        let (file, state) = StateFile::open(path)?;
        Ok(Self { file, state: Mutex::new(state) })
    }

    /// Looks at the state, after destroying the keys that are due.
    pub(crate) fn read<T>(&self, look: impl FnOnce(&State) -> Result<T, EmulatorError>) -> Result<T, EmulatorError> {
        let mut state = self.lock();
        if state.has_due_keys(clock::now_ms()) {
            self.replace(&mut state, |_| Ok(()))?;
        }
        look(&state)
    }

    /// Changes the state. A refused edit, or one that cannot be saved, changes nothing here.
    pub(crate) fn change<T>(
        &self,
        edit: impl FnOnce(&mut State) -> Result<T, EmulatorError>,
    ) -> Result<T, EmulatorError> {
        self.replace(&mut self.lock(), edit)
    }

    fn replace<T>(
        &self,
        state: &mut State,
        edit: impl FnOnce(&mut State) -> Result<T, EmulatorError>,
    ) -> Result<T, EmulatorError> {
        let mut next = state.clone();
        next.destroy_due_keys(clock::now_ms());
        let answer = edit(&mut next)?;
        self.file.save(&next)?;
        *state = next;
        Ok(answer)
    }

    /// A panic under the lock leaves the state whole, since it is only ever replaced by a saved one.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
