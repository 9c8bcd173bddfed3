//! Reads options: looks each up in the file and in the variables, and makes one typed value of
//! both.
//!
//! The rules of ld-relay v8 for one option: the last of several values in the file wins, and a
//! variable takes precedence over the file; an empty value means *not set*, except for a boolean
//! variable, where it changes nothing; lists of both are joined. Unlike in ld-relay, the file is
//! checked together with the variables.
//!
//! An invalid value is a problem and reads as not set, but [`Scope::is_set`] is true for it, so
//! that no second problem says it is missing.

use std::collections::{BTreeMap, BTreeSet};

use super::describe::Shown;
use super::files::Files;
use super::ini_file::{IniFile, Raw, section_title};
use super::problems::{Place, Problem, Problems, Warning};
use super::table::{Combine, Default, Opt, Row};
use super::values;
use super::variables::Variables;

/// Key of an option: section, name in quotation marks (of the environment or project), option.
pub(super) type Key = (&'static str, Option<String>, &'static str);

/// The input of the configuration, and the problems found in it so far.
pub struct Reader<'a> {
    file: Option<IniFile>,
    variables: &'a dyn Variables,
    /// Variables may set options (`--from-env`).
    from_env: bool,
    files: &'a dyn Files,
    /// The place of each option that is set. Booleans that are false are left out.
    in_force: BTreeMap<Key, Place>,
    shown: Shown,
    /// Rows that are off, by section and name: their variables are ignored, and their values are
    /// not shown.
    off: BTreeSet<(&'static str, &'static str)>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// True if a part of the file could not be read, so that a "missing" option may be there.
    pub(super) is_incomplete: bool,
}

impl<'a> Reader<'a> {
    pub(super) fn new(
        file: Option<IniFile>,
        variables: &'a dyn Variables,
        from_env: bool,
        files: &'a dyn Files,
        problems: Vec<Problem>,
    ) -> Self {
        let is_incomplete = !problems.is_empty();
        Self {
            file,
            variables,
            from_env,
            files,
            in_force: BTreeMap::new(),
            shown: Shown::default(),
            off: BTreeSet::new(),
            problems,
            warnings: Vec::new(),
            is_incomplete,
        }
    }

    /// Access to the sections that exist once, or to one environment or project.
    pub(super) fn scope(&mut self, name: Option<String>) -> Scope<'_, 'a> {
        Scope { reader: self, name }
    }

    /// Access to the sections that exist once.
    pub(super) fn global(&mut self) -> Scope<'_, 'a> {
        self.scope(None)
    }

    /// Access to one section with a name: an environment, or the filters of a project.
    pub(super) fn named(&mut self, name: &str) -> Scope<'_, 'a> {
        self.scope(Some(name.to_owned()))
    }

    /// The names of all sections to which the option belongs: those in the file, and those that its
    /// family of variables defines.
    pub(super) fn names_of(&self, maker: &Row) -> BTreeSet<String> {
        let headers = self.file.iter().flat_map(|file| &file.headers);
        let mut names: BTreeSet<String> = headers
            .filter(|header| header.name.eq_ignore_ascii_case(maker.section))
            .map(|header| header.subsection.clone().unwrap_or_default())
            .collect();
        names.extend(maker.variable.into_iter().flat_map(|family| self.family(family)));
        names
    }

    /// The parts after the family's prefix in the names of the variables that are set.
    pub(super) fn family(&self, family: &str) -> BTreeSet<String> {
        let names = if self.from_env { self.variables.names() } else { Vec::new() };
        names.iter().filter_map(|name| name.strip_prefix(family)).map(str::to_owned).collect()
    }

    /// A variable that is read even without `--from-env`; `None` if it is empty.
    pub(super) fn process_variable(&self, name: &str) -> Option<String> {
        self.variables.get(name)?.into_string().ok().filter(|value| !value.is_empty())
    }

    /// From here on, reads the rows from the file only, and does not show their values.
    pub(super) fn turn_off<'r>(&mut self, rows: impl IntoIterator<Item = &'r Row>) {
        for row in rows {
            self.off.insert((row.section, row.name()));
            self.shown.set((row.section, None, row.name()), None);
        }
    }

    pub(super) fn file(&self) -> Option<&IniFile> {
        self.file.as_ref()
    }

    pub(super) fn files(&self) -> &'a dyn Files {
        self.files
    }

    pub(super) fn problem(&mut self, place: Place, what: impl Into<String>, allowed: Option<&str>) {
        let allowed = allowed.map(str::to_owned);
        self.problems.push(Problem { place, what: what.into(), allowed });
    }

    pub(super) fn warning(&mut self, place: Place, what: impl Into<String>) {
        self.warnings.push(Warning { place, what: what.into() });
    }

    /// All places where the option is set, each with the title of its section.
    pub(super) fn in_force(&self, row: &Row) -> Vec<(String, Place)> {
        let found = self
            .in_force
            .iter()
            .filter(|((section, _, name), _)| (*section, *name) == (row.section, row.name()));
        found
            .map(|((section, name, _), place)| {
                (section_title(section, name.as_deref()), place.clone())
            })
            .collect()
    }

    /// Ends the reading and returns the values for people and the warnings, or all problems.
    pub(super) fn finish(mut self) -> Result<(Shown, Vec<Warning>), Problems> {
        match Problems::from_list(self.problems) {
            Some(problems) => Err(problems),
            None => {
                self.warnings.sort();
                self.warnings.dedup();
                Ok((self.shown, self.warnings))
            }
        }
    }
}

/// One value of an option, and its place.
pub(super) struct Entry {
    pub(super) place: Place,
    pub(super) raw: Raw,
}

impl Entry {
    /// True if the value is empty, in a way that may mean *not set*.
    pub(super) fn is_empty(&self) -> bool {
        self.raw == Raw::Text(String::new())
    }

    pub(super) fn is_variable(&self) -> bool {
        matches!(self.place, Place::Variable(_))
    }
}

/// Access to the options of the sections that exist once, or of one environment or project.
pub struct Scope<'r, 'a> {
    pub(super) reader: &'r mut Reader<'a>,
    /// Empty for a section that should have a name and has none.
    name: Option<String>,
}

impl Scope<'_, '_> {
    /// The value of an option, or its default.
    pub(super) fn read<T>(&mut self, option: &Opt<T>) -> Option<T> {
        let entries = self.entries(option);
        let value = self.value_of(option, entries).or_else(|| option.default_value());
        let meaning = match option.default {
            Default::Means(text) => Some(text.replace('`', "")),
            Default::Nothing | Default::Value(_) => None,
        };
        let off = || value.is_some().then(|| "off".to_owned());
        let shown = value.as_ref().and_then(option.kind.show).or(meaning).or_else(off);
        self.show(option, shown);
        value
    }

    /// The value of an option that has a default.
    pub(super) fn value<T>(&mut self, option: &Opt<T>) -> T {
        self.read(option).expect("options that are read so have a default, which a test reads")
    }

    /// The values of an option in the file and among the variables.
    pub(super) fn by_layer<T>(&mut self, option: &Opt<T>) -> (Option<T>, Option<T>) {
        let (variables, file) = self.entries(option).into_iter().partition(Entry::is_variable);
        (self.value_of(option, file), self.value_of(option, variables))
    }

    /// The value that results from all these entries.
    fn value_of<T>(&mut self, option: &Opt<T>, entries: Vec<Entry>) -> Option<T> {
        let (mut value, mut list) = (None, Vec::new());
        for entry in entries {
            let mut is_on = true;
            let parsed = match (option.kind.combine, entry.raw.text()) {
                (Combine::Switch, Some("")) if entry.is_variable() => continue,
                (Combine::Switch, word) => {
                    let on = match word {
                        None => Ok(true),
                        Some(word) if entry.is_variable() => values::boolean_in_variable(word),
                        Some(word) => values::boolean_in_file(word),
                    };
                    is_on = on == Ok(true);
                    on.and_then(|_| (option.kind.parse)(word.unwrap_or("true")))
                }
                (Combine::Last | Combine::Joined, None) => {
                    self.set(option, entry.place.clone());
                    let allowed = option.kind.name().replace('`', "");
                    self.reader.problem(entry.place, "has no value", Some(&allowed));
                    continue;
                }
                (Combine::Last, Some("")) => {
                    value = None;
                    self.unset(option);
                    continue;
                }
                (Combine::Last, Some(text)) => (option.kind.parse)(text),
                (Combine::Joined, Some("")) => continue,
                (Combine::Joined, Some(text)) => {
                    list.push(text.to_owned());
                    self.set(option, entry.place);
                    continue;
                }
            };
            match parsed {
                Ok(parsed) => {
                    value = Some(parsed);
                    if is_on {
                        self.set(option, entry.place);
                    } else {
                        self.unset(option);
                    }
                }
                Err(invalid) => {
                    if is_on {
                        self.set(option, entry.place.clone());
                    }
                    self.reader.problem(entry.place, invalid.what, invalid.allowed.as_deref());
                }
            }
        }
        if !list.is_empty() {
            // No kind refuses a list as a whole.
            value = (option.kind.parse)(&list.join(",")).ok();
        }
        if let Some(doubt) = value.as_ref().and_then(|value| option.doubt?(value)) {
            self.warning(option, doubt);
        }
        value
    }

    /// True if the option has a value, even an invalid one. Only for options that were read; a
    /// boolean must be true.
    pub(super) fn is_set(&self, row: &Row) -> bool {
        self.reader.in_force.contains_key(&self.key(row))
    }

    /// True if the option has a value in the file.
    pub(super) fn is_in_file(&self, row: &Row) -> bool {
        self.in_file(row).last().is_some_and(|entry| !entry.is_empty())
    }

    /// True if the option has a value among the variables.
    pub(super) fn is_variable(&mut self, row: &Row) -> bool {
        self.in_variables(row).iter().any(|entry| !entry.is_empty())
    }

    /// The place of the option's value, or the place where it is missing.
    pub(super) fn place(&self, row: &Row) -> Place {
        match self.reader.in_force.get(&self.key(row)) {
            Some(place) => place.clone(),
            None => Place::Unset(self.title(row)),
        }
    }

    pub(super) fn problem(&mut self, row: &Row, what: impl Into<String>, allowed: Option<&str>) {
        let place = self.place(row);
        self.reader.problem(place, what, allowed);
    }

    /// A problem if the option is not set.
    pub(super) fn require(&mut self, row: &Row, what: &str) {
        if !self.is_set(row) {
            self.problem(row, what, None);
        }
    }

    /// A problem if the option is set.
    pub(super) fn forbid(&mut self, row: &Row, what: &str, allowed: Option<&str>) {
        if self.is_set(row) {
            self.problem(row, what, allowed);
        }
    }

    pub(super) fn warning(&mut self, row: &Row, what: impl Into<String>) {
        let place = self.place(row);
        self.reader.warning(place, what);
    }

    /// Shows a text for people as the value of an option, or nothing.
    pub(super) fn show(&mut self, row: &Row, text: Option<String>) {
        let is_off = self.reader.off.contains(&(row.section, row.name()));
        let text = text.filter(|_| !is_off);
        self.reader.shown.set(self.key(row), text);
    }

    /// The number of problems found so far, to tell whether a step added one.
    pub(super) fn problem_count(&self) -> usize {
        self.reader.problems.len()
    }

    /// All names of the option: `[Redis] host (REDIS_HOST)`.
    pub(super) fn title(&self, row: &Row) -> String {
        let section = section_title(row.section, self.name.as_deref());
        let variable = row.variable.map(|variable| self.full_name(variable));
        match (row.option, variable) {
            (Some(option), Some(variable)) => format!("{section} {option} ({variable})"),
            (Some(option), None) => format!("{section} {option}"),
            (None, variable) => variable.unwrap_or(section),
        }
    }

    fn full_name(&self, variable: &str) -> String {
        format!("{variable}{}", self.name.as_deref().unwrap_or_default())
    }

    fn key(&self, row: &Row) -> Key {
        (row.section, self.name.clone(), row.name())
    }

    fn set(&mut self, row: &Row, place: Place) {
        self.reader.in_force.insert(self.key(row), place);
    }

    fn unset(&mut self, row: &Row) {
        self.reader.in_force.remove(&self.key(row));
    }

    /// All values of the option; the one that applies is the last.
    pub(super) fn entries(&mut self, row: &Row) -> Vec<Entry> {
        let mut entries = self.in_file(row);
        entries.extend(self.in_variables(row));
        entries
    }

    fn in_file(&self, row: &Row) -> Vec<Entry> {
        let (Some(option), Some(file)) = (row.option, &self.reader.file) else {
            return Vec::new();
        };
        // A section that should have a name and has none is read under an empty one.
        let section_name = self.name.as_deref().filter(|name| !name.is_empty());
        let name = format!("{} {option}", section_title(row.section, self.name.as_deref()));
        let found = file.values(row.section, section_name, option);
        found
            .map(|assignment| {
                let (file, line) = (file.path.clone(), assignment.line);
                let place = Place::Line { file, line, name: name.clone() };
                Entry { place, raw: assignment.value.clone() }
            })
            .collect()
    }

    fn in_variables(&mut self, row: &Row) -> Vec<Entry> {
        if self.reader.off.contains(&(row.section, row.name())) {
            return Vec::new();
        }
        let mut entries: Vec<Entry> = Vec::new();
        for name in row.variables() {
            if self.name.is_none() && name.ends_with('_') {
                entries.extend(self.in_family(name));
            } else if let Some(text) = self.variable(row, &self.full_name(name)) {
                let may_be_empty = !row.ignores_empty && row.alias != Some(name);
                if may_be_empty || !text.is_empty() {
                    let place = Place::Variable(self.full_name(name));
                    entries.push(Entry { place, raw: Raw::Text(text) });
                }
            }
        }
        if let [first, second] = &entries[..]
            && row.alias.is_some()
            && !first.is_empty()
            && first.raw != second.raw
        {
            let what = format!("differs from {}", self.title(row));
            self.reader.problem(second.place.clone(), what, None);
        }
        entries
    }

    /// Reads a list with one variable for each item: `DATADOG_TAG_name=value` is `name:value`.
    fn in_family(&self, family: &str) -> Vec<Entry> {
        let names = self.reader.family(family).into_iter();
        names
            .filter_map(|name| {
                let variable = format!("{family}{name}");
                let value = self.reader.process_variable(&variable)?;
                let raw = Raw::Text(format!("{name}:{value}"));
                Some(Entry { place: Place::Variable(variable), raw })
            })
            .collect()
    }

    fn variable(&mut self, row: &Row, name: &str) -> Option<String> {
        if row.is_of_process {
            return self.reader.process_variable(name);
        }
        let value = self.reader.variables.get(name).filter(|_| self.reader.from_env)?;
        let text = value.into_string();
        if text.is_err() {
            self.reader.problem(Place::Variable(name.to_owned()), "is not UTF-8 text", None);
        }
        text.ok()
    }
}
