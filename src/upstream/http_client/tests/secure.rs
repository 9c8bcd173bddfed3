//! Tests of TLS and proxies: which peer sees which credential, and which peer is not trusted.

use tempfile::NamedTempFile;
use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;

use super::*;
use crate::model::Password;
use crate::telemetry::Chain;
use crate::upstream::FailureClass;
use crate::upstream::test_support::Authority;

fn tls_answering(
    config: &Arc<rustls::ServerConfig>,
    answer: String,
    heads: &mpsc::UnboundedSender<String>,
) -> Behaviour {
    let (config, heads) = (Arc::clone(config), heads.clone());
    behaviour(async move |peer: Peer| {
        // The test checks that the client refused the certificate.
        let Ok(mut peer) = peer.accept_tls(&config).await else { return };
        heads.send(peer.read_head().await).unwrap();
        peer.write(answer.as_bytes()).await;
        peer.closed().await;
    })
}

fn trusting(authority: &Authority) -> (HttpClientSettings, NamedTempFile) {
    let file = authority.file();
    let settings =
        HttpClientSettings { ca_files: vec![file.path().to_owned()], ..Default::default() };
    (settings, file)
}

#[tokio::test]
async fn own_certificates_are_trusted_for_names_and_addresses() {
    let authority = Authority::new();
    let (settings, _file) = trusting(&authority);
    let client = client(&settings);
    let config = authority.server(&["localhost", "127.0.0.1"]);
    let (heads, mut asked) = mpsc::unbounded_channel();
    for host in ["localhost", "127.0.0.1"] {
        let server = Server::start([tls_answering(&config, ok("safe"), &heads)]).await;
        let url = format!("https://{host}:{}/", server.port());
        assert_eq!(get_text(&client, &url).await.unwrap().1, "safe");
        let head = asked.recv().await.unwrap();
        assert!(head.contains(&format!("host: {host}:{}\r\n", server.port())), "{head}");
    }
}

#[tokio::test]
async fn certificates_that_do_not_fit_are_refused() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let (settings, _file) = trusting(&ours);
    let check = async |config: &Arc<rustls::ServerConfig>, what: &str| {
        let (heads, mut asked) = mpsc::unbounded_channel();
        let server = Server::start([tls_answering(config, ok("unsafe"), &heads)]).await;
        let url = format!("https://127.0.0.1:{}/", server.port());
        let error = get_text(&client(&settings), &url).await.expect_err(what);
        assert!(matches!(error, ConnectError::Tls { .. }), "{what}: {error:?}");
        assert_eq!(error.class(), FailureClass::Normal);
        assert!(asked.try_recv().is_err(), "{what}: no key may be sent");
        Chain(&error).to_string()
    };
    check(&theirs.server(&["127.0.0.1"]), "another authority").await;
    let expired = check(&ours.server_until(&["127.0.0.1"], 2001), "expired").await;
    assert!(expired.contains("expired"), "{expired}");
    let name = check(&ours.server(&["localhost"]), "another name").await;
    assert!(name.contains("not valid for"), "{name}");
}

#[tokio::test]
async fn a_handshake_with_something_else_fails() {
    let settings = HttpClientSettings::default();
    let server = Server::start([behaviour(async |mut peer: Peer| {
        peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        peer.closed().await;
    })])
    .await;
    let url = format!("https://127.0.0.1:{}/", server.port());
    let error = get_text(&client(&settings), &url).await.expect_err("no TLS");
    assert!(matches!(error, ConnectError::Tls { .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_hangs_costs_ten_seconds() {
    let authority = Authority::new();
    let (settings, _file) = trusting(&authority);
    let (client, mut dials) = memory_client(&settings);
    let (request, deadlines) = (get("https://h/"), Deadlines::default());
    let begun = Instant::now();
    let (result, _peer) = tokio::join!(client.send(&request, &deadlines), async {
        dials.recv().await.unwrap().accept()
    });
    assert!(matches!(result, Err(ConnectError::TimedOut { phase: Phase::TlsHandshake, .. })));
    assert_eq!(begun.elapsed(), Duration::from_secs(10));
}

#[tokio::test]
async fn the_key_does_not_follow_a_redirect_to_another_host() {
    let authority = Authority::new();
    let (settings, _file) = trusting(&authority);
    let config = authority.server(&["localhost", "127.0.0.1"]);
    let (heads, mut asked) = mpsc::unbounded_channel();
    let there = Server::start([tls_answering(&config, ok("there"), &heads)]).await;
    let to = format!("https://localhost:{}/there", there.port());
    let here = Server::start([answering(&moved(307, &to), &heads)]).await;
    let url = format!("http://127.0.0.1:{}/here", here.port());
    assert_eq!(get_text(&client(&settings), &url).await.unwrap().1, "there");
    assert!(asked.recv().await.unwrap().contains(KEY));
    let second = asked.recv().await.unwrap();
    assert!(second.starts_with("GET /there ") && !second.contains("authorization"), "{second}");
}

/// Takes one `CONNECT`, passes its head to the test, and tunnels to a port of this machine.
async fn tunnel_to(mut peer: Peer, port: u16, heads: mpsc::UnboundedSender<String>) {
    heads.send(peer.read_head().await).unwrap();
    peer.write(b"HTTP/1.1 200 Connection established\r\n\r\n").await;
    let mut there = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut here = peer.into_io();
    let _ = copy_bidirectional(&mut here, &mut there).await;
}

#[tokio::test]
async fn https_goes_through_a_tunnel_that_alone_sees_the_proxys_password() {
    let authority = Authority::new();
    let (mut settings, _file) = trusting(&authority);
    let config = authority.server(&["upstream.test"]);
    let (heads, mut asked) = mpsc::unbounded_channel();
    let upstream = Server::start([tls_answering(&config, ok("inside"), &heads)]).await;
    let (port, told) = (upstream.port(), heads.clone());
    let proxy = Server::start([behaviour(move |peer| tunnel_to(peer, port, told))]).await;
    settings.proxy = proxied(format!("http://127.0.0.1:{}", proxy.port()));
    settings.proxy.user = Some("user".to_owned());
    settings.proxy.password = Some(Password::new("password"));

    let result = get_text(&client(&settings), "https://upstream.test/all").await;
    assert_eq!(result.unwrap().1, "inside");
    let connect = asked.recv().await.unwrap();
    assert!(connect.starts_with("CONNECT upstream.test:443 HTTP/1.1\r\n"), "{connect}");
    assert!(connect.contains("Proxy-Authorization: Basic dXNlcjpwYXNzd29yZA==\r\n"), "{connect}");
    assert!(!connect.contains(KEY), "{connect}");
    let inside = asked.recv().await.unwrap().to_ascii_lowercase();
    assert!(inside.starts_with("get /all http/1.1\r\nhost: upstream.test\r\n"), "{inside}");
    assert!(inside.contains(KEY) && !inside.contains("proxy-authorization"), "{inside}");
}

#[tokio::test]
async fn the_proxy_itself_may_be_reached_through_tls() {
    let authority = Authority::new();
    let (mut settings, _file) = trusting(&authority);
    let inner = authority.server(&["upstream.test"]);
    let outer = authority.server(&["127.0.0.1"]);
    let (heads, mut asked) = mpsc::unbounded_channel();
    let upstream = Server::start([tls_answering(&inner, ok("inside"), &heads)]).await;
    let (port, told) = (upstream.port(), heads.clone());
    let proxy = Server::start([behaviour(async move |peer: Peer| {
        tunnel_to(peer.accept_tls(&outer).await.unwrap(), port, told).await;
    })])
    .await;
    settings.proxy = proxied(format!("https://user:password@127.0.0.1:{}", proxy.port()));
    let result = get_text(&client(&settings), "https://upstream.test:8443/").await;
    assert_eq!(result.unwrap().1, "inside");
    let connect = asked.recv().await.unwrap();
    assert!(connect.starts_with("CONNECT upstream.test:8443 HTTP/1.1\r\n"), "{connect}");
    assert!(connect.contains("Basic dXNlcjpwYXNzd29yZA=="), "{connect}");
}

#[tokio::test]
async fn http_is_read_by_the_proxy() {
    let (heads, mut asked) = mpsc::unbounded_channel();
    let proxy = Server::start([answering(&ok("passed on"), &heads)]).await;
    let settings = HttpClientSettings {
        proxy: proxied(format!("http://user:password@127.0.0.1:{}", proxy.port())),
        ..Default::default()
    };
    let result = get_text(&client(&settings), "http://upstream.test:8080/all?x=1").await;
    assert_eq!(result.unwrap().1, "passed on");
    let head = asked.recv().await.unwrap();
    assert!(
        head.starts_with(
            "GET http://upstream.test:8080/all?x=1 HTTP/1.1\r\nhost: upstream.test:8080\r\n"
        ),
        "{head}"
    );
    assert!(head.contains("proxy-authorization: Basic dXNlcjpwYXNzd29yZA==\r\n"), "{head}");
    assert!(head.contains(&format!("authorization: {KEY}\r\n")), "{head}");
}

#[tokio::test]
async fn a_proxy_that_refuses_is_not_taken_for_upstream() {
    let (heads, _asked) = mpsc::unbounded_channel();
    for url in ["http://upstream.test/", "https://upstream.test/"] {
        let answer = "HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n";
        let proxy = Server::start([answering(answer, &heads)]).await;
        let settings = HttpClientSettings {
            proxy: proxied(format!("http://127.0.0.1:{}", proxy.port())),
            ..Default::default()
        };
        let error = get_text(&client(&settings), url).await.expect_err("refused");
        assert!(matches!(error, ConnectError::Proxy { status: 407 }), "{error:?}");
        assert_eq!(error.class(), FailureClass::Normal);
    }
}
