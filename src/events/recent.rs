//! What was seen lately. Pure.

use std::collections::{HashSet, VecDeque};
use std::hash::Hash;
use std::time::Duration;

use tokio::time::Instant;

/// Values that were seen lately, within a bound.
#[derive(Debug)]
pub struct Recent<T> {
    /// Values that are remembered.
    values_max: usize,
    /// How long.
    age_max: Duration,
    seen: HashSet<T>,
    order: VecDeque<(Instant, T)>,
}

impl<T: Clone + Eq + Hash> Recent<T> {
    /// Nothing was seen yet.
    pub fn new(values_max: usize, age_max: Duration) -> Self {
        Self { values_max, age_max, seen: HashSet::new(), order: VecDeque::new() }
    }

    /// True if the value was not seen lately; it is from now on.
    pub fn is_new(&mut self, value: &T, now: Instant) -> bool {
        while let Some((at, _)) = self.order.front()
            && (now >= *at + self.age_max || self.order.len() >= self.values_max)
        {
            if let Some((_, value)) = self.order.pop_front() {
                self.seen.remove(&value);
            }
        }
        let is_new = self.seen.insert(value.clone());
        if is_new {
            self.order.push_back((now, value.clone()));
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_counts_once_for_a_while() {
        const VALUES_MAX: usize = 10_000;
        let begun = Instant::now();
        let mut names = Recent::new(VALUES_MAX, Duration::from_secs(300));
        let mut check = |at, environment: &str, name: &str, expected| {
            let now = begun + Duration::from_secs(at);
            let is_new = names.is_new(&(environment.to_owned(), name.to_owned()), now);
            assert_eq!(is_new, expected, "{at} {environment} {name}");
        };
        check(0, "a", "p", true);
        check(1, "a", "p", false);
        check(1, "b", "p", true);
        check(299, "a", "p", false);
        check(300, "a", "p", true);
        for number in 0..VALUES_MAX {
            check(301, "a", &number.to_string(), true);
        }
        check(301, "a", "p", true);
        assert!(names.seen.len() <= VALUES_MAX && names.order.len() <= VALUES_MAX);
    }
}
