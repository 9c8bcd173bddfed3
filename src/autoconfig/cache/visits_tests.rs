use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::*;
use crate::autoconfig::cache::local_tier::{Call, LocalTier, judge_local};
use crate::autoconfig::cache::memory::{self, MemoryDisk};
use crate::autoconfig::cache::orders::CacheOrders;
use crate::autoconfig::record_set::{RecordSet, Stamp};
use crate::autoconfig::startup_race::CacheOutcome;
use crate::replica::{Replica, Step, Timing};
use crate::storage::local::LocalStoreStatus;
use tokio::time::Instant;

/// One visit of a new process to the store, with these orders.
fn visit(disk: &mut MemoryDisk, orders: &CacheOrders) {
    visit_with(None, disk, orders);
}

fn visit_with(age_max: Option<Duration>, disk: &mut MemoryDisk, orders: &CacheOrders) {
    let settings = KeeperSettings { tier: Tier::Local, age_max, check_interval: None };
    let status = watch::Sender::new(LocalStoreStatus::default());
    let tier = LocalTier::new("w", status.subscribe());
    let report = SharedReport::default();
    let mut visits = RecordVisits::new(settings, tier, orders.subscribe(), report);
    let at = Moment::present();
    let mut progress = visits.begin(Due::Compare(Reason::Start), &at);
    while let Progress::Call(call) = progress {
        progress = visits.answered(disk.carry_out(call), &at);
    }
}

#[test]
fn a_file_that_was_replaced_is_read_although_another_visit_comes_first() {
    let settings = KeeperSettings { tier: Tier::Local, age_max: None, check_interval: None };
    let status = watch::Sender::new(LocalStoreStatus::default());
    let tier = LocalTier::new("w", status.subscribe());
    let orders = CacheOrders::default();
    let report = SharedReport::default();
    let visits = RecordVisits::new(settings, tier, orders.subscribe(), report);
    let mut at = Moment { random: 1.0, ..Moment::present() };
    let timing = Timing { check: None, reread: Duration::from_secs(15) };
    let mut replica = Replica::new(visits, timing, &at);
    let mut disk = MemoryDisk::default();
    let accepted = CacheOrders::default();
    accepted.accepted(Arc::new(records("a1")), at.now, at.wall);
    visit(&mut disk, &accepted);

    let mut step = replica.begin(1, &at);
    while let Step::Call(call) = step {
        step = replica.answered(Ok(disk.carry_out(call)), 1, &at);
    }
    at.now = replica.next().unwrap();
    replica.told(2, &at);
    assert!(matches!(replica.begin(2, &at), Step::Rest), "it need not read what it knows");
    at.now = replica.next().unwrap();
    assert!(matches!(replica.begin(2, &at), Step::Call(Call::Load)));
}

#[test]
fn what_comes_while_the_tier_is_read_is_reported_as_waiting_at_once() {
    for is_read in [true, false] {
        let settings = KeeperSettings { tier: Tier::Local, age_max: None, check_interval: None };
        let status = watch::Sender::new(LocalStoreStatus::default());
        let tier = LocalTier::new("w", status.subscribe());
        let (orders, report) = (CacheOrders::default(), SharedReport::default());
        let visits = RecordVisits::new(settings, tier, orders.subscribe(), report.clone());
        let at = Moment::present();
        let timing = Timing { check: None, reread: Duration::from_secs(15) };
        let mut replica = Replica::new(visits, timing, &at);
        let Step::Call(call) = replica.begin(1, &at) else { panic!("it reads") };
        orders.accepted(Arc::new(records("a1")), at.now, at.wall);
        let found = MemoryDisk::default().carry_out(call);
        let answer = if is_read { Ok(found) } else { Err(StoreError::Unreachable("away".into())) };
        assert!(matches!(replica.answered(answer, 1, &at), Step::Rest));
        assert!(report.get().write_pending, "read: {is_read}");
    }
}

/// Environments as `a1 b2`.
fn records(text: &str) -> RecordSet {
    let words = text.split_whitespace().map(|word| word.split_at(1));
    let environments: Vec<_> = words.map(|(id, version)| (id, version.parse().unwrap())).collect();
    memory::records(&environments)
}

/// What a start reads from the store: environments, `!` before missing ones, `-` before removed
/// ones, and `whole` if a manifest vouches for it.
fn shown(disk: &MemoryDisk) -> String {
    let CacheOutcome::Loaded(set) = judge_local(disk.named()).outcome else {
        return "nothing".to_owned();
    };
    let held =
        set.records.environments.iter().map(|(id, record)| format!("{id}{}", record.version));
    let missing = set.missing.iter().map(|(name, version)| format!("!{name}{version}"));
    let gone = set.records.gone.iter().map(|(name, gone)| format!("-{name}{}", gone.version));
    let unvouched = set.unvouched.iter().map(|name| format!("?{name}"));
    let mut words: Vec<String> = held.chain(missing).chain(gone).chain(unvouched).collect();
    words.extend(set.complete.then(|| "whole".to_owned()));
    words.join(" ")
}

/// A store after the stream has delivered, and after other tiers then said what they know.
fn stored(accepted: &str, known: &CachedSet) -> String {
    let mut disk = MemoryDisk::default();
    let orders = CacheOrders::default();
    orders.accepted(Arc::new(records(accepted)), Instant::now(), SystemTime::now());
    visit(&mut disk, &orders);
    let orders = CacheOrders::default();
    orders.learnt(Arc::new(known.clone()), Instant::now());
    visit(&mut disk, &orders);
    shown(&disk)
}

#[test]
fn what_is_too_old_is_replaced_and_not_added() {
    let mut disk = MemoryDisk::default();
    let (now, hour) = (SystemTime::now(), Duration::from_secs(3_600));
    let orders = CacheOrders::default();
    orders.accepted(Arc::new(records("a1 x1")), Instant::now(), now);
    orders.not_live(now - hour);
    visit(&mut disk, &orders);
    let stamp = Some(Stamp { confirmed_at: Some(now), sequence: 1 });
    let known = CachedSet { records: records("a2"), stamp, ..CachedSet::default() };
    let orders = CacheOrders::default();
    orders.learnt(Arc::new(known), Instant::now());
    visit_with(Some(hour / 2), &mut disk, &orders);
    assert_eq!(shown(&disk), "a2 whole");
}

/// A store that held the one, after the stream has delivered the other.
fn after_put(held: &str, accepted: RecordSet) -> String {
    let mut disk = MemoryDisk::default();
    for records in [records(held), accepted] {
        let orders = CacheOrders::default();
        orders.accepted(Arc::new(records), Instant::now(), SystemTime::now());
        visit(&mut disk, &orders);
    }
    shown(&disk)
}

#[test]
fn what_another_tier_lacks_stays_in_the_tier_of_this_machine() {
    let known = |text: &str| CachedSet { records: records(text), ..CachedSet::default() };
    assert_eq!(stored("a1 b1", &known("a1")), "a1 b1 whole");
    assert_eq!(stored("a1 b2", &known("a1 b1 c1")), "a1 b2 c1 whole");
    // A newer version of it is lost: the old one is not served, and nobody calls it removed.
    let lost = CachedSet { missing: BTreeMap::from([("env:b".to_owned(), 2)]), ..known("a1") };
    assert_eq!(stored("a1 b1", &lost), "a1 !env:b2");
    assert_eq!(stored("", &lost), "a1 !env:b2");
    let mut accepted = records("a1");
    accepted.unusable.insert("env:b".to_owned());
    assert_eq!(after_put("a1 b1", accepted.clone()), "a1 b1 whole", "its last good form");
    assert_eq!(after_put("a1", accepted), format!("a1 !env:b{}", i64::MIN));
    let unvouched = CachedSet { unvouched: ["env:c".to_owned()].into(), ..known("a1 c1") };
    assert_eq!(stored("a1", &unvouched), "a1 c1 ?env:c");
}
