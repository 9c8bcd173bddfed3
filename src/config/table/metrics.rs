//! `[Datadog]`, `[Stackdriver]`, `[Prometheus]` of ld-relay v8 and `[OpenTelemetry]` of v9.

use super::kind;
use super::row::{AnyOption, Opt, both, switch};

/// `[Datadog]`.
pub mod datadog {
    use super::*;

    options! { "Datadog",
        /// Send metrics to Datadog.
        ENABLED: bool = switch("enabled", "USE_DATADOG").not_yet();
        /// Address for metrics.
        STATS_ADDR: String = both("statsAddr", "DATADOG_STATS_ADDR", &kind::TEXT).not_yet();
        /// Address for traces.
        TRACE_ADDR: String = both("traceAddr", "DATADOG_TRACE_ADDR", &kind::TEXT).not_yet();
        /// Tags; the variable contains the value.
        TAG: Vec<String> = both("tag", "DATADOG_TAG_", &kind::TAGS).not_yet();
        /// Prefix of the names of metrics.
        PREFIX: String =
            both("prefix", "DATADOG_PREFIX", &kind::TEXT).default("launchdarkly_relay").not_yet();
    }
}

/// `[Stackdriver]`.
pub mod stackdriver {
    use super::*;

    options! { "Stackdriver",
        /// Send metrics to Google Cloud.
        ENABLED: bool = switch("enabled", "USE_STACKDRIVER").not_yet();
        /// The Google Cloud project.
        PROJECT_ID: String = both("projectID", "STACKDRIVER_PROJECT_ID", &kind::TEXT).not_yet();
        /// Prefix of the names of metrics.
        PREFIX: String =
            both("prefix", "STACKDRIVER_PREFIX", &kind::TEXT)
                .default("launchdarkly_relay")
                .not_yet();
    }
}

/// `[Prometheus]`.
pub mod prometheus {
    use super::*;

    options! { "Prometheus",
        /// Serve metrics for Prometheus.
        ENABLED: bool = switch("enabled", "USE_PROMETHEUS").not_yet();
        /// Port of the metrics.
        PORT: u16 = both("port", "PROMETHEUS_PORT", &kind::PORT).default("8031").not_yet();
        /// Prefix of the names of metrics.
        PREFIX: String =
            both("prefix", "PROMETHEUS_PREFIX", &kind::TEXT)
                .default("launchdarkly_relay")
                .not_yet();
    }
}

/// `[OpenTelemetry]`.
pub mod opentelemetry {
    use super::*;

    options! { "OpenTelemetry",
        /// Send telemetry with OTLP.
        ENABLED: bool = switch("enabled", "USE_OTLP").not_yet();
        /// Protocol of the transmission.
        PROTOCOL: String = both("protocol", "OTEL_EXPORTER_OTLP_PROTOCOL", &kind::PROTOCOL)
            .unset_means("default of the library")
            .not_yet();
        /// Largest number of attribute sets of one instrument; 0: no limit.
        METRICS_CARDINALITY_LIMIT: u64 =
            both("metricsCardinalityLimit", "OTEL_METRICS_CARDINALITY_LIMIT", &kind::LIMIT)
                .default("2000")
                .not_yet();
        /// Metrics for each environment.
        ENVIRONMENT_STATUS_METRICS: bool =
            switch("environmentStatusMetrics", "OTEL_ENVIRONMENT_STATUS_METRICS").not_yet();
        /// Whether logs are sent.
        LOGS_EXPORTER: String = both("logsExporter", "OTEL_LOGS_EXPORTER", &kind::EXPORTER)
            .default("otlp")
            .warn(kind::warn_of_other_exporters)
            .not_yet();
        /// Whether traces are sent.
        TRACES_EXPORTER: String = both("tracesExporter", "OTEL_TRACES_EXPORTER", &kind::EXPORTER)
            .default("otlp")
            .warn(kind::warn_of_other_exporters)
            .not_yet();
        /// Whether metrics are sent.
        METRICS_EXPORTER: String = both("metricsExporter", "OTEL_METRICS_EXPORTER", &kind::EXPORTER)
            .default("otlp")
            .warn(kind::warn_of_other_exporters)
            .not_yet();
    }
}
