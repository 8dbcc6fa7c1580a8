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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::KeyId;
    use crate::state::{Key, KeySpec, KeyState};

    #[test]
    fn a_key_whose_waiting_period_ended_is_gone_for_readers_and_from_the_file() {
        let directory = std::env::temp_dir().join(format!("theazo-kms-store-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        let file = directory.join("kms.json");
        let id = KeyId::make().unwrap();
        let store = Store::open(&file).unwrap();
        let due_at = |due_ms| {
            let mut key = Key::make(KeySpec::Symmetric, String::new()).unwrap();
            key.state = KeyState::PendingDeletion { due_ms };
            store.change(|state| Ok(state.keys.insert(id, key).is_some())).unwrap()
        };
        let in_file = || std::fs::read_to_string(&file).unwrap().contains(&id.to_string());

        due_at(u64::MAX);
        assert!(store.read(|state| state.key(id).map(|_| ())).is_ok());
        assert!(in_file());
        due_at(0);
        assert!(store.read(|state| state.key(id).map(|_| ())).is_err());
        assert!(!in_file());
        due_at(0);
        assert!(store.change(|state| state.key_mut(id).map(|_| ())).is_err());
        std::fs::remove_dir_all(&directory).unwrap();
    }
}
