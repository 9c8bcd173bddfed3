//! Compares a live data set with the one that clients have. Pure.
//!
//! Clients take a change only if its version is higher than what they hold, so a difference can be
//! sent as changes only where every item that differs has become newer. Where an item vanished
//! without a tombstone, went back to a lower version, or differs at the same version, everything is
//! sent again. Members of an item that only spell out a default are ignored, because stores add
//! those for strict readers. When in doubt everything is sent.

use std::sync::Arc;

use crate::model::{ChangeSet, DataSet, Item, ItemKey, ItemKind, same_json};

/// Most changes that are sent one by one: half of what a slow client may lag behind.
const CHANGES_MAX: usize = 128;

/// Changes up to this number are sent one by one whatever their size.
const FEW_CHANGES: usize = 8;

/// Difference of a data set from the one before, for a client that holds the latter.
#[derive(Debug, PartialEq, Eq)]
pub enum Difference {
    /// Nothing that a client would notice.
    Nothing,
    /// These items are new or newer; tombstones for deleted ones. Segments come first.
    Changes(ChangeSet),
    /// Everything is to be sent.
    Everything,
}

/// Compares a data set with the one before it.
pub fn difference(before: &DataSet, after: &DataSet) -> Difference {
    let mut changes = Vec::new();
    for kind in ItemKind::ALL {
        let (held, told) = (before.collection(kind), after.collection(kind));
        for (key, item) in told.iter() {
            let change = match held.get(key) {
                None if item.is_tombstone() => continue,
                None => true,
                Some(known) if Arc::ptr_eq(known, item) => continue,
                Some(known) if is_same(known, item) => continue,
                Some(known) => known.version < item.version,
            };
            if !change {
                return Difference::Everything;
            }
            changes.push((ItemKey { kind, key: key.clone() }, item.clone()));
        }
        let vanished =
            |(key, item): (&Arc<str>, &Arc<Item>)| !item.is_tombstone() && told.get(key).is_none();
        if held.iter().any(vanished) {
            return Difference::Everything;
        }
    }
    let changes: ChangeSet = changes.into_iter().collect();
    if changes.is_empty() {
        Difference::Nothing
    } else if are_few(&changes, after) {
        Difference::Changes(changes)
    } else {
        Difference::Everything
    }
}

/// True if any item is older in a data set than in another.
pub fn has_older_item(data: &DataSet, other: &DataSet) -> bool {
    other.iter().any(|(kind, key, item)| {
        data.collection(kind).get(key).is_some_and(|it| it.version < item.version)
    })
}

/// True if it is better to send clients these changes than the whole data set that they lead to.
pub fn are_few(changes: &ChangeSet, after: &DataSet) -> bool {
    changes.len() <= FEW_CHANGES
        || (changes.len() <= CHANGES_MAX && changes.json_bytes() <= after.json_bytes() / 2)
}

/// True if a client that holds one would not notice the other.
fn is_same(a: &Item, b: &Item) -> bool {
    match (&a.json, &b.json) {
        (None, None) => true,
        (Some(one), Some(other)) => a.version == b.version && same_json(one, other),
        (Some(_), None) | (None, Some(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environments::test_support::{data, word};

    fn shown(difference: Difference) -> String {
        match difference {
            Difference::Nothing => "nothing".to_owned(),
            Difference::Everything => "everything".to_owned(),
            Difference::Changes(changes) => {
                let change = |(key, item): (&ItemKey, &Arc<Item>)| word(&key.key, item);
                changes.iter().map(change).collect::<Vec<_>>().join(" ")
            }
        }
    }

    #[test]
    fn what_became_newer_is_told_as_changes() {
        let check = |before: &str, after: &str, expected: &str| {
            let difference = difference(&data(before), &data(after));
            assert_eq!(shown(difference), expected, "{before} | {after}");
        };
        check("", "", "nothing");
        check("a1 b2", "a1 b2", "nothing");
        check("a1", "a2", "a2");
        check("a1", "a1 b1", "b1");
        check("a1 b2", "a3 b4 c1", "a3 b4 c1");
        check("a1", "a-2", "a-2");
        check("a-2", "a3", "a3");
        // Tombstones are silent, whatever their versions.
        check("a1 b-7", "a1", "nothing");
        check("a1", "a1 b-7", "nothing");
        check("b-7", "b-9", "nothing");
        // Clients would not accept these as changes.
        check("a1 b2", "a1", "everything");
        check("a3", "a2", "everything");
        check("a3", "a3+x", "everything");
        check("a3", "a-3", "everything");
        check("a-3", "a3", "everything");
        check("a-3", "a2", "everything");
        check("a1 b3", "a2 b2", "everything");
    }

    #[test]
    fn many_or_large_changes_are_sent_as_a_whole() {
        let set = |versions: &dyn Fn(usize) -> u64, count: usize| {
            let mut data = DataSet::default();
            for number in 0..count {
                let version = versions(number);
                let item = Item::live(version, format!(r#"{{"version":{version}}}"#));
                let key = ItemKey::new(ItemKind::Flag, format!("f{number}"));
                data.upsert(&key, Arc::new(item));
            }
            data
        };
        let check = |count: usize, changed: usize, as_changes: bool| {
            let before = set(&|_| 1, count);
            let after = set(&|number| if number < changed { 2 } else { 1 }, count);
            let found = difference(&before, &after);
            assert_eq!(matches!(found, Difference::Changes(_)), as_changes, "{changed} of {count}");
        };
        check(8, 8, true);
        check(9, 9, false);
        check(100, 50, true);
        check(100, 51, false);
        check(1_000, 128, true);
        check(1_000, 129, false);
    }
}
