//! One name space of a table, in the words of these tests.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use pilotlight::testing::storage::StoreError;
use pilotlight::testing::storage::table::{Row, RowName, Table, Write, Written, get_one};

/// A name space of a table.
pub(crate) struct Space<T> {
    pub(crate) table: T,
    pub(crate) name: Arc<str>,
}

/// A write to a name space.
#[derive(Clone)]
pub(crate) struct Change {
    key: String,
    expected: Option<Row>,
    value: Option<Bytes>,
}

pub(crate) fn insert(key: &str, value: impl Into<Bytes>) -> Change {
    Change { key: key.to_owned(), expected: None, value: Some(value.into()) }
}

pub(crate) fn update(row: &Row, value: impl Into<Bytes>) -> Change {
    Change { value: Some(value.into()), ..remove(row) }
}

pub(crate) fn remove(row: &Row) -> Change {
    Change { key: key(row), expected: Some(row.clone()), value: None }
}

/// Expects no row and stores none.
pub(crate) fn nothing(key: &str) -> Change {
    Change { key: key.to_owned(), expected: None, value: None }
}

pub(crate) fn key(row: &Row) -> String {
    row.name.key.as_deref().unwrap().to_owned()
}

impl<T: Table> Space<T> {
    pub(crate) fn new(table: T, name: impl Into<Arc<str>>) -> Self {
        Self { table, name: name.into() }
    }

    pub(crate) fn row_name(&self, key: &str) -> RowName {
        RowName::new(&self.name, key)
    }

    pub(crate) async fn read_all(&self) -> Result<Vec<Row>, StoreError> {
        Ok(self.table.read(std::slice::from_ref(&self.name), None).await?.rows)
    }

    pub(crate) async fn get(&self, key: &str) -> Result<Option<Row>, StoreError> {
        get_one(&self.table, Some(&self.row_name(key))).await
    }

    pub(crate) async fn write(&self, changes: &[Change]) -> Result<Vec<Written>, StoreError> {
        self.guarded(changes, None).await
    }

    pub(crate) async fn guarded(
        &self,
        changes: &[Change],
        guard: Option<&Row>,
    ) -> Result<Vec<Written>, StoreError> {
        let write = |change: &Change| Write {
            name: self.row_name(&change.key),
            expected: change.expected.clone(),
            value: change.value.clone().map(Into::into),
        };
        let writes: Vec<Write> = changes.iter().map(write).collect();
        self.table.write(&writes, guard).await
    }

    /// Writes, and checks how each write ended.
    #[track_caller]
    pub(crate) fn writes(
        &self,
        changes: &[Change],
        expected: &[Written],
    ) -> impl Future<Output = ()> {
        let place = std::panic::Location::caller();
        async move {
            let outcomes = self.write(changes).await.unwrap();
            let keys: Vec<&str> = changes.iter().map(|change| change.key.as_str()).collect();
            assert_eq!(outcomes, expected, "{keys:?} at {place}");
        }
    }
}

pub(crate) async fn content(space: &Space<impl Table>) -> BTreeMap<String, Bytes> {
    let rows = space.read_all().await.unwrap();
    rows.into_iter().map(|row| (key(&row), row.value.bytes)).collect()
}
