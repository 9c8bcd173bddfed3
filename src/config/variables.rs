//! The only access to environment variables.

use std::collections::BTreeMap;
use std::ffi::OsString;

/// A source of variables: the process, or a map in tests.
pub trait Variables {
    /// The value of a variable; `None` if it is not set.
    fn get(&self, name: &str) -> Option<OsString>;

    /// The names of all variables that are set, in any order. Names that are not Unicode are left
    /// out: the relay uses none.
    fn names(&self) -> Vec<String>;
}

/// The variables of this process.
#[derive(Clone, Copy, Debug)]
pub struct ProcessVariables;

impl Variables for ProcessVariables {
    fn get(&self, name: &str) -> Option<OsString> {
        std::env::var_os(name)
    }

    fn names(&self) -> Vec<String> {
        std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).collect()
    }
}

impl Variables for BTreeMap<String, String> {
    fn get(&self, name: &str) -> Option<OsString> {
        BTreeMap::get(self, name).map(OsString::from)
    }

    fn names(&self) -> Vec<String> {
        self.keys().cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_has_variables() {
        let names = ProcessVariables.names();
        let known = names.iter().find(|name| ProcessVariables.get(name).is_some());
        assert!(known.is_some(), "cargo sets some");
        assert_eq!(ProcessVariables.get("PILOTLIGHT_NOBODY_SETS_THIS"), None);
    }
}
