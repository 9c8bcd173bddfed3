use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};
use std::time::SystemTime;

use super::super::test_support::spec;
use super::*;
use crate::environments::Registry;
use crate::model::{ChangeSet, DataSet, Item, ItemKey, ItemKind, Origin};

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::SeqCst);
    }
}

fn body(environment: &Arc<Environment>, lease: &Arc<Lease>) -> EventBody {
    EventBody {
        subscription: environment.hub.subscribe(StreamKind::All),
        environment: environment.clone(),
        credential: CredentialKind::Sdk,
        lease: lease.clone(),
        pace: Arc::default(),
        drain: Arc::default(),
        turns: None,
        payload: Payload::default(),
        turn: None,
        claim: None,
        ends: None,
        draining: false,
        ping_delay: None,
    }
}

/// Polls until there is nothing to send; returns true if the stream is over.
fn is_over(body: &mut EventBody, cx: &mut Context<'_>) -> bool {
    loop {
        match body.poll_next(cx) {
            Poll::Ready(Some(_)) => {}
            Poll::Ready(None) => return true,
            Poll::Pending => return false,
        }
    }
}

#[test]
fn a_revocation_is_noticed_whenever_it_comes() {
    /// Enough to meet the few instructions in which a revocation could be lost.
    const ROUNDS: usize = 20_000;
    let (_, environments) = Registry::of(vec![spec("sdk-1")]);
    let environment = environments[0].clone();
    let hub = environment.hub.clone();
    let data = Arc::new(DataSet::default());
    hub.replace(Arc::new(Snapshot::new(data, Origin::Live, SystemTime::UNIX_EPOCH)));
    let rounds: Vec<_> = (0..ROUNDS).map(|_| Arc::new(Lease::default())).collect();
    let start = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for lease in &rounds {
                start.wait();
                lease.revoke();
                hub.wake();
                start.wait();
            }
        });
        for lease in &rounds {
            let mut body = body(&environment, lease);
            let woken = Arc::new(Woken::default());
            let waker = Waker::from(woken.clone());
            start.wait();
            let over = is_over(&mut body, &mut Context::from_waker(&waker));
            start.wait();
            assert!(over || woken.0.load(Ordering::SeqCst), "the stream would stay open");
        }
    });
}

#[test]
fn large_changes_that_slow_clients_hold_are_paced_and_bounded() {
    const CHANGE_BYTES: usize = 10 << 20;
    let (_, environments) = Registry::of(vec![spec("sdk-1")]);
    let environment = environments[0].clone();
    let lease = Arc::new(Lease::default());
    let serve = |version: u64| {
        let key = ItemKey::new(ItemKind::Flag, "f");
        let json = format!("{{\"version\":{version},\"salt\":\"{}\"}}", "x".repeat(CHANGE_BYTES));
        let item = Arc::new(Item::live(version, json));
        let mut data = DataSet::default();
        data.upsert(&key, item.clone());
        let snapshot = Snapshot::new(Arc::new(data), Origin::Live, SystemTime::UNIX_EPOCH);
        (Arc::new(snapshot), ChangeSet::one(key, item))
    };
    environment.hub.replace(serve(1).0);
    let mut cx = Context::from_waker(Waker::noop());
    // Each client has read everything before a change, and stops in the middle of that change.
    let stuck: Vec<EventBody> = (2..14)
        .map(|version| {
            let mut body = body(&environment, &lease);
            assert!(!is_over(&mut body, &mut cx));
            assert_eq!(body.pace.send_until(), None, "nothing is under way");
            let (snapshot, change) = serve(version);
            environment.hub.change(snapshot, change);
            assert!(matches!(body.poll_next(&mut cx), Poll::Ready(Some(_))));
            assert!(body.pace.send_until().is_some(), "the minimum pace is demanded");
            body
        })
        .collect();
    let ended: Vec<usize> = (0..12).filter(|index| stuck[*index].pace.was_cut()).collect();
    assert_eq!(ended, [0, 1, 2, 3], "60 MiB of old changes stay, beside the newest two");
}
