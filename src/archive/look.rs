//! Decides when the archive is read. Pure.

use std::time::SystemTime;

/// Looks between two attempts to read a file that could not be used and did not change. Something
/// else than its content may be the reason: a disk, a permission.
const LOOKS_BETWEEN_RETRIES: u32 = 10;

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
    last: Option<Last>,
    is_missing: bool,
}

/// The last reading of the file.
#[derive(Debug)]
struct Last {
    stamp: Stamp,
    is_used: bool,
    /// Looks since then at which the file had not changed.
    looks: u32,
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
    pub fn at(&mut self, found: Option<Stamp>) -> Todo {
        let Some(stamp) = found else {
            // When it is back, it is read, whatever it says.
            self.last = None;
            return match std::mem::replace(&mut self.is_missing, true) {
                true => Todo::Nothing,
                false => Todo::TellMissing,
            };
        };
        self.is_missing = false;
        let Some(last) = self.last.as_mut().filter(|last| last.stamp == stamp) else {
            return Todo::Read { tell_failure: false };
        };
        last.looks += 1;
        match last.is_used || last.looks % LOOKS_BETWEEN_RETRIES != 1 {
            true => Todo::Nothing,
            false => Todo::Read { tell_failure: true },
        }
    }

    /// Notes that the file was read when it was as `stamp` says, and whether it could be used.
    pub fn read(&mut self, stamp: Stamp, is_used: bool) {
        match &mut self.last {
            Some(last) if last.stamp == stamp => last.is_used = is_used,
            last => *last = Some(Last { stamp, is_used, looks: 0 }),
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

    /// Looks at a file of that size; if it is to be read, it can be used or not.
    #[track_caller]
    fn check(look: &mut Look, found: Option<Stamp>, expected: Todo, is_used: bool) {
        assert_eq!(look.at(found), expected);
        if let (Some(stamp), Todo::Read { .. }) = (found, expected) {
            look.read(stamp, is_used);
        }
    }

    #[test]
    fn a_file_is_read_when_it_changed() {
        let look = &mut Look::default();
        check(look, stamp(1), READ, true);
        check(look, stamp(1), NOTHING, true);
        check(look, stamp(2), READ, true);
        check(look, None, Todo::TellMissing, true);
        check(look, None, NOTHING, true);
        check(look, stamp(2), READ, true);
        check(look, stamp(2), NOTHING, true);
        check(look, None, Todo::TellMissing, true);
    }

    #[test]
    fn a_file_that_fails_is_told_when_it_rests_and_tried_again_now_and_then() {
        let look = &mut Look::default();
        check(look, stamp(1), READ, true);
        check(look, stamp(2), READ, false);
        check(look, stamp(3), READ, false);
        for _ in 0..3 {
            check(look, stamp(3), AGAIN, false);
            for _ in 1..LOOKS_BETWEEN_RETRIES {
                check(look, stamp(3), NOTHING, false);
            }
        }
        check(look, stamp(3), AGAIN, true);
        for _ in 0..=LOOKS_BETWEEN_RETRIES {
            check(look, stamp(3), NOTHING, true);
        }
    }
}
