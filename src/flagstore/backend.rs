//! What a shared database must do to hold the flag data of one environment, in the layout that
//! SDKs read. It decides nothing: what is to be written, and when, is the keeper's part.
//!
//! Every call is bounded by the time budgets of its database; nothing is repeated here except what
//! a compare-and-set must repeat.

use std::borrow::Borrow;
use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use super::layout::StoredHead;
use super::marker::{Marker, Note};
use crate::model::{ItemKey, ItemKind};
use crate::storage::StoreError;

/// Most rows in one call of [`FlagBackend::upsert`] or [`FlagBackend::correct`]. Between two calls
/// the keeper looks up: at its orders, at newer data.
pub const ROWS_MAX: usize = 512;

/// Most bytes of JSON in one such call, unless a single row is larger. Small enough that a slow
/// link moves them within the budget of a call.
pub const ROWS_BYTES_MAX: usize = 4 * 1024 * 1024;

/// One item as it is to be stored.
#[derive(Clone, PartialEq, Eq)]
pub struct Row {
    /// Its name.
    pub key: ItemKey,
    /// Its version, tombstones included.
    pub version: u64,
    /// The JSON of the layout: complete for strict readers, a tombstone in its full form.
    pub json: Bytes,
}

/// Shows the size of the content and not the content.
impl std::fmt::Debug for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Row")
            .field("key", &self.key)
            .field("version", &self.version)
            .field("json", &format_args!("{} bytes", self.json.len()))
            .finish()
    }
}

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
    /// Whether a complete data set was once written.
    pub marker: Option<Marker>,
    /// All items of both kinds, in any order.
    pub rows: Vec<StoredRow>,
}

/// What a cheap look shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Look {
    /// The marker.
    pub marker: Option<Marker>,
    /// How many segments and flags there are, tombstones included; `None` where counting costs as
    /// much as reading.
    pub counts: Option<Counts>,
    /// Which server answered, if it says: it changes when the server restarts.
    pub server: Option<Arc<str>>,
}

/// Numbers of stored items, tombstones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Segments.
    pub segments: u64,
    /// Flags.
    pub flags: u64,
}

impl Counts {
    /// Counts items by their names.
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a ItemKey>) -> Self {
        keys.into_iter().fold(Self::default(), Self::plus)
    }

    /// One more of the kind of this item.
    #[must_use]
    pub fn plus(self, key: &ItemKey) -> Self {
        match key.kind {
            ItemKind::Segment => Self { segments: self.segments + 1, ..self },
            ItemKind::Flag => Self { flags: self.flags + 1, ..self },
        }
    }

    /// One fewer of the kind of this item.
    #[must_use]
    pub fn minus(self, key: &ItemKey) -> Self {
        match key.kind {
            ItemKind::Segment => Self { segments: self.segments.saturating_sub(1), ..self },
            ItemKind::Flag => Self { flags: self.flags.saturating_sub(1), ..self },
        }
    }

    /// The higher number of each kind.
    #[must_use]
    pub fn max(self, other: Self) -> Self {
        Self { segments: self.segments.max(other.segments), flags: self.flags.max(other.flags) }
    }

    /// True if there are at least as many of each kind.
    pub fn covers(self, other: Self) -> bool {
        self.segments >= other.segments && self.flags >= other.flags
    }
}

/// How a fill ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filled {
    /// Everything was written, the marker included, and no reader saw a part of it.
    Done,
    /// Something is stored already; nothing was changed. Somebody else was faster.
    NotEmpty,
    /// This database cannot do it at once; nothing was changed.
    Impossible,
}

/// How one upsert ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upserted {
    /// The row was written.
    Written,
    /// The same version or a higher one is stored; nothing was changed.
    NotNewer,
    /// Others wrote to the row at each attempt; nothing was changed.
    Contended,
    /// The marker is missing, or another one; nothing was changed.
    NoMarker,
    /// The database takes no item of this size, or none under such a key (too long, empty); what
    /// is stored under its key stays.
    TooLarge,
}

/// Replaces exactly what was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// What was found.
    pub found: StoredRow,
    /// What shall stand in its place; `None` removes it.
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
    /// With a `marker` only into a store whose marker still has its token: a store that lost its
    /// data is refilled whole, not item by item, and one that was initialized anew since may hold
    /// an older set, which a few items do not complete. The marker is read together with the rows;
    /// where the database can, it is checked again in the call that writes.
    fn upsert(
        &self,
        rows: &[Row],
        marker: Option<&Marker>,
    ) -> impl Future<Output = Result<Vec<Upserted>, StoreError>> + Send;

    /// Carries out each correction of which the row is still what was found; tells for each
    /// whether it was. One that wants a row that the database does not take is not carried out.
    /// At most [`ROWS_MAX`].
    fn correct(
        &self,
        corrections: &[Correction],
    ) -> impl Future<Output = Result<Vec<bool>, StoreError>> + Send;

    /// Writes the note into the marker if that is still what was found (`None`: if there is
    /// none). Returns the marker that is there then: another one if a peer was faster, `None`
    /// if it was removed.
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
