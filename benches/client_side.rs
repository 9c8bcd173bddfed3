//! Flag values for phones, as a whole process: requests per second, their delays, and what they
//! cost the relay; beside another relay if one is named.
//!
//! ```text
//! cargo bench --bench client_side                               # 50 clients, 200 flags
//! cargo bench --bench client_side -- 50 200 --rounds 5
//! cargo bench --bench client_side -- beside /path/to/ld-relay   # measures both in turns
//! ```
//!
//! All clients and the fake LaunchDarkly live in the measuring process and share the cores with the
//! relay. Each client asks again as soon as it has its answer, over one connection, for a context
//! of its own.
#![expect(clippy::print_stdout, reason = "prints figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

mod figures;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use pilotlight::testing::demo::composed_data::mobile_key;
use pilotlight::testing::demo::fake_launchdarkly::FakeLaunchDarkly;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use figures::{Arguments, Relay, Stage, Times, mib};

/// Rounds of each relay.
const ROUNDS: usize = 5;

/// Time of one round.
const ROUND: Duration = Duration::from_secs(4);

fn main() {
    let arguments = Arguments::parse(ROUNDS);
    let (clients, flags) = match arguments.numbers[..] {
        [] => (50, 200),
        [clients, flags] => (clients, flags),
        _ => panic!("give the numbers of clients and of flags"),
    };
    let other = match &arguments.words[..] {
        [] => None,
        [word, path] if word == "beside" => Some(path.clone()),
        words => panic!("unknown arguments {words:?}"),
    };
    figures::print_conditions(&arguments.program);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(measure(&arguments, other.as_deref(), clients, flags));
}

/// One relay with its figures.
struct Measured {
    name: &'static str,
    relay: Relay,
    _stage: Stage,
    per_second: Vec<f64>,
    delays: Times,
    processor: Duration,
    requests: usize,
}

impl Measured {
    async fn start(name: &'static str, program: &Path, launchdarkly: &FakeLaunchDarkly) -> Self {
        let stage = Stage::set(program, launchdarkly);
        let relay = stage.start();
        relay.wait_until(|status| status["status"] == "healthy").await;
        Self {
            name,
            relay,
            _stage: stage,
            per_second: Vec::new(),
            delays: Times::default(),
            processor: Duration::ZERO,
            requests: 0,
        }
    }

    async fn round(&mut self, clients: usize) {
        let before = self.relay.processor_time();
        let stop = Arc::new(AtomicBool::new(false));
        let mut asking = JoinSet::new();
        for index in 0..clients {
            asking.spawn(client(self.relay.address, index, stop.clone()));
        }
        let begun = Instant::now();
        tokio::time::sleep(ROUND).await;
        stop.store(true, Ordering::Relaxed);
        let mut requests = 0;
        while let Some(delays) = asking.join_next().await {
            let delays = delays.unwrap();
            requests += delays.len();
            delays.into_iter().for_each(|delay| self.delays.add(delay));
        }
        self.per_second.push(requests as f64 / begun.elapsed().as_secs_f64());
        self.processor += self.relay.processor_time() - before;
        self.requests += requests;
    }

    fn print(&mut self) {
        self.per_second.sort_by(f64::total_cmp);
        let (count, rates) = (self.per_second.len(), &self.per_second);
        println!(
            "  {:10} {:7.0} requests/s (median of {count}; {:.0} to {:.0}), p50 {:.1} ms, p99 {:.1} \
             ms, CPU {:.0} us a request, RSS {}",
            self.name,
            rates[count / 2],
            rates[0],
            rates[count - 1],
            self.delays.quantile(0.5).as_secs_f64() * 1e3,
            self.delays.quantile(0.99).as_secs_f64() * 1e3,
            self.processor.as_secs_f64() * 1e6 / self.requests as f64,
            mib(self.relay.rss_kib() << 10),
        );
    }
}

async fn measure(arguments: &Arguments, other: Option<&str>, clients: usize, flags: usize) {
    let launchdarkly = figures::launchdarkly(1, flags);
    let mut relays = vec![Measured::start("pilotlight", &arguments.program, &launchdarkly).await];
    if let Some(path) = other {
        relays.push(Measured::start("the other", Path::new(path), &launchdarkly).await);
    }
    println!("\n{clients} clients, values of {flags} flags on /msdk/evalx/contexts");
    for round in 0..=arguments.rounds {
        for relay in &mut relays {
            relay.round(clients).await;
            if round == 0 {
                // The first one warms up.
                relay.per_second.clear();
                relay.delays = Times::default();
                (relay.processor, relay.requests) = (Duration::ZERO, 0);
            }
        }
    }
    relays.iter_mut().for_each(Measured::print);
    if let [ours, other] = &relays[..] {
        let median = |relay: &Measured| relay.per_second[relay.per_second.len() / 2];
        println!("  ratio of requests/s: {:.1}", median(ours) / median(other));
    }
    figures::print_load();
}

/// Asks until it is stopped; the delays of all answers.
async fn client(
    address: std::net::SocketAddr,
    index: usize,
    stop: Arc<AtomicBool>,
) -> Vec<Duration> {
    let context = format!(r#"{{"kind":"user","key":"user-{index}","country":"de"}}"#);
    let context = URL_SAFE_NO_PAD.encode(context);
    let request = format!(
        "GET /msdk/evalx/contexts/{context} HTTP/1.1\r\nHost: relay\r\nAuthorization: {}\r\n\r\n",
        mobile_key(0)
    );
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut delays = Vec::new();
    let mut received = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let begun = Instant::now();
        stream.write_all(request.as_bytes()).await.unwrap();
        received.clear();
        while !is_complete(&received) {
            assert!(stream.read_buf(&mut received).await.unwrap() > 0, "the relay hung up");
        }
        assert!(received.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&received));
        delays.push(begun.elapsed());
    }
    delays
}

/// True for a whole answer: of the length that its head says, or in chunks up to the last one.
fn is_complete(received: &[u8]) -> bool {
    let Some(end) = received.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return false;
    };
    let head = String::from_utf8_lossy(&received[..end]).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length.map(|length| length.trim().parse::<usize>().unwrap()) {
        Some(length) => received.len() >= end + 4 + length,
        None => received.ends_with(b"\r\n0\r\n\r\n"),
    }
}
