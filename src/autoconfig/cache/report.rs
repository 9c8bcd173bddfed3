//! Status of one tier of the cache, for `/status`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use super::codec::Skipped;
use crate::autoconfig::record_set::Stamp;

/// Result of the newest read of a tier.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReadState {
    /// No read has ended yet.
    #[default]
    Reading,
    /// It held environments.
    Loaded,
    /// It answered and held none.
    Empty,
    /// It did not answer, or refused.
    Unavailable,
    /// It holds records, none of which opens with the keys that are configured.
    Unreadable,
    /// Its records are older than `cacheMaxAge` allows.
    TooOld,
}

impl ReadState {
    /// The word for `/status`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reading => "reading",
            Self::Loaded => "loaded",
            Self::Empty => "empty",
            Self::Unavailable => "unavailable",
            Self::Unreadable => "unreadable",
            Self::TooOld => "tooOld",
        }
    }
}

/// The state of one tier.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TierReport {
    /// Result of the newest read.
    pub read: ReadState,
    /// Rows that the newest read left out.
    pub skipped: Skipped,
    /// The manifest of the newest read.
    pub stamp: Option<Stamp>,
    /// True if that manifest vouched for all records.
    pub complete: bool,
    /// Records that are stored, as of the newest read or write.
    pub records: usize,
    /// True while accepted changes wait to be written.
    pub write_pending: bool,
    /// Time of the last successful write.
    pub last_write: Option<SystemTime>,
    /// Records that the database cannot hold.
    pub too_large: Vec<String>,
    /// The newest error, cleared by success.
    pub error: Option<String>,
}

/// A report that one task writes and requests read.
#[derive(Clone, Debug, Default)]
pub struct SharedReport(Arc<Mutex<TierReport>>);

impl SharedReport {
    /// The report at this moment.
    pub fn get(&self) -> TierReport {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Changes the report.
    pub fn update(&self, change: impl FnOnce(&mut TierReport)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }
}
