//! The race at start: cached environments against the first live put. Pure.
//!
//! Local store, shared cache and stream start at the same moment. The content of each tier is
//! applied as soon as it answers; a live put ends the race, and what a cache answers after it is
//! older by definition and dropped.

use std::fmt;

/// A place where environments are cached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Tier {
    /// The embedded store of this machine.
    Local,
    /// The database shared with other relays.
    Shared,
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local store",
            Self::Shared => "shared cache",
        })
    }
}

/// Result of reading one tier.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheOutcome<C> {
    /// It holds environments, or knows of removed ones. Filters alone count as empty.
    Loaded(C),
    /// It answered and knows of no environment.
    Empty,
    /// It did not answer, or refused: it may well hold environments.
    Unavailable,
    /// It holds records, none of which opens with the keys that are configured.
    Unreadable,
}

/// An event of the race.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<C> {
    /// A tier was read.
    Cache(Tier, CacheOutcome<C>),
    /// A put from the stream is about to be applied.
    LivePut,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Racing,
    Live,
}

/// The state of the race.
#[derive(Clone, Debug)]
pub struct StartupRace {
    phase: Phase,
    /// Tiers that have not answered yet.
    awaited: Vec<Tier>,
}

impl StartupRace {
    /// A race in which these tiers are being read.
    pub fn new(tiers: &[Tier]) -> Self {
        Self { phase: Phase::Racing, awaited: tiers.to_vec() }
    }

    /// True if no cache can still bring environments.
    pub fn caches_settled(&self) -> bool {
        self.phase == Phase::Live || self.awaited.is_empty()
    }

    /// True once a live put was applied.
    pub fn is_live(&self) -> bool {
        self.phase == Phase::Live
    }

    /// Takes an event and returns the set that is to be taken into account until LaunchDarkly
    /// answers.
    pub fn on<C>(&mut self, event: Event<C>) -> Option<C> {
        if let Event::Cache(tier, _) = &event {
            self.awaited.retain(|awaited| awaited != tier);
        }
        match (self.phase, event) {
            (Phase::Racing, Event::Cache(_, CacheOutcome::Loaded(set))) => Some(set),
            (Phase::Live, Event::Cache(_, CacheOutcome::Loaded(_))) => None,
            (
                _,
                Event::Cache(
                    _,
                    CacheOutcome::Empty | CacheOutcome::Unavailable | CacheOutcome::Unreadable,
                ),
            ) => None,
            (_, Event::LivePut) => {
                self.phase = Phase::Live;
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays events such as `local:a`, `shared:empty`, `put` and shows what they caused.
    #[track_caller]
    fn check(events: &str, expected: &str) {
        let mut race = StartupRace::new(&[Tier::Local, Tier::Shared]);
        let mut shown = Vec::new();
        for word in events.split_whitespace() {
            let event = match word.split_once(':') {
                None => Event::LivePut,
                Some((tier, what)) => {
                    let tier = if tier == "local" { Tier::Local } else { Tier::Shared };
                    let outcome = match what {
                        "empty" => CacheOutcome::Empty,
                        "away" => CacheOutcome::Unavailable,
                        "sealed" => CacheOutcome::Unreadable,
                        set => CacheOutcome::Loaded(set.to_owned()),
                    };
                    Event::Cache(tier, outcome)
                }
            };
            shown.extend(race.on(event).map(|set| format!("apply-{set}")));
        }
        if race.caches_settled() {
            shown.push("settled".to_owned());
        }
        assert_eq!(shown.join(" "), expected, "{events}");
    }

    #[test]
    fn whatever_a_tier_holds_is_taken_into_account() {
        check("local:a", "apply-a");
        check("local:a shared:b", "apply-a apply-b settled");
        check("shared:b local:a", "apply-b apply-a settled");
        check("shared:empty local:a", "apply-a settled");
        check("shared:away local:sealed", "settled");
    }

    #[test]
    fn a_live_put_ends_the_race() {
        check("put", "settled");
        check("put local:a shared:b put", "settled");
        check("local:a put shared:b", "apply-a settled");
        check("local:a shared:empty put", "apply-a settled");
    }
}
