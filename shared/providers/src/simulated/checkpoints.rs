//! Checkpoints on a simulated disk. Each has copies of the pieces of all files beneath `/data`, and a list of these files,
//! itself in pieces; the index names only those. So a checkpoint and the sandbox share nothing, whatever is written or
//! removed of either.

use super::index::{File, Index};
use super::store::{ATTEMPTS, back_off, contended, make_piece_id};
use super::{MAX_PIECE_BYTES, SimulatedDisk, SimulatedProvider, failed};
use crate::{Kept, ProviderError};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Pieces copied at once, some 4 MB.
const COPIED_AT_ONCE: usize = 16;

/// Files by path.
type Files = BTreeMap<String, File>;

fn pieces_of(files: &Files) -> Vec<String> {
    files.values().flat_map(|file| file.pieces.iter().flatten().cloned()).collect()
}

impl<D: SimulatedDisk> SimulatedProvider<D> {
    /// Keeps the files beneath `/data` of a sandbox that runs.
    pub(super) async fn keep(&self, agent: &str, checkpoint: &str) -> Result<Kept, ProviderError> {
        for attempt in 0..ATTEMPTS {
            let (_, index) = self.load(agent).await?;
            let mut files = index.files.clone();
            files.retain(|path, _| path.starts_with("/data/"));
            // A file that is written meanwhile loses pieces: then the whole is read again.
            let Some(copied) = self.copy(agent, &files, index.gone_by_ms()).await? else {
                back_off(attempt).await?;
                continue;
            };
            let list =
                serde_json::to_vec(&copied).map_err(|_| failed("keep files", false, "a list cannot be written"))?;
            let mut manifest = Vec::new();
            let mut pieces = Vec::new();
            for piece in list.chunks(MAX_PIECE_BYTES) {
                let id = make_piece_id()?;
                manifest.push(id.clone());
                pieces.push((id, Bytes::copy_from_slice(piece)));
            }
            self.disk.put(agent, pieces, index.gone_by_ms()).await?;
            let bytes = copied.values().fold(0, |sum: u64, file| sum.saturating_add(file.size));
            let old =
                self.change(agent, |index| Ok(index.checkpoints.insert(checkpoint.to_owned(), manifest.clone()))).await;
            match old {
                Ok(Some(old)) if old != manifest => self.drop_kept(agent, &old).await,
                Ok(_) => {}
                Err(error) => {
                    self.drop_kept(agent, &manifest).await;
                    return Err(error);
                }
            }
            return Ok(Kept { bytes: Some(bytes) });
        }
        Err(contended("keep files"))
    }

    /// Removes a checkpoint.
    pub(super) async fn remove_kept(&self, agent: &str, checkpoint: &str) -> Result<(), ProviderError> {
        match self.change(agent, |index| Ok(index.checkpoints.remove(checkpoint))).await {
            Ok(Some(manifest)) => {
                self.drop_kept(agent, &manifest).await;
                Ok(())
            }
            Ok(None) | Err(ProviderError::SandboxGone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Removes all of a sandbox but its checkpoints.
    pub(super) async fn discard_all_but_checkpoints(&self, agent: &str) -> Result<(), ProviderError> {
        let discard = |index: &mut Index| {
            (index.stopped, index.discarded) = (true, true);
            index.variables.clear();
            Ok(std::mem::take(&mut index.files))
        };
        match self.change(agent, discard).await {
            Ok(files) => {
                self.discard_pieces(agent, &pieces_of(&files)).await;
                Ok(())
            }
            Err(ProviderError::SandboxGone) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Makes a sandbox as `fresh` on the files of a checkpoint.
    pub(super) async fn put_back(&self, agent: &str, fresh: Index, checkpoint: &str) -> Result<(), ProviderError> {
        let stored = self.disk.index(agent).await?.ok_or(ProviderError::SandboxGone)?;
        let index = Index::parse(&stored.bytes)?;
        let manifest = index.checkpoints.get(checkpoint).ok_or(ProviderError::SandboxGone)?;
        let kept = self.read_list(agent, manifest).await?;
        let files = self.copy(agent, &kept, fresh.gone_by_ms()).await?.ok_or(ProviderError::SandboxGone)?;
        let put = |index: &mut Index| {
            let old = std::mem::take(&mut index.files);
            let checkpoints = std::mem::take(&mut index.checkpoints);
            *index = Index { files: files.clone(), checkpoints, ..fresh.clone() };
            Ok(old)
        };
        match self.change(agent, put).await {
            Ok(old) => {
                let old: Vec<String> = pieces_of(&old);
                let new = pieces_of(&files);
                let lost: Vec<String> = old.into_iter().filter(|id| !new.contains(id)).collect();
                self.discard_pieces(agent, &lost).await;
                Ok(())
            }
            Err(error) => {
                self.discard_pieces(agent, &pieces_of(&files)).await;
                Err(error)
            }
        }
    }

    /// Changes an index, whatever others do to it meanwhile.
    async fn change<T>(
        &self,
        agent: &str,
        change: impl Fn(&mut Index) -> Result<T, ProviderError>,
    ) -> Result<T, ProviderError> {
        for attempt in 0..ATTEMPTS {
            let stored = self.disk.index(agent).await?.ok_or(ProviderError::SandboxGone)?;
            let mut index = Index::parse(&stored.bytes)?;
            let changed = change(&mut index)?;
            if self.disk.replace(agent, stored.revision, index.to_bytes()?, index.gone_by_ms()).await? {
                return Ok(changed);
            }
            back_off(attempt).await?;
        }
        Err(contended("change index"))
    }

    /// The same files with pieces of their own; nothing when one of them was written since.
    async fn copy(&self, agent: &str, files: &Files, gone_by_ms: i64) -> Result<Option<Files>, ProviderError> {
        let mut copied = files.clone();
        let mut places: Vec<&mut String> =
            copied.values_mut().flat_map(|file| file.pieces.iter_mut().flatten()).collect();
        for some in places.chunks_mut(COPIED_AT_ONCE) {
            let old: Vec<String> = some.iter().map(|id| (**id).clone()).collect();
            let found = self.disk.get(agent, &old.iter().map(String::as_str).collect::<Vec<_>>()).await?;
            let mut new = Vec::new();
            for (place, id) in some.iter_mut().zip(&old) {
                let Some(content) = found.get(id) else { return Ok(None) };
                **place = make_piece_id()?;
                new.push(((**place).clone(), content.clone()));
            }
            self.disk.put(agent, new, gone_by_ms).await?;
        }
        Ok(Some(copied))
    }

    async fn read_list(&self, agent: &str, manifest: &[String]) -> Result<Files, ProviderError> {
        let ids: Vec<&str> = manifest.iter().map(String::as_str).collect();
        let mut found = self.disk.get(agent, &ids).await?;
        list_of(ids.into_iter().map(|id| found.remove(id)))
    }

    /// Removes the pieces of a checkpoint that no index names any more.
    async fn drop_kept(&self, agent: &str, manifest: &[String]) {
        let mut pieces = Vec::with_capacity(manifest.len());
        let read = async {
            for id in manifest {
                pieces.push(self.disk.piece(agent, id).await?);
            }
            list_of(pieces.into_iter())
        };
        match read.await {
            Ok(files) => self.discard_pieces(agent, &pieces_of(&files)).await,
            // Its pieces go with the agent's disk.
            Err(error) => tracing::warn!(agent, %error, "what a removed checkpoint had kept stays for now"),
        }
        self.discard_pieces(agent, manifest).await;
    }
}

/// The files that a checkpoint's list tells of, from its pieces.
fn list_of(pieces: impl Iterator<Item = Option<Bytes>>) -> Result<Files, ProviderError> {
    let mut list = Vec::new();
    for piece in pieces {
        list.extend_from_slice(&piece.ok_or(ProviderError::SandboxGone)?);
    }
    serde_json::from_slice(&list).map_err(|_| failed("read a checkpoint", false, "its list is not readable"))
}
