//! Several Docker hosts of one platform: which of them an agent is put on, finding the one that it is on, and moving it to
//! another.
//!
//! Which host has an agent is decided before any is asked to make it, and whoever asks keeps that with the agent: a host's
//! own answers are never what it is found by. Two hosts drawn at random are asked how much room they have and the emptier
//! one is taken, so that many creates at once do not all go to the host that was the emptiest a moment ago.

use super::credential::{CredentialFault, read};
use super::moving::Carried;
use super::ranges::HostRanges;
use super::{DockerConfig, DockerProvider, Endpoint};
use crate::{Capacity, Health, Provider, ProviderError, SandboxSpec};
use bollard::Docker;
use futures_util::future::{join, join_all};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use theazo_vault::SecretValue;
use tokio::time::Instant;

/// How long a host may take to say how much room it has, connecting included.
const ROOM_LIMIT: Duration = Duration::from_secs(4);
/// How long a host that did not answer is asked last.
const DOWN_FOR: Duration = Duration::from_secs(15);
/// Hosts that are asked first.
const DRAWN: usize = 2;

/// What the deployment and the platform say of all hosts.
#[derive(Clone, Debug)]
pub struct HostSettings {
    /// Which deployment of this service owns what is made.
    pub deployment: String,
    /// The agent image, by name or id. It must be on every host already.
    pub image: String,
    /// Where hosts may be beside the internet.
    pub ranges: HostRanges,
}

/// A platform's hosts. Connections to them are kept, so it is worth keeping.
pub struct DockerHosts(Vec<Host>);

struct Host {
    name: String,
    identity: String,
    provider: Arc<DockerProvider>,
    /// Until when it is asked last, because it did not answer.
    down_until: Mutex<Option<Instant>>,
}

/// Which of a platform's hosts take new agents.
#[derive(Clone, Copy, Debug)]
pub struct Standing<'a> {
    /// Names of those that take no new ones.
    pub draining: &'a [String],
    /// Those that were found to keep agents from what they must not reach, as [`DockerHosts::identities`] gives them: no
    /// other takes any.
    pub enrolled: &'a BTreeMap<String, String>,
}

impl Standing<'_> {
    fn has_enrolled(self, host: &Host) -> bool {
        self.enrolled.get(&host.name) == Some(&host.identity)
    }

    /// Why a host takes no new agents, if it does not.
    fn refuses(self, host: &Host) -> Option<&'static str> {
        if !self.has_enrolled(host) {
            return Some("not enrolled");
        }
        self.draining.contains(&host.name).then_some("draining")
    }
}

impl Capacity {
    /// Whether it is the emptier one, by the part of its places that is free.
    fn beats(self, other: Self) -> bool {
        u128::from(self.free) * u128::from(other.places) > u128::from(other.free) * u128::from(self.places)
    }
}

impl Host {
    async fn room(&self) -> Result<Capacity, ProviderError> {
        let asked = self.provider.room(ROOM_LIMIT).await;
        let mut down_until = self.down_until.lock().unwrap_or_else(PoisonError::into_inner);
        *down_until = asked.is_err().then(|| Instant::now() + DOWN_FOR);
        asked
    }

    fn is_down(&self) -> bool {
        let down_until = *self.down_until.lock().unwrap_or_else(PoisonError::into_inner);
        down_until.is_some_and(|until| Instant::now() < until)
    }
}

impl DockerHosts {
    /// The hosts of a credential. Nothing is sent yet.
    ///
    /// # Errors
    /// [`CredentialFault`], which quotes nothing of the credential.
    pub fn new(credential: &SecretValue, settings: &HostSettings) -> Result<Self, CredentialFault> {
        let hosts = read(credential, &settings.ranges)?.into_iter().map(|described| {
            let mut config =
                DockerConfig::new(Endpoint::Tls(described.endpoint), &settings.image, &settings.deployment);
            config.subnet_pool = config.subnet_pool.limited(described.max_agents);
            config.prefer_gvisor = true;
            config.port_key = Some(described.port_key.into());
            let provider = DockerProvider::new(config).map_err(|_| CredentialFault::no_client())?;
            let identity = identity(described.identity, &settings.image);
            Ok(Host { name: described.name, identity, provider: Arc::new(provider), down_until: Mutex::default() })
        });
        hosts.collect::<Result<_, _>>().map(Self)
    }

    /// Whether a credential can be used: says what is wrong with it, and asks no host.
    ///
    /// # Errors
    /// As [`DockerHosts::new`].
    pub fn check(credential: &SecretValue, ranges: &HostRanges) -> Result<(), CredentialFault> {
        read(credential, ranges).map(drop)
    }

    /// The host of that name, `host:port`, if it is one of these.
    pub fn on(&self, host: &str) -> Option<Arc<dyn Provider>> {
        Some(self.find(host)?.provider.clone())
    }

    /// All of them with their names.
    pub fn each(&self) -> impl Iterator<Item = (&str, Arc<dyn Provider>)> {
        self.0.iter().map(|host| (host.name.as_str(), host.provider.clone() as Arc<dyn Provider>))
    }

    /// The engine of a host, through which whoever has it is root there: for the operator, who sets hosts up.
    pub fn engine(&self, host: &str) -> Option<Docker> {
        Some(self.find(host)?.provider.docker.clone())
    }

    /// What tells each from another host of the same name, for which other authorities vouch, and from itself with another
    /// agent image.
    pub fn identities(&self) -> BTreeMap<String, String> {
        self.0.iter().map(|host| (host.name.clone(), host.identity.clone())).collect()
    }

    /// Whether an agent that is on a host may boot there again: it is enrolled. One that drains keeps its agents.
    pub fn may_boot_on(&self, host: &str, standing: Standing<'_>) -> bool {
        self.0.iter().any(|other| other.name == host && standing.has_enrolled(other))
    }

    /// Whether any host takes new agents, if it has room.
    pub fn any_takes(&self, standing: Standing<'_>) -> bool {
        self.0.iter().any(|host| standing.refuses(host).is_none())
    }

    /// The host that the next agent goes to. No place is kept for it: whoever comes second to a last place is told so by
    /// [`Provider::create`].
    ///
    /// # Errors
    /// [`ProviderError::NoCapacity`] when no host that answers has room.
    pub async fn place(&self, standing: Standing<'_>) -> Result<String, ProviderError> {
        let hosts = self.0.iter().filter(|host| standing.refuses(host).is_none()).collect();
        let host = choose(hosts).await.ok_or(ProviderError::NoCapacity)?;
        Ok(host.name.clone())
    }

    /// The host that a stopped agent moves to when it boots again and `host`, where its files are, takes no boots of it: it
    /// drains, or it is full. Nothing when it stays: that one takes it, or no other does either. None of `except` is chosen.
    ///
    /// # Errors
    /// When the host does not answer: its files are not to be had.
    pub async fn place_again(
        &self,
        host: &str,
        standing: Standing<'_>,
        except: &[&str],
    ) -> Result<Option<String>, ProviderError> {
        let Some(own) = self.find(host) else { return Ok(None) };
        let room = own.room().await?;
        if room.free > 0 && standing.refuses(own).is_none() {
            return Ok(None);
        }
        let is_other = |other: &&Host| other.name != host && !except.contains(&other.name.as_str());
        let mut others: Vec<&Host> =
            self.0.iter().filter(|other| standing.refuses(other).is_none()).filter(is_other).collect();
        if others.is_empty() {
            return Ok(None);
        }
        let engine = own.provider.engine_id(ROOM_LIMIT).await?;
        while let Some(target) = choose(others.clone()).await {
            match target.provider.engine_id(ROOM_LIMIT).await {
                Ok(other) if other != engine => return Ok(Some(target.name.clone())),
                // What is removed there before it gets the files would be the files.
                Ok(_) => tracing::warn!(host, other = target.name, "two Docker hosts of a platform are one engine"),
                Err(error) => tracing::warn!(host = target.name, %error, "no agent is moved to a Docker host"),
            }
            others.retain(|other| other.name != target.name);
        }
        Ok(None)
    }

    /// Brings what is kept of a stopped agent from one host to another. There it stays; what is here of the agent before
    /// goes. The two are ones that [`DockerHosts::place_again`] has told apart. On an error, call [`Provider::destroy`]
    /// here and [`Provider::stop`] there.
    ///
    /// # Errors
    /// [`ProviderError::SandboxGone`] when its files are not there, or one of the hosts is none of these;
    /// [`ProviderError::TimedOut`].
    pub async fn carry(
        &self,
        spec: &SandboxSpec,
        from: &str,
        to: &str,
        carried: &Carried,
    ) -> Result<(), ProviderError> {
        let hosts = self.find(from).zip(self.find(to)).ok_or(ProviderError::SandboxGone)?;
        // It is large, and part of boots that usually move nothing.
        Box::pin(hosts.1.provider.carry_from(&hosts.0.provider, spec, carried)).await
    }

    /// Whether two of them are the same engine, where both say which they are.
    pub async fn are_one(&self, one: &str, other: &str) -> Option<bool> {
        let (one, other) = self.find(one).zip(self.find(other))?;
        let (one, other) = join(one.provider.engine_id(ROOM_LIMIT), other.provider.engine_id(ROOM_LIMIT)).await;
        Some(one.ok()? == other.ok()?)
    }

    fn find(&self, host: &str) -> Option<&Host> {
        self.0.iter().find(|other| other.name == host)
    }

    /// Whether agents can be made on any of them, and what is to be known of the others.
    pub async fn health(&self, standing: Standing<'_>) -> Health {
        let asked = join_all(self.0.iter().map(|host| async {
            let (health, room) = join(host.provider.health(), host.room()).await;
            match room {
                Ok(room) if health.healthy => (
                    true,
                    format!("{}: {}, room for {} of {} agents", host.name, health.message, room.free, room.places),
                ),
                Err(error) if health.healthy => (false, format!("{}: {error}", host.name)),
                _ => (false, format!("{}: {}", host.name, health.message)),
            }
        }));
        let asked: Vec<(bool, String)> = asked.await;
        let mut hosts = self.0.iter().zip(&asked);
        let healthy = hosts.any(|(host, (healthy, _))| *healthy && standing.refuses(host).is_none());
        let lines = self.0.iter().zip(asked).map(|(host, (_, line))| match standing.refuses(host) {
            None => line,
            Some(why) => format!("{line} ({why})"),
        });
        Health { healthy, message: lines.collect::<Vec<_>>().join("; ") }
    }
}

/// What an enrollment is for: that host, with that image. What was tried with one says nothing of another, which may not even
/// be there.
fn identity(host: [u8; 32], image: &str) -> String {
    hex::encode(Sha256::new().chain_update(host).chain_update(image).finalize())
}

/// The emptier of two drawn at random, or of the others when those two have no room; none if all are full or silent.
async fn choose(mut hosts: Vec<&Host>) -> Option<&Host> {
    shuffle(&mut hosts);
    hosts.sort_by_key(|host| host.is_down());
    let (drawn, others) = hosts.split_at(hosts.len().min(DRAWN));
    for hosts in [drawn, others] {
        let rooms = join_all(hosts.iter().map(|host| async { (*host, host.room().await) })).await;
        if let Some(host) = emptiest(rooms) {
            return Some(host);
        }
    }
    None
}

/// The one with the largest part of its places free; none if all are full or silent.
fn emptiest(rooms: Vec<(&Host, Result<Capacity, ProviderError>)>) -> Option<&Host> {
    let mut best: Option<(&Host, Capacity)> = None;
    for (host, room) in rooms {
        match room {
            Ok(room) if room.free > 0 && best.is_none_or(|(_, other)| room.beats(other)) => best = Some((host, room)),
            Ok(_) => {}
            Err(error) => tracing::warn!(host = host.name, %error, "no agent is put on a Docker host"),
        }
    }
    best.map(|(host, _)| host)
}

/// Without randomness the order stays, and the first hosts get more than their part.
fn shuffle<T>(things: &mut [T]) {
    for last in (1..things.len()).rev() {
        let Ok(random) = getrandom::u32() else { return };
        things.swap(last, random as usize % (last + 1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn the_emptier_host_is_the_one_with_the_larger_part_free() {
        let room = |free, places| Capacity { free, places };
        assert!(room(5, 10).beats(room(40, 100)));
        assert!(!room(4, 10).beats(room(40, 100)) && !room(40, 100).beats(room(4, 10)));
        assert!(room(1, 1000).beats(room(0, 1)));
        assert!(!room(0, 10).beats(room(0, 1)));
    }

    #[test]
    fn every_host_is_drawn_at_times() {
        let mut first = HashSet::new();
        for _ in 0..300 {
            let mut things: Vec<usize> = (0..5).collect();
            shuffle(&mut things);
            first.insert(things[0]);
            things.sort_unstable();
            assert_eq!(things, [0, 1, 2, 3, 4]);
        }
        assert_eq!(first.len(), 5);
    }
}
