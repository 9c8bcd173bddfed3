//! Bodies of put, patch and delete as ld-relay sends them, items as LaunchDarkly sent them. Pure.

use std::fmt::Write as _;
use std::ops::Range;
use std::sync::OnceLock;

use bytes::Bytes;

use crate::model::{ChangeSet, DataSet, Item, ItemKey, ItemKind, ItemMap};

/// Kind of stream that a client reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamKind {
    /// `/all`: flags and segments.
    All,
    /// `/flags`: flags only, for old SDKs.
    Flags,
    /// Nothing of the data: client-side SDKs are told to ask again.
    Pings,
}

/// The event that tells client-side SDKs to ask again (ld-relay v8: its data is a space, because
/// clients ignore events without data).
pub const PING: Bytes = Bytes::from_static(b"event: ping\ndata:  \n\n");

/// Changes that belong together, with their events for each kind of stream. An event is encoded
/// when the first client reads it, once for all of them.
pub(super) struct EncodedChanges {
    changes: ChangeSet,
    all: OnceLock<Bytes>,
    flags: OnceLock<Bytes>,
}

/// Shows the size of the content and not the content.
impl std::fmt::Debug for EncodedChanges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "EncodedChanges({}, {} bytes)", self.changes.len(), self.changes.json_bytes())
    }
}

impl EncodedChanges {
    pub(super) fn new(changes: ChangeSet) -> Self {
        Self { changes, all: OnceLock::new(), flags: OnceLock::new() }
    }

    /// Approximate number of bytes that it keeps in memory.
    pub(super) fn bytes(&self) -> usize {
        self.changes.json_bytes()
    }

    /// True if that kind of stream sends any of the changes.
    pub(super) fn concern(&self, kind: StreamKind) -> bool {
        match kind {
            StreamKind::Pings => true,
            StreamKind::All | StreamKind::Flags => {
                self.changes.keys().any(|key| path_of(key, kind).is_some())
            }
        }
    }

    /// The events for a kind of stream, one after the other.
    pub(super) fn events(&self, kind: StreamKind) -> Bytes {
        let encoded = match kind {
            StreamKind::All => &self.all,
            StreamKind::Flags => &self.flags,
            StreamKind::Pings => return PING,
        };
        let encoded = encoded.get_or_init(|| {
            let mut events = Vec::with_capacity(self.bytes() + 128 * self.changes.len());
            for (key, item) in self.changes.iter() {
                if let Some(path) = path_of(key, kind) {
                    events.extend_from_slice(&change_event(&path, item));
                }
            }
            Bytes::from(events)
        });
        encoded.clone()
    }
}

/// The path by which a kind of stream names an item; `None` if it does not send it.
fn path_of(key: &ItemKey, stream: StreamKind) -> Option<String> {
    match (stream, key.kind) {
        (StreamKind::All, kind) => Some(format!("/{}/{}", kind.wire_name(), key.key)),
        (StreamKind::Flags, ItemKind::Flag) => Some(format!("/{}", key.key)),
        (StreamKind::Flags, ItemKind::Segment) | (StreamKind::Pings, _) => None,
    }
}

fn change_event(path: &str, item: &Item) -> Vec<u8> {
    let path = json_string(path);
    let (event, data) = match &item.json {
        Some(json) => {
            let mut data = format!("{{\"path\":{path},\"data\":").into_bytes();
            data.extend_from_slice(json);
            data.push(b'}');
            ("patch", data)
        }
        None => {
            let version = item.version;
            ("delete", format!("{{\"path\":{path},\"version\":{version}}}").into_bytes())
        }
    };
    event_of(event, &data)
}

/// The event with which a stream of all data begins, and the range in it of the JSON of a poll
/// (`None` if line breaks inside the data forced it onto several lines).
pub(super) fn put_all(data: &DataSet) -> (Bytes, Option<Range<usize>>) {
    let body = latest_all(data);
    if body.iter().any(|b| matches!(b, b'\n' | b'\r')) {
        let wrapped = [b"{\"path\":\"/\",\"data\":", &body[..], b"}"].concat();
        return (Bytes::from(event_of("put", &wrapped)), None);
    }
    const HEAD: &[u8] = b"event: put\ndata: {\"path\":\"/\",\"data\":";
    let range = HEAD.len()..HEAD.len() + body.len();
    (Bytes::from([HEAD, &body, b"}\n\n"].concat()), Some(range))
}

/// The event with which a stream of flags begins.
pub(super) fn put_flags(data: &DataSet) -> Bytes {
    Bytes::from(event_of("put", &latest_flags(data)))
}

/// The JSON of all flags and segments that are not deleted.
pub(super) fn latest_all(data: &DataSet) -> Vec<u8> {
    let mut body = Vec::with_capacity(body_bytes(&data.flags) + body_bytes(&data.segments) + 32);
    body.extend_from_slice(b"{\"flags\":");
    write_collection(&mut body, &data.flags);
    body.extend_from_slice(b",\"segments\":");
    write_collection(&mut body, &data.segments);
    body.push(b'}');
    body
}

/// The JSON of all flags that are not deleted.
pub(super) fn latest_flags(data: &DataSet) -> Vec<u8> {
    let mut body = Vec::with_capacity(body_bytes(&data.flags) + 2);
    write_collection(&mut body, &data.flags);
    body
}

fn body_bytes(items: &ItemMap) -> usize {
    // Six for quotes, colon, comma and an escape or two.
    items.iter().map(|(key, item)| key.len() + item.json_bytes() + 6).sum()
}

fn write_collection(body: &mut Vec<u8>, items: &ItemMap) {
    body.push(b'{');
    let mut first = true;
    for (key, item) in items.iter() {
        let Some(json) = &item.json else { continue };
        if !first {
            body.push(b',');
        }
        first = false;
        write_json_string(body, key);
        body.push(b':');
        body.extend_from_slice(json);
    }
    body.push(b'}');
}

/// One event on the wire; each line of its data gets a line of its own.
fn event_of(name: &str, data: &[u8]) -> Vec<u8> {
    crate::sse::encode(name, data).into()
}

fn json_string(text: &str) -> String {
    let mut quoted = Vec::with_capacity(text.len() + 2);
    write_json_string(&mut quoted, text);
    String::from_utf8(quoted).expect("a quoted string is as valid as the string was")
}

fn write_json_string(out: &mut Vec<u8>, text: &str) {
    out.push(b'"');
    if text.bytes().all(|b| b >= b' ' && b != b'"' && b != b'\\') {
        out.extend_from_slice(text.as_bytes());
    } else {
        let mut escaped = String::with_capacity(text.len() + 8);
        for c in text.chars() {
            match c {
                '"' => escaped.push_str("\\\""),
                '\\' => escaped.push_str("\\\\"),
                c if c < ' ' => {
                    let _ = write!(escaped, "\\u{:04x}", u32::from(c));
                }
                c => escaped.push(c),
            }
        }
        out.extend_from_slice(escaped.as_bytes());
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn data() -> DataSet {
        let mut data = DataSet::default();
        let mut add = |kind, key: &str, item: Item| {
            assert!(data.upsert(&ItemKey::new(kind, key), Arc::new(item)));
        };
        add(ItemKind::Flag, "b", Item::live(2, r#"{"v": 2}"#));
        add(ItemKind::Flag, "a\"\u{1}", Item::live(1, "{}"));
        add(ItemKind::Flag, "gone", Item::tombstone(3));
        add(ItemKind::Segment, "s", Item::live(4, "{\"s\":1}"));
        data
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn puts_hold_every_item_that_is_not_deleted_in_order() {
        let body = r#"{"flags":{"a\"\u0001":{},"b":{"v": 2}},"segments":{"s":{"s":1}}}"#;
        let (event, range) = put_all(&data());
        assert_eq!(
            text(&event),
            format!("event: put\ndata: {{\"path\":\"/\",\"data\":{body}}}\n\n")
        );
        assert_eq!(text(&event[range.unwrap()]), body);
        assert_eq!(text(&latest_all(&data())), body);
        assert_eq!(
            text(&put_flags(&data())),
            "event: put\ndata: {\"a\\\"\\u0001\":{},\"b\":{\"v\": 2}}\n\n"
        );
        let (empty, _) = put_all(&DataSet::default());
        assert_eq!(
            text(&empty),
            "event: put\ndata: {\"path\":\"/\",\"data\":{\"flags\":{},\"segments\":{}}}\n\n"
        );
    }

    #[test]
    fn line_breaks_in_items_become_lines_of_data() {
        let mut data = DataSet::default();
        data.upsert(&ItemKey::new(ItemKind::Flag, "a"), Arc::new(Item::live(1, "{\r\n\"v\":\n1}")));
        let (event, range) = put_all(&data);
        assert_eq!(range, None);
        assert_eq!(
            text(&event),
            "event: put\ndata: {\"path\":\"/\",\"data\":{\"flags\":{\"a\":{\ndata: \"v\":\ndata: 1}},\"segments\":{}}}\n\n"
        );
    }

    #[test]
    fn changes_have_ld_relays_paths() {
        let changes: ChangeSet = [
            (ItemKey::new(ItemKind::Flag, "a/b"), Arc::new(Item::live(1, r#"{"k":1}"#))),
            (ItemKey::new(ItemKind::Segment, "s"), Arc::new(Item::tombstone(5))),
        ]
        .into_iter()
        .collect();
        let check = |changes: ChangeSet, all: &str, flags: &str| {
            let changes = EncodedChanges::new(changes);
            assert_eq!(text(&changes.events(StreamKind::All)), all);
            assert_eq!(text(&changes.events(StreamKind::Flags)), flags);
            assert!(changes.concern(StreamKind::All));
            assert_eq!(changes.concern(StreamKind::Flags), !flags.is_empty());
        };
        let flag = "event: patch\ndata: {\"path\":\"/a/b\",\"data\":{\"k\":1}}\n\n";
        let segment = "event: delete\ndata: {\"path\":\"/segments/s\",\"version\":5}\n\n";
        check(changes, &format!("{}{segment}", flag.replace("/a/b", "/flags/a/b")), flag);
        check(
            ChangeSet::one(ItemKey::new(ItemKind::Segment, "s"), Item::tombstone(5)),
            segment,
            "",
        );
    }

    #[test]
    fn changes_are_encoded_once_for_all_who_read_them() {
        let key = ItemKey::new(ItemKind::Flag, "a");
        let changes = EncodedChanges::new(ChangeSet::one(key, Item::live(1, "{}")));
        let first = changes.events(StreamKind::All).as_ptr();
        assert_eq!(changes.events(StreamKind::All).as_ptr(), first);
        assert!(changes.flags.get().is_none(), "nobody reads that stream");
    }
}
