//! Figures of the embedded store: how fast a start reads it, what a change costs.
//!
//! ```text
//! cargo bench --bench local_store                      # 100 environments of 1,000 flags
//! cargo bench --bench local_store -- 10 200            # 10 environments of 200 flags
//! ```
//!
//! Every start is a process of its own, and what it read is in the page cache, as after a restart
//! of the relay or a kill.
#![expect(clippy::print_stdout, reason = "prints figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

use std::fmt::Write as _;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use pilotlight::testing::flagstore::{DataSetId, LocalFlags, ReadOutcome};
use pilotlight::testing::model::{DataSet, EnvironmentRef, FilterKey, Item, ItemKey, ItemKind};
use pilotlight::testing::sealing::{KeyRing, SealingKey};
use pilotlight::testing::storage::local::LocalStore;

/// About what a flag of a few rules takes.
const FLAG_BYTES: usize = 1_300;
const THREADS: usize = 2;
const ROUNDS: usize = 5;
const LONG: Duration = Duration::from_secs(120);

fn main() {
    let mut args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let role = args.first().filter(|arg| arg.parse::<usize>().is_err()).cloned();
    if role.is_some() {
        args.remove(0);
    }
    let number = |at: usize, default: usize| {
        args.iter().filter_map(|arg| arg.parse().ok()).nth(at).unwrap_or(default)
    };
    let (sets, flags) = (number(0, 100), number(1, 1_000));
    match role.as_deref() {
        None => run(sets, flags),
        Some("start") => start(Path::new(args.last().unwrap()), sets),
        Some("fill") => fill(Path::new(args.last().unwrap()), sets, flags),
        Some("idle") => idle(Path::new(args.last().unwrap())),
        Some("change") => change_for_ever(Path::new(args.last().unwrap()), sets, flags),
        Some(other) => panic!("no such role: {other}"),
    }
}

fn ring() -> KeyRing {
    KeyRing::new(SealingKey::derive("benchmark"), [SealingKey::derive("previous")])
}

fn id(set: usize) -> DataSetId {
    let environment = format!("65f0c0ffee{set:014}").into();
    DataSetId::new(&EnvironmentRef { environment, filter: FilterKey::default() })
}

fn flag(set: usize, flag: usize, version: u64) -> Item {
    let mut json = format!(
        r#"{{"key":"flag-number-{flag}","version":{version},"on":true,"salt":"{set:08x}","rules":["#
    );
    while json.len() < FLAG_BYTES {
        let random = fastrand::u64(..);
        write!(json, r#"{{"id":"{random:016x}","clauses":[],"variation":0}},"#).unwrap();
    }
    json.push_str("{}]}");
    Item::live(version, json.into_bytes())
}

fn data(set: usize, flags: usize, version: u64) -> Arc<DataSet> {
    let flags = (0..flags)
        .map(|number| (format!("flag-number-{number}").into(), flag(set, number, version).into()))
        .collect();
    Arc::new(DataSet { flags, ..DataSet::default() })
}

/// What `/proc` tells of this process, in KiB.
fn rss() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn run(sets: usize, flags: usize) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    fill(path, sets, flags);
    let file = std::fs::metadata(path.join("pilotlight.redb")).unwrap();
    let blocks = std::os::unix::fs::MetadataExt::blocks(&file) * 512;
    println!("file: {} MiB, {} MiB on disk", file.len() >> 20, blocks >> 20);

    for _ in 0..ROUNDS {
        println!("start after a clean end:  {}", first_line(child("start", path, sets, flags)));
    }
    for _ in 0..ROUNDS {
        let mut changing = child("change", path, sets, flags);
        let mut lines = BufReader::new(changing.stdout.take().unwrap()).lines();
        let changes = 20 + fastrand::usize(..20);
        for _ in 0..changes {
            lines.next().unwrap().unwrap();
        }
        changing.kill().unwrap();
        changing.wait().unwrap();
        println!("start after kill -9:      {}", first_line(child("start", path, sets, flags)));
    }
    println!("idle with an open store:  {}", first_line(child("idle", path, sets, flags)));
}

/// Leaves a store behind, for a look at `start` alone.
fn fill(path: &Path, sets: usize, flags: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(write_figures(path, sets, flags));
}

async fn write_figures(path: &Path, sets: usize, flags: usize) {
    let opened = LocalStore::open(path, ring()).unwrap();
    let store = opened.store;
    let local = LocalFlags::new(store.clone());
    let mut all: Vec<_> = (0..sets).map(|set| data(set, flags, 1)).collect();

    let begun = Instant::now();
    for (set, data) in all.iter().enumerate() {
        local.replaced(&id(set), data.clone());
    }
    assert!(store.flush(LONG).await);
    println!("first put of all sets: {:?}", begun.elapsed());

    let begun = Instant::now();
    for (set, data) in all.iter().enumerate() {
        local.replaced(&id(set), data.clone());
    }
    assert!(store.flush(LONG).await);
    println!("unchanged put of all sets: {:?}", begun.elapsed());

    let mut times = Times::default();
    for round in 0..40 {
        let set = round % sets;
        times.add(&store, || local.replaced(&id(set), all[set].clone())).await;
    }
    println!("unchanged put of one set: {times}");

    let mut times = Times::default();
    for round in 0..200 {
        let (set, number) = (fastrand::usize(..sets), fastrand::usize(..flags));
        let key = ItemKey::new(ItemKind::Flag, format!("flag-number-{number}"));
        let data = Arc::make_mut(&mut all[set]);
        assert!(data.upsert(&key, flag(set, number, 2 + round).into()));
        let data = all[set].clone();
        times.add(&store, || local.changed(&id(set), data, &[key])).await;
    }
    println!("one changed flag: {times}");

    let mut times = Times::default();
    for round in 0..20 {
        let set = round % sets;
        let data = data(set, flags, 1_000 + round as u64);
        times.add(&store, || local.replaced(&id(set), data)).await;
    }
    println!("put of one set, all of it changed: {times}");
    let begun = Instant::now();
    assert!(store.close(LONG).await);
    println!("close: {:?}", begun.elapsed());
}

/// Times from telling the store to everything being durable.
#[derive(Default)]
struct Times(Vec<Duration>);

impl Times {
    async fn add(&mut self, store: &LocalStore, tell: impl FnOnce()) {
        let begun = Instant::now();
        tell();
        assert!(store.flush(LONG).await);
        self.0.push(begun.elapsed());
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut sorted = self.0.clone();
        sorted.sort();
        let (middle, last) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
        write!(f, "p50 {middle:.2?}, max {last:.2?}")
    }
}

fn child(role: &str, path: &Path, sets: usize, flags: usize) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args([role, &sets.to_string(), &flags.to_string()])
        .arg(path)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

fn first_line(mut child: Child) -> String {
    let line = BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    child.wait().unwrap();
    line
}

fn start(path: &Path, sets: usize) {
    let begun = Instant::now();
    let opened = LocalStore::open(path, ring()).unwrap();
    let open = begun.elapsed();
    assert_eq!(opened.set_aside, None);
    let local = LocalFlags::new(opened.store);
    let next = AtomicUsize::new(0);
    let before = rss();
    let read_some = || {
        let mut read = Vec::new();
        loop {
            let set = next.fetch_add(1, Ordering::Relaxed);
            if set >= sets {
                return read;
            }
            let outcome = local.read_set(&id(set)).unwrap();
            let ReadOutcome::Complete(stored) = outcome else { panic!("set {set}: {outcome:?}") };
            read.push(stored.data);
        }
    };
    let all: Vec<Vec<DataSet>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(read_some)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let total = begun.elapsed();
    let items: usize = all.iter().flatten().map(DataSet::len).sum();
    let after = rss();
    println!(
        "open {open:.2?}, open and read of {items} flags {total:.2?}, \
         RSS {} MiB, {} MiB after it",
        before >> 10,
        after >> 10
    );
}

fn idle(path: &Path) {
    let opened = LocalStore::open(path, ring()).unwrap();
    println!("RSS {} KiB ({} sets)", rss(), opened.store.stored_sets().unwrap().len());
}

fn change_for_ever(path: &Path, sets: usize, flags: usize) {
    let opened = LocalStore::open(path, ring()).unwrap();
    let local = LocalFlags::new(opened.store.clone());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let set = fastrand::usize(..sets);
    let ReadOutcome::Complete(stored) = local.read_set(&id(set)).unwrap() else { panic!("no set") };
    let mut data = Arc::new(stored.data);
    for version in 1_000_000.. {
        let number = fastrand::usize(..flags);
        let key = ItemKey::new(ItemKind::Flag, format!("flag-number-{number}"));
        Arc::make_mut(&mut data).upsert(&key, flag(set, number, version).into());
        local.changed(&id(set), data.clone(), &[key]);
        runtime.block_on(opened.store.flush(LONG));
        println!("{version}");
    }
}
