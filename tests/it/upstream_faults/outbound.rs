//! The way out: an outbound proxy with a password, and a LaunchDarkly behind TLS whose
//! certificate only an own CA vouches for.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use pilotlight::testing::tasks::TaskGroup;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use pilotlight_test_kit::certificates::Certificates;
use pilotlight_test_kit::relay::RelaySettings;
use pilotlight_test_kit::scene::{Scene, environment, load, sdk};

/// Accepts connections until it is dropped.
struct Acceptor {
    address: SocketAddr,
    _tasks: TaskGroup,
}

impl Acceptor {
    async fn start<F, Fut>(address: Ipv4Addr, serve: F) -> Self
    where
        F: Fn(TcpStream) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = std::io::Result<()>> + Send + 'static,
    {
        let listener = TcpListener::bind((address, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = TaskGroup::new(&CancellationToken::new());
        tasks.spawn("acceptor", |_| async move {
            let mut connections = TaskGroup::new(&CancellationToken::new());
            while let Ok((stream, _)) = listener.accept().await {
                let served = serve(stream);
                // How a connection ends is seen by those who hold its ends.
                connections.spawn("connection", |_| async { drop(served.await) });
            }
        });
        Self { address, _tasks: tasks }
    }
}

/// An outbound proxy that demands a password, for plain requests and for tunnels.
struct OutboundProxy {
    acceptor: Acceptor,
    /// Method and target of each request that it let through.
    passed: Arc<Mutex<Vec<String>>>,
    login: Arc<Mutex<String>>,
}

impl OutboundProxy {
    async fn start(login: &str) -> Self {
        let passed = Arc::<Mutex<Vec<String>>>::default();
        let login = Arc::new(Mutex::new(login.to_owned()));
        let (noted, known) = (passed.clone(), login.clone());
        let acceptor = Acceptor::start(Ipv4Addr::LOCALHOST, move |stream| {
            pass(stream, noted.clone(), known.lock().unwrap().clone())
        })
        .await;
        Self { acceptor, passed, login }
    }

    fn passed(&self) -> Vec<String> {
        self.passed.lock().unwrap().clone()
    }

    fn port(&self) -> u16 {
        self.acceptor.address.port()
    }
}

/// One connection through the proxy.
async fn pass(
    mut client: TcpStream,
    passed: Arc<Mutex<Vec<String>>>,
    login: String,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let (first, headers) = head.split_once("\r\n").unwrap();
    let expected = format!("Basic {}", STANDARD.encode(login));
    let (own, others): (Vec<_>, Vec<_>) = headers
        .trim_end()
        .split("\r\n")
        .partition(|header| header.to_ascii_lowercase().starts_with("proxy-"));
    let credentials = own.iter().find_map(|header| header.split_once(": "));
    if credentials.is_none_or(|(_, value)| value != expected) {
        let refusal = "HTTP/1.1 407 Who are you\r\nproxy-authenticate: Basic realm=\"x\"\r\n\
                       content-length: 0\r\n\r\n";
        return client.write_all(refusal.as_bytes()).await;
    }
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap(), words.next().unwrap());
    passed.lock().unwrap().push(format!("{method} {target}"));
    let mut server = if method == "CONNECT" {
        let server = TcpStream::connect(target).await?;
        client.write_all(b"HTTP/1.1 200 Go ahead\r\n\r\n").await?;
        server
    } else {
        let rest = target.strip_prefix("http://").expect("an absolute target");
        let (host, path) = rest.split_once('/').unwrap();
        let mut server = TcpStream::connect(host).await?;
        let request = format!("{method} /{path} HTTP/1.1\r\n{}\r\n\r\n", others.join("\r\n"));
        server.write_all(request.as_bytes()).await?;
        server
    };
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}

/// TLS in front of something that speaks without.
async fn tls_in_front_of(
    server: SocketAddr,
    listen: Ipv4Addr,
    certificates: &Certificates,
) -> Acceptor {
    let (certificate, key) = certificates.server();
    let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    let tls = TlsAcceptor::from(Arc::new(config));
    Acceptor::start(listen, move |stream| {
        let tls = tls.clone();
        async move {
            let mut client = tls.accept(stream).await?;
            let mut plain = TcpStream::connect(server).await?;
            copy_bidirectional(&mut client, &mut plain).await.map(drop)
        }
    })
    .await
}

/// A relay whose LaunchDarkly is reached as the settings say.
fn scene(settle: impl FnOnce(RelaySettings) -> RelaySettings) -> Scene {
    Scene::start_with(|launchdarkly| load(launchdarkly, &environment("e1")), settle)
}

/// Restarts the relay of a scene with other settings; the scene's own relay cannot know the
/// address of a LaunchDarkly that is started with it.
async fn restarted(mut scene: Scene, settle: impl FnOnce(RelaySettings) -> RelaySettings) -> Scene {
    scene.relay.kill().await.unwrap();
    scene.launchdarkly.cut_connections();
    scene.launchdarkly.clear_log();
    scene.settings = settle(scene.settings).with("LOCAL_STORE_DIR", "off");
    scene.relay = scene.settings.start().unwrap();
    scene
}

async fn works(scene: &Scene) {
    scene.relay.wait_until_healthy(1).await;
    let (mut client, _) = scene.stream(&sdk("e1")).await;
    scene.expect_patch("e1", &mut client).await;
    let requests = scene.launchdarkly.requests();
    assert!(requests.iter().all(|request| request.header("proxy-authorization").is_none()));
    scene.assert_sound();
}

async fn wait_for_failures(scene: &Scene) -> Value {
    scene
        .relay
        .wait_for_status("the failure shows", |status| {
            status["autoConfigStatus"]["lastError"]["kind"] == "NETWORK_ERROR"
        })
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_requests_go_through_the_proxy() {
    let proxy = OutboundProxy::start("user:p@ss word").await;
    let url = format!("http://user:p%40ss%20word@127.0.0.1:{}", proxy.port());
    let scene = scene(|settings| settings.with("PROXY_URL", url));
    works(&scene).await;
    let uri = scene.launchdarkly.uri();
    let mut passed = proxy.passed();
    passed.sort();
    let expected =
        [format!("GET {uri}/all"), format!("GET {uri}/relay_auto_config?rpacProtocolVersion=2")];
    assert_eq!(passed, expected);
    assert!(!scene.relay.log().contains("p@ss"), "{}", scene.relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_with_tls_go_through_a_tunnel() {
    let certificates = Certificates::make();
    let proxy = OutboundProxy::start("user:secret-of-proxy").await;
    let plain = scene(|settings| settings);
    let server = plain.launchdarkly.address();
    let tls = tls_in_front_of(server, Ipv4Addr::LOCALHOST, &certificates).await;
    let scene = restarted(plain, |settings| {
        settings
            .with("STREAM_URI", format!("https://localhost:{}", tls.address.port()))
            .with("PROXY_URL", format!("http://127.0.0.1:{}", proxy.port()))
            .with("PROXY_AUTH_USER", "user")
            .with("PROXY_AUTH_PASSWORD", "secret-of-proxy")
            .with("PROXY_CA_CERTS", certificates.ca().display().to_string())
    })
    .await;
    works(&scene).await;
    let tunnel = format!("CONNECT localhost:{}", tls.address.port());
    assert_eq!(proxy.passed(), [tunnel.clone(), tunnel]);
    assert!(!scene.relay.log().contains("secret-of-proxy"), "{}", scene.relay.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_refuses_is_asked_again() {
    let proxy = OutboundProxy::start("user:right").await;
    let url = format!("http://user:wrong-password@127.0.0.1:{}", proxy.port());
    let scene = scene(|settings| settings.with("PROXY_URL", url));
    let status = wait_for_failures(&scene).await;
    assert_eq!(status["autoConfigStatus"]["state"], "INITIALIZING");
    scene.relay.wait_for_log("outbound proxy answered with status 407").await;
    assert!(!scene.relay.log().contains("wrong-password"), "{}", scene.relay.log());
    assert!(scene.launchdarkly.requests().is_empty(), "nothing goes around the proxy");
    *proxy.login.lock().unwrap() = "user:wrong-password".to_owned();
    works(&scene).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_counts_if_an_own_ca_vouches_for_it() {
    let certificates = Certificates::make();
    let plain = scene(|settings| settings);
    let server = plain.launchdarkly.address();
    let tls = tls_in_front_of(server, Ipv4Addr::LOCALHOST, &certificates).await;
    let stream_uri = format!("https://127.0.0.1:{}", tls.address.port());
    let ca = certificates.ca().display().to_string();
    let known = restarted(plain, |settings| {
        settings.with("STREAM_URI", stream_uri).with("PROXY_CA_CERTS", ca)
    })
    .await;
    works(&known).await;

    // Nobody vouches for it.
    let unknown = restarted(known, |settings| settings.without("PROXY_CA_CERTS")).await;
    wait_for_failures(&unknown).await;
    unknown.relay.wait_for_log("TLS handshake with 127.0.0.1 failed").await;
    assert_eq!(unknown.code(&sdk("e1")).await, 503);
    assert!(unknown.launchdarkly.requests().is_empty(), "no key was shown");

    // It is for another host. Tried again at the usual pace: certificates get renewed.
    let elsewhere = tls_in_front_of(server, Ipv4Addr::new(127, 0, 0, 2), &certificates).await;
    let stream_uri = format!("https://{}", elsewhere.address);
    let ca = certificates.ca().display().to_string();
    let wrong_name = restarted(unknown, |settings| {
        settings.with("STREAM_URI", stream_uri).with("PROXY_CA_CERTS", ca)
    })
    .await;
    wait_for_failures(&wrong_name).await;
    assert!(wrong_name.launchdarkly.requests().is_empty(), "no key was shown");
    assert!(!wrong_name.relay.log().contains("slow retries"), "{}", wrong_name.relay.log());
    wrong_name.assert_sound();
}
