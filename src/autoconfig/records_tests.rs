use super::*;

fn record(json: &str) -> EnvironmentRecord {
    EnvironmentRecord::from_json(&serde_json::from_str(json).unwrap()).unwrap()
}

/// The text that ld-relay v8 writes for an environment, composed after its member order.
const ENVIRONMENT: &str = concat!(
    r#"{"kind":"environment","modelVersion":2,"data":{"envID":"e1","envKey":"prod","#,
    r#""envName":"Prod","mobKey":"mob-a","projKey":"web","projName":"Web","#,
    r#""sdkKey":{"value":"sdk-a","expiring":{"value":"","timestamp":0}},"#,
    r#""sdkKeys":[{"key":"default","value":"sdk-a","hasViews":false},"#,
    r#"{"key":"batch","value":"sdk-b","expiry":1790000000000,"hasViews":true}],"#,
    r#""mobileKeys":[{"key":"default","value":"mob-a","hasViews":false}],"#,
    r#""defaultTtl":5,"secureMode":true,"version":12}}"#
);

#[test]
fn writes_ld_relays_bytes_and_reads_them_back() {
    let Record::Environment { record, complete } = decode(ENVIRONMENT.as_bytes()).unwrap() else {
        panic!("an environment");
    };
    assert!(complete);
    assert_eq!(record.sdk_keys[1].expiry_ms, Some(1_790_000_000_000));
    assert!(record.sdk_keys[1].has_views);
    assert_eq!(encode_environment(&record), ENVIRONMENT);

    let filter =
        r#"{"kind":"filter","modelVersion":2,"data":{"projKey":"p1","key":"f1","version":7}}"#;
    let Record::Filter(record) = decode(filter.as_bytes()).unwrap() else { panic!("a filter") };
    assert_eq!(encode_filter(&record), filter);
}

#[test]
fn escapes_as_gos_encoder_does() {
    let mut record = record(r#"{"envID":"e","sdkKey":{"value":"sdk-a"}}"#);
    record.name = "a<b>&\"\\\u{1}\n\u{2028}é".to_owned();
    let text = encode_environment(&record);
    assert!(text.contains(r#""envName":"a\u003cb\u003e\u0026\"\\\u0001\n\u2028é""#), "{text}");
    assert!(text.contains(r#""expiring":{"value":"","timestamp":0}"#));
    assert!(!text.contains("sdkKeys") && !text.contains("mobileKeys"));
    let Record::Environment { record: back, .. } = decode(text.as_bytes()).unwrap() else {
        panic!("an environment");
    };
    assert_eq!(back, record);
}

#[test]
fn the_older_shape_is_read_as_incomplete() {
    let old = r#"{"kind":"environment","modelVersion":1,"data":{"envID":"e1","sdkKey":{"value":"sdk-a","expiring":{"value":"sdk-old","timestamp":5}},"mobKey":"mob-a","version":4}}"#;
    let Record::Environment { record, complete } = decode(old.as_bytes()).unwrap() else {
        panic!("an environment");
    };
    assert!(!complete);
    assert_eq!(record.expiring.as_ref().map(|(key, at)| (key.expose(), *at)), Some(("sdk-old", 5)));
    assert!(record.sdk_keys.is_empty());
}

#[test]
fn records_that_do_not_fit_are_told_apart() {
    let check = |text: &str, expected: &str| {
        let error = decode(text.as_bytes()).unwrap_err();
        assert!(format!("{error:?}").starts_with(expected), "{text}: {error:?}");
    };
    check("", "Undecodable");
    check("[]", "Undecodable");
    check(r#"{"kind":"environment","data":{}}"#, "UnknownVersion(0)");
    check(r#"{"kind":"environment","modelVersion":999,"data":{}}"#, "UnknownVersion(999)");
    check(r#"{"kind":"cat","modelVersion":2,"data":{}}"#, "UnknownKind");
    check(r#"{"kind":"environment","modelVersion":2,"data":{"envID":"e"}}"#, "Undecodable");
    check(r#"{"kind":"environment","modelVersion":2}"#, "Undecodable");
    check(r#"{"kind":"filter","modelVersion":2,"data":[]}"#, "Undecodable");
}

#[test]
fn contradicting_credentials_are_refused() {
    let check = |json: &str, expected: Option<&str>| {
        let verdict = record(json).check_credentials();
        match expected {
            None => assert_eq!(verdict, Ok(()), "{json}"),
            Some(part) => {
                let Malformed(problem) = verdict.unwrap_err();
                assert!(problem.contains(part), "{json}: {problem}");
            }
        }
    };
    check(r#"{"sdkKey":{"value":"a"}}"#, None);
    check(r#"{"sdkKey":{"value":"a"},"mobKey":"m","sdkKeys":[],"mobileKeys":[]}"#, None);
    check(r#"{"sdkKey":{"value":"a"},"sdkKeys":[{"value":"a"},{"value":"b"}]}"#, None);
    check(r#"{}"#, Some("no SDK key"));
    check(r#"{"sdkKeys":[{"value":"a"}]}"#, Some("no SDK key"));
    check(r#"{"sdkKey":{"value":"a"},"sdkKeys":[{"value":"b"}]}"#, Some("missing from sdkKeys"));
    check(r#"{"sdkKey":{"value":"a"},"sdkKeys":[{"value":"a"},{}]}"#, Some("empty"));
    check(
        r#"{"sdkKey":{"value":"a"},"mobKey":"m","mobileKeys":[{"value":"n"}]}"#,
        Some("mobileKeys"),
    );
    check(r#"{"sdkKey":{"value":"a"},"mobileKeys":[{"value":"n"}]}"#, Some("designates none"));
    check(r#"{"sdkKey":{"value":"a\n"}}"#, Some("characters"));
    check(r#"{"sdkKey":{"value":"a","expiring":{"value":"é","timestamp":1}}}"#, Some("characters"));
    check(r#"{"sdkKey":{"value":"a"},"mobKey":"\u007f"}"#, Some("characters"));
}
