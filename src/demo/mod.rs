//! A fake LaunchDarkly and SDK-like clients, for use without an account and without a network.
//!
//! Used by `pilotlight demo`, the tests and the benchmarks; a release image is built without it
//! (cargo feature `demo`). It plays the service above the relay, the SDKs below it and the broken
//! networks between. It never uses the relay's code, so it shows what an outside observer would
//! see.
//!
//! * [`fake_launchdarkly`]: the service: autoconfig, flag streams and polls, event sink, faults.
//! * [`composed_data`]: environments and flags to serve, with predictable values.
//! * [`stream_client`]: an SDK-like reader of streams, lean enough for thousands in one process.
//! * [`story`]: the demo itself.

pub mod composed_data;
pub mod fake_launchdarkly;
pub mod kept_port;
pub mod representations;
pub mod shaped_io;
pub mod story;
pub mod stream_client;
