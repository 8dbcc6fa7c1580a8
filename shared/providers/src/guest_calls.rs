//! Exec and file calls as adapters make them of a sandbox's guest: what is sent, how long the answer may take, and what is
//! made of it. How the guest is reached is each adapter's own.

use crate::frame::{Frame, unexpected};
use crate::intake::{Answered, Intake};
use crate::{AgentRef, ExecOutput, ExecRequest, FilePiece, Language, Provider, ProviderError, ProviderKind};
use bytes::Bytes;
use std::time::Duration;
use theazo_guest_protocol::{FileEntry, Request, Response, WriteAt};

/// What an exec may take beyond its own limit, for the guest's start and the answer's way.
const EXEC_GRACE: Duration = Duration::from_secs(10);
/// How long a file call may take in all.
const FILE_LIMIT: Duration = Duration::from_secs(60);
/// Writes everything to the disk and prints the bytes of all files beneath `/data`, links not followed.
const FAREWELL: &str = "sync; du -sbx /data 2>/dev/null | cut -f1";

const EXEC: &str = "exec";
const WRITE: &str = "write file";
const READ: &str = "read file";
const LIST: &str = "list files";

/// A call to a guest.
pub(crate) struct Call {
    pub(crate) operation: &'static str,
    pub(crate) frame: Frame,
    /// How long its answer may take.
    pub(crate) limit: Duration,
    /// What comes in before its answer.
    pub(crate) intake: Intake,
}

impl Call {
    /// Runs code.
    pub(crate) fn exec(provider: ProviderKind, request: ExecRequest) -> Result<Self, ProviderError> {
        let header = Request::Exec {
            language: request.language,
            code: request.code,
            timeout_ms: u64::try_from(request.timeout.as_millis()).unwrap_or(u64::MAX),
            output_cap: request.output_cap,
            stream: request.watch.is_some(),
            payload: request.stdin.len(),
        };
        let frame = Frame::new(provider, &header, &[&request.stdin])?;
        let intake = request.watch.map_or_else(Intake::default, |watch| Intake::told(watch, request.output_cap));
        Ok(Self { operation: EXEC, frame, limit: request.timeout.saturating_add(EXEC_GRACE), intake })
    }

    /// Writes a file; `None` replaces it.
    pub(crate) fn write_file(
        provider: ProviderKind,
        path: &str,
        at: Option<WriteAt>,
        data: &[u8],
    ) -> Result<Self, ProviderError> {
        let request = Request::WriteFile { path: path.into(), at, payload: data.len() };
        Self::of_file(provider, WRITE, &request, &[data])
    }

    /// Reads a piece of a file.
    pub(crate) fn read_file(
        provider: ProviderKind,
        path: &str,
        offset: u64,
        length: u64,
    ) -> Result<Self, ProviderError> {
        Self::of_file(provider, READ, &Request::ReadFile { path: path.into(), offset, length }, &[])
    }

    /// Lists a directory.
    pub(crate) fn list_files(provider: ProviderKind, dir: &str) -> Result<Self, ProviderError> {
        Self::of_file(provider, LIST, &Request::ListFiles { dir: dir.into() }, &[])
    }

    fn of_file(
        provider: ProviderKind,
        operation: &'static str,
        request: &Request,
        payload: &[&[u8]],
    ) -> Result<Self, ProviderError> {
        let frame = Frame::new(provider, request, payload)?;
        Ok(Self { operation, frame, limit: FILE_LIMIT, intake: Intake::default() })
    }
}

/// What running code gave.
pub(crate) fn exec_output(provider: ProviderKind, answered: Answered) -> Result<ExecOutput, ProviderError> {
    match answered {
        (
            Response::Exec { exit_code, timed_out, stdout, stderr: _, stdout_truncated, stderr_truncated },
            mut payload,
        ) => {
            // Whoever took the answer apart has made sure that the payload is as long as both streams.
            let stderr = payload.split_off(stdout);
            Ok(ExecOutput { stdout: payload, stderr, exit_code, timed_out, stdout_truncated, stderr_truncated })
        }
        (other, _) => Err(unexpected(provider, EXEC, other)),
    }
}

/// That a file is written.
pub(crate) fn written(provider: ProviderKind, answered: Answered) -> Result<(), ProviderError> {
    match answered {
        (Response::Done, _) => Ok(()),
        (other, _) => Err(unexpected(provider, WRITE, other)),
    }
}

/// A piece of a file.
pub(crate) fn piece(provider: ProviderKind, answered: Answered) -> Result<FilePiece, ProviderError> {
    match answered {
        (Response::File { size, .. }, data) => Ok(FilePiece { data, size }),
        (other, _) => Err(unexpected(provider, READ, other)),
    }
}

/// What is in a directory.
pub(crate) fn listing(provider: ProviderKind, answered: Answered) -> Result<Vec<FileEntry>, ProviderError> {
    match answered {
        (Response::Listing { entries }, _) => Ok(entries),
        (other, _) => Err(unexpected(provider, LIST, other)),
    }
}

/// Writes out what an agent has written, and measures it in bytes as far as that can be found out: a pause does not fail for
/// it.
pub(crate) async fn farewell(provider: &dyn Provider, agent: &AgentRef, limit: Duration) -> Option<u64> {
    let request = ExecRequest {
        language: Language::Bash,
        code: FAREWELL.into(),
        timeout: limit,
        stdin: Bytes::new(),
        output_cap: 64,
        watch: None,
    };
    let output = tokio::time::timeout(limit, provider.exec(agent, request)).await.ok()?.ok()?;
    std::str::from_utf8(&output.stdout).ok()?.trim().parse().ok()
}
