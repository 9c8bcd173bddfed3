//! Analytics events: from SDKs to LaunchDarkly, through outages and restarts.
//!
//! ```text
//! request -> post     what a request says, and its events, byte for byte
//!         -> gather   events of one destination and sender become a batch
//!            summaries  the same for SDKs that do not count evaluations themselves
//!         -> lines    when each batch is sent, and what becomes of it if it cannot be
//!         -> spool    what waits on disk, sealed
//!         -> sending  the requests to LaunchDarkly
//! ```
//!
//! An SDK gets its answer before anything of this begins. One task owns the state; what is decided is
//! decided by the pure modules `post`, `gather`, `summaries`, `lines` and `outcome`.

mod batch;
#[cfg(feature = "testing")]
pub mod decoding;
mod gather;
mod inbox;
mod lines;
mod outcome;
mod packing;
mod post;
mod publisher;
mod recent;
mod report;
mod sending;
mod spool;
mod summaries;

pub use gather::GatherSettings;
pub use inbox::{Events, Kind, Posted};
pub use post::{Audience, Destination, Sender, is_unsummarized, payload_id};
pub use publisher::{Publisher, PublisherSettings, SpoolPlace};
pub use report::EventsReport;
pub use sending::{Credentials, EventSender};
pub use spool::SpoolLimits;
