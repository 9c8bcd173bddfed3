use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;

use super::*;
use crate::events::post::{Audience, Sender};
use crate::model::{EnvironmentRef, FilterKey};

/// Bytes of events in a batch of these tests.
const BYTES: usize = 1_000;

fn destination(environment: &str) -> Destination {
    Destination {
        environment: EnvironmentRef { environment: environment.into(), filter: FilterKey::new("") },
        audience: Audience::Server,
    }
}

/// `a1` is batch 1 of environment `a`.
fn batch(name: &str) -> Batch {
    Batch {
        id: Arc::from(name),
        destination: destination(&name[..1]),
        sender: Sender { schema: 4, tags: None, user_agent: None, wrapper: None },
        count: 2,
        gzip: Bytes::from(vec![0; BYTES]),
        created: SystemTime::UNIX_EPOCH,
        invalid: 0,
        is_spooled: false,
    }
}

/// Lines, and a spool that does as it is told.
struct Bench {
    lines: Lines,
    begun: Instant,
    /// Seconds since the begin.
    at: f64,
    sending: Vec<Batch>,
    spool: BTreeMap<String, VecDeque<(SegmentId, Vec<Batch>)>>,
    segments: SegmentId,
    refuses: bool,
    lost: Vec<String>,
    told: Vec<String>,
}

impl Bench {
    fn new(has_spool: bool, batches_max: usize) -> Self {
        let mut lines = Lines::new(batches_max * (BYTES + OVERHEAD_BYTES));
        if has_spool {
            lines.open_spool([]);
        }
        Self {
            lines,
            begun: Instant::now(),
            at: 0.0,
            sending: Vec::new(),
            spool: BTreeMap::new(),
            segments: 0,
            refuses: false,
            lost: Vec::new(),
            told: Vec::new(),
        }
    }

    fn now(&self) -> Instant {
        self.begun + Duration::from_secs_f64(self.at)
    }

    fn add(&mut self, names: &str) {
        for name in names.split_whitespace() {
            let effects = self.lines.add(batch(name));
            self.carry_out(effects);
            self.go_on();
        }
    }

    fn go_on(&mut self) {
        loop {
            let effects = self.lines.next(self.now());
            if effects.is_empty() {
                return;
            }
            self.carry_out(effects);
        }
    }

    fn carry_out(&mut self, effects: Vec<Effect>) {
        let mut effects = VecDeque::from(effects);
        while let Some(effect) = effects.pop_front() {
            match effect {
                Effect::Send(batch) => self.sending.push(batch),
                Effect::Spool(_, batches) if self.refuses => {
                    effects.extend(self.lines.not_spooled(batches));
                }
                Effect::Spool(destination, batches) => {
                    self.segments += 1;
                    let kept = batches.into_iter().map(|it| Batch { is_spooled: true, ..it });
                    let name = destination.environment.to_string();
                    self.spool.entry(name).or_default().push_back((self.segments, kept.collect()));
                }
                Effect::Load(destination) => {
                    let name = destination.environment.to_string();
                    let found = self.spool.get(&name).and_then(VecDeque::front).cloned();
                    self.lines.loaded(&destination, found);
                }
                Effect::Delete(segment) => {
                    for segments in self.spool.values_mut() {
                        segments.retain(|(id, _)| *id != segment);
                    }
                }
                Effect::Lose(batch, loss) => self.lost.push(format!("{} {loss:?}", batch.id)),
                Effect::Split(batch) => self.lost.push(format!("{} split", batch.id)),
            }
        }
    }

    /// Ends the oldest open request.
    fn done(&mut self, outcome: Outcome) {
        let batch = self.sending.remove(0);
        let environment = batch.destination.environment.clone();
        let (news, effects) = self.lines.done(batch, outcome, self.now(), 1.0);
        self.told.extend(news.map(|condition| format!("{environment} {condition:?}")));
        self.carry_out(effects);
        self.go_on();
    }

    /// Delivers what is sent, until nothing is left for a minute; returns the names in order.
    fn deliver_all(&mut self) -> String {
        let mut names = Vec::new();
        loop {
            while let Some(batch) = self.sending.first() {
                names.push(batch.id.to_string());
                self.done(Outcome::Delivered);
            }
            let Some(due) = self.lines.due(self.now()) else { break };
            self.at = (due - self.begun).as_secs_f64() + 0.000_001;
            self.go_on();
        }
        names.join(" ")
    }

    fn sent(&self) -> String {
        let names: Vec<&str> = self.sending.iter().map(|batch| &*batch.id).collect();
        names.join(" ")
    }

    fn on_disk(&self) -> usize {
        self.spool.values().flatten().map(|(_, batches)| batches.len()).sum()
    }
}

const FAILED: Outcome = Outcome::UNREACHABLE;

#[test]
fn each_line_has_a_few_requests_and_all_lines_some() {
    let mut bench = Bench::new(true, 100);
    bench.add("a1 a2 a3 a4 a5 b1");
    assert_eq!(bench.sent(), "a1 a2 a3 a4 b1");
    assert_eq!(bench.deliver_all(), "a1 a2 a3 a4 b1 a5");
    assert_eq!((bench.lines.bytes(), bench.lines.lines.len()), (0, 0));
    for line in ["c", "d", "e", "f", "g"] {
        for number in 1..5 {
            bench.add(&format!("{line}{number}"));
        }
    }
    assert_eq!(bench.sending.len(), SENDING_MAX);
    assert_eq!(bench.deliver_all().split(' ').count(), 20);
}

#[test]
fn a_line_that_fails_waits_on_disk_and_holds_up_nobody() {
    let mut bench = Bench::new(true, 100);
    bench.add("a1 a2 b1");
    bench.done(FAILED);
    assert_eq!(bench.told, ["a Failing"]);
    // What was being sent comes back as well.
    bench.done(FAILED);
    bench.done(Outcome::Delivered);
    bench.add("a3 b2");
    assert_eq!((bench.sent().as_str(), bench.on_disk()), ("b2", 3));
    // One attempt after a pause, and longer pauses.
    for pause in [1.0, 2.0, 4.0] {
        let due = (bench.lines.due(bench.now()).unwrap() - (bench.now())).as_secs_f64();
        assert!((due - 2.0 * pause).abs() < 0.01 || (due - pause).abs() < 0.01, "{due} {pause}");
        bench.at += due + 0.001;
        bench.go_on();
        let probes: Vec<_> = bench.sending.iter().filter(|it| it.id.starts_with('a')).collect();
        assert_eq!(probes.len(), 1, "{probes:?}");
        let place = bench.sending.iter().position(|it| it.id.starts_with('a')).unwrap();
        bench.sending.swap(0, place);
        bench.done(FAILED);
    }
    let delivered = bench.deliver_all();
    let mut names: Vec<&str> = delivered.split(' ').collect();
    names.sort_unstable();
    assert_eq!(names, ["a1", "a2", "a3", "b2"]);
    assert_eq!((bench.on_disk(), bench.lost.len()), (0, 0));
    assert_eq!(bench.told, ["a Failing", "a Well"]);
}

#[test]
fn what_waited_is_worked_off_at_a_pace() {
    let mut bench = Bench::new(true, 100);
    bench.add("a0");
    bench.done(FAILED);
    for number in 1..=40 {
        bench.add(&format!("a{number}"));
    }
    assert_eq!(bench.on_disk(), 41);
    let begun = bench.at;
    let delivered = bench.deliver_all();
    assert_eq!(delivered.split(' ').count(), 41);
    assert!(bench.at - begun > 40.0 * 0.049, "{}", bench.at);
}

#[test]
fn without_a_disk_the_memory_holds_what_it_can() {
    let mut bench = Bench::new(false, 3);
    bench.add("a1");
    bench.done(FAILED);
    bench.add("a2 a3 a4 a5");
    assert_eq!(bench.lost, ["a4 NoRoom", "a5 NoRoom"]);
    assert_eq!(bench.deliver_all(), "a1 a2 a3");
    // A disk that fails is as none.
    let mut bench = Bench::new(true, 3);
    bench.refuses = true;
    bench.add("a1");
    bench.done(FAILED);
    bench.add("a2 a3 a4");
    assert_eq!(bench.lost, ["a4 NoRoom"]);
    let delivered = bench.deliver_all();
    assert_eq!(delivered, "a1 a2 a3");
}

#[test]
fn refused_keys_are_tried_now_and_then_and_new_ones_at_once() {
    let mut bench = Bench::new(true, 100);
    bench.add("a1");
    bench.done(Outcome::Refused(401));
    let due = bench.lines.due(bench.now()).unwrap() - bench.now();
    assert_eq!(due, REFUSED_PAUSE_MIN);
    bench.lines.credential_changed(&destination("a"));
    bench.go_on();
    assert_eq!(bench.sent(), "a1");
    assert_eq!(bench.deliver_all(), "a1");
    assert_eq!(bench.told, ["a Refused(401)", "a Well"]);
}

#[test]
fn a_pause_that_launchdarkly_demands_is_kept() {
    let mut bench = Bench::new(true, 100);
    bench.add("a1");
    bench.done(Outcome::Failed { retry_after: Some(Duration::from_secs(20)) });
    assert_eq!(bench.lines.due(bench.now()).unwrap() - bench.now(), Duration::from_secs(20));
    let hour = Some(Duration::from_secs(3600));
    bench.at = 20.001;
    bench.go_on();
    bench.done(Outcome::Failed { retry_after: hour });
    assert_eq!(bench.lines.due(bench.now()).unwrap() - bench.now(), REFUSED_PAUSE_MAX);
}

#[test]
fn one_bad_batch_is_not_in_the_way_of_others() {
    let mut bench = Bench::new(true, 100);
    bench.add("a1");
    bench.done(Outcome::TooLarge);
    bench.add("a2 a3");
    bench.done(Outcome::Invalid);
    bench.done(Outcome::Delivered);
    bench.at += 1.1;
    bench.go_on();
    assert_eq!(bench.sent(), "a2");
    bench.done(Outcome::Invalid);
    assert_eq!(bench.lost, ["a1 split", "a2 Invalid"]);
    let single = Batch { count: 1, ..batch("a4") };
    let effects = bench.lines.add(single);
    bench.carry_out(effects);
    bench.go_on();
    bench.done(Outcome::TooLarge);
    assert_eq!(bench.lost.last().unwrap(), "a4 TooLarge");
    assert_eq!(bench.lines.bytes(), 0);
}

#[test]
fn what_an_earlier_run_left_is_sent() {
    let mut bench = Bench::new(false, 100);
    let kept = ["a1", "a2"].map(|name| Batch { is_spooled: true, ..batch(name) });
    bench.spool.insert("a".to_owned(), VecDeque::from([(7, kept.to_vec())]));
    bench.lines.open_spool([destination("a")]);
    bench.go_on();
    bench.add("a3");
    assert_eq!(bench.deliver_all(), "a1 a2 a3");
    assert_eq!((bench.on_disk(), bench.lines.bytes()), (0, 0));
}
