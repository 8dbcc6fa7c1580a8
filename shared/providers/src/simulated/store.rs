//! Files in pieces. A write puts new pieces beside the old ones and then replaces the index if nobody else has: a reader
//! sees the old or the new content, and of two writers at once neither is lost.

use super::index::{File, Index, SimulatedPath, piece_count, piece_of};
use super::{MAX_DISK_BYTES, MAX_PIECE_BYTES, SimulatedDisk, SimulatedProvider, failed, now_ms};
use crate::{FilePiece, Kept, ProviderError};
use bytes::Bytes;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;
use theazo_guest_protocol::{MAX_PAYLOAD, WriteAt};

/// How often an index that changes under our hands is read again.
pub(super) const ATTEMPTS: u32 = 40;

/// A write that is ready: the index as it shall be, the pieces that are new, and those that it no longer holds.
struct Change {
    index: Index,
    new: Vec<(String, Bytes)>,
    old: Vec<String>,
}

impl<D: SimulatedDisk> SimulatedProvider<D> {
    /// Gives a sandbox that is there already another environment, and another end.
    pub(super) async fn deliver_again(&self, agent: &str, fresh: Index) -> Result<(), ProviderError> {
        for attempt in 0..ATTEMPTS {
            let stored = self.disk.index(agent).await?.ok_or(ProviderError::SandboxGone)?;
            let before = Index::parse(&stored.bytes)?;
            if before.discarded {
                return Err(ProviderError::SandboxGone);
            }
            let index = Index { files: before.files, checkpoints: before.checkpoints, ..fresh.clone() };
            if self.disk.replace(agent, stored.revision, index.to_bytes()?, index.gone_by_ms()).await? {
                return Ok(());
            }
            back_off(attempt).await?;
        }
        Err(contended("deliver environment"))
    }

    /// Stops a sandbox. What lies beneath `/tmp` and the names of its variables go; its other files stay.
    pub(super) async fn stop_index(&self, agent: &str) -> Result<Kept, ProviderError> {
        for attempt in 0..ATTEMPTS {
            let stored = self.disk.index(agent).await?.ok_or(ProviderError::SandboxGone)?;
            let mut index = Index::parse(&stored.bytes)?;
            if index.discarded {
                return Err(ProviderError::SandboxGone);
            }
            let (kept, lost) = index.files.into_iter().partition(|(path, _)| path.starts_with("/data/"));
            index.files = kept;
            let bytes = Some(index.size());
            if index.stopped {
                return Ok(Kept { bytes });
            }
            index.stopped = true;
            index.variables.clear();
            if self.disk.replace(agent, stored.revision, index.to_bytes()?, index.gone_by_ms()).await? {
                let lost: BTreeMap<String, File> = lost;
                let pieces: Vec<String> = lost.into_values().flat_map(|file| file.pieces).flatten().collect();
                self.discard_pieces(agent, &pieces).await;
                return Ok(Kept { bytes });
            }
            back_off(attempt).await?;
        }
        Err(contended("stop"))
    }

    pub(super) async fn write(
        &self,
        agent: &str,
        path: &SimulatedPath,
        at: Option<WriteAt>,
        data: &[u8],
    ) -> Result<(), ProviderError> {
        let mut written: Vec<String> = Vec::new();
        for attempt in 0..ATTEMPTS {
            let loaded = self.load(agent).await;
            // A replacement that was refused may have been one that had happened, its answer lost.
            if let Ok((_, index)) = &loaded
                && index.holds_any(&written)
            {
                return Ok(());
            }
            self.discard_pieces(agent, &written).await;
            let (revision, index) = loaded?;
            let Some(change) = self.plan(agent, index, path, at, data).await? else {
                back_off(attempt).await?;
                continue;
            };
            let gone_by_ms = change.index.gone_by_ms();
            let bytes = change.index.to_bytes()?;
            written = change.new.iter().map(|(id, _)| id.clone()).collect();
            self.disk.put(agent, change.new, gone_by_ms).await?;
            // After an error here nobody knows whether it happened, and the new pieces stay.
            if self.disk.replace(agent, revision, bytes, gone_by_ms).await? {
                self.discard_pieces(agent, &change.old).await;
                return Ok(());
            }
            back_off(attempt).await?;
        }
        self.discard_pieces(agent, &written).await;
        Err(contended("write file"))
    }

    /// What a write changes; nothing when a piece of the file was replaced since the index was read.
    async fn plan(
        &self,
        agent: &str,
        mut index: Index,
        path: &SimulatedPath,
        at: Option<WriteAt>,
        data: &[u8],
    ) -> Result<Option<Change>, ProviderError> {
        let before = index.writable(path)?.cloned().unwrap_or_default();
        let replaced = at.is_none();
        let start = match at {
            None => 0,
            Some(WriteAt::End) => before.size,
            Some(WriteAt::Offset(offset)) => offset,
        };
        let end = start.checked_add(data.len() as u64).ok_or(ProviderError::NoSpace)?;
        let size = match (replaced, data.is_empty()) {
            (true, _) => end,
            // Writing nothing beyond the end makes no file longer.
            (false, true) => before.size,
            (false, false) => before.size.max(end),
        };
        if index.size() - before.size + size > MAX_DISK_BYTES {
            return Err(ProviderError::NoSpace);
        }
        let kept = if replaced { File::default() } else { before.clone() };
        let Some(contents) = self.pieces(agent, &kept, start, end).await? else { return Ok(None) };

        let mut after = File { size, modified_ms: now_ms(), pieces: kept.pieces };
        after.pieces.resize(piece_count(size), None);
        let mut new = Vec::new();
        for (number, place) in after.pieces.iter_mut().enumerate().take(piece_count(end)).skip(piece_of(start)) {
            let base = (number * MAX_PIECE_BYTES) as u64;
            let first = start.max(base);
            let last = end.min(base + MAX_PIECE_BYTES as u64);
            if first >= last {
                continue;
            }
            let mut content = contents.get(&number).map(|old| old.to_vec()).unwrap_or_default();
            let (from, to) = (within(first, base), within(last, base));
            content.resize(content.len().max(to), 0);
            let piece = data.get(within(first, start)..within(last, start));
            if let (Some(target), Some(piece)) = (content.get_mut(from..to), piece) {
                target.copy_from_slice(piece);
            }
            let id = make_piece_id()?;
            *place = Some(id.clone());
            new.push((id, Bytes::from(content)));
        }
        let still: Vec<&String> = after.pieces.iter().flatten().collect();
        let old = before.pieces.into_iter().flatten().filter(|id| !still.contains(&id)).collect();
        index.files.insert(path.as_str().to_owned(), after);
        Ok(Some(Change { index, new, old }))
    }

    pub(super) async fn read(
        &self,
        agent: &str,
        path: &SimulatedPath,
        offset: u64,
        length: u64,
    ) -> Result<FilePiece, ProviderError> {
        for attempt in 0..ATTEMPTS {
            let (_, index) = self.load(agent).await?;
            let file = index.file(path)?;
            let size = file.size;
            let length = length.min(size.saturating_sub(offset)).min(MAX_PAYLOAD as u64);
            if length == 0 {
                return Ok(FilePiece { data: Bytes::new(), size });
            }
            let end = offset + length;
            if let Some(contents) = self.pieces(agent, file, offset, end).await? {
                let mut data = vec![0; usize::try_from(length).unwrap_or(MAX_PAYLOAD)];
                for (number, content) in contents {
                    let base = (number * MAX_PIECE_BYTES) as u64;
                    let first = offset.max(base);
                    let last = end.min(base + content.len() as u64);
                    if let (Some(target), Some(piece)) = (
                        data.get_mut(within(first, offset)..within(last, offset)),
                        content.get(within(first, base)..within(last, base)),
                    ) {
                        target.copy_from_slice(piece);
                    }
                }
                return Ok(FilePiece { data: data.into(), size });
            }
            back_off(attempt).await?;
        }
        Err(contended("read file"))
    }

    /// The pieces that hold any of a file's bytes from `start` to `end`, by number; nothing when one of them is gone,
    /// because the file was written since its index was read.
    async fn pieces(
        &self,
        agent: &str,
        file: &File,
        start: u64,
        end: u64,
    ) -> Result<Option<HashMap<usize, Bytes>>, ProviderError> {
        let wanted: Vec<(usize, &str)> =
            file.pieces_of(start, end).filter_map(|(number, id)| Some((number, id?))).collect();
        if wanted.is_empty() {
            return Ok(Some(HashMap::new()));
        }
        let ids: Vec<&str> = wanted.iter().map(|(_, id)| *id).collect();
        let found = self.disk.get(agent, &ids).await?;
        Ok(wanted.into_iter().map(|(number, id)| Some((number, found.get(id)?.clone()))).collect())
    }

    /// Removes pieces that no index holds. Those that stay for now go with the sandbox.
    pub(super) async fn discard_pieces(&self, agent: &str, pieces: &[String]) {
        let ids: Vec<&str> = pieces.iter().map(String::as_str).collect();
        if !ids.is_empty()
            && let Err(error) = self.disk.delete(agent, &ids).await
        {
            tracing::warn!(agent, %error, "pieces of a simulated disk stay until it is destroyed");
        }
    }
}

/// A position relative to an earlier one. Both lie in one file, of at most [`MAX_DISK_BYTES`].
fn within(position: u64, base: u64) -> usize {
    usize::try_from(position.saturating_sub(base)).unwrap_or(usize::MAX)
}

pub(super) fn contended(operation: &'static str) -> ProviderError {
    failed(operation, true, "others kept changing the same disk")
}

fn make_random_bytes<const N: usize>() -> Result<[u8; N], ProviderError> {
    let mut bytes = [0; N];
    let no_randomness = |_| failed("make a piece", true, "the operating system gave no randomness");
    getrandom::fill(&mut bytes).map_err(no_randomness)?;
    Ok(bytes)
}

pub(super) fn make_piece_id() -> Result<String, ProviderError> {
    Ok(format!("{:016x}", u64::from_be_bytes(make_random_bytes()?)))
}

/// Waits a random part of a span that doubles with each attempt, at most a quarter of a second.
pub(super) async fn back_off(attempt: u32) -> Result<(), ProviderError> {
    let span_us = (4_000_u32 << attempt.min(6)).min(250_000);
    let random = u16::from_be_bytes(make_random_bytes()?);
    let wait = u64::from(span_us) * u64::from(random) / u64::from(u16::MAX);
    tokio::time::sleep(Duration::from_micros(wait)).await;
    Ok(())
}
