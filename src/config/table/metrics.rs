//! `[Datadog]`, `[Stackdriver]`, `[Prometheus]` of ld-relay v8 and `[OpenTelemetry]` of v9.

use super::kind;
use super::row::{AnyOption, Opt, both, switch};

/// `[Datadog]`.
pub mod datadog {
    use super::*;

    options! { "Datadog",
        /// Send metrics to Datadog.
        USE_DATADOG: bool = switch("enabled").not_yet();
        /// Address for metrics, `host:port`.
        DATADOG_STATS_ADDR: String = both("statsAddr", &kind::TEXT).not_yet();
        /// Address for traces, `host:port`.
        DATADOG_TRACE_ADDR: String = both("traceAddr", &kind::TEXT).not_yet();
        /// Tags; the variable contains the value.
        DATADOG_TAG_: Vec<String> = both("tag", &kind::TAGS).not_yet();
        /// Prefix of the names of metrics.
        DATADOG_PREFIX: String =
            both("prefix", &kind::TEXT).default("launchdarkly_relay").not_yet();
    }
}

/// `[Stackdriver]`.
pub mod stackdriver {
    use super::*;

    options! { "Stackdriver",
        /// Send metrics to Google Cloud.
        USE_STACKDRIVER: bool = switch("enabled").not_yet();
        /// The Google Cloud project.
        STACKDRIVER_PROJECT_ID: String = both("projectID", &kind::TEXT).not_yet();
        /// Prefix of the names of metrics.
        STACKDRIVER_PREFIX: String =
            both("prefix", &kind::TEXT).default("launchdarkly_relay").not_yet();
    }
}

/// `[Prometheus]`.
pub mod prometheus {
    use super::*;

    options! { "Prometheus",
        /// Serve metrics for Prometheus.
        USE_PROMETHEUS: bool = switch("enabled").not_yet();
        /// Port of the metrics.
        PROMETHEUS_PORT: u16 = both("port", &kind::PORT).default("8031").not_yet();
        /// Prefix of the names of metrics.
        PROMETHEUS_PREFIX: String =
            both("prefix", &kind::TEXT).default("launchdarkly_relay").not_yet();
    }
}

/// `[OpenTelemetry]`.
pub mod opentelemetry {
    use super::*;

    options! { "OpenTelemetry",
        /// Send telemetry with OTLP.
        USE_OTLP: bool = switch("enabled").not_yet();
        /// Protocol of the transmission.
        OTEL_EXPORTER_OTLP_PROTOCOL: String =
            both("protocol", &kind::PROTOCOL).unset_means("default of the library").not_yet();
        /// Largest number of attribute sets of one instrument; 0: no limit.
        OTEL_METRICS_CARDINALITY_LIMIT: u64 =
            both("metricsCardinalityLimit", &kind::LIMIT).default("2000").not_yet();
        /// Metrics for each environment.
        OTEL_ENVIRONMENT_STATUS_METRICS: bool = switch("environmentStatusMetrics").not_yet();
        /// Send logs.
        OTEL_LOGS_EXPORTER: String = both("logsExporter", &kind::EXPORTER)
            .default("otlp")
            .warn(kind::warn_of_other_exporters)
            .not_yet();
        /// Send traces.
        OTEL_TRACES_EXPORTER: String = both("tracesExporter", &kind::EXPORTER)
            .default("otlp")
            .warn(kind::warn_of_other_exporters)
            .not_yet();
        /// Send metrics.
        OTEL_METRICS_EXPORTER: String = both("metricsExporter", &kind::EXPORTER)
            .default("otlp")
            .warn(kind::warn_of_other_exporters)
            .not_yet();
    }
}
