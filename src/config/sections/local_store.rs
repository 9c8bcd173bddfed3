//! `[LocalStore]`: directory and rank of the embedded store. Looks at names only, not at the disk.

use std::path::{Path, PathBuf};

use crate::config::env_vars as var;
use crate::config::reader::{Names, Reader};
use crate::config::values::Invalid;

const SECTION: &str = "LocalStore";

/// Used without being asked for if it can be written to; packages create it.
const SYSTEM_DIRECTORY: &str = "/var/lib/pilotlight";

/// `[LocalStore]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalStoreConfig {
    /// `dir`.
    pub directory: LocalStoreDirectory,
    /// `preferOver = sharedStore`: a whole local set is served alone while LaunchDarkly is away
    /// (design D43).
    pub is_preferred_over_shared: bool,
}

/// The directory of the embedded store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalStoreDirectory {
    /// There is no embedded store.
    Off,
    /// This directory and no other: it is created if need be, and it is an error if it cannot be
    /// used.
    Explicit(PathBuf),
    /// The first of these that can be created and written to; without any, the relay runs without
    /// an embedded store.
    FirstUsable(Vec<PathBuf>),
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader<'_>) -> LocalStoreConfig {
    let mut section = reader.section(SECTION);
    let prefer_over = Names::both("preferOver", var::LOCAL_STORE_PREFER_OVER);
    let is_preferred_over_shared =
        section.parsed(prefer_over, prefers_over_shared).unwrap_or(false);
    let directory = match section.text(Names::both("dir", var::LOCAL_STORE_DIR)) {
        Some(word) if word.eq_ignore_ascii_case("off") => LocalStoreDirectory::Off,
        Some(directory) => LocalStoreDirectory::Explicit(directory.into()),
        None => LocalStoreDirectory::FirstUsable(candidates(reader)),
    };
    LocalStoreConfig { directory, is_preferred_over_shared }
}

fn prefers_over_shared(text: &str) -> Result<bool, Invalid> {
    match () {
        () if text.eq_ignore_ascii_case("sharedStore") => Ok(true),
        () if text.eq_ignore_ascii_case("off") => Ok(false),
        () => Err(Invalid::is_not(text, "a store", "sharedStore, off")),
    }
}

/// The directories that are tried, best first (design 6).
fn candidates(reader: &mut Reader<'_>) -> Vec<PathBuf> {
    // systemd joins several by colons when a unit asks for several; the first is the main one.
    let state = reader.process_variable(var::STATE_DIRECTORY);
    let state = state.and_then(|list| list.split(':').next().map(PathBuf::from));
    let user_state = reader.process_variable(var::XDG_STATE_HOME).map(PathBuf::from);
    let home = reader.process_variable(var::HOME).map(PathBuf::from);
    // A relative path in these variables is void (XDG base directories), as it would depend on
    // where the process was started.
    let own = user_state.filter(|path| path.is_absolute()).map(|path| path.join("pilotlight"));
    let own = own.or_else(|| {
        home.filter(|path| path.is_absolute()).map(|path| path.join(".local/state/pilotlight"))
    });
    let system = Some(Path::new(SYSTEM_DIRECTORY).to_owned());
    [state.filter(|path| path.is_absolute()), system, own].into_iter().flatten().collect()
}
