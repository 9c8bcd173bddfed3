//! `[LocalStore]`: the embedded store.

use std::path::PathBuf;

use crate::config::values::PreferOver;

use super::kind;
use super::row::{AnyOption, Opt, both, variable};

options! { "LocalStore",
    /// The directory of the store. The directory and its files must belong to the user that runs
    /// the relay, must not be symbolic links, and must not be writable by other users
    /// ([SECURITY.md](../SECURITY.md)). If it cannot be used, the relay logs an error, runs
    /// without a local store, and tries again every 5 seconds.
    LOCAL_STORE_DIR: String = both("dir", &kind::DIRECTORY).unset_means("see below");
    /// With `sharedStore`, flags from the shared flag store are ignored while LaunchDarkly cannot
    /// be reached, if the local store holds a complete set or LaunchDarkly answered before. This
    /// limits what a person who can write the database can do; the price is that the relay does
    /// not learn during an outage what other relays wrote.
    LOCAL_STORE_PREFER_OVER: PreferOver = both("preferOver", &kind::PREFER_OVER).default("off");
    /// First default of `dir`: this directory. systemd sets the variable for `StateDirectory=`.
    STATE_DIRECTORY: PathBuf = variable(&kind::PATH).of_process().shared();
    /// Third default of `dir`: the subdirectory `pilotlight`.
    XDG_STATE_HOME: PathBuf = variable(&kind::PATH).of_process().shared();
    /// Third default of `dir` if `XDG_STATE_HOME` is not set: the subdirectory
    /// `.local/state/pilotlight`.
    HOME: PathBuf = variable(&kind::PATH).of_process().shared();
}
