//! What runs in the accounts at providers, and what of it nobody owns.

use super::hosts::Hosts;
use super::{Found, ITEM_TIME, Outcome, in_turn, sum};
use crate::agents::Sandboxes;
use futures_util::future::join_all;
use futures_util::{StreamExt, stream};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::{AgentRef, OwnedSandbox, Provider, ProviderKind};
use theazo_store::{Work, WorkItem};
use theazo_tenancy::{Mode, PlatformId};
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
    /// Which of the platform's hosts it is, where there are several.
    host: Option<String>,
    provider: Arc<dyn Provider>,
    sandboxes: Vec<OwnedSandbox>,
}

/// An account did not say what runs in it.
struct NotListed;

/// A platform, and which hosts its credential names; with each, whether it has said what it has.
type Named = (PlatformId, Vec<(String, bool)>);

/// All accounts that agents may run in.
#[derive(Default)]
pub(super) struct Accounts {
    listed: Vec<Account>,
    hosts: Hosts,
    /// How asking went.
    outcome: Outcome,
}

/// Asks every account what runs in it, side by side: the deployment's own, and those that platforms have configured.
pub(super) async fn ask(sandboxes: &Sandboxes, work: &Work, turn: usize) -> Result<Accounts, ApiError> {
    let until = Instant::now() + ASK_TIME;
    let mut accounts = Accounts::default();
    if let Some(provider) = sandboxes.own() {
        accounts.add(list(None, None, provider).await);
    }
    let configured = work.list().await?.into_iter().filter_map(|item| match item {
        WorkItem::Provider(platform, mode, name) => Some((platform, mode, name)),
        WorkItem::Agent(_) | WorkItem::Session(..) | WorkItem::Platform(_) => None,
    });
    let mut configured: Vec<_> = configured.collect();
    in_turn(&mut configured, turn);
    let asked = stream::iter(configured).map(|(platform, mode, name)| async move {
        if Instant::now() >= until {
            return (None, vec![Err(NotListed)]);
        }
        let scope = work.operator().tenant(&platform, mode);
        // Test agents are on none.
        let are_hosts = mode == Mode::Live && ProviderKind::parse(&name) == Some(ProviderKind::Docker);
        match tokio::time::timeout(LIST_TIME, sandboxes.accounts(&scope, &name)).await {
            // Each by itself: a host that does not answer keeps no other from being heard.
            Ok(Ok(hosts)) => {
                let (names, providers): (Vec<_>, Vec<_>) = hosts.into_iter().unzip();
                let listed = names.iter().zip(providers);
                let listed = listed.map(|(host, provider)| list(Some(platform.clone()), host.clone(), provider));
                let listed = join_all(listed).await;
                let named = names.into_iter().zip(&listed).filter_map(|(host, listed)| Some((host?, listed.is_ok())));
                (are_hosts.then(|| (platform, named.collect())), listed)
            }
            Ok(Err(error)) if error.code() == ErrorCode::NoProvidersAvailable => {
                (are_hosts.then(|| (platform, Vec::new())), Vec::new())
            }
            Ok(Err(error)) => {
                tracing::warn!(%platform, provider = name, ?error, "a provider cannot be used");
                // What cannot be read as a credential names no host. If it is just not to be had, nobody knows.
                let is_none = are_hosts && error.code() == ErrorCode::Provider;
                (is_none.then(|| (platform, Vec::new())), vec![Err(NotListed)])
            }
            Err(_) => (None, vec![Err(NotListed)]),
        }
    });
    let asked: Vec<(Option<Named>, Vec<_>)> = asked.buffer_unordered(ACCOUNTS_AT_ONCE).collect().await;
    for (named, listed) in asked {
        if let Some((platform, hosts)) = named {
            accounts.hosts.add(platform, hosts);
        }
        listed.into_iter().for_each(|listed| accounts.add(listed));
    }
    Ok(accounts)
}

impl Accounts {
    fn add(&mut self, account: Result<Account, NotListed>) {
        match account {
            Ok(account) => {
                self.hosts.note_answer();
                self.listed.push(account);
            }
            Err(NotListed) => self.outcome.postponed += 1,
        }
    }

    /// Removes sandboxes that no recorded agent owns. Agents of all platforms are known: two may share an account.
    pub(super) async fn remove_orphans(&self, items: &[WorkItem], turn: usize, until: Instant) -> Outcome {
        let known: HashSet<&str> = items.iter().filter_map(agent_of).collect();
        let mut removals = Vec::new();
        for account in &self.listed {
            let orphans = account.sandboxes.iter().filter(|sandbox| !known.contains(sandbox.agent.as_str()));
            // Those that cannot be removed are not for ever the first that are tried.
            let mut orphans: Vec<_> = orphans.collect();
            in_turn(&mut orphans, turn);
            removals.extend(
                orphans
                    .into_iter()
                    .take(MAX_ORPHANS)
                    .map(|orphan| remove(account.provider.clone(), orphan.agent.clone(), until)),
            );
        }
        let removals = stream::iter(removals).buffer_unordered(ACCOUNTS_AT_ONCE);
        let outcome = removals.fold(self.outcome, sum).await;
        if outcome.orphans > 0 {
            tracing::warn!(orphans = outcome.orphans, "orphans were removed");
        }
        outcome
    }

    /// What was heard of platforms' own hosts.
    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// What is at each provider that answered.
    pub(super) fn found(&self) -> Found {
        let of = |account: &Account| {
            let kind = account.provider.kind().as_str().to_owned();
            let name = (kind, account.platform.clone(), account.host.clone());
            let found = account.sandboxes.iter().map(|sandbox| (sandbox.agent.clone(), sandbox.running));
            (name, found.collect())
        };
        self.listed.iter().map(of).collect()
    }
}

async fn list(
    platform: Option<PlatformId>,
    host: Option<String>,
    provider: Arc<dyn Provider>,
) -> Result<Account, NotListed> {
    match tokio::time::timeout(LIST_TIME, provider.list_mine()).await {
        Ok(Ok(sandboxes)) => Ok(Account { platform, host, provider, sandboxes }),
        Ok(Err(_)) | Err(_) => {
            tracing::warn!(provider = provider.kind().as_str(), host, "the provider does not list its sandboxes");
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
