//! Keys in memory: few, for a bounded time, the least recently used first to go.
//!
//! Keys wipe themselves when they are dropped, so leaving the cache is being wiped, as soon as the last request that
//! holds one has ended. Time is the wall clock's, and is looked at when a key is used: a frozen function wakes up with
//! its timers asleep.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;

/// A bounded map of keys.
pub(super) struct Cache<K, V> {
    entries: HashMap<K, Entry<V>>,
    capacity: usize,
    uses: u64,
}

/// A key and when its life in memory ends, Unix milliseconds.
pub(super) struct Kept<V> {
    pub(super) key: Arc<V>,
    pub(super) until_ms: i64,
}

struct Entry<V> {
    kept: Kept<V>,
    last_use: u64,
}

impl<V> Clone for Kept<V> {
    fn clone(&self) -> Self {
        Self { key: self.key.clone(), until_ms: self.until_ms }
    }
}

impl<K: Eq + Hash + Clone, V> Cache<K, V> {
    pub(super) fn new(capacity: usize) -> Self {
        Self { entries: HashMap::new(), capacity, uses: 0 }
    }

    /// Drops every key that is past its time. `longest_ms` is how long a key lives at most: when the clock was set back,
    /// no key may live for longer than that from now.
    pub(super) fn expire(&mut self, now_ms: i64, longest_ms: i64) {
        let latest = now_ms.saturating_add(longest_ms);
        self.entries.retain(|_, entry| now_ms < entry.kept.until_ms && entry.kept.until_ms <= latest);
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// A key, which counts as a use. Call [`Cache::expire`] first.
    pub(super) fn get(&mut self, name: &K) -> Option<Kept<V>> {
        self.uses += 1;
        let entry = self.entries.get_mut(name)?;
        entry.last_use = self.uses;
        Some(entry.kept.clone())
    }

    /// Keeps a key, at the cost of the least recently used one when there is no room.
    pub(super) fn put(&mut self, name: K, kept: Kept<V>) {
        if self.entries.len() >= self.capacity && !self.entries.contains_key(&name) {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.last_use).map(|(name, _)| name.clone());
            if let Some(oldest) = oldest {
                self.entries.remove(&oldest);
            }
        }
        self.uses += 1;
        self.entries.insert(name, Entry { kept, last_use: self.uses });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(value: &str, until_ms: i64) -> Kept<String> {
        Kept { key: Arc::new(value.to_owned()), until_ms }
    }

    fn names(cache: &Cache<u32, String>) -> Vec<u32> {
        let mut names: Vec<_> = cache.entries.keys().copied().collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn the_least_recently_used_key_goes_first_and_there_are_never_more_than_the_bound() {
        let mut cache = Cache::new(3);
        for name in 1..=3 {
            cache.put(name, kept("k", 100));
        }
        assert!(cache.get(&1).is_some());
        cache.put(4, kept("k", 100));
        assert_eq!(names(&cache), [1, 3, 4]);
        // Replacing needs no room.
        cache.put(3, kept("new", 100));
        assert_eq!(names(&cache), [1, 3, 4]);
        for name in 5..50 {
            cache.put(name, kept("k", 100));
            assert!(cache.entries.len() <= 3);
        }
    }

    #[test]
    fn a_key_lives_until_its_time_and_never_for_longer_than_a_life_from_now() {
        let mut cache = Cache::new(3);
        cache.put(1, kept("k", 100));
        cache.expire(99, 100);
        assert!(cache.get(&1).is_some());
        cache.expire(100, 100);
        assert!(cache.get(&1).is_none());
        cache.put(2, kept("k", 1_000));
        // The clock was set back by an hour.
        cache.expire(-3_600_000, 100);
        assert!(cache.get(&2).is_none());
    }

    #[test]
    fn a_key_that_leaves_is_dropped() {
        let mut cache = Cache::new(1);
        let first = Arc::new("k".to_owned());
        let witness = Arc::downgrade(&first);
        cache.put(1, Kept { key: first, until_ms: 100 });
        cache.put(2, kept("k", 100));
        assert!(witness.upgrade().is_none());
    }
}
