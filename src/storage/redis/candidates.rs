//! Lists of equivalent servers: the server with which each round begins.
//!
//! Relays that start together do not all ask the first server of the list. A server that answered
//! is asked first the next time; one that did not, even for lack of the caller's time, is asked
//! last.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::timeout;

use crate::storage::StoreError;
use crate::storage::net::Endpoint;
use crate::telemetry::Chain;

/// The place in a list where the next round begins.
pub(super) struct Start(AtomicUsize);

impl Start {
    /// A random start.
    pub(super) fn random() -> Self {
        Self(AtomicUsize::new(fastrand::usize(..usize::MAX / 2)))
    }

    /// One round over a list of `count` servers.
    pub(super) fn round(&self, count: usize) -> impl ExactSizeIterator<Item = usize> {
        let first = self.0.load(Ordering::Relaxed);
        (0..count).map(move |step| {
            let place = first.wrapping_add(step) % count;
            self.0.store(place + 1, Ordering::Relaxed);
            place
        })
    }

    /// Records that the server at this place answered as wanted.
    pub(super) fn found(&self, place: usize) {
        self.0.store(place, Ordering::Relaxed);
    }
}

/// Limits one server of a round to its share of the caller's time, so that some is left for the
/// others; without a share, as for the last one, there is no limit.
pub(super) async fn within<T>(
    share: Option<Duration>,
    attempt: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    match share {
        Some(budget) => {
            timeout(budget, attempt).await.unwrap_or(Err(StoreError::TimedOut { budget }))
        }
        None => attempt.await,
    }
}

/// The errors of the servers in a round without success.
#[derive(Default)]
pub(super) struct Failures {
    texts: Vec<String>,
    any_passes: bool,
}

/// The error of a round without success.
#[derive(Debug, thiserror::Error)]
#[error("{what} ({})", .texts.join("; "))]
struct Fruitless {
    what: &'static str,
    texts: Vec<String>,
}

impl Failures {
    pub(super) fn add(&mut self, server: &Endpoint, error: &StoreError) {
        self.any_passes |= error.is_transient();
        self.texts.push(format!("{server}: {}", Chain(error)));
    }

    /// Transient if one of the errors was: that server may answer later.
    pub(super) fn into_error(self, what: &'static str) -> StoreError {
        let cause = Box::new(Fruitless { what, texts: self.texts });
        if self.any_passes { StoreError::Unreachable(cause) } else { StoreError::Refused(cause) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fruitless_round_tells_what_each_server_said() {
        let endpoint = |host: &str| Endpoint::Tcp { host: host.to_owned(), port: 1, tls: None };
        let check = |errors: Vec<StoreError>, expected: &str| {
            let mut failures = Failures::default();
            for (error, host) in errors.iter().zip(["a", "b"]) {
                failures.add(&endpoint(host), error);
            }
            let error = failures.into_error("nobody helps");
            assert_eq!(Chain(&error).to_string(), expected);
        };
        let refusal = || StoreError::Refused("WRONGPASS".into());
        check(
            vec![StoreError::Unreachable("gone".into()), refusal()],
            "store is unreachable: nobody helps (a:1: store is unreachable: gone; \
             b:1: store refuses the request: WRONGPASS)",
        );
        check(
            vec![refusal()],
            "store refuses the request: nobody helps (a:1: store refuses the request: WRONGPASS)",
        );
    }

    #[tokio::test(start_paused = true)]
    async fn only_shares_of_time_run_out() {
        let (share, hour) = (Duration::from_millis(500), Duration::from_secs(3600));
        let slow = || async {
            tokio::time::sleep(hour).await;
            Ok(())
        };
        let begun = tokio::time::Instant::now();
        assert!(matches!(within(Some(share), slow()).await, Err(StoreError::TimedOut { .. })));
        assert_eq!(begun.elapsed(), share);
        within(None, slow()).await.unwrap();
        let start = Start::random();
        let mut round = start.round(2);
        assert!(round.next().is_some() && round.len() == 1);
        assert!(round.next().is_some() && round.len() == 0);
    }

    #[test]
    fn a_round_asks_each_once_and_goes_on_where_the_last_one_stopped() {
        let start = Start(AtomicUsize::new(4));
        assert_eq!(start.round(3).collect::<Vec<_>>(), [1, 2, 0]);
        assert_eq!(start.round(3).next(), Some(1), "after a full round, as before");
        assert_eq!(start.round(3).next(), Some(2), "the caller gave up on the one before");
        start.found(2);
        assert_eq!(start.round(3).next(), Some(2), "who answered is asked again");
        assert_eq!(start.round(0).count(), 0);
        assert!(Start::random().round(5).all(|place| place < 5));
    }
}
