//! Content of the marker, for each purpose.

use std::time::{Duration, SystemTime};

use super::{FlagVisits, Outcome, Purpose};
use crate::flagstore::inventory::Inventory;
use crate::flagstore::marker::{Marker, Note, Unsettled};
use crate::model::{DataSet, ItemKey};
use crate::replica::{Authority, Due, Moment, Reason, Waiting};

/// A live relay confirms the age of the stored set when the time in its marker is older than this.
pub(in crate::flagstore::shared) const CONFIRMATION_AGE: Duration = Duration::from_secs(300);

impl FlagVisits {
    /// The marker that must be found and the note to write into it; `None` if nothing is to be
    /// written.
    pub(super) fn mark(&mut self, purpose: Purpose, at: &Moment) -> Option<(Option<Marker>, Note)> {
        let found = self.visit.found.clone();
        match purpose {
            Purpose::TakeOver => {
                // Its list must not vouch for rows of both environments.
                Some((found, Note::unsettled(Unsettled::Mixed, self.identity.clone())))
            }
            Purpose::List => {
                self.visit.inventory = self.after_corrections();
                self.is_ours(found.as_ref()).then(|| self.unless_told(found, at))?
            }
            Purpose::Filled => {
                // Without items that the database refused.
                self.visit.inventory = self.inventory(self.visit.task.data.as_ref()?);
                self.unless_told(None, at)
            }
            Purpose::Sign => self.sign(found, at),
            Purpose::Announce(again) => self.announce(found?, again, at),
            Purpose::Settle => self.settle(found?, at),
            Purpose::Confirm => self.confirm(found?, at),
        }
    }

    /// The note with the list of rows; `None` if the marker that was found has it already.
    fn unless_told(&self, found: Option<Marker>, at: &Moment) -> Option<(Option<Marker>, Note)> {
        let inventory = self.visit.inventory;
        let told = found.as_ref().and_then(|found| found.note.as_ref());
        if told.is_some_and(|note| note.is_current(inventory, self.identity.as_ref())) {
            return None;
        }
        Some((found, self.note(inventory, at)))
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
            return Some((None, self.note(self.visit.inventory, at)));
        }
        self.unless_told(found, at)
    }

    /// Lists new items before they are written. If the marker lists anything else that is not known
    /// here, a peer has changed the store meanwhile. At the first attempt the marker is written even
    /// if it is known to list them, because it may have changed since it was read, and not every
    /// database checks that when rows are written.
    fn announce(
        &mut self,
        found: Marker,
        again: bool,
        at: &Moment,
    ) -> Option<(Option<Marker>, Note)> {
        if !self.is_ours(Some(&found)) {
            return None;
        }
        let (inventory, known) = match self.visit.due {
            Due::Compare(_) => {
                let read = self.visit.stored.marker.as_ref().and_then(|it| it.note.as_ref());
                (self.after_writes(), read.map(|note| note.inventory))
            }
            Due::Flush | Due::Look | Due::Verify => {
                let inventory = self.inventory(self.visit.task.data.as_ref()?);
                (inventory, Some(self.visit.fresh.iter().fold(inventory, Inventory::minus)))
            }
        };
        let listed = found.note.as_ref().map(|note| note.inventory);
        if listed != Some(inventory) && listed != known {
            self.visit.stop(Outcome::Overtaken(Reason::MarkerChanged));
            return None;
        }
        (self.visit.inventory, self.visit.is_listed) = (inventory, true);
        if again {
            return self.unless_told(Some(found), at);
        }
        let note = self.note(inventory, at);
        Some((Some(found), note))
    }

    /// Takes items off the list that could not be written.
    fn settle(&mut self, found: Marker, at: &Moment) -> Option<(Option<Marker>, Note)> {
        if self.visit.refused == 0 || !self.is_ours(Some(&found)) {
            return None;
        }
        self.visit.inventory = self.inventory(self.visit.task.data.as_ref()?);
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
            (Some(marker), self.note(note.inventory, at))
        })
    }

    /// Rows that the store should hold, tombstones included, with other rows in it. Rows that the
    /// database refuses are not expected there.
    pub(super) fn inventory(&self, data: &DataSet) -> Inventory {
        let dropped = self.orders.report().get().dropped;
        let keys = data.iter().map(|(kind, key, _)| ItemKey { kind, key: key.clone() });
        let others = self.known.others.iter().filter(|key| data.item(key).is_none()).cloned();
        keys.filter(|key| !dropped.contains_key(key))
            .chain(others)
            .fold(Inventory::default(), |rows, key| rows.plus(&key))
    }

    /// The note for the marker.
    pub(super) fn note(&self, inventory: Inventory, at: &Moment) -> Note {
        let known = self.known.marker.as_ref().and_then(|marker| marker.note.as_ref());
        Note {
            inventory,
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
