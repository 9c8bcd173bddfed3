//! Data for tests of the embedded store: every item can be told by its set, number and version.

use std::sync::Arc;
use std::time::Duration;

use pilotlight::testing::flagstore::{DataSetId, LocalFlags, ReadOutcome};
use pilotlight::testing::model::{DataSet, EnvironmentRef, FilterKey, Item, ItemKey, ItemKind};
use pilotlight::testing::sealing::{KeyRing, SealingKey};
use pilotlight::testing::storage::local::LocalStoreError;
use tempfile::TempDir;

pub(crate) const LONG: Duration = Duration::from_secs(60);

/// In memory where the machine has such a place: a kill loses no more there than elsewhere, and the
/// disk's other users do not count.
pub(crate) fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

pub(crate) fn ring() -> KeyRing {
    KeyRing::new(SealingKey::derive("a key of the test"), [])
}

pub(crate) fn id(set: usize) -> DataSetId {
    let environment = format!("environment-{set}").into();
    DataSetId::new(&EnvironmentRef { environment, filter: FilterKey::default() })
}

pub(crate) fn key(number: usize) -> ItemKey {
    let kind = if number % 10 == 9 { ItemKind::Segment } else { ItemKind::Flag };
    ItemKey::new(kind, format!("secret-item-{number}"))
}

/// The only item of that set, number and version. Some are tombstones.
pub(crate) fn item(set: usize, number: usize, version: u64) -> Item {
    if version % 7 == 6 {
        return Item::tombstone(version);
    }
    let filler = "x".repeat(200 + number % 50);
    let json = format!(
        r#"{{"key":"secret-item-{number}","version":{version},"set":{set},"is":"{filler}"}}"#
    );
    Item::live(version, json.into_bytes())
}

/// A set with one version of all its items.
pub(crate) fn data(set: usize, items: usize, version: u64) -> DataSet {
    let mut data = DataSet::default();
    for number in 0..items {
        data.upsert(&key(number), Arc::new(item(set, number, version)));
    }
    data
}

/// The versions of a set's items by number, if the set is complete and every item is what its
/// version says.
#[track_caller]
pub(crate) fn versions(set: usize, items: usize, data: &DataSet) -> Vec<u64> {
    assert_eq!(data.len(), items, "no item too many or too few in set {set}");
    let version = |number: usize| {
        let held = data.item(&key(number)).expect("every item is there");
        assert_eq!(**held, item(set, number, held.version), "set {set}, item {number}");
        held.version
    };
    (0..items).map(version).collect()
}

/// Reads a set that must be complete.
#[track_caller]
pub(crate) fn complete(local: &LocalFlags, set: usize) -> DataSet {
    let read = read(local, set).unwrap();
    let ReadOutcome::Complete(stored) = read else { panic!("set {set} is not complete: {read:?}") };
    stored.data
}

/// Reads a set without regard to what comes of it.
pub(crate) fn read(local: &LocalFlags, set: usize) -> Result<ReadOutcome, LocalStoreError> {
    local.read_set(&id(set))
}
