//! A tier of the cache as its keeper sees it: a place that is read and written in steps. Pure.

use std::time::Duration;

use super::codec::Skipped;
use super::judge::Reading;
use super::orders::Wanted;
use crate::autoconfig::record_set::Stamp;
use crate::replica::{Heard, Moment};

/// A manifest younger than this is not rewritten only to confirm its age.
pub const CONFIRMATION_AGE: Duration = Duration::from_secs(600);

/// Purpose of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// To report the content of the tier to the manager.
    Tell,
    /// To write next; known content need not be read.
    Write,
}

/// Continuation of a read or a write.
#[derive(Debug)]
pub enum Part<C, T> {
    /// A call.
    Call(C),
    /// It is done.
    Done(T),
    /// A peer wrote at the same time: the visit begins again.
    Overtaken,
}

/// A place for records, as a sequence of calls.
pub trait CacheTier: Send + 'static {
    /// A call to the place.
    type Call: Send + 'static;
    /// An answer of the place.
    type Answer: Send + 'static;

    /// Begins a read. Gives `None` if it is only to write next.
    fn read(&mut self, purpose: Purpose) -> Part<Self::Call, Option<Reading>>;

    /// Goes on reading.
    fn read_on(&mut self, answer: Self::Answer, at: &Moment) -> Part<Self::Call, Option<Reading>>;

    /// Begins a write after a read: the tier is to hold the wanted records. Newer records of peers
    /// are left.
    fn write(&mut self, wanted: &Wanted, at: &Moment) -> Part<Self::Call, Written>;

    /// Goes on writing.
    fn write_on(&mut self, answer: Self::Answer, at: &Moment) -> Part<Self::Call, Written>;

    /// Notes that a call failed: the stored content is no longer known.
    fn failed(&mut self);

    /// True if records that differ from those wanted at the last write wait for a second check.
    fn has_doubts(&self) -> bool {
        false
    }

    /// True if a second check would settle anything, with a stream that was last heard at that
    /// time.
    fn are_doubts_ripe(&self, _heard: Heard, _at: &Moment) -> bool {
        false
    }
}

/// Result of a write, and content of the tier after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that were changed, the manifest included.
    pub rows: usize,
    /// Records that the database cannot hold.
    pub too_large: Vec<String>,
    /// Records that are stored.
    pub records: usize,
    /// Stored rows that cannot be used.
    pub skipped: Skipped,
    /// The stamp of the present manifest; `None` if there is none.
    pub stamp: Option<Stamp>,
    /// True if a manifest vouches for the stored records, and none is missing.
    pub complete: bool,
}

/// True if a manifest need not be written again only to confirm its age. A time in the future comes
/// from another clock.
pub(super) fn is_fresh(standing: Stamp, now: Stamp) -> bool {
    match (standing.confirmed_at, now.confirmed_at) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(standing), Some(now)) => {
            now.duration_since(standing).map_or(true, |age| age < CONFIRMATION_AGE)
        }
    }
}
