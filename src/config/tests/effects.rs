//! Options that are accepted although they have no effect.

use super::*;

const ENVIRONMENT: &str = "[Environment \"e\"]\nsdkKey = s\nprefix = p\n";

#[test]
fn everything_that_is_not_built_is_in_one_warning() {
    let loaded = load_both(
        &format!(
            "{ENVIRONMENT}[Main]\ntlsCert = c\nbigSegmentsStaleAsDegraded = no\n\
             [Events]\nmetricsCapacity = 5000\n[Http]\nenableCompression\n\
             [Redis]\nmode = cluster\nurls = redis://a\natomicUpsert = false\n"
        ),
        &[
            ("CLIENT_WRITE_SLACK", "1s"),
            ("USE_PROMETHEUS", "1"),
            ("CACHE_TTL", "5s"),
            ("LD_TRACE_LOG_BIG_SEGMENTS", "1"),
        ],
    )
    .unwrap();
    let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        ["configuration: accepted, but not implemented yet and without effect: \
          CLIENT_WRITE_SLACK, [Main] tlsCert, LD_TRACE_LOG_BIG_SEGMENTS, \
          [Events] metricsCapacity, USE_PROMETHEUS"]
    );
}

#[test]
fn what_is_off_is_not_warned_of() {
    let pairs = [("USE_EVENTS", "false"), ("USE_DATADOG", "0"), ("EXIT_ON_ERROR", "false")];
    check_warnings(ENVIRONMENT, &pairs, &[]);
    let file = format!("{ENVIRONMENT}[Main]\ntlsEnabled = false\n[Events]\nsendEvents = no");
    check_warnings(&file, &pairs, &[]);
}

#[test]
fn what_never_has_an_effect_says_why() {
    check_warnings(
        "[Environment \"e\"]\nsdkKey = s\noffline\nfilterKey = f\n[Main]\nignoreConnectionErrors",
        &[("EXIT_ON_ERROR", "1")],
        &[
            "/c.conf:3: [Environment \"e\"] offline: has no effect",
            "/c.conf:4: [Environment \"e\"] filterKey: has no effect",
            "/c.conf:6: [Main] ignoreConnectionErrors: has no effect",
            "EXIT_ON_ERROR: has no effect: Pilotlight never exits",
        ],
    );
}

#[test]
fn https_that_would_not_be_there_is_a_problem() {
    check_problems(
        &format!("{ENVIRONMENT}[Main]\ntlsEnabled\ntlsCert = c\ntlsKey = k"),
        &[],
        &[
            "/c.conf:5: [Main] tlsEnabled: HTTPS is not implemented yet; terminate TLS in front of the relay",
        ],
    );
    check_problems(
        ENVIRONMENT,
        &[("TLS_ENABLED", "1"), ("TLS_CERT", "c")],
        &[
            "TLS_ENABLED: HTTPS is not implemented yet",
            "[Main] tlsKey (TLS_KEY): is missing, although tlsEnabled is true",
        ],
    );
}

#[test]
fn what_is_not_built_is_named_once_for_all_sections() {
    let file = "[Environment \"e\"]\nsdkKey = s\nsecureMode\nallowedOrigin = https://a\n\
                allowedHeader = X-A\nlogLevel = debug\n[Main]\nbaseUri = https://sdk.example\n";
    let expected = "configuration: accepted, but not implemented yet and without effect: \
                    CLIENT_WRITE_SLACK, [Environment \"e\"] logLevel";
    check_warnings(file, &[("CLIENT_WRITE_SLACK", "5s")], &[expected]);
}
