//! What is in accounts at providers and belongs to no agent. It is removed when that has been so for a while: what the table
//! does not know may only be newer than the table.

use super::accounts::{Account, Accounts};
use super::lanes::in_lanes;
use super::{ITEM_TIME, Outcome, in_turn};
use futures_util::{StreamExt, stream};
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;
use theazo_providers::{AgentRef, Provider};
use theazo_store::{OWNERLESS_MS, OrphanNotes, OwnerName, Ownerless, now_ms};
use theazo_tenancy::PlatformId;
use tokio::time::Instant;

/// Orphans removed in one run of one owner's accounts at most, after they were orphans for as long as the deployment says:
/// when the table was put back to an older state, everything newer looks like one, and someone should have the time to
/// notice.
const MAX_ORPHANS: usize = 20;
/// Orphans of an owner that are noted at most; the others are when those are gone.
const MAX_NOTED: usize = 200;
/// Longest name of an agent that is noted. Ours are shorter; what is called otherwise is for whoever looks at the log.
const MAX_NAME: usize = 128;
/// Owners whose orphans are removed side by side, how many of one's, and after how long it is in nobody's way any more.
const OWNERS_AT_ONCE: usize = 16;
const REMOVALS_AT_ONCE: usize = 4;
const OWNER_SLICE: Duration = Duration::from_secs(2);

/// Whose accounts at a provider: those of one owner have a share together, however many hosts it names.
type Owner = (Option<PlatformId>, &'static str);

/// What an owner's accounts have that no agent owns, and what is to be done about it.
struct Orphans<'a> {
    found: usize,
    /// How many of it an earlier run had found as well: what is only being removed at this moment is not there a run later.
    lingering: usize,
    /// What is noted from now on. What has an owner again, or is gone, is not in it: should it be without one later, its time
    /// begins anew.
    noted: Ownerless,
    /// What has been one for long enough, and where it is.
    due: Vec<(&'a Account, &'a str)>,
}

/// What something is noted as: agents on two hosts may be called alike.
fn note_of(host: Option<&str>, agent: &str) -> String {
    format!("{}/{agent}", host.unwrap_or_default())
}

/// What an owner's accounts have that none of the known agents owns, with what was noted of it before.
fn orphans_in<'a>(
    accounts: &[&'a Account],
    known: &HashSet<&str>,
    before: &Ownerless,
    (turn, grace_ms, now_ms): (usize, i64, i64),
) -> Orphans<'a> {
    let everything =
        accounts.iter().flat_map(|account| account.sandboxes.iter().map(|sandbox| (*account, sandbox.agent.as_str())));
    let all: BTreeMap<String, (&Account, &str)> = everything
        .filter(|(_, agent)| !known.contains(agent))
        .map(|(account, agent)| (note_of(account.host.as_deref(), agent), (account, agent)))
        .collect();
    let found = all.len();
    if grace_ms <= 0 {
        let due = first_due(all.values().copied(), turn);
        return Orphans { found, lingering: found, noted: Ownerless::new(), due };
    }
    // Of a host that has not said what it has, what it had is still to be remembered.
    let listed: HashSet<&str> = accounts.iter().map(|account| account.host.as_deref().unwrap_or_default()).collect();
    let is_unheard = |note: &str| note.split_once('/').is_some_and(|(host, _)| !listed.contains(host));
    let unheard = before.iter().filter(|(note, since_ms)| is_unheard(note) && now_ms - **since_ms < OWNERLESS_MS);
    // Those that are noted come first: whoever lists ever more names makes none of them younger.
    let (old, new): (Vec<_>, Vec<_>) = all.iter().partition(|(note, _)| before.contains_key(*note));
    let new = new.into_iter().filter(|(_, (_, agent))| (1..=MAX_NAME).contains(&agent.len()));
    let since = |note: &String| before.get(note).copied().unwrap_or(now_ms);
    let lingering = old.len();
    let noted: Ownerless = old
        .into_iter()
        .map(|(note, _)| (note, since(note)))
        .chain(unheard.map(|(note, since_ms)| (note, *since_ms)))
        .chain(new.map(|(note, _)| (note, now_ms)))
        .take(MAX_NOTED)
        .map(|(note, since_ms)| (note.clone(), since_ms))
        .collect();
    let is_due = |note: &String| noted.get(note).is_some_and(|since_ms| now_ms - since_ms >= grace_ms);
    let due = all.iter().filter(|(note, _)| is_due(note)).map(|(_, place)| *place);
    Orphans { found, lingering, due: first_due(due, turn), noted }
}

/// Those that a run removes. Those that cannot be removed are not for ever the first that are tried.
fn first_due<T>(due: impl Iterator<Item = T>, turn: usize) -> Vec<T> {
    let mut due: Vec<T> = due.collect();
    in_turn(&mut due, turn);
    due.truncate(MAX_ORPHANS);
    due
}

impl Accounts {
    fn by_owner(&self) -> BTreeMap<Owner, Vec<&Account>> {
        let mut owners: BTreeMap<Owner, Vec<&Account>> = BTreeMap::new();
        for account in &self.listed {
            owners.entry((account.platform.clone(), account.provider.kind().as_str())).or_default().push(account);
        }
        owners
    }

    /// Removes sandboxes that no recorded agent owns and that none owned `grace_ms` ago. Agents of all platforms are known:
    /// two may share an account.
    pub(super) async fn remove_orphans(
        &self,
        notes: &OrphanNotes,
        known: HashSet<&str>,
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
        let (times, nothing) = ((turn, grace_ms, now_ms()), Ownerless::new());
        let mut work = Vec::new();
        for ((platform, provider), accounts) in self.by_owner() {
            let name = OwnerName::of(platform.as_ref(), provider);
            let before = before.get(&name).unwrap_or(&nothing);
            let Orphans { found, lingering, noted, due } = orphans_in(&accounts, &known, before, times);
            outcome += Outcome { ownerless: found, lingering, ..Outcome::default() };
            if found > 0 {
                let platform = platform.as_ref().map(PlatformId::as_str);
                tracing::warn!(platform, provider, found, due = due.len(), "there are sandboxes that no agent owns");
            }
            let noted = (noted != *before).then_some((name, noted));
            if noted.is_some() || !due.is_empty() {
                let due = due.into_iter().map(|(account, agent)| (account.provider.clone(), agent.to_owned()));
                work.push((noted, due.collect::<Vec<_>>()));
            }
        }
        in_turn(&mut work, turn);
        let mut clearing = Vec::with_capacity(work.len());
        for (noted, due) in work {
            clearing.push(Box::pin(clear(notes, noted, due, until)));
        }
        for done in in_lanes(clearing, OWNERS_AT_ONCE, OWNER_SLICE).await {
            outcome += done;
        }
        outcome
    }
}

/// Notes what there is in an owner's accounts from now on, and removes what is due.
async fn clear(
    notes: &OrphanNotes,
    noted: Option<(OwnerName, Ownerless)>,
    due: Vec<(Arc<dyn Provider>, String)>,
    until: Instant,
) -> Outcome {
    let mut outcome = Outcome::default();
    if let Some((name, noted)) = noted
        && let Err(error) = notes.keep(&name, &noted).await
    {
        tracing::warn!(?error, "what was found of orphans could not be noted");
        outcome.postponed += 1;
    }
    let mut removals = Vec::with_capacity(due.len());
    for (provider, agent) in due {
        removals.push(remove(provider, agent, until));
    }
    let mut removals = stream::iter(removals).buffer_unordered(REMOVALS_AT_ONCE);
    while let Some(removed) = removals.next().await {
        outcome += removed;
    }
    outcome
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

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_providers::docker::{DockerConfig, DockerProvider, Endpoint};
    use theazo_providers::{OwnedSandbox, Presence};

    const HOST: &str = "one:2376";

    fn with(host: Option<&str>, agents: &[&str]) -> Account {
        // An engine that nobody listens for.
        let endpoint = Endpoint::parse("unix:///theazo/no/such.sock").unwrap();
        let provider = Arc::new(DockerProvider::new(DockerConfig::new(endpoint, "image", "deployment")).unwrap());
        let sandboxes = agents
            .iter()
            .map(|agent| OwnedSandbox { agent: (*agent).to_owned(), presence: Presence::Running })
            .collect();
        Account { platform: None, host: host.map(str::to_owned), provider, sandboxes }
    }

    fn due<'a>(orphans: &Orphans<'a>) -> Vec<&'a str> {
        orphans.due.iter().map(|(_, agent)| *agent).collect()
    }

    fn notes<const COUNT: usize>(notes: [(&str, i64); COUNT]) -> Ownerless {
        notes.map(|(note, since_ms)| (note.to_owned(), since_ms)).into()
    }

    #[test]
    fn what_nobody_owns_is_due_when_it_has_been_so_for_its_time_and_no_earlier() {
        let account = with(None, &["owned", "young", "old", "gone by now, and back"]);
        let (accounts, known) = ([&account], HashSet::from(["owned"]));
        let before = notes([("/old", 1_000), ("/owned", 1_000), ("/not listed", 1_000)]);
        let found = orphans_in(&accounts, &known, &before, (0, 600, 1_599));
        assert_eq!((found.found, found.lingering, due(&found)), (3, 1, Vec::new()));
        let noted = notes([("/gone by now, and back", 1_599), ("/old", 1_000), ("/young", 1_599)]);
        assert_eq!(found.noted, noted);
        assert_eq!(due(&orphans_in(&accounts, &known, &noted, (0, 600, 1_600))), ["old"]);
        assert_eq!(due(&orphans_in(&accounts, &known, &noted, (0, 600, 2_199))).len(), 3);
        // Without a time for it nothing is noted.
        let found = orphans_in(&accounts, &known, &Ownerless::new(), (0, 0, 1_000));
        assert_eq!((found.found, &found.noted, found.due.len()), (3, &Ownerless::new(), 3));
    }

    #[test]
    fn whoever_invents_names_keeps_none_from_coming_due_and_no_owner_is_noted_beyond_its_share() {
        let invented: Vec<String> = (0..MAX_NOTED * 3).map(|n| format!("a{n:05}")).collect();
        let mut names: Vec<&str> = invented.iter().map(String::as_str).collect();
        let (long, longest) = ("n".repeat(MAX_NAME + 1), "n".repeat(MAX_NAME));
        names.extend(["zzz", long.as_str(), longest.as_str(), ""]);
        let (account, nobody) = (with(None, &names), HashSet::new());
        let before = notes([("/zzz", 0), ("silent:2376/b", 0)]);
        let found = orphans_in(&[&account], &nobody, &before, (0, 600, 600));
        assert_eq!((found.found, found.noted.len(), due(&found)), (names.len(), MAX_NOTED, vec!["zzz"]));
        assert_eq!(
            (found.lingering, found.noted.get("silent:2376/b")),
            (1, Some(&0)),
            "of a silent host it is still known"
        );
        let odd = with(None, &[&long, &longest, ""]);
        let found = orphans_in(&[&odd], &nobody, &Ownerless::new(), (0, 600, 600));
        assert_eq!((found.found, found.noted.into_keys().collect::<Vec<_>>()), (3, vec![format!("/{longest}")]));
        // In one run so many, and each at times.
        let all: Ownerless = invented.iter().take(MAX_NOTED).map(|name| (format!("/{name}"), 0)).collect();
        let mut tried = HashSet::new();
        for turn in 0..MAX_NOTED {
            let found = orphans_in(&[&account], &nobody, &all, (turn, 600, 600));
            assert_eq!(found.due.len(), MAX_ORPHANS);
            tried.extend(due(&found).into_iter().map(str::to_owned));
        }
        assert_eq!(tried.len(), MAX_NOTED);
    }

    #[test]
    fn hosts_of_one_owner_are_told_apart_and_share_what_is_noted_and_removed() {
        let (one, two) = (with(Some(HOST), &["same", "a"]), with(Some("two:2376"), &["same"]));
        let before = notes([("one:2376/same", 0), ("three:2376/silent", 0), ("three:2376/long ago", -OWNERLESS_MS)]);
        let found = orphans_in(&[&one, &two], &HashSet::new(), &before, (0, 600, 600));
        assert_eq!((found.found, found.due.len()), (3, 1));
        assert!(std::ptr::eq(found.due[0].0, &one) && found.due[0].1 == "same");
        // Of the one that was not heard it is still known, but not for ever.
        let expected = [("one:2376/a", 600), ("one:2376/same", 0), ("three:2376/silent", 0), ("two:2376/same", 600)];
        assert_eq!(found.noted, notes(expected));
        let many: Vec<String> = (0..MAX_ORPHANS).map(|n| format!("a{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let (one, two) = (with(Some(HOST), &many), with(Some("two:2376"), &many));
        assert_eq!(orphans_in(&[&one, &two], &HashSet::new(), &Ownerless::new(), (0, 0, 0)).due.len(), MAX_ORPHANS);
    }

    #[test]
    fn no_two_owners_have_one_name() {
        let (one, two) = (PlatformId::make(), PlatformId::make());
        let owners = [None, Some(one), Some(two)];
        let names = owners.iter().flat_map(|owner| ["docker", "e2b"].map(|name| OwnerName::of(owner.as_ref(), name)));
        assert_eq!(names.collect::<HashSet<_>>().len(), 6);
    }
}
