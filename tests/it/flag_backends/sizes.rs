//! Rows that are long, and rows that are many.

use pilotlight::testing::flagstore::backend::{
    Condition, Correction, Filled, FlagBackend, ROWS_MAX, Row, StoredRow,
};
use pilotlight::testing::flagstore::marker::Note;
use pilotlight::testing::model::ItemKey;

use Condition::Always;

use super::peers::{
    Fills, Peer, flag, jsons, letters, live_row, segment, shown, upserts, wanted, write_whole,
};

/// Long enough where there is no limit worth a test.
const LONG: usize = 5_000_000;

/// A row whose JSON has exactly this length.
fn sized(key: &ItemKey, version: u64, bytes: usize) -> Row {
    let start = format!(r#"{{"version":{version},"salt":""#);
    let json = format!("{start}{}\"}}", "x".repeat(bytes - start.len() - 2));
    assert_eq!(json.len(), bytes);
    Row { key: key.clone(), version, json: json.into() }
}

pub(super) async fn rows_have_a_limit<P: Peer>(peer: &P) {
    let backend = peer.flags("sizes");
    let longest = P::LONGEST_JSON.unwrap_or(LONG);
    for (version, part) in [(1, 100), (2, 60), (3, 101), (4, 30)] {
        let set = [
            live_row(&flag("a"), version, ""),
            sized(&flag("w"), version, longest + 1),
            sized(&flag("v"), version, longest * part.min(100) / 100),
            live_row(&flag("b"), version, ""),
            sized(&segment("s"), version, longest / 2),
        ];
        let outcomes = backend.upsert(&set, Always).await.unwrap();
        let limited = P::LONGEST_JSON.is_some();
        assert_eq!(letters(&outcomes), if limited { "wlwww" } else { "wwwww" });
        let left: Vec<Row> =
            set.into_iter().filter(|row| !limited || row.key != flag("w")).collect();
        assert_eq!(jsons(&backend.read().await.unwrap()), wanted(&left));
    }
    if P::LONGEST_JSON.is_none() {
        return;
    }
    // What is stored under the key of a row that is too long stays, and nothing is removed.
    let before = backend.read().await.unwrap();
    let too_long = sized(&flag("v"), 9, longest + 1);
    let outcomes = backend.upsert(std::slice::from_ref(&too_long), Always).await.unwrap();
    assert_eq!(letters(&outcomes), "l");
    let found = before.rows.iter().find(|row| row.key == flag("v")).unwrap().clone();
    let with = |wanted| [Correction { found: found.clone(), wanted: Some(wanted) }];
    assert_eq!(backend.correct(&with(too_long)).await.unwrap(), [false]);
    assert_eq!(backend.read().await.unwrap(), before);
    assert_eq!(backend.correct(&with(sized(&flag("v"), 8, longest))).await.unwrap(), [true]);
    upserts(&backend, "v9", Always, "w").await;

    let backend = peer.flags("sizes-fill");
    let filled =
        backend.fill(&[sized(&flag("v"), 1, longest + 1)], &Note::default()).await.unwrap();
    assert_eq!(filled, Filled::Impossible);
    assert_eq!(shown(&backend.read().await.unwrap()), "");
}

fn many(count: usize, version: u64) -> Vec<Row> {
    (0..count)
        .map(|number| {
            let name = format!("item-{number:05}");
            let key = if number < count / 10 { segment(&name) } else { flag(&name) };
            live_row(&key, version, &format!("{number} {}", "x".repeat(900)))
        })
        .collect()
}

pub(super) async fn thousands_of_rows_are_no_trouble<P: Peer>(peer: &P) {
    let (one, other) = (peer.flags("many"), peer.flags("many"));
    let set = many(2_000, 1);
    if P::FILLS == Fills::Small {
        assert_eq!(one.fill(&set, &Note::default()).await.unwrap(), Filled::Impossible);
        assert_eq!(shown(&other.read().await.unwrap()), "");
    }
    write_whole(&one, &set).await;
    let found = other.read().await.unwrap();
    assert!(found.marker.is_some());
    assert_eq!(jsons(&found), wanted(&set));
    assert_eq!(
        other.look().await.unwrap().counts.map_or(2_000, |it| it.segments + it.flags),
        2_000
    );

    // The others newer, the first half not.
    let newer = many(2_000, 2);
    let mixed: Vec<Row> = set[..1_000].iter().chain(&newer[1_000..]).cloned().collect();
    let marker = one.mark(None, &Note::default()).await.unwrap();
    for (place, chunk) in mixed.chunks(ROWS_MAX).enumerate() {
        let outcomes = one.upsert(chunk, Condition::Marked(&marker)).await.unwrap();
        let first = place * ROWS_MAX;
        let letter = |at| if first + at < 1_000 { 'n' } else { 'w' };
        assert_eq!(letters(&outcomes), (0..chunk.len()).map(letter).collect::<String>());
    }
    let found = other.read().await.unwrap();
    assert_eq!(jsons(&found), wanted(&mixed));

    let removal = |found: StoredRow| Correction { found, wanted: None };
    let removals: Vec<Correction> = found.rows.into_iter().skip(500).map(removal).collect();
    for chunk in removals.chunks(ROWS_MAX) {
        assert_eq!(other.correct(chunk).await.unwrap(), vec![true; chunk.len()]);
    }
    assert_eq!(one.read().await.unwrap().rows.len(), 500);
}
