//! `cargo admin`: the operator's command line, over the table itself. It needs no API key, because it makes them.
//!
//! A file per noun; `target` says which table is meant, `vault` which key service and key, `output` writes answers,
//! `error` says what went wrong. The exit status is 0 when it was done, 1 when it failed, and 2 when the command line
//! cannot be understood.

mod doctor;
mod error;
#[cfg(test)]
mod guides;
mod host;
mod key;
mod output;
mod pages;
mod platform;
mod provider;
mod reconcile;
mod restore;
mod root_key;
mod stack;
mod target;
mod text;
mod vault;

use clap::{Parser, Subcommand};
use error::AdminError;
use output::Output;
use std::process::ExitCode;
use std::time::Duration;
use target::Target;

/// Most commands do not take seconds; an endpoint that accepts connections and never answers must not hang a script.
const TIMEOUT: Duration = Duration::from_secs(60);
/// What goes through all of a platform, or through the whole ledger, may take long, and can be repeated.
const LONG_TIMEOUT: Duration = Duration::from_secs(4 * 60 * 60);

/// Operates a Theazo deployment: the local stack of `cargo dev` unless told otherwise.
#[derive(Parser)]
#[command(name = "cargo admin", version, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    target: Target,
    #[command(flatten)]
    output: Output,
    #[command(subcommand)]
    noun: Noun,
}

#[derive(Subcommand)]
enum Noun {
    /// Platforms: the companies that run agents for their users.
    #[command(subcommand)]
    Platform(platform::Verb),
    /// API keys of platforms.
    #[command(subcommand)]
    Key(key::Verb),
    /// After a restore of the data table.
    #[command(subcommand)]
    Restore(restore::Verb),
    /// The deployment's root key, which everything is sealed under in the end.
    RootKey(root_key::RootKey),
    /// What platforms have configured at compute providers.
    Provider(provider::Provider),
    /// Docker hosts of platforms.
    Host(host::Host),
    /// What the schedule does every minute.
    Reconcile(reconcile::Reconcile),
    /// Looks whether tables, backups, keys, clock and providers are as they should be; exits with 1 when one is not.
    Doctor(doctor::Doctor),
}

impl Noun {
    /// How long the command may take; nothing for one that waits on purpose and bounds each of its steps instead.
    fn timeout(&self) -> Option<Duration> {
        match self {
            Self::RootKey(root_key::RootKey { verb: root_key::Verb::Rotate, .. }) => None,
            Self::RootKey(_) | Self::Restore(_) => Some(LONG_TIMEOUT),
            Self::Platform(platform::Verb::Delete { .. } | platform::Verb::RotateKey { .. }) => Some(LONG_TIMEOUT),
            // Each of doctor's looks is bounded by itself, so that one without an answer is a line and the others are told.
            Self::Reconcile(_) | Self::Provider(_) | Self::Host(_) | Self::Doctor(_) => Some(LONG_TIMEOUT),
            Self::Platform(_) | Self::Key(_) => Some(TIMEOUT),
        }
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.noun.timeout() {
        Some(limit) => tokio::time::timeout(limit, run(&cli)).await.unwrap_or(Err(AdminError::TimedOut(limit))),
        None => run(&cli).await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::note(&format!("error: {}", error.explain(&cli.target)));
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: &Cli) -> Result<(), AdminError> {
    let table = cli.target.table().await?;
    match &cli.noun {
        Noun::Platform(verb) => platform::run(verb, &cli.target, table, &cli.output).await,
        Noun::Key(verb) => key::run(verb, table, &cli.output).await,
        Noun::Restore(verb) => restore::run(verb, table, &cli.output).await,
        Noun::RootKey(command) => command.run(&cli.target, &cli.output).await,
        Noun::Provider(command) => command.run(&cli.target, &cli.output).await,
        Noun::Host(command) => command.run(&cli.target, &cli.output).await,
        Noun::Reconcile(command) => command.run(&cli.target, &cli.output).await,
        Noun::Doctor(command) => command.run(&cli.target, &cli.output).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doctor_may_take_as_long_as_it_waits_for_cloudformation() {
        for args in [&["doctor", "--stack", "theazo-dev"][..], &["doctor", "--aws", "--stack", "theazo-dev"]] {
            let cli = Cli::try_parse_from([&["theazo-admin"], args].concat()).unwrap();
            // Beside it, all else that is looked at takes no more than some minutes.
            let limit = cli.noun.timeout().unwrap();
            assert!(limit >= stack::PATIENCE + Duration::from_secs(5 * 60), "{limit:?}");
        }
    }
}
