//! Faults on demand: what a network and a busy service do to calls.

use serde::Deserialize;
use serde_json::Value;
use std::sync::{Mutex, PoisonError};

/// What happens to a call.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
#[serde(tag = "kind", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum FaultKind {
    /// Nothing is done, and this is answered.
    Refuse {
        /// HTTP status.
        status: u16,
        /// The error's `status` in the body.
        code: Option<String>,
        /// Further headers.
        #[serde(default)]
        headers: Vec<(String, String)>,
    },
    /// The call is done, and its answer breaks off.
    LoseAnswer,
    /// Nothing is done, and the answer breaks off.
    Reset,
    /// The call is done twice, as when a network delivers it twice; the second answer is given.
    Twice,
    /// The call is done, and its answer says something else in one place: a list that lags, a machine that is under way.
    /// An answer without that place stays as it is.
    Alter {
        /// Which place, by JSON pointer; empty for all of it.
        place: String,
        /// What it says there.
        value: Value,
    },
    /// The call is done so much later, also where its caller has gone by then.
    Delay {
        /// Milliseconds.
        millis: u64,
    },
}

/// A fault for the next calls that fit.
#[derive(Clone, Debug, Deserialize)]
pub struct Fault {
    /// The call's method.
    pub method: String,
    /// Something that its path contains.
    pub path: String,
    /// How many calls.
    pub times: u32,
    /// What happens.
    #[serde(flatten)]
    pub kind: FaultKind,
}

#[derive(Default)]
pub(crate) struct Faults(Mutex<Vec<Fault>>);

impl Faults {
    pub(crate) fn add(&self, fault: Fault) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(fault);
    }

    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// What shall happen to a call, used up by asking.
    pub(crate) fn take(&self, method: &str, path: &str) -> Option<FaultKind> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fault =
            all.iter_mut().find(|fault| fault.times > 0 && fault.method == method && path.contains(&fault.path))?;
        fault.times -= 1;
        Some(fault.kind.clone())
    }
}
