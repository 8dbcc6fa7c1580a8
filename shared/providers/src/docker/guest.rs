//! Talking to the guest inside a container: one exec per request, the frame on its standard input.
//!
//! Values travel only on standard input. An exec's arguments show up in the engine's events and its environment
//! can reach the engine's log, so both are constant (measured on Docker 20.10).

use super::failure::{failed, from_engine, says, status};
use super::{DockerProvider, names};
use crate::frame::Frame;
use crate::intake::{Answered, Intake};
use crate::{ProviderError, ProviderKind};
use bollard::container::LogOutput;
use bollard::errors::Error as EngineError;
use bollard::exec::{CreateExecOptions, StartExecOptions, StartExecResults};
use futures_util::{Stream, StreamExt};
use std::time::Duration;
use theazo_guest_protocol::{AGENT_UID, GUEST_PATH, Response};
use tokio::io::{AsyncWrite, AsyncWriteExt};

/// How many bytes to read from the engine at once.
const READ_SIZE: usize = 64 * 1024;

/// How often, and after what pauses, a container is looked at that may just be ending.
const END_LOOKS: usize = 20;
const END_PAUSE: Duration = Duration::from_millis(100);

/// Who the guest runs as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum As {
    /// The agent's user: the kernel enforces what agent code may do itself.
    Agent,
    /// Root without capabilities, who owns the delivered environment and nothing else.
    Deliverer,
}

/// A question without an answer.
pub(super) struct Unanswered {
    /// What to tell the caller.
    pub(super) error: ProviderError,
    /// Whether the guest process may be gone while what it started runs on: agent code can kill it.
    pub(super) guest_lost: bool,
}

impl From<ProviderError> for Unanswered {
    fn from(error: ProviderError) -> Self {
        Self { error, guest_lost: false }
    }
}

impl From<Unanswered> for ProviderError {
    fn from(unanswered: Unanswered) -> Self {
        unanswered.error
    }
}

/// Why an exchange gave no answer.
enum Exchange {
    /// The engine said no, with an HTTP status.
    Refused(EngineError),
    /// Something that is no answer came back.
    Odd(&'static str),
    /// What came is not what a guest says, or more than any does: it is not the guest any more that speaks.
    Garbled,
}

impl DockerProvider {
    /// Sends a frame to a new guest process and takes its answer, with its payload. Nothing is killed when the
    /// limit passes or this future is dropped: the guest ends by its own limit.
    pub(super) async fn ask(
        &self,
        agent: &str,
        whom: As,
        frame: Frame,
        limit: Duration,
    ) -> Result<Answered, Unanswered> {
        self.ask_into(agent, whom, frame, limit, Intake::default()).await
    }

    /// The same, with what takes the answer as it comes.
    pub(super) async fn ask_into(
        &self,
        agent: &str,
        whom: As,
        frame: Frame,
        limit: Duration,
        intake: Intake,
    ) -> Result<Answered, Unanswered> {
        let name = names::resource_name(agent)?;
        let lost = |error| Unanswered { error, guest_lost: true };
        let exchanged = tokio::time::timeout(limit, self.exchange(&name, whom, frame, intake)).await;
        let unanswered = match exchanged.map_err(|_| lost(ProviderError::TimedOut))? {
            Ok(answer) => match answer.finish() {
                Ok(taken) => return Ok(taken),
                Err(_) => lost(failed("ask guest", false, "the guest ended without an answer")),
            },
            Err(Exchange::Odd(reason)) => failed("ask guest", true, reason).into(),
            Err(Exchange::Garbled) => lost(failed("ask guest", false, "the guest's answer is none")),
            Err(Exchange::Refused(error)) => match status(&error) {
                Some(404) => return Err(ProviderError::SandboxGone.into()),
                Some(409) if !says(&error, "paused") => return Err(ProviderError::SandboxGone.into()),
                _ => from_engine("ask guest", error).into(),
            },
        };
        // A sandbox that ends during a call cuts the answer off, and the engine tells no reason: the container
        // is shown as running for some moments more.
        for _ in 0..END_LOOKS {
            if !self.is_running(&name).await? {
                return Err(ProviderError::SandboxGone.into());
            }
            tokio::time::sleep(END_PAUSE).await;
        }
        Err(unanswered)
    }

    pub(super) async fn is_running(&self, name: &str) -> Result<bool, ProviderError> {
        let found = self.inspect(name).await?;
        Ok(found.and_then(|found| found.state).and_then(|state| state.running).unwrap_or(false))
    }

    async fn exchange(&self, name: &str, whom: As, frame: Frame, intake: Intake) -> Result<Intake, Exchange> {
        let user = match whom {
            As::Agent => format!("{AGENT_UID}:{AGENT_UID}"),
            As::Deliverer => format!("0:{AGENT_UID}"),
        };
        let options = CreateExecOptions {
            attach_stdin: Some(true),
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            tty: Some(false),
            user: Some(user),
            cmd: Some(vec![GUEST_PATH.to_owned()]),
            ..CreateExecOptions::default()
        };
        let exec = self.docker.create_exec(name, options).await.map_err(Exchange::Refused)?;
        let options = StartExecOptions { detach: false, tty: false, output_capacity: Some(READ_SIZE) };
        match self.docker.start_exec(&exec.id, Some(options)).await.map_err(Exchange::Refused)? {
            StartExecResults::Attached { output, input } => converse(output, input, frame, intake).await,
            StartExecResults::Detached => Err(Exchange::Odd("the engine did not attach to the guest")),
        }
    }
}

/// Writes the frame, ends standard input and collects standard output. Reading goes on during the writing, and
/// decides: a guest that has ended does not take the rest of its input.
async fn converse(
    mut output: impl Stream<Item = Result<LogOutput, EngineError>> + Unpin,
    mut input: impl AsyncWrite + Unpin,
    frame: Frame,
    mut intake: Intake,
) -> Result<Intake, Exchange> {
    let write = async {
        if input.write_all(frame.bytes()).await.is_ok() {
            let _ = input.shutdown().await;
        }
    };
    let read = async {
        while let Some(piece) = output.next().await {
            match piece {
                Ok(LogOutput::StdOut { message }) => intake.take(&message).map_err(|_| Exchange::Garbled)?,
                // The guest's standard error is for people who debug it; it is not part of an answer.
                Ok(_) => {}
                Err(_) => return Err(Exchange::Odd("the connection to the guest broke")),
            }
        }
        Ok(intake)
    };
    tokio::pin!(write, read);
    let mut writing = true;
    loop {
        tokio::select! {
            () = &mut write, if writing => writing = false,
            answer = &mut read => return answer,
        }
    }
}

/// An answer of a kind that does not belong to the question.
pub(super) fn unexpected(operation: &'static str, answer: Response) -> ProviderError {
    crate::frame::unexpected(ProviderKind::Docker, operation, answer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::stream;
    use theazo_guest_protocol::{Request, write_message};

    fn kill_all() -> Frame {
        Frame::new(ProviderKind::Docker, &Request::KillAll, &[]).unwrap()
    }

    fn stdout(bytes: &[u8]) -> Result<LogOutput, EngineError> {
        Ok(LogOutput::StdOut { message: Bytes::copy_from_slice(bytes) })
    }

    #[tokio::test]
    async fn standard_error_is_no_part_of_an_answer() {
        let mut wire = Vec::new();
        write_message(&mut wire, &Response::File { size: 3, payload: 3 }, &[b"abc"]).unwrap();
        let (left, right) = wire.split_at(5);
        let noise = Ok(LogOutput::StdErr { message: Bytes::from_static(b"noise") });
        let output = stream::iter([stdout(left), noise, stdout(right)]);
        let answer = converse(output, tokio::io::sink(), kill_all(), Intake::default()).await;
        let Ok(answer) = answer else { panic!("no answer") };
        assert_eq!(answer.finish().unwrap(), (Response::File { size: 3, payload: 3 }, Bytes::from("abc")));
    }

    #[tokio::test]
    async fn an_answer_without_end_is_given_up() {
        let piece = vec![0; 1024 * 1024];
        let output = stream::repeat_with(move || stdout(&piece));
        let answer = converse(output, tokio::io::sink(), kill_all(), Intake::default()).await;
        assert!(matches!(answer, Err(Exchange::Garbled)));
    }

    #[tokio::test]
    async fn a_guest_that_ends_without_reading_does_not_hold_the_call() {
        let (ours, _theirs) = tokio::io::duplex(1);
        let frame = Frame::new(ProviderKind::Docker, &Request::Deliver { payload: 4096 }, &[&[0; 4096]]).unwrap();
        let answer = converse(stream::iter([stdout(b"x")]), ours, frame, Intake::default()).await;
        let Ok(answer) = answer else { panic!("it was waited for") };
        assert!(answer.finish().is_err(), "what came is no answer");
    }
}
