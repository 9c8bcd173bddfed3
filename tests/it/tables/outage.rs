//! What every store does when its database goes away, and how its health is watched.

use std::time::Duration;

use pilotlight::testing::storage::table::Table;
use pilotlight::testing::storage::{BreakerState, Dialer, FailFast, StoreError};
use pilotlight::testing::tasks::TaskGroup;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::space::Space;
use pilotlight_test_kit::LIMIT;

/// What a refused call may cost: it does not leave the process.
const AT_ONCE: Duration = Duration::from_millis(50);

/// Slack over a budget on a busy machine.
pub(crate) const SLACK: Duration = Duration::from_secs(2);

/// Runs a store's probe as its owner does.
pub(crate) fn probing<D: Dialer>(store: &FailFast<D>) -> TaskGroup {
    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("probe", |cancel| store.clone().run_probe(cancel));
    tasks
}

pub(crate) async fn wait_for<D: Dialer>(store: &FailFast<D>, state: BreakerState) {
    let mut health = store.watch_health();
    let seen = health.wait_for(|health| health.state == state);
    let outcome = timeout(LIMIT, seen).await.map(drop);
    assert!(outcome.is_ok(), "{state:?} never came; health is {:?}", health.borrow());
}

/// The database is away: the first call fails within its budget, the next ones at once.
pub(crate) async fn is_noticed<D: Dialer>(store: &FailFast<D>, space: &Space<impl Table>) {
    let begun = Instant::now();
    let error = space.get("env:a").await.unwrap_err();
    // A connection that the database ended may have been noticed already.
    assert!(error.is_transient(), "{error:?}");
    assert!(begun.elapsed() < store.budgets().call + SLACK, "{:?}", begun.elapsed());
    if store.health().state == BreakerState::Closed {
        // The end of a connection is no outage yet; dialling shows what it is.
        assert!(space.get("env:a").await.unwrap_err().is_transient());
    }
    let begun = Instant::now();
    for _ in 0..10 {
        assert!(matches!(space.get("env:a").await, Err(StoreError::CoolingDown)));
        assert!(matches!(space.read_all().await, Err(StoreError::CoolingDown)));
    }
    assert!(begun.elapsed() < AT_ONCE, "{:?}", begun.elapsed());
}

/// The database is there again: the probe finds out by itself, and calls work.
pub(crate) async fn ends_by_itself<D: Dialer>(store: &FailFast<D>, space: &Space<impl Table>) {
    wait_for(store, BreakerState::Closed).await;
    space.get("env:a").await.unwrap();
    space.read_all().await.unwrap();
    assert_eq!(store.health().state, BreakerState::Closed);
}

/// A call is refused with a cause that names the trouble, and the breaker stays as it is.
pub(crate) async fn is_a_refusal<D: Dialer>(
    store: &FailFast<D>,
    space: &Space<impl Table>,
    trouble: &str,
) {
    let before = store.health().since;
    for _ in 0..3 {
        let error = space.read_all().await.unwrap_err();
        let StoreError::Refused(cause) = &error else { panic!("{error:?}") };
        assert!(cause.to_string().contains(trouble), "{cause}");
    }
    let health = store.health();
    assert_eq!((health.state, health.since), (BreakerState::Closed, before), "no flapping");
    assert!(health.last_error.unwrap().text.contains(trouble));
}
