//! What a seed plays: how the fleet is built, and which faults happen when.

use fastrand::Rng;

/// Milliseconds of virtual time.
pub type Millis = u64;

/// The drawn scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    /// The relays: whether each has a local store.
    pub local_stores: Vec<bool>,
    pub database: Kind,
    /// How long faults happen. After that everything heals.
    pub faults_until: Millis,
    /// Pause between two faults, on average.
    pub fault_every: Millis,
    /// Faults that are possible, the more often listed the more often drawn.
    pub faults: Vec<Fault>,
    /// Pause between two changes at LaunchDarkly, on average.
    pub change_every: Millis,
    /// How many of a hundred calls to the database go wrong while faults happen.
    pub bad_calls: u64,
}

/// What the database can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Writes many rows at once, and under the condition of a marker: Redis, Consul.
    Atomic,
    /// Reads and writes row by row: DynamoDB with many items.
    RowByRow,
}

/// Something that happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// LaunchDarkly cannot be reached by anybody, for a while.
    Outage,
    /// One relay cannot reach LaunchDarkly, for a while.
    CutOff,
    /// A stream delivers nothing for a while, then everything at once.
    Stall,
    /// A stream is lost and comes back.
    Reconnect,
    /// A stream brings data that cannot be used.
    Malformed,
    /// LaunchDarkly designates another SDK key.
    Rotation,
    /// A relay is killed, and started again.
    Kill,
    /// A relay is killed and starts on another machine, without its local store.
    Replace,
    /// The database cannot be reached, for a while.
    Away,
    /// It restarts with its data.
    Restart,
    /// It loses everything.
    Wipe,
    /// It loses a few rows.
    Evict,
    /// It goes back to what it held some time ago.
    OldDump,
    /// It takes no writes, for a while.
    Full,
    /// Another program writes a row that is not what LaunchDarkly says.
    StrangeRow,
    /// Another program writes a marker that tells nothing.
    ForeignMarker,
    /// The store is handed the flags of another environment: two have one prefix, or had.
    ForeignSet,
    /// Another program writes a row that cannot be decoded.
    Undecodable,
}

const ALL: [Fault; 18] = [
    Fault::Outage,
    Fault::CutOff,
    Fault::Stall,
    Fault::Reconnect,
    Fault::Malformed,
    Fault::Rotation,
    Fault::Kill,
    Fault::Replace,
    Fault::Away,
    Fault::Restart,
    Fault::Wipe,
    Fault::Evict,
    Fault::OldDump,
    Fault::Full,
    Fault::StrangeRow,
    Fault::ForeignMarker,
    Fault::ForeignSet,
    Fault::Undecodable,
];

impl Scenario {
    /// The scenario of a seed. Few kinds of faults at a time show more than all of them at once.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let relays = rng.usize(1..=4);
        let kinds = rng.usize(1..=5);
        let faults: Vec<Fault> = (0..kinds).map(|_| ALL[rng.usize(..ALL.len())]).collect();
        Self {
            seed,
            local_stores: (0..relays).map(|_| rng.bool()).collect(),
            database: if rng.u8(..3) == 0 { Kind::RowByRow } else { Kind::Atomic },
            faults_until: rng.u64(20_000..300_000),
            fault_every: rng.u64(1_000..40_000),
            faults,
            change_every: rng.u64(500..40_000),
            bad_calls: if rng.bool() { 0 } else { rng.u64(1..30) },
        }
    }
}
