//! What the log says of an exec. All of it is masked before it is cut: a value that the code or its output holds is in no
//! piece of it.

use serde_json::{Value, json};
use std::borrow::Cow;
use std::time::Instant;
use theazo_http::ApiError;
use theazo_providers::{ExecOutput, ExecRequest, Language};
use theazo_redaction::Redactor;
use theazo_store::{Agent, LogLevel, LogSource, Measurement, NewLog};

/// How much of the code an entry shows, bytes as a string in JSON.
const CODE_SHOWN: usize = 256;
/// How much of the code is looked at for that, bytes. Where it is cut, nothing is shown that may begin a value.
const CODE_MASKED: usize = 4096;
/// How much of each output an entry shows, likewise: with the code, less than an entry's details may have.
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

    fn add_to(&self, details: &mut Value) {
        details["exitCode"] = self.exit_code.into();
        details["stdout"] = beginning(&self.stdout, OUTPUT_SHOWN).into();
        details["stderr"] = beginning(&self.stderr, OUTPUT_SHOWN).into();
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
        let mut details = json!({ "event": "agent.exec", "language": language, "code": code, "durationMs": ms });
        match ran {
            Ok(output) => {
                let level = if output.exit_code == 0 { LogLevel::Info } else { LogLevel::Warn };
                let message = format!("{language} exited with {} after {ms} ms", output.exit_code);
                output.add_to(&mut details);
                Some(NewLog::of_agent(agent, level, LogSource::Agent, message).metadata(&details))
            }
            Err(error) if error.code().status() < 500 => None,
            Err(error) => {
                let code = error.code().as_str();
                let source = if error.code().status() == 502 { LogSource::Provider } else { LogSource::System };
                let message = format!("{language} was not run to its end: {code}");
                details["error"] = code.into();
                Some(NewLog::of_agent(agent, LogLevel::Error, source, message).metadata(&details))
            }
        }
    }
}

/// As many of the first bytes as text as fit into a string in JSON of so many bytes, a mark that it was cut apart.
fn beginning(bytes: &[u8], most: usize) -> String {
    // No byte becomes less than one.
    let (kept, is_cut) = bytes.split_at_checked(most).map_or((bytes, false), |(kept, rest)| (kept, !rest.is_empty()));
    let text: Cow<'_, str> = String::from_utf8_lossy(kept);
    // A character that was cut in two is no character.
    let text = if is_cut { text.trim_end_matches('\u{fffd}') } else { &text };
    match within_escaped(text, most) {
        fitting if is_cut || fitting.len() < text.len() => format!("{fitting}…"),
        all => all.to_owned(),
    }
}

/// As much of a text as makes a string of at most so many bytes in JSON, where control characters become six each.
pub(super) fn within_escaped(text: &str, most: usize) -> &str {
    let mut escaped = 0;
    for (index, letter) in text.char_indices() {
        escaped += match letter {
            '"' | '\\' | '\n' | '\r' | '\t' | '\u{8}' | '\u{c}' => 2,
            letter if u32::from(letter) < 0x20 => 6,
            letter => letter.len_utf8(),
        };
        if escaped > most {
            return text.split_at(index).0;
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_store::MAX_METADATA_BYTES;

    #[test]
    fn the_beginning_of_a_text_ends_between_characters() {
        assert_eq!(beginning(b"abc", 3), "abc");
        assert_eq!(beginning(b"abcd", 3), "abc…");
        assert_eq!(beginning("ab\u{20ac}".as_bytes(), 3), "ab…");
        assert_eq!(beginning(b"", 3), "");
        assert_eq!(beginning(b"a\n\n", 4), "a\n…");
        assert_eq!(beginning(b"a\x01b", 6), "a…");
    }

    #[test]
    fn whatever_the_code_and_its_outputs_are_the_details_fit_into_their_entry() {
        for piece in ["x", "\n", "\"", "\u{1}", "\u{1b}[0m", "\u{20ac}", "\u{1f600}"] {
            let all = piece.repeat(100_000).into_bytes();
            let output = MaskedOutput {
                stdout: all.clone(),
                stderr: all.clone(),
                stdout_cut: true,
                stderr_cut: true,
                exit_code: -1,
            };
            let mut details = json!({ "event": "agent.exec", "language": "python", "code": beginning(&all, CODE_SHOWN), "durationMs": u64::MAX });
            output.add_to(&mut details);
            assert!(details.to_string().len() <= MAX_METADATA_BYTES, "{piece:?}: {}", details.to_string().len());
            assert!(details["stdout"].as_str().unwrap().starts_with(piece), "{piece:?}");
        }
        let invalid = vec![0xff; 100_000];
        assert!(beginning(&invalid, OUTPUT_SHOWN).len() <= OUTPUT_SHOWN + "…".len());
    }
}
