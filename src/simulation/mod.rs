//! Whole fleets in one process, in virtual time, under a seed.
//!
//! One to four relays share a database. Each is the serving core of an environment and the core
//! that keeps its shared flag store, wired as their tasks wire them. Around them are models:
//! LaunchDarkly ([`launchdarkly`]), the database ([`database`]), the local store and a client of
//! each relay ([`relay`]). A [`scenario`] draws from the seed what fails and when. Nothing waits:
//! an event queue holds all that is under way, so any order of answers can be played.
//!
//! After each event, and when the faults have ended, the promises of [`World::check`] and
//! [`World::check_rest`] hold. A run that breaks one prints its trace.
//!
//! `just simulate 0..10000` runs seeds; a test runs a fixed set.

mod database;
mod launchdarkly;
mod relay;
mod scenario;
mod world;

use std::fmt::Write as _;

use self::scenario::Scenario;
use self::world::World;

/// Lines of a trace that are printed before the failure.
const TRACE_MAX: usize = 80;

/// Plays one seed; returns what went wrong, with the trace that led there.
fn play(seed: u64) -> Result<(), String> {
    if world(seed, false).run().is_ok() {
        return Ok(());
    }
    // Once more, because writing a trace takes longer than what it tells of.
    let mut world = world(seed, true);
    let problem = world.run().err().unwrap_or_else(|| "nothing: it plays otherwise".to_owned());
    let trace = world.trace();
    let is_whole = std::env::var_os("PILOTLIGHT_WHOLE_TRACE").is_some();
    let skipped = if is_whole { 0 } else { trace.len().saturating_sub(TRACE_MAX) };
    let mut text = format!("seed {seed}: {problem}\n{:?}\n", world.scenario());
    let _ = writeln!(text, "... {skipped} lines before");
    for line in &trace[skipped..] {
        let _ = writeln!(text, "{line}");
    }
    Err(text)
}

/// The fleet of a seed. All that is random comes from it: tokens of markers are drawn with
/// `fastrand` too.
fn world(seed: u64, is_traced: bool) -> World {
    fastrand::seed(seed);
    World::new(Scenario::draw(seed), is_traced)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::play;

    /// Failures that are shown.
    const FAILURES_MAX: usize = 3;

    /// Number of seeds of every run of the tests.
    const SEEDS: u64 = 1_500;

    /// Plays seeds on all cores, and shows the first few that fail.
    fn play_all(seeds: std::ops::Range<u64>) {
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

    /// The seeds of `PILOTLIGHT_SEEDS`, such as `0..10000` (see `just simulate`), or a fixed set.
    #[allow(clippy::disallowed_methods, reason = "no product code reads this variable")]
    fn seeds() -> std::ops::Range<u64> {
        let Ok(range) = std::env::var("PILOTLIGHT_SEEDS") else { return 0..SEEDS };
        let (first, end) = range.split_once("..").expect("PILOTLIGHT_SEEDS=first..end");
        first.parse().expect("a number")..end.parse().expect("a number")
    }

    #[test]
    fn promises_hold_whatever_fails() {
        play_all(seeds());
    }

    #[test]
    fn a_seed_plays_the_same_each_time() {
        let played = || {
            let mut world = super::world(7, true);
            let _ = world.run();
            world.trace().to_vec()
        };
        let first = played();
        assert_eq!(first, played());
        assert!(first.len() > 50, "{first:?}");
    }
}
