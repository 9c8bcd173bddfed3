//! Database clients that know nothing about flags, with deadlines and breakers, and the embedded
//! store.

pub mod breaker;
#[cfg(feature = "consul")]
pub mod consul;
#[cfg(feature = "dynamodb")]
pub mod dynamodb;
pub mod fail_fast;
pub mod join;
pub mod local;
pub mod meter;
#[cfg(any(feature = "redis", feature = "consul"))]
pub mod net;
#[cfg(feature = "redis")]
pub mod redis;
#[cfg(any(feature = "redis", feature = "dynamodb", feature = "consul"))]
pub mod table;
#[cfg(any(feature = "redis", feature = "consul"))]
pub mod tls;

pub use breaker::{BreakerState, LastError};
pub use fail_fast::{Budgets, Dialer, FailFast, Health};
pub use meter::Meter;

/// An error of a database call, classified by what a caller can do about it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No answer within the time budget of the call.
    #[error("store did not answer within {budget:?}")]
    TimedOut {
        /// The budget that ran out.
        budget: std::time::Duration,
    },
    /// The breaker is open; nothing was sent.
    #[error("store is cooling down after a failure")]
    CoolingDown,
    /// Like [`StoreError::CoolingDown`], with the failure that the breaker remembers.
    #[error("store is away: {0}")]
    Away(LastError),
    /// The connection failed, or the database cannot serve at the moment.
    #[error("store is unreachable")]
    Unreachable(#[source] Cause),
    /// The database refuses this client: credentials, permissions, missing table, wrong type.
    #[error("store refuses the request")]
    Refused(#[source] Cause),
    /// The database gave an invalid answer.
    #[error("stored {what} cannot be read")]
    Unreadable {
        /// The kind of data that was read.
        what: &'static str,
        /// The cause.
        #[source]
        cause: Cause,
    },
}

/// The cause of an error.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

impl StoreError {
    /// Adds the failure that the breaker remembers, while the breaker is open.
    #[must_use]
    pub fn with_cause_of(self, health: &Health) -> Self {
        match (self, &health.last_error) {
            (Self::CoolingDown, Some(last)) => Self::Away(last.clone()),
            (error, _) => error,
        }
    }

    /// True if the same call may succeed later without any change. Only these errors affect a
    /// breaker.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::TimedOut { .. } | Self::CoolingDown | Self::Away(_) | Self::Unreachable(_) => {
                true
            }
            Self::Refused(_) | Self::Unreadable { .. } => false,
        }
    }
}
