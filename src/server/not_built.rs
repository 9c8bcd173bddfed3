//! Features that are switched off, or that this version does not have: answers to clients and advice
//! to the operator.
//!
//! SDKs take 401 and 404 as final, so routes of these features answer 503; without `Retry-After`,
//! because a retry would not help.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Shortest time between two log lines about the same environment and feature.
const REPORT_INTERVAL: Duration = Duration::from_secs(3600);

/// A feature that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Feature {
    /// Analytics and diagnostic events.
    Events,
    /// The second version of the flag delivery protocol.
    Fdv2,
}

impl Feature {
    /// The body of the answer.
    pub(super) fn answer(self) -> &'static str {
        match self {
            Self::Events => "The relay is configured not to forward events (sendEvents)",
            Self::Fdv2 => {
                "This version of the relay does not serve FDv2 yet; the header X-LD-FD-Fallback \
                 tells SDKs to use FDv1"
            }
        }
    }

    /// The name in the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Events => "event forwarding",
            Self::Fdv2 => "FDv2",
        }
    }

    /// Advice to the operator.
    pub(super) fn advice(self) -> &'static str {
        match self {
            Self::Events => {
                "set USE_EVENTS to true (sendEvents in [Events]), or the SDK's events URI to the one \
                 of LaunchDarkly for this account (https://events.launchdarkly.com; EU: https://events.eu.launchdarkly.com; federal: \
                 https://events.launchdarkly.us); until then its events are lost"
            }
            Self::Fdv2 => "nothing to do: the SDK falls back to FDv1 by itself",
        }
    }
}

/// Times at which the log last named each environment and feature. Holds at most one entry for each
/// pair, and only those of the last hour.
#[derive(Debug, Default)]
pub(super) struct Reports(Mutex<BTreeMap<(String, Feature), Instant>>);

impl Reports {
    /// True if the log is to name this pair now; then the time is noted.
    pub(super) fn is_due(&self, environment: &str, feature: Feature, now: Instant) -> bool {
        let mut reported = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (environment.to_owned(), feature);
        if reported.get(&key).is_some_and(|at| now - *at < REPORT_INTERVAL) {
            return false;
        }
        reported.retain(|_, at| now - *at < REPORT_INTERVAL);
        reported.insert(key, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_about_events_is_right_for_every_kind_of_account() {
        let advice = Feature::Events.advice();
        for host in ["launchdarkly.com;", "eu.launchdarkly.com;", "launchdarkly.us)"] {
            assert!(advice.contains(&format!("https://events.{host}")), "{host} in {advice}");
        }
    }

    #[test]
    fn each_pair_is_reported_once_an_hour() {
        let begin = Instant::now();
        let reports = Reports::default();
        let check = |minute: u64, environment: &str, feature, expected| {
            let now = begin + Duration::from_secs(60 * minute);
            let due = reports.is_due(environment, feature, now);
            assert_eq!(due, expected, "{minute} {environment} {feature:?}");
        };
        check(0, "a", Feature::Events, true);
        check(1, "a", Feature::Events, false);
        check(1, "a", Feature::Fdv2, true);
        check(2, "b", Feature::Events, true);
        check(59, "a", Feature::Events, false);
        check(60, "a", Feature::Events, true);
        check(61, "a", Feature::Events, false);
        check(130, "c", Feature::Events, true);
        assert_eq!(reports.0.lock().unwrap().len(), 1, "what is older than an hour is forgotten");
    }
}
