use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::super::codec::Skipped;
use super::super::keeper::{Place, SharedPlace};
use super::super::ld_relay_format::LdRelayKeys;
use super::super::memory::{MemoryBackend, records};
use super::super::orders::Source;
use super::*;
use crate::autoconfig::record_set::{CachedSet, Stamp};
use crate::sealing::{KeyRing, SealingKey};
use crate::storage::{Health, StoreError};

fn keys(texts: &[&str]) -> CacheKeys {
    let mut ring = texts.iter().map(|text| SealingKey::derive(text));
    CacheKeys {
        ring: KeyRing::new(ring.next().unwrap(), ring),
        ld_relay: LdRelayKeys::derive(texts[0], texts[1..].iter().copied()),
    }
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// A relay on the shared database.
struct Relay {
    tier: SharedTier,
    place: SharedPlace<MemoryBackend>,
    start: Instant,
    _keys: watch::Sender<CacheKeys>,
    _health: watch::Sender<Health>,
}

impl Relay {
    fn new(
        sealed: &MemoryBackend,
        theirs: &MemoryBackend,
        format: CacheFormat,
        key_texts: &[&str],
    ) -> Self {
        let keys = watch::Sender::new(keys(key_texts));
        let health = watch::Sender::new(Health::connected_at(Instant::now()));
        Self {
            tier: SharedTier::new("cache", (format, Adopt::Once), "w", keys.subscribe()),
            place: SharedPlace::new(
                sealed.clone(),
                theirs.clone(),
                health.subscribe(),
                keys.subscribe(),
            ),
            start: Instant::now(),
            _keys: keys,
            _health: health,
        }
    }

    /// Reads all rows that are needed for that.
    async fn reading(&mut self, purpose: Purpose) -> Result<Option<Reading>, StoreError> {
        let mut part = self.tier.read(purpose);
        loop {
            let call = match part {
                Part::Call(call) => call,
                Part::Done(reading) => return Ok(reading),
                Part::Overtaken => unreachable!("nothing is written"),
            };
            let answer = self.place.call(call).await?;
            part = self.tier.read_on(answer, &Moment::present());
        }
    }

    async fn told(&mut self) -> Reading {
        self.reading(Purpose::Tell).await.unwrap().unwrap()
    }

    /// Writes, and begins again when a peer was faster.
    async fn written(&mut self, wanted: &Wanted) -> Written {
        for _ in 0..5 {
            self.reading(Purpose::Write).await.unwrap();
            let mut part = self.tier.write(wanted, &Moment::present());
            while let Part::Call(call) = part {
                let answer = self.place.call(call).await.unwrap();
                part = self.tier.write_on(answer, &Moment::present());
            }
            if let Part::Done(written) = part {
                return written;
            }
        }
        panic!("overtaken again and again");
    }

    /// Writes at that second, or now if it has passed, with a stream that delivers something all
    /// the time.
    async fn write(&mut self, environments: &[(&str, i64)], seconds: u64) -> Written {
        self.write_having_heard(environments, seconds, seconds).await
    }

    /// Writes with a stream on which something arrived last at second `heard`.
    async fn write_having_heard(
        &mut self,
        environments: &[(&str, i64)],
        seconds: u64,
        heard: u64,
    ) -> Written {
        let heard_at = self.start + Duration::from_secs(heard);
        self.update(environments, seconds, Some(heard_at)).await
    }

    /// Writes when the stream died at that second.
    async fn write_when_not_live(&mut self, environments: &[(&str, i64)], died: u64) -> Written {
        self.update(environments, died, None).await
    }

    async fn update(
        &mut self,
        environments: &[(&str, i64)],
        seconds: u64,
        heard_at: Option<Instant>,
    ) -> Written {
        let wanted = Wanted {
            records: Arc::new(records(environments)),
            confirmed_at: Some(at(seconds)),
            source: Source::Stream,
            live: heard_at.is_some(),
            heard: Heard { at: heard_at.unwrap_or(self.start), resumed_at: self.start },
        };
        tokio::time::sleep_until(self.start + Duration::from_secs(seconds)).await;
        self.written(&wanted).await
    }

    /// The content that is read: IDs with versions, `!` if incomplete; or the outcome's name.
    async fn read(&mut self) -> String {
        match self.told().await.outcome {
            CacheOutcome::Loaded(set) => {
                let mark = if set.complete { "" } else { "!" };
                let shown: Vec<_> = set
                    .records
                    .environments
                    .iter()
                    .map(|(id, record)| format!("{id}{}", record.version))
                    .collect();
                format!("{}{mark}", shown.join(" "))
            }
            other => format!("{other:?}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_written_is_read_whole() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut relay = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    assert_eq!(relay.read().await, "Empty");
    relay.write(&[("a", 1), ("b", 1)], 1).await;
    assert_eq!(relay.read().await, "a1 b1");
    assert_eq!(relay.write(&[("a", 1), ("b", 1)], 2).await.rows, 0, "nothing differs");
    assert_eq!(relay.write(&[("a", 1), ("b", 2)], 3).await.rows, 2, "one record, one manifest");
    assert_eq!(relay.write(&[("b", 2)], 4).await.rows, 2);
    assert_eq!(relay.read().await, "b2");
    assert!(theirs.with(|state| state.rows.is_empty()), "ld-relay's rows are left alone");
    // An old manifest is confirmed although nothing differs.
    assert_eq!(relay.write(&[("b", 2)], 4 + 600).await.rows, 1);
}

#[tokio::test(start_paused = true)]
async fn a_lost_record_or_manifest_shows_as_incomplete_and_is_repaired() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut relay = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    relay.write(&[("a", 1), ("b", 1)], 1).await;
    let codec = relay.tier.codec(CacheFormat::Sealed);
    sealed.with(|state| state.rows.remove(&codec.row_name("env:a")));
    assert_eq!(relay.read().await, "b1!");
    assert_eq!(relay.write(&[("a", 1), ("b", 1)], 2).await.rows, 1);
    sealed.with(|state| state.rows.remove(&codec.row_name(MANIFEST_NAME)));
    assert_eq!(relay.read().await, "a1 b1!");
    relay.write(&[("a", 1), ("b", 1)], 3).await;
    sealed.with(|state| state.rows.clear());
    assert_eq!(relay.read().await, "Empty");
    relay.write(&[("a", 1), ("b", 1)], 4).await;
    assert_eq!(relay.read().await, "a1 b1");
}

#[tokio::test(start_paused = true)]
async fn a_lagging_relay_neither_overwrites_nor_removes_what_a_peer_knows() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut ahead = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    let mut behind = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    ahead.write(&[("a", 5), ("new", 1)], 1).await;
    behind.write(&[("a", 4)], 2).await;
    assert_eq!(ahead.read().await, "a5 new1");
    assert!(behind.tier.has_doubts());
    // Something else to write soon after is no second check.
    behind.write(&[("a", 4), ("b", 1)], 3).await;
    assert_eq!(ahead.read().await, "a5 b1 new1");
    // Its stream is stuck: however long that lasts, it knows no better. What it received a moment
    // after the first check may have been on its way already.
    for heard in [1, 2, 3] {
        behind.write_having_heard(&[("a", 4), ("b", 1)], 200, heard).await;
        assert_eq!(ahead.read().await, "a5 b1 new1");
    }
    // Its own stream delivers the changes before the second check.
    behind.write(&[("a", 5), ("b", 1), ("new", 1)], 201).await;
    assert!(!behind.tier.has_doubts());
    behind.write(&[("a", 5)], 202).await;
    assert_eq!(ahead.read().await, "a5", "they had been its own: removed at once");
}

#[tokio::test(start_paused = true)]
async fn what_was_stored_during_a_slow_read_is_as_new_as_the_end_of_that_read() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut ahead = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    let mut behind = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    behind.write(&[("a", 1)], 1).await;
    let slow = async {
        sealed.with(|state| state.latency = Duration::from_secs(10));
        behind.write(&[("a", 1)], 2).await;
    };
    let stored = async {
        tokio::time::sleep_until(ahead.start + Duration::from_secs(9)).await;
        sealed.with(|state| state.latency = Duration::ZERO);
        ahead.write(&[("a", 1), ("new", 1)], 10).await;
    };
    tokio::join!(slow, stored);
    assert!(behind.tier.has_doubts(), "it was seen");
    // The stream was alive while the read went on, and has been stuck since.
    behind.write_having_heard(&[("a", 1)], 30, 9).await;
    assert_eq!(ahead.read().await, "a1 new1");
    behind.write(&[("a", 1)], 31).await;
    assert_eq!(ahead.read().await, "a1");
}

#[tokio::test(start_paused = true)]
async fn what_launchdarkly_does_not_tell_goes_with_the_second_look() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut before = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    before.write(&[("a", 5), ("left-over", 1), ("ahead", 9)], 5).await;
    let mut fresh = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    fresh.write(&[("a", 5), ("ahead", 8)], 6).await;
    assert_eq!(fresh.read().await, "a5 ahead9 left-over1", "whole all the while");
    fresh.write(&[("a", 5), ("ahead", 8)], 10).await;
    assert_eq!(fresh.read().await, "a5 ahead9 left-over1", "too early");
    assert_eq!(fresh.write(&[("a", 5), ("ahead", 8)], 11).await.rows, 3);
    assert_eq!(fresh.read().await, "a5 ahead8");
    assert!(!fresh.tier.has_doubts());
}

#[tokio::test(start_paused = true)]
async fn a_relay_that_is_not_live_writes_only_what_nobody_knows_better() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut dead = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    // Records that it had accepted reach a database that was away.
    assert_eq!(dead.write_when_not_live(&[("a", 1), ("b", 1)], 10).await.rows, 3);
    assert_eq!(dead.read().await, "a1 b1");
    // A peer received a deletion after its stream had died.
    let mut peer = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    peer.write(&[("a", 1), ("b", 1)], 11).await;
    peer.write(&[("a", 2)], 20).await;
    let written = dead.write_when_not_live(&[("a", 1), ("b", 1)], 15).await;
    assert_eq!((written.rows, written.records, written.complete), (0, 1, true));
    assert_eq!(written.stamp.unwrap().confirmed_at, Some(at(20)));
    assert_eq!(dead.read().await, "a2", "what was deleted does not come back");
    // Its clock runs fast, so that what it accepted seems to be newer. Clocks decide nothing.
    let written = dead.write_when_not_live(&[("a", 1), ("b", 1), ("c", 1)], 60).await;
    assert_eq!(written.rows, 0);
    assert_eq!(dead.read().await, "a2");
    // Records that it knows at a higher version are added; that does not confirm the age of the
    // set.
    let written = dead.write_when_not_live(&[("a", 3), ("b", 1)], 70).await;
    assert_eq!((written.rows, written.stamp.unwrap().confirmed_at), (2, Some(at(20))));
    assert_eq!(dead.read().await, "a3");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_put_back_is_not_used() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut relay = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    relay.write(&[("a", 1), ("b", 1)], 1).await;
    let old = sealed.with(|state| state.rows.clone());
    relay.write(&[("a", 2)], 2).await;
    let codec = relay.tier.codec(CacheFormat::Sealed);
    for name in ["env:a", "env:b"] {
        let row = codec.row_name(name);
        sealed.with(|state| state.rows.insert(row.clone(), old[&row].clone()));
    }
    let reading = relay.told().await;
    assert_eq!(reading.skipped, Skipped { rolled_back: 2, ..Skipped::default() });
    assert_eq!(relay.read().await, "!");
    // A live relay corrects it at once.
    relay.write(&[("a", 2)], 3).await;
    assert_eq!(relay.read().await, "a2");
}

#[tokio::test(start_paused = true)]
async fn one_row_that_does_not_open_costs_no_more_names() {
    const COUNT: i64 = 1_500;
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut relay = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    let ids: Vec<String> = (0..COUNT).map(|number| format!("e{number:04}")).collect();
    let environments: Vec<(&str, i64)> = ids.iter().map(|id| (id.as_str(), 1)).collect();
    relay.write(&environments, 1).await;
    sealed.with(|state| {
        let row =
            Row { name: "junk".to_owned(), value: bytes::Bytes::from_static(b"x"), revision: 0 };
        state.rows.insert("junk".to_owned(), row);
    });
    let before = super::super::codec::NAMES_COMPUTED.get();
    let written = relay.write(&environments, 2).await;
    assert_eq!((written.rows, written.skipped.undecodable), (0, 1));
    let computed = super::super::codec::NAMES_COMPUTED.get() - before;
    assert!(computed <= ids.len() + 10, "{computed} row names for {} records", ids.len());
}

#[tokio::test(start_paused = true)]
async fn a_write_tells_what_is_stored_after_it() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut relay = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    let junk = |name: &str| Row {
        name: name.to_owned(),
        value: bytes::Bytes::from_static(b"junk"),
        revision: 0,
    };
    let ours = relay.tier.codec(CacheFormat::Sealed).row_name("env:a");
    sealed.with(|state| {
        state.rows.insert("else".to_owned(), junk("else"));
        state.rows.insert(ours.clone(), junk(&ours));
    });
    assert_eq!(relay.read().await, "Unreadable");
    let written = relay.write(&[("a", 1)], 7).await;
    let expected = Written {
        rows: 2,
        records: 1,
        skipped: Skipped { undecodable: 1, ..Skipped::default() },
        stamp: Some(Stamp { confirmed_at: Some(at(7)), sequence: 1 }),
        complete: true,
        too_large: Vec::new(),
    };
    assert_eq!(written, expected);
    // A start reads the same, whatever else lies there.
    assert_eq!(relay.read().await, "a1");
    let CacheOutcome::Loaded(set) = relay.told().await.outcome else { panic!("not read") };
    assert!(set.complete);
    // The time of the present manifest, not that of the visit.
    assert_eq!(relay.write(&[("a", 1)], 9).await, Written { rows: 0, ..expected });
    let mut mixed = Relay::new(&sealed, &theirs, CacheFormat::LdRelay, &["k"]);
    let written = mixed.write(&[("a", 1)], 8).await;
    assert_eq!((written.rows, written.complete), (2, true), "with a manifest of its own");
}

#[tokio::test(start_paused = true)]
async fn a_new_key_reseals_and_an_unknown_one_is_a_state_of_its_own() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut old = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["old"]);
    old.write(&[("a", 1), ("b", 1)], 1).await;
    let mut new = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["new", "old"]);
    assert_eq!(new.read().await, "a1 b1");
    new.write(&[("a", 1), ("b", 1)], 2).await;
    assert_eq!(old.read().await, "Unreadable");
    let mut only_new = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["new"]);
    assert_eq!(only_new.read().await, "a1 b1");
    assert_eq!(sealed.with(|state| state.rows.len()), 3, "nothing of the old key is left");
}

#[tokio::test(start_paused = true)]
async fn ld_relays_rows_are_read_where_there_are_none_of_ours() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut mixed = Relay::new(&sealed, &theirs, CacheFormat::LdRelay, &["k"]);
    mixed.write(&[("a", 1), ("b", 1)], 1).await;
    let names: Vec<_> = theirs.with(|state| state.rows.keys().cloned().collect());
    assert_eq!(names, ["env:a", "env:b"], "names in clear");
    assert_eq!(sealed.with(|state| state.rows.len()), 1, "the manifest stands among ours");
    assert_eq!(mixed.read().await, "a1 b1");
    let old = theirs.with(|state| state.rows.clone());
    mixed.write(&[("a", 2), ("b", 1)], 3).await;
    theirs.with(|state| state.rows.insert("env:a".to_owned(), old["env:a"].clone()));
    assert_eq!(mixed.read().await, "b1!", "an older row is not used in this format either");
    mixed.write(&[("a", 2), ("b", 1)], 4).await;
    let mut ours = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["other", "k"]);
    assert_eq!(ours.read().await, "a2 b1!");
    ours.write(&[("a", 3)], 5).await;
    assert_eq!(ours.read().await, "a3", "a sealed manifest comes before ld-relay's rows");
    assert_eq!(mixed.read().await, "a2 b1");
    theirs.with(|state| {
        let row = state.rows.get_mut("env:b").unwrap();
        row.value = bytes::Bytes::from_static(b"junk");
    });
    let reading = mixed.told().await;
    // The sealed rows of the other key are counted with it.
    assert_eq!(reading.skipped, Skipped { unknown_key: 3, ..Skipped::default() });
    let adopted = |outcome: CacheOutcome<CachedSet>| match outcome {
        CacheOutcome::Loaded(set) => set.origin == SetOrigin::Adopted && set.stamp.is_none(),
        CacheOutcome::Empty | CacheOutcome::Unavailable | CacheOutcome::Unreadable => false,
    };
    // ld-relay's rows do not take the place of sealed rows if only the manifest is lost.
    let codec = ours.tier.codec(CacheFormat::Sealed);
    sealed.with(|state| state.rows.remove(&codec.row_name(MANIFEST_NAME)));
    assert!(!adopted(ours.told().await.outcome));
    sealed.with(|state| state.rows.clear());
    assert!(adopted(ours.told().await.outcome));
    ours.tier.adopt = Adopt::Never;
    assert_eq!(ours.read().await, "Empty");
}

#[tokio::test(start_paused = true)]
async fn a_record_that_is_too_large_is_named_and_blocks_no_other() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    sealed.with(|state| state.value_bytes_max = Some(400));
    let mut relay = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    let long = "x".repeat(400);
    let written = relay.write(&[("a", 1), (&long, 1)], 1).await;
    assert_eq!(written.too_large, [format!("env:{long}")]);
    assert_eq!((written.records, written.complete), (1, false));
    assert_eq!(relay.read().await, "a1!", "the manifest knows of one that is not there");
    assert_eq!(relay.write(&[("a", 1), (&long, 1)], 2).await.rows, 0, "and is not written again");
    let written = relay.write(&[("a", 1)], 3).await;
    assert_eq!((written.rows, written.complete), (1, true));
    assert_eq!(relay.read().await, "a1");
}

#[tokio::test(start_paused = true)]
async fn an_outage_is_an_error_not_an_empty_cache() {
    let (sealed, theirs) = (MemoryBackend::default(), MemoryBackend::default());
    let mut relay = Relay::new(&sealed, &theirs, CacheFormat::Sealed, &["k"]);
    sealed.with(|state| state.away = true);
    assert!(relay.reading(Purpose::Tell).await.unwrap_err().is_transient());
}
