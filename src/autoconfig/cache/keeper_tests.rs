use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::super::codec::Skipped;
use super::super::judge::Reading;
use super::super::orders::CacheOrders;
use super::super::report::ReadState;
use super::super::tier::{Part, Purpose, Written};
use super::*;
use crate::autoconfig::record_set::{RecordSet, Stamp};
use crate::replica::{Heard, STREAM_LAG};

/// A tier that the test controls. Clones share it.
#[derive(Clone, Debug, Default)]
struct Bench {
    state: Arc<Mutex<BenchState>>,
    disturbance: Arc<Notify>,
}

#[derive(Debug, Default)]
struct BenchState {
    /// Results of the next reads; the last one repeats. Without any, the tier is empty.
    reads: VecDeque<(u64, bool)>,
    away: bool,
    hangs: bool,
    doubts_since: Option<Instant>,
    read: usize,
    epoch: u64,
    /// Versions of the environment that were written, with whether the relay was live.
    written: Vec<(i64, bool)>,
    visits: usize,
}

impl Bench {
    fn with<R>(&self, act: impl FnOnce(&mut BenchState) -> R) -> R {
        act(&mut self.state.lock().unwrap())
    }

    /// The database has another connection.
    fn disturb(&self) {
        self.with(|state| state.epoch += 1);
        self.disturbance.notify_one();
    }

    fn doubts_since(&self) -> Option<Instant> {
        self.with(|state| state.doubts_since)
    }
}

/// Calls and answers of a bench.
#[derive(Debug)]
enum Step {
    Read,
    Found(Option<(u64, bool)>),
    Write(i64, bool),
    Wrote,
}

impl CacheTier for Bench {
    type Call = Step;
    type Answer = Step;

    fn read(&mut self, purpose: Purpose) -> Part<Step, Option<Reading>> {
        match purpose {
            Purpose::Tell => Part::Call(Step::Read),
            Purpose::Write => Part::Done(None),
        }
    }

    fn read_on(&mut self, answer: Step, _at: &Moment) -> Part<Step, Option<Reading>> {
        let outcome = match answer {
            Step::Found(Some((written_at, complete))) => {
                let confirmed_at = (written_at > 0)
                    .then(|| SystemTime::UNIX_EPOCH + Duration::from_secs(written_at));
                let stamp = Some(Stamp { confirmed_at, sequence: 1 });
                let set =
                    CachedSet { records: records(1), stamp, complete, ..CachedSet::default() };
                CacheOutcome::Loaded(set)
            }
            _ => CacheOutcome::Empty,
        };
        Part::Done(Some(Reading { outcome, skipped: Skipped::default() }))
    }

    fn write(&mut self, wanted: &Wanted, _at: &Moment) -> Part<Step, Written> {
        Part::Call(Step::Write(wanted.records.environments["a"].version, wanted.live))
    }

    fn write_on(&mut self, _answer: Step, _at: &Moment) -> Part<Step, Written> {
        Part::Done(Written { records: 1, complete: true, ..Written::default() })
    }

    fn failed(&mut self) {}

    fn has_doubts(&self) -> bool {
        self.doubts_since().is_some()
    }

    fn are_doubts_ripe(&self, heard: Heard, _at: &Moment) -> bool {
        self.doubts_since().is_some_and(|since| heard.at >= since + STREAM_LAG)
    }
}

impl Place<Bench> for Bench {
    async fn call(&mut self, call: Step) -> Result<Step, StoreError> {
        let is_write = matches!(call, Step::Write(..));
        self.with(|state| if is_write { state.visits += 1 } else { state.read += 1 });
        let (away, hangs) = self.with(|state| (state.away, state.hangs));
        if hangs {
            std::future::pending::<()>().await;
        }
        if away {
            return Err(StoreError::Unreachable("composed outage".into()));
        }
        Ok(match call {
            Step::Write(version, live) => {
                self.with(|state| state.written.push((version, live)));
                Step::Wrote
            }
            _ => Step::Found(self.with(|state| match state.reads.len() {
                0 | 1 => state.reads.front().copied(),
                _ => state.reads.pop_front(),
            })),
        })
    }

    fn epoch(&mut self) -> u64 {
        self.with(|state| state.epoch)
    }

    async fn disturbed(&mut self) {
        self.disturbance.notified().await;
    }
}

fn records(version: i64) -> RecordSet {
    super::super::memory::records(&[("a", version)])
}

/// A keeper of a bench, and its connections.
struct Around {
    bench: Bench,
    wanted: CacheOrders,
    results: mpsc::Receiver<(Tier, CacheOutcome<CachedSet>)>,
    report: SharedReport,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

fn start(bench: &Bench, settings: KeeperSettings) -> Around {
    let wanted = CacheOrders::default();
    let receiver = wanted.subscribe();
    let (sender, results) = mpsc::channel(100);
    let (report, cancel) = (SharedReport::default(), CancellationToken::new());
    bench.with(|state| state.epoch = 1);
    let ends = KeeperEnds { settings, wanted: receiver, results: sender, report: report.clone() };
    let mut tasks = JoinSet::new();
    tasks.spawn(keep(bench.clone(), bench.clone(), ends, cancel.clone()));
    Around { bench: bench.clone(), wanted, results, report, cancel, tasks }
}

fn shared() -> KeeperSettings {
    let check_interval = Some(Duration::from_secs(30));
    KeeperSettings { tier: Tier::Shared, age_max: None, check_interval }
}

impl Around {
    fn want(&self, version: i64) {
        self.wanted.accepted(Arc::new(records(version)), Instant::now(), SystemTime::now());
    }

    /// All tiers together know that version.
    fn know(&self, version: i64) {
        let known = CachedSet { records: records(version), ..CachedSet::default() };
        self.wanted.learnt(Arc::new(known), Instant::now());
    }

    fn die(&self) {
        self.wanted.not_live(SystemTime::now());
    }

    fn hear(&self) {
        self.wanted.heard(Instant::now());
    }

    /// Lets paused time pass.
    async fn pass(&self, seconds: u64) {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
    }

    fn visits(&self) -> usize {
        self.bench.with(|state| std::mem::take(&mut state.visits))
    }
}

#[tokio::test(start_paused = true)]
async fn a_tier_is_read_until_something_is_wanted() {
    let bench = Bench::default();
    bench.with(|state| state.away = true);
    let mut around = start(&bench, shared());
    around.pass(60).await;
    let failed = bench.with(|state| std::mem::take(&mut state.read));
    assert!((5..20).contains(&failed), "{failed}");
    assert_eq!(around.report.get().read, ReadState::Unavailable);
    assert_eq!(around.results.recv().await, Some((Tier::Shared, CacheOutcome::Unavailable)));

    // A database that returns is read at once, not after the pause that was due.
    bench.with(|state| {
        state.away = false;
        state.reads.push_back((7, true));
    });
    bench.disturb();
    around.pass(1).await;
    let report = around.report.get();
    assert_eq!((report.read, report.complete, report.records), (ReadState::Loaded, true, 1));
    around.pass(60).await;
    let read = bench.with(|state| std::mem::take(&mut state.read));
    assert!((4..8).contains(&read), "a peer may write something newer: {read}");

    around.want(2);
    around.pass(1).await;
    assert_eq!(bench.with(|state| state.written.clone()), [(2, true)]);
    around.pass(300).await;
    assert_eq!(bench.with(|state| state.read), 0, "no read after that");
}

#[tokio::test(start_paused = true)]
async fn what_the_other_tier_knows_is_added_before_launchdarkly_answers() {
    for (tier, known, expected) in [
        (Tier::Shared, 2, &[(2, false)][..]),
        (Tier::Local, 2, &[(2, false)]),
        // It is visited only if it lacks something.
        (Tier::Shared, 1, &[]),
    ] {
        let bench = Bench::default();
        bench.with(|state| state.reads.push_back((7, true)));
        let around = start(&bench, KeeperSettings { tier, ..shared() });
        around.pass(1).await;
        around.know(known);
        around.pass(1).await;
        assert_eq!(bench.with(|state| state.written.clone()), expected, "{tier:?}");
    }
    // A tier that does not answer gets it once it answers.
    let bench = Bench::default();
    bench.with(|state| state.away = true);
    let around = start(&bench, shared());
    around.know(2);
    around.pass(10).await;
    assert_eq!(around.visits(), 0);
    bench.with(|state| state.away = false);
    bench.disturb();
    around.pass(1).await;
    assert_eq!(bench.with(|state| state.written.clone()), [(2, false)]);
    // Records from LaunchDarkly end that.
    around.want(3);
    around.pass(1).await;
    assert_eq!(bench.with(|state| state.written.last().copied()), Some((3, true)));
}

#[tokio::test(start_paused = true)]
async fn the_tier_of_this_machine_is_read_again_only_if_it_held_nothing() {
    let bench = Bench::default();
    let around = start(&bench, KeeperSettings { tier: Tier::Local, ..shared() });
    around.pass(60).await;
    assert!(bench.with(|state| state.read) >= 4);
    bench.with(|state| state.reads.push_back((7, true)));
    around.pass(60).await;
    bench.with(|state| state.read = 0);
    around.pass(600).await;
    assert_eq!(bench.with(|state| state.read), 0);
    bench.disturb();
    around.pass(1).await;
    assert_eq!(bench.with(|state| state.read), 1);
}

#[tokio::test(start_paused = true)]
async fn sets_that_are_too_old_or_of_unknown_age_are_refused_where_a_limit_is_set() {
    let check = async |written_at: u64, age_max: Option<u64>, expected| {
        let bench = Bench::default();
        bench.with(|state| state.reads.push_back((written_at, true)));
        let age_max = age_max.map(Duration::from_secs);
        let mut around = start(&bench, KeeperSettings { age_max, ..shared() });
        let (_, outcome) = around.results.recv().await.unwrap();
        let is_loaded = matches!(outcome, CacheOutcome::Loaded(_));
        assert_eq!(
            (around.report.get().read, is_loaded),
            (expected, expected == ReadState::Loaded)
        );
    };
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    check(now - 100, None, ReadState::Loaded).await;
    check(now - 100, Some(1000), ReadState::Loaded).await;
    check(now - 100, Some(10), ReadState::TooOld).await;
    check(now + 100, Some(10), ReadState::Loaded).await;
    check(0, None, ReadState::Loaded).await;
    check(0, Some(10), ReadState::TooOld).await;
}

#[tokio::test(start_paused = true)]
async fn failed_writes_are_repeated_with_pauses_and_at_once_when_the_database_returns() {
    let bench = Bench::default();
    bench.with(|state| state.away = true);
    let around = start(&bench, shared());
    around.want(1);
    around.pass(60).await;
    let visits = around.visits();
    assert!((5..20).contains(&visits), "{visits}");
    let report = around.report.get();
    assert_eq!((report.read, report.write_pending), (ReadState::Unavailable, true));
    assert_eq!(report.error.as_deref(), Some("store is unreachable: composed outage"));
    bench.with(|state| state.away = false);
    bench.disturb();
    around.pass(1).await;
    let report = around.report.get();
    assert_eq!((report.read, report.write_pending), (ReadState::Loaded, false));
    assert_eq!((report.error, report.complete), (None, true));
    assert!(report.last_write.is_some());
}

#[tokio::test(start_paused = true)]
async fn a_hanging_tier_costs_a_bounded_time_and_never_spins() {
    let bench = Bench::default();
    bench.with(|state| state.hangs = true);
    let around = start(&bench, shared());
    around.want(1);
    around.pass(600).await;
    let visits = around.visits();
    assert!((600 / 50..=600 / 30 + 1).contains(&visits), "{visits}");
    assert_eq!(around.report.get().error.as_deref(), Some("store did not answer within 30s"));
}

#[tokio::test(start_paused = true)]
async fn losses_are_looked_for_at_the_interval_and_when_disturbed() {
    let bench = Bench::default();
    let around = start(&bench, shared());
    around.want(1);
    around.pass(1).await;
    assert_eq!(around.visits(), 1);
    around.pass(300).await;
    let visits = around.visits();
    assert!((9..=14).contains(&visits), "{visits}");
    bench.disturb();
    around.pass(1).await;
    assert!((1..=2).contains(&around.visits()));
}

#[tokio::test(start_paused = true)]
async fn what_relays_share_is_not_repaired_by_one_that_is_not_live() {
    for (tier, repairs) in [(Tier::Shared, false), (Tier::Local, true)] {
        let bench = Bench::default();
        let around = start(&bench, KeeperSettings { tier, ..shared() });
        around.want(1);
        around.pass(1).await;
        around.die();
        around.visits();
        bench.disturb();
        around.pass(100).await;
        let visits = around.visits();
        assert_eq!(visits > 0, repairs, "{tier:?} {visits}");
        assert!(visits < 10, "{tier:?} spins: {visits}");

        // Accepted records are still written, and a new connection of the database is used.
        bench.with(|state| state.away = true);
        around.want(2);
        around.pass(100).await;
        around.die();
        bench.with(|state| state.away = false);
        bench.disturb();
        around.pass(1).await;
        assert_eq!(bench.with(|state| state.written.last().copied()), Some((2, false)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_second_look_waits_until_the_stream_has_gone_on() {
    let bench = Bench::default();
    let settings = KeeperSettings { check_interval: None, ..shared() };
    let around = start(&bench, settings);
    around.want(1);
    bench.with(|state| state.doubts_since = Some(Instant::now()));
    around.pass(100).await;
    assert_eq!(around.visits(), 1, "the stream may be stuck");
    around.hear();
    around.die();
    around.pass(100).await;
    assert_eq!(around.visits(), 0, "the stream is down");
    around.want(1);
    around.pass(1).await;
    assert_eq!(around.visits(), 1);
    bench.with(|state| state.doubts_since = Some(Instant::now()));
    around.pass(1).await;
    around.hear();
    around.pass(100).await;
    assert_eq!(around.visits(), 0, "that was too soon after the first look");
    around.hear();
    around.pass(5).await;
    assert_eq!(around.visits(), 1);
    bench.with(|state| state.doubts_since = None);
    around.pass(5).await;
    around.visits();
    around.pass(100).await;
    assert_eq!(around.visits(), 0, "nothing is doubtful any more");
}

#[tokio::test(start_paused = true)]
async fn the_age_is_confirmed_where_there_is_no_interval() {
    let bench = Bench::default();
    let settings = KeeperSettings { check_interval: None, ..shared() };
    let around = start(&bench, settings);
    around.want(1);
    around.pass(1).await;
    around.visits();
    around.pass(3600).await;
    let visits = around.visits();
    assert!((5..=8).contains(&visits), "{visits}");
}

#[tokio::test(start_paused = true)]
async fn the_newest_is_written_and_nothing_is_lost_at_the_end() {
    let bench = Bench::default();
    let mut around = start(&bench, shared());
    around.want(1);
    around.pass(1).await;
    for version in 2..=100 {
        around.want(version);
    }
    around.cancel.cancel();
    assert!(around.tasks.join_next().await.unwrap().is_ok());
    assert_eq!(bench.with(|state| state.written.clone()), [(1, true), (100, true)]);
}
