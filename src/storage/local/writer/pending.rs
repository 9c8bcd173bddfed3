//! Changes that wait to be written. Pure: no clock, no I/O.
//!
//! Memory is bounded by construction. Each set has one entry: the newest snapshot (which is served
//! anyway) and the list of its items that are not stored. Named changes carry their bytes, so they
//! have a limit.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::oneshot;

use crate::storage::local::format::named::Change;
use crate::storage::local::format::sets::Content;
use crate::storage::local::{LocalStoreError, SetId};

/// Largest number of changed items of a set that are listed; with more, the whole set is compared,
/// which takes a few milliseconds.
const SLOTS_MAX: usize = 4096;

/// Limit of pending named changes, in bytes: some thousand environment records. More means that the
/// disk hangs, and the caller gets an error at once.
pub(crate) const NAMED_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The items of a set that may differ from what is stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Dirty {
    /// All items.
    All,
    /// The items in these slots.
    Slots(BTreeSet<u64>),
}

impl Dirty {
    /// The items that must be written if first `self` and then `later` changed.
    fn and(self, later: Self) -> Self {
        match (self, later) {
            (Self::All, Self::All | Self::Slots(_)) | (Self::Slots(_), Self::All) => Self::All,
            (Self::Slots(mut first), Self::Slots(second)) => {
                first.extend(second);
                if first.len() > SLOTS_MAX { Self::All } else { Self::Slots(first) }
            }
        }
    }
}

/// The work for one set.
#[derive(Clone)]
pub(crate) enum SetWork {
    /// Store this content.
    Store { content: Arc<dyn Content>, dirty: Dirty, written_at: SystemTime },
    /// Remove the set.
    Remove,
}

impl SetWork {
    /// The resulting work if `self` was requested first and `later` after it.
    fn then(self, later: Self) -> Self {
        match (self, later) {
            (_, Self::Remove) => Self::Remove,
            // The set is removed from the file, so all of the content will be missing there.
            (Self::Remove, Self::Store { content, dirty, written_at }) => {
                Self::Store { content, dirty: Dirty::All.and(dirty), written_at }
            }
            (Self::Store { dirty: first, .. }, Self::Store { content, dirty, written_at }) => {
                Self::Store { content, dirty: first.and(dirty), written_at }
            }
        }
    }

    /// True if the work is short, however large the set is.
    pub(crate) fn is_small(&self) -> bool {
        match self {
            Self::Store { dirty: Dirty::Slots(_), .. } | Self::Remove => true,
            Self::Store { dirty: Dirty::All, .. } => false,
        }
    }
}

/// A named change and the caller that waits for it.
pub(crate) struct NamedWork {
    pub(crate) change: Change,
    pub(crate) done: oneshot::Sender<Result<(), LocalStoreError>>,
}

/// All pending changes.
#[derive(Default)]
pub(crate) struct Pending {
    /// Sets with the arrival number of their oldest change.
    sets: BTreeMap<SetId, (u64, SetWork)>,
    arrivals: u64,
    named: Vec<NamedWork>,
    named_bytes: usize,
    retained: Option<Vec<SetId>>,
}

/// The work of one transaction.
#[derive(Default)]
pub(crate) struct Batch {
    /// Named changes, in the order in which they came.
    pub(crate) named: Vec<NamedWork>,
    /// If given, all sets except these are removed first.
    pub(crate) retained: Option<Vec<SetId>>,
    /// Sets, small work first, then the oldest.
    pub(crate) sets: Vec<(SetId, SetWork)>,
}

impl Pending {
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True if any pending change stores data, and does not only remove it.
    pub(crate) fn stores(&self) -> bool {
        let is_store = |(_, work): &(u64, SetWork)| matches!(work, SetWork::Store { .. });
        !self.named.is_empty() || self.sets.values().any(is_store)
    }

    /// Number of pending sets and changes.
    pub(crate) fn len(&self) -> usize {
        self.sets.len() + self.named.len() + usize::from(self.retained.is_some())
    }

    /// Adds work for a set.
    pub(crate) fn add(&mut self, id: SetId, later: SetWork) {
        self.arrivals += 1;
        match self.sets.remove(&id) {
            Some((arrival, first)) => self.sets.insert(id, (arrival, first.then(later))),
            None => self.sets.insert(id, (self.arrivals, later)),
        };
    }

    /// Drops all sets but these, now and in the file.
    pub(crate) fn retain(&mut self, kept: Vec<SetId>) {
        self.sets.retain(|id, _| kept.contains(id));
        self.retained = Some(kept);
    }

    /// Adds a named change, or returns it if too many bytes are pending.
    pub(crate) fn add_named(&mut self, work: NamedWork) -> Result<(), NamedWork> {
        let bytes = work.change.bytes();
        if !self.named.is_empty() && self.named_bytes + bytes > NAMED_BYTES_MAX {
            return Err(work);
        }
        self.named_bytes += bytes;
        self.named.push(work);
        Ok(())
    }

    /// Takes all pending changes.
    pub(crate) fn take(&mut self) -> Batch {
        self.named_bytes = 0;
        let mut sets: Vec<_> = mem::take(&mut self.sets).into_iter().collect();
        sets.sort_by_key(|(_, (arrival, work))| (!work.is_small(), *arrival));
        Batch {
            named: mem::take(&mut self.named),
            retained: self.retained.take(),
            sets: sets.into_iter().map(|(id, (_, work))| (id, work)).collect(),
        }
    }

    /// Puts sets back that were not written, before changes that arrived meanwhile. They come first
    /// again.
    pub(crate) fn put_back(&mut self, sets: impl IntoIterator<Item = (SetId, SetWork)>) {
        for (id, first) in sets {
            let work = match self.sets.remove(&id) {
                Some((_, later)) => first.then(later),
                None => first,
            };
            self.sets.insert(id, (0, work));
        }
    }

    /// Puts back the list of sets to keep, unless a newer list arrived.
    pub(crate) fn put_back_retained(&mut self, kept: Option<Vec<SetId>>) {
        if self.retained.is_none() {
            self.retained = kept;
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::storage::local::format::named::Others;

    use super::*;

    struct Version(u64);

    impl Content for Version {
        fn items(&self) -> u64 {
            self.0
        }
        fn encoded_bytes(&self) -> u64 {
            0
        }
        fn encode(&self, _: &dyn Fn(u64) -> Option<usize>, _: &mut [Vec<u8>]) {}
    }

    fn work(text: &str, version: u64) -> SetWork {
        let dirty = match text {
            "remove" => return SetWork::Remove,
            "all" => Dirty::All,
            slot => Dirty::Slots([slot.parse().unwrap()].into()),
        };
        let content = Arc::new(Version(version));
        SetWork::Store { content, dirty, written_at: SystemTime::UNIX_EPOCH }
    }

    fn shown(work: &SetWork) -> String {
        match work {
            SetWork::Remove => "remove".to_owned(),
            SetWork::Store { content, dirty, .. } => {
                let dirty = match dirty {
                    Dirty::All => "all".to_owned(),
                    Dirty::Slots(slots) => format!("{slots:?}"),
                };
                format!("{dirty} @{}", content.items())
            }
        }
    }

    #[track_caller]
    fn check(asked: &str, expected: &str) {
        let mut pending = Pending::default();
        for (version, text) in (1..).zip(asked.split(' ')) {
            pending.add(SetId::new("set"), work(text, version));
        }
        let batch = pending.take();
        assert_eq!(batch.sets.iter().map(|(_, work)| shown(work)).collect::<Vec<_>>(), [expected]);
        assert!(pending.is_empty());

        // The same if the first was taken and had to be put back.
        for (version, text) in (1..).zip(asked.split(' ')) {
            pending.add(SetId::new("set"), work(text, version));
            if version == 1 {
                let taken = pending.take();
                pending.add(SetId::new("other"), SetWork::Remove);
                let mut rest: Vec<_> = asked.split(' ').skip(1).collect();
                for (version, text) in (2..).zip(rest.drain(..)) {
                    pending.add(SetId::new("set"), work(text, version));
                }
                pending.put_back(taken.sets);
                break;
            }
        }
        let batch = pending.take();
        let set = batch.sets.iter().find(|(id, _)| id.as_str() == "set").unwrap();
        assert_eq!(shown(&set.1), expected, "after a failure");
    }

    #[test]
    fn changes_of_one_set_become_one() {
        check("1", "{1} @1");
        check("1 2 1", "{1, 2} @3");
        check("all 1", "all @2");
        check("1 all", "all @2");
        check("1 all 2", "all @3");
        check("all all", "all @2");
        check("1 remove", "remove");
        check("remove 1", "all @2");
        check("remove all", "all @2");
        check("all remove 1 2", "all @4");
    }

    #[test]
    fn very_many_slots_become_all() {
        let mut pending = Pending::default();
        for slot in 0..=SLOTS_MAX as u64 {
            pending.add(SetId::new("set"), work(&slot.to_string(), slot));
        }
        assert_eq!(shown(&pending.take().sets[0].1), format!("all @{SLOTS_MAX}"));
    }

    #[test]
    fn small_work_goes_first_then_the_oldest() {
        let mut pending = Pending::default();
        for (id, text) in [("b", "all"), ("c", "1"), ("a", "all"), ("d", "remove"), ("b", "2")] {
            pending.add(SetId::new(id), work(text, 0));
        }
        let taken = pending.take();
        let order = |batch: &Batch| {
            batch.sets.iter().map(|(id, _)| id.as_str().to_owned()).collect::<String>()
        };
        assert_eq!(order(&taken), "cdba");
        pending.add(SetId::new("e"), work("all", 0));
        pending.put_back(taken.sets);
        assert_eq!(order(&pending.take()), "cdabe", "what was put back stays before newer work");
    }

    #[test]
    fn a_list_of_sets_to_keep_drops_the_work_for_others() {
        let mut pending = Pending::default();
        pending.add(SetId::new("a"), work("all", 1));
        pending.add(SetId::new("b"), work("all", 1));
        pending.retain(vec![SetId::new("b")]);
        pending.add(SetId::new("c"), work("all", 1));
        let batch = pending.take();
        assert_eq!(batch.retained, Some(vec![SetId::new("b")]));
        assert_eq!(batch.sets.len(), 2, "c came after the list and stays");
        pending.retain(vec![]);
        pending.put_back_retained(batch.retained);
        assert_eq!(pending.take().retained, Some(vec![]), "the newer list counts");
    }

    #[test]
    fn named_changes_have_a_limit() {
        let mut pending = Pending::default();
        let work = |bytes: usize| {
            let change = Change {
                space: "space",
                puts: vec![(String::new(), vec![0; bytes])],
                deletes: Vec::new(),
                others: Others::Keep,
            };
            NamedWork { change, done: oneshot::channel().0 }
        };
        assert!(pending.add_named(work(NAMED_BYTES_MAX + 1)).is_ok(), "one always fits");
        assert!(pending.add_named(work(1)).is_err());
        assert_eq!(pending.take().named.len(), 1);
        assert!(pending.add_named(work(1)).is_ok());
    }
}
