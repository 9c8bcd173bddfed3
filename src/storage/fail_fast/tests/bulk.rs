//! Calls that transfer whole data sets, and connections that end one by one.

use tokio::task::{JoinSet, yield_now};

use super::*;

impl Bench {
    /// A bulk call that returns its connection.
    async fn bulk(&self) -> Result<usize, StoreError> {
        self.store.bulk(async |conn| Ok(conn)).await
    }

    /// Starts a bulk call that transfers `bytes` bytes each second for `times` seconds.
    pub(super) fn move_bytes(
        &self,
        tasks: &mut JoinSet<Result<usize, StoreError>>,
        bytes: usize,
        times: u32,
    ) {
        let (store, fake) = (self.store.clone(), self.fake.clone());
        tasks.spawn(async move {
            store
                .bulk(async |conn: usize| {
                    let meter = fake.meters.lock().unwrap()[conn - 1].clone();
                    for _ in 0..times {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                        meter.add_received(bytes);
                    }
                    Ok(conn)
                })
                .await
        });
    }

    fn state(&self) -> BreakerState {
        self.health().state
    }

    pub(super) fn probe(&self) -> TaskGroup {
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("probe", |cancel| self.store.clone().run_probe(cancel));
        tasks
    }
}

/// Lets all tasks run until they wait.
async fn settled() {
    for _ in 0..20 {
        yield_now().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_bulk_call_has_a_connection_of_its_own_which_the_next_one_uses() {
    let bench = bench(&[]);
    assert_eq!(bench.ask().await.unwrap(), 1);
    let seen = [bench.bulk().await.unwrap(), bench.bulk().await.unwrap()];
    assert_eq!(seen, [2, 2]);
    let (both, other) = tokio::join!(
        bench.store.bulk(async |conn| {
            settled().await;
            Ok(conn)
        }),
        bench.bulk()
    );
    assert_eq!((both.unwrap(), other.unwrap()), (2, 3));
    assert_eq!(bench.ask().await.unwrap(), 1);
    assert_eq!(bench.health().connected_epoch, 1, "one database, one period of connectedness");
}

#[tokio::test(start_paused = true)]
async fn bulk_calls_are_admitted_in_order_and_their_budget_begins_then() {
    let bench = bench(&[]);
    let (mut tasks, order) = (JoinSet::new(), Arc::new(Mutex::new(Vec::new())));
    let begun = Instant::now();
    for number in 0..6_u64 {
        let (store, order) = (bench.store.clone(), order.clone());
        tasks.spawn(async move {
            store
                .bulk(async |_conn| {
                    // Within the budget of one call, but beyond that of all together.
                    tokio::time::sleep(Duration::from_millis(4_000 + number)).await;
                    order.lock().unwrap().push(number);
                    Ok(())
                })
                .await
        });
    }
    settled().await;
    assert!(bench.ask().await.is_ok(), "small calls do not wait");
    assert_eq!(begun.elapsed(), Duration::ZERO);
    while let Some(outcome) = tasks.join_next().await {
        outcome.unwrap().unwrap();
    }
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
    assert!(begun.elapsed() >= Duration::from_secs(12), "two at a time: {:?}", begun.elapsed());
    assert_eq!((bench.state(), bench.dialled()), (BreakerState::Closed, 3));
}

#[tokio::test(start_paused = true)]
async fn a_bulk_call_that_makes_progress_has_no_deadline() {
    let bench = bench(&[]);
    let mut tasks = JoinSet::new();
    bench.move_bytes(&mut tasks, 4 * 1024, 60);
    assert!(tasks.join_next().await.unwrap().unwrap().is_ok());
    // A short silence in between causes a check, and is harmless.
    let checked = bench.fake.checked.load(Ordering::Relaxed);
    let paused = bench.store.bulk(async |_conn| {
        tokio::time::sleep(Duration::from_secs(4)).await;
        Ok(())
    });
    paused.await.unwrap();
    assert_eq!(bench.fake.checked.load(Ordering::Relaxed), checked + 1);
    assert_eq!(bench.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_bulk_call_that_is_too_slow_costs_its_own_connection_only() {
    let bench = bench(&[]);
    let mut tasks = JoinSet::new();
    assert_eq!(bench.ask().await.unwrap(), 1);
    bench.move_bytes(&mut tasks, 1, 60);
    settled().await;
    bench.move_bytes(&mut tasks, 20 * 1024, 20);
    let begun = Instant::now();
    let first = tasks.join_next().await.unwrap().unwrap();
    assert!(matches!(first, Err(StoreError::TimedOut { budget: BULK_BUDGET })), "{first:?}");
    assert_eq!(begun.elapsed(), BULK_BUDGET);
    assert_eq!(bench.bulk().await.unwrap(), 4, "dialled anew");
    assert_eq!(tasks.join_next().await.unwrap().unwrap().unwrap(), 3, "the other one goes on");
    assert_eq!(bench.ask().await.unwrap(), 1);
    let health = bench.health();
    assert_eq!((health.state, health.connected_epoch), (BreakerState::Closed, 1));
    assert!(health.last_error.unwrap().text.contains("did not answer"));
}

#[tokio::test(start_paused = true)]
async fn a_bulk_call_whose_connection_breaks_costs_that_connection_only() {
    let bench = bench(&[]);
    let _probe = bench.probe();
    bench.ask().await.unwrap();
    let broken =
        bench.store.bulk::<(), _, _>(async |_| Err(StoreError::Unreachable("reset".into())));
    assert!(matches!(broken.await, Err(StoreError::Unreachable(_))));
    assert_eq!((bench.bulk().await.unwrap(), bench.ask().await.unwrap()), (3, 1));
    let health = bench.health();
    assert_eq!((health.state, health.connected_epoch), (BreakerState::Closed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_bulk_call_that_is_dropped_leaves_no_answer_to_the_next_one() {
    let bench = bench(&[]);
    assert_eq!(bench.bulk().await.unwrap(), 1);
    let leaving = bench.store.bulk::<(), _, _>(|_| pending());
    assert!(timeout(Duration::from_secs(1), leaving).await.is_err());
    assert_eq!(bench.bulk().await.unwrap(), 2);
    assert_eq!(bench.state(), BreakerState::Closed);
}

#[tokio::test(start_paused = true)]
async fn a_database_that_falls_silent_is_away_before_a_bulk_call_is_given_up_for_its_pace() {
    let bench = bench(&[]);
    bench.ask().await.unwrap();
    bench.bulk().await.unwrap();
    bench.fake.checks.lock().unwrap().push_back(Act::Hang);
    let begun = Instant::now();
    let calls = (0..4).map(|_| {
        let store = bench.store.clone();
        async move { (store.bulk::<(), _, _>(|_| pending()).await, begun.elapsed()) }
    });
    let mut tasks: JoinSet<_> = calls.collect();
    bench.wait_for(|health| health.state == BreakerState::Open).await;
    assert!(begun.elapsed() <= 2 * CALL_BUDGET, "{:?}", begun.elapsed());
    while let Some(outcome) = tasks.join_next().await {
        let (outcome, took) = outcome.unwrap();
        assert!(outcome.unwrap_err().is_transient());
        assert!(
            took < BULK_BUDGET,
            "none waits for its turn or for the end of its budget: {took:?}"
        );
    }
    let begun = Instant::now();
    assert!(matches!(bench.bulk().await, Err(StoreError::CoolingDown)));
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn connections_that_are_ended_while_nobody_uses_them_tell_nothing_of_the_data() {
    let bench = bench(&[]);
    *bench.fake.identity.lock().unwrap() = Some("first");
    let _probe = bench.probe();
    assert_eq!((bench.ask().await.unwrap(), bench.bulk().await.unwrap()), (1, 2));
    settled().await;
    // The connection of bulk calls ends.
    bench.fake.ended.lock().unwrap().insert(2);
    assert_eq!(bench.bulk().await.unwrap(), 3);
    // The connection of small calls ends, noticed by a call, and by the probe.
    bench.fake.ended.lock().unwrap().insert(1);
    assert_eq!(bench.ask().await.unwrap(), 4);
    bench.fake.ends.notify_one();
    tokio::time::sleep(2 * REPLACE_WAIT).await;
    assert_eq!(bench.ask().await.unwrap(), 5);
    // A connection becomes silent.
    tokio::time::advance(IDLE_LIMIT).await;
    assert_eq!(bench.ask().await.unwrap(), 5);
    bench.fake.checks.lock().unwrap().push_back(Act::Hang);
    assert_eq!(bench.bulk().await.unwrap(), 6);
    assert_eq!(*bench.store.watch_connections().borrow(), 3, "1, 4 and 5");
    let health = bench.health();
    assert_eq!((health.state, health.connected_epoch), (BreakerState::Closed, 1));
}

#[tokio::test(start_paused = true)]
async fn a_database_that_ends_a_connection_and_is_another_one_afterwards_is_in_doubt() {
    for (before, after) in [(Some("first"), Some("second")), (None, None), (Some("first"), None)] {
        let bench = bench(&[]);
        *bench.fake.identity.lock().unwrap() = before;
        let _probe = bench.probe();
        bench.ask().await.unwrap();
        settled().await;
        *bench.fake.identity.lock().unwrap() = after;
        bench.fake.ended.lock().unwrap().insert(1);
        // Noticed by a call of another task first.
        assert_eq!(bench.ask().await.unwrap(), 2);
        bench.wait_for(|health| health.connected_epoch == 2).await;
        assert_eq!(bench.state(), BreakerState::Closed, "{before:?} {after:?}");
    }
}
