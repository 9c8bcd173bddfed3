//! What is not proper HTTP, or too much of it.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use super::fixture::{SDK_KEY, Site, WEB};
use super::raw::{RawStream, exchange, get};
use pilotlight_test_kit::relay::LONG;

/// A word that must come back in no answer.
const MARK: &str = "a-word-of-the-client";

/// How large the head of a request may be before the first valid credential, and after it.
const UNKNOWN_HEAD_BYTES_MAX: usize = 32 * 1024;
const HEAD_BYTES_MAX: usize = 256 * 1024;

/// The statuses of the answers on a connection; the bodies are looked at for what must not be
/// there.
#[track_caller]
fn statuses(answers: &str, what: &str) -> Vec<u16> {
    for leak in [MARK, "src/", "panic", "hyper", "rror(", SDK_KEY] {
        assert!(!answers.contains(leak), "{what}: {answers}");
    }
    let lines = answers.split("HTTP/1.").skip(1);
    lines.map(|rest| rest.split(' ').nth(1).unwrap().parse().unwrap()).collect()
}

async fn check_alive(site: &Site) {
    let response = site.get("/sdk/flags/web").await;
    assert_eq!((response.status, response.text()), (200, WEB));
    assert!(!site.relay.log().contains("panicked"), "{}", site.relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_is_refused_or_ignored() {
    let site = Site::manual().await;
    let head = |line: &str, headers: &str| format!("{line}\r\nhost: a\r\n{headers}\r\n");
    let many: String = (0..300).map(|index| format!("x-{index}: {MARK}\r\n")).collect();
    // The bound is looked at between reads, and the last read can bring as much again.
    let long = format!("x: {}\r\n", MARK.repeat(2 * HEAD_BYTES_MAX / MARK.len() + 1));
    let path = format!("GET /{} HTTP/1.1", MARK.repeat(5_000));
    for (what, request, allowed) in [
        ("no version", format!("GET /{MARK}\r\n\r\n"), &[400][..]),
        ("a wrong version", head("GET /livez HTTP/3.7", ""), &[400, 505]),
        ("no method", head(" /livez HTTP/1.1", ""), &[400]),
        ("a bad method", head(&format!("G({MARK}) /livez HTTP/1.1"), ""), &[400]),
        ("a header without a colon", head("GET /livez HTTP/1.1", &format!("{MARK}\r\n")), &[400]),
        (
            "a control character",
            head("GET /livez HTTP/1.1", &format!("x: {MARK}\u{1}\r\n")),
            &[400],
        ),
        ("a blank in the path", head(&format!("GET /li {MARK} HTTP/1.1"), ""), &[400]),
        (
            "two lengths",
            head("GET /livez HTTP/1.1", "content-length: 1\r\ncontent-length: 2\r\n"),
            &[400],
        ),
        (
            "a length of words",
            head("POST /bulk HTTP/1.1", &format!("content-length: {MARK}\r\n")),
            &[400],
        ),
        (
            "both lengths",
            head("POST /bulk HTTP/1.1", "content-length: 3\r\ntransfer-encoding: chunked\r\n"),
            &[400, 401],
        ),
        (
            "an unknown coding",
            head("POST /bulk HTTP/1.1", &format!("transfer-encoding: {MARK}\r\n")),
            &[400, 501],
        ),
        ("many headers", head("GET /livez HTTP/1.1", &many), &[431]),
        ("a long header", head("GET /livez HTTP/1.1", &long), &[431]),
        ("a long path", head(&path, ""), &[414, 431]),
        (
            "a tunnel",
            head(&format!("CONNECT {MARK}:80 HTTP/1.1"), "connection: close\r\n"),
            &[404, 405],
        ),
        // Clients of HTTP/2 could not read an answer of HTTP/1.
        ("HTTP/2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), &[]),
    ] {
        let answer = exchange(site.relay.address(), request.as_bytes()).await;
        let statuses = statuses(&answer, what);
        // When the relay closes before it has read everything, the answer can be lost on the way.
        let lost = statuses.is_empty() && request.len() > 8_192;
        let expected = match statuses[..] {
            [] => allowed.is_empty(),
            [status] => allowed.contains(&status),
            [..] => false,
        };
        assert!(lost || expected, "{what}: {answer}");
    }
    // What is large is not refused for it, if the client has shown a credential before.
    let padded = |bytes: usize| {
        let line = "GET /livez HTTP/1.1\r\nhost: a\r\n";
        format!("{line}connection: close\r\nx: {}\r\n\r\n", "x".repeat(bytes - 1_024))
    };
    let address = site.relay.address();
    let answer = exchange(address, padded(UNKNOWN_HEAD_BYTES_MAX).as_bytes()).await;
    assert_eq!(statuses(&answer, "a large header"), [200]);
    let answer = exchange(address, padded(2 * UNKNOWN_HEAD_BYTES_MAX).as_bytes()).await;
    let refused = statuses(&answer, "a larger header");
    assert!(refused.is_empty() || refused == [431], "{answer}");
    let mut socket = TcpStream::connect(address).await.unwrap();
    socket.write_all(get("/sdk/flags/web", SDK_KEY).as_bytes()).await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(WEB.as_bytes()) {
        seen.push(timeout(LONG, socket.read_u8()).await.unwrap().unwrap());
    }
    socket.write_all(padded(HEAD_BYTES_MAX).as_bytes()).await.unwrap();
    let mut answer = String::new();
    timeout(LONG, socket.read_to_string(&mut answer)).await.unwrap().unwrap();
    assert_eq!(statuses(&answer, "a large header of a known client"), [200]);
    check_alive(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_are_no_text_are_no_path_and_no_credential() {
    let site = Site::manual().await;
    let check = async |what: &str, request: &[u8], allowed: &[u16]| {
        let answer = exchange(site.relay.address(), request).await;
        let statuses = statuses(&answer, what);
        assert!(statuses.len() == 1 && allowed.contains(&statuses[0]), "{what}: {answer}");
    };
    let with_key = format!("host: a\r\nconnection: close\r\nauthorization: {SDK_KEY}\r\n\r\n");
    let request = |line: &[u8], rest: &[u8]| [line, b" HTTP/1.1\r\n", rest].concat();
    let with_key = with_key.as_bytes();
    check("a path", &request(b"GET /sdk/flags/\xff\xfe", with_key), &[400, 404]).await;
    check("an encoded path", &request(b"GET /sdk/flags/%FF%fe", with_key), &[404]).await;
    check("a filter", &request(b"GET /sdk/flags?filter=\xff", with_key), &[400, 404]).await;
    check("an encoded filter", &request(b"GET /sdk/flags?filter=%ff", with_key), &[404]).await;
    let bad_key = b"host: a\r\nconnection: close\r\nauthorization: sdk-\xff\xfe\r\n\r\n";
    check("a credential", &request(b"GET /sdk/flags", bad_key), &[401]).await;
    check("a credential of a stream", &request(b"GET /all", bad_key), &[401]).await;
    let other = b"host: a\r\nconnection: close\r\nx-other: \xff\xfe\r\n\r\n";
    check("another header", &request(b"GET /livez", other), &[200]).await;
    check_alive(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn junk_ends_with_its_connection() {
    let site = Site::manual().await;
    let mut random = fastrand::Rng::with_seed(7);
    for size in [1, 100, 10_000, 300_000] {
        let mut junk: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(size).collect();
        // A line break lets it be judged at once.
        junk.extend_from_slice(b"\r\n\r\n");
        let answer = exchange(site.relay.address(), &junk).await;
        assert!(statuses(&answer, "junk").iter().all(|status| *status == 400), "{answer}");
    }
    // The beginning of a TLS connection.
    let hello = [&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3][..], &[9; 500]].concat();
    let answer = exchange(site.relay.address(), &hello).await;
    assert!(statuses(&answer, "TLS").iter().all(|status| *status == 400), "{answer}");
    check_alive(&site).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_sent_ahead_are_answered_in_order() {
    let site = Site::manual_with(|settings| settings.with("HEARTBEAT_INTERVAL", "0")).await;
    let last = get("/sdk/flags/none", SDK_KEY).replace("host:", "connection: close\r\nhost:");
    let ahead = [
        get("/livez", SDK_KEY),
        get("/all", "unknown"),
        get("/nothing", SDK_KEY),
        get("/sdk/flags/web", SDK_KEY),
        last,
    ];
    let answers = exchange(site.relay.address(), ahead.concat().as_bytes()).await;
    assert_eq!(statuses(&answers, "ahead"), [200, 401, 404, 200, 404]);
    assert_eq!(answers.matches(WEB).count(), 1);
    // A stream may be the second thing on a connection.
    let both = format!("{}{}", get("/livez", SDK_KEY), get("/all", SDK_KEY));
    let mut socket = TcpStream::connect(site.relay.address()).await.unwrap();
    socket.write_all(both.as_bytes()).await.unwrap();
    let mut seen = String::new();
    let read = async {
        while !seen.ends_with("\n\n\r\n") {
            seen.push(char::from(socket.read_u8().await.unwrap()));
        }
    };
    timeout(LONG, read).await.expect("the stream begins");
    assert!(seen.contains("event: put"), "{seen}");
    // One that is sent ahead of the end of a stream is not answered, and does no harm.
    let ahead = format!("{}{}", get("/all", SDK_KEY), get("/livez", SDK_KEY));
    let mut stream = RawStream::open(site.relay.address(), &ahead).await;
    stream.take_until("\n\n").await;
    site.launchdarkly.delete_flag(super::fixture::ENVIRONMENT_ID, "web");
    stream.take_until("\"path\":\"/flags/web\",\"version\":5}\n\n").await;
}

/// The relay's time for a head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn a_head_that_does_not_come_ends_its_connection() {
    let site = Site::manual().await;
    let check = async |beginning: &str| {
        let mut socket = TcpStream::connect(site.relay.address()).await.unwrap();
        let begun = Instant::now();
        let mut answer = String::new();
        // Byte by byte: that something comes is not enough.
        let mut rest = beginning.bytes();
        let mut drip = tokio::time::interval(Duration::from_millis(300));
        let ended = async {
            let mut buffer = [0; 1024];
            loop {
                tokio::select! {
                    read = socket.read(&mut buffer) => match read {
                        Ok(count @ 1..) => answer.push_str(&String::from_utf8_lossy(&buffer[..count])),
                        Ok(0) | Err(_) => return,
                    },
                    _ = drip.tick() => if let Some(byte) = rest.next() {
                        let _ = socket.try_write(&[byte]);
                    },
                }
            }
        };
        timeout(LONG, ended).await.unwrap_or_else(|_| panic!("{beginning:?} is waited for"));
        let passed = begun.elapsed();
        assert!(passed > HEAD_TIMEOUT - Duration::from_secs(1), "{beginning:?}: {passed:?}");
        assert!(statuses(&answer, beginning).iter().all(|status| *status == 408), "{answer}");
    };
    let long = format!("GET /all HTTP/1.1\r\nauthorization: {SDK_KEY}\r\nx-padding: padding");
    tokio::join!(check(""), check("G"), check("GET /all HTTP/1.1\r\nhost: a"), check(&long));
    check_alive(&site).await;
}

/// Load balancers keep connections, and must not find them closing.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_is_kept_for_the_next_request() {
    let site = Site::manual().await;
    let mut socket = TcpStream::connect(site.relay.address()).await.unwrap();
    let mut ask = async || {
        socket.write_all(get("/livez", SDK_KEY).as_bytes()).await.unwrap();
        let mut seen = Vec::new();
        while !seen.ends_with(b"\r\n\r\nok") {
            seen.push(socket.read_u8().await.expect("the connection is kept"));
        }
    };
    timeout(LONG, ask()).await.unwrap();
    // Longer than the relay waits for a head.
    tokio::time::sleep(HEAD_TIMEOUT + Duration::from_secs(2)).await;
    timeout(LONG, ask()).await.unwrap();
}
