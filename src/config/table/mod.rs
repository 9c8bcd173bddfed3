//! The table of all options, with one row for each.
//!
//! A row holds the option's section, its names in the file and among the variables, the kind of its
//! values, its default, its effect, and its text. The reading of options, the output of
//! `check-config`, the warnings about options without effect and misspelt names, and the tables of
//! docs/configuration.md are all made from it.
//!
//! To add an option, add a row here, a field to the section's struct in `sections`, and the line
//! there that reads the row into the field. Then run `just options`, which updates the tables of
//! docs/configuration.md.

/// Makes the rows of one section, and `ROWS`, the list of them. The name of a row is that of its
/// variable, if it has one, and the comment above it is its text in docs/configuration.md.
macro_rules! options {
    ($section:literal, $($(#[doc = $text:literal])+ $name:ident: $type:ty = $row:expr;)+) => {
        $(
            $(#[doc = $text])+
            pub static $name: Opt<$type> =
                $row.within($section, stringify!($name), concat!($($text),+));
        )+

        /// All rows of the section.
        pub static ROWS: &[&dyn AnyOption] = &[$(&$name),+];
    };
}

pub mod autoconfig;
pub mod concurrency;
pub mod consul;
pub mod dynamodb;
pub mod environment;
pub mod events;
pub mod http;
mod kind;
pub mod local_store;
pub mod main;
pub mod metrics;
pub mod offline;
pub mod proxy;
pub mod redis;
mod row;

pub use environment::filters;
pub use kind::Combine;
pub use metrics::{datadog, opentelemetry, prometheus, stackdriver};
pub use row::{AnyOption, Default, Effect, Opt, Row};

/// A section of the file.
pub struct Section {
    /// Its name.
    pub name: &'static str,
    /// Meaning of the name after it, for a section that may exist several times.
    pub named_by: Option<&'static str>,
    /// Its options.
    pub rows: &'static [&'static dyn AnyOption],
}

impl Section {
    const fn single(name: &'static str, rows: &'static [&'static dyn AnyOption]) -> Self {
        Self { name, named_by: None, rows }
    }

    const fn named(
        name: &'static str,
        by: &'static str,
        rows: &'static [&'static dyn AnyOption],
    ) -> Self {
        Self { name, named_by: Some(by), rows }
    }
}

/// All sections, in the order of docs/configuration.md.
pub static SECTIONS: &[Section] = &[
    Section::single("Main", main::ROWS),
    Section::single("AutoConfig", autoconfig::ROWS),
    Section::named("Environment", "name", environment::ROWS),
    Section::named("Filters", "project", filters::ROWS),
    Section::single("Redis", redis::ROWS),
    Section::single("DynamoDB", dynamodb::ROWS),
    Section::single("Consul", consul::ROWS),
    Section::single("LocalStore", local_store::ROWS),
    Section::single("Proxy", proxy::ROWS),
    Section::single("Concurrency", concurrency::ROWS),
    Section::single("Events", events::ROWS),
    Section::single("Http", http::ROWS),
    Section::single("OfflineMode", offline::ROWS),
    Section::single("Datadog", datadog::ROWS),
    Section::single("Stackdriver", stackdriver::ROWS),
    Section::single("Prometheus", prometheus::ROWS),
    Section::single("OpenTelemetry", opentelemetry::ROWS),
];

/// All rows, in the order of docs/configuration.md.
pub fn rows() -> impl Iterator<Item = &'static Row> {
    SECTIONS.iter().flat_map(|section| section.rows).map(|option| option.row())
}
