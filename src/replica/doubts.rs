//! Stored items that differ from what LaunchDarkly sent and may be newer. Pure.
//!
//! A peer may have received a change that this relay's own stream has not delivered yet. So such an
//! item is left alone at first, and corrected when the same content is found again five seconds
//! later, if LaunchDarkly has sent something after the change should have reached this relay.

use std::collections::BTreeMap;
use std::fmt;

use tokio::time::Instant;

use super::authority::{Heard, SECOND_LOOK};

/// The items, with the content found (`S`) and the time at which it was first found.
#[derive(Clone)]
pub struct Doubts<K, S>(BTreeMap<K, (S, Instant)>);

impl<K, S> Default for Doubts<K, S> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

/// Shows the number of items and not their content, which holds rules, targets and keys.
impl<K, S> fmt::Debug for Doubts<K, S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Doubts").field(&self.0.len()).finish()
    }
}

impl<K: Ord + Clone, S: PartialEq> Doubts<K, S> {
    /// True if no item waits for a second check.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Number of items that wait for a second check.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The items that wait for a second check.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }

    /// Forgets all.
    pub fn clear(&mut self) {
        self.0.clear();
    }

    /// Forgets an item that is correct now.
    pub fn settled(&mut self, key: &K) {
        self.0.remove(key);
    }

    /// True if a second check now would confirm a doubt about an unchanged item. While the stream
    /// is silent it would not, and reading the copy again would be wasted.
    pub fn are_ripe(&self, heard: Heard, now: Instant) -> bool {
        self.0.values().any(|(_, since)| is_ripe(*since, heard, now))
    }

    /// The doubts that a second check now would confirm if the items are unchanged.
    pub fn ripe(&self, heard: Heard, now: Instant) -> BTreeMap<K, S>
    where
        S: Clone,
    {
        let ripe = self.0.iter().filter(|(_, (_, since))| is_ripe(*since, heard, now));
        ripe.map(|(key, (state, _))| (key.clone(), state.clone())).collect()
    }

    /// Records the doubts that this check found; those that it did not find again are settled.
    pub fn note(&mut self, found: impl IntoIterator<Item = (K, S)>, now: Instant) {
        let mut before = std::mem::take(&mut self.0);
        let since = |(key, state): (K, S)| {
            let same = before.remove(&key).filter(|(known, _)| *known == state);
            (key, (state, same.map_or(now, |(_, since)| since)))
        };
        self.0 = found.into_iter().map(since).collect();
    }

    /// Records the doubts that this check found; those that it did not find again are settled.
    /// Returns the positions of those that have been unchanged for so long that they are to be
    /// corrected.
    pub fn confirmed(
        &mut self,
        found: impl IntoIterator<Item = (K, S)>,
        heard: Heard,
        now: Instant,
    ) -> Vec<usize> {
        let found: Vec<(K, S)> = found.into_iter().collect();
        let keys: Vec<K> = found.iter().map(|(key, _)| key.clone()).collect();
        self.note(found, now);
        let is_ripe =
            |key: &K| self.0.get(key).is_some_and(|(_, since)| is_ripe(*since, heard, now));
        let places = keys.iter().enumerate().filter(|(_, key)| is_ripe(key));
        places.map(|(place, _)| place).collect()
    }
}

fn is_ripe(since: Instant, heard: Heard, now: Instant) -> bool {
    heard.would_have_told(since, now) && now.saturating_duration_since(since) >= SECOND_LOOK
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_a_count_and_no_content() {
        let mut doubts = Doubts::default();
        let now = Instant::now();
        doubts.confirmed([("key", "content")], Heard::first(now), now);
        assert_eq!(format!("{doubts:?}"), "Doubts(1)");
    }
}
