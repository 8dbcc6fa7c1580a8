//! What runs in the accounts at providers, and what of it nobody owns.

use super::hosts::{Answered, Hosts};
use super::{Found, ITEM_TIME, Outcome, in_turn, sum};
use crate::agents::Sandboxes;
use futures_util::future::{join, join_all};
use futures_util::{StreamExt, stream};
use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::{AgentRef, OwnedSandbox, Provider, ProviderKind};
use theazo_store::{StoreError, Work, WorkItem, now_ms};
use theazo_tenancy::{Mode, PlatformId};
use tokio::time::Instant;

/// How long an account may take to say what runs in it.
const LIST_TIME: Duration = Duration::from_secs(15);
/// How long one that did not say so may take to say that it is there.
const HEALTH_TIME: Duration = Duration::from_secs(3);
/// Accounts asked side by side.
const ACCOUNTS_AT_ONCE: usize = 16;
/// How long all of asking goes on; an account that was not asked is asked by a later run.
const ASK_TIME: Duration = Duration::from_secs(30);
/// Orphans removed in one run of one account at most, after they were orphans for as long as the deployment says: when the
/// table was put back to an older state, everything newer looks like one, and someone should have the time to notice.
const MAX_ORPHANS: usize = 20;
/// Orphans that are noted in one run at most; the others are noted by later ones.
const MAX_NOTED: usize = 500;
/// Longest name of an agent that is noted. Ours are shorter; what is called otherwise is for whoever looks at the log.
const MAX_NAME: usize = 128;

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
struct NotListed {
    /// Whose it is, if not the deployment's own.
    platform: Option<PlatformId>,
    /// Whether it has answered something.
    is_there: bool,
}

/// A platform, and which hosts its credential names; with each, what it has said.
type Named = (PlatformId, Vec<(String, Answered)>);

/// What is found that no agent owns, and what is to be done about it.
#[derive(Default)]
struct Orphans {
    found: usize,
    /// What is found for the first time.
    news: Vec<String>,
    /// What was one, and has an owner again: should it be without one later, its time begins anew.
    owned: Vec<String>,
    /// What has been one for long enough, and where it is.
    due: Vec<(Arc<dyn Provider>, String)>,
}

/// All accounts that agents may run in.
#[derive(Default)]
pub(super) struct Accounts {
    listed: Vec<Account>,
    hosts: Hosts,
    /// How asking went.
    outcome: Outcome,
}

/// Asks every account what runs in it, side by side: the deployment's own, and those that platforms have configured. What
/// test keys have configured is nobody's account: nothing of theirs runs anywhere.
pub(super) async fn ask(sandboxes: &Sandboxes, work: &Work, turn: usize) -> Result<Accounts, ApiError> {
    let until = Instant::now() + ASK_TIME;
    let mut accounts = Accounts::default();
    if let Some(provider) = sandboxes.own() {
        accounts.add(list(None, None, provider).await);
    }
    let configured = work.list().await?.into_iter().filter_map(|item| match item {
        WorkItem::Provider(platform, Mode::Live, name) => Some((platform, name)),
        WorkItem::Provider(..)
        | WorkItem::Agent(_)
        | WorkItem::Session(..)
        | WorkItem::Platform(_)
        | WorkItem::Orphan { .. } => None,
    });
    let mut configured: Vec<_> = configured.collect();
    in_turn(&mut configured, turn);
    let asked = stream::iter(configured).map(|(platform, name)| async move {
        let nobody_knows = |platform| (None, vec![Err(NotListed { platform: Some(platform), is_there: false })]);
        if Instant::now() >= until {
            return nobody_knows(platform);
        }
        let scope = work.operator().tenant(&platform, Mode::Live);
        let are_hosts = ProviderKind::parse(&name) == Some(ProviderKind::Docker);
        match tokio::time::timeout(LIST_TIME, sandboxes.accounts(&scope, &name)).await {
            // Each by itself: a host that does not answer keeps no other from being heard.
            Ok(Ok(hosts)) => {
                let (names, providers): (Vec<_>, Vec<_>) = hosts.into_iter().unzip();
                let listed = names.iter().zip(providers);
                let listed = listed.map(|(host, provider)| list(Some(platform.clone()), host.clone(), provider));
                let listed = join_all(listed).await;
                let named = names.into_iter().zip(&listed).filter_map(|(host, listed)| Some((host?, answered(listed))));
                (are_hosts.then(|| (platform, named.collect())), listed)
            }
            Ok(Err(error)) if error.code() == ErrorCode::NoProvidersAvailable => {
                (are_hosts.then(|| (platform, Vec::new())), Vec::new())
            }
            // Which hosts a credential names that cannot be used is not known, and it may be for us to mend: of those of
            // earlier the operator may have taken the ranges away.
            Ok(Err(error)) => {
                tracing::warn!(%platform, provider = name, ?error, "a provider cannot be used");
                nobody_knows(platform)
            }
            Err(_) => nobody_knows(platform),
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
        // The deployment's own engine is on its own machine: that it answers says nothing of the network.
        let is_elsewhere = match &account {
            Ok(account) => account.platform.is_some(),
            Err(account) => account.platform.is_some() && account.is_there,
        };
        if is_elsewhere {
            self.hosts.note_answer();
        }
        match account {
            Ok(account) => self.listed.push(account),
            Err(_) => self.outcome.postponed += 1,
        }
    }

    /// Removes sandboxes that no recorded agent owns and that none owned `grace_ms` ago. Agents of all platforms are known:
    /// two may share an account.
    pub(super) async fn remove_orphans(
        &self,
        work: &Work,
        items: &[WorkItem],
        turn: usize,
        grace_ms: i64,
        until: Instant,
    ) -> Outcome {
        let now = now_ms();
        let Orphans { found, news, owned, due } = self.orphans(items, turn, grace_ms, now);
        let notes = stream::iter(news).map(|agent| async move { work.note_orphan(&agent, now).await });
        let forgets = stream::iter(owned).map(|agent| async move { work.forget_orphan(&agent).await });
        let notes = notes.buffer_unordered(ACCOUNTS_AT_ONCE).filter_map(|noted| async { noted.err() }).collect();
        let forgets = forgets.buffer_unordered(ACCOUNTS_AT_ONCE).filter_map(|done| async { done.err() }).collect();
        let (mut failed, more): (Vec<StoreError>, Vec<StoreError>) = join(notes, forgets).await;
        failed.extend(more);
        for error in &failed {
            tracing::warn!(?error, "what was found of orphans could not be noted");
        }
        let mut removals = Vec::with_capacity(due.len());
        for (provider, agent) in due {
            removals.push(remove(provider, agent, until, work));
        }
        let removals = stream::iter(removals).buffer_unordered(ACCOUNTS_AT_ONCE);
        let mut outcome = removals.fold(self.outcome, sum).await;
        outcome.ownerless = found;
        outcome.postponed += failed.len();
        if found > 0 {
            tracing::warn!(found, removed = outcome.orphans, "there are sandboxes that no agent owns");
        }
        outcome
    }

    fn orphans(&self, items: &[WorkItem], turn: usize, grace_ms: i64, now_ms: i64) -> Orphans {
        let known: HashSet<&str> = items.iter().filter_map(agent_of).collect();
        let noted: HashMap<&str, i64> = items.iter().filter_map(orphan_of).collect();
        let mut orphans = Orphans::default();
        for account in &self.listed {
            let all = account.sandboxes.iter().map(|sandbox| sandbox.agent.as_str());
            let all: Vec<&str> = all.filter(|agent| !known.contains(agent)).collect();
            orphans.found += all.len();
            let is_new = |agent: &&&str| grace_ms > 0 && agent.len() <= MAX_NAME && !noted.contains_key(**agent);
            orphans.news.extend(all.iter().filter(is_new).map(|agent| (*agent).to_owned()));
            let since = |agent: &str| noted.get(agent).copied().unwrap_or(now_ms);
            let mut due: Vec<&str> = all.into_iter().filter(|agent| now_ms - since(agent) >= grace_ms).collect();
            // Those that cannot be removed are not for ever the first that are tried.
            in_turn(&mut due, turn);
            orphans
                .due
                .extend(due.iter().take(MAX_ORPHANS).map(|agent| (account.provider.clone(), (*agent).to_owned())));
        }
        orphans.news.sort_unstable();
        orphans.news.dedup();
        orphans.news.truncate(MAX_NOTED);
        let owned = noted.into_keys().filter(|agent| known.contains(agent));
        orphans.owned = owned.map(str::to_owned).collect();
        orphans
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
            let health = tokio::time::timeout(HEALTH_TIME, provider.health()).await;
            let is_there = health.is_ok_and(|health| health.healthy);
            let kind = provider.kind().as_str();
            tracing::warn!(provider = kind, host, is_there, "the provider does not list its sandboxes");
            Err(NotListed { platform, is_there })
        }
    }
}

fn answered(listed: &Result<Account, NotListed>) -> Answered {
    match listed {
        Ok(_) => Answered::WhatItHas,
        Err(NotListed { is_there: true, .. }) => Answered::Something,
        Err(NotListed { is_there: false, .. }) => Answered::Nothing,
    }
}

/// Removes what nobody owns.
async fn remove(provider: Arc<dyn Provider>, agent: String, until: Instant, work: &Work) -> Outcome {
    if Instant::now() >= until {
        return Outcome { skipped: 1, ..Outcome::default() };
    }
    let orphan = AgentRef { agent };
    match tokio::time::timeout(ITEM_TIME, provider.destroy(&orphan)).await {
        Ok(Ok(())) => {
            // One that stays is over by itself.
            if let Err(error) = work.forget_orphan(&orphan.agent).await {
                tracing::warn!(agent = orphan.agent, ?error, "the note of an orphan stays");
            }
            return Outcome { orphans: 1, ..Outcome::default() };
        }
        Ok(Err(error)) => tracing::warn!(agent = orphan.agent, %error, "an orphan could not be removed yet"),
        Err(_) => tracing::warn!(agent = orphan.agent, "an orphan could not be removed in time"),
    }
    Outcome { postponed: 1, ..Outcome::default() }
}

fn agent_of(item: &WorkItem) -> Option<&str> {
    match item {
        WorkItem::Agent(work) => Some(work.agent.as_str()),
        WorkItem::Session(..) | WorkItem::Provider(..) | WorkItem::Platform(_) | WorkItem::Orphan { .. } => None,
    }
}

fn orphan_of(item: &WorkItem) -> Option<(&str, i64)> {
    match item {
        WorkItem::Orphan { agent, since_ms } => Some((agent, *since_ms)),
        WorkItem::Agent(_) | WorkItem::Session(..) | WorkItem::Provider(..) | WorkItem::Platform(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::super::hosts::Heard;
    use super::*;
    use async_trait::async_trait;
    use bytes::Bytes;
    use std::collections::HashMap;
    use theazo_providers::ProviderError;
    use theazo_providers::docker::{DockerConfig, DockerProvider, Endpoint};
    use theazo_providers::simulated::{SimulatedDisk, SimulatedProvider, StoredIndex};
    use theazo_store::Unreachable;

    const HOST: &str = "one:2376";

    /// A disk that nobody gets to.
    struct NoDisk;

    #[async_trait]
    impl SimulatedDisk for NoDisk {
        async fn make(&self, _: &str, _: Vec<u8>, _: i64) -> Result<bool, ProviderError> {
            Err(ProviderError::TimedOut)
        }
        async fn index(&self, _: &str) -> Result<Option<StoredIndex>, ProviderError> {
            Err(ProviderError::TimedOut)
        }
        async fn replace(&self, _: &str, _: u64, _: Vec<u8>, _: i64) -> Result<bool, ProviderError> {
            Err(ProviderError::TimedOut)
        }
        async fn put(&self, _: &str, _: Vec<(String, Bytes)>, _: i64) -> Result<(), ProviderError> {
            Err(ProviderError::TimedOut)
        }
        async fn get(&self, _: &str, _: &[&str]) -> Result<HashMap<String, Bytes>, ProviderError> {
            Err(ProviderError::TimedOut)
        }
        async fn delete(&self, _: &str, _: &[&str]) -> Result<(), ProviderError> {
            Err(ProviderError::TimedOut)
        }
        async fn remove(&self, _: &str) -> Result<(), ProviderError> {
            Err(ProviderError::TimedOut)
        }
    }

    /// An engine that nobody listens for.
    fn absent() -> Arc<dyn Provider> {
        let endpoint = Endpoint::parse("unix:///theazo/no/such.sock").unwrap();
        Arc::new(DockerProvider::new(DockerConfig::new(endpoint, "image", "deployment")).unwrap())
    }

    /// What answers, but never lists anything.
    fn busy() -> Arc<dyn Provider> {
        Arc::new(SimulatedProvider::new(NoDisk))
    }

    /// What is heard of a silent host of a platform when another account has given that answer.
    fn heard_beside(other: Result<Account, NotListed>) -> Heard {
        let (platform, mut accounts) = (PlatformId::make(), Accounts::default());
        accounts.hosts.add(platform.clone(), vec![(HOST.into(), Answered::Nothing)]);
        accounts.add(other);
        accounts.hosts.heard(Some(HOST), &platform)
    }

    #[tokio::test]
    async fn an_account_that_lists_nothing_but_answers_otherwise_is_not_silent() {
        for (provider, expected) in [(busy(), Answered::Something), (absent(), Answered::Nothing)] {
            let listed = list(Some(PlatformId::make()), Some(HOST.into()), provider.clone()).await;
            assert_eq!(answered(&listed), expected);
        }
        let account = Account { platform: None, host: None, provider: busy(), sandboxes: Vec::new() };
        assert_eq!(answered(&Ok(account)), Answered::WhatItHas);
    }

    #[test]
    fn only_what_answers_from_elsewhere_says_that_the_network_is_there() {
        let silent = Heard::Unreachable(Unreachable::HostSilent);
        let listed = |platform| Account { platform, host: None, provider: absent(), sandboxes: Vec::new() };
        let not_listed = |platform, is_there| NotListed { platform, is_there };
        for (other, expected) in [
            (Ok(listed(Some(PlatformId::make()))), silent),
            (Err(not_listed(Some(PlatformId::make()), true)), silent),
            (Err(not_listed(Some(PlatformId::make()), false)), Heard::Unclear),
            // The deployment's own engine is on its own machine.
            (Ok(listed(None)), Heard::Unclear),
            (Err(not_listed(None, true)), Heard::Unclear),
        ] {
            assert_eq!(heard_beside(other), expected);
        }
    }
}
