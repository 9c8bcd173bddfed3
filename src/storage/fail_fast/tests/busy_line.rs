//! Small calls and bulk calls that wait behind the bytes of other bulk calls, in a network queue
//! that all connections share.

use tokio::task::JoinSet;

use super::*;

const KIB: usize = 1024;

type Moving = JoinSet<Result<usize, StoreError>>;

/// A bench with a connection for small calls (1), and a bulk call (2) that transfers much for this
/// number of seconds.
async fn busy_bench(seconds: u32) -> (Bench, Moving) {
    let bench = bench(&[]);
    assert_eq!(bench.ask().await.unwrap(), 1);
    let mut moving = JoinSet::new();
    bench.move_bytes(&mut moving, 100 * KIB, seconds);
    tokio::time::sleep(Duration::from_millis(1)).await;
    assert_eq!(bench.dialled(), 2);
    (bench, moving)
}

/// Checks that the breaker stayed closed, and that the bulk call has completed.
async fn assert_undisturbed(bench: &Bench, mut moving: Moving) {
    assert_eq!(moving.join_next().await.unwrap().unwrap().unwrap(), 2);
    let health = bench.health();
    assert_eq!((health.state, health.connected_epoch), (BreakerState::Closed, 1));
    assert_eq!(bench.fake.lost.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_small_call_waits_while_a_bulk_call_receives_bytes() {
    let (bench, moving) = busy_bench(30).await;
    let slow = bench.store.call(async |conn| {
        tokio::time::sleep(Duration::from_secs(20)).await;
        Ok(conn)
    });
    assert_eq!(slow.await.unwrap(), 1);
    assert_undisturbed(&bench, moving).await;
}

#[tokio::test(start_paused = true)]
async fn a_small_call_that_is_never_answered_fails_alone_at_the_limit() {
    let (bench, moving) = busy_bench(60).await;
    let begun = Instant::now();
    let mut calls = JoinSet::new();
    for _ in 0..10 {
        let store = bench.store.clone();
        calls.spawn(async move { store.call::<(), _, _>(|_| pending()).await });
    }
    while let Some(outcome) = calls.join_next().await {
        let error = outcome.unwrap().unwrap_err();
        assert!(matches!(error, StoreError::TimedOut { budget: LATE_LIMIT }), "{error:?}");
    }
    assert_eq!(begun.elapsed(), LATE_LIMIT);
    assert!(bench.health().last_error.unwrap().text.contains("did not answer within 30s"));
    // Its connection may be dead, and is replaced once.
    let (one, other) = tokio::join!(bench.ask(), bench.ask());
    assert_eq!((one.unwrap(), other.unwrap()), (3, 3));
    assert_undisturbed(&bench, moving).await;
}

#[tokio::test(start_paused = true)]
async fn a_late_call_does_not_cost_a_connection_that_answers_others() {
    let (bench, moving) = busy_bench(60).await;
    let (late, answered) = tokio::join!(bench.hang(), async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        bench.ask().await
    });
    assert!(late.is_err());
    assert_eq!((answered.unwrap(), bench.ask().await.unwrap()), (1, 1));
    assert_undisturbed(&bench, moving).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_a_call_by_its_own_time_does_not_open_either() {
    let (bench, moving) = busy_bench(30).await;
    let own = bench.store.call::<(), _, _>(async |_| {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        Err(StoreError::TimedOut { budget: CALL_BUDGET })
    });
    assert!(matches!(own.await, Err(StoreError::TimedOut { .. })));
    assert_undisturbed(&bench, moving).await;
}

#[tokio::test(start_paused = true)]
async fn a_database_that_stops_in_the_middle_of_a_transfer_is_away() {
    let (bench, moving) = busy_bench(60).await;
    let stuck = bench.store.clone();
    let mut stuck = Box::pin(stuck.bulk::<(), _, _>(|_| pending()));
    assert!(timeout(Duration::from_secs(1), &mut stuck).await.is_err());
    drop(moving);
    let begun = Instant::now();
    assert!(bench.hang().await.is_err());
    assert_eq!(begun.elapsed(), CALL_BUDGET, "no byte arrives any more");
    assert_eq!(bench.health().state, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn bytes_that_are_too_few_prolong_nothing() {
    let bench = bench(&[]);
    assert_eq!(bench.ask().await.unwrap(), 1);
    let mut moving = JoinSet::new();
    bench.move_bytes(&mut moving, KIB, 60);
    let begun = Instant::now();
    assert!(bench.hang().await.is_err());
    assert_eq!(begun.elapsed(), CALL_BUDGET);
    assert_eq!(bench.health().state, BreakerState::Open);
}

#[tokio::test(start_paused = true)]
async fn a_quiet_connection_whose_check_is_late_is_replaced_alone() {
    let (bench, moving) = busy_bench(60).await;
    // Bytes arrive within the time of the check.
    tokio::time::sleep(IDLE_LIMIT + Duration::from_millis(700)).await;
    bench.fake.checks.lock().unwrap().push_back(Act::Hang);
    assert_eq!(bench.ask().await.unwrap(), 3);
    assert_undisturbed(&bench, moving).await;
}

#[tokio::test(start_paused = true)]
async fn a_bulk_call_whose_first_byte_is_late_keeps_its_turn() {
    let (bench, moving) = busy_bench(60).await;
    bench.fake.dials.lock().unwrap().push_back(Act::Slow);
    bench.fake.checks.lock().unwrap().extend([Act::Slow; 4]);
    let late = bench.store.bulk(async |conn| {
        tokio::time::sleep(SLOW).await;
        tokio::time::sleep(SLOW).await;
        Ok(conn)
    });
    assert_eq!(late.await.unwrap(), 3);
    assert_undisturbed(&bench, moving).await;
}

#[tokio::test(start_paused = true)]
async fn a_probe_waits_too_for_what_stands_before_it() {
    let (bench, mut moving) = busy_bench(20).await;
    let _probe = bench.probe();
    bench.fake.dials.lock().unwrap().push_back(Act::Slow);
    let reset =
        bench.store.call::<(), _, _>(async |_| Err(StoreError::Unreachable("reset".into())));
    assert!(reset.await.is_err());
    bench.wait_for(|health| health.state == BreakerState::Closed).await;
    assert_eq!(bench.dialled(), 3, "the first probe has succeeded");
    assert_eq!(moving.join_next().await.unwrap().unwrap().unwrap(), 2);
}
