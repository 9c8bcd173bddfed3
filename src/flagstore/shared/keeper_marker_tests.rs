//! Tests of what a keeper writes into the marker, and what it reads from it.

use std::time::SystemTime;

use super::*;
use crate::flagstore::inventory::{Counts, Inventory};
use crate::flagstore::marker::{Note, Unsettled};
use crate::flagstore::shared::visits::marking::CONFIRMATION_AGE;
use crate::replica::SECOND_LOOK;

fn identity(environment: &str) -> Option<Identity> {
    Some(Identity { environment: environment.into(), filter: "".into() })
}

impl Bench {
    async fn of(environment: &str, stored: &str, fills: bool) -> Self {
        Self::start_for(identity(environment), stored, Some(CHECK), fills).await
    }

    fn note(&self) -> Option<Note> {
        Marker::read(self.store.content().marker.clone()?, 0).note
    }

    /// Flags and environment of the marker, as `2 e`, or why it vouches for nothing.
    fn noted(&self) -> String {
        let marker = self.store.content().marker.clone();
        if let Some(why) = marker.and_then(|marker| Marker::read(marker, 0).unsettled) {
            return format!("{why:?}");
        }
        let Some(note) = self.note() else { return "none".to_owned() };
        let identity = note.identity.map(|identity| identity.environment.to_string());
        format!("{} {}", note.inventory.counts.flags, identity.unwrap_or_default())
    }

    fn mark_for(&self, environment: &str, flags: u64) {
        let inventory = Inventory { counts: Counts { segments: 0, flags }, names: None };
        let note = Note { inventory, identity: identity(environment), ..Note::default() };
        self.store.content().marker = Some(note.value(None));
    }
}

#[tokio::test(start_paused = true)]
async fn the_marker_tells_how_many_rows_there_are() {
    for fills in [true, false] {
        let mut bench = Bench::of("e", "", fills).await;
        bench.put("");
        bench.expect("!").await;
        assert_eq!(bench.noted(), "0 e");
        bench.change("a1", "a");
        bench.expect("a1 !").await;
        bench.settle().await;
        assert_eq!(bench.noted(), "1 e");
        bench.change("a1 b1", "b");
        bench.expect("a1 b1 !").await;
        bench.settle().await;
        assert_eq!(bench.noted(), "2 e", "each new item is counted at once");
        bench.put("a1 b1 c-4");
        bench.expect("a1 b1 c-4 !").await;
        bench.settle().await;
        assert_eq!(bench.noted(), "3 e", "tombstones too");
        let token = Marker::read(bench.store.content().marker.clone().unwrap(), 0).token;
        // It never counts more rows than there are, also while an item is removed.
        bench.put("a1");
        bench.pass(Duration::from_secs(1)).await;
        assert_eq!((bench.noted(), bench.store.shown()), ("3 e".into(), "a1 b1 c-4 !".into()));
        bench.pass(SECOND_LOOK).await;
        bench.store.content().calls.clear();
        bench.flags.heard(Instant::now());
        // The tombstone contradicts nothing.
        bench.expect("a1 c-4 !").await;
        bench.settle().await;
        assert_eq!((bench.noted(), bench.calls()), ("2 e".into(), "rmc".into()));
        let marker = Marker::read(bench.store.content().marker.clone().unwrap(), 0);
        assert_eq!(marker.token, token, "for peers it is the same set");
    }
}

#[tokio::test(start_paused = true)]
async fn a_marker_of_another_program_gets_a_note() {
    let mut bench = Bench::of("e", "! a1 b1", true).await;
    bench.put("a1 b1");
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.noted(), "2 e");
    assert_eq!(bench.status().last_repopulation, None);
    // A relay that is not live leaves it as it is.
    let mut bench = Bench::of("e", "! a1 b1", true).await;
    bench.flags.served(data("a1 b1"), false);
    bench.pass(3 * REREAD).await;
    assert_eq!(bench.noted(), "none");
}

#[tokio::test(start_paused = true)]
async fn an_item_that_the_database_does_not_take_is_not_counted() {
    for fills in [true, false] {
        let mut bench = Bench::of("e", "", fills).await;
        let mut large = (*data("a1 b1")).clone();
        let json = format!(r#"{{"version":2,"x":"{}"}}"#, "x".repeat(BYTES_MAX));
        large.upsert(&flag("a"), Arc::new(Item::live(2, json)));
        bench.flags.put(Arc::new(large), Instant::now());
        bench.expect("b1 !").await;
        bench.pass(Duration::from_secs(1)).await;
        assert!(bench.note().unwrap().inventory.counts.flags <= 1, "{fills}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_age_is_confirmed_now_and_then() {
    let mut bench = Bench::of("e", "", true).await;
    bench.put("a1");
    bench.expect("a1 !").await;
    bench.store.content().calls.clear();
    bench.pass(3 * CHECK).await;
    assert!(!bench.store.content().calls.contains('m'), "it is young");
    let old = SystemTime::now() - 2 * CONFIRMATION_AGE;
    let note = Note { confirmed_at: Some(old), ..bench.note().unwrap() };
    let found = Marker::read(bench.store.content().marker.clone().unwrap(), 0);
    bench.store.content().marker = Some(note.value(Some(&found)));
    bench.pass(CHECK).await;
    assert!(bench.note().unwrap().confirmed_at.unwrap() > old);
    assert_eq!(bench.store.content().calls.matches('m').count(), 1);
    assert_eq!(bench.store.content().calls.matches('r').count(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_set_of_another_environment_is_replaced_by_a_live_relay_only() {
    let mut bench = Bench::of("ours", "! a9 z1", true).await;
    bench.mark_for("theirs", 2);
    bench.flags.served(data("a1 b1"), false);
    bench.pass(3 * REREAD).await;
    assert_eq!((bench.store.shown(), bench.noted()), ("a9 z1 !".into(), "2 theirs".into()));
    assert!(bench.status().problem.unwrap().contains("another environment"));
    bench.put("a1 b1");
    bench.pass(SECOND_LOOK).await;
    assert_eq!(bench.noted(), "Mixed", "b stands beside rows of theirs");
    bench.flags.heard(Instant::now());
    bench.expect("a1 b1 !").await;
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!((bench.noted(), bench.status().problem), ("2 ours".into(), None));
}

#[tokio::test(start_paused = true)]
async fn a_new_item_is_not_written_under_another_environments_name() {
    for fills in [true, false] {
        let mut bench = Bench::of("ours", "", fills).await;
        bench.put("a1 b1");
        bench.expect("a1 b1 !").await;
        bench.settle().await;
        // The store is handed over between two looks.
        bench.store.content().calls.clear();
        bench.mark_for("theirs", 2);
        bench.change("a1 b1 c1", "c");
        bench.expect("a1 b1 c1 !").await;
        bench.settle().await;
        let calls = bench.store.content().calls.clone();
        assert!(calls.starts_with("mrm"), "it reads before it writes: {calls}");
        assert_eq!(bench.noted(), "3 ours");
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_in_doubt_is_signed_as_this_environments() {
    // A foreign set, while the stream is silent: neither time nor changes make it ours.
    let mut bench = Bench::of("ours", "! a9 z1", true).await;
    bench.mark_for("theirs", 2);
    let old = SystemTime::now() - 2 * CONFIRMATION_AGE;
    let note = Note { confirmed_at: Some(old), ..bench.note().unwrap() };
    let found = Marker::read(bench.store.content().marker.clone().unwrap(), 0);
    bench.store.content().marker = Some(note.value(Some(&found)));
    bench.put("a1");
    bench.pass(3 * CHECK).await;
    assert_eq!(bench.noted(), "2 theirs", "nothing was written yet");
    bench.change("a1 b1", "b");
    bench.pass(3 * CHECK).await;
    assert_eq!(bench.noted(), "Mixed");
    bench.change("a1 b1 c1", "c");
    bench.pass(3 * CHECK).await;
    assert_eq!(bench.noted(), "Mixed");
    let status = bench.status();
    assert!(status.in_doubt && status.last_write.is_none(), "{status:?}");
    bench.flags.heard(Instant::now());
    bench.expect("a1 b1 c1 !").await;
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.noted(), "3 ours");
    let status = bench.status();
    assert!(!status.in_doubt && status.last_write.is_some(), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn rows_of_unknown_origin_get_a_note_when_they_are_what_launchdarkly_says() {
    let mut bench = Bench::of("ours", "! a9 z1", true).await;
    bench.put("a1 b1");
    bench.pass(2 * SECOND_LOOK).await;
    assert_eq!(bench.noted(), "none");
    assert!(bench.status().in_doubt, "a9 stands in place of a1");
    bench.flags.heard(Instant::now());
    bench.expect("a1 b1 !").await;
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.noted(), "2 ours");
    assert!(!bench.status().in_doubt);
    // SDKs get a marker that vouches for nothing meanwhile.
    let mut bench = Bench::of("ours", "a9 b1", true).await;
    bench.put("a1 b1");
    bench.expect("a9 b1 !").await;
    assert_eq!(bench.noted(), "Unconfirmed");
    assert!(bench.status().in_doubt, "a9 stands in place of a1");
    bench.pass(SECOND_LOOK).await;
    bench.flags.heard(Instant::now());
    bench.expect("a1 b1 !").await;
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.noted(), "2 ours");
    // A row too many is no contradiction: clients of this store see everything that they should.
    let mut bench = Bench::of("ours", "! a1 z1", true).await;
    bench.put("a1");
    bench.pass(2 * SECOND_LOOK).await;
    assert!(!bench.status().in_doubt);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_lacks_items_fills_no_empty_store() {
    let mut bench = Bench::of("ours", "", true).await;
    bench.flags.served(data("a1"), true);
    bench.pass(3 * REREAD).await;
    assert_eq!(bench.store.shown(), "");
    bench.flags.served(data("a1 b1"), false);
    bench.pass(3 * REREAD).await;
    assert_eq!((bench.store.shown(), bench.noted()), ("a1 b1 !".into(), "2 ours".into()));
    // A data set from LaunchDarkly is whole, whatever was missing before.
    let mut bench = Bench::of("ours", "", true).await;
    bench.flags.served(data("a1"), true);
    bench.put("a1 b1");
    bench.expect("a1 b1 !").await;
}

/// No row of another environment's set changes while its marker stands.
#[tokio::test(start_paused = true)]
async fn a_set_is_taken_over_before_the_first_of_its_rows_changes() {
    let check = async |change: fn(&Bench)| {
        for (environment, mixed) in [("ours", "Mixed"), ("", "Mixed")] {
            let identity = identity(environment).filter(|_| !environment.is_empty());
            let mut bench = Bench::start_for(identity, "! a9 z1", Some(CHECK), true).await;
            bench.mark_for("theirs", 2);
            bench.put("a1");
            bench.pass(Duration::from_secs(1)).await;
            assert_eq!(bench.noted(), "2 theirs", "no row was touched");
            for call in ['u', 'c'] {
                bench.store.content().meanwhile = Some((call, |content| {
                    let marker = Marker::read(content.marker.clone().unwrap(), 0);
                    assert_eq!(marker.unsettled, Some(Unsettled::Mixed));
                }));
                if call == 'u' {
                    change(&bench);
                } else {
                    bench.pass(SECOND_LOOK).await;
                    bench.flags.heard(Instant::now());
                }
                let time = if call == 'u' { Duration::from_secs(1) } else { 2 * SECOND_LOOK };
                bench.pass(time).await;
                let expected =
                    if call == 'u' { mixed.to_owned() } else { format!("2 {environment}") };
                assert_eq!(bench.noted(), expected);
                assert!(bench.store.content().meanwhile.is_none(), "{call} was called");
            }
            assert_eq!(bench.store.shown(), "a1 b1 !");
            let status = bench.status();
            assert_eq!((status.in_doubt, status.state), (false, SharedState::Valid));
        }
    };
    check(|bench| bench.put("a1 b1")).await;
    check(|bench| bench.change("a1 b1", "b")).await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_does_not_know_its_environment_signs_for_none() {
    // Nothing is to be written: the set is the same, whichever environment it belongs to.
    let mut bench = Bench::start("! a1 b1").await;
    bench.mark_for("theirs", 2);
    bench.put("a1 b1");
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.noted(), "2 ");
    // It confirms nothing under another name.
    let old = SystemTime::now() - 2 * CONFIRMATION_AGE;
    let note =
        Note { confirmed_at: Some(old), identity: identity("theirs"), ..bench.note().unwrap() };
    let found = Marker::read(bench.store.content().marker.clone().unwrap(), 0);
    bench.store.content().marker = Some(note.value(Some(&found)));
    bench.pass(2 * CHECK).await;
    assert!(bench.note().unwrap().confirmed_at.unwrap().elapsed().unwrap() >= 2 * CONFIRMATION_AGE);
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_lags_does_not_lower_the_count() {
    let mut bench = Bench::of("e", "! a1 b1 n1", true).await;
    bench.mark_for("e", 3);
    bench.put("a1 b1");
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.noted(), "3 e", "n stands in the store");
    bench.change("a1 b1 c1", "c");
    bench.pass(Duration::from_secs(1)).await;
    assert!(bench.note().unwrap().inventory.counts.flags >= 3);
    // A row was lost that only a peer knows, while another one is in doubt.
    bench.mark_for("e", 9);
    bench.put("a1 b1 c1");
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.noted(), "9 e");
    // It receives n: nothing is in doubt any more.
    bench.change("a1 b1 c1 n1", "n");
    bench.pass(3 * SECOND_LOOK).await;
    bench.flags.heard(Instant::now());
    bench.pass(2 * SECOND_LOOK).await;
    assert_eq!((bench.noted(), bench.store.shown()), ("4 e".into(), "a1 b1 c1 n1 !".into()));
    // The count is raised also when a peer has renewed the marker meanwhile.
    bench.store.content().meanwhile = Some(('u', |content| {
        let found = Marker::read(content.marker.clone().unwrap(), 0);
        let note = Note { confirmed_at: None, ..found.note.clone().unwrap() };
        content.marker = Some(note.value(Some(&found)));
    }));
    bench.change("a1 b1 c1 d1 n1", "d");
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!(bench.noted(), "5 e");
}
