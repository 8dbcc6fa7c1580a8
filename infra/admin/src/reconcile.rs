//! Reconciling at once, instead of waiting for the schedule.

use crate::error::AdminError;
use crate::output::{Output, Show, note};
use crate::target::Target;
use crate::vault::VaultArgs;
use clap::{Args, Subcommand};
use serde::Serialize;
use std::sync::Mutex;
use std::time::{Duration, Instant};
use theazo_functions::reconcile::{Boots, Outcome, Progress, reconcile_telling};

/// How often the operator is told how far it is.
const PACE: Duration = Duration::from_secs(2);

#[derive(Args)]
pub(crate) struct Reconcile {
    #[command(flatten)]
    vault: VaultArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Finishes what was interrupted, ends what outlived its time, removes what nobody owns: once, now.
    ///
    /// The schedule does the same every minute; both at once is safe.
    Now,
}

/// What `now` answers: what was done, by kind.
struct Reconciled {
    outcome: Outcome,
    shown: Vec<(String, String)>,
}

impl Serialize for Reconciled {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.outcome.serialize(serializer)
    }
}

impl Reconcile {
    pub(crate) async fn run(&self, target: &Target, output: &Output) -> Result<(), AdminError> {
        let Verb::Now = self.verb;
        let deployment = self.vault.deployment(target).await?;
        note("Asking every provider, then ending what is over: up to two minutes. Interrupting this is safe.");
        let paced = Paced::default();
        let tell = |progress| paced.tell(progress);
        let outcome =
            reconcile_telling(&deployment, Boots::UnderWay, &tell).await.map_err(|_| AdminError::NotReconciled)?;
        let counts = serde_json::to_value(outcome).unwrap_or_default();
        let shown = counts.as_object().into_iter().flatten().map(|(what, count)| (what.clone(), count.to_string()));
        output.show(&Reconciled { outcome, shown: shown.collect() })?;
        Ok(())
    }
}

/// Tells how far it is: at the beginning, at the end, and every few seconds between them.
#[derive(Default)]
struct Paced(Mutex<Option<Instant>>);

impl Paced {
    fn tell(&self, Progress { done, all }: Progress) {
        let Ok(mut told) = self.0.lock() else { return };
        if done == 0 || done == all || told.is_none_or(|told| told.elapsed() >= PACE) {
            *told = Some(Instant::now());
            note(&format!("{done} of {all} things on the list are gone through."));
        }
    }
}

impl Show for Reconciled {
    const HEADER: &'static [&'static str] = &["WHAT", "HOW MANY"];

    fn rows(&self) -> Vec<Vec<&str>> {
        self.shown.iter().map(|(what, count)| vec![&**what, &**count]).collect()
    }
}
