//! Carrying what is kept of a stopped agent from one engine to another: its files and its checkpoints, a volume each.
//!
//! A copier on either side runs `tar`, and what one writes is handed to the other piece by piece as it comes. Engines could
//! read and write volumes by themselves (`/containers/{id}/archive`), but they leave out what they cannot read without saying
//! so, drop extended attributes, send the holes of sparse files, refuse links that lead out of the volume, and unpack as
//! root of the host. A copier has no network and can write into the agent's volumes and nowhere else, whatever it is sent:
//! of the host that sends nothing more is believed than what its agent's files are.
//!
//! Nothing that was carried counts before both programs have ended well and as many bytes have come as were sent: an engine
//! may cut off the end of what a container wrote.

use super::copier::{Copier, mount};
use super::failure::{failed, from_engine, timed};
use super::parts::Files;
use super::transport::{Renewal, connect_for_stream};
use super::{CALL_LIMIT, DockerProvider, names};
use crate::{ProviderError, SandboxSpec};
use bollard::container::LogOutput;
use bollard::errors::Error as EngineError;
use bollard::query_parameters::AttachContainerOptionsBuilder;
use futures_util::future::{join, try_join};
use futures_util::{Stream, StreamExt};
use std::collections::HashMap;
use std::pin::Pin;
use std::time::Duration;
use tokio::io::{AsyncWrite, AsyncWriteExt};

const CARRY: &str = "carry files";
/// How long carrying may take. What is left of a boot's time is for the boot.
const CARRY_LIMIT: Duration = Duration::from_secs(14);
/// Where copiers see volumes, by their names.
const FILES: &str = "/files";
/// What both sides keep of files. Owners by number: neither side's names mean anything. Of extended attributes those that an
/// agent can set.
const KEPT: [&str; 7] = [
    "--numeric-owner",
    "--acls",
    "--xattrs",
    "--xattrs-include=user.*",
    "--blocking-factor=64",
    "--quoting-style=escape",
    "--file=-",
];
/// Counts what comes while a program that follows takes it, and says the number last.
const RECEIVE: &str = r#"
exec 3> >(exec wc -c >&2)
counter=$!
tee /dev/fd/3 | "$@"
ended=("${PIPESTATUS[@]}")
exec 3>&-
wait "$counter" && [ "${ended[*]}" = "0 0" ]
"#;
/// Longest that a copier says beside files, from its end.
const SAID: usize = 1024;
/// What `tar --totals` says how much it has written behind.
const TOTAL: &str = "Total bytes written: ";

/// What is carried of a stopped agent.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Whether its own files are.
    pub files: bool,
    /// Ids of its checkpoints. One that is not there is left out.
    pub checkpoints: Vec<String>,
}

/// A volume to carry, and how it is labelled.
struct Volume {
    name: String,
    /// Which checkpoint it is, if it is not the agent's own.
    checkpoint: Option<String>,
}

/// What is written to a copier's standard input.
type Input = Pin<Box<dyn AsyncWrite + Send>>;
/// What a copier writes.
type Output = Pin<Box<dyn Stream<Item = Result<LogOutput, EngineError>> + Send>>;

impl DockerProvider {
    /// Brings a stopped agent's volumes from another engine to this one. What is here of it before goes; there everything
    /// stays. On an error something of it may be here, and a copier on both.
    ///
    /// # Errors
    /// [`ProviderError::SandboxGone`] when its files are not there; [`ProviderError::TimedOut`].
    pub(super) async fn carry_from(
        &self,
        there: &Self,
        spec: &SandboxSpec,
        what: &Carried,
    ) -> Result<(), ProviderError> {
        let name = names::resource_name(&spec.agent)?;
        let volumes = there.to_carry(&spec.agent, &name, what).await?;
        if volumes.is_empty() {
            return Ok(());
        }
        let copier = there.make_copier(&spec.agent, &name, there.sender(spec, &volumes)).await?;
        let carried = self.take_in(there, spec, &name, &volumes, &copier).await;
        let (here, over_there) = join(self.remove_copier(&copier), there.remove_copier(&copier)).await;
        if let Err(error) = over_there {
            // It goes with all that is still there.
            tracing::warn!(agent = spec.agent, %error, "a copier is not removed yet");
        }
        // Its container would be found beside the agent's.
        carried.and(here)
    }

    /// Makes room for an agent's volumes and fills it from a copier that was made on the other engine.
    async fn take_in(
        &self,
        there: &Self,
        spec: &SandboxSpec,
        name: &str,
        volumes: &[Volume],
        sender: &str,
    ) -> Result<(), ProviderError> {
        // What is removed here must not be what is to be carried: two addresses may lead to one engine, whatever was found
        // out of them before.
        let (own, other) = try_join(self.inspect(sender), there.inspect(sender)).await?;
        let other = other.and_then(|found| found.id).ok_or_else(|| failed(CARRY, true, "the copier is gone"))?;
        if own.and_then(|found| found.id) == Some(other) {
            return Err(failed(CARRY, false, "both hosts are one engine"));
        }
        // A mixture with what an earlier move has left would be no copy.
        self.remove_all(&spec.agent, Files::Go).await?;
        for volume in volumes {
            match &volume.checkpoint {
                Some(checkpoint) => self.make_checkpoint_volume(&spec.agent, checkpoint, &volume.name).await?,
                None => self.ensure_volume(spec, &volume.name).await?,
            }
        }
        let receiver = self.make_copier(&spec.agent, name, self.receiver(spec, volumes)).await?;
        let carried = tokio::time::timeout(CARRY_LIMIT, self.stream_from(there, sender, &receiver));
        carried.await.unwrap_or(Err(ProviderError::TimedOut))
    }

    /// What is here of what is to be carried.
    async fn to_carry(&self, agent: &str, name: &str, what: &Carried) -> Result<Vec<Volume>, ProviderError> {
        let mut volumes = Vec::new();
        if what.files {
            self.expect_files(agent, name).await?;
            volumes.push(Volume { name: name.to_owned(), checkpoint: None });
        }
        for checkpoint in &what.checkpoints {
            let volume = names::resource_name(checkpoint)?;
            let found = self.inspect_volume(&volume).await?;
            if found.is_some_and(|found| names::is_ours(Some(&found.labels), &self.config.deployment, agent)) {
                volumes.push(Volume { name: volume, checkpoint: Some(checkpoint.clone()) });
            }
        }
        Ok(volumes)
    }

    fn labels_of(&self, spec: &SandboxSpec, volume: &Volume) -> HashMap<String, String> {
        match &volume.checkpoint {
            Some(checkpoint) => self.checkpoint_labels(&spec.agent, checkpoint),
            None => names::labels(&self.config.deployment, spec),
        }
    }

    fn sender(&self, spec: &SandboxSpec, volumes: &[Volume]) -> Copier {
        let own = ["--create", "--format=posix", "--sparse", "--totals"];
        // The directory above is not the volumes' and has nothing to tell.
        let names = std::iter::once("--").chain(volumes.iter().map(|volume| volume.name.as_str()));
        self.archiver(spec, volumes, own.into_iter().chain(names), false)
    }

    fn receiver(&self, spec: &SandboxSpec, volumes: &[Volume]) -> Copier {
        let own = ["--extract", "--same-owner", "--preserve-permissions"].into_iter();
        let mut receiver = self.archiver(spec, volumes, own, true);
        receiver.command.splice(0..0, ["/bin/bash", "-c", RECEIVE, "receive"].map(str::to_owned));
        receiver
    }

    fn archiver<'a>(
        &self,
        spec: &SandboxSpec,
        volumes: &[Volume],
        own: impl Iterator<Item = &'a str>,
        takes_input: bool,
    ) -> Copier {
        let directory = format!("--directory={FILES}");
        let both = ["/bin/tar", &directory].into_iter().chain(KEPT).map(str::to_owned);
        let command = both.chain(own.map(str::to_owned)).collect();
        let seen = |volume: &Volume| {
            let target = format!("{FILES}/{}", volume.name);
            mount(&volume.name, &target, !takes_input, self.labels_of(spec, volume))
        };
        let mounts = volumes.iter().map(seen).collect();
        Copier { labels: names::labels(&self.config.deployment, spec), mounts, command, takes_input }
    }

    async fn stream_from(&self, there: &Self, sender: &str, receiver: &str) -> Result<(), ProviderError> {
        let (from, to) = try_join(there.attach_sender(sender), self.attach_receiver(receiver)).await?;
        let ((output, renewal), (input, answer)) = (from, to);
        try_join(there.start_copier(sender), self.start_copier(receiver)).await?;
        let sent = async {
            let passed = pass_on(output, input, || renewal.renew()).await?;
            there.await_copier(sender).await?;
            passed.expect_all()?;
            Ok::<_, ProviderError>(passed.bytes)
        };
        let taken = async {
            let said = hear_out(answer).await?;
            self.await_copier(receiver).await?;
            Ok::<_, ProviderError>(said)
        };
        // One that has ended takes nothing more, and what is sent then may wait for ever.
        let (sent, said) = try_join(sent, taken).await?;
        expect_taken(&said, sent)
    }

    /// What a copier writes, before it is started.
    async fn attach_sender(&self, copier: &str) -> Result<(Output, Renewal), ProviderError> {
        let (docker, renewal) = connect_for_stream(&self.config.endpoint)?;
        let options = attaching().stdout(true).stderr(true).build();
        let attached = timed(CALL_LIMIT, docker.attach_container(copier, Some(options))).await;
        Ok((attached.map_err(|error| from_engine("attach", error))?.output, renewal))
    }

    /// What a copier reads, likewise, and what it says.
    async fn attach_receiver(&self, copier: &str) -> Result<(Input, Output), ProviderError> {
        let options = attaching().stdin(true).stderr(true).build();
        let attached = timed(CALL_LIMIT, self.docker.attach_container(copier, Some(options))).await;
        let attached = attached.map_err(|error| from_engine("attach", error))?;
        Ok((attached.input, attached.output))
    }
}

fn attaching() -> AttachContainerOptionsBuilder {
    AttachContainerOptionsBuilder::default().stream(true)
}

/// All that a receiver says, from its end.
async fn hear_out(
    mut output: impl Stream<Item = Result<LogOutput, EngineError>> + Unpin,
) -> Result<Vec<u8>, ProviderError> {
    let mut heard = Passed::default();
    while let Some(piece) = output.next().await {
        if let LogOutput::StdErr { message } = piece.map_err(|error| from_engine(CARRY, error))? {
            heard.hear(&message);
        }
    }
    Ok(heard.said)
}

/// The receiver has got as many bytes as it was sent. That its program ended well does not say so: `tar` takes an
/// archive that ends between two files for whole.
fn expect_taken(said: &[u8], sent: u64) -> Result<(), ProviderError> {
    let said = String::from_utf8_lossy(said);
    match said.lines().last().and_then(|line| line.trim().parse::<u64>().ok()) {
        Some(taken) if taken == sent => Ok(()),
        Some(_) => Err(failed(CARRY, true, "not everything that was sent has come")),
        None => Err(failed(CARRY, true, "nobody says how much has come")),
    }
}

/// What went from one copier to the other.
#[derive(Debug, Default)]
struct Passed {
    bytes: u64,
    /// What the sender said beside that, from its end.
    said: Vec<u8>,
}

impl Passed {
    fn hear(&mut self, message: &[u8]) {
        self.said.extend_from_slice(message);
        self.said.drain(..self.said.len().saturating_sub(SAID));
    }

    /// Everything came that the sender has written.
    fn expect_all(&self) -> Result<(), ProviderError> {
        let said = String::from_utf8_lossy(&self.said);
        let total = said.lines().rev().find_map(|line| line.strip_prefix(TOTAL));
        let total = total.and_then(|total| total.split(' ').next()?.parse::<u64>().ok());
        match total {
            Some(total) if total == self.bytes => Ok(()),
            Some(_) => Err(failed(CARRY, true, "the end was cut off")),
            None => Err(failed(CARRY, false, "nobody says how much there is to carry")),
        }
    }
}

/// Hands on what a copier writes and ends the other's input with it. Nothing is taken before what came before is handed on.
async fn pass_on(
    mut output: impl Stream<Item = Result<LogOutput, EngineError>> + Unpin,
    mut input: impl AsyncWrite + Unpin,
    taken: impl Fn(),
) -> Result<Passed, ProviderError> {
    let not_taken = |_| failed(CARRY, true, "the connection to the receiving engine broke");
    let mut passed = Passed::default();
    while let Some(piece) = output.next().await {
        match piece.map_err(|error| from_engine(CARRY, error))? {
            LogOutput::StdOut { message } => {
                input.write_all(&message).await.map_err(not_taken)?;
                passed.bytes += message.len() as u64;
            }
            LogOutput::StdErr { message } => passed.hear(&message),
            LogOutput::StdIn { .. } | LogOutput::Console { .. } => {
                return Err(failed(CARRY, false, "the engine's answer was not understood"));
            }
        }
        taken();
    }
    input.shutdown().await.map_err(not_taken)?;
    Ok(passed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use futures_util::stream;
    use std::cell::Cell;

    fn wrote(bytes: &'static [u8]) -> Result<LogOutput, EngineError> {
        Ok(LogOutput::StdOut { message: Bytes::from_static(bytes) })
    }

    fn said(words: &'static str) -> Result<LogOutput, EngineError> {
        Ok(LogOutput::StdErr { message: Bytes::from_static(words.as_bytes()) })
    }

    #[tokio::test]
    async fn what_comes_in_pieces_is_handed_on_whole_and_its_length_is_held_against_what_was_said() {
        let (mut taken, pieces) = (Vec::new(), Cell::new(0));
        let output = stream::iter([wrote(b"abc"), said("Total byt"), wrote(b"de"), said("es written: 5 (5B, 1B/s)\n")]);
        let passed = pass_on(output, &mut taken, || pieces.set(pieces.get() + 1)).await.unwrap();
        assert_eq!((taken.as_slice(), pieces.get()), (b"abcde".as_slice(), 4));
        passed.expect_all().unwrap();
    }

    #[tokio::test]
    async fn what_is_shorter_than_it_was_said_to_be_has_not_come() {
        for (last, told) in [
            (said("Total bytes written: 6 (6B, 1B/s)\n"), "the end was cut off"),
            (said("tar: something else\n"), "nobody says"),
            (said("Total bytes written: many\n"), "nobody says"),
        ] {
            let passed = pass_on(stream::iter([wrote(b"abcde"), last]), tokio::io::sink(), || {}).await.unwrap();
            let refused = passed.expect_all().unwrap_err().to_string();
            assert!(refused.contains(told), "{refused}");
        }
    }

    #[tokio::test]
    async fn what_has_come_is_held_against_what_was_sent() {
        let heard = |words: &'static [&'static str]| hear_out(stream::iter(words.iter().map(|words| said(words))));
        let whole = heard(&["tar: odd: something\n", "10", "240\n"]).await.unwrap();
        expect_taken(&whole, 10_240).unwrap();
        for (words, told) in
            [(&["10239\n"][..], "not everything"), (&[], "nobody says"), (&["tar: 10240 or so\n"], "nobody says")]
        {
            let refused = expect_taken(&heard(words).await.unwrap(), 10_240).unwrap_err().to_string();
            assert!(refused.contains(told), "{refused}");
        }
        let broken = stream::iter([said("10240\n"), Err(EngineError::RequestTimeoutError)]);
        assert!(hear_out(broken).await.is_err());
    }

    /// What a receiver says of so much of an archive, and whether it has ended well.
    fn receives(archive: &[u8], to: &std::path::Path) -> (bool, Vec<u8>) {
        use std::io::Write as _;
        use std::process::{Command, Stdio};
        let mut command = Command::new("bash");
        command.args(["-c", RECEIVE, "receive", "tar", "--extract", "--blocking-factor=64", "--file=-", "--directory"]);
        let mut child = command.arg(to).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        // It may end before it has taken all.
        let _ = child.stdin.take().unwrap().write_all(archive);
        let ended = child.wait_with_output().unwrap();
        (ended.status.success(), ended.stderr)
    }

    #[test]
    fn an_archive_that_was_cut_off_between_two_files_has_not_come() {
        let folder = std::env::temp_dir().join(format!("theazo-receives-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("from")).unwrap();
        std::fs::create_dir_all(folder.join("to")).unwrap();
        for name in 0..40 {
            std::fs::write(folder.join(format!("from/{name}")), b"some").unwrap();
        }
        let mut tar = std::process::Command::new("tar");
        tar.args(["--create", "--blocking-factor=64", "--file=-", "--directory"]).arg(&folder).arg("from");
        let archive = tar.output().unwrap().stdout;
        let sent = archive.len() as u64;
        let (ended_well, said) = receives(&archive, &folder.join("to"));
        assert!(ended_well, "{}", String::from_utf8_lossy(&said));
        expect_taken(&said, sent).unwrap();
        let mut well = 0;
        for blocks in 1..archive.len() / 512 {
            let (ended_well, said) = receives(&archive[..blocks * 512], &folder.join("to"));
            well += usize::from(ended_well);
            assert!(!ended_well || expect_taken(&said, sent).is_err(), "{blocks} blocks are not all");
        }
        assert!(well > 0, "`tar` by itself does not notice");
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[tokio::test]
    async fn a_sender_that_says_much_is_heard_to_its_end() {
        let noise = std::iter::repeat_with(|| said("tar: ./a name: socket ignored\n")).take(1000);
        let output = stream::iter(noise.chain([said("Total bytes written: 0 (0B, 0B/s)\n")]));
        let passed = pass_on(output, tokio::io::sink(), || {}).await.unwrap();
        assert_eq!(passed.said.len(), SAID);
        passed.expect_all().unwrap();
    }

    #[tokio::test]
    async fn an_engine_that_breaks_off_or_takes_nothing_is_no_good_end() {
        let broken = Err(EngineError::RequestTimeoutError);
        let cut = pass_on(stream::iter([wrote(b"abc"), broken]), tokio::io::sink(), || {}).await;
        assert!(matches!(cut, Err(ProviderError::TimedOut)));
        let (ours, theirs) = tokio::io::duplex(1);
        drop(theirs);
        let refused = pass_on(stream::iter([wrote(b"abc")]), ours, || {}).await.unwrap_err();
        assert!(refused.to_string().contains("receiving engine broke"), "{refused}");
        let odd = stream::iter([Ok(LogOutput::Console { message: Bytes::from_static(b"x") })]);
        assert!(pass_on(odd, tokio::io::sink(), || {}).await.is_err());
    }
}
