//! Upkeep of the vault: rotations that were begun go on by themselves, so that one that was abandoned is finished all
//! the same. A scheduled function, and a loop in the local stack; the operator's command line takes the same steps.

use crate::deployment::Deployment;
use std::time::Duration;
use theazo_store::{PlatformRotation, RootProgress, RootRotation, StoreError, now_ms};
use theazo_tenancy::Operator;
use tokio::time::Instant;

/// How long a run goes on beginning new pieces of work. What is left is done by the next run.
const BUDGET: Duration = Duration::from_secs(20);

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rotated {
    /// Pieces of a rotation of the root key.
    pub root_pieces: usize,
    /// Whether a rotation of the root key was finished.
    pub root_finished: bool,
    /// Walks over platforms whose key is being rotated.
    pub platform_walks: usize,
    /// Platforms whose rotation was finished.
    pub platforms_finished: usize,
}

/// Goes on with every rotation that is under way, as far as a bounded time and the waits of the rotations allow. It
/// begins none.
///
/// # Errors
/// [`StoreError::Kms`], [`StoreError::Table`] when a service refuses. The next run tries again.
pub async fn advance_rotations(deployment: &Deployment) -> Result<Rotated, StoreError> {
    let stop_at = Instant::now() + BUDGET;
    let (table, keys) = (deployment.table(), deployment.keys());
    #[expect(clippy::disallowed_methods, reason = "rotations act for every tenant and have no caller")]
    let operator = || Operator::assume().on_schedule();
    let mut rotated = Rotated::default();

    let root = RootRotation::new(table.clone(), keys.clone(), operator(), keys.cache_ttl());
    let mut before = root.progressed(now_ms()).await?;
    while before != RootProgress::Idle && Instant::now() < stop_at {
        let now = root.advance(now_ms()).await?;
        if now == before && !matches!(now, RootProgress::Resealing { .. }) {
            // It waits.
            break;
        }
        rotated.root_pieces += 1;
        if matches!(now, RootProgress::Finished { .. }) {
            rotated.root_finished = true;
            break;
        }
        before = now;
    }

    let platforms = PlatformRotation::new(table.clone(), keys.clone(), operator());
    for platform in platforms.unfinished(now_ms(), keys.cache_ttl()).await? {
        if Instant::now() >= stop_at {
            break;
        }
        rotated.platform_walks += 1;
        rotated.platforms_finished += usize::from(platforms.walk(&platform, now_ms()).await?.finished);
    }
    Ok(rotated)
}
