//! Routes of ld-relay that are still to come: SDKs must come back, not give up.

use super::fixture::{CONTEXT, ENVIRONMENT_ID, MOBILE_KEY, SDK_KEY, Site, check_text};

#[tokio::test(flavor = "multi_thread")]
async fn routes_to_come_are_503_to_those_who_may_use_them() {
    let site = Site::manual().await;
    let id = ENVIRONMENT_ID;
    let with_sdk_key = ["POST /bulk".to_owned(), "POST /diagnostic".to_owned()];
    let with_mobile_key = [
        "POST /mobile".to_owned(),
        "POST /mobile/events".to_owned(),
        "POST /mobile/events/bulk".to_owned(),
        "POST /mobile/events/diagnostic".to_owned(),
    ];
    let by_id = [
        format!("POST /events/bulk/{id}"),
        format!("OPTIONS /events/bulk/{id}"),
        format!("POST /events/diagnostic/{id}"),
        format!("GET /a/{id}.gif?d=e30="),
    ];
    let check = async |request: &str, key: Option<&str>| {
        let (method, path) = request.split_once(' ').unwrap();
        let headers: Vec<_> = key.iter().map(|key| ("authorization", *key)).collect();
        let body: &[u8] = if matches!(method, "POST" | "REPORT") { b"[{}]" } else { b"" };
        site.relay.request(method, path, &headers, body).await
    };
    let known = with_sdk_key.iter().map(|request| (request, Some(SDK_KEY), "sdk-unknown", 401));
    let known = known.chain(
        with_mobile_key.iter().map(|request| (request, Some(MOBILE_KEY), "mob-unknown", 401)),
    );
    for (request, key, unknown, refused) in known {
        let response = check(request, key).await;
        assert_eq!(response.status, 503, "{request}");
        assert_eq!(response.header("retry-after"), None, "{request}");
        assert_eq!(response.header("x-ld-envid"), Some(ENVIRONMENT_ID), "{request}");
        assert_eq!(response.header("access-control-allow-origin"), None, "{request}");
        let feature = "not to forward events (sendEvents)";
        assert!(response.text().ends_with(feature), "{request}: {}", response.text());
        check_text(&response, request);
        assert_eq!(check(request, Some(unknown)).await.status, refused, "{request}");
        assert_eq!(check(request, None).await.status, 401, "{request}");
    }
    for request in by_id {
        let response = check(&request, None).await;
        assert_eq!(response.header("retry-after"), None, "{request}");
        // A page can read the answer only if it is allowed to.
        assert_eq!(response.header("access-control-allow-origin"), Some("*"), "{request}");
        let method = request.split(' ').next().unwrap();
        let methods = response.header("access-control-allow-methods").unwrap();
        assert!(methods.contains(method) && methods.ends_with(",OPTIONS"), "{request}: {methods}");
        if method == "OPTIONS" {
            assert_eq!((response.status, response.text()), (200, ""), "{request}");
        } else {
            assert_eq!(response.status, 503, "{request}");
            check_text(&response, &request);
        }
        let unknown = check(&request.replace(id, "ffffffffffffffffffffffff"), None).await;
        assert_eq!(unknown.header("access-control-allow-origin"), Some("*"), "{request}");
        if method == "OPTIONS" {
            assert_eq!((unknown.status, unknown.text()), (200, ""), "{request}");
        } else {
            assert_eq!(unknown.status, 404, "{request}");
            assert_ne!(unknown.text(), "404 page not found\n", "{request}");
            check_text(&unknown, &request);
        }
    }
}

/// An SDK that is still sending its events must not take the answer for a broken network.
#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_do_not_hide_the_answer() {
    let site = Site::manual().await;
    let events = vec![b' '; 200_000];
    let key = [("authorization", SDK_KEY)];
    for _ in 0..20 {
        let response = site.relay.request("POST", "/bulk", &key, &events).await;
        assert_eq!(response.status, 503);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_names_environment_and_feature_once() {
    let site = Site::manual().await;
    let key = [("authorization", SDK_KEY)];
    for _ in 0..3 {
        site.relay.request("POST", "/bulk", &key, b"[]").await;
    }
    let log = site.relay.log();
    let count = |feature: &str| {
        let is_meant = |line: &&str| {
            line.contains(" WARN ") && line.contains(feature) && line.contains("\"Prod\"")
        };
        log.lines().filter(is_meant).count()
    };
    assert_eq!(count("event forwarding"), 1, "{log}");
}

/// SDKs that speak FDv2 take a plain 404 for the end; with the header they fall back to FDv1.
#[tokio::test(flavor = "multi_thread")]
async fn fdv2_is_answered_with_the_way_back_to_fdv1() {
    let site = Site::manual().await;
    let ask = async |request: &str, key: Option<&str>, expected: u16| {
        let headers: Vec<_> = key.iter().map(|key| ("authorization", *key)).collect();
        let (method, path) = request.split_once(' ').unwrap();
        let response = site.relay.request(method, path, &headers, b"").await;
        assert_eq!(response.status, expected, "{request} {key:?}");
        assert_eq!(response.header("x-ld-fd-fallback"), Some("true"), "{request}");
        let is_for_browsers = path.contains("/eval");
        let exposed = is_for_browsers.then_some("Date,X-LD-FD-Fallback");
        assert_eq!(response.header("access-control-expose-headers"), exposed, "{request}");
        if !response.body.is_empty() {
            check_text(&response, request);
        }
    };
    for request in ["GET /sdk/stream", "GET /sdk/stream?basis=x", "GET /sdk/poll"] {
        ask(request, Some(SDK_KEY), 404).await;
        for wrong in [Some("sdk-unknown"), Some(MOBILE_KEY), None] {
            ask(request, wrong, 401).await;
        }
        let filtered =
            format!("{request}{}filter=none", if request.contains('?') { "&" } else { "?" });
        ask(&filtered, Some(SDK_KEY), 404).await;
    }
    for request in [
        format!("GET /sdk/stream/eval/{CONTEXT}"),
        "POST /sdk/stream/eval".to_owned(),
        format!("GET /sdk/poll/eval/{CONTEXT}"),
        "POST /sdk/poll/eval".to_owned(),
    ] {
        for known in [MOBILE_KEY, ENVIRONMENT_ID] {
            ask(&request, Some(known), 404).await;
            ask(&format!("{request}?auth={known}"), None, 404).await;
        }
        for wrong in ["mob-unknown", "ffffffffffffffffffffffff", SDK_KEY] {
            ask(&request, Some(wrong), 401).await;
            ask(&format!("{request}?auth={wrong}"), None, 401).await;
        }
        ask(&request, None, 401).await;
    }
    let preflight = site.relay.request("OPTIONS", "/sdk/poll/eval", &[], b"").await;
    assert_eq!(preflight.status, 200);
    assert_eq!(preflight.header("access-control-allow-methods"), Some("POST,OPTIONS"));
    for (request, exposed) in [
        ("HEAD /sdk/stream", None),
        ("POST /sdk/poll", None),
        ("REPORT /sdk/stream/eval", Some("Date,X-LD-FD-Fallback")),
    ] {
        let (method, path) = request.split_once(' ').unwrap();
        let wrong = site.relay.request(method, path, &[], b"").await;
        assert_eq!((wrong.status, wrong.header("x-ld-fd-fallback")), (405, Some("true")));
        assert_eq!(wrong.header("access-control-expose-headers"), exposed, "{request}");
    }
}
