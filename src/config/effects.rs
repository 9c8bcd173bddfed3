//! Reports options that are set but do not work, by the column *Effect* of the table.
//!
//! One warning names all that are not implemented yet. Such an option is a problem
//! instead if security would be weaker without it, or if nothing would be left to serve.

use super::problems::Place;
use super::reader::Reader;
use super::table::{Effect, Row, SECTIONS, Section, environment};

/// Reads the options that do not work, so that mistakes in them are found, and reports those that
/// are set.
pub(super) fn report(reader: &mut Reader<'_>) {
    let mut not_built: Vec<String> = Vec::new();
    for section in SECTIONS {
        for option in section.rows {
            let row = option.row();
            match row.effect {
                Effect::Works => continue,
                Effect::Retired => report_retired(reader, section, row),
                Effect::NotYet | Effect::Never | Effect::Refused(_) => {
                    for name in names(reader, section) {
                        option.judge(&mut reader.scope(name));
                    }
                }
            }
            for (title, place) in reader.in_force(row) {
                match row.effect {
                    Effect::NotYet => not_built.push(written(&title, row, place)),
                    Effect::Never => {
                        let why = lower_case(&row.reason());
                        reader.warning(place, format!("has no effect: {why}"));
                    }
                    Effect::Refused(why) => reader.problem(place, why, None),
                    Effect::Works | Effect::Retired => {}
                }
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

/// An option as the operator wrote it.
fn written(title: &str, row: &Row, place: Place) -> String {
    match place {
        Place::Variable(variable) => variable,
        Place::Line { .. } | Place::File(_) | Place::Unset(_) | Place::Configuration => {
            format!("{title} {}", row.name())
        }
    }
}

/// Reports removed options. ld-relay v8 refuses most options that it has removed; so does
/// Pilotlight.
fn report_retired(reader: &mut Reader<'_>, section: &Section, row: &Row) {
    let environments = reader.names_of(&environment::LD_ENV_);
    // `LD_TTL_MINUTES_a` is also the `ttl` of an environment `MINUTES_a`.
    let is_ttl = |variable: &str| {
        let name = environment::LD_TTL_.variable.and_then(|family| variable.strip_prefix(family));
        name.is_some_and(|name| environments.contains(name))
    };
    for name in names(reader, section) {
        let entries = reader.scope(name.clone()).entries(row);
        for entry in entries {
            let is_void = |variable: &str| entry.is_empty() || is_ttl(variable);
            if !matches!(&entry.place, Place::Variable(variable) if is_void(variable)) {
                let name = name.as_deref().unwrap_or_default();
                reader.problem(entry.place, row.reason().replace("<NAME>", name), None);
            }
        }
    }
}

/// The text with a lower-case first letter, to end a sentence, unless it begins with a name.
fn lower_case(text: &str) -> String {
    let mut characters = text.chars();
    match characters.next() {
        Some(first) if !text.starts_with("Pilotlight") => {
            first.to_lowercase().chain(characters).collect()
        }
        Some(_) | None => text.to_owned(),
    }
}
