//! The store and damaged files: whatever is done to the bytes, it opens, it never says that a set
//! is complete which is not what was stored, and it goes on working.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use pilotlight::testing::flagstore::{LocalFlags, ReadOutcome};
use pilotlight::testing::storage::local::LocalStore;

use super::local_store_support::{LONG, data, directory, id, read, ring, versions};

const ROUNDS: usize = 200;
const SETS: usize = 3;
const ITEMS: usize = 150;
/// Versions that each set had one after the other.
const STATES: u64 = 3;
const FILE: &str = "pilotlight.redb";
const PAGE: usize = 4096;

/// A closed store's file.
async fn sound_file() -> Vec<u8> {
    let directory = directory();
    let store = LocalStore::open(directory.path(), ring()).unwrap().store;
    let local = LocalFlags::new(store.clone());
    for version in 1..=STATES {
        for set in 0..SETS {
            local.replaced(&id(set), Arc::new(data(set, ITEMS, version)));
        }
        assert!(store.flush(LONG).await);
    }
    assert!(store.close(LONG).await);
    fs::read(directory.path().join(FILE)).unwrap()
}

/// Does something to the bytes, and tells what.
fn damage(bytes: &mut Vec<u8>) -> String {
    let pages = bytes.len() / PAGE;
    // A file is mostly empty: half of the time where something stands.
    let used: Vec<usize> =
        (0..pages).filter(|page| bytes[page * PAGE..][..PAGE].iter().any(|b| *b != 0)).collect();
    let page = |used: &[usize]| match fastrand::bool() {
        true => used[fastrand::usize(..used.len())] * PAGE,
        false => fastrand::usize(..pages) * PAGE,
    };
    let (one, other) = (page(&used), page(&used));
    match fastrand::u8(..7) {
        0 => {
            let count = fastrand::usize(1..64);
            for _ in 0..count {
                let at = page(&used) + fastrand::usize(..PAGE);
                bytes[at] ^= 1 << fastrand::u8(..8);
            }
            format!("{count} bits")
        }
        1 => {
            bytes[one..one + PAGE].fill(0);
            format!("a page of zeros at {one}")
        }
        2 => {
            fastrand::fill(&mut bytes[one..one + PAGE]);
            format!("a page of noise at {one}")
        }
        3 => {
            bytes.copy_within(one..one + PAGE, other);
            format!("a page from {one} at {other}")
        }
        4 => {
            bytes.truncate(fastrand::usize(..bytes.len()));
            format!("cut to {}", bytes.len())
        }
        5 => {
            let at = fastrand::usize(..320);
            bytes[at] ^= fastrand::u8(1..);
            format!("the header's byte {at}")
        }
        _ => {
            // The head of a page, where the tree's pointers are.
            let at = one + fastrand::usize(..64);
            bytes[at] = fastrand::u8(..);
            format!("byte {at}")
        }
    }
}

#[tokio::test]
async fn no_damage_gives_other_data_or_ends_the_process() {
    let sound = sound_file().await;
    let seed = fastrand::u64(..);
    fastrand::seed(seed);
    let mut outcomes = Outcomes::default();
    for round in 0..ROUNDS {
        let directory = directory();
        let mut bytes = sound.clone();
        let what = damage(&mut bytes);
        fs::write(directory.path().join(FILE), &bytes).unwrap();
        let told = format!("seed {seed}, round {round}: {what}");
        one_round(directory.path(), &told, &mut outcomes).await;
    }
    // The rounds are worth something: all kinds of ends were met.
    assert!(outcomes.complete > 0 && outcomes.less > 0 && outcomes.aside > 0, "{outcomes:?}");
}

#[derive(Debug, Default)]
struct Outcomes {
    complete: usize,
    less: usize,
    aside: usize,
}

async fn one_round(directory: &Path, told: &str, outcomes: &mut Outcomes) {
    let opened = LocalStore::open(directory, ring()).unwrap_or_else(|e| panic!("{told}: {e:?}"));
    let (store, local) = (opened.store.clone(), LocalFlags::new(opened.store));
    outcomes.aside += usize::from(opened.set_aside.is_some());
    for set in 0..SETS {
        match read(&local, set) {
            Ok(ReadOutcome::Complete(stored)) => {
                let found = versions(set, ITEMS, &stored.data);
                assert!(found.iter().all(|version| *version == found[0]), "{told}: a mixture");
                assert!((1..=STATES).contains(&found[0]), "{told}");
                outcomes.complete += 1;
            }
            Ok(ReadOutcome::Incomplete(less)) => {
                assert!(less.missing + less.undecodable > 0, "{told}");
                outcomes.less += 1;
            }
            Ok(ReadOutcome::Absent | ReadOutcome::Unreadable) | Err(_) => outcomes.less += 1,
        }
    }
    let newest: Vec<_> = (0..SETS).map(|set| Arc::new(data(set, ITEMS, STATES + 1))).collect();
    for (set, data) in newest.iter().enumerate() {
        local.replaced(&id(set), data.clone());
    }
    assert!(store.flush(LONG).await, "{told}: {:?}", store.status());
    // What can be read after that is what was put. Damage that writing does not meet is met by the
    // next read; then the next put goes to a new file.
    for attempt in 0.. {
        let whole = (0..SETS).all(|set| match read(&local, set) {
            Ok(ReadOutcome::Complete(stored)) => {
                let found = versions(set, ITEMS, &stored.data);
                assert_eq!(found, vec![STATES + 1; ITEMS], "{told}");
                true
            }
            Ok(_) | Err(_) => false,
        });
        if whole {
            break;
        }
        assert!(attempt < 2, "{told}: {:?}", store.status());
        for (set, data) in newest.iter().enumerate() {
            local.replaced(&id(set), data.clone());
        }
        store.flush(LONG).await;
    }
    assert!(store.close(LONG).await, "{told}");
}
