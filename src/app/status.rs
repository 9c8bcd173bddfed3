//! The members of `/status` that report on caches and stores.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::offline::ArchiveReport;
use crate::autoconfig::cache::report::{SharedReport, TierReport};
use crate::autoconfig::stream_manager::AutoConfigStatus;
use crate::events::EventsReport;
use crate::flagstore::LocalFlagsState;
use crate::model::unix_ms;
use crate::server::{StatusMembers, connection_status};
use crate::storage::local::LocalStoreStatus;

use tokio::sync::watch;

/// The sources of those members.
#[derive(Clone, Debug)]
pub(super) struct StatusSources {
    pub(super) autoconfig: Option<AutoConfigStatus>,
    /// The archive, in offline mode.
    pub(super) archive: Option<watch::Receiver<ArchiveReport>>,
    /// The publisher of events, if they are forwarded.
    pub(super) events: Option<watch::Receiver<EventsReport>>,
    pub(super) tiers: Vec<(&'static str, SharedReport)>,
    pub(super) local: watch::Receiver<LocalFlagsState>,
    /// Why the embedded store is unavailable, if it is.
    pub(super) local_problem: watch::Receiver<Option<String>>,
}

impl StatusSources {
    pub(super) fn members(self) -> StatusMembers {
        StatusMembers(std::sync::Arc::new(move || self.collect()))
    }

    fn collect(&self) -> Map<String, Value> {
        let mut members = Map::new();
        if let Some(status) = &self.autoconfig {
            members.insert("autoConfigStatus".to_owned(), connection_status(&status.get()));
        }
        if let Some(report) = &self.archive {
            members.insert("archive".to_owned(), archive(&report.borrow()));
        }
        if let Some(report) = &self.events {
            members.insert("events".to_owned(), events(&report.borrow()));
        }
        if !self.tiers.is_empty() {
            let tiers =
                self.tiers.iter().map(|(name, report)| ((*name).to_owned(), tier(&report.get())));
            members.insert("autoConfigCache".to_owned(), Value::Object(tiers.collect()));
        }
        let local = match &*self.local.borrow() {
            LocalFlagsState::Opening => json!({"state": "opening"}),
            LocalFlagsState::Off => json!({"state": "off"}),
            LocalFlagsState::Unavailable | LocalFlagsState::Absent => {
                json!({"state": "unavailable", "error": *self.local_problem.borrow()})
            }
            LocalFlagsState::Open(local) => local_store(&local.store().status()),
        };
        members.insert("localStore".to_owned(), local);
        members
    }
}

fn events(report: &EventsReport) -> Value {
    let mut shape = json!({
        "received": report.received,
        "delivered": report.delivered,
        "lost": report.lost,
        "memoryBytes": report.bytes_in_memory,
        "onDisk": report.events_on_disk,
        "diskBytes": report.bytes_on_disk,
        "failing": report.failing,
    });
    if let Some(problem) = &report.spool_problem {
        shape["error"] = problem.as_str().into();
    }
    shape
}

fn archive(report: &ArchiveReport) -> Value {
    let mut shape = json!({
        "state": if report.problem.is_none() { "valid" } else { "unusable" },
        "unusableEnvironments": report.unusable,
    });
    if let Some(stamp) = report.read {
        shape["bytes"] = stamp.bytes.into();
        if let Some(at) = stamp.modified {
            shape["modifiedAt"] = unix_ms(at).into();
        }
    }
    if let Some(problem) = &report.problem {
        shape["error"] = problem.as_str().into();
    }
    shape
}

fn tier(report: &TierReport) -> Value {
    let mut shape = json!({
        "state": report.read.as_str(),
        "records": report.records,
        "complete": report.complete,
        "skipped": {
            "unknownKey": report.skipped.unknown_key,
            "altered": report.skipped.forged,
            "undecodable": report.skipped.undecodable,
            "rolledBack": report.skipped.rolled_back,
        },
        "ageSeconds": age_seconds(report),
        "writePending": report.write_pending,
    });
    if let Some(at) = report.stamp.and_then(|stamp| stamp.confirmed_at) {
        shape["writtenAt"] = unix_ms(at).into();
    }
    if let Some(at) = report.last_write {
        shape["lastWrite"] = unix_ms(at).into();
    }
    if !report.too_large.is_empty() {
        shape["tooLarge"] = report.too_large.clone().into();
    }
    if let Some(error) = &report.error {
        shape["error"] = error.as_str().into();
    }
    shape
}

/// Seconds since LaunchDarkly last confirmed what the tier holds; `None` if that is not known.
fn age_seconds(report: &TierReport) -> Option<u64> {
    let at = report.stamp?.confirmed_at?;
    Some(SystemTime::now().duration_since(at).map_or(0, |age| age.as_secs()))
}

fn local_store(status: &LocalStoreStatus) -> Value {
    let mut shape = json!({
        "state": if status.available { "available" } else { "unavailable" },
        "pending": status.pending,
        "skipped": {
            "unknownKey": status.skipped.unknown_key,
            "altered": status.skipped.forged,
            "undecodable": status.skipped.format,
        },
        "unreadable": status.unreadable,
        "toReseal": status.to_reseal,
    });
    if let Some(at) = status.last_commit {
        shape["lastCommit"] = unix_ms(at).into();
    }
    if let Some(problem) = &status.problem {
        shape["error"] = problem.text.as_str().into();
        shape["errorSince"] = unix_ms(problem.at).into();
    }
    if let Some(aside) = &status.set_aside {
        shape["setAside"] = aside.path.display().to_string().into();
    }
    shape
}
