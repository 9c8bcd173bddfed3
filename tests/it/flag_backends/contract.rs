//! What every flag store promises.

use std::time::{Duration, SystemTime};

use pilotlight::testing::flagstore::backend::{
    Condition, Correction, Counts, Filled, FlagBackend, Look, StoredRow, StoredRows,
};
use pilotlight::testing::flagstore::inventory::Inventory;
use pilotlight::testing::flagstore::marker::{Identity, Marker, Note};

use super::peers::{
    Fills, Peer, flag, holds, jsons, letters, live_row, rows, segment, shown, upserts, wanted,
    write_whole,
};
use super::{races, sizes};

/// Everything, with two backends on the same store wherever it matters.
pub(crate) async fn contract(peer: &impl Peer) {
    an_empty_store_shows_nothing(peer).await;
    a_fill_is_whole_or_impossible(peer).await;
    a_fill_touches_no_store_that_holds_something(peer).await;
    an_empty_set_is_a_set(peer).await;
    only_newer_rows_are_written(peer).await;
    outcomes_stand_in_the_order_of_the_rows(peer).await;
    what_cannot_be_decoded_counts_as_version_0(peer).await;
    rows_are_judged_alike_whatever_decodes_them(peer).await;
    a_lost_marker_is_noticed_while_writing(peer).await;
    only_what_was_found_is_corrected(peer).await;
    the_first_mark_stays(peer).await;
    a_note_replaces_only_the_marker_that_was_found(peer).await;
    many_rows_are_judged_like_few(peer).await;
    sizes::rows_have_a_limit(peer).await;
    races::the_highest_version_wins_everywhere(peer).await;
}

async fn an_empty_store_shows_nothing(peer: &impl Peer) {
    let backend = peer.flags("absent");
    assert_eq!(backend.read().await.unwrap(), StoredRows::default());
    let Look { marker, counts, server: _ } = backend.look().await.unwrap();
    assert_eq!(marker, None);
    assert_eq!(counts.unwrap_or_default(), Counts::default());
    assert_eq!(backend.upsert(&[], None).await.unwrap(), []);
    let condition = Condition::SameSet(Marker::read("any".into(), 0));
    assert_eq!(backend.upsert(&[], Some(&condition)).await.unwrap(), []);
    assert_eq!(backend.correct(&[]).await.unwrap(), Vec::<bool>::new());
    assert_eq!(backend.read().await.unwrap(), StoredRows::default());
}

async fn a_fill_is_whole_or_impossible<P: Peer>(peer: &P) {
    let (one, other) = (peer.flags("fill"), peer.flags("fill"));
    let set = rows("/s3 /t-4 a1 b2 c-9");
    let filled = one.fill(&set, &Note::default()).await.unwrap();
    if P::FILLS == Fills::None {
        assert_eq!(filled, Filled::Impossible);
        assert_eq!(one.read().await.unwrap(), StoredRows::default());
        return;
    }
    assert_eq!(filled, Filled::Done);
    let found = other.read().await.unwrap();
    assert_eq!(jsons(&found), wanted(&set), "byte for byte");
    assert_eq!(shown(&found), "! /s3 /t-4 a1 b2 c-9");
    let look = other.look().await.unwrap();
    assert_eq!(look.marker, found.marker);
    assert_eq!(look.counts, Some(Counts { segments: 2, flags: 3 }));
    assert_eq!(look, other.look().await.unwrap(), "nothing has happened in between");

    assert_eq!(other.fill(&rows("a7 z7"), &Note::default()).await.unwrap(), Filled::NotEmpty);
    assert_eq!(one.read().await.unwrap(), found);
}

async fn a_fill_touches_no_store_that_holds_something<P: Peer>(peer: &P) {
    if P::FILLS == Fills::None {
        return;
    }
    for (prefix, present) in [("fill-flag", "a1"), ("fill-segment", "/a1")] {
        let backend = peer.flags(prefix);
        upserts(&backend, present, None, "w").await;
        assert_eq!(
            backend.fill(&rows("/s1 b1"), &Note::default()).await.unwrap(),
            Filled::NotEmpty
        );
        holds(&backend, present).await;
    }
    let backend = peer.flags("fill-marker");
    let marker = backend.mark(None, &Note::default()).await.unwrap().unwrap();
    assert_eq!(backend.fill(&rows("/s1 b1"), &Note::default()).await.unwrap(), Filled::NotEmpty);
    holds(&backend, "!").await;
    assert_eq!(backend.look().await.unwrap().marker, Some(marker));
}

async fn an_empty_set_is_a_set(peer: &impl Peer) {
    let backend = peer.flags("empty-set");
    write_whole(&backend, &[]).await;
    holds(&backend, "!").await;
}

async fn only_newer_rows_are_written(peer: &impl Peer) {
    let (one, other) = (peer.flags("life"), peer.flags("life"));
    upserts(&one, "a0", None, "w").await;
    upserts(&other, "a0", None, "n").await;
    let marker = one.mark(None, &Note::default()).await.unwrap().unwrap();
    for (text, outcome, after) in [
        ("a5", "w", "! a5"),
        ("a5", "n", "! a5"),
        ("a4", "n", "! a5"),
        ("a-5", "n", "! a5"),
        ("a-6", "w", "! a-6"),
        ("a-6", "n", "! a-6"),
        ("a6", "n", "! a-6"),
        ("a7", "w", "! a7"),
        ("/a1", "w", "! /a1 a7"),
        ("/a-2", "w", "! /a-2 a7"),
        ("/b-0", "w", "! /a-2 /b-0 a7"),
        ("/b0", "n", "! /a-2 /b-0 a7"),
        ("/b1", "w", "! /a-2 /b1 a7"),
        // Versions of segments and numbers that compare otherwise as text.
        ("a10", "w", "! /a-2 /b1 a10"),
        ("a9", "n", "! /a-2 /b1 a10"),
        ("a1700000000000", "w", "! /a-2 /b1 a1700000000000"),
    ] {
        upserts(&one, text, Some(&marker), outcome).await;
        holds(&other, after).await;
    }
    let differing = live_row(&flag("a"), 1_700_000_000_000, "other content");
    let outcomes = one.upsert(&[differing], None).await.unwrap();
    assert_eq!(letters(&outcomes), "n", "equal versions never replace each other");
}

async fn outcomes_stand_in_the_order_of_the_rows(peer: &impl Peer) {
    let backend = peer.flags("order");
    upserts(&backend, "a5 /s5 b5", None, "www").await;
    upserts(&backend, "b6 /s5 a4 /t1 c1 /s6", None, "wnnwww").await;
    holds(&backend, "/s6 /t1 a5 b6 c1").await;
    // The same row more than once: the highest version stays, whatever the order.
    let outcomes = backend.upsert(&rows("d1 d3 d2"), None).await.unwrap();
    assert_eq!(outcomes.len(), 3);
    let outcomes = backend.upsert(&rows("e3 e2 e1"), None).await.unwrap();
    assert_eq!(outcomes.len(), 3);
    holds(&backend, "/s6 /t1 a5 b6 c1 d3 e3").await;
}

async fn what_cannot_be_decoded_counts_as_version_0(peer: &impl Peer) {
    let backend = peer.flags("undecodable");
    for garbage in ["{", "[1]", "null", "\"text\"", r#"{"version":"9"}"#, "\u{1}"] {
        peer.plant("undecodable", &flag("a"), garbage).await;
        holds(&backend, "a?").await;
        assert_eq!(backend.read().await.unwrap().rows[0].json, garbage);
        upserts(&backend, "a0", None, "n").await;
        holds(&backend, "a?").await;
        upserts(&backend, "a1", None, "w").await;
        holds(&backend, "a1").await;
    }
    // Not text of ours, but an item all the same.
    peer.plant("undecodable", &flag("a"), r#"{"key":"a","version":3.0,"x":[1e400]}"#).await;
    holds(&backend, "a3").await;
    upserts(&backend, "a3", None, "n").await;
    upserts(&backend, "a4", None, "w").await;
    peer.plant("undecodable", &flag("a"), r#"{"on":true}"#).await;
    holds(&backend, "a0").await;
    upserts(&backend, "a0", None, "n").await;
    upserts(&backend, "a1", None, "w").await;
    peer.plant("undecodable", &flag("a"), r#"{"version":null}"#).await;
    holds(&backend, "a0").await;
    upserts(&backend, "a1", None, "w").await;
}

/// JSON of which a decoder inside a database may find more than Pilotlight does, or less.
async fn rows_are_judged_alike_whatever_decodes_them(peer: &impl Peer) {
    let backend = peer.flags("decoders");
    let deep = format!(r#"{{"version":9,"x":{}{}}}"#, "[".repeat(201), "]".repeat(201));
    for garbage in [
        r#"{"version":9,"deleted":1}"#,
        r#"{"version":9,"deleted":"true"}"#,
        r#"{"version":9,"x":NaN}"#,
        r#"{"version":9,"x":0x1F}"#,
        r#"{"version":NaN}"#,
        r#"{"version":-Infinity}"#,
        r#"{"version":18446744073709551616}"#,
        r#"{"version":1e30}"#,
        r#"{"version":1e400}"#,
        r#"{"version":-1e400}"#,
        "",
        &deep,
    ] {
        peer.plant("decoders", &flag("a"), garbage).await;
        holds(&backend, "a?").await;
        // Beside one that is newer than what is to be written, and one that is not there.
        upserts(&backend, "b7", None, "w").await;
        upserts(&backend, "a0 b6", None, "nn").await;
        holds(&backend, "a? b7").await;
        upserts(&backend, "a5 b6 c1", None, "wnw").await;
        holds(&backend, "a5 b7 c1").await;
        // The same row more than once, in one call.
        peer.plant("decoders", &flag("a"), garbage).await;
        assert_eq!(backend.upsert(&rows("a2 a4 a3"), None).await.unwrap().len(), 3);
        holds(&backend, "a4 b7 c1").await;
        let found = backend.read().await.unwrap().rows;
        let removed = |row: StoredRow| Correction { found: row, wanted: None };
        let removals: Vec<Correction> = found.into_iter().map(removed).collect();
        assert_eq!(backend.correct(&removals).await.unwrap(), [true; 3]);
    }
    for (json, below, above, shown) in [
        // A lone surrogate, which cjson rejects.
        (r#"{"version":9,"x":"\ud800"}"#, "a8", "a10", "a9"),
        // Versions between which floats do not tell.
        (
            r#"{"version":9007199254740992}"#,
            "a9007199254740992",
            "a9007199254740993",
            "a9007199254740992",
        ),
        (r#"{"version":9,"version":3}"#, "a3", "a4", "a3"),
        (r#"{"version":2.5}"#, "a2", "a3", "a2"),
        (r#"{"version":-3}"#, "a0", "a1", "a0"),
    ] {
        peer.plant("decoders", &flag("a"), json).await;
        holds(&backend, shown).await;
        upserts(&backend, below, None, "n").await;
        upserts(&backend, above, None, "w").await;
        holds(&backend, above).await;
    }
}

async fn a_lost_marker_is_noticed_while_writing(peer: &impl Peer) {
    let backend = peer.flags("marked");
    let before = Marker::read("before".into(), 0);
    upserts(&backend, "a1 /s1", Some(&before), "mm").await;
    holds(&backend, "").await;
    upserts(&backend, "a2 /s2", None, "ww").await;
    let marker = backend.mark(None, &Note::default()).await.unwrap().unwrap();
    upserts(&backend, "a1 /s1", Some(&before), "mm").await;
    upserts(&backend, "a3 /s1", Some(&marker), "wn").await;
    holds(&backend, "! /s2 a3").await;
    peer.unmark("marked").await;
    holds(&backend, "/s2 a3").await;
    upserts(&backend, "a4 /s1", Some(&marker), "mm").await;
    // Also where there are so many rows that they are not asked for first.
    let many = many(4);
    upserts(&backend, &many, Some(&marker), &"m".repeat(LETTERS)).await;
    holds(&backend, "/s2 a3").await;
}

const LETTERS: usize = 26;

/// So many flags in this version, in the words of [`rows`].
fn many(version: u64) -> String {
    let words: Vec<String> = ('a'..='z').map(|letter| format!("x{letter}{version}")).collect();
    words.join(" ")
}

async fn many_rows_are_judged_like_few(peer: &impl Peer) {
    let backend = peer.flags("many");
    for (version, letter, after) in [(4, "w", 4), (4, "n", 4), (3, "n", 4), (5, "w", 5)] {
        upserts(&backend, &many(version), None, &letter.repeat(LETTERS)).await;
        holds(&backend, &many(after)).await;
    }
    // Some are there, some are older, and some are new.
    let mixed = format!("{} y1", many(5)).replace("xb5", "xb6").replace("xc5", "xc4");
    let outcomes = format!("nwn{}w", "n".repeat(LETTERS - 3));
    upserts(&backend, &mixed, None, &outcomes).await;
    holds(&backend, &format!("{} y1", many(5)).replace("xb5", "xb6")).await;
    let found = backend.read().await.unwrap().rows;
    let removals: Vec<Correction> =
        found.into_iter().map(|found| Correction { found, wanted: None }).collect();
    assert_eq!(backend.correct(&removals).await.unwrap(), [true; LETTERS + 1]);
    assert_eq!(backend.correct(&removals).await.unwrap(), [false; LETTERS + 1]);
    holds(&backend, "").await;
}

async fn found(backend: &impl FlagBackend, key: &str) -> StoredRow {
    let rows = backend.read().await.unwrap().rows;
    rows.into_iter().find(|row| *row.key.key == *key).unwrap()
}

fn correction(found: &StoredRow, wanted: Option<&str>) -> Correction {
    Correction { found: found.clone(), wanted: wanted.map(|text| rows(text).remove(0)) }
}

async fn only_what_was_found_is_corrected(peer: &impl Peer) {
    let (one, other) = (peer.flags("correct"), peer.flags("correct"));
    let correct = async |corrections: &[Correction], expected: &[bool]| {
        assert_eq!(one.correct(corrections).await.unwrap(), expected);
    };
    upserts(&one, "a5 b5 /s5", None, "www").await;
    let (a, b, s) = (found(&one, "a").await, found(&one, "b").await, found(&one, "s").await);
    upserts(&other, "b6", None, "w").await;
    let all = [correction(&b, Some("b4")), correction(&s, None), correction(&a, Some("a4"))];
    correct(&all, &[false, true, true]).await;
    holds(&other, "a4 b6").await;
    // What was found is not there any more.
    correct(&all, &[false, false, false]).await;
    correct(&[correction(&b, None)], &[false]).await;
    holds(&other, "a4 b6").await;

    let b = found(&one, "b").await;
    correct(&[correction(&b, None)], &[true]).await;
    correct(&[correction(&b, None)], &[false]).await;
    holds(&other, "a4").await;

    // A tombstone in the place of a live item, and the other way round.
    correct(&[correction(&found(&one, "a").await, Some("a-3"))], &[true]).await;
    holds(&other, "a-3").await;
    correct(&[correction(&found(&one, "a").await, Some("a3"))], &[true]).await;
    holds(&other, "a3").await;

    peer.plant("correct", &flag("a"), "{").await;
    correct(&[correction(&found(&one, "a").await, Some("a0"))], &[true]).await;
    holds(&other, "a0").await;
    peer.plant("correct", &segment("t"), "{").await;
    let t = found(&one, "t").await;
    peer.plant("correct", &segment("t"), "[").await;
    correct(&[correction(&t, None)], &[false]).await;
    correct(&[correction(&found(&one, "t").await, None)], &[true]).await;
    holds(&other, "a0").await;
}

async fn the_first_mark_stays(peer: &impl Peer) {
    let (one, other) = (peer.flags("mark"), peer.flags("mark"));
    let marker = one.mark(None, &note(1)).await.unwrap().unwrap();
    assert_eq!(marker.note, Some(note(1)));
    assert_eq!(other.mark(None, &note(2)).await.unwrap().unwrap(), marker, "the first one stays");
    assert_eq!(other.look().await.unwrap().marker, Some(marker.clone()));
    assert_eq!(one.read().await.unwrap().marker, Some(marker.clone()));
    peer.unmark("mark").await;
    assert_eq!(one.look().await.unwrap().marker, None);
    let second = other.mark(None, &note(1)).await.unwrap().unwrap();
    assert!(!second.is_same_set(&marker), "another initialization shows");
}

fn note(flags: u64) -> Note {
    let environment = "5f3c \"\u{e9}\"".into();
    Note {
        inventory: Inventory { counts: Counts { segments: 7, flags }, names: Some(flags << 60) },
        identity: Some(Identity { environment, filter: "a.b".into() }),
        confirmed_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_442_000)),
        unsettled: None,
    }
}

async fn a_note_replaces_only_the_marker_that_was_found(peer: &impl Peer) {
    let (one, other) = (peer.flags("note"), peer.flags("note"));
    let first = one.mark(None, &note(1)).await.unwrap().unwrap();
    let second = one.mark(Some(&first), &note(2)).await.unwrap().unwrap();
    assert_eq!(second.note, Some(note(2)));
    assert!(second.is_same_set(&first), "for peers it is the same set");
    assert_eq!(other.read().await.unwrap().marker, Some(second.clone()));
    // A peer that has not seen that changes nothing.
    assert_eq!(other.mark(Some(&first), &note(3)).await.unwrap().unwrap(), second);
    // Writes that were decided under the former note go on, except those of rows that only this
    // one lists.
    upserts(&other, "a1", Some(&first), "w").await;
    for (seen, expected) in [(&first, "m"), (&second, "w")] {
        let condition = Condition::SameRows(seen.clone());
        let outcomes = other.upsert(&rows("b1"), Some(&condition)).await.unwrap();
        assert_eq!(letters(&outcomes), expected);
    }
    // A marker that another program has written gets a token of its own.
    peer.unmark("note").await;
    peer.mark_as_sdk("note").await;
    let theirs = one.look().await.unwrap().marker.unwrap();
    assert_eq!(theirs.note, None);
    let ours = one.mark(Some(&theirs), &note(4)).await.unwrap().unwrap();
    assert_eq!(ours.note, Some(note(4)));
    assert!(!ours.is_same_set(&first) && !ours.is_same_set(&theirs));
    assert_eq!(other.mark(Some(&theirs), &note(5)).await.unwrap().unwrap(), ours);
    // One that is gone stays gone.
    peer.unmark("note").await;
    assert_eq!(one.mark(Some(&ours), &note(6)).await.unwrap(), None);
    holds(&one, "a1 b1").await;
}
