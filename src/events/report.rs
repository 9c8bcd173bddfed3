//! What became of events, for `/status`.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;

use super::lines::Condition;

/// Numbers since the start, and what waits now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventsReport {
    /// Events that SDKs have sent.
    pub received: u64,
    /// Events that LaunchDarkly has.
    pub delivered: u64,
    /// Events that are lost, by reason.
    pub lost: BTreeMap<&'static str, u64>,
    /// Bytes in memory, compressed.
    pub bytes_in_memory: u64,
    /// Events on disk.
    pub events_on_disk: u64,
    /// Bytes on disk.
    pub bytes_on_disk: u64,
    /// Why events cannot be kept on disk, if they cannot.
    pub spool_problem: Option<String>,
    /// Environments whose events LaunchDarkly does not take.
    pub failing: BTreeMap<String, &'static str>,
}

/// The publisher's end of the report.
#[derive(Clone, Debug)]
pub(super) struct Reporter(Arc<watch::Sender<EventsReport>>);

impl Reporter {
    pub(super) fn new() -> (Self, watch::Receiver<EventsReport>) {
        let (sender, receiver) = watch::channel(EventsReport::default());
        (Self(Arc::new(sender)), receiver)
    }

    pub(super) fn update(&self, change: impl FnOnce(&mut EventsReport)) {
        self.0.send_modify(change);
    }

    /// Changes the report; it is news if the change says so.
    pub(super) fn update_if(&self, change: impl FnOnce(&mut EventsReport) -> bool) {
        self.0.send_if_modified(change);
    }

    pub(super) fn lose(&self, reason: &'static str, events: u64) {
        if events > 0 {
            self.update(|report| *report.lost.entry(reason).or_default() += events);
        }
    }
}

/// The word for a condition; `None` if all is well.
pub(super) fn word(condition: Condition) -> Option<&'static str> {
    match condition {
        Condition::Well => None,
        Condition::Failing => Some("failing"),
        Condition::Refused(_) => Some("refused"),
    }
}
