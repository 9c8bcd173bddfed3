use tempfile::TempDir;

use super::*;
use crate::events::post::{Audience, Sender};
use crate::model::{EnvironmentRef, FilterKey};
use crate::sealing::SealingKey;

const LIMITS: SpoolLimits = SpoolLimits { bytes: 100 << 20, age: Duration::from_secs(3600) };

fn ring(secrets: &[&str]) -> KeyRing {
    let mut keys = secrets.iter().map(|secret| SealingKey::derive(secret));
    KeyRing::new(keys.next().unwrap(), keys)
}

fn destination(environment: &str) -> Destination {
    Destination {
        environment: EnvironmentRef {
            environment: environment.into(),
            filter: FilterKey::new("f"),
        },
        audience: Audience::Mobile,
    }
}

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_442_000)
}

/// A batch of two events; `bytes` of them, compressed.
fn batch(environment: &str, id: &str, bytes: usize) -> Batch {
    Batch {
        id: id.into(),
        destination: destination(environment),
        sender: Sender {
            schema: 4,
            tags: Some("t".into()),
            user_agent: Some("Go\"/7".into()),
            wrapper: None,
        },
        count: 2,
        gzip: vec![7; bytes].into(),
        created: now(),
        invalid: 0,
        is_spooled: true,
    }
}

fn open(folder: &TempDir) -> Spool {
    Spool::open(folder.path(), &ring(&["one"]), LIMITS).unwrap()
}

fn ids(batches: &[Batch]) -> String {
    let ids: Vec<&str> = batches.iter().map(|batch| &*batch.id).collect();
    ids.join(" ")
}

/// Takes everything out of a line; the names in order.
fn drained(spool: &mut Spool, environment: &str) -> String {
    let mut names = Vec::new();
    while let Some((segment, batches)) = spool.load(&destination(environment), now()).unwrap() {
        names.push(ids(&batches));
        spool.delete(segment).unwrap();
    }
    names.join(" ")
}

fn files(folder: &TempDir) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder.path().join("events")).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

#[test]
fn batches_come_back_as_they_were_also_after_a_restart() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    let (a, b) = (destination("a"), destination("b"));
    spool.append(&a, &[batch("a", "1", 10), batch("a", "2", 0)]).unwrap();
    spool.append(&b, &[batch("b", "3", 10)]).unwrap();
    spool.append(&a, &[batch("a", "4", 10)]).unwrap();
    assert_eq!((spool.events(), files(&folder).len()), (8, 2));
    drop(spool);
    let mut spool = open(&folder);
    assert_eq!(spool.destinations().collect::<Vec<_>>(), [&a, &b]);
    assert_eq!(spool.events(), 8);
    let (segment, batches) = spool.load(&a, now()).unwrap().unwrap();
    assert_eq!(batches, [batch("a", "1", 10), batch("a", "2", 0), batch("a", "4", 10)]);
    assert_eq!(spool.load(&a, now()).unwrap(), None, "it is given out once");
    // What is added meanwhile is no part of it.
    spool.append(&a, &[batch("a", "5", 10)]).unwrap();
    spool.delete(segment).unwrap();
    assert_eq!((drained(&mut spool, "a").as_str(), drained(&mut spool, "b").as_str()), ("5", "3"));
    assert_eq!((spool.bytes(), spool.events(), files(&folder).len()), (0, 0, 0));
    assert_eq!(spool.take_loss(), SpoolLoss::default());
    for secret in ["Go", "\"f\""] {
        assert!(!format!("{folder:?}").contains(secret));
    }
}

#[test]
fn segments_are_closed_when_they_are_large() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    let batches: Vec<Batch> =
        (0..10).map(|number| batch("a", &number.to_string(), 1 << 20)).collect();
    spool.append(&destination("a"), &batches).unwrap();
    assert_eq!(files(&folder).len(), 3);
    assert_eq!(drained(&mut spool, "a"), "0 1 2 3 4 5 6 7 8 9");
}

#[test]
fn the_oldest_go_when_there_is_no_room_and_when_they_are_too_old() {
    let folder = TempDir::new().unwrap();
    let limits = SpoolLimits { bytes: 9 << 20, ..LIMITS };
    let mut spool = Spool::open(folder.path(), &ring(&["one"]), limits).unwrap();
    for number in 0..10 {
        let batch = batch("a", &number.to_string(), 1 << 20);
        spool.append(&destination("a"), &[batch]).unwrap();
    }
    assert!(spool.bytes() <= limits.bytes);
    assert_eq!(spool.take_loss(), SpoolLoss { no_room: 8, ..SpoolLoss::default() });
    assert_eq!(drained(&mut spool, "a"), "4 5 6 7 8 9");
    let old = Batch { created: now() - LIMITS.age - Duration::from_secs(1), ..batch("a", "o", 1) };
    // A clock that was ahead.
    let young = Batch { created: now() + Duration::from_secs(1), ..batch("a", "y", 1) };
    spool.append(&destination("a"), &[old.clone(), young]).unwrap();
    assert_eq!(drained(&mut spool, "a"), "y");
    spool.append(&destination("a"), &[old]).unwrap();
    assert_eq!(drained(&mut spool, "a"), "");
    assert_eq!(spool.take_loss(), SpoolLoss { expired: 4, ..SpoolLoss::default() });
}

#[test]
fn what_was_cut_altered_or_moved_is_left_out_and_counted() {
    let write = || {
        let folder = TempDir::new().unwrap();
        let mut spool = open(&folder);
        let batches = ["1", "2", "3"].map(|id| batch("a", id, 100));
        spool.append(&destination("a"), &batches).unwrap();
        folder
    };
    let check = |change: &dyn Fn(&mut Vec<u8>), expected: &str, unreadable: u64| {
        let folder = write();
        let file = files(&folder).remove(0);
        let mut content = fs::read(&file).unwrap();
        change(&mut content);
        fs::write(&file, &content).unwrap();
        let mut spool = open(&folder);
        assert_eq!(drained(&mut spool, "a"), expected);
        assert_eq!(spool.take_loss().unreadable, unreadable, "{expected}");
    };
    check(&|_| {}, "1 2 3", 0);
    // Cut within the last record, as by a kill: nobody can tell how many events it had.
    check(&|content| content.truncate(content.len() - 1), "1 2", 0);
    check(&|content| content.push(7), "1 2 3", 0);
    check(&|content| content.extend_from_slice(&[0xff; 100]), "1 2 3", 0);
    check(&|content| content[60] ^= 1, "2 3", 2);
    // The first record once more behind the last one.
    let again = |content: &mut Vec<u8>| {
        let length = content.len() / 3;
        content.extend_from_within(..length);
    };
    check(&again, "1 2 3", 2);
    // A file under the name of another destination.
    let folder = write();
    let file = files(&folder).remove(0);
    fs::rename(&file, file.with_file_name("0011223344556677-00000000000000000001.events")).unwrap();
    let spool = open(&folder);
    assert_eq!((spool.events(), spool.foreign()), (0, 1));
}

#[test]
fn a_file_of_another_key_stays_until_its_key_is_back_or_it_is_too_old() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    spool.append(&destination("a"), &[batch("a", "1", 10)]).unwrap();
    drop(spool);
    let other = Spool::open(folder.path(), &ring(&["two"]), LIMITS).unwrap();
    assert_eq!((other.events(), other.foreign()), (0, 1));
    let mut both = Spool::open(folder.path(), &ring(&["two", "one"]), LIMITS).unwrap();
    // New ones are sealed under the new key, in a segment of their own.
    both.append(&destination("a"), &[batch("a", "2", 10)]).unwrap();
    assert_eq!((both.events(), both.foreign(), files(&folder).len()), (4, 0, 2));
    assert_eq!(drained(&mut both, "a"), "1 2");
    both.append(&destination("a"), &[batch("a", "3", 10)]).unwrap();
    drop(both);
    let limits = SpoolLimits { age: Duration::ZERO, ..LIMITS };
    let mut late = Spool::open(folder.path(), &ring(&["one"]), limits).unwrap();
    assert_eq!((late.foreign(), files(&folder).len()), (0, 0));
    assert_eq!(late.take_loss().expired, 2);
    // What is none of ours is left alone.
    fs::write(folder.path().join("events").join("notes.txt"), "x").unwrap();
    assert_eq!(open(&folder).events(), 0);
    assert_eq!(files(&folder).len(), 1);
}

#[test]
fn a_disk_that_takes_nothing_is_an_error_and_harms_nothing() {
    let folder = TempDir::new().unwrap();
    let mut spool = open(&folder);
    spool.append(&destination("a"), &[batch("a", "1", 10)]).unwrap();
    fs::remove_dir_all(folder.path().join("events")).unwrap();
    assert!(spool.append(&destination("b"), &[batch("b", "2", 10)]).is_err());
    assert!(spool.load(&destination("a"), now()).is_err());
    DirBuilder::new().create(folder.path().join("events")).unwrap();
    spool.append(&destination("b"), &[batch("b", "3", 10)]).unwrap();
    assert_eq!(drained(&mut spool, "b"), "3");
}
