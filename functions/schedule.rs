//! What nobody calls: functions that the clock starts. In production they are Lambda functions behind a schedule of
//! EventBridge; the local stack does the same work in a loop.

use crate::deployment::Deployment;
use crate::reconcile::{Boots, reconcile};
use crate::upkeep::advance_rotations;
use futures_util::future::BoxFuture;
use serde::Serialize;
use serde_json::Value;

/// A run that failed as a whole. Why is in the log; the schedule learns that it did.
#[derive(Debug, thiserror::Error)]
#[error("{0} failed; its log says why")]
pub struct ScheduleError(&'static str);

/// A function that is started by the clock.
pub struct Scheduled {
    /// Its name, that of its binary.
    pub name: &'static str,
    /// Whether it calls providers.
    pub sandboxes: bool,
    /// Does its work once, and tells what it did.
    pub run: fn(&Deployment) -> BoxFuture<'_, Result<Value, ScheduleError>>,
}

/// Finishes what was interrupted and ends what outlived its time.
pub static RECONCILE: Scheduled = Scheduled {
    name: "reconcile",
    sandboxes: true,
    run: |deployment| Box::pin(async move { tell("reconcile", reconcile(deployment, Boots::UnderWay).await) }),
};

/// Goes on with the rotations of keys that were begun.
pub static UPKEEP: Scheduled = Scheduled {
    name: "upkeep",
    sandboxes: false,
    run: |deployment| Box::pin(async move { tell("upkeep", advance_rotations(deployment).await) }),
};

/// Every scheduled function.
pub static SCHEDULED: &[&Scheduled] = &[&RECONCILE, &UPKEEP];

fn tell<T: Serialize, E: std::fmt::Debug>(name: &'static str, outcome: Result<T, E>) -> Result<Value, ScheduleError> {
    let outcome = outcome.map_err(|error| {
        tracing::error!(function = name, ?error, "a scheduled run failed");
        ScheduleError(name)
    })?;
    let outcome = serde_json::to_value(outcome).map_err(|_| ScheduleError(name))?;
    tracing::info!(function = name, %outcome, "a scheduled run is done");
    Ok(outcome)
}
