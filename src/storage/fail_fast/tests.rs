use std::collections::{BTreeSet, VecDeque};
use std::future::pending;
use std::sync::atomic::AtomicUsize;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::storage::breaker::BreakerState;
use crate::tasks::TaskGroup;

/// The behaviour of the next dial or check; when the list is empty, it succeeds.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Work,
    Fail,
    Refuse,
    Hang,
    /// Works, but takes longer than the budget of a small call.
    Slow,
}

/// Time of slow ones: a router's queue of 1 MB at 300 KB/s.
const SLOW: Duration = Duration::from_millis(3_300);

async fn act(script: &Mutex<VecDeque<Act>>) -> Result<(), StoreError> {
    let next = script.lock().unwrap().pop_front().unwrap_or(Act::Work);
    match next {
        Act::Work => Ok(()),
        Act::Fail => Err(StoreError::Unreachable("gone".into())),
        Act::Refuse => Err(StoreError::Refused("WRONGPASS".into())),
        Act::Hang => pending().await,
        Act::Slow => {
            tokio::time::sleep(SLOW).await;
            Ok(())
        }
    }
}

#[derive(Default)]
struct Fake {
    dials: Mutex<VecDeque<Act>>,
    checks: Mutex<VecDeque<Act>>,
    dialled: AtomicUsize,
    checked: AtomicUsize,
    lost: AtomicUsize,
    ends: Notify,
    /// The identity of the database, if it has one.
    identity: Mutex<Option<&'static str>>,
    /// Connections that were ended.
    ended: Mutex<BTreeSet<usize>>,
    /// The meters of all connections, in the order of the dials.
    meters: Mutex<Vec<Meter>>,
}

/// Two bulk calls at a time, so that the tests see others wait.
impl Dialer for Arc<Fake> {
    type Conn = usize;
    const BULK_CALLS: usize = 2;

    async fn dial(&self, meter: &Meter) -> Result<usize, StoreError> {
        let number = self.dialled.fetch_add(1, Ordering::Relaxed) + 1;
        self.meters.lock().unwrap().push(meter.clone());
        act(&self.dials).await.map(|()| number)
    }

    async fn identity(&self, _conn: usize) -> Result<Option<String>, StoreError> {
        Ok(self.identity.lock().unwrap().map(str::to_owned))
    }

    fn has_ended(&self, conn: &usize) -> bool {
        self.ended.lock().unwrap().contains(conn)
    }

    fn is_answer(&self, error: &StoreError) -> bool {
        error_text(error).contains("answered")
    }

    async fn check(&self, _conn: usize) -> Result<(), StoreError> {
        self.checked.fetch_add(1, Ordering::Relaxed);
        act(&self.checks).await
    }

    async fn ended(&self, _conn: usize) {
        self.ends.notified().await;
    }

    fn lost(&self, _error: &StoreError) {
        self.lost.fetch_add(1, Ordering::Relaxed);
    }
}

struct Bench {
    fake: Arc<Fake>,
    store: FailFast<Arc<Fake>>,
}

fn bench(dials: &[Act]) -> Bench {
    let fake = Arc::new(Fake::default());
    fake.dials.lock().unwrap().extend(dials);
    Bench { store: FailFast::new("fake", fake.clone(), Budgets::default()), fake }
}

impl Bench {
    fn dialled(&self) -> usize {
        self.fake.dialled.load(Ordering::Relaxed)
    }

    fn health(&self) -> Health {
        self.store.health()
    }

    async fn ask(&self) -> Result<usize, StoreError> {
        self.store.call(async |conn| Ok(conn)).await
    }

    async fn hang(&self) -> Result<usize, StoreError> {
        self.store.call(|_conn| pending()).await
    }

    async fn wait_for(&self, what: impl Fn(&Health) -> bool) {
        self.store.watch_health().wait_for(|health| what(health)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_costs_one_budget_then_nothing() {
    let bench = bench(&[Act::Hang]);
    let begun = Instant::now();
    let error = bench.ask().await.unwrap_err();
    assert!(matches!(error, StoreError::TimedOut { budget: CALL_BUDGET }), "{error:?}");
    assert_eq!(begun.elapsed(), CALL_BUDGET);
    for _ in 0..100 {
        assert!(matches!(bench.ask().await, Err(StoreError::CoolingDown)));
    }
    assert_eq!(begun.elapsed(), CALL_BUDGET);
    assert_eq!(bench.dialled(), 1);
    assert_eq!(bench.health().state, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_hundred_callers_share_one_connection_and_one_loss() {
    let bench = bench(&[]);
    let (mut open, mut conns) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        open.push(Box::pin(bench.ask()));
    }
    for call in open {
        conns.push(call.await.unwrap());
    }
    assert!(conns.iter().all(|conn| *conn == 1), "{conns:?}");

    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..100 {
        let store = bench.store.clone();
        tasks.spawn(async move { store.call::<(), _, _>(|_| pending()).await });
    }
    while let Some(outcome) = tasks.join_next().await {
        assert!(matches!(outcome.unwrap(), Err(StoreError::TimedOut { .. })));
    }
    assert_eq!(bench.fake.lost.load(Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn waiters_of_a_dial_that_times_out_do_not_dial_again() {
    let bench = bench(&[Act::Hang]);
    let (first, second) = tokio::join!(bench.ask(), bench.ask());
    let errors = [first.unwrap_err(), second.unwrap_err()];
    assert!(errors.iter().any(|error| matches!(error, StoreError::TimedOut { .. })), "{errors:?}");
    assert!(errors.iter().all(StoreError::is_transient));
    assert_eq!(bench.dialled(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_away_hands_its_dial_to_the_next() {
    let bench = bench(&[Act::Hang]);
    {
        let mut leaving = Box::pin(bench.ask());
        let waiting = timeout(Duration::from_secs(1), &mut leaving).await;
        assert!(waiting.is_err(), "the dial hangs");
    }
    assert_eq!(bench.ask().await.unwrap(), 2);
    assert_eq!(bench.health().state, BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_refused_port_opens_at_once_and_the_probe_closes() {
    let bench = bench(&[Act::Fail, Act::Fail, Act::Hang]);
    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("probe", |cancel| bench.store.clone().run_probe(cancel));
    let begun = Instant::now();
    assert!(matches!(bench.ask().await, Err(StoreError::Unreachable(_))));
    assert_eq!(begun.elapsed(), Duration::ZERO);

    bench.wait_for(|health| health.state == BreakerState::HalfOpen).await;
    assert!(matches!(bench.ask().await, Err(StoreError::CoolingDown)), "nobody but the probe");
    bench.wait_for(|health| health.state == BreakerState::Closed).await;
    // Refused at 0.5..1.5 s, hung for 2 s from 1..3 s on, then worked within 1.5 s.
    let away = begun.elapsed();
    assert!((Duration::from_secs(3)..Duration::from_millis(6_500)).contains(&away), "{away:?}");
    assert_eq!(bench.ask().await.unwrap(), 4, "the probe's connection is used");
    let health = bench.health();
    assert_eq!((health.connected, health.connected_epoch), (true, 1));
    assert!(health.last_error.is_some());
    assert!(tasks.shutdown(Duration::from_secs(1)).await, "the probe ends when cancelled");
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_probe_ends_at_once_also_while_it_dials() {
    let bench = bench(&[Act::Fail, Act::Hang]);
    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("probe", |cancel| bench.store.clone().run_probe(cancel));
    assert!(bench.ask().await.is_err());
    bench.wait_for(|health| health.state == BreakerState::HalfOpen).await;
    let begun = Instant::now();
    assert!(tasks.shutdown(Duration::from_secs(1)).await);
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn failures_on_a_connection_of_before_do_not_reopen() {
    let bench = bench(&[]);
    bench.ask().await.unwrap();
    let store = bench.store.clone();
    let late = store.bulk::<(), _, _>(|_| pending());
    let mut late = Box::pin(late);
    assert!(timeout(Duration::from_millis(1), &mut late).await.is_err());

    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("probe", |cancel| bench.store.clone().run_probe(cancel));
    assert!(bench.hang().await.is_err());
    bench.wait_for(|health| health.state == BreakerState::Closed).await;
    assert!(matches!(late.await, Err(StoreError::TimedOut { budget: BULK_BUDGET })));
    assert_eq!(bench.health().state, BreakerState::Closed);
    assert!(bench.ask().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_is_checked_before_use() {
    let bench = bench(&[]);
    let checked = || bench.fake.checked.load(Ordering::Relaxed);
    assert_eq!(bench.ask().await.unwrap(), 1);
    tokio::time::advance(IDLE_LIMIT - Duration::from_millis(1)).await;
    assert_eq!(bench.ask().await.unwrap(), 1);
    assert_eq!(checked(), 0);
    tokio::time::advance(IDLE_LIMIT).await;
    assert_eq!(bench.ask().await.unwrap(), 1);
    assert_eq!(checked(), 1);
    assert_eq!(bench.health().connected_epoch, 1);
}

async fn check_dead_and_quiet(death: Act) {
    let bench = bench(&[]);
    assert_eq!(bench.ask().await.unwrap(), 1);
    tokio::time::advance(IDLE_LIMIT).await;
    bench.fake.checks.lock().unwrap().push_back(death);
    assert_eq!(bench.ask().await.unwrap(), 2, "{death:?}: dialled anew within the call");
    let health = bench.health();
    assert_eq!((health.state, health.connected_epoch), (BreakerState::Closed, 2), "{death:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_died_quietly_costs_no_error() {
    check_dead_and_quiet(Act::Fail).await;
    check_dead_and_quiet(Act::Hang).await;
}

#[tokio::test(start_paused = true)]
async fn a_check_that_is_refused_is_an_answer() {
    let bench = bench(&[]);
    assert_eq!(bench.ask().await.unwrap(), 1);
    tokio::time::advance(IDLE_LIMIT).await;
    bench.fake.checks.lock().unwrap().push_back(Act::Refuse);
    assert_eq!(bench.ask().await.unwrap(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_reported_without_opening_and_asked_again_later() {
    let bench = bench(&[Act::Refuse, Act::Refuse, Act::Work]);
    for _ in 0..100 {
        let error = bench.ask().await.unwrap_err();
        assert!(matches!(error, StoreError::Refused(_)), "{error:?}");
    }
    assert_eq!(bench.dialled(), 1);
    let health = bench.health();
    assert_eq!((health.state, health.connected), (BreakerState::Closed, false));
    assert!(health.last_error.unwrap().text.contains("WRONGPASS"));

    tokio::time::advance(REFUSAL_MEMORY).await;
    assert!(matches!(bench.ask().await, Err(StoreError::Refused(_))));
    assert_eq!(bench.dialled(), 2);
    // A new password is tried at once.
    bench.store.reconnect();
    assert_eq!(bench.ask().await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_refused_closes_and_tells_callers() {
    let bench = bench(&[Act::Fail, Act::Refuse, Act::Work]);
    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("probe", |cancel| bench.store.clone().run_probe(cancel));
    assert!(matches!(bench.ask().await, Err(StoreError::Unreachable(_))));
    bench.wait_for(|health| health.state == BreakerState::Closed).await;
    assert!(matches!(bench.ask().await, Err(StoreError::Refused(_))));
    tokio::time::advance(REFUSAL_MEMORY).await;
    assert_eq!(bench.ask().await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn answers_that_are_errors_cost_no_connection() {
    let bench = bench(&[]);
    let refused =
        bench.store.call::<(), _, _>(async |_| Err(StoreError::Refused("no table".into())));
    assert!(matches!(refused.await, Err(StoreError::Refused(_))));
    let unreadable = bench.store.call::<(), _, _>(async |_| {
        Err(StoreError::Unreadable { what: "row", cause: "not text".into() })
    });
    assert!(unreadable.await.is_err());
    assert_eq!(bench.ask().await.unwrap(), 1);
    let health = bench.health();
    assert_eq!(health.state, BreakerState::Closed);
    assert_eq!(&*health.last_error.unwrap().text, "stored row cannot be read: not text");
}

#[tokio::test(start_paused = true)]
async fn an_answer_about_the_database_on_any_connection_is_a_loss_of_all() {
    let bench = bench(&[]);
    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("probe", |cancel| bench.store.clone().run_probe(cancel));
    bench.ask().await.unwrap();
    let answer = "answered that it loads its data";
    let failed =
        bench.store.bulk::<(), _, _>(async |_| Err(StoreError::Unreachable(answer.into())));
    assert!(failed.await.is_err());
    assert!(!bench.health().connected);
    bench.wait_for(|health| health.connected).await;
    assert_eq!(bench.health().connected_epoch, 2);
    assert_eq!(bench.ask().await.unwrap(), 3);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_the_database_ends_is_replaced_while_nobody_asks() {
    let bench = bench(&[]);
    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("probe", |cancel| bench.store.clone().run_probe(cancel));
    bench.ask().await.unwrap();
    let since = bench.health().since;
    for epoch in 2..5 {
        let begun = Instant::now();
        bench.fake.ends.notify_one();
        bench.wait_for(|health| health.connected_epoch == epoch).await;
        assert!(begun.elapsed() <= REPLACE_WAIT, "{:?}", begun.elapsed());
        let health = bench.health();
        assert_eq!((health.state, health.since), (BreakerState::Closed, since), "no outage");
    }
    assert_eq!(bench.ask().await.unwrap(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_ends_its_connections_and_goes_is_away() {
    let bench = bench(&[Act::Work, Act::Fail, Act::Fail]);
    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("probe", |cancel| bench.store.clone().run_probe(cancel));
    bench.ask().await.unwrap();
    bench.fake.ends.notify_one();
    bench.wait_for(|health| health.state == BreakerState::Open).await;
    assert!(matches!(bench.ask().await, Err(StoreError::CoolingDown)));
    bench.wait_for(|health| health.state == BreakerState::Closed).await;
    assert_eq!((bench.dialled(), bench.health().connected_epoch), (4, 2));
}

#[tokio::test(start_paused = true)]
async fn a_database_that_ends_each_connection_at_once_is_not_hammered() {
    const FOR: Duration = Duration::from_secs(60);
    let bench = bench(&[]);
    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("probe", |cancel| bench.store.clone().run_probe(cancel));
    let fake = bench.fake.clone();
    tasks.spawn("ends", |cancel| async move {
        while !cancel.is_cancelled() {
            fake.ends.notify_one();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    bench.ask().await.unwrap();
    tokio::time::sleep(FOR).await;
    let most = 3 * FOR.as_millis() / REPLACE_WAIT.as_millis();
    assert!((10..most).contains(&(bench.dialled() as u128)), "{}", bench.dialled());
    tasks.shutdown(Duration::from_secs(1)).await;
}

mod bulk;
mod busy_line;
