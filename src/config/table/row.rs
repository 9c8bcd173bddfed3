//! The parts of a row, and the functions that build one.

use std::ops::Deref;
use std::path::PathBuf;

use crate::config::reader::Scope;

use super::kind::{self, Kind};

/// An option with values of the type `T`.
pub struct Opt<T: 'static> {
    row: Row,
    /// The kind of its values.
    pub kind: &'static Kind<T>,
    /// The file that may hold the value instead, for a secret.
    pub file: Option<&'static Opt<PathBuf>>,
    /// Warning about some of the values that are allowed.
    pub doubt: Option<fn(&T) -> Option<String>>,
}

/// Everything about an option that does not depend on the type of its values.
#[derive(Clone, Copy)]
pub struct Row {
    /// The section of the file.
    pub section: &'static str,
    /// The name in the file.
    pub option: Option<&'static str>,
    /// The variable. If it ends in an underscore, it is the prefix of a family: `LD_ENV_` stands
    /// for `LD_ENV_name`.
    pub variable: Option<&'static str>,
    /// A second name of the variable.
    pub alias: Option<&'static str>,
    /// The value that applies if the option is not set.
    pub default: Default,
    /// The effect of the option.
    pub effect: Effect,
    /// The text in docs/configuration.md.
    pub text: &'static str,
    /// Names that operators use by mistake instead of the variable, and the advice for them; for a
    /// family, other prefixes.
    pub mistaken: (&'static [&'static str], &'static str),
    /// True if the variable is read even without `--from-env`.
    pub is_of_process: bool,
    /// True if other programs read the variable as well.
    pub is_shared: bool,
    /// True if an empty variable is ignored. Otherwise it unsets the file's value.
    pub ignores_empty: bool,
}

/// The value that applies if an option is not set.
#[derive(Clone, Copy)]
pub enum Default {
    /// Nothing.
    Nothing,
    /// This value, written as in a file.
    Value(&'static str),
    /// No value; the text says what that means.
    Means(&'static str),
}

/// The effect of an option.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Effect {
    /// It works.
    Works,
    /// Not implemented yet: one warning names all such options that are set.
    NotYet,
    /// It has no meaning here, for the reason in the row's text: a warning.
    Never,
    /// Not implemented, and the relay would be unsafe or useless without it: a problem with this
    /// text.
    Refused(&'static str),
    /// Removed from ld-relay: a problem with the row's text.
    Retired,
}

impl Row {
    /// Name of the row within its section: the option, or the variable if there is none.
    pub fn name(&self) -> &'static str {
        self.option.or(self.variable).unwrap_or_default()
    }

    /// The variable and its second name.
    pub fn variables(&self) -> impl Iterator<Item = &'static str> {
        self.variable.into_iter().chain(self.alias)
    }

    /// The row's text as the end of a message.
    pub fn reason(&self) -> String {
        self.text.trim().trim_end_matches('.').replace('`', "")
    }
}

/// A row without the type of its values.
pub trait AnyOption: Sync {
    /// The row.
    fn row(&self) -> &Row;
    /// The allowed values, as docs/configuration.md names them.
    #[cfg(test)]
    fn type_name(&self) -> String;
    /// Reads the option, so that mistakes in it are found.
    fn judge(&self, scope: &mut Scope<'_, '_>);
    /// True if the default can be read.
    #[cfg(test)]
    fn has_good_default(&self) -> bool;
}

impl<T> AnyOption for Opt<T> {
    fn row(&self) -> &Row {
        &self.row
    }

    #[cfg(test)]
    fn type_name(&self) -> String {
        self.kind.name()
    }

    fn judge(&self, scope: &mut Scope<'_, '_>) {
        scope.read(self);
    }

    #[cfg(test)]
    fn has_good_default(&self) -> bool {
        !matches!(self.row.default, Default::Value(_)) || self.default_value().is_some()
    }
}

impl<T> Deref for Opt<T> {
    type Target = Row;

    fn deref(&self) -> &Row {
        &self.row
    }
}

/// An option of the file that is a variable as well.
pub const fn both<T>(option: &'static str, kind: &'static Kind<T>) -> Opt<T> {
    Opt::new(Some(option), Some(""), kind)
}

/// An option of the file only.
pub const fn in_file<T>(option: &'static str, kind: &'static Kind<T>) -> Opt<T> {
    Opt::new(Some(option), None, kind)
}

/// A variable only.
pub const fn variable<T>(kind: &'static Kind<T>) -> Opt<T> {
    Opt::new(None, Some(""), kind)
}

/// A boolean that is false unless it is set.
pub const fn switch(option: &'static str) -> Opt<bool> {
    both(option, &kind::SWITCH).default("false")
}

impl<T> Opt<T> {
    const fn new(
        option: Option<&'static str>,
        variable: Option<&'static str>,
        kind: &'static Kind<T>,
    ) -> Self {
        let row = Row {
            section: "",
            option,
            variable,
            alias: None,
            default: Default::Nothing,
            effect: Effect::Works,
            text: "",
            mistaken: (&[], ""),
            is_of_process: false,
            is_shared: false,
            ignores_empty: false,
        };
        Self { row, kind, file: None, doubt: None }
    }

    /// The default as a value.
    pub fn default_value(&self) -> Option<T> {
        match self.row.default {
            Default::Value(text) => (self.kind.parse)(text).ok(),
            Default::Nothing | Default::Means(_) => None,
        }
    }

    /// Adds what the macro `options` knows: the section, the row's name, which is that of the
    /// variable, and the text.
    pub const fn within(
        mut self,
        section: &'static str,
        name: &'static str,
        text: &'static str,
    ) -> Self {
        self.row.section = section;
        self.row.text = text;
        if self.row.variable.is_some() {
            self.row.variable = Some(name);
        }
        self
    }

    /// The value that applies if the option is not set.
    pub const fn default(mut self, value: &'static str) -> Self {
        self.row.default = Default::Value(value);
        self
    }

    /// The meaning of the option not being set.
    pub const fn unset_means(mut self, text: &'static str) -> Self {
        self.row.default = Default::Means(text);
        self
    }

    /// The file that may hold the secret instead.
    pub const fn or_file(mut self, file: &'static Opt<PathBuf>) -> Self {
        self.file = Some(file);
        self
    }

    /// A second name of the variable.
    pub const fn alias(mut self, variable: &'static str) -> Self {
        self.row.alias = Some(variable);
        self
    }

    /// A warning about some of the allowed values.
    pub const fn warn(mut self, doubt: fn(&T) -> Option<String>) -> Self {
        self.doubt = Some(doubt);
        self
    }

    /// Names that operators use by mistake instead of the variable, and the advice for them.
    pub const fn mistaken(mut self, names: &'static [&'static str], advice: &'static str) -> Self {
        self.row.mistaken = (names, advice);
        self
    }

    /// Prefixes that operators use by mistake instead of that of the family.
    pub const fn mistaken_beginnings(self, beginnings: &'static [&'static str]) -> Self {
        self.mistaken(beginnings, "")
    }

    /// A variable that is read from the process even without `--from-env`.
    pub const fn of_process(mut self) -> Self {
        self.row.is_of_process = true;
        self
    }

    /// A variable that other programs read as well.
    pub const fn shared(mut self) -> Self {
        self.row.is_shared = true;
        self
    }

    /// An option that an empty variable does not unset.
    pub const fn ignores_empty(mut self) -> Self {
        self.row.ignores_empty = true;
        self
    }

    /// An option that is not implemented yet.
    pub const fn not_yet(self) -> Self {
        self.effect(Effect::NotYet)
    }

    /// An option without a meaning here; its text says why.
    pub const fn never(self) -> Self {
        self.effect(Effect::Never)
    }

    /// An option that prevents the start, for this reason.
    pub const fn refused(self, why: &'static str) -> Self {
        self.effect(Effect::Refused(why))
    }

    /// An option that ld-relay has removed; its text says what to do.
    pub const fn retired(self) -> Self {
        self.effect(Effect::Retired)
    }

    const fn effect(mut self, effect: Effect) -> Self {
        self.row.effect = effect;
        self
    }
}
