//! Fan-out, as a whole process: memory per idle stream, and the delay of a patch from LaunchDarkly
//! to every client.
//!
//! ```text
//! cargo bench --bench fan_out                        # 5,000 streams, 200 flags
//! cargo bench --bench fan_out -- 10000 200           # streams, flags
//! ```
//!
//! All clients and the fake LaunchDarkly live in the measuring process and share the cores with the
//! relay, so delays are those of a machine that is busy with both sides. The delay of a patch runs
//! from before the fake's push to the client's having read and split the event.
#![expect(clippy::print_stdout, reason = "prints figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

mod figures;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use pilotlight::testing::demo::composed_data::{changed_flag, environment_id, sdk_key};
use pilotlight::testing::demo::stream_client::{StreamClient, StreamTarget, loopback_source};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;
use tokio::time::Instant;

use figures::{Arguments, Stage, Times, is_stored, mib};

/// Clients that connect at the same time.
const CONNECTING_MAX: usize = 100;

/// Patches that are measured.
const ROUNDS: usize = 50;

/// Pause before memory is looked at and between patches, so that each meets a relay at rest.
const REST: Duration = Duration::from_millis(200);

fn main() {
    let arguments = Arguments::parse(ROUNDS);
    let (streams, flags) = match arguments.numbers[..] {
        [] => (5_000, 200),
        [streams, flags] => (streams, flags),
        _ => panic!("give the numbers of streams and of flags"),
    };
    rlimit::increase_nofile_limit(u64::MAX).unwrap();
    figures::print_conditions(&arguments.program);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure(&arguments, streams, flags));
}

/// What all clients share.
struct Shared {
    begun: Instant,
    connecting: Semaphore,
    ready: AtomicUsize,
    /// When the patch was pushed, in nanoseconds since the beginning.
    pushed: AtomicU64,
    received: AtomicUsize,
    /// Told when the last client is ready, or has received the patch.
    complete: Notify,
    streams: usize,
}

impl Shared {
    fn nanos(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_nanos()).unwrap()
    }

    fn count(&self, counter: &AtomicUsize) {
        if counter.fetch_add(1, Ordering::AcqRel) + 1 == self.streams {
            self.complete.notify_one();
        }
    }
}

async fn measure(arguments: &Arguments, streams: usize, flags: usize) {
    let launchdarkly = figures::launchdarkly(1, flags);
    let stage = Stage::set(&arguments.program, &launchdarkly);
    let relay = stage.start();
    relay.wait_until(|status| is_stored(status, 1)).await;
    tokio::time::sleep(REST).await;
    let at_rest = relay.rss_kib() << 10;
    println!("\n{streams} streams of one environment of {flags} flags");
    println!("  RSS before the first client  {}", mib(at_rest));

    let shared = Arc::new(Shared {
        begun: Instant::now(),
        connecting: Semaphore::new(CONNECTING_MAX),
        ready: AtomicUsize::new(0),
        pushed: AtomicU64::new(0),
        received: AtomicUsize::new(0),
        complete: Notify::new(),
        streams,
    });
    let begun = Instant::now();
    let mut clients = JoinSet::new();
    for index in 0..streams {
        let target = StreamTarget {
            data_kept_bytes: 0,
            source: Some(loopback_source(index)),
            ..StreamTarget::new(stage.address, "/all", &sdk_key(0))
        };
        clients.spawn(client(target, shared.clone(), arguments.rounds));
    }
    shared.complete.notified().await;
    let took = begun.elapsed();
    let processor = relay.processor_time();
    tokio::time::sleep(REST * 5).await;
    let connected = relay.rss_kib() << 10;
    let per_stream = (connected - at_rest) as f64 / streams as f64 / 1024.0;
    println!(
        "  connected, first put whole   {took:.2?}, {:.0} a second, relay's CPU time so far {processor:.2?}",
        streams as f64 / took.as_secs_f64()
    );
    println!("  RSS with all streams idle    {}, {per_stream:.2} KiB a stream", mib(connected));

    let processor = relay.processor_time();
    let begun = Instant::now();
    for change in 0..arguments.rounds {
        tokio::time::sleep(REST).await;
        shared.received.store(0, Ordering::Release);
        let flag = change % flags;
        let changed = changed_flag(0, flag, 1 + change / flags);
        shared.pushed.store(shared.nanos(), Ordering::Release);
        launchdarkly.upsert_flag(&environment_id(0), changed).unwrap();
        shared.complete.notified().await;
    }
    let (took, processor) = (begun.elapsed(), relay.processor_time() - processor);
    let (mut all, mut last) = (Times::default(), vec![Duration::ZERO; arguments.rounds]);
    while let Some(delays) = clients.join_next().await {
        for (last, delay) in last.iter_mut().zip(delays.unwrap()) {
            all.add(delay);
            *last = delay.max(*last);
        }
    }
    let mut slowest = Times::default();
    last.into_iter().for_each(|delay| slowest.add(delay));
    let ms = |share| all.quantile(share).as_secs_f64() * 1e3;
    println!("  {} patches, push to receipt, over all clients:", arguments.rounds);
    println!("    p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms", ms(0.5), ms(0.99), ms(1.0));
    println!("    last client of each patch: {slowest}");
    let each = processor.as_secs_f64() * 1e6 / (streams * arguments.rounds) as f64;
    println!("    relay's CPU time {processor:.2?} of {took:.2?}, {each:.1} us a delivery");
    println!("  RSS after the patches        {}", mib(relay.rss_kib() << 10));
    figures::print_load();
}

/// One client: connects, takes the put and then so many patches; the delays of those.
async fn client(target: StreamTarget, shared: Arc<Shared>, patches: usize) -> Vec<Duration> {
    let mut stream = {
        let _turn = shared.connecting.acquire().await.unwrap();
        let mut stream = StreamClient::connect(&target).await.unwrap();
        assert_eq!(stream.next().await.unwrap().unwrap().name, "put");
        stream
    };
    shared.count(&shared.ready);
    let mut delays = Vec::with_capacity(patches);
    while delays.len() < patches {
        let event = stream.next().await.unwrap().unwrap();
        assert_eq!(event.name, "patch");
        let nanos = shared.nanos() - shared.pushed.load(Ordering::Acquire);
        delays.push(Duration::from_nanos(nanos));
        shared.count(&shared.received);
    }
    delays
}
