//! Sandboxes that this process has spoken to, so that a call need not look its sandbox up first. What
//! is known of one holds for as long as it exists; one that is gone says so when it is spoken to.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Most that are kept; then all are forgotten, which costs a look each.
const MOST: usize = 4096;

/// By account and agent: nobody is given a sandbox that their own key has not opened.
type Handles<H> = HashMap<([u8; 32], String), Arc<H>>;

pub(crate) struct Known<H>(Mutex<Handles<H>>);

impl<H> Default for Known<H> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<H> Known<H> {
    fn with<T>(&self, look: impl FnOnce(&mut Handles<H>) -> T) -> T {
        look(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn get(&self, account: [u8; 32], agent: &str) -> Option<Arc<H>> {
        self.with(|known| known.get(&(account, agent.to_owned())).cloned())
    }

    pub(crate) fn keep(&self, account: [u8; 32], agent: &str, handle: H) -> Arc<H> {
        let handle = Arc::new(handle);
        self.with(|known| {
            if known.len() >= MOST {
                known.clear();
            }
            known.insert((account, agent.to_owned()), handle.clone());
        });
        handle
    }

    pub(crate) fn forget(&self, account: [u8; 32], agent: &str) {
        self.with(|known| known.remove(&(account, agent.to_owned())));
    }
}
