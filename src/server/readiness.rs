//! Readiness: decides whether the relay should get traffic.
//!
//! One new or broken environment never makes a serving relay unready, and no verdict is permanent.

use std::sync::OnceLock;
use std::time::Duration;

use hyper::{Response, StatusCode};
use serde_json::json;
use tokio::time::Instant;

use super::Server;
use super::body::Body;
use super::responses;
use crate::environments::Environment;
use crate::model::ListState;

/// Most names of items in one reason.
const NAMES_MAX: usize = 10;

/// Most environments that are named for one reason. The request needs no credential, so the answer
/// stays small.
const NAMED_MAX: usize = 20;

/// Time at which the list of environments was first known.
#[derive(Debug, Default)]
pub(super) struct Readiness {
    list_known_at: OnceLock<Instant>,
}

/// Facts that decide about readiness.
#[derive(Clone, Copy, Debug)]
struct Facts {
    leaving: bool,
    list: ListState,
    known: usize,
    serving: usize,
    /// Environments without data that were in the list when it became known. Those that came
    /// later never make a serving relay unready.
    awaited: usize,
    list_known_for: Duration,
    init_timeout: Duration,
}

/// Reasons why the relay is not ready; empty if it is. Pure.
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
    } else if facts.serving == 0 {
        reasons.push("no environment has data yet");
    } else if facts.awaited > 0 && facts.list_known_for < facts.init_timeout {
        reasons.push("some environments have no data yet");
    }
    reasons
}

impl Server {
    /// Notes when the list becomes known; to be spawned once.
    pub(super) async fn observe_list(&self) {
        let mut list = self.registry.watch_list();
        if list.wait_for(|list| *list != ListState::Unknown).await.is_ok() {
            let _ = self.readiness.list_known_at.set(Instant::now());
        }
    }

    pub(super) fn readyz(&self) -> Response<Body> {
        let environments = self.registry.environments();
        let known_at = self.readiness.list_known_at.get().copied();
        let is_serving = |environment: &Environment| environment.hub.snapshot().is_some();
        let is_awaited = |environment: &Environment| {
            !is_serving(environment) && known_at.is_some_and(|at| environment.known_at <= at)
        };
        let facts = Facts {
            leaving: self.drain.is_active(),
            list: self.registry.list(),
            known: environments.len(),
            serving: environments.iter().filter(|it| is_serving(it)).count(),
            awaited: environments.iter().filter(|it| is_awaited(it)).count(),
            list_known_for: known_at.map_or(Duration::ZERO, |at| Instant::now() - at),
            init_timeout: self.settings.init_timeout,
        };
        let reasons = reasons(facts);
        let is_ready = reasons.is_empty();
        let told: Vec<String> = reasons
            .into_iter()
            .map(str::to_owned)
            .chain(bounded(environments.iter().filter_map(|it| missing_items(it))))
            .chain(bounded(environments.iter().filter_map(|it| presumed(it))))
            .collect();
        let body = json!({
            "ready": is_ready,
            "reasons": told,
            "environments": { "known": facts.known, "serving": facts.serving },
        });
        if is_ready {
            responses::json(StatusCode::OK, body.to_string())
        } else {
            let response = responses::json(StatusCode::SERVICE_UNAVAILABLE, body.to_string());
            responses::with_retry_after(response)
        }
    }
}

/// Keeps the first of the reasons that name an environment, and counts the others. Pure.
fn bounded(mut reasons: impl Iterator<Item = String>) -> Vec<String> {
    let mut named: Vec<String> = reasons.by_ref().take(NAMED_MAX).collect();
    match reasons.count() {
        0 => {}
        more => named.push(format!("{more} more environments, for the same reason")),
    }
    named
}

/// Names the items that an environment lacks. The relay stays ready: otherwise clients would get
/// none of its other items either.
fn missing_items(environment: &Environment) -> Option<String> {
    let missing = environment.status().missing_items;
    if missing.is_empty() {
        return None;
    }
    let names: Vec<String> = missing.iter().take(NAMES_MAX).map(ToString::to_string).collect();
    let count = missing.len();
    let name = &environment.reference;
    Some(format!(
        "environment {name} serves without {count} items that no store holds in a readable form: {}",
        names.join(", ")
    ))
}

/// Names an environment whose data may be incomplete without the relay knowing.
fn presumed(environment: &Environment) -> Option<String> {
    let name = &environment.reference;
    environment.status().is_presumed.then(|| {
        format!(
            "environment {name} serves flags out of a store that does not count them, so that \
             missing ones would not be noticed"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_environments_are_named_and_the_others_counted() {
        let check = |count: usize, named: usize, last: &str| {
            let reasons = bounded((1..=count).map(|index| format!("environment {index}")));
            assert_eq!(reasons.len(), named);
            assert_eq!(reasons.last().map_or("", String::as_str), last);
        };
        check(0, 0, "");
        check(1, 1, "environment 1");
        check(NAMED_MAX, NAMED_MAX, "environment 20");
        check(NAMED_MAX + 7, NAMED_MAX + 1, "7 more environments, for the same reason");
    }

    #[test]
    fn ready_is_what_design_d22_says() {
        let check = |list, known: usize, serving: usize, known_for: u64, leaving, ready: bool| {
            let facts = Facts {
                awaited: known - serving,
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
        // An environment that came later is not awaited.
        let facts = Facts {
            leaving: false,
            list: Authoritative,
            known: 2,
            serving: 1,
            awaited: 0,
            list_known_for: Duration::ZERO,
            init_timeout: Duration::from_secs(10),
        };
        assert!(reasons(facts).is_empty());
    }
}
