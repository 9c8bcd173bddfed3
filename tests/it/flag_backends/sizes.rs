//! Rows that are long, and rows that are many.

use pilotlight::testing::flagstore::backend::{Correction, Filled, FlagBackend, Row};
use pilotlight::testing::flagstore::marker::Note;
use pilotlight::testing::model::ItemKey;

use super::peers::{Peer, flag, jsons, letters, live_row, segment, shown, upserts, wanted};

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
        let outcomes = backend.upsert(&set, None).await.unwrap();
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
    let outcomes = backend.upsert(std::slice::from_ref(&too_long), None).await.unwrap();
    assert_eq!(letters(&outcomes), "l");
    let found = before.rows.iter().find(|row| row.key == flag("v")).unwrap().clone();
    let with = |wanted| [Correction { found: found.clone(), wanted: Some(wanted) }];
    assert_eq!(backend.correct(&with(too_long)).await.unwrap(), [false]);
    assert_eq!(backend.read().await.unwrap(), before);
    assert_eq!(backend.correct(&with(sized(&flag("v"), 8, longest))).await.unwrap(), [true]);
    upserts(&backend, "v9", None, "w").await;

    let backend = peer.flags("sizes-fill");
    let filled =
        backend.fill(&[sized(&flag("v"), 1, longest + 1)], &Note::default()).await.unwrap();
    assert_eq!(filled, Filled::Impossible);
    assert_eq!(shown(&backend.read().await.unwrap()), "");
}
