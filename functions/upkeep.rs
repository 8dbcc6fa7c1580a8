//! Upkeep of the vault: rotations that were begun go on by themselves, so that one that was abandoned is finished all
//! the same. A scheduled function, and a loop in the local stack; the operator's command line takes the same steps.

use crate::deployment::Deployment;
use serde::Serialize;
use std::fmt::Display;
use std::time::Duration;
use theazo_store::{PlatformRotation, RootProgress, RootRotation, StoreError, as_function, now_ms};
use theazo_tenancy::Operator;
use tokio::time::Instant;

/// How long a run goes on beginning new pieces of work. What is left is done by the next run.
const BUDGET: Duration = Duration::from_secs(20);
/// How much of it is the root key's at most, so that platforms have their turn beside it.
const ROOT_BUDGET: Duration = Duration::from_secs(10);
/// Failures that a run tells in full; their number is always whole.
const MAX_FAILURES: usize = 20;

/// What a run did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotated {
    /// Pieces of a rotation of the root key.
    pub root_pieces: usize,
    /// Where a rotation of the root key stands, if one is under way: `published`, `switched`, `resealing` or `finished`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_phase: Option<&'static str>,
    /// Values that it has sealed anew so far, in all its runs.
    pub root_resealed: u64,
    /// Values that did not open in this pass of it so far. They stay under the old version.
    pub root_unopened: u64,
    /// Whether a rotation of the root key was finished.
    pub root_finished: bool,
    /// Pieces of walks over platforms whose key is being rotated.
    pub platform_pieces: usize,
    /// Values that these sealed anew.
    pub platforms_resealed: u64,
    /// Platforms whose rotation was finished.
    pub platforms_finished: usize,
    /// Platforms of which only values that do not open keep the old key; `cargo admin platform rotate-key` tells which.
    pub platforms_stuck: usize,
    /// Rotations that could not go on now. The next run tries again.
    pub failed: usize,
    /// Which, and why: the first of them.
    pub failures: Vec<String>,
}

impl Rotated {
    /// How far the root key's rotation is.
    fn note(&mut self, progress: &RootProgress) {
        self.root_phase = match progress {
            RootProgress::Idle => None,
            RootProgress::Published { .. } => Some("published"),
            RootProgress::Switched { .. } => Some("switched"),
            RootProgress::Resealing { .. } => Some("resealing"),
            RootProgress::Finished { .. } => Some("finished"),
        };
        if let RootProgress::Resealing { resealed, unopened, .. } | RootProgress::Finished { resealed, unopened, .. } =
            progress
        {
            (self.root_resealed, self.root_unopened) = (*resealed, *unopened);
        }
    }

    fn fail(&mut self, what: impl Display, error: &StoreError) {
        tracing::error!(rotation = %what, %error, "a rotation could not go on");
        self.failed += 1;
        if self.failures.len() < MAX_FAILURES {
            self.failures.push(format!("{what}: {error}"));
        }
    }
}

/// Goes on with every rotation that is under way, as far as a bounded time and the waits of the rotations allow. It
/// begins none. One that cannot go on stands in no other's way.
///
/// # Errors
/// [`StoreError::Table`] when it cannot be read which there are.
pub async fn advance_rotations(deployment: &Deployment) -> Result<Rotated, StoreError> {
    as_function("upkeep", advance_as_itself(deployment)).await
}

async fn advance_as_itself(deployment: &Deployment) -> Result<Rotated, StoreError> {
    let started = Instant::now();
    let (table, keys) = (deployment.table(), deployment.keys());
    #[expect(clippy::disallowed_methods, reason = "rotations act for every tenant and have no caller")]
    let operator = || Operator::assume().on_schedule();
    let mut rotated = Rotated::default();

    let root = RootRotation::new(table.clone(), keys.clone(), operator(), keys.cache_ttl());
    if let Err(error) = advance_root(&root, started + ROOT_BUDGET, &mut rotated).await {
        rotated.fail("root key", &error);
    }

    let platforms = PlatformRotation::new(table.clone(), keys.clone(), operator());
    // A piece of each, again and again: one with very many values does not keep the others waiting.
    let mut unfinished = platforms.unfinished(now_ms(), keys.cache_ttl()).await?;
    while !unfinished.is_empty() {
        let mut go_on = Vec::new();
        for platform in unfinished {
            if Instant::now() >= started + BUDGET {
                return Ok(rotated);
            }
            rotated.platform_pieces += 1;
            match platforms.walk(&platform, now_ms()).await {
                Ok(walk) => {
                    rotated.platforms_resealed += walk.resealed;
                    rotated.platforms_finished += usize::from(walk.finished);
                    rotated.platforms_stuck += usize::from(walk.stuck);
                    if walk.stuck {
                        tracing::error!(%platform, values = walk.unopened, "values do not open and keep an old key");
                    } else if !walk.finished {
                        go_on.push(platform);
                    }
                }
                Err(error) => rotated.fail(platform, &error),
            }
        }
        unfinished = go_on;
    }
    Ok(rotated)
}

async fn advance_root(root: &RootRotation, stop_at: Instant, rotated: &mut Rotated) -> Result<(), StoreError> {
    let mut before = root.progressed(now_ms()).await?;
    rotated.note(&before);
    while before != RootProgress::Idle && Instant::now() < stop_at {
        let now = root.advance(now_ms()).await?;
        rotated.note(&now);
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
    Ok(())
}
