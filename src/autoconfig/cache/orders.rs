//! Orders of the manager to the keepers: the records that the tiers should hold. Pure, except for
//! the watch that carries them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::autoconfig::record_set::{CachedSet, RecordSet, SetOrigin};
use crate::replica::Heard;

/// Source of the records that a tier should hold.
#[derive(Clone, Debug)]
pub enum Source {
    /// The stream: records that LaunchDarkly sent.
    Stream,
    /// All tiers together, before the stream has delivered: records of one tier are added to the
    /// other, so that the next start does not depend on both.
    Tiers(Arc<CachedSet>),
}

/// The records that a tier should hold.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The accepted records.
    pub records: Arc<RecordSet>,
    /// Time at which LaunchDarkly last confirmed them, if that is known.
    pub confirmed_at: Option<SystemTime>,
    /// Their source.
    pub source: Source,
    /// True while the stream is live. Repairs of the shared tier wait for that.
    pub live: bool,
    /// Times at which the stream delivered anything. Other content that was stored well before
    /// that, and is still there, is not newer than these records.
    pub heard: Heard,
}

impl Wanted {
    /// True if LaunchDarkly sent the records.
    pub fn is_from_stream(&self) -> bool {
        matches!(self.source, Source::Stream)
    }

    /// Records that exist, and that these records cannot stand for, by name: they were lost, or
    /// cannot be used, or their age is not known. The version is the lowest that is not outdated.
    /// None where all are ld-relay's: of those the manifest says that nothing is confirmed.
    pub fn missing(&self) -> BTreeMap<String, i64> {
        let unknown = |name: &String| (name.clone(), i64::MIN);
        match &self.source {
            Source::Stream => self.records.unusable.iter().map(unknown).collect(),
            Source::Tiers(_) if self.is_adopted() => BTreeMap::new(),
            Source::Tiers(known) => {
                let mut missing = known.missing.clone();
                missing.extend(known.unvouched.iter().map(unknown));
                missing
            }
        }
    }

    /// True if these are ld-relay's records that LaunchDarkly has not confirmed.
    pub fn is_adopted(&self) -> bool {
        matches!(&self.source, Source::Tiers(known) if known.origin == SetOrigin::Adopted)
    }
}

/// The sender of orders. Of several only the newest counts.
#[derive(Clone, Debug, Default)]
pub struct CacheOrders(watch::Sender<Option<Wanted>>);

impl CacheOrders {
    /// A receiver for the keeper of one tier.
    pub fn subscribe(&self) -> watch::Receiver<Option<Wanted>> {
        self.0.subscribe()
    }

    /// Passes the accepted records of the stream: tiers are to hold exactly these. This also ends
    /// the reading of tiers, by giving them something to write.
    pub fn accepted(&self, records: Arc<RecordSet>, now: Instant, wall: SystemTime) {
        self.0.send_modify(|wanted| {
            let heard = Heard::after(wanted.as_ref().map(|wanted| wanted.heard), now);
            let confirmed_at = Some(wall);
            let source = Source::Stream;
            *wanted = Some(Wanted { records, confirmed_at, source, live: true, heard });
        });
    }

    /// Passes the merged records of all tiers, while the stream has not delivered yet.
    pub fn learnt(&self, known: Arc<CachedSet>, now: Instant) {
        self.0.send_if_modified(|wanted| {
            let is_news = match wanted.as_ref().map(|wanted| &wanted.source) {
                Some(Source::Stream) => false,
                Some(Source::Tiers(before)) => **before != *known,
                None => true,
            };
            if is_news {
                *wanted = Some(Wanted {
                    records: Arc::new(known.records.clone()),
                    confirmed_at: known.confirmed_at(),
                    heard: Heard::after(wanted.as_ref().map(|wanted| wanted.heard), now),
                    source: Source::Tiers(known),
                    live: false,
                });
            }
            is_news
        });
    }

    /// Notes that the stream delivered something. Wakes no keeper.
    pub fn heard(&self, now: Instant) {
        self.quietly(|wanted| wanted.heard.again(now));
    }

    /// Notes that the stream is lost. Wakes no keeper: it matters only when something is to be
    /// written.
    pub fn not_live(&self, wall: SystemTime) {
        self.quietly(|wanted| {
            if std::mem::take(&mut wanted.live) {
                // They were confirmed up to this moment.
                wanted.confirmed_at = Some(wall);
            }
        });
    }

    fn quietly(&self, change: impl FnOnce(&mut Wanted)) {
        self.0.send_if_modified(|wanted| {
            if let Some(wanted) = wanted {
                change(wanted);
            }
            false
        });
    }
}
