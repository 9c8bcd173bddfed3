//! Tests of the owner of a stream, which restarts it, is busy or drops it, and of the log.

use std::io;
use std::sync::{Arc, Mutex};

use super::*;

#[tokio::test(start_paused = true)]
async fn a_restart_counts_once_for_its_connection() {
    let mut bench = Bench::new();
    let mut peer = bench.opened(1).await;
    peer.write(b"event: put\ndata: a\n\nevent: put\ndata: b\n\n").await;
    assert_eq!(bench.next().await, event(1, "a"));
    // The next event is in flight already and names its connection.
    bench.stream.restart(1, RestartReason::Malformed);
    bench.stream.restart(1, RestartReason::Requested);
    assert_eq!(bench.next().await, event(1, "b"));
    bench.closed(1, INVALID, 1).await;
    peer.closed().await;
    bench.stream.restart(1, RestartReason::Malformed);

    let mut peer = bench.opened(2).await;
    bench.stream.restart(1, RestartReason::Malformed);
    pass(120).await;
    peer.write(b"event: put\ndata: c\n\n").await;
    assert_eq!(bench.next().await, event(2, "c"));
    bench.stream.restart(2, RestartReason::Requested);
    bench.closed(2, None, 1).await;
    bench.opened(3).await;
}

#[tokio::test(start_paused = true)]
async fn an_attempt_can_be_given_up_too() {
    let mut bench = Bench::new();
    let mut peer = bench.peer().await;
    peer.read_head().await;
    bench.stream.restart(1, RestartReason::Requested);
    bench.closed(1, None, 1).await;
    peer.closed().await;
}

#[tokio::test(start_paused = true)]
async fn malformed_data_that_comes_again_is_asked_for_less_and_less() {
    let mut bench = Bench::new();
    for (connection, seconds) in (1..).zip([1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]) {
        let _peer = bench.opened(connection).await;
        bench.stream.restart(connection, RestartReason::Malformed);
        bench.closed(connection, INVALID, seconds).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_owner_loses_no_event() {
    let mut bench = Bench::new();
    let mut peer = bench.opened(1).await;
    let events = 10 * WAITING_MAX;
    peer.write("event: put\ndata: a\n\n".repeat(events).as_bytes()).await;
    pass(600).await;
    for _ in 0..events {
        assert_eq!(bench.next().await, event(1, "a"));
    }
    peer.write(b"event: put\ndata: b\n\n").await;
    assert_eq!(bench.next().await, event(1, "b"));
}

#[tokio::test(start_paused = true)]
async fn a_restart_is_heard_behind_a_full_queue() {
    let mut bench = Bench::new();
    let mut peer = bench.opened(1).await;
    peer.write("event: put\ndata: a\n\n".repeat(10 * WAITING_MAX).as_bytes()).await;
    pass(1).await;
    bench.stream.restart(1, RestartReason::Malformed);
    peer.closed().await;
    let mut stale = 0;
    while let StreamEvent::Event { connection: 1, .. } = bench.next().await {
        stale += 1;
    }
    assert_eq!(stale, WAITING_MAX);
    bench.opened(2).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_handle_ends_the_task_wherever_it_stands() {
    // While it waits for the next attempt: the client goes with the task.
    let mut bench = Bench::new();
    bench.dial().await.refuse();
    bench.closed(1, NETWORK, 1).await;
    let begun = Instant::now();
    drop(bench.stream);
    assert!(bench.dials.recv().await.is_none());

    // While it connects.
    let mut bench = Bench::new();
    let _unanswered = bench.dial().await;
    drop(bench.stream);
    assert!(bench.dials.recv().await.is_none());

    // While it waits for the head of a response.
    let mut bench = Bench::new();
    let mut peer = bench.peer().await;
    peer.read_head().await;
    drop(bench.stream);
    peer.closed().await;

    // While it reads.
    let mut bench = Bench::new();
    let mut peer = bench.opened(1).await;
    drop(bench.stream);
    peer.closed().await;

    // While its queue is full.
    let mut bench = Bench::new();
    let mut peer = bench.opened(1).await;
    peer.write("data: a\n\n".repeat(10 * WAITING_MAX).as_bytes()).await;
    drop(bench.stream);
    peer.closed().await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
}

/// Collects what is logged.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn logs_tell_each_change_once_and_neither_keys_nor_payloads() {
    let log = Log::default();
    let writer = log.clone();
    // With a single subscriber alive, a log statement that another test's thread reaches first
    // would be disabled for this test as well.
    let _second = tracing::Dispatch::new(tracing_subscriber::fmt().with_writer(io::sink).finish());
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let mut bench = Bench::new();
    for (connection, seconds) in (1..).zip([30, 60, 120]) {
        bench.answer(401, "").await;
        bench.closed(connection, status(401), seconds).await;
    }
    bench.answer(503, "").await;
    bench.closed(4, status(503), 240).await;
    let mut peer = bench.opened(5).await;
    peer.write(b"id: secret-id\nevent: put\ndata: secret-payload\n\n").await;
    bench.next().await;
    bench.stream.restart(5, RestartReason::Malformed);
    bench.closed(5, INVALID, 300).await;

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(!log.contains("secret"), "{log}");
    let count = |level: &str, text: &str| {
        log.lines().filter(|line| line.contains(level) && line.contains(text)).count()
    };
    assert_eq!(count("ERROR", "LaunchDarkly rejects the SDK key"), 1, "{log}");
    assert_eq!(count("ERROR", "key=\"sdk-************67890\""), 1, "{log}");
    assert_eq!(count("DEBUG", "upstream stream failed again"), 2, "{log}");
    assert_eq!(count("WARN", "answered with status 503"), 1, "{log}");
    assert_eq!(
        count("INFO", "connecting to upstream url=\"http://upstream.test/all\""),
        1,
        "{log}"
    );
    assert_eq!(count("INFO", "upstream stream opened connection=5"), 1, "{log}");
    assert_eq!(count("WARN", "malformed data"), 1, "{log}");
    assert_eq!(count("INFO", "slow retries"), 1, "{log}");
    assert_eq!(count("upstream{stream=\"flags\"}", ""), log.lines().count(), "{log}");
}
