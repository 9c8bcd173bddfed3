//! How sure a relay is of what it wants a copy to hold.

use std::time::Duration;

use tokio::time::Instant;

/// Pause before an item that should not be there is looked at again (design D28).
pub const SECOND_LOOK: Duration = Duration::from_secs(5);

/// How much later than a peer this relay may hear of the same change. A heartbeat that comes
/// sooner after the first look may have been sent before the change was, so it does not show that
/// LaunchDarkly has nothing to tell.
pub const STREAM_LAG: Duration = Duration::from_secs(2);

/// How long a stream that was silent must have gone on before its silence counts as over: what had
/// waited on the line comes within that time.
const SETTLED: Duration = Duration::from_secs(1);

/// When a stream delivered anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Heard {
    /// The last time.
    pub at: Instant,
    /// The last time after a silence that is longer than [`STREAM_LAG`].
    pub resumed_at: Instant,
}

impl Heard {
    /// A stream that begins now.
    pub fn first(now: Instant) -> Self {
        Self { at: now, resumed_at: now }
    }

    /// It delivered something.
    pub fn again(&mut self, now: Instant) {
        if now.saturating_duration_since(self.at) > STREAM_LAG {
            self.resumed_at = now;
        }
        self.at = now;
    }

    /// True if the stream would have told by now of everything that LaunchDarkly said before that
    /// time. A message that was just delivered may have waited on a stalled line, with the rest
    /// right behind it.
    pub fn would_have_told(self, before: Instant, now: Instant) -> bool {
        self.at >= before + STREAM_LAG && now >= self.resumed_at + SETTLED
    }
}

/// How sure this relay is that what it wants stored is what LaunchDarkly says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// The data began with a put on the connection that stands now.
    Live {
        /// When that put came.
        put_at: Instant,
        /// When the connection delivered anything.
        heard: Heard,
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
