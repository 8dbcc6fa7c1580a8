//! What the log says of an exec. All of it is masked before it is cut: a value that the code or its output holds is in no
//! piece of it.

use serde_json::json;
use std::borrow::Cow;
use std::time::Instant;
use theazo_http::ApiError;
use theazo_providers::{ExecOutput, ExecRequest, Language};
use theazo_redaction::Redactor;
use theazo_store::{Agent, LogLevel, LogSource, Measurement, NewLog};

/// How much of the code an entry shows, bytes.
const CODE_SHOWN: usize = 256;
/// How much of the code is looked at for that, bytes. Where it is cut, nothing is shown that may begin a value.
const CODE_MASKED: usize = 4096;
/// How much of each output an entry shows, bytes.
const OUTPUT_SHOWN: usize = 1024;

/// What an exec gave, with the agent's secrets masked.
pub(super) struct MaskedOutput {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    pub(super) stdout_cut: bool,
    pub(super) stderr_cut: bool,
    pub(super) exit_code: i32,
}

impl MaskedOutput {
    pub(super) fn of(output: &ExecOutput, redactor: &Redactor) -> Self {
        // Of an output that was cut, the last bytes may be the beginning of a value.
        let masked = |bytes: &[u8], cut| if cut { redactor.redact_truncated(bytes) } else { redactor.redact(bytes) };
        Self {
            stdout: masked(&output.stdout, output.stdout_truncated),
            stderr: masked(&output.stderr, output.stderr_truncated),
            stdout_cut: output.stdout_truncated,
            stderr_cut: output.stderr_truncated,
            exit_code: output.exit_code,
        }
    }
}

/// An exec under way.
pub(super) struct ExecRecord {
    began: Instant,
    language: &'static str,
    code: String,
}

impl ExecRecord {
    pub(super) fn begin(request: &ExecRequest, redactor: &Redactor) -> Self {
        let language = match request.language {
            Language::Python => "python",
            Language::Node => "node",
            Language::Bash => "bash",
        };
        let code = request.code.as_bytes();
        let code = match code.split_at_checked(CODE_MASKED) {
            Some((kept, _)) => redactor.redact_truncated(kept),
            None => redactor.redact(code),
        };
        Self { began: Instant::now(), language, code: beginning(&code, CODE_SHOWN) }
    }

    /// How it went until now, unless it was refused before anything ran. An exit code is a result like any other.
    pub(super) fn measured(&self, ran: &Result<MaskedOutput, ApiError>) -> Option<Measurement> {
        match ran {
            Ok(_) => Some(Measurement::Took(u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX))),
            Err(error) => (error.code().status() >= 500).then_some(Measurement::Failed),
        }
    }

    /// The entry, unless it was refused before anything ran.
    pub(super) fn end(self, agent: &Agent, ran: &Result<MaskedOutput, ApiError>) -> Option<NewLog> {
        let Self { began, language, code } = self;
        let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let details = json!({ "event": "agent.exec", "language": language, "code": code, "durationMs": ms });
        match ran {
            Ok(output) => {
                let level = if output.exit_code == 0 { LogLevel::Info } else { LogLevel::Warn };
                let message = format!("{language} exited with {} after {ms} ms", output.exit_code);
                let mut details = details;
                details["exitCode"] = output.exit_code.into();
                details["stdout"] = beginning(&output.stdout, OUTPUT_SHOWN).into();
                details["stderr"] = beginning(&output.stderr, OUTPUT_SHOWN).into();
                Some(NewLog::of_agent(agent, level, LogSource::Agent, message).metadata(&details))
            }
            Err(error) if error.code().status() < 500 => None,
            Err(error) => {
                let code = error.code().as_str();
                let source = if error.code().status() == 502 { LogSource::Provider } else { LogSource::System };
                let message = format!("{language} was not run to its end: {code}");
                let mut details = details;
                details["error"] = code.into();
                Some(NewLog::of_agent(agent, LogLevel::Error, source, message).metadata(&details))
            }
        }
    }
}

/// The first bytes as text.
fn beginning(bytes: &[u8], most: usize) -> String {
    match bytes.split_at_checked(most) {
        Some((kept, rest)) if !rest.is_empty() => {
            let text: Cow<'_, str> = String::from_utf8_lossy(kept);
            // A character that was cut in two is no character.
            format!("{}…", text.trim_end_matches('\u{fffd}'))
        }
        _ => String::from_utf8_lossy(bytes).into_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_beginning_of_a_text_ends_between_characters() {
        assert_eq!(beginning(b"abc", 3), "abc");
        assert_eq!(beginning(b"abcd", 3), "abc…");
        assert_eq!(beginning("ab\u{20ac}".as_bytes(), 3), "ab…");
        assert_eq!(beginning(b"", 3), "");
    }
}
