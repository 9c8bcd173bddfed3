mod owner;

use bytes::Bytes;
use tokio::sync::mpsc::UnboundedReceiver;

use super::*;
use crate::model::SdkKey;
use crate::upstream::HttpClientSettings;
use crate::upstream::test_support::{Dial, Peer, Server, behaviour, memory_client};

const KEY: &str = "sdk-secret-1234567890";
const NETWORK: Option<StreamFailure> =
    Some(StreamFailure { kind: ErrorKind::NetworkError, status: None });
const INVALID: Option<StreamFailure> =
    Some(StreamFailure { kind: ErrorKind::InvalidData, status: None });

fn status(status: u16) -> Option<StreamFailure> {
    Some(StreamFailure { kind: ErrorKind::ErrorResponse, status: Some(status) })
}

fn event(connection: u64, data: &'static str) -> StreamEvent {
    let data = Bytes::from_static(data.as_bytes());
    let event = Event { name: "put".to_owned(), data, id: None };
    StreamEvent::Event { connection, event }
}

/// A stream and the far end of its connections.
struct Bench {
    stream: EventStream,
    dials: UnboundedReceiver<Dial>,
}

impl Bench {
    fn new() -> Self {
        Self::with_limits(STREAM_LIMITS)
    }

    fn with_limits(limits: Limits) -> Self {
        let (client, dials) = memory_client(&HttpClientSettings::default());
        let request = StreamRequest {
            stream: "flags",
            url: "http://upstream.test/all?filter=x".parse().unwrap(),
            authorization: Authorization::from(&SdkKey::new(KEY)),
            headers: HeaderMap::new(),
            limits,
        };
        assert!(!format!("{request:?}").contains("secret"));
        Self { stream: EventStream::open(client, request, StreamTimings::default()), dials }
    }

    async fn dial(&mut self) -> Dial {
        let dial = self.dials.recv().await.expect("an attempt");
        assert_eq!((dial.host.as_str(), dial.port), ("upstream.test", 80));
        dial
    }

    async fn peer(&mut self) -> Peer {
        self.dial().await.accept()
    }

    async fn next(&mut self) -> StreamEvent {
        self.stream.recv().await.expect("a living task")
    }

    /// Accepts the next attempt as an event stream and sees it opened.
    async fn opened(&mut self, connection: u64) -> Peer {
        let mut peer = self.peer().await;
        peer.answer_stream().await;
        let opened = StreamEvent::Opened { connection, environment_id: None };
        assert_eq!(self.next().await, opened);
        peer
    }

    /// Answers the next attempt with a status, headers and no body.
    async fn answer(&mut self, status: u16, headers: &str) -> String {
        let headers = format!("{headers}Content-Length: 0\r\n");
        let mut peer = self.peer().await;
        let head = peer.answer(status, &headers).await;
        peer.closed().await;
        head
    }

    /// Expects a connection to be closed for that reason, and the next attempt to be announced for
    /// `seconds` from now, less up to half.
    async fn closed(&mut self, connection: u64, failure: Option<StreamFailure>, seconds: u64) {
        let closed = self.next().await;
        let StreamEvent::Closed { connection: number, failure: told, retry_in } = closed else {
            panic!("{closed:?}");
        };
        assert_eq!((number, told), (connection, failure));
        let full = Duration::from_secs(seconds);
        assert!((full / 2..=full).contains(&retry_in), "{retry_in:?} is not about {full:?}");
    }
}

/// Lets time pass.
async fn pass(seconds: u64) {
    sleep(Duration::from_secs(seconds)).await;
}

#[tokio::test(start_paused = true)]
async fn events_come_as_they_are_sent() {
    let mut bench = Bench::new();
    let mut peer = bench.peer().await;
    let head = peer
        .answer(200, "content-type: Text/Event-Stream;charset=utf-8\r\nX-LD-EnvID: env-1\r\n")
        .await;
    for line in [
        "GET /all?filter=x HTTP/1.1\r\n",
        "host: upstream.test\r\n",
        "accept: text/event-stream\r\n",
        "cache-control: no-cache\r\n",
        &format!("authorization: {KEY}\r\n"),
    ] {
        assert!(head.contains(line), "{line} is not in {head}");
    }
    assert!(!head.contains("last-event-id"), "{head}");
    let environment_id = Some(EnvironmentId::new("env-1"));
    assert_eq!(bench.next().await, StreamEvent::Opened { connection: 1, environment_id });

    peer.write(b":\n").await;
    assert_eq!(bench.next().await, StreamEvent::Comment { connection: 1 });
    peer.write(b"event: put\ndata: a\n\nevent: put\nda").await;
    assert_eq!(bench.next().await, event(1, "a"));
    peer.write(b"ta: b\n\n").await;
    assert_eq!(bench.next().await, event(1, "b"));
}

#[tokio::test(start_paused = true)]
async fn refused_connections_are_tried_again_and_again() {
    let mut bench = Bench::new();
    for (connection, seconds) in (1..).zip([1, 2, 4, 8, 16, 30, 30]) {
        bench.dial().await.refuse();
        bench.closed(connection, NETWORK, seconds).await;
    }
    bench.opened(8).await;
}

#[tokio::test(start_paused = true)]
async fn the_next_attempt_comes_when_it_was_announced() {
    let mut bench = Bench::new();
    bench.dial().await.refuse();
    let StreamEvent::Closed { retry_in, .. } = bench.next().await else { panic!("no end") };
    let begun = Instant::now();
    let _next = bench.dial().await;
    // Timers have a resolution of one millisecond.
    let late = begun.elapsed().checked_sub(retry_in).expect("not early");
    assert!(late < Duration::from_millis(2), "{late:?}");
}

#[tokio::test(start_paused = true)]
async fn a_server_that_never_answers_is_left_after_ten_seconds() {
    let mut bench = Bench::new();
    let begun = Instant::now();
    let mut peer = bench.peer().await;
    peer.read_head().await;
    bench.closed(1, NETWORK, 1).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(10));
    peer.closed().await;
    bench.opened(2).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_falls_silent_is_left_after_five_minutes() {
    let mut bench = Bench::new();
    let mut peer = bench.opened(1).await;
    let begun = Instant::now();
    pass(290).await;
    peer.write(b":\n").await;
    assert_eq!(bench.next().await, StreamEvent::Comment { connection: 1 });
    bench.closed(1, NETWORK, 1).await;
    assert_eq!(begun.elapsed(), Duration::from_secs(590));
}

#[tokio::test(start_paused = true)]
async fn an_event_may_come_byte_by_byte() {
    let mut bench = Bench::new();
    let mut peer = bench.opened(1).await;
    for byte in b"event: put\ndata: slow\n\n" {
        pass(240).await;
        peer.write(&[*byte]).await;
    }
    assert_eq!(bench.next().await, event(1, "slow"));
}

#[tokio::test(start_paused = true)]
async fn statuses_that_pass_are_tried_again_soon() {
    let mut bench = Bench::new();
    for (connection, (code, seconds)) in (1..).zip([(503, 1), (429, 2), (400, 4), (204, 8)]) {
        bench.answer(code, "").await;
        bench.closed(connection, status(code), seconds).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_rejected_key_is_tried_slowly_until_a_connection_holds() {
    let mut bench = Bench::new();
    bench.answer(401, "").await;
    bench.closed(1, status(401), 30).await;
    bench.answer(503, "").await;
    bench.closed(2, status(503), 60).await;
    let mut peer = bench.opened(3).await;
    pass(59).await;
    peer.close_writing().await;
    bench.closed(3, NETWORK, 120).await;
    let mut peer = bench.opened(4).await;
    pass(60).await;
    peer.close_writing().await;
    bench.closed(4, NETWORK, 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_no_event_stream_is_invalid_data() {
    let mut bench = Bench::new();
    let kinds = ["Content-Type: text/html\r\n", "", "Content-Type: text/event-streams\r\n"];
    for (connection, (kind, seconds)) in (1..).zip(kinds.iter().zip([1, 2, 4])) {
        bench.answer(200, kind).await;
        bench.closed(connection, INVALID, seconds).await;
    }
}

#[tokio::test(start_paused = true)]
async fn redirects_lead_to_the_stream() {
    let mut bench = Bench::new();
    bench.answer(307, "Location: /moved\r\n").await;
    let mut peer = bench.peer().await;
    let head = peer.answer_stream().await;
    assert!(head.starts_with("GET /moved HTTP/1.1\r\n"), "{head}");
    assert!(matches!(bench.next().await, StreamEvent::Opened { connection: 1, .. }));
}

#[tokio::test(start_paused = true)]
async fn an_event_that_breaks_off_is_discarded() {
    let mut bench = Bench::new();
    let mut peer = bench.opened(1).await;
    peer.write(b"event: put\ndata: a\n\nevent: put\ndata: b\n").await;
    peer.close_writing().await;
    assert_eq!(bench.next().await, event(1, "a"));
    bench.closed(1, NETWORK, 1).await;
    let mut peer = bench.opened(2).await;
    peer.write(b"\nevent: put\ndata: c\n\n").await;
    assert_eq!(bench.next().await, event(2, "c"));
}

#[tokio::test(start_paused = true)]
async fn events_that_are_too_large_end_the_connection() {
    let limits = Limits { line_bytes_max: 100, event_bytes_max: 100 };
    let mut bench = Bench::with_limits(limits);
    for (connection, seconds) in (1..).zip([1, 2, 4, 8, 16, 32, 64]) {
        let mut peer = bench.opened(connection).await;
        peer.write(&[b"data: ".as_slice(), &[b'x'; 101]].concat()).await;
        bench.closed(connection, INVALID, seconds).await;
        peer.closed().await;
    }
}

#[tokio::test(start_paused = true)]
async fn hints_of_the_server_count_within_bounds() {
    let mut bench = Bench::new();
    let mut peer = bench.opened(1).await;
    peer.write(b"retry: 8000\nevent: put\ndata: a\n\n").await;
    assert_eq!(bench.next().await, event(1, "a"));
    peer.close_writing().await;
    bench.closed(1, NETWORK, 8).await;
    bench.answer(403, "").await;
    bench.closed(2, status(403), 30).await;
}

#[tokio::test(start_paused = true)]
async fn the_last_id_goes_with_the_next_request() {
    let mut bench = Bench::new();
    let mut peer = bench.opened(1).await;
    peer.write(b"id: 7\ndata: a\n\nid: 8\n").await;
    peer.close_writing().await;
    let event = bench.next().await;
    assert!(
        matches!(event, StreamEvent::Event { event: Event { id: Some(id), .. }, .. } if id == "7")
    );
    bench.closed(1, NETWORK, 1).await;
    let head = bench.answer(503, "").await;
    assert!(head.contains("last-event-id: 7\r\n"), "{head}");
}

#[tokio::test]
async fn streams_work_over_real_connections() {
    let payload = "x".repeat(8 * 1024 * 1024);
    let sent = payload.clone();
    let stream_it = behaviour(async move |mut peer: Peer| {
        peer.answer_stream().await;
        peer.write(&crate::sse::encode("put", sent.as_bytes())).await;
    });
    let server = Server::start([stream_it]).await;
    let request = StreamRequest {
        stream: "flags",
        url: format!("http://localhost:{}/all", server.port()).parse().unwrap(),
        authorization: Authorization::from(&SdkKey::new(KEY)),
        headers: HeaderMap::new(),
        limits: STREAM_LIMITS,
    };
    let client = HttpClient::new(&HttpClientSettings::default()).unwrap();
    let mut stream = EventStream::open(client, request, StreamTimings::default());
    let opened = stream.recv().await;
    assert!(matches!(opened, Some(StreamEvent::Opened { connection: 1, .. })), "{opened:?}");
    let Some(StreamEvent::Event { event, .. }) = stream.recv().await else { panic!("no event") };
    assert!(event.data == payload, "the payload is not the same");
    let closed = stream.recv().await;
    assert!(
        matches!(closed, Some(StreamEvent::Closed { connection: 1, failure: NETWORK, .. })),
        "{closed:?}"
    );
}
