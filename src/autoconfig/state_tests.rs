use serde_json::json;

use super::*;
use crate::autoconfig::fields::Malformed;
use crate::autoconfig::record_set::{SetOrigin, Stamp};

fn record(id: &str, version: i64) -> EnvironmentRecord {
    let value = json!({"envID": id, "sdkKey": {"value": format!("sdk-{id}-{version}")},
        "projKey": "p", "version": version});
    EnvironmentRecord::from_json(&value).unwrap()
}

fn malformed() -> Unusable {
    Malformed("composed".to_owned()).into()
}

fn put(environments: &[(&str, Option<i64>)]) -> Message {
    let entry = |&(id, version): &(&str, Option<i64>)| {
        (id.to_owned(), version.map(|v| record(id, v)).ok_or_else(malformed))
    };
    Message::Put(Put { environments: environments.iter().map(entry).collect(), filters: vec![] })
}

/// Time for which the list stays authoritative without the stream.
const AUTHORITY: Duration = Duration::from_secs(60);

fn cached(written_at: u64, environments: &[(&str, i64)]) -> CacheOutcome<CachedSet> {
    let confirmed_at = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(written_at);
    let mut set = CachedSet {
        stamp: Some(Stamp { confirmed_at: Some(confirmed_at), sequence: 1 }),
        complete: true,
        ..CachedSet::default()
    };
    for &(id, version) in environments {
        set.records.environments.insert(id.to_owned(), Arc::new(record(id, version)));
    }
    CacheOutcome::Loaded(set)
}

/// A state under test, with what runs as a consequence of its reactions.
struct Bench {
    state: State,
    start: Instant,
    running: BTreeMap<String, String>,
    list: ListState,
    persisted: Option<Arc<RecordSet>>,
    learnt: Option<Arc<CachedSet>>,
    step: Option<StreamStep>,
}

impl Bench {
    fn new(tiers: &[Tier]) -> Self {
        Self {
            state: State::new(
                SpecSettings::default(),
                tiers,
                Policy { adopt: Adopt::Once, authority: AUTHORITY },
            ),
            start: Instant::now(),
            running: BTreeMap::new(),
            list: ListState::Unknown,
            persisted: None,
            learnt: None,
            step: None,
        }
    }

    fn take(&mut self, reaction: Reaction) {
        for change in reaction.changes {
            match change {
                EnvironmentChange::Upsert(spec) => {
                    let key = spec.credentials.anchor.expose().to_owned();
                    self.running.insert(spec.reference.to_string(), key);
                }
                EnvironmentChange::Remove(reference) => {
                    assert!(self.running.remove(&reference.to_string()).is_some());
                }
                EnvironmentChange::List(list) => self.list = list,
            }
        }
        if reaction.persist.is_some() {
            self.persisted = reaction.persist;
        }
        if reaction.learnt.is_some() {
            self.learnt = reaction.learnt;
        }
        self.step = reaction.stream;
    }

    fn cache(&mut self, tier: Tier, outcome: CacheOutcome<CachedSet>) {
        let reaction = self.state.on_cache(tier, outcome);
        assert!(reaction.persist.is_none(), "nothing cached is written back");
        self.take(reaction);
    }

    /// A message on connection `number`, which was opened at second `opened`, at second `now`.
    fn message(&mut self, number: u64, opened: u64, now: u64, message: Message) {
        let at = |seconds| self.start + Duration::from_secs(seconds);
        let connection = Connection { number, opened_at: at(opened) };
        let reaction = self.state.on_message(connection, message, at(now));
        self.take(reaction);
    }

    fn running(&self) -> String {
        self.running.values().cloned().collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_live_put_replaces_cached_environments_whatever_their_versions() {
    let mut bench = Bench::new(&[Tier::Local]);
    bench.cache(Tier::Local, cached(1, &[("a", 9), ("b", 3), ("c", 3)]));
    assert_eq!(
        (bench.running().as_str(), bench.list),
        ("sdk-a-9 sdk-b-3 sdk-c-3", ListState::Provisional)
    );
    bench.message(1, 0, 1, put(&[("a", Some(7)), ("b", Some(3))]));
    assert_eq!(
        (bench.running().as_str(), bench.list),
        ("sdk-a-7 sdk-b-3", ListState::Authoritative)
    );
    assert_eq!(bench.persisted.as_ref().unwrap().environments.len(), 2);
}

/// A cached set that knows that some environments were removed.
fn without(outcome: CacheOutcome<CachedSet>, gone: &[(&str, i64)]) -> CacheOutcome<CachedSet> {
    let CacheOutcome::Loaded(mut set) = outcome else { return outcome };
    for (id, version) in gone {
        set.records.gone.insert(environment_name(id), Gone { version: *version, order: 1 });
    }
    CacheOutcome::Loaded(set)
}

#[test]
fn of_two_tiers_the_newer_record_counts_whatever_the_clocks_say() {
    for order in [[Tier::Local, Tier::Shared], [Tier::Shared, Tier::Local]] {
        let mut bench = Bench::new(&order);
        for tier in order {
            match tier {
                // The clock of this machine is far ahead.
                Tier::Local => bench.cache(tier, cached(1_000, &[("a", 1), ("b", 1), ("c", 3)])),
                Tier::Shared => {
                    bench.cache(tier, without(cached(5, &[("a", 2), ("c", 2)]), &[("b", 1)]))
                }
            }
        }
        assert_eq!(bench.running(), "sdk-a-2 sdk-c-3", "{order:?}");
        // Both tiers should hold that from now on.
        let learnt = bench.learnt.unwrap();
        let versions: Vec<i64> = learnt.records.versions().into_values().collect();
        assert_eq!(versions, [2, 3]);
        assert_eq!(learnt.records.gone["env:b"].version, 1);
    }
}

#[test]
fn a_shared_cache_that_knows_all_environments_to_be_gone_ends_what_the_disk_holds() {
    let mut bench = Bench::new(&[Tier::Local, Tier::Shared]);
    bench.cache(Tier::Local, cached(5, &[("a", 1)]));
    bench.cache(Tier::Shared, without(cached(5, &[]), &[("a", 1)]));
    assert_eq!((bench.running().as_str(), bench.list), ("", ListState::Provisional));
}

#[test]
fn what_one_tier_knows_to_be_gone_is_told_to_the_other_although_nothing_is_left() {
    for first in [Tier::Local, Tier::Shared] {
        let mut bench = Bench::new(&[Tier::Local, Tier::Shared]);
        let of = |tier| match tier {
            Tier::Local => cached(1, &[("a", 1)]),
            Tier::Shared => without(cached(2, &[]), &[("a", 1)]),
        };
        let second = if first == Tier::Local { Tier::Shared } else { Tier::Local };
        bench.cache(first, of(first));
        bench.cache(second, of(second));
        assert_eq!(bench.running(), "");
        let learnt = bench.learnt.unwrap();
        assert_eq!(learnt.records.gone.keys().collect::<Vec<_>>(), ["env:a"], "{first:?} first");
    }
}

#[test]
fn what_only_one_tier_holds_stays_unless_the_other_knows_it_to_be_removed() {
    let mut bench = Bench::new(&[Tier::Local, Tier::Shared]);
    bench.cache(Tier::Local, cached(5, &[("a", 1), ("b", 1)]));
    bench.cache(Tier::Shared, cached(6, &[("a", 2)]));
    assert_eq!(bench.running(), "sdk-a-2 sdk-b-1");
    bench.cache(Tier::Shared, cached(6, &[("a", 2)]));
    assert_eq!(bench.running(), "sdk-a-2 sdk-b-1", "read again");
    bench.cache(Tier::Shared, without(cached(7, &[("a", 2)]), &[("b", 1)]));
    assert_eq!(bench.running(), "sdk-a-2", "a peer heard of its removal");
    bench.cache(Tier::Shared, cached(8, &[("a", 1), ("b", 1)]));
    assert_eq!(bench.running(), "sdk-a-2", "a tier that was rolled back as a whole");
}

#[test]
fn ld_relays_rows_give_way_to_a_sealed_set() {
    let adopted = |outcome| match outcome {
        CacheOutcome::Loaded(set) => {
            CacheOutcome::Loaded(CachedSet { origin: SetOrigin::Adopted, stamp: None, ..set })
        }
        other => other,
    };
    let mut bench = Bench::new(&[Tier::Local, Tier::Shared]);
    bench.cache(Tier::Shared, adopted(cached(1, &[("old", 9)])));
    assert_eq!((bench.running().as_str(), bench.list), ("", ListState::Unknown));
    bench.cache(Tier::Local, cached(5, &[("a", 1)]));
    assert_eq!(bench.running(), "sdk-a-1");
    // Without a sealed set anywhere they are adopted.
    let mut bench = Bench::new(&[Tier::Local, Tier::Shared]);
    bench.cache(Tier::Shared, adopted(cached(1, &[("old", 9)])));
    bench.cache(Tier::Local, CacheOutcome::Empty);
    assert_eq!(bench.running(), "sdk-old-9");
    bench.cache(Tier::Shared, cached(5, &[("a", 1)]));
    assert_eq!(bench.running(), "sdk-a-1", "a peer has written a sealed set");
}

#[test]
fn what_was_removed_is_remembered_in_the_cache() {
    let gone = |bench: &Bench| -> Vec<(String, i64)> {
        let gone = &bench.persisted.as_ref().unwrap().gone;
        gone.iter().map(|(name, gone)| (name.clone(), gone.version)).collect()
    };
    let mut bench = Bench::new(&[Tier::Local]);
    bench.cache(Tier::Local, without(cached(1, &[("a", 1), ("b", 4)]), &[("x", 3)]));
    bench.message(1, 0, 1, put(&[("a", Some(1)), ("c", Some(2))]));
    assert_eq!(gone(&bench), [("env:b".to_owned(), 4), ("env:x".to_owned(), 3)]);
    bench.message(1, 0, 2, Message::DeleteEnvironment("c".to_owned(), 7));
    assert_eq!(gone(&bench)[1], ("env:c".to_owned(), 7), "at the version of the removal");
    bench.message(1, 0, 3, Message::PatchEnvironment("c".to_owned(), Ok(record("c", 8))));
    assert_eq!(gone(&bench).len(), 2, "it is back");
}

#[test]
fn the_list_is_no_longer_authoritative_when_the_stream_stays_away() {
    let second = |bench: &Bench, s: u64| bench.start + Duration::from_secs(s);
    let mut bench = Bench::new(&[]);
    bench.state.on_disconnected(bench.start);
    assert_eq!(bench.state.lapse_at(), None, "nothing is known");
    bench.message(1, 0, 1, put(&[("a", Some(1))]));
    assert_eq!(bench.state.lapse_at(), None, "the stream is live");
    bench.state.on_disconnected(second(&bench, 10));
    // Attempts that fail do not postpone it.
    bench.state.on_disconnected(second(&bench, 40));
    assert_eq!(bench.state.lapse_at(), Some(second(&bench, 70)));
    let reaction = bench.state.on_time(second(&bench, 69));
    assert!(reaction.changes.is_empty());
    let reaction = bench.state.on_time(second(&bench, 70));
    bench.take(reaction);
    assert_eq!((bench.running().as_str(), bench.list), ("sdk-a-1", ListState::Lapsed));
    assert_eq!(bench.state.lapse_at(), None);
    bench.message(2, 80, 81, put(&[("a", Some(1))]));
    assert_eq!(bench.list, ListState::Authoritative);
    assert_eq!(bench.state.lapse_at(), None);
}

#[test]
fn late_cache_results_are_dropped() {
    let mut bench = Bench::new(&[Tier::Local, Tier::Shared]);
    bench.message(1, 0, 1, put(&[("a", Some(1))]));
    bench.cache(Tier::Local, cached(99, &[("a", 9), ("b", 9)]));
    assert_eq!(bench.running(), "sdk-a-1");
    assert_eq!(bench.list, ListState::Authoritative);
}

#[test]
fn an_unusable_environment_keeps_its_last_good_form_and_harms_no_other() {
    let mut bench = Bench::new(&[]);
    bench.message(1, 0, 1, put(&[("a", Some(1)), ("b", Some(1))]));
    bench.message(1, 0, 2, put(&[("a", None), ("b", Some(2)), ("new", None)]));
    assert_eq!(bench.running(), "sdk-a-1 sdk-b-2");
    assert_eq!(bench.step, Some(StreamStep::RestartMalformed));
    assert_eq!(bench.list, ListState::Provisional, "the keys of one environment are not known");
    assert_eq!(bench.persisted.as_ref().unwrap().environments["a"].version, 1);
    // The corrected record has the version of the malformed one and is taken all the same.
    bench.message(2, 3, 3, put(&[("a", Some(2)), ("b", Some(2)), ("new", Some(1))]));
    assert_eq!(bench.running(), "sdk-a-2 sdk-b-2 sdk-new-1");
    assert_eq!((bench.step, bench.list), (None, ListState::Authoritative));
}

#[test]
fn what_cannot_be_used_is_not_called_removed() {
    let mut bench = Bench::new(&[]);
    bench.message(1, 0, 0, put(&[("a", Some(1)), ("x", None)]));
    let unusable = |bench: &Bench| bench.persisted.as_ref().unwrap().unusable.clone();
    assert_eq!(unusable(&bench), ["env:x".to_owned()].into());
    bench.message(1, 0, 1, Message::PatchEnvironment("y".to_owned(), Err(malformed())));
    bench.message(1, 0, 1, Message::PatchEnvironment("x".to_owned(), Ok(record("x", 2))));
    assert_eq!(unusable(&bench), ["env:y".to_owned()].into());
    assert_eq!(bench.running(), "sdk-a-1 sdk-x-2");
    // Of x a good form is known now.
    bench.message(2, 2, 2, put(&[("a", Some(1)), ("x", None)]));
    assert_eq!(unusable(&bench), [].into());
    assert_eq!(bench.running(), "sdk-a-1 sdk-x-2");
}

#[test]
fn an_unusable_environment_keeps_its_cached_form() {
    let mut bench = Bench::new(&[Tier::Local]);
    bench.cache(Tier::Local, cached(1, &[("a", 1), ("b", 1)]));
    bench.message(1, 0, 1, put(&[("a", None), ("c", Some(1))]));
    assert_eq!(bench.running(), "sdk-a-1 sdk-c-1");
    assert_eq!(bench.persisted.as_ref().unwrap().environments.len(), 2);
}

#[test]
fn after_something_unusable_no_key_is_refused_for_good_until_the_next_put() {
    let patch = |record| Message::PatchEnvironment("a".to_owned(), record);
    let mut bench = Bench::new(&[]);
    let undecodable = bench.state.on_undecodable();
    assert!(undecodable.changes.is_empty(), "nothing is known, so nothing is doubted");

    bench.message(1, 0, 0, put(&[("a", Some(1))]));
    bench.message(1, 0, 1, patch(Err(malformed())));
    assert_eq!((bench.running().as_str(), bench.list), ("sdk-a-1", ListState::Provisional));
    assert_eq!(bench.step, Some(StreamStep::RestartMalformed));
    bench.message(2, 2, 2, patch(Ok(record("a", 2))));
    assert_eq!((bench.running().as_str(), bench.list), ("sdk-a-2", ListState::Provisional));
    bench.message(2, 2, 3, put(&[("a", Some(2))]));
    assert_eq!(bench.list, ListState::Authoritative);

    // Under a foreign ID: skipped without a new connection.
    bench.message(2, 2, 4, patch(Err(Unusable::Foreign)));
    assert_eq!((bench.step, bench.list), (None, ListState::Provisional));
    let foreign =
        vec![("a".to_owned(), Ok(record("a", 2))), ("b".to_owned(), Err(Unusable::Foreign))];
    bench.message(2, 2, 5, Message::Put(Put { environments: foreign, filters: vec![] }));
    assert_eq!((bench.step, bench.list), (None, ListState::Provisional));
    bench.message(2, 2, 6, put(&[("a", Some(2))]));

    let undecodable = bench.state.on_undecodable();
    bench.take(undecodable);
    assert_eq!(bench.step, Some(StreamStep::RestartMalformed));
    assert_eq!((bench.running().as_str(), bench.list), ("sdk-a-2", ListState::Provisional));
}

#[test]
fn an_unusable_filter_keeps_its_last_good_form_and_harms_nothing_else() {
    let filter =
        |key: &str| FilterRecord { project_key: "p".to_owned(), key: key.to_owned(), version: 1 };
    let with = |version, filters| {
        let environments = vec![("a".to_owned(), Ok(record("a", version)))];
        Message::Put(Put { environments, filters })
    };
    let mut bench = Bench::new(&[]);
    bench.message(1, 0, 0, with(1, vec![("f".to_owned(), Ok(filter("small")))]));
    let bad = Err(Malformed("composed".to_owned()));
    let filters = vec![("f".to_owned(), bad), ("g".to_owned(), Ok(filter("tiny")))];
    bench.message(1, 0, 1, with(2, filters));
    let running: Vec<_> = bench.running.iter().map(|(id, key)| format!("{id}={key}")).collect();
    assert_eq!(running, ["a=sdk-a-2", "a/small=sdk-a-2", "a/tiny=sdk-a-2"]);
    assert_eq!(bench.step, Some(StreamStep::RestartMalformed));
    assert_eq!(bench.list, ListState::Provisional);
}

#[test]
fn patches_and_deletes_are_persisted_once_a_put_was_seen() {
    let patch = |version| Message::PatchEnvironment("a".to_owned(), Ok(record("a", version)));
    let mut bench = Bench::new(&[]);
    bench.message(1, 0, 0, patch(4));
    assert!(bench.persisted.is_none(), "a patch alone is not the whole set");
    assert_eq!(bench.running(), "sdk-a-4");
    bench.message(1, 0, 1, put(&[("a", Some(4)), ("b", Some(1))]));
    bench.persisted = None;
    bench.message(1, 0, 2, patch(4));
    assert!(bench.persisted.is_none(), "nothing changed");
    bench.message(1, 0, 3, patch(5));
    assert_eq!(bench.persisted.take().unwrap().environments["a"].version, 5);
    bench.message(1, 0, 4, Message::DeleteEnvironment("a".to_owned(), 6));
    assert!(!bench.persisted.take().unwrap().environments.contains_key("a"));
    bench.message(1, 0, 5, patch(6));
    assert_eq!(bench.running(), "sdk-b-1", "a deleted environment does not come back");
}

#[test]
fn filters_appear_and_go_with_patches_and_puts() {
    let filter =
        |version| FilterRecord { project_key: "p".to_owned(), key: "small".to_owned(), version };
    let mut bench = Bench::new(&[]);
    bench.message(1, 0, 0, Message::PatchFilter("f".to_owned(), filter(1)));
    bench.message(
        1,
        0,
        1,
        Message::Put(Put {
            environments: vec![("a".to_owned(), Ok(record("a", 1)))],
            filters: vec![("f".to_owned(), Ok(filter(1)))],
        }),
    );
    assert_eq!(bench.running.keys().cloned().collect::<Vec<_>>(), ["a", "a/small"]);
    bench.message(1, 0, 2, Message::DeleteFilter("f".to_owned(), 2));
    assert_eq!(bench.running.keys().cloned().collect::<Vec<_>>(), ["a"]);
}

#[test]
fn removing_every_environment_takes_a_second_connection() {
    let at = |bench: &Bench, s| Some(StreamStep::ConfirmAt(bench.start + Duration::from_secs(s)));
    let mut bench = Bench::new(&[]);
    bench.message(1, 0, 0, put(&[("a", Some(1))]));
    bench.message(1, 0, 10, put(&[]));
    assert_eq!((bench.running().as_str(), bench.step), ("sdk-a-1", at(&bench, 15)));
    bench.message(1, 0, 20, put(&[]));
    assert_eq!(bench.running(), "sdk-a-1", "the same connection proves nothing");
    bench.message(2, 14, 30, put(&[]));
    assert_eq!(bench.running(), "sdk-a-1", "opened too early");
    bench.message(3, 15, 31, put(&[]));
    assert_eq!((bench.running().as_str(), bench.step), ("", None));
    assert_eq!(bench.list, ListState::Authoritative);
}

#[test]
fn a_put_with_environments_clears_the_suspicion() {
    let mut bench = Bench::new(&[]);
    bench.message(1, 0, 0, put(&[("a", Some(1))]));
    bench.message(1, 0, 10, put(&[]));
    bench.message(2, 15, 15, put(&[("a", Some(1))]));
    bench.message(2, 15, 40, put(&[]));
    assert_eq!(bench.running(), "sdk-a-1", "the first word of a new suspicion");
}

#[test]
fn a_put_of_nothing_usable_does_not_remove_everything_at_once() {
    let mut bench = Bench::new(&[]);
    bench.message(1, 0, 0, put(&[("a", Some(1))]));
    bench.message(1, 0, 1, put(&[("new", None)]));
    assert_eq!(bench.running(), "sdk-a-1");
    assert!(matches!(bench.step, Some(StreamStep::ConfirmAt(_))));
    bench.message(2, 9, 9, put(&[("new", None)]));
    assert_eq!((bench.running().as_str(), bench.list), ("", ListState::Provisional));

    // At a cold start it does not displace what a cache is about to bring.
    let mut bench = Bench::new(&[Tier::Local]);
    bench.message(1, 0, 0, put(&[("a", None)]));
    bench.cache(Tier::Local, cached(1, &[("a", 1)]));
    assert_eq!((bench.running().as_str(), bench.list), ("sdk-a-1", ListState::Provisional));
    bench.message(2, 6, 6, put(&[("a", None)]));
    assert_eq!(bench.running(), "sdk-a-1");
}

#[test]
fn an_old_suspicion_does_not_confirm_a_new_one() {
    let mut bench = Bench::new(&[Tier::Local]);
    bench.message(1, 0, 0, put(&[]));
    assert!(bench.step.is_some(), "a cache may still tell of environments");
    bench.cache(Tier::Local, CacheOutcome::Empty);
    bench.message(2, 5, 5, put(&[]));
    assert_eq!(bench.list, ListState::Authoritative, "nothing was there to lose");
    bench.message(2, 5, 6, Message::PatchEnvironment("a".to_owned(), Ok(record("a", 1))));
    bench.message(3, 60, 60, put(&[]));
    assert_eq!(bench.running(), "sdk-a-1", "the first word of a new suspicion");
    assert!(bench.step.is_some());
}

#[test]
fn deleting_the_last_environment_is_confirmed_too() {
    let mut bench = Bench::new(&[]);
    bench.message(1, 0, 0, put(&[("a", Some(1)), ("b", Some(1))]));
    bench.message(1, 0, 1, Message::DeleteEnvironment("b".to_owned(), 2));
    bench.message(1, 0, 2, Message::DeleteEnvironment("a".to_owned(), 2));
    assert_eq!(bench.running(), "sdk-a-1");
    assert!(matches!(bench.step, Some(StreamStep::ConfirmAt(_))));
    bench.message(2, 8, 8, put(&[]));
    assert_eq!(bench.running(), "");
}

#[test]
fn an_empty_put_waits_for_the_caches() {
    let mut bench = Bench::new(&[Tier::Local]);
    bench.message(1, 0, 0, put(&[]));
    assert_eq!(bench.list, ListState::Unknown);
    bench.cache(Tier::Local, cached(1, &[("a", 1)]));
    assert_eq!(bench.running(), "sdk-a-1");
    bench.message(2, 6, 6, put(&[("a", Some(1))]));
    assert_eq!(bench.list, ListState::Authoritative);

    let mut bench = Bench::new(&[Tier::Local]);
    bench.cache(Tier::Local, CacheOutcome::Empty);
    bench.message(1, 0, 0, put(&[]));
    assert_eq!(bench.list, ListState::Authoritative, "nothing was there to lose");
}

#[path = "state_properties.rs"]
mod properties;
