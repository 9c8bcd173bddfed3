//! The configuration as text, for `check-config`: every option in use, defaults included.
//!
//! The page is for people; its form may change. Secrets appear as `set`, keys with their last four
//! characters, URLs without their password.

use std::collections::{BTreeMap, BTreeSet};

use super::ini_file::section_title;
use super::reader::Key;
use super::table::{Effect, SECTIONS, Section};

/// The values of options as text for people, without secrets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Shown(BTreeMap<Key, String>);

impl Shown {
    pub(super) fn set(&mut self, key: Key, text: Option<String>) {
        match text {
            Some(text) => self.0.insert(key, text),
            None => self.0.remove(&key),
        };
    }

    /// The value of one option.
    #[cfg(test)]
    pub(super) fn get(&self, section: &'static str, option: &'static str) -> Option<&str> {
        self.0.get(&(section, None, option)).map(String::as_str)
    }

    /// One line for each option, under the title of its section, in the order of
    /// docs/configuration.md. Options without effect are left out: a warning names them. A value
    /// may hold a line break or an escape sequence of a terminal: the program that prints the lines
    /// escapes it.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for section in SECTIONS {
            let names: BTreeSet<&Option<String>> = self
                .0
                .keys()
                .filter(|(name, ..)| *name == section.name)
                .map(|(_, name, _)| name)
                .collect();
            for name in names {
                let options = self.options(section, name);
                if !(options.is_empty() || lines.is_empty()) {
                    lines.push(String::new());
                }
                if !options.is_empty() {
                    lines.push(section_title(section.name, name.as_deref()));
                }
                lines.extend(options);
            }
        }
        lines
    }

    fn options(&self, section: &Section, name: &Option<String>) -> Vec<String> {
        let rows = section.rows.iter().map(|option| option.row());
        rows.filter(|row| row.effect == Effect::Works)
            .filter_map(|row| {
                let value = self.0.get(&(section.name, name.clone(), row.name()))?;
                Some(format!("  {}: {value}", row.name()))
            })
            .collect()
    }
}
