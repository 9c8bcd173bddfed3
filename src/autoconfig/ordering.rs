//! Decides which of two messages about one item counts, by versions and tombstones. Cached items
//! are provisional. Pure.
//!
//! ld-relay v8 feeds its cache through the same version check as live data, so a live record of the
//! same version is dropped although its content differs. Here a cached item is provisional: the
//! first live message about an ID replaces it, whatever the versions say; versions count among live
//! messages.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry as MapEntry;

/// Items by ID, with what is needed to judge the next message about each.
#[derive(Clone, Debug)]
pub struct Ordered<T> {
    entries: BTreeMap<String, Entry<T>>,
}

#[derive(Clone, Debug)]
enum Entry<T> {
    /// From a cache; any live message replaces it.
    Provisional(T),
    /// From the stream.
    Live { version: i64, item: T },
    /// Deleted on the stream at this version.
    Tombstone { version: i64 },
}

/// Effect of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It changed something.
    Changed,
    /// It was not newer than what is known.
    Stale,
}

impl<T> Default for Ordered<T> {
    fn default() -> Self {
        Self { entries: BTreeMap::new() }
    }
}

impl<T> Ordered<T> {
    /// Items that exist, by ID.
    pub fn iter(&self) -> impl Iterator<Item = (&String, &T)> {
        self.entries.iter().filter_map(|(id, entry)| match entry {
            Entry::Provisional(item) | Entry::Live { item, .. } => Some((id, item)),
            Entry::Tombstone { .. } => None,
        })
    }

    /// The item of that ID, if it exists.
    pub fn get(&self, id: &str) -> Option<&T> {
        match self.entries.get(id)? {
            Entry::Provisional(item) | Entry::Live { item, .. } => Some(item),
            Entry::Tombstone { .. } => None,
        }
    }

    /// True if no item exists.
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Replaces everything provisional by a cached set. Live items stay.
    pub fn load_cached(&mut self, items: impl IntoIterator<Item = (String, T)>) {
        self.entries.retain(|_, entry| !matches!(entry, Entry::Provisional(_)));
        for (id, item) in items {
            if let MapEntry::Vacant(slot) = self.entries.entry(id) {
                slot.insert(Entry::Provisional(item));
            }
        }
    }

    /// Takes a live message that the item exists at a version.
    pub fn upsert(&mut self, id: String, version: i64, item: T) -> Applied {
        match self.entries.get(&id) {
            Some(Entry::Live { version: known, .. } | Entry::Tombstone { version: known })
                if version <= *known =>
            {
                Applied::Stale
            }
            Some(Entry::Live { .. } | Entry::Tombstone { .. } | Entry::Provisional(_)) | None => {
                self.entries.insert(id, Entry::Live { version, item });
                Applied::Changed
            }
        }
    }

    /// Takes a live message that the item is deleted at a version. `Changed` only if it existed.
    pub fn delete(&mut self, id: &str, version: i64) -> Applied {
        let applied = match self.entries.get(id) {
            Some(Entry::Live { version: known, .. } | Entry::Tombstone { version: known })
                if version <= *known =>
            {
                return Applied::Stale;
            }
            Some(Entry::Live { .. } | Entry::Provisional(_)) => Applied::Changed,
            Some(Entry::Tombstone { .. }) | None => Applied::Stale,
        };
        self.entries.insert(id.to_owned(), Entry::Tombstone { version });
        applied
    }

    /// Forgets every ID that a put did not name, tombstones included (ld-relay v8: retain).
    pub fn retain(&mut self, named: impl Fn(&str) -> bool) -> Applied {
        let before = self.iter().count();
        self.entries.retain(|id, _| named(id));
        if self.iter().count() == before { Applied::Stale } else { Applied::Changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays words such as `c:a` (cached a), `+a3` (upsert a at 3), `-a4` (delete a at 4),
    /// `=ab` (retain a and b) and gives what exists then, with the version of the last word.
    #[track_caller]
    fn check(words: &str, expected: &str) {
        let mut items = Ordered::default();
        for word in words.split_whitespace() {
            let (action, rest) = word.split_at(1);
            match action {
                "c" => items
                    .load_cached(rest[1..].chars().map(|id| (id.to_string(), "cached".to_owned()))),
                "+" => {
                    let (id, version) = rest.split_at(1);
                    items.upsert(id.to_owned(), version.parse().unwrap(), version.to_owned());
                }
                "-" => {
                    let (id, version) = rest.split_at(1);
                    items.delete(id, version.parse().unwrap());
                }
                "=" => {
                    items.retain(|id| rest.contains(id));
                }
                other => panic!("{other}"),
            }
        }
        let shown: Vec<String> = items.iter().map(|(id, item)| format!("{id}{item}")).collect();
        assert_eq!(shown.join(" "), expected, "{words}");
    }

    #[test]
    fn among_live_words_the_higher_version_counts() {
        check("+a1 +a2", "a2");
        check("+a2 +a1", "a2");
        check("+a2 -a2", "a2");
        check("+a2 -a3", "");
        check("+a2 -a3 +a3", "");
        check("+a2 -a3 +a4", "a4");
        check("-a3 +a2", "");
        check("-a3 -a5 +a4", "");
        check("-a5 -a3 +a4", "");
    }

    #[test]
    fn a_put_forgets_what_it_does_not_name() {
        check("+a2 +b2 =a", "a2");
        check("-a9 = +a1", "a1");
        check("-a9 =a +a1", "");
    }

    #[test]
    fn the_first_live_word_replaces_a_cached_item() {
        check("c:a +a0", "a0");
        check("c:ab +a1", "a1 bcached");
        check("c:a -a0", "");
        check("c:a -a0 +a0", "");
        check("c:a +a3 +a2", "a3");
    }

    #[test]
    fn a_cached_set_replaces_cached_items_only() {
        check("c:ab c:bc", "bcached ccached");
        check("+a1 c:ab", "a1 bcached");
        check("-a1 c:ab", "bcached");
        check("c:a +a1 c:b", "a1 bcached");
    }
}
