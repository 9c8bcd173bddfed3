//! Types of the handle's methods: settings, names of data sets, selections of streams, errors.
//!
//! Invariant: `Debug` shows no key.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::model::{ItemKind, Password};

/// Settings of the service.
#[derive(Clone)]
pub struct FakeSettings {
    /// The address to listen on; port 0 means any free port.
    pub listen: SocketAddr,
    /// The key that opens the autoconfig stream.
    pub autoconfig_key: String,
    /// Interval of the comments that keep streams alive; `None` sends none.
    pub heartbeat: Option<Duration>,
}

impl Default for FakeSettings {
    /// Loopback, any port, LaunchDarkly's heartbeat of three minutes, and a generated key.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            autoconfig_key: "rel-5f1c9e02-7d43-4c1b-9a86-demo00000001".to_owned(),
            heartbeat: Some(Duration::from_secs(180)),
        }
    }
}

impl std::fmt::Debug for FakeSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { listen, heartbeat, .. } = self;
        write!(f, "FakeSettings(listen {listen}, heartbeat {heartbeat:?})")
    }
}

/// Identifies one data set: an environment, unfiltered or with a payload filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataScope {
    /// Environment ID.
    pub environment: String,
    /// Filter key; empty means unfiltered.
    pub filter: String,
}

impl From<&str> for DataScope {
    fn from(environment: &str) -> Self {
        Self::from((environment, ""))
    }
}

impl From<&String> for DataScope {
    fn from(environment: &String) -> Self {
        Self::from(environment.as_str())
    }
}

impl From<(&str, &str)> for DataScope {
    /// Environment ID and filter key.
    fn from((environment, filter): (&str, &str)) -> Self {
        Self { environment: environment.to_owned(), filter: filter.to_owned() }
    }
}

/// A selection of open streams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamSelector {
    /// All streams.
    All,
    /// Autoconfig streams.
    Autoconfig,
    /// Flag streams of all environments.
    AllFlags,
    /// Flag streams of one data set.
    Flags(DataScope),
    /// Streams that were opened with this key; see [`StreamSelector::key`].
    Key(Password),
}

impl StreamSelector {
    /// Flag streams of one data set.
    pub fn flags(scope: impl Into<DataScope>) -> Self {
        Self::Flags(scope.into())
    }

    /// Streams that were opened with this key.
    pub fn key(key: &str) -> Self {
        Self::Key(Password::new(key))
    }
}

/// An error of a call to the handle.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FakeError {
    /// The item is not an object with a text as `key`.
    #[error("{kind:?} without a key")]
    NoKey {
        /// The kind of the item.
        kind: ItemKind,
    },
    /// An awaited event did not happen in time.
    #[error("no {what} within {within:?}; seen: {seen}")]
    TimedOut {
        /// The awaited event.
        what: String,
        /// The time-out.
        within: Duration,
        /// The state at the time-out.
        seen: String,
    },
}
