//! Tests of the number of a keeper's calls: what costs a full reading, and what does not.

use super::*;

impl Bench {
    /// Calls since the last time, by their initial letters.
    pub(super) fn calls(&self) -> String {
        std::mem::take(&mut self.store.content().calls)
    }

    fn full_reads(&self) -> usize {
        self.calls().matches('r').count()
    }

    fn hear(&self) {
        self.flags.heard(Instant::now());
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_costs_one_write() {
    let mut bench = Bench::start("").await;
    bench.put("a1 b1");
    bench.expect("a1 b1 !").await;
    bench.calls();
    bench.change("a2 b1", "a");
    bench.expect("a2 b1 !").await;
    assert_eq!(bench.calls(), "u");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_takes_no_writes_is_not_read_for_each_change() {
    let mut bench = Bench::start("").await;
    bench.put("a1 b1");
    bench.expect("a1 b1 !").await;
    bench.store.content().refuses_writes = true;
    bench.calls();
    for version in 2..62 {
        bench.change(&format!("a{version} b1"), "a");
        bench.pass(Duration::from_secs(1)).await;
    }
    let reads = bench.full_reads();
    assert!(reads <= 1, "{reads} full reads in a minute");
    let status = bench.status();
    assert_eq!((status.state, status.dirty), (SharedState::Interrupted, 1));
    bench.store.content().refuses_writes = false;
    bench.expect("a61 b1 !").await;
    bench.pass(Duration::from_secs(16)).await;
    let status = bench.status();
    assert_eq!((status.state, status.dirty), (SharedState::Valid, 0));
    // A put that cannot be written costs one reading as well.
    bench.store.content().refuses_writes = true;
    bench.put("a70 b1 c1");
    bench.settle().await;
    bench.calls();
    bench.pass(Duration::from_secs(60)).await;
    let reads = bench.full_reads();
    assert!(reads <= 1, "{reads} full reads in a minute");
    bench.store.content().refuses_writes = false;
    bench.expect("a70 b1 c1 !").await;
    bench.pass(Duration::from_secs(16)).await;
    assert_eq!(bench.status().state, SharedState::Valid);
}

#[tokio::test(start_paused = true)]
async fn an_item_that_launchdarkly_deleted_meanwhile_costs_two_reads() {
    let mut bench = Bench::start("! a1 z1").await;
    bench.put("a1");
    bench.settle().await;
    bench.calls();
    // LaunchDarkly sends a heartbeat every three minutes; until then a second check settles
    // nothing.
    bench.pass(Duration::from_secs(150)).await;
    assert_eq!(bench.full_reads(), 0);
    bench.hear();
    bench.expect("a1 !").await;
    bench.pass(Duration::from_secs(60)).await;
    assert_eq!(bench.full_reads(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_new_connection_to_the_same_server_costs_a_look() {
    let mut bench = Bench::start("").await;
    bench.put("a1 b1");
    bench.expect("a1 b1 !").await;
    bench.pass(CHECK).await;
    bench.calls();
    bench.reconnect();
    bench.settle().await;
    bench.change("a2 b1", "a");
    bench.expect("a2 b1 !").await;
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.calls(), "lu");
    // Another server may hold other data.
    bench.store.content().server = 9;
    bench.reconnect();
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.calls(), "lr");
}

#[tokio::test(start_paused = true)]
async fn only_what_was_lost_is_told_as_a_loss() {
    // A flag that is created during a look, and a tombstone that is missing.
    let mut bench = Bench::start("").await;
    bench.put("a1 b1");
    bench.expect("a1 b1 !").await;
    bench.store.content().meanwhile = Some(('l', |content| content.server = 3));
    bench.pass(CHECK - Duration::from_millis(100)).await;
    bench.change("a1 b1 c1", "c");
    bench.expect("a1 b1 c1 !").await;
    bench.pass(CHECK).await;
    bench.change("a1 b1 c-2", "c");
    bench.expect("a1 b1 c-2 !").await;
    bench.store.content().rows.remove(&flag("c"));
    bench.store.content().server = 4;
    bench.expect("a1 b1 c-2 !").await;
    // A row that a peer wrote and LaunchDarkly does not have.
    let row = layout::row(&flag("z"), &Item::live(1, r#"{"version":1}"#));
    bench.store.content().rows.insert(flag("z"), row.json);
    bench.store.content().server = 5;
    bench.pass(CHECK + REREAD).await;
    bench.hear();
    bench.expect("a1 b1 c-2 !").await;
    bench.settle().await;
    assert_eq!(bench.status().last_repopulation, None);
    // A row that is lost.
    bench.store.content().rows.remove(&flag("a"));
    bench.store.content().server = 6;
    bench.expect("a1 b1 c-2 !").await;
    bench.settle().await;
    assert_eq!(bench.status().last_repopulation.map(|last| last.items), Some(1));
}

#[tokio::test(start_paused = true)]
async fn items_that_were_too_large_are_forgotten_with_the_item() {
    let mut bench = Bench::start("").await;
    let mut large = (*data("a1 b1")).clone();
    let json = format!(r#"{{"version":2,"x":"{}"}}"#, "x".repeat(BYTES_MAX));
    large.upsert(&flag("a"), Arc::new(Item::live(2, json)));
    bench.flags.put(Arc::new(large), Instant::now());
    bench.expect("b1 !").await;
    bench.settle().await;
    assert!(bench.status().dropped.contains_key(&flag("a")));
    bench.put("b1");
    bench.pass(Duration::from_secs(1)).await;
    assert!(bench.status().dropped.is_empty());
}
