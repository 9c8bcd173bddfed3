//! What a tier of the cache is to its keeper: a place that is read and written in steps. Pure.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::time::Instant;

use super::codec::Skipped;
use super::judge::Reading;
use crate::autoconfig::record_set::{CachedSet, RecordSet, SetOrigin, Stamp};
use crate::replica::{Heard, Moment};

/// A manifest younger than this is not rewritten only to confirm its age.
pub const CONFIRMATION_AGE: Duration = Duration::from_secs(600);

/// What a read is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The manager learns what the tier holds.
    Tell,
    /// Something is written next; what is known already need not be read.
    Write,
}

/// How a read or a write goes on.
#[derive(Debug)]
pub enum Part<C, T> {
    /// With a call.
    Call(C),
    /// It is done.
    Done(T),
    /// A peer wrote at the same time: the visit begins anew.
    Overtaken,
}

/// A place for records, as a sequence of calls.
pub trait CacheTier: Send + 'static {
    /// What the place is asked.
    type Call: Send + 'static;
    /// What it answers.
    type Answer: Send + 'static;

    /// Begins a read. `None` if it was not for telling.
    fn read(&mut self, purpose: Purpose) -> Part<Self::Call, Option<Reading>>;

    /// Goes on reading.
    fn read_on(&mut self, answer: Self::Answer, at: &Moment) -> Part<Self::Call, Option<Reading>>;

    /// Begins a write of what was read before: the tier is to hold the records, as confirmed at a
    /// moment. What a peer knows better is left.
    fn write(&mut self, wanted: &Wanted, at: &Moment) -> Part<Self::Call, Written>;

    /// Goes on writing.
    fn write_on(&mut self, answer: Self::Answer, at: &Moment) -> Part<Self::Call, Written>;

    /// A call failed: what is stored is not known any more.
    fn failed(&mut self);

    /// Whether records wait for a second look that are not what was wanted at the last write.
    fn has_doubts(&self) -> bool {
        false
    }

    /// Whether a second look would settle anything, with a stream that was last heard at that time.
    fn are_doubts_ripe(&self, _heard: Heard, _at: &Moment) -> bool {
        false
    }
}

/// Where the knowledge comes from that a tier shall hold.
#[derive(Clone, Debug)]
pub enum Source {
    /// From the stream: what LaunchDarkly said.
    Stream,
    /// From all tiers together, before the stream has delivered: what one tier knows is added to
    /// the other, so that the next start does not depend on both (design D50).
    Tiers(Arc<CachedSet>),
}

/// What the tier shall hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The accepted records.
    pub records: Arc<RecordSet>,
    /// When LaunchDarkly last confirmed them, if that is known.
    pub confirmed_at: Option<SystemTime>,
    /// Where they come from.
    pub source: Source,
    /// Whether the stream is live. Repairs of what relays share wait for that.
    pub live: bool,
    /// When the stream delivered anything. A writer that stored something else than these
    /// records well before that, and still does, knows no better than this relay.
    pub heard: Heard,
}

impl Wanted {
    /// What all tiers together know.
    pub fn learnt(known: Arc<CachedSet>, now: Instant) -> Self {
        Self {
            records: Arc::new(known.records.clone()),
            confirmed_at: known.confirmed_at(),
            source: Source::Tiers(known),
            live: false,
            heard: Heard::first(now),
        }
    }

    /// Whether LaunchDarkly said it.
    pub fn is_from_stream(&self) -> bool {
        matches!(self.source, Source::Stream)
    }

    /// Whether these are ld-relay's records that LaunchDarkly has not confirmed.
    pub fn is_adopted(&self) -> bool {
        matches!(&self.source, Source::Tiers(known) if known.origin == SetOrigin::Adopted)
    }
}

/// What a write did, and what the tier holds after it.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Rows that were changed, the manifest included.
    pub rows: usize,
    /// Records that the database cannot hold.
    pub too_large: Vec<String>,
    /// Records that are stored.
    pub records: usize,
    /// Rows that are there and cannot be used.
    pub skipped: Skipped,
    /// The manifest that stands; `None` in ld-relay's format.
    pub stamp: Option<Stamp>,
    /// Whether everything that should be stored is, and the manifest says so where there is one.
    pub complete: bool,
}

/// Whether a manifest need not be written again only to confirm its age. One from the future is
/// by another clock.
pub(super) fn is_fresh(standing: Stamp, now: Stamp) -> bool {
    match (standing.confirmed_at, now.confirmed_at) {
        (_, None) => true,
        (None, Some(_)) => false,
        (Some(standing), Some(now)) => {
            now.duration_since(standing).map_or(true, |age| age < CONFIRMATION_AGE)
        }
    }
}
