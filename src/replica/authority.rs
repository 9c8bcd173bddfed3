//! A relay's certainty about the data that a copy should hold.

use std::time::Duration;

use tokio::time::Instant;

/// Pause before an item that should not be stored is checked a second time.
pub const SECOND_LOOK: Duration = Duration::from_secs(5);

/// Longest delay with which this relay may receive a change that a peer has. A heartbeat that comes
/// sooner after the first check may have been sent before the change, so it does not show that
/// LaunchDarkly has nothing to send.
pub const STREAM_LAG: Duration = Duration::from_secs(2);

/// Time that a silent stream must deliver again before its silence counts as over: data that had
/// waited on the line comes within that time.
const SETTLED: Duration = Duration::from_secs(1);

/// Times at which a stream delivered anything.
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

    /// A stream that delivers something now, and that was last heard as `before`, if ever.
    pub fn after(before: Option<Self>, now: Instant) -> Self {
        let mut heard = before.unwrap_or_else(|| Self::first(now));
        heard.again(now);
        heard
    }

    /// Notes that it delivered something.
    pub fn again(&mut self, now: Instant) {
        if now.saturating_duration_since(self.at) > STREAM_LAG {
            self.resumed_at = now;
        }
        self.at = now;
    }

    /// True if the stream has delivered by now everything that LaunchDarkly sent before that time.
    /// A message that was just delivered may have waited on a stalled line, with more right behind
    /// it.
    pub fn would_have_told(self, before: Instant, now: Instant) -> bool {
        self.at >= before + STREAM_LAG && now >= self.resumed_at + SETTLED
    }
}

/// Source of the data that this relay wants stored, which decides what it may correct.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Authority {
    /// The data began with a put on the current connection.
    Live {
        /// Time of that put.
        put_at: Instant,
        /// Times at which the connection delivered anything.
        heard: Heard,
    },
    /// From a store, or from a connection that is gone.
    Provisional,
}

impl Authority {
    /// True if the data is live.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Live { .. })
    }
}
