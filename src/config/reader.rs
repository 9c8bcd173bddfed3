//! Looks an option up in the file and in the variables and makes one typed value of both.
//!
//! The rules of ld-relay v8 for one option: of several values in the file the last counts, and a
//! variable counts before the file; an empty value means *not set*, except for a boolean variable,
//! where it changes nothing; lists of both are joined. Unlike ld-relay, the file is not judged
//! before the variables are known.
//!
//! Reading an option is what makes its name known: what nobody asked for is unknown. A value that
//! cannot be understood is a problem and reads as not set, but [`SectionReader::is_set`] is true
//! for it, so that no second problem says it is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use super::env_vars::Variables;
use super::files::Files;
use super::ini_file::{Header, IniFile, Raw, section_title};
use super::problems::{Place, Problem, Problems, Warning};
use super::slips;
use super::values::{self, Invalid};

/// The names under which an option is set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Names {
    /// In the file.
    pub(super) option: Option<&'static str>,
    /// Among the variables; for a family, what comes before the name.
    pub(super) variable: Option<&'static str>,
}

impl Names {
    /// An option of the file that is a variable as well.
    pub(super) const fn both(option: &'static str, variable: &'static str) -> Self {
        Self { option: Some(option), variable: Some(variable) }
    }

    /// An option of the file only.
    pub(super) const fn option(option: &'static str) -> Self {
        Self { option: Some(option), variable: None }
    }

    /// A variable only.
    pub(super) const fn variable(variable: &'static str) -> Self {
        Self { option: None, variable: Some(variable) }
    }

    /// What tells it apart within its section.
    fn key(self) -> &'static str {
        self.option.or(self.variable).unwrap_or_default()
    }
}

/// A section and the name in quotation marks behind it.
type SectionName = (&'static str, Option<String>);

/// Everything the operator said, and what was found wrong with it so far.
pub(super) struct Reader<'a> {
    file: Option<IniFile>,
    variables: &'a dyn Variables,
    /// Whether variables may set options (`--from-env`).
    from_env: bool,
    files: &'a dyn Files,
    known: BTreeMap<&'static str, BTreeSet<&'static str>>,
    /// Where each option that is set got its value. A boolean that is false is not among them.
    in_force: BTreeMap<(SectionName, &'static str), Place>,
    problems: Vec<Problem>,
    warnings: Vec<Warning>,
    /// Whether part of the file was lost, so that "missing" may not be true.
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
            known: BTreeMap::new(),
            in_force: BTreeMap::new(),
            problems,
            warnings: Vec::new(),
            is_incomplete,
        }
    }

    /// A section that exists once.
    pub(super) fn section(&mut self, section: &'static str) -> SectionReader<'_, 'a> {
        self.known.entry(section).or_default();
        SectionReader { reader: self, section, subsection: None, uses_variables: true }
    }

    /// One of the sections that have a name each.
    pub(super) fn named_section(
        &mut self,
        section: &'static str,
        name: &str,
    ) -> SectionReader<'_, 'a> {
        let subsection = Some(name.to_owned());
        SectionReader { subsection, ..self.section(section) }
    }

    /// The names of all sections of a kind: those in the file and those that a family of
    /// variables makes.
    pub(super) fn names_of(&mut self, section: &'static str, family: &str) -> BTreeSet<String> {
        let headers = self.file.iter().flat_map(|file| &file.headers);
        let mut names: BTreeSet<String> = headers
            .filter(|header| header.name.eq_ignore_ascii_case(section))
            .map(|header| header.subsection.clone().unwrap_or_default())
            .collect();
        names.extend(self.family(family));
        names
    }

    /// What follows the family's common beginning in the names of the variables that are set.
    pub(super) fn family(&self, family: &str) -> Vec<String> {
        let names = if self.from_env { self.variables.names() } else { Vec::new() };
        names.iter().filter_map(|name| name.strip_prefix(family)).map(str::to_owned).collect()
    }

    /// A variable that counts whether or not variables may set options; `None` if it is empty.
    pub(super) fn process_variable(&mut self, name: &str) -> Option<String> {
        self.variables.get(name)?.into_string().ok().filter(|value| !value.is_empty())
    }

    /// A variable that is looked at only if variables may set options.
    pub(super) fn variable(&mut self, name: &str) -> Option<String> {
        if !self.from_env {
            return None;
        }
        match self.variables.get(name)?.into_string() {
            Ok(value) => Some(value),
            Err(_) => {
                self.problem(Place::Variable(name.to_owned()), "is not UTF-8 text", None);
                None
            }
        }
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

    /// All sections and options that were asked for.
    #[cfg(test)]
    pub(super) fn known(&self) -> &BTreeMap<&'static str, BTreeSet<&'static str>> {
        &self.known
    }

    /// Every option of the section that is set: its title, its name and its place.
    pub(super) fn in_force(&self, section: &str) -> Vec<(String, &'static str, Place)> {
        let of_section = self.in_force.iter().filter(|(((name, _), _), _)| *name == section);
        of_section
            .map(|(((name, subsection), option), place)| {
                (section_title(name, subsection.as_deref()), *option, place.clone())
            })
            .collect()
    }

    /// Calls everything in the file a problem that nobody asked for.
    ///
    /// `named` are the sections that take a name.
    pub(super) fn report_unknown_names(&mut self, named: &[&str]) {
        let Some(file) = self.file.take() else { return };
        let mut problems = Vec::new();
        let mut at = |line, name: String, what: &str, allowed: Option<String>| {
            let place = Place::Line { file: file.path.clone(), line, name };
            problems.push(Problem { place, what: what.to_owned(), allowed });
        };
        let section_of = |header: &Header| {
            self.known.iter().find(|(name, _)| name.eq_ignore_ascii_case(&header.name))
        };
        for header in &file.headers {
            match (section_of(header), &header.subsection) {
                (None, _) => {
                    let sections: Vec<&str> = self.known.keys().copied().collect();
                    let allowed = Some(sections.join(", "));
                    at(header.line, header.to_string(), "unknown section", allowed);
                }
                (Some((section, _)), Some(_)) if !named.contains(section) => {
                    let allowed = Some(format!("[{section}]"));
                    at(header.line, header.to_string(), "this section takes no name", allowed);
                }
                (Some(_), _) => {}
            }
        }
        for assignment in &file.assignments {
            let header = &file.headers[assignment.header];
            let Some((_, options)) = section_of(header) else { continue };
            if !options.iter().any(|option| option.eq_ignore_ascii_case(&assignment.option)) {
                let options: Vec<&str> = options.iter().copied().collect();
                let name = format!("{header} {}", assignment.option);
                match slips::old_option(&header.name, &assignment.option) {
                    Some(advice) => at(assignment.line, name, advice, None),
                    None => at(assignment.line, name, "unknown option", Some(options.join(", "))),
                }
            }
        }
        self.problems.append(&mut problems);
    }

    /// Ends the reading: the warnings, or all problems.
    pub(super) fn finish(mut self) -> Result<Vec<Warning>, Problems> {
        match Problems::from_list(self.problems) {
            Some(problems) => Err(problems),
            None => {
                self.warnings.sort();
                self.warnings.dedup();
                Ok(self.warnings)
            }
        }
    }
}

/// Where one value of an option stands.
struct Entry {
    place: Place,
    raw: Raw,
    layer: Layer,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Layer {
    File,
    Variable,
}

/// One section, to read its options from.
pub(super) struct SectionReader<'r, 'a> {
    reader: &'r mut Reader<'a>,
    section: &'static str,
    /// Empty for a section that should have a name and has none.
    subsection: Option<String>,
    uses_variables: bool,
}

impl<'a> SectionReader<'_, 'a> {
    /// From here on, looks into the file only.
    pub(super) fn ignore_variables(&mut self) {
        self.uses_variables = false;
    }

    /// An option that any text can be a value of, or that `parse` understands.
    pub(super) fn parsed<T>(
        &mut self,
        names: Names,
        parse: impl Fn(&str) -> Result<T, Invalid>,
    ) -> Option<T> {
        let mut value = None;
        for Entry { place, raw, .. } in self.entries(names) {
            let text = match raw {
                Raw::Blank => {
                    self.set(names, place.clone());
                    self.reader.problem(place, "has no value", None);
                    continue;
                }
                Raw::Text(text) => text,
            };
            if text.is_empty() {
                value = None;
                self.unset(names);
                continue;
            }
            match parse(&text) {
                Ok(parsed) => value = Some(parsed),
                Err(invalid) => {
                    self.reader.problem(place.clone(), invalid.what, invalid.allowed);
                }
            }
            self.set(names, place);
        }
        value
    }

    /// A text.
    pub(super) fn text(&mut self, names: Names) -> Option<String> {
        self.parsed(names, values::text)
    }

    /// The path of a file.
    pub(super) fn path(&mut self, names: Names) -> Option<PathBuf> {
        self.parsed(names, values::path)
    }

    /// A boolean; `None` if it is set nowhere.
    pub(super) fn boolean(&mut self, names: Names) -> Option<bool> {
        let mut value = None;
        for Entry { place, raw, layer } in self.entries(names) {
            let parsed = match (raw, layer) {
                (Raw::Blank, _) => Ok(true),
                (Raw::Text(text), Layer::Variable) if text.is_empty() => continue,
                (Raw::Text(text), Layer::Variable) => values::boolean_in_variable(&text),
                (Raw::Text(text), Layer::File) => values::boolean_in_file(&text),
            };
            match parsed {
                Ok(parsed) => {
                    value = Some(parsed);
                    if parsed { self.set(names, place) } else { self.unset(names) }
                }
                Err(invalid) => self.reader.problem(place, invalid.what, invalid.allowed),
            }
        }
        value
    }

    /// A boolean that is false unless it is set.
    pub(super) fn switch(&mut self, names: Names) -> bool {
        self.boolean(names).unwrap_or(false)
    }

    /// The items of a list, literally. ld-relay v8: nothing around an item is trimmed.
    pub(super) fn list(&mut self, names: Names) -> Vec<String> {
        let mut items: Vec<String> = Vec::new();
        for Entry { place, raw, .. } in self.entries(names) {
            match raw {
                Raw::Blank => self.reader.problem(place, "has no value", None),
                Raw::Text(text) if text.is_empty() => {}
                Raw::Text(text) => {
                    items.extend(text.split(',').map(str::to_owned));
                    self.set(names, place);
                }
            }
        }
        items
    }

    /// A list of which an item with blanks around it matches nothing, although it is legal.
    pub(super) fn literal_list(&mut self, names: Names) -> Vec<String> {
        let items = self.list(names);
        if items.iter().any(|item| item.trim() != item || item.is_empty()) {
            let what = "an item of the list is empty or has spaces around it; spaces are part of \
                        the item, as in ld-relay";
            self.warning(names, what);
        }
        items
    }

    /// Whether the option has a value, be it one that cannot be understood. Only for options that
    /// were read; a boolean counts if it is true.
    pub(super) fn is_set(&self, names: Names) -> bool {
        self.reader.in_force.contains_key(&self.key(names))
    }

    /// Whether the option has a value in the file.
    pub(super) fn is_in_file(&self, names: Names) -> bool {
        let is_filled = |entry: &Entry| entry.raw != Raw::Text(String::new());
        self.in_file(names).last().is_some_and(is_filled)
    }

    /// Whether the option has a value among the variables.
    pub(super) fn is_variable(&mut self, names: Names) -> bool {
        self.in_variables(names).is_some_and(|entry| entry.raw != Raw::Text(String::new()))
    }

    /// Where the option got its value, or where it would stand.
    pub(super) fn place(&self, names: Names) -> Place {
        match self.reader.in_force.get(&self.key(names)) {
            Some(place) => place.clone(),
            None => Place::Unset(self.title(names)),
        }
    }

    pub(super) fn problem(&mut self, names: Names, what: impl Into<String>, allowed: Option<&str>) {
        let place = self.place(names);
        self.reader.problem(place, what, allowed);
    }

    pub(super) fn warning(&mut self, names: Names, what: impl Into<String>) {
        let place = self.place(names);
        self.reader.warning(place, what);
    }

    /// How many problems were found so far, to tell whether a step added one.
    pub(super) fn problem_count(&self) -> usize {
        self.reader.problems.len()
    }

    /// A warning about something else than an option of this section.
    pub(super) fn warning_at(&mut self, place: Place, what: impl Into<String>) {
        self.reader.warning(place, what);
    }

    pub(super) fn files(&self) -> &'a dyn Files {
        self.reader.files()
    }

    /// All names of the option: `[Redis] host (REDIS_HOST)`.
    pub(super) fn title(&self, names: Names) -> String {
        let section = section_title(self.section, self.subsection.as_deref());
        match (names.option, self.variable_name(names)) {
            (Some(option), Some(variable)) => format!("{section} {option} ({variable})"),
            (Some(option), None) => format!("{section} {option}"),
            (None, Some(variable)) => variable,
            (None, None) => section,
        }
    }

    fn variable_name(&self, names: Names) -> Option<String> {
        let family = names.variable?;
        Some(format!("{family}{}", self.subsection.as_deref().unwrap_or_default()))
    }

    fn key(&self, names: Names) -> (SectionName, &'static str) {
        ((self.section, self.subsection.clone()), names.key())
    }

    fn set(&mut self, names: Names, place: Place) {
        self.reader.in_force.insert(self.key(names), place);
    }

    fn unset(&mut self, names: Names) {
        self.reader.in_force.remove(&self.key(names));
    }

    /// All values of the option, the one that counts last.
    fn entries(&mut self, names: Names) -> Vec<Entry> {
        if let Some(option) = names.option {
            self.reader.known.entry(self.section).or_default().insert(option);
        }
        let mut entries = self.in_file(names);
        entries.extend(self.in_variables(names));
        entries
    }

    fn in_file(&self, names: Names) -> Vec<Entry> {
        let (Some(option), Some(file)) = (names.option, &self.reader.file) else {
            return Vec::new();
        };
        let is_here = |header: &Header| {
            header.name.eq_ignore_ascii_case(self.section)
                && match &self.subsection {
                    Some(name) => header.subsection.as_deref().unwrap_or_default() == name,
                    None => header.subsection.is_none(),
                }
        };
        let name = format!("{} {option}", section_title(self.section, self.subsection.as_deref()));
        file.assignments
            .iter()
            .filter(|assignment| {
                assignment.option.eq_ignore_ascii_case(option)
                    && is_here(&file.headers[assignment.header])
            })
            .map(|assignment| Entry {
                place: Place::Line {
                    file: file.path.clone(),
                    line: assignment.line,
                    name: name.clone(),
                },
                raw: assignment.value.clone(),
                layer: Layer::File,
            })
            .collect()
    }

    fn in_variables(&mut self, names: Names) -> Option<Entry> {
        if !self.uses_variables {
            return None;
        }
        let name = self.variable_name(names)?;
        let text = self.reader.variable(&name)?;
        let place = Place::Variable(name);
        Some(Entry { place, raw: Raw::Text(text), layer: Layer::Variable })
    }
}
