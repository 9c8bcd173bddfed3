//! Finds what a shared store lacks or should not hold, by versions and content. Pure.
//!
//! Writes that a relay may make:
//!
//! | store | relay that is live | relay that is not |
//! | --- | --- | --- |
//! | no marker, no items | fills it | fills it |
//! | an item is absent or older | writes it | reports it |
//! | an item is newer, unknown here, or differs at the same version | checks it again, then corrects it | leaves it |
//! | no marker, some items | writes the marker, last | reports it |
//!
//! Invariant: an item that a peer may have written since this relay last heard from LaunchDarkly is
//! never touched. A correction needs the same content twice, five seconds apart, and something that
//! LaunchDarkly sent after the change should have reached this relay.

use std::collections::BTreeSet;

use bytes::Bytes;
use tokio::time::Instant;

use crate::flagstore::backend::{StoredRow, StoredRows};
use crate::flagstore::layout::is_as_wanted;
use crate::model::{DataSet, Item, ItemKey};
use crate::replica::{Authority, Doubts};

/// Most tombstones that may stay in a store although no relay knows them: data sets from
/// LaunchDarkly do not contain them, and a relay that was disconnected learns deletions from them.
const UNKNOWN_TOMBSTONES_MAX: usize = 1_000;

/// Doubtful rows.
pub(super) type RowDoubts = Doubts<ItemKey, Found>;

/// Content of a doubtful row: its JSON and the database's own revision of it.
pub(super) type Found = (Bytes, u64);

/// Actions that follow from a comparison.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Decision {
    /// True if everything is to be written at once.
    pub(super) fill: bool,
    /// Items to write because the store holds none or an older one.
    pub(super) upserts: BTreeSet<ItemKey>,
    /// Places of the stored rows that are to be replaced by what is served, or removed.
    pub(super) corrections: Vec<usize>,
    /// Differences that a relay that is not live does not repair.
    pub(super) unrepaired: Unrepaired,
}

/// Differences that are reported only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unrepaired {
    /// Items that are absent in the store, or older there.
    pub outdated_items: u64,
    /// Items that are newer in the store, not known here, or different at the same version.
    pub newer_items: u64,
    /// There are items, and no marker or one that vouches for nothing because a relay had not
    /// confirmed them.
    pub no_valid_marker: bool,
}

/// Compares the stored rows with the served data.
pub(super) fn decide(
    stored: &StoredRows,
    served: &DataSet,
    authority: Authority,
    doubts: &mut RowDoubts,
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
    let mut unknown_tombstones = 0;
    for (place, row) in stored.rows.iter().enumerate() {
        absent.remove(&row.key);
        match compare(row, served) {
            Standing::AsWanted => {}
            // An item that relays no longer know stays deleted.
            Standing::UnknownTombstone if unknown_tombstones < UNKNOWN_TOMBSTONES_MAX => {
                unknown_tombstones += 1;
            }
            Standing::Older => {
                decision.upserts.insert(row.key.clone());
            }
            Standing::UnknownTombstone | Standing::Doubtful => ahead.push(place),
        }
    }
    decision.upserts.append(&mut absent);
    match authority {
        Authority::Provisional => {
            doubts.clear();
            decision.unrepaired = Unrepaired {
                outdated_items: std::mem::take(&mut decision.upserts).len() as u64,
                newer_items: ahead.len() as u64,
                no_valid_marker: stored.marker.as_ref().is_none_or(|it| it.unsettled.is_some()),
            };
        }
        Authority::Live { heard, .. } => {
            let found = |place: &usize| {
                let row = &stored.rows[*place];
                (row.key.clone(), (row.json.clone(), row.revision))
            };
            let confirmed = doubts.confirmed(ahead.iter().map(found), heard, now);
            decision.corrections = confirmed.into_iter().map(|position| ahead[position]).collect();
        }
    }
    decision
}

/// Relation of a stored row to the served data.
enum Standing {
    AsWanted,
    Older,
    /// The tombstone of an item that is not known here.
    UnknownTombstone,
    /// It must not be overwritten before a second check.
    Doubtful,
}

fn compare(row: &StoredRow, served: &DataSet) -> Standing {
    let Some(mine) = served.item(&row.key) else {
        let is_whole_tombstone = row.head.is_some_and(|head| {
            head.deleted && is_as_wanted(&row.key, head, &row.json, &Item::tombstone(head.version))
        });
        return if is_whole_tombstone { Standing::UnknownTombstone } else { Standing::Doubtful };
    };
    match row.head {
        // A row that cannot be decoded counts as version 0, as with ld-relay's own stores.
        None if mine.version > 0 => Standing::Older,
        None => Standing::Doubtful,
        Some(theirs) if theirs.version < mine.version => Standing::Older,
        Some(theirs) if theirs.version > mine.version => Standing::Doubtful,
        Some(theirs) if is_as_wanted(&row.key, theirs, &row.json, mine) => Standing::AsWanted,
        Some(_) => Standing::Doubtful,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use bytes::Bytes;

    use super::*;
    use crate::flagstore::layout;
    use crate::flagstore::marker::Marker;
    use crate::model::ItemKind;
    use crate::replica::{Heard, SECOND_LOOK};

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
                found.marker = Some(Marker::read(Bytes::new(), 0));
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
        let Unrepaired { outdated_items, newer_items, no_valid_marker } = decision.unrepaired;
        if decision.unrepaired != Unrepaired::default() {
            let mark = if no_valid_marker { " !" } else { "" };
            words.push(format!("left {outdated_items} {newer_items}{mark}"));
        }
        words.join(" ")
    }

    #[test]
    fn a_live_relay_repairs_and_another_fills_holes_only() {
        let check = |in_store: &str, in_memory: &str, live: &str, other: &str| {
            let (found, data) = (stored(in_store), served(in_memory));
            let now = Instant::now();
            let authority = Authority::Live { put_at: now, heard: Heard::first(now) };
            for (authority, expected) in [(authority, live), (Authority::Provisional, other)] {
                let decision = decide(&found, &data, authority, &mut RowDoubts::default(), now);
                let case = format!("{in_store} | {in_memory} | {authority:?}");
                assert_eq!(shown(&decision, &found), expected, "{case}");
            }
        };
        check("", "a1", "fill", "fill");
        check("", "", "fill", "fill");
        check("!", "", "", "");
        check("!", "a1", "+a", "left 1 0");
        check("a1", "a1", "", "left 0 0 !");
        check("a1", "a1 b1", "+b", "left 1 0 !");
        check("! a1", "a1", "", "");
        check("! a1", "a2", "+a", "left 1 0");
        check("! a1", "a-2", "+a", "left 1 0");
        check("! a-2", "a3", "+a", "left 1 0");
        check("! a-2", "a-2", "", "");
        // Other content at the same version: not at the first check.
        check("! a-2", "a2", "", "left 0 1");
        check("! a2", "a-2", "", "left 0 1");
        // Newer or unknown: not at the first check.
        check("! a3", "a2", "", "left 0 1");
        check("! a3 z1", "a3", "", "left 0 1");
        // It contradicts nothing.
        check("! a3 y-7", "a3", "", "");
        // A row that cannot be decoded counts as version 0.
        check("! a?", "a1", "+a", "left 1 0");
        check("! a?", "a0", "", "left 0 1");
        check("! a?", "", "", "left 0 1");
    }

    /// `at stored memory heard`: checks of one relay whose put came at 0.
    #[track_caller]
    fn looks(steps: &[(u64, &str, &str, u64)], expected: &[&str]) {
        let origin = Instant::now();
        let at = |seconds| origin + Duration::from_secs(seconds);
        let mut doubts = RowDoubts::default();
        let mut seen = Vec::new();
        for (now, in_store, in_memory, heard) in steps {
            let found = stored(in_store);
            let authority = Authority::Live { put_at: origin, heard: Heard::first(at(*heard)) };
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
        looks(&[(1, "! z1", "", 0), (6, "! z1", "", 3)], &["", "=z"]);
        looks(&[(1, "! a?", "a0", 0), (6, "! a?", "a0", 3)], &["", "=a"]);
        looks(&[(1, "! a-2", a2, 0), (6, "! a-2", a2, 3)], &["", "=a"]);
        // A peer has changed it meanwhile: the time starts again.
        looks(&[(1, a3, a2, 0), (6, "! a4", a2, 6), (11, "! a4", a2, 8)], &["", "", "=a"]);
        // This relay has received it meanwhile.
        looks(&[(1, a3, a2, 0), (6, a3, "a3", 4)], &["", ""]);
        looks(&[(1, a3, a2, 0), (6, a3, "a4", 4)], &["", "+a"]);
        // It was gone in between.
        looks(&[(1, a3, a2, 0), (4, "! a2", a2, 3), (7, a3, a2, 6)], &["", "", ""]);
    }

    #[test]
    fn a_stuck_relay_corrects_nothing() {
        let (a3, a2) = ("! a3", "a2");
        // Nothing came since the first check, neither long after the put nor right after it.
        looks(&[(100, a3, a2, 99), (105, a3, a2, 99), (400, a3, a2, 99)], &["", "", ""]);
        looks(&[(1, a3, a2, 0), (6, a3, a2, 0), (400, a3, a2, 1)], &["", "", ""]);
        // A message just after the first check may have been sent before the peer's change.
        looks(&[(100, a3, a2, 99), (105, a3, a2, 101)], &["", ""]);
        looks(&[(100, a3, a2, 99), (400, a3, a2, 101)], &["", ""]);
        // A later sign of life shows that LaunchDarkly had nothing to send.
        looks(&[(100, a3, a2, 99), (105, a3, a2, 102)], &["", "=a"]);
        looks(&[(1, a3, a2, 0), (6, a3, a2, 1), (180, a3, a2, 179)], &["", "", "=a"]);
    }

    #[test]
    fn content_counts_where_versions_are_equal() {
        let served = served("a2 b-7");
        let check = |key: &str, json: &str, expected: &str| {
            let json = Bytes::copy_from_slice(json.as_bytes());
            let head = layout::head(&json);
            let mut found = stored("! a2 b-7");
            found.rows.retain(|row| row.key != flag(key));
            found.rows.push(StoredRow { key: flag(key), json, head, revision: 0 });
            let now = Instant::now();
            let mut doubts = RowDoubts::default();
            let live = |at| Authority::Live { put_at: now, heard: Heard { at, resumed_at: now } };
            let first = decide(&found, &served, live(now), &mut doubts, now);
            assert_eq!(shown(&first, &found), "", "not at the first look");
            let later = now + SECOND_LOOK;
            let second = decide(&found, &served, live(later), &mut doubts, later);
            assert_eq!(shown(&second, &found), expected, "{key} {}", found.rows[1].json.len());
        };
        check("a", r#"{"version":2,"key":"a","fallthrough":{}}"#, "");
        check("a", r#"{"key":"a","version":2,"deleted":false,"rules":[],"fallthrough":{}}"#, "");
        check("a", r#"{"version":2,"on":true}"#, "=a");
        check("a", r#"{"version":2.5}"#, "=a");
        // Tombstones as SDKs of several languages write them.
        check("a", r#"{"version":2,"deleted":true}"#, "=a");
        check("b", r#"{"version":7,"deleted":true}"#, "=b");
        check("b", r#"{"key":"b","version":7,"deleted":true}"#, "=b");
        check("b", r#"{"version":7,"on":true}"#, "=b");
    }

    #[test]
    fn doubts_end_with_the_authority() {
        let now = Instant::now();
        let later = now + SECOND_LOOK;
        let live = Authority::Live { put_at: now, heard: Heard { at: later, resumed_at: now } };
        let (found, data) = (stored("! a3"), served("a2"));
        let mut doubts = RowDoubts::default();
        decide(&found, &data, live, &mut doubts, now);
        assert!(!doubts.is_empty());
        decide(&found, &data, Authority::Provisional, &mut doubts, now);
        assert!(doubts.is_empty());
        assert_eq!(shown(&decide(&found, &data, live, &mut doubts, later), &found), "");
    }
}
