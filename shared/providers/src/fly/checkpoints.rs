//! Checkpoints at Fly: volumes in the agent's app, each a fork of the volume with its files. Snapshots of volumes, which Fly
//! has too, cannot be deleted and end by themselves; a fork is there until it is deleted, and goes with the app.

use super::account::Twice;
use super::failure::{failed, from_answer, not_understood};
use super::machine::guest;
use super::parts::{ATTEMPTS, DATA, Made, SETTLE_PAUSE, SETTLE_WITHIN, VOLUME_GB, Volume, app_name, made, settle};
use super::{FlyProvider, KIND, encode};
use crate::frame::Frame;
use crate::{AgentRef, Environment, Kept, ProviderError, Sandbox, SandboxSpec};
use http::Method;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;

const FORK: &str = "fork volume";
/// How long a fork may take until it can be used.
const FORK_WITHIN: Duration = Duration::from_secs(12);

/// The name of a checkpoint's volume. Names of volumes have at most 30 characters, of which an id would take one more.
fn volume_name(checkpoint: &str) -> Result<String, ProviderError> {
    let bare = checkpoint.strip_prefix("ckpt_").unwrap_or_default();
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    match (1..=26).contains(&bare.len()) && bare.bytes().all(plain) {
        true => Ok(format!("ckpt{bare}")),
        false => Err(failed("name", None, false, "a checkpoint's id that cannot be a name")),
    }
}

impl FlyProvider {
    async fn named_volumes(&self, app: &str, name: &str) -> Result<Vec<Volume>, ProviderError> {
        let mut volumes = self.volumes(app).await?;
        volumes.retain(|volume| volume.name == name);
        Ok(volumes)
    }

    /// Makes a volume with what another has at this moment, and gives it when it can be used. Others of that name, by id, are
    /// none of it.
    async fn fork(
        &self,
        app: &str,
        name: &str,
        (source, region): (&str, &str),
        others: &BTreeSet<String>,
    ) -> Result<Volume, ProviderError> {
        let body = json!({
            "name": name, "region": region, "size_gb": VOLUME_GB, "compute": guest(), "source_volume_id": source,
            "auto_backup_enabled": false, "snapshot_retention": 1,
        });
        let path = format!("/apps/{app}/volumes");
        let (mut fork, mut refusal) = (None, None);
        for attempt in 0..ATTEMPTS {
            settle(attempt).await;
            fork = self.named_volumes(app, name).await?.into_iter().find(|volume| !others.contains(&volume.id));
            if fork.is_some() {
                break;
            }
            match made(FORK, self.make(FORK, &path, &body, Twice::Makes).await)? {
                Made::Surely(answer) => {
                    fork = Some(serde_json::from_slice(&answer).map_err(|_| not_understood(FORK))?);
                    break;
                }
                Made::Perhaps(error) => refusal = Some(error),
            }
        }
        let missing = || refusal.unwrap_or_else(|| failed(FORK, None, true, "the volume does not show"));
        let mut fork: Volume = fork.ok_or_else(missing)?;
        let until = Instant::now() + FORK_WITHIN;
        loop {
            match fork.state.as_str() {
                // While it is hydrated it is read from where it came from.
                "created" | "hydrating" => return Ok(fork),
                _ if Instant::now() >= until => return Err(ProviderError::TimedOut),
                _ => tokio::time::sleep(SETTLE_PAUSE).await,
            }
            if let Some(now) = self.account.get(FORK, &format!("{path}/{}", encode(&fork.id))).await? {
                fork = now;
            }
        }
    }

    pub(super) async fn make_checkpoint(&self, agent: &AgentRef, checkpoint: &str) -> Result<Kept, ProviderError> {
        let (app, name) = (app_name(&agent.agent)?, volume_name(checkpoint)?);
        let running = self.running(&app).await?;
        let machine = running.first().ok_or(ProviderError::SandboxGone)?;
        let volume = machine.volume().ok_or_else(|| failed(FORK, None, true, "the machine does not say its volume"))?;
        self.drop_checkpoint(&app, checkpoint).await?;
        // The fork has what is on the disk.
        let bytes = self.farewell(agent).await;
        self.fork(&app, &name, (volume, &machine.region), &BTreeSet::new()).await?;
        Ok(Kept { bytes })
    }

    /// Deletes a checkpoint's volume, or those that a create which was done twice has made.
    pub(super) async fn drop_checkpoint(&self, app: &str, checkpoint: &str) -> Result<(), ProviderError> {
        let name = volume_name(checkpoint)?;
        let left = self.named_volumes(app, &name).await?;
        self.delete_volumes(app, left.into_iter().map(|volume| volume.id)).await
    }

    /// Makes the agent's machine anew on a fork of a checkpoint.
    pub(super) async fn restore_machine(
        &self,
        spec: &SandboxSpec,
        environment: &Environment,
        checkpoint: &str,
    ) -> Result<Sandbox, ProviderError> {
        let frame = Frame::deliver(KIND, environment)?;
        let (app, name) = (app_name(&spec.agent)?, volume_name(checkpoint)?);
        self.service().known.forget(self.account.fingerprint, &spec.agent);
        // Once is not believed, see `presence`.
        let mut kept = self.named_volumes(&app, &name).await?;
        if kept.is_empty() {
            tokio::time::sleep(SETTLE_PAUSE).await;
            kept = self.named_volumes(&app, &name).await?;
        }
        let kept = kept.into_iter().next().ok_or(ProviderError::SandboxGone)?;
        self.remove_machines(&app).await?;
        let old: BTreeSet<String> = self.named_volumes(&app, DATA).await?.into_iter().map(|volume| volume.id).collect();
        self.delete_volumes(&app, old.iter().cloned()).await?;
        let volume = self.fork(&app, DATA, (&kept.id, &kept.region), &old).await?;
        tokio::try_join!(self.ensure_address(&app), self.ensure_policy(&app, spec.internet))?;
        let machine = self.ensure_machine(&app, (volume.id, volume.region), spec).await?;
        let machine = self.run_alone(&app, machine).await?;
        self.boot(spec, &app, machine, frame).await
    }

    /// Destroys the app's machines, and looks until none is shown any more.
    async fn remove_machines(&self, app: &str) -> Result<(), ProviderError> {
        let until = Instant::now() + SETTLE_WITHIN;
        loop {
            let left = match self.machines(app).await {
                Err(ProviderError::SandboxGone) => Vec::new(),
                other => other?,
            };
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= until {
                return Err(failed("destroy machine", None, true, "the machine stays"));
            }
            for machine in left {
                self.destroy_machine(app, &machine.id).await?;
            }
        }
    }

    /// Deletes volumes. One that a machine has just let go may be held for a while.
    async fn delete_volumes(&self, app: &str, ids: impl Iterator<Item = String>) -> Result<(), ProviderError> {
        const DELETE: &str = "delete volume";
        for id in ids {
            let path = format!("/apps/{app}/volumes/{}", encode(&id));
            let until = Instant::now() + SETTLE_WITHIN;
            loop {
                let answer = self.account.call(DELETE, Method::DELETE, &path, None, Twice::Harmless).await?;
                match answer.status {
                    200..=299 | 404 => break,
                    409 | 412 if Instant::now() < until => tokio::time::sleep(SETTLE_PAUSE).await,
                    status => return Err(from_answer(DELETE, status, &answer.body)),
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_checkpoints_volume_has_a_name_that_fly_takes() {
        let name = volume_name("ckpt_01h0000000000000000000000b").unwrap();
        assert_eq!((name.as_str(), name.len()), ("ckpt01h0000000000000000000000b", 30));
        for bad in ["", "ckpt_", "agt_1", "ckpt_a-b", "ckpt_A", "ckpt_01h0000000000000000000000bb"] {
            assert!(volume_name(bad).is_err(), "{bad}");
        }
    }
}
