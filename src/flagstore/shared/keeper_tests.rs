#[path = "keeper_cost_tests.rs"]
mod cost;
#[path = "keeper_marker_tests.rs"]
mod markers;
#[path = "keeper_race_tests.rs"]
mod races;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, advance};
use tokio_util::sync::CancellationToken;

use super::super::memory::{BYTES_MAX, MemoryFlags};
use super::super::orders::{SharedFlags, channel};
use super::super::report::{SharedReport, SharedState};
use super::super::{SharedStatus, StoreFacts};
use super::*;
use crate::flagstore::layout;
use crate::flagstore::marker::{Identity, Marker};
use crate::model::{DataSet, Item, ItemKey, ItemKind};
use crate::replica::task::CopyTask;
use crate::replica::{Moment, Reason, Replica, Timing};
use crate::tasks::TaskGroup;

const CHECK: Duration = Duration::from_secs(30);
const REREAD: Duration = Duration::from_secs(15);

/// A keeper over a store in memory, on paused time.
struct Bench {
    store: MemoryFlags,
    flags: SharedFlags,
    reads: mpsc::Receiver<SharedRead>,
    health: watch::Sender<Health>,
    tasks: TaskGroup,
}

fn flag(key: &str) -> ItemKey {
    ItemKey::new(ItemKind::Flag, key)
}

/// `a3 b-4`: flag `a` at version 3 and the tombstone of `b` at version 4.
fn data(text: &str) -> Arc<DataSet> {
    let mut data = DataSet::default();
    for word in text.split_whitespace() {
        let (key, version) = word.split_at(1);
        let item = match version.strip_prefix('-') {
            Some(version) => Item::tombstone(version.parse().unwrap()),
            None => Item::live(version.parse().unwrap(), format!(r#"{{"version":{version}}}"#)),
        };
        data.upsert(&flag(key), Arc::new(item));
    }
    Arc::new(data)
}

impl Bench {
    /// A keeper of a store that holds this, `!` for the marker.
    async fn start(stored: &str) -> Self {
        Self::start_with(stored, Some(CHECK), true).await
    }

    async fn start_with(stored: &str, check: Option<Duration>, fills: bool) -> Self {
        Self::start_for(None, stored, check, fills).await
    }

    async fn start_for(
        identity: Option<Identity>,
        stored: &str,
        check: Option<Duration>,
        fills: bool,
    ) -> Self {
        let store = MemoryFlags::default();
        {
            let mut content = store.content();
            content.fills = fills;
            for word in stored.split_whitespace() {
                match (word, word.strip_suffix('?')) {
                    ("!", _) => content.marker = Some("foreign".into()),
                    (_, Some(key)) => {
                        content.rows.insert(flag(key), "?".into());
                    }
                    (word, None) => {
                        for (kind, key, item) in data(word).iter() {
                            let key = ItemKey { kind, key: key.clone() };
                            let json = layout::row(&key, item).json;
                            content.rows.insert(key, json);
                        }
                    }
                }
            }
        }
        let health = watch::Sender::new(Health::connected_at(Instant::now()));
        let report = SharedReport::new(StoreFacts::default(), health.subscribe());
        let (flags, orders) = channel(report);
        let (sender, reads) = mpsc::channel(1);
        let timing = Timing { check, reread: REREAD };
        let keeper = Keeper {
            backend: store.clone(),
            orders: orders.clone(),
            reads: sender,
            health: health.subscribe(),
        };
        let task = CopyTask::new(keeper);
        let replica = Replica::new(FlagVisits::new(identity, orders), timing, &Moment::present());
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("keeper", |cancel| task.run(replica, cancel));
        let mut bench = Self { store, flags, reads, health, tasks };
        bench.settle().await;
        bench
    }

    /// Lets the keeper do what is due, and drops its readings.
    async fn settle(&mut self) {
        for _ in 0..50 {
            tokio::task::yield_now().await;
            while self.reads.try_recv().is_ok() {}
        }
    }

    /// Lets time pass in small steps.
    async fn pass(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            advance(Duration::from_millis(100)).await;
            self.settle().await;
        }
    }

    async fn expect(&mut self, stored: &str) {
        for _ in 0..600 {
            if self.store.shown() == stored {
                return;
            }
            advance(Duration::from_millis(100)).await;
            self.settle().await;
        }
        assert_eq!(self.store.shown(), stored);
    }

    fn put(&self, text: &str) {
        self.flags.put(data(text), Instant::now());
    }

    /// Passes an accepted change of an item.
    fn change(&self, all: &str, changed: &str) {
        self.flags.changed(data(all), [flag(changed)]);
    }

    fn status(&self) -> SharedStatus {
        self.flags.report().get()
    }

    fn reconnect(&self) {
        self.health.send_modify(|health| health.connected_epoch += 1);
    }

    fn away(&self, away: bool) {
        self.store.content().away = away;
        if !away {
            self.reconnect();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_is_filled_and_an_old_one_brought_up_to_date() {
    for fills in [true, false] {
        let mut bench = Bench::start_with("", Some(CHECK), fills).await;
        bench.put("a1 b-2");
        bench.expect("a1 b-2 !").await;
        assert_eq!(bench.status().last_repopulation, None, "it lost nothing");
        let mut bench = Bench::start_with("a1 b2 c3 d?", Some(CHECK), fills).await;
        bench.put("a1 b3 c3 d1 e-1");
        bench.expect("a1 b3 c3 d1 e-1 !").await;
        assert_eq!(bench.status().state, SharedState::Valid);
    }
}

#[tokio::test(start_paused = true)]
async fn changes_are_written_at_once_and_coalesced() {
    let mut bench = Bench::start("").await;
    bench.put("a1 b1");
    bench.expect("a1 b1 !").await;
    bench.change("a2 b1", "a");
    bench.expect("a2 b1 !").await;
    bench.away(true);
    for version in 3..9 {
        bench.change(&format!("a{version} b1"), "a");
        bench.settle().await;
    }
    bench.change("a8 b-5", "b");
    bench.settle().await;
    let status = bench.status();
    assert_eq!((status.dirty, status.state), (2, SharedState::Interrupted));
    assert!(status.error.unwrap().contains("away"));
    bench.away(false);
    bench.expect("a8 b-5 !").await;
    let status = bench.status();
    assert_eq!((status.dirty, status.state, status.error), (0, SharedState::Valid, None));
}

#[tokio::test(start_paused = true)]
async fn a_loss_is_noticed_by_each_of_its_signs() {
    // Name of a loss, what happens to the store, and the reason by which it is noticed.
    type Happens = fn(&Bench);
    let wipe = |bench: &Bench| {
        let mut content = bench.store.content();
        content.rows.clear();
        content.marker = None;
    };
    let cases: [(&str, Happens, Reason); 6] = [
        ("wiped", wipe, Reason::MarkerMissing),
        (
            "wiped, and a new connection",
            |bench| {
                bench.store.content().rows.clear();
                bench.store.content().marker = None;
                bench.reconnect();
            },
            Reason::Reconnected,
        ),
        (
            "marker gone, one item gone",
            |bench| {
                bench.store.content().rows.remove(&flag("a"));
                bench.store.content().marker = None;
            },
            Reason::MarkerMissing,
        ),
        (
            "somebody older filled it",
            |bench| {
                bench.store.content().rows.remove(&flag("a"));
                bench.store.content().marker = Some("another".into());
            },
            Reason::MarkerChanged,
        ),
        (
            "item gone",
            |bench| {
                bench.store.content().rows.remove(&flag("a"));
            },
            Reason::ItemsMissing,
        ),
        (
            "another server with older data",
            |bench| {
                let row = layout::row(&flag("a"), &Item::live(1, r#"{"version":1}"#));
                bench.store.content().rows.insert(flag("a"), row.json);
                bench.store.content().server = 7;
            },
            Reason::ServerChanged,
        ),
    ];
    for (name, happens, reason) in cases {
        let mut bench = Bench::start("").await;
        bench.put("a3 b1");
        bench.expect("a3 b1 !").await;
        bench.pass(CHECK).await;
        happens(&bench);
        bench.expect("a3 b1 !").await;
        bench.settle().await;
        let last = bench.status().last_repopulation.unwrap_or_else(|| panic!("{name}"));
        assert_eq!(last.reason, reason, "{name}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_change_of_versions_is_found_by_the_slow_comparison() {
    let mut bench = Bench::start("").await;
    bench.put("a3 b1");
    bench.expect("a3 b1 !").await;
    bench.pass(CHECK).await;
    let row = layout::row(&flag("a"), &Item::live(1, r#"{"version":1}"#));
    bench.store.content().rows.insert(flag("a"), row.json);
    bench.pass(3 * CHECK).await;
    assert_eq!(bench.store.shown(), "a1 b1 !");
    bench.pass(20 * CHECK).await;
    assert_eq!(bench.store.shown(), "a3 b1 !");
    assert_eq!(bench.status().last_repopulation.unwrap().reason, Reason::Periodic);
}

#[tokio::test(start_paused = true)]
async fn without_a_check_nobody_looks_and_other_signs_stay() {
    let mut bench = Bench::start_with("", None, true).await;
    bench.put("a3 b1");
    bench.expect("a3 b1 !").await;
    bench.store.content().rows.clear();
    bench.store.content().marker = None;
    let calls = bench.store.content().calls.clone();
    bench.pass(Duration::from_secs(3_600)).await;
    assert_eq!(bench.store.content().calls, calls);
    bench.change("a4 b1", "a");
    bench.expect("a4 b1 !").await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_not_live_only_fills_what_is_empty() {
    let mut bench = Bench::start("! a1 b5").await;
    bench.flags.served(data("a3 b1"), false);
    bench.pass(3 * REREAD).await;
    assert_eq!(bench.store.shown(), "a1 b5 !");
    let found = bench.status().unrepaired;
    assert_eq!((found.outdated_items, found.newer_items, found.no_valid_marker), (1, 1, false));
    bench.store.content().marker = None;
    bench.pass(3 * REREAD).await;
    assert_eq!(bench.store.shown(), "a1 b5");
    assert!(bench.status().unrepaired.no_valid_marker);
    bench.store.content().rows.clear();
    bench.expect("a3 b1 !").await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_when_launchdarkly_goes_is_reported_and_written_by_a_live_relay() {
    let mut bench = Bench::start("").await;
    bench.put("a1 b1");
    bench.expect("a1 b1 !").await;
    bench.away(true);
    bench.change("a2 b1", "a");
    bench.settle().await;
    bench.flags.not_live();
    bench.settle().await;
    bench.away(false);
    bench.pass(2 * REREAD).await;
    // A peer may have written something newer since, so nothing is written without LaunchDarkly.
    assert_eq!(bench.store.shown(), "a1 b1 !");
    let status = bench.status();
    assert_eq!((status.dirty, status.write_pending), (1, true));
    assert_eq!((status.state, status.unrepaired.outdated_items), (SharedState::Interrupted, 1));
    bench.put("a2 b1");
    bench.expect("a2 b1 !").await;
    bench.pass(Duration::from_secs(1)).await;
    let status = bench.status();
    assert_eq!((status.dirty, status.write_pending), (0, false));
    assert_eq!((status.state, status.error), (SharedState::Valid, None));
}

#[tokio::test(start_paused = true)]
async fn a_put_is_pending_until_it_was_compared() {
    let mut bench = Bench::start("! a1").await;
    assert_eq!(bench.status().last_write, None, "nothing was said yet");
    bench.flags.served(data("a1"), false);
    bench.settle().await;
    assert!(!bench.status().write_pending);
    bench.away(true);
    bench.put("a1");
    bench.settle().await;
    let status = bench.status();
    assert_eq!((status.dirty, status.write_pending, status.last_write), (0, true, None));
    bench.away(false);
    bench.pass(Duration::from_secs(1)).await;
    let status = bench.status();
    assert!(!status.write_pending && status.last_write.is_some());
}

#[tokio::test(start_paused = true)]
async fn what_launchdarkly_does_not_have_goes_after_a_second_look() {
    let mut bench = Bench::start("! a9 z1").await;
    bench.put("a1 b1");
    bench.expect("a9 b1 z1 !").await;
    bench.pass(Duration::from_millis(4_000)).await;
    assert_eq!(bench.store.shown(), "a9 b1 z1 !");
    // Without a sign of life the stream may be stuck, and the stored item may be right.
    bench.pass(Duration::from_millis(60_000)).await;
    assert_eq!(bench.store.shown(), "a9 b1 z1 !");
    bench.flags.heard(Instant::now());
    bench.expect("a1 b1 !").await;
    assert!(!bench.store.content().calls.is_empty());
}

#[tokio::test(start_paused = true)]
async fn readings_are_told_while_upstream_is_not_live() {
    let check = async |stored: &str, expected: &str| {
        let mut bench = Bench::start(stored).await;
        // The first reading was dropped; the next one comes by itself.
        let read = loop {
            advance(Duration::from_millis(500)).await;
            tokio::task::yield_now().await;
            if let Ok(read) = bench.reads.try_recv() {
                break read;
            }
        };
        let shown = match &read {
            SharedRead::Complete(set) => format!("complete {}", set.data.len()),
            SharedRead::Absent => "absent".to_owned(),
            SharedRead::Incomplete { data, .. } => format!("incomplete {}", data.len()),
            SharedRead::Foreign { .. } | SharedRead::Failed(_) => panic!("{read:?}"),
        };
        assert_eq!(shown, expected, "{stored}");
    };
    check("", "absent").await;
    check("!", "incomplete 0").await;
    check("! a1 b-2", "complete 2").await;
    check("a1 b-2", "incomplete 0").await;
    check("! a1 b?", "complete 1").await;
    let mut bench = Bench::start("").await;
    bench.away(true);
    advance(REREAD).await;
    assert!(matches!(bench.reads.recv().await, Some(SharedRead::Failed(_))));
}

#[tokio::test(start_paused = true)]
async fn an_item_that_is_too_large_is_named_and_stops_nobody() {
    let mut bench = Bench::start("").await;
    bench.put("a1 b1");
    bench.expect("a1 b1 !").await;
    let mut large = (*data("a1 b2")).clone();
    let json = format!(r#"{{"version":2,"x":"{}"}}"#, "x".repeat(BYTES_MAX));
    large.upsert(&flag("a"), Arc::new(Item::live(2, json)));
    bench.flags.changed(Arc::new(large.clone()), [flag("a")]);
    bench.flags.changed(Arc::new(large), [flag("b")]);
    bench.expect("a1 b2 !").await;
    let status = bench.status();
    assert_eq!((status.dirty, status.state), (0, SharedState::Valid));
    assert!(status.dropped[&flag("a")] > BYTES_MAX as u64);
    bench.change("a3 b2", "a");
    bench.expect("a3 b2 !").await;
    bench.settle().await;
    assert!(bench.status().dropped.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_last_changes_are_written_at_the_end() {
    let mut bench = Bench::start("").await;
    bench.put("a1");
    bench.expect("a1 !").await;
    bench.change("a2", "a");
    let Bench { store, tasks, .. } = bench;
    assert!(tasks.shutdown(Duration::from_secs(10)).await);
    assert_eq!(store.shown(), "a2 !");
    let mut bench = Bench::start("").await;
    bench.put("a1");
    bench.expect("a1 !").await;
    bench.change("a2", "a");
    bench.flags.forget();
    let Bench { store, tasks, .. } = bench;
    assert!(tasks.shutdown(Duration::from_secs(10)).await);
    assert_eq!(store.shown(), "a1 !", "the environment is gone");
}
