//! After a restore of the data table.

use crate::error::AdminError;
use crate::output::{self, Output, Show};
use clap::Subcommand;
use serde::Serialize;
use theazo_store::{Replay, ReplayMode, Restore, StoreError, Table, Tally};
use theazo_tenancy::Operator;

/// The order that makes deletion hold across a restore.
const ORDER: &str = "\
Before anyone is served from a restored table:
  1. Stop the functions, or keep them on the old table. Restore, if need be under another name.
  2. Replay the deletions on the restored table, with the ledger of the table that was in use:
     cargo admin --table RESTORED restore replay-deletions --ledger LEDGER --yes
     Repeat it until it reports no failure; a repetition deletes nothing more.
  3. Point the functions at the restored table and at that same ledger, which they go on writing, and start them.
     Their scheduled clean-up ends the agents of the sessions and platforms that were deleted again.
  4. Keys that were made after the backup are gone, the successors of rotated keys among them. Give a platform that is
     left without one a new one: cargo admin key create PLATFORM --environment live
Do not delete the ledger: the next restore needs it.";

#[derive(Subcommand)]
pub(crate) enum Verb {
    /// Deletes again, in a table that was put back to an earlier moment, whatever the ledger knows to be deleted.
    ///
    /// Secrets up to the version that was deleted, terminated sessions with their secrets, revoked tokens of sessions,
    /// API keys that were revoked or given a successor, and deleted platforms. What was set again later stays. Safe to be
    /// interrupted and repeated.
    #[command(after_help = ORDER)]
    ReplayDeletions {
        /// Only count what would be deleted
        #[arg(long)]
        dry_run: bool,
        /// That it is meant
        #[arg(long)]
        yes: bool,
    },
}

/// What `replay-deletions` answers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Replayed {
    dry_run: bool,
    secrets: Count,
    sessions: Count,
    tokens: Count,
    keys: Count,
    platforms: Count,
    /// Configurations of providers that named a deleted secret.
    providers: Vec<Provider>,
    failures: Vec<String>,
    #[serde(skip)]
    removed_providers: String,
}

/// Rows of one kind in the ledger, and how many of their things were there again.
#[derive(Serialize)]
struct Count {
    noted: usize,
    deleted: usize,
    #[serde(skip)]
    shown: [String; 2],
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Provider {
    platform_id: String,
    provider: String,
}

pub(crate) async fn run(verb: &Verb, table: Table, output: &Output) -> Result<(), AdminError> {
    let Verb::ReplayDeletions { dry_run, yes } = verb;
    if !dry_run && !yes {
        let what = "deletes from the table whatever its ledger knows to be deleted (--dry-run counts it)";
        return Err(AdminError::Unconfirmed(what.into()));
    }
    #[expect(
        clippy::disallowed_methods,
        reason = "this is the operator's tool; whoever reaches the table is the operator"
    )]
    let restore = Restore::new(table, Operator::assume());
    let mode = if *dry_run { ReplayMode::DryRun } else { ReplayMode::Apply };
    let tell = |rows| output::note(&format!("{rows} rows of the ledger are done."));
    let replay = restore.replay(mode, tell).await.map_err(|error| match error {
        // Nothing but the ledger is scanned.
        StoreError::Table { operation: "Scan", ref code } if code == "ResourceNotFoundException" => {
            AdminError::NoLedger
        }
        other => other.into(),
    })?;
    let replayed = Replayed::new(replay, *dry_run);
    output.show(&replayed)?;
    let verb = if *dry_run { "would be removed" } else { "was removed" };
    for Provider { platform_id, provider } in &replayed.providers {
        output::note(&format!("the configuration of {provider} of {platform_id} {verb}: its credential is deleted"));
    }
    for failure in &replayed.failures {
        output::note(&format!("not done: {failure}"));
    }
    output::note(ORDER);
    match replayed.failures.len() {
        0 => Ok(()),
        failures => Err(AdminError::Incomplete(failures)),
    }
}

impl Replayed {
    fn new(replay: Replay, dry_run: bool) -> Self {
        let provider = |(platform, provider): (theazo_tenancy::PlatformId, String)| Provider {
            platform_id: platform.to_string(),
            provider,
        };
        Self {
            dry_run,
            secrets: replay.secrets.into(),
            sessions: replay.sessions.into(),
            tokens: replay.tokens.into(),
            keys: replay.keys.into(),
            platforms: replay.platforms.into(),
            removed_providers: replay.providers.len().to_string(),
            providers: replay.providers.into_iter().map(provider).collect(),
            failures: replay.failures,
        }
    }
}

impl From<Tally> for Count {
    fn from(Tally { noted, deleted }: Tally) -> Self {
        Self { noted, deleted, shown: [noted.to_string(), deleted.to_string()] }
    }
}

impl Show for Replayed {
    const HEADER: &'static [&'static str] = &["KIND", "IN THE LEDGER", "DELETED AGAIN"];

    fn rows(&self) -> Vec<Vec<&str>> {
        let kinds = [
            ("secrets", &self.secrets),
            ("sessions", &self.sessions),
            ("sessions' tokens", &self.tokens),
            ("API keys", &self.keys),
            ("platforms", &self.platforms),
        ];
        let mut rows: Vec<_> =
            kinds.map(|(kind, count)| vec![kind, count.shown[0].as_str(), count.shown[1].as_str()]).into();
        rows.push(vec!["provider configurations", "-", &self.removed_providers]);
        rows
    }

    fn note(&self) -> Option<&'static str> {
        self.dry_run.then_some("Nothing was changed: these are counts of what would be deleted.")
    }
}
