//! How sure a relay is of what it wants a copy to hold.

use std::time::Duration;

use tokio::time::Instant;

/// Pause before an item that should not be there is looked at again (design D28).
pub const SECOND_LOOK: Duration = Duration::from_secs(5);

/// How much later than a peer this relay may hear of the same change. A heartbeat that comes
/// sooner after the first look may have been sent before the change was, so it does not show that
/// LaunchDarkly has nothing to tell.
pub const STREAM_LAG: Duration = Duration::from_secs(2);

/// How sure this relay is that what it wants stored is what LaunchDarkly says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// The data began with a put on the connection that stands now.
    Live {
        /// When that put came.
        put_at: Instant,
        /// When the connection last delivered anything.
        heard_at: Instant,
    },
    /// From a store, or from a connection that is gone.
    Provisional,
}

impl Authority {
    /// True if LaunchDarkly says it now.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Live { .. })
    }
}
