use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::*;

/// Long enough that running out of it is a failure, not a slow machine.
const LONG: Duration = Duration::from_secs(10);

/// Silence of that length counts as silence.
const SHORT: Duration = Duration::from_millis(30);

/// A server that sends back what it gets, and ends when its client does.
struct Echo {
    address: SocketAddr,
    _tasks: TaskGroup,
}

async fn echo() -> Echo {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("echo", |cancel| async move {
        let mut connections = TaskGroup::new(&cancel);
        while let Ok((mut stream, _)) = listener.accept().await {
            connections.spawn("echo connection", |_| async move {
                let (mut from, mut to) = stream.split();
                let _ = tokio::io::copy(&mut from, &mut to).await;
            });
        }
    });
    Echo { address, _tasks: tasks }
}

async fn answers_within(limit: Duration, stream: &mut TcpStream) -> bool {
    let exchange = async {
        stream.write_all(b"ping").await?;
        let mut answer = [0; 4];
        stream.read_exact(&mut answer).await.map(|_| answer == *b"ping")
    };
    matches!(tokio::time::timeout(limit, exchange).await, Ok(Ok(true)))
}

async fn answers(stream: &mut TcpStream) -> bool {
    answers_within(LONG, stream).await
}

async fn is_silent(stream: &mut TcpStream) -> bool {
    !answers_within(SHORT, stream).await
}

async fn ends(stream: &mut TcpStream) -> bool {
    let mut rest = Vec::new();
    tokio::time::timeout(LONG, stream.read_to_end(&mut rest)).await.is_ok()
}

#[tokio::test]
async fn carries_counts_and_cuts() {
    let echo = echo().await;
    let proxy = FlakyProxy::start(echo.address).unwrap();
    let mut first = TcpStream::connect(proxy.address()).await.unwrap();
    let mut second = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(answers(&mut first).await && answers(&mut second).await);
    assert_eq!((proxy.accepted_connections(), proxy.open_connections()), (2, 2));
    proxy.cut();
    assert!(ends(&mut first).await && ends(&mut second).await);
    let mut third = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(answers(&mut third).await, "new connections are accepted after a cut");
    assert!(proxy.wait_for_accepted(3, LONG).await);
    assert!(!proxy.wait_for_accepted(4, SHORT).await);
}

#[tokio::test]
async fn refuses_and_returns_on_the_same_port() {
    let echo = echo().await;
    let proxy = FlakyProxy::start(echo.address).unwrap();
    let mut open = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(answers(&mut open).await);
    proxy.refuse();
    assert!(TcpStream::connect(proxy.address()).await.is_err());
    assert!(answers(&mut open).await, "open connections go on");
    proxy.kill();
    assert!(ends(&mut open).await);
    proxy.pass().unwrap();
    assert!(answers(&mut TcpStream::connect(proxy.address()).await.unwrap()).await);
}

#[tokio::test]
async fn what_fell_into_a_black_hole_stays_dead() {
    let echo = echo().await;
    let proxy = FlakyProxy::start(echo.address).unwrap();
    let mut before = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(answers(&mut before).await);
    proxy.black_hole();
    assert!(is_silent(&mut before).await);
    let mut during = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(is_silent(&mut during).await);
    proxy.pass().unwrap();
    assert!(is_silent(&mut before).await && is_silent(&mut during).await);
    assert!(answers(&mut TcpStream::connect(proxy.address()).await.unwrap()).await);
    proxy.cut();
    assert!(ends(&mut before).await && ends(&mut during).await);
}

#[tokio::test]
async fn freezing_loses_nothing() {
    let echo = echo().await;
    let proxy = FlakyProxy::start(echo.address).unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(answers(&mut stream).await);
    proxy.freeze();
    assert!(is_silent(&mut stream).await);
    proxy.pass().unwrap();
    let mut late = [0; 4];
    tokio::time::timeout(LONG, stream.read_exact(&mut late)).await.unwrap().unwrap();
    assert_eq!(&late, b"ping");
}

#[tokio::test]
async fn delays_and_limits_take_their_time() {
    let echo = echo().await;
    let proxy = FlakyProxy::start(echo.address).unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    let mut answer = [0; 40];
    let mut exchange = async || {
        let begun = Instant::now();
        stream.write_all(&[1; 40]).await.unwrap();
        stream.read_exact(&mut answer).await.unwrap();
        begun.elapsed()
    };
    proxy.delay(Duration::from_millis(20));
    assert!(exchange().await >= Duration::from_millis(40), "20 ms in each direction");
    proxy.delay(Duration::ZERO);
    proxy.limit(200);
    assert!(exchange().await >= Duration::from_millis(150), "four portions of ten bytes");
}

#[tokio::test]
async fn half_closing_ends_one_direction() {
    let echo = echo().await;
    let proxy = FlakyProxy::start(echo.address).unwrap();
    let mut stream = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(answers(&mut stream).await);
    proxy.half_close(Side::Client);
    assert!(ends(&mut stream).await);
    stream.write_all(b"still heard").await.unwrap();
    let mut other = TcpStream::connect(proxy.address()).await.unwrap();
    assert!(answers(&mut other).await, "only connections that were open are half closed");
    proxy.half_close(Side::Upstream);
    assert!(ends(&mut other).await, "the echo ends when it hears the end");
}

#[tokio::test]
async fn a_missing_upstream_ends_the_connection() {
    let nobody = KeptPort::reserve("127.0.0.1:0".parse().unwrap()).unwrap();
    let proxy = FlakyProxy::start(nobody.address()).unwrap();
    assert!(ends(&mut TcpStream::connect(proxy.address()).await.unwrap()).await);
    let echo = echo().await;
    proxy.set_upstream(echo.address);
    assert!(answers(&mut TcpStream::connect(proxy.address()).await.unwrap()).await);
}

#[tokio::test]
async fn a_line_is_shared_by_all_connections() {
    const RATE: u32 = 400_000;
    const BYTES: usize = 40_000;
    let echo = echo().await;
    let proxy = FlakyProxy::start(echo.address).unwrap();
    proxy.limit_line(RATE);
    let begun = Instant::now();
    let exchange = async || {
        let stream = TcpStream::connect(proxy.address()).await.unwrap();
        let (mut from, mut to) = stream.into_split();
        let (sent, mut echoed) = (vec![7; BYTES], vec![0; BYTES]);
        let (written, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut echoed));
        written.unwrap();
        read.unwrap();
    };
    tokio::join!(exchange(), exchange());
    let least = Duration::from_secs_f64(2.0 * BYTES as f64 / f64::from(RATE));
    assert!(begun.elapsed() >= least, "{:?}", begun.elapsed());
    for side in [Side::Client, Side::Upstream] {
        assert_eq!(proxy.carried_bytes(side), 2 * BYTES as u64);
    }
}
