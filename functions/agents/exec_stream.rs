//! Output of code while it runs, as events: what the answer in one piece would have of each output, in the same order,
//! masked and encoded alike. `output` gives some of one, `result` how it ended, `error` why it did not.

use super::exec::{Encoding, Run, name_cut};
use super::exec_record::MaskedOutput;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use serde_json::{Value, json};
use theazo_http::{Answer, ApiError, LateOutcome, StreamLimits, sse_event};
use theazo_providers::{OutputPiece, OutputStream, OutputWatch};
use theazo_redaction::Redactor;
use theazo_tenancy::RequestId;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// Most bytes of output in one event, before they are escaped or encoded.
const EVENT_BYTES: usize = 32 * 1024;

/// Masked bytes of an output.
type Piece = (OutputStream, Bytes);

/// Runs code and gives its output while it does.
pub(super) fn answer(
    limits: StreamLimits,
    id: RequestId,
    late: LateOutcome,
    mut run: Run,
    encoding: Encoding,
) -> Answer {
    // Output waits in memory for whoever reads it slowly: at most both caps, and what it takes to keep pieces apart.
    let (masked, pieces) = unbounded_channel();
    let work = async move {
        let (watch, raw) = OutputWatch::new();
        run.request.watch = Some(watch);
        let redactor = run.redactor.clone();
        let (ran, telling) = tokio::join!(run.finish(), Masking::new(&redactor, masked).pass_on(raw));
        telling.end(&ran);
        ran.map(|output| sse_event("result", None, &result(&output)))
    };
    Answer::events_of(limits, id, late, shown(pieces, encoding), work)
}

fn result(output: &MaskedOutput) -> Value {
    let mut shown = json!({ "exitCode": output.exit_code });
    name_cut(&mut shown, output.stdout_cut, output.stderr_cut);
    shown
}

/// Masks both outputs on their way.
struct Masking<'r> {
    stdout: theazo_redaction::Stream<'r>,
    stderr: theazo_redaction::Stream<'r>,
    to: UnboundedSender<Piece>,
}

impl<'r> Masking<'r> {
    fn new(redactor: &'r Redactor, to: UnboundedSender<Piece>) -> Self {
        Self { stdout: redactor.stream(), stderr: redactor.stream(), to }
    }

    async fn pass_on(mut self, mut raw: UnboundedReceiver<OutputPiece>) -> Self {
        while let Some(OutputPiece { stream, bytes }) = raw.recv().await {
            let mut masked = Vec::new();
            match stream {
                OutputStream::Stdout => self.stdout.push(&bytes, &mut masked),
                OutputStream::Stderr => self.stderr.push(&bytes, &mut masked),
            }
            send(&self.to, stream, masked);
        }
        self
    }

    /// Passes on what was held back. Of an output that was cut, the last bytes may be the beginning of a value; so may they
    /// be where it is not known how far the code got.
    fn end(self, ran: &Result<MaskedOutput, ApiError>) {
        let (stdout_cut, stderr_cut) =
            ran.as_ref().map_or((true, true), |output| (output.stdout_cut, output.stderr_cut));
        for (stream, mask, is_cut) in
            [(OutputStream::Stdout, self.stdout, stdout_cut), (OutputStream::Stderr, self.stderr, stderr_cut)]
        {
            let mut masked = Vec::new();
            if is_cut {
                mask.finish_truncated(&mut masked)
            } else {
                mask.finish(&mut masked)
            }
            send(&self.to, stream, masked);
        }
    }
}

/// That nobody takes it is no error: code runs on when its caller has gone.
fn send(to: &UnboundedSender<Piece>, stream: OutputStream, masked: Vec<u8>) {
    let masked = Bytes::from(masked);
    for from in (0..masked.len()).step_by(EVENT_BYTES) {
        let _ = to.send((stream, masked.slice(from..masked.len().min(from + EVENT_BYTES))));
    }
}

/// The events of pieces, when they are asked for.
fn shown(pieces: UnboundedReceiver<Piece>, encoding: Encoding) -> impl futures_util::Stream<Item = Bytes> + Send {
    let state = (pieces, Encoder::of(encoding), Encoder::of(encoding), false);
    let events = stream::unfold(state, move |(mut pieces, mut stdout, mut stderr, is_over)| async move {
        if is_over {
            return None;
        }
        let (events, is_over) = match pieces.recv().await {
            Some((OutputStream::Stdout, bytes)) => (event("stdout", &stdout.push(&bytes)), false),
            Some((OutputStream::Stderr, bytes)) => (event("stderr", &stderr.push(&bytes)), false),
            None => (event("stdout", &stdout.end()) + &event("stderr", &stderr.end()), true),
        };
        Some((events, (pieces, stdout, stderr, is_over)))
    });
    events.filter_map(async |events: String| (!events.is_empty()).then(|| Bytes::from(events)))
}

fn event(name: &str, text: &str) -> String {
    if text.is_empty() { String::new() } else { sse_event("output", None, &json!({ name: text })) }
}

/// Makes of an output's pieces what, put together, is made of all of it at once.
enum Encoder {
    Utf8(Text),
    /// With the bytes that are not three yet.
    Base64(Vec<u8>),
}

impl Encoder {
    fn of(encoding: Encoding) -> Self {
        match encoding {
            Encoding::Utf8 => Self::Utf8(Text::default()),
            Encoding::Base64 => Self::Base64(Vec::new()),
        }
    }

    fn push(&mut self, bytes: &[u8]) -> String {
        match self {
            Self::Utf8(text) => text.push(bytes),
            Self::Base64(begun) => {
                begun.extend_from_slice(bytes);
                let rest = begun.split_off(begun.len() / 3 * 3);
                STANDARD.encode(std::mem::replace(begun, rest))
            }
        }
    }

    fn end(&mut self) -> String {
        match self {
            Self::Utf8(text) => text.end(),
            Self::Base64(begun) => STANDARD.encode(std::mem::take(begun)),
        }
    }
}

/// Bytes as text, however they are cut: what [`String::from_utf8_lossy`] makes of all of them.
#[derive(Default)]
struct Text {
    /// The beginning of a character.
    begun: Vec<u8>,
}

impl Text {
    fn push(&mut self, bytes: &[u8]) -> String {
        self.begun.extend_from_slice(bytes);
        let mut text = String::new();
        let mut rest = self.begun.as_slice();
        let begun = loop {
            let error = match std::str::from_utf8(rest) {
                Ok(valid) => {
                    text.push_str(valid);
                    break &[][..];
                }
                Err(error) => error,
            };
            let (valid, after) = rest.split_at(error.valid_up_to());
            text.push_str(&String::from_utf8_lossy(valid));
            match error.error_len() {
                // It may go on.
                None => break after,
                Some(length) => {
                    text.push(char::REPLACEMENT_CHARACTER);
                    rest = after.get(length..).unwrap_or_default();
                }
            }
        };
        self.begun = begun.to_vec();
        text
    }

    fn end(&mut self) -> String {
        String::from_utf8_lossy(&std::mem::take(&mut self.begun)).into_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use theazo_redaction::Masked;
    use theazo_vault::SecretValue;

    fn pieces(of: &[(OutputStream, &[u8])]) -> UnboundedReceiver<Piece> {
        let (to, pieces) = unbounded_channel();
        of.iter().for_each(|(stream, bytes)| send(&to, *stream, bytes.to_vec()));
        pieces
    }

    async fn events(pieces: UnboundedReceiver<Piece>, encoding: Encoding) -> String {
        let all: Vec<Bytes> = shown(pieces, encoding).collect().await;
        String::from_utf8(all.concat()).unwrap()
    }

    #[test]
    fn text_and_base64_are_the_same_however_their_bytes_are_cut() {
        let bytes = [
            "a\u{fc}\u{20ac}\u{1f980}".as_bytes(),
            b"\xff\xf0\x9f\xa6z\xc3\x28\xe2\x82\xed\xa0\x80\xf4\x90\x80\x80 \xe2\x82",
        ]
        .concat();
        for size in 1..=bytes.len() {
            for (encoding, expected) in [
                (Encoding::Utf8, String::from_utf8_lossy(&bytes).into_owned()),
                (Encoding::Base64, STANDARD.encode(&bytes)),
            ] {
                let mut encoder = Encoder::of(encoding);
                let mut all: String = bytes.chunks(size).map(|chunk| encoder.push(chunk)).collect();
                all.push_str(&encoder.end());
                assert_eq!(all, expected, "{size}");
            }
        }
    }

    #[tokio::test]
    async fn events_say_which_output_and_never_nothing() {
        use OutputStream::{Stderr, Stdout};
        let euro = "\u{20ac}".as_bytes();
        let cut = [(Stdout, &b"a\n"[..]), (Stdout, &euro[..1]), (Stderr, &b"\xff"[..]), (Stdout, &euro[1..])];
        let expected = ["stdout\":\"a\\n", "stderr\":\"\u{fffd}", "stdout\":\"\u{20ac}"]
            .map(|told| format!("event: output\ndata: {{\"{told}\"}}\n\n"))
            .concat();
        assert_eq!(events(pieces(&cut), Encoding::Utf8).await, expected);
        let unfinished = events(pieces(&[(Stderr, &euro[..2])]), Encoding::Utf8).await;
        assert_eq!(unfinished, "event: output\ndata: {\"stderr\":\"\u{fffd}\"}\n\n");
        let exact = events(pieces(&[(Stdout, b"\xff")]), Encoding::Base64).await;
        assert_eq!(exact, "event: output\ndata: {\"stdout\":\"/w==\"}\n\n");
    }

    #[tokio::test]
    async fn much_output_is_many_events() {
        let much = vec![b'x'; 2 * EVENT_BYTES + 1];
        let told = events(pieces(&[(OutputStream::Stdout, &much)]), Encoding::Utf8).await;
        assert_eq!(told.matches("event: output").count(), 3);
        assert_eq!(told.matches('x').count(), much.len());
    }

    #[tokio::test]
    async fn a_value_that_comes_in_crumbs_is_masked_and_one_that_is_cut_off_too() {
        let value = SecretValue::from_bytes(b"hunter2-hunter2".to_vec());
        let redactor = Redactor::new([Masked { name: "TOKEN", value: &value }]);
        let cut = || Err(ApiError::internal());
        for (printed, ran, expected) in
            [("<hunter2-hunter2>", cut(), "<[secret:TOKEN]>"), ("<hunter2-hunt", cut(), "<[secret:TOKEN]")]
        {
            let (to, mut masked) = unbounded_channel();
            let (watch, raw) = OutputWatch::new();
            printed.bytes().for_each(|byte| watch.tell(OutputStream::Stderr, &[byte]));
            drop(watch);
            Masking::new(&redactor, to).pass_on(raw).await.end(&ran);
            let mut all = Vec::new();
            while let Some((stream, bytes)) = masked.recv().await {
                assert_eq!(stream, OutputStream::Stderr);
                all.extend_from_slice(&bytes);
            }
            assert_eq!(String::from_utf8(all).unwrap(), expected);
        }
    }
}
