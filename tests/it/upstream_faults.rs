//! What may go wrong between LaunchDarkly and the relay, seen by an SDK on the other side: data
//! that was complete goes on being served, nothing partial shows, and everything heals by itself.

mod answers;
mod connections;
mod messages;
mod outbound;
mod puts;
mod random_bytes;

use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope};

/// A fault of the flag streams only.
fn on_flags(fault: Fault) -> FaultRule {
    FaultRule::new(FaultScope::Flags, fault)
}
