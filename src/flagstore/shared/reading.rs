//! Judges what of a shared store an environment may serve. Pure.
//!
//! | marker | rows | the set is |
//! | --- | --- | --- |
//! | none | none | absent |
//! | none | some | incomplete, and nothing of it is used: its environment is not known |
//! | of another environment | any | foreign: nothing of it is used |
//! | says that rows of several environments are mixed | any | foreign |
//! | says that rows are not confirmed | any | incomplete, and nothing of it is used |
//! | with a list of rows | at least as many of each kind | complete |
//! | with a list of rows | fewer of a kind, or just as many with other names | incomplete |
//! | without a list (an SDK's, ld-relay's) | flags | presumed complete |
//! | without a list | no flag | incomplete: an eviction looks the same |
//!
//! A row that is there but cannot be decoded counts as a row. It does not withhold the others: it
//! is left out and named.

use std::sync::Arc;
use std::time::SystemTime;

use crate::flagstore::backend::{Counts, StoredRows};
use crate::flagstore::inventory::Inventory;
use crate::flagstore::layout;
use crate::flagstore::marker::{Identity, Unsettled};
use crate::model::{DataSet, ItemKey, ItemKind};

/// Content of the shared store, reported while upstream is not live.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SharedRead {
    /// A data set that can be served.
    Complete(SharedSet),
    /// Nothing.
    Absent,
    /// Less than a data set. Its items may complete another set.
    Incomplete {
        /// The items that could be read.
        data: DataSet,
        /// The problem.
        problem: String,
    },
    /// The data of another environment. Nothing of it may be used.
    Foreign {
        /// The problem.
        problem: String,
    },
    /// The store did not answer, or refused.
    Failed(String),
}

/// A data set from a shared store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedSet {
    /// The items that can be served, tombstones included.
    pub data: Arc<DataSet>,
    /// Items that are stored but cannot be decoded, so that they are missing in the data.
    pub undecodable: Vec<ItemKey>,
    /// Evidence that nothing else is missing.
    pub completeness: Completeness,
    /// Time at which LaunchDarkly last confirmed the data, if the marker has it.
    pub confirmed_at: Option<SystemTime>,
}

/// Evidence that a stored set is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completeness {
    /// The marker lists the rows.
    Counted,
    /// The marker says only that a set was once written whole.
    Presumed,
}

/// Judges the rows that were read for the environment with this identity.
pub fn judge(stored: &StoredRows, identity: Option<&Identity>) -> SharedRead {
    let Some(marker) = &stored.marker else {
        return if stored.rows.is_empty() {
            SharedRead::Absent
        } else {
            let problem =
                "there are items, but no marker says whose they are and that they are complete"
                    .to_owned();
            SharedRead::Incomplete { data: DataSet::default(), problem }
        };
    };
    match marker.unsettled {
        Some(Unsettled::Mixed) => {
            let problem = "a relay is replacing the flags of another environment in it".to_owned();
            return SharedRead::Foreign { problem };
        }
        Some(Unsettled::Unconfirmed) => {
            let problem = "its marker says that some of its items were not confirmed by \
                           LaunchDarkly"
                .to_owned();
            // As without a marker: their environment is not known yet.
            return SharedRead::Incomplete { data: DataSet::default(), problem };
        }
        None => {}
    }
    if marker.is_foreign_to(identity) {
        let problem = "it holds the flags of another environment; give each environment a prefix \
                       of its own, or wait until LaunchDarkly answers and they are replaced"
            .to_owned();
        return SharedRead::Foreign { problem };
    }
    let found = Inventory::of(stored.rows.iter().map(|row| &row.key));
    let expected = marker.note.as_ref().map(|note| note.inventory);
    let completeness = match expected {
        Some(expected) if found.may_cover(expected) => Completeness::Counted,
        None if found.counts.flags > 0 => Completeness::Presumed,
        Some(_) | None => {
            let Inventory { counts: Counts { flags, segments }, .. } = expected.unwrap_or_default();
            let found = found.counts;
            let problem = match expected {
                Some(expected) if found.covers(expected.counts) => {
                    format!(
                        "some of its {flags} flags or {segments} segments were replaced by others"
                    )
                }
                Some(_) => format!(
                    "{} of at least {flags} flags and {} of at least {segments} segments are left",
                    found.flags, found.segments
                ),
                None => "its marker is there, but no flags".to_owned(),
            };
            return SharedRead::Incomplete { data: data(stored), problem };
        }
    };
    let undecodable = stored.rows.iter().filter(|row| row.head.is_none());
    let undecodable: Vec<ItemKey> = undecodable.map(|row| row.key.clone()).collect();
    let data = Arc::new(data(stored));
    if data.live_len() == 0 && !undecodable.is_empty() {
        let problem = format!("none of its {} items can be decoded", undecodable.len());
        return SharedRead::Incomplete { data: (*data).clone(), problem };
    }
    SharedRead::Complete(SharedSet {
        data,
        undecodable,
        completeness,
        confirmed_at: marker.note.as_ref().and_then(|note| note.confirmed_at),
    })
}

fn data(stored: &StoredRows) -> DataSet {
    let mut data = DataSet::default();
    for kind in ItemKind::ALL {
        let rows = stored.rows.iter().filter(|row| row.key.kind == kind);
        *data.collection_mut(kind) = rows
            .filter_map(|row| Some((row.key.key.clone(), layout::item(row.head?, &row.json))))
            .collect();
    }
    data
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::flagstore::backend::StoredRow;
    use crate::flagstore::marker::{Marker, Note};

    fn identity(environment: &str) -> Identity {
        Identity { environment: environment.into(), filter: "".into() }
    }

    /// `a1 b? /s-2`: flag `a` at version 1, a flag that cannot be decoded, a segment's tombstone.
    fn stored(marker: Option<Marker>, rows: &str) -> StoredRows {
        let row = |word: &str| {
            let (kind, word) = match word.strip_prefix('/') {
                Some(word) => (ItemKind::Segment, word),
                None => (ItemKind::Flag, word),
            };
            let (key, version) = word.split_at(1);
            let json = match version.strip_prefix('-') {
                _ if version == "?" => "{".to_owned(),
                Some(version) => format!(r#"{{"version":{version},"deleted":true}}"#),
                None => format!(r#"{{"version":{version}}}"#),
            };
            let json = Bytes::from(json);
            let head = layout::head(&json);
            StoredRow { key: ItemKey::new(kind, key), json, head, revision: 0 }
        };
        StoredRows { marker, rows: rows.split_whitespace().map(row).collect() }
    }

    fn marked(flags: u64, segments: u64, environment: Option<&str>) -> Option<Marker> {
        let inventory = Inventory { counts: Counts { segments, flags }, names: None };
        let identity = environment.map(identity);
        let note = Note { inventory, identity, ..Note::default() };
        Some(Marker::read(note.value(None), 0))
    }

    /// A marker that lists these rows by their names.
    fn lists(rows: &str) -> Option<Marker> {
        let inventory = Inventory::of(stored(None, rows).rows.iter().map(|row| &row.key));
        let note = Note { inventory, identity: Some(identity("e")), ..Note::default() };
        Some(Marker::read(note.value(None), 0))
    }

    #[test]
    fn only_what_somebody_vouches_for_is_complete() {
        let foreign_writer = || Some(Marker::read(Bytes::new(), 0));
        let check = |marker: Option<Marker>, rows: &str, expected: &str| {
            let shown = match judge(&stored(marker.clone(), rows), Some(&identity("e"))) {
                SharedRead::Complete(set) => {
                    let missing: String =
                        set.undecodable.iter().map(|key| format!(" -{}", key.key)).collect();
                    format!("{:?} {}{missing}", set.completeness, set.data.len())
                }
                SharedRead::Absent => "Absent".to_owned(),
                SharedRead::Incomplete { data, .. } => format!("Incomplete {}", data.len()),
                SharedRead::Foreign { .. } => "Foreign".to_owned(),
                SharedRead::Failed(_) => unreachable!(),
            };
            assert_eq!(shown, expected, "{marker:?} {rows}");
        };
        check(None, "", "Absent");
        check(None, "a1", "Incomplete 0");
        check(marked(2, 1, Some("e")), "a1 b-2 /s1", "Counted 3");
        check(marked(2, 1, None), "a1 b-2 /s1", "Counted 3");
        check(marked(1, 0, Some("e")), "a1 b-2 /s1", "Counted 3");
        check(marked(0, 0, Some("e")), "", "Counted 0");
        // A hash, a folder or some rows are gone.
        check(marked(2, 1, Some("e")), "", "Incomplete 0");
        check(marked(2, 1, Some("e")), "a1 b1", "Incomplete 2");
        check(marked(2, 1, Some("e")), "a1 /s1 /t1", "Incomplete 3");
        // Another row stands in for one that is lost.
        check(lists("a1 b1 /s1"), "a1 b2 /s1", "Counted 3");
        check(lists("a1 b1 /s1"), "a1 c1 /s1", "Incomplete 3");
        check(lists("a1 b1"), "a1 b1 c1", "Counted 3");
        // A marker without a list.
        check(foreign_writer(), "", "Incomplete 0");
        check(foreign_writer(), "/s1", "Incomplete 1");
        check(foreign_writer(), "a1", "Presumed 1");
        // Rows that cannot be decoded.
        check(marked(2, 1, Some("e")), "a1 b? /s1", "Counted 2 -b");
        check(foreign_writer(), "a? b1", "Presumed 1 -a");
        check(marked(2, 0, None), "a? b?", "Incomplete 0");
        // Nothing live is left: not an empty environment.
        check(marked(2, 0, None), "a? b? c-3", "Incomplete 1");
        // Rows that a relay had not confirmed, and rows of two environments.
        let unsettled = |why| Some(Marker::read(Note::unsettled(why, None).value(None), 0));
        check(unsettled(Unsettled::Unconfirmed), "a1", "Incomplete 0");
        check(unsettled(Unsettled::Unconfirmed), "", "Incomplete 0");
        check(unsettled(Unsettled::Mixed), "a1", "Foreign");
        // Another environment's.
        check(marked(1, 0, Some("x")), "a1", "Foreign");
        check(marked(0, 0, Some("x")), "", "Foreign");
    }

    #[test]
    fn odd_items_are_served_as_go_would_serve_them() {
        let mut rows = stored(marked(3, 0, None), "a1 b1 c1");
        let jsons = [
            r#"{"key":"a","version":1.5,"on":true}"#.to_owned(),
            r#"{"key":"b","version":-1}"#.to_owned(),
            format!(r#"{{"version":1,"x":{}1{}}}"#, "[".repeat(100_000), "]".repeat(100_000)),
        ];
        for (row, json) in rows.rows.iter_mut().zip(jsons) {
            row.head = layout::head(json.as_bytes());
            row.json = json.into();
        }
        let SharedRead::Complete(set) = judge(&rows, None) else { panic!("complete") };
        assert_eq!(set.undecodable, [ItemKey::new(ItemKind::Flag, "c")]);
        let json = |key: &str| {
            let item = set.data.flags.get(key).unwrap();
            (item.version, item.json.clone().unwrap())
        };
        assert_eq!(json("a"), (1, Bytes::from(r#"{"key":"a","on":true,"version":1}"#)));
        assert_eq!(json("b"), (0, Bytes::from(r#"{"key":"b","version":0}"#)));
    }
}
