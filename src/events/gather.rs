//! Gathers events of many requests into batches. Pure.
//!
//! A batch holds events of one destination and one sender, and is closed when its time is up or it
//! is full. The events of a single request keep the name that the SDK gave them, so that
//! LaunchDarkly recognizes them if the SDK sends them once more on another way.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::post::{Destination, Elements, Sender};

/// Bytes of events at which a batch is closed, not compressed.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Names of payloads that are remembered, and how long. SDKs try again after a second.
const NAMES_MAX: usize = 10_000;
const NAMES_AGE: Duration = Duration::from_secs(300);

/// Settings of the gatherer.
#[derive(Clone, Copy, Debug)]
pub struct GatherSettings {
    /// Longest time for which a batch is open.
    pub interval: Duration,
    /// Number of events at which a batch is closed.
    pub capacity: usize,
}

/// Events that were posted together.
#[derive(Clone, Debug)]
pub struct Posted {
    /// Where they go.
    pub destination: Destination,
    /// Who sent them.
    pub sender: Sender,
    /// The name that the SDK gave them.
    pub payload_id: Option<Arc<str>>,
    /// The events.
    pub events: Elements,
}

/// Events that are sent together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gathered {
    /// Where they go.
    pub destination: Destination,
    /// Who sent them.
    pub sender: Sender,
    /// The name of the only request in it, if that had one.
    pub payload_id: Option<Arc<str>>,
    /// A JSON array.
    pub json: Bytes,
    /// Number of events in it.
    pub count: usize,
}

/// The open batches.
#[derive(Debug)]
pub struct Gatherer {
    settings: GatherSettings,
    open: HashMap<(Destination, Sender), Open>,
    names: Names,
}

#[derive(Debug)]
struct Open {
    since: Instant,
    json: BytesMut,
    count: usize,
    /// The name of the first request, as long as it is the only one.
    payload_id: Option<Arc<str>>,
}

impl Gatherer {
    /// A gatherer without events.
    pub fn new(settings: GatherSettings) -> Self {
        Self { settings, open: HashMap::new(), names: Names::default() }
    }

    /// Adds events, and returns the batches that are closed by them. Events that were added under
    /// the same name before are left out.
    pub fn add(&mut self, posted: Posted, now: Instant) -> Vec<Gathered> {
        let Posted { destination, sender, payload_id, events } = posted;
        if events.count == 0 {
            return Vec::new();
        }
        if let Some(id) = &payload_id
            && !self.names.is_new(&destination, id, now)
        {
            return Vec::new();
        }
        let mut closed = Vec::new();
        let key = (destination, sender);
        let is_over = |open: &Open| {
            open.json.len() + events.json.len() > BATCH_BYTES_MAX
                || open.count + events.count > self.settings.capacity
        };
        if self.open.get(&key).is_some_and(is_over) {
            closed.extend(self.close(&key));
        }
        let open = self.open.entry(key.clone()).or_insert_with(|| Open {
            since: now,
            json: BytesMut::new(),
            count: 0,
            payload_id,
        });
        open.json.put_u8(if open.count == 0 { b'[' } else { b',' });
        if open.count > 0 {
            open.payload_id = None;
        }
        open.json.put_slice(&events.json);
        open.count += events.count;
        if open.count >= self.settings.capacity || open.json.len() >= BATCH_BYTES_MAX {
            closed.extend(self.close(&key));
        }
        closed
    }

    /// Time at which the next batch is to be closed.
    pub fn due(&self) -> Option<Instant> {
        self.open.values().map(|open| open.since + self.settings.interval).min()
    }

    /// Closes the batches whose time is up.
    pub fn close_due(&mut self, now: Instant) -> Vec<Gathered> {
        let is_due = |open: &Open| now >= open.since + self.settings.interval;
        let due = self.open.iter().filter(|(_, open)| is_due(open)).map(|(key, _)| key.clone());
        let due: Vec<_> = due.collect();
        due.iter().filter_map(|key| self.close(key)).collect()
    }

    /// Closes all batches.
    pub fn close_all(&mut self) -> Vec<Gathered> {
        let all: Vec<_> = self.open.keys().cloned().collect();
        all.iter().filter_map(|key| self.close(key)).collect()
    }

    fn close(&mut self, key: &(Destination, Sender)) -> Option<Gathered> {
        let ((destination, sender), mut open) = self.open.remove_entry(key)?;
        open.json.put_u8(b']');
        Some(Gathered {
            destination,
            sender,
            payload_id: open.payload_id,
            json: open.json.freeze(),
            count: open.count,
        })
    }
}

/// Names of payloads that were seen lately.
#[derive(Debug, Default)]
struct Names {
    seen: HashMap<(Destination, Arc<str>), Instant>,
    order: VecDeque<(Instant, (Destination, Arc<str>))>,
}

impl Names {
    fn is_new(&mut self, destination: &Destination, id: &Arc<str>, now: Instant) -> bool {
        while let Some((at, _)) = self.order.front()
            && (now >= *at + NAMES_AGE || self.order.len() >= NAMES_MAX)
        {
            if let Some((_, name)) = self.order.pop_front() {
                self.seen.remove(&name);
            }
        }
        let name = (destination.clone(), id.clone());
        if self.seen.contains_key(&name) {
            return false;
        }
        self.seen.insert(name.clone(), now);
        self.order.push_back((now, name));
        true
    }
}
