//! Content of the marker, for each purpose.

use std::time::{Duration, SystemTime};

use super::{FlagVisits, Purpose};
use crate::flagstore::backend::Counts;
use crate::flagstore::marker::{Marker, Note, Unsettled};
use crate::model::{DataSet, ItemKey};
use crate::replica::{Authority, Due, Moment, Waiting};

/// A live relay confirms the age of the stored set when the time in its marker is older than this.
pub(in crate::flagstore::shared) const CONFIRMATION_AGE: Duration = Duration::from_secs(300);

impl FlagVisits {
    /// The marker that must be found and the note to write into it; `None` if nothing is to be
    /// written.
    pub(super) fn mark(&mut self, purpose: Purpose, at: &Moment) -> Option<(Option<Marker>, Note)> {
        let found = self.visit.found.clone();
        match purpose {
            Purpose::TakeOver => {
                // Its counts must not vouch for rows of both environments.
                Some((found, Note::unsettled(Unsettled::Mixed, self.identity.clone())))
            }
            Purpose::Counts => {
                self.visit.counts = self.counts_after_corrections();
                self.is_ours(found.as_ref()).then(|| self.unless_told(found, at))?
            }
            Purpose::Filled => {
                // Without items that the database refused.
                self.visit.counts = self.counts(self.visit.task.data.as_ref()?);
                self.unless_told(None, at)
            }
            Purpose::Sign => self.sign(found, at),
            Purpose::Raise(_) => self.raise(found?, at),
            Purpose::Settle => self.settle(found?, at),
            Purpose::Confirm => self.confirm(found?, at),
        }
    }

    /// The note with the counts; `None` if the marker that was found has them already.
    fn unless_told(&self, found: Option<Marker>, at: &Moment) -> Option<(Option<Marker>, Note)> {
        let counts = self.visit.counts;
        let told = found.as_ref().and_then(|found| found.note.as_ref());
        if told.is_some_and(|note| note.is_current(counts, self.identity.as_ref())) {
            return None;
        }
        Some((found, self.note(counts, at)))
    }

    /// Makes the set this environment's once the last doubtful row is gone.
    fn sign(&mut self, found: Option<Marker>, at: &Moment) -> Option<(Option<Marker>, Note)> {
        let is_settled =
            self.is_ours(found.as_ref()) || (!self.doubts.is_empty() && found.is_some());
        if is_settled || !self.visit.contended.is_empty() {
            return None;
        }
        if !self.doubts.is_empty() {
            // SDKs only ask whether there is a marker, and need it.
            return Some((None, Note::unsettled(Unsettled::Unconfirmed, self.identity.clone())));
        }
        if found.is_none() {
            return Some((None, self.note(self.visit.counts, at)));
        }
        self.unless_told(found, at)
    }

    /// Counts new items before they are written. That is done even if the known marker has these
    /// counts: a peer may have lowered them since it was read.
    fn raise(&mut self, found: Marker, at: &Moment) -> Option<(Option<Marker>, Note)> {
        if !self.is_ours(Some(&found)) {
            return None;
        }
        let counts = match self.visit.due {
            Due::Compare(_) => self.counts_after_writes(),
            Due::Flush | Due::Look | Due::Verify => self.counts(self.visit.task.data.as_ref()?),
        };
        self.visit.counts_before = found.note.as_ref()?.counts;
        // There may be rows of the other kind that only peers know.
        self.visit.counts = self.visit.counts_before.max(counts);
        let note = self.note(self.visit.counts, at);
        Some((Some(found), note))
    }

    /// Takes back the counts of items that could not be written.
    fn settle(&mut self, found: Marker, at: &Moment) -> Option<(Option<Marker>, Note)> {
        if self.visit.refused == 0 || !self.is_ours(Some(&found)) {
            return None;
        }
        let counts = self.counts(self.visit.task.data.as_ref()?);
        self.visit.counts = self.visit.counts_before.max(counts);
        self.unless_told(Some(found), at)
    }

    /// Renews the time at which LaunchDarkly confirmed the data, now and then.
    fn confirm(&mut self, marker: Marker, at: &Moment) -> Option<(Option<Marker>, Note)> {
        let Waiting { put, dirty, live } = self.orders.waiting();
        let is_certain = live && !put && !dirty && self.doubts.is_empty();
        let note = marker.note.clone().filter(|_| is_certain && self.is_ours(Some(&marker)))?;
        // A clock that is ahead of this one gives a time in the future.
        let age = |confirmed: SystemTime| at.wall.duration_since(confirmed);
        let is_old =
            note.confirmed_at.is_none_or(|it| age(it).is_ok_and(|age| age >= CONFIRMATION_AGE));
        is_old.then(|| {
            self.visit.task = self.orders.task();
            (Some(marker), self.note(note.counts, at))
        })
    }

    /// Numbers of rows that the store should hold, tombstones included, with other rows in it. Rows
    /// that the database refuses are not expected there.
    pub(super) fn counts(&self, data: &DataSet) -> Counts {
        let dropped = self.orders.report().get().dropped;
        let keys = data.iter().map(|(kind, key, _)| ItemKey { kind, key: key.clone() });
        let others = self.known.others.iter().filter(|key| data.item(key).is_none()).cloned();
        keys.filter(|key| !dropped.contains_key(key))
            .chain(others)
            .fold(Counts::default(), |counts, key| counts.plus(&key))
    }

    /// The note for the marker.
    pub(super) fn note(&self, counts: Counts, at: &Moment) -> Note {
        let known = self.known.marker.as_ref().and_then(|marker| marker.note.as_ref());
        Note {
            counts,
            // A relay that does not know its environment's ID does not know whose set this is.
            identity: self.identity.clone(),
            confirmed_at: match self.visit.task.authority {
                Authority::Live { .. } if self.doubts.is_empty() => Some(at.wall),
                // The store holds something that LaunchDarkly did not send.
                Authority::Live { .. } => known.and_then(|note| note.confirmed_at),
                Authority::Provisional => None,
            },
            unsettled: None,
        }
    }

    /// True if the marker says that the rows belong to this environment.
    pub(super) fn is_ours(&self, marker: Option<&Marker>) -> bool {
        let note = marker.and_then(|marker| marker.note.as_ref());
        note.is_some_and(|note| note.belongs_to(self.identity.as_ref()))
    }
}
