//! Records of a segment, and the name of its file. Pure.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::super::batch::Batch;
use super::super::lines::SegmentId;
use super::super::post::{Audience, Destination, Sender};
use super::NAMESPACE;
use crate::model::{EnvironmentRef, FilterKey, hex, unix_ms};
use crate::sealing::{KeyRing, Place, SealingKey};

const EXTENSION: &str = "events";

/// Bytes of a frame's head.
const HEAD_BYTES: usize = 8;

/// The name of a segment's file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name {
    stem: String,
    number: SegmentId,
}

impl Name {
    /// The name of a new segment: it does not reveal the destination.
    pub fn new(key: &SealingKey, destination: &Destination, number: SegmentId) -> Self {
        let Destination { environment, audience } = destination;
        let parts = [
            environment.environment.as_bytes(),
            environment.filter.as_str().as_bytes(),
            word(*audience).as_bytes(),
        ];
        let name = hex(&key.name(&parts)[..8]);
        Self { stem: format!("{name}-{number:020}"), number }
    }

    /// The name of a file, if it is one of a segment.
    pub fn of(path: &Path) -> Option<Self> {
        if path.extension()? != EXTENSION {
            return None;
        }
        let stem = path.file_stem()?.to_str()?;
        let (_, number) = stem.rsplit_once('-')?;
        Some(Self { stem: stem.to_owned(), number: number.parse().ok()? })
    }

    /// The file's name.
    pub fn file(&self) -> String {
        format!("{}.{EXTENSION}", self.stem)
    }

    /// Its number: later segments have higher ones.
    pub fn number(&self) -> SegmentId {
        self.number
    }

    /// The place of the record at this offset.
    pub fn record(&self, offset: u64) -> Vec<u8> {
        let mut place = self.stem.clone().into_bytes();
        place.extend_from_slice(&offset.to_be_bytes());
        place
    }
}

/// The head of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Frame {
    bytes: u32,
    events: u32,
}

impl Frame {
    /// The head of a sealed batch.
    pub fn of(events: usize, sealed: &[u8]) -> Self {
        let fitted = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
        Self { bytes: fitted(sealed.len()), events: fitted(events) }
    }

    /// Number of events, as it is written beside the sealed batch: for reports only.
    pub fn events(self) -> u64 {
        self.events.into()
    }

    /// Appends a record.
    pub fn write(self, out: &mut Vec<u8>, sealed: &[u8]) {
        out.extend_from_slice(&self.bytes.to_be_bytes());
        out.extend_from_slice(&self.events.to_be_bytes());
        out.extend_from_slice(sealed);
    }
}

/// The records of a segment with their offsets, up to one that is cut off.
pub fn frames(content: &[u8]) -> impl Iterator<Item = (u64, Frame, &[u8])> {
    let mut at = 0_usize;
    std::iter::from_fn(move || {
        let head = content.get(at..at.checked_add(HEAD_BYTES)?)?;
        let (bytes, events) = head.split_first_chunk::<4>()?;
        let (events, _) = events.split_first_chunk::<4>()?;
        let frame =
            Frame { bytes: u32::from_be_bytes(*bytes), events: u32::from_be_bytes(*events) };
        let begin = at + HEAD_BYTES;
        let sealed = content.get(begin..begin.checked_add(frame.bytes as usize)?)?;
        let offset = at as u64;
        at = begin + sealed.len();
        Some((offset, frame, sealed))
    })
}

/// Reads a segment: the batches that open, oldest first.
pub fn read(content: &[u8], name: &Name, ring: &KeyRing) -> Vec<Batch> {
    frames(content).filter_map(|(offset, _, sealed)| open(sealed, name, offset, ring)).collect()
}

/// The destination of a segment, by the first record that opens.
pub fn destination(content: &[u8], name: &Name, ring: &KeyRing) -> Option<Destination> {
    frames(content)
        .find_map(|(offset, _, sealed)| open(sealed, name, offset, ring))
        .map(|batch| batch.destination)
}

/// Seals a batch for its place.
pub fn seal(key: &SealingKey, place: &[u8], batch: &Batch) -> Vec<u8> {
    let Destination { environment, audience } = &batch.destination;
    let meta = Meta {
        id: batch.id.clone(),
        environment: environment.environment.clone(),
        filter: environment.filter.as_str().to_owned(),
        audience: word(*audience).to_owned(),
        schema: batch.sender.schema,
        tags: batch.sender.tags.clone(),
        user_agent: batch.sender.user_agent.clone(),
        wrapper: batch.sender.wrapper.clone(),
        count: batch.count,
        created: unix_ms(batch.created),
    };
    // Text and numbers always serialize.
    let mut plaintext = serde_json::to_vec(&meta).unwrap_or_default();
    plaintext.push(b'\n');
    plaintext.extend_from_slice(&batch.gzip);
    key.seal(Place { namespace: NAMESPACE, name: place }, &plaintext)
}

fn open(sealed: &[u8], name: &Name, offset: u64, ring: &KeyRing) -> Option<Batch> {
    let place = name.record(offset);
    let place = Place { namespace: NAMESPACE, name: &place };
    let (plaintext, _) = ring.open(place, sealed).ok()?;
    let plaintext = Bytes::from(plaintext);
    let end = plaintext.iter().position(|byte| *byte == b'\n')?;
    let meta: Meta = serde_json::from_slice(&plaintext[..end]).ok()?;
    Some(Batch {
        id: meta.id,
        destination: Destination {
            environment: EnvironmentRef {
                environment: meta.environment,
                filter: FilterKey::new(meta.filter),
            },
            audience: audience(&meta.audience)?,
        },
        sender: Sender {
            schema: meta.schema,
            tags: meta.tags,
            user_agent: meta.user_agent,
            wrapper: meta.wrapper,
        },
        count: meta.count,
        gzip: plaintext.slice(end + 1..),
        created: SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(meta.created))?,
        invalid: 0,
        is_spooled: true,
    })
}

/// What is known of a batch beside its events.
#[derive(Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
struct Meta {
    id: Arc<str>,
    environment: Arc<str>,
    #[serde(default)]
    filter: String,
    audience: String,
    schema: u32,
    #[serde(default)]
    tags: Option<Arc<str>>,
    #[serde(default)]
    user_agent: Option<Arc<str>>,
    #[serde(default)]
    wrapper: Option<Arc<str>>,
    count: usize,
    /// Milliseconds since 1970.
    created: u64,
}

fn word(audience: Audience) -> &'static str {
    match audience {
        Audience::Server => "server",
        Audience::Mobile => "mobile",
        Audience::Browser => "browser",
    }
}

fn audience(word: &str) -> Option<Audience> {
    match word {
        "server" => Some(Audience::Server),
        "mobile" => Some(Audience::Mobile),
        "browser" => Some(Audience::Browser),
        _ => None,
    }
}
