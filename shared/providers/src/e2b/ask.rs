//! Talking to the guest inside a sandbox: its request as an uploaded file, its answer on its standard output.

use super::account::Handle;
use super::envd::{Ended, Envd, Lost, User};
use super::failure::failed;
use super::{DELIVER_LIMIT, E2bProvider, KIND};
use crate::ProviderError;
use crate::frame::{Frame, unexpected};
use crate::intake::{Answered, Intake};
use bytes::Bytes;
use std::time::Duration;
use theazo_guest_protocol::{Refusal, Request, Response};

/// The guest, for templates that are not ours.
const GUEST: &str = concat!(include_str!("guest_files.py"), include_str!("guest.py"));
/// Where it lies in memory, in a directory that only root writes to.
const GUEST_PATH: &str = "/run/theazo/guest.py";
/// Where requests as root are put, and where those as the agent are.
const ROOT_INBOX: &str = "/run/theazo/root";
const AGENT_INBOX: &str = "/run/theazo/in";
/// The guest's word for a place that is not in memory (`EMEDIUMTYPE`).
const NOT_MEMORY: i32 = 124;
/// What a shell says of a program that is not there.
const NO_PROGRAM: i32 = 127;

impl E2bProvider {
    /// Puts the guest into a sandbox that has just booted.
    pub(super) async fn install(&self, handle: &Handle) -> Result<(), ProviderError> {
        let envd = Envd { service: self.service(), handle };
        envd.upload("install guest", User::Root, GUEST_PATH, Bytes::from_static(GUEST.as_bytes())).await
    }

    /// Delivers the environment: the only message that has secrets in it.
    pub(super) async fn deliver(&self, handle: &Handle, frame: Frame) -> Result<(), ProviderError> {
        const DELIVER: &str = "deliver environment";
        match self.ask(handle, DELIVER, User::Root, frame, DELIVER_LIMIT).await? {
            (Response::Done, _) => Ok(()),
            (Response::Refused { reason: Refusal::Os(NOT_MEMORY) }, _) => {
                Err(failed(DELIVER, None, false, "the template has no memory that is kept out of snapshots at /run"))
            }
            (answer, _) => Err(unexpected(KIND, DELIVER, answer)),
        }
    }

    /// Ends every process of the agent's.
    pub(super) async fn kill_all(&self, handle: &Handle) -> Result<(), ProviderError> {
        const KILL: &str = "end processes";
        let frame = Frame::new(KIND, &Request::KillAll, &[])?;
        match self.ask(handle, KILL, User::Root, frame, DELIVER_LIMIT).await? {
            (Response::Done, _) => Ok(()),
            (answer, _) => Err(unexpected(KIND, KILL, answer)),
        }
    }

    /// Asks a new guest and takes its answer. Where none comes, the guest is asked to end, and with it all it has started;
    /// it ends by its own limit too.
    pub(super) async fn ask(
        &self,
        handle: &Handle,
        operation: &'static str,
        user: User,
        frame: Frame,
        limit: Duration,
    ) -> Result<Answered, ProviderError> {
        let path = self.put(handle, operation, user, frame.into_bytes()).await?;
        self.answer(handle, operation, user, &path, limit, Intake::default()).await
    }

    /// Puts a request into a sandbox, where nothing comes of it yet. Gives where it lies.
    pub(super) async fn put(
        &self,
        handle: &Handle,
        operation: &'static str,
        user: User,
        request: Bytes,
    ) -> Result<String, ProviderError> {
        let envd = Envd { service: self.service(), handle };
        let mut name = [0; 16];
        getrandom::fill(&mut name).map_err(|_| failed(operation, None, true, "the system gave no randomness"))?;
        let inbox = if user == User::Root { ROOT_INBOX } else { AGENT_INBOX };
        let path = format!("{inbox}/{}", hex::encode(name));
        envd.upload(operation, user, &path, request).await?;
        Ok(path)
    }

    /// Has a new guest do what was put there, and takes its answer.
    pub(super) async fn answer(
        &self,
        handle: &Handle,
        operation: &'static str,
        user: User,
        path: &str,
        limit: Duration,
        intake: Intake,
    ) -> Result<Answered, ProviderError> {
        let envd = Envd { service: self.service(), handle };
        // Isolated: neither the agent's variables nor its files decide what the guest imports.
        match envd.run(operation, user, &["python3", "-I", "-S", GUEST_PATH, path], limit, intake).await {
            Ok(Ended { exit_code: NO_PROGRAM, .. }) => {
                Err(failed(operation, None, false, "the template has no python3"))
            }
            Ok(Ended { stdout, .. }) => {
                stdout.finish().map_err(|_| failed(operation, None, false, "the guest ended without an answer"))
            }
            Err(Lost { error, pid }) => {
                if let Some(pid) = pid
                    && !envd.terminate(user, pid).await
                {
                    tracing::warn!(operation, "processes may be left until their time limit");
                }
                Err(self.settle(handle, error).await)
            }
        }
    }

    /// A connection that breaks is often that of a sandbox that ended; only the service knows.
    async fn settle(&self, handle: &Handle, error: ProviderError) -> ProviderError {
        match error {
            ProviderError::Failed { retryable: true, .. } => match self.account.open(&handle.id).await {
                Ok((_, detail)) if detail.state == "running" => error,
                Ok(_) | Err(ProviderError::SandboxGone) => ProviderError::SandboxGone,
                Err(_) => error,
            },
            other => other,
        }
    }
}
