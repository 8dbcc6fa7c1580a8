//! `POST /v1/agents/{id}/exec`

use super::exec_record::{ExecRecord, MaskedOutput, within_escaped};
use super::{Sandboxes, exec_stream, mask, noted, refuse, usable};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::future::try_join3;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::sync::Arc;
use std::time::Duration;
use theazo_http::{Answer, ApiError, Call, ErrorCode, Fields, MAX_ANSWER_BYTES};
use theazo_providers::{AgentRef, ExecRequest, Language, Provider};
use theazo_redaction::Redactor;
use theazo_store::{Agent, AgentCopies, Agents, LogWriter, Measurements, Pending, Replays};
use theazo_tenancy::{Principal, ReadScope, TenantScope};

const MAX_CODE: usize = 1024 * 1024;
const MAX_STDIN: usize = 4 * 1024 * 1024;
const OUTPUT_CAP: usize = 1024 * 1024;
const DEFAULT_TIMEOUT_MS: i64 = 120_000;
const MAX_TIMEOUT_MS: i64 = 10 * 60 * 1000;
/// Room in an answer for everything but the two outputs.
const ENVELOPE: usize = 1024;

/// How output is shown.
#[derive(Clone, Copy)]
pub(super) enum Encoding {
    /// As text.
    Utf8,
    /// As it is.
    Base64,
}

/// What a request asks for.
struct Asked {
    request: ExecRequest,
    encoding: Encoding,
    stream: bool,
}

/// Runs code in an agent. A non-zero exit code is a result, not an error. After a 5xx the same request is given the same
/// answer for a minute instead of running again: clients repeat such calls by themselves. Code that runs long has its
/// connection kept alive; whoever asks for a stream is given the output while it runs.
pub async fn handle(
    call: Call,
    agents: Agents,
    replays: Replays,
    copies: AgentCopies,
    sandboxes: Sandboxes,
    log: LogWriter,
    measurements: Measurements,
) -> Result<Answer, ApiError> {
    let digest = digest(&call);
    let read = |scope: ReadScope| {
        let (call, agents, replays, copies) = (&call, &agents, &replays, &copies);
        async move {
            let id = call.request().agent_id()?;
            let asked = parse(&call.request().fields(false)?)?;
            let (agent, replay, sealed) =
                try_join3(agents.get(&scope, &id), replays.recall(&scope, &digest), copies.load(&scope, &id)).await?;
            Ok((asked, agent, replay, sealed))
        }
    };
    let (principal, (asked, agent, replay, sealed)) = call.authenticate_with(read).await?;
    let scope = principal.scope();
    let agent = agent.filter(|agent| scope.sees(&agent.session)).ok_or_else(ApiError::not_found)?;
    if let Some(failure) = replay.as_deref().and_then(ApiError::from_json) {
        return Err(failure);
    }
    // First of all, whether it takes calls: an agent that is over has no copies any more, one that boots has none yet.
    let sandbox = usable(&principal, &agent, &sandboxes).await?;
    // Before anything runs: what cannot be masked is not run.
    let redactor = Arc::new(mask::redactor(&scope, &agent, &agents, &copies, &sealed).await?);
    let (limits, id, late) = (call.streams(), call.request().id.clone(), call.late());
    let Asked { request, encoding, stream } = asked;
    let repeats = Repeats { replays, digest };
    let unfrozen = log.pending();
    let run =
        Run { request, redactor, sandbox, principal, agent, repeats, agents, sandboxes, log, measurements, unfrozen };
    if stream {
        return Ok(exec_stream::answer(limits, id, late, run, encoding));
    }
    let work = async move { Answer::json(200, &show(run.finish().await?, encoding)) };
    Answer::kept_alive(limits, id, late, work).await
}

/// What is known of the same request made before.
struct Repeats {
    replays: Replays,
    digest: [u8; 32],
}

impl Repeats {
    /// Has a failure of ours or of the provider's answer the next ones for a minute.
    async fn remember(&self, scope: &TenantScope, failure: &ApiError) {
        if failure.code().status() >= 500
            && let Err(error) = self.replays.remember(scope, &self.digest, failure.to_json()).await
        {
            tracing::warn!(%error, "a repeated exec may run again");
        }
    }
}

/// Code that may run, and what is done with it.
pub(super) struct Run {
    pub(super) request: ExecRequest,
    pub(super) redactor: Arc<Redactor>,
    sandbox: (Arc<dyn Provider>, AgentRef),
    principal: Principal,
    agent: Agent,
    repeats: Repeats,
    agents: Agents,
    sandboxes: Sandboxes,
    log: LogWriter,
    measurements: Measurements,
    /// A function that is frozen would leave the code running, and its caller's next request would find this one's end.
    unfrozen: Pending,
}

impl Run {
    /// Runs it, and leaves an entry and a figure of that.
    pub(super) async fn finish(self) -> Result<MaskedOutput, ApiError> {
        let Self { request, redactor, sandbox: (provider, sandbox), principal, agent, agents, sandboxes, .. } = self;
        let _unfrozen = self.unfrozen;
        let scope = principal.scope();
        let record = ExecRecord::begin(&request, &redactor);
        let timeout = request.timeout;
        let ran = match noted(&scope, &agent, &agents, timeout, provider.exec(&sandbox, request)).await {
            Ok(output) if output.timed_out => Err(timed_out(timeout)),
            Ok(output) => Ok(MaskedOutput::of(&output, &redactor)),
            Err(error) => Err(refuse("code", error, &principal, &agent, &agents, &sandboxes).await),
        };
        // An exec changes no row, so there is no write for its entry and its figures to go with.
        if let Some(measured) = record.measured(&ran) {
            self.measurements.exec(&scope, &agent, measured);
        }
        self.log.later(&scope, record.end(&agent, &ran).into_iter().collect());
        if let Err(failure) = &ran {
            self.repeats.remember(&scope, failure).await;
        }
        ran
    }
}

fn timed_out(limit: Duration) -> ApiError {
    let ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    ApiError::new(ErrorCode::Timeout, "the code ran past its time limit and was ended").detail("timeoutMs", ms)
}

/// What makes two execs the same: the credential, the agent and the body.
fn digest(call: &Call) -> [u8; 32] {
    let request = call.request();
    let credential = request.headers.get(http::header::AUTHORIZATION).map_or(&[][..], |value| value.as_bytes());
    let mut hash = Sha256::new();
    for part in [credential, request.raw_path.as_bytes(), &request.body] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.finalize().into()
}

fn parse(fields: &Fields) -> Result<Asked, ApiError> {
    let language = match fields.required_text("language", 64)? {
        "python" => Language::Python,
        "node" => Language::Node,
        "bash" => Language::Bash,
        "go" => return Err(ApiError::not_built("language.go")),
        _ => return Err(ApiError::invalid("language", "must be python, node, bash or go")),
    };
    let timeout = fields.duration_ms("timeout", 1, MAX_TIMEOUT_MS)?.unwrap_or(DEFAULT_TIMEOUT_MS);
    let encoding = fields.one_of("encoding", parse_encoding)?.unwrap_or(Encoding::Utf8);
    let stdin = fields.text("stdin", MAX_STDIN)?.unwrap_or_default();
    let request = ExecRequest {
        language,
        code: fields.required_text("code", MAX_CODE)?.to_owned(),
        timeout: Duration::from_millis(u64::try_from(timeout).unwrap_or(0)),
        stdin: Bytes::copy_from_slice(stdin.as_bytes()),
        output_cap: OUTPUT_CAP,
        watch: None,
    };
    Ok(Asked { request, encoding, stream: fields.flag("stream")?.unwrap_or(false) })
}

fn parse_encoding(name: &str) -> Option<Encoding> {
    match name {
        "utf-8" => Some(Encoding::Utf8),
        "base64" => Some(Encoding::Base64),
        _ => None,
    }
}

/// The result, with `truncated` naming the streams that were cut. Escaping can make text six times as long; what
/// would not fit into an answer is cut as well.
fn show(output: MaskedOutput, encoding: Encoding) -> Value {
    let budget = (MAX_ANSWER_BYTES - ENVELOPE) / 2;
    let (stdout, stdout_cut) = encode(&output.stdout, encoding, budget);
    let (stderr, stderr_cut) = encode(&output.stderr, encoding, budget);
    let mut shown = json!({ "stdout": stdout, "stderr": stderr, "exitCode": output.exit_code });
    name_cut(&mut shown, output.stdout_cut || stdout_cut, output.stderr_cut || stderr_cut);
    shown
}

/// Names the outputs that were cut, if any were.
pub(super) fn name_cut(shown: &mut Value, stdout: bool, stderr: bool) {
    let cut = [("stdout", stdout), ("stderr", stderr)];
    let cut: Vec<&str> = cut.into_iter().filter(|(_, cut)| *cut).map(|(name, _)| name).collect();
    if !cut.is_empty() {
        shown["truncated"] = cut.into();
    }
}

fn encode(bytes: &[u8], encoding: Encoding, budget: usize) -> (String, bool) {
    match encoding {
        // Masking can make an output longer than what was captured.
        Encoding::Base64 => match bytes.split_at_checked(budget / 4 * 3) {
            Some((kept, rest)) if !rest.is_empty() => (STANDARD.encode(kept), true),
            _ => (STANDARD.encode(bytes), false),
        },
        Encoding::Utf8 => {
            let text = String::from_utf8_lossy(bytes);
            match within_escaped(&text, budget) {
                kept if kept.len() < text.len() => (kept.to_owned(), true),
                _ => (text.into_owned(), false),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agents::support::fields;
    use theazo_providers::ExecOutput;

    fn output(stdout: Vec<u8>, stderr: Vec<u8>) -> MaskedOutput {
        let output = ExecOutput {
            stdout: stdout.into(),
            stderr: stderr.into(),
            exit_code: 7,
            timed_out: false,
            stdout_truncated: false,
            stderr_truncated: true,
        };
        MaskedOutput::of(&output, &Redactor::new([]))
    }

    #[test]
    fn bytes_that_are_not_text_are_replaced_or_encoded() {
        let shown = show(output(b"a\xffb".to_vec(), vec![]), Encoding::Utf8);
        assert_eq!(shown, json!({"stdout": "a\u{fffd}b", "stderr": "", "exitCode": 7, "truncated": ["stderr"]}));
        let shown = show(output(b"a\xffb".to_vec(), vec![]), Encoding::Base64);
        assert_eq!(shown["stdout"], "Yf9i");
    }

    #[test]
    fn code_has_two_minutes_unless_it_says_otherwise_and_at_most_ten() {
        let timeout = |body: &Value| -> Result<u64, ApiError> {
            parse(&fields(body)).map(|asked| asked.request.timeout.as_secs())
        };
        assert_eq!(timeout(&json!({ "language": "bash", "code": ":" })).ok(), Some(120));
        for (asked, seconds) in [("10m", Some(600)), ("601s", None), ("0s", None)] {
            let body = json!({ "language": "bash", "code": ":", "timeout": asked });
            assert_eq!(timeout(&body).ok(), seconds, "{asked}");
        }
    }

    #[test]
    fn the_worst_output_still_fits_into_an_answer() {
        for byte in [0x01, 0xff, b'"', b'a'] {
            for encoding in [Encoding::Utf8, Encoding::Base64] {
                let worst = output(vec![byte; OUTPUT_CAP], vec![byte; OUTPUT_CAP]);
                assert!(show(worst, encoding).to_string().len() <= MAX_ANSWER_BYTES, "{byte}");
            }
        }
        let worst = show(output(vec![1; OUTPUT_CAP], vec![]), Encoding::Utf8);
        assert_eq!(worst["truncated"], json!(["stdout", "stderr"]));
    }
}
