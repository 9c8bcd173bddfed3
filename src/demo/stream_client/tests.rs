use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::backoff::Backoff;
use crate::demo::kept_port::KeptPort;
use crate::tasks::TaskGroup;

const OPENING: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

/// A server that sends each connection the next of its answers and then closes it.
struct Script {
    address: SocketAddr,
    requests: tokio::sync::mpsc::Receiver<(SocketAddr, String)>,
    _tasks: TaskGroup,
}

async fn script(answers: &[&str]) -> Script {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let answers: Vec<String> = answers.iter().map(|&answer| answer.to_owned()).collect();
    let (asked, requests) = tokio::sync::mpsc::channel(answers.len().max(1));
    let mut tasks = TaskGroup::new(&CancellationToken::new());
    tasks.spawn("script", |_| async move {
        for answer in answers {
            let (mut stream, peer) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            asked.send((peer, String::from_utf8(request).unwrap())).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        std::future::pending().await
    });
    Script { address, requests, _tasks: tasks }
}

async fn connect(server: &Script) -> Result<StreamClient, StreamClientError> {
    StreamClient::connect(&StreamTarget::new(server.address, "/all", "sdk-a")).await
}

#[tokio::test]
async fn asks_like_an_sdk_and_reads_to_the_end() {
    let answer = format!("{OPENING}:\n\nevent: put\ndata: {{}}\n\n:\nevent: patch\ndata: 1\n\n");
    let mut server = script(&[&answer]).await;
    let mut client = connect(&server).await.unwrap();
    let (_, request) = server.requests.recv().await.unwrap();
    for line in
        ["GET /all HTTP/1.1\r\n", "Authorization: sdk-a\r\n", "Accept: text/event-stream\r\n"]
    {
        assert!(request.contains(line), "{request}");
    }
    assert_eq!(client.response_header("content-type"), Some("text/event-stream"));
    let event = client.next().await.unwrap().unwrap();
    assert_eq!((event.name.as_str(), &event.data[..]), ("put", &b"{}"[..]));
    assert!(event.is_whole());
    assert!(client.first_put_after().unwrap() >= client.opened_after());
    assert_eq!(client.next_item().await.unwrap(), Some(StreamItem::Comment));
    assert_eq!(client.next().await.unwrap().unwrap().name, "patch");
    assert_eq!(client.next().await.unwrap(), None);
    assert_eq!(client.next().await.unwrap(), None);
    assert_eq!(client.comments(), 2);
}

#[tokio::test]
async fn what_came_before_a_break_is_given_out_first() {
    let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cut = format!("{chunked}9\r\ndata: 1\n\n\r\n5\r\ndat");
    let bad = format!("{chunked}9\r\ndata: 1\n\n\r\nxx\r\n");
    let server = script(&[&cut, &bad]).await;
    for broken in [true, false] {
        let mut client = connect(&server).await.unwrap();
        assert_eq!(client.next().await.unwrap().unwrap().data_bytes, 1);
        let error = client.next().await.unwrap_err();
        match broken {
            true => assert!(matches!(error, StreamClientError::CutShort), "{error:?}"),
            false => assert!(matches!(error, StreamClientError::Malformed { .. }), "{error:?}"),
        }
        assert_eq!(client.next().await.unwrap(), None, "told once");
    }
}

#[tokio::test]
async fn refusals_are_told_with_their_status() {
    let server = script(&[
        "HTTP/1.1 401 Unauthorized\r\n\r\n",
        "HTTP/1.1 503 No\r\nRetry-After: 7\r\n\r\n",
        "HTTP/1.1 200 OK\r\n",
    ])
    .await;
    let check = async |expected: &str| {
        let seen = format!("{:?}", connect(&server).await.unwrap_err());
        assert_eq!(seen, expected);
    };
    check("Refused { status: 401, retry_after: None }").await;
    check("Refused { status: 503, retry_after: Some(7s) }").await;
    check("CutShort").await;
    let nobody = KeptPort::reserve("127.0.0.1:0".parse().unwrap()).unwrap();
    let target = StreamTarget::new(nobody.address(), "/all", "sdk-a");
    let error = StreamClient::connect(&target).await.unwrap_err();
    assert!(matches!(error, StreamClientError::Connect { .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let within = Duration::from_millis(20);
    let target = StreamTarget {
        opening_max: within,
        ..StreamTarget::without_key(listener.local_addr().unwrap(), "/ping/e1")
    };
    assert!(!target.request().contains("Authorization"));
    let error = StreamClient::connect(&target).await.unwrap_err();
    assert!(matches!(error, StreamClientError::NoAnswer { within: said } if said == within));
}

#[tokio::test]
async fn connects_from_the_chosen_address() {
    let mut server = script(&[OPENING]).await;
    let source = loopback_source(CONNECTIONS_PER_SOURCE);
    let target =
        StreamTarget { source: Some(source), ..StreamTarget::new(server.address, "/all", "k") };
    let client = StreamClient::connect(&target).await.unwrap();
    let (peer, _) = server.requests.recv().await.unwrap();
    assert_eq!(peer, client.local_address().unwrap());
    assert_eq!(peer.ip(), source);
    assert_eq!(peer.ip().to_string(), "127.0.0.2");
}

#[tokio::test]
async fn reconnects_whatever_happened() {
    let put = format!("{OPENING}event: put\ndata: {{}}\n\n");
    let server = script(&["HTTP/1.1 401 No\r\n\r\n", &put, &put]).await;
    let (base, cap) = (Duration::from_millis(1), Duration::from_millis(2));
    let target = StreamTarget::new(server.address, "/all", "sdk-a");
    let mut client = ReconnectingClient::new(target, Backoff { base, cap });
    let mut seen = Vec::new();
    for _ in 0..7 {
        seen.push(match client.next().await {
            Observation::Opened { .. } => "opened",
            Observation::Event(_) => "event",
            Observation::Ended => "ended",
            Observation::Failed(_) => "failed",
        });
    }
    assert_eq!(seen, ["failed", "opened", "event", "ended", "opened", "event", "ended"]);
    assert!(client.first_put_after().is_some());
    assert!(!client.is_open());
}

#[test]
fn sources_are_spread() {
    let check = |index, expected: &str| assert_eq!(loopback_source(index).to_string(), expected);
    check(0, "127.0.0.1");
    check(CONNECTIONS_PER_SOURCE - 1, "127.0.0.1");
    check(CONNECTIONS_PER_SOURCE * 3, "127.0.0.4");
}

#[test]
fn an_idle_client_is_small() {
    assert!(size_of::<StreamClient>() < 512, "{} bytes", size_of::<StreamClient>());
}

#[test]
fn debug_shows_no_key() {
    let target = StreamTarget::new("127.0.0.1:1".parse().unwrap(), "/all", "sdk-secret-value");
    assert_eq!(format!("{target:?}"), "StreamTarget(127.0.0.1:1/all)");
}
