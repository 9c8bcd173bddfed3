//! Paths and methods, before anybody looks at credentials.

use super::fixture::{SDK_KEY, SPACED, Site, check_empty, check_length};

#[tokio::test(flavor = "multi_thread")]
async fn unknown_paths_get_the_answer_of_gos_router() {
    let site = Site::manual().await;
    for path in [
        "/nothing",
        "/all/",
        "/ALL",
        "/status/",
        "/sdk",
        "/sdk/",
        "/sdk/flags/",
        "/sdk/flags/web/",
        "/sdk/flags/web/more",
        "/sdk/flags/we%2Fb",
        "/sdk/flags/%ff",
        "/sdk/eval/users/x",
        "/a/image.png",
        "/livez/x",
    ] {
        let response = site.get(path).await;
        assert_eq!(response.status, 404, "{path}");
        assert_eq!(response.text(), "404 page not found\n", "{path}");
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"), "{path}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{path}");
        check_length(&response, path);
    }
    // Go refuses these before it routes.
    for path in ["/sdk/flags/%zz", "/nothing/%", "/all%2"] {
        let response = site.get(path).await;
        assert_eq!((response.status, response.text()), (400, "400 Bad Request"), "{path}");
        assert_eq!(response.header("content-type"), Some("text/plain; charset=utf-8"), "{path}");
        check_length(&response, path);
    }
    let spaced = site.get("/sdk/flags/a%20b").await;
    assert_eq!((spaced.status, spaced.text()), (200, SPACED), "escapes are decoded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_method_is_405_without_a_look_at_credentials() {
    let site = Site::manual().await;
    for request in [
        "HEAD /status",
        "POST /status",
        "OPTIONS /status",
        "HEAD /all",
        "OPTIONS /all",
        "POST /all",
        "get /all",
        "DELETE /flags",
        "PUT /sdk/flags",
        "POST /sdk/flags/web",
        "HEAD /sdk/latest-all",
        "REPORT /sdk/latest-flags",
        "GET /bulk",
        "HEAD /mping",
        "OPTIONS /mobile",
        "POST /livez",
        "PURGE /readyz",
        "HEAD /ping/some-id",
        "GET /sdk/evalx/context",
        "POST /sdk/evalx/some-id/context",
    ] {
        let (method, path) = request.split_once(' ').unwrap();
        let response = site.relay.request(method, path, &[], b"").await;
        assert_eq!(response.status, 405, "{request}");
        assert_eq!((response.body.len(), response.header("content-type")), (0, None), "{request}");
        // As Go does it: to HEAD nothing is said of a body that nobody wrote.
        let length = (method != "HEAD").then_some("0");
        assert_eq!(response.header("content-length"), length, "{request}");
        assert_eq!(response.header("allow"), None, "{request}");
    }
    for path in ["/livez", "/readyz"] {
        let head = site.relay.request("HEAD", path, &[], b"").await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
        let length = site.relay.get(path, &[]).await.body.len().to_string();
        assert_eq!(head.header("content-length"), Some(length.as_str()), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn unclean_paths_are_moved() {
    let site = Site::manual().await;
    for (path, location) in [
        ("//all", "/all"),
        ("//", "/"),
        ("/./all", "/all"),
        ("/sdk/../all", "/all"),
        ("/../../status", "/status"),
        ("/sdk//flags/web?filter=x&a=b", "/sdk/flags/web?filter=x&a=b"),
        ("/sdk//flags/", "/sdk/flags/"),
        // Cleaned is the decoded path.
        ("/sdk/flags/%2F", "/sdk/flags/"),
        ("/sdk/flags/%2F%2Fweb", "/sdk/flags/web"),
        ("/nowhere/..//at/all", "/at/all"),
        // What was encoded stays so: it must not become a host, a query or a line break.
        ("//%5Chost.example", "/%5Chost.example"),
        ("/sdk//flags/a%20b%3Fc%23d", "/sdk/flags/a%20b%3Fc%23d"),
        ("/sdk//flags/a%0d%0aset-cookie:%20b", "/sdk/flags/a%0D%0Aset-cookie:%20b"),
        ("/%2E%2E/all", "/all"),
    ] {
        let response = site.relay.get(path, &[]).await;
        assert_eq!(response.status, 301, "{path}");
        assert_eq!(response.header("location"), Some(location), "{path}");
        assert_eq!(response.header("set-cookie"), None, "{path}");
        check_empty(&response, path);
    }
    let absolute = format!("http://relay.example{}", "/sdk/flags/a%20b");
    let response = site.relay.get_with_key(&absolute, SDK_KEY).await;
    assert_eq!((response.status, response.text()), (200, SPACED), "a proxy's form of a path");
}
