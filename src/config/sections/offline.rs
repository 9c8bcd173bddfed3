//! `[OfflineMode]`: environments and flags from an archive.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::reader::Reader;
use crate::config::table::offline as table;

/// `[OfflineMode]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfflineConfig {
    /// The archive.
    pub file: PathBuf,
    /// Interval at which it is checked for changes.
    pub monitoring_interval: Duration,
}

/// Reads the section; `None` without an archive.
pub(super) fn read(reader: &mut Reader<'_>) -> Option<OfflineConfig> {
    let mut section = reader.global();
    let Some(file) = section.read(&table::FILE_DATA_SOURCE) else {
        // They have no effect, which the rules report.
        for option in table::ROWS {
            option.judge(&mut section);
            section.show(option.row(), None);
        }
        return None;
    };
    let monitoring_interval = section.value(&table::FILE_DATA_SOURCE_MONITORING_INTERVAL);
    Some(OfflineConfig { file, monitoring_interval })
}
