//! What is accepted although it has no effect.
//!
//! [`NOT_BUILT`] is the one list of options that are not implemented yet: the change that
//! implements one deletes its row here, and its mark in `docs/configuration.md`. One warning names
//! all of them (design D39).

use super::env_vars as var;
use super::problems::Place;
use super::reader::Reader;
use super::sections::{main, offline, proxy};

/// A row of the list.
pub(super) enum NotBuilt {
    /// One option.
    Single(&'static str, &'static str),
    /// All options of a section.
    Section(&'static str),
    /// A variable that no option belongs to.
    Variable(&'static str),
}

use NotBuilt::{Section, Single, Variable};

/// Options that are not implemented yet. Delete a row when its option works.
pub(super) const NOT_BUILT: &[NotBuilt] = &[
    Single("Main", "baseUri"),
    Single("Main", "clientSideBaseUri"),
    Single("Main", "maxClientRequestBodySize"),
    Single("Main", "pingStreamJitterTime"),
    Single("Main", "tlsCert"),
    Single("Main", "tlsKey"),
    Single("Main", "tlsMinVersion"),
    Single("Main", "clientWriteMinBytesPerSecond"),
    Single("Main", "clientWriteSlack"),
    Single("Main", "clientWriteMaxTime"),
    Single("Main", "bigSegmentsStaleAsDegraded"),
    Single("Main", "bigSegmentsStaleThreshold"),
    Variable(var::LD_TRACE_LOG_BIG_SEGMENTS),
    Single("AutoConfig", "envAllowedOrigin"),
    Single("AutoConfig", "envAllowedHeader"),
    Single("Environment", "secureMode"),
    Single("Environment", "allowedOrigin"),
    Single("Environment", "allowedHeader"),
    Single("Environment", "logLevel"),
    Section("Events"),
    Section("Http"),
    Section("Datadog"),
    Section("Stackdriver"),
    Section("Prometheus"),
    Section("OpenTelemetry"),
    Single("Proxy", "domain"),
    Single("Redis", "awsAuth"),
    Single("Redis", "awsCacheName"),
];

/// Options that never have an effect here, and why.
pub(super) const WITHOUT_EFFECT: &[(&str, &str, &str)] = &[
    (
        "Main",
        "exitOnError",
        "Pilotlight never exits because of errors of LaunchDarkly or a database",
    ),
    ("Main", "ignoreConnectionErrors", "Pilotlight never exits because of connection errors"),
    ("Redis", "atomicUpsert", "every write is atomic"),
    ("Environment", "offline", "it is internal to ld-relay"),
    ("Environment", "filterKey", "it is internal to ld-relay; use [Filters]"),
];

/// Reports everything that was asked for and does nothing. It is a problem where security would
/// be weaker without it, or where nothing would be left to serve.
pub(super) fn report(reader: &mut Reader<'_>) {
    let tls = reader.section(main::SECTION);
    if tls.is_set(main::TLS_ENABLED) {
        let place = tls.place(main::TLS_ENABLED);
        let what = "HTTPS is not implemented yet; terminate TLS in front of the relay, in an ingress, a load \
                    balancer or a reverse proxy";
        reader.problem(place, what, Some("false"));
    }
    let offline = reader.section(offline::SECTION);
    if offline.is_set(offline::ARCHIVE) {
        let place = offline.place(offline::ARCHIVE);
        reader.problem(place, "offline mode is not implemented yet", None);
    }
    let proxy = reader.section(proxy::SECTION);
    if proxy.is_set(proxy::NTLM) {
        let place = proxy.place(proxy::NTLM);
        let what = "NTLM is not implemented yet, so a proxy that asks for it would refuse every \
                    connection to LaunchDarkly; use a proxy with Basic authentication or with none";
        reader.problem(place, what, Some("false"));
    }
    for &(section, option, why) in WITHOUT_EFFECT {
        for (_, set, place) in reader.in_force(section) {
            if set == option {
                reader.warning(place, format!("has no effect: {why}"));
            }
        }
    }
    let mut names: Vec<String> = Vec::new();
    for row in NOT_BUILT {
        match row {
            Single(section, option) => names.extend(
                reader.in_force(section).into_iter().filter(|it| it.1 == *option).map(name),
            ),
            Section(section) => names.extend(reader.in_force(section).into_iter().map(name)),
            Variable(variable) => {
                names.extend(reader.process_variable(variable).map(|_| (*variable).to_owned()));
            }
        }
    }
    if !names.is_empty() {
        let what =
            format!("accepted, but not implemented yet and without effect: {}", names.join(", "));
        reader.warning(Place::Configuration, what);
    }
}

/// How an option is named in the list: as the operator wrote it.
fn name((title, option, place): (String, &'static str, Place)) -> String {
    match place {
        Place::Variable(variable) => variable,
        Place::Line { .. } | Place::File(_) | Place::Unset(_) | Place::Configuration => {
            format!("{title} {option}")
        }
    }
}
