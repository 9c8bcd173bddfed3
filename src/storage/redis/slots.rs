//! The slot of a key in a cluster (Redis Cluster specification: key distribution model).
//!
//! Pure. Keys of one slot are always on one server, so only such keys may be used in one
//! transaction or script.

/// Number of slots of every cluster.
pub const SLOT_COUNT: u16 = 16_384;

/// The slot of a key: CRC16 (XMODEM) of its hash tag, or of all of it.
pub fn slot_of(key: &[u8]) -> u16 {
    crc16(hash_tag(key).unwrap_or(key)) % SLOT_COUNT
}

/// The text between the first `{` and the next `}`; `None` if empty or missing.
pub fn hash_tag(key: &[u8]) -> Option<&[u8]> {
    let open = key.iter().position(|byte| *byte == b'{')?;
    let inside = &key[open + 1..];
    let close = inside.iter().position(|byte| *byte == b'}')?;
    (close > 0).then(|| &inside[..close])
}

/// True if a cluster always keeps all these keys on one server.
pub fn in_one_slot<K: AsRef<[u8]>>(keys: impl IntoIterator<Item = K>) -> bool {
    let mut slots = keys.into_iter().map(|key| slot_of(key.as_ref()));
    let Some(first) = slots.next() else { return true };
    slots.all(|slot| slot == first)
}

fn crc16(bytes: &[u8]) -> u16 {
    const POLYNOMIAL: u16 = 0x1021;
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ (u16::from(*byte) << 8), |crc, _bit| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ POLYNOMIAL }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_those_of_the_servers() {
        let check = |key: &str, slot| assert_eq!(slot_of(key.as_bytes()), slot, "{key}");
        // From `CLUSTER KEYSLOT`.
        check("launchdarkly:features", 5868);
        check("launchdarkly:segments", 8134);
        check("launchdarkly:$inited", 5466);
        check("{ld}", 8805);
        check("{ld}:features", 8805);
        check("{ld}:$inited", 8805);
        check("foo", 12182);
        check("", 0);
        assert_eq!(crc16(b"123456789"), 0x31c3, "the check value of CRC16/XMODEM");
    }

    #[test]
    fn tags_are_the_first_pair_of_braces_with_something_inside() {
        let check = |key: &str, tag: Option<&str>| {
            assert_eq!(hash_tag(key.as_bytes()), tag.map(str::as_bytes), "{key}");
        };
        check("{user1000}.following", Some("user1000"));
        check("foo{}{bar}", None);
        check("foo{{bar}}zap", Some("{bar"));
        check("foo{bar}{zap}", Some("bar"));
        check("foo}bar{", None);
        check("foo{bar", None);
        check("foo", None);
    }

    #[test]
    fn keys_go_together_where_their_slots_do() {
        assert!(in_one_slot(["{ld}:features", "{ld}:segments", "{ld}:$inited"]));
        assert!(in_one_slot(["launchdarkly:features", "{launchdarkly:features}:staging"]));
        assert!(!in_one_slot(["launchdarkly:features", "launchdarkly:segments"]));
        assert!(in_one_slot(["one"]));
        assert!(in_one_slot::<&str>([]));
    }
}
