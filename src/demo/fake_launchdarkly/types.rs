//! What the handle takes and gives: settings, names of data sets, selections of streams, errors.
//!
//! Invariant: `Debug` shows no key.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::model::{ItemKind, Password};

/// What has to be said before the service starts.
#[derive(Clone)]
pub struct FakeSettings {
    /// Where to listen; port 0 for any free one.
    pub listen: SocketAddr,
    /// The key that opens the autoconfig stream.
    pub autoconfig_key: String,
    /// Interval of the comments that keep streams alive; `None` sends none.
    pub heartbeat: Option<Duration>,
}

impl Default for FakeSettings {
    /// Loopback, any port, LaunchDarkly's heartbeat of three minutes, and a composed key.
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

/// Names one data set: an environment, or an environment seen through a payload filter.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DataScope {
    /// Environment ID.
    pub environment: String,
    /// Filter key; empty: unfiltered.
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

/// Which open streams are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamSelector {
    /// All of them.
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

/// What a call to the handle can end in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FakeError {
    /// The item is not an object with a text as `key`.
    #[error("{kind:?} without a key")]
    NoKey {
        /// What it was meant to be.
        kind: ItemKind,
    },
    /// What was waited for did not happen.
    #[error("no {what} within {within:?}; seen: {seen}")]
    TimedOut {
        /// What was waited for.
        what: String,
        /// How long.
        within: Duration,
        /// What was there instead.
        seen: String,
    },
}
