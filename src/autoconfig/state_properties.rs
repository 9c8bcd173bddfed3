//! Invariants of the core over all interleavings of events of the caches and the stream.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Word {
    Local(Vec<(u8, i64)>),
    Shared(Vec<(u8, i64)>),
    Put(Vec<(u8, Option<i64>)>),
    Patch(u8, i64),
    Delete(u8, i64),
}

fn words() -> impl Strategy<Value = Vec<Word>> {
    let id = 0u8..4;
    let set = prop::collection::vec((id.clone(), 0i64..6), 1..4);
    let live = prop::collection::vec((id.clone(), prop::option::weighted(0.9, 0i64..6)), 1..4);
    let word = prop_oneof![
        1 => set.clone().prop_map(Word::Local),
        1 => set.prop_map(Word::Shared),
        2 => live.prop_map(Word::Put),
        2 => (id.clone(), 0i64..6).prop_map(|(id, v)| Word::Patch(id, v)),
        2 => (id, 0i64..6).prop_map(|(id, v)| Word::Delete(id, v)),
    ];
    prop::collection::vec(word, 0..12)
}

proptest! {
    #[test]
    fn no_interleaving_breaks_the_invariants(words in words()) {
        const CACHED: i64 = 1000; // versions of cached records lie far above live ones
        let mut bench = Bench::new(&[Tier::Local, Tier::Shared]);
        let mut put_seen = false;
        // Highest version of a delete since the last put that named or dropped the ID.
        let mut deleted = std::collections::HashMap::<String, i64>::new();
        for (second, word) in (0u64..).zip(words) {
            let name = |id: u8| format!("e{id}");
            match word {
                Word::Local(set) | Word::Shared(set) => {
                    let tier = if second % 2 == 0 { Tier::Local } else { Tier::Shared };
                    let set: Vec<_> = set.iter().map(|&(id, v)| (name(id), CACHED + v)).collect();
                    let set: Vec<_> = set.iter().map(|(id, v)| (id.as_str(), *v)).collect();
                    let before = bench.running.clone();
                    bench.cache(tier, cached(second, &set));
                    if put_seen {
                        prop_assert_eq!(&bench.running, &before, "cached content follows live");
                    }
                }
                Word::Put(set) => {
                    let set: Vec<_> = set.iter().map(|&(id, v)| (name(id), v)).collect();
                    let named: Vec<_> = set.iter().map(|(id, v)| (id.as_str(), *v)).collect();
                    bench.message(second, second, second, put(&named));
                    // One that would remove everything is kept back.
                    if !matches!(bench.step, Some(StreamStep::ConfirmAt(_))) {
                        put_seen = true;
                        deleted.retain(|id, _| named.iter().any(|(n, _)| n == id));
                        for id in bench.running.keys() {
                            let is_named = named.iter().any(|(n, _)| n == id);
                            prop_assert!(is_named, "a put drops the rest");
                        }
                    }
                }
                Word::Patch(id, v) => bench.message(second, second, second,
                    Message::PatchEnvironment(name(id), Ok(record(&name(id), v)))),
                Word::Delete(id, v) => {
                    bench.message(second, second, second, Message::DeleteEnvironment(name(id), v));
                    // A stale delete, and one that would remove everything, leave it running.
                    if !bench.running.contains_key(&name(id)) {
                        let highest = deleted.entry(name(id)).or_insert(v);
                        *highest = (*highest).max(v);
                    }
                }
            }
            for (id, key) in &bench.running {
                let version: i64 = key.rsplit('-').next().unwrap().parse().unwrap();
                if let Some(at) = deleted.get(id) {
                    prop_assert!(version > *at, "{id} came back at {version} after {at}");
                    prop_assert!(version < CACHED, "{id} came back from a cache");
                }
                if let Some(persisted) = &bench.persisted {
                    let held = persisted.environments.get(id);
                    prop_assert!(held.is_some_and(|r| r.anchor.expose() == key),
                        "the cache gets what is accepted");
                }
            }
        }
    }
}
