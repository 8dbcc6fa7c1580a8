//! Whether an agent's machine is there, and running. That it is gone costs the agent its files, so one answer is not
//! believed: a busy service loses sight of machines and whole apps for moments, and a machine may be about to come up.

use super::FlyProvider;
use super::failure::failed;
use super::machine::Machine;
use crate::ProviderError;
use std::time::Duration;
use tokio::time::sleep;

/// The pauses between looks at what seems to be gone.
pub(super) const LOOK_AGAIN: [Duration; 4] =
    [Duration::from_millis(250), Duration::from_millis(500), Duration::from_secs(1), Duration::from_secs(2)];
/// How often in a row a machine must be seen ended. The service says that of its own accord, unlike that there is none.
const ENDED_LOOKS: u32 = 2;

const LOOK: &str = "look for machine";

impl FlyProvider {
    /// The agent's machines, the one that counts first. None where the service goes on showing the app without any, and
    /// [`ProviderError::SandboxGone`] where it goes on showing no app.
    pub(super) async fn settled_machines(&self, app: &str) -> Result<Vec<Machine>, ProviderError> {
        let mut pauses = LOOK_AGAIN.into_iter();
        loop {
            let found = self.machines(app).await;
            match found {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) | Err(ProviderError::SandboxGone) => {}
                Err(error) => return Err(error),
            }
            if let Some(pause) = pauses.next() {
                sleep(pause).await;
                continue;
            }
            return match found {
                Err(gone) if self.app(app).await?.is_none() => Err(gone),
                Err(_) => Err(out_of_sight()),
                empty => empty,
            };
        }
    }

    /// The agent's machine, running or not. [`ProviderError::SandboxGone`] means that its files are not there.
    pub(super) async fn present(&self, app: &str) -> Result<Machine, ProviderError> {
        self.settled_machines(app).await?.into_iter().next().ok_or(ProviderError::SandboxGone)
    }

    /// The agent's machines that run, at least one. [`ProviderError::SandboxGone`] means that it has ended or is not there;
    /// one that is on its way somewhere is a failure that passes.
    pub(super) async fn running(&self, app: &str) -> Result<Vec<Machine>, ProviderError> {
        let mut pauses = LOOK_AGAIN.into_iter();
        let mut ended = 0;
        loop {
            let mut found = self.settled_machines(app).await?;
            ended = if found.iter().all(Machine::has_ended) { ended + 1 } else { 0 };
            let none = found.is_empty();
            found.retain(Machine::runs);
            if !found.is_empty() {
                return Ok(found);
            }
            if none || ended >= ENDED_LOOKS {
                return Err(ProviderError::SandboxGone);
            }
            let pause = pauses.next().ok_or_else(|| failed(LOOK, None, true, "the machine is neither up nor down"))?;
            sleep(pause).await;
        }
    }

    /// One machine, as it is now.
    pub(super) async fn machine(&self, app: &str, id: &str) -> Result<Machine, ProviderError> {
        let mut pauses = LOOK_AGAIN.into_iter();
        loop {
            let found: Option<Machine> = self.account.get("get machine", &format!("/apps/{app}/machines/{id}")).await?;
            match (found, pauses.next()) {
                (Some(machine), _) if machine.is_going() => return Err(ProviderError::SandboxGone),
                (Some(machine), _) => return Ok(machine),
                (None, Some(pause)) => sleep(pause).await,
                (None, None) => break,
            }
        }
        match self.machines(app).await {
            Ok(listed) if listed.iter().all(|machine| machine.id != id) => Err(ProviderError::SandboxGone),
            Ok(_) => Err(out_of_sight()),
            Err(error) => Err(error),
        }
    }
}

fn out_of_sight() -> ProviderError {
    failed(LOOK, Some(404), true, "Fly does not show what it has")
}
