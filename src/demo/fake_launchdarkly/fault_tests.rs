use serde_json::json;
use tokio::time::Instant;

use super::super::stream_client::{StreamClient, StreamClientError, StreamTarget};
use super::tests::{LONG, SHORT, fake, next, open};
use super::*;

/// Opens a stream with a short time-out, where no answer is expected.
async fn try_open(
    fake: &FakeLaunchDarkly,
    path: &str,
    key: &str,
) -> Result<StreamClient, StreamClientError> {
    let target =
        StreamTarget { opening_max: SHORT, ..StreamTarget::new(fake.address(), path, key) };
    StreamClient::connect(&target).await
}

async fn is_silent(client: &mut StreamClient) -> bool {
    tokio::time::timeout(SHORT, client.next_item()).await.is_err()
}

/// Reads until the stream breaks; panics if it ends normally.
async fn broken(client: &mut StreamClient) -> StreamClientError {
    loop {
        match tokio::time::timeout(LONG, client.next()).await.unwrap() {
            Ok(Some(_)) => {}
            Ok(None) => panic!("ended in order"),
            Err(error) => return error,
        }
    }
}

fn inject(fake: &FakeLaunchDarkly, fault: Fault) -> FaultId {
    fake.inject(FaultRule::new(FaultScope::Flags, fault))
}

#[tokio::test]
async fn stops_and_returns_on_the_same_port_with_its_state() {
    let fake = fake();
    let address = fake.address();
    let mut client = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    for _ in 0..3 {
        fake.stop().await;
        assert!(!fake.is_accepting());
        broken(&mut client).await;
        let refused = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap_err();
        assert!(matches!(refused, StreamClientError::Connect { .. }), "{refused:?}");
        fake.start().unwrap();
        assert_eq!(fake.address(), address);
        client = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
        assert!(next(&mut client).await.unwrap().contains("f1"));
    }
}

#[tokio::test]
async fn refusing_leaves_open_streams_alone() {
    let fake = fake();
    let mut client = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    next(&mut client).await.unwrap();
    fake.refuse();
    assert!(open(&fake, FLAGS_PATH, "sdk-a").await.is_err());
    fake.upsert_flag("e1", json!({ "key": "f1" })).unwrap();
    assert!(next(&mut client).await.unwrap().starts_with("patch"));
    fake.start().unwrap();
    assert!(open(&fake, FLAGS_PATH, "sdk-a").await.is_ok());
}

#[tokio::test]
async fn statuses_come_with_their_headers() {
    let fake = fake();
    let wait = Duration::from_secs(7);
    let count = |fault| FaultRule::new(FaultScope::Flags, fault).times(1);
    fake.inject(count(Fault::status_with_retry_after(503, wait)));
    fake.inject(count(Fault::redirect(302, "/elsewhere")));
    fake.inject(count(Fault::status(401)));
    let mut seen = Vec::new();
    for _ in 0..3 {
        let error = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap_err();
        let StreamClientError::Refused { status, retry_after } = error else {
            panic!("{error:?}");
        };
        seen.push((status, retry_after));
    }
    assert_eq!(seen, [(503, Some(wait)), (302, None), (401, None)]);
    assert!(open(&fake, FLAGS_PATH, "sdk-a").await.is_ok());
}

#[tokio::test]
async fn faults_hit_their_scope_and_key_only() {
    let fake = fake();
    fake.upsert_environment(EnvironmentRep::simple("e2", "sdk-b", ""));
    let id = fake.inject(FaultRule::new(FaultScope::Flags, Fault::status(500)).for_key("sdk-a"));
    assert!(open(&fake, FLAGS_PATH, "sdk-a").await.is_err());
    assert!(open(&fake, FLAGS_PATH, "sdk-b").await.is_ok());
    assert!(open(&fake, AUTOCONFIG_PATH, "rel-a").await.is_ok());
    fake.clear_fault(id);
    assert!(open(&fake, FLAGS_PATH, "sdk-a").await.is_ok());
}

#[tokio::test]
async fn a_reset_is_no_answer() {
    let fake = fake();
    inject(&fake, Fault::Reset);
    let error = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap_err();
    let StreamClientError::Broken(error) = error else { panic!("{error:?}") };
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert_eq!(fake.requests_for(FLAGS_PATH).len(), 1, "it was asked nevertheless");
}

#[tokio::test]
async fn a_hanging_request_stays_unanswered_even_when_the_fault_is_cleared() {
    let fake = fake();
    inject(&fake, Fault::Hang);
    let target = StreamTarget::new(fake.address(), FLAGS_PATH, "sdk-a");
    let mut hanging = std::pin::pin!(StreamClient::connect(&target));
    assert!(tokio::time::timeout(SHORT, &mut hanging).await.is_err());
    fake.wait_for_requests(FLAGS_PATH, 1, LONG).await.unwrap();
    fake.clear_faults();
    assert!(tokio::time::timeout(SHORT, &mut hanging).await.is_err());
    assert!(open(&fake, FLAGS_PATH, "sdk-a").await.is_ok());
}

#[tokio::test]
async fn a_black_hole_silences_open_streams_and_gives_everything_back() {
    let fake = fake();
    fake.set_heartbeat(Some(Duration::from_millis(5)));
    let mut flags = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    let mut autoconfig = open(&fake, AUTOCONFIG_PATH, "rel-a").await.unwrap();
    next(&mut flags).await.unwrap();
    next(&mut autoconfig).await.unwrap();
    inject(&fake, Fault::BlackHole);
    // Data sent before the fault began must still be read.
    while !is_silent(&mut flags).await {}
    fake.upsert_flag("e1", json!({ "key": "f1" })).unwrap();
    assert!(is_silent(&mut flags).await);
    assert!(!is_silent(&mut autoconfig).await, "another path goes on");
    assert!(try_open(&fake, FLAGS_PATH, "sdk-a").await.is_err());
    fake.clear_faults();
    assert!(next(&mut flags).await.unwrap().starts_with("patch"));
    assert!(open(&fake, FLAGS_PATH, "sdk-a").await.is_ok());
}

#[tokio::test]
async fn a_black_hole_for_everything_reads_not_even_the_request() {
    let fake = fake();
    fake.inject(FaultRule::new(FaultScope::Everything, Fault::BlackHole));
    let target = StreamTarget::new(fake.address(), FLAGS_PATH, "sdk-a");
    let mut opening = std::pin::pin!(StreamClient::connect(&target));
    assert!(tokio::time::timeout(SHORT, &mut opening).await.is_err());
    assert!(fake.requests().is_empty());
    fake.clear_faults();
    assert!(tokio::time::timeout(LONG, opening).await.unwrap().is_ok(), "the network healed");
    fake.inject(FaultRule::new(FaultScope::Everything, Fault::BlackHole));
    fake.stop().await;
    assert_eq!(fake.open_streams(&StreamSelector::All), 0, "it stops even while frozen");
}

#[tokio::test]
async fn a_counted_black_hole_holds_what_it_caught() {
    let fake = fake();
    let mut before = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    next(&mut before).await.unwrap();
    let id = fake.inject(FaultRule::new(FaultScope::Flags, Fault::BlackHole).times(1));
    let target = StreamTarget::new(fake.address(), FLAGS_PATH, "sdk-a");
    let mut caught = std::pin::pin!(StreamClient::connect(&target));
    assert!(tokio::time::timeout(SHORT, &mut caught).await.is_err());
    fake.upsert_flag("e1", json!({ "key": "f1" })).unwrap();
    assert!(next(&mut before).await.unwrap().starts_with("patch"));
    assert!(open(&fake, FLAGS_PATH, "sdk-a").await.is_ok());
    fake.clear_fault(id);
    assert!(tokio::time::timeout(LONG, caught).await.unwrap().is_ok());
}

#[tokio::test]
async fn a_put_is_cut_in_the_middle() {
    let fake = fake();
    let long = "x".repeat(100_000);
    fake.upsert_flag("e1", json!({ "key": "f3", "salt": long })).unwrap();
    let id = inject(&fake, Fault::CutAfter { bytes: 50_000 });
    let mut client = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    let error = broken(&mut client).await;
    assert!(matches!(error, StreamClientError::CutShort), "{error:?}");
    assert_eq!(client.first_put_after(), None);
    fake.wait_for_streams(&StreamSelector::All, 0, LONG).await.unwrap();
    fake.clear_fault(id);
    let mut client = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    assert!(next(&mut client).await.is_some());
}

#[tokio::test]
async fn a_slow_drip_takes_its_time() {
    let fake = fake();
    inject(&fake, Fault::slow_drip(2_000));
    let begun = Instant::now();
    let mut client = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    next(&mut client).await.unwrap();
    // Head and put are above 300 bytes: four portions of 100, so three pauses of 50 ms.
    assert!(begun.elapsed() >= Duration::from_millis(150), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn streams_begin_wrongly() {
    let fake = fake();
    fake.set_heartbeat(Some(Duration::from_millis(1)));
    let begin = async |fault| {
        let id = inject(&fake, fault);
        let client = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
        fake.clear_fault(id);
        client
    };
    let garbage = next(&mut begin(Fault::garbage_put()).await).await.unwrap();
    assert!(serde_json::from_str::<Value>(garbage.strip_prefix("put ").unwrap()).is_err());
    let mut without = begin(Fault::WithoutPut).await;
    assert!(!is_silent(&mut without).await, "heartbeats come");
    fake.push_raw(&StreamSelector::AllFlags, "later", b"1");
    assert_eq!(next(&mut without).await.unwrap(), "later 1");
    let mut silent = begin(Fault::Silence).await;
    fake.push_raw(&StreamSelector::AllFlags, "later", b"2");
    assert!(is_silent(&mut silent).await);
    let odd = begin(Fault::ContentType("text/plain".to_owned())).await;
    assert_eq!(odd.response_header("content-type"), Some("text/plain"));
    let mut preceded = begin(Fault::Preamble("event: first\ndata: 1\n\n".into())).await;
    assert_eq!(next(&mut preceded).await.unwrap(), "first 1");
    assert!(next(&mut preceded).await.unwrap().starts_with("put"));
    let mut page = begin(Fault::web_page()).await;
    assert_eq!(page.response_header("content-type"), Some("text/html"));
    assert_eq!(next(&mut page).await, None);
}

#[tokio::test]
async fn a_storm_cuts_again_and_again() {
    let fake = fake();
    let every = Duration::from_millis(10);
    let storm = FaultRule::new(FaultScope::Flags, Fault::DisconnectStorm { every });
    let mut autoconfig = open(&fake, AUTOCONFIG_PATH, "rel-a").await.unwrap();
    next(&mut autoconfig).await.unwrap();
    let id = fake.inject(storm);
    for _ in 0..3 {
        // The storm may cut the connection before the response head has arrived.
        if let Ok(mut client) = open(&fake, FLAGS_PATH, "sdk-a").await {
            broken(&mut client).await;
        }
    }
    fake.send_reconnect();
    assert_eq!(next(&mut autoconfig).await.unwrap(), "reconnect {}", "out of its scope");
    fake.clear_fault(id);
    let mut calm = open(&fake, FLAGS_PATH, "sdk-a").await.unwrap();
    next(&mut calm).await.unwrap();
    assert!(is_silent(&mut calm).await);
}
