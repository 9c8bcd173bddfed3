//! Decides when the archive is read. Pure.

use std::time::{Duration, SystemTime};

use tokio::time::Instant;

/// Pause before a file that could not be used is read again: it may be being written.
const SETTLING: Duration = Duration::from_millis(500);

/// Pause between later attempts, as long as the file does not change. Something else than its
/// content may be the reason: a disk, a permission.
const RETRY_PAUSE: Duration = Duration::from_secs(10);

/// What the file system says about a file. It changes when the file is replaced or written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Time of the last change.
    pub modified: Option<SystemTime>,
    /// Its size.
    pub bytes: u64,
    /// Number of the file, which changes when another file takes its name.
    pub inode: u64,
}

/// The file as it was last seen.
#[derive(Debug, Default)]
pub struct Look {
    seen: Seen,
}

#[derive(Debug, Default)]
enum Seen {
    #[default]
    Never,
    /// It was read and could be used.
    Used(Stamp),
    /// It could not be used.
    Failed {
        stamp: Stamp,
        /// Time of the next attempt if it does not change.
        again: Instant,
    },
    /// It cannot be looked at.
    Missing {
        /// Time from which on that is to be told; `None` once it is.
        tell_at: Option<Instant>,
    },
}

/// What to do after a look at the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Todo {
    /// Nothing has changed.
    Nothing,
    /// Read it. A failure is to be told only if the file did not change since the last one: it may
    /// be being written.
    Read {
        /// True if a failure is to be told.
        tell_failure: bool,
    },
    /// Tell that it cannot be looked at.
    TellMissing,
}

impl Look {
    /// Takes what the file system says; `None` if the file cannot be looked at.
    pub fn at(&mut self, found: Option<Stamp>, now: Instant) -> Todo {
        match (&mut self.seen, found) {
            (Seen::Missing { tell_at }, None) => match tell_at.take_if(|at| now >= *at) {
                Some(_) => Todo::TellMissing,
                None => Todo::Nothing,
            },
            (_, None) => {
                // When it is back, it is read, whatever it says.
                self.seen = Seen::Missing { tell_at: Some(now + SETTLING) };
                Todo::Nothing
            }
            (Seen::Used(seen), Some(stamp)) if *seen == stamp => Todo::Nothing,
            (Seen::Failed { stamp: seen, again }, Some(stamp)) if *seen == stamp => {
                if now < *again { Todo::Nothing } else { Todo::Read { tell_failure: true } }
            }
            (_, Some(_)) => Todo::Read { tell_failure: false },
        }
    }

    /// Notes that the file was read when it was as `stamp` says, and whether it could be used.
    pub fn read(&mut self, stamp: Stamp, is_used: bool, now: Instant) {
        let is_second = matches!(&self.seen, Seen::Failed { stamp: seen, .. } if *seen == stamp);
        self.seen = match is_used {
            true => Seen::Used(stamp),
            false => {
                let pause = if is_second { RETRY_PAUSE } else { SETTLING };
                Seen::Failed { stamp, again: now + pause }
            }
        };
    }

    /// Time of the next look that is due also if nothing happens.
    pub fn due(&self) -> Option<Instant> {
        match &self.seen {
            Seen::Never | Seen::Used(_) => None,
            Seen::Failed { again, .. } => Some(*again),
            Seen::Missing { tell_at } => *tell_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stamp(bytes: u64) -> Option<Stamp> {
        Some(Stamp { modified: Some(SystemTime::UNIX_EPOCH), bytes, inode: 1 })
    }

    const NOTHING: Todo = Todo::Nothing;
    const READ: Todo = Todo::Read { tell_failure: false };
    const AGAIN: Todo = Todo::Read { tell_failure: true };

    /// A file that is looked at, with the time in milliseconds.
    struct Bench {
        look: Look,
        begun: Instant,
    }

    impl Bench {
        fn new() -> Self {
            Self { look: Look::default(), begun: Instant::now() }
        }

        /// Looks at a file of that size; if it is to be read, it can be used or not.
        #[track_caller]
        fn check(&mut self, at: u64, found: Option<Stamp>, expected: Todo, is_used: bool) {
            let now = self.begun + Duration::from_millis(at);
            assert_eq!(self.look.at(found, now), expected);
            if let (Some(stamp), Todo::Read { .. }) = (found, expected) {
                self.look.read(stamp, is_used, now);
            }
        }

        #[track_caller]
        fn due(&self, expected: Option<u64>) {
            let due = self.look.due().map(|at| (at - self.begun).as_millis());
            assert_eq!(due, expected.map(u128::from));
        }
    }

    #[test]
    fn a_file_is_read_when_it_changed() {
        let mut bench = Bench::new();
        bench.check(0, stamp(1), READ, true);
        bench.due(None);
        bench.check(1, stamp(1), NOTHING, true);
        bench.check(2, stamp(2), READ, true);
        bench.check(3, stamp(2), NOTHING, true);
    }

    #[test]
    fn a_file_that_stays_away_is_told_once_and_read_when_it_is_back() {
        let mut bench = Bench::new();
        bench.check(0, stamp(1), READ, true);
        // Some programs remove a file before they write the next one.
        bench.check(100, None, NOTHING, true);
        bench.due(Some(600));
        bench.check(200, stamp(1), READ, true);
        bench.check(300, None, NOTHING, true);
        bench.check(799, None, NOTHING, true);
        bench.check(800, None, Todo::TellMissing, true);
        bench.due(None);
        bench.check(9_000, None, NOTHING, true);
        bench.check(9_001, stamp(1), READ, true);
    }

    #[test]
    fn a_file_that_fails_is_told_when_it_rests_and_tried_again_now_and_then() {
        let mut bench = Bench::new();
        bench.check(0, stamp(1), READ, true);
        bench.check(1_000, stamp(2), READ, false);
        bench.check(1_100, stamp(3), READ, false);
        bench.due(Some(1_600));
        // However often something else happens in its folder.
        bench.check(1_599, stamp(3), NOTHING, false);
        for second in [1_600, 11_600, 21_600] {
            bench.check(second, stamp(3), AGAIN, false);
            bench.due(Some(second + 10_000));
            bench.check(second + 9_999, stamp(3), NOTHING, false);
        }
        bench.check(31_600, stamp(3), AGAIN, true);
        bench.check(99_000, stamp(3), NOTHING, true);
    }
}
