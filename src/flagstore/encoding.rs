//! Items as the local store holds them: a binary head with what a start needs, then the JSON as
//! it was received. No JSON is parsed here.
//!
//! ```text
//! part  = format (1), item*
//! item  = mark (1), version (8), length of key (4), key, length of JSON (4), JSON
//! mark  = kind (bit 0: 0 flag, 1 segment), deleted (bit 1)
//! ```

use std::sync::Arc;

use crate::model::{DataSet, Item, ItemKey, ItemKind};
use crate::storage::local::{
    Content,
    fields::{put_text, take, take_text, take_u8, take_u32, take_u64},
};

/// First byte of a part.
const FORMAT: u8 = 1;
const SEGMENT: u8 = 1;
const DELETED: u8 = 2;
/// Bytes of an item besides its key and JSON.
const HEAD_BYTES: u64 = 17;

/// The slot of an item: a hash of its kind and key that never changes. (FNV-1a, with the last step
/// of SplitMix64 to spread it over all bits.)
pub(super) fn slot(kind: ItemKind, key: &str) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in [mark(kind)].iter().chain(key.as_bytes()) {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// The slot of an item, by its name.
pub(super) fn slot_of(key: &ItemKey) -> u64 {
    slot(key.kind, &key.key)
}

fn mark(kind: ItemKind) -> u8 {
    match kind {
        ItemKind::Flag => 0,
        ItemKind::Segment => SEGMENT,
    }
}

impl Content for DataSet {
    fn items(&self) -> u64 {
        self.len() as u64
    }

    fn encoded_bytes(&self) -> u64 {
        self.iter()
            .map(|(_, key, item)| {
                HEAD_BYTES + (key.len() + item.json.as_ref().map_or(0, |json| json.len())) as u64
            })
            .sum()
    }

    fn encode(&self, buffer_of: &dyn Fn(u64) -> Option<usize>, buffers: &mut [Vec<u8>]) {
        for (kind, key, item) in self.iter() {
            let buffer = buffer_of(slot(kind, key)).and_then(|at| buffers.get_mut(at));
            if let Some(buffer) = buffer {
                if buffer.is_empty() {
                    buffer.push(FORMAT);
                }
                append(buffer, kind, key, item);
            }
        }
    }
}

fn append(out: &mut Vec<u8>, kind: ItemKind, key: &str, item: &Item) {
    out.push(mark(kind) | if item.is_tombstone() { DELETED } else { 0 });
    out.extend_from_slice(&item.version.to_le_bytes());
    put_text(out, key);
    let json = item.json.as_deref().unwrap_or_default();
    // Items come out of SSE events, whose size is bounded far below 4 GiB.
    out.extend_from_slice(&(json.len() as u32).to_le_bytes());
    out.extend_from_slice(json);
}

/// Items of a set as they come out of its parts.
#[derive(Debug, Default)]
pub struct Decoded {
    flags: Vec<(Arc<str>, Arc<Item>)>,
    segments: Vec<(Arc<str>, Arc<Item>)>,
    /// Number of opened parts that are not in the form that `encode` writes.
    pub malformed: u64,
}

impl Decoded {
    /// Takes over the items of a part, or none of them if it is malformed.
    pub fn part(&mut self, plaintext: &[u8]) {
        let before = (self.flags.len(), self.segments.len());
        if self.items(plaintext).is_none() {
            self.flags.truncate(before.0);
            self.segments.truncate(before.1);
            self.malformed += 1;
        }
    }

    fn items(&mut self, plaintext: &[u8]) -> Option<()> {
        let rest = &mut &plaintext[..];
        if take_u8(rest)? != FORMAT {
            return None;
        }
        while !rest.is_empty() {
            let mark = take_u8(rest)?;
            let version = take_u64(rest)?;
            let key = take_text(rest)?;
            let length = usize::try_from(take_u32(rest)?).ok()?;
            let json = take(rest, length)?;
            let item = match (mark & DELETED != 0, json.is_empty()) {
                (true, true) => Item::tombstone(version),
                // A separate copy: items are dropped one by one, and the buffer is reused for the
                // next part.
                (false, _) => Item::live(version, json.to_vec()),
                (true, false) => return None,
            };
            let collection = match mark & !DELETED {
                0 => &mut self.flags,
                SEGMENT => &mut self.segments,
                _ => return None,
            };
            collection.push((key.into(), Arc::new(item)));
        }
        Some(())
    }

    /// Number of items so far.
    pub(super) fn len(&self) -> u64 {
        (self.flags.len() + self.segments.len()) as u64
    }

    /// The items as a data set.
    pub fn into_data(self) -> DataSet {
        DataSet {
            flags: self.flags.into_iter().collect(),
            segments: self.segments.into_iter().collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_item() -> impl Strategy<Value = (bool, String, u64, Option<Vec<u8>>)> {
        let json = prop::option::of(prop::collection::vec(any::<u8>(), 0..40));
        (any::<bool>(), "\\PC{0,8}", any::<u64>(), json)
    }

    fn data_set(items: Vec<(bool, String, u64, Option<Vec<u8>>)>) -> DataSet {
        let mut data = DataSet::default();
        for (segment, key, version, json) in items {
            let kind = if segment { ItemKind::Segment } else { ItemKind::Flag };
            let item = json.map_or(Item::tombstone(version), |json| Item::live(version, json));
            data.collection_mut(kind).insert(key.into(), Arc::new(item));
        }
        data
    }

    fn encoded(data: &DataSet, parts: usize) -> Vec<Vec<u8>> {
        let mut buffers = vec![Vec::new(); parts];
        data.encode(&|slot| Some((slot % parts as u64) as usize), &mut buffers);
        buffers
    }

    proptest! {
        #[test]
        fn what_is_encoded_comes_back(
            items in prop::collection::vec(any_item(), 0..50), parts in 1_usize..9,
        ) {
            let data = data_set(items);
            let mut decoded = Decoded::default();
            let buffers = encoded(&data, parts);
            for buffer in buffers.iter().filter(|buffer| !buffer.is_empty()) {
                decoded.part(buffer);
            }
            prop_assert_eq!(decoded.malformed, 0);
            prop_assert_eq!(decoded.len(), data.items());
            let bytes: usize = buffers.iter().map(|buffer| buffer.len().saturating_sub(1)).sum();
            prop_assert_eq!(bytes as u64, data.encoded_bytes());
            prop_assert_eq!(decoded.into_data(), data);
        }

        #[test]
        fn any_bytes_are_read_or_counted(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut decoded = Decoded::default();
            decoded.part(&bytes);
            decoded.part(&[&[FORMAT], &bytes[..]].concat());
        }
    }

    #[test]
    fn a_malformed_part_gives_nothing() {
        let data = data_set(vec![
            (false, "a".to_owned(), 1, Some(b"{}".to_vec())),
            (true, "b".to_owned(), 2, None),
        ]);
        let whole = encoded(&data, 1).remove(0);
        let both = [1 + HEAD_BYTES as usize + 1, whole.len()];
        for end in 0..whole.len() {
            let mut decoded = Decoded::default();
            decoded.part(&whole[..end]);
            let whole_items = end == 1 || both.contains(&end);
            assert_eq!(decoded.malformed == 0, whole_items, "cut to {end}");
        }
        // Another format; an unknown mark; a tombstone with JSON.
        for (at, byte) in [(0, 2), (1, 4), (both[0], DELETED)] {
            let mut altered = whole.clone();
            altered[at] = byte;
            let mut decoded = Decoded::default();
            decoded.part(&altered);
            assert_eq!((decoded.malformed, decoded.len()), (1, 0), "byte {at}");
        }
    }

    #[test]
    fn slots_never_change() {
        assert_eq!(slot(ItemKind::Flag, "some-flag"), slot(ItemKind::Flag, "some-flag"));
        assert_ne!(slot(ItemKind::Flag, "some-flag"), slot(ItemKind::Segment, "some-flag"));
        // Stored files depend on these.
        assert_eq!(slot(ItemKind::Flag, ""), 2_737_183_428_366_584_608);
        assert_eq!(slot(ItemKind::Segment, "some-segment"), 11_280_997_836_806_531_263);
    }
}
