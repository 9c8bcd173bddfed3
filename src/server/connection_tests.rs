use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::super::InitialPayloads;
use super::super::head_timer::{IDLE_TIMEOUT, UNKNOWN_IDLE_TIMEOUT};
use super::super::pace::UNKNOWN_HEAD_BYTES_MAX;
use super::super::streaming::CONNECTION_TIME_JITTER;
use super::super::test_support::{Bench, get, read_to_end, read_until};
use super::*;

const HEALTH: &str = "GET /livez HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test(start_paused = true)]
async fn heads_must_come_in_time_and_idle_connections_are_kept() {
    // Texts to send, each at a second, and the second at which the connection ends.
    let check = async |sent: &[(u64, &str)], ended_after: u64| {
        let mut bench = Bench::new(1, None);
        let client = bench.connect(64 * 1024);
        let (mut reader, mut writer) = tokio::io::split(client);
        let begun = Instant::now();
        let write = async {
            for (after, text) in sent {
                tokio::time::sleep_until(begun + Duration::from_secs(*after)).await;
                writer.write_all(text.as_bytes()).await.unwrap();
            }
        };
        let read = async {
            reader.read_to_end(&mut Vec::new()).await.unwrap();
            begun.elapsed().as_secs()
        };
        assert_eq!(tokio::join!(write, read).1, ended_after, "{sent:?}");
    };
    let idle = IDLE_TIMEOUT.as_secs();
    let known = &get("/sdk/flags/f");
    check(&[], 10).await;
    check(&[(9, "GET /livez HTTP/1.1\r\n")], 10).await;
    check(&[(9, known)], 9 + idle).await;
    check(&[(9, known), (100, "GET"), (105, " /livez")], 110).await;
    check(&[(9, known), (600, HEALTH)], 600 + idle).await;
    let ahead = format!("{known}GET /li");
    check(&[(0, &ahead)], idle).await;
    // A client without a valid credential has less time.
    let unknown_idle = UNKNOWN_IDLE_TIMEOUT.as_secs();
    check(&[(9, HEALTH)], 9 + unknown_idle).await;
    check(&[(9, &known.replace("sdk-1", "sdk-3"))], 9 + unknown_idle).await;
    check(&[(9, HEALTH), (70, HEALTH)], 70 + unknown_idle).await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_stops_reading_is_dropped_and_delays_nobody() {
    let mut bench = Bench::new(4 * 1024, None);
    let begun = Instant::now();
    let stuck = bench.get("/all").await;
    let mut reader = bench.get("/all").await;
    read_until(&mut reader, "\r\n\r\n").await;
    read_until(&mut reader, "\n\n\r\n").await;
    for version in 2..=20 {
        sleep(Duration::from_secs(1)).await;
        let published = Instant::now();
        bench.publish(version, 10);
        let patch = read_until(&mut reader, "\n\n\r\n").await;
        assert!(patch.contains(&format!("\"version\":{version}")), "{patch}");
        assert_eq!(published.elapsed(), Duration::ZERO);
    }
    assert_eq!(bench.environment.hub.streams(), 2);
    bench.streams(1).await;
    assert_eq!(begun.elapsed().as_secs(), PROGRESS_TIMEOUT.as_secs());
    let seen = read_to_end(stuck).await;
    assert!(seen.starts_with("HTTP/1.1 200 OK\r\n") && seen.len() == 1024, "{seen}");
    bench.publish(21, 10);
    read_until(&mut reader, "\n\n\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_turn_lasts_until_the_payload_was_taken() {
    let limit = InitialPayloads {
        concurrent_max: 1,
        queued_max: 0,
        send_timeout: Some(Duration::from_secs(100)),
    };
    for path in ["/all", "/flags", "/sdk/latest-all", "/sdk/latest-flags", "/sdk/flags"] {
        let mut bench = Bench::new(1 << 20, Some(limit));
        let mut first = bench.get(path).await;
        read_until(&mut first, "\r\n\r\n").await;
        for other in ["/all", "/sdk/latest-all"] {
            assert_eq!(bench.status_of(other).await, "HTTP/1.1 503", "{other} during {path}");
        }
        let large = bench.status_of("/sdk/flags/f").await;
        assert_eq!(large, "HTTP/1.1 503", "a large item is no better than all");
        let small = bench.status_of("/sdk/flags/a").await;
        assert_eq!(small, "HTTP/1.1 200", "what is small needs no turn");
        read_until(&mut first, "xxx\"}").await;
        assert_eq!(bench.status_of("/all").await, "HTTP/1.1 200", "after {path}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_turn_that_is_held_too_long_ends_with_its_connection() {
    let limit = InitialPayloads {
        concurrent_max: 1,
        queued_max: 0,
        send_timeout: Some(Duration::from_secs(100)),
    };
    for path in ["/all", "/sdk/latest-all"] {
        let mut bench = Bench::new(1 << 20, Some(limit));
        let begun = Instant::now();
        let mut slow = bench.get(path).await;
        let dripping = async {
            let mut piece = [0; 1024];
            // It keeps the minimum pace, but the whole payload would take too long.
            while slow.read_exact(&mut piece).await.is_ok() {
                sleep(Duration::from_millis(110)).await;
            }
        };
        let waiting = async {
            while bench.status_of("/all").await != "HTTP/1.1 200" {
                sleep(Duration::from_secs(1)).await;
            }
            begun.elapsed().as_secs()
        };
        let freed_after = tokio::join!(dripping, waiting).1;
        assert!((100..=101).contains(&freed_after), "{path}: after {freed_after} s");
    }
}

#[tokio::test(start_paused = true)]
async fn slow_clients_of_one_environment_leave_turns_to_another() {
    let limit = InitialPayloads { concurrent_max: 8, queued_max: 100, send_timeout: None };
    for path in ["/all", "/sdk/latest-all"] {
        let mut bench = Bench::new(1 << 20, Some(limit));
        let stuck: Vec<_> = {
            let mut stuck = Vec::new();
            for _ in 0..20 {
                stuck.push(bench.get(path).await);
            }
            stuck
        };
        sleep(Duration::from_secs(1)).await;
        let begun = Instant::now();
        for other in ["/all", "/sdk/latest-all"] {
            let answer = bench.status_of_key(other, "sdk-2").await;
            assert_eq!((answer.as_str(), begun.elapsed()), ("HTTP/1.1 200", Duration::ZERO));
        }
        drop(stuck);
    }
}

/// A reader that takes a little now and then loses its connection; one on a slow line is served to
/// the end.
#[tokio::test(start_paused = true)]
async fn a_minimum_pace_keeps_the_turn() {
    // Bytes per read, the pause after it, and true if the connection ends before all was read.
    let check = async |bytes: usize, pause: Duration, is_cut: bool| {
        for path in ["/all", "/sdk/latest-all"] {
            let mut bench = Bench::new(4 << 20, Some(InitialPayloads::default()));
            let begun = Instant::now();
            let mut slow = bench.get(path).await;
            let mut piece = vec![0; bytes];
            let mut taken = 0;
            while taken < 4_000_000 && slow.read_exact(&mut piece).await.is_ok() {
                taken += bytes;
                sleep(pause).await;
            }
            let after = begun.elapsed().as_secs();
            assert_eq!(taken < 4_000_000, is_cut, "{path}, {bytes} bytes, after {after} s");
            assert!(!is_cut || after < 100, "{path}, {bytes} bytes, after {after} s");
        }
    };
    check(10_000, Duration::from_secs(1), false).await;
    check(1_000, Duration::from_secs(29), true).await;
}

#[tokio::test(start_paused = true)]
async fn who_waited_for_a_turn_gets_what_is_true_after_the_wait() {
    let limit = InitialPayloads { concurrent_max: 1, queued_max: 9, send_timeout: None };
    for path in ["/all", "/sdk/latest-all", "/sdk/latest-flags"] {
        for revoked in [false, true] {
            let mut bench = Bench::new(1 << 20, Some(limit));
            let mut first = bench.get(path).await;
            read_until(&mut first, "\r\n\r\n").await;
            let mut waiting = bench.get(path).await;
            sleep(Duration::from_secs(1)).await;
            bench.publish(2, 10);
            if revoked {
                bench.registry.forget_all();
            }
            drop(first);
            if revoked {
                let mut line = [0; 12];
                waiting.read_exact(&mut line).await.unwrap();
                assert_eq!(&line, b"HTTP/1.1 401", "{path}");
            } else {
                let seen = read_until(&mut waiting, "x\"}").await;
                assert!(seen.contains("{\"version\":2,"), "{path}: {seen}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_connected_clients_must_have_whole_takes_turns_too() {
    let limit = InitialPayloads { concurrent_max: 1, queued_max: 0, send_timeout: None };
    let mut bench = Bench::new(10, Some(limit));
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = bench.get("/all").await;
        read_until(&mut client, "\n\n\r\n").await;
        clients.push(client);
    }
    bench.put(2, 1 << 20);
    let begun_of = async |client: &mut DuplexStream| {
        timeout(Duration::from_secs(1), read_until(client, "event: put")).await.is_ok()
    };
    let mut order = Vec::new();
    while order.len() < 3 {
        let mut begun = Vec::new();
        for (index, client) in clients.iter_mut().enumerate() {
            if !order.contains(&index) && begun_of(client).await {
                begun.push(index);
            }
        }
        assert_eq!(begun.len(), 1, "one at a time");
        bench.environment.hub.heartbeat();
        for (index, client) in clients.iter_mut().enumerate() {
            if !order.contains(&index) && index != begun[0] {
                timeout(Duration::from_secs(1), read_until(client, ":\n\r\n")).await.unwrap();
            }
        }
        let rest = read_until(&mut clients[begun[0]], "\n\n\r\n").await;
        assert!(rest.len() > 1 << 20);
        order.push(begun[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn clients_that_hold_versions_of_long_ago_end() {
    let mut bench = Bench::new(20 << 20, Some(InitialPayloads::default()));
    let mut stuck = Vec::new();
    for version in 2..=8 {
        let path = ["/all", "/sdk/latest-flags"][stuck.len() % 2];
        let mut client = bench.get(path).await;
        read_until(&mut client, "\r\n\r\n").await;
        stuck.push(client);
        sleep(Duration::from_millis(1)).await;
        bench.publish(version, 20 << 20);
    }
    sleep(Duration::from_millis(1)).await;
    bench.tasks.reap();
    // The two newest ones, and as many old ones as the bound allows.
    assert_eq!(bench.tasks.len(), 2 + 3);
}

#[tokio::test(start_paused = true)]
async fn streams_that_began_together_do_not_end_together() {
    let limit = Duration::from_secs(1_000);
    let mut bench = Bench::with(10, None, Some(limit));
    let begun = Instant::now();
    let mut streams = JoinSet::new();
    for _ in 0..50 {
        let mut stream = bench.get("/all").await;
        streams.spawn(async move {
            let rest = read_until(&mut stream, "\r\n0\r\n\r\n").await;
            assert!(rest.starts_with("HTTP/1.1 200 OK\r\n"), "{rest}");
            begun.elapsed()
        });
    }
    let ends = streams.join_all().await;
    let (first, last) = (*ends.iter().min().unwrap(), *ends.iter().max().unwrap());
    let (soonest, latest) = (limit.mul_f64(1.0 - CONNECTION_TIME_JITTER), limit);
    assert!(first >= soonest && last <= latest + Duration::from_secs(1), "{ends:?}");
    // Of fifty random moments all fall within a tenth of the range once in 10^46 runs.
    assert!(last - first > (latest - soonest) / 10, "{ends:?}");
    bench.streams(0).await;
}

#[tokio::test(start_paused = true)]
async fn while_leaving_each_connection_gets_its_answer_and_ends() {
    let mut bench = Bench::new(10, None);
    let grace = Duration::from_secs(100);
    let mut stream = bench.get("/all").await;
    read_until(&mut stream, "\n\n\r\n").await;
    let mut idle = bench.get("/livez").await;
    read_until(&mut idle, "ok").await;
    let mut kept = bench.get("/livez").await;
    read_until(&mut kept, "ok").await;

    let begun = Instant::now();
    let delay = Duration::from_secs(5);
    bench.drain.begin(begun, grace, delay);
    bench.environment.hub.wake();
    sleep(Duration::from_secs(1)).await;
    kept.write_all(get("/sdk/flags/a").as_bytes()).await.unwrap();
    let answer = read_to_end(kept).await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && answer.contains("connection: close\r\n"));
    assert_eq!(begun.elapsed(), Duration::from_secs(1), "a kept connection ends with its answer");
    assert_eq!(read_to_end(idle).await, "");
    assert_eq!(begun.elapsed(), delay, "idle connections end with the delay");
    let mut late = bench.connect(64 * 1024);
    sleep(Duration::from_secs(1)).await;
    late.write_all(get("/readyz").as_bytes()).await.unwrap();
    let answer = read_to_end(late).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("connection: close\r\n") && answer.contains("shutting down"));
    let connected = Instant::now();
    assert_eq!(read_to_end(bench.connect(1024)).await, "", "nobody is waited for");
    assert_eq!(connected.elapsed(), SHORT_HEAD_TIMEOUT);
    assert_eq!(bench.status_of("/all").await, "HTTP/1.1 503");
    assert_eq!(bench.status_of("/sdk/latest-all").await, "HTTP/1.1 200");
    // The open stream still gets its changes, and ends in order.
    bench.publish(2, 10);
    let rest = read_to_end(stream).await;
    assert!(rest.contains("\"version\":2") && rest.ends_with("0\r\n\r\n"), "{rest}");
    assert!(begun.elapsed() <= grace.mul_f64(0.81), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn beyond_the_limit_of_connections_probes_are_answered_and_others_told_to_come_again() {
    let mut bench = Bench::new(10, None);
    let mut ask = async |path: &str| {
        let (mut client, ours) = duplex(64 * 1024);
        let serving = serve(bench.server.clone(), ours, Arc::default(), Welcome::OverLimit);
        bench.tasks.spawn_many("connection", serving);
        client.write_all(get(path).as_bytes()).await.unwrap();
        read_to_end(client).await
    };
    for path in ["/livez", "/readyz", "/status"] {
        let answer = ask(path).await;
        assert!(answer.starts_with("HTTP/1.1 200 "), "{path}: {answer}");
    }
    for path in ["/all", "/sdk/latest-all", "/nothing"] {
        let answer = ask(path).await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{path}: {answer}");
        assert!(answer.contains("retry-after: ") && answer.contains("connection: close\r\n"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_large_head_needs_a_former_credential() {
    let mut bench = Bench::new(10, None);
    let padding = format!("x: {}\r\n\r\n", "x".repeat(UNKNOWN_HEAD_BYTES_MAX));
    let large = get("/sdk/flags/a").replace("\r\n\r\n", &format!("\r\n{padding}"));
    let mut client = bench.connect(1 << 20);
    client.write_all(large.as_bytes()).await.unwrap();
    let answer = read_to_end(client).await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let mut client = bench.get("/sdk/flags/a").await;
    read_until(&mut client, "{\"version\":1}").await;
    client.write_all(large.as_bytes()).await.unwrap();
    let answer = read_until(&mut client, "{\"version\":1}").await;
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_nobody_wants_does_not_hide_the_answer() {
    let mut bench = Bench::new(10, None);
    let head = |length: usize, more: &str| {
        format!(
            "POST /bulk HTTP/1.1\r\nhost: a\r\nauthorization: sdk-1\r\n\
             content-length: {length}\r\n{more}\r\n"
        )
    };
    let mut client = bench.connect(1024);
    client.write_all(head(200_000, "").as_bytes()).await.unwrap();
    client.write_all(&[b' '; 200_000]).await.unwrap();
    client.write_all(HEALTH.as_bytes()).await.unwrap();
    let answers = read_until(&mut client, "\r\n\r\nok").await;
    assert!(answers.starts_with("HTTP/1.1 503 "), "{answers}");

    let begun = Instant::now();
    let mut asking = bench.connect(1024);
    asking.write_all(head(200_000, "expect: 100-continue\r\n").as_bytes()).await.unwrap();
    let answer = read_to_end(asking).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(begun.elapsed(), Duration::ZERO);

    let mut slow = bench.connect(1024);
    slow.write_all(head(200_000, "").as_bytes()).await.unwrap();
    let answer = read_to_end(slow).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(begun.elapsed(), Duration::from_secs(5));

    // The answer is decided after the wait for the body.
    let mut slow = bench.connect(1024);
    slow.write_all(head(200_000, "").as_bytes()).await.unwrap();
    sleep(Duration::from_secs(1)).await;
    bench.registry.forget_all();
    let answer = read_to_end(slow).await;
    assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
}

#[test]
fn a_connection_is_small() {
    let bench = Bench::new(1, None);
    let serving = serve(bench.server, duplex(1).0, Arc::default(), Welcome::Normal);
    let bytes = size_of_val(&serving);
    assert!(bytes <= 2_000, "{bytes} bytes for each connection, beside hyper's two buffers");
}
