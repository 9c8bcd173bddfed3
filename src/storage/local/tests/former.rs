//! Files of format 1, as the versions before the header page wrote them.

use redb::{Database, TableDefinition};
use sha2::{Digest, Sha256};

use super::*;
use crate::sealing;

const SALT: [u8; 16] = [7; 16];

fn hashed(kind: &[u8], text: &str) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(SALT);
    hash.update((kind.len() as u64).to_be_bytes());
    hash.update(kind);
    hash.update(text);
    hash.finalize()[..16].to_vec()
}

/// One set in a file: its ID, the key that seals it, its sequence number and its items.
struct FormerSet<'a> {
    id: &'a str,
    secret: &'a str,
    sequence: u64,
    items: Items,
}

/// A record of the autoconfig cache: the key that seals it, name and value.
type FormerRecord<'a> = (&'a str, &'a str, &'a str);

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u32).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn write(place: &Place, sets: &[FormerSet<'_>], records: &[FormerRecord<'_>]) {
    let database = Database::create(place.file()).unwrap();
    let mut transaction = database.begin_write().unwrap();
    transaction.set_quick_repair(true);
    {
        let table = TableDefinition::<&str, &[u8]>::new("meta");
        let mut meta = transaction.open_table(table).unwrap();
        meta.insert("format", &1_u32.to_le_bytes()[..]).unwrap();
        meta.insert("salt", &SALT[..]).unwrap();
        let table = TableDefinition::<&[u8; 24], &[u8]>::new("sets");
        let mut markers = transaction.open_table(table).unwrap();
        let table = TableDefinition::<&[u8; 28], &[u8]>::new("parts");
        let mut parts = transaction.open_table(table).unwrap();
        let table = TableDefinition::<&[u8; 40], &[u8]>::new("named");
        let mut named = transaction.open_table(table).unwrap();
        for set in sets {
            let key = SealingKey::derive(set.secret);
            let name = [&hashed(b"set", set.id)[..], key.id().as_bytes()].concat();
            // Two parts with every second item each, and an empty one between them.
            let mut buffers = vec![Vec::new(); 2];
            set.items.encode(&|slot| Some((slot % 2) as usize), &mut buffers);
            let mut tags = [[0; 16]; 3];
            for (number, plaintext) in [0_u32, 2].into_iter().zip(&buffers) {
                let name: [u8; 28] =
                    [&name[..], &number.to_be_bytes()].concat().try_into().unwrap();
                let place = sealing::Place { namespace: "local/parts", name: &name };
                let sealed = key.seal(place, plaintext);
                tags[number as usize] = sealing::tag_of(&sealed).unwrap();
                parts.insert(&name, &sealed[..]).unwrap();
            }
            let mut marker = vec![1];
            text(&mut marker, set.id);
            for number in [set.items.items(), 1_700_000_000_123, set.sequence] {
                marker.extend_from_slice(&number.to_le_bytes());
            }
            marker.extend_from_slice(&3_u32.to_le_bytes());
            marker.extend(tags.iter().flatten());
            let place = sealing::Place { namespace: "local/sets", name: &name };
            let name: [u8; 24] = name[..].try_into().unwrap();
            markers.insert(&name, &key.seal(place, &marker)[..]).unwrap();
        }
        for (secret, name, value) in records {
            let key = SealingKey::derive(secret);
            let hash = key.name(&[name.as_bytes()]);
            let stored = [&hashed(b"space", "autoconfig")[..], key.id().as_bytes(), &hash].concat();
            let mut record = vec![1];
            text(&mut record, name);
            record.extend_from_slice(value.as_bytes());
            let place = sealing::Place { namespace: "local/named", name: &stored };
            let sealed = key.seal(place, &record);
            let stored: [u8; 40] = stored.try_into().unwrap();
            named.insert(&stored, &sealed[..]).unwrap();
        }
    }
    transaction.commit().unwrap();
}

fn records(store: &LocalStore) -> Vec<String> {
    let records = store.read_named("autoconfig").unwrap().records;
    let shown = |value: Vec<u8>| String::from_utf8(value).unwrap();
    records.into_iter().map(|it| format!("{}={}", it.name, shown(it.value))).collect()
}

#[tokio::test]
async fn a_file_of_the_former_format_keeps_its_content() {
    let place = Place::new();
    let (a, b) = (Items::numbered(40, 1), Items::numbered(30, 2));
    let set = |id, secret, sequence, items: &Items| FormerSet {
        id,
        secret,
        sequence,
        items: items.clone(),
    };
    let sets = [
        set("a", "old", 5, &a),
        // An earlier state under another key of the ring.
        set("a", "key", 4, &b),
        set("b", "key", 1, &b),
        // Sealed under a key that is not configured.
        set("c", "lost", 1, &b),
    ];
    write(&place, &sets, &[("old", "x", "1"), ("key", "x", "2"), ("old", "y", "3")]);
    // Written before it was known which keys sealed it.
    let left = place.parent.path().join("pilotlight.redb.damaged-1700000000000");
    std::fs::write(&left, "former").unwrap();

    let store = place.open(&["key", "old"]);
    let check = |store: &LocalStore| {
        assert_eq!((complete(store, "a"), complete(store, "b")), (a.clone(), b.clone()));
        let SetRead::Found(found) = read(store, "a").0 else { panic!() };
        let written_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_700_000_000_123);
        assert_eq!(found.written_at, written_at);
        assert_eq!(store.stored_sets().unwrap(), [SetId::new("a"), SetId::new("b")]);
        assert_eq!(records(store), ["x=2", "y=3"]);
    };
    check(&store);
    let store = place.reopened(&store).await;
    check(&store);
    assert!(store.close(LONG).await);
    assert!(!left.exists());
    for secret in ["old", "lost"] {
        assert_eq!(files_with(&place, secret), [""; 0]);
    }
    // From now on it is a file of the current format.
    let store = place.open(&["key"]);
    put(&store, "a", &b).await;
    assert_eq!(complete(&place.reopened(&store).await, "a"), b);
}

#[tokio::test]
async fn a_file_of_the_former_format_that_does_not_open_stays_where_it_is() {
    let place = Place::new();
    let items = Items::numbered(40, 1);
    write(&place, &[FormerSet { id: "a", secret: "lost", sequence: 1, items: items.clone() }], &[]);
    let store = place.open(&["key"]);
    assert!(store.status().unreadable);
    assert_eq!(read(&store, "a").0, SetRead::Unreadable);
    assert!(store.close(LONG).await);
    assert_eq!(complete(&place.open(&["lost"]), "a"), items);
}

#[tokio::test]
async fn a_file_of_the_former_format_without_a_key_is_adopted() {
    let mut place = Place::new();
    let items = Items::numbered(40, 1);
    KeyFile::read_or_make(place.parent.path()).unwrap();
    let secret = std::fs::read_to_string(place.parent.path().join("local.key")).unwrap();
    let secret = secret.trim();
    write(&place, &[FormerSet { id: "a", secret, sequence: 1, items: items.clone() }], &[]);
    place.key_file = KeyFileUse::Adopt;
    let opened = place.try_open(&["key"]).unwrap();
    assert!(matches!(opened.adoption, Some(Adoption::Adopted { sets: 1 })), "{opened:?}");
    assert_eq!(complete(&opened.store, "a"), items);
}

#[tokio::test]
async fn a_disk_without_room_leaves_a_file_of_the_former_format_as_it_is() {
    let place = Place::new();
    let items = Items::numbered(40, 1);
    write(&place, &[FormerSet { id: "a", secret: "key", sequence: 1, items: items.clone() }], &[]);
    let before = std::fs::read(place.file()).unwrap();
    place.faults.set(Mood::Full);
    let refused = place.try_open(&["key"]).unwrap_err();
    assert!(matches!(refused, LocalStoreError::Open { .. }), "{refused:?}");
    assert_eq!(std::fs::read(place.file()).unwrap(), before);
    place.faults.set(Mood::Well);
    assert_eq!(complete(&place.open(&["key"]), "a"), items);
}
