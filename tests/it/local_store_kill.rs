//! The store and sudden ends: kill -9 at random moments, a disk that gives no more room.
//!
//! The process that is killed is this test binary itself, started again for one test that does
//! nothing unless it is told where the store is.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::{Arc, mpsc};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use pilotlight::testing::flagstore::{LocalFlags, ReadOutcome};
use pilotlight::testing::model::DataSet;
use pilotlight::testing::sealing::KeyRing;
use pilotlight::testing::storage::local::{Adoption, KeyFile, LocalStore};

use super::local_store_support::{LONG, complete, data, directory, id, item, key, ring, versions};

const ROUNDS: u64 = 200;
const SETS: usize = 3;
const ITEMS: usize = 60;
const SPACE: &str = "kill test";

/// What design promise 4 allows to be lost.
const LOSS_MAX: Duration = Duration::from_millis(250);

/// In every so many rounds the child lives long and asks for no flush, so that only the store's own
/// pace keeps what it was told.
const QUIET_EVERY: u64 = 5;

/// Tells the child where the store is, and the first version that it may write.
const STORE_VARIABLE: &str = "PILOTLIGHT_TEST_STORE";
const VERSION_VARIABLE: &str = "PILOTLIGHT_TEST_VERSION";

/// A change, as the child reports it.
#[derive(Clone, Debug)]
enum Event {
    /// The store is told: set, item (`None`: all of them), version, when.
    Accepted(usize, Option<usize>, u64, SystemTime),
    /// Everything that was accepted before is stored.
    Flushed,
    /// The named record with this value is stored.
    Acknowledged(u64),
}

fn child(test: &str, directory: &Path, version: u64) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", test, "--nocapture"])
        .env(STORE_VARIABLE, directory)
        .env(VERSION_VARIABLE, version.to_string())
        .stdout(Stdio::piped());
    command
}

fn told() -> Option<(PathBuf, u64)> {
    let directory = std::env::var_os(STORE_VARIABLE)?;
    let version: Option<OsString> = std::env::var_os(VERSION_VARIABLE);
    Some((directory.into(), version?.to_str()?.parse().unwrap()))
}

fn say(text: &str) {
    // Past the test harness, which may hold back what is printed.
    let mut out = std::io::stdout().lock();
    out.write_all(format!("\n@{text}\n").as_bytes()).unwrap();
    out.flush().unwrap();
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

#[tokio::test]
async fn writer_to_be_killed() {
    let Some((directory, first)) = told() else { return };
    let opened = LocalStore::open(&directory, ring()).unwrap();
    assert_eq!(opened.set_aside, None, "a kill never damages a store");
    let store = opened.store;
    let local = LocalFlags::new(store.clone());
    let mut sets: Vec<Arc<DataSet>> =
        (0..SETS).map(|set| Arc::new(complete(&local, set))).collect();
    say("ready");
    let steps = if is_quiet(first >> 32) { 0..88 } else { 0..100 };
    for version in first.. {
        let set = fastrand::usize(..SETS);
        match fastrand::u8(steps.clone()) {
            0..80 => {
                let number = fastrand::usize(..ITEMS);
                let item = Arc::new(item(set, number, version));
                assert!(Arc::make_mut(&mut sets[set]).upsert(&key(number), item));
                // Said first: a kill between the two must not leave a change that nobody knows of.
                say(&format!("change {set} {number} {version} {}", now_ms()));
                local.changed(&id(set), sets[set].clone(), &[key(number)]);
            }
            80..88 => {
                sets[set] = Arc::new(data(set, ITEMS, version));
                say(&format!("put {set} {version} {}", now_ms()));
                local.replaced(&id(set), sets[set].clone());
            }
            88..94 => {
                assert!(store.flush(LONG).await);
                say("flushed");
            }
            94..98 => {
                let puts = vec![("counter".to_owned(), version.to_le_bytes().to_vec())];
                store.write_named(SPACE, puts, Vec::new()).await.unwrap();
                say(&format!("named {version}"));
            }
            _ => tokio::time::sleep(Duration::from_millis(fastrand::u64(..10))).await,
        }
    }
}

/// Whether the child of that round asks for no flush.
fn is_quiet(round: u64) -> bool {
    round.is_multiple_of(QUIET_EVERY)
}

fn parsed(line: &str) -> Option<Event> {
    let words: Vec<&str> = line.strip_prefix('@')?.split(' ').collect();
    let time = |text: &str| UNIX_EPOCH + Duration::from_millis(text.parse().unwrap());
    Some(match words[..] {
        ["change", set, number, version, ms] => Event::Accepted(
            set.parse().unwrap(),
            Some(number.parse().unwrap()),
            version.parse().unwrap(),
            time(ms),
        ),
        ["put", set, version, ms] => {
            Event::Accepted(set.parse().unwrap(), None, version.parse().unwrap(), time(ms))
        }
        ["flushed"] => Event::Flushed,
        ["named", version] => Event::Acknowledged(version.parse().unwrap()),
        _ => return None,
    })
}

/// Lets the child run for a random time and kills it. Returns what it reported, and when it died.
fn run_and_kill(mut child: Child, life_ms: Range<u64>) -> (Vec<Event>, SystemTime) {
    let lines = follow(child.stdout.take().unwrap());
    let first = lines.iter().find(|line| line.starts_with("@ready"));
    assert!(first.is_some(), "the child opened the store");
    let mut left = Duration::from_micros(fastrand::u64(life_ms.start * 1000..life_ms.end * 1000));
    let mut reported = Vec::new();
    while !left.is_zero() {
        let waited = tokio::time::Instant::now();
        match lines.recv_timeout(left) {
            Ok(line) => reported.extend(parsed(&line)),
            Err(mpsc::RecvTimeoutError::Timeout) => break,
            Err(mpsc::RecvTimeoutError::Disconnected) => panic!("the child ended by itself"),
        }
        left = left.saturating_sub(waited.elapsed());
    }
    let died = SystemTime::now();
    child.kill().unwrap();
    child.wait().unwrap();
    // What it wrote into the pipe before it died. A line that it was in the middle of is not whole.
    reported.extend(lines.iter().filter_map(|line| parsed(&line)));
    (reported, died)
}

fn follow(out: ChildStdout) -> mpsc::Receiver<String> {
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        let mut out = BufReader::new(out);
        let mut line = String::new();
        while out.read_line(&mut line).is_ok_and(|count| count > 0) {
            let whole = line.ends_with('\n');
            if !whole || sender.send(line.trim_end().to_owned()).is_err() {
                return;
            }
            line.clear();
        }
    });
    lines
}

/// What each item of a set may be after the kill: all from `required` on that was ever accepted.
struct Expected {
    required: Vec<Vec<u64>>,
    /// From which version on it is if nothing held the process up: what was accepted so long
    /// before its end.
    timely: Vec<Vec<u64>>,
    accepted: Vec<Vec<Vec<u64>>>,
    named: Option<u64>,
}

impl Expected {
    fn new(stored: &[Vec<u64>], events: &[Event], died: SystemTime) -> Self {
        let mut expected = Self {
            required: stored.to_vec(),
            timely: stored.to_vec(),
            accepted: stored
                .iter()
                .map(|set| set.iter().map(|version| vec![*version]).collect())
                .collect(),
            named: None,
        };
        let durable_until = events.iter().rposition(|event| matches!(event, Event::Flushed));
        for (at, event) in events.iter().enumerate() {
            match event {
                Event::Accepted(set, number, version, when) => {
                    let durable = durable_until.is_some_and(|flush| at < flush);
                    let numbers = number.map_or(0..ITEMS, |number| number..number + 1);
                    for number in numbers {
                        expected.accepted[*set][number].push(*version);
                        if durable {
                            expected.required[*set][number] = *version;
                        }
                        if *when + LOSS_MAX < died {
                            expected.timely[*set][number] = *version;
                        }
                    }
                }
                Event::Flushed => {}
                Event::Acknowledged(version) => expected.named = Some(*version),
            }
        }
        expected
    }

    #[track_caller]
    fn check(&self, round: u64, found: &[Vec<u64>]) {
        for (set, versions) in found.iter().enumerate() {
            for (number, version) in versions.iter().enumerate() {
                let required = self.required[set][number];
                assert!(
                    *version >= required && self.accepted[set][number].contains(version),
                    "round {round}, set {set}, item {number}: found {version}, \
                     required {required}, accepted {:?}",
                    self.accepted[set][number]
                );
            }
        }
    }
}

/// Counts the kills at which something was older than [`LOSS_MAX`], and those of them at which some
/// of that was lost. Only a machine that is too busy holds the store up for so long, and that now
/// and then.
#[derive(Debug, Default)]
struct Pace {
    kills: u32,
    late: u32,
}

impl Pace {
    fn note(&mut self, expected: &Expected, found: &[Vec<u64>]) {
        let is_behind = |other: &[Vec<u64>]| {
            let timely = expected.timely.iter().flatten();
            timely.zip(other.iter().flatten()).any(|(timely, other)| other < timely)
        };
        if is_behind(&expected.required) {
            self.kills += 1;
            self.late += u32::from(is_behind(found));
        }
    }
}

fn stored_versions(local: &LocalFlags) -> Vec<Vec<u64>> {
    (0..SETS).map(|set| versions(set, ITEMS, &complete(local, set))).collect()
}

#[tokio::test]
async fn a_kill_loses_a_quarter_of_a_second_at_most_and_damages_nothing() {
    let directory = directory();
    let store = LocalStore::open(directory.path(), ring()).unwrap().store;
    let local = LocalFlags::new(store.clone());
    for set in 0..SETS {
        local.replaced(&id(set), Arc::new(data(set, ITEMS, 1)));
    }
    assert!(store.close(LONG).await);
    let mut stored = vec![vec![1; ITEMS]; SETS];
    let mut named = 0;
    let mut pace = Pace::default();
    for round in 0..ROUNDS {
        let first = (round + 1) << 32;
        let mut command = child("local_store_kill::writer_to_be_killed", directory.path(), first);
        // Commits begin 50 ms after the first change: about every second kill comes later.
        let life_ms = if is_quiet(round + 1) { 300..600 } else { 0..100 };
        let (events, died) = run_and_kill(command.spawn().unwrap(), life_ms);
        let expected = Expected::new(&stored, &events, died);

        let opened = LocalStore::open(directory.path(), ring()).unwrap();
        assert_eq!(opened.set_aside, None, "round {round}");
        stored = stored_versions(&LocalFlags::new(opened.store.clone()));
        expected.check(round, &stored);
        pace.note(&expected, &stored);
        let records = opened.store.read_named(SPACE).unwrap().records;
        let counter = records
            .first()
            .map_or(0, |record| u64::from_le_bytes(record.value[..].try_into().unwrap()));
        assert!(counter >= expected.named.unwrap_or(named), "round {round}");
        named = counter;
        // The first write checks all of the file.
        opened.store.write_named("after the kill", Vec::new(), Vec::new()).await.unwrap();
        assert_eq!(opened.store.status().replaced, 0, "round {round}");
        assert!(opened.store.close(LONG).await);
    }
    assert!(
        stored.iter().flatten().any(|version| version >> 32 > ROUNDS / 2),
        "changes came through"
    );
    assert!(named > 0);
    assert!(pace.kills >= 20 && pace.late * 2 < pace.kills, "{pace:?}");
    let bytes = std::fs::read(directory.path().join("pilotlight.redb")).unwrap();
    for clear in ["secret-item", "environment-", "counter", SPACE] {
        let found = bytes.windows(clear.len()).any(|window| window == clear.as_bytes());
        assert!(!found, "{clear} stands in the file in clear");
    }
}

/// Adopts the store, and then waits for its end.
#[tokio::test]
async fn adopter_to_be_killed() {
    let Some((directory, _)) = told() else { return };
    say("ready");
    let opened = LocalStore::open_and_adopt(&directory, ring()).unwrap();
    assert_eq!(opened.set_aside, None, "a kill never damages a store");
    say("flushed");
    std::future::pending::<()>().await;
}

/// The file is written anew while a store is adopted, in the same way as after a rotation.
#[tokio::test]
async fn a_kill_while_the_file_is_written_anew_loses_nothing() {
    const ADOPTIONS: u64 = 24;
    const ADOPTED_ITEMS: usize = 3000;
    let template = directory();
    let file = KeyFile::read_or_make(template.path()).unwrap();
    let store = LocalStore::open(template.path(), KeyRing::new(file.key, [])).unwrap().store;
    let local = LocalFlags::new(store.clone());
    for set in 0..SETS {
        local.replaced(&id(set), Arc::new(data(set, ADOPTED_ITEMS, 1)));
    }
    assert!(store.close(LONG).await);

    let (mut before, mut after) = (0, 0);
    // Sought until about every second kill comes before the end, however busy the machine is.
    let mut life_ms = 500;
    for round in 0..ADOPTIONS {
        let copy = directory();
        for name in ["pilotlight.redb", "local.key"] {
            std::fs::copy(template.path().join(name), copy.path().join(name)).unwrap();
        }
        let command = child("local_store_kill::adopter_to_be_killed", copy.path(), 0).spawn();
        let (events, _) = run_and_kill(command.unwrap(), 0..life_ms);
        let is_left = copy.path().join("local.key").exists();
        assert!(!is_left || events.is_empty(), "round {round}");
        if is_left {
            before += 1;
            life_ms = (life_ms * 3 / 2).min(20_000);
        } else {
            after += 1;
            life_ms = (life_ms * 2 / 3).max(10);
        }
        let opened = LocalStore::open_and_adopt(copy.path(), ring()).unwrap();
        assert_eq!(opened.set_aside, None, "round {round}");
        let adopted_now = matches!(opened.adoption, Some(Adoption::Adopted { sets: SETS }));
        let removed_now = matches!(opened.adoption, Some(Adoption::KeyFileRemoved));
        assert_eq!(adopted_now || removed_now, is_left, "round {round}: {:?}", opened.adoption);
        let local = LocalFlags::new(opened.store.clone());
        for set in 0..SETS {
            let versions = versions(set, ADOPTED_ITEMS, &complete(&local, set));
            assert_eq!(versions, vec![1; ADOPTED_ITEMS], "round {round}");
        }
        assert!(opened.store.close(LONG).await);
        assert!(!copy.path().join("pilotlight.redb.new").exists(), "round {round}");
    }
    assert!(before >= 3 && after >= 3, "kills before the end: {before}, after it: {after}");
}

#[tokio::test]
async fn writer_without_room() {
    let Some((directory, _)) = told() else { return };
    let store = LocalStore::open(&directory, ring()).unwrap().store;
    let local = LocalFlags::new(store.clone());
    local.replaced(&id(1), Arc::new(data(1, 20_000, 2)));
    assert!(!store.flush(LONG).await, "the file cannot grow to that size");
    let status = store.status();
    assert!(status.problem.is_some() && status.pending == 1, "{status:?}");
    assert!(matches!(local.read_set(&id(0)), Ok(ReadOutcome::Complete(_))), "reads go on");
    assert!(!store.close(LONG).await);
    say("done");
}

#[tokio::test]
async fn no_room_is_no_end() {
    let directory = directory();
    let store = LocalStore::open(directory.path(), ring()).unwrap().store;
    let local = LocalFlags::new(store.clone());
    local.replaced(&id(0), Arc::new(data(0, ITEMS, 1)));
    assert!(store.close(LONG).await);

    // Files of that process cannot grow: writes fail as on a full disk, without the signal that
    // would come first.
    let size = std::fs::metadata(directory.path().join("pilotlight.redb")).unwrap().len();
    let inner = child("local_store_kill::writer_without_room", directory.path(), 0);
    let mut command = Command::new("sh");
    command
        .args(["-c", &format!("trap '' XFSZ; ulimit -f {}; exec \"$0\" \"$@\"", size / 512)])
        .arg(inner.get_program())
        .args(inner.get_args())
        .envs(inner.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdout(Stdio::piped());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("@done"));

    let opened = LocalStore::open(directory.path(), ring()).unwrap();
    assert_eq!(opened.set_aside, None);
    let local = LocalFlags::new(opened.store.clone());
    assert_eq!(versions(0, ITEMS, &complete(&local, 0)), vec![1; ITEMS]);
    assert_eq!(local.read_set(&id(1)).unwrap(), ReadOutcome::Absent);
    assert!(opened.store.close(LONG).await);
}
