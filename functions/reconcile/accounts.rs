//! What runs in the accounts at providers, and what of it nobody owns.

use super::{ITEM_TIME, Outcome, Running, in_turn, sum};
use crate::agents::Sandboxes;
use futures_util::{StreamExt, stream};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::{AgentRef, OwnedSandbox, Provider};
use theazo_store::{Work, WorkItem};
use theazo_tenancy::PlatformId;
use tokio::time::Instant;

/// How long an account may take to say what runs in it.
const LIST_TIME: Duration = Duration::from_secs(15);
/// Accounts asked side by side.
const ACCOUNTS_AT_ONCE: usize = 16;
/// How long all of asking goes on; an account that was not asked is asked by a later run.
const ASK_TIME: Duration = Duration::from_secs(30);
/// Orphans removed in one run of one account at most: when the table was put back to an older state, everything newer
/// looks like one, and someone should have the time to notice.
const MAX_ORPHANS: usize = 20;

/// What an account has said that runs in it.
struct Account {
    /// Whose it is, if not the deployment's own.
    platform: Option<PlatformId>,
    provider: Arc<dyn Provider>,
    sandboxes: Vec<OwnedSandbox>,
}

/// An account did not say what runs in it.
struct NotListed;

/// All accounts that agents may run in.
#[derive(Default)]
pub(super) struct Accounts {
    listed: Vec<Account>,
    /// How asking went.
    outcome: Outcome,
}

/// Asks every account what runs in it, side by side: the deployment's own, and those that platforms have configured.
pub(super) async fn ask(sandboxes: &Sandboxes, work: &Work, turn: usize) -> Result<Accounts, ApiError> {
    let until = Instant::now() + ASK_TIME;
    let mut accounts = Accounts::default();
    for provider in sandboxes.own() {
        accounts.add(list(None, provider).await);
    }
    let configured = work.list().await?.into_iter().filter_map(|item| match item {
        WorkItem::Provider(platform, mode, name) => Some((platform, mode, name)),
        WorkItem::Agent(_) | WorkItem::Session(..) | WorkItem::Platform(_) => None,
    });
    let mut configured: Vec<_> = configured.collect();
    in_turn(&mut configured, turn);
    let asked = stream::iter(configured).map(|(platform, mode, name)| async move {
        if Instant::now() >= until {
            return Some(Err(NotListed));
        }
        let scope = work.operator().tenant(&platform, mode);
        let provider = tokio::time::timeout(LIST_TIME, sandboxes.provider(&scope, &name)).await;
        match provider {
            Ok(Ok(provider)) => Some(list(Some(platform), provider).await),
            Ok(Err(error)) if error.code() == ErrorCode::NoProvidersAvailable => None,
            Ok(Err(error)) => {
                tracing::warn!(%platform, provider = name, ?error, "a provider cannot be used");
                Some(Err(NotListed))
            }
            Err(_) => Some(Err(NotListed)),
        }
    });
    let asked: Vec<_> = asked.buffer_unordered(ACCOUNTS_AT_ONCE).filter_map(std::future::ready).collect().await;
    asked.into_iter().for_each(|listed| accounts.add(listed));
    Ok(accounts)
}

impl Accounts {
    fn add(&mut self, account: Result<Account, NotListed>) {
        match account {
            Ok(account) => self.listed.push(account),
            Err(NotListed) => self.outcome.postponed += 1,
        }
    }

    /// Removes sandboxes that no recorded agent owns. Agents of all platforms are known: two may share an account.
    pub(super) async fn remove_orphans(&self, items: &[WorkItem], until: Instant) -> Outcome {
        let known: HashSet<&str> = items.iter().filter_map(agent_of).collect();
        let mut removals = Vec::new();
        for account in &self.listed {
            let orphans = account.sandboxes.iter().filter(|sandbox| !known.contains(sandbox.agent.as_str()));
            let orphans = orphans.take(MAX_ORPHANS);
            removals.extend(orphans.map(|orphan| remove(account.provider.clone(), orphan.agent.clone(), until)));
        }
        let removals = stream::iter(removals).buffer_unordered(ACCOUNTS_AT_ONCE);
        let outcome = removals.fold(self.outcome, sum).await;
        if outcome.orphans > 0 {
            tracing::warn!(orphans = outcome.orphans, "orphans were removed");
        }
        outcome
    }

    /// What runs at each provider that answered.
    pub(super) fn running(&self) -> Running {
        let of = |account: &Account| {
            let name = (account.provider.kind().as_str().to_owned(), account.platform.clone());
            let alive = account.sandboxes.iter().filter(|sandbox| sandbox.running);
            (name, alive.map(|sandbox| sandbox.agent.clone()).collect())
        };
        self.listed.iter().map(of).collect()
    }
}

async fn list(platform: Option<PlatformId>, provider: Arc<dyn Provider>) -> Result<Account, NotListed> {
    match tokio::time::timeout(LIST_TIME, provider.list_mine()).await {
        Ok(Ok(sandboxes)) => Ok(Account { platform, provider, sandboxes }),
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(provider = provider.kind().as_str(), "the provider does not list its sandboxes");
            Err(NotListed)
        }
    }
}

/// Removes what nobody owns.
async fn remove(provider: Arc<dyn Provider>, agent: String, until: Instant) -> Outcome {
    if Instant::now() >= until {
        return Outcome { skipped: 1, ..Outcome::default() };
    }
    let orphan = AgentRef { agent };
    match tokio::time::timeout(ITEM_TIME, provider.destroy(&orphan)).await {
        Ok(Ok(())) => return Outcome { orphans: 1, ..Outcome::default() },
        Ok(Err(error)) => tracing::warn!(agent = orphan.agent, %error, "an orphan could not be removed yet"),
        Err(_) => tracing::warn!(agent = orphan.agent, "an orphan could not be removed in time"),
    }
    Outcome { postponed: 1, ..Outcome::default() }
}

fn agent_of(item: &WorkItem) -> Option<&str> {
    match item {
        WorkItem::Agent(work) => Some(work.agent.as_str()),
        WorkItem::Session(..) | WorkItem::Provider(..) | WorkItem::Platform(_) => None,
    }
}
