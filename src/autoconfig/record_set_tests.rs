use std::time::Duration;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A set from words: `a3` a record, `?a3` one without a voucher, `-a3` a removed one, `!a3` one
/// that the manifest lists and that is missing.
fn set(confirmed_at: u64, words: &str) -> CachedSet {
    let stamp = Some(Stamp { confirmed_at: Some(at(confirmed_at)), sequence: 1 });
    let mut set = CachedSet { stamp, complete: true, ..CachedSet::default() };
    for word in words.split_whitespace() {
        let (mark, word) = match word.split_at(1) {
            (mark @ ("?" | "-" | "!"), rest) => (mark, rest),
            _ => ("", word),
        };
        let (id, version) = word.split_at(1);
        let version: i64 = version.parse().unwrap();
        let name = environment_name(id);
        match mark {
            "-" => {
                set.records.gone.insert(name, Gone { version, order: 1 });
            }
            "!" => {
                set.missing.insert(name, version);
            }
            _ => {
                let value = json!({"envID": id, "sdkKey": {"value": "sdk-a"}, "version": version});
                let record = EnvironmentRecord::from_json(&value).unwrap();
                set.records.environments.insert(id.to_owned(), Arc::new(record));
                if mark == "?" {
                    set.unvouched.insert(name);
                }
            }
        }
    }
    set
}

fn shown(set: &CachedSet) -> String {
    let mut words: Vec<String> = set
        .records
        .environments
        .iter()
        .map(|(id, record)| {
            let mark = if set.unvouched.contains(&environment_name(id)) { "?" } else { "" };
            format!("{mark}{id}{}", record.version)
        })
        .collect();
    words.extend(set.records.gone.iter().map(|(name, g)| format!("-{}{}", &name[4..], g.version)));
    words.extend(set.missing.iter().map(|(name, version)| format!("!{}{version}", &name[4..])));
    words.join(" ")
}

/// Merges both ways round: the order in which tiers answer decides nothing.
#[track_caller]
fn check(one: &str, other: &str, expected: &str) {
    // The clock of the first is far ahead.
    let (one, other) = (set(1_000_000, one), set(10, other));
    assert_eq!(shown(&one.merged_with(&other)), expected, "{one:?} {other:?}");
    assert_eq!(shown(&other.merged_with(&one)), expected, "{other:?} {one:?}");
}

#[test]
fn of_two_tiers_the_higher_version_of_each_record_counts_whatever_their_clocks_say() {
    check("a1 b2", "a2 b1", "a2 b2");
    check("a1", "b1", "a1 b1");
    check("", "a1", "a1");
}

#[test]
fn what_one_tier_knows_to_be_removed_does_not_come_back_from_the_other() {
    check("a1 b1", "b1 -a1", "b1 -a1");
    check("a1 b1", "b1 -a2", "b1 -a2");
    check("a3", "-a2", "a3");
    check("-a1", "-a3", "-a3");
}

#[test]
fn a_record_that_is_missing_in_a_newer_form_is_outdated_in_the_older_one() {
    check("a1 b1", "b1 !a2", "b1 !a2");
    check("a2 b1", "b1 !a2", "a2 b1");
    check("-a2", "!a2", "-a2");
    check("-a1", "!a2", "-a1 !a2");
}

#[test]
fn a_voucher_of_one_tier_is_enough() {
    check("?a1", "a1", "a1");
    check("?a2", "a1", "?a2");
}

#[test]
fn a_merged_set_is_as_old_as_its_oldest_record() {
    let age = |one: CachedSet, other: CachedSet| one.merged_with(&other).confirmed_at();
    assert_eq!(age(set(10, "a1 b1"), set(20, "a1 b1")), Some(at(20)), "both hold the same");
    assert_eq!(age(set(10, "a1 b1"), set(20, "a1")), Some(at(10)));
    assert_eq!(age(set(10, "a1"), set(20, "a2")), Some(at(20)));
    assert_eq!(age(set(10, "a1"), set(20, "a1 ?b1")), None, "nobody knows how old that is");
}

#[test]
fn a_tier_lacks_what_is_newer_removed_or_without_a_voucher() {
    let lacks = |held: &str, known: &str| set(1, held).lacks(&set(1, known).records);
    assert!(!lacks("a1 -b1", "a1 -b1"));
    assert!(!lacks("a2", "a2"));
    assert!(lacks("a1", "a2"));
    assert!(lacks("a1", "a1 b1"));
    assert!(lacks("a1 b1", "a1 -b1"));
    assert!(lacks("a1", "a1 -b1"));
    assert!(lacks("?a1", "a1"));
    assert!(lacks("", "a1"));
}

#[test]
fn removals_are_remembered_up_to_a_limit_the_newest_first() {
    let mut gone = BTreeMap::new();
    for number in 0..GONE_MAX + 10 {
        let order = next_order(&gone);
        add_gone(&mut gone, [(&format!("env:{number:05}"), &Gone { version: 1, order })]);
    }
    assert_eq!(gone.len(), GONE_MAX);
    assert!(!gone.contains_key("env:00009") && gone.contains_key("env:00010"));
}

#[test]
fn an_environment_filed_under_a_foreign_id_is_refused() {
    let value = json!({"envID": "a", "sdkKey": {"value": "sdk-a"}});
    let record = EnvironmentRecord::from_json(&value).unwrap();
    let record = Record::Environment { record, complete: true };
    assert!(!RecordSet::default().insert("env:b", record));
}

fn sets() -> impl Strategy<Value = CachedSet> {
    let word = (0u8..3, prop_oneof![Just(""), Just("-"), Just("!")], 1i64..5);
    prop::collection::vec(word, 0..4).prop_map(|words| {
        // One word about each ID, as one manifest has.
        let unique: BTreeMap<u8, (&str, i64)> =
            words.into_iter().map(|(id, mark, version)| (id, (mark, version))).collect();
        let text: Vec<String> = unique
            .into_iter()
            .map(|(id, (mark, version))| format!("{mark}{}{version}", char::from(b'a' + id)))
            .collect();
        set(1, &text.join(" "))
    })
}

proptest! {
    #[test]
    fn merging_is_the_same_in_any_order(a in sets(), b in sets(), c in sets()) {
        let left = a.merged_with(&b).merged_with(&c);
        let right = c.merged_with(&a).merged_with(&b);
        prop_assert_eq!(&left.records.versions(), &right.records.versions());
        // Nothing comes back, however often a tier is read.
        prop_assert_eq!(left.merged_with(&a).records.versions(), left.records.versions());
        for (name, version) in left.records.versions() {
            for set in [&a, &b, &c] {
                prop_assert!(set.records.gone.get(&name).is_none_or(|gone| gone.version < version));
            }
        }
    }
}
