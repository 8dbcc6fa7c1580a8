//! What the control plane and the guest say to each other over a process's standard input and output.
//!
//! This crate owns the message types and the framing and nothing else; `theazo-guest` answers, an
//! adapter in `theazo-providers` asks. A message is `header length u32 big-endian | header JSON |
//! payload`; the header says how long the payload is. A guest process reads one request, writes one
//! answer and exits, except for `init`, which speaks no protocol. Only a request that asks for a program's output while it
//! runs has messages before its answer.
//!
//! Secrets travel only in the payload of [`Request::Deliver`], never in a header, an argument or an
//! environment variable of the guest.

pub mod forwarder;
pub mod machine;

use serde::{Deserialize, Serialize};
use std::io::{Read, Write};

/// Largest header either side accepts, in bytes. Headers carry code (at most 1 MiB) and listings.
pub const MAX_HEADER: usize = 8 * 1024 * 1024;
/// Largest payload either side accepts, in bytes: two output streams of 1 MiB, or a 4 MiB file piece,
/// or standard input, with room to spare.
pub const MAX_PAYLOAD: usize = 8 * 1024 * 1024;

/// Where the environment is delivered inside a sandbox: a memory file system, mode 0750 `root:10001`.
pub const RUN_DIR: &str = "/run/agent";
/// The delivered environment: `NAME=value` entries, each ended by a NUL byte.
pub const ENV_FILE: &str = "/run/agent/env";
/// The user and group that agent code runs as.
pub const AGENT_UID: u32 = 10001;
/// The user that process 1 runs as, so that agent code cannot end it.
pub const SUPERVISOR_UID: u32 = 10000;
/// The guest's place inside the image.
pub const GUEST_PATH: &str = "/usr/local/bin/theazo-guest";

/// The languages the image can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Language {
    /// `python3`
    Python,
    /// `node`
    Node,
    /// `bash`
    Bash,
}

/// What the control plane asks of a guest process, on its standard input.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Request {
    /// Replace the delivered environment. Payload: `NAME=value\0` entries. Runs as `0:10001`.
    Deliver {
        /// Bytes of payload that follow.
        payload: usize,
    },
    /// Run code as the agent and answer when it has ended. What it left in the background runs on, except after a
    /// timeout, when its whole process tree is ended. Payload: standard input.
    Exec {
        /// What runs the code.
        language: Language,
        /// The program text; it is written to a file, never passed as an argument.
        code: String,
        /// After this many milliseconds the whole process tree is killed.
        timeout_ms: u64,
        /// Bytes kept of each output stream; the rest is read and dropped.
        output_cap: usize,
        /// Whether output is told while the program runs, in [`Response::Output`]s before the answer. A guest that does not
        /// know of it tells all with the answer.
        #[serde(default)]
        stream: bool,
        /// Bytes of payload that follow.
        payload: usize,
    },
    /// Write a file beneath `/data` or `/tmp`; parents are made. Payload: the bytes.
    WriteFile {
        /// Absolute path.
        path: String,
        /// Where to write. `None` replaces the whole file.
        at: Option<WriteAt>,
        /// Bytes of payload that follow.
        payload: usize,
    },
    /// Read a piece of a regular file beneath `/data` or `/tmp`.
    ReadFile {
        /// Absolute path.
        path: String,
        /// First byte.
        offset: u64,
        /// At most this many bytes.
        length: u64,
    },
    /// List a directory beneath `/data` or `/tmp`.
    ListFiles {
        /// Absolute path.
        dir: String,
    },
    /// Kill every process of the agent's user. The fallback when a guest process itself is gone.
    KillAll,
    /// Hand requests that carry the token with that SHA-256 on to a port of the agent, until the next delivery. What was
    /// handed there with another token is not any more. Only [`machine`] does that; a guest refuses it.
    OpenPort {
        /// The port.
        port: u16,
        /// 64 hexadecimal digits.
        digest: String,
    },
}

/// Where [`Request::WriteFile`] puts its bytes in an existing or new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WriteAt {
    /// At this byte; what lies beyond the written piece is kept.
    Offset(u64),
    /// After the last byte.
    End,
}

/// A directory entry. Names that are not UTF-8 are shown with U+FFFD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileEntry {
    /// The name, without its directory.
    pub name: String,
    /// Bytes.
    pub size: u64,
    /// Modification time, milliseconds since 1970 UTC.
    pub modified_ms: i64,
    /// Whether the entry is a directory.
    pub directory: bool,
}

/// Why a guest could not do what was asked. None carries a value or file content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Refusal {
    /// No such file or directory.
    NotFound,
    /// The path is not absolute, leaves `/data` and `/tmp`, or crosses a link that does.
    OutsideRoots,
    /// The path names something else than was asked for: a directory, a device, a socket.
    WrongKind,
    /// The agent's user may not.
    PermissionDenied,
    /// No space or memory left in the sandbox.
    NoSpace,
    /// A name or path is too long, or has a NUL byte.
    BadPath,
    /// The image has no runtime for the language.
    NoRuntime,
    /// Anything else: an operating system error number.
    Os(i32),
    /// The port is not the agent's.
    PortReserved,
    /// The agent has as many open ports as it may have.
    TooManyPorts,
    /// The request was not understood.
    BadRequest,
}

/// What a guest process answers, on its standard output.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "answer", rename_all = "camelCase", rename_all_fields = "camelCase")]
pub enum Response {
    /// Done, nothing to tell.
    Done,
    /// Code runs, and has written something since the last of these. Payload: standard output, then standard error. What
    /// follows is another message.
    Output {
        /// Bytes of standard output in the payload.
        stdout: usize,
        /// Bytes of standard error in the payload.
        stderr: usize,
    },
    /// Code ran. Payload: standard output, then standard error, without what was told before.
    Exec {
        /// The exit code; 128 + signal number for a process ended by a signal; 124 after a timeout.
        exit_code: i32,
        /// Whether the time limit ended it.
        timed_out: bool,
        /// Bytes of standard output in the payload.
        stdout: usize,
        /// Bytes of standard error in the payload.
        stderr: usize,
        /// Whether standard output was cut at the cap.
        stdout_truncated: bool,
        /// Whether standard error was cut at the cap.
        stderr_truncated: bool,
    },
    /// A piece of a file. Payload: the bytes.
    File {
        /// Size of the whole file in bytes.
        size: u64,
        /// Bytes of payload that follow.
        payload: usize,
    },
    /// A directory's entries, sorted by name.
    Listing {
        /// The entries.
        entries: Vec<FileEntry>,
    },
    /// It could not be done.
    Refused {
        /// Why.
        reason: Refusal,
    },
}

impl Request {
    /// Bytes of payload that follow this header.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Deliver { payload } | Self::Exec { payload, .. } | Self::WriteFile { payload, .. } => *payload,
            Self::ReadFile { .. } | Self::ListFiles { .. } | Self::KillAll | Self::OpenPort { .. } => 0,
        }
    }
}

impl Response {
    /// Bytes of payload that follow this header.
    pub fn payload_len(&self) -> usize {
        match self {
            Self::Exec { stdout, stderr, .. } | Self::Output { stdout, stderr } => stdout.saturating_add(*stderr),
            Self::File { payload, .. } => *payload,
            Self::Done | Self::Listing { .. } | Self::Refused { .. } => 0,
        }
    }
}

/// A message that cannot be framed or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The stream ended or failed.
    #[error("the stream failed: {0}")]
    Io(#[from] std::io::Error),
    /// Header or payload is longer than this crate's limits.
    #[error("a frame of {0} bytes is over the limit")]
    TooLong(usize),
    /// The header is not the JSON that was expected.
    #[error("a frame's header was not understood")]
    Header,
    /// Fewer bytes than announced.
    #[error("a frame was cut short")]
    Short,
}

/// Encodes a header for sending; the payload is sent right after it.
pub fn encode_header<T: Serialize>(header: &T) -> Result<Vec<u8>, FrameError> {
    let json = serde_json::to_vec(header).map_err(|_| FrameError::Header)?;
    if json.len() > MAX_HEADER {
        return Err(FrameError::TooLong(json.len()));
    }
    let length = u32::try_from(json.len()).map_err(|_| FrameError::TooLong(json.len()))?;
    let mut out = Vec::with_capacity(4 + json.len());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(&json);
    Ok(out)
}

/// Writes one message.
pub fn write_message<T: Serialize>(out: &mut impl Write, header: &T, payload: &[&[u8]]) -> Result<(), FrameError> {
    out.write_all(&encode_header(header)?)?;
    for piece in payload {
        out.write_all(piece)?;
    }
    out.flush()?;
    Ok(())
}

/// Reads a header from a stream; the caller then reads the payload it announces.
pub fn read_header<T: for<'de> Deserialize<'de>>(input: &mut impl Read) -> Result<T, FrameError> {
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = u32::from_be_bytes(length) as usize;
    if length > MAX_HEADER {
        return Err(FrameError::TooLong(length));
    }
    let mut json = vec![0; length];
    input.read_exact(&mut json)?;
    serde_json::from_slice(&json).map_err(|_| FrameError::Header)
}

/// Takes a whole answer apart: the header and exactly the payload it announces.
pub fn decode_response(bytes: &[u8]) -> Result<(Response, &[u8]), FrameError> {
    let (header, payload) = decode_header(bytes)?.ok_or(FrameError::Short)?;
    match payload.len().cmp(&header.payload_len()) {
        std::cmp::Ordering::Equal => Ok((header, payload)),
        std::cmp::Ordering::Less => Err(FrameError::Short),
        std::cmp::Ordering::Greater => Err(FrameError::TooLong(payload.len())),
    }
}

/// The header that what was received so far begins with, if all of it is there, and what follows it.
pub fn decode_header(bytes: &[u8]) -> Result<Option<(Response, &[u8])>, FrameError> {
    let Some((length, rest)) = bytes.split_first_chunk::<4>() else { return Ok(None) };
    let length = u32::from_be_bytes(*length) as usize;
    if length > MAX_HEADER {
        return Err(FrameError::TooLong(length));
    }
    let Some((json, rest)) = rest.split_at_checked(length) else { return Ok(None) };
    let header: Response = serde_json::from_slice(json).map_err(|_| FrameError::Header)?;
    Ok(Some((header, rest)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_survives_the_wire_with_its_payload_behind_it() {
        let (language, code) = (Language::Node, "1".into());
        let request = Request::Exec { language, code, timeout_ms: 5, output_cap: 10, stream: true, payload: 3 };
        let mut wire = Vec::new();
        write_message(&mut wire, &request, &[b"abc"]).unwrap();
        let mut reader = wire.as_slice();
        assert_eq!(read_header::<Request>(&mut reader).unwrap(), request);
        assert_eq!(reader, b"abc");
    }

    #[test]
    fn a_header_is_read_once_all_of_it_is_there() {
        let mut wire = Vec::new();
        write_message(&mut wire, &Response::Output { stdout: 1, stderr: 2 }, &[b"abc"]).unwrap();
        let header = wire.len() - 3;
        for received in 0..wire.len() {
            let found = decode_header(&wire[..received]).unwrap();
            assert_eq!(found.is_some(), received >= header, "{received}");
            assert!(
                found.is_none_or(|(response, rest)| response.payload_len() == 3 && rest.len() == received - header)
            );
        }
        assert!(matches!(decode_header(&[0xff; 4]), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn a_request_that_says_nothing_of_output_while_it_runs_wants_none() {
        let json = r#"{"op":"exec","language":"bash","code":":","timeoutMs":1,"outputCap":1,"payload":0}"#;
        let request: Request = serde_json::from_str(json).unwrap();
        assert!(matches!(request, Request::Exec { stream: false, .. }));
    }

    #[test]
    fn an_answer_with_a_short_or_long_payload_is_refused() {
        let mut wire = Vec::new();
        write_message(&mut wire, &Response::File { size: 9, payload: 4 }, &[b"abcd"]).unwrap();
        assert_eq!(decode_response(&wire).unwrap().1, b"abcd");
        assert!(matches!(decode_response(&wire[..wire.len() - 1]), Err(FrameError::Short)));
        wire.push(0);
        assert!(matches!(decode_response(&wire), Err(FrameError::TooLong(_))));
        assert!(matches!(decode_response(&[]), Err(FrameError::Short)));
        assert!(matches!(decode_response(&[0xff; 8]), Err(FrameError::TooLong(_))));
    }
}
