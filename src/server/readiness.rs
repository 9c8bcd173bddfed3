//! Whether the relay should get traffic (design D22).
//!
//! One new or broken environment never takes a serving relay out, and nothing latches.

use std::sync::OnceLock;
use std::time::Duration;

use hyper::{Response, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use super::Server;
use super::body::Body;
use super::responses;
use crate::model::ListState;

/// When the list of environments was first seen to be known.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    list_known_at: OnceLock<Instant>,
}

/// What readiness is judged by.
#[derive(Clone, Copy, Debug)]
struct Facts {
    leaving: bool,
    list: ListState,
    known: usize,
    serving: usize,
    list_known_for: Duration,
    init_timeout: Duration,
}

/// Why the relay is not ready; empty if it is. Pure.
fn reasons(facts: Facts) -> Vec<&'static str> {
    let mut reasons = Vec::new();
    if facts.leaving {
        reasons.push("shutting down");
    }
    if facts.list == ListState::Unknown {
        reasons.push("the list of environments is not known yet");
    } else if facts.known == 0 {
        if facts.list != ListState::Authoritative {
            reasons.push("the list of environments is not confirmed and empty");
        }
    } else if facts.serving < facts.known {
        if facts.serving == 0 {
            reasons.push("no environment has data yet");
        } else if facts.list_known_for < facts.init_timeout {
            reasons.push("some environments have no data yet");
        }
    }
    reasons
}

impl Server {
    /// Tells the readiness of when the list became known; to be spawned once.
    pub(super) async fn observe_list(&self) {
        let mut list = self.registry.watch_list();
        if list.wait_for(|list| *list != ListState::Unknown).await.is_ok() {
            let _ = self.readiness.list_known_at.set(Instant::now());
        }
    }

    pub(super) fn readyz(&self) -> Response<Body> {
        let environments = self.registry.environments();
        let serving = environments.iter().filter(|env| env.hub.snapshot().is_some()).count();
        let facts = Facts {
            leaving: self.drain.is_active(),
            list: self.registry.list(),
            known: environments.len(),
            serving,
            list_known_for: self
                .readiness
                .list_known_at
                .get()
                .map_or(Duration::ZERO, |at| Instant::now() - *at),
            init_timeout: self.settings.init_timeout,
        };
        let reasons = reasons(facts);
        let body = json!({
            "ready": reasons.is_empty(),
            "reasons": reasons,
            "environments": { "known": facts.known, "serving": facts.serving },
        });
        if reasons.is_empty() {
            responses::json(StatusCode::OK, body.to_string())
        } else {
            let response = responses::json(StatusCode::SERVICE_UNAVAILABLE, body.to_string());
            responses::retry_later(response)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_what_design_d22_says() {
        let check = |list, known, serving, known_for: u64, leaving, ready: bool| {
            let facts = Facts {
                leaving,
                list,
                known,
                serving,
                list_known_for: Duration::from_secs(known_for),
                init_timeout: Duration::from_secs(10),
            };
            assert_eq!(reasons(facts).is_empty(), ready, "{facts:?}");
        };
        use ListState::{Authoritative, Provisional, Unknown};
        check(Unknown, 0, 0, 0, false, false);
        check(Provisional, 2, 2, 0, false, true);
        check(Provisional, 2, 1, 9, false, false);
        check(Provisional, 2, 1, 10, false, true);
        check(Provisional, 2, 0, 99, false, false);
        check(Provisional, 0, 0, 99, false, false);
        check(Authoritative, 0, 0, 0, false, true);
        check(Authoritative, 3, 3, 0, false, true);
        check(Authoritative, 3, 2, 11, false, true);
        check(Authoritative, 3, 3, 0, true, false);
    }
}
