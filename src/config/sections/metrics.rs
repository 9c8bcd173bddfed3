//! `[Datadog]`, `[Stackdriver]`, `[Prometheus]` of ld-relay v8 and `[OpenTelemetry]` of v9. None is
//! implemented yet; they are only checked for mistakes.
//!
//! ld-relay: the variables of a section are read only if the section is enabled. Some of them
//! belong to other programs as well, so otherwise they must not be checked.

use crate::config::reader::Reader;
use crate::config::table::{datadog, opentelemetry, prometheus, stackdriver};
use crate::config::values::quoted;

/// Turns off the sections that are not enabled.
pub(super) fn read(reader: &mut Reader<'_>) {
    for (switch, rows) in [
        (&datadog::USE_DATADOG, datadog::ROWS),
        (&stackdriver::USE_STACKDRIVER, stackdriver::ROWS),
        (&prometheus::USE_PROMETHEUS, prometheus::ROWS),
        (&opentelemetry::USE_OTLP, opentelemetry::ROWS),
    ] {
        if !reader.global().value(switch) {
            reader.turn_off(rows.iter().map(|option| option.row()));
        }
    }
    check_protocol(reader);
}

/// ld-relay v9: the protocol is checked only where it is used.
fn check_protocol(reader: &mut Reader<'_>) {
    let mut section = reader.global();
    let Some(word) = section.read(&opentelemetry::OTEL_EXPORTER_OTLP_PROTOCOL) else { return };
    let words = ["grpc", "http", "http/protobuf", "http/json"];
    if section.value(&opentelemetry::USE_OTLP) && !words.contains(&&*word.to_ascii_lowercase()) {
        let what = format!("{} is not a protocol", quoted(&word));
        section.problem(&opentelemetry::OTEL_EXPORTER_OTLP_PROTOCOL, what, Some(&words.join(", ")));
    }
}
