mod secure;

use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::model::{RedactedUrl, SdkKey};
use crate::upstream::test_support::{
    Behaviour, Peer, Server, behaviour, closed_port, memory_client,
};

const KEY: &str = "sdk-secret-1234";

fn get(url: &str) -> HttpRequest {
    let key = SdkKey::new(KEY);
    HttpRequest::get(url.parse().unwrap(), Some(Authorization::from(&key)))
}

fn client(settings: &HttpClientSettings) -> HttpClient {
    HttpClient::new(settings).expect("usable settings")
}

fn plain() -> HttpClient {
    client(&HttpClientSettings::default())
}

async fn read_all(mut response: HttpResponse) -> Result<String, ConnectError> {
    let mut read = Vec::new();
    while let Some(bytes) = response.body.read().await? {
        read.extend_from_slice(&bytes);
    }
    Ok(String::from_utf8(read).unwrap())
}

async fn get_text(client: &HttpClient, url: &str) -> Result<(u16, String), ConnectError> {
    let response = client.send(&get(url), &Deadlines::default()).await?;
    Ok((response.status.as_u16(), read_all(response).await?))
}

/// Answers one request and passes its head to the test.
fn answering(answer: &str, heads: &mpsc::UnboundedSender<String>) -> Behaviour {
    let (answer, heads) = (answer.to_owned(), heads.clone());
    behaviour(async move |mut peer: Peer| {
        let head = peer.read_head().await;
        peer.write(answer.as_bytes()).await;
        heads.send(head).unwrap();
        peer.closed().await;
    })
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

fn moved(status: u16, to: &str) -> String {
    format!("HTTP/1.1 {status} Moved\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test]
async fn requests_carry_the_bare_key_and_our_name() {
    let (heads, mut asked) = mpsc::unbounded_channel();
    let server = Server::start([answering(&ok("body"), &heads)]).await;
    let url = format!("http://127.0.0.1:{}/all?filter=x", server.port());
    let mut request = get(&url);
    request.headers.insert("accept", HeaderValue::from_static("text/event-stream"));
    let response = plain().send(&request, &Deadlines::default()).await.unwrap();
    assert_eq!(response.status, 200);
    assert_eq!(read_all(response).await.unwrap(), "body");
    let expected = format!(
        "GET /all?filter=x HTTP/1.1\r\nhost: 127.0.0.1:{}\r\nuser-agent: Pilotlight/{} LDRelay/8.10.1\r\n\
         accept: text/event-stream\r\nauthorization: {KEY}\r\n\r\n",
        server.port(),
        env!("CARGO_PKG_VERSION"),
    );
    assert_eq!(asked.recv().await.unwrap(), expected);
}

#[tokio::test]
async fn bodies_are_sent_and_headers_of_the_request_win() {
    let (bodies, mut sent) = mpsc::unbounded_channel();
    let server = Server::start([behaviour(async move |mut peer: Peer| {
        let head = peer.read_head().await;
        let body = peer.read_exactly(5).await;
        bodies.send((head, body)).unwrap();
        peer.write(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await;
        peer.closed().await;
    })])
    .await;
    let mut request = get(&format!("http://127.0.0.1:{}", server.port()));
    request.method = Method::POST;
    request.body = Bytes::from_static(b"12345");
    request.headers.insert(USER_AGENT, HeaderValue::from_static("other"));
    let response = plain().send(&request, &Deadlines::default()).await.unwrap();
    assert_eq!(response.status, 202);
    let (head, body) = sent.recv().await.unwrap();
    assert!(head.starts_with("POST / HTTP/1.1\r\n"), "{head}");
    assert!(head.contains("content-length: 5\r\n"), "{head}");
    assert!(head.contains("user-agent: other\r\n") && !head.contains("Pilotlight"), "{head}");
    assert_eq!(body, b"12345");
}

#[tokio::test]
async fn every_status_is_a_response() {
    let (heads, _asked) = mpsc::unbounded_channel();
    let statuses = [204, 304, 401, 503];
    let answers = statuses.map(|status| answering(&moved(status, "/elsewhere"), &heads));
    let server = Server::start(answers).await;
    let url = format!("http://127.0.0.1:{}/", server.port());
    for status in statuses {
        assert_eq!(get_text(&plain(), &url).await.unwrap().0, status);
    }
}

#[tokio::test]
async fn refused_connections_and_unknown_names_are_told_apart() {
    let closed = closed_port();
    let refused = get_text(&plain(), &format!("http://{}/", closed.address())).await;
    assert!(matches!(refused, Err(ConnectError::Connect { .. })), "{refused:?}");
    let name = "x".repeat(64);
    let unknown = get_text(&plain(), &format!("http://{name}/")).await;
    assert!(matches!(unknown, Err(ConnectError::Dns { .. })), "{unknown:?}");
}

#[tokio::test]
async fn what_cannot_be_sent_costs_no_connection() {
    let check = async |request: HttpRequest, expected: fn(&ConnectError) -> bool| {
        let (client, mut dials) = memory_client(&HttpClientSettings::default());
        let error = client.send(&request, &Deadlines::default()).await.expect_err("not sent");
        assert!(expected(&error), "{error:?}");
        assert!(dials.try_recv().is_err());
        assert!(!format!("{error:?} {error} {request:?}").contains("secret"));
    };
    check(get("ftp://h/"), |error| matches!(error, ConnectError::Url(_))).await;
    check(get("/path"), |error| matches!(error, ConnectError::Url(_))).await;
    let key = Some(Authorization::new("secret\n"));
    let request = HttpRequest::get("http://h/".parse().unwrap(), key);
    check(request, |error| matches!(error, ConnectError::Credential)).await;
}

/// Result and duration of a request to a peer that the test drives, in paused time.
async fn against<F: Future<Output = ()>>(
    act: impl FnOnce(Peer) -> F,
) -> (Result<String, ConnectError>, Duration) {
    let (client, mut dials) = memory_client(&HttpClientSettings::default());
    let begun = Instant::now();
    let request =
        async { read_all(client.send(&get("http://h/"), &Deadlines::default()).await?).await };
    let peer = async {
        act(dials.recv().await.expect("an attempt").accept()).await;
        // The peer is done; the result of the request is what counts.
        std::future::pending().await
    };
    let result = tokio::select! {
        result = request => result,
        () = peer => unreachable!("it waits for ever"),
    };
    (result, begun.elapsed())
}

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn a_head_that_does_not_come_costs_ten_seconds() {
    let (result, took) = against(async |mut peer| {
        peer.read_head().await;
        peer.write(b"HTTP/1.1 200 OK\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(result, Err(ConnectError::TimedOut { phase: Phase::ResponseHeader, .. })));
    assert_eq!(took, Duration::from_secs(10));
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_not_accepted_costs_three_seconds() {
    let (client, mut dials) = memory_client(&HttpClientSettings::default());
    let begun = Instant::now();
    let result = client.send(&get("http://h/"), &Deadlines::default()).await;
    assert!(matches!(result, Err(ConnectError::TimedOut { phase: Phase::Connect, .. })));
    assert_eq!(begun.elapsed(), Duration::from_secs(3));
    drop(dials.try_recv());
}

#[tokio::test(start_paused = true)]
async fn silence_costs_five_minutes_from_the_last_byte() {
    let (result, took) = against(async |mut peer| {
        peer.read_head().await;
        peer.write(HEAD).await;
        tokio::time::sleep(Duration::from_secs(200)).await;
        peer.write(b"1\r\nx\r\n").await;
        std::future::pending::<()>().await;
    })
    .await;
    assert!(matches!(result, Err(ConnectError::TimedOut { phase: Phase::Body, .. })));
    assert_eq!(took, Duration::from_secs(500));
}

#[tokio::test(start_paused = true)]
async fn single_bytes_are_progress_even_when_they_are_no_part_of_the_body() {
    let (result, took) = against(async |mut peer| {
        peer.read_head().await;
        peer.write(HEAD).await;
        // The size of a chunk, with zeros in front: nothing of it reaches the reader.
        for byte in b"0000001\r\nx\r\n0\r\n\r\n" {
            tokio::time::sleep(Duration::from_secs(299)).await;
            peer.write(&[*byte]).await;
        }
    })
    .await;
    assert_eq!(result.unwrap(), "x");
    assert_eq!(took, Duration::from_secs(299 * 17));
}

#[tokio::test(start_paused = true)]
async fn time_in_which_nobody_reads_does_not_count() {
    let (client, mut dials) = memory_client(&HttpClientSettings::default());
    let (request, deadlines) = (get("http://h/"), Deadlines::default());
    let peer = async {
        let mut peer = dials.recv().await.unwrap().accept();
        peer.read_head().await;
        peer.write(HEAD).await;
        peer
    };
    let (response, mut peer) = tokio::join!(client.send(&request, &deadlines), peer);
    let mut response = response.unwrap();
    tokio::time::sleep(Duration::from_secs(3_600)).await;
    let (bytes, ()) = tokio::join!(response.body.read(), async {
        tokio::time::sleep(Duration::from_secs(299)).await;
        peer.write(b"1\r\nx\r\n").await;
    });
    assert_eq!(bytes.unwrap().unwrap(), "x");
}

#[tokio::test(start_paused = true)]
async fn broken_answers_are_protocol_errors() {
    for answer in [
        &b""[..],
        b"HTTP/1.1 200",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    ] {
        let (result, _) = against(async |mut peer| {
            peer.read_head().await;
            peer.write(answer).await;
            peer.close_writing().await;
        })
        .await;
        assert!(matches!(result, Err(ConnectError::Protocol(_))), "{answer:?}: {result:?}");
    }
}

#[tokio::test]
async fn redirects_of_a_get_are_followed_with_the_key() {
    for status in [301, 302, 303, 307, 308] {
        let (heads, mut asked) = mpsc::unbounded_channel();
        let answers =
            [answering(&moved(status, "/there?x=1"), &heads), answering(&ok("there"), &heads)];
        let server = Server::start(answers).await;
        let url = format!("http://127.0.0.1:{}/here", server.port());
        assert_eq!(get_text(&plain(), &url).await.unwrap(), (200, "there".to_owned()));
        assert!(asked.recv().await.unwrap().starts_with("GET /here HTTP/1.1\r\n"));
        let second = asked.recv().await.unwrap();
        assert!(second.starts_with("GET /there?x=1 HTTP/1.1\r\n"), "{second}");
        assert!(second.contains(KEY), "{second}");
    }
}

#[tokio::test]
async fn other_redirects_are_responses() {
    let (heads, _asked) = mpsc::unbounded_channel();
    let check = async |answer: &str, method: Method| {
        let server = Server::start([answering(answer, &heads)]).await;
        let mut request = get(&format!("http://127.0.0.1:{}/", server.port()));
        request.method = method;
        let response = plain().send(&request, &Deadlines::default()).await.unwrap();
        assert!(response.status.is_redirection(), "{answer}");
    };
    // The log-in page of a captive portal.
    check(&moved(302, "https://login.example/"), Method::GET).await;
    check(&moved(303, "http://127.0.0.1:1/"), Method::GET).await;
    check(&moved(300, "/"), Method::GET).await;
    check(&moved(301, "http://localhost/"), Method::GET).await;
    check(&moved(301, ""), Method::GET).await;
    check("HTTP/1.1 301 Moved\r\nContent-Length: 0\r\n\r\n", Method::GET).await;
    check(&moved(307, "/"), Method::POST).await;
}

#[tokio::test]
async fn the_sixth_redirect_is_one_too_many() {
    let (heads, mut asked) = mpsc::unbounded_channel();
    let answers = (0..6).map(|_| answering(&moved(308, "/again"), &heads));
    let server = Server::start(answers).await;
    let result = get_text(&plain(), &format!("http://127.0.0.1:{}/", server.port())).await;
    assert!(matches!(result, Err(ConnectError::TooManyRedirects)));
    for _ in 0..6 {
        asked.recv().await.unwrap();
    }

    let mut answers: Vec<_> = (0..5).map(|_| answering(&moved(308, "/again"), &heads)).collect();
    answers.push(answering(&ok("found"), &heads));
    let server = Server::start(answers).await;
    let result = get_text(&plain(), &format!("http://127.0.0.1:{}/", server.port())).await;
    assert_eq!(result.unwrap().1, "found");
}

fn proxied(url: String) -> ProxySettings {
    ProxySettings { url: Some(RedactedUrl::new(url)), ..ProxySettings::default() }
}

#[tokio::test(start_paused = true)]
async fn dropping_the_body_closes_the_connection() {
    let (client, mut dials) = memory_client(&HttpClientSettings::default());
    let (request, deadlines) = (get("http://h/"), Deadlines::default());
    let peer = async {
        let mut peer = dials.recv().await.unwrap().accept();
        peer.read_head().await;
        peer.write(HEAD).await;
        peer
    };
    let (response, mut peer) = tokio::join!(client.send(&request, &deadlines), peer);
    drop(response);
    peer.closed().await;
}

#[test]
fn unusable_settings_are_refused() {
    let settings = HttpClientSettings {
        ca_files: vec![PathBuf::from("/does/not/exist.pem")],
        ..Default::default()
    };
    assert!(matches!(HttpClient::new(&settings), Err(SettingsError::CaFile { .. })));
    let settings =
        HttpClientSettings { proxy: proxied("socks5://h".to_owned()), ..Default::default() };
    assert!(matches!(HttpClient::new(&settings), Err(SettingsError::ProxyScheme { .. })));
}
