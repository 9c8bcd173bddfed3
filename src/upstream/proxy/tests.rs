use tokio::io::DuplexStream;

use super::*;
use crate::upstream::test_support::Peer;

fn url(text: &str) -> Option<RedactedUrl> {
    Some(RedactedUrl::new(text))
}

/// The proxy that a request to `to` takes, as `scheme host:port credentials`.
#[track_caller]
fn check(settings: &ProxySettings, to: &str, expected: Option<&str>) {
    let rules = ProxyRules::new(settings).expect("usable settings");
    let to: Uri = to.parse().unwrap();
    let proxy = rules.proxy(&to, &Target::of(&to).unwrap()).map(|proxy| {
        let scheme = if proxy.target.secure { "https" } else { "http" };
        let credentials = proxy.authorization.map_or_else(String::new, |value| {
            assert!(value.is_sensitive());
            let encoded = value.to_str().unwrap().strip_prefix("Basic ").unwrap().to_owned();
            format!(" {}", String::from_utf8(STANDARD.decode(encoded).unwrap()).unwrap())
        });
        format!("{scheme} {}{credentials}", proxy.target.host_and_port())
    });
    assert_eq!(proxy.as_deref(), expected, "{to}");
}

#[test]
fn without_settings_everything_is_dialled_directly() {
    check(&ProxySettings::default(), "https://h.example/", None);
    let empty = ProxySettings {
        url: url(""),
        http_proxy: url(""),
        https_proxy: url(""),
        no_proxy: Some(String::new()),
        ..ProxySettings::default()
    };
    check(&empty, "https://h.example/", None);
}

#[test]
fn the_configured_proxy_takes_everything() {
    let settings = ProxySettings {
        url: url("http://proxy.example:3128"),
        https_proxy: url("http://other.example"),
        no_proxy: Some("h.example".to_owned()),
        ..ProxySettings::default()
    };
    check(&settings, "https://h.example/", Some("http proxy.example:3128"));
    check(&settings, "http://127.0.0.1/", Some("http proxy.example:3128"));
}

#[test]
fn the_proxys_url_has_ports_and_credentials() {
    let check = |text: &str, expected: &str| {
        let settings = ProxySettings { url: url(text), ..ProxySettings::default() };
        check(&settings, "https://h.example/", Some(expected));
    };
    check("http://proxy.example", "http proxy.example:80");
    check("https://proxy.example/", "https proxy.example:443");
    check("proxy.example:3128", "http proxy.example:3128");
    check("http://[::1]:3128", "http [::1]:3128");
    check("http://user:p%40ss@proxy.example", "http proxy.example:80 user:p@ss");
    check("http://user@proxy.example", "http proxy.example:80 user:");
}

#[test]
fn credentials_of_their_own_count_if_the_url_has_none() {
    let check = |text: &str, user: Option<&str>, password: Option<&str>, expected: &str| {
        let settings = ProxySettings {
            url: url(text),
            user: user.map(str::to_owned),
            password: password.map(Password::new),
            ..ProxySettings::default()
        };
        check(&settings, "https://h.example/", Some(expected));
    };
    check("http://p", Some("user"), Some("pässword"), "http p:80 user:pässword");
    check("http://p", Some("user"), None, "http p:80 user:");
    check("http://p", Some(""), Some("password"), "http p:80");
    check("http://p", None, Some("password"), "http p:80");
    check("http://a:b@p", Some("user"), Some("password"), "http p:80 a:b");
}

#[test]
fn variables_choose_by_scheme_and_host() {
    let settings = ProxySettings {
        http_proxy: url("http://plain.example:1"),
        https_proxy: url("http://user:pass@secure.example:2"),
        no_proxy: Some("inside.example, 10.0.0.0/8".to_owned()),
        ..ProxySettings::default()
    };
    check(&settings, "http://h.example/", Some("http plain.example:1"));
    check(&settings, "https://h.example/", Some("http secure.example:2 user:pass"));
    check(&settings, "https://inside.example/", None);
    check(&settings, "https://deep.inside.example:8443/", None);
    check(&settings, "https://outinside.example/", Some("http secure.example:2 user:pass"));
    check(&settings, "http://10.1.2.3/", None);
    check(&settings, "http://11.1.2.3/", Some("http plain.example:1"));
    for local in ["http://localhost:1/", "http://127.0.0.9/", "http://[::1]:8080/"] {
        check(&settings, local, None);
    }
    let one = ProxySettings { http_proxy: url("http://p"), ..ProxySettings::default() };
    check(&one, "https://h.example/", None);
    check(&one, "http://h.example/", Some("http p:80"));
}

#[test]
fn unusable_proxies_are_named_without_their_secrets() {
    let check = |settings: &ProxySettings, expected: &str| {
        let error = ProxyRules::new(settings).expect_err("unusable");
        assert_eq!(error.to_string(), expected);
        assert!(!format!("{error:?}{settings:?}").contains("secret"));
    };
    let of = |text: &str| ProxySettings { url: url(text), ..ProxySettings::default() };
    check(&of("http://user:secret@"), "proxy url is not the URL of a proxy");
    check(&of("http://user:secret@h h"), "proxy url is not the URL of a proxy");
    check(&of("ftp://user:secret@h"), "proxy url is not the URL of a proxy");
    check(
        &of("socks5://user:secret@h"),
        "proxy url: proxies with the scheme socks5 are not supported, only http and https",
    );
    let variable = |text: &str| ProxySettings { https_proxy: url(text), ..Default::default() };
    check(&variable("http://user:secret@ h"), "HTTPS_PROXY is not the URL of a proxy");
    let variable = |text: &str| ProxySettings { http_proxy: url(text), ..Default::default() };
    check(&variable("http://"), "HTTP_PROXY is not the URL of a proxy");
}

#[test]
fn debug_shows_no_credentials() {
    let settings = ProxySettings {
        url: url("http://user:secret-1@p"),
        password: Some(Password::new("secret")),
        ..ProxySettings::default()
    };
    let shown = format!("{settings:?} {:?}", ProxyRules::new(&settings).unwrap());
    assert!(!shown.contains("secret"), "{shown}");
    let settings =
        ProxySettings { http_proxy: url("http://user:secret@p"), ..ProxySettings::default() };
    let shown = format!("{settings:?} {:?}", ProxyRules::new(&settings).unwrap());
    assert!(!shown.contains("secret"), "{shown}");
}

/// Lets the proxy answer `answer`; returns the result of the tunnel and the head of the request.
async fn ask(answer: &[u8]) -> (Result<(), ConnectError>, String) {
    let (ours, theirs): (DuplexStream, DuplexStream) = tokio::io::duplex(64 * 1024);
    let target = Target { secure: true, host: "h.example".to_owned(), port: 443 };
    let authorization = HeaderValue::from_static("Basic abc");
    let user_agent = HeaderValue::from_static("agent");
    let mut peer = Peer::new(theirs);
    let proxy = async {
        let head = peer.read_head().await;
        peer.write(answer).await;
        peer.close_writing().await;
        head
    };
    let budget = Duration::from_secs(60);
    let asked = tunnel(Box::new(ours), &target, Some(&authorization), &user_agent, budget);
    let (tunnel, head) = tokio::join!(asked, proxy);
    (tunnel.map(|_| ()), head)
}

#[tokio::test]
async fn a_tunnel_is_asked_for_by_host_and_port() {
    let (tunnel, head) = ask(b"HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\n").await;
    assert!(tunnel.is_ok());
    assert_eq!(
        head,
        "CONNECT h.example:443 HTTP/1.1\r\nHost: h.example:443\r\nUser-Agent: agent\r\n\
         Proxy-Authorization: Basic abc\r\n\r\n"
    );
    assert!(ask(b"HTTP/1.0 200\r\n\r\n").await.0.is_ok());
}

#[tokio::test]
async fn refused_tunnels_tell_the_status() {
    for status in [302, 403, 407, 502] {
        let answer = format!("HTTP/1.1 {status} No\r\nContent-Length: 2\r\n\r\nno");
        let refused = ask(answer.as_bytes()).await.0.expect_err("refused");
        assert!(matches!(refused, ConnectError::Proxy { status: told } if told == status));
    }
}

#[tokio::test]
async fn what_is_no_answer_is_an_error() {
    let long = ["HTTP/1.1 200 ", &"x".repeat(HEAD_BYTES_MAX)].concat();
    for answer in [
        "",
        "HTTP/1.1 200 OK\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "HTTP/1.1 OK\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nmore",
        &long,
    ] {
        let broken = ask(answer.as_bytes()).await.0;
        assert!(matches!(broken, Err(ConnectError::Protocol(_))), "{answer}: {broken:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_proxy_costs_its_budget() {
    let (ours, _theirs) = tokio::io::duplex(64 * 1024);
    let target = Target { secure: true, host: "h".to_owned(), port: 1 };
    let budget = Duration::from_secs(10);
    let agent = HeaderValue::from_static("agent");
    let silent = tunnel(Box::new(ours), &target, None, &agent, budget).await.err();
    assert!(matches!(silent, Some(ConnectError::TimedOut { phase: Phase::Proxy, .. })));
}
