//! Connections on which nobody has shown a token yet. There may be so many; whoever comes then takes the place of whoever has
//! said nothing for longest. Strangers who merely stay therefore keep nobody out: to do that they would have to come in such
//! numbers within the moment that a caller needs for the head of a request.

use std::collections::VecDeque;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::oneshot;

/// The places that there are for strangers.
#[derive(Clone)]
pub(crate) struct Strangers(Arc<Mutex<Waiting>>);

struct Waiting {
    most: usize,
    next: u64,
    /// The longest there first.
    there: VecDeque<(u64, oneshot::Sender<()>)>,
}

/// A stranger's place. It is free when this is dropped.
pub(crate) struct Stranger {
    all: Strangers,
    id: u64,
}

/// Comes to its end when a stranger has to go, and never once it has been admitted.
pub(crate) struct Eviction(oneshot::Receiver<()>);

impl Strangers {
    /// So many.
    pub(crate) fn new(most: usize) -> Self {
        Self(Arc::new(Mutex::new(Waiting { most, next: 0, there: VecDeque::new() })))
    }

    /// A place for one more, at the cost of the one that has been there longest if need be.
    pub(crate) fn enter(&self) -> (Stranger, Eviction) {
        let (stays, told) = oneshot::channel();
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = waiting.next;
        waiting.next += 1;
        if waiting.there.len() >= waiting.most {
            waiting.there.pop_front();
        }
        waiting.there.push_back((id, stays));
        (Stranger { all: self.clone(), id }, Eviction(told))
    }
}

impl Stranger {
    /// It is none any more, and stays. False when it has had to go.
    pub(crate) fn admit(&self) -> bool {
        self.leave().is_some_and(|stays| stays.send(()).is_ok())
    }

    fn leave(&self) -> Option<oneshot::Sender<()>> {
        let mut waiting = self.all.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = waiting.there.binary_search_by_key(&self.id, |(id, _)| *id).ok()?;
        waiting.there.remove(at).map(|(_, stays)| stays)
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        drop(self.leave());
    }
}

impl Eviction {
    pub(crate) async fn come(self) {
        if self.0.await.is_ok() {
            pending().await
        }
    }
}
