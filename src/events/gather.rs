//! Gathers events of many requests into batches. Pure.
//!
//! A batch holds events of one destination and one sender, and is closed when its time is up or it
//! is full. The events of a single request keep the name that the SDK gave them, so that
//! LaunchDarkly recognizes them if the SDK sends them once more on another way.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::time::Instant;

use super::post::{Destination, Elements, Sender};

/// Bytes of events at which a batch is closed, not compressed.
const BATCH_BYTES_MAX: usize = 1 << 20;

/// Settings of the gatherer.
#[derive(Clone, Copy, Debug)]
pub struct GatherSettings {
    /// Longest time for which a batch is open.
    pub interval: Duration,
    /// Number of events at which a batch is closed.
    pub capacity: usize,
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
        Self { settings, open: HashMap::new() }
    }

    /// Adds events, and returns the batches that are closed by them.
    pub fn add(
        &mut self,
        key: &(Destination, Sender),
        payload_id: Option<Arc<str>>,
        events: &Elements,
        now: Instant,
    ) -> Vec<Gathered> {
        if events.count == 0 {
            return Vec::new();
        }
        let mut closed = Vec::new();
        let is_over = |open: &Open| {
            open.json.len() + events.json.len() > BATCH_BYTES_MAX
                || open.count + events.count > self.settings.capacity
        };
        if self.open.get(key).is_some_and(is_over) {
            closed.extend(self.close(key));
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
            closed.extend(self.close(key));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::post::Audience;
    use crate::model::{EnvironmentRef, FilterKey};

    /// Plays posts `ms environment count bytes [id]` against a gatherer that closes batches after a
    /// second or at 10 events, and shows the batches that are closed: count, bytes, and name.
    fn check(posts: &[(u64, &str, usize, usize, Option<&str>)], expected: &[&str]) {
        let begun = Instant::now();
        let settings = GatherSettings { interval: Duration::from_secs(1), capacity: 10 };
        let mut gatherer = Gatherer::new(settings);
        let mut closed = Vec::new();
        let sender = Sender { schema: 4, tags: None, user_agent: None, wrapper: None };
        for (ms, environment, count, bytes, id) in posts {
            let now = begun + Duration::from_millis(*ms);
            closed.extend(gatherer.close_due(now));
            let destination = Destination {
                environment: EnvironmentRef {
                    environment: (*environment).into(),
                    filter: FilterKey::new(""),
                },
                audience: Audience::Server,
            };
            let events = Elements { json: vec![b'1'; *bytes].into(), count: *count };
            let key = (destination, sender.clone());
            closed.extend(gatherer.add(&key, id.map(Into::into), &events, now));
        }
        closed.extend(gatherer.close_all());
        assert_eq!(gatherer.due(), None);
        let mut shown: Vec<String> = closed
            .iter()
            .map(|it| {
                let environment = &it.destination.environment.environment;
                let id = it.payload_id.as_deref().unwrap_or("new");
                format!("{environment} {} {} {id}", it.count, it.json.len())
            })
            .collect();
        shown.sort();
        assert_eq!(shown, expected);
    }

    #[test]
    fn events_travel_together_until_the_time_is_up_or_the_batch_is_full() {
        check(&[(0, "a", 0, 0, None)], &[]);
        check(&[(0, "a", 1, 5, Some("p"))], &["a 1 7 p"]);
        check(&[(0, "a", 1, 5, Some("p")), (999, "a", 2, 5, Some("q"))], &["a 3 13 new"]);
        check(&[(0, "a", 1, 5, Some("p")), (1000, "a", 2, 5, Some("q"))], &["a 1 7 p", "a 2 7 q"]);
        check(&[(0, "a", 1, 5, None), (0, "b", 1, 5, None)], &["a 1 7 new", "b 1 7 new"]);
        // Full by number, or by size.
        check(&[(0, "a", 9, 5, None), (0, "a", 2, 5, Some("q"))], &["a 2 7 q", "a 9 7 new"]);
        check(&[(0, "a", 9, 5, None), (0, "a", 1, 5, None)], &["a 10 13 new"]);
        check(&[(0, "a", 500, 5, Some("p"))], &["a 500 7 p"]);
        let large = BATCH_BYTES_MAX;
        check(
            &[(0, "a", 1, 5, Some("p")), (0, "a", 1, large, Some("q"))],
            &["a 1 1048578 q", "a 1 7 p"],
        );
    }
}
