//! `[LocalStore]`: directory and precedence of the embedded store. Does not access the disk.

use std::path::{Path, PathBuf};

use crate::config::reader::Reader;
use crate::config::table::{Row, local_store as table};
use crate::config::values::PreferOver;

/// A default directory, used if it can be written; packages create it.
const SYSTEM_DIRECTORY: &str = "/var/lib/pilotlight";

/// `[LocalStore]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalStoreConfig {
    /// `dir`.
    pub directory: LocalStoreDirectory,
    /// `preferOver = sharedStore`: a complete local set is served alone while LaunchDarkly is
    /// unreachable.
    pub is_preferred_over_shared: bool,
}

/// The directory of the embedded store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalStoreDirectory {
    /// There is no embedded store.
    Off,
    /// Only this directory. It is created if it does not exist; an error if it cannot be used.
    Explicit(PathBuf),
    /// The first of these that can be created and written; if there is none, the relay runs without
    /// an embedded store.
    FirstUsable(Vec<PathBuf>),
}

impl LocalStoreDirectory {
    /// The directories in which the store may be, in the order in which they are tried.
    pub fn candidates(&self) -> &[PathBuf] {
        match self {
            Self::Off => &[],
            Self::Explicit(directory) => std::slice::from_ref(directory),
            Self::FirstUsable(directories) => directories,
        }
    }
}

/// Reads the section.
pub(super) fn read(reader: &mut Reader<'_>) -> LocalStoreConfig {
    let candidates = candidates(reader);
    let mut section = reader.global();
    let directory = match section.read(&table::LOCAL_STORE_DIR) {
        Some(word) if word.eq_ignore_ascii_case("off") => LocalStoreDirectory::Off,
        Some(directory) => LocalStoreDirectory::Explicit(directory.into()),
        None => {
            let paths: Vec<String> = candidates.iter().map(|it| it.display().to_string()).collect();
            let shown = format!("the first writable one of {}", paths.join(", "));
            section.show(&table::LOCAL_STORE_DIR, Some(shown));
            LocalStoreDirectory::FirstUsable(candidates)
        }
    };
    let is_preferred_over_shared =
        section.value(&table::LOCAL_STORE_PREFER_OVER) == PreferOver::SharedStore;
    LocalStoreConfig { directory, is_preferred_over_shared }
}

/// The directories that are tried, best first (design 6).
fn candidates(reader: &Reader<'_>) -> Vec<PathBuf> {
    // systemd joins several directories by colons if a unit asks for several; the first is the main
    // one.
    let variable = |row: &Row| row.variable.and_then(|name| reader.process_variable(name));
    let state = variable(&table::STATE_DIRECTORY);
    let state = state.and_then(|list| list.split(':').next().map(PathBuf::from));
    let user_state = variable(&table::XDG_STATE_HOME).map(PathBuf::from);
    let home = variable(&table::HOME).map(PathBuf::from);
    // Relative paths in these variables are ignored (XDG base directories), as they would depend on
    // where the process was started.
    let own = user_state.filter(|path| path.is_absolute()).map(|path| path.join("pilotlight"));
    let own = own.or_else(|| {
        home.filter(|path| path.is_absolute()).map(|path| path.join(".local/state/pilotlight"))
    });
    let system = Some(Path::new(SYSTEM_DIRECTORY).to_owned());
    [state.filter(|path| path.is_absolute()), system, own].into_iter().flatten().collect()
}
