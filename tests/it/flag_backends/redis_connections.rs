//! Connections to Redis that die without a word.

use pilotlight::testing::flagstore::backend::FlagBackend;
use pilotlight::testing::storage::BreakerState;
use pilotlight::testing::storage::fail_fast::{CALL_BUDGET, CHECK_BUDGET, IDLE_LIMIT};
use pilotlight_test_kit::flaky_proxy::FlakyProxy;
use tokio::time::{Instant, sleep};

use super::peers::{holds, rows, write_whole};
use super::redis::{redis_flags, store};
use pilotlight_test_kit::databases::Redis;

/// The server behind the old connection is silent, the one behind a new connection is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_died_while_nobody_used_it_costs_no_error() {
    let (old, new) = (Redis::start().await, Redis::start().await);
    let proxy = FlakyProxy::start(([127, 0, 0, 1], old.port).into()).unwrap();
    let store = store(old.settings_of(&format!("redis://{}", proxy.address())));
    let flags = redis_flags(store.clone(), "ld");
    write_whole(&flags, &rows("a1")).await;
    write_whole(&redis_flags(super::redis::store(new.settings()), "ld"), &rows("a2")).await;
    holds(&flags, "! a1").await;
    flags.look().await.unwrap();
    let before = store.health();
    old.freeze();
    proxy.set_upstream(([127, 0, 0, 1], new.port).into());
    // The passing of time is what this is about.
    sleep(IDLE_LIMIT).await;
    let begun = Instant::now();
    assert!(flags.look().await.unwrap().marker.is_some());
    let took = begun.elapsed();
    assert!((CHECK_BUDGET..CALL_BUDGET).contains(&took), "{took:?}");
    holds(&flags, "! a2").await;
    let after = store.health();
    assert_eq!((after.state, after.since), (BreakerState::Closed, before.since));
    assert!(after.connected_epoch > before.connected_epoch, "who looks for losses is told");
}
