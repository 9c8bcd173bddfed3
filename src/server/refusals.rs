//! Requests that are answered with 503: the reasons, and how often each was given.

use std::sync::atomic::{AtomicU64, Ordering};

use hyper::Response;
use serde_json::{Map, Value};

use super::body::Body;

/// Why a client is told to come again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no list of environments yet.
    NoList,
    /// The credential may be valid.
    UnknownForNow,
    /// The environment has no data yet.
    NoData,
    /// Too many large answers, evaluations or bodies at this moment.
    Busy,
    /// The relay is shutting down.
    Leaving,
    /// There are too many connections.
    OverLimit,
    /// LaunchDarkly cannot be reached for something that only it knows.
    Away,
}

impl Refusal {
    const ALL: [Self; 7] = [
        Self::NoList,
        Self::UnknownForNow,
        Self::NoData,
        Self::Busy,
        Self::Leaving,
        Self::OverLimit,
        Self::Away,
    ];

    /// The text for people.
    pub(super) fn text(self) -> &'static str {
        match self {
            Self::NoList => {
                "The relay is not fully initialized: it has no list of environments yet"
            }
            Self::UnknownForNow => {
                "The relay is not fully initialized: it cannot tell yet whether this credential is \
                 valid"
            }
            Self::NoData => "The relay has no data for this environment yet",
            Self::Busy => "Too many clients are being served at this moment",
            Self::Leaving => "The relay is shutting down",
            Self::OverLimit => "Too many connections are open at this moment",
            Self::Away => "LaunchDarkly cannot be reached",
        }
    }

    /// The name in `/status`.
    fn name(self) -> &'static str {
        match self {
            Self::NoList => "noListOfEnvironments",
            Self::UnknownForNow => "credentialUnknownForNow",
            Self::NoData => "noData",
            Self::Busy => "busy",
            Self::Leaving => "shuttingDown",
            Self::OverLimit => "tooManyConnections",
            Self::Away => "launchDarklyAway",
        }
    }
}

/// How often each reason was given since the start.
#[derive(Debug, Default)]
pub(super) struct Refusals([AtomicU64; Refusal::ALL.len()]);

impl Refusals {
    /// Counts an answer, if it is a refusal.
    pub(super) fn count(&self, response: &Response<Body>) {
        if let Some(refusal) = response.extensions().get::<Refusal>() {
            self.0[*refusal as usize].fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The numbers by name.
    pub(super) fn numbers(&self) -> Map<String, Value> {
        let number = |refusal: Refusal| {
            let count = self.0[refusal as usize].load(Ordering::Relaxed);
            (refusal.name().to_owned(), count.into())
        };
        Refusal::ALL.map(number).into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::server::responses::{empty, unavailable};

    #[test]
    fn each_reason_has_a_number_of_its_own() {
        let refusals = Refusals::default();
        refusals.count(&empty(hyper::StatusCode::OK));
        for (index, refusal) in Refusal::ALL.into_iter().enumerate() {
            assert_eq!(refusal as usize, index);
            for _ in 0..=index {
                refusals.count(&unavailable(refusal));
            }
        }
        let numbers = refusals.numbers();
        let numbers: Vec<u64> =
            Refusal::ALL.iter().map(|it| numbers[it.name()].as_u64().unwrap()).collect();
        assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7]);
    }
}
