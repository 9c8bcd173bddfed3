//! Cold start through an outage, as a whole process: from exec to the first complete put in a
//! client's hands, upstream black-holed, after a `kill -9`. Everything comes from the local store,
//! or everything from one shared database and nothing from the local disk.
//!
//! ```text
//! cargo bench --bench cold_start                     # 10 x 200 and 100 x 1,000, every source
//! cargo bench --bench cold_start -- 10 200           # environments, flags
//! cargo bench --bench cold_start -- local redis      # sources: local, redis, dynamodb, consul
//! cargo bench --bench cold_start -- --rounds 30 --program ./pilotlight 10 200
//! ```
//!
//! The clock starts just before the process is spawned. Clients connect at once and try again
//! every millisecond; a put counts when its last byte is there and its size is that of the live
//! put. Clients, the fake LaunchDarkly and the database share the cores with the relay.
#![expect(clippy::print_stdout, reason = "prints figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

mod figures;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use pilotlight::testing::demo::composed_data::sdk_key;
use pilotlight::testing::demo::fake_launchdarkly::{Fault, FaultRule, FaultScope};
use pilotlight::testing::demo::stream_client::{StreamClient, StreamTarget};
use tokio::task::JoinSet;
use tokio::time::Instant;

use figures::{Arguments, Relay, Stage, Times, is_serving, is_shared, is_stored, mib};
use pilotlight_test_kit::cache_database::{CacheDatabase, Kind};
use pilotlight_test_kit::relay::RelaySettings;

/// Pause between two attempts of a client.
const ATTEMPT_PAUSE: Duration = Duration::from_millis(1);

/// Starts that are measured in each series.
const ROUNDS: usize = 10;

/// Where everything comes from.
#[derive(Clone, Copy)]
enum Source {
    Local,
    Shared(Kind),
}

const SOURCES: [(&str, Source); 4] = [
    ("local", Source::Local),
    ("redis", Source::Shared(Kind::Redis)),
    ("dynamodb", Source::Shared(Kind::DynamoDb)),
    ("consul", Source::Shared(Kind::Consul)),
];

fn main() {
    let arguments = Arguments::parse(ROUNDS);
    let sizes = match arguments.numbers[..] {
        [] => vec![(10, 200), (100, 1_000)],
        [environments, flags] => vec![(environments, flags)],
        _ => panic!("give the numbers of environments and of flags"),
    };
    figures::print_conditions(&arguments.program);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (environments, flags) in sizes {
        for (name, source) in SOURCES {
            if arguments.words.is_empty() || arguments.words.iter().any(|word| word == name) {
                println!("\n{environments} environments x {flags} flags from {name}");
                runtime.block_on(measure(&arguments, source, environments, flags));
            }
        }
    }
}

async fn measure(arguments: &Arguments, source: Source, environments: usize, flags: usize) {
    let rounds = arguments.rounds;
    let launchdarkly = figures::launchdarkly(environments, flags);
    let stage = Stage::set(&arguments.program, &launchdarkly);
    // Lives as long as the measurement.
    let database = match source {
        Source::Local => None,
        Source::Shared(kind) => Some(CacheDatabase::start_mortal(kind).await),
    };
    let stage = match &database {
        None => stage,
        Some(database) => {
            let settings = database
                .configure(RelaySettings::empty(), "30s")
                .with("AUTO_CONFIG_CACHE_KEY", "relays")
                .with("LOCAL_STORE_DIR", "off");
            stage.with(settings.variables())
        }
    };
    let targets: Vec<StreamTarget> = (0..environments)
        .map(|index| StreamTarget {
            data_kept_bytes: 0,
            ..StreamTarget::new(stage.address, "/all", &sdk_key(index))
        })
        .collect();

    let begun = Instant::now();
    let relay = stage.start();
    match source {
        Source::Local => relay.wait_until(|status| is_stored(status, environments)).await,
        Source::Shared(_) => relay.wait_until(|status| is_shared(status, environments)).await,
    }
    let filled = begun.elapsed();
    let mut sizes = Vec::new();
    for target in &targets {
        sizes.push(put_bytes(target).await);
    }
    // kill -9.
    drop(relay);
    let puts: u64 = sizes.iter().sum();
    println!("  puts {} in all, filled in {filled:.1?}, {rounds} starts in each series", mib(puts));
    launchdarkly.inject(FaultRule::new(FaultScope::Everything, Fault::BlackHole));

    let starts = Starts { stage: &stage, targets: &targets, sizes: &sizes, rounds };
    println!("  exec to the first complete put of one environment (each start another one)");
    println!("    everything cached:  {}", starts.one_client(|_| {}).await);
    if matches!(source, Source::Local) {
        let file = std::fs::metadata(stage.store_file()).unwrap().len();
        let cold = starts.one_client(drop_from_page_cache).await;
        println!("    file not in memory: {cold} ({})", mib(file));
    }
    let (first, last) = starts.all_clients().await;
    println!("  exec to puts of all {environments} environments, one client each");
    println!("    first:              {first}");
    println!("    last:               {last}");
    starts.memory().await;
    figures::print_load();
}

struct Starts<'a> {
    stage: &'a Stage,
    targets: &'a [StreamTarget],
    /// Bytes of each environment's put.
    sizes: &'a [u64],
    rounds: usize,
}

impl Starts<'_> {
    async fn one_client(&self, prepare: fn(&Path)) -> Times {
        let mut times = Times::default();
        for round in 0..self.rounds {
            // Spread over the whole list, whatever its order.
            let index = round * 37 % self.targets.len();
            prepare(&self.stage.store_file());
            let begun = Instant::now();
            let relay = self.stage.start();
            let bytes = put_bytes(&self.targets[index]).await;
            times.add(begun.elapsed());
            assert_eq!(bytes, self.sizes[index], "the put is not what it was live");
            drop(relay);
        }
        times
    }

    /// Times of the first and of the last put.
    async fn all_clients(&self) -> (Times, Times) {
        let (mut first, mut last) = (Times::default(), Times::default());
        for _ in 0..self.rounds {
            let begun = Instant::now();
            let relay = self.stage.start();
            let mut times = Times::default();
            let mut clients = self.spawn_clients(begun);
            while let Some(done) = clients.join_next().await {
                let (index, bytes, time) = done.unwrap();
                assert_eq!(bytes, self.sizes[index], "the put is not what it was live");
                times.add(time);
            }
            first.add(times.quantile(0.0));
            last.add(times.quantile(1.0));
            drop(relay);
        }
        (first, last)
    }

    fn spawn_clients(&self, begun: Instant) -> JoinSet<(usize, u64, Duration)> {
        let mut clients = JoinSet::new();
        for (index, target) in self.targets.iter().enumerate() {
            let target = target.clone();
            clients.spawn(async move {
                let bytes = put_bytes(&target).await;
                (index, bytes, begun.elapsed())
            });
        }
        clients
    }

    async fn memory(&self) {
        let environments = self.targets.len();
        let relay: Relay = self.stage.start();
        relay.wait_until(|status| is_serving(status, environments)).await;
        let before = relay.rss_kib();
        let mut clients = self.spawn_clients(Instant::now());
        while clients.join_next().await.is_some() {}
        let after = relay.rss_kib();
        let (before, after) = (mib(before << 10), mib(after << 10));
        println!(
            "  RSS with everything loaded {before}, after one client of each environment {after}"
        );
    }
}

/// Connects until a put has come whole; its size.
async fn put_bytes(target: &StreamTarget) -> u64 {
    loop {
        if let Ok(mut client) = StreamClient::connect(target).await
            && let Ok(Some(event)) = client.next().await
        {
            assert_eq!(event.name, "put");
            return event.data_bytes as u64;
        }
        tokio::time::sleep(ATTEMPT_PAUSE).await;
    }
}

/// As after a reboot, for this one file.
fn drop_from_page_cache(file: &Path) {
    let file = format!("of={}", file.display());
    let arguments = ["oflag=nocache", "conv=notrunc,fdatasync", "count=0", "status=none"];
    let dropped = Command::new("dd").arg("if=/dev/null").arg(file).args(arguments).status();
    assert!(dropped.unwrap().success());
}
