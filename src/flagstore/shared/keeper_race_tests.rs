//! Tests of what other writers do to a store between two calls of a keeper.

use super::super::super::memory::Content;
use super::*;
use crate::flagstore::inventory::Inventory;
use crate::flagstore::marker::{Marker, Note};
use crate::replica::SECOND_LOOK;

/// Removes everything.
fn wipe(content: &mut Content) {
    content.rows.clear();
    content.marker = None;
}

#[tokio::test(start_paused = true)]
async fn who_loses_the_race_to_fill_writes_what_the_winner_did_not_know() {
    // Without looks nothing else would show that the winner's data is older.
    for (fills, reads) in [(true, "rf"), (false, "rfl")] {
        let mut bench = Bench::start_with("", None, fills).await;
        bench.put("a3 b1");
        bench.expect("a3 b1 !").await;
        {
            let mut content = bench.store.content();
            wipe(&mut content);
            content.calls.clear();
            content.meanwhile = Some(('f', |content| {
                let row = layout::row(&flag("a"), &Item::live(2, r#"{"version":2}"#));
                content.rows.insert(flag("a"), row.json);
                content.marker = Some("another".into());
            }));
        }
        bench.change("a4 b1", "a");
        bench.expect("a4 b1 !").await;
        bench.pass(Duration::from_secs(3)).await;
        let calls = bench.store.content().calls.clone();
        assert_eq!(calls, format!("u{reads}rum"), "no more than that");
        assert_eq!(bench.status().dirty, 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_change_into_a_store_that_somebody_else_refilled_brings_back_everything() {
    let mut bench = Bench::start_with("", None, true).await;
    bench.put("a3 b1 c1");
    bench.expect("a3 b1 c1 !").await;
    {
        // An older set, whole.
        let mut content = bench.store.content();
        content.rows.remove(&flag("c"));
        content.marker = Some("another".into());
    }
    bench.change("a4 b1 c1", "a");
    bench.expect("a4 b1 c1 !").await;
    bench.settle().await;
    let last = bench.status().last_repopulation.unwrap();
    assert_eq!((last.reason, last.items), (Reason::MarkerChanged, 1));
}

#[tokio::test(start_paused = true)]
async fn what_was_lost_while_a_change_was_refused_is_found_without_a_look() {
    let mut bench = Bench::start_with("", None, true).await;
    bench.put("a3 b1");
    bench.expect("a3 b1 !").await;
    bench.store.content().away = true;
    bench.change("a4 b1", "a");
    bench.settle().await;
    {
        // The connection is the same all the time.
        let mut content = bench.store.content();
        content.rows.remove(&flag("b"));
        content.away = false;
    }
    bench.expect("a4 b1 !").await;
    bench.pass(Duration::from_secs(1)).await;
    let status = bench.status();
    assert_eq!((status.dirty, status.state), (0, SharedState::Valid));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_wiped_during_a_comparison_is_filled_whole() {
    let mut bench = Bench::start_with("", None, true).await;
    bench.put("a3 b1");
    bench.expect("a3 b1 !").await;
    {
        let mut content = bench.store.content();
        content.calls.clear();
        content.meanwhile = Some(('u', wipe));
    }
    bench.put("a4 b1");
    bench.expect("a4 b1 !").await;
    assert_eq!(bench.store.content().calls, "rurfl");
}

#[tokio::test(start_paused = true)]
async fn a_marker_is_not_left_on_a_store_that_is_wiped_when_it_is_set() {
    let mut bench = Bench::start_with("", None, true).await;
    bench.put("a3 b1");
    bench.expect("a3 b1 !").await;
    {
        let mut content = bench.store.content();
        content.marker = None;
        content.meanwhile = Some(('m', wipe));
    }
    bench.put("a3 b1");
    bench.expect("a3 b1 !").await;
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_not_live_writes_nothing_into_what_a_peer_filled() {
    for fills in [true, false] {
        let mut bench = Bench::start_with("", None, fills).await;
        bench.put("a1 b1");
        bench.expect("a1 b1 !").await;
        bench.away(true);
        bench.change("a2 b1", "a");
        bench.flags.not_live();
        bench.settle().await;
        {
            let mut content = bench.store.content();
            wipe(&mut content);
            content.meanwhile = Some((if fills { 'f' } else { 'l' }, |content| {
                for name in ["a", "b"] {
                    let row = layout::row(&flag(name), &Item::live(1, r#"{"version":1}"#));
                    content.rows.insert(flag(name), row.json);
                }
                content.marker = Some("another".into());
            }));
        }
        bench.away(false);
        bench.pass(3 * REREAD).await;
        assert_eq!(bench.store.shown(), "a1 b1 !");
        let status = bench.status();
        assert_eq!((status.dirty, status.state), (1, SharedState::Interrupted), "it is reported");
        // Into a store that holds nothing it writes everything, what waited included.
        wipe(&mut bench.store.content());
        bench.expect("a2 b1 !").await;
        bench.pass(Duration::from_secs(1)).await;
        let status = bench.status();
        assert_eq!((status.dirty, status.state), (0, SharedState::Valid));
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_empty_is_filled_whole_also_when_launchdarkly_goes_at_that_moment()
{
    // A database without transactions does not refuse single items when the marker is missing.
    for fills in [true, false] {
        let mut bench = Bench::start_with("", None, fills).await;
        bench.store.content().ignores_condition = true;
        bench.put("a1 b1 c1 d1");
        bench.expect("a1 b1 c1 d1 !").await;
        bench.away(true);
        bench.change("a2 b1 c1 d1", "a");
        bench.settle().await;
        wipe(&mut bench.store.content());
        bench.away(false);
        bench.settle().await;
        bench.flags.not_live();
        bench.settle().await;
        bench.expect("a2 b1 c1 d1 !").await;
        bench.pass(Duration::from_secs(1)).await;
        let status = bench.status();
        assert_eq!((status.dirty, status.state), (0, SharedState::Valid));
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_store_that_refused_writes_is_filled_also_without_launchdarkly() {
    // Without looks nothing else would lead to another attempt.
    for fills in [true, false] {
        let mut bench = Bench::start_with("", None, fills).await;
        bench.put("a1 b1");
        bench.expect("a1 b1 !").await;
        {
            let mut content = bench.store.content();
            wipe(&mut content);
            content.refuses_writes = true;
        }
        bench.change("a2 b1", "a");
        bench.settle().await;
        bench.flags.not_live();
        bench.pass(Duration::from_secs(120)).await;
        bench.store.content().refuses_writes = false;
        bench.expect("a2 b1 !").await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_comes_back_empty_is_not_called_healthy_for_single_items() {
    let mut bench = Bench::start_with("", None, false).await;
    bench.put("a1 b1");
    bench.expect("a1 b1 !").await;
    bench.away(true);
    bench.change("a2 b1", "a");
    bench.settle().await;
    {
        let mut content = bench.store.content();
        wipe(&mut content);
        content.calls.clear();
    }
    bench.away(false);
    bench.settle().await;
    bench.change("a2 b2", "b");
    bench.settle().await;
    let status = bench.status();
    assert!(status.in_doubt && status.state == SharedState::Interrupted, "{status:?}");
    bench.expect("a2 b2 !").await;
    bench.settle().await;
    assert!(bench.store.content().calls.starts_with('r'), "{}", bench.store.content().calls);
    let status = bench.status();
    assert!(!status.in_doubt && !status.write_pending && status.state == SharedState::Valid);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_others_write_all_the_time_keeps_no_other_back() {
    for fills in [true, false] {
        let mut bench = Bench::start_with("! a1 b1 x9", Some(CHECK), fills).await;
        bench.store.content().busy = Some(flag("a"));
        bench.put("a2 b2 c1 x1");
        bench.expect("a1 b2 c1 x9 !").await;
        bench.change("a2 b2 c1 d1 x1", "d");
        bench.expect("a1 b2 c1 d1 x9 !").await;
        bench.pass(SECOND_LOOK).await;
        bench.flags.heard(Instant::now());
        bench.expect("a1 b2 c1 d1 x1 !").await;
        bench.settle().await;
        let status = bench.status();
        assert_eq!((status.state, status.dirty), (SharedState::Interrupted, 1));
        assert!(status.error.unwrap().contains("1 items"));
        bench.store.content().calls.clear();
        bench.pass(Duration::from_secs(10)).await;
        assert!(bench.store.content().calls.len() < 60, "{}", bench.store.content().calls);
        bench.store.content().busy = None;
        bench.expect("a2 b2 c1 d1 x1 !").await;
        bench.pass(Duration::from_secs(1)).await;
        let status = bench.status();
        assert_eq!((status.state, status.dirty, status.error), (SharedState::Valid, 0, None));
    }
}

/// Changes the rows that the marker lists.
fn list(content: &mut Content, change: impl FnOnce(Inventory) -> Inventory) {
    let found = Marker::read(content.marker.clone().unwrap(), 0);
    let note = found.note.clone().unwrap();
    let note = Note { inventory: change(note.inventory), ..note };
    content.marker = Some(note.value(Some(&found)));
}

/// The rows that are there, if the marker lists just these.
fn listed(bench: &Bench) -> Option<String> {
    let content = bench.store.content().clone();
    let note = Marker::read(content.marker.unwrap(), 0).note.unwrap();
    (note.inventory == Inventory::of(content.rows.keys())).then(|| bench.store.shown())
}

#[tokio::test(start_paused = true)]
async fn new_items_of_two_relays_at_the_same_time_are_both_listed() {
    // A peer adds `e` at each moment: when it has listed it, and when it has written it too.
    let lists: fn(&mut Content) = |content| list(content, |rows| rows.plus(&flag("e")));
    let writes: fn(&mut Content) = |content| {
        list(content, |rows| rows.plus(&flag("e")));
        let row = layout::row(&flag("e"), &Item::live(1, r#"{"version":1}"#));
        content.rows.insert(flag("e"), row.json);
    };
    for (call, peer, all) in
        [('m', lists, "a1 b1 !"), ('m', writes, "a1 b1 e1 !"), ('u', writes, "a1 b1 e1 !")]
    {
        let mut bench = Bench::start_with("", None, true).await;
        bench.put("a1");
        bench.expect("a1 !").await;
        bench.store.content().meanwhile = Some((call, peer));
        bench.change("a1 b1", "b");
        bench.expect(all).await;
        bench.settle().await;
        assert_eq!(listed(&bench).as_deref(), Some(all), "{call}");
        // LaunchDarkly sends the peer's item to this relay as well.
        bench.change("a1 b1 e1", "e");
        bench.expect("a1 b1 e1 !").await;
        bench.settle().await;
        assert_eq!(listed(&bench).as_deref(), Some("a1 b1 e1 !"), "{call}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_lists_the_same_new_item_costs_no_comparison() {
    let mut bench = Bench::start_with("", None, true).await;
    bench.put("a1");
    bench.expect("a1 !").await;
    {
        let mut content = bench.store.content();
        content.calls.clear();
        content.meanwhile = Some(('m', |content| list(content, |rows| rows.plus(&flag("b")))));
    }
    bench.change("a1 b1", "b");
    bench.expect("a1 b1 !").await;
    bench.settle().await;
    assert_eq!(bench.store.content().calls, "mu");
}

#[tokio::test(start_paused = true)]
async fn an_item_that_a_peer_takes_off_the_list_before_it_is_written_is_listed_again() {
    let mut bench = Bench::start_with("", None, true).await;
    bench.put("a1");
    bench.expect("a1 !").await;
    bench.store.content().meanwhile =
        Some(('u', |content| list(content, |rows| rows.minus(&flag("b")))));
    bench.change("a1 b1", "b");
    bench.expect("a1 b1 !").await;
    bench.settle().await;
    assert_eq!(listed(&bench).as_deref(), Some("a1 b1 !"));
}

#[tokio::test(start_paused = true)]
async fn a_database_that_went_back_unnoticed_is_noticed_before_a_new_item_is_written() {
    // Neither looks nor a new connection show it, and rows are written whatever the marker.
    let mut bench = Bench::start_with("", None, false).await;
    bench.store.content().ignores_condition = true;
    bench.put("a1 b1 e1");
    bench.expect("a1 b1 e1 !").await;
    bench.change("a1 b1 e-2", "e");
    bench.expect("a1 b1 e-2 !").await;
    bench.settle().await;
    {
        // From before there was `b`, while `e` was about to be written.
        let mut content = bench.store.content();
        content.rows.remove(&flag("b"));
        content.rows.remove(&flag("e"));
        list(&mut content, |rows| rows.minus(&flag("b")));
    }
    bench.change("a1 b1 e3", "e");
    bench.expect("a1 b1 e3 !").await;
    bench.settle().await;
    assert_eq!(listed(&bench).as_deref(), Some("a1 b1 e3 !"));
}
