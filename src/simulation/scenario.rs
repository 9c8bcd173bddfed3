//! What a seed plays: how the fleet is built, and which faults happen when.

use fastrand::Rng;

use super::timeline::Timeline;

/// Milliseconds of virtual time.
pub type Millis = u64;

/// The drawn scenario. `F` is what can fail.
#[derive(Clone, Debug)]
pub struct Scenario<F> {
    /// The relays: whether each has a local store.
    pub local_stores: Vec<bool>,
    /// Whether the database reads and writes row by row, as DynamoDB does with many items, and not
    /// many rows at once and under the condition of a marker.
    pub is_row_by_row: bool,
    /// How long faults happen. After that everything heals.
    pub faults_until: Millis,
    /// Pause between two faults, on average.
    pub fault_every: Millis,
    /// Faults that are possible, the more often listed the more often drawn.
    pub faults: Vec<F>,
    /// Pause between two changes at LaunchDarkly, on average.
    pub change_every: Millis,
    /// How many of a hundred calls to the database go wrong while faults happen.
    pub bad_calls: u64,
}

impl<F: Copy> Scenario<F> {
    /// The scenario of a seed. Few kinds of faults at a time show more than all of them at once.
    pub fn draw(seed: u64, all: &[F]) -> Self {
        let mut rng = Rng::with_seed(seed);
        let relays = rng.usize(1..=4);
        let kinds = rng.usize(1..=5);
        let faults: Vec<F> = (0..kinds).map(|_| all[rng.usize(..all.len())]).collect();
        Self {
            local_stores: (0..relays).map(|_| rng.bool()).collect(),
            is_row_by_row: rng.u8(..3) == 0,
            faults_until: rng.u64(20_000..300_000),
            fault_every: rng.u64(1_000..40_000),
            faults,
            change_every: rng.u64(500..40_000),
            bad_calls: if rng.bool() { 0 } else { rng.u64(1..30) },
        }
    }

    /// The relays, by name and whether they have a local store.
    pub fn relays<R>(&self, new: impl Fn(char, bool) -> R) -> Vec<R> {
        ('A'..='Z').zip(&self.local_stores).map(|(name, local)| new(name, *local)).collect()
    }

    /// Plans what happens first: the relays start, LaunchDarkly is heard and changes, faults come.
    pub fn begin<E>(
        &self,
        time: &mut Timeline<E>,
        start: impl Fn(usize) -> E,
        [heartbeats, change, fault]: [E; 3],
    ) {
        for relay in 0..self.local_stores.len() {
            let after = time.rng.u64(..2_000);
            time.plan(after, start(relay));
        }
        time.plan(0, heartbeats);
        time.plan_around(self.change_every, change);
        time.plan_around(self.fault_every, fault);
    }
}
