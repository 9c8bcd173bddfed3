//! Several relays that write at once.

use pilotlight::testing::flagstore::backend::{
    Condition, Correction, Filled, FlagBackend, Row, Upserted,
};
use pilotlight::testing::flagstore::layout;
use pilotlight::testing::flagstore::marker::Note;
use pilotlight::testing::model::{Item, ItemKey};
use tokio::task::JoinSet;

use super::peers::{Fills, Peer, flag, jsons, live_row, rows, segment, shown, upserts, wanted};

const KEYS: u64 = 200;
const ROUNDS: u64 = 5;

/// The row of a round: in odd ones tombstones.
fn row(number: u64, version: u64) -> Row {
    let name = format!("key {number}");
    let key = if number.is_multiple_of(5) { segment(&name) } else { flag(&name) };
    match version % 2 {
        0 => live_row(&key, version, "s"),
        _ => layout::row(&key, &Item::tombstone(version)),
    }
}

/// Versions of the two writers in a round: of each key, one has the higher one.
fn rows_of(writer: u64, round: u64) -> Vec<Row> {
    let version = |number: u64| 2 * round + (number + writer) % 2;
    let all = (0..KEYS).map(|number| row(number, version(number)));
    // One begins at one end, the other one at the other.
    if writer == 0 { all.collect() } else { all.rev().collect() }
}

pub(super) async fn the_highest_version_wins_everywhere(peer: &impl Peer) {
    let backend = peer.flags("race");
    let marker = backend.mark(None, &Note::default()).await.unwrap();
    for round in 1..=ROUNDS {
        let mut writers = JoinSet::new();
        for writer in 0..2 {
            let (backend, marker) = (peer.flags("race"), marker.clone());
            let rows = rows_of(writer, round);
            // In large calls and in small ones.
            let size = [200, 200, 64, 17, 3][round as usize - 1];
            writers.spawn(async move {
                let mut written = 0;
                for chunk in rows.chunks(size) {
                    let outcomes = backend.upsert(chunk, Condition::Marked(&marker)).await.unwrap();
                    assert_eq!(outcomes.len(), chunk.len());
                    written += outcomes.iter().filter(|it| **it == Upserted::Written).count();
                }
                written as u64
            });
        }
        let written: u64 = writers.join_all().await.into_iter().sum();
        assert!((KEYS..=2 * KEYS).contains(&written), "{written}");
        let highest: Vec<Row> = (0..KEYS).map(|number| row(number, 2 * round + 1)).collect();
        assert_eq!(jsons(&backend.read().await.unwrap()), wanted(&highest), "round {round}");
    }
}

pub(super) async fn one_of_many_fills_wins<P: Peer>(peer: &P) {
    if P::FILLS == Fills::None {
        return;
    }
    for round in 0..5 {
        let prefix = format!("race-fill-{round}");
        let mut writers = JoinSet::new();
        for writer in 1..=4 {
            let backend = peer.flags(&prefix);
            writers.spawn(async move {
                let set =
                    rows(&format!("/s{writer} a{writer} only_{}{writer}", "x".repeat(writer)));
                (writer, backend.fill(&set, &Note::default()).await.unwrap())
            });
        }
        let outcomes = writers.join_all().await;
        let winners: Vec<usize> = outcomes
            .iter()
            .filter(|(_, filled)| *filled == Filled::Done)
            .map(|(writer, _)| *writer)
            .collect();
        let [winner] = winners[..] else { panic!("{outcomes:?}") };
        assert!(outcomes.iter().all(|(_, filled)| *filled != Filled::Impossible));
        let found = peer.flags(&prefix).read().await.unwrap();
        let expected = format!("! /s{winner} a{winner} only_{}{winner}", "x".repeat(winner));
        assert_eq!(shown(&found), expected);
    }
}

pub(super) async fn one_of_many_corrections_wins(peer: &impl Peer) {
    let backend = peer.flags("race-correct");
    upserts(&backend, "a9 b9", Condition::Always, "ww").await;
    let found = backend.read().await.unwrap().rows;
    let place = |key: ItemKey| found.iter().position(|row| row.key == key).unwrap();
    let (a, b) = (&found[place(flag("a"))], &found[place(flag("b"))]);
    let mut writers = JoinSet::new();
    for writer in 1..=6 {
        let backend = peer.flags("race-correct");
        let wanted = live_row(&flag("a"), writer, "mine");
        let corrections = [
            Correction { found: a.clone(), wanted: Some(wanted) },
            Correction { found: b.clone(), wanted: None },
        ];
        writers.spawn(async move { (writer, backend.correct(&corrections).await.unwrap()) });
    }
    let outcomes = writers.join_all().await;
    let winners = |place: usize| -> Vec<u64> {
        outcomes.iter().filter(|(_, done)| done[place]).map(|(writer, _)| *writer).collect()
    };
    assert_eq!((winners(0).len(), winners(1).len()), (1, 1), "{outcomes:?}");
    assert_eq!(shown(&backend.read().await.unwrap()), format!("a{}", winners(0)[0]));
}
