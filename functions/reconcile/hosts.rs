//! What a run has heard of platforms' own hosts, and what becomes of agents whose host it cannot ask about them.
//!
//! Such a host is asked for nothing else in the same run: every answer would be waited for in vain, and others wait
//! meanwhile. It is asked again for what it has by the next run, and what is left to do there is done when it answers.

use super::{Look, Outcome, Run};
use crate::agents::SilentHosts;
use std::collections::HashMap;
use theazo_http::ApiError;
use theazo_store::{Agent, AgentStatus, BOOT_GRACE_MS, Intent, StoreError, Unreachable, now_ms};
use theazo_tenancy::{PlatformId, TenantScope};

/// How long after an agent's end the copies beside it are looked for again, milliseconds: the first time may have
/// failed, and a boot that the end has overtaken may have written some since.
const COPIES_FOR_MS: i64 = 5 * 60_000;

/// What a host has answered that was asked what it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// Just that.
    WhatItHas,
    /// Not that, but something.
    Something,
    /// Nothing.
    Nothing,
}

/// The hosts that platforms' credentials name, and what each has answered.
#[derive(Debug, Default)]
pub(super) struct Hosts {
    of: HashMap<PlatformId, HashMap<String, Answered>>,
    /// Whether any account of a platform's has answered, of whatever provider. If none has, it may be our own network that is
    /// down.
    any_answered: bool,
}

/// What was heard of an agent's host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Heard {
    /// It is on no host of its platform's, or nobody has asked that one.
    Nothing,
    /// What is there.
    Answer,
    /// It cannot be asked, and that may be for us to mend.
    Unclear,
    /// It cannot be asked.
    Unreachable(Unreachable),
}

impl Hosts {
    /// Adds what a platform's credential names.
    pub(super) fn add(&mut self, platform: PlatformId, named: Vec<(String, Answered)>) {
        self.of.insert(platform, named.into_iter().collect());
    }

    /// Notes that an account of a platform's has answered.
    pub(super) fn note_answer(&mut self) {
        self.any_answered = true;
    }

    /// Those that have not said what they have, whyever.
    pub(super) fn unheard(&self) -> SilentHosts {
        let of_each = self.of.iter().flat_map(|(platform, named)| named.iter().map(move |host| (platform, host)));
        let unheard = of_each.filter(|(_, (_, answered))| **answered != Answered::WhatItHas);
        unheard.map(|(platform, (host, _))| (platform.clone(), host.clone())).collect()
    }

    /// What was heard of the host that an agent of a platform is on, if it is on one.
    pub(super) fn heard(&self, host: Option<&str>, platform: &PlatformId) -> Heard {
        let Some((host, named)) = host.zip(self.of.get(platform)) else { return Heard::Nothing };
        match named.get(host) {
            Some(Answered::WhatItHas) => Heard::Answer,
            Some(Answered::Nothing) if self.any_answered => Heard::Unreachable(Unreachable::HostSilent),
            Some(Answered::Something | Answered::Nothing) => Heard::Unclear,
            None => Heard::Unreachable(Unreachable::HostRemoved),
        }
    }
}

/// Whether it is waited no longer for a host of which this was heard, and where an agent that is over has something
/// that it does not keep: `over` is for how long it is, and whether it can still be read. What is there is removed as
/// an orphan, should the host ever answer again while its platform names it.
fn is_given_up(heard: Heard, over: (i64, bool), is_deleted: bool, dead_after_ms: i64) -> bool {
    let (over_for_ms, is_readable) = over;
    match heard {
        Heard::Nothing | Heard::Answer | Heard::Unreachable(Unreachable::HostRemoved) => false,
        Heard::Unclear => !is_readable,
        // A platform that is being deleted is erased only when nothing of any of its agents is left.
        Heard::Unreachable(Unreachable::HostSilent) => !is_readable || (is_deleted && over_for_ms >= dead_after_ms),
    }
}

impl Run {
    /// Looks after an agent of whose host this was heard, as far as that is to be done without asking the host. Whether
    /// that was all.
    ///
    /// # Errors
    /// Those of the table.
    pub(super) async fn out_of_reach(
        &self,
        scope: &TenantScope,
        agent: &Agent,
        heard: Heard,
        look: &Look<'_>,
        outcome: &mut Outcome,
    ) -> Result<bool, ApiError> {
        let is_named = match heard {
            Heard::Nothing | Heard::Answer => return Ok(false),
            Heard::Unclear | Heard::Unreachable(Unreachable::HostSilent) => true,
            Heard::Unreachable(Unreachable::HostRemoved) => false,
        };
        let now = now_ms();
        let is_interrupted = now - agent.since_ms >= self.grace(BOOT_GRACE_MS);
        if agent.status.is_over() && !agent.only_kept && now - agent.since_ms < COPIES_FOR_MS {
            self.agents.drop_copies(scope, &agent.id).await?;
        }
        match (agent.status, agent.intent) {
            // Nothing of it runs.
            (AgentStatus::Paused, _) => return Ok(false),
            (AgentStatus::Completed | AgentStatus::Failed, _) if agent.keeps_files(now) => {
                // Of what is not its platform's any more nothing can be done for as long as that is so.
                outcome.postponed += usize::from(is_named && !agent.only_kept);
                return Ok(true);
            }
            (AgentStatus::Completed | AgentStatus::Failed, _) if self.gives_up(agent, heard, look) => {
                let settled = self.agents.settle(scope, &agent.id).await?;
                tracing::warn!(agent = %agent.id, host = agent.host, "what an agent has on a silent host stays there");
                outcome.settled += usize::from(settled.sandbox_gone);
                return Ok(true);
            }
            (AgentStatus::Completed | AgentStatus::Failed, _) => {
                outcome.postponed += usize::from(is_named);
                return Ok(is_named);
            }
            // Somebody is at it, and knows best how it goes.
            (AgentStatus::Booting, _) | (_, Some(Intent::Pausing)) if !is_interrupted => return Ok(true),
            // Nothing has run since its row says so: it keeps what it had kept, and nothing is waited for.
            (AgentStatus::Booting, None | Some(Intent::Retrying)) if is_named => {
                let is_this = |now: &Agent| now.boots == agent.boots && now.status == AgentStatus::Booting;
                let failed = self.agents.transition_if(scope, &agent.id, AgentStatus::Failed, is_this, |_| {}).await;
                self.drop_copies_of(scope, failed).await?;
                outcome.failed_boots += 1;
                return Ok(true);
            }
            (AgentStatus::Booting, None | Some(Intent::Retrying)) => return Ok(false),
            (AgentStatus::Booting, _) if agent.moving_to.is_some() => return Ok(false),
            (AgentStatus::Booting, _) | (_, Some(Intent::Pausing)) => {}
            // Its host has answered a boot since it was asked.
            _ if agent.run_started_ms.is_none_or(|started| started >= look.listed_at_ms) => return Ok(false),
            _ if now >= agent.deadline_ms() && is_named => {
                outcome.lag_ms = outcome.lag_ms.max(u64::try_from(now - agent.deadline_ms()).unwrap_or(0));
                let same_run = |now: &Agent| now.run_started_ms == agent.run_started_ms;
                let ended = self.agents.transition_if(scope, &agent.id, AgentStatus::Completed, same_run, |_| {}).await;
                self.drop_copies_of(scope, ended).await?;
                outcome.expired += 1;
                return Ok(true);
            }
            _ if now >= agent.deadline_ms() => return Ok(false),
            _ => {}
        }
        let Heard::Unreachable(why) = heard else { return Ok(true) };
        let noted = self.agents.note_silence(scope, agent, (why, look.listed_at_ms), self.dead_host_after_ms).await?;
        if noted.status != AgentStatus::Failed {
            return Ok(true);
        }
        tracing::warn!(agent = %agent.id, host = agent.host, reason = why.as_str(), "an agent's host counts as dead");
        outcome.unreachable += 1;
        // It prints nothing any more that they would be needed for. What is not removed now goes when the host answers.
        self.agents.drop_copies(scope, &agent.id).await?;
        Ok(true)
    }

    fn gives_up(&self, agent: &Agent, heard: Heard, look: &Look<'_>) -> bool {
        let now = now_ms();
        let over = (now.saturating_sub(agent.since_ms), agent.is_readable(now));
        is_given_up(heard, over, look.deleted, self.dead_host_after_ms)
    }

    /// Whether an agent that is over and keeps nothing has something on hosts where it does not live, and it is waited no
    /// longer for any of them.
    pub(super) fn gives_up_elsewhere(&self, agent: &Agent, platform: &PlatformId, look: &Look<'_>) -> bool {
        let mut heard = agent.elsewhere().map(|host| look.hosts.heard(Some(host), platform)).peekable();
        heard.peek().is_some() && heard.all(|heard| self.gives_up(agent, heard, look))
    }

    /// Removes the copies beside an agent that has ended, unless it had changed in another way by then.
    async fn drop_copies_of(&self, scope: &TenantScope, ended: Result<Agent, StoreError>) -> Result<(), StoreError> {
        match ended {
            Ok(ended) => self.agents.drop_copies(scope, &ended.id).await,
            Err(StoreError::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Notes that the host of an agent answers again which did not before.
    ///
    /// # Errors
    /// Those of the table.
    pub(super) async fn heard_again(&self, scope: &TenantScope, agent: Agent) -> Result<Agent, ApiError> {
        if agent.silence.is_none() || agent.status.is_over() {
            return Ok(agent);
        }
        tracing::info!(agent = %agent.id, host = agent.host, "an agent's host answers again");
        Ok(self.agents.note_answer(scope, &agent.id).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_silent_only_as_long_as_somebody_else_answers_and_removed_only_where_the_credential_was_read() {
        let (platform, other) = (PlatformId::make(), PlatformId::make());
        let mut hosts = Hosts::default();
        let named =
            [("one:2376", Answered::WhatItHas), ("two:2376", Answered::Nothing), ("busy:2376", Answered::Something)];
        hosts.add(platform.clone(), named.map(|(host, answered)| (host.to_owned(), answered)).to_vec());
        let heard = |hosts: &Hosts, host: Option<&str>| hosts.heard(host, &platform);
        // It may be our own network.
        assert_eq!(heard(&hosts, Some("two:2376")), Heard::Unclear);
        hosts.note_answer();
        assert_eq!(heard(&hosts, Some("two:2376")), Heard::Unreachable(Unreachable::HostSilent));
        assert_eq!(heard(&hosts, Some("one:2376")), Heard::Answer);
        assert_eq!(heard(&hosts, Some("busy:2376")), Heard::Unclear);
        assert_eq!(heard(&hosts, Some("three:2376")), Heard::Unreachable(Unreachable::HostRemoved));
        let asked_no_more = ["two:2376", "busy:2376"].map(|host| (platform.clone(), host.to_owned()));
        assert_eq!(hosts.unheard(), SilentHosts::from(asked_no_more));
        // An agent that is on none, and one whose platform's hosts nobody has asked.
        assert_eq!(heard(&hosts, None), Heard::Nothing);
        assert_eq!(hosts.heard(Some("two:2376"), &other), Heard::Nothing);
        hosts.add(other.clone(), Vec::new());
        assert_eq!(hosts.heard(Some("two:2376"), &other), Heard::Unreachable(Unreachable::HostRemoved));
    }

    #[test]
    fn what_is_left_on_a_silent_host_is_waited_for_as_long_as_its_agent_can_be_read_and_its_platform_is_there() {
        let silent = Heard::Unreachable(Unreachable::HostSilent);
        for (heard, over, is_deleted, expected) in [
            (silent, (14, true), true, false),
            (silent, (15, true), true, true),
            (silent, (15, true), false, false),
            // It may be our own network.
            (Heard::Unclear, (15, true), true, false),
            (Heard::Unclear, (15, false), false, true),
            (silent, (15, false), false, true),
            (Heard::Answer, (15, false), true, false),
        ] {
            assert_eq!(is_given_up(heard, over, is_deleted, 15), expected, "{heard:?} {over:?} {is_deleted}");
        }
    }
}
