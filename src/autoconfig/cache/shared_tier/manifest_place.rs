//! Place of the manifest of the written format: always among our sealed rows.

use super::SharedTier;
use crate::autoconfig::cache::backend::{Row, Swap};
use crate::autoconfig::cache::codec::{Codec, OpenedRow, OpenedRows};
use crate::autoconfig::cache::manifest::{LD_RELAY_MANIFEST_NAME, MANIFEST_NAME, Manifest};
use crate::autoconfig::cache::shared_tier::CacheFormat;

/// The place, and the rows that are there.
#[derive(Debug)]
pub(super) struct ManifestPlace {
    codec: Codec,
    /// Name of its record.
    name: &'static str,
    /// Name of its row under the current key.
    pub(super) row_name: String,
    /// The row of that name, readable or not.
    pub(super) in_place: Option<Row>,
    /// The row of a manifest that opens, if there is one. One that is sealed under a former key has
    /// another name.
    opened: Option<(Row, OpenedRow)>,
}

impl ManifestPlace {
    pub(super) fn new(tier: &SharedTier, sealed: &OpenedRows) -> Self {
        let codec = tier.codec(CacheFormat::Sealed);
        let name = match tier.format {
            CacheFormat::Sealed => MANIFEST_NAME,
            CacheFormat::LdRelay => LD_RELAY_MANIFEST_NAME,
        };
        let row_name = codec.row_name(name);
        let in_place = tier.visit.sealed.iter().find(|row| row.name == row_name).cloned();
        Self { codec, name, row_name, in_place, opened: sealed.records.get(name).cloned() }
    }

    pub(super) fn manifest(&self) -> Option<Manifest> {
        Manifest::decode(&self.opened.as_ref()?.1.text)
    }

    /// The changes that put this manifest there.
    pub(super) fn swaps(&self, due: &Manifest) -> Vec<Swap> {
        let mut swaps = vec![Swap {
            expected: self.in_place.clone(),
            value: Some(self.codec.seal(self.name, &due.encode())),
            name: self.row_name.clone(),
        }];
        let former = self.opened.as_ref().map(|(row, _)| row);
        if let Some(row) = former.filter(|row| row.name != self.row_name) {
            swaps.push(Swap { name: row.name.clone(), expected: Some(row.clone()), value: None });
        }
        swaps
    }
}
