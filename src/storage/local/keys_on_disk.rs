//! The keys that may open something in the directory: what the file says of itself, and when that
//! calls for writing the file anew. Pure.

use std::collections::BTreeSet;

use crate::sealing::{KEY_ID_BYTES, KeyId, KeyRing};

/// The keys whose records may be in the directory, be it where nothing refers to them any more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct KeysOnDisk {
    /// Those that sealed something in the file; `None` if the file does not say.
    pub(super) sealed: Option<BTreeSet<KeyId>>,
    /// Those that may have sealed something in files that were set aside.
    pub(super) aside: BTreeSet<KeyId>,
}

impl KeysOnDisk {
    /// Decides whether the file must be written anew, so that nothing stays in the directory that a
    /// retired key opens. `live` are the keys under which records stand in the file now.
    ///
    /// Records under keys that the ring does not hold stay until live data replaces them, and
    /// alone they are no reason.
    pub(super) fn call_for_rewrite(&self, live: &BTreeSet<KeyId>, ring: &KeyRing) -> bool {
        let is_left =
            |key: &KeyId| *key != ring.current().id() && (ring.holds(*key) || !live.contains(key));
        self.sealed.as_ref().is_none_or(|keys| keys.iter().any(is_left))
            || self.aside.iter().any(|key| !ring.holds(*key))
    }
}

/// The form in which a file names keys.
pub(super) fn key_list(keys: &BTreeSet<KeyId>) -> Vec<u8> {
    keys.iter().flat_map(KeyId::as_bytes).copied().collect()
}

/// Reads what [`key_list`] makes.
pub(super) fn read_key_list(list: &[u8]) -> BTreeSet<KeyId> {
    let (keys, _) = list.as_chunks::<KEY_ID_BYTES>();
    keys.iter().copied().map(KeyId::from_bytes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sealing::SealingKey;

    #[test]
    fn the_file_is_written_anew_while_it_may_hold_what_a_retired_key_opens() {
        let key = |text: &str| SealingKey::derive(text);
        let ids = |texts: &[&str]| texts.iter().map(|text| key(text).id()).collect::<BTreeSet<_>>();
        let ring = KeyRing::new(key("new"), [key("old")]);
        let check = |sealed: Option<&[&str]>, aside: &[&str], live: &[&str], expected: bool| {
            let keys = KeysOnDisk { sealed: sealed.map(ids), aside: ids(aside) };
            let called = keys.call_for_rewrite(&ids(live), &ring);
            assert_eq!(called, expected, "{sealed:?} {aside:?} {live:?}");
        };
        check(None, &[], &["new"], true);
        check(Some(&[]), &[], &[], false);
        check(Some(&["new"]), &[], &["new"], false);
        check(Some(&["new", "old"]), &[], &["new", "old"], true);
        check(Some(&["new", "old"]), &[], &["new"], true);
        // A key that is not configured: not while its records stand there.
        check(Some(&["new", "lost"]), &[], &["new", "lost"], false);
        check(Some(&["new", "lost"]), &[], &["new"], true);
        check(Some(&["new", "lost", "older"]), &[], &["lost"], true);
        // Files that were set aside go when a key that may open them is retired.
        check(Some(&["new"]), &["new", "old"], &["new"], false);
        check(Some(&["new"]), &["new", "lost"], &["new"], true);
    }
}
