//! `[Datadog]`, `[Stackdriver]`, `[Prometheus]` of ld-relay v8 and `[OpenTelemetry]` of v9.
//!
//! ld-relay: the variables of a section count only where the section is enabled. Some of them
//! belong to other programs as well, so they must not be judged otherwise.

use crate::config::env_vars as var;
use crate::config::reader::{Names, Reader, SectionReader};
use crate::config::values::{self, Invalid, quoted};

const PREFIX_DEFAULT: &str = "launchdarkly_relay";

/// The four metrics sections; `None` is not enabled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricsConfig {
    /// `[Datadog]`.
    pub datadog: Option<DatadogConfig>,
    /// `[Stackdriver]`.
    pub stackdriver: Option<StackdriverConfig>,
    /// `[Prometheus]`.
    pub prometheus: Option<PrometheusConfig>,
    /// `[OpenTelemetry]`.
    pub opentelemetry: Option<OpenTelemetryConfig>,
}

/// `[Datadog]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatadogConfig {
    /// Where metrics go, `host:port`.
    pub stats_address: Option<String>,
    /// Where traces go, `host:port`.
    pub trace_address: Option<String>,
    /// `name:value` each.
    pub tags: Vec<String>,
    /// Beginning of each metric's name.
    pub prefix: String,
}

/// `[Stackdriver]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StackdriverConfig {
    /// The Google Cloud project.
    pub project_id: Option<String>,
    /// Beginning of each metric's name.
    pub prefix: String,
}

/// `[Prometheus]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PrometheusConfig {
    /// The port of the metrics page.
    pub port: u16,
    /// Beginning of each metric's name.
    pub prefix: String,
}

/// `[OpenTelemetry]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OpenTelemetryConfig {
    /// How signals are sent; `None` leaves it to the library.
    pub protocol: Option<OtlpProtocol>,
    /// Most attribute sets of one instrument; `None` is no limit.
    pub metrics_cardinality_limit: Option<u64>,
    /// Whether there are metrics of each single environment.
    pub environment_status_metrics: bool,
    /// Whether logs are sent.
    pub logs: bool,
    /// Whether traces are sent.
    pub traces: bool,
    /// Whether metrics are sent.
    pub metrics: bool,
}

/// How OpenTelemetry signals are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OtlpProtocol {
    /// gRPC.
    Grpc,
    /// Over HTTP.
    Http,
}

/// Reads the four sections.
pub(super) fn read(reader: &mut Reader<'_>) -> MetricsConfig {
    MetricsConfig {
        datadog: read_datadog(reader),
        stackdriver: read_stackdriver(reader),
        prometheus: read_prometheus(reader),
        opentelemetry: read_opentelemetry(reader),
    }
}

/// Reads the switch of a section; without it the section's variables are left alone.
fn is_enabled(section: &mut SectionReader<'_, '_>, variable: &'static str) -> bool {
    let is_enabled = section.switch(Names::both("enabled", variable));
    if !is_enabled {
        section.ignore_variables();
    }
    is_enabled
}

fn prefix(section: &mut SectionReader<'_, '_>, variable: &'static str) -> String {
    section.text(Names::both("prefix", variable)).unwrap_or_else(|| PREFIX_DEFAULT.to_owned())
}

fn read_datadog(reader: &mut Reader<'_>) -> Option<DatadogConfig> {
    // ld-relay v8: tags of the variables are sorted and follow those of the file.
    let mut from_variables: Vec<String> = Vec::new();
    for name in reader.family(var::DATADOG_TAG_) {
        let value = reader.variable(&format!("{}{name}", var::DATADOG_TAG_));
        from_variables.extend(value.map(|value| format!("{name}:{value}")));
    }
    from_variables.sort();
    let mut section = reader.section("Datadog");
    let is_enabled = is_enabled(&mut section, var::USE_DATADOG);
    let mut tags = section.list(Names::option("tag"));
    tags.append(&mut from_variables);
    let config = DatadogConfig {
        stats_address: section.text(Names::both("statsAddr", var::DATADOG_STATS_ADDR)),
        trace_address: section.text(Names::both("traceAddr", var::DATADOG_TRACE_ADDR)),
        tags,
        prefix: prefix(&mut section, var::DATADOG_PREFIX),
    };
    is_enabled.then_some(config)
}

fn read_stackdriver(reader: &mut Reader<'_>) -> Option<StackdriverConfig> {
    let mut section = reader.section("Stackdriver");
    let is_enabled = is_enabled(&mut section, var::USE_STACKDRIVER);
    let config = StackdriverConfig {
        project_id: section.text(Names::both("projectID", var::STACKDRIVER_PROJECT_ID)),
        prefix: prefix(&mut section, var::STACKDRIVER_PREFIX),
    };
    is_enabled.then_some(config)
}

fn read_prometheus(reader: &mut Reader<'_>) -> Option<PrometheusConfig> {
    let mut section = reader.section("Prometheus");
    let is_enabled = is_enabled(&mut section, var::USE_PROMETHEUS);
    let port = section.parsed(Names::both("port", var::PROMETHEUS_PORT), values::port);
    let prefix = prefix(&mut section, var::PROMETHEUS_PREFIX);
    is_enabled.then_some(PrometheusConfig { port: port.unwrap_or(8031), prefix })
}

fn read_opentelemetry(reader: &mut Reader<'_>) -> Option<OpenTelemetryConfig> {
    let limit = Names::both("metricsCardinalityLimit", var::OTEL_METRICS_CARDINALITY_LIMIT);
    let status = Names::both("environmentStatusMetrics", var::OTEL_ENVIRONMENT_STATUS_METRICS);
    let protocol_names = Names::both("protocol", var::OTEL_EXPORTER_OTLP_PROTOCOL);
    let mut section = reader.section("OpenTelemetry");
    let is_enabled = is_enabled(&mut section, var::USE_OTLP);
    // ld-relay v9: the protocol is judged only where it is used.
    let protocol = if is_enabled {
        section.parsed(protocol_names, protocol)
    } else {
        section.text(protocol_names);
        None
    };
    let config = OpenTelemetryConfig {
        protocol,
        metrics_cardinality_limit: section.parsed(limit, cardinality).unwrap_or(Some(2000)),
        environment_status_metrics: section.switch(status),
        logs: exporter(&mut section, Names::both("logsExporter", var::OTEL_LOGS_EXPORTER)),
        traces: exporter(&mut section, Names::both("tracesExporter", var::OTEL_TRACES_EXPORTER)),
        metrics: exporter(&mut section, Names::both("metricsExporter", var::OTEL_METRICS_EXPORTER)),
    };
    is_enabled.then_some(config)
}

/// Whether a signal is sent. ld-relay v9: only `none` turns it off, and whatever else is asked
/// for, it is sent by OTLP.
fn exporter(section: &mut SectionReader<'_, '_>, names: Names) -> bool {
    let Some(word) = section.text(names) else { return true };
    let word = word.trim();
    if !["none", "otlp"].iter().any(|known| word.eq_ignore_ascii_case(known)) {
        section.warning(names, format!("{} is not supported; otlp is used", quoted(word)));
    }
    !word.eq_ignore_ascii_case("none")
}

fn protocol(text: &str) -> Result<OtlpProtocol, Invalid> {
    match text.to_ascii_lowercase().as_str() {
        "grpc" => Ok(OtlpProtocol::Grpc),
        // OpenTelemetry's own words; ld-relay v9 says `http` for the first of them.
        "http" | "http/protobuf" | "http/json" => Ok(OtlpProtocol::Http),
        _ => Err(Invalid {
            what: format!("{} is not a protocol", quoted(text)),
            allowed: Some("grpc, http, http/protobuf, http/json"),
        }),
    }
}

/// A limit of which zero is none.
fn cardinality(text: &str) -> Result<Option<u64>, Invalid> {
    let limit = u64::try_from(values::integer(text)?).map_err(|_| Invalid {
        what: format!("{} is negative", quoted(text)),
        allowed: Some("0 for no limit, or a limit"),
    })?;
    Ok((limit > 0).then_some(limit))
}
