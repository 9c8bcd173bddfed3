//! The content of batches: compressed, named, and split. Pure, but for random names.

use std::io::{Read, Write};
use std::sync::Arc;

use bytes::Bytes;
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use serde_json::value::RawValue;

use super::batch::Batch;

/// A new name of a batch.
pub fn new_id() -> Arc<str> {
    uuid::Uuid::new_v4().to_string().into()
}

/// A gzip member.
pub fn compressed(json: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::with_capacity(json.len() / 8), Compression::fast());
    // Writing to a vector cannot fail.
    let _ = encoder.write_all(json);
    encoder.finish().unwrap_or_default().into()
}

/// The two halves of a batch, as batches of their own.
pub fn split(batch: &Batch) -> Vec<Batch> {
    let mut json = Vec::new();
    if GzDecoder::new(&*batch.gzip).read_to_end(&mut json).is_err() {
        return Vec::new();
    }
    let Ok(events) = serde_json::from_slice::<Vec<&RawValue>>(&json) else { return Vec::new() };
    let halves = events.split_at(events.len() / 2);
    let part = |events: &[&RawValue]| Batch {
        id: new_id(),
        count: events.len(),
        gzip: compressed(&serde_json::to_vec(events).unwrap_or_default()),
        is_spooled: false,
        ..batch.clone()
    };
    [halves.0, halves.1].into_iter().filter(|events| !events.is_empty()).map(part).collect()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::events::post::{Audience, Destination, Sender};
    use crate::model::{EnvironmentRef, FilterKey};

    fn batch(json: &str, count: usize) -> Batch {
        Batch {
            id: "p".into(),
            destination: Destination {
                environment: EnvironmentRef { environment: "e".into(), filter: FilterKey::new("") },
                audience: Audience::Server,
            },
            sender: Sender { schema: 4, tags: None, user_agent: None, wrapper: None },
            count,
            gzip: compressed(json.as_bytes()),
            created: SystemTime::UNIX_EPOCH,
            invalid: 0,
            is_spooled: true,
        }
    }

    #[test]
    fn halves_hold_the_events_byte_for_byte_under_new_names() {
        let json = |batch: &Batch| {
            let mut json = String::new();
            GzDecoder::new(&*batch.gzip).read_to_string(&mut json).unwrap();
            json
        };
        let parts = split(&batch(r#"[{"a": 1.50}, 2,3]"#, 3));
        let shown: Vec<_> = parts.iter().map(|part| (json(part), part.count)).collect();
        assert_eq!(shown, [(r#"[{"a": 1.50}]"#.to_owned(), 1), ("[2,3]".to_owned(), 2)]);
        assert!(parts.iter().all(|part| &*part.id != "p" && !part.is_spooled));
        assert_ne!(parts[0].id, parts[1].id);
        let broken = Batch { gzip: "no gzip".into(), ..batch("[1,2]", 2) };
        assert_eq!(split(&broken), []);
    }
}
