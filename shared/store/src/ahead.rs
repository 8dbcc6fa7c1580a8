//! Reading ahead of a credential's proof.
//!
//! A credential names its tenant, so data can be read while the credential is still being looked up. Anybody can write
//! down a credential that names somebody else's tenant: until there is proof, such a read may make one round of calls,
//! side by side, each for a page at most. What depends on an answer waits for the proof; without one it is never sent.
//! The clients' own connector asks here, so no reader in this crate can forget to.

use std::cell::Cell;
use std::future::Future;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Calls that may be made side by side before the proof: what a session's secret names with their details take.
pub const MAX_UNPROVEN_CALLS: usize = 4;
/// Rows that one of them may go through for a filter, or read of a partition whose rows are small.
pub(crate) const MAX_UNPROVEN_ROWS: usize = 128;
/// Rows of one that reads a whole partition, values among them. With a proof the rest follows.
pub(crate) const MAX_UNPROVEN_WHOLE: usize = 32;

tokio::task_local! {
    static AHEAD: Arc<Semaphore>;
    /// Whether the call has its place already, which counts for its first attempt.
    static PLACED: Cell<bool>;
}

/// A read for a caller who has proven nothing yet.
pub struct Ahead(Arc<Semaphore>);

impl Default for Ahead {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(MAX_UNPROVEN_CALLS)))
    }
}

impl Ahead {
    /// Holds that future's calls to AWS services back after the first round, until [`Ahead::proven`].
    pub fn hold<F: Future>(&self, read: F) -> impl Future<Output = F::Output> {
        AHEAD.scope(self.0.clone(), read)
    }

    /// The caller is who they say: calls go out as they come.
    pub fn proven(&self) {
        self.0.close();
    }
}

/// Whether this task reads for a caller without proof.
pub(crate) fn is_unproven() -> bool {
    AHEAD.try_with(|ahead| !ahead.is_closed()).unwrap_or(false)
}

/// Resolves when a call may be sent.
pub(crate) async fn pass() {
    if !PLACED.try_with(|placed| placed.replace(false)).unwrap_or(false) {
        turn().await;
    }
}

/// A call's place, taken before the call is made: what it may ask for depends on whether there is proof by then.
pub(crate) struct Turn {
    unproven: bool,
}

/// Resolves when a call may be sent, to be made of the place that it is given.
pub(crate) async fn turn() -> Turn {
    let Ok(ahead) = AHEAD.try_with(Arc::clone) else { return Turn { unproven: false } };
    // Closed means proven. A place that was taken is not given back.
    let place = ahead.acquire().await;
    let unproven = place.is_ok();
    if let Ok(place) = place {
        place.forget();
    }
    Turn { unproven }
}

impl Turn {
    /// Whether the caller had proven nothing when the place was taken.
    pub(crate) const fn is_unproven(&self) -> bool {
        self.unproven
    }

    /// Makes the call.
    pub(crate) async fn spend<F: Future>(self, call: F) -> F::Output {
        PLACED.scope(Cell::new(true), call).await
    }
}

/// A call was answered, which ends the first round.
pub(crate) fn answered() {
    let _ = AHEAD.try_with(|ahead| ahead.forget_permits(MAX_UNPROVEN_CALLS));
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    async fn passes() -> bool {
        pass().now_or_never().is_some()
    }

    #[tokio::test]
    async fn without_proof_a_read_makes_one_round_of_few_calls() {
        let ahead = Ahead::default();
        ahead
            .hold(async {
                assert!(is_unproven());
                for _ in 0..MAX_UNPROVEN_CALLS {
                    assert!(passes().await);
                }
                assert!(!passes().await, "one call too many");
            })
            .await;
        let ahead = Ahead::default();
        ahead
            .hold(async {
                assert!(passes().await);
                answered();
                assert!(!passes().await, "a call that may depend on an answer");
                answered();
                ahead.proven();
                assert!(passes().await && passes().await && !is_unproven());
            })
            .await;
    }

    #[tokio::test]
    async fn a_place_that_was_taken_beforehand_is_the_calls_own_once() {
        let ahead = Ahead::default();
        ahead
            .hold(async {
                for _ in 0..MAX_UNPROVEN_CALLS {
                    let turn = turn().await;
                    assert!(turn.is_unproven());
                    turn.spend(async {
                        assert!(passes().await);
                        assert!(!PLACED.get().get(), "another attempt takes a place of its own");
                    })
                    .await;
                }
                assert!(!passes().await && turn().now_or_never().is_none(), "all places are taken");
                ahead.proven();
                assert!(!turn().await.is_unproven());
            })
            .await;
        assert!(!turn().await.is_unproven());
    }

    #[tokio::test]
    async fn a_call_that_waits_for_the_proof_goes_on_with_it_and_others_never_wait() {
        let ahead = Ahead::default();
        let held = ahead.hold(async {
            answered();
            pass().await;
        });
        let mut held = std::pin::pin!(held);
        assert!(held.as_mut().now_or_never().is_none());
        assert!(passes().await && !is_unproven(), "outside of it there is nothing to wait for");
        ahead.proven();
        held.await;
    }
}
