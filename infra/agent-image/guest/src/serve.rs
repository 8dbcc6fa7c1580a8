//! One request, one answer. Owns the reading and answering; what a request means is elsewhere, and so is what a program's
//! output is told in before the answer.

use crate::place::Place;
use crate::signals::{self, Signals};
use crate::{deliver, exec, files, tree};
use rustix::process::{DumpableBehavior, getuid, set_dumpable_behavior};
use std::io::Read;
use std::process::ExitCode;
use std::time::Duration;
use theazo_guest_protocol::{FrameError, MAX_PAYLOAD, Refusal, Request, Response, read_header, write_message};

/// Reads a request from standard input and answers it on standard output. Exits 0 whatever the answer is;
/// 1 means that no answer could be written.
pub fn one(place: &Place) -> ExitCode {
    // Agent code runs as the same user. Without this it could write into the answer through
    // /proc/PID/fd, or trace this process.
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
    signals::survive_file_size_limit();
    let (response, payload) = match take_request() {
        Ok((request, payload)) => answer(place, request, payload),
        Err(_) => (refused(Refusal::BadRequest), Vec::new()),
    };
    let pieces: Vec<&[u8]> = payload.iter().map(Vec::as_slice).collect();
    let mut out = std::io::stdout().lock();
    let sent = match write_message(&mut out, &response, &pieces) {
        // A listing of very many names; nothing has been written yet.
        Err(FrameError::TooLong(_)) => write_message(&mut out, &refused(TOO_BIG), &[]),
        other => other,
    };
    if sent.is_ok() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// `E2BIG`: the answer does not fit into a message.
pub const TOO_BIG: Refusal = Refusal::Os(7);

fn take_request() -> Result<(Request, Vec<u8>), FrameError> {
    let mut input = std::io::stdin().lock();
    let request: Request = read_header(&mut input)?;
    let length = request.payload_len();
    if length > MAX_PAYLOAD {
        return Err(FrameError::TooLong(length));
    }
    let mut payload = vec![0; length];
    input.read_exact(&mut payload)?;
    Ok((request, payload))
}

fn answer(place: &Place, request: Request, payload: Vec<u8>) -> (Response, Vec<Vec<u8>>) {
    let done = match request {
        Request::Deliver { .. } => deliver::replace(place, &payload).map(|()| (Response::Done, Vec::new())),
        Request::Exec { language, code, timeout_ms, output_cap, stream, .. } => run(
            place,
            &exec::Job {
                language,
                code: &code,
                timeout: Duration::from_millis(timeout_ms),
                // Both streams travel in one payload.
                output_cap: output_cap.min(MAX_PAYLOAD / 2),
                stream,
                input: &payload,
            },
        ),
        Request::WriteFile { path, at, .. } => {
            files::write(place, &path, at, &payload).map(|()| (Response::Done, Vec::new()))
        }
        Request::ReadFile { path, offset, length } => files::read(place, &path, offset, length)
            .map(|piece| (Response::File { size: piece.size, payload: piece.bytes.len() }, vec![piece.bytes])),
        Request::ListFiles { dir } => {
            files::list(place, &dir).map(|entries| (Response::Listing { entries }, Vec::new()))
        }
        Request::KillAll => kill_all(),
        Request::OpenPort { .. } => Err(Refusal::BadRequest),
    };
    done.unwrap_or_else(|reason| (refused(reason), Vec::new()))
}

fn run(place: &Place, job: &exec::Job<'_>) -> Result<(Response, Vec<Vec<u8>>), Refusal> {
    let outcome = exec::run(place, &Signals::install().map_err(|error| files::refusal(&error))?, job)?;
    let response = Response::Exec {
        exit_code: outcome.exit_code,
        timed_out: outcome.timed_out,
        stdout: outcome.stdout.kept.len(),
        stderr: outcome.stderr.kept.len(),
        stdout_truncated: outcome.stdout.truncated,
        stderr_truncated: outcome.stderr.truncated,
    };
    Ok((response, vec![outcome.stdout.kept, outcome.stderr.kept]))
}

/// Refused for root: outside a sandbox that would be every process of the machine.
fn kill_all() -> Result<(Response, Vec<Vec<u8>>), Refusal> {
    if getuid().is_root() {
        return Err(Refusal::PermissionDenied);
    }
    // EBUSY: something is in a state in which the kernel does not let it die.
    if tree::end_user(getuid().as_raw()) { Ok((Response::Done, Vec::new())) } else { Err(Refusal::Os(16)) }
}

fn refused(reason: Refusal) -> Response {
    Response::Refused { reason }
}
