//! Operations of a database that holds the shared cache. It sees sealed bytes only.

use std::fmt;
use std::future::Future;

use bytes::Bytes;

use crate::storage::StoreError;

/// One stored record.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name within the namespace of the backend.
    pub name: String,
    /// The sealed bytes.
    pub value: Bytes,
    /// The database's own revision where it has one (Consul's ModifyIndex), else 0. A row that was
    /// put together from memory has 0 too; a backend that works by revisions then looks the
    /// revision up and compares the value.
    pub revision: u64,
}

/// Shows the size of the content and not the content: not every format seals it.
impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Row")
            .field("name", &self.name)
            .field("value", &format_args!("{} bytes", self.value.len()))
            .field("revision", &self.revision)
            .finish()
    }
}

/// One compare-and-swap.
#[derive(Clone, PartialEq, Eq)]
pub struct Swap {
    /// The record to change.
    pub name: String,
    /// The row that must be stored for the change to happen; `None`: no row.
    pub expected: Option<Row>,
    /// The value to store; `None` removes the record.
    pub value: Option<Bytes>,
}

/// Shows the size of the content and not the content, as for [`Row`].
impl fmt::Debug for Swap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = self.value.as_ref().map(|value| format!("{} bytes", value.len()));
        f.debug_struct("Swap")
            .field("name", &self.name)
            .field("expected", &self.expected)
            .field("value", &format_args!("{}", bytes.as_deref().unwrap_or("none")))
            .finish()
    }
}

/// Result of one swap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Swapped {
    /// The change was made.
    Applied,
    /// Something else was stored; nothing was changed.
    Conflict,
    /// The database cannot hold a record of this size; nothing was changed.
    TooLarge,
}

/// One database behind the shared cache, bound to one namespace. Policy (deadlines for a whole
/// pass, retries, sealing, fallback) lives above it.
pub trait Backend: Send + Sync + 'static {
    /// All records of the namespace, in any order. An absent namespace is empty.
    fn read_all(&self) -> impl Future<Output = Result<Vec<Row>, StoreError>> + Send;

    /// Carries out each swap on its own, in order where the database has one, and returns the
    /// result of each. After an error some of them may have been carried out: read again before
    /// retrying.
    fn swap(&self, swaps: &[Swap])
    -> impl Future<Output = Result<Vec<Swapped>, StoreError>> + Send;
}
