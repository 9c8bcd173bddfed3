//! Rows in a shared database, each written under its own condition.
//!
//! The only primitive for conditional writes. Each database implements [`Table`] once, with its
//! limits, batches and fallbacks. The modules above give the rows a meaning: flags in the layout of
//! SDKs, and sealed records. No call is repeated here except where a compare-and-set requires it.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

#[cfg(any(feature = "dynamodb", feature = "consul"))]
use super::join::join_bounded;
use super::{Dialer, FailFast, StoreError};

/// Largest number of bytes of a small call. A slow connection transfers them within the budget of
/// such a call, so it need not wait for its turn behind whole data sets of other environments.
const SMALL_BYTES_MAX: usize = 64 * 1024;

/// Largest number of rows that a small call reads.
const SMALL_ROWS_MAX: usize = 16;

/// The name of a row.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RowName {
    /// The name space: a Redis hash, a DynamoDB partition, a Consul folder.
    pub space: Arc<str>,
    /// The key within the name space; `None` for a row outside of name spaces, named `space`.
    pub key: Option<Arc<str>>,
}

impl RowName {
    /// A row in a name space.
    pub fn new(space: &Arc<str>, key: impl Into<Arc<str>>) -> Self {
        Self { space: space.clone(), key: Some(key.into()) }
    }

    /// A row outside of name spaces.
    pub fn alone(name: impl Into<Arc<str>>) -> Self {
        Self { space: name.into(), key: None }
    }
}

/// The content of a row.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Value {
    /// Its bytes.
    pub bytes: Bytes,
    /// The version that is stored with the bytes, in the database's notation. Only databases with
    /// [`Table::KEEPS_VERSIONS`] store it.
    pub version: Option<Arc<str>>,
}

impl From<Bytes> for Value {
    fn from(bytes: Bytes) -> Self {
        Self { bytes, version: None }
    }
}

/// Shows the size of the content instead of the content, which may be plaintext.
impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let version = self.version.as_deref().unwrap_or("none");
        write!(f, "Value({} bytes, version {version})", self.bytes.len())
    }
}

/// A row as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub name: RowName,
    /// Its content.
    pub value: Value,
    /// The database's own revision of it, if there is one (Consul's ModifyIndex), else 0. A row
    /// that was built from memory has 0 too; then its value is compared.
    pub revision: u64,
}

/// A write under a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The row to change.
    pub name: RowName,
    /// The row that must be stored for the change to happen; `None` means no row.
    pub expected: Option<Row>,
    /// The new content; `None` removes the row.
    pub value: Option<Value>,
}

impl Write {
    /// Bytes of the name and of both values.
    pub(super) fn content_bytes(&self) -> usize {
        let key = self.name.key.as_ref().map_or(0, |key| key.len());
        let expected = self.expected.as_ref().map_or(0, |row| row.value.bytes.len());
        key + expected + self.value.as_ref().map_or(0, |value| value.bytes.len())
    }
}

/// The outcome of one write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The change was made.
    Applied,
    /// The row is not as expected, or other writers interfered; nothing was changed.
    Conflict,
    /// The guard has changed since it was read; nothing was changed.
    Unguarded,
    /// The database does not accept a row of this size or with this name; nothing was changed.
    TooLarge,
}

/// All rows of some name spaces.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// The rows, in any order.
    pub rows: Vec<Row>,
    /// The marker before and after the rows were read. Both are equal if the database reads
    /// everything at one moment.
    pub markers: [Option<Row>; 2],
}

/// A set that [`Table::create`] writes.
#[derive(Debug)]
pub struct NewSet<'a> {
    /// The name spaces, in the order in which readers may see them appear.
    pub spaces: &'a [Arc<str>],
    /// The rows of these spaces.
    pub rows: Vec<(RowName, Value)>,
    /// A row outside of name spaces, written last.
    pub marker: (RowName, Value),
}

/// The outcome of a creation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Created {
    /// Everything was written, and no reader saw a part of it.
    Done,
    /// A row already exists; nothing was changed.
    NotEmpty,
    /// This database cannot write the set atomically; nothing was changed.
    Impossible,
}

/// The cheap signs of a loss.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Signs {
    /// The marker.
    pub marker: Option<Row>,
    /// Numbers of rows in the name spaces, in their order; `None` if counting costs as much as
    /// reading.
    pub counts: Option<Vec<u64>>,
    /// The identity of the server, if it reports one: it changes when the server restarts.
    pub server: Option<Arc<str>>,
}

/// Rows of a shared database. Each call is bounded by the time budgets of the database.
pub trait Table: Send + Sync + 'static {
    /// True if a version is stored with the bytes of a row.
    const KEEPS_VERSIONS: bool = false;

    /// True if reading many rows by name takes as many requests as writing them, so that rows that
    /// are probably new are better written without a read.
    const READS_ONE_BY_ONE: bool = false;

    /// True if the database can store this value under this name.
    fn takes(&self, name: &RowName, value: &Value) -> bool;

    /// Reads all rows of these name spaces, and the marker before and after them.
    fn read(
        &self,
        spaces: &[Arc<str>],
        marker: Option<&RowName>,
    ) -> impl Future<Output = Result<Contents, StoreError>> + Send;

    /// Reads rows by name. `bytes` is an estimate of their size: a large read waits for its turn
    /// and has more time.
    fn get(
        &self,
        names: &[RowName],
        bytes: usize,
    ) -> impl Future<Output = Result<Vec<Option<Row>>, StoreError>> + Send;

    /// Carries out each write independently. With a guard (a row outside of name spaces), a write
    /// happens only if that row is still as it was read, where the database can check that in the
    /// same call. After an error some writes may have been carried out; read again before a retry.
    fn write(
        &self,
        writes: &[Write],
        guard: Option<&Row>,
    ) -> impl Future<Output = Result<Vec<Written>, StoreError>> + Send;

    /// Writes everything into name spaces that are empty, the marker last.
    fn create(&self, set: &NewSet<'_>) -> impl Future<Output = Result<Created, StoreError>> + Send;

    /// Reads the signs of a loss.
    fn signs(
        &self,
        spaces: &[Arc<str>],
        marker: &RowName,
    ) -> impl Future<Output = Result<Signs, StoreError>> + Send;
}

/// Reads one small row, if there is a name.
pub async fn get_one<T: Table>(
    table: &T,
    name: Option<&RowName>,
) -> Result<Option<Row>, StoreError> {
    let Some(name) = name else { return Ok(None) };
    Ok(table.get(std::slice::from_ref(name), 0).await?.pop().flatten())
}

/// The writes that the database can store, with their places.
pub(super) fn taken<'a, T: Table>(
    table: &'a T,
    writes: &'a [Write],
) -> impl Iterator<Item = (usize, &'a Write)> {
    writes.iter().enumerate().filter(|(_, write)| {
        write.value.as_ref().is_none_or(|value| table.takes(&write.name, value))
    })
}

/// Reads name spaces between two reads of the marker, for databases that cannot read everything at
/// one moment. A creation writes the marker last, and rows that were deleted during the read are
/// not complete.
#[cfg(any(feature = "dynamodb", feature = "consul"))]
pub(super) async fn read_between_markers<T: Table>(
    table: &T,
    marker: Option<&RowName>,
    reads: Vec<impl Future<Output = Result<Vec<Row>, StoreError>> + Send>,
) -> Result<Contents, StoreError> {
    let before = get_one(table, marker).await?;
    let mut rows = Vec::new();
    for of_space in join_bounded(reads.len(), reads).await {
        rows.append(&mut of_space?);
    }
    // Without a marker before, the marker after does not matter.
    let after = get_one(table, marker.filter(|_| before.is_some())).await?;
    Ok(Contents { rows, markers: [before, after] })
}

/// The amount of data that a call transfers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Load {
    Small,
    Bulk,
}

impl Load {
    pub(super) fn of(rows: usize, bytes: usize) -> Self {
        if rows <= SMALL_ROWS_MAX && bytes <= SMALL_BYTES_MAX { Self::Small } else { Self::Bulk }
    }

    /// Runs `op` as a small call or as a bulk call.
    pub(super) async fn run<D: Dialer, T, F, Fut>(
        self,
        store: &FailFast<D>,
        op: F,
    ) -> Result<T, StoreError>
    where
        F: FnOnce(D::Conn) -> Fut + Send,
        Fut: Future<Output = Result<T, StoreError>> + Send,
    {
        match self {
            Self::Small => store.call(op).await,
            Self::Bulk => store.bulk(op).await,
        }
    }
}

/// The limits of one call. A row that exceeds `bytes` gets its own call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Number of rows.
    pub(super) count: usize,
    /// Bytes by the database's own rule.
    pub(super) bytes: usize,
}

/// Divides a list into calls: the places of the entries in each call, in their order.
pub(super) fn batches(
    entries: impl IntoIterator<Item = (usize, usize)>,
    limits: Limits,
) -> Vec<Vec<usize>> {
    let mut batches: Vec<Vec<usize>> = Vec::new();
    let mut carried = 0;
    for (place, bytes) in entries {
        match batches.last_mut() {
            Some(last) if last.len() < limits.count && carried + bytes <= limits.bytes => {
                last.push(place);
                carried += bytes;
            }
            Some(_) | None => {
                batches.push(vec![place]);
                carried = bytes;
            }
        }
    }
    batches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_keep_order_and_limits() {
        let check = |sizes: &[usize], expected: &[&[usize]]| {
            let entries = sizes.iter().copied().enumerate();
            assert_eq!(batches(entries, Limits { count: 3, bytes: 10 }), expected);
        };
        check(&[], &[]);
        check(&[1, 2, 3, 4], &[&[0, 1, 2], &[3]]);
        check(&[6, 4, 1], &[&[0, 1], &[2]]);
        check(&[6, 5], &[&[0], &[1]]);
        check(&[50, 1], &[&[0], &[1]]);
        assert_eq!(batches([(4, 1), (7, 1)], Limits { count: 3, bytes: 10 }), [[4, 7]]);
    }

    #[test]
    fn a_small_call_has_few_rows_and_few_bytes() {
        assert_eq!(Load::of(1, SMALL_BYTES_MAX), Load::Small);
        assert_eq!(Load::of(1, SMALL_BYTES_MAX + 1), Load::Bulk);
        assert_eq!(Load::of(SMALL_ROWS_MAX + 1, 0), Load::Bulk);
    }
}
