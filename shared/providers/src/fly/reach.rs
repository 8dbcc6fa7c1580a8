//! Reaching the guest in an agent's machine: being admitted, sending, and finding the way again when it has changed.

use super::account::Twice;
use super::channel::{ChannelFault, converse};
use super::failure::{failed, from_answer, not_understood};
use super::machine::Machine;
use super::parts::app_name;
use super::presence::LOOK_AGAIN;
use super::{FlyProvider, KIND, whole_seconds};
use crate::frame::{Frame, unexpected};
use crate::guest_calls::Call;
use crate::intake::{Answered, Intake};
use crate::{AgentRef, ProviderError};
use http::Method;
use serde::Deserialize;
use serde_json::json;
use sha2::{Digest, Sha256};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use theazo_guest_protocol::Response;
use theazo_guest_protocol::machine::{FINGERPRINT, MACHINE_PATH, MACHINE_PORT, UNDELIVERED};
use tokio::time::Instant;

/// How long a machine that runs may take until it admits, and until what is sent to its address comes to it.
const UP_WITHIN: Duration = Duration::from_secs(30);
const UP_PAUSE: Duration = Duration::from_millis(200);
/// How long the service waits for `admit`, in seconds.
const ADMIT_SECONDS: u64 = 15;
const DELIVER_LIMIT: Duration = Duration::from_secs(30);

/// A machine that can be spoken to.
pub(super) struct Handle {
    pub(super) address: SocketAddr,
    /// Of the key that the machine has made at this boot.
    pub(super) fingerprint: [u8; FINGERPRINT],
    /// Whether the machine was made without a service for the agent's ports.
    pub(super) lacks_ingress: bool,
}

impl FlyProvider {
    /// Makes a running machine take requests of ours, for that long from now if it says so; otherwise only one that has been
    /// delivered to since it booted.
    pub(super) async fn admit(
        &self,
        agent: &str,
        app: &str,
        machine: &Machine,
        lifetime: Option<Duration>,
    ) -> Result<Handle, ProviderError> {
        const ADMIT: &str = "admit";
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Ran {
            stdout: String,
            exit_code: i64,
            exit_signal: i64,
        }
        let digest = hex::encode(Sha256::digest(self.account.machine_token(agent).as_ref()));
        let mut command = vec![MACHINE_PATH.to_owned(), "admit".to_owned(), digest];
        command.extend(lifetime.map(|lifetime| whole_seconds(lifetime).to_string()));
        let body = json!({ "command": command, "timeout": ADMIT_SECONDS });
        let path = format!("/apps/{app}/machines/{}/exec", machine.id);
        let until = Instant::now() + UP_WITHIN;
        let admitted = async {
            loop {
                // Admitting again is harmless; a little more time than was meant is too.
                let answer = self.account.call(ADMIT, Method::POST, &path, Some(&body), Twice::Harmless).await?;
                let refusal = match answer.status {
                    200 => match serde_json::from_slice::<Ran>(&answer.body) {
                        Ok(Ran { stdout, exit_code: 0, exit_signal: 0 }) => match parse_fingerprint(&stdout) {
                            Some(fingerprint) => return Ok(fingerprint),
                            None => not_understood(ADMIT),
                        },
                        // It booted without us, and everything that it was given is lost: it is not the sandbox any more.
                        Ok(Ran { exit_code, exit_signal: 0, .. }) if exit_code == i64::from(UNDELIVERED) => {
                            return Err(ProviderError::SandboxGone);
                        }
                        Ok(_) => failed(ADMIT, None, false, "the image's theazo-machine does not admit"),
                        Err(_) => not_understood(ADMIT),
                    },
                    // Said of machines that run, too, when the service is busy.
                    404 => failed(ADMIT, Some(404), true, "Fly does not find the machine"),
                    status => from_answer(ADMIT, status, &answer.body),
                };
                // A machine that has just started, or is just ending.
                if !matches!(refusal, ProviderError::Failed { retryable: true, .. }) || Instant::now() >= until {
                    return Err(refusal);
                }
                if self.running(app).await?.iter().all(|running| running.id != machine.id) {
                    return Err(failed(ADMIT, None, true, "another machine has taken its place"));
                }
                tokio::time::sleep(UP_PAUSE).await;
            }
        };
        let (fingerprint, address) = tokio::try_join!(admitted, self.settled_address(app))?;
        let (address, lacks_ingress) = (SocketAddr::new(address, MACHINE_PORT), machine.lacks_ingress());
        Ok(Handle { address, fingerprint, lacks_ingress })
    }

    /// The app's address, which may not show yet.
    async fn settled_address(&self, app: &str) -> Result<IpAddr, ProviderError> {
        let mut pauses = LOOK_AGAIN.into_iter();
        loop {
            if let Some(address) = self.address(app).await? {
                return Ok(address);
            }
            let lost = || failed("get address", None, true, "the app's address does not show");
            tokio::time::sleep(pauses.next().ok_or_else(lost)?).await;
        }
    }

    async fn send(
        &self,
        agent: &str,
        handle: &Handle,
        frame: &Frame,
        limit: Duration,
        intake: Intake,
    ) -> Result<Intake, ChannelFault> {
        let token = self.account.machine_token(agent);
        converse(handle.address, handle.fingerprint, &token, frame, limit, intake).await
    }

    /// Sends to a machine that has just come up, whose address may lead nowhere for some moments.
    pub(super) async fn send_to_new(
        &self,
        operation: &'static str,
        agent: &str,
        handle: &Handle,
        frame: &Frame,
    ) -> Result<(), ProviderError> {
        let until = Instant::now() + UP_WITHIN;
        let answer = loop {
            match self.send(agent, handle, frame, DELIVER_LIMIT, Intake::default()).await {
                Err(ChannelFault::Closed) if Instant::now() < until => tokio::time::sleep(UP_PAUSE).await,
                outcome => break outcome.map_err(|fault| to_error(operation, fault))?,
            }
        };
        match answer.finish().map_err(|_| unanswered(operation))? {
            (Response::Done, _) => Ok(()),
            (answer, _) => Err(unexpected(KIND, operation, answer)),
        }
    }

    /// A way to the running machine of an agent.
    async fn handle(&self, agent: &str) -> Result<Arc<Handle>, ProviderError> {
        if let Some(handle) = self.service().known.get(self.account.fingerprint, agent) {
            return Ok(handle);
        }
        let app = app_name(agent)?;
        let running = self.running(&app).await?.into_iter().next().ok_or(ProviderError::SandboxGone)?;
        let handle = self.admit(agent, &app, &running, None).await?;
        Ok(self.service().known.keep(self.account.fingerprint, agent, handle))
    }

    /// Asks a guest in an agent's machine.
    pub(super) async fn inside(&self, agent: &AgentRef, call: Call) -> Result<Answered, ProviderError> {
        let Call { operation, frame, limit, intake } = call;
        let frame = Arc::new(frame);
        let answered = self.ask(&agent.agent, operation, limit, intake, |_| Ok(frame.clone())).await;
        answered.map(|(answered, _)| answered)
    }

    /// Asks an agent's machine what is another request at each of its boots. Gives the boot that has answered, too.
    pub(super) async fn ask(
        &self,
        agent: &str,
        operation: &'static str,
        limit: Duration,
        intake: Intake,
        frame: impl Fn(&Handle) -> Result<Arc<Frame>, ProviderError> + Send,
    ) -> Result<(Answered, Arc<Handle>), ProviderError> {
        let mut again = true;
        loop {
            let handle = self.handle(agent).await?;
            let frame = frame(&handle)?;
            // Nothing has come in where it is sent once more.
            let fault = match self.send(agent, &handle, &frame, limit, intake.clone()).await {
                Ok(answer) => return Ok((answer.finish().map_err(|_| unanswered(operation))?, handle)),
                Err(ChannelFault::Late) => return Err(ProviderError::TimedOut),
                Err(fault) => fault,
            };
            // Its machine may have booted since, with another key, or admit another token, or be gone.
            self.service().known.forget(self.account.fingerprint, agent);
            if !again || fault == ChannelFault::Broken {
                return Err(self.settle(agent, to_error(operation, fault)).await);
            }
            again = false;
        }
    }

    /// A connection that breaks is often that of a machine that ended. Only the service knows, and it learns of it after
    /// whoever was connected: a machine is not believed to run on before it has been seen to for a while.
    async fn settle(&self, agent: &str, error: ProviderError) -> ProviderError {
        let Ok(app) = app_name(agent) else { return error };
        let mut pauses = LOOK_AGAIN.into_iter();
        loop {
            match (self.running(&app).await, pauses.next()) {
                (Err(ProviderError::SandboxGone), _) => return ProviderError::SandboxGone,
                (Ok(_), Some(pause)) => tokio::time::sleep(pause).await,
                (Ok(_), None) | (Err(_), _) => return error,
            }
        }
    }
}

fn parse_fingerprint(text: &str) -> Option<[u8; FINGERPRINT]> {
    hex::decode(text.trim()).ok()?.try_into().ok()
}

fn to_error(operation: &'static str, fault: ChannelFault) -> ProviderError {
    match fault {
        ChannelFault::Closed => failed(operation, None, true, "the machine takes no connection"),
        ChannelFault::Refused => failed(operation, None, true, "the machine does not take our token"),
        ChannelFault::Broken => failed(operation, None, true, "the connection to the machine broke"),
        ChannelFault::Late => ProviderError::TimedOut,
    }
}

fn unanswered(operation: &'static str) -> ProviderError {
    failed(operation, None, false, "the guest ended without an answer")
}
