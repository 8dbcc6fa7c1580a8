//! Sandboxes that this process has spoken to, so that a call need not look its sandbox up first. A sandbox keeps its id and
//! token for as long as it exists; one that is gone says so when it is spoken to.

use super::account::Handle;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most that are kept; then all are forgotten, which costs a look each.
const MOST: usize = 4096;

/// By account and agent: nobody is given a sandbox that their own key has not opened.
type Handles = HashMap<([u8; 32], String), Arc<Handle>>;

#[derive(Default)]
pub(super) struct Known(Mutex<Handles>);

impl Known {
    fn with<T>(&self, look: impl FnOnce(&mut Handles) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn get(&self, account: [u8; 32], agent: &str) -> Option<Arc<Handle>> {
        self.with(|known| known.get(&(account, agent.to_owned())).cloned())
    }

    pub(super) fn keep(&self, account: [u8; 32], agent: &str, handle: Handle) -> Arc<Handle> {
        let handle = Arc::new(handle);
        self.with(|known| {
            if known.len() >= MOST {
                known.clear();
            }
            known.insert((account, agent.to_owned()), handle.clone());
        });
        handle
    }

    pub(super) fn forget(&self, account: [u8; 32], agent: &str) {
        self.with(|known| known.remove(&(account, agent.to_owned())));
    }
}
