//! The simulated provider's disk, in memory.

use async_trait::async_trait;
use bytes::Bytes;
use std::collections::HashMap;
use std::sync::Mutex;
use theazo_providers::ProviderError;
use theazo_providers::simulated::{SimulatedDisk, StoredIndex};

#[derive(Default)]
struct Kept {
    index: Option<StoredIndex>,
    pieces: HashMap<String, Bytes>,
}

#[derive(Default)]
pub struct Memory(Mutex<HashMap<String, Kept>>);

impl Memory {
    fn with<T>(&self, agent: &str, look: impl FnOnce(&mut Kept) -> T) -> T {
        look(self.0.lock().unwrap().entry(agent.to_owned()).or_default())
    }
}

#[async_trait]
impl SimulatedDisk for Memory {
    async fn make(&self, agent: &str, bytes: Vec<u8>, _: i64) -> Result<bool, ProviderError> {
        Ok(self.with(agent, |kept| {
            let is_new = kept.index.is_none();
            kept.index.get_or_insert(StoredIndex { revision: 1, bytes });
            is_new
        }))
    }

    async fn index(&self, agent: &str) -> Result<Option<StoredIndex>, ProviderError> {
        Ok(self.with(agent, |kept| kept.index.clone()))
    }

    async fn replace(&self, agent: &str, read: u64, bytes: Vec<u8>, _: i64) -> Result<bool, ProviderError> {
        Ok(self.with(agent, |kept| {
            let same = kept.index.as_ref().is_some_and(|index| index.revision == read);
            if same {
                kept.index = Some(StoredIndex { revision: read + 1, bytes });
            }
            same
        }))
    }

    async fn put(&self, agent: &str, pieces: Vec<(String, Bytes)>, _: i64) -> Result<(), ProviderError> {
        self.with(agent, |kept| kept.pieces.extend(pieces));
        Ok(())
    }

    async fn get(&self, agent: &str, ids: &[&str]) -> Result<HashMap<String, Bytes>, ProviderError> {
        let found = |kept: &mut Kept| {
            let pieces = ids.iter().filter_map(|id| Some(((*id).to_owned(), kept.pieces.get(*id)?.clone())));
            pieces.collect()
        };
        Ok(self.with(agent, found))
    }

    async fn delete(&self, agent: &str, ids: &[&str]) -> Result<(), ProviderError> {
        self.with(agent, |kept| kept.pieces.retain(|id, _| !ids.contains(&id.as_str())));
        Ok(())
    }

    async fn remove(&self, agent: &str) -> Result<(), ProviderError> {
        self.0.lock().unwrap().remove(agent);
        Ok(())
    }
}
