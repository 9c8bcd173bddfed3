//! Applies pending changes in one transaction.

use super::pending::{Batch, Dirty, SetWork};
use super::shared::Shared;
use crate::storage::local::SetId;
use crate::storage::local::file::Tables;
use crate::storage::local::format::named;
use crate::storage::local::format::sets::{self, Writing};

/// Applies a batch, but begins no further large set once `enough` is true. Returns the number of
/// its sets that were applied.
pub(super) fn apply(
    shared: &Shared,
    tables: &mut Tables<'_>,
    batch: &Batch,
    enough: impl Fn(u64) -> bool,
) -> Result<usize, redb::Error> {
    if let Some(kept) = &batch.retained {
        sets::retain(tables, kept.iter().map(SetId::as_str))?;
    }
    for work in &batch.named {
        named::store(tables, &work.change)?;
    }
    let mut bytes = 0;
    for (done, (id, work)) in batch.sets.iter().enumerate() {
        if !work.is_small() && enough(bytes) && done > 0 {
            return Ok(done);
        }
        bytes += apply_set(shared, tables, id, work)?;
    }
    Ok(batch.sets.len())
}

/// Returns the number of bytes that were sealed.
fn apply_set(
    shared: &Shared,
    tables: &mut Tables<'_>,
    id: &SetId,
    work: &SetWork,
) -> Result<u64, redb::Error> {
    let (content, dirty, written_at) = match work {
        SetWork::Store { content, dirty, written_at } => (content, dirty, *written_at),
        SetWork::Remove => return sets::remove(tables, id.as_str()).map(|()| 0),
    };
    let writing = Writing { id: id.as_str(), content: content.as_ref(), written_at };
    // Only the change is stored, if the rest is known to be in the file. Otherwise the file may
    // still contain data of an earlier process.
    if let Dirty::Slots(slots) = dirty
        && shared.is_stored(id)
        && let Some(bytes) = sets::store_slots(tables, &writing, slots.iter().copied())?
    {
        return Ok(bytes);
    }
    sets::store_all(tables, &writing)
}
