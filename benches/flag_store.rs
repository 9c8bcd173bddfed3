//! Flag stores through an outage of their database, as a whole process: how soon the database is
//! complete again after it came back empty, and what SDKs notice while it swallows everything.
//!
//! ```text
//! cargo bench --bench flag_store                     # 1,000 and 10,000 items, every database
//! cargo bench --bench flag_store -- redis 1000       # databases: redis, dynamodb, consul
//! cargo bench --bench flag_store -- --rounds 20
//! ```
//!
//! A database counts as back when it answers again (with an empty table, where there are tables),
//! as complete when the relay says that everything is stored; what it then holds is counted.
//! Clients, the fake LaunchDarkly and the database share the cores with the relay.
#![expect(clippy::print_stdout, reason = "prints figures")]
#![expect(clippy::unwrap_used, reason = "a benchmark that cannot go on ends")]

mod figures;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use pilotlight::testing::demo::composed_data::{changed_flag, environment_id, sdk_key};
use pilotlight::testing::demo::fake_launchdarkly::FakeLaunchDarkly;
use pilotlight::testing::model::ItemKind;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use figures::{Arguments, Relay, Stage, Times, is_shared};
use pilotlight_test_kit::cache_database::{CacheDatabase, Kind};
use pilotlight_test_kit::relay::RelaySettings;

/// Outages of each series.
const ROUNDS: usize = 10;

/// Time of polling in each half of a round, undisturbed and without a database: longer than a
/// call to a database takes to fail, so that both an open breaker and hanging calls are met.
const HALF: Duration = Duration::from_secs(5);

/// Between two changes at LaunchDarkly while SDKs poll. The first poll after each takes longer; so
/// few of them do not show in the 99th percentile.
const CHANGE_PAUSE: Duration = Duration::from_millis(200);

const KINDS: [(&str, Kind); 3] =
    [("redis", Kind::Redis), ("dynamodb", Kind::DynamoDb), ("consul", Kind::Consul)];

fn main() {
    let arguments = Arguments::parse(ROUNDS);
    let sizes = match &arguments.numbers[..] {
        [] => &[1_000, 10_000],
        sizes => sizes,
    };
    figures::print_conditions(&arguments.program);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    for (name, kind) in KINDS {
        if !arguments.words.is_empty() && !arguments.words.iter().any(|word| word == name) {
            continue;
        }
        for &flags in sizes {
            runtime.block_on(refill(&arguments, name, kind, flags));
        }
        runtime.block_on(black_hole(&arguments, name, kind, sizes[0]));
    }
    figures::print_load();
}

/// A relay of one environment whose flags are all in the database.
struct Setting {
    launchdarkly: FakeLaunchDarkly,
    database: CacheDatabase,
    stage: Stage,
    relay: Relay,
}

impl Setting {
    async fn new(arguments: &Arguments, kind: Kind, flags: usize) -> Self {
        let launchdarkly = figures::launchdarkly(1, flags);
        let database = CacheDatabase::start_mortal(kind).await;
        let settings = database.configure(RelaySettings::empty(), "30s");
        let settings = settings.with("AUTO_CONFIG_CACHE_KEY", "relays");
        let stage = Stage::set(&arguments.program, &launchdarkly).with(settings.variables());
        let relay = stage.start();
        let setting = Self { launchdarkly, database, stage, relay };
        setting.wait_until_stored().await;
        setting
    }

    async fn wait_until_stored(&self) {
        self.relay.wait_until(|status| is_shared(status, 1)).await;
    }

    /// The `round`-th change of a flag.
    fn change(&self, round: usize) {
        let flag = changed_flag(0, 0, round);
        self.launchdarkly.upsert_flag(&environment_id(0), flag).unwrap();
    }
}

fn store(status: &Value) -> &Value {
    &status["environments"][environment_id(0)]["dataStoreStatus"]
}

async fn refill(arguments: &Arguments, name: &str, kind: Kind, flags: usize) {
    let mut setting = Setting::new(arguments, kind, flags).await;
    let (mut after_return, mut after_probe) = (Times::default(), Times::default());
    let mut items = 0;
    for round in 1..=arguments.rounds {
        setting.database.kill();
        // Noticed by the write of a change.
        setting.change(round);
        setting.relay.wait_until(|status| store(status)["breaker"] != "closed").await;
        setting.database.restart().await;
        setting.database.create_table().await;
        let back = Instant::now();
        setting.relay.wait_until(|status| store(status)["breaker"] == "closed").await;
        let probed = Instant::now();
        setting.wait_until_stored().await;
        after_return.add(back.elapsed());
        after_probe.add(probed.elapsed());
        items = stored(&setting, kind).await;
        let data = setting.launchdarkly.data(&environment_id(0));
        assert_eq!(items, data.live_len(), "the database is not complete");
    }
    println!("\n{name}, {items} items, {} times killed and started empty", arguments.rounds);
    println!("  database back to complete again:     {after_return}");
    println!("  first good probe to complete again:  {after_probe}");
}

/// Items in the database, which must have its marker.
async fn stored(setting: &Setting, kind: Kind) -> usize {
    let prefix = format!("ld-{}", environment_id(0));
    assert!(setting.database.has_marker(&prefix).await, "the marker is missing");
    let separator = if kind == Kind::Consul { '/' } else { ':' };
    let mut items = 0;
    for kind in ItemKind::ALL {
        let namespace = format!("{prefix}{separator}{}", kind.store_name());
        items += setting.database.rows(&namespace).await.len();
    }
    items
}

async fn black_hole(arguments: &Arguments, name: &str, kind: Kind, flags: usize) {
    let setting = Setting::new(arguments, kind, flags).await;
    let (mut undisturbed, mut without) = (Polls::default(), Polls::default());
    for round in 0..arguments.rounds {
        // By turns, so that neither has the better half of the time.
        if round % 2 == 0 {
            undisturbed.run(&setting).await;
        }
        setting.database.proxy().black_hole();
        without.run(&setting).await;
        setting.database.proxy().cut();
        setting.database.proxy().pass().unwrap();
        setting.wait_until_stored().await;
        if round % 2 == 1 {
            undisturbed.run(&setting).await;
        }
    }
    println!(
        "\n{name}, /sdk/latest-all of {flags} flags while a flag changes every {CHANGE_PAUSE:?}"
    );
    println!("  undisturbed:            {undisturbed}");
    println!("  database black-holed:   {without}");
    let ratio = |share| {
        without.times.quantile(share).as_secs_f64()
            / undisturbed.times.quantile(share).as_secs_f64()
    };
    println!("  black-holed to undisturbed: p50 {:.3}, p99 {:.3}", ratio(0.5), ratio(0.99));
}

/// Polls of one SDK that asks again as soon as it has its answer.
#[derive(Default)]
struct Polls {
    times: Times,
    errors: usize,
}

impl Polls {
    async fn run(&mut self, setting: &Setting) {
        let mut changing = self.start_changing(setting);
        let mut connection = None;
        let end = Instant::now() + HALF;
        while Instant::now() < end {
            let begun = Instant::now();
            match poll(&mut connection, setting.stage.address).await {
                Ok(200) => self.times.add(begun.elapsed()),
                Ok(_) | Err(_) => {
                    self.errors += 1;
                    connection = None;
                }
            }
        }
        // Nothing may change any more when the next half begins.
        changing.shutdown().await;
    }

    fn start_changing(&self, setting: &Setting) -> JoinSet<()> {
        let launchdarkly = setting.launchdarkly.clone();
        let mut changing = JoinSet::new();
        changing.spawn(async move {
            for round in 1.. {
                tokio::time::sleep(CHANGE_PAUSE).await;
                let flag = changed_flag(0, round % 100, round);
                launchdarkly.upsert_flag(&environment_id(0), flag).unwrap();
            }
        });
        changing
    }
}

impl std::fmt::Display for Polls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ms = |share| self.times.quantile(share).as_secs_f64() * 1e3;
        let (half, most, all) = (ms(0.5), ms(0.99), ms(1.0));
        let (polls, errors) = (self.times.len(), self.errors);
        write!(f, "{errors} errors, {polls} polls, p50 {half:.3}, p99 {most:.3}, max {all:.2} ms")
    }
}

/// One request on a connection that stays; its status.
async fn poll(connection: &mut Option<BufReader<TcpStream>>, relay: SocketAddr) -> io::Result<u16> {
    let stream = match connection {
        Some(stream) => stream,
        None => connection.insert(BufReader::new(TcpStream::connect(relay).await?)),
    };
    let key = sdk_key(0);
    let request =
        format!("GET /sdk/latest-all HTTP/1.1\r\nHost: r\r\nAuthorization: {key}\r\n\r\n");
    stream.get_mut().write_all(request.as_bytes()).await?;
    let mut status = 0;
    let mut length = 0;
    let mut line = String::new();
    while stream.read_line(&mut line).await? > 2 {
        if let Some(rest) = line.strip_prefix("HTTP/1.1 ") {
            status = rest[..3].parse().map_err(io::Error::other)?;
        } else if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse().map_err(io::Error::other)?;
        }
        line.clear();
    }
    tokio::io::copy(&mut stream.take(length), &mut tokio::io::sink()).await?;
    Ok(status)
}
