//! What rows a store should hold, in short: their numbers, and a checksum of their names. Pure.

use sha2::{Digest, Sha256};

use crate::model::{ItemKey, ItemKind};

/// Numbers of stored items, tombstones included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Segments.
    pub segments: u64,
    /// Flags.
    pub flags: u64,
}

impl Counts {
    /// True if there are at least as many of each kind.
    pub fn covers(self, other: Self) -> bool {
        self.segments >= other.segments && self.flags >= other.flags
    }

    fn of_kind(&mut self, kind: ItemKind) -> &mut u64 {
        match kind {
            ItemKind::Segment => &mut self.segments,
            ItemKind::Flag => &mut self.flags,
        }
    }
}

/// Rows that a store should hold.
///
/// Numbers alone would not do: of two relays that add different items at the same time, each would
/// take the number that the other has raised for its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Inventory {
    /// Their numbers.
    pub counts: Counts,
    /// Sum of a hash of each name, the same in any order; `None` if a marker does not tell.
    pub names: Option<u64>,
}

/// No rows.
impl Default for Inventory {
    fn default() -> Self {
        Self { counts: Counts::default(), names: Some(0) }
    }
}

impl Inventory {
    /// The inventory of these rows. None may be there twice.
    pub fn of<'a>(keys: impl IntoIterator<Item = &'a ItemKey>) -> Self {
        keys.into_iter().fold(Self::default(), Self::plus)
    }

    /// With this row.
    #[must_use]
    pub fn plus(mut self, key: &ItemKey) -> Self {
        *self.counts.of_kind(key.kind) += 1;
        self.names = self.names.map(|names| names.wrapping_add(hash(key)));
        self
    }

    /// Without this row, which was in it.
    #[must_use]
    pub fn minus(mut self, key: &ItemKey) -> Self {
        let count = self.counts.of_kind(key.kind);
        *count = count.saturating_sub(1);
        self.names = self.names.map(|names| names.wrapping_sub(hash(key)));
        self
    }

    /// True if these rows can be all that the other inventory lists, and more.
    pub fn may_cover(self, other: Self) -> bool {
        let is_renamed = self.counts == other.counts && other.names.is_some() && self != other;
        self.counts.covers(other.counts) && !is_renamed
    }
}

fn hash(key: &ItemKey) -> u64 {
    let digest = Sha256::digest(key.to_string());
    digest.iter().take(8).fold(0, |hash, byte| hash << 8 | u64::from(*byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(names: &str) -> Inventory {
        let key = |name: &str| match name.strip_prefix('/') {
            Some(name) => ItemKey::new(ItemKind::Segment, name),
            None => ItemKey::new(ItemKind::Flag, name),
        };
        Inventory::of(&names.split_whitespace().map(key).collect::<Vec<_>>())
    }

    #[test]
    fn an_inventory_tells_sets_apart_in_any_order() {
        assert_eq!(rows("a b /a"), rows("/a b a"));
        for other in ["a b /b", "a b a", "a c /a", "a /b /a", "ab /a", "a b"] {
            assert_ne!(rows("a b /a"), rows(other), "{other}");
        }
        let key = ItemKey::new(ItemKind::Segment, "a");
        assert_eq!(rows("a").plus(&key), rows("a /a"));
        assert_eq!(rows("a /a").minus(&key), rows("a"));
        assert_eq!(rows(""), Inventory::default());
        // From the first eight bytes of `printf flags/a | sha256sum`. Other releases read it.
        assert_eq!(rows("a").names, Some(0xa4c0_7bb4_0be1_cf46));
    }

    #[test]
    fn more_rows_may_hold_what_is_listed_but_others_may_not() {
        assert!(rows("a b /a").may_cover(rows("a /a")));
        assert!(rows("a b").may_cover(rows("a b")));
        assert!(!rows("a c").may_cover(rows("a b")));
        assert!(!rows("a").may_cover(rows("a b")));
        assert!(!rows("a b c").may_cover(rows("a /a")));
        // A marker without a checksum tells numbers only.
        assert!(rows("a c").may_cover(Inventory { names: None, ..rows("a b") }));
    }
}
