//! Delays pings, so that clients that are told of the same change do not ask at the same time.

use std::future::Future;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::Sleep;

use crate::streams::{Next, PING};

/// The delay of one stream's pings. What happens while one is due needs no other.
#[derive(Debug)]
pub(super) struct PingDelay {
    /// Longest delay; half of it is the shortest (`pingStreamJitterTime`).
    longest: Duration,
    /// The time of the ping that is due.
    due: Option<Pin<Box<Sleep>>>,
    /// True once the first ping was sent, which is not delayed.
    has_begun: bool,
}

impl PingDelay {
    pub(super) fn new(longest: Duration) -> Self {
        Self { longest, due: None, has_begun: false }
    }

    /// True if what is next on the stream is not to be sent: a ping for it comes later.
    pub(super) fn takes(&mut self, next: &Next) -> bool {
        if self.due.is_some() {
            return true;
        }
        let is_ping = match next {
            Next::Whole => true,
            Next::Event(event) => *event == PING,
        };
        if is_ping && self.has_begun {
            let delay = self.longest.mul_f64(1.0 - 0.5 * fastrand::f64());
            self.due = Some(Box::pin(tokio::time::sleep(delay)));
            return true;
        }
        self.has_begun |= is_ping;
        false
    }

    /// True, once, when the time of a ping has come.
    pub(super) fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        let is_over = self.due.as_mut().is_some_and(|due| due.as_mut().poll(cx).is_ready());
        if is_over {
            self.due = None;
        }
        is_over
    }
}
