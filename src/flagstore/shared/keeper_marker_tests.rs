//! What a keeper writes into the marker, and what it takes from it.

use std::time::SystemTime;

use super::*;
use crate::flagstore::backend::Counts;
use crate::flagstore::marker::Note;
use crate::flagstore::shared::reconcile::SECOND_LOOK;

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

    /// Flags and environment of the marker, as `2 e`.
    fn noted(&self) -> String {
        let Some(note) = self.note() else { return "none".to_owned() };
        let identity = note.identity.map(|identity| identity.environment.to_string());
        format!("{} {}", note.counts.flags, identity.unwrap_or_default())
    }

    fn mark_for(&self, environment: &str, flags: u64) {
        let counts = Counts { segments: 0, flags };
        let note =
            Note { counts, identity: identity(environment), confirmed_at: None, is_blank: false };
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
        // It never tells more than there is, also while an item is removed.
        bench.put("a1");
        bench.pass(Duration::from_secs(1)).await;
        assert_eq!((bench.noted(), bench.store.shown()), ("1 e".into(), "a1 b1 c-4 !".into()));
        bench.pass(SECOND_LOOK).await;
        bench.flags.heard(Instant::now());
        bench.expect("a1 !").await;
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
        assert!(bench.note().unwrap().counts.flags <= 1, "{fills}");
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
    assert_eq!(bench.noted(), "2 theirs", "not before all of it is ours");
    bench.flags.heard(Instant::now());
    bench.expect("a1 b1 !").await;
    bench.pass(Duration::from_secs(1)).await;
    assert_eq!((bench.noted(), bench.status().problem), ("2 ours".into(), None));
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
    bench.put("a1 b1");
    bench.pass(3 * CHECK).await;
    assert_eq!(bench.noted(), "2 theirs");
    bench.change("a1 b1 c1", "c");
    bench.pass(3 * CHECK).await;
    assert_eq!(bench.noted(), "2 theirs");
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
    assert_eq!(bench.noted(), "none");
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
    // LaunchDarkly's word is whole, whatever was missing before.
    let mut bench = Bench::of("ours", "", true).await;
    bench.flags.served(data("a1"), true);
    bench.put("a1 b1");
    bench.expect("a1 b1 !").await;
}
