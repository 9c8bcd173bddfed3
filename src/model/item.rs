//! A flag or segment as LaunchDarkly sent it: the bytes are kept, only the head is parsed.

use std::fmt;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use crate::evaluation::{Flag, Segment};

/// The two collections that every SDK knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ItemKind {
    /// Feature flags: `flags` on the wire, `features` in stores.
    Flag,
    /// Segments.
    Segment,
}

impl ItemKind {
    /// Both kinds, in the order in which they are written to stores.
    pub const ALL: [Self; 2] = [Self::Segment, Self::Flag];

    /// The collection's name in stream and poll JSON.
    pub fn wire_name(self) -> &'static str {
        match self {
            Self::Flag => "flags",
            Self::Segment => "segments",
        }
    }

    /// The collection's name in persistent stores.
    pub fn store_name(self) -> &'static str {
        match self {
            Self::Flag => "features",
            Self::Segment => "segments",
        }
    }
}

/// Identifies one flag or segment of an environment.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ItemKey {
    /// The collection.
    pub kind: ItemKind,
    /// The key in LaunchDarkly, verbatim.
    pub key: Arc<str>,
}

impl ItemKey {
    /// The key of an item.
    pub fn new(kind: ItemKind, key: impl Into<Arc<str>>) -> Self {
        Self { kind, key: key.into() }
    }
}

impl fmt::Display for ItemKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.kind.wire_name(), self.key)
    }
}

/// One flag or segment, or the tombstone of one.
#[derive(Clone)]
pub struct Item {
    /// LaunchDarkly's version of the item; higher is newer.
    pub version: u64,
    /// The item's JSON as received; `None` for a tombstone.
    pub json: Option<Bytes>,
    /// What evaluation needs of the JSON, once something has been evaluated with it.
    parsed: OnceLock<Arc<Parsed>>,
}

/// What evaluation needs of an item.
enum Parsed {
    Flag(Flag),
    Segment(Segment),
}

/// The parsed form follows from the rest.
impl PartialEq for Item {
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version && self.json == other.json
    }
}

impl Eq for Item {}

/// Shows the size of the JSON instead of the JSON, which contains rules and targets.
impl fmt::Debug for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.json {
            Some(json) => write!(f, "Item(version {}, {} bytes)", self.version, json.len()),
            None => write!(f, "Item(version {}, deleted)", self.version),
        }
    }
}

impl Item {
    /// A live item.
    pub fn live(version: u64, json: impl Into<Bytes>) -> Self {
        Self { version, json: Some(json.into()), parsed: OnceLock::new() }
    }

    /// The tombstone of a deleted item.
    pub fn tombstone(version: u64) -> Self {
        Self { version, json: None, parsed: OnceLock::new() }
    }

    /// The flag that it is, in the form in which it is evaluated; `None` for a tombstone. Made when
    /// it is first asked for.
    pub fn flag(&self) -> Option<&Flag> {
        match self.parsed(|json| Parsed::Flag(Flag::parse(json)))? {
            Parsed::Flag(flag) => Some(flag),
            Parsed::Segment(_) => None,
        }
    }

    /// The segment that it is, like [`flag`](Self::flag).
    pub fn segment(&self) -> Option<&Segment> {
        match self.parsed(|json| Parsed::Segment(Segment::parse(json)))? {
            Parsed::Segment(segment) => Some(segment),
            Parsed::Flag(_) => None,
        }
    }

    fn parsed(&self, parse: fn(&[u8]) -> Parsed) -> Option<&Parsed> {
        let json = self.json.as_ref()?;
        Some(self.parsed.get_or_init(|| Arc::new(parse(json))))
    }

    /// Bytes of its JSON; 0 for a tombstone.
    pub fn json_bytes(&self) -> usize {
        self.json.as_ref().map_or(0, Bytes::len)
    }

    /// True if the item is deleted.
    pub fn is_tombstone(&self) -> bool {
        self.json.is_none()
    }
}
