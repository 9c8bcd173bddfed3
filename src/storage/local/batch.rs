//! Carries out what waits, inside one transaction.

use super::database::{OpenFile, Tables};
use super::names::{Prefix, set_prefix};
use super::pending::{Batch, Dirty, SetWork};
use super::sets::{self, Unknown, Writing};
use super::shared::Shared;
use super::{SetId, named};
use crate::sealing::KeyRing;

/// What a transaction did.
pub(super) struct Written {
    /// How many sets of the batch it took on.
    pub(super) sets: usize,
}

/// What carrying out a batch needs.
pub(super) struct BatchWriter<'a> {
    pub(super) shared: &'a Shared,
    pub(super) open: &'a OpenFile,
    pub(super) ring: &'a KeyRing,
}

impl BatchWriter<'_> {
    pub(super) fn apply(
        &self,
        tables: &mut Tables<'_>,
        batch: &Batch,
        enough: impl Fn(u64) -> bool,
    ) -> Result<Written, redb::Error> {
        if let Some(kept) = &batch.retained {
            let kept: Vec<Prefix> =
                kept.iter().map(|id| set_prefix(&self.open.salt, id.as_str())).collect();
            sets::retain(tables, &kept)?;
        }
        for work in &batch.named {
            named::store(tables, &self.open.salt, self.ring, &work.change)?;
        }
        let mut bytes = 0;
        for (done, (id, work)) in batch.sets.iter().enumerate() {
            if !work.is_small() && enough(bytes) && done > 0 {
                return Ok(Written { sets: done });
            }
            bytes += self.apply_set(tables, id, work)?;
        }
        Ok(Written { sets: batch.sets.len() })
    }

    fn apply_set(
        &self,
        tables: &mut Tables<'_>,
        id: &SetId,
        work: &SetWork,
    ) -> Result<u64, redb::Error> {
        let (content, dirty, written_at) = match work {
            SetWork::Store { content, dirty, written_at } => (content, dirty, *written_at),
            SetWork::Remove => {
                sets::remove(tables, &set_prefix(&self.open.salt, id.as_str()))?;
                return Ok(0);
            }
        };
        let content = content.as_ref();
        let writing = Writing {
            salt: &self.open.salt,
            ring: self.ring,
            id: id.as_str(),
            content,
            written_at,
        };
        match dirty {
            Dirty::All(unknown) => sets::store_all(tables, &writing, *unknown),
            Dirty::Slots(slots) => {
                // Only if the file is known to hold all the rest: it may still hold what an
                // earlier process left there.
                if self.shared.is_stored(id)
                    && let Some(bytes) = sets::store_slots(tables, &writing, slots.iter().copied())?
                {
                    return Ok(bytes);
                }
                sets::store_all(tables, &writing, Unknown::Keep)
            }
        }
    }
}
