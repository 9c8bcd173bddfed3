use proptest::prelude::*;

use super::test_room::{Room, source_event};
use super::*;
use crate::environments::test_support::word;

/// Plays events in an environment with both stores: pairs of an event and what follows.
#[track_caller]
fn check(script: &[(&str, &str)]) {
    check_with(Trust::All, script);
}

#[track_caller]
fn check_with(trust: Trust, script: &[(&str, &str)]) {
    let mut room = Room::new(trust, true);
    for (number, (event, expected)) in script.iter().enumerate() {
        let played: Vec<_> = script[..=number].iter().map(|(event, _)| *event).collect();
        assert_eq!(room.play(event), *expected, "{played:?}");
    }
}

#[test]
fn what_launchdarkly_says_is_served_first_and_stored_after() {
    check(&[
        ("put 1: a1 b2", "live = a1 b2, shared =, loaded, VALID"),
        // The embedded store opens late: it gets what it missed.
        ("local: z9", "local ="),
        ("patch 1: a2", "live + a2, local + a, shared + a"),
        ("patch 1: a2", ""),
        ("patch 1: a1", ""),
        ("patch 1: b-3", "live + b-3, local + b, shared + b"),
        ("patch 1: a3 b-3 c1", "live + a3 c1, local + a c, shared + a c"),
        ("alive", ""),
        ("put 1: a3 c1", "live same, local =, shared ="),
        ("put 1: a3 c2", "live + c2, local =, shared ="),
        // Clients would not accept this as a change.
        ("put 1: a3", "live = a3, local =, shared ="),
        ("put 1: a2", "live = a2, local =, shared ="),
    ]);
}

#[test]
fn an_item_that_comes_back_at_a_lower_version_reaches_those_who_know_that_it_was_deleted() {
    check(&[
        ("put 1: a1 b1", "live = a1 b1, shared =, loaded, VALID"),
        ("patch 1: b-7", "live + b-7, shared + b"),
        // Data sets do not contain deleted items.
        ("put 1: a1", "live same, shared ="),
        ("patch 1: b2", "live = a1 b2, shared + b"),
        ("patch 1: b-7", "live + b-7, shared + b"),
        ("put 1: a1", "live same, shared ="),
        ("put 1: a1 b3", "live = a1 b3, shared ="),
        ("patch 1: b4", "live + b4, shared + b"),
    ]);
}

#[test]
fn a_store_does_not_bring_back_what_was_deleted() {
    check(&[
        ("put 1: a1 b1", "live = a1 b1, shared =, loaded, VALID"),
        ("patch 1: b-2", "live + b-2, shared + b"),
        ("put 1: a1", "live same, shared ="),
        ("lost", "not live, INTERRUPTED"),
        // An old dump.
        ("shared: a1 b1", ""),
        ("shared: a1 b2 c1", "live + c1, shared served"),
        ("shared: a1 b3", "live + b3, shared served"),
    ]);
}

#[test]
fn a_new_connection_that_is_behind_takes_nothing_back() {
    check(&[
        ("put 1: a1 b1", "live = a1 b1, shared =, loaded, VALID"),
        ("key b", "open b"),
        ("patch 1: a2", "live + a2, shared + a"),
        ("patch 1: c1", "live + c1, shared + c"),
        // Sent before both changes.
        ("next put 1: a1 b1", "live same, shared =, promote next"),
        ("patch 1: a2", ""),
        ("patch 1: b2", "live + b2, shared + b"),
    ]);
    // Sent between the deletion and a short return of the item.
    check(&[
        ("put 1: a1 b1", "live = a1 b1, shared =, loaded, VALID"),
        ("key b", "open b"),
        ("patch 1: b-2", "live + b-2, shared + b"),
        ("patch 1: b3", "live + b3, shared + b"),
        ("patch 1: b-4", "live + b-4, shared + b"),
        ("next put 1: a2", "live + a2, shared =, promote next"),
        ("patch 1: b3", ""),
        ("patch 1: b-4", ""),
        ("patch 1: b5", "live + b5, shared + b"),
    ]);
    let lost = [
        ("put 1: a2", "live = a2, shared =, loaded, VALID"),
        ("key b", "open b"),
        ("lost", "not live, INTERRUPTED"),
    ];
    let check_then = |rest: &[(&str, &str)]| check(&[&lost, rest].concat());
    check_then(&[("next put 1: a1", "live same, shared =, promote next, VALID")]);
    // Items that a store has added are not from LaunchDarkly.
    check_then(&[
        ("shared: a2 b5", "live + b5, shared served"),
        ("next put 1: a2 b4", "live = a2 b4, shared =, promote next, VALID"),
    ]);
}

#[test]
fn a_change_before_any_data_set_is_nothing() {
    check(&[("patch 1: a2", ""), ("put 1: a1", "live = a1, shared =, loaded, VALID")]);
}

#[test]
fn stored_flags_are_served_and_written_nowhere() {
    check(&[
        ("local: a1 b1", "localStore = a1 b1, local adopt, shared served, loaded"),
        ("shared: a2 c1", "localStore + a2 c1, shared served"),
        // The first live change counts, whatever its version, and is stored only on this machine,
        // because the rest is not confirmed yet.
        ("patch 1: a3", "localStore + a3, local + a"),
        // Clients would not take this one as a change.
        ("patch 1: a1+x", "localStore = a1 b1 c1, local + a"),
        ("put 1: a2 b1", "live = a2 b1, local =, shared =, VALID"),
        ("shared: a9", ""),
    ]);
    check(&[
        ("no local store", ""),
        ("shared: a1", "sharedStore = a1, shared served, loaded"),
        ("put 1: a1", "live same, shared =, VALID"),
    ]);
    check(&[("no local store", ""), ("shared", "loaded")]);
    check(&[
        ("local", ""),
        ("shared", "loaded"),
        ("shared: a1", "sharedStore = a1, shared served"),
    ]);
}

#[test]
fn an_empty_set_is_served_only_when_nothing_else_may_be_there() {
    check(&[
        ("local:", "local adopt"),
        ("unread", "loaded"),
        ("shared: a1", "sharedStore = a1, shared served"),
    ]);
    check(&[
        ("local:", "local adopt"),
        ("unread", "loaded"),
        ("shared", "localStore = , shared served"),
    ]);
}

#[test]
fn a_set_that_nobody_counts_fills_no_other_store() {
    check(&[("local", ""), ("shared~: a1", "sharedStore = a1, shared part, loaded")]);
    let mut room = Room::new(Trust::All, true);
    room.play("no local store");
    room.play("shared~: a1");
    assert!(room.serving.status().is_presumed);
    room.play("put 1: a1");
    assert!(!room.serving.status().is_presumed);
}

#[test]
fn an_item_that_no_store_can_tell_makes_a_set_partial() {
    check(&[
        ("local", ""),
        ("shared: a1 !b", "sharedStore = a1, shared part, loaded"),
        ("shared: a1 b2", "sharedStore + b2, shared served"),
    ]);
}

#[test]
fn what_was_live_is_only_added_to_and_only_from_what_peers_write() {
    check(&[
        ("put 1: a5 b1", "live = a5 b1, shared =, loaded, VALID"),
        ("shared: a9", ""),
        ("lost", "not live, INTERRUPTED"),
        ("local: a9 c1", "local ="),
        ("shared: a4 b2", "live + b2, shared served"),
        ("shared: a4", ""),
        // A connection that has not brought its data set yet: its changes are served, and not
        // written where others read.
        ("patch 2: a6", "live + a6, local + a"),
        ("put 2: a6 b2", "live same, local =, shared =, VALID"),
        ("patch 2: a7", "live + a7, local + a, shared + a"),
    ]);
    let live = ("put 1: a5", "live = a5, shared =, loaded, VALID");
    let lost = ("lost", "not live, INTERRUPTED");
    check_with(Trust::LocalFirst, &[live, lost, ("shared: a6", "")]);
}

#[test]
fn data_that_cannot_be_used_costs_the_connection_and_nothing_else() {
    check(&[
        ("put 1: a1", "live = a1, shared =, loaded, VALID"),
        ("junk 1", "not live, restart 1, INTERRUPTED"),
        // Events that were on their way.
        ("patch 1: a2", ""),
        ("put 1: a2", ""),
        ("junk 1", ""),
        ("restarted", "not live"),
        ("put 2: a2", "live + a2, shared =, VALID"),
    ]);
    check(&[
        ("junk 3", "not live, restart 3"),
        ("put 3: a1", ""),
        ("put 4: a1", "live = a1, shared =, loaded, VALID"),
    ]);
}

#[test]
fn a_new_key_takes_over_with_its_first_data_set() {
    check(&[
        ("put 7: a1", "live = a1, shared =, loaded, VALID"),
        ("key b", "open b"),
        ("key b", ""),
        ("next alive", ""),
        ("next patch 1: a9", ""),
        ("next lost 401", ""),
        ("next junk 2", "restart next 2"),
        ("next put 2: z1", ""),
        ("patch 7: a2", "live + a2, shared + a"),
        // Its numbers begin again.
        ("next put 3: a3", "live + a3, shared =, promote next"),
        ("patch 3: a4", "live + a4, shared + a"),
        ("next put 1: z1", ""),
    ]);
    // The old key, or a third one, is designated before the new one was live.
    check(&[
        ("key b", "open b"),
        ("key c", "open c"),
        ("key a", "drop next"),
        ("next put 1: z1", ""),
    ]);
    // The old key is refused, the new one works: the environment is live again.
    check(&[
        ("put 1: a1", "live = a1, shared =, loaded, VALID"),
        ("lost 401", "not live, OFF"),
        ("key b", "open b"),
        ("next put 1: a1", "live same, shared =, promote next, VALID"),
    ]);
}

#[test]
fn the_status_names_what_went_wrong_last() {
    let mut room = Room::new(Trust::All, true);
    let last = |room: &Room| {
        let error = room.serving.status().connection.last_error?;
        Some((error.kind.as_str(), error.status_code))
    };
    room.play("put 1: a1");
    assert_eq!(last(&room), None);
    room.play("key b");
    room.play("next lost 401");
    assert_eq!(last(&room), Some(("ERROR_RESPONSE", Some(401))));
    assert_eq!(room.serving.status().connection.state.as_str(), "VALID", "of the current one");
    room.play("next junk 1");
    assert_eq!(last(&room), Some(("INVALID_DATA", None)));
    room.play("lost");
    assert_eq!(last(&room), Some(("NETWORK_ERROR", None)));
    room.serving.on_stop(room.now);
    assert_eq!(room.serving.status().connection.state.as_str(), "OFF");
}

#[test]
fn every_sign_of_life_of_the_current_connection_is_passed_on() {
    let check = |event: &str, expected: bool| {
        let mut room = Room::new(Trust::All, true);
        room.play("key b");
        let (head, rest) = event.split_once(": ").unwrap_or((event, ""));
        let words: Vec<_> = head.split(' ').collect();
        let (which, words) = match words[0] {
            "next" => (Which::Next, &words[1..]),
            _ => (Which::Current, &words[..]),
        };
        let effects =
            room.serving.on_source(which, source_event(words, rest), None, SystemTime::UNIX_EPOCH);
        let is_heard = effects.shared.iter().any(|order| matches!(order, SharedOrder::Heard));
        assert_eq!(is_heard, expected, "{event}");
    };
    check("alive", true);
    check("patch 1: a1", true);
    check("put 1: a1", true);
    check("junk 1", true);
    check("lost", false);
    check("restarted", false);
    check("next alive", false);
    check("next patch 1: a1", false);
}

/// Any event, in the words of [`Room::play`], with small numbers so that they meet.
fn any_event() -> impl Strategy<Value = String> {
    let set =
        prop::collection::btree_map(prop::sample::select(vec!["a", "b", "c"]), -4i64..6, 0..4)
            .prop_map(|items| {
                let word = |(name, version): (&str, i64)| format!("{name}{version}");
                items.into_iter().map(word).collect::<Vec<_>>().join(" ")
            });
    let from = |heads: &'static [&'static str]| {
        (prop::sample::select(heads), set.clone()).prop_map(|(head, set)| format!("{head}: {set}"))
    };
    prop_oneof![
        6 => from(&["put 1", "put 2", "put 3", "next put 1", "next put 2"]),
        6 => from(&["patch 1", "patch 2", "patch 3", "next patch 1"]),
        4 => from(&["local", "local?", "shared", "shared~", "shared?"]),
        4 => prop::sample::select(vec![
            "junk 1", "junk 2", "next junk 1", "alive", "next alive", "lost", "lost 401", "restarted",
            "next lost", "key a", "key b", "key c", "no local store", "local", "shared",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    /// In any order of events, clients hold what is served, nothing served is lost, and stores are
    /// told nothing that LaunchDarkly did not send.
    #[test]
    fn no_order_of_events_breaks_what_must_hold(
        events in prop::collection::vec(any_event(), 1..40),
        local_first in any::<bool>(),
    ) {
        let trust = if local_first { Trust::LocalFirst } else { Trust::All };
        let mut room = Room::new(trust, true);
        let mut live = false;
        for event in &events {
            let before = room.serving.served().cloned();
            let shown = room.play(event);
            let served = room.serving.served().cloned();
            if shown.contains("shared =") {
                live = true;
            } else if shown.contains("not live") {
                live = false;
            }
            prop_assert_eq!(live, room.serving.current.is_live, "{}", event);
            prop_assert!(before.is_none() || served.is_some(), "{}: what is served is lost", event);
            let Some(served) = served else { continue };
            prop_assert!(room.serving.is_loaded());
            let client = room.client.as_ref().expect("clients were told of it");
            // Clients keep tombstones that the data set never had, and the other way round.
            let visible = |data: &DataSet| {
                let items = data.iter().filter(|(_, _, item)| !item.is_tombstone());
                items.map(|(_, name, item)| word(name, item)).collect::<Vec<_>>()
            };
            prop_assert_eq!(visible(client), visible(&served.data), "{} gave {}", event, shown);
            // Live data is what both stores are told to hold.
            if live {
                let [local, shared] = &room.stores;
                prop_assert_eq!(shared.as_ref(), Some(&*served.data), "{}", event);
                let is_told = !room.serving.has_local || local.as_ref() == Some(&*served.data);
                prop_assert!(is_told, "{}", event);
            }
            // A store never replaces live data.
            let is_from_store = event.starts_with("local") || event.starts_with("shared");
            prop_assert!(!(live && is_from_store && shown.contains("live ")), "{}: {}", event, shown);
        }
    }
}
