//! Several relays that write at once.

use pilotlight::testing::flagstore::backend::{Condition, FlagBackend, Row, Upserted};
use pilotlight::testing::flagstore::layout;
use pilotlight::testing::flagstore::marker::Note;
use pilotlight::testing::model::Item;
use tokio::task::JoinSet;

use super::peers::{Peer, flag, jsons, live_row, segment, wanted};

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
    let marker = backend.mark(None, &Note::default()).await.unwrap().unwrap();
    let marker = Condition::SameSet(marker);
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
                    let outcomes = backend.upsert(chunk, Some(&marker)).await.unwrap();
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
