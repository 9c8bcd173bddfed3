//! Options that are set and do not work, by the column *Effect* of the table.
//!
//! One warning names all that are not implemented yet (design D39). It is a problem where security
//! would be weaker without the option, or where nothing would be left to serve.

use super::problems::Place;
use super::reader::Reader;
use super::table::{AnyOption, Effect, Row, SECTIONS, Section, environment};

/// Reads the options that do not work, so that mistakes in them are found, and reports those that
/// are set.
pub(super) fn report(reader: &mut Reader<'_>) {
    let mut not_built: Vec<String> = Vec::new();
    for section in SECTIONS {
        for option in section.rows {
            match option.row().effect {
                Effect::Works => {}
                Effect::NotYet => {
                    read(reader, section, *option);
                    let set = reader.in_force(option.row()).into_iter();
                    not_built
                        .extend(set.map(|(title, place)| written(&title, option.row(), place)));
                }
                Effect::Never => {
                    read(reader, section, *option);
                    for (_, place) in reader.in_force(option.row()) {
                        let why = option.row().reason();
                        reader.warning(place, format!("has no effect: {}", lower_case(&why)));
                    }
                }
                Effect::Refused(why) => {
                    read(reader, section, *option);
                    for (_, place) in reader.in_force(option.row()) {
                        if let Some(why) = why {
                            reader.problem(place, why, None);
                        }
                    }
                }
                Effect::Retired => report_retired(reader, section, option.row()),
            }
        }
    }
    if !not_built.is_empty() {
        let names = not_built.join(", ");
        let what = format!("accepted, but not implemented yet and without effect: {names}");
        reader.warning(Place::Configuration, what);
    }
}

/// The names of the sections of this kind; `None` is the one without a name.
fn names(reader: &Reader<'_>, section: &Section) -> Vec<Option<String>> {
    match (section.named_by, section.rows) {
        (Some(_), [maker, ..]) => reader.names_of(maker.row()).into_iter().map(Some).collect(),
        (Some(_) | None, _) => vec![None],
    }
}

fn read(reader: &mut Reader<'_>, section: &Section, option: &dyn AnyOption) {
    for name in names(reader, section) {
        option.judge(&mut reader.scope(name));
    }
}

/// An option as the operator wrote it.
fn written(title: &str, row: &Row, place: Place) -> String {
    match place {
        Place::Variable(variable) => variable,
        Place::Line { .. } | Place::File(_) | Place::Unset(_) | Place::Configuration => {
            format!("{title} {}", row.name())
        }
    }
}

/// ld-relay v8 refuses most options that it does not have any more, and so do we.
fn report_retired(reader: &mut Reader<'_>, section: &Section, row: &Row) {
    let environments = reader.names_of(&environment::LD_ENV_);
    // `LD_TTL_MINUTES_a` is also the `ttl` of an environment `MINUTES_a`.
    let is_other = |variable: &str| {
        let names =
            environment::LD_TTL_.variables().filter_map(|family| variable.strip_prefix(family));
        names.into_iter().any(|name| environments.contains(name))
    };
    for name in names(reader, section) {
        let entries = reader.scope(name.clone()).entries(row);
        for entry in entries {
            let is_void = match &entry.place {
                Place::Variable(variable) => entry.is_empty() || is_other(variable),
                _ => false,
            };
            if !is_void {
                let name = name.as_deref().unwrap_or_default();
                reader.problem(entry.place, row.reason().replace("<NAME>", name), None);
            }
        }
    }
}

/// The text as the end of a sentence, unless it begins with a name.
fn lower_case(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) if !text.starts_with("Pilotlight") => {
            first.to_lowercase().chain(characters).collect()
        }
        Some(_) | None => text.to_owned(),
    }
}
