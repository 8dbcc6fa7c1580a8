//! What is in accounts at providers and belongs to no agent. It is removed when that has been so for a while: what the table
//! does not know may only be newer than the table.

use super::accounts::{ACCOUNTS_AT_ONCE, Account, Accounts};
use super::{ITEM_TIME, Outcome, in_turn, sum};
use futures_util::{StreamExt, stream};
use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use theazo_providers::{AgentRef, Provider};
use theazo_store::{AccountName, OrphanNotes, Ownerless, StoreError, WorkItem, now_ms};
use tokio::time::Instant;

/// Orphans removed in one run of one account at most, after they were orphans for as long as the deployment says: when the
/// table was put back to an older state, everything newer looks like one, and someone should have the time to notice.
const MAX_ORPHANS: usize = 20;
/// Orphans of an account that are noted at most; the others are when those are gone.
const MAX_NOTED: usize = 200;
/// Longest name of an agent that is noted. Ours are shorter; what is called otherwise is for whoever looks at the log.
const MAX_NAME: usize = 128;

/// What an account has that no agent owns, and what is to be done about it.
#[derive(Default)]
struct Orphans {
    found: usize,
    /// What is noted from now on. What has an owner again, or is gone, is not in it: should it be without one later, its time
    /// begins anew.
    noted: Ownerless,
    /// What has been one for long enough.
    due: Vec<String>,
}

impl Account {
    fn name(&self) -> AccountName {
        AccountName::of(self.platform.as_ref(), self.provider.kind().as_str(), self.host.as_deref())
    }

    /// What it has that none of the known agents owns, with what was noted of it before.
    fn orphans(&self, known: &HashSet<&str>, before: &Ownerless, turn: usize, grace_ms: i64, now_ms: i64) -> Orphans {
        let all = self.sandboxes.iter().map(|sandbox| sandbox.agent.as_str());
        let all: BTreeSet<&str> = all.filter(|agent| !known.contains(agent)).collect();
        if grace_ms <= 0 {
            return Orphans { found: all.len(), noted: Ownerless::new(), due: first_due(all.iter().copied(), turn) };
        }
        // Those that are noted come first: whoever lists ever more names makes none of them younger.
        let (old, new): (Vec<&str>, Vec<&str>) = all.iter().partition(|agent| before.contains_key(**agent));
        let new = new.into_iter().filter(|agent| (1..=MAX_NAME).contains(&agent.len()));
        let noted: Ownerless = old
            .into_iter()
            .chain(new)
            .take(MAX_NOTED)
            .map(|agent| (agent.to_owned(), before.get(agent).copied().unwrap_or(now_ms)))
            .collect();
        let due = noted.iter().filter(|(_, since_ms)| now_ms - **since_ms >= grace_ms).map(|(agent, _)| agent.as_str());
        Orphans { found: all.len(), due: first_due(due, turn), noted }
    }
}

/// Those that a run removes. Those that cannot be removed are not for ever the first that are tried.
fn first_due<'a>(due: impl Iterator<Item = &'a str>, turn: usize) -> Vec<String> {
    let mut due: Vec<&str> = due.collect();
    in_turn(&mut due, turn);
    due.truncate(MAX_ORPHANS);
    due.into_iter().map(str::to_owned).collect()
}

impl Accounts {
    /// Removes sandboxes that no recorded agent owns and that none owned `grace_ms` ago. Agents of all platforms are known:
    /// two may share an account.
    pub(super) async fn remove_orphans(
        &self,
        notes: &OrphanNotes,
        items: &[WorkItem],
        turn: usize,
        grace_ms: i64,
        until: Instant,
    ) -> Outcome {
        let mut outcome = self.outcome;
        let before = match notes.load().await {
            Ok(before) => before,
            Err(error) => {
                tracing::warn!(?error, "since when there are orphans is not known");
                outcome.postponed += 1;
                return outcome;
            }
        };
        let known: HashSet<&str> = items.iter().filter_map(agent_of).collect();
        let (now, nothing) = (now_ms(), Ownerless::new());
        let (mut changed, mut removals) = (Vec::new(), Vec::new());
        for account in &self.listed {
            let name = account.name();
            let before = before.get(&name).unwrap_or(&nothing);
            let Orphans { found, noted, due } = account.orphans(&known, before, turn, grace_ms, now);
            outcome.ownerless += found;
            if noted != *before {
                changed.push((name, noted));
            }
            removals.extend(due.into_iter().map(|agent| remove(account.provider.clone(), agent, until)));
        }
        let keeps = stream::iter(changed).map(|(account, noted)| async move { notes.keep(&account, &noted).await });
        let keeps = keeps.buffer_unordered(ACCOUNTS_AT_ONCE).filter_map(|kept| async { kept.err() });
        let failed: Vec<StoreError> = keeps.collect().await;
        for error in &failed {
            tracing::warn!(?error, "what was found of orphans could not be noted");
        }
        outcome.postponed += failed.len();
        let removals = stream::iter(removals).buffer_unordered(ACCOUNTS_AT_ONCE);
        let outcome = removals.fold(outcome, sum).await;
        if outcome.ownerless > 0 {
            tracing::warn!(
                found = outcome.ownerless,
                removed = outcome.orphans,
                "there are sandboxes that no agent owns"
            );
        }
        outcome
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

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_providers::OwnedSandbox;
    use theazo_providers::docker::{DockerConfig, DockerProvider, Endpoint};
    use theazo_tenancy::PlatformId;

    const HOST: &str = "one:2376";

    fn with(platform: Option<PlatformId>, host: Option<&str>, agents: &[&str]) -> Account {
        // An engine that nobody listens for.
        let endpoint = Endpoint::parse("unix:///theazo/no/such.sock").unwrap();
        let provider = Arc::new(DockerProvider::new(DockerConfig::new(endpoint, "image", "deployment")).unwrap());
        let sandboxes = agents.iter().map(|agent| OwnedSandbox { agent: (*agent).to_owned(), running: true }).collect();
        Account { platform, host: host.map(str::to_owned), provider, sandboxes }
    }

    #[test]
    fn what_nobody_owns_is_due_when_it_has_been_so_for_its_time_and_no_earlier() {
        let account = with(None, None, &["owned", "young", "old", "gone by now, and back"]);
        let known = HashSet::from(["owned"]);
        let before = Ownerless::from([("old".into(), 1_000), ("owned".into(), 1_000), ("not listed".into(), 1_000)]);
        let Orphans { found, noted, due } = account.orphans(&known, &before, 0, 600, 1_599);
        assert_eq!((found, due), (3, Vec::new()));
        let expected = [("gone by now, and back", 1_599), ("old", 1_000), ("young", 1_599)];
        assert_eq!(noted, expected.map(|(agent, since)| (agent.to_owned(), since)).into());
        assert_eq!(account.orphans(&known, &noted, 0, 600, 1_600).due, ["old"]);
        assert_eq!(account.orphans(&known, &noted, 0, 600, 2_199).due.len(), 3);
        // Without a time for it nothing is noted.
        let Orphans { found, noted, due } = account.orphans(&known, &Ownerless::new(), 0, 0, 1_000);
        assert_eq!((found, noted, due.len()), (3, Ownerless::new(), 3));
    }

    #[test]
    fn whoever_invents_names_keeps_none_from_coming_due_and_no_account_is_noted_beyond_its_share() {
        let invented: Vec<String> = (0..MAX_NOTED * 3).map(|n| format!("a{n:05}")).collect();
        let mut names: Vec<&str> = invented.iter().map(String::as_str).collect();
        let (long, longest) = ("n".repeat(MAX_NAME + 1), "n".repeat(MAX_NAME));
        names.extend(["zzz", long.as_str(), longest.as_str(), ""]);
        let before = Ownerless::from([("zzz".into(), 0)]);
        let Orphans { found, noted, due } = with(None, None, &names).orphans(&HashSet::new(), &before, 0, 600, 600);
        assert_eq!((found, noted.len(), due), (names.len(), MAX_NOTED, vec!["zzz".to_owned()]));
        let odd = with(None, None, &[&long, &longest, ""]).orphans(&HashSet::new(), &Ownerless::new(), 0, 600, 600);
        assert_eq!((odd.found, odd.noted.into_keys().collect::<Vec<_>>()), (3, vec![longest.clone()]));
        // In one run so many, and each at times.
        let all: Ownerless = invented.iter().take(MAX_NOTED).map(|name| (name.clone(), 0)).collect();
        let mut tried = HashSet::new();
        for turn in 0..MAX_NOTED {
            let due = with(None, None, &names).orphans(&HashSet::new(), &all, turn, 600, 600).due;
            assert_eq!(due.len(), MAX_ORPHANS);
            tried.extend(due);
        }
        assert_eq!(tried.len(), MAX_NOTED);
    }

    #[test]
    fn no_two_accounts_have_one_name() {
        let (one, two) = (PlatformId::make(), PlatformId::make());
        let hosts = [None, Some(HOST), Some("two:2376")];
        let accounts = [None, Some(one), Some(two)]
            .into_iter()
            .flat_map(|platform| hosts.map(move |host| with(platform.clone(), host, &[]).name()));
        assert_eq!(accounts.collect::<HashSet<_>>().len(), 9);
    }
}
