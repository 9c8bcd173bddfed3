//! Routes of ld-relay that are still to come: SDKs must come back, not give up.

use super::fixture::{CONTEXT, ENVIRONMENT_ID, MOBILE_KEY, SDK_KEY, Site, check_text};

#[tokio::test(flavor = "multi_thread")]
async fn routes_to_come_are_503_to_those_who_may_use_them() {
    let site = Site::manual().await;
    let id = ENVIRONMENT_ID;
    let with_sdk_key = [
        "POST /bulk".to_owned(),
        "POST /diagnostic".to_owned(),
        format!("GET /sdk/evalx/contexts/{CONTEXT}"),
        format!("GET /sdk/evalx/users/{CONTEXT}="),
        "REPORT /sdk/evalx/context".to_owned(),
        "REPORT /sdk/evalx/user".to_owned(),
    ];
    let with_mobile_key = [
        format!("GET /msdk/evalx/contexts/{CONTEXT}"),
        format!("GET /msdk/evalx/users/{CONTEXT}"),
        "REPORT /msdk/evalx/context".to_owned(),
        "REPORT /msdk/evalx/user".to_owned(),
        "GET /mping".to_owned(),
        format!("GET /meval/{CONTEXT}"),
        "REPORT /meval".to_owned(),
        "POST /mobile".to_owned(),
        "POST /mobile/events".to_owned(),
        "POST /mobile/events/bulk".to_owned(),
        "POST /mobile/events/diagnostic".to_owned(),
    ];
    let by_id = [
        format!("GET /sdk/evalx/{id}/contexts/{CONTEXT}"),
        format!("GET /sdk/evalx/{id}/users/{CONTEXT}"),
        format!("REPORT /sdk/evalx/{id}/context"),
        format!("REPORT /sdk/evalx/{id}/user"),
        format!("REPORT /sdk/evalx/{id}/contexts"),
        format!("REPORT /sdk/evalx/{id}/users"),
        format!("OPTIONS /sdk/evalx/{id}/context"),
        format!("OPTIONS /sdk/evalx/{id}/contexts/{CONTEXT}"),
        format!("GET /sdk/goals/{id}"),
        format!("OPTIONS /sdk/goals/{id}"),
        format!("GET /ping/{id}"),
        format!("OPTIONS /ping/{id}"),
        format!("GET /eval/{id}/{CONTEXT}"),
        format!("REPORT /eval/{id}"),
        format!("OPTIONS /eval/{id}"),
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
        assert!(response.asks_to_retry(), "{request}");
        assert_eq!(response.header("x-ld-envid"), Some(ENVIRONMENT_ID), "{request}");
        check_text(&response, request);
        assert_eq!(check(request, Some(unknown)).await.status, refused, "{request}");
        assert_eq!(check(request, None).await.status, 401, "{request}");
    }
    for request in by_id {
        let response = check(&request, None).await;
        assert_eq!(response.status, 503, "{request}");
        assert!(response.asks_to_retry(), "{request}");
        check_text(&response, &request);
        let unknown = check(&request.replace(id, "ffffffffffffffffffffffff"), None).await;
        assert_eq!(unknown.status, 404, "{request}");
        assert_ne!(unknown.text(), "404 page not found\n", "{request}");
        check_text(&unknown, &request);
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
