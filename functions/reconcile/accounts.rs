//! What runs in the accounts at providers.

use super::hosts::{Answered, Hosts};
use super::lanes::in_lanes;
use super::{Found, Outcome, in_turn};
use crate::agents::Sandboxes;
use futures_util::future::join_all;
use std::sync::Arc;
use std::time::Duration;
use theazo_http::{ApiError, ErrorCode};
use theazo_providers::{OwnedSandbox, Provider, ProviderKind};
use theazo_store::Work;
use theazo_tenancy::{Mode, PlatformId};
use tokio::time::Instant;

/// How long an account may take to say what runs in it.
const LIST_TIME: Duration = Duration::from_secs(15);
/// How long it may take to find out how an account is reached.
const LOOK_TIME: Duration = Duration::from_secs(5);
/// How long one that did not say so may take to say that it is there.
const HEALTH_TIME: Duration = Duration::from_secs(3);
/// Accounts asked side by side.
const ACCOUNTS_AT_ONCE: usize = 16;
/// After how long one that is silent is in nobody's way any more.
const ACCOUNT_SLICE: Duration = Duration::from_secs(2);
/// How long all of asking goes on; an account that was not asked is asked by a later run.
const ASK_TIME: Duration = Duration::from_secs(20);

/// What an account has said that runs in it.
pub(super) struct Account {
    /// Whose it is, if not the deployment's own.
    pub(super) platform: Option<PlatformId>,
    /// Which of the platform's hosts it is, where there are several.
    pub(super) host: Option<String>,
    pub(super) provider: Arc<dyn Provider>,
    pub(super) sandboxes: Vec<OwnedSandbox>,
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

/// All accounts that agents may run in.
#[derive(Default)]
pub(super) struct Accounts {
    pub(super) listed: Vec<Account>,
    hosts: Hosts,
    /// How asking went.
    pub(super) outcome: Outcome,
}

/// Asks every account what runs in it, side by side: the deployment's own, and those that platforms have configured. What
/// test keys have configured is nobody's account: nothing of theirs runs anywhere.
pub(super) async fn ask(sandboxes: &Sandboxes, work: &Work, turn: usize) -> Result<Accounts, ApiError> {
    let until = Instant::now() + ASK_TIME;
    let mut accounts = Accounts::default();
    if let Some(provider) = sandboxes.own() {
        accounts.add(list(None, None, provider).await);
    }
    let configured = work.providers().await?.into_iter();
    let live = configured.filter_map(|(platform, mode, name)| (mode == Mode::Live).then_some((platform, name)));
    let mut configured: Vec<_> = live.collect();
    in_turn(&mut configured, turn);
    let asked = configured.into_iter().map(|(platform, name)| async move {
        let nobody_knows = |platform| (None, vec![Err(NotListed { platform: Some(platform), is_there: false })]);
        if Instant::now() >= until {
            return nobody_knows(platform);
        }
        let scope = work.operator().tenant(&platform, Mode::Live);
        let are_hosts = ProviderKind::parse(&name) == Some(ProviderKind::Docker);
        match tokio::time::timeout(LOOK_TIME, sandboxes.accounts(&scope, &name)).await {
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
    let asked: Vec<(Option<Named>, Vec<_>)> = in_lanes(asked, ACCOUNTS_AT_ONCE, ACCOUNT_SLICE).await;
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

    /// What was heard of platforms' own hosts.
    pub(super) fn hosts(&self) -> &Hosts {
        &self.hosts
    }

    /// What is at each provider that answered.
    pub(super) fn found(&self) -> Found {
        let of = |account: &Account| {
            let kind = account.provider.kind().as_str().to_owned();
            let name = (kind, account.platform.clone(), account.host.clone());
            let found = account.sandboxes.iter().map(|sandbox| (sandbox.agent.clone(), sandbox.presence));
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
