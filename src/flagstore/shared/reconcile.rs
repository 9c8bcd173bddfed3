//! What a shared store lacks or should not hold, judged by versions: pure.
//!
//! Who may write what (design D28):
//!
//! | store | relay that is live | relay that is not |
//! | --- | --- | --- |
//! | no marker, no items | fills it | fills it |
//! | an item is absent or older | writes it | reports it |
//! | an item is newer, or unknown to us | looks again, then corrects it | leaves it |
//! | no marker, some items | writes the marker, last | reports it |
//!
//! Invariant: an item that a peer may have written since we last heard of LaunchDarkly is never
//! touched. A correction needs the same content twice, five seconds apart, and a sign that the
//! stream was not stuck meanwhile.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use tokio::time::Instant;

use crate::flagstore::backend::{StoredRow, StoredRows};
use crate::model::{DataSet, ItemKey};

/// Pause before an item that should not be there is looked at again (design D28).
pub(super) const SECOND_LOOK: Duration = Duration::from_secs(5);

/// How sure this relay is that what it serves is what LaunchDarkly says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Authority {
    /// The data began with a put on the connection that stands now.
    Live {
        /// When that put came.
        put_at: Instant,
        /// When the connection last delivered anything.
        heard_at: Instant,
    },
    /// From a store, or from a connection that is gone.
    Provisional,
}

/// Items that should not be as they are, with what was found and when first.
#[derive(Debug, Default)]
pub(super) struct Doubts(BTreeMap<ItemKey, (u64, Instant)>);

impl Doubts {
    /// Whether any item waits for a second look.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

/// What is to be done.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// Write everything at once.
    pub(super) fill: bool,
    /// Items to write because the store holds none or an older one.
    pub(super) upserts: BTreeSet<ItemKey>,
    /// Places of the stored rows that are to be replaced by what is served, or removed.
    pub(super) corrections: Vec<usize>,
    /// Write the marker when all else is done.
    pub(super) mark: bool,
    /// What a relay that is not live leaves as it is.
    pub(super) left: Left,
}

/// Differences that are reported only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Items that are absent in the store, or older there.
    pub behind: u64,
    /// Items that are newer in the store, or not known here.
    pub ahead: u64,
    /// There are items and no marker.
    pub unmarked: bool,
}

/// Compares what is stored with what is served.
pub(super) fn decide(
    stored: &StoredRows,
    served: &DataSet,
    authority: Authority,
    doubts: &mut Doubts,
    now: Instant,
) -> Decision {
    let mut decision = Decision::default();
    if stored.marker.is_none() && stored.rows.is_empty() {
        doubts.clear();
        decision.fill = true;
        return decision;
    }
    let mut absent: BTreeSet<ItemKey> =
        served.iter().map(|(kind, key, _)| ItemKey { kind, key: key.clone() }).collect();
    let mut ahead = Vec::new();
    for (place, row) in stored.rows.iter().enumerate() {
        absent.remove(&row.key);
        let mine = served.item(&row.key).map(|item| item.version);
        // What cannot be decoded counts as version 0, as with ld-relay's own stores.
        let theirs = row.head.map(|head| head.version);
        match (mine, theirs) {
            (Some(mine), Some(theirs)) if mine == theirs => {}
            (Some(mine), theirs) if mine > theirs.unwrap_or(0) => {
                decision.upserts.insert(row.key.clone());
            }
            (Some(_) | None, _) => ahead.push(place),
        }
    }
    decision.upserts.append(&mut absent);
    match authority {
        Authority::Provisional => {
            doubts.clear();
            decision.left = Left {
                behind: std::mem::take(&mut decision.upserts).len() as u64,
                ahead: ahead.len() as u64,
                unmarked: stored.marker.is_none(),
            };
        }
        Authority::Live { heard_at, .. } => {
            decision.mark = stored.marker.is_none();
            let rows = ahead.into_iter().map(|place| (place, &stored.rows[place]));
            decision.corrections = doubts.confirmed(rows, heard_at, now);
        }
    }
    decision
}

impl Doubts {
    /// Takes note of rows that should not be as they are; gives the places of those that were
    /// found so long enough ago, by a relay that has heard of LaunchDarkly since.
    fn confirmed<'a>(
        &mut self,
        rows: impl Iterator<Item = (usize, &'a StoredRow)>,
        heard_at: Instant,
        now: Instant,
    ) -> Vec<usize> {
        let mut before = std::mem::take(&mut self.0);
        let mut confirmed = Vec::new();
        for (place, row) in rows {
            let found = fingerprint(row);
            let since = match before.remove(&row.key) {
                Some((same, since)) if same == found => since,
                Some(_) | None => now,
            };
            // However young the put is: the line may be stuck since.
            if heard_at > since && now.saturating_duration_since(since) >= SECOND_LOOK {
                confirmed.push(place);
            }
            self.0.insert(row.key.clone(), (found, since));
        }
        confirmed
    }
}

/// Tells contents apart within this process.
fn fingerprint(row: &StoredRow) -> u64 {
    let mut hasher = DefaultHasher::new();
    (row.revision, &row.json[..]).hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;
    use crate::flagstore::backend::Marker;
    use crate::flagstore::layout;
    use crate::model::{Item, ItemKind};

    fn flag(key: &str) -> ItemKey {
        ItemKey::new(ItemKind::Flag, key)
    }

    /// `a3 b-4` is flag `a` at version 3 and the tombstone of `b` at version 4.
    fn items(text: &str) -> impl Iterator<Item = (ItemKey, Item)> {
        text.split_whitespace().map(|word| {
            let (key, version) = word.split_at(1);
            let item = match version.strip_prefix('-') {
                Some(version) => Item::tombstone(version.parse().unwrap()),
                None => {
                    let json = format!(r#"{{"version":{version}}}"#);
                    Item::live(version.parse().unwrap(), json)
                }
            };
            (flag(key), item)
        })
    }

    fn served(text: &str) -> DataSet {
        let mut data = DataSet::default();
        for (key, item) in items(text) {
            data.upsert(&key, Arc::new(item));
        }
        data
    }

    /// As [`items`]; `!` stands for the marker, `x?` for an `x` that cannot be decoded.
    fn stored(text: &str) -> StoredRows {
        let mut found = StoredRows::default();
        for word in text.split_whitespace() {
            if word == "!" {
                found.marker = Some(Marker(Bytes::new()));
            } else if let Some(key) = word.strip_suffix('?') {
                let json = Bytes::from_static(b"?");
                found.rows.push(StoredRow { key: flag(key), json, head: None, revision: 0 });
            } else {
                for (key, item) in items(word) {
                    let json = layout::row(&key, &item).json;
                    let head = layout::head(&json);
                    found.rows.push(StoredRow { key, json, head, revision: 0 });
                }
            }
        }
        found
    }

    fn shown(decision: &Decision, stored: &StoredRows) -> String {
        let mut words = Vec::new();
        if decision.fill {
            words.push("fill".to_owned());
        }
        words.extend(decision.upserts.iter().map(|key| format!("+{}", key.key)));
        let place = |place: &usize| format!("={}", stored.rows[*place].key.key);
        words.extend(decision.corrections.iter().map(place));
        if decision.mark {
            words.push("!".to_owned());
        }
        let Left { behind, ahead, unmarked } = decision.left;
        if decision.left != Left::default() {
            words.push(format!("left {behind} {ahead}{}", if unmarked { " !" } else { "" }));
        }
        words.join(" ")
    }

    #[test]
    fn a_live_relay_repairs_and_another_fills_holes_only() {
        let check = |in_store: &str, in_memory: &str, live: &str, other: &str| {
            let (found, data) = (stored(in_store), served(in_memory));
            let now = Instant::now();
            let authority = Authority::Live { put_at: now, heard_at: now };
            for (authority, expected) in [(authority, live), (Authority::Provisional, other)] {
                let decision = decide(&found, &data, authority, &mut Doubts::default(), now);
                let case = format!("{in_store} | {in_memory} | {authority:?}");
                assert_eq!(shown(&decision, &found), expected, "{case}");
            }
        };
        check("", "a1", "fill", "fill");
        check("", "", "fill", "fill");
        check("!", "", "", "");
        check("!", "a1", "+a", "left 1 0");
        check("a1", "a1", "!", "left 0 0 !");
        check("a1", "a1 b1", "+b !", "left 1 0 !");
        check("! a1", "a1", "", "");
        check("! a1", "a2", "+a", "left 1 0");
        check("! a1", "a-2", "+a", "left 1 0");
        check("! a-2", "a3", "+a", "left 1 0");
        check("! a-2", "a-2", "", "");
        // Equal versions never replace each other.
        check("! a-2", "a2", "", "");
        // Newer or unknown: not at the first look.
        check("! a3", "a2", "", "left 0 1");
        check("! a3 z1 y-7", "a3", "", "left 0 2");
        // What cannot be decoded counts as version 0.
        check("! a?", "a1", "+a", "left 1 0");
        check("! a?", "a0", "", "left 0 1");
        check("! a?", "", "", "left 0 1");
    }

    /// `at stored memory heard`: looks of one relay whose put came at 0.
    #[track_caller]
    fn looks(steps: &[(u64, &str, &str, u64)], expected: &[&str]) {
        let origin = Instant::now();
        let at = |seconds| origin + Duration::from_secs(seconds);
        let mut doubts = Doubts::default();
        let mut seen = Vec::new();
        for (now, in_store, in_memory, heard) in steps {
            let found = stored(in_store);
            let authority = Authority::Live { put_at: origin, heard_at: at(*heard) };
            let data = served(in_memory);
            let decision = decide(&found, &data, authority, &mut doubts, at(*now));
            seen.push(shown(&decision, &found));
        }
        assert_eq!(seen, expected);
    }

    #[test]
    fn what_should_not_be_there_is_corrected_at_the_second_look() {
        let (a3, a2) = ("! a3", "a2");
        looks(&[(1, a3, a2, 0), (5, a3, a2, 5), (6, a3, a2, 5)], &["", "", "=a"]);
        looks(&[(1, "! z1", "", 0), (6, "! z1", "", 2)], &["", "=z"]);
        looks(&[(1, "! a?", "a0", 0), (6, "! a?", "a0", 2)], &["", "=a"]);
        // A peer has changed it meanwhile: the time begins anew.
        looks(&[(1, a3, a2, 0), (6, "! a4", a2, 6), (11, "! a4", a2, 7)], &["", "", "=a"]);
        // We have heard of it ourselves meanwhile.
        looks(&[(1, a3, a2, 0), (6, a3, "a3", 4)], &["", ""]);
        looks(&[(1, a3, a2, 0), (6, a3, "a4", 4)], &["", "+a"]);
        // It was gone in between.
        looks(&[(1, a3, a2, 0), (4, "! a2", a2, 3), (7, a3, a2, 6)], &["", "", ""]);
    }

    #[test]
    fn a_stuck_relay_corrects_nothing() {
        let (a3, a2) = ("! a3", "a2");
        // Nothing came since the first look, neither long after the put nor right after it.
        looks(&[(100, a3, a2, 99), (105, a3, a2, 99), (400, a3, a2, 99)], &["", "", ""]);
        looks(&[(1, a3, a2, 0), (6, a3, a2, 0), (400, a3, a2, 1)], &["", "", ""]);
        // A sign of life ends that.
        looks(&[(100, a3, a2, 99), (105, a3, a2, 101)], &["", "=a"]);
        looks(&[(1, a3, a2, 0), (6, a3, a2, 1), (180, a3, a2, 179)], &["", "", "=a"]);
    }

    #[test]
    fn doubts_end_with_the_authority() {
        let now = Instant::now();
        let later = now + SECOND_LOOK;
        let live = Authority::Live { put_at: now, heard_at: later };
        let (found, data) = (stored("! a3"), served("a2"));
        let mut doubts = Doubts::default();
        decide(&found, &data, live, &mut doubts, now);
        assert!(!doubts.is_empty());
        decide(&found, &data, Authority::Provisional, &mut doubts, now);
        assert!(doubts.is_empty());
        assert_eq!(shown(&decide(&found, &data, live, &mut doubts, later), &found), "");
    }
}
