//! What must be written so that a shared cache holds what was accepted. Pure.
//!
//! Several relays write the same rows. Each write is a compare-and-swap against the row that was
//! read. A record that a peer stored at a higher version, and one that is not ours, is left: that
//! peer may have heard of it a moment before our own stream tells. It is corrected if we heard of
//! its removal, or if it is still the same on a second look some seconds later, when our stream
//! has gone on without telling of it (as in design D28).

use std::collections::BTreeMap;

use super::backend::{Row, Swap};
use super::codec::{Codec, OpenedRow, OpenedRows};
use super::manifest::MANIFEST_NAME;
use crate::autoconfig::records::{Record, decode};

/// Records to be stored: version and text by name.
pub type Desired = BTreeMap<String, (i64, String)>;

/// One pass over the rows of a cache.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes, additions before removals.
    pub swaps: Vec<Swap>,
    /// Rows that are not what is desired and wait for a second look, by record name.
    pub doubtful: BTreeMap<String, Row>,
    /// The texts that are stored once all writes are done.
    pub texts: BTreeMap<String, String>,
}

/// Plans a pass. `rows` are all rows that were read, `opened` what they hold; `gone` names
/// records that we heard to be removed, with the last version we knew; `due` are those of
/// [`Plan::doubtful`] of an earlier pass whose second look this is.
pub fn plan(
    codec: &Codec,
    rows: &[Row],
    opened: &OpenedRows,
    desired: &Desired,
    gone: &BTreeMap<String, i64>,
    due: &BTreeMap<String, Row>,
) -> Plan {
    let mut plan = Plan::default();
    let mut removals = Vec::new();
    for (name, (version, text)) in desired {
        let row_name = codec.row_name(name);
        let stored = opened.records.get(name);
        let is_newer = |(row, held): &&(Row, OpenedRow)| {
            version_of(&held.text) > Some(*version) && due.get(name) != Some(row)
        };
        let text = match stored.filter(is_newer) {
            Some((row, held)) => {
                plan.doubtful.insert(name.clone(), row.clone());
                &held.text
            }
            None => text,
        };
        plan.texts.insert(name.clone(), text.clone());
        if stored.is_some_and(|(_, held)| held.key_rank == 0 && held.text == *text) {
            continue;
        }
        plan.swaps.push(Swap {
            // Whatever stands under the name, readable or not.
            expected: rows.iter().find(|row| row.name == row_name).cloned(),
            value: Some(codec.seal(name, text)),
            name: row_name.clone(),
        });
        // Sealed under another key it stands under another name.
        removals.extend(stored.map(|(row, _)| row).filter(|row| row.name != row_name));
    }
    for (name, (row, held)) in &opened.records {
        if desired.contains_key(name) || name == MANIFEST_NAME {
            continue;
        }
        // A peer may have heard that it is back: then it stands at a higher version.
        let removed = gone.get(name).is_some_and(|known| version_of(&held.text) <= Some(*known));
        if removed || due.get(name) == Some(row) {
            removals.push(row);
        } else {
            plan.doubtful.insert(name.clone(), row.clone());
            plan.texts.insert(name.clone(), held.text.clone());
        }
    }
    removals.extend(&opened.superseded);
    plan.swaps.extend(removals.into_iter().map(|row| Swap {
        name: row.name.clone(),
        expected: Some(row.clone()),
        value: None,
    }));
    plan
}

/// The version inside a stored record; `None` if it cannot be decoded.
fn version_of(text: &str) -> Option<i64> {
    match decode(text.as_bytes()).ok()? {
        Record::Environment { record, .. } => Some(record.version),
        Record::Filter(record) => Some(record.version),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::autoconfig::records::{FilterRecord, encode_filter};
    use crate::sealing::{KeyRing, SealingKey};

    fn codec(keys: &[&str]) -> Codec {
        let mut keys = keys.iter().map(|text| SealingKey::derive(text));
        let ring = KeyRing::new(keys.next().unwrap(), keys);
        Codec::Sealed { ring, namespace: "here".to_owned() }
    }

    fn text(version: i64) -> String {
        let project_key = "p".to_owned();
        encode_filter(&FilterRecord { project_key, key: "f".to_owned(), version })
    }

    /// Plans with names and versions, and shows the writes: `+a`, `~a` (over a row), `-a`.
    #[track_caller]
    fn check(
        stored: &[(&str, i64)],
        desired: &[(&str, i64)],
        gone: &[&str],
        due: &[&str],
        expected: &str,
    ) {
        let codec = codec(&["k"]);
        let row = |name: &str, version| Row {
            name: codec.row_name(name),
            value: codec.seal(name, &text(version)),
            revision: 0,
        };
        let rows: Vec<Row> = stored.iter().map(|&(name, version)| row(name, version)).collect();
        let opened = codec.open_all(&rows);
        let desired: Desired =
            desired.iter().map(|&(name, v)| (name.to_owned(), (v, text(v)))).collect();
        let gone = gone.iter().map(|name| ((*name).to_owned(), 1)).collect();
        let due =
            due.iter().map(|name| ((*name).to_owned(), opened.records[*name].0.clone())).collect();
        let plan = plan(&codec, &rows, &opened, &desired, &gone, &due);
        let by_row = |row_name: &str| {
            ["a", "b", "c"].into_iter().find(|name| codec.row_name(name) == row_name).unwrap()
        };
        let mut shown: Vec<String> = plan
            .swaps
            .iter()
            .map(|swap| match (&swap.expected, &swap.value) {
                (None, Some(_)) => format!("+{}", by_row(&swap.name)),
                (Some(_), Some(_)) => format!("~{}", by_row(&swap.name)),
                (_, None) => format!("-{}", by_row(&swap.name)),
            })
            .collect();
        shown.extend(plan.doubtful.keys().map(|name| format!("?{name}")));
        let texts: Vec<_> = plan.texts.keys().map(String::as_str).collect();
        shown.push(format!("={}", texts.join("")));
        assert_eq!(shown.join(" "), expected);
    }

    #[test]
    fn writes_what_differs_and_nothing_else() {
        check(&[], &[("a", 1), ("b", 1)], &[], &[], "+a +b =ab");
        check(&[("a", 1)], &[("a", 1), ("b", 1)], &[], &[], "+b =ab");
        check(&[("a", 1)], &[("a", 2)], &[], &[], "~a =a");
    }

    #[test]
    fn what_a_peer_stored_at_a_higher_version_stands_until_the_second_look() {
        check(&[("a", 3)], &[("a", 2)], &[], &[], "?a =a");
        check(&[("a", 3)], &[("a", 2)], &[], &["a"], "~a =a");
        check(&[("a", 3)], &[("a", 3)], &[], &["a"], "=a");
    }

    #[test]
    fn removes_what_was_removed_and_looks_twice_at_the_rest() {
        check(&[("a", 1), ("b", 1)], &[("a", 1)], &["b"], &[], "-b =a");
        check(&[("a", 1), ("b", 1)], &[("a", 1)], &[], &[], "?b =ab");
        check(&[("a", 1), ("b", 1)], &[("a", 1)], &[], &["b"], "-b =a");
        check(&[("a", 1)], &[], &["a"], &[], "-a =");
        check(&[("a", 2)], &[], &["a"], &[], "?a =a");
    }

    #[test]
    fn a_new_key_moves_every_row() {
        let old = codec(&["old"]);
        let new = codec(&["new", "old"]);
        let foreign = codec(&["foreign"]);
        let sealed = |codec: &Codec, name: &str| Row {
            name: codec.row_name(name),
            value: codec.seal(name, &text(1)),
            revision: 0,
        };
        let rows = [sealed(&old, "a"), sealed(&old, "b"), sealed(&new, "b"), sealed(&foreign, "c")];
        let opened = new.open_all(&rows);
        let desired: Desired =
            ["a", "b"].into_iter().map(|name| (name.to_owned(), (1, text(1)))).collect();
        let plan = plan(&new, &rows, &opened, &desired, &BTreeMap::new(), &BTreeMap::new());
        let names: Vec<_> =
            plan.swaps.iter().map(|swap| (swap.name.as_str(), swap.value.is_some())).collect();
        assert_eq!(
            names,
            [
                (new.row_name("a").as_str(), true),
                (rows[0].name.as_str(), false),
                (rows[1].name.as_str(), false)
            ],
            "rows of foreign keys are not ours to remove"
        );
    }

    #[test]
    fn a_row_that_does_not_open_is_overwritten_in_its_place() {
        let codec = codec(&["k"]);
        let rows = [Row {
            name: codec.row_name("a"),
            value: bytes::Bytes::from_static(b"x"),
            revision: 4,
        }];
        let desired = Desired::from([("a".to_owned(), (1, text(1)))]);
        let plan = plan(
            &codec,
            &rows,
            &codec.open_all(&rows),
            &desired,
            &BTreeMap::new(),
            &BTreeMap::new(),
        );
        assert_eq!(plan.swaps[0].expected.as_ref(), Some(&rows[0]));
    }
}
