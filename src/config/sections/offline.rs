//! `[OfflineMode]`: environments and flags from an archive file.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::env_vars as var;
use crate::config::reader::{Names, Reader};
use crate::config::values;

use super::autoconfig::{EnvironmentDefaults, OF_ENVIRONMENTS};

pub(in crate::config) const SECTION: &str = "OfflineMode";
pub(in crate::config) const ARCHIVE: Names = Names::both("fileDataSource", var::FILE_DATA_SOURCE);
const INTERVAL: Names =
    Names::both("fileDataSourceMonitoringInterval", var::FILE_DATA_SOURCE_MONITORING_INTERVAL);

/// `[OfflineMode]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfflineConfig {
    /// The archive to serve from.
    pub archive: PathBuf,
    /// How often it is looked at.
    pub monitoring_interval: Duration,
    /// What holds for each environment.
    pub environments: EnvironmentDefaults,
}

/// The option that switches the mode on.
pub(super) fn read_archive(reader: &mut Reader<'_>) -> Option<PathBuf> {
    reader.section(SECTION).path(ARCHIVE)
}

/// Reads the rest of the section.
pub(super) fn read(
    reader: &mut Reader<'_>,
    archive: Option<PathBuf>,
    owns_variables: bool,
) -> Option<OfflineConfig> {
    let mut section = reader.section(SECTION);
    let environments = EnvironmentDefaults::read(&mut section, owns_variables);
    let interval = section.parsed(INTERVAL, values::interval_of_100ms);
    let Some(archive) = archive else {
        for names in OF_ENVIRONMENTS.into_iter().chain([INTERVAL]) {
            if section.is_set(names) {
                let what = "is set, but there is no fileDataSource (FILE_DATA_SOURCE)";
                section.problem(names, what, None);
            }
        }
        return None;
    };
    let monitoring_interval = interval.unwrap_or(Duration::from_secs(1));
    Some(OfflineConfig { archive, monitoring_interval, environments })
}
