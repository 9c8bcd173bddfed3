//! The limit on client connections, and the choice of connections to close when it is reached.
//!
//! Each connection is an open file, and so are the relay's own connections to LaunchDarkly and to
//! databases. Clients must leave enough of them free.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};

use super::pace::{Cut, Pace};

/// Open files that are reserved for the relay: stores, a database's connections, automatic
/// configuration, sockets that are being dialled, and connections beyond the limit.
const RESERVE: usize = 64 + OVER_LIMIT_MAX;

/// The same for each environment: its stream, and the one that replaces it.
const RESERVE_PER_ENVIRONMENT: usize = 2;

/// Most connections beyond the limit that are open at the same time. They get 503 or, if they are
/// probes, the usual answer. The oldest one is closed for the newest, because a probe sends its
/// request at once.
const OVER_LIMIT_MAX: usize = 32;

/// Connections that clients may have under a limit of open files. Pure.
pub(super) fn connections_max(open_files: usize, environments: usize) -> usize {
    let reserve = RESERVE.saturating_add(environments.saturating_mul(RESERVE_PER_ENVIRONMENT));
    open_files.saturating_sub(reserve.min(open_files / 4 * 3))
}

/// Place of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Below the limit.
    Free,
    /// In the place of a connection without a valid credential, which is closed.
    Cleared,
    /// Beyond the limit.
    OverLimit,
}

/// The connections that can be closed for new ones.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    /// Connections that had no valid credential when they were last checked, the oldest first.
    unknown: VecDeque<Weak<Pace>>,
    /// Connections beyond the limit, the oldest first.
    over_limit: VecDeque<Weak<Pace>>,
}

impl Crowd {
    /// Finds the place of a new connection. `open` counts the open ones, including those beyond the
    /// limit.
    pub(super) fn place(&mut self, new: &Arc<Pace>, open: usize, limit: usize) -> Place {
        self.over_limit.retain(|pace| pace.strong_count() > 0);
        if open.saturating_sub(self.over_limit.len()) < limit {
            self.add_unknown(new, open);
            return Place::Free;
        }
        while let Some(oldest) = self.unknown.pop_front() {
            if let Some(pace) = oldest.upgrade()
                && !pace.is_trusted()
            {
                pace.cut(Cut::GivesWay);
                self.add_unknown(new, open);
                return Place::Cleared;
            }
        }
        if self.over_limit.len() >= OVER_LIMIT_MAX
            && let Some(pace) = self.over_limit.pop_front().and_then(|oldest| oldest.upgrade())
        {
            pace.cut(Cut::GivesWay);
        }
        self.over_limit.push_back(Arc::downgrade(new));
        Place::OverLimit
    }

    /// Most connections that may be open besides a new one when it begins to be served. The one
    /// that is closed for it takes a moment to end; without this wait a burst would use up the
    /// reserve.
    pub(super) fn open_max(&self, place: Place, limit: usize) -> usize {
        match place {
            Place::Free => usize::MAX,
            Place::Cleared => limit.saturating_sub(1) + self.over_limit.len(),
            Place::OverLimit => limit + OVER_LIMIT_MAX - 1,
        }
    }

    fn add_unknown(&mut self, new: &Arc<Pace>, open: usize) {
        // Connections that have ended or shown a valid credential are dropped now and then.
        if self.unknown.len() > 2 * open + OVER_LIMIT_MAX {
            self.unknown.retain(|pace| pace.upgrade().is_some_and(|pace| !pace.is_trusted()));
        }
        self.unknown.push_back(Arc::downgrade(new));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clients_leave_open_files_to_the_relay() {
        let check = |open_files, environments, expected| {
            let max = connections_max(open_files, environments);
            assert_eq!(max, expected, "{open_files} files, {environments} environments");
        };
        check(256, 1, 158);
        check(1_024, 100, 728);
        check(1_024, 1_500, 256);
        check(1_048_576, 1_500, 1_045_480);
        check(64, 1, 16);
        check(0, 1, 0);
    }

    #[test]
    fn connections_without_a_credential_give_way_first_and_probes_find_a_place() {
        let mut crowd = Crowd::default();
        let mut open: Vec<Arc<Pace>> = Vec::new();
        let mut come = |open: &mut Vec<Arc<Pace>>| {
            let pace = Arc::new(Pace::default());
            let place = crowd.place(&pace, open.len(), 4);
            open.push(pace);
            // Those that were cut end.
            open.retain(|pace| !pace.was_cut());
            place
        };
        for _ in 0..4 {
            assert_eq!(come(&mut open), Place::Free);
        }
        open[0].trust();
        open[2].trust();
        let kept = [open[0].clone(), open[2].clone()];
        for _ in 0..10 {
            assert_eq!(come(&mut open), Place::Cleared);
            assert_eq!(open.len(), 4);
        }
        assert!(!kept.iter().any(|pace| pace.was_cut()));
        open.iter().for_each(|pace| pace.trust());
        for count in 1..=100 {
            assert_eq!(come(&mut open), Place::OverLimit);
            assert_eq!(open.len(), 4 + count.min(OVER_LIMIT_MAX));
        }
        assert!(!open.iter().take(4).any(|pace| pace.was_cut()));
        // One that was within the limit leaves, and the next one takes its place.
        drop(kept);
        open.remove(0);
        assert_eq!(come(&mut open), Place::Free);
        assert_eq!(come(&mut open), Place::Cleared);
    }
}
