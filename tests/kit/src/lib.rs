//! What the tests of Pilotlight need around it: the relay's binary as a process with its
//! settings, real databases, official SDKs, certificates, broken networks and overloaded databases.
#![allow(
    clippy::unwrap_used,
    clippy::needless_pass_by_value,
    clippy::wildcard_enum_match_arm,
    reason = "a test that fails may panic"
)]

pub mod cache_database;
pub mod certificates;
pub mod databases;
pub mod dynamodb_faults;
pub mod flaky_proxy;
pub mod fleet;
pub mod http_fault_proxy;
pub mod offline_archive;
pub mod relay;
pub mod scene;
pub mod sdk_driver;
pub mod stored_flags;
mod waiting;

use std::path::{Path, PathBuf};

pub use self::waiting::{LIMIT, eventually, futures_of};

/// The root of the repository.
pub fn repository() -> &'static Path {
    let kit = Path::new(env!("CARGO_MANIFEST_DIR"));
    kit.ancestors().nth(2).expect("the kit stands in tests/kit")
}

/// Where `tests/install-tools.sh` and `tests/install-sdks.sh` put what they install.
pub fn tools() -> PathBuf {
    match std::env::var_os("PILOTLIGHT_TEST_TOOLS") {
        Some(folder) => PathBuf::from(folder),
        None => repository().join(".cache/tools"),
    }
}
