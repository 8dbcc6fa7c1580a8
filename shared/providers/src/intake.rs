//! A guest's answer as it comes in, in whatever pieces, and what it tells before.

use crate::{OutputStream, OutputWatch};
use bytes::Bytes;
use theazo_guest_protocol::{FrameError, MAX_HEADER, MAX_PAYLOAD, Response, decode_header, decode_response};

/// The longest message that can be one, bytes.
pub(crate) const LONGEST_MESSAGE: usize = 4 + MAX_HEADER + MAX_PAYLOAD;

/// What may come around a program's output, bytes: a guest gathers it for 50 ms, so ten minutes of it take less than one
/// MiB of headers.
const ROOM: usize = 2 * 1024 * 1024;

/// What a guest answered, and the payload of it.
pub(crate) type Answered = (Response, Bytes);

/// Takes what a guest says.
#[derive(Clone, Default)]
pub(crate) struct Intake {
    /// Of the message that is not whole yet.
    received: Vec<u8>,
    told: Option<Told>,
}

/// Output that comes before the answer.
#[derive(Clone)]
struct Told {
    watch: OutputWatch,
    /// Most bytes of each stream.
    cap: usize,
    /// Bytes of messages so far, headers and all.
    taken: usize,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Intake {
    /// An exec's, whose output is passed on.
    pub(crate) fn told(watch: OutputWatch, cap: usize) -> Self {
        let told = Told { watch, cap, taken: 0, stdout: Vec::new(), stderr: Vec::new() };
        Self { received: Vec::new(), told: Some(told) }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`FrameError::TooLong`] for more than any guest says; a header that is not understood.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<(), FrameError> {
        if self.received.len() + bytes.len() > LONGEST_MESSAGE {
            return Err(FrameError::TooLong(self.received.len() + bytes.len()));
        }
        self.received.extend_from_slice(bytes);
        let Some(told) = &mut self.told else { return Ok(()) };
        let mut rest = self.received.as_slice();
        while let Some((Response::Output { stdout, stderr }, payload)) = decode_header(rest)? {
            let Some((payload, next)) = payload.split_at_checked(stdout.saturating_add(stderr)) else { break };
            if payload.is_empty() {
                return Err(FrameError::Header);
            }
            told.take(payload.split_at(stdout))?;
            rest = next;
        }
        let done = self.received.len() - rest.len();
        self.received.drain(..done);
        told.taken += done;
        // Crumbs take many times their size until somebody reads them.
        if told.taken > told.cap.saturating_mul(2).saturating_add(ROOM) {
            Err(FrameError::TooLong(told.taken))
        } else {
            Ok(())
        }
    }

    /// The answer with its payload, which is not copied; an exec's with what was told before. What was not is told now.
    ///
    /// # Errors
    /// Those of [`decode_response`]; [`FrameError::Short`] where only output came.
    pub(crate) fn finish(self) -> Result<Answered, FrameError> {
        let (response, payload) = decode_response(&self.received)?;
        let behind_header = self.received.len() - payload.len();
        match (response, self.told) {
            (Response::Output { .. }, _) => Err(FrameError::Short),
            (
                Response::Exec { exit_code, timed_out, stdout, stdout_truncated, stderr_truncated, .. },
                Some(mut told),
            ) => {
                told.take(payload.split_at(stdout))?;
                let (stdout, stderr) = (told.stdout.len(), told.stderr.len());
                let response =
                    Response::Exec { exit_code, timed_out, stdout, stderr, stdout_truncated, stderr_truncated };
                told.stdout.append(&mut told.stderr);
                Ok((response, told.stdout.into()))
            }
            (response, _) => Ok((response, Bytes::from(self.received).slice(behind_header..))),
        }
    }
}

impl Told {
    fn take(&mut self, (stdout, stderr): (&[u8], &[u8])) -> Result<(), FrameError> {
        let kept = [(OutputStream::Stdout, &mut self.stdout, stdout), (OutputStream::Stderr, &mut self.stderr, stderr)];
        for (stream, kept, piece) in kept {
            // A guest keeps to the cap; who speaks in its place, or a broken one, must not fill memory.
            if kept.len() + piece.len() > self.cap {
                return Err(FrameError::TooLong(kept.len() + piece.len()));
            }
            kept.extend_from_slice(piece);
            self.watch.tell(stream, piece);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::OutputPiece;
    use theazo_guest_protocol::write_message;
    use tokio::sync::mpsc::UnboundedReceiver;

    fn wire(messages: &[(Response, &[u8])]) -> Vec<u8> {
        let mut wire = Vec::new();
        for (message, payload) in messages {
            write_message(&mut wire, message, &[payload]).unwrap();
        }
        wire
    }

    fn output(stdout: usize, stderr: usize) -> Response {
        Response::Output { stdout, stderr }
    }

    fn exec(stdout: usize, stderr: usize) -> Response {
        let (exit_code, timed_out, stdout_truncated, stderr_truncated) = (7, false, true, false);
        Response::Exec { exit_code, timed_out, stdout, stderr, stdout_truncated, stderr_truncated }
    }

    fn told(mut pieces: UnboundedReceiver<OutputPiece>) -> Vec<(OutputStream, String)> {
        let mut all = Vec::new();
        while let Ok(OutputPiece { stream, bytes }) = pieces.try_recv() {
            all.push((stream, String::from_utf8(bytes.to_vec()).unwrap()));
        }
        all
    }

    #[test]
    fn an_answer_in_pieces_is_put_together() {
        let wire = wire(&[(Response::File { size: 3, payload: 3 }, b"abc")]);
        for size in 1..=wire.len() {
            let mut intake = Intake::default();
            wire.chunks(size).for_each(|piece| intake.take(piece).unwrap());
            assert_eq!(intake.finish().unwrap(), (Response::File { size: 3, payload: 3 }, Bytes::from("abc")));
        }
    }

    #[test]
    fn output_is_passed_on_as_it_comes_and_is_in_the_answer_too() {
        use OutputStream::{Stderr, Stdout};
        let messages: [(_, &[u8]); 3] = [(output(2, 0), b"ab"), (output(1, 2), b"cxy"), (exec(1, 1), b"dz")];
        let wire = wire(&messages);
        for size in 1..=wire.len() {
            let (watch, pieces) = OutputWatch::new();
            let mut intake = Intake::told(watch, 4);
            wire.chunks(size).for_each(|piece| intake.take(piece).unwrap());
            assert_eq!(intake.finish().unwrap(), (exec(4, 3), Bytes::from("abcdxyz")), "{size}");
            let expected = [(Stdout, "ab"), (Stdout, "c"), (Stderr, "xy"), (Stdout, "d"), (Stderr, "z")];
            assert_eq!(told(pieces), expected.map(|(stream, text)| (stream, text.to_owned())), "{size}");
        }
    }

    #[test]
    fn output_is_passed_on_before_what_follows_it_is_there() {
        let (watch, pieces) = OutputWatch::new();
        let mut intake = Intake::told(watch, 10);
        let wire = wire(&[(output(2, 0), b"ab"), (exec(0, 0), b"")]);
        intake.take(&wire[..wire.len() - 1]).unwrap();
        assert_eq!(told(pieces), [(OutputStream::Stdout, "ab".to_owned())]);
        assert!(matches!(intake.finish(), Err(FrameError::Short)));
    }

    #[test]
    fn a_guest_that_tells_all_with_its_answer_is_understood() {
        let (watch, pieces) = OutputWatch::new();
        let mut intake = Intake::told(watch, 10);
        intake.take(&wire(&[(exec(2, 0), b"ab")])).unwrap();
        assert_eq!(intake.finish().unwrap(), (exec(2, 0), Bytes::from("ab")));
        assert_eq!(told(pieces), [(OutputStream::Stdout, "ab".to_owned())]);
    }

    #[test]
    fn more_output_than_was_asked_for_is_given_up_and_so_is_a_message_without_end() {
        let (watch, pieces) = OutputWatch::new();
        let mut intake = Intake::told(watch, 3);
        let error = intake.take(&wire(&[(output(2, 0), b"ab"), (output(2, 0), b"cd")]));
        assert!(matches!(error, Err(FrameError::TooLong(4))));
        assert_eq!(told(pieces), [(OutputStream::Stdout, "ab".to_owned())]);
        let mut endless = Intake::default();
        let piece = vec![0; LONGEST_MESSAGE / 2];
        assert!(endless.take(&piece).and_then(|()| endless.take(&piece)).is_ok());
        assert!(matches!(endless.take(&[0; 2]), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn output_in_crumbs_without_end_and_output_that_is_none_are_given_up() {
        let crumb = wire(&[(output(1, 0), b"x")]);
        let mut intake = Intake::told(OutputWatch::new().0, ROOM);
        let most = 3 * ROOM / crumb.len();
        assert!((0..most).all(|_| intake.take(&crumb).is_ok()));
        assert!(matches!(intake.take(&crumb).and_then(|()| intake.take(&crumb)), Err(FrameError::TooLong(_))));
        let mut intake = Intake::told(OutputWatch::new().0, 10);
        assert!(matches!(intake.take(&wire(&[(output(0, 0), b"")])), Err(FrameError::Header)));
    }

    #[test]
    fn output_alone_is_no_answer_whoever_asked() {
        let wire = wire(&[(output(1, 0), b"a")]);
        for mut intake in [Intake::default(), Intake::told(OutputWatch::new().0, 9)] {
            intake.take(&wire).unwrap();
            assert!(matches!(intake.finish(), Err(FrameError::Short)));
        }
    }
}
