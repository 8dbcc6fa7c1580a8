//! What code is answered. Nothing runs: the answer follows from the code and its standard input alone.
//!
//! Without further word, standard output is one line that names the language and the SHA-256 and size of both, and the
//! exit code is 0. Comments on lines of their own (`# …` in Python and bash, `// …` in Node) steer it:
//!
//! | comment | effect |
//! |---|---|
//! | `theazo:stdout TEXT` | a line on standard output, in place of the usual one |
//! | `theazo:stderr TEXT` | a line on standard error |
//! | `theazo:env NAME` | a line on standard output: the variable, `[secret:NAME]` for one from the vault, empty for none |
//! | `theazo:fill BYTES` | that many `x` on standard output, which is cut at its cap |
//! | `theazo:exit CODE` | the exit code, 0 to 255 |
//! | `theazo:timeout` | the time limit is passed, without waiting for it |
//! | `theazo:fail` | the provider fails, in a way that may pass |
//! | `theazo:lose` | the sandbox is gone, and with it the agent |
//!
//! Any other `theazo:` comment ends with exit code 2 and a line on standard error, so that a slip is noticed.

use super::failed;
use crate::{ExecOutput, ExecRequest, ProviderError};
use sha2::{Digest, Sha256};
use theazo_guest_protocol::Language;

/// The exit code of a program that the time limit ended, as the guest has it.
const TIMED_OUT: i32 = 124;
/// The exit code for a comment that was not understood, as shells have it for wrong usage.
const MISUSED: i32 = 2;

/// The beginning of an output stream, as much of it as is kept.
struct Stream {
    kept: Vec<u8>,
    cap: usize,
    truncated: bool,
}

impl Stream {
    fn new(cap: usize) -> Self {
        Self { kept: Vec::new(), cap, truncated: false }
    }

    fn write(&mut self, bytes: &[u8]) {
        let room = self.cap.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(bytes.get(..room).unwrap_or(bytes));
        self.truncated |= bytes.len() > room;
    }

    fn line(&mut self, text: &str) {
        self.write(text.as_bytes());
        self.write(b"\n");
    }

    fn fill(&mut self, count: u64) {
        let room = self.cap.saturating_sub(self.kept.len());
        let fits = usize::try_from(count).map_or(room, |count| count.min(room));
        self.kept.resize(self.kept.len() + fits, b'x');
        self.truncated |= count > fits as u64;
    }
}

/// Answers code. `variable` tells what the sandbox has in its environment.
pub(super) fn answer(
    request: &ExecRequest,
    variable: &dyn Fn(&str) -> Option<String>,
) -> Result<ExecOutput, ProviderError> {
    let (mut stdout, mut stderr) = (Stream::new(request.output_cap), Stream::new(request.output_cap));
    let (mut exit_code, mut timed_out, mut speaks) = (0, false, false);
    for directive in directives(request) {
        let (word, rest) = directive.split_once(' ').unwrap_or((directive, ""));
        speaks |= matches!(word, "stdout" | "env" | "fill");
        match (word, rest, rest.trim()) {
            ("stdout", text, _) => stdout.line(text),
            ("stderr", text, _) => stderr.line(text),
            ("env", _, name) if !name.is_empty() => stdout.line(&variable(name).unwrap_or_default()),
            ("timeout", _, "") => timed_out = true,
            ("fail", _, "") => return Err(failed("exec", true, "the code asked for a failure")),
            ("lose", _, "") => return Err(ProviderError::SandboxGone),
            ("exit", _, code) if code.parse::<u8>().is_ok() => exit_code = code.parse::<u8>().unwrap_or(0).into(),
            ("fill", _, count) if count.parse::<u64>().is_ok() => stdout.fill(count.parse().unwrap_or(0)),
            _ => {
                stderr.line(&format!("not understood: theazo:{directive}"));
                exit_code = MISUSED;
                break;
            }
        }
    }
    if !speaks && !timed_out {
        stdout.line(&usual_line(request));
    }
    Ok(ExecOutput {
        exit_code: if timed_out { TIMED_OUT } else { exit_code },
        timed_out,
        stdout: stdout.kept.into(),
        stderr: stderr.kept.into(),
        stdout_truncated: stdout.truncated,
        stderr_truncated: stderr.truncated,
    })
}

/// What follows `theazo:` in the comments, in the order of the lines.
fn directives(request: &ExecRequest) -> impl Iterator<Item = &str> {
    let comment = match request.language {
        Language::Python | Language::Bash => "#",
        Language::Node => "//",
    };
    request
        .code
        .lines()
        .filter_map(move |line| line.trim_start().strip_prefix(comment)?.trim_start().strip_prefix("theazo:"))
}

fn usual_line(request: &ExecRequest) -> String {
    let language = match request.language {
        Language::Python => "python",
        Language::Node => "node",
        Language::Bash => "bash",
    };
    let of = |bytes: &[u8]| format!("sha256:{} ({} bytes)", hex::encode(Sha256::digest(bytes)), bytes.len());
    format!("simulated {language}: code {}, stdin {}", of(request.code.as_bytes()), of(&request.stdin))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use std::time::Duration;

    fn ask(language: Language, code: &str, cap: usize) -> Result<ExecOutput, ProviderError> {
        let request = ExecRequest {
            language,
            code: code.into(),
            timeout: Duration::from_secs(1),
            stdin: Bytes::from_static(b"in"),
            output_cap: cap,
            watch: None,
        };
        answer(&request, &|name| (name == "KEY").then(|| "[secret:KEY]".to_owned()))
    }

    fn text(code: &str) -> (String, String, i32) {
        let output = ask(Language::Python, code, 1000).unwrap();
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        (text(output.stdout), text(output.stderr), output.exit_code)
    }

    #[test]
    fn code_without_comments_is_answered_by_what_it_is() {
        // Digests by `printf 'print(1)' | sha256sum` and `printf in | sha256sum`.
        let expected = "simulated python: code sha256:d287bb7f9d15abdc5b6e98536263815744b6ef21c8f3c839fc434ca70d8efe99 (8 bytes), stdin sha256:582967534d0f909d196b97f9e6921342777aea87b46fa52df165389db1fb8ccf (2 bytes)\n";
        assert_eq!(text("print(1)"), (expected.to_owned(), String::new(), 0));
        let node = ask(Language::Node, "print(1)", 1000).unwrap().stdout;
        assert!(node.starts_with(b"simulated node: code sha256:"));
    }

    #[test]
    fn comments_say_what_is_answered() {
        assert_eq!(text("# theazo:exit 3\nx").2, 3);
        let code = "x\n  #theazo:stdout  two  spaces \n# theazo:stderr bad\n# theazo:env KEY\n# theazo:env NONE\n# theazo:exit 255";
        assert_eq!(text(code), (" two  spaces \n[secret:KEY]\n\n".into(), "bad\n".into(), 255));
        assert_eq!(text("# theazo:fill 3\n# theazo:stdout a").0, "xxxa\n");
        assert!(text("# theazo:stderr only").0.starts_with("simulated python"));
        let node = ask(Language::Node, "// theazo:exit 4\n# theazo:exit 5", 10).unwrap();
        assert_eq!(node.exit_code, 4);
        let late = ask(Language::Bash, "# theazo:stdout partial\n# theazo:timeout", 100).unwrap();
        assert!(late.timed_out && late.exit_code == 124 && late.stdout == "partial\n");
    }

    #[test]
    fn what_is_no_comment_says_nothing() {
        for code in ["print('# theazo:exit 3')", "x # theazo:exit 3", "// theazo:exit 3", "# see theazo:exit 3"] {
            assert_eq!(text(code).2, 0, "{code}");
        }
    }

    #[test]
    fn a_slip_in_a_comment_is_noticed() {
        for slip in ["exit", "exit 256", "exit x", "exit 3 4", "fill -1", "fail now", "env", "Exit 3", "", "timeout 5"]
        {
            let (_, stderr, code) = text(&format!("# theazo:{slip}"));
            assert_eq!((stderr, code), (format!("not understood: theazo:{slip}\n"), 2), "{slip}");
        }
    }

    #[test]
    fn the_provider_fails_when_asked_to() {
        let fail = ask(Language::Bash, "# theazo:fail", 10).err().unwrap();
        assert!(matches!(fail, ProviderError::Failed { retryable: true, status: None, .. }));
        assert!(matches!(ask(Language::Bash, "# theazo:lose", 10), Err(ProviderError::SandboxGone)));
    }

    #[test]
    fn output_is_cut_at_its_cap_and_not_before() {
        for (code, cut) in
            [("# theazo:fill 10", false), ("# theazo:fill 11", true), ("# theazo:fill 18446744073709551615", true)]
        {
            let output = ask(Language::Bash, code, 10).unwrap();
            assert_eq!((output.stdout.len(), output.stdout_truncated, output.stderr_truncated), (10, cut, false));
        }
        let output = ask(Language::Bash, "# theazo:stderr 0123456789", 10).unwrap();
        assert_eq!((output.stderr.len(), output.stderr_truncated), (10, true));
    }
}
