//! The readers of event bodies and of the spool, for fuzzing.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::gather::GatherSettings;
use super::post::{Audience, Destination, Sender, elements};
use super::spool::record::{Name, read};
use super::summaries::Summaries;
use crate::model::{DataSet, EnvironmentRef, FilterKey};
use crate::sealing::KeyRing;

fn destination() -> Destination {
    let environment = EnvironmentRef { environment: "e".into(), filter: FilterKey::new("") };
    Destination { environment, audience: Audience::Server }
}

/// Reads a body: the events of it byte for byte, and the summary of them.
pub fn body(body: &Bytes) -> Option<(Bytes, Vec<Bytes>)> {
    let found = elements(body).ok()?;
    let events: Vec<&RawValue> = serde_json::from_slice(body).ok()?;
    let settings = GatherSettings { interval: Duration::from_secs(1), capacity: usize::MAX };
    let mut summaries = Summaries::new(settings);
    let sender = Sender { schema: 1, tags: None, user_agent: None, wrapper: None };
    let at = (Instant::now(), 0);
    summaries.add(&destination(), &sender, &events, &DataSet::default(), at);
    let closed = summaries.close_all().into_iter().map(|gathered| gathered.json);
    Some((found.json, closed.collect()))
}

/// Reads bytes as a segment; returns the number of batches that open.
pub fn segment(content: &[u8], ring: &KeyRing) -> usize {
    let name = Name::of(Path::new("0011223344556677-00000000000000000001.events"));
    name.map_or(0, |name| read(content, &name, ring).len())
}
