//! Operations of a shared database that holds the flag data of one environment, in the layout that
//! SDKs read. It decides nothing: the keeper decides what is written, and when.
//!
//! Every call is bounded by the time budgets of its database; nothing is repeated here except what
//! a compare-and-set must repeat.

use std::borrow::Borrow;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

pub use super::inventory::Counts;
pub use super::layout::Row;
use super::layout::StoredHead;
use super::marker::{Marker, Note};
use crate::model::ItemKey;
use crate::storage::StoreError;

/// Most rows in one call of [`FlagBackend::upsert`] or [`FlagBackend::correct`]. Between two calls
/// the keeper checks for new orders and newer data.
pub const ROWS_MAX: usize = 512;

/// Most bytes of JSON in one such call, unless a single row is larger. Small enough that a slow
/// link moves them within the budget of a call.
pub const ROWS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One item as it was found.
#[derive(Clone, PartialEq, Eq)]
pub struct StoredRow {
    /// Its name.
    pub key: ItemKey,
    /// Its JSON, byte for byte.
    pub json: Bytes,
    /// Its version and whether it is a tombstone; `None` if it cannot be served: not JSON, or
    /// beyond the bounds that hold for every source.
    pub head: Option<StoredHead>,
    /// The database's own revision of it where it has one (Consul's ModifyIndex), else 0.
    pub revision: u64,
}

/// Shows the size of the content and not the content.
impl std::fmt::Debug for StoredRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoredRow")
            .field("key", &self.key)
            .field("json", &format_args!("{} bytes", self.json.len()))
            .field("head", &self.head)
            .field("revision", &self.revision)
            .finish()
    }
}

/// Everything that is stored for one environment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoredRows {
    /// The marker, which says that a complete data set was once written.
    pub marker: Option<Marker>,
    /// All items of both kinds, in any order.
    pub rows: Vec<StoredRow>,
}

/// Result of a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The marker.
    pub marker: Option<Marker>,
    /// Numbers of segments and flags, tombstones included; `None` where counting costs as much as
    /// reading.
    pub counts: Option<Counts>,
    /// Identity of the server that answered, if it gives one; it changes when the server restarts.
    pub server: Option<Arc<str>>,
}

/// Result of a fill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Everything was written, the marker included, and no reader saw a part of it.
    Done,
    /// Something is stored already; nothing was changed. Another writer was faster.
    NotEmpty,
    /// This database cannot do it at once; nothing was changed.
    Impossible,
}

/// Result of one upsert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upserted {
    /// The row was written.
    Written,
    /// The same version or a higher one is stored; nothing was changed.
    NotNewer,
    /// Other writers changed the row at each attempt; nothing was written.
    Contended,
    /// The marker is missing, or does not meet the condition; nothing was changed.
    Unguarded,
    /// The database accepts no item of this size, or none under such a key (too long, empty); what
    /// is stored under its key stays.
    TooLarge,
}

/// A condition for the marker of a store, under which rows are written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It has the same token as this one.
    SameSet(Marker),
    /// It lists the same rows besides: the rows that are written are among them.
    SameRows(Marker),
}

impl Condition {
    /// True if the marker that is stored meets it.
    pub fn is_met_by(&self, stored: &Marker) -> bool {
        match self {
            Self::SameSet(seen) => stored.is_same_set(seen),
            Self::SameRows(seen) => {
                let inventory = |marker: &Marker| marker.note.as_ref().map(|note| note.inventory);
                stored.is_same_set(seen) && inventory(stored) == inventory(seen)
            }
        }
    }
}

/// A replacement of exactly the row that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The row that was found.
    pub found: StoredRow,
    /// The row to put in its place; `None` removes it.
    pub wanted: Option<Row>,
}

/// The flag data of one environment in a shared database.
pub trait FlagBackend: Send + Sync + 'static {
    /// Reads everything.
    fn read(&self) -> impl Future<Output = Result<StoredRows, StoreError>> + Send;

    /// Looks for signs of a loss.
    fn look(&self) -> impl Future<Output = Result<Look, StoreError>> + Send;

    /// Writes everything into a store that holds nothing, so that a reader sees nothing or all of
    /// it. The rows are in the order of [`super::layout::ordered`]. The marker gets the note.
    fn fill(
        &self,
        rows: &[Row],
        note: &Note,
    ) -> impl Future<Output = Result<Filled, StoreError>> + Send;

    /// Writes each row unless its version or a higher one is stored, in order. At most
    /// [`ROWS_MAX`] rows. After an error some may have been written; the same call may follow.
    ///
    /// With a condition, writes only into a store whose marker still meets it: a store that lost
    /// its data is refilled whole, not item by item, and one that was initialized again since may
    /// hold an older set, which a few items do not complete. The marker is read together with the
    /// rows; where the database can, it is checked again in the call that writes.
    fn upsert(
        &self,
        rows: &[Row],
        condition: Option<&Condition>,
    ) -> impl Future<Output = Result<Vec<Upserted>, StoreError>> + Send;

    /// Carries out each correction whose row is still the one that was found; returns true for each
    /// that was carried out. One to a row that the database does not accept is not carried out. At
    /// most [`ROWS_MAX`].
    fn correct(
        &self,
        corrections: &[Correction],
    ) -> impl Future<Output = Result<Vec<bool>, StoreError>> + Send;

    /// Writes the note into the marker if that is still the one that was found (`None`: if there is
    /// none). Returns the marker after that: another one if a peer was faster, `None` if it was
    /// removed.
    fn mark(
        &self,
        found: Option<&Marker>,
        note: &Note,
    ) -> impl Future<Output = Result<Option<Marker>, StoreError>> + Send;
}

/// Cuts rows into calls that fit their budget.
pub fn chunks<T: Borrow<Row>>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        let mut bytes = 0;
        let fits = |row: &&T| {
            bytes += (**row).borrow().json.len();
            bytes <= ROWS_BYTES_MAX
        };
        let count = rest.iter().take(ROWS_MAX).take_while(fits).count();
        let (chunk, others) = rest.split_at(count.max(1).min(rest.len()));
        rest = others;
        (!chunk.is_empty()).then_some(chunk)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::ItemKind;

    #[test]
    fn calls_are_bounded_by_count_and_bytes() {
        let check = |sizes: &[usize], expected: &[usize]| {
            let row = |size: &usize| Row {
                key: ItemKey::new(ItemKind::Flag, "a"),
                version: 1,
                json: vec![b'x'; *size].into(),
            };
            let rows: Vec<Row> = sizes.iter().map(row).collect();
            let counts: Vec<usize> = chunks(&rows).map(<[Row]>::len).collect();
            assert_eq!(counts, expected, "{sizes:?}");
        };
        check(&[], &[]);
        check(&[1; ROWS_MAX + 1], &[ROWS_MAX, 1]);
        let half = ROWS_BYTES_MAX / 2;
        check(&[half, half, half], &[2, 1]);
        check(&[1, ROWS_BYTES_MAX, 1], &[1, 1, 1]);
        check(&[ROWS_BYTES_MAX + 1, 1], &[1, 1]);
    }
}
