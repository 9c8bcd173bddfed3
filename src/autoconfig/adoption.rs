//! Decides whether rows that ld-relay left may be used. Pure.
//!
//! Nothing binds ld-relay's rows to a place or a time. A relay that has used its own sealed cache
//! must not go back to them only because the sealed rows were deleted: the old rows may hold keys
//! that were revoked months ago.

use super::record_set::{CachedSet, SetOrigin};
use super::startup_race::{CacheOutcome, Tier};

/// The configured rule for ld-relay's rows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Adopt {
    /// Only where neither tier of the cache has ever held sealed records.
    #[default]
    Once,
    /// Whenever no sealed manifest can be read.
    Always,
    /// Never.
    Never,
}

/// Facts about the tiers that decide about ld-relay's rows.
#[derive(Debug)]
pub struct Adoption {
    rule: Adopt,
    /// True if a tier holds, or held, records that are sealed in our own format.
    sealed_seen: bool,
    local: LocalTier,
    /// Number of times that the shared tier offered ld-relay's rows.
    offers: u32,
    /// The last verdict that was logged.
    told: Option<Verdict>,
}

/// Knowledge about the tier of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum LocalTier {
    /// Nothing yet.
    Awaited,
    /// It cannot be read for now: it may hold sealed records.
    Closed,
    /// It was read, or there is none.
    Known,
}

/// Decision about the use of a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is used.
    Used,
    /// It is not used before the tier of this machine has answered.
    NotYet,
    /// It is not used.
    Refused,
}

impl Adoption {
    /// Creates the state before any tier has answered.
    pub fn new(rule: Adopt, tiers: &[Tier]) -> Self {
        Self {
            rule,
            sealed_seen: false,
            local: match tiers.contains(&Tier::Local) {
                true => LocalTier::Awaited,
                false => LocalTier::Known,
            },
            offers: 0,
            told: None,
        }
    }

    /// Notes the answer of a tier.
    pub fn note(&mut self, tier: Tier, outcome: &CacheOutcome<CachedSet>) {
        match outcome {
            CacheOutcome::Loaded(set) if set.origin == SetOrigin::Adopted => {
                self.offers = self.offers.saturating_add(u32::from(tier == Tier::Shared));
            }
            CacheOutcome::Loaded(_) | CacheOutcome::Unreadable => self.sealed_seen = true,
            CacheOutcome::Empty | CacheOutcome::Unavailable => {}
        }
        match (tier, outcome) {
            (Tier::Local, CacheOutcome::Unavailable) if self.local != LocalTier::Known => {
                self.local = LocalTier::Closed;
            }
            (Tier::Local, CacheOutcome::Unavailable) | (Tier::Shared, _) => {}
            (Tier::Local, _) => self.local = LocalTier::Known,
        }
    }

    /// Decides whether a set may be used. A disk that does not answer delays the shared rows until
    /// they are read for the second time.
    pub fn verdict(&self, set: &CachedSet) -> Verdict {
        match (set.origin, self.rule) {
            (SetOrigin::Own, _) | (SetOrigin::Adopted, Adopt::Always) => Verdict::Used,
            (SetOrigin::Adopted, Adopt::Never) => Verdict::Refused,
            (SetOrigin::Adopted, Adopt::Once) if self.sealed_seen => Verdict::Refused,
            (SetOrigin::Adopted, Adopt::Once) => match self.local {
                LocalTier::Closed => Verdict::NotYet,
                LocalTier::Awaited if self.offers < 2 => Verdict::NotYet,
                LocalTier::Awaited | LocalTier::Known => Verdict::Used,
            },
        }
    }

    /// Logs a verdict about ld-relay's rows, once each.
    pub fn tell(&mut self, set: &CachedSet, verdict: Verdict) {
        if set.origin == SetOrigin::Own || self.told == Some(verdict) {
            return;
        }
        let environments = set.records.environments.len();
        match verdict {
            Verdict::Used => tracing::warn!(
                environments,
                "adopting environments that ld-relay left in the shared cache; their age is not \
                 known, so keys among them may have been revoked since. They are used until \
                 LaunchDarkly answers"
            ),
            Verdict::Refused => tracing::warn!(
                environments,
                "the shared cache holds only ld-relay's records, and they are not used: this relay \
                 has used sealed records before, or cacheAdopt is never. If the sealed records were \
                 removed on purpose, set AUTO_CONFIG_CACHE_ADOPT=always for one start"
            ),
            Verdict::NotYet if self.local == LocalTier::Closed => tracing::warn!(
                environments,
                "the shared cache holds only ld-relay's records, and they are not used while the \
                 local store cannot be opened, because it may hold newer ones. Repair the local \
                 store, or set AUTO_CONFIG_CACHE_ADOPT=always for one start"
            ),
            Verdict::NotYet => return,
        }
        self.told = Some(verdict);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Plays answers such as `local:sealed`, `shared:theirs` and checks the verdict about
    /// ld-relay's rows after each.
    #[track_caller]
    fn check(rule: Adopt, answers: &str, expected: &[Verdict]) {
        let theirs = CachedSet { origin: SetOrigin::Adopted, ..CachedSet::default() };
        let mut adoption = Adoption::new(rule, &[Tier::Local, Tier::Shared]);
        let mut verdicts = Vec::new();
        for answer in answers.split_whitespace() {
            let (tier, what) = answer.split_once(':').unwrap();
            let tier = if tier == "local" { Tier::Local } else { Tier::Shared };
            let outcome = match what {
                "theirs" => CacheOutcome::Loaded(theirs.clone()),
                "sealed" => CacheOutcome::Loaded(CachedSet::default()),
                "unreadable" => CacheOutcome::Unreadable,
                "empty" => CacheOutcome::Empty,
                "away" => CacheOutcome::Unavailable,
                other => panic!("{other}"),
            };
            adoption.note(tier, &outcome);
            verdicts.push(adoption.verdict(&theirs));
        }
        assert_eq!(verdicts, expected, "{rule:?} {answers}");
    }

    #[test]
    fn ld_relays_rows_are_adopted_once() {
        use Verdict::{NotYet, Refused, Used};
        check(Adopt::Once, "local:empty shared:theirs", &[Used, Used]);
        check(Adopt::Once, "local:away shared:theirs", &[NotYet, NotYet]);
        check(Adopt::Once, "local:away shared:theirs shared:theirs", &[NotYet, NotYet, NotYet]);
        check(Adopt::Once, "shared:theirs local:away shared:theirs", &[NotYet, NotYet, NotYet]);
        check(Adopt::Once, "local:away shared:theirs local:empty", &[NotYet, NotYet, Used]);
        check(Adopt::Once, "local:away shared:theirs local:sealed", &[NotYet, NotYet, Refused]);
        check(Adopt::Once, "local:empty local:away shared:theirs", &[Used, Used, Used]);
        check(Adopt::Always, "local:away shared:theirs", &[Used, Used]);
        check(Adopt::Once, "local:sealed shared:theirs", &[Refused, Refused]);
        check(Adopt::Once, "local:unreadable shared:theirs", &[Refused, Refused]);
        check(Adopt::Once, "shared:theirs local:empty", &[NotYet, Used]);
        check(Adopt::Once, "shared:theirs local:sealed", &[NotYet, Refused]);
        check(Adopt::Once, "shared:theirs shared:theirs", &[NotYet, Used]);
        check(Adopt::Once, "local:theirs shared:theirs", &[Used, Used]);
        check(Adopt::Once, "local:empty shared:sealed", &[Used, Refused]);
        check(Adopt::Always, "local:sealed shared:theirs", &[Used, Used]);
        check(Adopt::Never, "local:empty shared:theirs", &[Refused, Refused]);
    }
}
