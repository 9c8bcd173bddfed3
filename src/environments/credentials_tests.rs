use super::*;
use crate::environments::test_support::{at, spec};
use crate::environments::{Lookup, Registry};
use crate::model::SdkKey;

fn environment(name: &str, keys: &str) -> Arc<Environment> {
    Arc::new(Environment::new(spec(name, keys), at(0)))
}

/// Tables as the supervisor makes them.
#[derive(Default)]
struct Bench {
    credentials: Credentials,
    registry: Registry,
    now: u64,
}

impl Bench {
    /// Rebuilds; returns how many leases ended.
    fn rebuild(&mut self, environments: &[&Arc<Environment>]) -> usize {
        let environments = environments.iter().map(|environment| (*environment).clone()).collect();
        let list = ListState::Authoritative;
        let (table, ended) = self.credentials.rebuild(list, &environments, at(self.now));
        self.registry.swap(table);
        ended.iter().for_each(|(_, lease)| lease.revoke());
        ended.len()
    }

    fn access(&self, key: &str) -> Option<Access> {
        let credential = Credential::Sdk(SdkKey::new(key));
        match self.registry.look_up(&credential, &FilterKey::new(""), || at(self.now)) {
            Lookup::Found(access) => Some(access),
            Lookup::UnknownCredential => None,
            other => panic!("{other:?}"),
        }
    }

    /// Environments that these keys open, `-` for none.
    fn opened(&self, keys: &str) -> String {
        let name = |key| match self.access(key) {
            Some(access) => access.environment.reference.to_string(),
            None => "-".to_owned(),
        };
        keys.split_whitespace().map(name).collect::<Vec<_>>().join(" ")
    }
}

#[test]
fn a_key_that_stays_keeps_its_lease_and_one_that_goes_loses_it() {
    let mut bench = Bench::default();
    let one = environment("one", "a b");
    assert_eq!(bench.rebuild(&[&one]), 0);
    let (a, b) = (bench.access("a").unwrap(), bench.access("b").unwrap());
    one.set_spec(spec("one", "a c"));
    assert_eq!(bench.rebuild(&[&one]), 1);
    assert_eq!(bench.opened("a b c"), "one - one");
    assert_eq!((a.lease.is_revoked(), b.lease.is_revoked()), (false, true));
    // With another environment it gets another lease.
    let two = environment("two", "a");
    assert_eq!(bench.rebuild(&[&two]), 3, "all of the removed one");
    assert!(a.lease.is_revoked() && !bench.access("a").unwrap().lease.is_revoked());
}

#[test]
fn an_expired_key_is_refused_at_once_and_dropped_at_the_next_look() {
    let mut bench = Bench::default();
    let one = environment("one", "a b@7 c@9");
    bench.rebuild(&[&one]);
    let b = bench.access("b").unwrap();
    bench.now = 7;
    assert!(!bench.credentials.has_expired(at(7)), "not before it has passed");
    assert_eq!(bench.opened("b c"), "one one");
    bench.now = 8;
    assert!(bench.credentials.has_expired(at(8)));
    assert_eq!((bench.opened("b c").as_str(), b.lease.is_revoked()), ("- one", false));
    assert_eq!(bench.rebuild(&[&one]), 1);
    assert!(b.lease.is_revoked());
    assert!(!bench.credentials.has_expired(at(9)));
    // Without an expiry it is valid again.
    one.set_spec(spec("one", "a b c@9"));
    bench.rebuild(&[&one]);
    assert_eq!(bench.opened("b"), "one");
}

#[test]
fn while_the_list_is_doubtful_an_expired_key_is_no_more_refused_than_an_unknown_one() {
    let one = environment("one", "a b@7");
    let registry = Registry::default();
    let rebuilt = |credentials: &mut Credentials, second| {
        let environments = Arc::from([one.clone()]);
        registry.swap(credentials.rebuild(ListState::Provisional, &environments, at(second)).0);
        let credential = Credential::Sdk(SdkKey::new("b"));
        registry.look_up(&credential, &FilterKey::new(""), || at(8))
    };
    let mut credentials = Credentials::default();
    for second in [7, 8] {
        let found = rebuilt(&mut credentials, second);
        assert!(matches!(found, Lookup::UnknownForNow), "{second}: {found:?}");
    }
}

#[test]
fn a_replaced_key_is_refused_at_once() {
    let mut bench = Bench::default();
    let one = environment("one", "a");
    bench.rebuild(&[&one]);
    let a = bench.access("a").unwrap();
    one.set_spec(spec("one", "b"));
    assert_eq!(bench.rebuild(&[&one]), 1);
    assert_eq!(bench.opened("a b"), "- one");
    assert!(a.lease.is_revoked());
    // The list defines the grace period.
    one.set_spec(spec("one", "c b@3"));
    assert_eq!(bench.rebuild(&[&one]), 0);
    assert_eq!(bench.opened("b c"), "one one");
}

#[test]
fn when_the_list_is_no_longer_authoritative_only_what_is_known_to_be_over_is_refused_for_good() {
    let (one, two) = (environment("one", "a b@7 c"), environment("two", "d"));
    let registry = Registry::default();
    let mut credentials = Credentials::default();
    let mut rebuild = |list, environments: &[&Arc<Environment>], second| {
        let environments = environments.iter().map(|environment| (*environment).clone()).collect();
        registry.swap(credentials.rebuild(list, &environments, at(second)).0);
    };
    let answer = |key: &str, second| {
        let credential = Credential::Sdk(SdkKey::new(key));
        match registry.look_up(&credential, &FilterKey::new(""), || at(second)) {
            Lookup::Found(_) => "found",
            Lookup::UnknownForNow => "later",
            Lookup::UnknownCredential => "never",
            Lookup::NoList | Lookup::UnknownFilter => "other",
        }
    };
    rebuild(ListState::Authoritative, &[&one, &two], 1);
    one.set_spec(spec("one", "a b@7"));
    rebuild(ListState::Authoritative, &[&one], 2);
    assert_eq!(["c", "d", "x"].map(|key| answer(key, 2)), ["never"; 3]);
    rebuild(ListState::Lapsed, &[&one], 3);
    let answers = ["a", "b", "c", "d", "x"].map(|key| answer(key, 3));
    assert_eq!(answers, ["found", "found", "never", "never", "later"]);
    // It has expired, before and after the next check.
    assert_eq!(answer("b", 8), "never");
    rebuild(ListState::Lapsed, &[&one], 8);
    assert_eq!(answer("b", 8), "never");
    // A key that is back opens again.
    rebuild(ListState::Lapsed, &[&one, &two], 9);
    assert_eq!(answer("d", 9), "found");
    rebuild(ListState::Authoritative, &[&one, &two], 10);
    assert_eq!(answer("x", 10), "never");
}

#[test]
fn of_two_environments_with_the_same_key_the_first_keeps_it() {
    let mut bench = Bench::default();
    let (one, two) = (environment("one", "a"), environment("two", "a b"));
    bench.rebuild(&[&one, &two]);
    assert_eq!(bench.opened("a b"), "one two");
    let conflicts = bench.credentials.conflicts.clone();
    assert_eq!(conflicts.len(), 1);
    bench.rebuild(&[&one, &two]);
    assert_eq!(bench.credentials.conflicts, conflicts, "known, so not told again");
    bench.rebuild(&[&two]);
    assert_eq!((bench.opened("a").as_str(), bench.credentials.conflicts.len()), ("two", 0));
}
