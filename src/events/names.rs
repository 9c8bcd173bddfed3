//! Names of payloads, so that what an SDK sends twice counts once. Pure.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::post::Destination;

/// Names that are remembered, and how long. SDKs try again after a second.
const NAMES_MAX: usize = 10_000;
const NAMES_AGE: Duration = Duration::from_secs(300);

/// Names of payloads that were seen lately.
#[derive(Debug, Default)]
pub struct Names {
    seen: HashSet<(Destination, Arc<str>)>,
    order: VecDeque<(Instant, (Destination, Arc<str>))>,
}

impl Names {
    /// True if the name was not seen lately; it is from now on.
    pub fn is_new(&mut self, destination: &Destination, id: &Arc<str>, now: Instant) -> bool {
        while let Some((at, _)) = self.order.front()
            && (now >= *at + NAMES_AGE || self.order.len() >= NAMES_MAX)
        {
            if let Some((_, name)) = self.order.pop_front() {
                self.seen.remove(&name);
            }
        }
        let name = (destination.clone(), id.clone());
        let is_new = self.seen.insert(name.clone());
        if is_new {
            self.order.push_back((now, name));
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::post::Audience;
    use crate::model::{EnvironmentRef, FilterKey};

    #[test]
    fn a_name_counts_once_for_a_while() {
        let begun = Instant::now();
        let destination = |environment: &str| Destination {
            environment: EnvironmentRef {
                environment: environment.into(),
                filter: FilterKey::new(""),
            },
            audience: Audience::Server,
        };
        let mut names = Names::default();
        let mut check = |at, environment: &str, name: &str, expected| {
            let now = begun + Duration::from_secs(at);
            let is_new = names.is_new(&destination(environment), &name.into(), now);
            assert_eq!(is_new, expected, "{at} {environment} {name}");
        };
        check(0, "a", "p", true);
        check(1, "a", "p", false);
        check(1, "b", "p", true);
        check(299, "a", "p", false);
        check(300, "a", "p", true);
        for number in 0..NAMES_MAX {
            check(301, "a", &number.to_string(), true);
        }
        check(301, "a", "p", true);
        assert!(names.seen.len() <= NAMES_MAX && names.order.len() <= NAMES_MAX);
    }
}
