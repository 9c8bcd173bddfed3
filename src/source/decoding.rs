//! The decoder of messages, for fuzzing.

use std::sync::Arc;

use bytes::Bytes;

use super::fdv1_messages::{FlagMessage, decode};
use crate::model::{Item, ItemKey};

/// Reads bytes as the data of an event. Returns the items in it, if they are a message.
pub fn items(event: &str, data: &Bytes) -> Option<Vec<(ItemKey, Arc<Item>)>> {
    match decode(event, data).ok()? {
        FlagMessage::Put(set) => {
            let items = set
                .iter()
                .map(|(kind, key, item)| (ItemKey { kind, key: key.clone() }, item.clone()));
            Some(items.collect())
        }
        FlagMessage::Upsert(key, item) => Some(vec![(key, Arc::new(item))]),
        FlagMessage::Ignored => Some(Vec::new()),
    }
}
