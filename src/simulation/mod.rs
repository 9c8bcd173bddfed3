//! Whole fleets in one process, in virtual time, under a seed.
//!
//! One to four relays share a database. There are two kinds of fleets: one plays the [`flags`] of
//! an environment, the other the list of [`environments`]. Each wires the cores as their tasks do,
//! and puts models around them: LaunchDarkly, the database, the local store, and what clients see.
//! A [`scenario`] draws from the seed what fails and when. Nothing waits: the [`timeline`] holds all
//! that is under way, so any order of answers can be played.
//!
//! After each event, and when the faults have ended, the promises in the `checks` of each kind
//! hold. A run that breaks one prints its trace.
//!
//! `just simulate 0..10000` runs seeds; a test runs a fixed set.

mod calls;
mod environments;
mod flags;
mod scenario;
mod timeline;

use std::fmt::Write as _;

use self::environments::Environments;
use self::flags::Flags;
use self::scenario::{Millis, Scenario};
use self::timeline::Timeline;

/// Lines of a trace that are printed before the failure.
const TRACE_MAX: usize = 80;

/// Time to heal after the faults: more than a periodic comparison and the pauses after failures need.
const HEALING: Millis = 700_000;

/// Time at rest, during which the relays may do little.
const REST: Millis = 300_000;

/// Changes that follow one another at rest.
const CHANGES_AT_REST: usize = 5;

/// Time after which they are written everywhere.
const WRITING: Millis = 60_000;

/// Time after which a loss at rest is repaired: less than the pause between two comparisons of
/// everything, so that what is seen between them counts.
const REPAIR: Millis = 100_000;

/// Relays and what surrounds them.
trait Fleet: Sized {
    /// What lies ahead.
    type Event;
    /// What can fail.
    type Fault: std::fmt::Debug;

    /// What it is about.
    const NAME: &'static str;

    /// Most calls of one task during [`REST`].
    const CALLS_AT_REST_MAX: u64;

    /// The fleet of a seed.
    fn new(seed: u64, is_traced: bool) -> Self;

    fn scenario(&self) -> &Scenario<Self::Fault>;
    fn time(&self) -> &Timeline<Self::Event>;
    fn time_mut(&mut self) -> &mut Timeline<Self::Event>;

    /// Plans what happens first.
    fn begin(&mut self);
    fn happen(&mut self, event: Self::Event);

    /// All faults end.
    fn heal_everything(&mut self);

    /// LaunchDarkly changes something.
    fn change_something(&mut self);

    /// The database loses something.
    fn lose_something(&mut self) -> Result<(), String>;

    /// What is wrong, once there was time to mend it.
    fn check_rest(&mut self) -> Result<(), String>;

    /// How many calls each task has made.
    fn calls(&self) -> Vec<u64>;

    /// Plays until everything is at rest; returns what went wrong.
    fn run(&mut self) -> Result<(), String> {
        self.begin();
        self.play_until(self.scenario().faults_until)?;
        self.heal_everything();
        self.play_until(self.time().now + HEALING)?;
        self.check_rest()?;
        let before = self.calls();
        self.play_until(self.time().now + REST)?;
        self.check_rest()?;
        let made = self.calls().into_iter().zip(before).map(|(after, before)| after - before);
        if let Some(calls) = made.max().filter(|calls| *calls > Self::CALLS_AT_REST_MAX) {
            return Err(format!("{calls} calls at rest"));
        }
        for _ in 0..CHANGES_AT_REST {
            self.change_something();
            let pause = self.time_mut().rng.u64(..400);
            self.play_until(self.time().now + pause)?;
        }
        self.play_until(self.time().now + WRITING)?;
        self.check_rest()?;
        self.lose_something()?;
        self.play_until(self.time().now + REPAIR)?;
        self.check_rest()
    }

    fn play_until(&mut self, end: Millis) -> Result<(), String> {
        while let Some(event) = self.time_mut().next(end) {
            self.happen(event);
            if let Some(problem) = self.time_mut().take_problem() {
                return Err(problem);
            }
        }
        Ok(())
    }

    /// Writes a line of the trace.
    fn note(&mut self, text: impl FnOnce(&Self) -> String) {
        if self.time().is_traced() {
            let text = text(self);
            self.time_mut().line(&text);
        }
    }

    /// Whether the faults have ended.
    fn is_calm(&self) -> bool {
        self.time().now >= self.scenario().faults_until
    }
}

/// Plays one seed; returns what went wrong, with the trace that led there.
fn play<F: Fleet>(seed: u64) -> Result<(), String> {
    if fleet::<F>(seed, false).run().is_ok() {
        return Ok(());
    }
    // Once more, because writing a trace takes longer than what it tells of.
    let mut fleet = fleet::<F>(seed, true);
    let problem = fleet.run().err().unwrap_or_else(|| "nothing: it plays otherwise".to_owned());
    let trace = fleet.time().trace();
    let is_whole = std::env::var_os("PILOTLIGHT_WHOLE_TRACE").is_some();
    let skipped = if is_whole { 0 } else { trace.len().saturating_sub(TRACE_MAX) };
    let mut text = format!("{}, seed {seed}: {problem}\n{:?}\n", F::NAME, fleet.scenario());
    let _ = writeln!(text, "... {skipped} lines before");
    for line in &trace[skipped..] {
        let _ = writeln!(text, "{line}");
    }
    Err(text)
}

/// The fleet of a seed. All that is random comes from it: tokens of markers are drawn with
/// `fastrand` too.
fn fleet<F: Fleet>(seed: u64, is_traced: bool) -> F {
    fastrand::seed(seed);
    F::new(seed, is_traced)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::{Environments, Flags, Fleet, fleet, play};

    /// Failures that are shown.
    const FAILURES_MAX: usize = 3;

    /// Number of seeds of every run of the tests. A list of environments takes ten times as long,
    /// because its records are sealed.
    const SEEDS_OF_FLAGS: u64 = 1_500;
    const SEEDS_OF_ENVIRONMENTS: u64 = 500;

    /// Plays seeds on all cores, and shows the first few that fail.
    fn play_all(seeds: std::ops::Range<u64>, play: fn(u64) -> Result<(), String>) {
        let (next, failures) = (AtomicU64::new(seeds.start), Mutex::new(Vec::new()));
        let work = || loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= seeds.end || failures.lock().unwrap().len() >= FAILURES_MAX {
                break;
            }
            match std::panic::catch_unwind(|| play(seed)) {
                Ok(Ok(())) => {}
                Ok(Err(failure)) => failures.lock().unwrap().push(failure),
                Err(_) => failures.lock().unwrap().push(format!("seed {seed} panicked")),
            }
        };
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        std::thread::scope(|scope| {
            for _ in 0..cores {
                scope.spawn(work);
            }
        });
        let failures = failures.into_inner().unwrap();
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    /// The seeds of `PILOTLIGHT_SEEDS`, such as `0..10000` (see `just simulate`).
    #[allow(clippy::disallowed_methods, reason = "no product code reads this variable")]
    fn chosen_seeds() -> Option<std::ops::Range<u64>> {
        let range = std::env::var("PILOTLIGHT_SEEDS").ok()?;
        let (first, end) = range.split_once("..").expect("PILOTLIGHT_SEEDS=first..end");
        Some(first.parse().expect("a number")..end.parse().expect("a number"))
    }

    #[test]
    fn promises_about_flags_hold_whatever_fails() {
        play_all(chosen_seeds().unwrap_or(0..SEEDS_OF_FLAGS), play::<Flags>);
    }

    #[test]
    fn promises_about_environments_hold_whatever_fails() {
        play_all(chosen_seeds().unwrap_or(0..SEEDS_OF_ENVIRONMENTS), play::<Environments>);
    }

    fn played<F: Fleet>() -> Vec<String> {
        let mut fleet = fleet::<F>(7, true);
        let _ = fleet.run();
        fleet.time().trace().to_vec()
    }

    #[test]
    fn a_seed_plays_the_same_each_time() {
        for (first, second) in [
            (played::<Flags>(), played::<Flags>()),
            (played::<Environments>(), played::<Environments>()),
        ] {
            assert_eq!(first, second);
            assert!(first.len() > 50, "{first:?}");
        }
    }
}
