//! Checkpoints at E2B: snapshots of a sandbox's file system, named after the agent and the checkpoint, and what else of an
//! agent is found by names and labels. A snapshot is a template, and has no end of its own: what booted from it is another
//! sandbox of the same agent's.

use super::account::{Listed, Which};
use super::failure::failed;
use super::{E2bProvider, KIND, LIST_PAUSE, REMOVE_PAUSE, REMOVE_WITHIN, idempotency_key, short};
use crate::frame::Frame;
use crate::{AgentRef, Environment, Kept, ProviderError, Sandbox, SandboxSpec};
use tokio::time::Instant;

/// A snapshot that carries an agent's name.
pub(super) struct Named {
    /// Whose it is.
    pub(super) agent: String,
    /// Which checkpoint it is, `ckpt_…`, if it is one.
    checkpoint: Option<String>,
    /// What E2B calls it.
    id: String,
}

/// What the names of all snapshots of a deployment begin with. The agent's id with `-` for `_` follows, and of a checkpoint
/// a further `-` with its id without what all such ids begin with.
fn prefix(deployment: &str) -> String {
    format!("theazo-{}-", short(deployment))
}

fn name_of(deployment: &str, agent: &str, checkpoint: &str) -> String {
    let bare = checkpoint.strip_prefix("ckpt_").unwrap_or(checkpoint);
    format!("{}{}-{bare}", prefix(deployment), agent.replace('_', "-"))
}

/// The agent and the checkpoint of a name, `team/name:tag` or a part of it.
fn parse(deployment: &str, name: &str) -> Option<(String, Option<String>)> {
    let name = name.rsplit('/').next()?.split(':').next()?;
    let mut parts = name.strip_prefix(&prefix(deployment))?.splitn(3, '-');
    let agent = format!("{}_{}", parts.next()?, parts.next()?);
    Some((agent, parts.next().map(|bare| format!("ckpt_{bare}"))))
}

impl E2bProvider {
    /// Snapshots that carry the name of an agent of this deployment.
    pub(super) async fn named_snapshots(&self, which: Which<'_>) -> Result<Vec<Named>, ProviderError> {
        let named = self.account.snapshots(which).await?.into_iter().filter_map(|snapshot| {
            let mut names = snapshot.names.iter().chain([&snapshot.id]);
            let (agent, checkpoint) = names.find_map(|name| parse(&self.service().deployment, name))?;
            Some(Named { agent, checkpoint, id: snapshot.id.clone() })
        });
        Ok(named.collect())
    }

    /// Those of one agent's: all, or those of one checkpoint, which E2B looks up by its name. Of that there should be one; that
    /// there is none is believed to a second list, as of sandboxes.
    async fn snapshots_of(&self, agent: &str, checkpoint: Option<&str>) -> Result<Vec<Named>, ProviderError> {
        let name = checkpoint.map(|checkpoint| name_of(&self.service().deployment, agent, checkpoint));
        let meant = async |which: Which<'_>| {
            let mut named = self.named_snapshots(which).await?;
            // A service that knows no names yet lists all.
            let is_it = |named: &Named, checkpoint| named.checkpoint.as_deref() == Some(checkpoint);
            named.retain(|named| named.agent == agent && checkpoint.is_none_or(|checkpoint| is_it(named, checkpoint)));
            Ok(named)
        };
        let found = meant(name.as_deref().map_or(Which::All, Which::Named)).await?;
        if !found.is_empty() || checkpoint.is_none() {
            return Ok(found);
        }
        tokio::time::sleep(LIST_PAUSE).await;
        // Nor is it believed that E2B takes a name as we do.
        meant(Which::All).await
    }

    /// Removes an agent's named snapshots: all, or those of one checkpoint.
    pub(super) async fn remove_snapshots(&self, agent: &str, checkpoint: Option<&str>) -> Result<(), ProviderError> {
        for named in self.snapshots_of(agent, checkpoint).await? {
            self.account.delete_snapshot(&named.id).await?;
        }
        Ok(())
    }

    /// Ends an agent's sandboxes until there are none, with the snapshots of them that nobody has named.
    pub(super) async fn remove_sandboxes(&self, agent: &str) -> Result<(), ProviderError> {
        let until = Instant::now() + REMOVE_WITHIN;
        let mut left = self.sandboxes(agent).await?;
        while !left.is_empty() {
            self.remove_listed(agent, &left).await?;
            if Instant::now() >= until {
                return Err(failed("end sandbox", None, true, "the sandbox stays listed"));
            }
            tokio::time::sleep(REMOVE_PAUSE).await;
            left = self.listed(agent).await?;
        }
        Ok(())
    }

    /// Ends those sandboxes of an agent.
    async fn remove_listed(&self, agent: &str, sandboxes: &[Listed]) -> Result<(), ProviderError> {
        for Listed { id, .. } in sandboxes {
            for snapshot in self.account.snapshots(Which::OfSandbox(id)).await? {
                let names = snapshot.names.iter().chain([&snapshot.id]);
                let mut ours = names.filter_map(|name| parse(&self.service().deployment, name));
                if !ours.any(|(owner, _)| owner == agent) {
                    self.account.delete_snapshot(&snapshot.id).await?;
                }
            }
            self.account.kill(id).await?;
        }
        Ok(())
    }

    pub(super) async fn make_checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<Kept, ProviderError> {
        let running = self.running(&agent.agent).await?;
        // What is only in the memory of its file system is not kept.
        let bytes = self.farewell(agent).await;
        let name = name_of(&self.service().deployment, &agent.agent, checkpoint);
        self.account.snapshot(&running.id, &name).await?;
        Ok(Kept { bytes })
    }

    /// Makes a sandbox of a checkpoint in place of the agent's own.
    pub(super) async fn restore_sandbox(
        &self,
        spec: &SandboxSpec,
        environment: &Environment,
        checkpoint: &str,
    ) -> Result<Sandbox, ProviderError> {
        let frame = Frame::deliver(KIND, environment)?;
        let kept = self.snapshots_of(&spec.agent, Some(checkpoint)).await?;
        let kept = kept.into_iter().next().ok_or(ProviderError::SandboxGone)?;
        self.service().known.forget(self.fingerprint, &spec.agent);
        self.remove_sandboxes(&spec.agent).await?;
        // Another key each time: what was made of the checkpoint before is gone.
        let mut chance = [0; 8];
        let no_randomness = |_| failed("create sandbox", None, true, "the system gave no randomness");
        getrandom::fill(&mut chance).map_err(no_randomness)?;
        let key = format!("{}-{}", idempotency_key(&self.service().deployment, &spec.agent), hex::encode(chance));
        let handle = self.ensure_from(spec, &kept.id, key).await?;
        self.boot(spec, handle, frame).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshots_name_says_whose_it_is_and_which_and_strangers_say_nothing() {
        let (agent, checkpoint) = ("agt_01h0000000000000000000000a", "ckpt_01h0000000000000000000000b");
        let name = name_of("d", agent, checkpoint);
        let both = (agent.to_owned(), Some(checkpoint.to_owned()));
        for shown in [name.clone(), format!("{name}:default"), format!("team/{name}:default")] {
            assert_eq!(parse("d", &shown), Some(both.clone()), "{shown}");
        }
        let alone = format!("{}{}", prefix("d"), agent.replace('_', "-"));
        assert_eq!(parse("d", &alone), Some((agent.to_owned(), None)));
        for foreign in [name.as_str(), "theazo-x", "base", "abc123:default", ""] {
            assert_eq!(parse("another", foreign), None, "{foreign}");
        }
        assert!(
            name.len() <= 96
                && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
        );
    }
}
